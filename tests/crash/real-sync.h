/* SPDX-License-Identifier: MIT */
/* A replica in a file, synced by vdisk_sync() itself from masters that a power cut left. */
#ifndef VT_REAL_SYNC_H
#define VT_REAL_SYNC_H

#include "storage/storage.h"

struct vt_real_sync {
    char folder[256]; /* of master, first and replica */
};

/* The replica has synced with @master, and is put back to that before each vt_real_sync_again(). */
void vt_real_sync_begin(struct vt_real_sync *sync, struct vd_storage *master);
void vt_real_sync_end(struct vt_real_sync *sync);

/* Syncs with @master; *replica is opened for reading, or the error tells why not. */
int vt_real_sync_again(struct vt_real_sync *sync, struct vd_storage *master,
                       struct vdisk_image **replica, struct vdisk_error *err);

#endif
