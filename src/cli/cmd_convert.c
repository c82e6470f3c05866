/* SPDX-License-Identifier: MIT */
/* vdisk convert: copy disks into a new image, or into one that is there. */
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/createopt.h"
#include "cli/encryptopt.h"
#include "cli/optlist.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/snapshots.h"
#include "cli/workopt.h"

enum {
    KEY_TARGET_IS_ZERO = VD_CLI_KEY_VERB,
    KEY_SALVAGE,
    KEY_LEVEL,
    KEY_BITMAPS,
    KEY_SKIP_BROKEN_BITMAPS,
    KEY_TARGET_IMAGE_OPTS,
};

static const struct vd_cli_option options[] = {
    {'O', NULL, "FMT", "format of the target (default raw; with -n, what it looks like)"},
    {'o', NULL, "KEY=VALUE,...", "options of the new image; -o help lists them"},
    {'B', NULL, "BACKING", "make an overlay on BACKING, which holds only what differs from it"},
    {'b', NULL, "BACKING", NULL}, /* as newer versions of qemu-img call it */
    {'F', NULL, "FMT", "format of BACKING"},
    {'n', NULL, NULL, "do not create the target, write into the image that is there"},
    {KEY_TARGET_IS_ZERO, "target-is-zero", NULL, "with -n: the target reads as zero already"},
    {'c', NULL, NULL, "compress the clusters of the target (qcow2)"},
    {KEY_LEVEL, "compression-level", "N", "with -c: 1, fast, to 9, small (default: a fast one)"},
    {'S', NULL, "SIZE", "so many zero bytes become a hole (default 4k); 0: no holes"},
    {'m', NULL, "N", "pieces copied at once (default 2 for each processor, at most 8)"},
    {'W', NULL, NULL, "write in any order: what vdisk does anyway, in every format it has"},
    {'C', NULL, NULL, "let the system copy, without a look for zeros, where it can"},
    {'l', NULL, "SNAPSHOT", "read SOURCE as this snapshot within it has it: an id or a name"},
    {'r', NULL, "RATE", "copy at most RATE bytes of data a second"},
    {KEY_SALVAGE, "salvage", NULL, "what can not be read becomes zeros, with a warning"},
    {KEY_BITMAPS, "bitmaps", NULL, "copy the dirty bitmaps of SOURCE, too (qcow2)"},
    {KEY_SKIP_BROKEN_BITMAPS, "skip-broken-bitmaps", NULL, "with --bitmaps: not inconsistent ones"},
    /* qemu-img's that have no meaning for the formats there are: refused, never ignored. */
    {KEY_TARGET_IMAGE_OPTS, "target-image-opts", NULL, NULL},
    {0},
};

struct convert_args {
    struct vdisk_convert_options options;
    struct vdisk_create_options create;
    struct vdisk_encrypt_options encrypt;
    struct vd_optlist list;
    struct vd_cli_snapshot snapshot;
};

/* Options of qemu-img that are not there, and why. */
static int refuse(struct vd_cli *cli, int key)
{
    (void)key; /* there is only one */
    return vd_cli_usage_error(cli, "--target-image-opts is not supported: name the target by its "
                                   "path, and its format with -O");
}

static int take_sparse(const char *value, struct vdisk_convert_options *o)
{
    uint64_t size;
    int status = vd_cli_parse_size("-S", value, &size);
    if (status != VD_CLI_GO)
        return status;
    o->sparse_bytes = size;
    o->flags &= ~(uint32_t)VDISK_CONVERT_ALLOCATE_ALL;
    if (size == 0)
        o->flags |= VDISK_CONVERT_ALLOCATE_ALL;
    return VD_CLI_GO;
}

