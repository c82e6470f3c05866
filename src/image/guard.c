/* SPDX-License-Identifier: MIT */
/* Keeps requests that allocate the same clusters apart. */
#include "image/guard.h"

void vd_guard_init(struct vd_guard *guard)
{
    vd_mutex_init(&guard->lock);
    vd_cond_init(&guard->released);
    guard->held = NULL;
}

void vd_guard_destroy(struct vd_guard *guard)
{
    assert(!guard->held);
    vd_cond_destroy(&guard->released);
    vd_mutex_destroy(&guard->lock);
}

static bool is_held(const struct vd_guard *guard, struct vd_range clusters)
{
    for (const struct vd_guard_range *held = guard->held; held; held = held->next)
        if (vd_ranges_overlap(held->clusters, clusters))
            return true;
    return false;
}

void vd_guard_hold(struct vd_guard *guard, struct vd_guard_range *mine, struct vd_range clusters)
{
    vd_mutex_lock(&guard->lock);
    while (is_held(guard, clusters))
        vd_cond_wait(&guard->released, &guard->lock);
    mine->clusters = clusters;
    mine->next = guard->held;
    guard->held = mine;
    vd_mutex_unlock(&guard->lock);
}

void vd_guard_release(struct vd_guard *guard, struct vd_guard_range *mine)
{
    vd_mutex_lock(&guard->lock);
    struct vd_guard_range **link = &guard->held;
    while (*link != mine)
        link = &(*link)->next;
    *link = mine->next;
    vd_cond_broadcast(&guard->released);
    vd_mutex_unlock(&guard->lock);
}
