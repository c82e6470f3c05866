/* SPDX-License-Identifier: MIT */
/* vdisk_repository_prune() and vdisk_repository_merge(): what goes. */
#include "backup/prune.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "backup/journal.h"
#include "backup/keep.h"
#include "backup/prune_damage.h"
#include "util/mem.h"

void vd_prune_tell(const struct vd_prune *prune, const char *fmt, ...)
{
    struct vdisk_error line; /* as long as a message may be */
    va_list args;
    if (!prune->options->report)
        return;
    va_start(args, fmt);
    vsnprintf(line.message, sizeof(line.message), fmt, args);
    va_end(args);
    prune->options->report(prune->options->opaque, line.message);
}

/* ---- What goes ---- */

/* Points that are left alone for a damage get their mark; each damage is told. */
static void mark_untouched(const struct vd_prune *prune, bool *is_bad, bool *is_untouched)
{
    const struct vdisk_repository *repository = prune->repository;
    for (size_t i = 0; i < repository->point_entries; i++) {
        struct vdisk_error why = {0};
        size_t first, end;
        is_bad[i] = vd_prune_is_bad(repository, i, &why);
        if (!is_bad[i])
            continue;
        vd_prune_find_chain(repository, i, &first, &end);
        vd_prune_tell(prune, "points %" PRIu64 " to %" PRIu64 " are left as they are: %s",
                      repository->points[first].number, repository->points[end - 1].number,
                      why.message);
        while (first < end)
            is_untouched[first++] = true;
    }
}

/* Those that can be used are what the policy chooses from. */
static int choose_kept(const struct vd_prune *prune, const bool *is_bad, bool *keep,
                       struct vdisk_error *err)
{
    const struct vdisk_repository *repository = prune->repository;
    size_t count = repository->point_entries, good = 0;
    struct vd_keep_policy policy = {.last = prune->options->keep_last,
                                    .daily = prune->options->keep_daily,
                                    .weekly = prune->options->keep_weekly};
    CLEANUP_FREE int64_t *created = vd_alloc_array(count, sizeof(*created));
    if (!created)
        return vd_err_nomem(err, "which points are kept");
    for (size_t i = 0; i < count; i++)
        if (!is_bad[i])
            created[good++] = repository->points[i].manifest.created;
    int ret = vd_keep_choose(created, good, &policy, keep, err);
    /* From the place among the good ones to that among all. */
    for (size_t i = count; i-- > 0;)
        keep[i] = is_bad[i] || keep[--good];
    return ret;
}

static int choose_to_prune(struct vd_prune *prune, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = prune->repository;
    size_t count = repository->point_entries;
    CLEANUP_FREE bool *is_bad = vd_alloc_array(count, sizeof(*is_bad));
    CLEANUP_FREE bool *is_untouched = vd_alloc_array(count, sizeof(*is_untouched));
    CLEANUP_FREE bool *keep = vd_alloc_array(count, sizeof(*keep));
    prune->goes = vd_alloc_array(count, sizeof(*prune->goes));
    if (!is_bad || !is_untouched || !keep || !prune->goes)
        return vd_err_nomem(err, "which points are kept");
    mark_untouched(prune, is_bad, is_untouched);
    int ret = choose_kept(prune, is_bad, keep, err);
    for (size_t i = 0; i < count && ret == 0; i++)
        if (!keep[i] && !is_untouched[i])
            prune->goes[prune->goes_entries++] = repository->points[i].number;
    return ret;
}

/* Nothing is merged where a damaged point may need it. */
static int check_chain(const struct vdisk_repository *repository, size_t index,
                       struct vdisk_error *err)
{
    size_t first, end;
    vd_prune_find_chain(repository, index, &first, &end);
    for (size_t i = first; i < end; i++)
        if (vd_prune_is_bad(repository, i, err))
            return vd_err_prefix(
                err, -EBADMSG, "points %" PRIu64 " to %" PRIu64 " are left as they are: ",
                repository->points[first].number, repository->points[end - 1].number);
    return 0;
}

static int choose_to_merge(struct vd_prune *prune, size_t first, size_t last,
                           struct vdisk_error *err)
{
    const struct vdisk_repository *repository = prune->repository;
    if (first >= repository->point_entries || last >= repository->point_entries)
        return vd_err_set(err, EINVAL, "%s: point %zu of %zu: there is none", repository->name,
                          vd_max(first, last), repository->point_entries);
    int ret = check_chain(repository, last, err);
    if (ret < 0)
        return ret;
    uint64_t lowest = repository->points[first].number, number = repository->points[last].number;
    const struct vd_point *point = &repository->points[last];
    prune->goes = vd_alloc_array(repository->point_entries, sizeof(*prune->goes));
    if (!prune->goes)
        return vd_err_nomem(err, "which points are merged");
    size_t at = repository->point_entries;
    while (point->number > lowest && point->manifest.parent) {
        point = vd_repository_point_of(repository, point->manifest.parent);
        prune->goes[--at] = point->number;
    }
    if (first == last || point->number != lowest)
        return vd_err_set(err, EINVAL,
                          "%s: point %" PRIu64 " does not lie on point %" PRIu64
                          ": they can not be merged",
                          repository->name, number, lowest);
    for (; at < repository->point_entries; at++)
        prune->goes[prune->goes_entries++] = prune->goes[at];
    return 0;
}

