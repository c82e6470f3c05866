/* SPDX-License-Identifier: MIT */
#include "drivers/serving.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbdproto/nbdproto.h"
#include "util/mem.h"

void serving_start_on(struct serving *serving, struct vdisk_image *image)
{
    static const struct vdisk_export_options options = {.struct_bytes = sizeof(options)};
    *serving = (struct serving){.image = image, .memory_bytes = 72u << 20};
    vd_spinners_init(&serving->spinners, 4);
    serving->export.image = image;
    static char name[] = "disk";
    serving->export.name = name;
    serving->export.is_writable = true;
    VT_OK(vd_contexts_make(image, &options, &serving->export.contexts, &vt_err));
    VT_OK(vd_pool_create(8, &serving->pool, &vt_err));
}

static void start(struct serving *serving, const char *format, uint64_t size, bool is_slow)
{
    struct vd_storage *file;
    struct vd_storage *faults = NULL;
    struct vdisk_image *image;
    const struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = size};
    const struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = VDISK_OPEN_WRITE, .format = format};
    VT_OK(vd_storage_mem_open(0, &file, &vt_err));
    if (is_slow) {
        VT_OK(vt_fault_open(file, VT_OWN, &faults, &vt_err));
        file = faults;
    }
    VT_OK(vd_format_create(vd_format_find(format, NULL), file, NULL, &create, &vt_err));
    VT_OK(vd_image_open_on(file, &open, &image, &vt_err));
    serving_start_on(serving, image);
    serving->faults = faults;
}

void serving_start(struct serving *serving, const char *format, uint64_t size)
{
    start(serving, format, size, false);
}

void serving_start_slow(struct serving *serving, const char *format, uint64_t size)
{
    start(serving, format, size, true);
}

void serving_stop(struct serving *serving)
{
    vd_pool_free(serving->pool);
    vd_contexts_free(&serving->export.contexts);
    VT_OK(vdisk_image_close(serving->image, &vt_err));
}

static void *serve(void *opaque)
{
    struct client *client = opaque;
    struct serving *serving = client->serving;
    const struct vd_transmit transmit = {
        .pool = serving->pool,
        .log = &serving->log,
        .peer = "test",
        .is_stopping = &serving->is_stopping,
        .memory_bytes = serving->memory_bytes,
        .stall_ms = serving->stall_ms,
        .idle_ms = serving->idle_ms,
        .spinners = &serving->spinners,
    };
    client->ret = vd_transmit(&transmit, &client->session, &client->err);
    vd_stream_cut(&client->stream); /* as the server does: the client sees the end */
    return NULL;
}

void client_prepare(struct client *client, struct serving *serving, enum client_mode mode)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    *client = (struct client){.serving = serving, .fd = fds[0]};
    vd_stream_init(&client->stream, fds[1]);
    client->session = (struct vd_session){
        .stream = &client->stream,
        .export = &serving->export,
        .size = vdisk_image_size(serving->image),
        .flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
                 NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_CACHE | NBD_FLAG_SEND_FAST_ZERO |
                 NBD_FLAG_CAN_MULTI_CONN,
        .has_structured = mode != CLIENT_SIMPLE,
        .has_extended = mode == CLIENT_EXTENDED,
        .payload_max = NBD_PAYLOAD_BASE,
    };
    if (mode != CLIENT_SIMPLE)
        client->session.flags |= NBD_FLAG_SEND_DF;
    if (mode == CLIENT_EXTENDED)
        client->session.flags |= NBD_FLAG_BLOCK_STAT_PAYLOAD;
    for (size_t i = 0; i < serving->export.contexts.entries && mode != CLIENT_SIMPLE; i++)
        client->session.contexts[client->session.context_entries++] =
            &serving->export.contexts.list[i];
}

void client_run(struct client *client)
{
    assert_int_equal(pthread_create(&client->thread, NULL, serve, client), 0);
}

void client_start(struct client *client, struct serving *serving, enum client_mode mode)
{
    client_prepare(client, serving, mode);
    client_run(client);
}

void client_join(struct client *client)
{
    pthread_join(client->thread, NULL);
    vd_stream_close(&client->stream);
    if (client->fd >= 0)
        close(client->fd);
}

void client_write_all(struct client *client, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    while (length) {
        ssize_t put = send(client->fd, at, length, MSG_NOSIGNAL);
        assert_true(put > 0);
        at += put;
        length -= (size_t)put;
    }
}

void client_read_all(struct client *client, void *bytes, size_t length)
{
    uint8_t *at = bytes;
    while (length) {
        ssize_t got = recv(client->fd, at, length, 0);
        assert_true(got > 0);
        at += got;
        length -= (size_t)got;
    }
}

