/* SPDX-License-Identifier: MIT */
/*
 * The rules by which the engine of job/merge.h copies what is wanted of a disk.
 *
 * Everything is done in whole units, which are the clusters of the target: what is not wanted of a
 * unit comes from the target itself.
 */
#include "backup/copy.h"

#include <string.h>

#include "backup/copy_units.h"
#include "util/iov.h"
#include "util/mem.h"

/* Of formats that have no clusters. */
#define UNIT_BYTES     4096u

#define LOOK_BYTES_MAX (1ull << 30) /* asked at once, where nothing is written */

/* ---- What has to be done where ---- */

/* The first run of bytes of @range that are wanted, or are not; length 0: there is none. */
static struct vd_range next_run(const struct vd_copy *copy, struct vd_range range, bool is_wanted)
{
    if (copy->wanted)
        return vd_bitmap_next(copy->wanted, range, is_wanted);
    return is_wanted ? range : vd_range(range.offset, 0);
}

static uint64_t weigh(const struct vd_merge *merge, struct vd_range range)
{
    const struct vd_copy_state *state = merge->opaque;
    uint64_t bytes = 0, end = vd_range_end(range);
    while (range.offset < end) {
        struct vd_range run =
            next_run(state->copy, vd_range(range.offset, end - range.offset), true);
        if (!run.length)
            break;
        bytes += run.length;
        range.offset = vd_range_end(run);
    }
    atomic_fetch_add(&state->copy->looked_bytes, bytes);
    return bytes;
}

/*
 * @range begins with a unit that is zero in the source as far as @zero_bytes tell: is that enough
 * to leave it unread?
 */
static bool is_zero_piece(const struct vd_copy_state *state, struct vd_range range,
                          uint64_t zero_bytes, uint64_t *length)
{
    uint64_t size = vdisk_image_size(state->copy->target);
    struct vd_range run = next_run(state->copy, vd_range(range.offset, zero_bytes), false);
    uint64_t wanted = run.length ? run.offset - range.offset : zero_bytes;
    if (range.offset + wanted < size)
        wanted = vd_round_down(wanted, state->unit_bytes);
    *length = wanted;
    return wanted > 0;
}

/*
 * Zeros of the source, *length of them in whole units.  K3: those that the target may show already
 * have to be looked for in what it has.
 */
static int choose_zero(const struct vd_copy_state *state, struct vd_range range,
                       enum vd_merge_kind *kind, uint64_t *length, struct vdisk_error *err)
{
    uint64_t zeros = *length, known;
    bool is_zero;
    *kind = VD_MERGE_ZERO;
    if (!state->copy->compares)
        return 0;
    int ret = vd_image_known_zero(state->copy->target, vd_range(range.offset, zeros), &known,
                                  &is_zero, err);
    if (ret < 0)
        return ret;
    if (known < zeros && is_zero)
        known = vd_round_down(known, state->unit_bytes);
    if (!is_zero || !known)
        *kind = VD_MERGE_READ;
    *length = vd_min(zeros, vd_max(vd_round_up(known, state->unit_bytes), state->unit_bytes));
    return 0;
}

static int look(const struct vd_merge *merge, struct vd_range range, enum vd_merge_kind *kind,
                uint64_t *length, struct vdisk_error *err)
{
    const struct vd_copy_state *state = merge->opaque;
    const struct vd_copy *copy = state->copy;
    struct vd_range run = next_run(copy, range, true);
    *kind = VD_MERGE_LEAVE;
    *length = range.length;
    if (!run.length)
        return 0;
    uint64_t first = vd_round_down(run.offset, state->unit_bytes);
    if (first > range.offset) {
        *length = first - range.offset;
        return 0;
    }
    struct vdisk_extent extent;
    uint64_t end = vd_min(vd_range_end(range), vd_round_up(vd_range_end(run), state->unit_bytes));
    int ret = vdisk_image_extent(copy->source, range.offset, end - range.offset, &extent, err);
    if (ret < 0)
        return ret;
    if ((extent.flags & VDISK_EXTENT_ZERO) && is_zero_piece(state, range, extent.length, length))
        return choose_zero(state, range, kind, length, err);
    *kind = VD_MERGE_READ;
    uint64_t data = extent.flags & VDISK_EXTENT_ZERO ? 1 : extent.length;
    uint64_t to = vd_min(range.offset + data, vd_range_end(run));
    *length = vd_min(vd_round_up(to, state->unit_bytes), end) - range.offset;
    return 0;
}

/* ---- Doing it ---- */

