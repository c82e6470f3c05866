/* SPDX-License-Identifier: MIT */
/* The export that a json: name of driver nbd means. */
#ifndef VD_IMAGE_JSON_NBD_H
#define VD_IMAGE_JSON_NBD_H

#include <stdbool.h>

#include "util/err.h"

/* Its members, none of them owned; NULL: not given. */
struct vd_json_nbd {
    const char *type; /* of the server: "inet" or "unix" */
    const char *host;
    const char *port;
    const char *path;
    const char *export_name;
};

/*
 * Where the text of member @key goes; NULL: it is none of these.  @in_server: it stands in the
 * object "server".  Outside of it, host, port and path are what QEMU took before there was
 * "server".
 */
const char **vd_json_nbd_field(struct vd_json_nbd *nbd, const char *key, bool in_server);

/* Is any of them given? */
bool vd_json_nbd_is_set(const struct vd_json_nbd *nbd);

/* The NBD URI that means the same; the caller's. */
int vd_json_nbd_uri(const struct vd_json_nbd *nbd, char **uri, struct vdisk_error *err);

#endif
