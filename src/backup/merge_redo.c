/* SPDX-License-Identifier: MIT */
/*
 * A point is written anew by a log of what changes in the file of one below it: what the images
 * between them decide is brought into that file, as a commit does, and the file becomes the image
 * of the point.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/prune.h"
#include "storage/redo.h"
#include "storage/verified.h"
#include "util/mem.h"

/* A log costs as much as what it holds, twice, and the digests of all that it touches. */
#define SHARE_MIN 4u

struct redo {
    struct vd_rewrite *rewrite;
    const struct vd_point *base; /* whose file it is */
    struct vd_storage *below;    /* its file as it is, verified */
    struct vd_storage *log;
    struct vd_storage *storage; /* the file as it will be */
    char *log_name;             /* owned */
};

/* The lowest of those that go. */
static const struct vd_point *base_of(const struct vd_rewrite *rewrite)
{
    const struct vd_point *base = NULL;
    for (size_t i = 0; i < rewrite->remove_entries; i++)
        if (!base || rewrite->removes[i] < base->number)
            base = vd_repository_point_of(rewrite->prune->repository, rewrite->removes[i]);
    return base;
}

bool vd_rewrite_prefers_redo(const struct vd_rewrite *rewrite)
{
    const struct vd_point *base = base_of(rewrite);
    const struct vd_manifest *manifest = &rewrite->point->manifest;
    if (!base || strcmp(base->manifest.image_format, manifest->image_format) != 0)
        return false;
    uint64_t above = manifest->image.table.file_bytes;
    for (size_t i = 0; i < rewrite->remove_entries; i++)
        if (rewrite->removes[i] != base->number)
            above += vd_repository_point_of(rewrite->prune->repository, rewrite->removes[i])
                         ->manifest.image.table.file_bytes;
    return above < base->manifest.image.table.file_bytes / SHARE_MIN;
}

/* ---- The storages ---- */

static int open_below(struct redo *redo, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = redo->rewrite->prune->repository;
    const struct vd_manifest_file *image = &redo->base->manifest.image;
    CLEANUP_FREE char *path = vd_repository_path(repository, image->name, err);
    struct vd_storage *file;
    int ret = path ? vd_storage_open(path, NULL, &file, err) : -ENOMEM;
    return ret < 0 ? ret : vd_storage_verified_open(file, &image->table, &redo->below, err);
}

static int open_log(struct redo *redo, struct vdisk_error *err)
{
    struct vd_rewrite *rewrite = redo->rewrite;
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE};
    redo->log_name = vd_point_file_name(rewrite->point->number, ".log.part", err);
    if (!redo->log_name)
        return -ENOMEM;
    rewrite->part = vd_repository_path(rewrite->prune->repository, redo->log_name, err);
    return rewrite->part ? vd_storage_open(rewrite->part, &options, &redo->log, err) : -ENOMEM;
}

static int open_storages(struct redo *redo, struct vdisk_error *err)
{
    int ret = open_below(redo, err);
    if (ret == 0)
        ret = open_log(redo, err);
    return ret < 0 ? ret
                   : vd_redo_open(redo->below, redo->log,
                                  vd_repository_digest_kind(redo->rewrite->prune->repository),
                                  &redo->storage, err);
}

static void close_storages(struct redo *redo)
{
    vd_storage_close(redo->storage);
    vd_storage_close(redo->log);
    vd_storage_close(redo->below);
    free(redo->log_name);
}

/* ---- The content ---- */

static int fill(struct redo *redo, struct vdisk_image *source, struct vdisk_image *target,
                struct vdisk_error *err)
{
    struct vd_rewrite *rewrite = redo->rewrite;
    struct vd_bitmap_budget budget = {.bytes_max = VD_BITMAP_DATA_BYTES_MAX};
    struct vd_bitmap *wanted = NULL;
    uint64_t size = rewrite->point->manifest.virtual_bytes;
    unsigned depth = vd_rewrite_depth(rewrite, rewrite->point, redo->base);
    int ret = vd_job_phase(&rewrite->prune->job, "merge", 0, 0, err);
    if (ret == 0 && vdisk_image_size(target) != size)
        ret = vdisk_image_resize(target, size, VDISK_PREALLOCATION_OFF, err);
    if (ret == 0)
        ret = vd_rewrite_bitmap(rewrite, target, &budget, &wanted, err);
    if (ret == 0)
        ret = vd_rewrite_find(rewrite, source, depth, wanted, err);
    if (ret == 0)
        ret = vd_rewrite_copy(rewrite, source, target, wanted, err);
    vd_bitmap_free(wanted);
    return ret;
}

