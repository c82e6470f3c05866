/* SPDX-License-Identifier: MIT */
/* A point is written anew, as a new file. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/copy.h"
#include "backup/digests.h"
#include "backup/prune.h"
#include "util/mem.h"

#define LOOK_BYTES_MAX (1ull << 30) /* asked at once */

/* ---- What has to be written ---- */

unsigned vd_rewrite_depth(const struct vd_rewrite *rewrite, const struct vd_point *top,
                          const struct vd_point *bottom)
{
    unsigned depth = 0;
    for (const struct vd_point *at = top; at && at != bottom;
         at = vd_repository_point_of(rewrite->prune->repository, at->manifest.parent))
        depth++;
    return depth;
}

int vd_rewrite_bitmap(const struct vd_rewrite *rewrite, struct vdisk_image *image,
                      struct vd_bitmap_budget *budget, struct vd_bitmap **wanted,
                      struct vdisk_error *err)
{
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(image), &info, err);
    if (ret < 0)
        return ret;
    uint32_t bits = VD_BITMAP_GRANULARITY_BITS_MIN;
    uint64_t bytes = rewrite->point->manifest.virtual_bytes;
    while ((UINT64_C(1) << bits) < info.cluster_bytes)
        bits++;
    while (vd_bitmap_bytes_for(bytes, bits) > VD_BITMAP_DATA_BYTES_MAX / 4)
        bits++;
    return vd_bitmap_new(bytes, bits, budget, wanted, err);
}

int vd_rewrite_find(struct vd_rewrite *rewrite, struct vdisk_image *image, unsigned depth,
                    struct vd_bitmap *wanted, struct vdisk_error *err)
{
    uint64_t size = vd_min(vdisk_image_size(image), vd_bitmap_disk_bytes(wanted));
    for (uint64_t at = 0; at < size;) {
        struct vdisk_extent extent;
        int ret = vdisk_image_extent(image, at, vd_min(size - at, LOOK_BYTES_MAX), &extent, err);
        if (ret == 0 && extent.depth < depth)
            ret = vd_bitmap_set(wanted, vd_range(at, extent.length), err);
        if (ret == 0)
            ret = vd_job_advance(&rewrite->prune->job, (struct vd_job_step){0}, err);
        if (ret < 0)
            return ret;
        at += extent.length;
    }
    return 0;
}

/* What onto has of its own, and the point has not; and the zeros behind its end. */
static int find_beside(struct vd_rewrite *rewrite, struct vd_bitmap *wanted,
                       struct vdisk_error *err)
{
    struct vdisk_image *image;
    uint64_t size = vd_bitmap_disk_bytes(wanted);
    int ret = vd_point_open(rewrite->prune->repository, rewrite->onto, &image, err);
    if (ret < 0)
        return ret;
    unsigned depth = vd_rewrite_depth(rewrite, rewrite->onto, rewrite->beside);
    ret = vd_rewrite_find(rewrite, image, depth, wanted, err);
    uint64_t end = vd_min(vdisk_image_size(image), size);
    if (ret == 0 && end < size)
        ret = vd_bitmap_set(wanted, vd_range(end, size - end), err);
    vdisk_image_close(image, NULL); /* read-only: nothing to lose */
    return ret;
}

static int find_wanted(struct vd_rewrite *rewrite, struct vdisk_image *source,
                       struct vd_bitmap *wanted, struct vdisk_error *err)
{
    const struct vd_point *bottom = rewrite->beside ? rewrite->beside : rewrite->onto;
    unsigned depth = vd_rewrite_depth(rewrite, rewrite->point, bottom);
    int ret = vd_job_phase(&rewrite->prune->job, "merge", 0, 0, err);
    if (ret == 0)
        ret = vd_rewrite_find(rewrite, source, depth, wanted, err);
    return ret == 0 && rewrite->beside ? find_beside(rewrite, wanted, err) : ret;
}

int vd_rewrite_copy(struct vd_rewrite *rewrite, struct vdisk_image *source,
                    struct vdisk_image *target, const struct vd_bitmap *wanted,
                    struct vdisk_error *err)
{
    const struct vd_manifest *manifest = &rewrite->point->manifest;
    struct vd_prune *prune = rewrite->prune;
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(target), &info, err);
    if (ret < 0)
        return ret;
    struct vd_copy copy = {.source = source,
                           .target = target,
                           .wanted = wanted,
                           .range = vd_range(0, vdisk_image_size(target)),
                           .compresses = manifest->is_compressed && info.takes_encoded,
                           .level = manifest->compression_level,
                           .job = &prune->job};
    ret = vd_job_phase(&prune->job, "merge", vd_bitmap_dirty_bytes(wanted), 0, err);
    if (ret == 0)
        ret = vd_copy_run(&copy, err);
    prune->moved_bytes += atomic_load(&copy.data_bytes);
    return ret;
}

