/* SPDX-License-Identifier: MIT */
/*
 * Digests of whole files, made and compared by several threads, within a phase of the job that the
 * caller has begun: each byte of the file is done once.  @workers: 0: the default.
 */
#ifndef VD_BACKUP_DIGESTS_H
#define VD_BACKUP_DIGESTS_H

#include "job/job.h"
#include "storage/storage.h"
#include "util/digest.h"

/* The extents for a new file: at least 1 MiB, and such that there are about 65,536 at most. */
uint32_t vd_digests_extent_bytes(uint64_t file_bytes);

/* Fills the table, which vd_digest_table_init() has made for the size of @file. */
int vd_digests_make(struct vd_storage *file, struct vd_digest_table *table, struct vd_job *job,
                    unsigned workers, struct vdisk_error *err);

/*
 * Reads all of @file.  Each extent that differs, or can not be read, goes to @damaged (one call at
 * a time), with what went wrong.  What is missing at the end, or too much, is a damage as well.
 */
typedef void (*vd_digests_damage_fn)(void *opaque, struct vd_range range, const char *why);
int vd_digests_compare(struct vd_storage *file, const struct vd_digest_table *table,
                       struct vd_job *job, unsigned workers, vd_digests_damage_fn damaged,
                       void *opaque, struct vdisk_error *err);

#endif
