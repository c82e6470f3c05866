/* SPDX-License-Identifier: MIT */
/* The negotiation: what a client may ask for before it comes to data. */
#ifndef VD_SERVE_HANDSHAKE_H
#define VD_SERVE_HANDSHAKE_H

#include "serve/log.h"
#include "serve/session.h"
#include "serve/tls.h"

struct vd_handshake {
    struct vd_exports *exports;
    struct vd_tls *tls; /* or NULL */
    const struct vd_log *log;
    const atomic_bool *is_stopping; /* options are then answered with ERR_SHUTDOWN */
    uint64_t deadline;
    uint32_t payload_max;         /* what to offer */
    char peer[VD_TLS_PEER_BYTES]; /* who it is, for logs; TLS puts its name here */
};

/*
 * Negotiates on @stream until the client has chosen an export, and fills in @session: leave its
 * export with vd_export_leave().  Memory is bounded, whatever is sent.
 * Returns 0; -ECANCELED: the client had enough (ABORT, or it left between two options); else a
 * negative errno with the story: it broke the protocol, was refused, or was too slow.  Then it can
 * only be disconnected.
 */
int vd_handshake(struct vd_handshake *handshake, struct vd_stream *stream,
                 struct vd_session *session, struct vdisk_error *err);

#endif