/* ---- The new image ---- */

static int make_image(struct vd_rewrite *rewrite, struct vdisk_image *source,
                      struct vdisk_error *err)
{
    const struct vd_manifest *manifest = &rewrite->point->manifest;
    const struct vd_format_driver *driver;
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(source), &info, err);
    if (ret < 0)
        return ret;
    struct vdisk_create_options create = {.struct_bytes = sizeof(create),
                                          .size = manifest->virtual_bytes,
                                          .flags = VDISK_CREATE_NO_CHECK,
                                          .cluster_bytes = info.cluster_bytes};
    if (rewrite->onto) {
        create.backing = rewrite->onto->manifest.image.name;
        create.backing_format = rewrite->onto->manifest.image_format;
    }
    if (manifest->is_compressed && strcmp(manifest->image_format, "qcow2") == 0)
        create.compression = "zstd";
    ret = vd_image_check_create(manifest->image_format, &create, &driver, err);
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", rewrite->part)
                   : vd_image_create_at(rewrite->part, rewrite->part, driver, &create, false, err);
}

static int open_image(const struct vd_rewrite *rewrite, struct vdisk_image **target,
                      struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    struct vd_storage *file;
    int ret = vd_storage_open(rewrite->part, &options, &file, err);
    if (ret < 0)
        return ret;
    return vd_point_open_on(rewrite->prune->repository, file, rewrite->point->manifest.image_format,
                            rewrite->onto, VDISK_OPEN_WRITE, NULL, target, err);
}

/* Durable when it returns 0. */
static int fill_image(struct vd_rewrite *rewrite, struct vdisk_image *source,
                      const struct vd_bitmap *wanted, struct vdisk_error *err)
{
    struct vdisk_image *target;
    int ret = make_image(rewrite, source, err);
    if (ret == 0)
        ret = open_image(rewrite, &target, err);
    if (ret < 0)
        return ret;
    ret = vd_rewrite_copy(rewrite, source, target, wanted, err);
    if (ret == 0)
        ret = vdisk_image_flush(target, err);
    int closed = vdisk_image_close(target, ret == 0 ? err : NULL);
    return ret < 0 ? ret : closed;
}

static int write_image(struct vd_rewrite *rewrite, struct vdisk_error *err)
{
    struct vd_bitmap_budget budget = {.bytes_max = VD_BITMAP_DATA_BYTES_MAX};
    struct vd_bitmap *wanted = NULL;
    struct vdisk_image *source;
    int ret = vd_point_open(rewrite->prune->repository, rewrite->point, &source, err);
    if (ret < 0)
        return ret;
    ret = vd_rewrite_bitmap(rewrite, source, &budget, &wanted, err);
    if (ret == 0)
        ret = find_wanted(rewrite, source, wanted, err);
    if (ret == 0)
        ret = fill_image(rewrite, source, wanted, err);
    vd_bitmap_free(wanted);
    vdisk_image_close(source, NULL); /* read-only: nothing to lose */
    return ret;
}

static int digest_image(struct vd_rewrite *rewrite, struct vdisk_error *err)
{
    struct vd_prune *prune = rewrite->prune;
    struct vd_storage *file;
    uint64_t bytes;
    int ret = vd_storage_open(rewrite->part, NULL, &file, err);
    if (ret < 0)
        return ret;
    ret = vd_storage_size(file, &bytes, err);
    if (ret == 0)
        ret = vd_digest_table_init(&rewrite->table, vd_repository_digest_kind(prune->repository),
                                   vd_digests_extent_bytes(bytes), bytes, err);
    if (ret == 0)
        ret = vd_job_phase(&prune->job, "digest", bytes, 0, err);
    if (ret == 0)
        ret = vd_digests_make(file, &rewrite->table, &prune->job, 0, err);
    vd_storage_close(file);
    return ret;
}

static int rewrite_new(struct vd_rewrite *rewrite, struct vdisk_error *err)
{
    CLEANUP_FREE char *name = NULL;
    if (asprintf(&name, "%s.part", rewrite->point->manifest.image.name) < 0) {
        name = NULL;
        return vd_err_nomem(err, "the name of a file");
    }
    rewrite->part = vd_repository_path(rewrite->prune->repository, name, err);
    int ret = rewrite->part ? write_image(rewrite, err) : -ENOMEM;
    if (ret == 0)
        ret = digest_image(rewrite, err);
    return ret < 0 ? ret : vd_rewrite_publish(rewrite, name, NULL, err);
}

int vd_rewrite_new(struct vd_rewrite *rewrite, struct vdisk_error *err)
{
    int ret = rewrite_new(rewrite, err);
    vd_rewrite_end(rewrite);
    return ret;
}
