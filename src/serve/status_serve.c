/* SPDX-License-Identifier: MIT */
/* vdisk_server_serve_status(): is this a socket for it, and is there no page yet? */
#include <sys/socket.h>

#include "serve/server.h"

static int int_option(int fd, int option)
{
    int value;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

int vdisk_server_serve_status(struct vdisk_server *server, int fd, struct vdisk_error *err)
{
    if (int_option(fd, SO_TYPE) != SOCK_STREAM || int_option(fd, SO_ACCEPTCONN) != 1)
        return vd_err_set(err, EINVAL,
                          "status page: descriptor %d is not a listening stream socket", fd);
    /* Under the lock, so that a stop meanwhile either is seen or sees the page. */
    int ret;
    vd_mutex_lock(&server->lock);
    if (server->status)
        ret = vd_err_set(err, EEXIST, "the server has a status page already");
    else if (server->is_closed)
        ret = vd_err_set(err, ESHUTDOWN, "status page: the server has been stopped");
    else
        ret = vd_status_create(server, fd, &server->status, err);
    vd_mutex_unlock(&server->lock);
    return ret;
}
