/* SPDX-License-Identifier: MIT */
/* vdisk_image_check(): hands the check to the format. */
#include "image/image_priv.h"

int vdisk_image_check(struct vdisk_image *image, enum vdisk_repair repair, vdisk_report_fn report,
                      void *opaque, struct vdisk_check_result *result, struct vdisk_error *err)
{
    if (result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL, "check result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    *result = (struct vdisk_check_result){.struct_bytes = sizeof(*result)};
    struct vd_check check = {
        .repair = repair, .report = report, .opaque = opaque, .result = result};
    return vd_format_check(image->format, &check, err);
}
