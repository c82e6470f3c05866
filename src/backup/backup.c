/* SPDX-License-Identifier: MIT */
/* vdisk_backup(): backup/backup.h */
#include "backup/backup.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/mem.h"

#define STRETCH_BYTES (UINT64_C(512) << 20)

void vd_backup_tell(const struct vd_backup *backup, const char *fmt, ...)
{
    char text[sizeof(((struct vdisk_error *)NULL)->message)];
    if (!backup->options->report)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    backup->options->report(backup->options->opaque, text);
}

/* ---- Repository ---- */

static int open_repository(struct vd_backup *backup, struct vdisk_error *err)
{
    const struct vdisk_backup_options *options = backup->options;
    const struct vd_seal_key key = {.bytes = options->key, .length = options->key_bytes};
    return vd_repository_open(options->repository, VD_REPOSITORY_ADD, &key, &backup->repository,
                              err);
}

/* The last point that is whole. */
static void find_latest(struct vd_backup *backup)
{
    const struct vdisk_repository *repository = backup->repository;
    for (size_t i = 0; i < repository->point_entries; i++)
        if (!repository->points[i].is_damaged)
            backup->latest = &repository->points[i];
}

/* One that was made for this, and in which nothing came to be, is taken away again. */
static void close_repository(struct vd_backup *backup)
{
    if (backup->repository && !backup->is_done && !backup->is_kept)
        vd_repository_take_away(backup->repository);
    vdisk_repository_close(backup->repository);
}

/* ---- Tracker ---- */

/*
 * What has been done counts from when the source began to record.  If that has to begin once more,
 * it counts for nothing, and that is written down before.
 */
static int suspend_done(struct vd_backup *backup, struct vdisk_error *err)
{
    backup->resumed_bytes = backup->partial.done_bytes;
    backup->partial.done_bytes = 0;
    return backup->resumed_bytes ? vd_partial_write(backup->repository, &backup->partial, err) : 0;
}

static int begin_tracker(struct vd_backup *backup, struct vdisk_error *err)
{
    struct vd_tracker_context context = {
        .options = backup->options,
        .repository = backup->repository,
        .source = backup->source,
        .latest = backup->latest ? &backup->latest->manifest : NULL,
        .parent = backup->parent ? &backup->parent->manifest : NULL,
        .point_uuid = backup->partial.uuid,
        .resumed_uuid = backup->is_resumed ? backup->partial.uuid : NULL,
    };
    int ret = vd_tracker_new(backup->recorder, &context, &backup->tracker, err);
    if (ret == 0)
        ret = suspend_done(backup, err);
    if (ret == 0)
        ret = vd_tracker_begin(backup->tracker, err);
    if (ret < 0)
        return ret;
    backup->has_begun = true;
    if (backup->is_resumed)
        return 0;
    ret = vd_partial_write(backup->repository, &backup->partial, err); /* A3 */
    backup->is_kept = ret == 0;
    return ret;
}

/* ---- The whole ---- */

/* All of it is durable afterwards. */
static int close_target(struct vd_backup *backup, struct vdisk_error *err)
{
    int ret = vdisk_image_flush(backup->target, err);
    int closed = vdisk_image_close(STEAL_PTR(backup->target), ret == 0 ? err : NULL);
    return ret < 0 ? ret : closed;
}

static int run(struct vd_backup *backup, struct vdisk_error *err)
{
    int ret = open_repository(backup, err);
    if (ret == 0) {
        find_latest(backup);
        ret = vd_backup_open_source(backup, err);
    }
    if (ret == 0)
        ret = vd_backup_plan(backup, err);
    if (ret == 0)
        ret = vd_backup_open_target(backup, err);
    if (ret == 0)
        ret = begin_tracker(backup, err);
    if (ret == 0)
        ret = vd_backup_copy(backup, err);
    if (ret == 0)
        ret = close_target(backup, err);
    return ret < 0 ? ret : vd_backup_publish(backup, err);
}

/* The point is there, whatever becomes of this. */
static void settle(struct vd_backup *backup)
{
    struct vdisk_error why = {0};
    if (vd_tracker_settle(backup->tracker, &why) < 0)
        vd_backup_tell(backup, "the backup is whole, but not all was tidied up: %s", why.message);
    vdisk_error_clear(&why);
    vd_tracker_free(STEAL_PTR(backup->tracker));
    if (vdisk_image_close(STEAL_PTR(backup->source), &why) < 0)
        vd_backup_tell(backup, "the backup is whole, but the source could not be closed: %s",
                       why.message);
    (void)vd_job_finish(&backup->job, NULL); /* too late to cancel: it is done */
}

/* What is not finished is kept if it can be gone on with, and else leaves no trace. */
static void give_up(struct vd_backup *backup)
{
    if (backup->target)
        vdisk_image_close(backup->target, NULL); /* it is unfinished anyhow */
    if (!backup->is_done && !backup->is_kept && backup->has_begun)
        vd_tracker_cancel(backup->tracker);
    if (!backup->is_done && !backup->is_kept && backup->is_begun)
        (void)vd_partial_remove(backup->repository, NULL);
    vd_tracker_free(backup->tracker);
    vdisk_image_close(backup->source, NULL); /* nothing of the guest's was written */
}

static void fill_in(const struct vd_backup *backup, struct vdisk_backup_result *result)
{
    *result = (struct vdisk_backup_result){
        .struct_bytes = sizeof(*result),
        .kind = backup->manifest.kind,
        .tracker = backup->manifest.tracker,
        .point = backup->manifest.number,
        .parent = backup->manifest.parent,
        .virtual_bytes = backup->manifest.virtual_bytes,
        .changed_bytes = backup->manifest.changed_bytes,
        .read_bytes = backup->manifest.read_bytes,
        .stored_bytes = vd_manifest_stored_bytes(&backup->manifest),
        .is_resumed = backup->is_resumed,
    };
}

int vd_backup_make(const struct vdisk_backup_options *options, uint64_t stretch_bytes,
                   struct vdisk_backup_result *result, struct vdisk_error *err)
{
    int ret = vd_backup_check_options(options, result, err);
    if (ret < 0)
        return ret;
    struct vd_backup backup = {.options = options, .stretch_bytes = stretch_bytes};
    struct vdisk_error why = {0};
    vd_job_init(&backup.job, options->progress, options->opaque, options->rate_bytes);
    ret = run(&backup, &why);
    if (ret == 0)
        settle(&backup);
    else
        give_up(&backup);
    if (ret < 0)
        ret = vd_err_copy(err, &why); /* what is told is what is returned */
    if (ret == 0 && result)
        fill_in(&backup, result);
    vd_bitmap_free(backup.wanted);
    vd_partial_free(&backup.partial);
    vd_manifest_free(&backup.manifest);
    free(backup.source_name);
    close_repository(&backup);
    vd_job_destroy(&backup.job);
    return ret;
}

int vdisk_backup(const struct vdisk_backup_options *options, struct vdisk_backup_result *result,
                 struct vdisk_error *err)
{
    return vd_backup_make(options, STRETCH_BYTES, result, err);
}
