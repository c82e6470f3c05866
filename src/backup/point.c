/* SPDX-License-Identifier: MIT */
/*
 * Opening the image of a point with all that it lies on.
 *
 * The manifests say which files these are, of which formats, and how long the disks are.  An image
 * that says anything else about that is damaged, or somebody's trap.
 */
#include "backup/point.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backup/repository_points.h"
#include "image/chain.h"
#include "storage/verified.h"
#include "util/mem.h"

/* Tables of so many bytes for each image of a long chain: of each, those of the same part of the
 * disk are used at a time. */
#define CACHE_BYTES_AN_IMAGE (UINT64_C(256) << 10)
#define CACHE_BYTES_MIN      (UINT64_C(64) << 20)

/* What is behind an image, and how far it has been opened. */
struct opening {
    struct vdisk_repository *repository;
    const struct vd_point_stand_in *stand_in;
    const struct vd_point **chain; /* owned: from the top down */
    size_t entries;
    size_t opened;
};

/* ---- The chain ---- */

static int tell_damaged(const struct vdisk_repository *repository, const struct vd_point *point,
                        struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG, "%s: point %" PRIu64 " is damaged: %s", repository->name,
                      point->number, point->damage.message);
}

/* Why is there no vd_point_parent()? */
static int tell_orphan(const struct vdisk_repository *repository, const struct vd_point *point,
                       struct vdisk_error *err)
{
    uint64_t number = point->manifest.parent;
    const struct vd_point *parent = vd_repository_point_of(repository, number);
    const char *why = !parent                   ? "there is no such point"
                      : parent->is_damaged      ? parent->damage.message
                      : number >= point->number ? "which is not before it"
                                                : "and there is another one of that number";
    return vd_err_set(err, EBADMSG,
                      "%s: point %" PRIu64 " lies on point %" PRIu64 ", which is missing or "
                      "damaged: %s",
                      repository->name, point->number, number, why);
}

/* @point and all below it.  @above: images that are to lie on it. */
static int list_chain(struct opening *opening, const struct vd_point *point, size_t above,
                      struct vdisk_error *err)
{
    const struct vdisk_repository *repository = opening->repository;
    opening->chain = vd_alloc_array(VD_POINT_CHAIN_MAX, sizeof(struct vd_point *));
    if (!opening->chain)
        return vd_err_nomem(err, "a chain of points");
    while (point) {
        if (point->is_damaged)
            return tell_damaged(repository, point, err);
        if (opening->entries + above == VD_POINT_CHAIN_MAX)
            return vd_err_set(err, ELOOP,
                              "%s: more than %u images one on the other: make a full backup, or "
                              "merge points",
                              repository->name, VD_POINT_CHAIN_MAX);
        opening->chain[opening->entries++] = point;
        if (!point->manifest.parent)
            return 0;
        const struct vd_point *parent = vd_point_parent(repository, point);
        if (!parent)
            return tell_orphan(repository, point, err);
        point = parent;
    }
    return 0;
}

/* ---- Files ---- */

/* Files that can be opened are counted; a long chain is where that shows. */
static int explain_limit(const struct opening *opening, int ret, struct vdisk_error *err)
{
    if (ret != -EMFILE && ret != -ENFILE)
        return ret;
    return vd_err_prefix(err, ret,
                         "%s: %zu images one on the other have to be open at once: permit more "
                         "open files (ulimit -n), or merge points: ",
                         opening->repository->name, opening->entries);
}

static int open_file(const struct opening *opening, const struct vd_point *point,
                     const struct vd_storage_options *options, struct vd_storage **storage,
                     struct vdisk_error *err)
{
    const struct vd_manifest_file *image = &point->manifest.image;
    CLEANUP_FREE char *path = vd_repository_path(opening->repository, image->name, err);
    if (!path)
        return -ENOMEM;
    int ret = vd_repository_has_file(opening->repository, image->name, err);
    if (ret == 0)
        ret = vd_err_set(err, EBADMSG, "%s: is missing: it is the image of point %" PRIu64, path,
                         point->number);
    struct vd_storage *below;
    if (ret > 0)
        ret = vd_storage_open(path, options, &below, err);
    if (ret < 0)
        return explain_limit(opening, ret, err);
    return vd_storage_verified_open(below, &image->table, storage, err);
}

/* The next file behind, which an image calls @name. */
static int open_behind(void *opaque, const char *bearer, const char *name,
                       const struct vd_storage_options *options, struct vd_storage **storage,
                       struct vdisk_error *err)
{
    struct opening *opening = opaque;
    if (opening->opened == opening->entries)
        return vd_err_set(err, EBADMSG,
                          "%s: damaged: it names the file '%s', and lies on no other point", bearer,
                          name);
    const struct vd_point *point = opening->chain[opening->opened];
    const char *wanted = point->manifest.image.name;
    if (strcmp(name, wanted) != 0)
        return vd_err_set(err, EBADMSG, "%s: damaged: it names the file '%s', but lies on '%s'",
                          bearer, name, wanted);
    opening->opened++;
    const struct vd_point_stand_in *stand_in = opening->stand_in;
    if (stand_in && strcmp(stand_in->file, wanted) == 0)
        return stand_in->open(stand_in->opaque, storage, err);
    return open_file(opening, point, options, storage, err);
}

