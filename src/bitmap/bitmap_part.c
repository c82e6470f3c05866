/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps as bytes, by parts of any length. */
#include <assert.h>
#include <string.h>

#include "bitmap/bitmap_priv.h"
#include "util/endian.h"

#define WORD_BYTES (WORD_BITS / 8)

/* The bits that [@part] of the bytes stands for, cut to those there are. */
static uint64_t bits_of_part(const struct vd_bitmap *bitmap, struct vd_range part, uint64_t *first)
{
    *first = vd_min(part.offset * 8, bitmap->bits);
    return vd_min(vd_range_end(part) * 8, bitmap->bits) - *first;
}

struct vd_range vd_bitmap_part_disk(const struct vd_bitmap *bitmap, struct vd_range part)
{
    uint64_t first;
    uint64_t count = bits_of_part(bitmap, part, &first);
    uint64_t start = vd_min(first << bitmap->granularity_bits, bitmap->disk_bytes);
    uint64_t end = vd_min((first + count) << bitmap->granularity_bits, bitmap->disk_bytes);
    return vd_range(start, end - start);
}

enum vd_bitmap_content vd_bitmap_part_content(const struct vd_bitmap *bitmap, struct vd_range part)
{
    struct vd_range disk = vd_bitmap_part_disk(bitmap, part);
    if (vd_bitmap_next(bitmap, disk, true).length == 0)
        return VD_BITMAP_ZEROS;
    uint64_t first;
    if (bits_of_part(bitmap, part, &first) == part.length * 8 && vd_bitmap_has(bitmap, disk))
        return VD_BITMAP_ONES;
    return VD_BITMAP_MIXED;
}

void vd_bitmap_store_part(const struct vd_bitmap *bitmap, struct vd_range part, uint8_t *bytes)
{
    assert(part.offset % WORD_BYTES == 0);
    uint64_t first = part.offset * 8;
    uint64_t left = part.length;
    while (left) {
        uint64_t word = 0;
        if (first < bitmap->bits)
            word = bitmap_word_of(bitmap, (size_t)(first / PAGE_BITS),
                                  (unsigned)(first % PAGE_BITS / WORD_BITS));
        struct le64 disk = le64_of(word);
        size_t here = (size_t)vd_min(left, sizeof(disk));
        memcpy(bytes, &disk, here);
        bytes += here;
        left -= here;
        first += WORD_BITS;
    }
}

/* Replaces the bits of @mask in word @word of page @index. */
static int load_word(struct vd_bitmap *bitmap, size_t index, unsigned word, uint64_t mask,
                     uint64_t value, struct vdisk_error *err)
{
    if (((bitmap_word_of(bitmap, index, word) ^ value) & mask) == 0)
        return 0; /* pages of zeros stay away */
    struct bitmap_page *page = vd_bitmap_real_page(bitmap, index, err);
    if (!page)
        return -ENOMEM;
    uint64_t old = atomic_load_explicit(&page->words[word], memory_order_relaxed);
    atomic_store_explicit(&page->words[word], (old & ~mask) | (value & mask), memory_order_relaxed);
    return 0;
}

int vd_bitmap_load_part(struct vd_bitmap *bitmap, struct vd_range part, const uint8_t *bytes,
                        struct vdisk_error *err)
{
    assert(part.offset % WORD_BYTES == 0);
    uint64_t first;
    uint64_t count = bits_of_part(bitmap, part, &first);
    int ret = 0;
    while (count && ret == 0) {
        uint64_t here = vd_min(count, WORD_BITS);
        struct le64 disk = {0};
        memcpy(&disk, bytes, (size_t)vd_div_up(here, 8));
        uint64_t mask = here == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << here) - 1; /* B2 */
        ret = load_word(bitmap, (size_t)(first / PAGE_BITS),
                        (unsigned)(first % PAGE_BITS / WORD_BITS), mask, le64_get(disk), err);
        bytes += WORD_BYTES;
        first += here;
        count -= here;
    }
    return ret;
}
