/* SPDX-License-Identifier: MIT */
/*
 * The negotiation of the NBD server.  The first byte of the input says how, the rest is the client:
 *
 *   bit 0   it comes byte by byte
 *   bit 1   the server is stopping
 *   bit 2   instead of the client's own bytes, options with good heads: number, length (2), data
 *
 * What holds for any client: the negotiation ends; all answers are greeting, replies, or the end of
 * a choice by name; replies are of the option that was sent; who has been refused holds nothing.
 */
#include "disk.h"
#include "drivers/wire.h"
#include "nbdproto/nbdproto.h"
#include "serve/handshake.h"
#include "util/utf8.h"

#define DISK_BYTES     65536u
#define REPLIES_MAX    (256u << 10)
#define OPTIONS_BYTES  65536u
#define BITMAPS        70u
#define BITMAPS_PREFIX "qemu:dirty-bitmap:"

enum mode {
    BYTEWISE = 1,
    STOPPING = 2,
    GOOD_HEADS = 4
};

struct server {
    struct vdisk_image *image;
    struct vd_exports exports;
};

static void offer(struct server *server, const char *name, uint32_t flags, uint32_t clients)
{
    struct vdisk_export_options options = {
        .struct_bytes = sizeof(options), .name = name, .flags = flags, .clients = clients};
    REQUIRE(vd_exports_add(&server->exports, server->image, &options, NULL) == 0);
}

/* As if the image had more bitmaps than can be chosen at once. */
static void add_bitmaps(struct vd_contexts *contexts)
{
    struct vd_context *list =
        realloc(contexts->list, (contexts->entries + BITMAPS) * sizeof(*list));
    REQUIRE(list);
    contexts->list = list;
    for (unsigned i = 0; i < BITMAPS; i++) {
        char name[64];
        snprintf(name, sizeof(name), BITMAPS_PREFIX "b%u", i);
        struct vd_context context = {.kind = VD_CONTEXT_BITMAP, .name = strdup(name)};
        REQUIRE(context.name);
        context.bitmap = context.name + strlen(BITMAPS_PREFIX);
        list[contexts->entries++] = context;
    }
}

static void begin(struct server *server)
{
    struct vdisk_open_options raw = {
        .struct_bytes = sizeof(raw), .format = "raw", .flags = VDISK_OPEN_WRITE};
    struct vd_storage *file = NULL;
    REQUIRE(vd_storage_mem_open(DISK_BYTES, &file, NULL) == 0);
    REQUIRE(vd_image_open_on(file, &raw, &server->image, NULL) == 0);
    vd_exports_init(&server->exports);
    offer(server, "disk", VDISK_EXPORT_WRITE | VDISK_EXPORT_ALLOCATION_DEPTH, 0);
    offer(server, "ro", 0, 1);
    add_bitmaps(&server->exports.first->contexts);
}

/* One for all inputs: none leaves anything behind. */
static struct server *the_server(void)
{
    static struct server server;
    if (!server.image)
        begin(&server);
    return &server;
}

static void check_server(const struct server *server)
{
    for (const struct vd_export *at = server->exports.first; at; at = at->next)
        REQUIRE(at->holders == 0 && atomic_load(&at->counters.clients) == 0);
}

/* The client's flags, and options that are what they say. */
static size_t make_options(struct input *in, uint8_t *bytes)
{
    struct be32 flags = be32_of((uint32_t)input_take(in, 1));
    size_t length = sizeof(flags);
    memcpy(bytes, &flags, sizeof(flags));
    while (in->left > 0) {
        struct vd_nbd_option_head head = {
            .magic = be64_of(NBD_OPTION_MAGIC),
            .option = be32_of((uint32_t)input_take(in, 1)),
        };
        size_t data = (size_t)input_take(in, 2);
        if (data > in->left)
            data = in->left;
        head.length = be32_of((uint32_t)data);
        if (length + sizeof(head) + data > OPTIONS_BYTES)
            break;
        memcpy(bytes + length, &head, sizeof(head));
        length += sizeof(head);
        input_copy(in, bytes + length, data);
        length += data;
    }
    return length;
}