/* What the formats know to be zero in the target stays. */
int vd_copy_zero(struct vd_merge *merge, struct vd_range rest, struct vdisk_error *err)
{
    while (rest.length) {
        uint64_t length;
        bool is_zero;
        int ret = vd_image_known_zero(merge->target, rest, &length, &is_zero, err);
        if (ret == 0 && !is_zero)
            ret = vd_merge_zero(merge, vd_range(rest.offset, length), err);
        if (ret < 0)
            return ret;
        rest = vd_range(rest.offset + length, rest.length - length);
    }
    return 0;
}

static int read_data(struct vd_copy *copy, uint8_t *buf, struct vd_range range,
                     struct vdisk_error *err)
{
    atomic_fetch_add(&copy->read_bytes, range.length);
    return vdisk_image_pread(copy->source, buf, (size_t)range.length, range.offset, err);
}

/* Reads of the source only what is not known to be zero. */
static int read_unknown(struct vd_copy *copy, uint8_t *buf, struct vd_range rest,
                        struct vdisk_error *err)
{
    while (rest.length) {
        struct vdisk_extent extent;
        int ret = vdisk_image_extent(copy->source, rest.offset, rest.length, &extent, err);
        if (ret < 0)
            return ret;
        if (extent.flags & VDISK_EXTENT_ZERO)
            memset(buf, 0, (size_t)extent.length);
        else
            ret = read_data(copy, buf, vd_range(rest.offset, extent.length), err);
        if (ret < 0)
            return ret;
        buf += extent.length;
        rest = vd_range(rest.offset + extent.length, rest.length - extent.length);
    }
    return 0;
}

/* The content that @range is to have. */
static int read_piece(struct vd_copy *copy, uint8_t *buf, struct vd_range range,
                      struct vdisk_error *err)
{
    uint64_t end = vd_range_end(range);
    for (uint64_t at = range.offset; at < end;) {
        struct vd_range wanted = next_run(copy, vd_range(at, end - at), true);
        uint64_t from = wanted.length ? wanted.offset : end;
        /* Pieces of nothing but wanted data have been asked for by look(), once is enough. */
        if (wanted.length == range.length && !copy->compares)
            return read_data(copy, buf, range, err);
        int ret = 0;
        if (from > at)
            ret = vdisk_image_pread(copy->target, buf + (at - range.offset), (size_t)(from - at),
                                    at, err);
        if (ret == 0 && wanted.length)
            ret = read_unknown(copy, buf + (from - range.offset), wanted, err);
        if (ret < 0)
            return ret;
        at = wanted.length ? vd_range_end(wanted) : end;
    }
    return 0;
}

/* The kinds of a merge, where READ is to write what was read. */
static enum vd_merge_kind unit_kind(const uint8_t *bytes, const uint8_t *old, size_t length)
{
    if (old && memcmp(bytes, old, length) == 0)
        return VD_MERGE_LEAVE;
    return vd_buffer_is_zero(bytes, length) ? VD_MERGE_ZERO : VD_MERGE_READ;
}

static int write_run(struct vd_merge *merge, enum vd_merge_kind kind, struct vd_range run,
                     uint8_t *bytes, unsigned worker, struct vdisk_error *err)
{
    const struct vd_copy_state *state = merge->opaque;
    if (!run.length || kind == VD_MERGE_LEAVE)
        return 0;
    if (kind == VD_MERGE_ZERO)
        return vd_copy_zero(merge, run, err);
    if (state->copy->compresses)
        return vd_copy_write_encoded(merge, &state->encoders[worker], run, bytes, err);
    return vd_merge_write(merge, bytes, run, err);
}

static int copy_piece(struct vd_merge *merge, struct vd_range range,
                      const struct vd_merge_buffers *buffers, struct vdisk_error *err)
{
    const struct vd_copy_state *state = merge->opaque;
    struct vd_copy *copy = state->copy;
    uint8_t *bytes = buffers->bytes[0];
    const uint8_t *old = copy->compares ? buffers->bytes[1] : NULL;
    size_t length = (size_t)range.length, start = 0;
    int ret = read_piece(copy, bytes, range, err);
    if (ret == 0 && old)
        ret = vdisk_image_pread(copy->target, buffers->bytes[1], length, range.offset, err);
    enum vd_merge_kind kind = VD_MERGE_LEAVE;
    for (size_t at = 0; ret == 0 && at < length;) {
        size_t step = (size_t)vd_min(state->unit_bytes, length - at);
        enum vd_merge_kind next = unit_kind(bytes + at, old ? old + at : NULL, step);
        if (next != kind) {
            ret = write_run(merge, kind, vd_range(range.offset + start, at - start), bytes + start,
                            buffers->worker, err);
            kind = next;
            start = at;
        }
        at += step;
    }
    return ret < 0 ? ret
                   : write_run(merge, kind, vd_range(range.offset + start, length - start),
                               bytes + start, buffers->worker, err);
}

