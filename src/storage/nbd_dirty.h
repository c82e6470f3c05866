/* SPDX-License-Identifier: MIT */
/* The dirty bitmap that an NBD server has of an export. */
#ifndef VD_STORAGE_NBD_DIRTY_H
#define VD_STORAGE_NBD_DIRTY_H

#include "bitmap/bitmap.h"
#include "storage/storage.h"

/*
 * Asks the server of the URI @name, which the user has given, over a connection of its own, for the
 * context "qemu:dirty-bitmap:BITMAP", and sets in @dirty, made for the size of the export or that
 * rounded up to 512 bytes, what is not clean.  An answer that leaves something out is an error:
 * nothing is taken for clean of which the server has not said so.  When it fails, a part of the
 * bits may be set.
 *
 * -ENOENT: the server does not have this context; -EMSGSIZE: @dirty is of another size; else as for
 * any storage on an NBD server.
 */
int vd_nbd_read_bitmap(const char *name, const char *bitmap,
                       const struct vdisk_network_options *network, struct vd_bitmap *dirty,
                       struct vdisk_error *err);

#endif