void client_send(struct client *client, uint64_t cookie, const struct ask *ask)
{
    uint16_t flags = ask->flags;
    if (client->session.has_extended) {
        if (ask->command == NBD_CMD_WRITE)
            flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
        struct vd_nbd_extended_request request = {
            .magic = be32_of(NBD_EXTENDED_REQUEST_MAGIC),
            .flags = be16_of(flags),
            .command = be16_of(ask->command),
            .cookie = be64_of(cookie),
            .offset = be64_of(ask->offset),
            .length = be64_of(ask->length),
        };
        client_write_all(client, &request, sizeof(request));
    } else {
        struct vd_nbd_request request = {
            .magic = be32_of(NBD_REQUEST_MAGIC),
            .flags = be16_of(flags),
            .command = be16_of(ask->command),
            .cookie = be64_of(cookie),
            .offset = be64_of(ask->offset),
            .length = be32_of((uint32_t)ask->length),
        };
        client_write_all(client, &request, sizeof(request));
    }
    if (ask->payload)
        client_write_all(client, ask->payload, (size_t)ask->length);
}

/* A simple reply behind its magic. */
static void receive_simple(struct client *client, uint64_t *cookie, uint32_t *error)
{
    struct vd_nbd_simple_reply reply;
    client_read_all(client, (uint8_t *)&reply + sizeof(reply.magic),
                    sizeof(reply) - sizeof(reply.magic));
    *cookie = be64_get(reply.cookie);
    *error = be32_get(reply.error);
}

struct chunk {
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint64_t length;
};

static struct chunk receive_chunk(struct client *client)
{
    struct vd_nbd_chunk head;
    struct vd_nbd_extended_chunk extended;
    if (client->session.has_extended) {
        client_read_all(client, (uint8_t *)&extended + 4, sizeof(extended) - 4);
        return (struct chunk){.flags = be16_get(extended.flags),
                              .type = be16_get(extended.type),
                              .cookie = be64_get(extended.cookie),
                              .offset = be64_get(extended.offset),
                              .length = be64_get(extended.length)};
    }
    client_read_all(client, (uint8_t *)&head + 4, sizeof(head) - 4);
    return (struct chunk){.flags = be16_get(head.flags),
                          .type = be16_get(head.type),
                          .cookie = be64_get(head.cookie),
                          .length = be32_get(head.length)};
}

static void receive_error(struct client *client, const struct chunk *chunk, struct answer *answer)
{
    struct vd_nbd_error error;
    client_read_all(client, &error, sizeof(error));
    size_t length = be16_get(error.message_length);
    assert_true(length < sizeof(answer->message));
    assert_int_equal(chunk->length, sizeof(error) + length);
    client_read_all(client, answer->message, length);
    answer->message[length] = '\0';
    answer->error = be32_get(error.error);
    assert_int_not_equal(answer->error, 0);
}

static void receive_status(struct client *client, const struct chunk *chunk, struct answer *answer)
{
    struct be32 id;
    bool extended = client->session.has_extended;
    client_read_all(client, &id, sizeof(id));
    uint64_t entries = (chunk->length - 4) / 8;
    if (extended) {
        struct be32 count;
        client_read_all(client, &count, sizeof(count));
        entries = be32_get(count);
        assert_int_equal(chunk->length, 8 + entries * 16);
    }
    assert_true(answer->status_chunks < 4 && entries <= 64);
    answer->status[answer->status_chunks].context = be32_get(id);
    answer->status[answer->status_chunks].entries = (size_t)entries;
    for (size_t i = 0; i < entries; i++) {
        struct vd_context_extent *to = &answer->status[answer->status_chunks].extents[i];
        if (extended) {
            struct vd_nbd_extended_extent extent;
            client_read_all(client, &extent, sizeof(extent));
            *to = (struct vd_context_extent){be64_get(extent.length), be64_get(extent.flags)};
        } else {
            struct vd_nbd_extent extent;
            client_read_all(client, &extent, sizeof(extent));
            *to = (struct vd_context_extent){be32_get(extent.length), be32_get(extent.flags)};
        }
    }
    answer->status_chunks++;
}

