/* SPDX-License-Identifier: MIT */
/* In place of the status page, in a build without libmicrohttpd. */
#include "serve/server.h"

int vd_status_create(struct vdisk_server *server, int fd, struct vd_status **status,
                     struct vdisk_error *err)
{
    (void)server;
    (void)fd;
    (void)status;
    return vd_err_set(err, ENOTSUP,
                      "this build has no status page: build vdisk with libmicrohttpd");
}

void vd_status_free(struct vd_status *status)
{
    (void)status;
}
