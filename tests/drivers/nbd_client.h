/* SPDX-License-Identifier: MIT */
/* An NBD client for tests: simple replies, one request at a time, and no opinion of its own. */
#ifndef VT_NBD_CLIENT_H
#define VT_NBD_CLIENT_H

#include "nbdproto/nbdproto.h"

struct vt_nbd {
    int fd; /* owned */
    uint64_t size;
    uint16_t flags; /* transmission flags */
    uint64_t cookie;
};

/*
 * Negotiates on @fd, which is the client's from now on, for the export @name.  Returns 0;
 * -ECONNRESET: the server hung up; -ENOENT: it refused the export; -EPROTO.
 */
int vt_nbd_begin(struct vt_nbd *client, int fd, const char *name);

/* A request and its reply.  @buf: what is written, or gets what is read.  Returns 0, the error of
 * the reply (positive), or as vt_nbd_begin(). */
int vt_nbd_request(struct vt_nbd *client, enum vd_nbd_command command, uint16_t flags,
                   uint64_t offset, uint32_t length, void *buf);

/* Only the request, with its payload, or only the reply to the last one. */
int vt_nbd_send(struct vt_nbd *client, enum vd_nbd_command command, uint16_t flags, uint64_t offset,
                uint32_t length, const void *buf);
int vt_nbd_reply(struct vt_nbd *client, uint32_t length, void *buf);

/* Says goodbye, if @is_polite, and closes. */
void vt_nbd_end(struct vt_nbd *client, int is_polite);

#endif
