/* SPDX-License-Identifier: MIT */
/*
 * Requests to the NBD server, once an export is chosen.  The first byte of the input says how, the
 * rest is the client:
 *
 *   bit 0   structured replies
 *   bit 1   extended headers
 *   bit 2   the export can only be read
 *   bit 3   it comes byte by byte
 *   bit 4   metadata contexts were chosen
 *   bit 5   instead of the client's own bytes, requests with good heads: command, flags, offset
 * (2), length (2), both shifted by what is in one more byte; then the payload bit 6   the server is
 * stopping
 *
 * What holds for any client: it ends; memory stays within its limit; what is sent are whole
 * replies. Of requests with good heads each is answered exactly once, reads with what was asked
 * for.
 */
#include "disk.h"
#include "drivers/wire.h"
#include "nbdproto/nbdproto.h"
#include "serve/transmit.h"

#define DISK_BYTES    65536u
#define PAYLOAD_MAX   49152u /* less than the disk */
#define REPLIES_MAX   (1u << 20)
#define REQUESTS_MAX  256u
#define CONTEXTS      3u
#define REQUEST_BYTES (256u << 10)

enum mode {
    STRUCTURED = 1,
    EXTENDED = 2,
    READ_ONLY = 4,
    BYTEWISE = 8,
    CONTEXTUAL = 16,
    GOOD_HEADS = 32,
    STOPPING = 64
};

/* What was asked, by cookie. */
struct asked {
    uint16_t command;
    uint64_t length;
    bool is_answered;
    uint64_t bytes; /* of a read, answered so far */
};

struct talk {
    unsigned mode;
    struct asked asked[REQUESTS_MAX];
    size_t requests; /* 0: the client sends what it likes */
    uint8_t *bytes;  /* owned */
    size_t length;
};

/* ---- The client ---- */

static void put(struct talk *talk, const void *bytes, size_t length)
{
    memcpy(talk->bytes + talk->length, bytes, length);
    talk->length += length;
}

static void put_head(struct talk *talk, uint16_t command, uint16_t flags, uint64_t offset,
                     uint64_t length)
{
    if (talk->mode & EXTENDED) {
        struct vd_nbd_extended_request request = {
            .magic = be32_of(NBD_EXTENDED_REQUEST_MAGIC),
            .flags = be16_of(flags),
            .command = be16_of(command),
            .cookie = be64_of(talk->requests),
            .offset = be64_of(offset),
            .length = be64_of(length),
        };
        put(talk, &request, sizeof(request));
    } else {
        struct vd_nbd_request request = {
            .magic = be32_of(NBD_REQUEST_MAGIC),
            .flags = be16_of(flags),
            .command = be16_of(command),
            .cookie = be64_of(talk->requests),
            .offset = be64_of(offset),
            .length = be32_of((uint32_t)length),
        };
        put(talk, &request, sizeof(request));
    }
}

/* A request, with its payload whole. */
static void put_request(struct talk *talk, struct input *in)
{
    uint16_t command = (uint16_t)input_take(in, 1);
    uint16_t flags = (uint16_t)input_take(in, 1);
    uint64_t offset = input_take(in, 2);
    uint64_t length = input_take(in, 2);
    unsigned shifts = (unsigned)input_take(in, 1);
    offset <<= 4 * (shifts & 15);
    length <<= 4 * (shifts >> 4);
    if (!(talk->mode & EXTENDED))
        length &= UINT32_MAX;
    bool has_payload =
        command == NBD_CMD_WRITE || ((talk->mode & EXTENDED) && (flags & NBD_CMD_FLAG_PAYLOAD_LEN));
    if (has_payload)
        length &= 0x3fff;
    size_t payload = has_payload ? (size_t)length : 0;
    if (command == NBD_CMD_DISC || talk->length + 32 + payload > REQUEST_BYTES)
        return;
    put_head(talk, command, flags, offset, length);
    talk->asked[talk->requests++] = (struct asked){.command = command, .length = length};
    input_copy(in, talk->bytes + talk->length, payload);
    talk->length += payload;
}

static void make_client(struct talk *talk, struct input *in)
{
    talk->bytes = malloc(talk->mode & GOOD_HEADS ? REQUEST_BYTES : in->left + 1);
    REQUIRE(talk->bytes);
    if (talk->mode & GOOD_HEADS) {
        while (in->left > 0 && talk->requests < REQUESTS_MAX)
            put_request(talk, in);
    } else {
        talk->length = in->left;
        input_copy(in, talk->bytes, talk->length);
    }
}

/* ---- The replies ---- */

static struct asked *find(struct talk *talk, uint64_t cookie)
{
    if (talk->requests == 0)
        return NULL;
    REQUIRE(cookie < talk->requests);
    REQUIRE(!talk->asked[cookie].is_answered);
    return &talk->asked[cookie];
}

