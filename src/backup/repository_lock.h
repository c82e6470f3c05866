/* SPDX-License-Identifier: MIT */
/*
 * The file "lock" of a repository: OFD locks on two of its bytes, as P3 says.  Byte 0 is shared by
 * all who are there, and exclusive for a merge or prune; byte 1 is exclusive for who makes a
 * backup, a merge or a prune.
 *
 * Nobody waits.  The locks end with the process, whatever becomes of it.
 */
#ifndef VD_BACKUP_REPOSITORY_LOCK_H
#define VD_BACKUP_REPOSITORY_LOCK_H

#include "backup/repository.h"

#define VD_REPOSITORY_LOCK "lock"

/*
 * Opens the file, makes it if need be, and locks it for repository->access.  To read where it can
 * not be made, or locked, is done without: repository->lock_fd is -1 then.  -EAGAIN: somebody is in
 * the way, and the message tells what is likely going on.
 */
int vd_repository_lock(struct vdisk_repository *repository, struct vdisk_error *err);

/*
 * For another access from here on, which does not go to repository->access.  What was locked is not
 * held for an instant if the new one is VD_REPOSITORY_CHANGE, and nothing is after a failure.
 * -EROFS: the file can not be written; -EAGAIN as above.
 */
int vd_repository_relock(struct vdisk_repository *repository, enum vd_repository_access access,
                         struct vdisk_error *err);

#endif
