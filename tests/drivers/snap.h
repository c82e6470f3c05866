/* SPDX-License-Identifier: MIT */
/*
 * Storage in memory as storage/mem.c, but one that can be cloned in next to no time: clones share
 * what none of them has written to.
 */
#ifndef VT_SNAP_H
#define VT_SNAP_H

#include "drivers/pages.h"
#include "storage/storage.h"

/* @size bytes of zeros, writable. */
int vt_snap_open(uint64_t size, struct vd_storage **storage, struct vdisk_error *err);

/* @pages belongs to the storage from here on, also if this fails. */
int vt_snap_open_pages(struct vt_pages *pages, struct vd_storage **storage,
                       struct vdisk_error *err);

/* Its content now, as an object of its own; @storage comes from one of the functions above. */
struct vt_pages *vt_snap_pages(struct vd_storage *storage);

/* Another storage with the same content. */
int vt_snap_clone(struct vd_storage *storage, struct vd_storage **clone, struct vdisk_error *err);

#endif