/* What a chunk says of the bytes asked for; each is said once. */
static uint64_t receive_content(struct client *client, const struct chunk *chunk,
                                const struct ask *ask, uint8_t *data, struct answer *answer)
{
    struct be64 offset;
    client_read_all(client, &offset, sizeof(offset));
    uint64_t at = be64_get(offset);
    uint64_t length = chunk->length - 8;
    if (chunk->type == NBD_REPLY_TYPE_OFFSET_HOLE) {
        struct be32 hole;
        client_read_all(client, &hole, sizeof(hole));
        assert_int_equal(chunk->length, 12);
        length = be32_get(hole);
    }
    assert_true(length > 0 && at >= ask->offset &&
                vd_range_is_within(vd_range(at - ask->offset, length), ask->length));
    if (chunk->type == NBD_REPLY_TYPE_OFFSET_HOLE) {
        memset(data + (at - ask->offset), 0, (size_t)length);
        answer->hole_chunks++;
    } else {
        client_read_all(client, data + (at - ask->offset), (size_t)length);
        answer->data_chunks++;
    }
    return length;
}

static void receive_chunks(struct client *client, uint64_t cookie, const struct ask *ask,
                           uint8_t *data, struct answer *answer, uint32_t magic)
{
    uint64_t covered = 0;
    for (;;) {
        assert_int_equal(magic,
                         client->session.has_extended ? NBD_EXTENDED_CHUNK_MAGIC : NBD_CHUNK_MAGIC);
        struct chunk chunk = receive_chunk(client);
        assert_int_equal(chunk.cookie, cookie);
        if (client->session.has_extended)
            assert_int_equal(chunk.offset, ask->offset);
        if (chunk.type == NBD_REPLY_TYPE_NONE)
            assert_true(chunk.length == 0 && (chunk.flags & NBD_REPLY_FLAG_DONE));
        else if (chunk.type == NBD_REPLY_TYPE_ERROR)
            receive_error(client, &chunk, answer);
        else if (chunk.type == NBD_REPLY_TYPE_OFFSET_DATA ||
                 chunk.type == NBD_REPLY_TYPE_OFFSET_HOLE)
            covered += receive_content(client, &chunk, ask, data, answer);
        else if (chunk.type == (client->session.has_extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT
                                                             : NBD_REPLY_TYPE_BLOCK_STATUS))
            receive_status(client, &chunk, answer);
        else
            fail_msg("chunk of type %u", chunk.type);
        if (chunk.flags & NBD_REPLY_FLAG_DONE)
            break;
        struct be32 next;
        client_read_all(client, &next, sizeof(next));
        magic = be32_get(next);
    }
    if (ask->command == NBD_CMD_READ && !answer->error)
        assert_int_equal(covered, ask->length);
}

void client_receive(struct client *client, uint64_t cookie, const struct ask *ask, void *data,
                    struct answer *answer)
{
    struct be32 magic;
    *answer = (struct answer){0};
    client_read_all(client, &magic, sizeof(magic));
    if (be32_get(magic) != NBD_SIMPLE_REPLY_MAGIC) {
        assert_true(client->session.has_structured);
        receive_chunks(client, cookie, ask, data, answer, be32_get(magic));
        return;
    }
    assert_false(client->session.has_extended);
    assert_false(client->session.has_structured && ask->command == NBD_CMD_READ);
    uint64_t got;
    receive_simple(client, &got, &answer->error);
    assert_int_equal(got, cookie);
    if (ask->command == NBD_CMD_READ && !answer->error)
        client_read_all(client, data, (size_t)ask->length);
}

uint32_t client_ask(struct client *client, const struct ask *ask, void *data)
{
    static atomic_ullong cookies;
    uint64_t cookie = atomic_fetch_add(&cookies, 0x0123456789abcdef);
    struct answer answer;
    client_send(client, cookie, ask);
    client_receive(client, cookie, ask, data, &answer);
    return answer.error;
}

uint64_t client_receive_any(struct client *client, uint32_t *error)
{
    struct be32 magic;
    uint64_t cookie;
    client_read_all(client, &magic, sizeof(magic));
    if (be32_get(magic) == NBD_SIMPLE_REPLY_MAGIC) {
        receive_simple(client, &cookie, error);
        return cookie;
    }
    *error = 0;
    for (;;) {
        struct chunk chunk = receive_chunk(client);
        CLEANUP_FREE uint8_t *payload = malloc((size_t)chunk.length + 1);
        assert_non_null(payload);
        client_read_all(client, payload, (size_t)chunk.length);
        if (chunk.type & 0x8000)
            memcpy(error, payload, sizeof(*error));
        if (chunk.flags & NBD_REPLY_FLAG_DONE)
            return chunk.cookie;
        client_read_all(client, &magic, sizeof(magic));
    }
}

void client_disconnect(struct client *client)
{
    const struct ask disc = {.command = NBD_CMD_DISC};
    client_send(client, 0, &disc);
    char byte;
    assert_int_equal(recv(client->fd, &byte, 1, 0), 0);
    client_join(client);
    if (client->ret < 0)
        fail_msg("%s", client->err.message);
}