/* Afterwards the storage shows the file as it will be. */
static int write_image(struct redo *redo, struct vdisk_image *source, struct vdisk_error *err)
{
    struct vd_rewrite *rewrite = redo->rewrite;
    struct vdisk_image *target;
    int ret = vd_point_open_on(rewrite->prune->repository, STEAL_PTR(redo->storage),
                               rewrite->point->manifest.image_format, rewrite->onto,
                               VDISK_OPEN_WRITE, NULL, &target, err);
    if (ret < 0)
        return ret;
    ret = fill(redo, source, target, err);
    int closed = vd_image_close_keeping_file(target, &redo->storage, ret == 0 ? err : NULL);
    return ret < 0 ? ret : closed;
}

/* ---- The digests ---- */

/* Has the extent the digest that it had? */
static bool is_as_before(const struct redo *redo, struct vd_range range)
{
    const struct vd_digest_table *old = &redo->base->manifest.image.table;
    uint64_t end = vd_min(old->file_bytes, range.offset + old->extent_bytes);
    return range.offset < old->file_bytes && end == vd_range_end(range) &&
           !vd_redo_has_changed(redo->storage, range);
}

static int digest_extent(struct redo *redo, struct vd_range range, uint8_t *buf, uint8_t *digest,
                         struct vdisk_error *err)
{
    struct vd_digest_run run;
    int ret = vd_digest_begin(&run, redo->rewrite->table.kind, err);
    if (ret < 0)
        return ret;
    while (ret == 0 && range.length) {
        size_t step = (size_t)vd_min(range.length, VD_DIGEST_EXTENT_BYTES_MIN);
        ret = vd_storage_pread(redo->storage, buf, step, range.offset, err);
        if (ret == 0)
            ret = vd_digest_add(&run, buf, step, err);
        range = vd_range(range.offset + step, range.length - step);
    }
    if (ret == 0)
        vd_digest_end(&run, digest);
    else
        vd_digest_cancel(&run);
    return ret;
}

/* Only what has changed is read. */
static int make_digests(struct redo *redo, struct vdisk_error *err)
{
    struct vd_digest_table *table = &redo->rewrite->table;
    const struct vd_digest_table *old = &redo->base->manifest.image.table;
    struct vd_job *job = &redo->rewrite->prune->job;
    uint64_t bytes;
    CLEANUP_FREE uint8_t *buf = vd_alloc_io(VD_DIGEST_EXTENT_BYTES_MIN);
    int ret = buf ? vd_storage_size(redo->storage, &bytes, err) : vd_err_nomem(err, "digests");
    if (ret == 0)
        ret = vd_digest_table_init(table, old->kind, old->extent_bytes, bytes, err);
    if (ret == 0)
        ret = vd_job_phase(job, "digest", bytes, 0, err);
    for (uint64_t i = 0; ret == 0 && i < table->entries; i++) {
        uint64_t at = i * table->extent_bytes;
        struct vd_range range = vd_range(at, vd_min(table->extent_bytes, bytes - at));
        if (is_as_before(redo, range))
            memcpy(vd_digest_at(table, i), vd_digest_at(old, i), vd_digest_bytes(table->kind));
        else
            ret = digest_extent(redo, range, buf, vd_digest_at(table, i), err);
        if (ret == 0)
            ret = vd_job_advance(job, (struct vd_job_step){.done_bytes = range.length}, err);
    }
    return ret;
}

/* ---- The whole ---- */

static int run(struct redo *redo, struct vdisk_error *err)
{
    struct vd_rewrite *rewrite = redo->rewrite;
    struct vdisk_image *source;
    struct vd_rewrite_log log = {.name = NULL};
    int ret = open_storages(redo, err);
    if (ret == 0)
        ret = vd_point_open(rewrite->prune->repository, rewrite->point, &source, err);
    if (ret < 0)
        return ret;
    ret = write_image(redo, source, err);
    vdisk_image_close(source, NULL); /* read-only: nothing to lose */
    if (ret == 0)
        ret = make_digests(redo, err);
    if (ret == 0)
        ret = vd_redo_finish(redo->storage, log.digest, err);
    log.name = STEAL_PTR(redo->log_name);
    close_storages(redo); /* their locks would be in the way */
    *redo = (struct redo){.rewrite = rewrite, .base = redo->base};
    if (ret == 0)
        ret = vd_rewrite_publish(rewrite, redo->base->manifest.image.name, &log, err);
    free(log.name);
    return ret;
}

int vd_rewrite_redo(struct vd_rewrite *rewrite, struct vdisk_error *err)
{
    struct redo redo = {.rewrite = rewrite, .base = base_of(rewrite)};
    int ret = run(&redo, err);
    close_storages(&redo);
    vd_rewrite_end(rewrite);
    return ret;
}