static void check_reply(const struct vd_nbd_option_reply *reply, const uint8_t *data, size_t left)
{
    uint32_t type = be32_get(reply->type);
    uint32_t length = be32_get(reply->length);
    REQUIRE(length <= left);
    if (type & NBD_REP_ERR(0))
        REQUIRE(length > 0 && vd_utf8_is_text((const char *)data, length));
    else
        REQUIRE(type >= NBD_REP_ACK && type <= NBD_REP_META_CONTEXT);
}

static void check_replies(const struct vt_wire *wire, bool is_chosen)
{
    const uint8_t *at = wire->sent + sizeof(struct vd_nbd_greeting);
    const uint8_t *end_at = wire->sent + wire->sent_kept;
    REQUIRE(wire->sent_kept >= sizeof(struct vd_nbd_greeting));
    while (at < end_at) {
        struct vd_nbd_option_reply reply;
        size_t left = (size_t)(end_at - at);
        if (wire->sent_length > wire->sent_kept && left < sizeof(reply) + 65536)
            return; /* cut off here */
        if (left < sizeof(reply) || be64_get(*(const struct be64 *)at) != NBD_OPTION_REPLY_MAGIC) {
            REQUIRE(is_chosen && (left == 10 || left == 134));
            return;
        }
        memcpy(&reply, at, sizeof(reply));
        check_reply(&reply, at + sizeof(reply), left - sizeof(reply));
        at += sizeof(reply) + be32_get(reply.length);
    }
}

static void check_session(const struct vd_session *session)
{
    const struct vd_export *export = session->export;
    REQUIRE(session->size == DISK_BYTES);
    REQUIRE(session->flags & NBD_FLAG_HAS_FLAGS);
    REQUIRE(export->is_writable == !(session->flags & NBD_FLAG_READ_ONLY));
    REQUIRE(session->has_structured == !!(session->flags & NBD_FLAG_SEND_DF));
    REQUIRE(session->has_structured || session->context_entries == 0);
    REQUIRE(session->has_structured || !session->has_extended);
    REQUIRE(session->context_entries <= VD_SESSION_CONTEXTS_MAX);
    for (uint32_t i = 0; i < session->context_entries; i++) {
        REQUIRE(session->contexts[i] >= export->contexts.list);
        REQUIRE(session->contexts[i] < export->contexts.list + export->contexts.entries);
        REQUIRE(i == 0 || session->contexts[i] > session->contexts[i - 1]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    unsigned mode = (unsigned)input_take(&in, 1);
    atomic_bool is_stopping = mode & STOPPING;
    struct server *server = the_server();
    struct vt_wire wire;
    struct vd_session session;
    struct vdisk_error err = {0};
    const struct vd_log log = {0};
    uint8_t *options = NULL;
    if (mode & GOOD_HEADS) {
        options = malloc(OPTIONS_BYTES);
        REQUIRE(options);
        size_t made = make_options(&in, options);
        vt_wire_init(&wire, options, made, REPLIES_MAX);
    } else {
        vt_wire_init(&wire, in.data, in.left, REPLIES_MAX);
    }
    wire.portion = mode & BYTEWISE;

    struct vd_handshake handshake = {
        .exports = &server->exports,
        .log = &log,
        .is_stopping = &is_stopping,
        .deadline = VD_NEVER,
        .payload_max = 32u << 20,
        .peer = "fuzzer",
    };
    int ret = vd_handshake(&handshake, &wire.stream, &session, &err);
    REQUIRE(ret == -err.code);
    REQUIRE(ret == 0 ? session.export != NULL : ret < 0 && err.message[0] && !session.export);
    check_replies(&wire, ret == 0);
    if (ret == 0) {
        REQUIRE(!(mode & STOPPING));
        check_session(&session);
        vd_export_leave(&server->exports, session.export);
    }
    vt_wire_free(&wire);
    free(options);
    check_server(server);
    return 0;
}
