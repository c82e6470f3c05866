/* SPDX-License-Identifier: MIT */
/* A URL taken apart, so that no secret stays in what is shown or sent on. */
#ifndef VD_STORAGE_HTTP_URL_H
#define VD_STORAGE_HTTP_URL_H

#include "util/err.h"

/* All text belongs to libcurl: vd_http_url_free(). */
struct vd_http_url {
    char *url;    /* without user, password and fragment */
    char *scheme; /* http or https */
    char *host;   /* with the port, these are the origin: secrets never leave it */
    char *port;
    char *user;     /* decoded, or NULL */
    char *password; /* decoded, or NULL */
};

/* Fills @url, or nothing. */
int vd_http_url_parse(const char *text, struct vd_http_url *url, struct vdisk_error *err);

bool vd_http_url_same_origin(const struct vd_http_url *a, const struct vd_http_url *b);

void vd_http_url_free(struct vd_http_url *url);

#endif
