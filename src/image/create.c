/* SPDX-License-Identifier: MIT */
/* Making a new image. */
#include <inttypes.h>
#include <unistd.h>

#include "format/format.h"
#include "image/image.h"

static int create_on(const struct vd_format_driver *driver, struct vd_storage *file,
                     const struct vdisk_create_options *options, struct vdisk_error *err)
{
    int ret = vd_format_create(driver, file, options, err);
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

/* Opens @name for a new image; *is_new tells whether the file was not there before. */
static int open_target(const char *name, struct vd_storage **file, bool *is_new,
                       struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE |
                                                  VD_STORAGE_EXCLUSIVE};
    struct vdisk_error exists = {0};
    *is_new = true;
    int ret = vd_storage_open(name, &options, file, &exists);
    if (ret != -EEXIST)
        return ret < 0 ? vd_err_copy(err, &exists) : 0;
    *is_new = false;
    options.flags &= ~(uint32_t)VD_STORAGE_EXCLUSIVE;
    return vd_storage_open(name, &options, file, err);
}

int vdisk_image_create(const char *name, const char *format,
                       const struct vdisk_create_options *options, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "create options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    const struct vd_format_driver *driver = vd_format_find(format, err);
    if (!driver)
        return -EINVAL;

    /* Bad sizes are found before a file that is there loses its content. */
    struct vdisk_measure_result measure;
    int ret = vd_format_measure(driver, options->size, 0, &measure, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", name);

    struct vd_storage *file;
    bool is_new;
    ret = open_target(name, &file, &is_new, err);
    if (ret < 0)
        return ret;
    ret = create_on(driver, file, options, err);
    vd_storage_close(file);
    if (ret < 0 && is_new)
        unlink(name);
    return ret;
}
