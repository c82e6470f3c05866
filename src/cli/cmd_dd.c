/* SPDX-License-Identifier: MIT */
/* vdisk dd: copy a part of a disk into a new image, with the operands of dd(1). */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "util/range.h"

#define BLOCK_BYTES_DEFAULT 512u
#define BLOCK_BYTES_MAX     INT32_MAX

static const struct vd_cli_option options[] = {
    {'O', NULL, "FMT", "format of the output (default raw)"},
    {0},
};

struct dd_args {
    const char *target_format;
    const char *input, *output;
    uint64_t block_bytes;
    uint64_t count, skip; /* blocks */
    bool has_count;
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct dd_args *args = opaque;
    (void)cli;
    (void)key; /* there is only one */
    if (!vd_cli_format_is_known(value))
        return 1;
    args->target_format = strcmp(value, "gow") == 0 ? "gow3" : value;
    return VD_CLI_GO;
}

/* --- operands -------------------------------------------------------------------------------- */

/* The value, if @operand is NAME=VALUE with this @name that ends in '='; else NULL. */
static const char *value_of(const char *operand, const char *name)
{
    size_t length = strlen(name);
    return strncmp(operand, name, length) == 0 ? operand + length : NULL;
}

static int take_operand(struct vd_cli *cli, struct dd_args *args, const char *operand)
{
    const char *value;
    if ((value = value_of(operand, "if=")))
        args->input = value;
    else if ((value = value_of(operand, "of=")))
        args->output = value;
    else if ((value = value_of(operand, "bs=")))
        return vd_cli_parse_size("bs", value, &args->block_bytes);
    else if ((value = value_of(operand, "skip=")))
        return vd_cli_parse_size("skip", value, &args->skip);
    else if ((value = value_of(operand, "count="))) {
        args->has_count = true;
        return vd_cli_parse_size("count", value, &args->count);
    } else if (value_of(operand, "seek="))
        return vd_cli_usage_error(cli, "%s: there is no seek=: the output is always a new image",
                                  operand);
    else
        return vd_cli_usage_error(
            cli, "unrecognized operand %s: if= of= bs= count= skip= are known", operand);
    return VD_CLI_GO;
}

static int take_operands(struct vd_cli *cli, struct dd_args *args)
{
    for (int i = 0; i < cli->operand_count; i++) {
        int status = take_operand(cli, args, cli->operands[i]);
        if (status != VD_CLI_GO)
            return status;
    }
    if (!args->input || !args->output)
        return vd_cli_usage_error(cli, "Must specify both input and output files: if= and of=");
    if (args->block_bytes == 0 || args->block_bytes > BLOCK_BYTES_MAX)
        return vd_cli_usage_error(cli,
                                  "Invalid bs specified. Must be between 1 and %d: bs=%" PRIu64,
                                  BLOCK_BYTES_MAX, args->block_bytes);
    return VD_CLI_GO;
}

/* The bytes of a disk of @size that skip= and count= leave. */
static struct vd_range wanted_range(const struct dd_args *args, uint64_t size)
{
    struct vd_range range = vd_range(size, 0);
    uint64_t length;
    if (__builtin_mul_overflow(args->skip, args->block_bytes, &range.offset) || range.offset > size)
        range.offset = size;
    range.length = size - range.offset;
    if (args->has_count && !__builtin_mul_overflow(args->count, args->block_bytes, &length))
        range.length = vd_min(range.length, length);
    return range;
}

/* --- the verb -------------------------------------------------------------------------------- */

/* The size of the input; -1 after an error message. */
static int64_t input_size(struct vd_cli *cli, const char *name)
{
    struct vdisk_image *source = vd_cli_open(cli, name, cli->format, 0);
    if (!source)
        return -1;
    uint64_t size = vdisk_image_size(source);
    return vd_cli_close(source, 0) == 0 ? (int64_t)size : -1;
}

static int print_result(const struct vd_cli *cli, const struct dd_args *args, struct vd_range range,
                        uint64_t moved_bytes)
{
    struct vd_json json;
    if (!cli->json)
        return 0; /* as qemu-img, which prints nothing */
    vd_json_begin_object(&json);
    vd_json_put_text(&json, json.root, "filename", args->output);
    vd_json_put_text(&json, json.root, "format", args->target_format);
    vd_json_put_u64(&json, json.root, "offset", range.offset);
    vd_json_put_u64(&json, json.root, "bytes", range.length);
    vd_json_put_u64(&json, json.root, "moved-bytes", moved_bytes);
    return vd_json_print(&json);
}

/* As a conversion of a part of the disk, so that an output that is there stays if it fails. */
static int copy(struct vd_cli *cli, const struct dd_args *args, struct vd_range range)
{
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create),
        .size = vd_round_up(range.length, 512), /* the disk's own unit */
    };
    struct vdisk_convert_options convert = {
        .struct_bytes = sizeof(convert),
        .sources = &args->input,
        .source_entries = 1,
        .source_format = cli->format,
        .source_flags = VDISK_OPEN_SEQUENTIAL | (cli->share ? VDISK_OPEN_SHARE : 0),
        .source_offset = range.offset,
        .source_length = range.length,
        .target = args->output,
        .target_format = args->target_format,
        .create = &create,
        .network = &cli->network,
        .passphrases = &cli->keys.list,
        .gate = &cli->gate,
        .progress = vd_cli_progress,
        .opaque = cli,
    };
    struct vdisk_convert_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = range.length ? vdisk_convert(&convert, &result, &err)
                           : vdisk_image_create(args->output, args->target_format, &create, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_cli_fail(&err) : print_result(cli, args, range, result.data_bytes);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct dd_args args = {.target_format = "raw", .block_bytes = BLOCK_BYTES_DEFAULT};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = take_operands(cli, &args);
    if (status != VD_CLI_GO)
        return status;
    int64_t size = input_size(cli, args.input);
    if (size < 0)
        return 1;
    struct vd_range range = wanted_range(&args, (uint64_t)size);
    if (args.skip && range.length == 0)
        vd_cli_warning("%s: cannot skip to specified offset: skip=%" PRIu64 " blocks of %" PRIu64
                       " bytes, the disk has %" PRId64,
                       args.input, args.skip, args.block_bytes, size);
    return copy(cli, &args, range);
}

const struct vd_cli_verb vd_cmd_dd = {
    .name = "dd",
    .synopsis = "[-f FMT] [-O FMT] [-U] [-p] [-q] [--output=human|json] [bs=SIZE] [count=BLOCKS] "
                "[skip=BLOCKS] if=FILE of=FILE",
    .help = "Copy a part of a disk into a new image",
    .text =
        "bs is 512 if not given; count and skip are in blocks of bs.  The output is always made\n"
        "anew, with holes for zeros.  Its size is rounded up to a multiple of 512 bytes.\n",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_QUIET | VD_CLI_PROGRESS | VD_CLI_OUTPUT |
              VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
