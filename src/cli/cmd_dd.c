/* SPDX-License-Identifier: MIT */
/* vdisk dd: copy a part of a disk into a new image, with the operands of dd(1). */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "util/err.h"
#include "util/iov.h"
#include "util/mem.h"
#include "util/range.h"

#define BLOCK_BYTES_DEFAULT 512u
#define BLOCK_BYTES_MAX     INT32_MAX
#define CHUNK_BYTES         (1u << 20) /* copied at once: bs only counts, it does not slow down */
#define SPARSE_BYTES        4096u      /* zeros of this length and alignment become a hole       */

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

/* --- the copy -------------------------------------------------------------------------------- */

struct copy {
    struct vd_cli *cli;
    struct vdisk_image *source, *target;
    struct vd_range range; /* of the source; goes to offset 0 of the target */
    uint8_t *buffer;       /* CHUNK_BYTES */
    uint64_t moved_bytes;
};

static int report(const struct copy *copy, uint64_t done_bytes, struct vdisk_error *err)
{
    struct vdisk_progress now = {.phase = "copy",
                                 .done_bytes = done_bytes,
                                 .total_bytes = copy->range.length,
                                 .moved_bytes = copy->moved_bytes};
    if (vd_cli_progress(copy->cli, &now) != 0)
        return vd_err_set(err, ECANCELED, "cancelled after %" PRIu64 " of %" PRIu64 " bytes",
                          done_bytes, copy->range.length);
    return 0;
}

/* Writes what is not zero of @length bytes of the buffer: the target reads as zeros. */
static int write_data(const struct copy *copy, size_t length, uint64_t offset,
                      struct vdisk_error *err)
{
    size_t start = 0; /* of data not yet written */
    for (size_t at = 0; at <= length;) {
        size_t piece = (size_t)vd_min(length - at, SPARSE_BYTES - (offset + at) % SPARSE_BYTES);
        bool is_end = at == length;
        if (!is_end && !vd_buffer_is_zero(copy->buffer + at, piece)) {
            at += piece;
            continue;
        }
        if (at > start) {
            int ret = vdisk_image_pwrite(copy->target, copy->buffer + start, at - start,
                                         offset + start, err);
            if (ret < 0)
                return ret;
        }
        if (is_end)
            break;
        at += piece;
        start = at;
    }
    return 0;
}

/* Copies the next piece, which is no longer than @length; its length goes to *done. */
static int copy_piece(struct copy *copy, uint64_t offset, uint64_t length, uint64_t *done,
                      struct vdisk_error *err)
{
    struct vdisk_extent extent;
    int ret = vdisk_image_extent(copy->source, offset, length, &extent, err);
    if (ret < 0)
        return ret;
    *done = extent.length;
    if (extent.flags & VDISK_EXTENT_ZERO)
        return 0;
    *done = vd_min(extent.length, CHUNK_BYTES - offset % CHUNK_BYTES);
    ret = vdisk_image_pread(copy->source, copy->buffer, (size_t)*done, offset, err);
    if (ret < 0)
        return ret;
    copy->moved_bytes += *done;
    return write_data(copy, (size_t)*done, offset - copy->range.offset, err);
}

/* A device keeps what was on it when an image is made there: only a new file reads as zeros. */
static int clear_target(const struct copy *copy, const char *name, struct vdisk_error *err)
{
    struct stat st;
    if (stat(name, &st) == 0 && S_ISREG(st.st_mode))
        return 0;
    return vdisk_image_write_zeroes(copy->target, 0, copy->range.length, 0, err);
}

static int copy_all(struct copy *copy, struct vdisk_error *err)
{
    uint64_t done_bytes = 0;
    while (done_bytes < copy->range.length) {
        uint64_t piece;
        int ret = copy_piece(copy, copy->range.offset + done_bytes, copy->range.length - done_bytes,
                             &piece, err);
        if (ret == 0)
            ret = report(copy, done_bytes + piece, err);
        if (ret < 0)
            return ret;
        done_bytes += piece;
    }
    return vdisk_image_flush(copy->target, err);
}

/* --- the verb -------------------------------------------------------------------------------- */

static bool is_same_file(const char *a, const char *b)
{
    struct stat first, second;
    return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

static int print_result(const struct vd_cli *cli, const struct dd_args *args,
                        const struct copy *copy)
{
    struct vd_json json;
    if (!cli->json || cli->quiet)
        return 0; /* as qemu-img, which prints nothing */
    vd_json_begin_object(&json);
    vd_json_put_text(&json, json.root, "filename", args->output);
    vd_json_put_text(&json, json.root, "format", args->target_format);
    vd_json_put_u64(&json, json.root, "offset", copy->range.offset);
    vd_json_put_u64(&json, json.root, "bytes", copy->range.length);
    vd_json_put_u64(&json, json.root, "moved-bytes", copy->moved_bytes);
    return vd_json_print(&json);
}

/* The output has been made: fills it. */
static int fill_output(struct vd_cli *cli, const struct dd_args *args, struct copy *copy)
{
    copy->target = vd_cli_open(cli, args->output, args->target_format, VDISK_OPEN_WRITE);
    if (!copy->target)
        return 1;
    struct vdisk_error err = {0};
    int status = 0;
    vd_cli_progress_begin(cli);
    if (clear_target(copy, args->output, &err) < 0 || copy_all(copy, &err) < 0)
        status = vd_cli_fail(&err);
    status = vd_cli_close(copy->target, status);
    vd_cli_progress_end(cli, status == 0);
    return status;
}

static int dd_from(struct vd_cli *cli, const struct dd_args *args, struct vdisk_image *source)
{
    CLEANUP_FREE uint8_t *buffer = vd_alloc_io(CHUNK_BYTES);
    struct copy copy = {.cli = cli,
                        .source = source,
                        .buffer = buffer,
                        .range = wanted_range(args, vdisk_image_size(source))};
    if (!buffer) {
        vd_cli_error("out of memory for a buffer of %u bytes", CHUNK_BYTES);
        return 1;
    }
    if (args->skip && copy.range.length == 0)
        vd_cli_warning("%s: cannot skip to specified offset: skip=%" PRIu64 " blocks of %" PRIu64
                       " bytes, the disk has %" PRIu64,
                       args->input, args->skip, args->block_bytes, vdisk_image_size(source));

    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    create.size = vd_round_up(copy.range.length, 512); /* the disk's own unit */
    struct vdisk_error err = {0};
    bool was_there = access(args->output, F_OK) == 0;
    if (vdisk_image_create(args->output, args->target_format, &create, &err) < 0)
        return vd_cli_fail(&err);
    int status = fill_output(cli, args, &copy);
    if (status != 0 && !was_there)
        unlink(args->output); /* half a copy looks like a whole one */
    return status ? status : print_result(cli, args, &copy);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct dd_args args = {.target_format = "raw", .block_bytes = BLOCK_BYTES_DEFAULT};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = take_operands(cli, &args);
    if (status != VD_CLI_GO)
        return status;
    if (is_same_file(args.input, args.output)) {
        vd_cli_error("%s: is both input and output; it would be emptied before it is read",
                     args.output);
        return 1;
    }
    struct vdisk_image *source = vd_cli_open(cli, args.input, cli->format, VDISK_OPEN_SEQUENTIAL);
    return source ? vd_cli_close(source, dd_from(cli, &args, source)) : 1;
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
              VD_CLI_NETWORK,
    .options = options,
    .run = run,
};
