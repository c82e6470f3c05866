/* SPDX-License-Identifier: MIT */
#include "drivers/fault.h"

#include <assert.h>

#include "drivers/alloc.h"
#include "util/iov.h"

struct fault {
    struct vd_storage *inner;
    enum vt_ownership ownership;
    struct vd_mutex lock;
    struct vt_fault_plan plan; /* all below: under lock */
    uint64_t seen;
    uint64_t hits;
};

/* 0, or the failure that the plan has for this call; *prefix_bytes: what is done before it. */
static int strike(struct fault *fault, enum vt_call call, uint64_t *prefix_bytes,
                  struct vdisk_error *err)
{
    int error = 0;
    vd_mutex_lock(&fault->lock);
    *prefix_bytes = fault->plan.prefix_bytes;
    if (fault->plan.calls & VT_CALL_BIT(call)) {
        fault->seen++;
        if (fault->seen == fault->plan.nth ||
            (fault->plan.forever && fault->seen > fault->plan.nth)) {
            fault->hits++;
            error = fault->plan.error;
        }
    }
    vd_mutex_unlock(&fault->lock);
    if (error == EOPNOTSUPP) /* not a failure, so it has no story: storage/driver.h */
        return -EOPNOTSUPP;
    return error ? vd_err_errno(err, error, "%s made to fail", vt_call_name(call)) : 0;
}

static int strike_plain(struct fault *fault, enum vt_call call, struct vdisk_error *err)
{
    uint64_t prefix_bytes;
    return strike(fault, call, &prefix_bytes, err);
}

static void fault_close(struct vd_storage *storage)
{
    struct fault *fault = storage->state;
    vt_under_close(fault->inner, fault->ownership);
    vd_mutex_destroy(&fault->lock);
    free(fault);
}

static int fault_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    int ret = strike_plain(fault, VT_SIZE, err);
    return ret < 0 ? ret : vd_storage_size(fault->inner, size, err);
}

static int fault_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err)
{
    const struct fault *fault = storage->state;
    return vd_storage_allocated(fault->inner, bytes, err);
}

static int fault_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    int ret = strike_plain(fault, VT_READ, err);
    return ret < 0 ? ret : vd_storage_preadv(fault->inner, iov, iov_entries, offset, err);
}

static int fault_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                         uint64_t offset, struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    uint64_t prefix_bytes;
    int ret = strike(fault, VT_WRITE, &prefix_bytes, err);
    if (ret == 0)
        return vd_storage_pwritev(fault->inner, iov, iov_entries, offset, err);

    size_t prefix = (size_t)vd_min(prefix_bytes, vd_iov_length(iov, iov_entries));
    struct iovec *part = vt_calloc((size_t)iov_entries, sizeof(*part));
    int part_entries = vd_iov_part(part, iov, iov_entries, 0, prefix);
    if (prefix && vd_storage_pwritev(fault->inner, part, part_entries, offset, NULL) < 0)
        ret = -EIO;
    free(part);
    return ret;
}

static int fault_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                              struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    uint64_t prefix_bytes;
    int ret = strike(fault, VT_ZERO, &prefix_bytes, err);
    if (ret == 0)
        return vd_storage_write_zeroes(fault->inner, range, flags, err);
    range.length = vd_min(range.length, prefix_bytes);
    if (range.length && vd_storage_write_zeroes(fault->inner, range, flags, NULL) < 0)
        ret = -EIO;
    return ret;
}

static int fault_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    int ret = strike_plain(fault, VT_DISCARD, err);
    return ret < 0 ? ret : vd_storage_discard(fault->inner, range, err);
}

static int fault_flush(struct vd_storage *storage, struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    int ret = strike_plain(fault, VT_FLUSH, err);
    return ret < 0 ? ret : vd_storage_flush(fault->inner, err);
}

static int fault_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    int ret = strike_plain(fault, VT_RESIZE, err);
    return ret < 0 ? ret : vd_storage_resize(fault->inner, size, err);
}

static int fault_preallocate(struct vd_storage *storage, struct vd_range range,
                             struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    int ret = strike_plain(fault, VT_PREALLOCATE, err);
    return ret < 0 ? ret : vd_storage_preallocate(fault->inner, range, err);
}

static int fault_extent(struct vd_storage *storage, struct vd_range range,
                        struct vd_storage_extent *extent, struct vdisk_error *err)
{
    struct fault *fault = storage->state;
    int ret = strike_plain(fault, VT_EXTENT, err);
    return ret < 0 ? ret : vd_storage_extent(fault->inner, range, extent, err);
}

static const struct vd_storage_driver fault_driver = {
    .name = "fault",
    .close = fault_close,
    .size = fault_size,
    .allocated = fault_allocated,
    .preadv = fault_preadv,
    .pwritev = fault_pwritev,
    .write_zeroes = fault_write_zeroes,
    .discard = fault_discard,
    .flush = fault_flush,
    .resize = fault_resize,
    .preallocate = fault_preallocate,
    .extent = fault_extent,
};

int vt_fault_open(struct vd_storage *inner, enum vt_ownership ownership,
                  struct vd_storage **storage, struct vdisk_error *err)
{
    struct vd_storage *st = NULL;
    int ret = vd_storage_new(&fault_driver, "fault", &st, err);
    if (ret < 0) {
        vt_under_close(inner, ownership);
        return ret;
    }
    struct fault *fault = vt_calloc(1, sizeof(*fault));
    fault->inner = inner;
    fault->ownership = ownership;
    vd_mutex_init(&fault->lock);
    st->state = fault;
    vt_under_imitate(st, inner);
    *storage = st;
    return 0;
}

static struct fault *fault_of(struct vd_storage *storage)
{
    assert(storage->driver == &fault_driver);
    return storage->state;
}

void vt_fault_set(struct vd_storage *storage, struct vt_fault_plan plan)
{
    struct fault *fault = fault_of(storage);
    vd_mutex_lock(&fault->lock);
    fault->plan = plan;
    fault->seen = 0;
    fault->hits = 0;
    vd_mutex_unlock(&fault->lock);
}

uint64_t vt_fault_seen(struct vd_storage *storage)
{
    struct fault *fault = fault_of(storage);
    vd_mutex_lock(&fault->lock);
    uint64_t seen = fault->seen;
    vd_mutex_unlock(&fault->lock);
    return seen;
}

uint64_t vt_fault_hits(struct vd_storage *storage)
{
    struct fault *fault = fault_of(storage);
    vd_mutex_lock(&fault->lock);
    uint64_t hits = fault->hits;
    vd_mutex_unlock(&fault->lock);
    return hits;
}
