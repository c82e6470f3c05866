/* SPDX-License-Identifier: MIT */
/* An NBD URI taken apart. */
#include "storage/nbd_uri.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "util/mem.h"

#define PORT_DEFAULT      "10809"
#define EXPORT_NAME_BYTES 4096u /* the limit of the protocol */

/* One scheme, and what it means. */
struct scheme {
    const char *name;
    enum vd_nbd_transport transport;
    bool is_tls;
};

static const struct scheme *find_scheme(const char *text, size_t length)
{
    static const struct scheme schemes[] = {
        {"nbd", VD_NBD_TCP, false},         {"nbds", VD_NBD_TCP, true},
        {"nbd+unix", VD_NBD_UNIX, false},   {"nbds+unix", VD_NBD_UNIX, true},
        {"nbd+vsock", VD_NBD_VSOCK, false}, {"nbds+vsock", VD_NBD_VSOCK, true},
    };
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
        if (strlen(schemes[i].name) == length && strncasecmp(text, schemes[i].name, length) == 0)
            return &schemes[i];
    return NULL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A copy of @length bytes at @text without its %xx; @what: for the message. */
static int decode(const char *text, size_t length, const char *what, char **decoded,
                  struct vdisk_error *err)
{
    char *to = malloc(length + 1);
    *decoded = to;
    if (!to)
        return vd_err_nomem(err, "a URI");
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (c == '%') {
            int high = length - i > 2 ? hex_digit(text[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
            if (low < 0)
                return vd_err_set(err, EINVAL, "URI: %s: '%%' without two hexadecimal digits",
                                  what);
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0')
            return vd_err_set(err, EINVAL, "URI: %s: a byte of value 0 in it", what);
        *to++ = c;
    }
    *to = '\0';
    return 0;
}

static int set_host(struct vd_nbd_uri *uri, const char *host, size_t length,
                    struct vdisk_error *err)
{
    int ret = decode(host, length, "host", &uri->place, err);
    for (char *c = uri->place; ret == 0 && *c; c++)
        *c = (char)tolower((unsigned char)*c);
    return ret;
}

/* user@host:port, [address]:port; none of it for a socket. */
static int take_authority(struct vd_nbd_uri *uri, const char *text, size_t length,
                          struct vdisk_error *err)
{
    const char *end = text + length;
    for (const char *c = text; c < end; c++)
        if (*c == '@')
            text = c + 1; /* who the user is makes no other export of it */
    if (uri->transport == VD_NBD_UNIX) {
        if (text == end)
            return 0;
        return vd_err_set(err, EINVAL,
                          "URI: a host, where the path of a socket is wanted: "
                          "nbd+unix:///EXPORT?socket=PATH");
    }
    const char *host_end = text;
    bool is_bracketed = text < end && *text == '[';
    while (host_end < end && *host_end != (is_bracketed ? ']' : ':'))
        host_end++;
    const char *port = host_end;
    if (is_bracketed) {
        if (host_end == end)
            return vd_err_set(err, EINVAL, "URI: host: '[' without ']'");
        text++;
        port++;
    }
    int ret = set_host(uri, text, (size_t)(host_end - text), err);
    if (ret == 0 && !*uri->place) {
        free(uri->place);
        uri->place = strdup(uri->transport == VD_NBD_VSOCK ? "2" : "localhost");
    }
    if (ret == 0 && port < end && *port != ':')
        return vd_err_set(err, EINVAL, "URI: '%c' behind the host, where a port would be", *port);
    if (ret == 0 && end - port > 1)
        uri->port = strndup(port + 1, (size_t)(end - port) - 1);
    else if (ret == 0)
        uri->port = strdup(PORT_DEFAULT);
    if (ret == 0 && (!uri->port || !uri->place))
        return vd_err_nomem(err, "a URI");
    if (ret == 0 &&
        (strspn(uri->port, "0123456789") != strlen(uri->port) || strlen(uri->port) > 10 ||
         (uri->transport == VD_NBD_TCP && strtoul(uri->port, NULL, 10) > 65535)))
        return vd_err_set(err, EINVAL, "URI: port '%s' is none", uri->port);
    return ret;
}

static int take_socket(struct vd_nbd_uri *uri, const char *value, size_t length,
                       struct vdisk_error *err)
{
    if (uri->transport != VD_NBD_UNIX)
        return vd_err_set(err, EINVAL, "URI: parameter 'socket': only nbd+unix: has it");
    if (uri->place)
        return vd_err_set(err, EINVAL, "URI: parameter 'socket' is given twice");
    int ret = decode(value, length, "socket", &uri->place, err);
    size_t limit = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    if (ret == 0 && (!*uri->place || strlen(uri->place) > limit))
        return vd_err_set(err, EINVAL, "URI: parameter 'socket': %zu bytes: 1 to %zu are possible",
                          strlen(uri->place), limit);
    return ret;
}

/* libnbd reads these itself; names and values are as it takes them, or refused here. */
static int take_tls(struct vd_nbd_uri *uri, const char *name, const char *value, size_t length,
                    struct vdisk_error *err)
{
    CLEANUP_FREE char *path = NULL;
    bool is_key = strcmp(name, "tls-psk-file") == 0;
    if (!is_key && strcmp(name, "tls-certificates") != 0)
        return vd_err_set(err, EINVAL,
                          "URI: unknown parameter '%s': there are socket, tls-certificates and "
                          "tls-psk-file",
                          name);
    if (!uri->is_tls)
        return vd_err_set(err, EINVAL, "URI: parameter '%s': only nbds: and its like use TLS",
                          name);
    if (uri->has_key || uri->certificates)
        return vd_err_set(err, EINVAL,
                          "URI: parameter '%s': TLS has either a key or certificates, once", name);
    int ret = decode(value, length, name, &path, err);
    if (ret == 0 && !*path)
        return vd_err_set(err, EINVAL, "URI: parameter '%s' is empty", name);
    if (is_key)
        uri->has_key = true;
    else
        uri->certificates = STEAL_PTR(path);
    return ret;
}

/* One "name=value". */
static int take_parameter(struct vd_nbd_uri *uri, const char *text, size_t length,
                          struct vdisk_error *err)
{
    const char *equals = memchr(text, '=', length);
    size_t name_bytes = equals ? (size_t)(equals - text) : length;
    const char *value = equals ? equals + 1 : text + length;
    size_t value_bytes = (size_t)(text + length - value);
    if (!length)
        return 0;
    CLEANUP_FREE char *name = strndup(text, name_bytes);
    if (!name)
        return vd_err_nomem(err, "a URI");
    if (strcmp(name, "socket") == 0)
        return take_socket(uri, value, value_bytes, err);
    return take_tls(uri, name, value, value_bytes, err);
}

static int take_query(struct vd_nbd_uri *uri, const char *query, struct vdisk_error *err)
{
    int ret = 0;
    while (ret == 0 && *query) {
        size_t length = strcspn(query, "&;");
        ret = take_parameter(uri, query, length, err);
        query += length + (query[length] != '\0');
    }
    if (ret == 0 && uri->transport == VD_NBD_UNIX && !uri->place)
        return vd_err_set(err, EINVAL,
                          "URI: no parameter 'socket': nbd+unix:///EXPORT?socket=PATH");
    return ret;
}

/* What no URI has, and some program on the way might take for something else. */
static int check_characters(const char *text, struct vdisk_error *err)
{
    for (const char *c = text; *c; c++) {
        if (*c == '#')
            return vd_err_set(err, EINVAL, "URI: '#': an NBD URI has no fragment; write %%23");
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 127 || strchr("\"<>\\^`{|}", *c))
            return vd_err_set(err, EINVAL,
                              "URI: byte 0x%02x at position %zu: write %%%02X in its place",
                              (unsigned char)*c, (size_t)(c - text) + 1, (unsigned char)*c);
    }
    return 0;
}

static int take_export(struct vd_nbd_uri *uri, const char *path, size_t length,
                       struct vdisk_error *err)
{
    if (length && *path == '/') {
        path++;
        length--;
    }
    int ret = decode(path, length, "export", &uri->export_name, err);
    if (ret == 0 && strlen(uri->export_name) > EXPORT_NAME_BYTES)
        return vd_err_set(err, EINVAL, "URI: name of the export: %zu bytes: at most %u",
                          strlen(uri->export_name), EXPORT_NAME_BYTES);
    return ret;
}

int vd_nbd_uri_parse(const char *text, struct vd_nbd_uri *uri, struct vdisk_error *err)
{
    *uri = (struct vd_nbd_uri){0};
    const char *colon = strstr(text, "://");
    const struct scheme *scheme = colon ? find_scheme(text, (size_t)(colon - text)) : NULL;
    if (!scheme)
        return vd_err_set(err, EINVAL, "not an NBD URI");
    uri->transport = scheme->transport;
    uri->is_tls = scheme->is_tls;
    int ret = check_characters(text, err);
    if (ret < 0)
        return ret;

    const char *authority = colon + 3;
    size_t authority_bytes = strcspn(authority, "/?");
    const char *path = authority + authority_bytes;
    size_t path_bytes = strcspn(path, "?");
    const char *query = path + path_bytes;
    ret = take_authority(uri, authority, authority_bytes, err);
    if (ret == 0)
        ret = take_export(uri, path, path_bytes, err);
    if (ret == 0)
        ret = take_query(uri, *query ? query + 1 : query, err);
    if (ret == 0 && asprintf(&uri->text, "%s%s", scheme->name, colon) < 0) {
        uri->text = NULL;
        return vd_err_nomem(err, "a URI");
    }
    return ret;
}

void vd_nbd_uri_free(struct vd_nbd_uri *uri)
{
    free(uri->text);
    free(uri->place);
    free(uri->port);
    free(uri->export_name);
    free(uri->certificates);
    *uri = (struct vd_nbd_uri){0};
}

/* FNV-1a; the zero that ends the text goes in too. */
static uint64_t hash(uint64_t state, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < length; i++)
        state = (state ^ at[i]) * 0x100000001b3u;
    return state;
}

static uint64_t hash_uri(uint64_t state, const struct vd_nbd_uri *uri, const struct stat *socket)
{
    uint8_t transport = (uint8_t)uri->transport;
    state = hash(state, &transport, sizeof(transport));
    if (socket) { /* whatever links lead to it */
        state = hash(state, &socket->st_dev, sizeof(socket->st_dev));
        state = hash(state, &socket->st_ino, sizeof(socket->st_ino));
    } else {
        state = hash(state, uri->place, strlen(uri->place) + 1);
    }
    if (uri->port)
        state = hash(state, uri->port, strlen(uri->port) + 1);
    return hash(state, uri->export_name, strlen(uri->export_name) + 1);
}

struct vd_storage_identity vd_nbd_uri_identity(const struct vd_nbd_uri *uri)
{
    struct stat st;
    bool is_there = uri->transport == VD_NBD_UNIX && stat(uri->place, &st) == 0;
    /* 128 bits of hash: no file of the system has such numbers by chance. */
    return (struct vd_storage_identity){
        .known = true,
        .device = hash_uri(0xcbf29ce484222325u, uri, is_there ? &st : NULL),
        .inode = hash_uri(0x9ae16a3b2f90404fu, uri, is_there ? &st : NULL),
    };
}

struct vd_storage_identity vd_nbd_identify(const char *name)
{
    struct vd_nbd_uri uri;
    struct vd_storage_identity identity = {0};
    if (vd_nbd_uri_parse(name, &uri, NULL) == 0)
        identity = vd_nbd_uri_identity(&uri);
    vd_nbd_uri_free(&uri);
    return identity;
}
