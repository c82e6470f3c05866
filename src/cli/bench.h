/* SPDX-License-Identifier: MIT */
/*
 * The work of `vdisk bench`: so many requests of one size, so many at once, and how long they take.
 *
 * Where a request lies follows from its number alone, so that a run is the same whatever the
 * threads do.
 */
#ifndef VD_CLI_BENCH_H
#define VD_CLI_BENCH_H

#include "vdisk.h"

/* What to do.  The ranges are for the caller to check. */
struct vd_bench {
    struct vdisk_image *image;
    uint64_t size;           /* of the disk, at least @buffer_bytes                           */
    uint64_t count;          /* requests, below 2^31                                          */
    uint64_t buffer_bytes;   /* of a request                                                  */
    uint64_t step_bytes;     /* from a request to the next, below 2^31; random: from a place to
                                the next, at least 1                                          */
    uint64_t offset;         /* of the first one; random: no place is below, and one request
                                has to fit                                                    */
    uint64_t seed;           /* random: equal seeds make equal runs                           */
    uint64_t flush_interval; /* a flush whenever a multiple of it is left to do; 0: none      */
    unsigned depth;          /* threads, each with one request at a time                      */
    uint8_t pattern;         /* the byte that is written                                      */
    bool is_write, is_random;
    bool drains; /* a flush waits for the requests under way, and the next ones wait for it */
};

struct vd_bench_result {
    double seconds; /* from before the first request until after the last one */
    uint64_t flushes;
};

/* Returns 0, or the error of the first request that failed: those after it are not made. */
int vd_bench_run(const struct vd_bench *bench, struct vd_bench_result *result,
                 struct vdisk_error *err);

/* Where request @number lies. */
uint64_t vd_bench_offset(const struct vd_bench *bench, uint64_t number);

#endif