/* ---- The whole ---- */

static uint64_t stored_bytes(const struct vdisk_repository *repository)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < repository->point_entries; i++)
        if (!repository->points[i].is_damaged)
            bytes += vd_manifest_stored_bytes(&repository->points[i].manifest);
    return bytes;
}

static void tell_only(struct vd_prune *prune)
{
    for (size_t i = 0; i < prune->goes_entries; i++)
        vd_prune_tell(prune, "point %" PRIu64 " would be removed", prune->goes[i]);
    prune->removed_points = prune->goes_entries;
}

/* What is to go has been chosen. */
static int run(struct vd_prune *prune, struct vdisk_prune_result *result, struct vdisk_error *err)
{
    const struct vdisk_prune_options *options = prune->options;
    uint64_t before = stored_bytes(prune->repository);
    int ret = 0;
    if (options->flags & VDISK_PRUNE_DRY_RUN) {
        tell_only(prune);
    } else {
        vd_job_init(&prune->job, options->progress, options->opaque, 0);
        ret = vd_prune_run(prune, err);
        if (ret == 0 && prune->goes_entries)
            (void)vd_job_finish(&prune->job, NULL); /* too late to cancel: it is done */
        vd_job_destroy(&prune->job);
    }
    if (result) {
        result->removed_points = prune->removed_points;
        result->moved_bytes = prune->moved_bytes;
        result->freed_bytes = (int64_t)(before - stored_bytes(prune->repository));
    }
    return ret;
}

static int check_call(const struct vdisk_repository *repository,
                      const struct vdisk_prune_options *options,
                      const struct vdisk_prune_result *result, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options))
        return vd_err_set(err, EINVAL, "prune options: struct_bytes is %zu: this library wants %zu",
                          options->struct_bytes, sizeof(*options));
    if (options->flags & ~(uint32_t)VDISK_PRUNE_DRY_RUN)
        return vd_err_set(err, EINVAL, "prune options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)VDISK_PRUNE_DRY_RUN);
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL, "prune result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    if (repository->access != VD_REPOSITORY_CHANGE && !(options->flags & VDISK_PRUNE_DRY_RUN))
        return vd_err_set(err, EACCES,
                          "%s: was opened for reading only: points go if it is open with "
                          "VDISK_REPOSITORY_WRITE",
                          repository->name);
    if (options->flags & VDISK_PRUNE_DRY_RUN)
        return 0;
    /* What an earlier call has begun and not finished needs its files: these names are taken. */
    int ret = vd_journal_is_pending(repository, err);
    return ret <= 0 ? ret
                    : vd_err_set(err, EBUSY,
                                 "%s: a change that has begun is not finished: open the repository "
                                 "again",
                                 repository->name);
}

static bool keeps_something(const struct vdisk_prune_options *options)
{
    return options->keep_last || options->keep_daily || options->keep_weekly;
}

int vdisk_repository_prune(struct vdisk_repository *repository,
                           const struct vdisk_prune_options *options,
                           struct vdisk_prune_result *result, struct vdisk_error *err)
{
    int ret = check_call(repository, options, result, err);
    if (ret < 0)
        return ret;
    if (!keeps_something(options))
        return vd_err_set(err, EINVAL, "prune options: nothing says which points are kept");
    struct vd_prune prune = {.repository = repository, .options = options};
    ret = choose_to_prune(&prune, err);
    if (ret == 0)
        ret = run(&prune, result, err);
    free(prune.goes);
    return ret;
}

int vdisk_repository_merge(struct vdisk_repository *repository, size_t first, size_t last,
                           const struct vdisk_prune_options *options,
                           struct vdisk_prune_result *result, struct vdisk_error *err)
{
    static const struct vdisk_prune_options defaults = {.struct_bytes = sizeof(defaults)};
    if (!options)
        options = &defaults;
    int ret = check_call(repository, options, result, err);
    if (ret < 0)
        return ret;
    if (keeps_something(options))
        return vd_err_set(err, EINVAL, "prune options: a merge has no points to choose from");
    struct vd_prune prune = {.repository = repository, .options = options};
    ret = choose_to_merge(&prune, first, last, err);
    if (ret == 0)
        ret = run(&prune, result, err);
    free(prune.goes);
    return ret;
}
