/* SPDX-License-Identifier: MIT */
/*
 * Requests of any bytes on a storage that takes only aligned ones (direct I/O): bounce buffers for
 * reads, read-change-write of the units that a write only touches in part.  With an alignment of 1
 * these are the driver's own functions.
 */
#ifndef VD_STORAGE_ALIGN_H
#define VD_STORAGE_ALIGN_H

#include "storage/driver.h"

/* A change under way: a node in storage->align, on the stack of who makes the change. */
struct vd_align_hold {
    struct vd_align_hold *next;
    struct vd_range range;
    bool is_exclusive;
};

void vd_align_init(struct vd_align *align);
void vd_align_destroy(struct vd_align *align);

/* The size as it is between two changes of it. */
int vd_align_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err);

int vd_align_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                    uint64_t offset, struct vdisk_error *err);

/* The size after a write past the end is exactly the end of the write, aligned or not. */
int vd_align_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                     uint64_t offset, struct vdisk_error *err);

int vd_align_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err);

/*
 * Around a change of @range that the driver makes without a buffer (zeroes, discard, copy), which
 * may extend the storage.  Nothing else of this header may be called on @storage in between.
 */
int vd_align_begin(struct vd_storage *storage, struct vd_range range, struct vd_align_hold *hold,
                   struct vdisk_error *err);
void vd_align_end(struct vd_storage *storage, struct vd_align_hold *hold);

#endif
