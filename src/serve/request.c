/* SPDX-License-Identifier: MIT */
#include "serve/request.h"

#include <assert.h>
#include <inttypes.h>

/* Of the payload of BLOCK_STATUS: before the ids, and each of them. */
#define FILTER_HEAD_BYTES 8u
#define FILTER_ID_BYTES   4u

_Static_assert(VD_SESSION_CONTEXTS_MAX <= 64, "a context is a bit of struct vd_request");

static uint64_t all_contexts(const struct vd_session *session)
{
    return session->context_entries ? UINT64_MAX >> (64 - session->context_entries) : 0;
}

size_t vd_request_header_bytes(const struct vd_session *session)
{
    return session->has_extended ? sizeof(struct vd_nbd_extended_request)
                                 : sizeof(struct vd_nbd_request);
}

static int refuse_magic(uint32_t magic, uint32_t wanted, struct vdisk_error *err)
{
    return vd_err_set(err, EPROTO, "a request begins with 0x%08" PRIx32 ", not with 0x%08" PRIx32,
                      magic, wanted);
}

static int parse_compact(const uint8_t *header, struct vd_request *request, struct vdisk_error *err)
{
    struct vd_nbd_request wire;
    memcpy(&wire, header, sizeof(wire));
    if (be32_get(wire.magic) != NBD_REQUEST_MAGIC)
        return refuse_magic(be32_get(wire.magic), NBD_REQUEST_MAGIC, err);
    uint32_t length = be32_get(wire.length);
    *request = (struct vd_request){
        .command = be16_get(wire.command),
        .flags = be16_get(wire.flags),
        .cookie = be64_get(wire.cookie),
        .range = vd_range(be64_get(wire.offset), length),
    };
    if (request->command == NBD_CMD_WRITE)
        request->payload_bytes = length;
    return 0;
}

static int parse_extended(const uint8_t *header, struct vd_request *request,
                          struct vdisk_error *err)
{
    struct vd_nbd_extended_request wire;
    memcpy(&wire, header, sizeof(wire));
    if (be32_get(wire.magic) != NBD_EXTENDED_REQUEST_MAGIC)
        return refuse_magic(be32_get(wire.magic), NBD_EXTENDED_REQUEST_MAGIC, err);
    uint64_t length = be64_get(wire.length);
    *request = (struct vd_request){
        .command = be16_get(wire.command),
        .flags = be16_get(wire.flags),
        .cookie = be64_get(wire.cookie),
        .range = vd_range(be64_get(wire.offset), length),
    };
    /* A write always has its data, also if it does not say so, as it has to: QEMU 10 does not. */
    if ((request->flags & NBD_CMD_FLAG_PAYLOAD_LEN) || request->command == NBD_CMD_WRITE)
        request->payload_bytes = length;
    return 0;
}

int vd_request_parse(const struct vd_session *session, const uint8_t *header,
                     struct vd_request *request, struct vdisk_error *err)
{
    int ret = session->has_extended ? parse_extended(header, request, err)
                                    : parse_compact(header, request, err);
    if (ret < 0)
        return ret;
    request->contexts = all_contexts(session);
    /* Nobody sends so much, and it would have to be received. */
    if (request->payload_bytes > UINT32_MAX)
        return vd_err_set(err, EPROTO, "%s with a payload of %" PRIu64 " bytes: the limit is %u",
                          vd_nbd_command_name(request->command), request->payload_bytes,
                          session->payload_max);
    return 0;
}

bool vd_request_wants_payload(const struct vd_request *request)
{
    return request->payload_bytes &&
           (request->command == NBD_CMD_WRITE || request->command == NBD_CMD_BLOCK_STATUS);
}

/* 0, or what is wrong. */
static const char *find_contexts(const struct vd_session *session, const uint8_t *ids,
                                 uint64_t entries, uint64_t *contexts)
{
    *contexts = 0;
    for (uint64_t i = 0; i < entries; i++) {
        struct be32 wire;
        memcpy(&wire, ids + i * FILTER_ID_BYTES, sizeof(wire));
        uint32_t id = be32_get(wire);
        if (id == 0 || id > session->context_entries)
            return "a metadata context that was not chosen";
        uint64_t bit = UINT64_C(1) << (id - 1);
        if (*contexts & bit)
            return "a metadata context is asked for twice";
        *contexts |= bit;
    }
    return NULL;
}

uint32_t vd_request_filter(const struct vd_session *session, struct vd_request *request,
                           const uint8_t *payload, const char **why)
{
    uint64_t bytes = request->payload_bytes;
    struct be64 length;
    if (bytes < FILTER_HEAD_BYTES + FILTER_ID_BYTES ||
        (bytes - FILTER_HEAD_BYTES) % FILTER_ID_BYTES ||
        bytes > FILTER_HEAD_BYTES + VD_SESSION_CONTEXTS_MAX * FILTER_ID_BYTES) {
        *why = "the payload is no list of metadata contexts";
        return NBD_EINVAL;
    }
    memcpy(&length, payload, sizeof(length));
    request->range.length = be64_get(length);
    *why = find_contexts(session, payload + FILTER_HEAD_BYTES,
                         (bytes - FILTER_HEAD_BYTES) / FILTER_ID_BYTES, &request->contexts);
    return *why ? NBD_EINVAL : 0;
}

