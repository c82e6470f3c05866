/* SPDX-License-Identifier: MIT */
/*
 * vdisk_convert(): copies disks into a new image.
 *
 * The workers take pieces from one cursor (convert_cursor.h: C1, C2).
 *
 * C3  What the target is known to read as zero is not written.
 * C4  Of a new overlay, what its backing image has already is not written; so where nothing is
 *     written, it shows what it should.
 * C5  If clusters are compressed, pieces are written in their order (convert_compress.h: Z1 to Z3).
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "image/copy.h"
#include "job/convert.h"
#include "job/convert_bitmaps.h"
#include "job/convert_compress.h"
#include "job/convert_cursor.h"
#include "job/convert_overlay.h"
#include "job/convert_source.h"
#include "job/convert_target.h"
#include "job/job.h"
#include "util/iov.h"
#include "util/mem.h"
#include "util/workers.h"

#define LEVEL_MAX          9u            /* of compression */
#define GRAIN_BYTES        4096u         /* default of sparse_bytes; block of file systems */
#define ZERO_BYTES_MAX     (64ull << 20) /* written as zeros at once */
#define SKIP_BYTES_MAX     (1ull << 40)  /* passed over at once */
#define SALVAGE_STEP_BYTES (64u << 10)   /* what can not be read is tried again in these, */
#define SALVAGE_UNIT_BYTES 4096u         /* and then in these */

struct convert {
    const struct vdisk_convert_options *options;
    struct vdisk_image *given; /* the source, if it is the caller's; else NULL */
    struct vd_job job;
    struct vd_convert_source source;
    struct vd_convert_target target;
    struct vd_convert_cursor cursor;
    struct vd_convert_overlay overlay; /* of a new overlay only */
    struct vd_convert_line line;       /* if clusters are compressed */
    struct vd_convert_bitmaps bitmaps; /* those of the source, if they are copied */
    size_t grain_bytes;                /* zeros are looked for in these */
    size_t sparse_bytes;               /* shortest run of zeros that becomes a hole */
    bool allocate_all;
    bool compresses;
    bool copies_unread; /* by the system, without a look for zeros */

    struct vd_mutex report_lock; /* held during the caller's report function */
    atomic_uint_least64_t data_bytes;
    atomic_uint_least64_t compressed_bytes;
    atomic_uint_least64_t shared_bytes;
    atomic_uint_least64_t salvaged_bytes;
};

/* One thread's. */
struct worker {
    struct convert *convert;
    struct vd_convert_piece piece; /* that it deals with, */
    uint8_t *buf;                  /* and has there, at most VD_CONVERT_PIECE_BYTES */
    uint8_t *behind;               /* owned; as much; of overlays only */
    struct vd_convert_lot *lot;    /* if clusters are compressed: has the buf, */
    struct vd_encoder *encoder;    /* owned; and there is an encoder */
};

/* ---- Target ---- */

/* The temporary name of the target says little to who reads the message. */
static int target_failed(const struct convert *convert, int ret, struct vdisk_error *err)
{
    if (ret < 0 && convert->target.file.part_name)
        vd_err_prefix(err, ret, "%s: ", convert->target.file.name);
    return ret;
}

/* Zeros where the target may hold something else: what reads as zero already stays (C3). */
static int clear_range(struct convert *convert, struct vd_range rest, struct vdisk_error *err)
{
    struct vdisk_image *image = convert->target.image;
    while (rest.length) {
        struct vdisk_extent extent;
        int ret = vdisk_image_extent(image, rest.offset, rest.length, &extent, err);
        if (ret == 0 && !(extent.flags & VDISK_EXTENT_ZERO))
            ret = vdisk_image_write_zeroes(image, rest.offset, extent.length, 0, err);
        if (ret < 0)
            return ret;
        rest = vd_range(rest.offset + extent.length, rest.length - extent.length);
    }
    return 0;
}

static int write_zeros(struct convert *convert, struct vd_range range, struct vdisk_error *err)
{
    int ret = 0;
    if (convert->allocate_all)
        ret = vdisk_image_write_zeroes(convert->target.image, range.offset, range.length,
                                       VDISK_ZERO_NO_HOLE, err);
    else if (!convert->target.reads_zero)
        ret = clear_range(convert, range, err);
    return target_failed(convert, ret, err);
}

