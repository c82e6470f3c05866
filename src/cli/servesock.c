/* SPDX-License-Identifier: MIT */
/* The sockets of a server: where they are, what they are called, and how they go away. */
#include "cli/servesock.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "cli/servebind.h"
#include "util/err.h"
#include "util/mem.h"

/* A virtual machine knows its host by this number. */
#define VSOCK_HOST 2

struct vd_serve_socket *vd_serve_sockets_add(struct vd_serve_sockets *sockets,
                                             struct vdisk_error *err)
{
    size_t bytes = (sockets->entries + 1) * sizeof(*sockets->list);
    struct vd_serve_socket *list = realloc(sockets->list, bytes);
    if (!list) {
        vd_err_nomem(err, "sockets");
        return NULL;
    }
    sockets->list = list;
    list[sockets->entries] = (struct vd_serve_socket){.fd = -1};
    return &list[sockets->entries++];
}

/* --- TCP ------------------------------------------------------------------------------------ */

/* Takes over what vd_bind_tcp() has found.  "localhost" is one name for both of its addresses. */
static int add_tcp(struct vd_serve_sockets *sockets, const char *host, struct vd_tcp_sockets *bound,
                   struct vdisk_error *err)
{
    for (size_t i = 0; i < bound->entries; i++) {
        struct vd_serve_socket *socket = vd_serve_sockets_add(sockets, err);
        if (!socket)
            return -ENOMEM;
        socket->kind = VD_SERVE_TCP;
        socket->port = bound->port;
        socket->fd = bound->fds[i];
        bound->fds[i] = -1;
        if (!host && i > 0)
            continue;
        socket->host = strdup(host ? bound->hosts[i] : "localhost");
        if (!socket->host)
            return vd_err_nomem(err, "a name of a socket");
    }
    return 0;
}

static int open_tcp(const struct vd_serve_places *places, struct vd_serve_sockets *sockets,
                    struct vdisk_error *err)
{
    struct vd_tcp_sockets bound;
    int ret = vd_bind_tcp(places->host, places->port, &bound, err);
    if (ret == 0)
        ret = add_tcp(sockets, places->host, &bound, err);
    vd_tcp_sockets_close(&bound);
    return vd_err_prefix(err, ret, "-b %s -p %u: ", places->host ? places->host : "localhost",
                         places->port);
}

/* "[HOST:]PORT" in two; the host may stand in brackets. */
static int split_address(const char *text, char **host, uint32_t *port, struct vdisk_error *err)
{
    const char *colon = strrchr(text, ':');
    const char *digits = colon ? colon + 1 : text;
    size_t length = colon ? (size_t)(colon - text) : 0;
    char *end;
    unsigned long number = strtoul(digits, &end, 10);
    if (digits[0] < '0' || digits[0] > '9' || *end || number > UINT16_MAX)
        return vd_err_set(err, EINVAL, "'%s' is no port from 0 to 65535", digits);
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
        text++;
        length -= 2;
    } else if (length && memchr(text, ':', length)) {
        return vd_err_set(err, EINVAL, "an IPv6 address stands in brackets: [%.*s]:%s", (int)length,
                          text, digits);
    }
    *port = (uint32_t)number;
    *host = length ? strndup(text, length) : NULL;
    return length && !*host ? vd_err_nomem(err, "an address") : 0;
}

static int open_status(const char *text, struct vd_serve_sockets *sockets, struct vdisk_error *err)
{
    CLEANUP_FREE char *host = NULL;
    uint32_t port = 0;
    struct vd_tcp_sockets bound = {0};
    int ret = split_address(text, &host, &port, err);
    if (ret == 0)
        ret = vd_bind_tcp(host ? host : "127.0.0.1", port, &bound, err);
    if (ret == 0) {
        sockets->status.kind = VD_SERVE_TCP;
        sockets->status.port = bound.port;
        sockets->status.fd = bound.fds[0];
        bound.fds[0] = -1;
        sockets->status.host = strdup(bound.hosts[0]);
        if (!sockets->status.host)
            ret = vd_err_nomem(err, "a name of a socket");
    }
    vd_tcp_sockets_close(&bound);
    return vd_err_prefix(err, ret, "--status %s: ", text);
}

/* --- the others ------------------------------------------------------------------------------ */

static char *absolute(const char *path)
{
    CLEANUP_FREE char *here = path[0] == '/' ? NULL : getcwd(NULL, 0);
    char *whole = NULL;
    if (path[0] == '/')
        return strdup(path);
    return here && asprintf(&whole, "%s/%s", here, path) >= 0 ? whole : NULL;
}

static int open_unix(const char *path, struct vd_serve_sockets *sockets, struct vdisk_error *err)
{
    struct vd_serve_socket *socket = vd_serve_sockets_add(sockets, err);
    if (!socket)
        return -ENOMEM;
    socket->kind = VD_SERVE_UNIX;
    int ret = vd_bind_unix(path, &socket->fd, err);
    if (ret < 0)
        return ret;
    struct stat facts;
    if (lstat(path, &facts) < 0)
        return vd_err_errno(err, errno, "%s", path);
    socket->device = facts.st_dev;
    socket->inode = facts.st_ino;
    socket->path = absolute(path);
    return socket->path ? 0 : vd_err_nomem(err, "the path of a socket");
}