/* How long the reply at @at is; 0: it is cut off. */
static size_t check_simple(struct talk *talk, const uint8_t *at, size_t left)
{
    struct vd_nbd_simple_reply reply;
    if (left < sizeof(reply))
        return 0;
    memcpy(&reply, at, sizeof(reply));
    REQUIRE(be32_get(reply.magic) == NBD_SIMPLE_REPLY_MAGIC);
    struct asked *asked = find(talk, be64_get(reply.cookie));
    size_t length = sizeof(reply);
    if (asked->command == NBD_CMD_READ && be32_get(reply.error) == 0)
        length += asked->length;
    asked->is_answered = true;
    return length <= left ? length : 0;
}

static void check_chunk(struct talk *talk, struct asked *asked, uint16_t flags, uint16_t type,
                        const uint8_t *data, uint64_t length)
{
    (void)talk;
    REQUIRE((flags & ~NBD_REPLY_FLAG_DONE) == 0);
    switch (type) {
    case NBD_REPLY_TYPE_NONE:
        REQUIRE(length == 0 && (flags & NBD_REPLY_FLAG_DONE));
        break;
    case NBD_REPLY_TYPE_OFFSET_DATA:
        REQUIRE(length > 8);
        if (asked)
            asked->bytes += length - 8;
        break;
    case NBD_REPLY_TYPE_OFFSET_HOLE: {
        struct vd_nbd_hole hole;
        REQUIRE(length == sizeof(hole));
        memcpy(&hole, data, sizeof(hole));
        REQUIRE(be32_get(hole.length) > 0);
        if (asked)
            asked->bytes += be32_get(hole.length);
        break;
    }
    case NBD_REPLY_TYPE_BLOCK_STATUS:
        REQUIRE(!(talk->mode & EXTENDED) && length >= 12 && (length - 4) % 8 == 0);
        break;
    case NBD_REPLY_TYPE_BLOCK_STATUS_EXT:
        REQUIRE((talk->mode & EXTENDED) && length >= 24 && (length - 8) % 16 == 0);
        break;
    default:
        REQUIRE(type == NBD_REPLY_TYPE_ERROR || type == NBD_REPLY_TYPE_ERROR_OFFSET);
        REQUIRE(length >= 6);
        if (asked)
            asked->bytes = asked->length;
        break;
    }
    if (!asked || !(flags & NBD_REPLY_FLAG_DONE))
        return;
    asked->is_answered = true;
    if (asked->command == NBD_CMD_READ)
        REQUIRE(asked->bytes == asked->length);
}

/* A reply without data may be a simple one, too. */
static size_t check_structured(struct talk *talk, const uint8_t *at, size_t left)
{
    struct vd_nbd_simple_reply reply;
    struct vd_nbd_chunk chunk;
    if (left < sizeof(reply))
        return 0;
    memcpy(&reply, at, sizeof(reply));
    if (be32_get(reply.magic) == NBD_SIMPLE_REPLY_MAGIC) {
        struct asked *asked = find(talk, be64_get(reply.cookie));
        REQUIRE(!asked || asked->command != NBD_CMD_READ);
        if (asked)
            asked->is_answered = true;
        return sizeof(reply);
    }
    REQUIRE(be32_get(reply.magic) == NBD_CHUNK_MAGIC);
    if (left < sizeof(chunk))
        return 0;
    memcpy(&chunk, at, sizeof(chunk));
    size_t length = sizeof(chunk) + be32_get(chunk.length);
    if (length > left)
        return 0;
    check_chunk(talk, find(talk, be64_get(chunk.cookie)), be16_get(chunk.flags),
                be16_get(chunk.type), at + sizeof(chunk), be32_get(chunk.length));
    return length;
}

static size_t check_extended(struct talk *talk, const uint8_t *at, size_t left)
{
    struct vd_nbd_extended_chunk chunk;
    if (left < sizeof(chunk))
        return 0;
    memcpy(&chunk, at, sizeof(chunk));
    REQUIRE(be32_get(chunk.magic) == NBD_EXTENDED_CHUNK_MAGIC);
    uint64_t length = be64_get(chunk.length);
    REQUIRE(length <= PAYLOAD_MAX + 65536);
    if (sizeof(chunk) + length > left)
        return 0;
    check_chunk(talk, find(talk, be64_get(chunk.cookie)), be16_get(chunk.flags),
                be16_get(chunk.type), at + sizeof(chunk), length);
    return sizeof(chunk) + (size_t)length;
}

static void check_replies(struct talk *talk, const struct vt_wire *wire)
{
    const uint8_t *at = wire->sent;
    size_t left = wire->sent_kept;
    bool is_cut = wire->sent_length > wire->sent_kept;
    /* Who does not know what was asked does not know how long a simple reply is. */
    if (!(talk->mode & (STRUCTURED | EXTENDED)) && talk->requests == 0)
        return;
    while (left > 0) {
        size_t length = talk->mode & EXTENDED     ? check_extended(talk, at, left)
                        : talk->mode & STRUCTURED ? check_structured(talk, at, left)
                                                  : check_simple(talk, at, left);
        REQUIRE(length > 0 || is_cut);
        if (length == 0)
            return;
        at += length;
        left -= length;
    }
    for (size_t i = 0; i < talk->requests && !is_cut; i++)
        REQUIRE(talk->asked[i].is_answered);
}

