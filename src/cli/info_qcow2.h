/* SPDX-License-Identifier: MIT */
/* What `vdisk info` tells of qcow2 images only, in qemu-img's words. */
#ifndef VD_CLI_INFO_QCOW2_H
#define VD_CLI_INFO_QCOW2_H

#include "cli/output.h"
#include "vdisk.h"

/* Both for any format: nothing if @info is not of qcow2. */
void vd_info_qcow2_print(const struct vdisk_image_info *info);
void vd_info_qcow2_put(struct vd_json *json, json_t *data, const struct vdisk_image_info *info);

#endif
