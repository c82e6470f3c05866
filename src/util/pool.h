/* SPDX-License-Identifier: MIT */
/* Threads that do what they are given, in the order in which it came; started when needed. */
#ifndef VD_UTIL_POOL_H
#define VD_UTIL_POOL_H

#include "util/err.h"

struct vd_pool;

/* A piece of work; part of something of the caller's, who keeps it until run() was called. */
struct vd_work {
    void (*run)(struct vd_work *work); /* the work is the callee's from here on */
    struct vd_work *next;              /* the pool's */
};

/* @threads: most at once, at least 1.  The first is started at once. */
int vd_pool_create(unsigned threads, struct vd_pool **pool, struct vdisk_error *err);

/* Any thread, never fails, never waits: a new thread is started if none is free and there may be
 * one more; if the system gives none, those that are there do it. */
void vd_pool_submit(struct vd_pool *pool, struct vd_work *work);

/* Does what has been submitted, and ends the threads.  NULL is accepted.  Nobody submits any more.
 */
void vd_pool_free(struct vd_pool *pool);

#endif
