/* SPDX-License-Identifier: MIT */
/* Random numbers that are the same on every machine for the same seed (splitmix64's recurrence). */
#ifndef VT_RANDOM_H
#define VT_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct vt_random {
    uint64_t state; /* the seed, to begin with */
};

/* A bijection that spreads every bit of @value over all bits of the result. */
static inline uint64_t vt_mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static inline uint64_t vt_random_next(struct vt_random *random)
{
    random->state += 0x9e3779b97f4a7c15u;
    return vt_mix(random->state);
}

/* 0 .. @limit - 1; @limit at least 1 */
static inline uint64_t vt_random_below(struct vt_random *random, uint64_t limit)
{
    return vt_random_next(random) % limit;
}

/* true in @percent of 100 cases */
static inline bool vt_random_chance(struct vt_random *random, unsigned percent)
{
    return vt_random_below(random, 100) < percent;
}

static inline void vt_random_fill(struct vt_random *random, void *buf, size_t length)
{
    uint8_t *bytes = buf;
    while (length) {
        uint64_t word = vt_random_next(random);
        size_t step = length < sizeof(word) ? length : sizeof(word);
        memcpy(bytes, &word, step);
        bytes += step;
        length -= step;
    }
}

#endif
