/* SPDX-License-Identifier: MIT */
/*
 * Keeps requests that allocate the same clusters apart; all others pass without waiting for each
 * other's I/O.
 */
#ifndef VD_IMAGE_GUARD_H
#define VD_IMAGE_GUARD_H

#include "util/mutex.h"
#include "util/range.h"

/* A stretch of the disk that a request is allocating; lives on the stack of the request. */
struct vd_guard_range {
    struct vd_range clusters;
    struct vd_guard_range *next;
};

struct vd_guard {
    struct vd_mutex lock;
    struct vd_cond released;
    struct vd_guard_range *held; /* under lock */
};

void vd_guard_init(struct vd_guard *guard);
void vd_guard_destroy(struct vd_guard *guard);

/* Waits until nothing held overlaps @clusters, then holds them by way of @mine. */
void vd_guard_hold(struct vd_guard *guard, struct vd_guard_range *mine, struct vd_range clusters);

void vd_guard_release(struct vd_guard *guard, struct vd_guard_range *mine);

#endif
