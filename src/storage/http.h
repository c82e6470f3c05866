/* SPDX-License-Identifier: MIT */
/*
 * Storage on a web server, read-only: http:// and https://.
 *
 * Opening is one request (and one more for each redirect); its answer brings the first 4 KiB, which
 * are never asked for again.  So what is read of them is as old as the open: to see whether the
 * file has changed, open it again.
 */
#ifndef VD_STORAGE_HTTP_H
#define VD_STORAGE_HTTP_H

#include "storage/driver.h"

extern const struct vd_storage_driver vd_storage_http_driver;

#endif
