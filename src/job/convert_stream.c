/* SPDX-License-Identifier: MIT */
/*
 * vdisk_convert_from_fd() and vdisk_convert_to_fd(): raw disks that come from, or go to, a pipe.
 *
 * Everything is read once, from start to end.  A stream does not tell how long it is: the new disk
 * grows by half whenever it is full, and is cut to what came in the end.  A qcow2 image that goes
 * to a stream begins with its tables: what has data is found out before anything is written.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "format/qcow2/qcow2_stream.h"
#include "job/convert_source.h"
#include "job/convert_target.h"
#include "job/job.h"
#include "util/iov.h"
#include "util/mem.h"

#define PIECE_BYTES (UINT64_C(2) << 20)
#define GRAIN_BYTES 4096u
#define FIRST_BYTES (UINT64_C(64) << 20) /* size that a disk begins with if nobody knows it */
#define END_BYTES   512u                 /* disks end at multiples of this */
#define WRITE_BYTES (UINT64_C(64) << 10) /* at once: what a pipe holds */
#define WAIT_MS     200

struct stream {
    const struct vdisk_convert_options *options;
    int fd;
    struct vd_job job;
    uint8_t *buf; /* owned; of PIECE_BYTES */
    uint64_t size;
    uint64_t data_bytes;
};

static int check_options(const struct vdisk_convert_options *options, int fd, uint32_t flags,
                         struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "convert options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags & ~flags)
        return vd_err_set(err, EINVAL,
                          "convert options: flags 0x%" PRIx32 " do not go with a stream",
                          options->flags & ~flags);
    if (options->source_offset || options->source_length)
        return vd_err_set(err, EINVAL, "convert options: no part of a stream can be chosen");
    return fd < 0 ? vd_err_set(err, EINVAL, "convert options: no file descriptor") : 0;
}

static bool is_raw(const char *format)
{
    return format && strcmp(format, "raw") == 0;
}

static int stream_init(struct stream *stream, const struct vdisk_convert_options *options, int fd,
                       struct vdisk_error *err)
{
    *stream = (struct stream){
        .options = options,
        .fd = fd,
        .buf = vd_alloc_io(PIECE_BYTES),
    };
    vd_job_init(&stream->job, options->progress, options->opaque, options->rate_bytes);
    return stream->buf ? 0 : vd_err_nomem(err, "a copy buffer");
}

static void stream_destroy(struct stream *stream)
{
    free(stream->buf);
    vd_job_destroy(&stream->job);
}

static void put_result(const struct stream *stream, struct vdisk_convert_result *result)
{
    if (result)
        *result = (struct vdisk_convert_result){
            .struct_bytes = sizeof(*result),
            .virtual_bytes = stream->size,
            .data_bytes = stream->data_bytes,
        };
}

static int check_result(const struct vdisk_convert_result *result, struct vdisk_error *err)
{
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL,
                          "convert result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    return 0;
}

/* Waits until the descriptor is ready, and asks the caller meanwhile whether to go on. */
static int wait_ready(struct stream *stream, short events, struct vdisk_error *err)
{
    for (;;) {
        struct pollfd poll_fd = {.fd = stream->fd, .events = events};
        int ready = poll(&poll_fd, 1, WAIT_MS);
        if (ready < 0 && errno != EINTR)
            return vd_err_errno(err, errno, "waiting for a stream");
        if (ready > 0)
            return 0;
        int ret = vd_job_advance(&stream->job, (struct vd_job_step){0}, err);
        if (ret < 0)
            return ret;
    }
}

/* ---- From a stream ---- */