/* In a folder of its own, which nobody else can enter. */
static int open_private(struct vd_serve_sockets *sockets, struct vdisk_error *err)
{
    const char *parent = getenv("TMPDIR");
    CLEANUP_FREE char *folder = NULL;
    CLEANUP_FREE char *path = NULL;
    if (asprintf(&folder, "%s/vdisk-serve.XXXXXX", parent && *parent ? parent : "/tmp") < 0)
        return vd_err_nomem(err, "the path of a socket");
    if (!mkdtemp(folder))
        return vd_err_errno(err, errno, "%s: a folder for the socket of --run", folder);
    if (asprintf(&path, "%s/socket", folder) < 0) {
        rmdir(folder);
        return vd_err_nomem(err, "the path of a socket");
    }
    sockets->folder = STEAL_PTR(folder);
    return open_unix(path, sockets, err);
}

static int open_vsock(uint32_t port, struct vd_serve_sockets *sockets, struct vdisk_error *err)
{
    struct vd_serve_socket *socket = vd_serve_sockets_add(sockets, err);
    if (!socket)
        return -ENOMEM;
    socket->kind = VD_SERVE_VSOCK;
    socket->port = port;
    return vd_bind_vsock(port, &socket->fd, err);
}

static int open_all(const struct vd_serve_places *places, bool is_private,
                    struct vd_serve_sockets *sockets, struct vdisk_error *err)
{
    bool is_somewhere = places->path || places->has_tcp || places->has_vsock;
    int ret = 0;
    if (places->path)
        ret = open_unix(places->path, sockets, err);
    if (ret == 0 && !is_somewhere && is_private)
        ret = open_private(sockets, err);
    if (ret == 0 && (places->has_tcp || (!is_somewhere && !is_private)))
        ret = open_tcp(places, sockets, err);
    if (ret == 0 && places->has_vsock)
        ret = open_vsock(places->vsock_port, sockets, err);
    return ret;
}

int vd_serve_sockets_open(const struct vd_serve_places *places,
                          const struct vd_serve_activation *activation, bool is_private,
                          struct vd_serve_sockets *sockets, struct vdisk_error *err)
{
    int ret = 0;
    sockets->status.fd = -1;
    if (activation->entries)
        ret = vd_inherit_activation(activation, sockets, err);
    else if (places->fd >= 0)
        ret = vd_inherit_fd(places->fd, sockets, err);
    else
        ret = open_all(places, is_private, sockets, err);
    if (ret == 0 && places->status)
        ret = sockets->status.fd >= 0
                  ? vd_err_set(err, EINVAL, "--status: socket activation brought a socket for it")
                  : open_status(places->status, sockets, err);
    return ret;
}

void vd_serve_sockets_remove(struct vd_serve_sockets *sockets)
{
    for (size_t i = 0; i < sockets->entries; i++) {
        struct vd_serve_socket *socket = &sockets->list[i];
        struct stat facts;
        if (socket->path && lstat(socket->path, &facts) == 0 && facts.st_dev == socket->device &&
            facts.st_ino == socket->inode)
            unlink(socket->path);
    }
    if (sockets->folder)
        rmdir(sockets->folder);
}

static void free_socket(struct vd_serve_socket *socket)
{
    if (socket->fd >= 0)
        close(socket->fd);
    free(socket->host);
    free(socket->path);
}

void vd_serve_sockets_free(struct vd_serve_sockets *sockets)
{
    vd_serve_sockets_remove(sockets);
    for (size_t i = 0; i < sockets->entries; i++)
        free_socket(&sockets->list[i]);
    free_socket(&sockets->status);
    free(sockets->list);
    free(sockets->folder);
    *sockets = (struct vd_serve_sockets){.status.fd = -1};
}

/* --- URIs ------------------------------------------------------------------------------------ */

/* As it stands in a URI: owned by the caller. */
static char *escape(const char *text)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                "-._~/";
    char *escaped = vd_alloc_array(strlen(text) + 1, 3);
    char *at = escaped;
    for (; escaped && *text; text++)
        if (strchr(plain, *text))
            *at++ = *text;
        else
            at += snprintf(at, 4, "%%%02X", (unsigned char)*text);
    return escaped;
}

char *vd_serve_uri(const struct vd_serve_socket *socket, const char *name, bool is_tls)
{
    const char *scheme = is_tls ? "nbds" : "nbd";
    CLEANUP_FREE char *export = escape(name);
    CLEANUP_FREE char *path = socket->path ? escape(socket->path) : NULL;
    char *uri = NULL;
    int length = -1;
    if (!export)
        return NULL;
    if (socket->kind == VD_SERVE_UNIX && path)
        length = asprintf(&uri, "%s+unix:///%s?socket=%s", scheme, export, path);
    else if (socket->kind == VD_SERVE_VSOCK)
        length = asprintf(&uri, "%s+vsock://%d:%u/%s", scheme, VSOCK_HOST, socket->port, export);
    else if (socket->kind == VD_SERVE_TCP && socket->host)
        length = asprintf(&uri, "%s://%s:%u/%s", scheme, socket->host, socket->port, export);
    return length < 0 ? NULL : uri;
}