/* Bytes at the start of @buf that are zero, in whole grains (or up to its end). */
static size_t zero_run(const uint8_t *buf, size_t length, size_t grain_bytes)
{
    size_t run = 0;
    while (run < length) {
        size_t step = length - run < grain_bytes ? length - run : grain_bytes;
        if (!vd_buffer_is_zero(buf + run, step))
            break;
        run += step;
    }
    return run;
}

/* The length of the run at the start of @buf that is written, or not, in one go. */
static size_t next_run(const struct convert *convert, const uint8_t *buf, size_t length,
                       bool is_end_of_disk, bool *is_zero)
{
    size_t grain = convert->grain_bytes;
    size_t run = 0;
    for (;;) {
        size_t zeros = zero_run(buf + run, length - run, grain);
        bool counts = zeros >= convert->sparse_bytes || (is_end_of_disk && run + zeros == length);
        *is_zero = run == 0 && zeros > 0 && counts;
        if (*is_zero)
            return zeros;
        if (counts && zeros > 0)
            return run;
        run += zeros;
        if (run == length)
            return run;
        run += length - run < grain ? length - run : grain; /* the grain that is not zero */
    }
}

static uint8_t *place_of(const struct worker *worker, uint64_t offset)
{
    return worker->buf + (offset - worker->piece.range.offset);
}

/* Clusters of one kind. */
static int write_run(struct convert *convert, const struct vd_image_encoded *clusters,
                     size_t entries, struct vdisk_error *err)
{
    struct vdisk_image *image = convert->target.image;
    uint64_t start = clusters[0].guest.offset;
    struct vd_range range = vd_range(start, vd_range_end(clusters[entries - 1].guest) - start);
    if (!clusters[0].bytes)
        return write_zeros(convert, range, err);
    atomic_fetch_add(&convert->data_bytes, range.length);
    if (!clusters[0].length)
        return target_failed(
            convert,
            vdisk_image_pwrite(image, clusters[0].bytes, (size_t)range.length, range.offset, err),
            err);
    atomic_fetch_add(&convert->compressed_bytes, range.length);
    return target_failed(
        convert, vd_image_write_encoded(image, convert->line.codec, clusters, entries, err), err);
}

/* C5 */
static int write_lot(void *opaque, const struct vd_convert_lot *lot, struct vdisk_error *err)
{
    struct convert *convert = opaque;
    int ret = 0;
    for (size_t done = 0; done < lot->entries && ret == 0;) {
        size_t run = vd_convert_lot_run(lot, done);
        ret = write_run(convert, lot->clusters + done, run, err);
        done += run;
    }
    if (ret == 0 && lot->entries && convert->target.is_durable)
        vd_image_write_behind(convert->target.image, lot->piece.range.offset,
                              lot->piece.range.length);
    return ret;
}

/* Writes @range of the piece, or puts it into its lot. */
static int write_data(struct worker *worker, struct vd_range range, struct vdisk_error *err)
{
    struct convert *convert = worker->convert;
    const uint8_t *buf = place_of(worker, range.offset);
    if (worker->lot)
        return vd_convert_line_encode(&convert->line, worker->lot, worker->encoder, range, err);
    bool is_end_of_disk = vd_range_end(range) == convert->source.size;
    int ret = 0;
    while (range.length && ret == 0) {
        bool is_zero = false;
        size_t run = (size_t)range.length;
        if (!convert->allocate_all)
            run = next_run(convert, buf, run, is_end_of_disk, &is_zero);
        if (is_zero)
            ret = write_zeros(convert, vd_range(range.offset, run), err);
        else
            ret = target_failed(
                convert, vdisk_image_pwrite(convert->target.image, buf, run, range.offset, err),
                err);
        if (!is_zero)
            atomic_fetch_add(&convert->data_bytes, run);
        buf += run;
        range = vd_range(range.offset + run, range.length - run);
    }
    return ret;
}

/* ---- Source ---- */

