/* SPDX-License-Identifier: MIT */
/* An NBD URI taken apart: what it means, and whether it asks for more than its giver may. */
#ifndef VD_STORAGE_NBD_URI_H
#define VD_STORAGE_NBD_URI_H

#include "storage/storage.h"

enum vd_nbd_transport {
    VD_NBD_TCP,
    VD_NBD_UNIX,
    VD_NBD_VSOCK
};

struct vd_nbd_uri {
    enum vd_nbd_transport transport;
    bool is_tls;
    bool has_key;       /* tls-psk-file names a file with a key that both know */
    char *certificates; /* tls-certificates: a directory, decoded; NULL: not given */
    char *text;         /* the URI with its scheme in small letters, for libnbd */
    char *place;        /* host in small letters, path of the socket, or context number */
    char *port;         /* NULL for a socket */
    char *export_name;  /* decoded; empty: the server's default */
};

#define VD_NBD_SCHEMES "nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock"

/* Goes to vd_nbd_uri_free(), also if it fails. */
int vd_nbd_uri_parse(const char *text, struct vd_nbd_uri *uri, struct vdisk_error *err);
void vd_nbd_uri_free(struct vd_nbd_uri *uri);

/* Which object is it?  As far as the name tells: one server may have many names. */
struct vd_storage_identity vd_nbd_uri_identity(const struct vd_nbd_uri *uri);

/* The same of a name.  Not known if it is no NBD URI. */
struct vd_storage_identity vd_nbd_identify(const char *name);

#endif
