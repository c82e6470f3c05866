/* SPDX-License-Identifier: MIT */
/* "/status.json": docs/json.md. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "serve/status.h"
#include "util/mem.h"

/* So many clients are listed; all are counted. */
#define CLIENTS_LISTED_MAX 1000u

/* jansson takes NULL, from calls that failed, as a failure; *is_bad says that there was one. */
static void put(json_t *object, const char *key, json_t *value, bool *is_bad)
{
    if (json_object_set_new(object, key, value) != 0)
        *is_bad = true;
}

static void put_number(json_t *object, const char *key, uint64_t value, bool *is_bad)
{
    put(object, key, json_integer((json_int_t)(value & INT64_MAX)), is_bad);
}

json_t *vd_status_json_text(const char *bytes)
{
    json_t *text = json_string(bytes);
    if (text)
        return text;
    /* No UTF-8, or no memory. */
    static const char replacement[] = "\xef\xbf\xbd";
    size_t length = strlen(bytes), used = 0;
    CLEANUP_FREE char *clean = vd_alloc_array(length + 1, 3);
    for (size_t i = 0; clean && i < length; i++) {
        if ((unsigned char)bytes[i] < 0x80) {
            clean[used++] = bytes[i];
        } else {
            memcpy(clean + used, replacement, 3);
            used += 3;
        }
    }
    return clean ? json_stringn(clean, used) : NULL;
}

struct vd_status_text vd_status_json_dump(json_t *root)
{
    struct vd_status_text text = {0};
    if (!root)
        return text;
    text.bytes = json_dumps(root, JSON_COMPACT);
    text.length = text.bytes ? strlen(text.bytes) : 0;
    json_decref(root);
    return text;
}

void vd_status_sum(struct vdisk_server *server, const struct vd_export *export,
                   struct vdisk_server_stats *stats)
{
    *stats = (struct vdisk_server_stats){.struct_bytes = sizeof(*stats)};
    vd_mutex_lock(&server->lock);
    vd_counters_sum(&export->counters, stats);
    vd_connections_sum(server, export, stats);
    vd_mutex_unlock(&server->lock);
}

const char *vd_status_kind_name(enum vdisk_request_kind kind)
{
    static const char *const names[VDISK_REQUEST_KINDS] = {
        [VDISK_REQUEST_READ] = "read",
        [VDISK_REQUEST_WRITE] = "write",
        [VDISK_REQUEST_FLUSH] = "flush",
        [VDISK_REQUEST_TRIM] = "trim",
        [VDISK_REQUEST_ZEROES] = "write-zeroes",
        [VDISK_REQUEST_CACHE] = "cache",
        [VDISK_REQUEST_BLOCK_STATUS] = "block-status",
    };
    return names[kind];
}

/* What is told of a server and of an export alike. */
static void put_stats(json_t *object, const struct vdisk_server_stats *stats, bool *is_bad)
{
    json_t *requests = json_object();
    put_number(object, "received-bytes", stats->received_bytes, is_bad);
    put_number(object, "sent-bytes", stats->sent_bytes, is_bad);
    for (unsigned kind = 0; kind < VDISK_REQUEST_KINDS; kind++) {
        const struct vdisk_request_stats *from = &stats->requests[kind];
        json_t *to = json_object(), *latencies = json_array();
        put_number(to, "requests", from->requests, is_bad);
        put_number(to, "errors", from->errors, is_bad);
        put_number(to, "bytes", from->bytes, is_bad);
        put_number(to, "total-us", from->total_us, is_bad);
        for (unsigned i = 0; i < VDISK_LATENCY_CLASSES; i++)
            if (json_array_append_new(latencies, json_integer((json_int_t)from->latencies[i])) != 0)
                *is_bad = true;
        put(to, "latencies", latencies, is_bad);
        put(requests, vd_status_kind_name(kind), to, is_bad);
    }
    put(object, "requests", requests, is_bad);
}

static json_t *contexts_of(const struct vd_export *export, bool *is_bad)
{
    json_t *list = json_array();
    for (size_t i = 0; i < export->contexts.entries; i++)
        if (json_array_append_new(list, vd_status_json_text(export->contexts.list[i].name)) != 0)
            *is_bad = true;
    return list;
}

static json_t *export_object(struct vdisk_server *server, const struct vd_export *export,
                             bool *is_bad)
{
    struct vdisk_server_stats stats;
    struct vd_format *format = vd_image_format(export->image);
    json_t *object = json_object();
    vd_status_sum(server, export, &stats);
    put(object, "name", vd_status_json_text(export->name), is_bad);
    if (export->description)
        put(object, "description", vd_status_json_text(export->description), is_bad);
    put(object, "format", json_string(vd_format_driver_name(vd_format_driver_of(format))), is_bad);
    put_number(object, "size", vd_format_size(format), is_bad);
    put(object, "writable", json_boolean(export->is_writable), is_bad);
    put_number(object, "preferred-block-size", export->preferred_bytes, is_bad);
    put_number(object, "clients", stats.clients, is_bad);
    put_number(object, "clients-limit", export->clients_max, is_bad);
    put_number(object, "connections", stats.connections, is_bad);
    put(object, "contexts", contexts_of(export, is_bad), is_bad);
    put_stats(object, &stats, is_bad);
    return object;
}

