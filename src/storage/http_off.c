/* SPDX-License-Identifier: MIT */
/* What stands in for the http driver in a library built without libcurl: it says so. */
#include "storage/http.h"

static int http_off_open(struct vd_storage *storage, const char *name,
                         const struct vd_storage_options *options, struct vdisk_error *err)
{
    (void)storage;
    (void)name;
    (void)options;
    return vd_err_set(err, EOPNOTSUPP,
                      "this library was built without HTTP: build it with libcurl, "
                      "-Dhttp=enabled");
}

static const char *const http_schemes[] = {"http", "https", NULL};

/* Nothing ever gets open, so the other functions are never called. */
const struct vd_storage_driver vd_storage_http_driver = {
    .name = "http",
    .schemes = http_schemes,
    .open = http_off_open,
};
