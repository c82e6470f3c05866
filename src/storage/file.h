/* SPDX-License-Identifier: MIT */
/* Storage in a local file or block device. */
#ifndef VD_STORAGE_FILE_H
#define VD_STORAGE_FILE_H

#include "storage/driver.h"

extern const struct vd_storage_driver vd_storage_file_driver;

#endif
