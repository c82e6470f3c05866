/* SPDX-License-Identifier: MIT */
/* What a client and the server have agreed on: made by the handshake, kept while data moves. */
#ifndef VD_SERVE_SESSION_H
#define VD_SERVE_SESSION_H

#include "serve/export.h"
#include "serve/stream.h"

/* So many metadata contexts can be chosen at once. */
#define VD_SESSION_CONTEXTS_MAX 64u

struct vd_session {
    struct vd_stream *stream;
    struct vd_export *export; /* used: vd_export_leave() */
    uint64_t size;            /* of the disk, as the client was told */
    uint16_t flags;           /* transmission flags, as the client was told */
    bool has_structured;      /* structured replies */
    bool has_extended;        /* extended headers; has_structured as well */
    uint32_t payload_max;     /* bytes that one request may carry, or ask to be read */
    /* The metadata contexts chosen: their ids are index + 1. */
    const struct vd_context *contexts[VD_SESSION_CONTEXTS_MAX]; /* of export->contexts */
    uint32_t context_entries;
};

#endif