/* ---- The whole ---- */

static int run(struct vd_copy_state *state, struct vdisk_error *err)
{
    static const struct vd_merge_rules rules = {
        .look = look, .copy = copy_piece, .zero = vd_copy_zero, .weigh = weigh};
    struct vd_copy *copy = state->copy;
    struct vd_merge merge = {.rules = &rules,
                             .opaque = state,
                             .job = copy->job,
                             .target = copy->target,
                             .start = copy->range.offset,
                             .size = vd_range_end(copy->range),
                             .is_durable = true};
    vd_merge_init(&merge);
    int ret = vd_merge_work(&merge, state->workers, err);
    atomic_fetch_add(&copy->data_bytes, atomic_load(&merge.data_bytes));
    atomic_fetch_add(&copy->zero_bytes, atomic_load(&merge.zero_bytes));
    vd_merge_destroy(&merge);
    return ret;
}

static int check_disks(const struct vd_copy *copy, const struct vd_copy_state *state,
                       struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(copy->target);
    const char *name = vd_storage_name(vd_format_file(vd_image_format(copy->target)));
    if (vdisk_image_size(copy->source) != size ||
        (copy->wanted && vd_bitmap_disk_bytes(copy->wanted) != size))
        return vd_err_set(err, EINVAL, "%s: its disk has another size than the one that is copied",
                          name);
    uint64_t end = vd_range_end(copy->range);
    if (!vd_range_is_within(copy->range, size) ||
        !vd_is_aligned(copy->range.offset, state->unit_bytes) ||
        (end < size && !vd_is_aligned(end, state->unit_bytes)))
        return vd_err_set(err, EINVAL, "%s: what is copied is no whole clusters of its disk", name);
    return 0;
}

int vd_copy_run(struct vd_copy *copy, struct vdisk_error *err)
{
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(copy->target), &info, err);
    if (ret < 0)
        return ret;
    struct vd_copy_state state = {
        .copy = copy,
        .workers = vd_job_workers(copy->workers),
        .unit_bytes =
            vd_min(info.cluster_bytes ? info.cluster_bytes : UNIT_BYTES, VD_MERGE_PIECE_BYTES),
    };
    ret = check_disks(copy, &state, err);
    if (ret == 0 && copy->compresses)
        ret = vd_copy_encoders_new(&state, &info, err);
    if (ret == 0)
        ret = run(&state, err);
    vd_copy_encoders_free(&state);
    return ret;
}

/* ---- Zeros that nothing tells of ---- */

/* Adds to @wanted what of @zeros the @before, which may be shorter, is not known to have. */
static int add_unless_zero(struct vdisk_image *before, struct vd_range zeros,
                           struct vd_bitmap *wanted, struct vdisk_error *err)
{
    uint64_t end = vd_min(vd_range_end(zeros), vdisk_image_size(before));
    for (uint64_t at = zeros.offset; at < end;) {
        uint64_t length;
        bool is_zero;
        int ret = vd_image_known_zero(before, vd_range(at, end - at), &length, &is_zero, err);
        if (ret == 0 && !is_zero)
            ret = vd_bitmap_set(wanted, vd_range(at, length), err);
        if (ret < 0)
            return ret;
        at += length;
    }
    return 0;
}

/* Of zeros of a disk of @size bytes: those that make whole granules. */
static struct vd_range zeros_that_count(struct vd_range zeros, const struct vd_bitmap *wanted,
                                        uint64_t size)
{
    uint64_t granule = UINT64_C(1) << vd_bitmap_granularity_bits(wanted);
    uint64_t start = vd_round_up(zeros.offset, granule), end = vd_range_end(zeros);
    if (end < size)
        end = vd_round_down(end, granule);
    return vd_range(start, end > start ? end - start : 0);
}

int vd_copy_add_zeros(struct vdisk_image *source, struct vdisk_image *before,
                      struct vd_bitmap *wanted, struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(source);
    struct vd_range zeros = vd_range(0, 0);
    int ret = 0;
    for (uint64_t at = 0; at < size && ret == 0;) {
        struct vdisk_extent extent;
        ret = vdisk_image_extent(source, at, vd_min(size - at, LOOK_BYTES_MAX), &extent, err);
        if (ret < 0)
            return ret;
        at += extent.length;
        bool is_zero = (extent.flags & VDISK_EXTENT_ZERO) != 0;
        if (is_zero)
            zeros.length += extent.length;
        if (!is_zero || at == size) {
            ret = add_unless_zero(before, zeros_that_count(zeros, wanted, size), wanted, err);
            zeros = vd_range(at, 0);
        }
    }
    return ret;
}
