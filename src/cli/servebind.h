/* SPDX-License-Identifier: MIT */
/* Making one socket that listens, or taking one over. */
#ifndef VD_CLI_SERVEBIND_H
#define VD_CLI_SERVEBIND_H

#include "cli/servesock.h"

#define VD_TCP_SOCKETS_MAX 16u
#define VD_TCP_HOST_BYTES  64u

/* One socket for each address of a host, all on one port. */
struct vd_tcp_sockets {
    int fds[VD_TCP_SOCKETS_MAX]; /* -1: taken by somebody */
    char hosts[VD_TCP_SOCKETS_MAX][VD_TCP_HOST_BYTES];
    size_t entries; /* at least 1 after a success */
    uint32_t port;
};

/* @host: NULL for this machine.  @port: 0 for any free one. */
int vd_bind_tcp(const char *host, uint32_t port, struct vd_tcp_sockets *bound,
                struct vdisk_error *err);
void vd_tcp_sockets_close(struct vd_tcp_sockets *bound);

/* A file that a dead server left at @path is replaced, nothing else. */
int vd_bind_unix(const char *path, int *fd, struct vdisk_error *err);

int vd_bind_vsock(uint32_t port, int *fd, struct vdisk_error *err);

/* One more, with no descriptor; NULL: no memory. */
struct vd_serve_socket *vd_serve_sockets_add(struct vd_serve_sockets *sockets,
                                             struct vdisk_error *err);

/* One called "status" is for the page, all others are for NBD. */
int vd_inherit_activation(const struct vd_serve_activation *activation,
                          struct vd_serve_sockets *sockets, struct vdisk_error *err);
int vd_inherit_fd(int fd, struct vd_serve_sockets *sockets, struct vdisk_error *err);

#endif
