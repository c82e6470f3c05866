/* SPDX-License-Identifier: MIT */
/* What kind of point it is going to be, on which one, and is there something to go on with? */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backup/backup.h"
#include "backup/point.h"
#include "util/mem.h"

#define KIND_FLAGS (VDISK_BACKUP_FULL | VDISK_BACKUP_INCREMENTAL | VDISK_BACKUP_DIFFERENTIAL)

/* ---- Kind and parent ---- */

static enum vdisk_point_kind choose_kind(const struct vd_backup *backup)
{
    switch (backup->options->flags & KIND_FLAGS) {
    case VDISK_BACKUP_FULL:
        return VDISK_POINT_FULL;
    case VDISK_BACKUP_INCREMENTAL:
        return VDISK_POINT_INCREMENTAL;
    case VDISK_BACKUP_DIFFERENTIAL:
        return VDISK_POINT_DIFFERENTIAL;
    default:
        return backup->repository->point_entries ? VDISK_POINT_INCREMENTAL : VDISK_POINT_FULL;
    }
}

static int find_parent(struct vd_backup *backup, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = backup->repository;
    const struct vd_point *found = NULL;
    bool is_differential = backup->partial.kind == VDISK_POINT_DIFFERENTIAL;
    backup->parent = NULL;
    if (backup->partial.kind == VDISK_POINT_FULL)
        return 0;
    for (size_t i = 0; i < repository->point_entries; i++) {
        const struct vd_point *point = &repository->points[i];
        if (!is_differential || (!point->is_damaged && point->manifest.kind == VDISK_POINT_FULL))
            found = point;
    }
    if (!found)
        return vd_err_set(err, ENOENT,
                          "%s: has no %spoint that this one could lie on: make a full one first "
                          "(--full)",
                          repository->name, is_differential ? "full " : "");
    backup->parent = found;
    return 0;
}

/* Is all that the new point would lie on there, and can it lie there? */
static int check_chain(const struct vd_backup *backup, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = backup->repository;
    const struct vd_point *point = backup->parent, *above = NULL;
    for (uint64_t images = 2; point; images++) {
        if (point->is_damaged)
            return vd_err_set(err, EBADMSG,
                              "%s: point %" PRIu64 ", which this one would lie on, is damaged: %s "
                              "(make a full one: --full)",
                              repository->name, point->number, point->damage.message);
        if (above && strcmp(above->manifest.parent_uuid, point->manifest.uuid) != 0)
            return vd_err_set(err, EBADMSG,
                              "%s: point %" PRIu64 " is not the one that point %" PRIu64
                              " lies on (make a full one: --full)",
                              repository->name, point->number, above->number);
        if (images > VD_POINT_CHAIN_MAX)
            return vd_err_set(err, ELOOP,
                              "%s: point %" PRIu64 " has %u images below it, as many as there may "
                              "be: make a full one (--full), or merge some (vdisk backup prune)",
                              repository->name, backup->parent->number, VD_POINT_CHAIN_MAX - 1);
        if (!point->manifest.parent)
            return 0;
        above = point;
        point = vd_repository_point_of(repository, point->manifest.parent);
    }
    return above ? vd_err_set(err, EBADMSG,
                              "%s: point %" PRIu64 ", which point %" PRIu64
                              " lies on, is missing (make a full one: --full)",
                              repository->name, above->manifest.parent, above->number)
                 : 0;
}

/* ---- What is unfinished ---- */

/* NULL: it can be gone on with.  Else, why not? */
static const char *why_not(const struct vd_partial *found, const struct vd_partial *wanted)
{
    if (found->virtual_bytes != wanted->virtual_bytes)
        return "the size of the disk has changed since";
    if (strcmp(found->source, wanted->source) != 0)
        return "it was of another source";
    if (found->kind != wanted->kind || found->tracker != wanted->tracker)
        return "it was of another kind";
    if (found->parent != wanted->parent || strcmp(found->parent_uuid, wanted->parent_uuid) != 0)
        return "it was to lie on another point";
    return strcmp(found->image_format, wanted->image_format) != 0 ? "it was of another format"
                                                                  : NULL;
}

static int copy_name(char **to, const char *from, struct vdisk_error *err)
{
    *to = strdup(from);
    return *to ? 0 : vd_err_nomem(err, "what a backup is called");
}

/* What it is, but for the uuid. */
static int describe(struct vd_backup *backup, struct vdisk_error *err)
{
    struct vd_partial *partial = &backup->partial;
    const char *format = backup->options->format ? backup->options->format : "qcow2";
    partial->tracker =
        backup->options->flags & VDISK_BACKUP_COMPARE ? VDISK_TRACKER_COMPARE : backup->recorder;
    partial->virtual_bytes = vdisk_image_size(backup->source);
    if (backup->parent) {
        partial->parent = backup->parent->number;
        memcpy(partial->parent_uuid, backup->parent->manifest.uuid, sizeof(partial->parent_uuid));
    }
    int ret = copy_name(&partial->image_format, format, err);
    return ret < 0 ? ret : copy_name(&partial->source, backup->source_name, err);
}

static int begin_new(struct vd_backup *backup, struct vdisk_error *err)
{
    uint8_t uuid[VD_UUID_BYTES];
    int ret = vd_partial_remove(backup->repository, err);
    if (ret == 0)
        ret = vd_uuid_new(uuid, err);
    if (ret < 0)
        return ret;
    vd_uuid_text(uuid, backup->partial.uuid);
    backup->partial.done_bytes = 0;
    backup->is_resumed = false;
    backup->is_kept = false;
    backup->is_begun = true;
    return 0;
}

static int find_unfinished(struct vd_backup *backup, struct vdisk_error *err)
{
    struct vd_partial found = {0};
    int ret = vd_partial_read(backup->repository, &found, err);
    if (ret < 0)
        return ret;
    const char *why = NULL;
    if (ret && (backup->options->flags & VDISK_BACKUP_RESTART))
        why = "it was asked for (--restart)";
    else if (ret)
        why = why_not(&found, &backup->partial);
    if (why)
        vd_backup_tell(backup, "a backup that was not finished is removed: %s", why);
    if (ret && !why) {
        memcpy(backup->partial.uuid, found.uuid, sizeof(found.uuid));
        backup->partial.done_bytes = found.done_bytes;
        backup->is_resumed = true;
        backup->is_kept = true;
    }
    vd_partial_free(&found);
    return backup->is_resumed ? 0 : begin_new(backup, err);
}

int vd_backup_start_over(struct vd_backup *backup, struct vdisk_error *err)
{
    return begin_new(backup, err);
}

int vd_backup_plan(struct vd_backup *backup, struct vdisk_error *err)
{
    backup->partial.kind = choose_kind(backup);
    int ret = find_parent(backup, err);
    if (ret == 0)
        ret = check_chain(backup, err);
    if (ret == 0)
        ret = describe(backup, err);
    return ret < 0 ? ret : find_unfinished(backup, err);
}