static void report_loss(struct convert *convert, struct vd_range lost,
                        const struct vdisk_error *why)
{
    if (!lost.length)
        return;
    atomic_fetch_add(&convert->salvaged_bytes, lost.length);
    if (!convert->options->report)
        return;
    struct vdisk_error message = {0};
    vd_err_set(&message, EIO,
               "%" PRIu64 " bytes at offset %" PRIu64
               " can not be read, and are zeros in the target: %s",
               lost.length, lost.offset, why->message);
    vd_mutex_lock(&convert->report_lock);
    convert->options->report(convert->options->opaque, message.message);
    vd_mutex_unlock(&convert->report_lock);
}

/* Reads what can be read of @range in steps; the rest becomes zeros. */
static int salvage(struct convert *convert, uint8_t *buf, struct vd_range range,
                   struct vdisk_error *err)
{
    struct vd_range lost = vd_range(range.offset, 0);
    struct vdisk_error why = {0};
    for (uint64_t done = 0; done < range.length;) {
        struct vdisk_error failure = {0};
        uint64_t at = range.offset + done;
        uint64_t step = vd_min(range.length - done, SALVAGE_STEP_BYTES);
        int ret =
            vd_convert_source_read(&convert->source, buf + done, vd_range(at, step), &failure);
        if (ret < 0) {
            vdisk_error_clear(&failure);
            step = vd_min(range.length - done, SALVAGE_UNIT_BYTES);
            ret =
                vd_convert_source_read(&convert->source, buf + done, vd_range(at, step), &failure);
        }
        if (ret == 0) {
            report_loss(convert, lost, &why);
            lost = vd_range(at + step, 0);
        } else {
            if (!lost.length)
                why = failure;
            lost.length += step;
        }
        done += step;
        ret = vd_job_advance(&convert->job, (struct vd_job_step){0}, err);
        if (ret < 0)
            return ret;
    }
    report_loss(convert, lost, &why);
    return 0;
}

static int read_data(struct convert *convert, uint8_t *buf, struct vd_range range,
                     struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = vd_convert_source_read(&convert->source, buf, range, &inner);
    if (ret == 0)
        return 0;
    if ((convert->options->flags & VDISK_CONVERT_SALVAGE) && ret != -ENOMEM)
        return salvage(convert, buf, range, err);
    return vd_err_copy(err, &inner);
}

/* ---- Pieces ---- */

/* Lets the system copy as much of the start of @range as it can; *done gets the length. */
static int copy_unread(struct convert *convert, struct vd_range range, uint64_t *done,
                       struct vdisk_error *err)
{
    struct vd_convert_part *part = vd_convert_source_part(&convert->source, range.offset);
    struct vd_image_copy copy = {
        .from = part->image,
        .to = convert->target.image,
        .from_offset = vd_convert_part_offset(part, range.offset),
        .to_offset = range.offset,
        .length = vd_min(range.length, vd_range_end(part->range) - range.offset),
        .flags = VD_STORAGE_COPY_REFLINK_ONLY,
    };
    int ret = -EOPNOTSUPP;
    *done = 0;
    if (atomic_load(&part->can_share)) {
        ret = vd_image_copy(&copy, done, err);
        if (ret == -EOPNOTSUPP)
            atomic_store(&part->can_share, false);
    } else if (convert->copies_unread && atomic_load(&part->can_offload)) {
        copy.flags = 0;
        ret = vd_image_copy(&copy, done, err);
        if (ret == -EOPNOTSUPP)
            atomic_store(&part->can_offload, false);
    }
    atomic_fetch_add(&convert->data_bytes, *done);
    atomic_fetch_add(&convert->shared_bytes, *done);
    return ret == -EOPNOTSUPP ? 0 : target_failed(convert, ret, err);
}

/* ---- Pieces of a new overlay (C4) ---- */

/* Writes what differs, in whole grains. */
static int write_changes(struct worker *worker, struct vd_range range, struct vdisk_error *err)
{
    const uint8_t *buf = place_of(worker, range.offset), *behind = worker->behind;
    size_t grain = worker->convert->grain_bytes, length = (size_t)range.length, start = 0, at = 0;
    int ret = 0;
    while (at < length && ret == 0) {
        size_t step = length - at < grain ? length - at : grain;
        bool differs = memcmp(buf + at, behind + at, step) != 0;
        at += step;
        size_t end = differs ? at : at - step; /* of what differs, from start on */
        if (end > start && (!differs || at == length))
            ret = write_data(worker, vd_range(range.offset + start, end - start), err);
        if (!differs)
            start = at;
    }
    return ret;
}

