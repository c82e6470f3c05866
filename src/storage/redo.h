/* SPDX-License-Identifier: MIT */
/*
 * Changes to a file that are kept in a second one, the log, until all of them are known: then they
 * are done, however often that is begun, or none is.
 *
 * R1  Until vd_redo_apply() the file is only read.
 * R2  A log that vd_redo_finish() has not made whole, or of which a byte has changed, is refused by
 *     vd_redo_apply() before anything is changed.
 * R3  vd_redo_apply() may be cut off anywhere and done again, and again after it has ended.
 */
#ifndef VD_STORAGE_REDO_H
#define VD_STORAGE_REDO_H

#include "storage/storage.h"
#include "util/digest.h"

/*
 * A writable storage that shows @below with the changes.  Neither @below nor @log, an empty
 * writable one, belongs to it; both outlive it.  Its name in messages is that of @below.  @kind: of
 * the digests in the log.
 */
int vd_redo_open(struct vd_storage *below, struct vd_storage *log, enum vd_digest_kind kind,
                 struct vd_storage **storage, struct vdisk_error *err);

/* Has anything of @range been changed?  By whole blocks of 64 KiB; and all that is behind the least
 * size that the file had. */
bool vd_redo_has_changed(struct vd_storage *storage, struct vd_range range);

/* Bytes that the log takes: those of all blocks that were changed. */
uint64_t vd_redo_bytes(struct vd_storage *storage);

/* No changes come any more: makes the log whole, and durable.  @digest, VD_DIGEST_BYTES_MAX: over
 * the whole log, for vd_redo_apply(). */
int vd_redo_finish(struct vd_storage *storage, uint8_t *digest, struct vdisk_error *err);

/* Does what is in the @log to @file, which is writable, and flushes it.  @digest: of the log.
 * -EBADMSG: the log is not as it was finished, or is for a file of another size: nothing has been
 * done, but if it can not be read twice the same. */
int vd_redo_apply(struct vd_storage *log, enum vd_digest_kind kind, const uint8_t *digest,
                  struct vd_storage *file, struct vdisk_error *err);

#endif
