/* SPDX-License-Identifier: MIT */
/* Sizes and places that follow from the header of a qcow2 image.  No I/O. */
#ifndef VD_FORMAT_QCOW2_QCOW2_GEOMETRY_H
#define VD_FORMAT_QCOW2_QCOW2_GEOMETRY_H

#include <stdbool.h>

#include "format/qcow2/qcow2_disk.h"
#include "util/range.h"

struct vd_qcow2_geometry {
    uint32_t cluster_bits;
    uint32_t cluster_bytes;
    uint32_t subclusters; /* of a cluster: 1, or 32 with extended L2 */
    uint32_t subcluster_bytes;
    uint32_t entry_bytes;    /* of L2: 8, or 16 with extended L2 */
    uint32_t l2_entries;     /* of a table, which is one cluster */
    uint64_t l2_span;        /* bytes of disk that a table maps */
    uint32_t refcount_order; /* a refcount has 1 << order bits */
    uint64_t refcount_max;
    uint32_t block_entries; /* refcounts of a block, which is one cluster */
};

static inline struct vd_qcow2_geometry vd_qcow2_geometry_of(uint32_t cluster_bits,
                                                            uint32_t refcount_order,
                                                            bool has_extended_l2)
{
    struct vd_qcow2_geometry geometry = {
        .cluster_bits = cluster_bits,
        .cluster_bytes = UINT32_C(1) << cluster_bits,
        .subclusters = has_extended_l2 ? 32 : 1,
        .entry_bytes = has_extended_l2 ? 16 : 8,
        .refcount_order = refcount_order,
    };
    geometry.subcluster_bytes = geometry.cluster_bytes / geometry.subclusters;
    geometry.l2_entries = geometry.cluster_bytes / geometry.entry_bytes;
    geometry.l2_span = (uint64_t)geometry.l2_entries << cluster_bits;
    geometry.refcount_max =
        refcount_order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << refcount_order)) - 1;
    geometry.block_entries = (geometry.cluster_bytes * 8) >> refcount_order;
    return geometry;
}

/* Refcount blocks are made ahead for so much of the file, as each new one costs a flush more. */
#define VD_QCOW2_AHEAD_BYTES  (UINT64_C(32) << 20)
#define VD_QCOW2_AHEAD_BLOCKS 48u

/* So many together, at most; 0: never more than one. */
static inline uint64_t vd_qcow2_blocks_ahead(const struct vd_qcow2_geometry *geometry)
{
    uint64_t span = (uint64_t)geometry->block_entries << geometry->cluster_bits;
    return vd_min(VD_QCOW2_AHEAD_BYTES / span, VD_QCOW2_AHEAD_BLOCKS);
}

/* How many L1 entries has a disk of @size bytes? */
static inline uint64_t vd_qcow2_l1_entries(const struct vd_qcow2_geometry *geometry, uint64_t size)
{
    return size / geometry->l2_span + (size % geometry->l2_span != 0);
}

static inline uint64_t vd_qcow2_l1_index(const struct vd_qcow2_geometry *geometry, uint64_t guest)
{
    return guest / geometry->l2_span;
}

static inline uint32_t vd_qcow2_l2_index(const struct vd_qcow2_geometry *geometry, uint64_t guest)
{
    return (uint32_t)(guest >> geometry->cluster_bits) & (geometry->l2_entries - 1);
}

/* The whole clusters that @bytes take. */
static inline uint64_t vd_qcow2_clusters(const struct vd_qcow2_geometry *geometry, uint64_t bytes)
{
    return (bytes >> geometry->cluster_bits) + ((bytes & (geometry->cluster_bytes - 1)) != 0);
}

#endif
