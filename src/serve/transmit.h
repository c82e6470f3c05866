/* SPDX-License-Identifier: MIT */
/*
 * Requests and replies: what happens on a connection once an export is chosen.
 *
 * T1  Every request that was received whole is answered exactly once, unless the client is gone.
 * T2  What is at hand is done by the thread of the connection; what may wait for a disk or for
 * other requests is done by a worker, so nobody waits behind it. T3  A connection never takes more
 * memory than its limit: when it is reached, nothing is received until replies have been taken.  No
 * worker waits for a client. T4  A reply to FLUSH, or to a write with FUA, is sent when all that
 * was acknowledged before the flush, or that write, is durable. T5  vd_transmit() returns when no
 * worker has to do with the connection any more.
 */
#ifndef VD_SERVE_TRANSMIT_H
#define VD_SERVE_TRANSMIT_H

#include "serve/log.h"
#include "serve/session.h"
#include "serve/spin.h"
#include "util/pool.h"

struct vd_transmit {
    struct vd_pool *pool; /* of the server */
    const struct vd_log *log;
    const char *peer;               /* for logs */
    const atomic_bool *is_stopping; /* later requests are answered with ESHUTDOWN */
    uint64_t memory_bytes;          /* most at once */
    uint32_t idle_ms;               /* 0: none */
    uint32_t stall_ms;              /* 0: none */
    struct vd_spinners *spinners;   /* of the server; NULL: it never spins (spin.h) */
};

/*
 * Serves the client until it leaves, breaks the protocol, or its stream is cut.
 * Returns 0 if it left as it should (NBD_CMD_DISC, or after its last reply); else a negative errno
 * with the story.
 */
int vd_transmit(const struct vd_transmit *transmit, struct vd_session *session,
                struct vdisk_error *err);

#endif
