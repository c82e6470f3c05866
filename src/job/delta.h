/* SPDX-License-Identifier: MIT */
/* What a replica lacks of its master: the list that a sync works off. */
#ifndef VD_JOB_DELTA_H
#define VD_JOB_DELTA_H

#include "format/gow/replica.h"
#include "job/job.h"
#include "job/sync_source.h"

/* A block to fetch from host block @host of the master. */
struct vd_delta_block {
    uint32_t host;
    uint32_t block;
};

/* Blocks that are neighbours in the master's file: one request. */
struct vd_delta_run {
    uint32_t first; /* index into the blocks to fetch */
    uint32_t count;
};

struct vd_delta {
    struct le32 *versions; /* the master's, of all of its blocks */
    uint32_t block_count;  /* of the master */

    struct vd_delta_block *fetch; /* in the order of the master's file */
    uint32_t fetch_count;
    struct vd_delta_run *runs;
    uint32_t run_count;

    struct vd_replica_change *bare; /* changes that need no data: the block reads as zero now */
    uint32_t bare_count;
    uint32_t past_end_count; /* of them: past the end of the master's disk */
};

struct vd_delta_options {
    uint32_t run_blocks; /* most blocks of a run, at least 1 */
    bool forget;         /* the replica's versions say nothing about this master */
};

/*
 * Compares the versions of @replica (NULL: an empty one) with the master's, and looks up where the
 * newer blocks lie.  Fetches only the used part of the versions and of the map the parts that tell
 * about changed blocks.  The lists go to vd_delta_free().
 *
 * -EPERM: a block of the replica is newer than the master's; -EBADMSG: the master's map contradicts
 * gow §4; -ECANCELED.
 */
int vd_delta_make(struct vd_source *source, const struct vd_replica *replica,
                  const struct vd_delta_options *options, struct vd_job *job,
                  struct vd_delta *delta, struct vdisk_error *err);

/* Also of a zeroed one. */
void vd_delta_free(struct vd_delta *delta);

/* Bytes to fetch for the blocks. */
uint64_t vd_delta_fetch_bytes(const struct vd_delta *delta);

#endif
