/* SPDX-License-Identifier: MIT */
/* A1: what is written gets its digests, its manifest and its names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/backup.h"
#include "backup/digests.h"
#include "backup/journal.h"
#include "storage/new_file.h"

static int copy_text(char **to, const char *from, struct vdisk_error *err)
{
    *to = strdup(from);
    return *to ? 0 : vd_err_nomem(err, "what a manifest says");
}

/* ---- Manifest ---- */

static int describe(struct vd_backup *backup, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = backup->repository;
    const struct vd_partial *partial = &backup->partial;
    size_t entries = repository->point_entries;
    struct vd_manifest *manifest = &backup->manifest;
    *manifest = (struct vd_manifest){
        .number = entries ? repository->points[entries - 1].number + 1 : 1,
        .kind = partial->kind,
        .tracker = vd_tracker_kind(backup->tracker),
        .parent = partial->parent,
        .created = backup->created,
        .virtual_bytes = partial->virtual_bytes,
        .changed_bytes = backup->changed_bytes,
        .read_bytes = backup->read_bytes,
        .is_compressed = (backup->options->flags & VDISK_BACKUP_COMPRESS) != 0,
        .compression_level = backup->options->compression_level,
    };
    memcpy(manifest->uuid, partial->uuid, sizeof(manifest->uuid));
    memcpy(manifest->parent_uuid, partial->parent_uuid, sizeof(manifest->parent_uuid));
    char suffix[16];
    snprintf(suffix, sizeof(suffix), ".%s", partial->image_format);
    manifest->image.name = vd_point_file_name(manifest->number, suffix, err);
    int ret = manifest->image.name ? 0 : -ENOMEM;
    if (ret == 0)
        ret = copy_text(&manifest->image_format, partial->image_format, err);
    if (ret == 0)
        ret = copy_text(&manifest->source, partial->source, err);
    return ret < 0 ? ret : copy_text(&manifest->source_format, backup->source_format, err);
}

static int digest_image(struct vd_backup *backup, struct vdisk_error *err)
{
    struct vd_digest_table *table = &backup->manifest.image.table;
    struct vd_storage *file = NULL;
    uint64_t bytes = 0;
    char *path = vd_backup_part_path(backup, err);
    int ret = path ? vd_storage_open(path, NULL, &file, err) : -ENOMEM;
    free(path);
    if (ret == 0)
        ret = vd_storage_size(file, &bytes, err);
    if (ret == 0)
        ret = vd_digest_table_init(table, vd_repository_digest_kind(backup->repository),
                                   vd_digests_extent_bytes(bytes), bytes, err);
    if (ret == 0)
        ret = vd_job_phase(&backup->job, "digest", bytes, 0, err);
    if (ret == 0)
        ret = vd_digests_make(file, table, &backup->job, backup->options->workers, err);
    vd_storage_close(file);
    return ret;
}

/* ---- Names ---- */

/* @name of the point, which is written as NAME.part. */
static int rename_part(struct vd_journal *journal, const char *name, struct vdisk_error *err)
{
    size_t bytes = strlen(name) + sizeof(".part");
    char *part = malloc(bytes);
    if (!part)
        return vd_err_nomem(err, "the name of a file");
    snprintf(part, bytes, "%s.part", name);
    int ret = vd_journal_rename(journal, part, name, err);
    free(part);
    return ret;
}

static int add_steps(const struct vd_backup *backup, struct vd_journal *journal,
                     const char *manifest, struct vdisk_error *err)
{
    char part[32];
    snprintf(part, sizeof(part), VD_BACKUP_PART ".%s", backup->partial.image_format);
    int ret = vd_journal_rename(journal, part, backup->manifest.image.name, err);
    if (ret == 0 && backup->manifest.versions.name)
        ret = rename_part(journal, backup->manifest.versions.name, err);
    /* With its manifest the point is there (P1). */
    if (ret == 0)
        ret = rename_part(journal, manifest, err);
    if (ret == 0)
        ret = vd_journal_remove(journal, VD_BACKUP_PART ".json", err);
    if (ret == 0)
        ret = vd_journal_remove(journal, VD_BACKUP_PART ".versions", err);
    return ret;
}

static int commit(struct vd_backup *backup, const char *manifest, struct vdisk_error *err)
{
    struct vd_journal journal = {0};
    int ret = vd_journal_begin(&journal, backup->repository, err);
    if (ret == 0)
        ret = add_steps(backup, &journal, manifest, err);
    if (ret == 0)
        ret = vd_journal_commit(&journal, err);
    backup->is_done = journal.has_begun;
    vd_journal_end(&journal);
    if (ret < 0 && backup->is_done)
        vd_err_prefix(err, ret, "the point is finished when the repository is opened next: ");
    return ret;
}

/* What was written for a point that does not come about. */
static void remove_part(const struct vd_backup *backup, const char *name)
{
    char *path = vd_repository_path(backup->repository, name, NULL);
    size_t bytes = path ? strlen(path) + sizeof(".part") : 0;
    char *part = path ? malloc(bytes) : NULL;
    if (part) {
        snprintf(part, bytes, "%s.part", path);
        unlink(part);
    }
    free(part);
    free(path);
}

static int write_manifest(struct vd_backup *backup, const char *manifest, struct vdisk_error *err)
{
    size_t bytes = strlen(manifest) + sizeof(".part");
    char *part = malloc(bytes), *path = NULL;
    if (!part)
        return vd_err_nomem(err, "the name of a manifest");
    snprintf(part, bytes, "%s.part", manifest);
    path = vd_repository_path(backup->repository, part, err);
    free(part);
    if (!path)
        return -ENOMEM;
    int ret = vd_manifest_write(&backup->manifest, backup->repository->uuid, path,
                                &backup->repository->key, err);
    /* What the journal speaks of has its names durably. */
    if (ret == 0)
        ret = vd_new_file_sync_directory(path, err);
    free(path);
    return ret;
}

int vd_backup_publish(struct vd_backup *backup, struct vdisk_error *err)
{
    char *manifest = NULL;
    int ret = describe(backup, err);
    if (ret == 0) {
        manifest = vd_point_file_name(backup->manifest.number, ".json", err);
        ret = manifest ? 0 : -ENOMEM;
    }
    if (ret == 0)
        ret = digest_image(backup, err);
    if (ret == 0)
        ret = vd_tracker_record(backup->tracker, &backup->manifest, err);
    if (ret == 0)
        ret = write_manifest(backup, manifest, err);
    if (ret == 0)
        ret = commit(backup, manifest, err);
    if (ret < 0 && !backup->is_done && manifest) {
        remove_part(backup, manifest);
        if (backup->manifest.versions.name)
            remove_part(backup, backup->manifest.versions.name);
    }
    free(manifest);
    return ret;
}
