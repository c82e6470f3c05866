/* SPDX-License-Identifier: MIT */
/*
 * What is done to a QED image as a file, while nobody has it open as a disk: making one, checking,
 * mending, changing what its header says.  The slots of the driver and its open end here.
 */
#ifndef VD_FORMAT_QED_QED_FILE_H
#define VD_FORMAT_QED_QED_FILE_H

#include "format/driver.h"
#include "format/qed/qed_header.h"

/* ---- qed_create.c: slots of the driver ---- */

int vd_qed_create(const struct vd_format_driver *driver, struct vd_storage *file,
                  struct vd_storage *data, const struct vdisk_create_options *options,
                  struct vdisk_error *err);
int vd_qed_measure(const struct vd_format_driver *driver,
                   const struct vdisk_create_options *options, uint64_t data_bytes,
                   struct vdisk_measure_result *result, struct vdisk_error *err);

#endif