/* Deals with one piece; what is the same by its place is not even read. */
static int copy_changes(struct worker *worker, struct vd_range range, struct vdisk_error *err)
{
    struct convert *convert = worker->convert;
    int ret = 0;
    while (range.length && ret == 0) {
        struct vd_range unknown;
        ret = vd_convert_overlay_find(&convert->overlay, range, &unknown, err);
        if (ret == 0 && unknown.length)
            ret = read_data(convert, place_of(worker, unknown.offset), unknown, err);
        if (ret == 0 && unknown.length)
            ret = target_failed(
                convert, vd_image_read_padded(convert->target.behind, worker->behind, unknown, err),
                err);
        if (ret == 0 && unknown.length)
            ret = write_changes(worker, unknown, err);
        if (ret == 0)
            range = vd_range(vd_range_end(unknown), vd_range_end(range) - vd_range_end(unknown));
    }
    return ret;
}

static int copy_data(struct worker *worker, struct vd_range range, struct vdisk_error *err)
{
    struct convert *convert = worker->convert;
    uint64_t done = 0;
    int ret = vd_job_throttle(&convert->job, range.length, err);
    if (ret == 0 && convert->target.behind && !convert->allocate_all)
        return copy_changes(worker, range, err);
    if (ret == 0 && !convert->compresses && !(convert->options->flags & VDISK_CONVERT_SALVAGE))
        ret = copy_unread(convert, range, &done, err);
    struct vd_range rest = vd_range(range.offset + done, range.length - done);
    if (ret < 0 || !rest.length)
        return ret;
    ret = read_data(convert, place_of(worker, rest.offset), rest, err);
    if (ret == 0)
        ret = write_data(worker, rest, err);
    if (ret == 0 && !worker->lot && convert->target.is_durable)
        vd_image_write_behind(convert->target.image, rest.offset, rest.length);
    return ret;
}

/* With a lot, if one is needed. */
static int begin_piece(struct worker *worker, struct vdisk_error *err)
{
    struct convert *convert = worker->convert;
    if (convert->compresses) {
        worker->lot = vd_convert_line_take(&convert->line);
        if (!worker->lot) {
            int ret = vd_job_advance(&convert->job, (struct vd_job_step){0}, err);
            assert(ret < 0); /* somebody failed, and has said so first */
            return ret;
        }
        worker->buf = worker->lot->buf;
    }
    int ret = vd_convert_cursor_next(&convert->cursor, &worker->piece, err);
    if (ret == 0 && worker->lot)
        worker->lot->piece = worker->piece;
    return ret;
}

static int copy_piece(struct worker *worker, struct vdisk_error *err)
{
    struct convert *convert = worker->convert;
    struct vd_range range = worker->piece.range;
    int ret =
        worker->piece.is_zero ? write_zeros(convert, range, err) : copy_data(worker, range, err);
    if (ret == 0 && worker->lot)
        ret = vd_convert_line_put(&convert->line, worker->lot, write_lot, convert, err);
    return ret;
}

static int copy_pieces(struct worker *worker, struct vdisk_error *err)
{
    const struct vd_convert_piece *piece = &worker->piece;
    for (;;) {
        int ret = begin_piece(worker, err);
        if (ret < 0 || !piece->range.length)
            return ret;
        ret = copy_piece(worker, err);
        if (ret < 0)
            return ret;
        struct vd_job_step step = {
            .done_bytes = piece->range.length,
            .moved_bytes = piece->is_zero ? 0 : piece->range.length,
        };
        ret = vd_job_advance(&worker->convert->job, step, err);
        if (ret < 0)
            return ret;
    }
}

static int prepare_worker(struct worker *worker, struct vdisk_error *err)
{
    struct convert *convert = worker->convert;
    if (convert->compresses)
        return vd_encoder_new(convert->line.codec, convert->options->compression_level,
                              &worker->encoder, err);
    worker->buf = vd_alloc_io(VD_CONVERT_PIECE_BYTES);
    return worker->buf ? 0 : vd_err_nomem(err, "a copy buffer");
}

