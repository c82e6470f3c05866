/* SPDX-License-Identifier: MIT */
/* Arithmetic of add-cow: clusters, bits and bytes.  add-cow §2. */
#ifndef VD_FORMAT_ADDCOW_ADDCOW_GEOMETRY_H
#define VD_FORMAT_ADDCOW_ADDCOW_GEOMETRY_H

#include "format/addcow/addcow_disk.h"
#include "util/range.h"

#define VD_ADDCOW_HEADER_BYTES  4096u /* the bitmap begins here */
#define VD_ADDCOW_CLUSTER_BITS  16u
#define VD_ADDCOW_CLUSTER_BYTES (1u << VD_ADDCOW_CLUSTER_BITS)
#define VD_ADDCOW_SIZE_UNIT     512u

/* Bounds the bitmap to 128 GiB, and with it what a sparse file can make us allocate. */
#define VD_ADDCOW_CLUSTERS_MAX   (UINT64_C(1) << 40)

#define VD_ADDCOW_NAME_BYTES_MAX (VD_ADDCOW_HEADER_BYTES - sizeof(struct vd_addcow_disk_header))

/* The later header. */
#define VD_ADDCOW_LATER_CLUSTER_BITS_MIN 9u
#define VD_ADDCOW_LATER_CLUSTER_BITS_MAX 21u
#define VD_ADDCOW_LATER_HEADER_BYTES_MIN 4096u
#define VD_ADDCOW_LATER_HEADER_BYTES_MAX (1u << VD_ADDCOW_LATER_CLUSTER_BITS_MAX)
#define VD_ADDCOW_LATER_NAME_BYTES_MAX   4095u /* no path is longer */

static inline uint64_t vd_addcow_size_max(uint32_t cluster_bits)
{
    return VD_ADDCOW_CLUSTERS_MAX << cluster_bits;
}

/* Clusters of a disk of @size bytes; the last one may be incomplete. */
static inline uint64_t vd_addcow_clusters(uint64_t size, uint32_t cluster_bits)
{
    return vd_div_up(size, UINT64_C(1) << cluster_bits);
}

/* Bytes of the bitmap of @clusters. */
static inline uint64_t vd_addcow_bitmap_bytes(uint64_t clusters)
{
    return vd_div_up(clusters, 8);
}

/* The clusters that @guest, which is not empty, touches. */
static inline struct vd_range vd_addcow_clusters_of(struct vd_range guest, uint32_t cluster_bits)
{
    uint64_t first = guest.offset >> cluster_bits;
    return vd_range(first, ((vd_range_end(guest) - 1) >> cluster_bits) - first + 1);
}

/* Of the bits in the last byte of the bitmap of @clusters, those that have a cluster. */
static inline uint8_t vd_addcow_last_byte_mask(uint64_t clusters)
{
    unsigned used = (unsigned)(clusters % 8);
    unsigned mask = used ? (1u << used) - 1 : 0xFF;
    return (uint8_t)mask;
}

#endif
