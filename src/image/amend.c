/* SPDX-License-Identifier: MIT */
/* What the header of an image says of its format, changed. */
#include "image/image.h"

int vdisk_image_amend(const char *name, const char *format,
                      const struct vdisk_amend_options *options, struct vdisk_error *err)
{
    struct vd_storage_options open = {.flags = VD_STORAGE_WRITE};
    const struct vd_format_driver *driver = NULL;
    struct vd_storage *file;
    if (options->struct_bytes != sizeof(*options))
        return vd_err_set(err, EINVAL, "amend options: struct_bytes is %zu: this library wants %zu",
                          options->struct_bytes, sizeof(*options));
    if (!options->compat)
        return vd_err_set(err, EINVAL, "amend options: nothing to change is named");
    if (format) {
        driver = vd_format_find(format, err);
        if (!driver)
            return -EINVAL;
    }
    int ret = vd_storage_open(name, &open, &file, err);
    if (ret < 0)
        return ret;
    if (!driver)
        ret = vd_format_probe(file, &driver, err);
    if (ret == 0)
        ret = vd_format_amend(driver, file, options, err);
    vd_storage_close(file);
    return ret;
}
