/* SPDX-License-Identifier: MIT */
/*
 * A dirty bitmap in memory: which parts of a disk have been written?  One bit tells of one granule,
 * a power of two of bytes.
 *
 * B1  Rounding is outwards wherever bits are set, and inwards where they are cleared: a bit that is
 *     not set never hides a byte that was said to be dirty.
 * B2  Bits behind the end of the disk are never set.
 * B3  A page of bits that are all clear, or all set, takes no memory unless it was mixed before.
 * B4  set, has, next and dirty_bytes may run in any number of threads at once, without a lock: a
 *     page that is there stays there.  All others run alone.
 */
#ifndef VD_BITMAP_BITMAP_H
#define VD_BITMAP_BITMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "util/err.h"
#include "util/range.h"

#define VD_BITMAP_GRANULARITY_BITS_MIN 9u
#define VD_BITMAP_GRANULARITY_BITS_MAX 31u

/* The most bytes of bits that one bitmap may have: 512 MiB. */
#define VD_BITMAP_DATA_BYTES_MAX (UINT64_C(1) << 29)

struct vd_bitmap;

/* Memory that some bitmaps share.  used starts as 0. */
struct vd_bitmap_budget {
    uint64_t bytes_max;
    _Atomic uint64_t used;
};

/* Memory of others that counts, too.  take(): -ENOMEM */
int vd_bitmap_budget_take(struct vd_bitmap_budget *budget, uint64_t bytes, struct vdisk_error *err);
void vd_bitmap_budget_give(struct vd_bitmap_budget *budget, uint64_t bytes);

/* Bytes of bits for a disk: what is serialised.  The granularity is a legal one. */
static inline uint64_t vd_bitmap_bytes_for(uint64_t disk_bytes, uint32_t granularity_bits)
{
    return vd_div_up(vd_div_up(disk_bytes, UINT64_C(1) << granularity_bits), 8);
}

/*
 * A bitmap with no bit set.  @budget: outlives it.  -EFBIG: more than VD_BITMAP_DATA_BYTES_MAX;
 * -ENOMEM: no memory, or none in the budget.
 */
int vd_bitmap_new(uint64_t disk_bytes, uint32_t granularity_bits, struct vd_bitmap_budget *budget,
                  struct vd_bitmap **bitmap, struct vdisk_error *err);

/* The same bits once more, from the same budget. */
int vd_bitmap_copy(const struct vd_bitmap *from, struct vd_bitmap **bitmap,
                   struct vdisk_error *err);

/* NULL is accepted. */
void vd_bitmap_free(struct vd_bitmap *bitmap);

uint64_t vd_bitmap_disk_bytes(const struct vd_bitmap *bitmap);
uint32_t vd_bitmap_granularity_bits(const struct vd_bitmap *bitmap);

/* Sets the bit of each granule that @disk touches.  @disk: within the disk.  If memory runs out, a
 * part of the bits may be set. */
int vd_bitmap_set(struct vd_bitmap *bitmap, struct vd_range disk, struct vdisk_error *err);

/* Is the bit of each granule that @disk touches set?  Cheap: it reads one word a 64 granules. */
bool vd_bitmap_has(const struct vd_bitmap *bitmap, struct vd_range disk);

/* Clears the bit of each granule that lies in @disk as a whole, as far as the disk goes. */
int vd_bitmap_clear(struct vd_bitmap *bitmap, struct vd_range disk, struct vdisk_error *err);

void vd_bitmap_clear_all(struct vd_bitmap *bitmap);
void vd_bitmap_set_all(struct vd_bitmap *bitmap);

/*
 * The first run of granules within @disk that are all dirty (or all clean), cut to @disk; length 0
 * if there is none.
 */
struct vd_range vd_bitmap_next(const struct vd_bitmap *bitmap, struct vd_range disk, bool is_dirty);

/* The sum of all dirty runs. */
uint64_t vd_bitmap_dirty_bytes(const struct vd_bitmap *bitmap);

/* Sets what is dirty in @from, for a disk of the same size, too.  If memory runs out, a part of it
 * may be done. */
int vd_bitmap_merge(struct vd_bitmap *to, const struct vd_bitmap *from, struct vdisk_error *err);

/* What is added is clean; what is cut off is forgotten.  On failure nothing has changed. */
int vd_bitmap_resize(struct vd_bitmap *bitmap, uint64_t disk_bytes, struct vdisk_error *err);

/* --- serialised: bit n is bit n % 8, from the lowest, of byte n / 8 -----------------------------
 */

enum vd_bitmap_content {
    VD_BITMAP_ZEROS, /* no bit is set */
    VD_BITMAP_ONES,  /* all are, none of the bytes lies behind the last bit */
    VD_BITMAP_MIXED
};

/* What the serialised bytes [@part] hold; @part may reach behind the end. */
enum vd_bitmap_content vd_bitmap_part_content(const struct vd_bitmap *bitmap, struct vd_range part);

/* The serialised bytes [@part], with zeros behind the end.  part.offset: a multiple of 8. */
void vd_bitmap_store_part(const struct vd_bitmap *bitmap, struct vd_range part, uint8_t *bytes);

/* Replaces the serialised bytes [@part]; what is behind the end is left out.  part.offset: a
 * multiple of 8. */
int vd_bitmap_load_part(struct vd_bitmap *bitmap, struct vd_range part, const uint8_t *bytes,
                        struct vdisk_error *err);

/* Which part of the disk do the serialised bytes [@part] tell of?  Cut to the disk. */
struct vd_range vd_bitmap_part_disk(const struct vd_bitmap *bitmap, struct vd_range part);

#endif
