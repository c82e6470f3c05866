/* SPDX-License-Identifier: MIT */
#include "drivers/wire.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static ssize_t wire_receive(struct vd_stream *stream, void *buf, size_t length, bool is_waiting)
{
    (void)is_waiting;
    struct vt_wire *wire = stream->state;
    size_t left = wire->length - wire->received;
    if (length > left)
        length = left;
    if (wire->portion > 0 && length > wire->portion)
        length = wire->portion;
    if (length > 0)
        memcpy(buf, wire->bytes + wire->received, length);
    wire->received += length;
    return (ssize_t)length;
}

static ssize_t wire_send(struct vd_stream *stream, const struct iovec *iov, int iov_entries,
                         bool is_waiting)
{
    (void)is_waiting;
    struct vt_wire *wire = stream->state;
    size_t sent = 0;
    for (int i = 0; i < iov_entries; i++) {
        size_t room = wire->sent_max - wire->sent_kept;
        size_t kept = iov[i].iov_len < room ? iov[i].iov_len : room;
        if (kept > 0)
            memcpy(wire->sent + wire->sent_kept, iov[i].iov_base, kept);
        wire->sent_kept += kept;
        sent += iov[i].iov_len;
    }
    wire->sent_length += sent;
    return (ssize_t)sent;
}

static bool wire_has_received(struct vd_stream *stream)
{
    const struct vt_wire *wire = stream->state;
    return wire->received < wire->length;
}

static void wire_close(struct vd_stream *stream)
{
    (void)stream;
}

static const struct vd_stream_driver wire_driver = {
    .receive = wire_receive,
    .send = wire_send,
    .has_received = wire_has_received,
    .close = wire_close,
    .sends_beside = false,
};

void vt_wire_init(struct vt_wire *wire, const void *bytes, size_t length, size_t sent_max)
{
    memset(wire, 0, sizeof(*wire));
    wire->stream.driver = &wire_driver;
    wire->stream.state = wire;
    wire->stream.fd = -1;
    wire->bytes = bytes;
    wire->length = length;
    wire->sent = malloc(sent_max);
    if (!wire->sent)
        abort();
    wire->sent_max = sent_max;
}

void vt_wire_free(struct vt_wire *wire)
{
    free(wire->sent);
    wire->sent = NULL;
}