static int take_level(struct vd_cli *cli, const char *value, struct vdisk_convert_options *o)
{
    if (value[0] < '1' || value[0] > '9' || value[1])
        return vd_cli_usage_error(cli, "--compression-level: '%s' is not one of 1 to 9", value);
    o->compression_level = (uint32_t)(value[0] - '0');
    return VD_CLI_GO;
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct convert_args *args = opaque;
    struct vdisk_error err = {0};
    switch (key) {
    case 'O':
        args->options.target_format = value;
        return vd_cli_format_is_known(value) ? VD_CLI_GO : 1;
    case 'o':
        return vd_optlist_parse(&args->list, value, &err) < 0 ? vd_cli_fail(&err) : VD_CLI_GO;
    case 'B':
    case 'b':
        args->create.backing = value;
        break;
    case 'F':
        args->create.backing_format = value;
        break;
    case 'n':
        args->options.flags |= VDISK_CONVERT_NO_CREATE;
        break;
    case KEY_TARGET_IS_ZERO:
        args->options.flags |= VDISK_CONVERT_TARGET_IS_ZERO;
        break;
    case 'c':
        args->options.flags |= VDISK_CONVERT_COMPRESS;
        break;
    case KEY_LEVEL:
        return take_level(cli, value, &args->options);
    case 'S':
        return take_sparse(value, &args->options);
    case 'm':
        return vd_cli_take_workers(cli, value, &args->options.workers);
    case 'W':
        break; /* writes have no order here: nothing to switch on */
    case 'C':
        args->options.flags |= VDISK_CONVERT_COPY_OFFLOAD;
        break;
    case 'l':
        return vd_cli_take_snapshot(cli, value, &args->snapshot);
    case 'r':
        return vd_cli_take_rate(cli, value, &args->options.rate_bytes);
    case KEY_BITMAPS:
        args->options.flags |= VDISK_CONVERT_BITMAPS;
        break;
    case KEY_SKIP_BROKEN_BITMAPS:
        args->options.flags |= VDISK_CONVERT_SKIP_BROKEN_BITMAPS;
        break;
    case KEY_SALVAGE:
        args->options.flags |= VDISK_CONVERT_SALVAGE;
        break;
    default:
        return refuse(cli, key);
    }
    return VD_CLI_GO;
}

static int check_args(struct vd_cli *cli, const struct convert_args *args)
{
    uint32_t flags = args->options.flags;
    if ((flags & VDISK_CONVERT_TARGET_IS_ZERO) && !(flags & VDISK_CONVERT_NO_CREATE))
        return vd_cli_usage_error(cli, "--target-is-zero requires use of -n flag");
    if ((flags & VDISK_CONVERT_NO_CREATE) && args->list.entry_count)
        return vd_cli_usage_error(cli, "-o: has no meaning with -n, nothing is created");
    if ((flags & VDISK_CONVERT_NO_CREATE) && (args->create.backing || args->create.backing_format))
        return vd_cli_usage_error(cli,
                                  "-B, -F: have no meaning with -n: the image that is there has "
                                  "the backing file that it has");
    if ((flags & VDISK_CONVERT_SKIP_BROKEN_BITMAPS) && !(flags & VDISK_CONVERT_BITMAPS))
        return vd_cli_usage_error(cli, "Use of --skip-broken-bitmaps requires --bitmaps");
    if (args->snapshot.is_given && cli->operand_count > 2)
        return vd_cli_usage_error(cli, "No support for concatenating multiple snapshot");
    if (args->options.compression_level && !(flags & VDISK_CONVERT_COMPRESS))
        return vd_cli_usage_error(cli, "--compression-level: has a meaning with -c only");
    if ((flags & VDISK_CONVERT_COMPRESS) && (flags & VDISK_CONVERT_COPY_OFFLOAD))
        return vd_cli_usage_error(cli, "Cannot enable copy offloading when -c is used");
    if ((flags & VDISK_CONVERT_SALVAGE) && (flags & VDISK_CONVERT_COPY_OFFLOAD))
        return vd_cli_usage_error(cli, "Cannot enable copy offloading when --salvage is used");
    return VD_CLI_GO;
}

static bool is_pipe(const char *name)
{
    return strcmp(name, "-") == 0;
}

/* "-" among the operands: what does not go with it is said. */
static int check_pipes(struct vd_cli *cli, const struct convert_args *args)
{
    int last = cli->operand_count - 1;
    bool is_target = is_pipe(cli->operands[last]);
    int sources = 0;
    for (int i = 0; i < last; i++)
        sources += is_pipe(cli->operands[i]);
    if (!sources && !is_target)
        return VD_CLI_GO;
    if (sources && (is_target || last > 1))
        return vd_cli_usage_error(cli, "-: standard input can only be the one source of a file");
    if ((args->options.flags &
         (VDISK_CONVERT_COMPRESS | VDISK_CONVERT_SALVAGE | VDISK_CONVERT_COPY_OFFLOAD)) ||
        args->create.backing)
        return vd_cli_usage_error(cli, "-c, -B, -C and --salvage want files: a pipe is read, or "
                                       "written, once from start to end");
    const char *format = args->options.target_format;
    bool is_raw = !format || strcmp(format, "raw") == 0;
    if (is_target && (args->options.flags || (is_raw && args->list.entry_count)))
        return vd_cli_usage_error(cli, "-n, -S, and -o of a raw disk, want a target that is a "
                                       "file");
    if (is_target && (cli->json || cli->progress))
        return vd_cli_usage_error(cli, "-p and --output=json want standard output, which is the "
                                       "target; --progress=FD writes elsewhere");
    if (is_target && isatty(STDOUT_FILENO))
        return vd_cli_usage_error(cli, "-: a disk is not written to a terminal");
    return VD_CLI_GO;
}

