/* SPDX-License-Identifier: MIT */
/* The image a conversion writes. */
#include "job/convert_target.h"

#include <inttypes.h>

#include <string.h>

#include "image/chain.h"
#include "util/mem.h"

static struct vdisk_open_options open_options(const struct vdisk_convert_options *options)
{
    return (struct vdisk_open_options){
        .struct_bytes = sizeof(struct vdisk_open_options),
        .flags = VDISK_OPEN_WRITE | options->target_flags,
        .format = options->target_format,
        .network = options->network,
        .passphrases = options->passphrases,
        .gate = options->gate,
    };
}

/* Does a new, empty image on this storage read as zero?  An image with a map does; a raw one only
 * where the storage began empty. */
static int look_for_zeros(struct vd_convert_target *target, struct vdisk_error *err)
{
    const struct vd_format *format = vd_image_format(target->image);
    uint64_t size = vdisk_image_size(target->image);
    struct vdisk_extent extent;
    target->reads_zero = !target->behind;
    if (target->behind)
        return 0;
    if ((vd_storage_caps(vd_format_file(format)) & VD_STORAGE_CAN_RESIZE) || size == 0)
        return 0;
    int ret = vdisk_image_extent(target->image, 0, size, &extent, err);
    target->reads_zero =
        ret == 0 && (extent.flags & VDISK_EXTENT_ZERO) != 0 && extent.length == size;
    return ret;
}

/* Names in the image count from the directory it is opened in, which for a link may be any. */
static int check_no_link(const struct vd_convert_target *target,
                         const struct vdisk_create_options *create, const char *name,
                         struct vdisk_error *err)
{
    if (strcmp(target->file.name, name) == 0 || (!create->backing && !create->data_file))
        return 0;
    return vd_err_set(err, EINVAL,
                      "%s: is a symbolic link: an image that names other files is made by its own "
                      "name (%s)",
                      name, target->file.name);
}

static int refuse_format(const char *name, const struct vd_format_driver *driver,
                         struct vdisk_error *err)
{
    return vd_err_set(err, ENOTSUP,
                      "%s: images of format %s have no compressed clusters: use another one (-O "
                      "qcow2)",
                      name, vd_format_driver_name(driver));
}

/* Does the image take compressed clusters, if those are wanted?  Nothing has been written to it. */
static int check_takes_encoded(const struct vd_convert_target *target,
                               const struct vdisk_convert_options *options, struct vdisk_error *err)
{
    struct vd_format_info info;
    const struct vd_format *format = vd_image_format(target->image);
    if (!(options->flags & VDISK_CONVERT_COMPRESS))
        return 0;
    int ret = vd_format_info(vd_image_format(target->image), &info, err);
    if (ret < 0 || info.takes_encoded)
        return ret;
    if (!vd_format_driver_has_encoded(vd_format_driver_of(format)))
        return refuse_format(options->target, vd_format_driver_of(format), err);
    return vd_err_set(err, ENOTSUP, "%s: an image %s has no compressed clusters", options->target,
                      info.data_name ? "with a data file" : "that is encrypted");
}

/* The same of an image that is to be made; asked before any file is touched. */
static int check_will_take_encoded(const struct vdisk_convert_options *options,
                                   const struct vd_format_driver *driver,
                                   const struct vdisk_create_options *create,
                                   struct vdisk_error *err)
{
    if (!(options->flags & VDISK_CONVERT_COMPRESS))
        return 0;
    if (!vd_format_driver_has_encoded(driver))
        return refuse_format(options->target, driver, err);
    if (create->data_file || create->encrypt)
        return vd_err_set(err, ENOTSUP, "%s: an image %s has no compressed clusters",
                          options->target,
                          create->data_file ? "with a data file" : "that is encrypted");
    if (create->preallocation != VDISK_PREALLOCATION_OFF)
        return vd_err_set(err, EINVAL,
                          "%s: what is compressed takes places of its own: compression does not go "
                          "with preallocation",
                          options->target);
    return 0;
}

