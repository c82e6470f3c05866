/* SPDX-License-Identifier: MIT */
/* Opening, closing, and facts about an image. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/snapshots.h"
#include "image/chain.h"
#include "image/image_priv.h"
#include "image/named.h"
#include "util/mem.h"

#define OPEN_FLAGS_ALL                                                                      \
    (VDISK_OPEN_WRITE | VDISK_OPEN_SHARE | VDISK_OPEN_DIRECT | VDISK_OPEN_SYNC |            \
     VDISK_OPEN_UNSAFE | VDISK_OPEN_CHECK | VDISK_OPEN_SEQUENTIAL | VDISK_OPEN_NO_BACKING | \
     VDISK_OPEN_FACTS)

static int check_options(const struct vdisk_open_options *options, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "open options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->passphrases && options->passphrases->struct_bytes != sizeof(*options->passphrases))
        return vd_err_set(err, EINVAL, "passphrases: struct_bytes is %zu: this library wants %zu",
                          options->passphrases->struct_bytes, sizeof(*options->passphrases));
    if (options->flags & ~(uint32_t)OPEN_FLAGS_ALL)
        return vd_err_set(err, EINVAL, "open options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)OPEN_FLAGS_ALL);
    if ((options->flags & VDISK_OPEN_SHARE) && (options->flags & VDISK_OPEN_WRITE))
        return vd_err_set(err, EINVAL, "open options: sharing with a writer is for reading only");
    if ((options->flags & VDISK_OPEN_FACTS) && (options->flags & VDISK_OPEN_WRITE))
        return vd_err_set(err, EINVAL, "open options: facts alone are not for writing");
    if (options->snapshot &&
        (options->flags & (VDISK_OPEN_WRITE | VDISK_OPEN_CHECK | VDISK_OPEN_FACTS)))
        return vd_err_set(err, EINVAL, "open options: a snapshot is for reading only");
    return options->snapshot ? vd_snapshot_check_key(options->snapshot, err) : 0;
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

int vd_image_open_on(struct vd_storage *file, const struct vdisk_open_options *options,
                     struct vdisk_image **image, struct vdisk_error *err)
{
    struct vd_chain_options chain = {.open = options};
    return vd_image_open_chain_on(file, &chain, image, err);
}

int vdisk_image_open(const char *name, const struct vdisk_open_options *options,
                     struct vdisk_image **image, struct vdisk_error *err)
{
    static const struct vdisk_open_options defaults = {.struct_bytes = sizeof(defaults)};
    if (!options)
        options = &defaults;

    struct vd_chain_options chain = {.open = options};
    return vd_image_open_chain(name, &chain, image, err);
}

/* Frees one image of a chain. */
static int close_one(struct vdisk_image *image, struct vdisk_error *err)
{
    int ret = vd_format_close(image->format, err);
    vd_storage_close(image->file);
    vd_guard_destroy(&image->guard);
    vd_run_destroy(&image->known_backing);
    vd_ahead_destroy(&image->ahead);
    vd_encoded_destroy(&image->encoded);
    vd_mutex_destroy(&image->info_lock);
    free(image->backing_name);
    free(image->backing_path);
    free(image);
    return ret;
}

int vdisk_image_close(struct vdisk_image *image, struct vdisk_error *err)
{
    int ret = 0;
    while (image) {
        struct vdisk_image *backing = image->backing;
        int closed = close_one(image, err);
        if (ret == 0)
            ret = closed;
        image = backing;
    }
    return ret;
}

int vd_image_close_keeping_file(struct vdisk_image *image, struct vd_storage **file,
                                struct vdisk_error *err)
{
    *file = STEAL_PTR(image->file);
    return vdisk_image_close(image, err);
}

struct vdisk_image *vdisk_image_backing(struct vdisk_image *image)
{
    return image->backing;
}

struct vdisk_image *vd_image_take_backing(struct vdisk_image *image)
{
    image->is_constant = false;
    return STEAL_PTR(image->backing);
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

/* Whoever has got the old path keeps it for as long as the name is the same. */
static int resolve_backing_locked(struct vdisk_image *image, const char *name)
    VD_REQUIRES(image->info_lock)
{
    struct vd_named named;
    char *copy = strdup(name);
    int ret = vd_named_resolve(&named, vd_storage_name(image->file), name, NULL);
    if (!copy)
        ret = -ENOMEM;
    if (ret != -ENOMEM) {
        free(image->backing_name);
        free(image->backing_path);
        image->backing_name = STEAL_PTR(copy);
        image->backing_path = ret == 0 ? STEAL_PTR(named.path) : NULL;
    }
    vd_named_free(&named);
    free(copy);
    return ret == -ENOMEM ? ret : 0;
}

/* The backing file's name as it would be opened; a name that means nothing has none. */
static int find_backing_path(struct vdisk_image *image, const char *name, const char **path,
                             struct vdisk_error *err)
{
    int ret = 0;
    *path = NULL;
    if (!name)
        return 0;
    vd_mutex_lock(&image->info_lock);
    if (!image->backing_name || strcmp(image->backing_name, name) != 0)
        ret = resolve_backing_locked(image, name);
    if (ret == 0)
        *path = image->backing_path;
    vd_mutex_unlock(&image->info_lock);
    return ret < 0 ? vd_err_nomem(err, "the name of a file") : 0;
}

int vdisk_image_info(struct vdisk_image *image, struct vdisk_image_info *info,
                     struct vdisk_error *err)
{
    if (info->struct_bytes != sizeof(*info))
        return vd_err_set(err, EINVAL, "image info: struct_bytes is %zu, this library wants %zu",
                          info->struct_bytes, sizeof(*info));
    struct vd_format_info format_info;
    const char *backing_path;
    int ret = vd_format_info(image->format, &format_info, err);
    if (ret == 0)
        ret = find_backing_path(image, format_info.backing_name, &backing_path, err);
    if (ret < 0)
        return ret;

    *info = (struct vdisk_image_info){
        .struct_bytes = sizeof(*info),
        .flags = format_info.flags,
        .cluster_bytes = format_info.cluster_bytes,
        .filename = vd_storage_name(image->file),
        .format = vd_format_driver_name(vd_format_driver_of(image->format)),
        .variant = format_info.variant,
        .refcount_bits = format_info.refcount_bits,
        .compression = format_info.compression,
        .backing_name = format_info.backing_name,
        .backing_path = backing_path,
        .backing_format = format_info.backing_format,
        .data_name = format_info.data_name,
        .virtual_bytes = vdisk_image_size(image),
        .generation = format_info.generation,
        .encrypt = format_info.encrypt,
    };
    memcpy(info->uuid, format_info.uuid, sizeof(info->uuid));
    ret = vd_storage_allocated(image->file, &info->actual_bytes, err);
    if (ret == 0)
        info->flags |= VDISK_INFO_ACTUAL_SIZE;
    return ret == -EOPNOTSUPP ? 0 : ret;
}
