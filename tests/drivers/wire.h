/* SPDX-License-Identifier: MIT */
/*
 * A stream of which the client is some bytes in memory: they are received, then the client is gone;
 * what is sent to it is kept.
 */
#ifndef VT_WIRE_H
#define VT_WIRE_H

#include "serve/stream.h"

struct vt_wire {
    struct vd_stream stream;
    const uint8_t *bytes; /* of the client */
    size_t length;
    size_t portion; /* most that is received at once; 0: all there is */

    size_t received; /* so far */
    uint8_t *sent;   /* to the client */
    size_t sent_length;
    size_t sent_kept; /* of these, the first in @sent: no more than sent_max */
    size_t sent_max;
};

/* @bytes stay the caller's. */
void vt_wire_init(struct vt_wire *wire, const void *bytes, size_t length, size_t sent_max);

/* Nobody uses the stream any more. */
void vt_wire_free(struct vt_wire *wire);

#endif