/* Fills the buffer, unless the stream ends; *length gets how far. */
static int read_piece(struct stream *stream, size_t *length, struct vdisk_error *err)
{
    *length = 0;
    while (*length < PIECE_BYTES) {
        int ret = wait_ready(stream, POLLIN, err);
        if (ret < 0)
            return ret;
        ssize_t got = read(stream->fd, stream->buf + *length, PIECE_BYTES - *length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return vd_err_errno(err, errno, "reading the source from a stream");
        if (got == 0)
            break;
        *length += (size_t)got;
    }
    return 0;
}

/* Makes the disk at least @size bytes long: by half, or else exactly, if the format has a limit. */
static int grow(struct vdisk_image *image, uint64_t size, struct vdisk_error *err)
{
    uint64_t now = vdisk_image_size(image);
    struct vdisk_error inner = {0};
    if (size <= now)
        return 0;
    uint64_t wanted = vd_round_up(vd_max(now + now / 2, size), PIECE_BYTES);
    int ret = vdisk_image_resize(image, wanted, VDISK_PREALLOCATION_OFF, &inner);
    return ret == 0 ? 0 : vdisk_image_resize(image, size, VDISK_PREALLOCATION_OFF, err);
}

/* Writes what is not zero in the buffer. */
static int write_piece(struct stream *stream, struct vdisk_image *image, uint64_t offset,
                       size_t length, struct vdisk_error *err)
{
    bool keeps_zeros = (stream->options->flags & VDISK_CONVERT_ALLOCATE_ALL) != 0;
    size_t at = 0;
    int ret = 0;
    while (at < length && ret == 0) {
        size_t end = at;
        bool is_zero =
            !keeps_zeros && vd_buffer_is_zero(stream->buf + at, vd_min(length - at, GRAIN_BYTES));
        for (; end < length; end += vd_min(length - end, GRAIN_BYTES))
            if (!keeps_zeros &&
                vd_buffer_is_zero(stream->buf + end, vd_min(length - end, GRAIN_BYTES)) != is_zero)
                break;
        if (!is_zero) {
            ret = vdisk_image_pwrite(image, stream->buf + at, end - at, offset + at, err);
            stream->data_bytes += end - at;
        }
        at = end;
    }
    return ret;
}

/* A target that does not read as zero is made so before anything is written to it. */
static int clear(const struct vd_convert_target *target, struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(target->image);
    int ret = 0;
    for (uint64_t at = 0, step; at < size && ret == 0 && !target->reads_zero; at += step) {
        step = vd_min(size - at, UINT64_C(1) << 30);
        ret = vdisk_image_write_zeroes(target->image, at, step, 0, err);
    }
    return ret;
}

static int copy_in(struct stream *stream, const struct vd_convert_target *target, bool may_grow,
                   struct vdisk_error *err)
{
    struct vdisk_image *image = target->image;
    int ret = clear(target, err);
    while (ret == 0) {
        size_t length;
        ret = read_piece(stream, &length, err);
        if (ret < 0 || length == 0)
            return ret;
        size_t whole = (size_t)vd_round_up(length, END_BYTES);
        memset(stream->buf + length, 0, whole - length);
        if (may_grow)
            ret = grow(image, stream->size + whole, err);
        else if (stream->size + whole > vdisk_image_size(image))
            ret = vd_err_set(err, EFBIG,
                             "%s: the stream is longer than the disk, which has %" PRIu64 " bytes",
                             stream->options->target, vdisk_image_size(image));
        if (ret == 0)
            ret = vd_job_throttle(&stream->job, length, err);
        if (ret == 0)
            ret = write_piece(stream, image, stream->size, whole, err);
        if (ret == 0)
            ret = vd_job_advance(&stream->job, (struct vd_job_step){.moved_bytes = length}, err);
        stream->size += whole;
    }
    return ret;
}

static int run_in(struct stream *stream, struct vd_convert_target *target, struct vdisk_error *err)
{
    struct vdisk_convert_options options = *stream->options;
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    if (options.create)
        create = *options.create;
    bool is_given = (options.flags & VDISK_CONVERT_NO_CREATE) || create.size != 0;
    if (!is_given && create.preallocation != VDISK_PREALLOCATION_OFF)
        return vd_err_set(err, EINVAL,
                          "%s: space can be set aside for a disk whose size is known: give it (-o "
                          "size=SIZE)",
                          options.target);
    if (create.backing)
        return vd_err_set(err, EINVAL, "%s: an overlay can not be made of a stream",
                          options.target);
    if (!is_given)
        create.size = FIRST_BYTES;
    if (!(options.flags & VDISK_CONVERT_NO_CREATE))
        options.create = &create;
    int ret = vd_convert_target_open(target, &options, 0, err);
    if (ret == 0)
        ret = vd_job_phase(&stream->job, "copy", 0, 0, err);
    if (ret == 0)
        ret = copy_in(stream, target, !is_given, err);
    if (ret == 0 && !is_given && vdisk_image_size(target->image) != stream->size)
        ret = vdisk_image_resize(target->image, stream->size, VDISK_PREALLOCATION_OFF, err);
    if (ret == 0) {
        stream->size = vdisk_image_size(target->image);
        ret = vd_convert_target_finish(target, err);
    }
    return ret;
}

int vdisk_convert_from_fd(const struct vdisk_convert_options *options, int fd,
                          struct vdisk_convert_result *result, struct vdisk_error *err)
{
    struct vd_convert_target target = {0};
    struct stream stream;
    int ret = check_options(
        options, fd,
        VDISK_CONVERT_NO_CREATE | VDISK_CONVERT_TARGET_IS_ZERO | VDISK_CONVERT_ALLOCATE_ALL, err);
    if (ret == 0)
        ret = check_result(result, err);
    if (ret == 0 && (options->source_entries || !options->target))
        ret = vd_err_set(err, EINVAL,
                         "convert options: a stream is the only source, and a target "
                         "is needed");
    if (ret == 0 && !is_raw(options->source_format))
        ret =
            vd_err_set(err, EINVAL,
                       "the source is a stream: only raw disks can be read from start to end, and "
                       "the format has to be named (-f raw); of other formats make a file first");
    if (ret < 0)
        return ret;
    ret = stream_init(&stream, options, fd, err);
    if (ret == 0)
        ret = run_in(&stream, &target, err);
    if (ret == 0)
        (void)vd_job_finish(&stream.job, NULL); /* too late to cancel: it is done */
    put_result(&stream, result);
    vd_convert_target_abandon(&target);
    stream_destroy(&stream);
    return ret;
}

/* ---- To a stream ---- */

static int write_bytes(void *opaque, const void *bytes, size_t length, struct vdisk_error *err)
{
    struct stream *stream = opaque;
    const uint8_t *from = bytes;
    for (size_t done = 0; done < length;) {
        int ret = wait_ready(stream, POLLOUT, err);
        if (ret < 0)
            return ret;
        ssize_t put = write(stream->fd, from + done, vd_min(length - done, WRITE_BYTES));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return vd_err_errno(err, errno, "writing the target to a stream");
        done += (size_t)put;
    }
    return 0;
}

/* Reads a piece of the source, and zeros behind its end. */
static int fill_piece(struct stream *stream, const struct vd_convert_source *source,
                      struct vd_range piece, struct vdisk_error *err)
{
    uint64_t there = source->size > piece.offset ? source->size - piece.offset : 0;
    there = vd_min(there, piece.length);
    memset(stream->buf + there, 0, (size_t)(piece.length - there));
    int ret = vd_job_throttle(&stream->job, there, err);
    stream->data_bytes += there;
    return ret == 0 && there
               ? vd_convert_source_read(source, stream->buf, vd_range(piece.offset, there), err)
               : ret;
}

/* Writes the @range, zero or not, piece by piece. */
static int send_range(struct stream *stream, const struct vd_convert_source *source,
                      struct vd_range range, bool is_zero, struct vdisk_error *err)
{
    int ret = 0;
    if (is_zero)
        memset(stream->buf, 0, (size_t)vd_min(range.length, PIECE_BYTES));
    while (range.length && ret == 0) {
        size_t length = (size_t)vd_min(range.length, PIECE_BYTES);
        if (!is_zero)
            ret = fill_piece(stream, source, vd_range(range.offset, length), err);
        if (ret == 0)
            ret = write_bytes(stream, stream->buf, length, err);
        struct vd_job_step step = {.done_bytes = length, .moved_bytes = is_zero ? 0 : length};
        if (ret == 0)
            ret = vd_job_advance(&stream->job, step, err);
        range = vd_range(range.offset + length, range.length - length);
    }
    return ret;
}

static int send_raw(struct stream *stream, const struct vd_convert_source *source,
                    struct vdisk_error *err)
{
    struct vd_range rest = vd_range(0, source->size);
    int ret = vd_job_phase(&stream->job, "copy", source->size, 0, err);
    while (rest.length && ret == 0) {
        bool is_zero;
        uint64_t length;
        ret = vd_convert_source_look(source, rest, &is_zero, &length, err);
        if (ret == 0)
            ret = send_range(stream, source, vd_range(rest.offset, length), is_zero, err);
        if (ret == 0)
            rest = vd_range(rest.offset + length, rest.length - length);
    }
    return ret;
}

/* ---- qcow2 to a stream ---- */

/* What has data, in whole clusters. */
struct runs {
    struct vd_range *ranges; /* owned */
    size_t entries;
    size_t room;
    uint64_t bytes; /* in all */
};

/* @range ends behind all that is there. */
static int add_run(struct runs *runs, struct vd_range range, struct vdisk_error *err)
{
    struct vd_range *last = runs->entries ? &runs->ranges[runs->entries - 1] : NULL;
    uint64_t end = vd_range_end(range);
    if (last && vd_range_end(*last) >= range.offset) {
        runs->bytes += end - vd_range_end(*last);
        last->length = end - last->offset;
        return 0;
    }
    if (runs->entries == runs->room) {
        size_t room = runs->room ? 2 * runs->room : 1024;
        struct vd_range *more = realloc(runs->ranges, room * sizeof(*more));
        if (!more)
            return vd_err_nomem(err, "the places of data");
        runs->ranges = more;
        runs->room = room;
    }
    runs->ranges[runs->entries++] = range;
    runs->bytes += range.length;
    return 0;
}

static int find_runs(const struct vd_convert_source *source, uint32_t cluster_bytes,
                     struct runs *runs, struct vdisk_error *err)
{
    struct vd_range rest = vd_range(0, source->size);
    int ret = 0;
    while (rest.length && ret == 0) {
        bool is_zero;
        uint64_t length;
        ret = vd_convert_source_look(source, rest, &is_zero, &length, err);
        if (ret == 0 && !is_zero)
            ret = add_run(runs, vd_range_expand(vd_range(rest.offset, length), cluster_bytes), err);
        if (ret == 0)
            rest = vd_range(rest.offset + length, rest.length - length);
    }
    return ret;
}

static int send_qcow2(struct stream *stream, const struct vd_convert_source *source,
                      struct vdisk_error *err)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    struct runs runs = {0};
    uint32_t cluster_bytes;
    if (stream->options->create)
        create = *stream->options->create;
    create.size = vd_max(create.size, source->size);
    int ret = vd_qcow2_stream_check(&create, &cluster_bytes, err);
    if (ret == 0)
        ret = find_runs(source, cluster_bytes, &runs, err);
    const struct vd_qcow2_runs places = {runs.ranges, runs.entries};
    if (ret == 0)
        ret = vd_job_phase(&stream->job, "copy", runs.bytes, 0, err);
    if (ret == 0)
        ret = vd_qcow2_stream_head(&create, &places, write_bytes, stream, err);
    for (size_t i = 0; i < runs.entries && ret == 0; i++)
        ret = send_range(stream, source, runs.ranges[i], false, err);
    free(runs.ranges);
    return ret;
}

