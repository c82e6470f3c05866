/* SPDX-License-Identifier: MIT */
/*
 * The server itself: its parts, who is connected, and how it ends.  A thread accepts, and each
 * connection has one of its own (connection.c), which negotiates and then moves data.
 */
#ifndef VD_SERVE_SERVER_H
#define VD_SERVE_SERVER_H

#include <pthread.h>

#include "serve/handshake.h"
#include "serve/spin.h"
#include "util/pool.h"

struct vd_status;

struct vd_connection {
    struct vdisk_server *server;
    struct vd_stream stream;
    struct vd_export *export;     /* under server->lock; NULL during the negotiation */
    char peer[VD_TLS_PEER_BYTES]; /* under server->lock: "unix", "192.0.2.1:4711", a name */
    uint8_t address[16];          /* IPv6, or IPv4 mapped into it; zeros for other families */
    uint64_t since_ms;            /* vd_clock_ms() */
    pthread_t thread;             /* under server->lock: joined by the next one that ends */
    atomic_bool is_cut;           /* nobody waits for it any longer */
    struct vd_connection *next;   /* under server->lock */
    struct vd_connection **link;  /* under server->lock: what points at it */
};

struct vdisk_server {
    struct vdisk_server_options options; /* with the defaults filled in; tls is NULL */
    struct vd_log log;
    struct vd_exports exports;
    struct vd_tls *tls; /* or NULL */
    struct vd_pool *pool;
    atomic_bool is_stopping;
    struct vd_spinners spinners;

    struct vd_mutex lock;
    struct vd_cond changed;            /* a connection ended, or the server stops */
    struct vd_connection *connections; /* under lock */
    unsigned connection_entries;       /* under lock: their threads, until the last moment */
    struct vd_connection *finished;    /* under lock: the last one that ended, to be joined */
    uint64_t accepted;                 /* under lock: so far */
    uint64_t refused;                  /* under lock: ended before they chose an export */
    uint64_t chosen;                   /* under lock: chose one, so far */
    bool is_closed;                    /* under lock: nothing is accepted any more */
    bool has_stopped;                  /* under lock: nobody is connected, all is flushed */
    struct vdisk_error stop_err;       /* under lock: what the flush met */
    struct vd_listener *listener;      /* under lock: the thread that accepts; or NULL */
    struct vd_status *status;          /* under lock: status.c; or NULL */
};

/* Starts a connection on @fd, which is its from now on if this returns 0.  As
 * vdisk_server_connect(), but for looking at the socket. */
int vd_connection_start(struct vdisk_server *server, int fd, struct vdisk_error *err);

/*
 * Disconnects the clients of @export, or all connections for NULL: receives nothing more, waits
 * until @deadline for the last replies to be taken, then cuts them off, and returns when no thread
 * has to do with them any more.  Nobody else comes in: the export is off the list, or the server
 * is closed.
 */
void vd_connections_end(struct vdisk_server *server, const struct vd_export *export,
                        uint64_t deadline);

/* Adds the bytes of the clients of @export, or of all for NULL, which have not left yet. */
void vd_connections_sum(const struct vdisk_server *server, const struct vd_export *export,
                        struct vdisk_server_stats *stats) VD_REQUIRES(server->lock);

/* The thread that accepts.  Sockets given to add() are the listener's if it returns 0. */
int vd_listener_create(struct vdisk_server *server, struct vd_listener **listener,
                       struct vdisk_error *err);
int vd_listener_add(struct vd_listener *listener, int fd, struct vdisk_error *err);
void vd_listener_free(struct vd_listener *listener); /* accepts no more, closes its sockets */

/* The page about the server: status.c.  @fd as with add(). */
int vd_status_create(struct vdisk_server *server, int fd, struct vd_status **status,
                     struct vdisk_error *err);
void vd_status_free(struct vd_status *status); /* or NULL */

#endif
