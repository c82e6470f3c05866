/* SPDX-License-Identifier: MIT */
/*
 * A connection to a client: bytes in both directions, plain or by TLS.
 *
 * One thread at a time receives.  One thread at a time sends; it may be another one than that which
 * receives only if vd_stream_sends_beside() says so.
 */
#ifndef VD_SERVE_STREAM_H
#define VD_SERVE_STREAM_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "util/clock.h"
#include "util/err.h"

struct vd_stream;

struct vd_stream_driver {
    /* As vd_stream_receive() and vd_stream_send(). */
    ssize_t (*receive)(struct vd_stream *stream, void *buf, size_t length, bool is_waiting);
    ssize_t (*send)(struct vd_stream *stream, const struct iovec *iov, int iov_entries,
                    bool is_waiting);
    /* Are there bytes which poll() does not see? */
    bool (*has_received)(struct vd_stream *stream);
    void (*close)(struct vd_stream *stream); /* but for the descriptor */
    bool sends_beside;
};

struct vd_stream {
    const struct vd_stream_driver *driver;
    void *state; /* the driver's own */
    int fd;      /* owned */
    atomic_ullong received_bytes;
    atomic_ullong sent_bytes;
};

/* A deadline: of vd_clock_ms(); VD_NEVER for none. */
#define VD_NEVER UINT64_MAX

/* A plain stream; @fd is its from now on. */
void vd_stream_init(struct vd_stream *stream, int fd);

/* Closes without a word. */
void vd_stream_close(struct vd_stream *stream);

/*
 * Receives what there is, at most @length bytes; waits for the first one if @is_waiting.
 * Returns the count; 0: the client has sent all; -EAGAIN: nothing there; else a negative errno.
 */
ssize_t vd_stream_receive(struct vd_stream *stream, void *buf, size_t length, bool is_waiting);

/*
 * Sends at least one byte, and as many as can be sent without waiting, or all if @is_waiting.
 * Returns the count; -EAGAIN: none could be; else a negative errno.  Never raises SIGPIPE.
 */
ssize_t vd_stream_send(struct vd_stream *stream, const struct iovec *iov, int iov_entries,
                       bool is_waiting);

/* Receives, or sends, all by @deadline: 0, -ECONNRESET if the client left before, -ETIMEDOUT, or
 * another negative errno.  For the negotiation. */
int vd_stream_receive_all(struct vd_stream *stream, void *buf, size_t length, uint64_t deadline);
int vd_stream_send_all(struct vd_stream *stream, const void *buf, size_t length, uint64_t deadline);

bool vd_stream_has_received(struct vd_stream *stream);
bool vd_stream_sends_beside(const struct vd_stream *stream);

/* Receives nothing more but what has arrived, then finds the end; from any thread.  Whoever sends
 * goes on. */
void vd_stream_end_receiving(struct vd_stream *stream);

/* Makes every wait for it end, from any thread: receiving finds the end, sending EPIPE. */
void vd_stream_cut(struct vd_stream *stream);

#endif