static int work(void *opaque, unsigned index, struct vdisk_error *err)
{
    (void)index;
    struct convert *convert = opaque;
    struct worker worker = {.convert = convert};
    int ret = prepare_worker(&worker, err);
    if (ret == 0 && convert->target.behind) {
        worker.behind = vd_alloc_io(VD_CONVERT_PIECE_BYTES);
        ret = worker.behind ? 0 : vd_err_nomem(err, "a copy buffer");
    }
    if (ret == 0)
        ret = copy_pieces(&worker, err);
    if (!convert->compresses)
        free(worker.buf);
    free(worker.behind);
    vd_encoder_free(worker.encoder);
    if (ret == 0)
        return 0;
    ret = vd_job_fail(&convert->job, err);
    if (convert->compresses)
        vd_convert_line_stop(&convert->line);
    return ret;
}

/* ---- The whole ---- */

/* Is @source the very file that is to be written? */
static int check_same_file(const struct vdisk_convert_options *options, const char *source,
                           struct vdisk_error *err)
{
    if (!vd_storage_identity_equals(vd_storage_identify(source),
                                    vd_storage_identify(options->target)))
        return 0;
    return vd_err_set(err, EINVAL, "%s: source and target are the same file (%s)", source,
                      options->target);
}

static int check_options(const struct vdisk_convert_options *options, bool has_source,
                         struct vdisk_error *err)
{
    const uint32_t flags_all = VDISK_CONVERT_NO_CREATE | VDISK_CONVERT_TARGET_IS_ZERO |
                               VDISK_CONVERT_ALLOCATE_ALL | VDISK_CONVERT_SALVAGE |
                               VDISK_CONVERT_COPY_OFFLOAD | VDISK_CONVERT_COMPRESS |
                               VDISK_CONVERT_BITMAPS | VDISK_CONVERT_SKIP_BROKEN_BITMAPS;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "convert options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags & ~flags_all)
        return vd_err_set(err, EINVAL, "convert options: unknown flags 0x%" PRIx32,
                          options->flags & ~flags_all);
    if ((options->flags & VDISK_CONVERT_TARGET_IS_ZERO) &&
        !(options->flags & VDISK_CONVERT_NO_CREATE))
        return vd_err_set(err, EINVAL,
                          "convert options: a target can only be known to be zero when it is not "
                          "created");
    if ((options->flags & VDISK_CONVERT_NO_CREATE) && options->create)
        return vd_err_set(err, EINVAL,
                          "convert options: create options for a target that is not created");
    if ((options->flags & VDISK_CONVERT_SALVAGE) && (options->flags & VDISK_CONVERT_COPY_OFFLOAD))
        return vd_err_set(err, EINVAL,
                          "convert options: salvaging needs to read, and does not go with copy "
                          "offload");
    if ((options->flags & VDISK_CONVERT_COMPRESS) && (options->flags & VDISK_CONVERT_COPY_OFFLOAD))
        return vd_err_set(err, EINVAL,
                          "convert options: compressing needs to read, and does not go with copy "
                          "offload");
    if (options->compression_level > LEVEL_MAX ||
        (options->compression_level && !(options->flags & VDISK_CONVERT_COMPRESS)))
        return vd_err_set(err, EINVAL,
                          "convert options: compression_level is %" PRIu32
                          ": at most %u, and only with VDISK_CONVERT_COMPRESS",
                          options->compression_level, LEVEL_MAX);
    if ((options->flags & VDISK_CONVERT_SKIP_BROKEN_BITMAPS) &&
        !(options->flags & VDISK_CONVERT_BITMAPS))
        return vd_err_set(err, EINVAL,
                          "convert options: broken bitmaps can be left out only where bitmaps are "
                          "copied");
    if (options->sparse_bytes % 512 || options->sparse_bytes > VD_CONVERT_PIECE_BYTES)
        return vd_err_set(err, EINVAL,
                          "convert options: sparse_bytes is %" PRIu64
                          ": must be a multiple of 512, at most %u",
                          options->sparse_bytes, VD_CONVERT_PIECE_BYTES);
    if (!options->source_entries == !has_source || !options->target)
        return vd_err_set(err, EINVAL, "convert options: a source and a target are needed");
    if (options->source_entries > 1 && (options->source_offset || options->source_length))
        return vd_err_set(err, EINVAL,
                          "convert options: a part of the source can be chosen only if there is "
                          "one");
    if (options->source_flags & (VDISK_OPEN_WRITE | VDISK_OPEN_CHECK))
        return vd_err_set(err, EINVAL, "convert options: sources are only read");
    if (options->target_flags & (VDISK_OPEN_SHARE | VDISK_OPEN_CHECK))
        return vd_err_set(err, EINVAL, "convert options: the target is not shared");
    return 0;
}

