/* SPDX-License-Identifier: MIT */
/* The storage drivers that a name can lead to; the last takes every name that no other took. */
#include "storage/driver.h"
#include "storage/file.h"
#include "storage/http.h"
#include "storage/nbd.h"

const struct vd_storage_driver *const vd_storage_drivers[] = {
    &vd_storage_http_driver,
    &vd_storage_nbd_driver,
    &vd_storage_file_driver,
    NULL,
};
