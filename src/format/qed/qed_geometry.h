/* SPDX-License-Identifier: MIT */
/* All arithmetic of QED: clusters, tables, limits.  Pure functions; qed §2. */
#ifndef VD_FORMAT_QED_QED_GEOMETRY_H
#define VD_FORMAT_QED_QED_GEOMETRY_H

#include "format/qed/qed_disk.h"
#include "util/range.h"

/*
 * No disk is larger, whatever its tables could map: offsets stay what the system can name, and
 * rounding one up to a cluster does not wrap.
 */
#define VD_QED_SIZE_MAX ((uint64_t)INT64_MAX & ~(uint64_t)(VD_QED_SIZE_UNIT - 1))

/* What follows from the sizes of clusters and tables. */
struct vd_qed_geometry {
    uint32_t cluster_bytes;
    uint32_t table_clusters;
    uint32_t table_entries; /* of L1, and of each L2 table: at most 2^27 */
    uint64_t table_bytes;   /* at most 2^30 */
    uint64_t table_span;    /* bytes of the disk that one L2 table maps: at most 2^53 */
    uint64_t size_max;      /* of the disk */
};

static inline bool vd_qed_is_power_of_two(uint32_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static inline bool vd_qed_cluster_bytes_is_legal(uint32_t cluster_bytes)
{
    return vd_qed_is_power_of_two(cluster_bytes) && cluster_bytes >= VD_QED_CLUSTER_BYTES_MIN &&
           cluster_bytes <= VD_QED_CLUSTER_BYTES_MAX;
}

static inline bool vd_qed_table_clusters_is_legal(uint32_t table_clusters)
{
    return vd_qed_is_power_of_two(table_clusters) && table_clusters <= VD_QED_TABLE_CLUSTERS_MAX;
}

/* Both are legal. */
static inline struct vd_qed_geometry vd_qed_geometry_of(uint32_t cluster_bytes,
                                                        uint32_t table_clusters)
{
    assert(vd_qed_cluster_bytes_is_legal(cluster_bytes));
    assert(vd_qed_table_clusters_is_legal(table_clusters));
    struct vd_qed_geometry geometry = {
        .cluster_bytes = cluster_bytes,
        .table_clusters = table_clusters,
        .table_bytes = (uint64_t)cluster_bytes * table_clusters,
    };
    geometry.table_entries = (uint32_t)(geometry.table_bytes / VD_QED_ENTRY_BYTES);
    geometry.table_span = (uint64_t)geometry.table_entries * cluster_bytes;
    /* The product is 2^64 for 4 MiB clusters already, and up to 2^80. */
    geometry.size_max = geometry.table_span > VD_QED_SIZE_MAX / geometry.table_entries
                            ? VD_QED_SIZE_MAX
                            : geometry.table_span * geometry.table_entries;
    return geometry;
}

/* The L1 entry for a byte of the disk, and the L2 entry in its table. */
static inline uint32_t vd_qed_l1_index(const struct vd_qed_geometry *geometry,
                                       uint64_t guest_offset)
{
    return (uint32_t)(guest_offset / geometry->table_span);
}

static inline uint32_t vd_qed_l2_index(const struct vd_qed_geometry *geometry,
                                       uint64_t guest_offset)
{
    return (uint32_t)(guest_offset % geometry->table_span / geometry->cluster_bytes);
}

/* The byte of the disk that these two entries are for; the caller knows that a disk may have it. */
static inline uint64_t vd_qed_guest_offset(const struct vd_qed_geometry *geometry,
                                           uint32_t l1_index, uint32_t l2_index)
{
    return (uint64_t)l1_index * geometry->table_span + (uint64_t)l2_index * geometry->cluster_bytes;
}

/* Clusters of a disk of @size bytes, a last incomplete one included. */
static inline uint64_t vd_qed_cluster_count(const struct vd_qed_geometry *geometry, uint64_t size)
{
    return vd_div_up(size, geometry->cluster_bytes);
}

/* L1 entries that a disk of @size bytes uses. */
static inline uint32_t vd_qed_table_count(const struct vd_qed_geometry *geometry, uint64_t size)
{
    return (uint32_t)vd_div_up(size, geometry->table_span);
}

static inline bool vd_qed_size_is_legal(const struct vd_qed_geometry *geometry, uint64_t size)
{
    return size <= geometry->size_max && vd_is_aligned(size, VD_QED_SIZE_UNIT);
}

/* May the cluster at @offset hold data or a table, as far as the header tells? */
static inline bool vd_qed_offset_is_legal(const struct vd_qed_geometry *geometry,
                                          uint64_t header_bytes, uint64_t offset)
{
    return offset >= header_bytes && vd_is_aligned(offset, geometry->cluster_bytes);
}

/* Does a table at @offset lie behind the header and within @file_bytes? */
static inline bool vd_qed_table_is_within(const struct vd_qed_geometry *geometry,
                                          uint64_t header_bytes, uint64_t file_bytes,
                                          uint64_t offset)
{
    return vd_qed_offset_is_legal(geometry, header_bytes, offset) &&
           vd_range_is_within(vd_range(offset, geometry->table_bytes), file_bytes);
}

/* The same for a cluster. */
static inline bool vd_qed_cluster_is_within(const struct vd_qed_geometry *geometry,
                                            uint64_t header_bytes, uint64_t file_bytes,
                                            uint64_t offset)
{
    return vd_qed_offset_is_legal(geometry, header_bytes, offset) &&
           vd_range_is_within(vd_range(offset, geometry->cluster_bytes), file_bytes);
}

#endif
