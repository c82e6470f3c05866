/* SPDX-License-Identifier: MIT */
/* Requests of any bytes on a storage that takes only aligned ones. */
#include "storage/align.h"

int vd_align_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                    uint64_t offset, struct vdisk_error *err)
{
    return storage->driver->preadv(storage, iov, iov_entries, offset, err);
}

int vd_align_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                     uint64_t offset, struct vdisk_error *err)
{
    return storage->driver->pwritev(storage, iov, iov_entries, offset, err);
}

int vd_align_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    return storage->driver->resize(storage, size, err);
}
