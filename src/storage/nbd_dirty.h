/* SPDX-License-Identifier: MIT */
/* The dirty bitmap that an NBD server has of an export. */
#ifndef VD_STORAGE_NBD_DIRTY_H
#define VD_STORAGE_NBD_DIRTY_H

#include "bitmap/bitmap.h"
#include "storage/storage.h"

/*
 * Asks the server of the URI @name, over a connection of its own, for the context
 * "qemu:dirty-bitmap:BITMAP", and sets in @dirty, made for the size of the export, what is dirty.
 * -ENOENT: the server does not have this context; -EMSGSIZE: @dirty is of another size.
 */
int vd_nbd_read_bitmap(const char *name, const char *bitmap,
                       const struct vdisk_network_options *network, struct vd_bitmap *dirty,
                       struct vdisk_error *err);

#endif
