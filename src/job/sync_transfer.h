/* SPDX-License-Identifier: MIT */
/* The heart of a sync: fetches the runs of a delta over several connections, and applies them. */
#ifndef VD_JOB_SYNC_TRANSFER_H
#define VD_JOB_SYNC_TRANSFER_H

#include "job/delta.h"
#include "job/sums_file.h"

struct vd_transfer_options {
    uint64_t window_bytes;      /* most bytes fetched and not yet committed: what a kill can cost */
    unsigned workers;           /* at least 1 */
    const struct vd_sums *sums; /* NULL, or what every block has to match before it is written */
};

/*
 * @replica has begun.  Counts in @job the blocks that are committed and the bytes that are fetched.
 * On failure what has been fetched whole is still committed, if the replica takes it.
 * -ESTALE: the master was changed; -ECANCELED; -EILSEQ: a block does not match @sums.
 */
int vd_transfer_run(struct vd_source *source, struct vd_replica *replica, struct vd_storage *file,
                    const struct vd_delta *delta, const struct vd_transfer_options *options,
                    struct vd_job *job, struct vdisk_error *err);

#endif