/* ---- What has been opened ---- */

/* Is @image what the manifest of @point says? */
static int check_image(const struct opening *opening, const struct vd_point *point,
                       struct vdisk_image *image, struct vdisk_error *err)
{
    const struct vd_manifest *manifest = &point->manifest;
    const struct vd_point_stand_in *stand_in = opening->stand_in;
    if (stand_in && strcmp(stand_in->file, manifest->image.name) == 0)
        return 0;
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    int ret = vdisk_image_info(image, &info, err);
    if (ret < 0)
        return ret;
    if (strcmp(info.format, manifest->image_format) != 0)
        return vd_err_set(err, EBADMSG, "%s: damaged: it opens as %s, and is %s", info.filename,
                          info.format, manifest->image_format);
    if (info.virtual_bytes != manifest->virtual_bytes)
        return vd_err_set(err, EBADMSG,
                          "%s: damaged: the disk has %" PRIu64 " bytes, and had %" PRIu64,
                          info.filename, info.virtual_bytes, manifest->virtual_bytes);
    return 0;
}

/* @image: where the first of the chain should be, or NULL. */
static int check_chain(const struct opening *opening, struct vdisk_image *image, size_t first,
                       struct vdisk_error *err)
{
    for (size_t i = first; i < opening->entries; i++, image = vdisk_image_backing(image)) {
        const struct vd_point *point = opening->chain[i];
        if (!image)
            return vd_err_set(err, EBADMSG,
                              "%s: damaged: an image does not name '%s', on which it lies",
                              opening->repository->name, point->manifest.image.name);
        int ret = check_image(opening, point, image, err);
        if (ret < 0)
            return ret;
    }
    if (image)
        return vd_err_set(err, EBADMSG, "%s: damaged: an image names a file that is no point",
                          opening->repository->name);
    return 0;
}

/* Opens the image on @file, on all of the chain that is not opened yet. */
static int open_on(struct opening *opening, struct vd_storage *file, const char *format,
                   uint32_t flags, struct vdisk_image **image, struct vdisk_error *err)
{
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open),
        .flags = flags,
        .format = format,
        .cache_bytes = vd_max(CACHE_BYTES_MIN, opening->entries * CACHE_BYTES_AN_IMAGE),
    };
    struct vd_image_files files = {.open = open_behind, .opaque = opening};
    struct vd_chain_options options = {
        .open = &open, .files = &files, .images_max = VD_POINT_CHAIN_MAX};
    size_t first = opening->opened;
    int ret = vd_image_open_chain_on(file, &options, image, err);
    if (ret < 0)
        return ret;
    /* The top itself is a point if it was opened as one. */
    ret = check_chain(opening, first ? *image : vdisk_image_backing(*image), 0, err);
    if (ret < 0)
        vdisk_image_close(*image, NULL);
    return ret;
}

int vd_point_open(struct vdisk_repository *repository, const struct vd_point *point,
                  struct vdisk_image **image, struct vdisk_error *err)
{
    struct opening opening = {.repository = repository};
    struct vd_storage *file;
    int ret = list_chain(&opening, point, 0, err);
    if (ret == 0)
        ret = open_file(&opening, point, NULL, &file, err);
    if (ret == 0) {
        opening.opened = 1;
        ret = open_on(&opening, file, point->manifest.image_format, 0, image, err);
    }
    free(opening.chain);
    return ret < 0 ? vd_err_prefix(err, ret, "point %" PRIu64 ": ", point->number) : 0;
}

int vd_point_open_on(struct vdisk_repository *repository, struct vd_storage *file,
                     const char *format, const struct vd_point *parent, uint32_t flags,
                     const struct vd_point_stand_in *stand_in, struct vdisk_image **image,
                     struct vdisk_error *err)
{
    struct opening opening = {.repository = repository, .stand_in = stand_in};
    int ret = list_chain(&opening, parent, 1, err);
    if (ret == 0)
        ret = open_on(&opening, file, format, flags, image, err);
    else
        vd_storage_close(file);
    free(opening.chain);
    return ret;
}

int vdisk_repository_open_point(struct vdisk_repository *repository, size_t index,
                                struct vdisk_image **image, struct vdisk_error *err)
{
    if (index >= repository->point_entries)
        return vd_err_set(err, EINVAL, "%s: there is no point of index %zu: there are %zu",
                          repository->name, index, repository->point_entries);
    return vd_point_open(repository, &repository->points[index], image, err);
}
