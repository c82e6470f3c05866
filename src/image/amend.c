/* SPDX-License-Identifier: MIT */
/* What the header of an image says of its format, changed. */
#include <inttypes.h>

#include <string.h>

#include "image/image.h"

#define AMEND_FLAGS_ALL \
    (VDISK_AMEND_LAZY_REFCOUNTS | VDISK_AMEND_NO_LAZY_REFCOUNTS | VDISK_AMEND_NO_DATA_RAW)

static int check_key_slot(const struct vdisk_amend_options *options, struct vdisk_error *err)
{
    const struct vdisk_key_slot_options *key_slot = options->key_slot;
    const struct vdisk_passphrases *passphrases = options->passphrases;
    if (key_slot->struct_bytes != sizeof(*key_slot) || key_slot->reserved)
        return vd_err_set(err, EINVAL,
                          "key slot options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          key_slot->struct_bytes, key_slot->reserved, sizeof(*key_slot));
    if (passphrases && passphrases->struct_bytes != sizeof(*passphrases))
        return vd_err_set(err, EINVAL, "passphrases: struct_bytes is %zu: this library wants %zu",
                          passphrases->struct_bytes, sizeof(*passphrases));
    if (key_slot->slot < -1)
        return vd_err_set(err, EINVAL, "key slot options: slot %" PRId32, key_slot->slot);
    if (options->compat || options->flags || options->refcount_bits || options->data_file)
        return vd_err_set(err, EINVAL, "amend options: a key slot is changed by itself");
    return 0;
}

int vdisk_image_amend(const char *name, const char *format,
                      const struct vdisk_amend_options *options, struct vdisk_error *err)
{
    struct vd_storage_options open = {.flags = VD_STORAGE_WRITE};
    const struct vd_format_driver *driver = NULL;
    struct vd_storage *file;
    if (options->struct_bytes != sizeof(*options))
        return vd_err_set(err, EINVAL, "amend options: struct_bytes is %zu: this library wants %zu",
                          options->struct_bytes, sizeof(*options));
    bool has_qcow2 = options->flags || options->refcount_bits || options->data_file;
    if (options->flags & ~(uint32_t)AMEND_FLAGS_ALL)
        return vd_err_set(err, EINVAL, "amend options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)AMEND_FLAGS_ALL);
    if (!options->compat && !options->key_slot && !has_qcow2)
        return vd_err_set(err, EINVAL, "amend options: nothing to change is named");
    int ret = options->key_slot ? check_key_slot(options, err) : 0;
    if (ret < 0)
        return ret;
    if (format) {
        driver = vd_format_find(format, err);
        if (!driver)
            return -EINVAL;
    }
    ret = vd_storage_open(name, &open, &file, err);
    if (ret < 0)
        return ret;
    if (!driver)
        ret = vd_format_probe(file, &driver, err);
    if (ret == 0 && options->key_slot && !vd_format_driver_encrypts(driver))
        ret = vd_err_set(err, ENOTSUP, "%s: format %s has no encryption", name,
                         vd_format_driver_name(driver));
    if (ret == 0 && has_qcow2 && strcmp(vd_format_driver_name(driver), "qcow2") != 0)
        ret = vd_err_set(err, ENOTSUP, "%s: format %s has none of the features of qcow2", name,
                         vd_format_driver_name(driver));
    if (ret == 0)
        ret = vd_format_amend(driver, file, options, err);
    vd_storage_close(file);
    return ret;
}
