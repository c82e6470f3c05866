/* SPDX-License-Identifier: MIT */
/* The inside of backup/copy.h. */
#ifndef VD_BACKUP_COPY_UNITS_H
#define VD_BACKUP_COPY_UNITS_H

#include "backup/copy.h"
#include "job/merge.h"

/* What a worker compresses with. */
struct vd_copy_encoder {
    struct vd_encoder *encoder; /* owned */
    uint8_t *streams;           /* owned: VD_MERGE_PIECE_BYTES */
    uint8_t *last;              /* owned: a cluster, for one that the disk ends in */
};

struct vd_copy_state {
    struct vd_copy *copy;
    unsigned workers;
    uint64_t unit_bytes;              /* a power of two, at most VD_MERGE_PIECE_BYTES */
    enum vd_codec codec;              /* of the target, if clusters are compressed, */
    struct vd_copy_encoder *encoders; /* owned: and then one for each worker */
};

/* One for each worker.  -ENOTSUP: the target, of which @info tells, takes no compressed clusters.
 * Goes to vd_copy_encoders_free(), also if it fails. */
int vd_copy_encoders_new(struct vd_copy_state *state, const struct vd_format_info *info,
                         struct vdisk_error *err);
void vd_copy_encoders_free(struct vd_copy_state *state);

/* Writes the units of @run compressed, but for those that do not shrink, and counts. */
int vd_copy_write_encoded(struct vd_merge *merge, struct vd_copy_encoder *encoder,
                          struct vd_range run, const uint8_t *bytes, struct vdisk_error *err);

/* Makes zeros where the target is not known to have them, and counts. */
int vd_copy_zero(struct vd_merge *merge, struct vd_range rest, struct vdisk_error *err);

#endif
