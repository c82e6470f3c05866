/* SPDX-License-Identifier: MIT */
/* Opening, closing, and facts about an image. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/driver.h"
#include "image/image_priv.h"

#define OPEN_FLAGS_ALL                                                           \
    (VDISK_OPEN_WRITE | VDISK_OPEN_SHARE | VDISK_OPEN_DIRECT | VDISK_OPEN_SYNC | \
     VDISK_OPEN_UNSAFE | VDISK_OPEN_CHECK | VDISK_OPEN_SEQUENTIAL)

static int check_options(const struct vdisk_open_options *options, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "open options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags & ~(uint32_t)OPEN_FLAGS_ALL)
        return vd_err_set(err, EINVAL, "open options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)OPEN_FLAGS_ALL);
    if ((options->flags & VDISK_OPEN_SHARE) && (options->flags & VDISK_OPEN_WRITE))
        return vd_err_set(err, EINVAL, "open options: sharing with a writer is for reading only");
    return 0;
}

int vd_image_storage_options(const struct vdisk_open_options *options,
                             struct vd_storage_options *storage_options, struct vdisk_error *err)
{
    static const struct {
        uint32_t open, storage;
    } table[] = {
        {VDISK_OPEN_WRITE, VD_STORAGE_WRITE},   {VDISK_OPEN_SHARE, VD_STORAGE_SHARE},
        {VDISK_OPEN_DIRECT, VD_STORAGE_DIRECT}, {VDISK_OPEN_SYNC, VD_STORAGE_SYNC},
        {VDISK_OPEN_UNSAFE, VD_STORAGE_UNSAFE}, {VDISK_OPEN_SEQUENTIAL, VD_STORAGE_SEQUENTIAL},
    };
    int ret = check_options(options, err);
    if (ret < 0)
        return ret;
    *storage_options = (struct vd_storage_options){.network = options->network};
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (options->flags & table[i].open)
            storage_options->flags |= table[i].storage;
    return 0;
}

/* The format the caller named, or what the content looks like; never a guess of raw to write to. */
static int choose_format(struct vd_storage *file, const struct vdisk_open_options *options,
                         const struct vd_format_driver **driver, struct vdisk_error *err)
{
    if (options->format) {
        *driver = vd_format_find(options->format, err);
        return *driver ? 0 : -EINVAL;
    }
    int ret = vd_format_probe(file, driver, err);
    if (ret == 0 && !(*driver)->probe && (options->flags & VDISK_OPEN_WRITE))
        return vd_err_set(err, EINVAL,
                          "%s: no known format found in it: name the format to write to it, raw "
                          "included (-f raw)",
                          vd_storage_name(file));
    return ret;
}

static int open_format(struct vdisk_image *image, const struct vdisk_open_options *options,
                       struct vdisk_error *err)
{
    const struct vd_format_driver *driver;
    int ret = choose_format(image->file, options, &driver, err);
    if (ret < 0)
        return ret;

    struct vd_format_options format_options = {.cache_bytes = options->cache_bytes};
    if (options->flags & VDISK_OPEN_WRITE)
        format_options.flags |= VD_FORMAT_WRITE;
    if (options->flags & VDISK_OPEN_CHECK)
        format_options.flags |= VD_FORMAT_CHECK;
    ret = vd_format_open(driver, image->file, &format_options, &image->format, err);
    if (ret < 0)
        return ret;

    struct vd_format_info info;
    ret = vd_format_info(image->format, &info, err);
    image->cluster_bytes = info.cluster_bytes ? info.cluster_bytes : 1;
    return ret;
}

int vd_image_open_on(struct vd_storage *file, const struct vdisk_open_options *options,
                     struct vdisk_image **image, struct vdisk_error *err)
{
    struct vdisk_image *img = calloc(1, sizeof(*img));
    if (!img) {
        vd_storage_close(file);
        return vd_err_nomem(err, "an image");
    }
    img->file = file;
    vd_guard_init(&img->guard);

    int ret = open_format(img, options, err);
    if (ret < 0) {
        vdisk_image_close(img, NULL);
        return ret;
    }
    *image = img;
    return 0;
}

int vdisk_image_open(const char *name, const struct vdisk_open_options *options,
                     struct vdisk_image **image, struct vdisk_error *err)
{
    static const struct vdisk_open_options defaults = {.struct_bytes = sizeof(defaults)};
    if (!options)
        options = &defaults;

    struct vd_storage_options storage_options;
    struct vd_storage *file;
    int ret = vd_image_storage_options(options, &storage_options, err);
    if (ret == 0)
        ret = vd_storage_open(name, &storage_options, &file, err);
    return ret < 0 ? ret : vd_image_open_on(file, options, image, err);
}

int vdisk_image_close(struct vdisk_image *image, struct vdisk_error *err)
{
    if (!image)
        return 0;
    int ret = vd_format_close(image->format, err);
    vd_storage_close(image->file);
    vd_guard_destroy(&image->guard);
    free(image);
    return ret;
}

struct vd_format *vd_image_format(struct vdisk_image *image)
{
    return image->format;
}

uint64_t vdisk_image_size(const struct vdisk_image *image)
{
    return vd_format_size(image->format);
}

const char *vdisk_format_name(size_t index)
{
    const struct vd_format_driver *driver = vd_format_at(index);
    return driver ? vd_format_driver_name(driver) : NULL;
}

int vdisk_image_info(struct vdisk_image *image, struct vdisk_image_info *info,
                     struct vdisk_error *err)
{
    if (info->struct_bytes != sizeof(*info))
        return vd_err_set(err, EINVAL, "image info: struct_bytes is %zu, this library wants %zu",
                          info->struct_bytes, sizeof(*info));
    struct vd_format_info format_info;
    int ret = vd_format_info(image->format, &format_info, err);
    if (ret < 0)
        return ret;

    *info = (struct vdisk_image_info){
        .struct_bytes = sizeof(*info),
        .flags = format_info.flags,
        .cluster_bytes = format_info.cluster_bytes,
        .filename = vd_storage_name(image->file),
        .format = vd_format_driver_name(vd_format_driver_of(image->format)),
        .virtual_bytes = vdisk_image_size(image),
        .generation = format_info.generation,
    };
    memcpy(info->uuid, format_info.uuid, sizeof(info->uuid));
    ret = vd_storage_allocated(image->file, &info->actual_bytes, err);
    if (ret == 0)
        info->flags |= VDISK_INFO_ACTUAL_SIZE;
    return ret == -EOPNOTSUPP ? 0 : ret;
}
