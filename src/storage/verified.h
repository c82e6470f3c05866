/* SPDX-License-Identifier: MIT */
/*
 * A storage whose bytes are compared with digests before anybody sees them.
 *
 * V1  No byte is handed out before all of its extent has been read and compared: then, or since
 * this storage was opened. V2  An extent that differs is -EBADMSG, with the name of the file and
 * the bytes it spans, every time it is read. V3  The file is as long as the table says, or does not
 * open (-EBADMSG).
 */
#ifndef VD_STORAGE_VERIFIED_H
#define VD_STORAGE_VERIFIED_H

#include "storage/storage.h"
#include "util/digest.h"

/*
 * Read-only.  @below belongs to the new storage, also if this fails.  @table outlives it.  What was
 * read whole and compared in answer to a request is not read once more for it.
 */
int vd_storage_verified_open(struct vd_storage *below, const struct vd_digest_table *table,
                             struct vd_storage **storage, struct vdisk_error *err);

#endif
