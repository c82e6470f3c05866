/* SPDX-License-Identifier: MIT */
/* The sums that a sync checks the master's blocks against. */
#ifndef VD_JOB_SYNC_SUMS_H
#define VD_JOB_SYNC_SUMS_H

#include "job/delta.h"
#include "job/sums_file.h"

/*
 * Fetches the sums of @source (@name: from elsewhere, or NULL), checks their signature (@key_name:
 * a PEM file, or NULL for none), and that they belong to this state of the master and to @delta.
 * They go to vd_sums_free(), also after a failure.  What was fetched is added to the source's
 * traffic.
 */
int vd_sync_sums_load(struct vd_source *source, const struct vd_delta *delta, const char *name,
                      const char *key_name, struct vd_sums *sums, struct vdisk_error *err);

/* @name with @suffix, before the query of a URL; to be freed, NULL: no memory. */
char *vd_sync_sums_name(const char *name, const char *suffix);

#endif
