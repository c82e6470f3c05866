/* SPDX-License-Identifier: MIT */
/* The time since some moment in the past, which nobody sets. */
#ifndef VD_UTIL_CLOCK_H
#define VD_UTIL_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t vd_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline uint64_t vd_clock_us(void)
{
    return vd_clock_ns() / 1000;
}

static inline uint64_t vd_clock_ms(void)
{
    return vd_clock_ns() / 1000000;
}

#endif