/* What there is to know of a command. */
struct command {
    uint16_t needs; /* transmission flags without which it must not be sent */
    uint16_t flags; /* allowed, beside FUA */
    bool is_change;
    enum vdisk_request_kind kind;
};

static const struct command *find_command(uint16_t number)
{
    static const struct command commands[] = {
        [NBD_CMD_READ] = {.flags = NBD_CMD_FLAG_DF, .kind = VDISK_REQUEST_READ},
        [NBD_CMD_WRITE] = {.flags = NBD_CMD_FLAG_PAYLOAD_LEN,
                           .is_change = true,
                           .kind = VDISK_REQUEST_WRITE},
        [NBD_CMD_FLUSH] = {.needs = NBD_FLAG_SEND_FLUSH, .kind = VDISK_REQUEST_FLUSH},
        [NBD_CMD_TRIM] = {.needs = NBD_FLAG_SEND_TRIM,
                          .is_change = true,
                          .kind = VDISK_REQUEST_TRIM},
        [NBD_CMD_CACHE] = {.needs = NBD_FLAG_SEND_CACHE, .kind = VDISK_REQUEST_CACHE},
        [NBD_CMD_WRITE_ZEROES] = {.needs = NBD_FLAG_SEND_WRITE_ZEROES,
                                  .flags = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
                                  .is_change = true,
                                  .kind = VDISK_REQUEST_ZEROES},
        [NBD_CMD_BLOCK_STATUS] = {.flags = NBD_CMD_FLAG_REQ_ONE | NBD_CMD_FLAG_PAYLOAD_LEN,
                                  .kind = VDISK_REQUEST_BLOCK_STATUS},
    };
    if (number >= sizeof(commands) / sizeof(commands[0]) || number == NBD_CMD_DISC)
        return NULL;
    return &commands[number];
}

enum vdisk_request_kind vd_request_kind(const struct vd_request *request)
{
    const struct command *command = find_command(request->command);
    assert(command);
    return command->kind;
}

/* Are the flags such as the command has, and as was agreed on? */
static const char *check_flags(const struct vd_session *session, const struct vd_request *request,
                               const struct command *command)
{
    uint16_t allowed = command->flags;
    if (session->flags & NBD_FLAG_SEND_FUA)
        allowed |= NBD_CMD_FLAG_FUA;
    if (!(session->flags & NBD_FLAG_SEND_DF))
        allowed &= (uint16_t)~NBD_CMD_FLAG_DF;
    if (!(session->flags & NBD_FLAG_SEND_FAST_ZERO))
        allowed &= (uint16_t)~NBD_CMD_FLAG_FAST_ZERO;
    if (!session->has_extended || (request->command == NBD_CMD_BLOCK_STATUS &&
                                   !(session->flags & NBD_FLAG_BLOCK_STAT_PAYLOAD)))
        allowed &= (uint16_t)~NBD_CMD_FLAG_PAYLOAD_LEN;
    if (request->flags & (uint16_t)~allowed)
        return "a flag that the command does not have";
    return NULL;
}

static uint32_t check_range(const struct vd_session *session, const struct vd_request *request,
                            const char **why)
{
    if (vd_range_is_within(request->range, session->size))
        return 0;
    *why = "the disk ends before";
    bool is_write = request->command == NBD_CMD_WRITE || request->command == NBD_CMD_WRITE_ZEROES;
    return is_write ? NBD_ENOSPC : NBD_EINVAL;
}

static uint32_t check_length(const struct vd_session *session, const struct vd_request *request,
                             const char **why)
{
    uint64_t length = request->range.length;
    switch (request->command) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
        *why = "longer than the largest payload";
        if (length <= session->payload_max)
            return 0;
        /* Structured reads may be of any length, so this one is only too long for this server. */
        return request->command == NBD_CMD_READ && session->has_structured ? NBD_EOVERFLOW
                                                                           : NBD_EINVAL;
    case NBD_CMD_FLUSH:
        *why = "a flush of a range";
        return request->range.offset || length ? NBD_EINVAL : 0;
    case NBD_CMD_BLOCK_STATUS:
        *why = "no metadata context was chosen";
        if (!session->has_structured || !request->contexts)
            return NBD_EINVAL;
        *why = "the status of nothing";
        return length == 0 ? NBD_EINVAL : 0;
    default:
        return 0;
    }
}

uint32_t vd_request_check(const struct vd_session *session, const struct vd_request *request,
                          const char **why)
{
    const struct command *command = find_command(request->command);
    *why = "unknown command";
    if (!command)
        return NBD_EINVAL;
    *why = check_flags(session, request, command);
    if (*why)
        return NBD_EINVAL;
    if (command->is_change && (session->flags & NBD_FLAG_READ_ONLY)) {
        *why = "the export is read-only";
        return NBD_EPERM;
    }
    if ((session->flags & command->needs) != command->needs) {
        *why = "a command that was not offered";
        return NBD_EINVAL;
    }
    /* What a write carries decides first: past the end it is too much in any case. */
    if (request->command == NBD_CMD_FLUSH)
        return check_length(session, request, why);
    uint32_t error = check_range(session, request, why);
    return error ? error : check_length(session, request, why);
}
