/* SPDX-License-Identifier: MIT */
#include "drivers/snap.h"

#include "drivers/alloc.h"
#include "storage/driver.h"

struct snap {
    struct vd_mutex lock;
    struct vt_pages *pages; /* under lock */
};

static void snap_close(struct vd_storage *storage)
{
    struct snap *snap = storage->state;
    vt_pages_free(snap->pages);
    vd_mutex_destroy(&snap->lock);
    free(snap);
}

static int snap_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    struct snap *snap = storage->state;
    vd_mutex_lock(&snap->lock);
    *size = vt_pages_size(snap->pages);
    vd_mutex_unlock(&snap->lock);
    return 0;
}

static int snap_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err)
{
    (void)err;
    struct snap *snap = storage->state;
    vd_mutex_lock(&snap->lock);
    *bytes = vt_pages_allocated(snap->pages);
    vd_mutex_unlock(&snap->lock);
    return 0;
}

static int snap_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    struct snap *snap = storage->state;
    int ret = 0;
    vd_mutex_lock(&snap->lock);
    uint64_t size = vt_pages_size(snap->pages);
    for (int i = 0; i < iov_entries && ret == 0; i++) {
        struct vd_range range = vd_range(offset, iov[i].iov_len);
        if (vd_range_is_within(range, size))
            vt_pages_read(snap->pages, iov[i].iov_base, range);
        else
            ret = vd_err_set(err, EIO, "end of storage at offset %llu", (unsigned long long)size);
        offset += iov[i].iov_len;
    }
    vd_mutex_unlock(&snap->lock);
    return ret;
}

static void grow(struct vt_pages *pages, uint64_t end)
{
    if (end > vt_pages_size(pages))
        vt_pages_resize(pages, end);
}

static int snap_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    (void)err;
    struct snap *snap = storage->state;
    vd_mutex_lock(&snap->lock);
    for (int i = 0; i < iov_entries; i++) {
        struct vd_range range = vd_range(offset, iov[i].iov_len);
        grow(snap->pages, vd_range_end(range));
        vt_pages_write(snap->pages, iov[i].iov_base, range);
        offset += iov[i].iov_len;
    }
    vd_mutex_unlock(&snap->lock);
    return 0;
}

static int snap_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                             struct vdisk_error *err)
{
    (void)flags;
    (void)err;
    struct snap *snap = storage->state;
    vd_mutex_lock(&snap->lock);
    grow(snap->pages, vd_range_end(range));
    vt_pages_zero(snap->pages, range);
    vd_mutex_unlock(&snap->lock);
    return 0;
}

static int snap_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    (void)err;
    struct snap *snap = storage->state;
    vd_mutex_lock(&snap->lock);
    uint64_t size = vt_pages_size(snap->pages);
    if (range.offset < size)
        vt_pages_zero(snap->pages,
                      vd_range(range.offset, vd_min(range.length, size - range.offset)));
    vd_mutex_unlock(&snap->lock);
    return 0;
}

static int snap_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    (void)err;
    struct snap *snap = storage->state;
    vd_mutex_lock(&snap->lock);
    vt_pages_resize(snap->pages, size);
    vd_mutex_unlock(&snap->lock);
    return 0;
}

static int snap_extent(struct vd_storage *storage, struct vd_range range,
                       struct vd_storage_extent *extent, struct vdisk_error *err)
{
    (void)err;
    struct snap *snap = storage->state;
    vd_mutex_lock(&snap->lock);
    bool data = vt_pages_extent(snap->pages, range, &extent->length);
    vd_mutex_unlock(&snap->lock);
    extent->kind = data ? VD_STORAGE_DATA : VD_STORAGE_HOLE;
    return 0;
}

static const struct vd_storage_driver snap_driver = {
    .name = "snap",
    .close = snap_close,
    .size = snap_size,
    .allocated = snap_allocated,
    .preadv = snap_preadv,
    .pwritev = snap_pwritev,
    .write_zeroes = snap_write_zeroes,
    .discard = snap_discard,
    .resize = snap_resize,
    .extent = snap_extent,
};

int vt_snap_open_pages(struct vt_pages *pages, struct vd_storage **storage, struct vdisk_error *err)
{
    struct vd_storage *st = NULL;
    int ret = vd_storage_new(&snap_driver, "snap", &st, err);
    if (ret < 0) {
        vt_pages_free(pages);
        return ret;
    }
    struct snap *snap = vt_calloc(1, sizeof(*snap));
    vd_mutex_init(&snap->lock);
    snap->pages = pages;
    st->state = snap;
    st->flags = VD_STORAGE_WRITE;
    st->caps = VD_STORAGE_CAN_WRITE | VD_STORAGE_CAN_RESIZE | VD_STORAGE_CAN_DISCARD |
               VD_STORAGE_CAN_EXTENTS | VD_STORAGE_FAST_ZEROES;
    *storage = st;
    return 0;
}

int vt_snap_open(uint64_t size, struct vd_storage **storage, struct vdisk_error *err)
{
    return vt_snap_open_pages(vt_pages_new(size), storage, err);
}

struct vt_pages *vt_snap_pages(struct vd_storage *storage)
{
    assert(storage->driver == &snap_driver);
    struct snap *snap = storage->state;
    vd_mutex_lock(&snap->lock);
    struct vt_pages *pages = vt_pages_clone(snap->pages);
    vd_mutex_unlock(&snap->lock);
    return pages;
}

int vt_snap_clone(struct vd_storage *storage, struct vd_storage **clone, struct vdisk_error *err)
{
    return vt_snap_open_pages(vt_snap_pages(storage), clone, err);
}
