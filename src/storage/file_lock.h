/* SPDX-License-Identifier: MIT */
/*
 * Keeping other programs off an image: the byte locks of QEMU.
 *
 * A holder puts shared OFD locks on byte 100 + n for each permission n that it uses, and on byte
 * 200 + n for each that it lets nobody else use; 0 is consistent reading, 1 writing, 3 resizing.
 * All locks are shared ones: who comes sets its own first, then looks whether anybody holds a byte
 * that contradicts them.  So two that come at the same instant may both be refused, but never both
 * be let in.  cloud-hypervisor locks the whole file instead, shared for reading and exclusive for
 * writing: an exclusive one is in the way of byte 100, and a shared one is told by its length and
 * keeps writers out.
 *
 * Where the file system has no such locks (some network ones) the open goes on without them, as
 * QEMU does: an image is more often on such a file system than open twice.
 *
 * The locks belong to the open file description: they end when the last descriptor of it is
 * closed, and two opens within one process are in each other's way like those of two processes.
 */
#ifndef VD_STORAGE_FILE_LOCK_H
#define VD_STORAGE_FILE_LOCK_H

#include "storage/storage.h"

/*
 * Locks @fd as the flags of enum vd_storage_open_flag ask: VD_STORAGE_WRITE keeps readers and
 * writers out, none keeps writers out, VD_STORAGE_SHARE keeps out only those who insist on it.
 * -EAGAIN: somebody is there, and the message tells who, if the system lets us see it.
 */
int vd_file_lock(int fd, uint32_t flags, struct vdisk_error *err);

/* Who holds a lock; pid 0: nobody knows. */
struct vd_lock_holder {
    long pid;
    char command[64];
};

/* The first process, among those this one may look at, with a lock on @byte of the file other than
 * by @fd. */
void vd_file_lock_holder(int fd, int64_t byte, struct vd_lock_holder *holder);

#endif