/* Sizes that depend on the target. */
static int prepare(struct convert *convert, struct vdisk_error *err)
{
    const struct vdisk_convert_options *options = convert->options;
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(convert->target.image), &info, err);
    if (ret < 0)
        return ret;
    size_t sparse = options->sparse_bytes ? (size_t)options->sparse_bytes : GRAIN_BYTES;
    size_t cluster = vd_min(info.cluster_bytes ? info.cluster_bytes : 1, VD_CONVERT_PIECE_BYTES);
    convert->grain_bytes = cluster > 1 ? cluster : vd_min(sparse, GRAIN_BYTES);
    convert->sparse_bytes = vd_max(sparse, convert->grain_bytes);
    convert->allocate_all = (options->flags & VDISK_CONVERT_ALLOCATE_ALL) != 0;
    convert->compresses = (options->flags & VDISK_CONVERT_COMPRESS) != 0;
    convert->copies_unread =
        convert->allocate_all || (options->flags & VDISK_CONVERT_COPY_OFFLOAD) != 0;
    convert->cursor.source = &convert->source;
    convert->cursor.unit_bytes = vd_max(cluster, GRAIN_BYTES);
    convert->cursor.zero_bytes_max =
        convert->target.reads_zero && !convert->allocate_all ? SKIP_BYTES_MAX : ZERO_BYTES_MAX;
    convert->cursor.salvages = (options->flags & VDISK_CONVERT_SALVAGE) != 0;
    convert->overlay = (struct vd_convert_overlay){.source = &convert->source,
                                                   .behind = convert->target.behind,
                                                   .grain_bytes = convert->grain_bytes,
                                                   .salvages = convert->cursor.salvages};
    return 0;
}

/*
 * Cached writes to one file take turns in the kernel.  When nobody waits for the device either, two
 * workers keep it busy, one writing while the other reads; more would only stand in the way.
 */
static unsigned choose_workers(const struct convert *convert)
{
    const struct vdisk_convert_options *options = convert->options;
    unsigned workers = vd_job_workers(options->workers);
    bool is_cached =
        !convert->compresses && (options->target_flags & (VDISK_OPEN_UNSAFE | VDISK_OPEN_DIRECT |
                                                          VDISK_OPEN_SYNC)) == VDISK_OPEN_UNSAFE;
    for (size_t i = 0; i < options->source_entries; i++)
        is_cached = is_cached && vd_storage_name_is_local(options->sources[i]);
    return options->workers || !is_cached ? workers : (unsigned)vd_min(workers, 2);
}

static const struct vd_storage *file_of(struct vdisk_image *image)
{
    return vd_format_file(vd_image_format(image));
}

/* A source would lose what is behind it if that were replaced; or one that is open, itself. */
static int check_not_behind(const struct convert *convert, struct vdisk_error *err)
{
    const char *target = convert->options->target;
    struct vd_storage_identity identity = vd_storage_identify(target);
    for (size_t i = 0; i < convert->source.part_entries; i++) {
        struct vdisk_image *top = convert->source.parts[i].image;
        for (struct vdisk_image *image = top; image; image = vdisk_image_backing(image))
            if (vd_storage_identity_equals(vd_storage_identity(file_of(image)), identity))
                return vd_err_set(err, EINVAL, "%s: is %s of the source '%s'", target,
                                  image == top ? "the file" : "a backing file",
                                  vd_storage_name(file_of(top)));
    }
    return 0;
}

/* A new overlay that is longer than the sources shows zeros there, not what is behind it. */
static int clear_tail(struct convert *convert, struct vdisk_error *err)
{
    uint64_t from = convert->source.size, size = vdisk_image_size(convert->target.image);
    return size > from ? write_zeros(convert, vd_range(from, size - from), err) : 0;
}

