/* SPDX-License-Identifier: MIT */
/*
 * Requests of any bytes on a storage that takes only aligned ones (direct I/O): bounce buffers for
 * reads, read-change-write of the shared units at the edges for writes.  With an alignment of 1
 * these are the driver's own functions.
 */
#ifndef VD_STORAGE_ALIGN_H
#define VD_STORAGE_ALIGN_H

#include "storage/driver.h"

int vd_align_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                    uint64_t offset, struct vdisk_error *err);

/* The size after a write past the end is exactly the end of the write, aligned or not. */
int vd_align_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                     uint64_t offset, struct vdisk_error *err);

int vd_align_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err);

#endif
