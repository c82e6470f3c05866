/* SPDX-License-Identifier: MIT */
/*
 * The clusters of a target that is compressed, for one worker of a conversion.
 *
 * Z1  Workers encode the clusters of their pieces side by side, into memory, and write them in the
 *     order of the disk: so who reads the disk from its start reads the file so, too.
 * Z2  A cluster that does not shrink is written as it is; one that is zero is left to be zero.
 */
#ifndef VD_JOB_CONVERT_COMPRESS_H
#define VD_JOB_CONVERT_COMPRESS_H

#include "image/image.h"

struct vd_convert_encoder {
    size_t cluster_bytes; /* of the target */
    uint64_t disk_bytes;  /* of the target */
    bool keeps_zeros;     /* clusters that are zero are encoded as the others */
    enum vd_codec codec;
    struct vd_encoder *encoder; /* owned */
    uint8_t *streams;           /* owned */

    /* Of the last range.  length 0: not encoded, and then zero if there are no bytes. */
    struct vd_image_encoded *clusters; /* owned */
    size_t entries;
};

/* @level: as vd_encoder_new() has it.  Goes to vd_convert_encoder_destroy(), also if it fails. */
int vd_convert_encoder_init(struct vd_convert_encoder *encoder, struct vdisk_image *target,
                            unsigned level, struct vdisk_error *err);
void vd_convert_encoder_destroy(struct vd_convert_encoder *encoder);

/*
 * Encodes @range, a part of a piece that begins with a cluster; @buf has room for whole clusters.
 */
int vd_convert_encoder_run(struct vd_convert_encoder *encoder, uint8_t *buf, struct vd_range range,
                           struct vdisk_error *err);

/* How many from @first on are alike: encoded, zero, or neither. */
size_t vd_convert_encoder_run_length(const struct vd_convert_encoder *encoder, size_t first);

#endif
