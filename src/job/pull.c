/* SPDX-License-Identifier: MIT */
/* Bringing into an image what it would not find behind it in future. */
#include "job/pull.h"

#include <inttypes.h>
#include <string.h>

#include "util/iov.h"
#include "util/mem.h"

/* What is compared and written as a whole, in formats that have no clusters. */
#define UNIT_BYTES 4096u

struct state {
    const struct vd_pull *pull;
    size_t unit_bytes;   /* a power of two, at most VD_MERGE_PIECE_BYTES */
    bool has_no_backing; /* the image names none now */
};

/* ---- What has to be done where ---- */

/* Does the image itself say what is there?  Zeros for lack of an entry are nobody's word. */
static bool is_decided(const struct vdisk_extent *extent)
{
    return extent->depth == 0 &&
           ((extent->flags & VDISK_EXTENT_PRESENT) || !(extent->flags & VDISK_EXTENT_ZERO));
}

/* What will be behind the image at the start of @range; zeros past its end. */
static int look_behind(const struct vd_pull *pull, struct vd_range range, struct vd_image_run *run,
                       struct vdisk_error *err)
{
    uint64_t size = pull->behind ? vdisk_image_size(pull->behind) : 0;
    if (range.offset < size) {
        range.length = vd_min(range.length, size - range.offset);
        return vd_image_look(pull->behind, range, run, err);
    }
    *run = (struct vd_image_run){
        .extent = {.offset = range.offset, .length = range.length, .flags = VDISK_EXTENT_ZERO}};
    return 0;
}

static int look(const struct vd_merge *merge, struct vd_range range, enum vd_merge_kind *kind,
                uint64_t *length, struct vdisk_error *err)
{
    const struct state *state = merge->opaque;
    const struct vd_pull *pull = state->pull;
    struct vd_image_run old, new;
    int ret = vd_image_look(pull->image, range, &old, err);
    if (ret < 0)
        return ret;
    *length = old.extent.length;
    *kind = VD_MERGE_LEAVE;
    if (is_decided(&old.extent))
        return 0;
    ret = look_behind(pull, vd_range(range.offset, old.extent.length), &new, err);
    if (ret < 0)
        return ret;
    *length = new.extent.length;
    bool is_zero = (old.extent.flags & VDISK_EXTENT_ZERO) != 0;
    bool will_be_zero = (new.extent.flags &VDISK_EXTENT_ZERO) != 0;
    if (is_zero)
        *kind = will_be_zero && !pull->takes_all ? VD_MERGE_LEAVE : VD_MERGE_ZERO;
    else if (!vd_image_run_is_same(&old, &new))
        *kind = VD_MERGE_READ;
    return 0;
}

/* ---- Doing it ---- */

static int enter_zero(struct vdisk_image *image, struct vd_range range, struct vdisk_error *err)
{
    int ret = vdisk_image_write_zeroes(image, range.offset, range.length, VDISK_ZERO_NO_HOLE, err);
    return ret < 0 ? ret : vdisk_image_write_zeroes(image, range.offset, range.length, 0, err);
}

/*
 * Zeros that the image itself says are there.  One without a backing file may leave it at having
 * no entry: then it is made to have one, and gives the space back afterwards.
 */
static int make_zero(struct vd_merge *merge, struct vd_range rest, struct vdisk_error *err)
{
    const struct state *state = merge->opaque;
    int ret = vd_merge_zero(merge, rest, err);
    while (ret == 0 && rest.length && state->has_no_backing) {
        struct vdisk_extent extent;
        ret = vdisk_image_extent(merge->target, rest.offset, rest.length, &extent, err);
        if (ret == 0 && !is_decided(&extent))
            ret = enter_zero(merge->target, vd_range(rest.offset, extent.length), err);
        if (ret == 0)
            rest = vd_range(rest.offset + extent.length, rest.length - extent.length);
    }
    return ret;
}

/* What becomes of a unit: the kinds of a merge, where READ is to write what was read. */
static enum vd_merge_kind unit_kind(const struct vd_pull *pull, const uint8_t *old,
                                    const uint8_t *new, size_t length)
{
    bool differs = new ? memcmp(old, new, length) != 0 : true;
    if (!differs && !pull->takes_all)
        return VD_MERGE_LEAVE;
    if (!vd_buffer_is_zero(old, length))
        return VD_MERGE_READ;
    return new || pull->takes_all ? VD_MERGE_ZERO : VD_MERGE_LEAVE;
}

/* Reads what will be behind the image; *new becomes NULL if nothing will be. */
static int read_behind(const struct vd_pull *pull, struct vd_range range, uint8_t *buf,
                       const uint8_t **new, struct vdisk_error *err)
{
    uint64_t size = pull->behind ? vdisk_image_size(pull->behind) : 0;
    *new = NULL;
    if (range.offset >= size)
        return 0;
    *new = buf;
    return vd_image_read_padded(pull->behind, buf, range, err);
}

static int write_run(struct vd_merge *merge, enum vd_merge_kind kind, const uint8_t *old,
                     struct vd_range run, struct vdisk_error *err)
{
    if (kind == VD_MERGE_READ)
        return vd_merge_write(merge, old, run, err);
    return kind == VD_MERGE_ZERO ? make_zero(merge, run, err) : 0;
}

