/* SPDX-License-Identifier: MIT */
/* Making a new image. */
#include <inttypes.h>

#include "format/format.h"
#include "image/image.h"
#include "storage/new_file.h"

int vd_image_check_create(const char *format, const struct vdisk_create_options *options,
                          const struct vd_format_driver **driver, struct vdisk_error *err)
{
    struct vdisk_measure_result measure;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "create options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    *driver = vd_format_find(format, err);
    if (!*driver)
        return -EINVAL;
    /* Who can not tell how large it would be can not make it. */
    return vd_format_measure(*driver, options->size, 0, &measure, err);
}

int vd_image_create_at(const char *place, const struct vd_format_driver *driver,
                       const struct vdisk_create_options *options, bool is_durable,
                       struct vdisk_error *err)
{
    struct vd_storage_options storage_options = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE};
    struct vd_storage *file;
    int ret = vd_storage_open(place, &storage_options, &file, err);
    if (ret < 0)
        return ret;
    ret = vd_format_create(driver, file, options, err);
    if (ret == 0 && is_durable)
        ret = vd_storage_flush(file, err);
    vd_storage_close(file);
    return ret;
}

int vdisk_image_create(const char *name, const char *format,
                       const struct vdisk_create_options *options, struct vdisk_error *err)
{
    const struct vd_format_driver *driver;
    int ret = vd_image_check_create(format, options, &driver, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", name);

    struct vd_new_file file;
    ret = vd_new_file_open(&file, name, err);
    if (ret == 0) {
        ret = vd_image_create_at(vd_new_file_place(&file), driver, options, true, err);
        if (ret < 0 && file.part_name)
            vd_err_prefix(err, ret, "%s: ", file.name);
    }
    if (ret == 0)
        ret = vd_new_file_publish(&file, true, err);
    vd_new_file_abandon(&file);
    return ret;
}