static int copy(struct convert *convert, unsigned workers, struct vdisk_error *err)
{
    int ret = 0;
    if (!convert->compresses)
        return vd_workers_run(workers, work, convert, err);
    convert->line.keeps_zeros = convert->allocate_all;
    ret = vd_convert_line_init(&convert->line, convert->target.image, workers, err);
    if (ret == 0)
        ret = vd_workers_run(workers, work, convert, err);
    vd_convert_line_destroy(&convert->line);
    return ret;
}

static int run(struct convert *convert, struct vdisk_error *err)
{
    const struct vdisk_convert_options *options = convert->options;
    for (size_t i = 0; i < options->source_entries; i++) {
        int ret = check_same_file(options, options->sources[i], err);
        if (ret < 0)
            return ret;
    }
    int ret = convert->given ? vd_convert_source_borrow(&convert->source, convert->given, err)
                             : vd_convert_source_open(&convert->source, options, err);
    if (ret == 0)
        ret = check_not_behind(convert, err);
    if (ret == 0)
        ret = target_failed(
            convert, vd_convert_target_open(&convert->target, options, convert->source.size, err),
            err);
    if (ret == 0)
        ret = prepare(convert, err);
    if (ret == 0 && (options->flags & VDISK_CONVERT_BITMAPS))
        ret = vd_convert_bitmaps_add(&convert->bitmaps, options, &convert->source,
                                     convert->target.image, err);
    if (ret == 0)
        ret = vd_job_phase(&convert->job, "copy", convert->source.size, 0, err);
    if (ret == 0)
        ret = copy(convert, choose_workers(convert), err);
    if (ret == 0 && convert->target.behind)
        ret = clear_tail(convert, err);
    if (ret == 0)
        ret = vd_convert_bitmaps_enable(&convert->bitmaps, convert->target.image, err);
    if (ret == 0)
        ret = target_failed(convert, vd_convert_target_finish(&convert->target, err), err);
    if (ret == 0)
        (void)vd_job_finish(&convert->job, NULL); /* too late to cancel: it is done */
    return ret;
}

/* @given: the source, or NULL: as the options say. */
static int convert_from(struct vdisk_image *given, const struct vdisk_convert_options *options,
                        struct vdisk_convert_result *result, struct vdisk_error *err)
{
    int ret = check_options(options, given != NULL, err);
    if (ret == 0 && result && result->struct_bytes != sizeof(*result))
        ret = vd_err_set(err, EINVAL, "convert result: struct_bytes is %zu, this library wants %zu",
                         result->struct_bytes, sizeof(*result));
    if (ret < 0)
        return ret;

    struct convert convert = {.options = options, .given = given};
    vd_job_init(&convert.job, options->progress, options->opaque, options->rate_bytes);
    vd_convert_cursor_init(&convert.cursor);
    vd_mutex_init(&convert.report_lock);
    ret = run(&convert, err);
    if (result)
        *result = (struct vdisk_convert_result){
            .struct_bytes = sizeof(*result),
            .virtual_bytes = convert.source.size,
            .data_bytes = atomic_load(&convert.data_bytes),
            .shared_bytes = atomic_load(&convert.shared_bytes),
            .compressed_bytes = atomic_load(&convert.compressed_bytes),
            .salvaged_bytes = atomic_load(&convert.salvaged_bytes),
        };
    vd_convert_bitmaps_free(&convert.bitmaps);
    vd_convert_target_abandon(&convert.target);
    vd_convert_source_close(&convert.source);
    vd_mutex_destroy(&convert.report_lock);
    vd_convert_cursor_destroy(&convert.cursor);
    vd_job_destroy(&convert.job);
    return ret;
}

int vdisk_convert(const struct vdisk_convert_options *options, struct vdisk_convert_result *result,
                  struct vdisk_error *err)
{
    return convert_from(NULL, options, result, err);
}

int vd_convert_image(struct vdisk_image *source, const struct vdisk_convert_options *options,
                     struct vdisk_convert_result *result, struct vdisk_error *err)
{
    assert(!(options->flags & VDISK_CONVERT_BITMAPS));
    return convert_from(source, options, result, err);
}