/* ---- The server ---- */

static struct vdisk_image *open_image(bool is_writable)
{
    struct vdisk_open_options raw = {.struct_bytes = sizeof(raw), .format = "raw"};
    struct vd_storage *file = NULL;
    struct vdisk_image *image = NULL;
    raw.flags = is_writable ? VDISK_OPEN_WRITE : 0;
    REQUIRE(vd_storage_mem_open(DISK_BYTES, &file, NULL) == 0);
    REQUIRE(vd_image_open_on(file, &raw, &image, NULL) == 0);
    return image;
}

/* The image has no bitmap of this name, so asking about it fails. */
static void add_failing_context(struct vd_contexts *contexts)
{
    static const char prefix[] = "qemu:dirty-bitmap:";
    struct vd_context *list =
        realloc(contexts->list, (contexts->entries + 1) * sizeof(*contexts->list));
    REQUIRE(list);
    contexts->list = list;
    struct vd_context context = {.kind = VD_CONTEXT_BITMAP, .name = strdup("qemu:dirty-bitmap:b")};
    REQUIRE(context.name);
    context.bitmap = context.name + sizeof(prefix) - 1;
    list[contexts->entries++] = context;
}

static void make_session(struct vd_session *session, struct vd_exports *exports, unsigned mode)
{
    unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                     NBD_FLAG_SEND_CACHE | NBD_FLAG_CAN_MULTI_CONN;
    flags |= mode & READ_ONLY
                 ? NBD_FLAG_READ_ONLY
                 : NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    session->has_extended = mode & EXTENDED;
    session->has_structured = mode & (STRUCTURED | EXTENDED);
    session->size = DISK_BYTES;
    session->payload_max = PAYLOAD_MAX;
    REQUIRE(vd_exports_use(exports, "", 0, &session->export, NULL) == 0);
    REQUIRE(session->export->contexts.entries == CONTEXTS);
    if (session->has_structured) {
        flags |= NBD_FLAG_SEND_DF;
        if (mode & CONTEXTUAL) {
            for (uint32_t i = 0; i < CONTEXTS; i++)
                session->contexts[i] = &session->export->contexts.list[i];
            session->context_entries = CONTEXTS;
            if (session->has_extended)
                flags |= NBD_FLAG_BLOCK_STAT_PAYLOAD;
        }
    }
    session->flags = (uint16_t)flags;
}

static struct vd_pool *the_pool(void)
{
    static struct vd_pool *pool;
    if (!pool)
        REQUIRE(vd_pool_create(2, &pool, NULL) == 0);
    return pool;
}

static void serve(struct talk *talk)
{
    struct vdisk_image *image = open_image(!(talk->mode & READ_ONLY));
    struct vdisk_export_options options = {.struct_bytes = sizeof(options)};
    struct vd_exports exports;
    struct vd_session session = {0};
    struct vt_wire wire;
    struct vdisk_error err = {0};
    const struct vd_log log = {0};
    atomic_bool is_stopping = talk->mode & STOPPING;
    options.flags = VDISK_EXPORT_ALLOCATION_DEPTH;
    if (!(talk->mode & READ_ONLY))
        options.flags |= VDISK_EXPORT_WRITE;
    vd_exports_init(&exports);
    REQUIRE(vd_exports_add(&exports, image, &options, NULL) == 0);
    add_failing_context(&exports.first->contexts);
    make_session(&session, &exports, talk->mode);
    vt_wire_init(&wire, talk->bytes, talk->length, REPLIES_MAX);
    wire.portion = talk->mode & BYTEWISE ? 1 : 0;
    session.stream = &wire.stream;

    const struct vd_transmit transmit = {
        .pool = the_pool(),
        .log = &log,
        .peer = "fuzzer",
        .is_stopping = &is_stopping,
        .memory_bytes = 4u << 20,
    };
    int ret = vd_transmit(&transmit, &session, &err);
    REQUIRE(ret <= 0 && ret == -err.code);
    REQUIRE(talk->requests == 0 || ret == 0);
    vd_export_leave(&exports, session.export);
    check_replies(talk, &wire);
    vt_wire_free(&wire);
    vd_exports_destroy(&exports);
    REQUIRE(vdisk_image_close(image, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    struct talk *talk = calloc(1, sizeof(*talk));
    REQUIRE(talk);
    talk->mode = (unsigned)input_take(&in, 1);
    make_client(talk, &in);
    serve(talk);
    free(talk->bytes);
    free(talk);
    return 0;
}
