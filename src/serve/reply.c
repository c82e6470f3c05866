/* SPDX-License-Identifier: MIT */
#include "serve/reply.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#define PUT(to, at, value)                        \
    do {                                          \
        memcpy((to) + at, &value, sizeof(value)); \
        at += sizeof(value);                      \
    } while (0)

static size_t put_simple(const struct vd_request *request, uint32_t error, uint8_t *to)
{
    struct vd_nbd_simple_reply reply = {
        .magic = be32_of(NBD_SIMPLE_REPLY_MAGIC),
        .error = be32_of(error),
        .cookie = be64_of(request->cookie),
    };
    memcpy(to, &reply, sizeof(reply));
    return sizeof(reply);
}

/* A chunk, and what it is. */
struct chunk {
    uint16_t type;
    bool is_last;
    uint64_t payload_bytes;
};

static size_t put_chunk(const struct vd_session *session, const struct vd_request *request,
                        struct chunk chunk, uint8_t *to)
{
    struct be16 flags = be16_of(chunk.is_last ? NBD_REPLY_FLAG_DONE : 0);
    struct be16 type = be16_of(chunk.type);
    struct be64 cookie = be64_of(request->cookie);
    if (session->has_extended) {
        struct vd_nbd_extended_chunk wire = {
            .magic = be32_of(NBD_EXTENDED_CHUNK_MAGIC),
            .flags = flags,
            .type = type,
            .cookie = cookie,
            .offset = be64_of(request->range.offset),
            .length = be64_of(chunk.payload_bytes),
        };
        memcpy(to, &wire, sizeof(wire));
        return sizeof(wire);
    }
    assert(chunk.payload_bytes <= UINT32_MAX);
    struct vd_nbd_chunk wire = {
        .magic = be32_of(NBD_CHUNK_MAGIC),
        .flags = flags,
        .type = type,
        .cookie = cookie,
        .length = be32_of((uint32_t)chunk.payload_bytes),
    };
    memcpy(to, &wire, sizeof(wire));
    return sizeof(wire);
}

size_t vd_reply_done(const struct vd_session *session, const struct vd_request *request,
                     uint8_t *to)
{
    struct chunk chunk = {.type = NBD_REPLY_TYPE_NONE, .is_last = true};
    /* A read must be answered by chunks where there are any; for the rest this is shorter. */
    if (session->has_extended || (session->has_structured && request->command == NBD_CMD_READ))
        return put_chunk(session, request, chunk, to);
    return put_simple(request, 0, to);
}

size_t vd_reply_error(const struct vd_session *session, const struct vd_request *request,
                      uint32_t error, const char *why, uint8_t *to)
{
    assert(error);
    if (!session->has_structured)
        return put_simple(request, error, to);
    char message[128];
    int length = snprintf(
        message, sizeof(message), "%s of %" PRIu64 " bytes at offset %" PRIu64 ": %s",
        vd_nbd_command_name(request->command), request->range.length, request->range.offset, why);
    uint16_t message_bytes = (uint16_t)vd_min((uint64_t)length, sizeof(message) - 1);
    struct vd_nbd_error wire = {.error = be32_of(error), .message_length = be16_of(message_bytes)};
    struct chunk chunk = {.type = NBD_REPLY_TYPE_ERROR,
                          .is_last = true,
                          .payload_bytes = sizeof(wire) + message_bytes};
    size_t at = put_chunk(session, request, chunk, to);
    PUT(to, at, wire);
    memcpy(to + at, message, message_bytes);
    assert(at + message_bytes <= VD_REPLY_ERROR_BYTES);
    return at + message_bytes;
}

size_t vd_reply_data(const struct vd_session *session, const struct vd_request *request,
                     struct vd_range part, bool is_last, uint8_t *to)
{
    if (!session->has_structured) {
        assert(is_last && part.length == request->range.length);
        return put_simple(request, 0, to);
    }
    struct be64 offset = be64_of(part.offset);
    struct chunk chunk = {.type = NBD_REPLY_TYPE_OFFSET_DATA,
                          .is_last = is_last,
                          .payload_bytes = sizeof(offset) + part.length};
    size_t at = put_chunk(session, request, chunk, to);
    PUT(to, at, offset);
    return at;
}

size_t vd_reply_hole(const struct vd_session *session, const struct vd_request *request,
                     struct vd_range part, bool is_last, uint8_t *to)
{
    assert(session->has_structured && part.length && part.length <= UINT32_MAX);
    struct vd_nbd_hole hole = {.offset = be64_of(part.offset),
                               .length = be32_of((uint32_t)part.length)};
    struct chunk chunk = {
        .type = NBD_REPLY_TYPE_OFFSET_HOLE, .is_last = is_last, .payload_bytes = sizeof(hole)};
    size_t at = put_chunk(session, request, chunk, to);
    PUT(to, at, hole);
    return at;
}

static size_t status_payload_bytes(const struct vd_session *session, size_t entries)
{
    return session->has_extended ? sizeof(struct vd_nbd_status_ext_head) +
                                       entries * sizeof(struct vd_nbd_extended_extent)
                                 : sizeof(struct be32) + entries * sizeof(struct vd_nbd_extent);
}

size_t vd_reply_status_bytes(const struct vd_session *session, size_t entries)
{
    return sizeof(struct vd_nbd_extended_chunk) + status_payload_bytes(session, entries);
}

static size_t put_extent(const struct vd_session *session, const struct vd_context_extent *extent,
                         uint8_t *to)
{
    if (session->has_extended) {
        struct vd_nbd_extended_extent wire = {.length = be64_of(extent->length),
                                              .flags = be64_of(extent->flags)};
        memcpy(to, &wire, sizeof(wire));
        return sizeof(wire);
    }
    struct vd_nbd_extent wire = {.length = be32_of((uint32_t)extent->length),
                                 .flags = be32_of((uint32_t)extent->flags)};
    memcpy(to, &wire, sizeof(wire));
    return sizeof(wire);
}

size_t vd_reply_status(const struct vd_session *session, const struct vd_request *request,
                       uint32_t index, const struct vd_context_extent *extents, size_t entries,
                       bool is_last, uint8_t *to)
{
    struct be32 id = be32_of(index + 1);
    struct chunk chunk = {.type = session->has_extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT
                                                        : NBD_REPLY_TYPE_BLOCK_STATUS,
                          .is_last = is_last,
                          .payload_bytes = status_payload_bytes(session, entries)};
    size_t at = put_chunk(session, request, chunk, to);
    PUT(to, at, id);
    if (session->has_extended) {
        struct be32 count = be32_of((uint32_t)entries);
        PUT(to, at, count);
    }
    for (size_t i = 0; i < entries; i++)
        at += put_extent(session, &extents[i], to + at);
    return at;
}