static bool is_qcow2(const char *format)
{
    return format && strcmp(format, "qcow2") == 0;
}

static int check_out(const struct vdisk_convert_options *options, struct vdisk_error *err)
{
    const char *format = options->target_format;
    if (!options->source_entries || options->target)
        return vd_err_set(err, EINVAL,
                          "convert options: a stream is the target, and a source is "
                          "needed");
    if (format && !is_raw(format) && !is_qcow2(format))
        return vd_err_set(err, EINVAL,
                          "the target is a stream: raw and qcow2 are written from start to end; of "
                          "format %s make a file",
                          format);
    if (options->create && !is_qcow2(format))
        return vd_err_set(err, EINVAL, "a raw disk that goes to a stream has no options");
    return 0;
}

int vdisk_convert_to_fd(const struct vdisk_convert_options *options, int fd,
                        struct vdisk_convert_result *result, struct vdisk_error *err)
{
    struct vd_convert_source source = {0};
    struct stream stream;
    int ret = check_options(options, fd, 0, err);
    if (ret == 0)
        ret = check_result(result, err);
    if (ret == 0)
        ret = check_out(options, err);
    if (ret < 0)
        return ret;
    ret = stream_init(&stream, options, fd, err);
    if (ret == 0)
        ret = vd_convert_source_open(&source, options, err);
    stream.size = source.size;
    if (ret == 0)
        ret = is_qcow2(options->target_format) ? send_qcow2(&stream, &source, err)
                                               : send_raw(&stream, &source, err);
    if (ret == 0)
        (void)vd_job_finish(&stream.job, NULL);
    put_result(&stream, result);
    vd_convert_source_close(&source);
    stream_destroy(&stream);
    return ret;
}