/* The operands are what vdisk_convert() takes, or one of them is a pipe. */
static int convert_any(struct vdisk_convert_options *o, struct vdisk_convert_result *result,
                       struct vdisk_error *err)
{
    if (is_pipe(o->sources[0]) && o->source_entries == 1) {
        o->sources = NULL;
        o->source_entries = 0;
        return vdisk_convert_from_fd(o, STDIN_FILENO, result, err);
    }
    if (!is_pipe(o->target))
        return vdisk_convert(o, result, err);
    o->target = NULL;
    if (strcmp(o->target_format, "raw") == 0)
        o->create = NULL;
    return vdisk_convert_to_fd(o, STDOUT_FILENO, result, err);
}

static void warn(void *opaque, const char *message)
{
    (void)opaque;
    vd_cli_warning("%s", message);
}

static int print_result(const struct vd_cli *cli, const struct convert_args *args,
                        const struct vdisk_convert_result *result)
{
    if (!cli->json)
        return 0; /* as qemu-img, which prints nothing */
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_text(&json, json.root, "filename", args->options.target);
    if (args->options.target_format)
        vd_json_put_text(&json, json.root, "format", args->options.target_format);
    vd_json_put_u64(&json, json.root, "virtual-size", result->virtual_bytes);
    vd_json_put_u64(&json, json.root, "data-bytes", result->data_bytes);
    vd_json_put_u64(&json, json.root, "shared-bytes", result->shared_bytes);
    vd_json_put_u64(&json, json.root, "compressed-bytes", result->compressed_bytes);
    vd_json_put_u64(&json, json.root, "salvaged-bytes", result->salvaged_bytes);
    return vd_json_print(&json);
}

static int convert(struct vd_cli *cli, struct convert_args *args)
{
    struct vdisk_convert_options *o = &args->options;
    if (!(o->flags & VDISK_CONVERT_NO_CREATE)) {
        if (!o->target_format)
            o->target_format = "raw";
        int status = vd_encrypt_options_take(cli, &args->list, o->target_format, &args->encrypt,
                                             &args->create);
        if (status == VD_CLI_GO)
            status =
                vd_create_options_take(&args->list, o->target_format, NULL, true, &args->create);
        if (status != VD_CLI_GO)
            return status;
        args->create.network = &cli->network;
        args->create.passphrases = &cli->keys.list;
        args->create.gate = &cli->gate;
        o->create = &args->create;
    }
    if (o->target_format && strcmp(o->target_format, "gow") == 0)
        o->target_format = "gow3";
    o->sources = (const char *const *)cli->operands;
    o->source_entries = (size_t)cli->operand_count - 1;
    o->target = cli->operands[cli->operand_count - 1];
    o->source_format = cli->format;
    o->source_snapshot = vd_cli_snapshot_key(&args->snapshot);
    o->source_flags = cli->source_cache_flags | (cli->share ? VDISK_OPEN_SHARE : 0);
    o->target_flags = cli->cache_flags;
    o->network = &cli->network;
    o->passphrases = &cli->keys.list;
    o->gate = &cli->gate;
    o->progress = vd_cli_progress;
    o->report = warn;
    o->opaque = cli;

    struct vdisk_convert_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = convert_any(o, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_cli_fail(&err) : print_result(cli, args, &result);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct convert_args args = {.options = {.struct_bytes = sizeof(args.options)},
                                .create = {.struct_bytes = sizeof(args.create)}};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO && args.list.wants_help) {
        vd_create_options_print(args.options.target_format ? args.options.target_format : "raw");
        status = 0;
    }
    if (status == VD_CLI_GO)
        status = check_args(cli, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 2, INT32_MAX, "SOURCE... TARGET");
    if (status == VD_CLI_GO)
        status = check_pipes(cli, &args);
    if (status == VD_CLI_GO)
        status = convert(cli, &args);
    vd_cli_snapshot_free(&args.snapshot);
    vd_optlist_free(&args.list);
    return status;
}

const struct vd_cli_verb vd_cmd_convert = {
    .name = "convert",
    .synopsis = "[-f FMT] [-O FMT] [-o OPTIONS] [-B BACKING -F FMT] [-n [--target-is-zero]] [-c "
                "[--compression-level=N]] [-S SIZE] [-m N] [-W] [-C] "
                "[-r RATE] [-l SNAPSHOT] [--bitmaps [--skip-broken-bitmaps]] [--salvage] [-t "
                "CACHE] [-T CACHE] [-U] [-p] [-q] SOURCE... TARGET",
    .help = "Copy a disk into a new image",
    .text =
        "Several sources make one disk, one behind the other.  A target that is a file gets its\n"
        "name when it is complete and on stable storage (-t unsafe: when it is complete); an\n"
        "older file of that name stays until then, and for good if anything fails.\n",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_QUIET | VD_CLI_CACHE | VD_CLI_SOURCE_CACHE |
              VD_CLI_PROGRESS | VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
