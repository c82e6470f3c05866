/* SPDX-License-Identifier: MIT */
/* A run of bytes, and arithmetic on sizes that can not wrap unnoticed. */
#ifndef VD_UTIL_RANGE_H
#define VD_UTIL_RANGE_H

#include <stdbool.h>
#include <stdint.h>

/* Passed by value, so that an offset and a length are never swapped in a call. */
struct vd_range {
    uint64_t offset; /* bytes */
    uint64_t length; /* bytes */
};

static inline struct vd_range vd_range(uint64_t offset, uint64_t length)
{
    return (struct vd_range){.offset = offset, .length = length};
}

/* The first byte behind @range; the caller knows that it does not wrap. */
static inline uint64_t vd_range_end(struct vd_range range)
{
    return range.offset + range.length;
}

/* Does @range lie inside the first @size bytes?  Right for any values, wrapping ones too. */
static inline bool vd_range_is_within(struct vd_range range, uint64_t size)
{
    return range.offset <= size && range.length <= size - range.offset;
}

static inline bool vd_ranges_overlap(struct vd_range a, struct vd_range b)
{
    return a.offset < vd_range_end(b) && b.offset < vd_range_end(a);
}

static inline uint64_t vd_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t vd_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* @unit: a power of two. */
static inline uint64_t vd_round_down(uint64_t value, uint64_t unit)
{
    return value & ~(unit - 1);
}

/* @unit: a power of two; the caller knows that the result does not wrap. */
static inline uint64_t vd_round_up(uint64_t value, uint64_t unit)
{
    return vd_round_down(value + unit - 1, unit);
}

static inline bool vd_is_aligned(uint64_t value, uint64_t unit)
{
    return (value & (unit - 1)) == 0;
}

static inline uint64_t vd_div_up(uint64_t value, uint64_t divisor)
{
    return value / divisor + (value % divisor != 0);
}

/* The smallest range of whole @unit bytes (a power of two) that covers @range. */
static inline struct vd_range vd_range_expand(struct vd_range range, uint64_t unit)
{
    uint64_t start = vd_round_down(range.offset, unit);
    return vd_range(start, vd_round_up(vd_range_end(range), unit) - start);
}

#endif
