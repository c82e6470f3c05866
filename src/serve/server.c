/* SPDX-License-Identifier: MIT */
/* The server: its options, its exports, and the order in which it ends. */
#include "serve/server.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "util/workers.h"

#define WORKERS_DEFAULT          32u
#define WORKERS_MAX              1024u
#define CONNECTIONS_DEFAULT      1024u
#define NEGOTIATION_MS_DEFAULT   10000u
#define CONNECTION_BYTES_DEFAULT (UINT64_C(72) << 20)
#define CONNECTION_BYTES_MIN     (UINT64_C(34) << 20)
#define GRACE_MS_DEFAULT         5000u

/* ---- Create ---- */

static int check_options(const struct vdisk_server_options *options, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options))
        return vd_err_set(err, EINVAL,
                          "server options: struct_bytes is %zu: this library wants %zu",
                          options->struct_bytes, sizeof(*options));
    if (options->workers > WORKERS_MAX)
        return vd_err_set(err, EINVAL, "server options: %" PRIu32 " workers: at most %u",
                          options->workers, WORKERS_MAX);
    if (options->connection_bytes && options->connection_bytes < CONNECTION_BYTES_MIN)
        return vd_err_set(err, EINVAL,
                          "server options: %" PRIu64 " bytes of memory for each connection: at "
                          "least %" PRIu64,
                          options->connection_bytes, CONNECTION_BYTES_MIN);
    return 0;
}

static void fill_in_defaults(struct vdisk_server_options *options)
{
    if (!options->workers)
        options->workers = WORKERS_DEFAULT;
    if (!options->connections)
        options->connections = CONNECTIONS_DEFAULT;
    if (!options->connections_per_address)
        options->connections_per_address = options->connections;
    if (!options->negotiation_ms)
        options->negotiation_ms = NEGOTIATION_MS_DEFAULT;
    if (!options->connection_bytes)
        options->connection_bytes = CONNECTION_BYTES_DEFAULT;
}

int vdisk_server_create(const struct vdisk_server_options *options, struct vdisk_server **server,
                        struct vdisk_error *err)
{
    const struct vdisk_server_options defaults = {.struct_bytes = sizeof(defaults)};
    if (!options)
        options = &defaults;
    int ret = check_options(options, err);
    if (ret < 0)
        return ret;
    struct vdisk_server *made = calloc(1, sizeof(*made));
    if (!made)
        return vd_err_nomem(err, "a server");
    made->options = *options;
    made->options.tls = NULL;
    fill_in_defaults(&made->options);
    made->log = (struct vd_log){.write = options->log, .opaque = options->opaque};
    vd_exports_init(&made->exports);
    vd_spinners_init(&made->spinners, vd_workers_cpus());
    vd_mutex_init(&made->lock);
    vd_cond_init(&made->changed);

    if (options->tls)
        ret = vd_tls_create(options->tls, &made->tls, err);
    if (ret == 0)
        ret = vd_pool_create(made->options.workers, &made->pool, err);
    if (ret < 0) {
        vdisk_server_free(made);
        return ret;
    }
    *server = made;
    return 0;
}

int vdisk_server_reload_tls(struct vdisk_server *server, struct vdisk_error *err)
{
    if (!server->tls)
        return vd_err_set(err, ENOTSUP, "the server has no TLS: there is nothing to read again");
    return vd_tls_reload(server->tls, err);
}

/* ---- Who comes ---- */

static int check_socket(int fd, bool is_listening, struct vdisk_error *err)
{
    const char *wanted = is_listening ? "a listening" : "a connected";
    int type = 0;
    int accepts = 0;
    socklen_t length = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
        return vd_err_set(err, EINVAL, "descriptor %d is not %s stream socket: %s", fd, wanted,
                          strerror(errno));
    length = sizeof(accepts);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &length) < 0)
        accepts = 0;
    struct sockaddr_storage peer;
    length = sizeof(peer);
    bool is_right =
        is_listening ? accepts != 0 : getpeername(fd, (struct sockaddr *)&peer, &length) == 0;
    if (type != SOCK_STREAM || !is_right)
        return vd_err_set(err, EINVAL, "descriptor %d is not %s stream socket", fd, wanted);
    return 0;
}

int vdisk_server_listen(struct vdisk_server *server, int fd, struct vdisk_error *err)
{
    int ret = check_socket(fd, true, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&server->lock);
    if (server->is_closed)
        ret = vd_err_set(err, ESHUTDOWN, "the server has stopped: it listens no more");
    if (ret == 0 && !server->listener)
        ret = vd_listener_create(server, &server->listener, err);
    if (ret == 0)
        ret = vd_listener_add(server->listener, fd, err);
    vd_mutex_unlock(&server->lock);
    return ret;
}

int vdisk_server_connect(struct vdisk_server *server, int fd, struct vdisk_error *err)
{
    int ret = check_socket(fd, false, err);
    return ret < 0 ? ret : vd_connection_start(server, fd, err);
}

int vdisk_server_wait(struct vdisk_server *server, uint64_t clients, struct vdisk_error *err)
{
    vd_mutex_lock(&server->lock);
    while (!server->is_closed &&
           !(clients && server->chosen >= clients && server->connection_entries == 0))
        vd_cond_wait(&server->changed, &server->lock);
    int ret = 0;
    if (server->is_closed && clients)
        ret = vd_err_set(err, ESHUTDOWN, "the server has stopped");
    vd_mutex_unlock(&server->lock);
    return ret;
}

/* ---- Exports ---- */