/* What is copied of a connection while the list of them is locked. */
struct peer {
    char *export; /* owned; NULL: none yet */
    char name[VD_TLS_PEER_BYTES];
    uint64_t since_ms;
    uint64_t received_bytes;
    uint64_t sent_bytes;
};

/* Returns the list, of *entries at most CLIENTS_LISTED_MAX; NULL: no memory. */
static struct peer *copy_peers(struct vdisk_server *server, size_t *entries, bool *is_bad)
{
    struct peer *peers = vd_alloc_array(CLIENTS_LISTED_MAX, sizeof(*peers));
    size_t count = 0;
    *entries = 0;
    if (!peers)
        return NULL;
    vd_mutex_lock(&server->lock);
    for (struct vd_connection *at = server->connections; at && count < CLIENTS_LISTED_MAX;
         at = at->next) {
        struct peer *peer = &peers[count++];
        memcpy(peer->name, at->peer, sizeof(peer->name));
        peer->since_ms = at->since_ms;
        peer->received_bytes = atomic_load(&at->stream.received_bytes);
        peer->sent_bytes = atomic_load(&at->stream.sent_bytes);
        if (at->export) {
            peer->export = strdup(at->export->name);
            *is_bad |= !peer->export;
        }
    }
    vd_mutex_unlock(&server->lock);
    *entries = count;
    return peers;
}

static json_t *clients_array(struct vdisk_server *server, bool *is_bad)
{
    size_t entries;
    uint64_t now = vd_clock_ms();
    json_t *list = json_array();
    struct peer *peers = copy_peers(server, &entries, is_bad);
    *is_bad |= !peers;
    for (size_t i = 0; i < entries; i++) {
        json_t *object = json_object();
        put(object, "peer", vd_status_json_text(peers[i].name), is_bad);
        put(object, "export", peers[i].export ? vd_status_json_text(peers[i].export) : json_null(),
            is_bad);
        put_number(object, "connected-ms", now - peers[i].since_ms, is_bad);
        put_number(object, "received-bytes", peers[i].received_bytes, is_bad);
        put_number(object, "sent-bytes", peers[i].sent_bytes, is_bad);
        if (json_array_append_new(list, object) != 0)
            *is_bad = true;
        free(peers[i].export);
    }
    free(peers);
    return list;
}

static json_t *exports_array(struct vdisk_server *server, bool *is_bad)
{
    json_t *list = json_array();
    struct vd_export *export = vd_exports_next(&server->exports, NULL);
    for (; export; export = vd_exports_next(&server->exports, export))
        if (json_array_append_new(list, export_object(server, export, is_bad)) != 0)
            *is_bad = true;
    return list;
}

static json_t *server_object(struct vdisk_server *server, uint64_t since_ms, bool *is_bad)
{
    struct vdisk_server_stats stats = {.struct_bytes = sizeof(stats)};
    json_t *object = json_object();
    *is_bad |= vdisk_server_stats(server, NULL, &stats, NULL) < 0;
    vd_mutex_lock(&server->lock);
    unsigned connections_now = server->connection_entries;
    vd_mutex_unlock(&server->lock);
    put(object, "version", json_string(VD_VERSION), is_bad);
    put_number(object, "uptime-ms", vd_clock_ms() - since_ms, is_bad);
    put(object, "tls", json_boolean(server->tls != NULL), is_bad);
    put_number(object, "workers-limit", server->options.workers, is_bad);
    put_number(object, "connections-limit", server->options.connections, is_bad);
    put_number(object, "connections-now", connections_now, is_bad);
    put_number(object, "connections", stats.connections, is_bad);
    put_number(object, "refused", stats.refused, is_bad);
    put_number(object, "clients", stats.clients, is_bad);
    put_stats(object, &stats, is_bad);
    return object;
}

struct vd_status_text vd_status_json(struct vdisk_server *server, uint64_t since_ms)
{
    bool is_bad = false;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_t *root = json_object(), *limits = json_array();
    put_number(root, "time-ms", (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000,
               &is_bad);
    put(root, "server", server_object(server, since_ms, &is_bad), &is_bad);
    for (unsigned i = 0; i + 1 < VDISK_LATENCY_CLASSES; i++)
        if (json_array_append_new(limits, json_integer((json_int_t)vd_latency_limit(i))) != 0)
            is_bad = true;
    put(root, "latency-limits-us", limits, &is_bad);
    put(root, "exports", exports_array(server, &is_bad), &is_bad);
    put(root, "clients", clients_array(server, &is_bad), &is_bad);
    if (is_bad) {
        json_decref(root);
        root = NULL;
    }
    return vd_status_json_dump(root);
}