/* Makes the new image under its temporary name, and opens it: the user has named what it names. */
static int make_target(struct vd_convert_target *target,
                       const struct vdisk_convert_options *options,
                       const struct vd_format_driver *driver,
                       const struct vdisk_create_options *create, struct vdisk_error *err)
{
    const char *place = vd_new_file_place(&target->file);
    struct vdisk_open_options open = open_options(options);
    struct vdisk_passphrases own = {.struct_bytes = sizeof(own), .entries = 1};
    struct vd_chain_options chain = {.open = &open, .trusts_names = true};
    if (create->encrypt) {
        own.list = &create->encrypt->passphrase;
        chain.top_passphrases = &own;
    }
    int ret = check_no_link(target, create, options->target, err);
    if (ret == 0)
        ret = vd_image_expect_data(&target->data, options->target, create, err);
    if (ret == 0)
        ret = vd_image_create_at(place, options->target, driver, create, target->is_durable, err);
    if (ret < 0)
        vd_image_keep_data(&target->data); /* what is there now is not ours */
    open.format = vd_format_driver_name(driver);
    if (ret == 0)
        ret = vd_image_open_chain(place, &chain, &target->image, err);
    if (ret == 0)
        target->behind = vdisk_image_backing(target->image);
    return ret;
}

static int create_target(struct vd_convert_target *target,
                         const struct vdisk_convert_options *options, uint64_t size,
                         struct vdisk_error *err)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    if (options->create)
        create = *options->create;
    if (!create.size)
        create.size = size;
    if (create.size < size)
        return vd_err_set(err, EINVAL, "%s: size of %" PRIu64 " bytes: the sources have %" PRIu64,
                          options->target, create.size, size);
    create.flags |= VDISK_CREATE_NEW_DATA; /* the raw file would be overwritten */

    /* What the format can not do is found before any file is touched. */
    const char *format = options->target_format ? options->target_format : "raw";
    const struct vd_format_driver *driver;
    int ret = vd_image_check_backing_format(options->target, &create, err);
    if (ret < 0)
        return ret;
    ret = vd_image_check_create(format, &create, &driver, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", options->target);
    ret = check_will_take_encoded(options, driver, &create, err);
    if (ret == 0)
        ret = vd_new_file_open(&target->file, options->target, err);
    if (ret == 0)
        ret = make_target(target, options, driver, &create, err);
    if (ret == 0)
        ret = check_takes_encoded(target, options, err);
    return ret < 0 ? ret : look_for_zeros(target, err);
}

static int open_target(struct vd_convert_target *target,
                       const struct vdisk_convert_options *options, uint64_t size,
                       struct vdisk_error *err)
{
    struct vdisk_open_options open = open_options(options);
    int ret = vdisk_image_open(options->target, &open, &target->image, err);
    if (ret < 0)
        return ret;
    if (vdisk_image_size(target->image) < size)
        return vd_err_set(err, EINVAL,
                          "%s: the disk has %" PRIu64 " bytes, the sources have %" PRIu64
                          ": resize it first",
                          options->target, vdisk_image_size(target->image), size);
    target->reads_zero = (options->flags & VDISK_CONVERT_TARGET_IS_ZERO) != 0;
    return check_takes_encoded(target, options, err);
}

int vd_convert_target_open(struct vd_convert_target *target,
                           const struct vdisk_convert_options *options, uint64_t size,
                           struct vdisk_error *err)
{
    *target =
        (struct vd_convert_target){.is_durable = !(options->target_flags & VDISK_OPEN_UNSAFE)};
    return options->flags & VDISK_CONVERT_NO_CREATE ? open_target(target, options, size, err)
                                                    : create_target(target, options, size, err);
}

int vd_convert_target_finish(struct vd_convert_target *target, struct vdisk_error *err)
{
    target->behind = NULL;
    int ret = vdisk_image_close(STEAL_PTR(target->image), err);
    if (ret == 0)
        ret = vd_new_file_publish(&target->file, target->is_durable, err);
    /* An image that has its name keeps what it names, also if that may not be durable. */
    if (ret == 0 || !target->file.part_name)
        vd_image_keep_data(&target->data);
    return ret;
}

void vd_convert_target_abandon(struct vd_convert_target *target)
{
    /* The result does not matter: what is in place is unfinished, and the rest is removed. */
    vdisk_image_close(target->image, NULL);
    vd_new_file_abandon(&target->file);
    vd_image_drop_data(&target->data);
    *target = (struct vd_convert_target){0};
}
