/* SPDX-License-Identifier: MIT */
/* vdisk compare: have two disks the same content? */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/workopt.h"

/* Exit statuses beside 0, as qemu-img. */
enum {
    STATUS_DIFFERENT = 1,
    STATUS_CANNOT_OPEN = 2,
    STATUS_CANNOT_LOOK = 3,
    STATUS_CANNOT_READ = 4,
};

enum {
    KEY_LIST = VD_CLI_KEY_VERB,
};

static const struct vd_cli_option options[] = {
    {'F', NULL, "FMT", "format of the second image"},
    {'s', NULL, NULL, "strict: size and allocation have to be the same too"},
    {KEY_LIST, "list", NULL, "tell every range that differs, not only the first offset"},
    {0},
};

struct compare_args {
    struct vd_cli *cli;
    const char *second_format;
    bool strict;
    bool lists;
    uint64_t listed; /* differences told so far */
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct compare_args *args = opaque;
    (void)cli;
    switch (key) {
    case 'F':
        args->second_format = value;
        return vd_cli_format_is_known(value) ? VD_CLI_GO : 1;
    case 's':
        args->strict = true;
        break;
    default: /* KEY_LIST */
        args->lists = true;
        break;
    }
    return VD_CLI_GO;
}

static int report(void *opaque, const struct vdisk_progress *progress)
{
    const struct compare_args *args = opaque;
    return vd_cli_progress(args->cli, progress);
}

/*
 * The list is printed as it is found, by hand where it is JSON: there may be millions of
 * differences, and they are nothing but numbers.
 */
static int list_difference(void *opaque, uint64_t offset, uint64_t length)
{
    struct compare_args *args = opaque;
    if (args->cli->json)
        printf("%s\n        {\"offset\": %" PRIu64 ", \"length\": %" PRIu64 "}",
               args->listed ? "," : "", offset, length);
    else if (!args->cli->quiet)
        printf("Content differs at offset %" PRIu64 ", %" PRIu64 " bytes\n", offset, length);
    args->listed++;
    return ferror(stdout) != 0;
}

static const char *outcome_name(const struct vdisk_compare_result *result)
{
    switch (result->outcome) {
    case VDISK_COMPARE_SAME:
        return "identical";
    case VDISK_COMPARE_CONTENT:
        return "content";
    case VDISK_COMPARE_STATUS:
        return "allocation";
    case VDISK_COMPARE_SIZE:
        return "size";
    }
    return "unknown";
}

static void print_json(const struct compare_args *args, const struct vdisk_compare_result *result,
                       bool ok)
{
    if (args->lists)
        printf("%s],\n    \"different-bytes\": %" PRIu64 ",\n", args->listed ? "\n    " : "",
               result->different_bytes);
    printf("    \"outcome\": \"%s\",\n", ok ? outcome_name(result) : "failed");
    if (ok && (result->outcome == VDISK_COMPARE_CONTENT || result->outcome == VDISK_COMPARE_STATUS))
        printf("    \"offset\": %" PRIu64 ",\n", result->offset);
    printf("    \"virtual-sizes\": [%" PRIu64 ", %" PRIu64 "]\n}\n", result->virtual_bytes[0],
           result->virtual_bytes[1]);
}

static void print_human(const struct vdisk_compare_result *result)
{
    const uint64_t *sizes = result->virtual_bytes;
    uint64_t common = sizes[0] < sizes[1] ? sizes[0] : sizes[1];
    bool is_common = result->outcome == VDISK_COMPARE_CONTENT && result->offset < common;
    bool is_strict =
        result->outcome == VDISK_COMPARE_STATUS || result->outcome == VDISK_COMPARE_SIZE;
    if (sizes[0] != sizes[1] && !is_common && !is_strict)
        printf("Warning: Image size mismatch!\n");
    switch (result->outcome) {
    case VDISK_COMPARE_SAME:
        printf("Images are identical.\n");
        break;
    case VDISK_COMPARE_CONTENT:
        printf("Content mismatch at offset %" PRIu64 "!\n", result->offset);
        break;
    case VDISK_COMPARE_STATUS:
        printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", result->offset);
        break;
    case VDISK_COMPARE_SIZE:
        printf("Strict mode: Image size mismatch!\n");
        break;
    }
}

static int exit_status(const struct vdisk_compare_result *result, bool ok)
{
    if (ok)
        return result->outcome == VDISK_COMPARE_SAME ? 0 : STATUS_DIFFERENT;
    switch (result->failed_step) {
    case VDISK_COMPARE_OPENING:
        return STATUS_CANNOT_OPEN;
    case VDISK_COMPARE_LOOKING:
        return STATUS_CANNOT_LOOK;
    case VDISK_COMPARE_READING:
        break;
    }
    return STATUS_CANNOT_READ;
}

static int compare(struct vd_cli *cli, struct compare_args *args)
{
    struct vdisk_compare_options o = {
        .struct_bytes = sizeof(o),
        .flags = args->strict ? VDISK_COMPARE_STRICT : 0,
        .names = {cli->operands[0], cli->operands[1]},
        .formats = {cli->format, args->second_format},
        .open_flags = cli->source_cache_flags | (cli->share ? VDISK_OPEN_SHARE : 0),
        .network = &cli->network,
        .passphrases = &cli->keys.list,
        .gate = &cli->gate,
        .progress = report,
        .difference = args->lists ? list_difference : NULL,
        .opaque = args,
    };
    struct vdisk_compare_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    if (cli->json)
        printf("{\n%s", args->lists ? "    \"differences\": [" : "");
    vd_cli_progress_begin(cli);
    bool ok = vdisk_compare(&o, &result, &err) == 0;
    vd_cli_progress_end(cli, ok);
    if (cli->json)
        print_json(args, &result, ok);
    else if (ok && !cli->quiet)
        print_human(&result);
    if (!ok)
        vd_cli_fail(&err);
    return exit_status(&result, ok);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct compare_args args = {.cli = cli};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO && args.lists && args.strict)
        status = vd_cli_usage_error(cli, "--list: content is listed, which does not go with -s");
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 2, 2, "FILE1 FILE2");
    return status == VD_CLI_GO ? compare(cli, &args) : status;
}

const struct vd_cli_verb vd_cmd_compare = {
    .name = "compare",
    .synopsis = "[-f FMT] [-F FMT] [-T CACHE] [-s | --list] [-U] [-p] [-q] "
                "[--output=human|json] FILE1 FILE2",
    .help = "Compare the content of two disks",
    .text =
        "Where one disk is longer, the rest of it has to be zero.  Offsets are rounded down to\n"
        "512 bytes.\n"
        "Exit status: 0 identical; 1 different, or wrong usage; 2 an image can not be opened;\n"
        "3 what is allocated can not be found out; 4 data can not be read.\n",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_QUIET | VD_CLI_SOURCE_CACHE | VD_CLI_PROGRESS |
              VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
