/* SPDX-License-Identifier: MIT */
/*
 * The server itself: its parts, who is connected, and how it ends.  A thread accepts, and each
 * connection has one of its own (connection.c), which negotiates and then moves data.
 */
#ifndef VD_SERVE_SERVER_H
#define VD_SERVE_SERVER_H

#include "serve/handshake.h"
#include "util/pool.h"

struct vd_status;

struct vd_connection {
    struct vdisk_server *server;
    struct vd_stream stream;
    struct vd_export *export;     /* under server->lock; NULL during the negotiation */
    char peer[VD_TLS_PEER_BYTES]; /* under server->lock: "unix", "192.0.2.1:4711", a name */
    uint8_t address[16];          /* IPv6, or IPv4 mapped into it; zeros for other families */
    uint64_t since_ms;            /* vd_now_ms() */
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

    struct vd_mutex lock;
    struct vd_cond changed;            /* a connection ended, or the server stops */
    struct vd_connection *connections; /* under lock */
    unsigned connection_entries;       /* under lock */
    uint64_t accepted;                 /* under lock: so far */
    uint64_t refused;                  /* under lock: ended before they chose an export */
    uint64_t chosen;                   /* under lock: chose one, so far */
    struct vd_listener *listener;      /* the thread that accepts: listen.c */
    struct vd_status *status;          /* under lock: status.c; or NULL */
};

/* Starts a connection on @fd, which is its from now on if this returns 0. */
int vd_connection_start(struct vdisk_server *server, int fd, struct vdisk_error *err);

/* The thread that accepts.  Sockets given to add() are the listener's if it returns 0. */
int vd_listener_create(struct vdisk_server *server, struct vd_listener **listener,
                       struct vdisk_error *err);
int vd_listener_add(struct vd_listener *listener, int fd, struct vdisk_error *err);
void vd_listener_free(struct vd_listener *listener); /* accepts no more, closes its sockets */

/* The page about the server: status.c.  @fd as with add(). */
int vd_status_create(struct vdisk_server *server, int fd, struct vd_status **status,
                     struct vdisk_error *err);
void vd_status_free(struct vd_status *status);

#endif
