/* SPDX-License-Identifier: MIT */
/* From the members of a json: name to an NBD URI. */
#include "image/json_nbd.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/mem.h"

#define DIGITS     "0123456789"
#define HOST_BYTES DIGITS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._:"

const char **vd_json_nbd_field(struct vd_json_nbd *nbd, const char *key, bool in_server)
{
    if (strcmp(key, "host") == 0)
        return &nbd->host;
    if (strcmp(key, "port") == 0)
        return &nbd->port;
    if (strcmp(key, "path") == 0)
        return &nbd->path;
    if (in_server && strcmp(key, "type") == 0)
        return &nbd->type;
    return !in_server && strcmp(key, "export") == 0 ? &nbd->export_name : NULL;
}

bool vd_json_nbd_is_set(const struct vd_json_nbd *nbd)
{
    return nbd->type || nbd->host || nbd->port || nbd->path || nbd->export_name;
}

/* As a part of a URI, whatever bytes are in it.  NULL: no memory. */
static char *encode(const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    char *encoded = malloc(strlen(text) * 3 + 1);
    char *to = encoded;
    for (; encoded && *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte < 128 && (isalnum(byte) || strchr("-._~/", byte))) {
            *to++ = *text;
        } else {
            *to++ = '%';
            *to++ = digits[byte >> 4];
            *to++ = digits[byte & 15];
        }
    }
    if (encoded)
        *to = '\0';
    return encoded;
}

static int check(const struct vd_json_nbd *nbd, bool is_unix, struct vdisk_error *err)
{
    if (nbd->type && strcmp(nbd->type, "unix") != 0 && strcmp(nbd->type, "inet") != 0)
        return vd_err_set(err, ENOTSUP,
                          "json: name: an NBD server of type '%s': only inet and unix are possible",
                          nbd->type);
    if (is_unix && (!nbd->path || nbd->host || nbd->port))
        return vd_err_set(err, EINVAL,
                          "json: name: an NBD server behind a socket has a path, and no host or "
                          "port");
    if (!is_unix && (!nbd->host || nbd->path))
        return vd_err_set(err, EINVAL, "json: name: an NBD server has a host, or a path");
    if (!is_unix && strspn(nbd->host, HOST_BYTES) != strlen(nbd->host))
        return vd_err_set(err, EINVAL, "json: name: '%s' is no name of a host", nbd->host);
    if (!is_unix && nbd->port && strspn(nbd->port, DIGITS) != strlen(nbd->port))
        return vd_err_set(err, EINVAL, "json: name: '%s' is no number of a port", nbd->port);
    return 0;
}

int vd_json_nbd_uri(const struct vd_json_nbd *nbd, char **uri, struct vdisk_error *err)
{
    bool is_unix = nbd->type ? strcmp(nbd->type, "unix") == 0 : nbd->path != NULL;
    *uri = NULL;
    int ret = check(nbd, is_unix, err);
    if (ret < 0)
        return ret;
    CLEANUP_FREE char *name = encode(nbd->export_name ? nbd->export_name : "");
    CLEANUP_FREE char *place = encode(is_unix ? nbd->path : "");
    const char *port = nbd->port && *nbd->port ? nbd->port : "10809";
    bool is_ipv6 = !is_unix && strchr(nbd->host, ':');
    int length = -1;
    if (name && place && is_unix)
        length = asprintf(uri, "nbd+unix:///%s?socket=%s", name, place);
    else if (name && place)
        length =
            asprintf(uri, is_ipv6 ? "nbd://[%s]:%s/%s" : "nbd://%s:%s/%s", nbd->host, port, name);
    if (length >= 0)
        return 0;
    *uri = NULL;
    return vd_err_nomem(err, "an NBD URI");
}
