/* SPDX-License-Identifier: MIT */
/*
 * The page about a server: what its files know of each other.
 *
 * status.c has a thread, in which everything here happens; it accepts connections and gives them to
 * libmicrohttpd.  status_http.c answers requests, with texts of status_json.c, status_metrics.c and
 * status_map.c, and the page itself, which the build makes of page.html.
 *
 * P1  Nothing is changed, and no client of the server waits: locks are held while something is
 *     copied, and a look at a disk ends after some milliseconds.
 * P2  Memory is bounded: connections, headers, the list of clients, and the maps that are kept.
 * P3  Names come from clients and images.  They are escaped in every text, and the page puts them
 *     where no markup is looked for.
 */
#ifndef VD_SERVE_STATUS_H
#define VD_SERVE_STATUS_H

#include "serve/server.h"

struct MHD_Connection;

/* A text to be sent.  Freed by whoever gets it. */
struct vd_status_text {
    char *bytes; /* NULL: there was no memory for it */
    size_t length;
};

/* ---- status_json.c ---- */

/* "/status.json": docs/json.md.  @since_ms: when the server began. */
struct vd_status_text vd_status_json(struct vdisk_server *server, uint64_t since_ms);

struct json_t;

/* The text of @bytes; those that are no UTF-8 become U+FFFD.  NULL: no memory. */
struct json_t *vd_status_json_text(const char *bytes);

/* @root as text; takes it over, and NULL too. */
struct vd_status_text vd_status_json_dump(struct json_t *root);

/* The counters of an export, with those of its clients of now. */
void vd_status_sum(struct vdisk_server *server, const struct vd_export *export,
                   struct vdisk_server_stats *stats);

/* The word for a kind of request, in JSON and metrics: "read", "block-status". */
const char *vd_status_kind_name(enum vdisk_request_kind kind);

/* ---- status_metrics.c ---- */

/* "/metrics": the text format 0.0.4 of Prometheus. */
struct vd_status_text vd_status_metrics(struct vdisk_server *server, uint64_t since_ms);

/* ---- status_map.c ---- */

/* The maps that were asked for lately, as far as they are known.  Used by one thread. */
struct vd_status_maps;

struct vd_status_maps *vd_status_maps_create(void); /* NULL: no memory */
void vd_status_maps_free(struct vd_status_maps *maps);

/* So many contexts can be asked for at once. */
#define VD_STATUS_MAP_CONTEXTS_MAX 8u

/*
 * "/map.json": a coarse map of @export, as far as it is known after some milliseconds more.
 * @names: of contexts, without those that the export has not; no @entries: the first ones it has.
 */
struct vd_status_text vd_status_map(struct vd_status_maps *maps, struct vd_export *export,
                                    const char *const *names, size_t entries);

/* ---- status_http.c ---- */

struct vd_status_site {
    struct vdisk_server *server;
    struct vd_status_maps *maps;
    uint64_t since_ms;
};

/* Is there nothing of the request but its head?  Then it is all there at the second call. */
bool vd_status_may_wait(struct MHD_Connection *connection);

/* Answers a request, the head of which has been received.  Returns what libmicrohttpd wants. */
int vd_status_answer(struct vd_status_site *site, struct MHD_Connection *connection,
                     const char *path, const char *method);

/* ---- made of page.html ---- */

extern const char vd_status_page[];
extern const size_t vd_status_page_bytes;
extern const char vd_status_page_policy[]; /* Content-Security-Policy */

#endif
