/* SPDX-License-Identifier: MIT */
/* All arithmetic of GOW: where things lie in the file.  Pure functions; gow §2. */
#ifndef VD_FORMAT_GOW_GOW_GEOMETRY_H
#define VD_FORMAT_GOW_GOW_GEOMETRY_H

#include "format/gow/gow_disk.h"
#include "util/range.h"

#define VD_GOW_BLOCK_BYTES   65536u
#define VD_GOW_SIZE_UNIT     512u                  /* the size of the disk is a multiple of it */
#define VD_GOW_ENTRY_BYTES   4u                    /* of the map and of the versions */
#define VD_GOW_REGION_BYTES  (UINT64_C(128) << 20) /* of the disk: one intent bit.  gow §5.2 */
#define VD_GOW_REGION_BLOCKS 2048u
#define VD_GOW_REGIONS       (VD_GOW_INTENT_BYTES * 8u)
#define VD_GOW_HOSTS_MAX     (1u << 26) /* host blocks of a file that may be used.  gow §4.1 */

static_assert(VD_GOW_REGION_BYTES == (uint64_t)VD_GOW_REGION_BLOCKS * VD_GOW_BLOCK_BYTES, "gow §2");

/* What follows from the version of the format.  Offsets are bytes of the file. */
struct vd_gow_layout {
    uint32_t version;         /* 1, 2 or 3 */
    uint32_t map_entries;     /* of the map, and of the block versions if there are any */
    uint64_t size_max;        /* of the disk, in bytes */
    uint64_t map_offset;      /* of the map */
    uint64_t versions_offset; /* of the block versions; 0: version 1 and 2 have none */
    uint64_t data_offset;     /* of host block 0 */
};

static inline bool vd_gow_version_is_known(uint32_t version)
{
    return version >= 1 && version <= 3;
}

/* @version is known. */
static inline struct vd_gow_layout vd_gow_layout_of(uint32_t version)
{
    assert(vd_gow_version_is_known(version));
    struct vd_gow_layout layout = {.version = version};
    layout.map_entries = version == 1 ? 1u << 20 : 1u << 22;
    layout.size_max = (uint64_t)layout.map_entries * VD_GOW_BLOCK_BYTES;
    layout.map_offset = version == 3 ? VD_GOW_HEAD_BYTES : VD_GOW_HEADER_BYTES;

    uint64_t table_bytes = (uint64_t)layout.map_entries * VD_GOW_ENTRY_BYTES;
    uint64_t end = layout.map_offset + table_bytes;
    if (version == 3) {
        layout.versions_offset = end;
        end += table_bytes;
    }
    layout.data_offset = version == 1 ? end : vd_round_up(end, 512);
    return layout;
}

/* The bytes of the map, and of the block versions: the length does not depend on the disk. */
static inline uint64_t vd_gow_table_bytes(const struct vd_gow_layout *layout)
{
    return (uint64_t)layout->map_entries * VD_GOW_ENTRY_BYTES;
}

static inline uint32_t vd_gow_block_of(uint64_t guest_offset)
{
    return (uint32_t)(guest_offset / VD_GOW_BLOCK_BYTES);
}

static inline uint64_t vd_gow_guest_offset(uint32_t block)
{
    return (uint64_t)block * VD_GOW_BLOCK_BYTES;
}

/* Blocks of a disk of @size bytes, a last incomplete one included. */
static inline uint32_t vd_gow_block_count(uint64_t size)
{
    return (uint32_t)vd_div_up(size, VD_GOW_BLOCK_BYTES);
}

static inline uint32_t vd_gow_region_of(uint32_t block)
{
    return block / VD_GOW_REGION_BLOCKS;
}

static inline uint64_t vd_gow_map_entry_offset(const struct vd_gow_layout *layout, uint32_t block)
{
    return layout->map_offset + (uint64_t)block * VD_GOW_ENTRY_BYTES;
}

/* @layout has versions. */
static inline uint64_t vd_gow_version_entry_offset(const struct vd_gow_layout *layout,
                                                   uint32_t block)
{
    return layout->versions_offset + (uint64_t)block * VD_GOW_ENTRY_BYTES;
}

/* Where host block @host begins in the file: less than 2^49 for any value. */
static inline uint64_t vd_gow_host_offset(const struct vd_gow_layout *layout, uint32_t host)
{
    return layout->data_offset + (uint64_t)host * VD_GOW_BLOCK_BYTES;
}

/* The length of a file that ends with @hosts host blocks. */
static inline uint64_t vd_gow_file_bytes(const struct vd_gow_layout *layout, uint32_t hosts)
{
    return vd_gow_host_offset(layout, hosts);
}

/* Host blocks that lie wholly within a file of @file_bytes and may be used. */
static inline uint32_t vd_gow_host_count(const struct vd_gow_layout *layout, uint64_t file_bytes)
{
    if (file_bytes < layout->data_offset)
        return 0;
    return (uint32_t)vd_min((file_bytes - layout->data_offset) / VD_GOW_BLOCK_BYTES,
                            VD_GOW_HOSTS_MAX);
}

/* Bytes of the file behind its last whole host block. */
static inline uint64_t vd_gow_tail_bytes(const struct vd_gow_layout *layout, uint64_t file_bytes)
{
    if (file_bytes < layout->data_offset)
        return 0;
    return (file_bytes - layout->data_offset) % VD_GOW_BLOCK_BYTES;
}

#endif
