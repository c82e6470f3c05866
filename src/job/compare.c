/* SPDX-License-Identifier: MIT */
/*
 * vdisk_compare(): have two disks the same content?
 *
 * E1  What ends a comparison (a difference, unless all are wanted; a failure to look or read) is an
 *     event at an offset.  The lowest one counts: no piece before it is left out, and none behind
 *     it is begun, so the answer does not depend on which worker is faster.
 * E2  Differences are told in the order of the pieces, by the turns of the job.
 */
#include <inttypes.h>
#include <string.h>

#include "job/compare.h"
#include "job/compare_cursor.h"
#include "job/job.h"
#include "util/iov.h"
#include "util/mem.h"
#include "util/workers.h"

#define UNIT_BYTES 512u /* offsets of differences are rounded down to it */
#define RANGES_MAX (VD_COMPARE_PIECE_BYTES / UNIT_BYTES / 2 + 1)
#define STEP_BYTES (256u << 10) /* read and compared at once: both buffers stay in the cache */

struct compare {
    const struct vdisk_compare_options *options;
    struct vd_job job;
    struct vd_compare_cursor cursor;
    struct vdisk_image *images[2];
    size_t step_bytes; /* of a piece, read and compared at once */

    struct vd_mutex lock;
    /* Under lock: */
    uint64_t limit; /* E1: offset of the lowest event */
    enum vdisk_compare_outcome outcome;
    enum vdisk_compare_step failed_step;
    struct vdisk_error failure; /* code 0: the event is no failure */

    /* Only touched by who has the turn (E2): */
    struct vd_range pending; /* found, but the next may follow right behind it */
    uint64_t first_different;
    uint64_t different_bytes;
};

/* What one worker works with. */
struct bench {
    uint8_t *buffers[2];
    struct vd_range *ranges; /* differences in the piece */
    size_t range_entries;
};

/* ---- Events (E1) ---- */

struct event {
    uint64_t offset;
    enum vdisk_compare_outcome outcome;
    enum vdisk_compare_step step;
    const struct vdisk_error *failure; /* or NULL */
};

static void happen(struct compare *compare, struct event event)
{
    vd_mutex_lock(&compare->lock);
    if (event.offset < compare->limit) {
        compare->limit = event.offset;
        compare->outcome = event.outcome;
        compare->failed_step = event.step;
        compare->failure = event.failure ? *event.failure : (struct vdisk_error){0};
    }
    vd_mutex_unlock(&compare->lock);
}

static uint64_t limit_of(struct compare *compare)
{
    vd_mutex_lock(&compare->lock);
    uint64_t limit = compare->limit;
    vd_mutex_unlock(&compare->lock);
    return limit;
}

/* ---- Pieces ---- */

static bool unit_differs(const struct bench *bench, const struct vd_compare_piece *piece, size_t at,
                         size_t length)
{
    if (piece->is_zero[0])
        return !vd_buffer_is_zero(bench->buffers[1] + at, length);
    if (piece->is_zero[1])
        return !vd_buffer_is_zero(bench->buffers[0] + at, length);
    return memcmp(bench->buffers[0] + at, bench->buffers[1] + at, length) != 0;
}

/* Finds what differs in [@at, @at + @length) of the piece, in whole units. */
static void find_differences(struct bench *bench, const struct vd_compare_piece *piece, size_t at,
                             size_t length)
{
    if (!unit_differs(bench, piece, at, length))
        return;
    for (size_t end = at + length; at < end; at += UNIT_BYTES) {
        size_t step = end - at < UNIT_BYTES ? end - at : UNIT_BYTES;
        if (!unit_differs(bench, piece, at, step))
            continue;
        uint64_t offset = piece->range.offset + at;
        struct vd_range *last =
            bench->range_entries ? &bench->ranges[bench->range_entries - 1] : NULL;
        if (last && vd_range_end(*last) == offset) {
            last->length += step;
        } else {
            assert(bench->range_entries < RANGES_MAX);
            bench->ranges[bench->range_entries++] = vd_range(offset, step);
        }
    }
}

