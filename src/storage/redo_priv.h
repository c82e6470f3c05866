/* SPDX-License-Identifier: MIT */
/*
 * The log of a redo (storage/redo.h), for the files of it only.
 *
 * The log is in units of a block: the header, then the slots, each with the whole block of the file
 * that it is for, then the index.  The header has the digest of the index, and the index those of
 * the slots, so the digest of the header is one of every byte.
 */
#ifndef VD_STORAGE_REDO_PRIV_H
#define VD_STORAGE_REDO_PRIV_H

#include "storage/driver.h"
#include "storage/redo.h"
#include "util/endian.h"

#define VD_REDO_BLOCK_BYTES 65536u

/*
 * What a block is, as a number: 0: as it is below, and zero past what shows of that; else a slot
 * counted from 1, or none, and whether it is zero all the same.  A block keeps its slot, so nobody
 * who reads from a slot finds another block there.
 */
#define VD_REDO_ZERO      0x80000000u
#define VD_REDO_SLOT_MASK 0x7fffffffu

/* Numbers of blocks, in pages that are made when they are needed. */
struct vd_redo_map {
    uint32_t **pages;
    size_t page_entries;
};

/* 0 if nothing was ever set. */
uint32_t vd_redo_map_get(const struct vd_redo_map *map, uint64_t block);

/* Makes room, so that setting @block can not fail any more. */
int vd_redo_map_reserve(struct vd_redo_map *map, uint64_t block, struct vdisk_error *err);

/* There is room. */
void vd_redo_map_set(struct vd_redo_map *map, uint64_t block, uint32_t value);

/* One more than the last block for which there is room. */
uint64_t vd_redo_map_end(const struct vd_redo_map *map);

void vd_redo_map_free(struct vd_redo_map *map);

struct vd_redo {
    struct vd_storage *below;
    struct vd_storage *log;
    enum vd_digest_kind kind;
    uint64_t old_bytes; /* of below */

    struct vd_mutex change_lock; /* held during a change, I/O included: one at a time */
    uint64_t *slot_blocks;       /* owned: which block a slot is for; under change_lock */
    size_t slots;                /* under change_lock */
    size_t slot_room;            /* under change_lock */
    bool is_finished;            /* under change_lock */

    struct vd_mutex lock; /* changed under change_lock too */
    struct vd_redo_map map;
    uint64_t size;
    uint64_t below_bytes; /* so much of below shows: the least size that there was */
};

/* Of a storage that vd_redo_open() has made. */
struct vd_redo *vd_redo_of(struct vd_storage *storage);

static inline uint64_t vd_redo_slot_offset(uint64_t slot)
{
    return (slot + 1) * VD_REDO_BLOCK_BYTES;
}

/* --- in the log ---------------------------------------------------------------------------------
 */

#define VD_REDO_MAGIC   "vdiskLOG"
#define VD_REDO_VERSION 1u

/* The first bytes of the first block; the rest of that is zero. */
struct vd_redo_header {
    uint8_t magic[8];
    struct le32 version;
    struct le32 kind; /* of digests */
    struct le64 slots;
    struct le64 zero_runs;
    struct le64 old_bytes;   /* of the file before, */
    struct le64 least_bytes; /* in between: what was behind is gone, */
    struct le64 new_bytes;   /* and after */
    uint8_t index_digest[VD_DIGEST_BYTES_MAX];
};

/* The index: for each slot this and its digest; then the runs of blocks that are zero. */
#define VD_REDO_DEAD_SLOT UINT64_MAX /* in place of the number of a block */

struct vd_redo_zero_run {
    struct le64 block;
    struct le64 blocks;
};

static inline size_t vd_redo_entry_bytes(enum vd_digest_kind kind)
{
    return sizeof(struct le64) + vd_digest_bytes(kind);
}

#endif
