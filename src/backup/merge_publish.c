/* SPDX-License-Identifier: MIT */
/* The end of each change of files: manifest, journal, and the list of points read again. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/journal.h"
#include "backup/prune.h"
#include "storage/new_file.h"
#include "util/mem.h"

#define MANIFEST_PART ".json.part"

/* A differential one is on a full one, or what will be one next; else it is one on the point before
 * it. */
static enum vdisk_point_kind kind_of(const struct vd_rewrite *rewrite)
{
    const struct vd_point *onto = rewrite->onto;
    if (!onto)
        return VDISK_POINT_FULL;
    if (rewrite->point->manifest.kind == VDISK_POINT_DIFFERENTIAL &&
        (!onto->manifest.parent || rewrite->beside))
        return VDISK_POINT_DIFFERENTIAL;
    return VDISK_POINT_INCREMENTAL;
}

/* The manifest of the point as it will be; all but the table is still of the old one. */
static struct vd_manifest describe(const struct vd_rewrite *rewrite)
{
    const struct vd_point *onto = rewrite->onto;
    struct vd_manifest manifest = rewrite->point->manifest;
    manifest.kind = kind_of(rewrite);
    manifest.parent = onto ? onto->number : 0;
    memset(manifest.parent_uuid, 0, sizeof(manifest.parent_uuid));
    if (onto)
        memcpy(manifest.parent_uuid, onto->manifest.uuid, sizeof(manifest.parent_uuid));
    manifest.image.table = rewrite->table;
    return manifest;
}

/* ---- The journal ---- */

/* All that a point has: first its manifest, with which it is gone. */
static int remove_point(struct vd_journal *journal, const struct vd_point *point,
                        const char *keeps_image, struct vdisk_error *err)
{
    CLEANUP_FREE char *manifest = vd_point_file_name(point->number, ".json", err);
    if (!manifest)
        return -ENOMEM;
    int ret = vd_journal_remove(journal, manifest, err);
    if (ret == 0 && (!keeps_image || strcmp(point->manifest.image.name, keeps_image) != 0))
        ret = vd_journal_remove(journal, point->manifest.image.name, err);
    if (ret == 0 && point->manifest.versions.name)
        ret = vd_journal_remove(journal, point->manifest.versions.name, err);
    return ret;
}

static int remove_points(struct vd_journal *journal, const uint64_t *removes, size_t entries,
                         const char *keeps_image, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < entries && ret == 0; i++)
        ret = remove_point(journal, vd_repository_point_of(journal->repository, removes[i]),
                           keeps_image, err);
    return ret;
}

/* Those that are gone now, and the list as it is. */
static int settle(struct vd_prune *prune, const uint64_t *removes, size_t entries,
                  struct vdisk_error *err)
{
    prune->removed_points += entries;
    for (size_t i = 0; i < entries; i++)
        vd_prune_tell(prune, "point %" PRIu64 " is removed", removes[i]);
    return vd_repository_reload(prune->repository, err);
}

static int commit(struct vd_journal *journal, struct vdisk_error *err)
{
    int ret = vd_journal_commit(journal, err);
    if (ret < 0 && journal->has_begun)
        vd_err_prefix(err, ret, "what was begun is finished when the repository is opened next: ");
    return ret;
}

int vd_prune_remove(struct vd_prune *prune, const uint64_t *removes, size_t remove_entries,
                    struct vdisk_error *err)
{
    struct vd_journal journal = {0};
    int ret = vd_journal_begin(&journal, prune->repository, err);
    if (ret == 0)
        ret = remove_points(&journal, removes, remove_entries, NULL, err);
    if (ret == 0)
        ret = commit(&journal, err);
    vd_journal_end(&journal);
    return ret < 0 ? ret : settle(prune, removes, remove_entries, err);
}

/* ---- A point that was written anew ---- */

static int add_steps(struct vd_rewrite *rewrite, struct vd_journal *journal, const char *from,
                     const struct vd_rewrite_log *log, struct vdisk_error *err)
{
    const struct vd_point *point = rewrite->point;
    CLEANUP_FREE char *part = vd_point_file_name(point->number, MANIFEST_PART, err);
    CLEANUP_FREE char *manifest = vd_point_file_name(point->number, ".json", err);
    if (!part || !manifest)
        return -ENOMEM;
    int ret = log ? vd_journal_apply(journal, log->name, log->digest, from, err) : 0;
    if (ret == 0)
        ret = vd_journal_rename(journal, from, point->manifest.image.name, err);
    if (ret == 0)
        ret = vd_journal_rename(journal, part, manifest, err);
    if (ret == 0 && log)
        ret = vd_journal_remove(journal, log->name, err);
    return ret < 0 ? ret
                   : remove_points(journal, rewrite->removes, rewrite->remove_entries, from, err);
}

/* *path: of the file of the manifest, until it has its name; to be freed. */
static int write_manifest(const struct vd_rewrite *rewrite, char **path, struct vdisk_error *err)
{
    struct vdisk_repository *repository = rewrite->prune->repository;
    struct vd_manifest manifest = describe(rewrite);
    CLEANUP_FREE char *part = vd_point_file_name(rewrite->point->number, MANIFEST_PART, err);
    *path = part ? vd_repository_path(repository, part, err) : NULL;
    int ret = *path ? vd_manifest_write(&manifest, repository->uuid, *path, &repository->key, err)
                    : -ENOMEM;
    /* What the journal speaks of has its names durably. */
    return ret < 0 ? ret : vd_new_file_sync_directory(*path, err);
}

int vd_rewrite_publish(struct vd_rewrite *rewrite, const char *from,
                       const struct vd_rewrite_log *log, struct vdisk_error *err)
{
    struct vd_journal journal = {0};
    CLEANUP_FREE char *path = NULL;
    int ret = write_manifest(rewrite, &path, err);
    if (ret == 0)
        ret = vd_journal_begin(&journal, rewrite->prune->repository, err);
    if (ret == 0)
        ret = add_steps(rewrite, &journal, from, log, err);
    if (ret == 0)
        ret = commit(&journal, err);
    if (journal.has_begun)
        free(STEAL_PTR(rewrite->part)); /* it has its name, or will have it */
    else if (path)
        unlink(path);
    vd_journal_end(&journal);
    return ret < 0 ? ret : settle(rewrite->prune, rewrite->removes, rewrite->remove_entries, err);
}

void vd_rewrite_end(struct vd_rewrite *rewrite)
{
    if (rewrite->part)
        unlink(rewrite->part);
    free(STEAL_PTR(rewrite->part));
    vd_digest_table_free(&rewrite->table);
    rewrite->table = (struct vd_digest_table){0};
}