/* Reads a part of both disks; what lies past the end of one is zero. */
static int read_both(struct compare *compare, const struct bench *bench,
                     const struct vd_compare_piece *piece, size_t at, size_t length,
                     struct vdisk_error *err)
{
    for (int i = 0; i < 2; i++) {
        if (piece->is_zero[i])
            continue;
        uint64_t offset = piece->range.offset + at;
        uint64_t size = compare->cursor.sizes[i];
        size_t there = offset < size ? (size_t)vd_min(length, size - offset) : 0;
        if (there < length)
            memset(bench->buffers[i] + at + there, 0, length - there);
        if (!there)
            continue;
        int ret = vdisk_image_pread(compare->images[i], bench->buffers[i] + at, there, offset, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* A read fails somewhere in the piece: what is the first unit that can not be read or differs? */
static void read_by_units(struct compare *compare, struct bench *bench,
                          const struct vd_compare_piece *piece)
{
    for (size_t at = 0; at < piece->range.length; at += UNIT_BYTES) {
        struct vdisk_error failure = {0};
        size_t step = (size_t)vd_min(UNIT_BYTES, piece->range.length - at);
        if (read_both(compare, bench, piece, at, step, &failure) < 0) {
            happen(compare, (struct event){.offset = piece->range.offset + at,
                                           .step = VDISK_COMPARE_READING,
                                           .failure = &failure});
            return;
        }
        find_differences(bench, piece, at, step);
        if (bench->range_entries && !compare->options->difference)
            return;
    }
}

static void compare_piece(struct compare *compare, struct bench *bench,
                          const struct vd_compare_piece *piece)
{
    size_t length = (size_t)piece->range.length;
    bench->range_entries = 0;
    for (size_t at = 0; at < length; at += compare->step_bytes) {
        size_t step = (size_t)vd_min(compare->step_bytes, length - at);
        if (read_both(compare, bench, piece, at, step, NULL) < 0) {
            bench->range_entries = 0;
            read_by_units(compare, bench, piece);
            break;
        }
        find_differences(bench, piece, at, step);
        if (bench->range_entries && !compare->options->difference)
            break;
    }
    if (bench->range_entries && !compare->options->difference)
        happen(compare,
               (struct event){.offset = bench->ranges[0].offset, .outcome = VDISK_COMPARE_CONTENT});
}

/* ---- Telling differences (E2) ---- */

static int tell_pending(struct compare *compare, struct vdisk_error *err)
{
    struct vd_range range = compare->pending;
    if (!range.length)
        return 0;
    compare->pending.length = 0;
    if (!compare->different_bytes)
        compare->first_different = range.offset;
    compare->different_bytes += range.length;
    if (compare->options->difference(compare->options->opaque, range.offset, range.length) != 0)
        return vd_err_set(err, ECANCELED, "canceled");
    return 0;
}

static int tell(struct compare *compare, const struct bench *bench, struct vdisk_error *err)
{
    uint64_t limit = limit_of(compare);
    for (size_t i = 0; i < bench->range_entries; i++) {
        struct vd_range range = bench->ranges[i];
        if (range.offset >= limit)
            break;
        if (compare->pending.length && vd_range_end(compare->pending) == range.offset) {
            compare->pending.length += range.length;
            continue;
        }
        int ret = tell_pending(compare, err);
        if (ret < 0)
            return ret;
        compare->pending = range;
    }
    return 0;
}

static int take_turn(struct compare *compare, const struct bench *bench,
                     const struct vd_compare_piece *piece, struct vdisk_error *err)
{
    if (!compare->options->difference)
        return 0;
    int ret = vd_job_turn_wait(&compare->job, piece->number, err);
    if (ret < 0)
        return ret;
    ret = tell(compare, bench, err);
    vd_job_turn_done(&compare->job);
    return ret;
}

/* ---- Workers ---- */

/* Returns 1 for a piece, 0 when there is none, or -ECANCELED. */
static int next_piece(struct compare *compare, struct vd_compare_piece *piece,
                      struct vdisk_error *err)
{
    struct vdisk_error failure = {0};
    uint64_t offset;
    int ret = vd_compare_cursor_next(&compare->cursor, limit_of(compare), piece, &offset, &failure);
    if (ret < 0)
        happen(compare, (struct event){
                            .offset = offset, .step = VDISK_COMPARE_LOOKING, .failure = &failure});
    else if (ret == VD_COMPARE_NEXT_STATUS)
        happen(compare, (struct event){.offset = offset, .outcome = VDISK_COMPARE_STATUS});
    struct vd_job_step step = {.done_bytes = piece->passed_bytes};
    int advanced = vd_job_advance(&compare->job, step, err);
    return advanced < 0 ? advanced : ret == VD_COMPARE_NEXT_PIECE;
}

static int compare_pieces(struct compare *compare, struct bench *bench, struct vdisk_error *err)
{
    struct vd_compare_piece piece;
    int ret;
    while ((ret = next_piece(compare, &piece, err)) > 0) {
        compare_piece(compare, bench, &piece);
        ret = take_turn(compare, bench, &piece, err);
        struct vd_job_step step = {.done_bytes = piece.range.length,
                                   .moved_bytes = piece.range.length};
        if (ret == 0)
            ret = vd_job_advance(&compare->job, step, err);
        if (ret < 0)
            return ret;
    }
    return ret;
}

static int work(void *opaque, unsigned index, struct vdisk_error *err)
{
    (void)index;
    struct compare *compare = opaque;
    CLEANUP_FREE uint8_t *first = vd_alloc_io(VD_COMPARE_PIECE_BYTES);
    CLEANUP_FREE uint8_t *second = vd_alloc_io(VD_COMPARE_PIECE_BYTES);
    CLEANUP_FREE struct vd_range *ranges = vd_alloc_array(RANGES_MAX, sizeof(*ranges));
    struct bench bench = {.buffers = {first, second}, .ranges = ranges};
    int ret = first && second && ranges ? compare_pieces(compare, &bench, err)
                                        : vd_err_nomem(err, "buffers to compare");
    return ret < 0 ? vd_job_fail(&compare->job, err) : 0;
}

/* ---- The whole ---- */

static int check_options(const struct vdisk_compare_options *options,
                         const struct vdisk_compare_result *result, struct vdisk_error *err)
{
    if (result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL,
                          "compare result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "compare options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags & ~(uint32_t)VDISK_COMPARE_STRICT)
        return vd_err_set(err, EINVAL, "compare options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)VDISK_COMPARE_STRICT);
    if (options->flags && options->difference)
        return vd_err_set(
            err, EINVAL,
            "compare options: differences are listed by content only, not when strict");
    if (options->open_flags & (VDISK_OPEN_WRITE | VDISK_OPEN_CHECK))
        return vd_err_set(err, EINVAL, "compare options: images are only read");
    return 0;
}

static int open_images(const struct vdisk_compare_options *options, struct vdisk_image **images,
                       struct vdisk_error *err)
{
    if (!options->names[0] || !options->names[1])
        return vd_err_set(err, EINVAL, "compare options: two names are needed");
    for (int i = 0; i < 2; i++) {
        struct vdisk_open_options open = {
            .struct_bytes = sizeof(open),
            .flags = options->open_flags,
            .format = options->formats[i],
            .network = options->network,
            .passphrases = options->passphrases,
            .gate = options->gate,
        };
        int ret = vdisk_image_open(options->names[i], &open, &images[i], err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static void take_images(struct compare *compare, struct vdisk_image *const images[2])
{
    for (int i = 0; i < 2; i++) {
        compare->images[i] = images[i];
        compare->cursor.images[i] = images[i];
        compare->cursor.sizes[i] = vdisk_image_size(compare->images[i]);
        const struct vd_storage *file = vd_format_file(vd_image_format(compare->images[i]));
        if (vd_storage_caps(file) & VD_STORAGE_IS_REMOTE)
            compare->step_bytes = VD_COMPARE_PIECE_BYTES;
    }
    compare->failed_step = VDISK_COMPARE_READING; /* what is left to fail, unless an event says */
}

static int run(struct compare *compare, struct vdisk_error *err)
{
    const uint64_t *sizes = compare->cursor.sizes;
    compare->cursor.strict = (compare->options->flags & VDISK_COMPARE_STRICT) != 0;
    if (compare->cursor.strict && sizes[0] != sizes[1]) {
        compare->outcome = VDISK_COMPARE_SIZE;
        return 0;
    }
    compare->limit = vd_max(sizes[0], sizes[1]);
    int ret = vd_job_phase(&compare->job, "compare", compare->limit, 0, err);
    if (ret == 0)
        ret = vd_workers_run(vd_job_workers(compare->options->workers), work, compare, err);
    if (ret == 0)
        ret = tell_pending(compare, err);
    if (ret == 0 && compare->failure.code)
        ret = vd_err_copy(err, &compare->failure);
    if (ret == 0)
        (void)vd_job_finish(&compare->job, NULL); /* too late to cancel: the answer is known */
    return ret;
}

static void fill_result(const struct compare *compare, struct vdisk_compare_result *result)
{
    *result = (struct vdisk_compare_result){
        .struct_bytes = sizeof(*result),
        .outcome = compare->outcome,
        .failed_step = compare->failed_step,
        .different_bytes = compare->different_bytes,
        .virtual_bytes = {compare->cursor.sizes[0], compare->cursor.sizes[1]},
    };
    if (compare->different_bytes) {
        result->outcome = VDISK_COMPARE_CONTENT;
        result->offset = compare->first_different;
    } else if (result->outcome == VDISK_COMPARE_CONTENT ||
               result->outcome == VDISK_COMPARE_STATUS) {
        result->offset = compare->limit;
    }
}

/* The options have been checked. */
static int compare_open(struct vdisk_image *const images[2],
                        const struct vdisk_compare_options *options,
                        struct vdisk_compare_result *result, struct vdisk_error *err)
{
    struct compare compare = {.options = options, .step_bytes = STEP_BYTES};
    vd_job_init(&compare.job, options->progress, options->opaque, 0);
    vd_compare_cursor_init(&compare.cursor);
    vd_mutex_init(&compare.lock);
    take_images(&compare, images);
    int ret = run(&compare, err);
    fill_result(&compare, result);
    vd_mutex_destroy(&compare.lock);
    vd_compare_cursor_destroy(&compare.cursor);
    vd_job_destroy(&compare.job);
    return ret;
}

int vd_compare_images(struct vdisk_image *const images[2],
                      const struct vdisk_compare_options *options,
                      struct vdisk_compare_result *result, struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    return ret < 0 ? ret : compare_open(images, options, result, err);
}

int vdisk_compare(const struct vdisk_compare_options *options, struct vdisk_compare_result *result,
                  struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    if (ret < 0)
        return ret;
    struct vdisk_image *images[2] = {NULL, NULL};
    *result = (struct vdisk_compare_result){.struct_bytes = sizeof(*result),
                                            .failed_step = VDISK_COMPARE_OPENING};
    ret = open_images(options, images, err);
    if (ret == 0)
        ret = compare_open(images, options, result, err);
    for (int i = 0; i < 2; i++)
        vdisk_image_close(images[i], NULL); /* read-only: nothing to lose */
    return ret;
}
