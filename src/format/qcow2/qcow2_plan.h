/* SPDX-License-Identifier: MIT */
/* What a new qcow2 image consists of, in clusters: for create and measure.  No I/O. */
#ifndef VD_FORMAT_QCOW2_QCOW2_PLAN_H
#define VD_FORMAT_QCOW2_QCOW2_PLAN_H

#include "format/qcow2/qcow2_header.h"

/* Clusters of each kind.  They lie in the file in this order. */
struct vd_qcow2_sizes {
    uint64_t header;
    uint64_t refcount_table;
    uint64_t refcount_blocks;
    uint64_t l1;
    uint64_t crypto;
    uint64_t l2;
    uint64_t data;
    uint64_t total;
};

struct vd_qcow2_plan {
    struct vd_qcow2_header header; /* without places */
    struct vd_qcow2_geometry geometry;
    enum vdisk_preallocation preallocation;
    bool has_data_file;
    bool is_encrypted;
    struct vd_qcow2_sizes now;  /* of the new image */
    struct vd_qcow2_sizes full; /* when all of its disk has been written */
};

/*
 * Checks @options and lays the image out.  @crypto_bytes: of the encryption header, or 0.  @plan
 * goes to vd_qcow2_plan_free(), after a failure too.
 */
int vd_qcow2_plan(const struct vdisk_create_options *options, uint64_t crypto_bytes,
                  struct vd_qcow2_plan *plan, struct vdisk_error *err);

/* What @compat, "1.1", "v3", "0.10" or "v2", and a width of refcounts mean.  -EINVAL. */
int vd_qcow2_version_of(const char *compat, uint32_t *version, struct vdisk_error *err);
int vd_qcow2_refcount_order_of(uint32_t bits, uint32_t *order, struct vdisk_error *err);

/* So that programs that do not know a feature can say what it is: an extension for a header of
 * version 3 that has none, if its clusters have room. */
int vd_qcow2_name_features(struct vd_qcow2_header *header, struct vdisk_error *err);

void vd_qcow2_plan_free(struct vd_qcow2_plan *plan);

#endif
