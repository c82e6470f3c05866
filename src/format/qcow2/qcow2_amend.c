/* SPDX-License-Identifier: MIT */
/* What the header of a closed qcow2 image says, changed. */
#include "format/qcow2/qcow2_crypt.h"

int vd_qcow2_amend(const struct vd_format_driver *driver, struct vd_storage *file,
                   const struct vdisk_amend_options *options, struct vdisk_error *err)
{
    (void)driver;
    struct vd_qcow2_header header;
    int ret = vd_qcow2_header_read(file, 0, &header, err);
    if (ret == 0 && options->key_slot)
        ret = vd_qcow2_crypt_amend(file, &header, options, err);
    else if (ret == 0)
        ret = vd_err_set(err, ENOTSUP, "compat '%s': can not be changed in a qcow2 image",
                         options->compat);
    vd_qcow2_header_free(&header);
    return ret;
}
