/* SPDX-License-Identifier: MIT */
/*
 * In which order points go.
 *
 * The points that go form trees, as do all; those that stay and lie on one of them are the tops of
 * its tree.  One after the other they are brought down onto what stays below; where nothing does,
 * onto the lowest of them, which becomes a full one itself: so a full point is not copied for each
 * of them.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "backup/prune.h"
#include "util/mem.h"

/* So many points are removed at once, if nothing else is to be done. */
#define REMOVES_MAX 64u

bool vd_prune_goes(const struct vd_prune *prune, uint64_t number)
{
    size_t from = 0, to = prune->goes_entries;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (prune->goes[middle] == number)
            return true;
        if (prune->goes[middle] < number)
            from = middle + 1;
        else
            to = middle;
    }
    return false;
}

static const struct vd_point *parent_of(const struct vd_prune *prune, const struct vd_point *point)
{
    if (point->is_damaged || !point->manifest.parent)
        return NULL;
    return vd_repository_point_of(prune->repository, point->manifest.parent);
}

/* ---- Points that nobody needs ---- */

/* Marks those below each that stays. */
static void mark_needed(const struct vd_prune *prune, bool *is_needed)
{
    const struct vdisk_repository *repository = prune->repository;
    for (size_t i = repository->point_entries; i-- > 0;) {
        const struct vd_point *point = &repository->points[i];
        const struct vd_point *parent = parent_of(prune, point);
        if (parent && (is_needed[i] || !vd_prune_goes(prune, point->number)))
            is_needed[parent - repository->points] = true;
    }
}

/* The highest ones first, so that at any instant nobody lies on one that is gone. */
static size_t find_unneeded(const struct vd_prune *prune, uint64_t numbers[REMOVES_MAX],
                            const bool *is_needed)
{
    const struct vdisk_repository *repository = prune->repository;
    size_t entries = 0;
    for (size_t i = repository->point_entries; i-- > 0 && entries < REMOVES_MAX;)
        if (!is_needed[i] && vd_prune_goes(prune, repository->points[i].number))
            numbers[entries++] = repository->points[i].number;
    return entries;
}

static int sweep(struct vd_prune *prune, struct vdisk_error *err)
{
    uint64_t numbers[REMOVES_MAX];
    size_t entries;
    int ret;
    do {
        CLEANUP_FREE bool *is_needed =
            vd_alloc_array(prune->repository->point_entries, sizeof(*is_needed));
        if (!is_needed)
            return vd_err_nomem(err, "which points are needed");
        mark_needed(prune, is_needed);
        entries = find_unneeded(prune, numbers, is_needed);
        ret = entries ? vd_job_phase(&prune->job, "merge", 0, 0, err) : 0;
        if (ret == 0 && entries)
            ret = vd_prune_remove(prune, numbers, entries, err);
    } while (ret == 0 && entries == REMOVES_MAX);
    return ret;
}

/* ---- Points that lie on one that goes ---- */

static bool is_top(const struct vd_prune *prune, const struct vd_point *point)
{
    return !vd_prune_goes(prune, point->number) && parent_of(prune, point) &&
           vd_prune_goes(prune, point->manifest.parent);
}

/* The lowest one that goes of those below the top. */
static const struct vd_point *root_of(const struct vd_prune *prune, const struct vd_point *top)
{
    const struct vd_point *root = parent_of(prune, top), *next;
    while ((next = parent_of(prune, root)) && vd_prune_goes(prune, next->number))
        root = next;
    return root;
}

/* The lowest top of all, or, with @after, the next one of the same tree; NULL: there is none. */
static const struct vd_point *find_top(const struct vd_prune *prune, const struct vd_point *after)
{
    const struct vdisk_repository *repository = prune->repository;
    for (size_t i = 0; i < repository->point_entries; i++) {
        const struct vd_point *point = &repository->points[i];
        if (!is_top(prune, point))
            continue;
        if (!after ||
            (point->number > after->number && root_of(prune, point) == root_of(prune, after)))
            return point;
    }
    return NULL;
}

/* Is @point below @top? */
static bool is_below(const struct vd_prune *prune, const struct vd_point *point,
                     const struct vd_point *top)
{
    for (top = parent_of(prune, top); top; top = parent_of(prune, top))
        if (top == point)
            return true;
    return false;
}

/* The highest one that both lie on. */
static const struct vd_point *common_of(const struct vd_prune *prune, const struct vd_point *a,
                                        const struct vd_point *b)
{
    do
        a = parent_of(prune, a);
    while (a && !is_below(prune, a, b));
    return a;
}

/* Those that go between the top and what stays below it: nobody else needs them. */
static int rewrite_alone(struct vd_rewrite *rewrite, struct vdisk_error *err)
{
    struct vd_prune *prune = rewrite->prune;
    CLEANUP_FREE uint64_t *removes =
        vd_alloc_array(prune->repository->point_entries, sizeof(*removes));
    if (!removes)
        return vd_err_nomem(err, "which points are removed");
    const struct vd_point *at = parent_of(prune, rewrite->point);
    for (; at && at != rewrite->onto; at = parent_of(prune, at))
        removes[rewrite->remove_entries++] = at->number;
    rewrite->removes = removes;
    return vd_rewrite_prefers_redo(rewrite) ? vd_rewrite_redo(rewrite, err)
                                            : vd_rewrite_new(rewrite, err);
}

static int bring_down(struct vd_prune *prune, const struct vd_point *top, struct vdisk_error *err)
{
    struct vd_rewrite rewrite = {
        .prune = prune, .point = top, .onto = parent_of(prune, root_of(prune, top))};
    const struct vd_point *other = find_top(prune, top);
    if (!other)
        return rewrite_alone(&rewrite, err);
    if (!rewrite.onto) {
        rewrite.point = other;
        rewrite.onto = top;
        rewrite.beside = common_of(prune, other, top);
    }
    return vd_rewrite_new(&rewrite, err);
}

int vd_prune_run(struct vd_prune *prune, struct vdisk_error *err)
{
    const struct vd_point *top;
    int ret = sweep(prune, err);
    while (ret == 0 && (top = find_top(prune, NULL))) {
        ret = bring_down(prune, top, err);
        if (ret == 0)
            ret = sweep(prune, err);
    }
    return ret;
}