static int copy(struct vd_merge *merge, struct vd_range range,
                const struct vd_merge_buffers *buffers, struct vdisk_error *err)
{
    const struct state *state = merge->opaque;
    const struct vd_pull *pull = state->pull;
    const uint8_t *old = buffers->bytes[0];
    const uint8_t *new;
    int ret =
        vdisk_image_pread(pull->image, buffers->bytes[0], (size_t)range.length, range.offset, err);
    if (ret == 0)
        ret = read_behind(pull, range, buffers->bytes[1], &new, err);

    enum vd_merge_kind run_kind = VD_MERGE_LEAVE;
    size_t run_start = 0, at = 0;
    while (ret == 0 && at < range.length) {
        size_t into_unit = (size_t)((range.offset + at) & (state->unit_bytes - 1));
        size_t step = (size_t)vd_min(state->unit_bytes - into_unit, range.length - at);
        enum vd_merge_kind kind = unit_kind(pull, old + at, new ? new + at : NULL, step);
        if (kind != run_kind) {
            ret = write_run(merge, run_kind, old + run_start,
                            vd_range(range.offset + run_start, at - run_start), err);
            run_start = at;
            run_kind = kind;
        }
        at += step;
    }
    if (ret == 0)
        ret = write_run(merge, run_kind, old + run_start,
                        vd_range(range.offset + run_start, at - run_start), err);
    return ret;
}

/* ---- The whole ---- */

static int not_found(const struct vd_merge *merge, uint64_t at, struct vdisk_error *err)
{
    return vd_err_set(err, EIO,
                      "%s: what was copied to offset %" PRIu64
                      " is not found there: the backing file has not been changed",
                      vd_storage_name(vd_format_file(vd_image_format(merge->target))), at);
}

/*
 * Zeros were left to what will be behind them, which now says that it has data there.  A storage
 * may say so of zeros too, and change its mind: a file system does, when what is set aside but was
 * never written has been read.  So only the bytes can tell.
 */
static int check_zeros(const struct vd_merge *merge, struct vd_range rest, struct vdisk_error *err)
{
    const struct state *state = merge->opaque;
    CLEANUP_FREE uint8_t *buf = vd_alloc_io(VD_MERGE_PIECE_BYTES);
    if (!buf)
        return vd_err_nomem(err, "a buffer to check what was copied");
    int ret = 0;
    while (ret == 0 && rest.length) {
        struct vd_range piece =
            vd_range(rest.offset, vd_min(rest.length, (uint64_t)VD_MERGE_PIECE_BYTES));
        ret = vd_job_throttle(merge->job, piece.length, err);
        if (ret == 0)
            ret = vd_job_advance(merge->job, (struct vd_job_step){0}, err);
        if (ret == 0)
            ret = vd_image_read_padded(state->pull->behind, buf, piece, err);
        if (ret == 0 && !vd_buffer_is_zero(buf, (size_t)piece.length))
            ret = not_found(merge, piece.offset, err);
        rest = vd_range(rest.offset + piece.length, rest.length - piece.length);
    }
    return ret;
}

/*
 * U2, as far as it can be told without reading what was compared: better to stop than to lose what
 * is behind.
 */
static int check_done(const struct vd_merge *merge, struct vdisk_error *err)
{
    const struct state *state = merge->opaque;
    for (uint64_t at = 0; at < merge->size;) {
        enum vd_merge_kind kind;
        uint64_t length = 0;
        int ret = look(merge, vd_range(at, merge->size - at), &kind, &length, err);
        if (ret == 0 && kind != VD_MERGE_LEAVE && state->pull->takes_all)
            ret = not_found(merge, at, err);
        else if (ret == 0 && kind == VD_MERGE_ZERO)
            ret = check_zeros(merge, vd_range(at, length), err);
        if (ret < 0)
            return ret;
        at += length;
    }
    return 0;
}

int vd_pull(struct vd_pull *pull, struct vdisk_error *err)
{
    static const struct vd_merge_rules rules = {.look = look, .copy = copy, .zero = make_zero};
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(pull->image), &info, err);
    if (ret < 0)
        return ret;
    struct state state = {
        .pull = pull,
        .unit_bytes = (size_t)vd_min(info.cluster_bytes ? info.cluster_bytes : UNIT_BYTES,
                                     VD_MERGE_PIECE_BYTES),
        .has_no_backing = !info.backing_name,
    };
    struct vd_merge merge = {.rules = &rules,
                             .opaque = &state,
                             .job = pull->job,
                             .target = pull->image,
                             .size = vdisk_image_size(pull->image),
                             .is_durable = pull->is_durable};
    vd_merge_init(&merge);
    ret = vd_merge_run(&merge, pull->phase, pull->workers, err);
    if (ret == 0)
        ret = check_done(&merge, err);
    if (ret == 0)
        ret = vdisk_image_flush(pull->image, err);
    pull->read_bytes = atomic_load(&merge.read_bytes);
    pull->data_bytes = atomic_load(&merge.data_bytes);
    pull->zero_bytes = atomic_load(&merge.zero_bytes);
    vd_merge_destroy(&merge);
    return ret;
}
