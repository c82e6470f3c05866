/* SPDX-License-Identifier: MIT */
/* vdisk measure: how large would a new image be? */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/createopt.h"
#include "cli/encryptopt.h"
#include "cli/optlist.h"
#include "cli/output.h"
#include "cli/snapshots.h"

enum {
    KEY_SIZE = VD_CLI_KEY_VERB
};

static const struct vd_cli_option options[] = {
    {'O', NULL, "FMT", "format of the new image (default raw)"},
    {'o', NULL, "KEY=VALUE,...", "options of the new image; -o help lists them"},
    {'l', NULL, "SNAPSHOT", "measure FILE as this snapshot within it has it: an id or a name"},
    {KEY_SIZE, "size", "SIZE", "measure for an empty disk of SIZE"},
    {0},
};

struct measure_args {
    const char *target_format;
    const char *size_text;
    struct vd_optlist list;
    struct vd_cli_snapshot snapshot;
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct measure_args *args = opaque;
    struct vdisk_error err = {0};
    switch (key) {
    case 'O':
        if (!vd_cli_format_is_known(value))
            return 1;
        args->target_format = value;
        break;
    case 'l':
        return vd_cli_take_snapshot(cli, value, &args->snapshot);
    case KEY_SIZE:
        args->size_text = value;
        break;
    default: /* o */
        if (vd_optlist_parse(&args->list, value, &err) < 0)
            return vd_cli_fail(&err);
        break;
    }
    return VD_CLI_GO;
}

static int print_result(const struct vd_cli *cli, const struct vdisk_measure_result *result)
{
    if (!cli->json) {
        printf("required size: %" PRIu64 "\n", result->required_bytes);
        printf("fully allocated size: %" PRIu64 "\n", result->fully_allocated_bytes);
        if (result->has_bitmaps)
            printf("bitmaps size: %" PRIu64 "\n", result->bitmaps_bytes);
        return 0;
    }
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_u64(&json, json.root, "required", result->required_bytes);
    vd_json_put_u64(&json, json.root, "fully-allocated", result->fully_allocated_bytes);
    if (result->has_bitmaps)
        vd_json_put_u64(&json, json.root, "bitmaps", result->bitmaps_bytes);
    return vd_json_print(&json);
}

/* @source: NULL for an empty disk of the size in @args. */
static int measure(struct vd_cli *cli, struct measure_args *args, struct vdisk_image *source)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    if (source && vd_optlist_take(&args->list, "size")) {
        vd_cli_error("-o size and a file: the size is that of '%s'", cli->operands[0]);
        return 1;
    }
    create.size = source ? vdisk_image_size(source) : 0;
    struct vdisk_encrypt_options encrypt;
    int status = vd_encrypt_options_take(cli, &args->list, args->target_format, &encrypt, &create);
    if (status == VD_CLI_GO)
        status = vd_create_options_take(&args->list, args->target_format, args->size_text,
                                        source != NULL, &create);
    if (status != VD_CLI_GO)
        return status;

    struct vdisk_measure_result result;
    struct vdisk_error err = {0};
    if (vdisk_measure(args->target_format, &create, source, &result, &err) < 0)
        return vd_cli_fail(&err);
    return print_result(cli, &result);
}

static int measure_any(struct vd_cli *cli, struct measure_args *args)
{
    if (args->list.wants_help) {
        vd_create_options_print(args->target_format);
        return 0;
    }
    if (cli->operand_count == 0)
        return measure(cli, args, NULL);
    struct vdisk_open_options open = vd_cli_open_options(cli, cli->format, 0);
    struct vdisk_image *source;
    struct vdisk_error err = {0};
    open.snapshot = vd_cli_snapshot_key(&args->snapshot);
    if (vdisk_image_open(cli->operands[0], &open, &source, &err) < 0)
        return vd_cli_fail(&err);
    return vd_cli_close(source, measure(cli, args, source));
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct measure_args args = {.target_format = "raw"};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 0, 1, "--size SIZE or FILE");
    if (status == VD_CLI_GO && args.size_text && cli->operand_count)
        status = vd_cli_usage_error(cli, "--size N cannot be used together with a filename.");
    if (status == VD_CLI_GO && !cli->operand_count &&
        (cli->format || cli->share || args.snapshot.is_given))
        status = vd_cli_usage_error(cli, "-f, -l and -U can only be used with a filename.");
    if (status == VD_CLI_GO && !args.size_text && !cli->operand_count && !args.list.entry_count &&
        !args.list.wants_help)
        status = vd_cli_usage_error(cli, "Either --size N or one filename must be specified.");
    if (status == VD_CLI_GO)
        status = measure_any(cli, &args);
    vd_cli_snapshot_free(&args.snapshot);
    vd_optlist_free(&args.list);
    return status;
}

const struct vd_cli_verb vd_cmd_measure = {
    .name = "measure",
    .synopsis = "[-O FMT] [-o OPTIONS] [-f FMT] [-l SNAPSHOT] [-U] [--output=human|json] --size "
                "SIZE | FILE",
    .help = "Tell how much space a new image would take",
    .text =
        "required size: for the data of FILE, or for an empty disk.  fully allocated size: when\n"
        "every byte has been written.  Both are upper bounds.\n",
    .common =
        VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