int vdisk_server_add_export(struct vdisk_server *server, struct vdisk_image *image,
                            const struct vdisk_export_options *options, struct vdisk_error *err)
{
    return vd_exports_add(&server->exports, image, options, err);
}

int vdisk_server_remove_export(struct vdisk_server *server, const char *name,
                               struct vdisk_error *err)
{
    struct vd_export *export = NULL;
    int ret = vd_exports_unlist(&server->exports, name, &export, err);
    if (ret < 0)
        return ret;
    struct vdisk_image *image = export->image;
    vd_connections_end(server, export, vd_clock_ms() + GRACE_MS_DEFAULT);
    vd_exports_drop(&server->exports, export);
    return vdisk_image_flush(image, err);
}

/* ---- Numbers ---- */

static void sum_up(struct vdisk_server *server, struct vdisk_server_stats *stats)
{
    vd_mutex_lock(&server->lock);
    struct vd_export *export = NULL;
    while ((export = vd_exports_next(&server->exports, export)))
        vd_counters_sum(&export->counters, stats);
    vd_counters_sum(&server->exports.past, stats);
    vd_connections_sum(server, NULL, stats);
    stats->connections = server->accepted;
    stats->refused = server->refused;
    vd_mutex_unlock(&server->lock);
}

int vdisk_server_stats(struct vdisk_server *server, const char *name,
                       struct vdisk_server_stats *stats, struct vdisk_error *err)
{
    if (stats->struct_bytes != sizeof(*stats))
        return vd_err_set(err, EINVAL, "server stats: struct_bytes is %zu: this library wants %zu",
                          stats->struct_bytes, sizeof(*stats));
    struct vd_export *export = NULL;
    if (name) {
        export = vd_exports_find(&server->exports, name, strlen(name));
        if (!export)
            return vd_err_set(err, ENOENT, "there is no export '%s'", name);
    }
    *stats = (struct vdisk_server_stats){.struct_bytes = sizeof(*stats)};
    if (!export) {
        sum_up(server, stats);
        return 0;
    }
    /* Under the lock, as bytes of clients that leave go from one sum to the other. */
    vd_mutex_lock(&server->lock);
    vd_counters_sum(&export->counters, stats);
    vd_connections_sum(server, export, stats);
    vd_mutex_unlock(&server->lock);
    vd_export_release(&server->exports, export);
    return 0;
}

/* ---- The end ---- */

/* Was its image there before, with another export? */
static bool is_repeated(struct vdisk_server *server, const struct vd_export *export)
{
    struct vd_export *at = vd_exports_next(&server->exports, NULL);
    while (at && at != export && !(at->is_writable && at->image == export->image))
        at = vd_exports_next(&server->exports, at);
    bool is_other = at && at != export;
    if (at)
        vd_export_release(&server->exports, at);
    return is_other;
}

/* Makes every image that was written durable, also if one of them fails: then with the story of the
 * first. */
static void flush_all(struct vdisk_server *server, struct vdisk_error *err)
{
    struct vd_export *export = NULL;
    while ((export = vd_exports_next(&server->exports, export))) {
        if (!export->is_writable || is_repeated(server, export))
            continue;
        struct vdisk_error failure = {0};
        int ret = vdisk_image_flush(export->image, &failure);
        if (ret == 0)
            continue;
        vd_err_set(&failure, -ret, "export '%s': cannot be flushed", export->name);
        vd_log(&server->log, VDISK_LOG_ERROR, "%s", failure.message);
        vd_err_copy(err, &failure);
    }
}

/* Whoever comes second waits for the first. */
static bool begin_to_stop(struct vdisk_server *server, struct vd_listener **listener,
                          struct vd_status **status)
{
    vd_mutex_lock(&server->lock);
    bool is_first = !server->is_closed;
    if (is_first) {
        server->is_closed = true;
        atomic_store(&server->is_stopping, true);
        vd_cond_broadcast(&server->changed);
        *listener = server->listener;
        *status = server->status;
        server->listener = NULL;
        server->status = NULL;
    }
    while (!is_first && !server->has_stopped)
        vd_cond_wait(&server->changed, &server->lock);
    vd_mutex_unlock(&server->lock);
    return is_first;
}

int vdisk_server_stop(struct vdisk_server *server, uint32_t grace_ms, struct vdisk_error *err)
{
    uint64_t deadline = vd_clock_ms() + (grace_ms ? grace_ms : GRACE_MS_DEFAULT);
    struct vd_listener *listener = NULL;
    struct vd_status *status = NULL;
    if (begin_to_stop(server, &listener, &status)) {
        if (listener)
            vd_listener_free(listener);
        vd_status_free(status);
        vd_connections_end(server, NULL, deadline);
        struct vdisk_error failure = {0};
        flush_all(server, &failure);
        vd_mutex_lock(&server->lock);
        server->stop_err = failure;
        server->has_stopped = true;
        vd_cond_broadcast(&server->changed);
        vd_mutex_unlock(&server->lock);
    }
    vd_mutex_lock(&server->lock);
    int ret = server->stop_err.code ? vd_err_copy(err, &server->stop_err) : 0;
    vd_mutex_unlock(&server->lock);
    return ret;
}

void vdisk_server_free(struct vdisk_server *server)
{
    if (!server)
        return;
    (void)vdisk_server_stop(server, 0, NULL);
    if (server->pool)
        vd_pool_free(server->pool);
    if (server->tls)
        vd_tls_free(server->tls);
    vd_exports_destroy(&server->exports);
    vd_cond_destroy(&server->changed);
    vd_mutex_destroy(&server->lock);
    free(server);
}
