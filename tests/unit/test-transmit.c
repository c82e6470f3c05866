/* SPDX-License-Identifier: MIT */
/* Requests and replies, in all the forms that clients may agree on. */
#include "drivers/serving.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "drivers/random.h"
#include "nbdproto/nbdproto.h"

#define KIB  1024u
#define MIB  (1024u * KIB)
#define DISK (8 * MIB)

static const enum client_mode modes[] = {CLIENT_SIMPLE, CLIENT_STRUCTURED, CLIENT_EXTENDED};
#define FOR_MODES(mode) for (size_t mode_i = 0; mode_i < 3 && ((mode) = modes[mode_i], 1); mode_i++)

static uint8_t model[DISK];
static uint8_t bytes[DISK];

static uint32_t ask(struct client *client, uint16_t command, uint16_t flags, uint64_t offset,
                    uint64_t length)
{
    const struct ask it = {.command = command,
                           .flags = flags,
                           .offset = offset,
                           .length = length,
                           .payload = command == NBD_CMD_WRITE ? bytes : NULL};
    return client_ask(client, &it, bytes);
}

static void fill(uint8_t *to, size_t length, unsigned *seed)
{
    struct vt_random random = {.state = (unsigned)rand_r(seed)};
    vt_random_fill(&random, to, length);
}

static void expect_model(struct client *client, uint64_t offset, size_t length)
{
    memset(bytes, 0xee, length);
    assert_int_equal(ask(client, NBD_CMD_READ, 0, offset, length), 0);
    assert_memory_equal(bytes, model + offset, length);
}

/* Random requests, one after the other, beside a plain array: at once, and by workers. */
static void a_disk_is_a_disk(void **state)
{
    (void)state;
    static const char *const formats[] = {"raw", "gow3", "qed", "qcow2"};
    enum client_mode mode;
    unsigned seed = 4711;
    for (size_t f = 0; f < 8; f++)
        FOR_MODES(mode)
        {
            struct serving serving;
            struct client client;
            if (f < 4)
                serving_start(&serving, formats[f], DISK);
            else
                serving_start_slow(&serving, formats[f - 4], DISK);
            client_start(&client, &serving, mode);
            memset(model, 0, sizeof(model));
            for (unsigned round = 0; round < VT_ROUNDS(150); round++) {
                size_t length = 1 + (size_t)rand_r(&seed) % (rand_r(&seed) % 8 ? 9000 : 400 * KIB);
                uint64_t offset = (uint64_t)rand_r(&seed) % (DISK - length);
                uint16_t fua = (uint16_t)(rand_r(&seed) % 4 ? 0 : NBD_CMD_FLAG_FUA);
                uint16_t keep = (uint16_t)(rand_r(&seed) % 2 ? 0 : NBD_CMD_FLAG_NO_HOLE);
                switch (rand_r(&seed) % 6) {
                case 0:
                case 1:
                    fill(bytes, length, &seed);
                    memcpy(model + offset, bytes, length);
                    assert_int_equal(ask(&client, NBD_CMD_WRITE, fua, offset, length), 0);
                    break;
                case 2:
                    memset(model + offset, 0, length);
                    assert_int_equal(ask(&client, NBD_CMD_WRITE_ZEROES, fua | keep, offset, length),
                                     0);
                    break;
                case 3:
                    assert_int_equal(ask(&client, NBD_CMD_FLUSH, 0, 0, 0), 0);
                    assert_int_equal(ask(&client, NBD_CMD_CACHE, 0, offset, length), 0);
                    break;
                default:
                    expect_model(&client, offset, length);
                }
            }
            expect_model(&client, 0, DISK);
            client_disconnect(&client);
            serving_stop(&serving);
        }
}

/* Depending on what was agreed on. */
static void what_is_not_allowed_is_refused(void **state)
{
    (void)state;
    enum client_mode mode;
    FOR_MODES(mode)
    {
        struct serving serving;
        struct client client;
        serving_start(&serving, "raw", DISK);
        client_start(&client, &serving, mode);
        bool structured = mode != CLIENT_SIMPLE;
        uint64_t far = UINT64_MAX - 10;
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, DISK - 1, 2), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, far, 100), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, DISK - 1, 2), NBD_ENOSPC);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, far, 100), NBD_ENOSPC);
        assert_int_equal(ask(&client, NBD_CMD_WRITE_ZEROES, 0, DISK, 1), NBD_ENOSPC);
        assert_int_equal(ask(&client, NBD_CMD_TRIM, 0, DISK, 1), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_CACHE, 0, DISK, 1), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_FLUSH, 0, 0, 1), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_FLUSH, 0, 1, 0), NBD_EINVAL);
        assert_int_equal(ask(&client, 8, 0, 0, 1), NBD_EINVAL);
        assert_int_equal(ask(&client, 0xffff, 0, 0, 1), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_BLOCK_STATUS, 0, 0, 0), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_BLOCK_STATUS, 0, DISK, 1), NBD_EINVAL);
        /* Flags of other commands, and unknown ones; a payload is consumed all the same. */
        assert_int_equal(ask(&client, NBD_CMD_READ, NBD_CMD_FLAG_NO_HOLE, 0, 1), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, NBD_CMD_FLAG_DF, 0, 70000), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, 1u << 9, 0, 700000), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_TRIM, NBD_CMD_FLAG_FAST_ZERO, 0, 1), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 1),
                         structured ? 0 : NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_READ, NBD_CMD_FLAG_FUA, 0, 1), 0);
        if (mode == CLIENT_SIMPLE)
            assert_int_equal(ask(&client, NBD_CMD_BLOCK_STATUS, 0, 0, 1), NBD_EINVAL);
        /* Nothing at all is fine, and the session goes on. */
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, DISK, 0), 0);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, 0, 0), 0);
        assert_int_equal(ask(&client, NBD_CMD_TRIM, 0, 0, 0), 0);
        assert_int_equal(ask(&client, NBD_CMD_WRITE_ZEROES, 0, 0, 0), 0);
        client_disconnect(&client);
        serving_stop(&serving);
    }
}

static void what_was_not_offered_is_refused(void **state)
{
    (void)state;
    struct serving serving;
    struct client client;
    serving_start(&serving, "raw", DISK);
    client_prepare(&client, &serving, CLIENT_SIMPLE);
    client.session.flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY;
    client_run(&client);
    assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, 0, 512), NBD_EPERM);
    assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, DISK, 512), NBD_EPERM);
    assert_int_equal(ask(&client, NBD_CMD_TRIM, 0, 0, 512), NBD_EPERM);
    assert_int_equal(ask(&client, NBD_CMD_WRITE_ZEROES, 0, 0, 512), NBD_EPERM);
    assert_int_equal(ask(&client, NBD_CMD_FLUSH, 0, 0, 0), NBD_EINVAL);
    assert_int_equal(ask(&client, NBD_CMD_CACHE, 0, 0, 512), NBD_EINVAL);
    assert_int_equal(ask(&client, NBD_CMD_READ, NBD_CMD_FLAG_FUA, 0, 512), NBD_EINVAL);
    assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, 512), 0);
    client_disconnect(&client);
    serving_stop(&serving);
}

static void the_limits_of_payloads(void **state)
{
    (void)state;
    enum client_mode mode;
    FOR_MODES(mode)
    {
        struct serving serving;
        struct client client;
        serving_start(&serving, "raw", DISK);
        client_prepare(&client, &serving, mode);
        client.session.payload_max = MIB;
        client_run(&client);
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, MIB), 0);
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, MIB + 1),
                         mode == CLIENT_SIMPLE ? NBD_EINVAL : NBD_EOVERFLOW);
        memset(bytes, 7, 2 * MIB);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, 0, MIB), 0);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, MIB, MIB + 1), NBD_EINVAL);
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, MIB, 512), 0);
        assert_int_equal(bytes[0], 0);
        assert_int_equal(ask(&client, NBD_CMD_TRIM, 0, 0, DISK), 0);
        assert_int_equal(ask(&client, NBD_CMD_CACHE, 0, 0, DISK), 0);
        assert_int_equal(ask(&client, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0, DISK), 0);
        client_disconnect(&client);
        serving_stop(&serving);
    }
}

static void zeros_are_not_sent(void **state)
{
    (void)state;
    for (size_t i = 1; i < 3; i++) {
        struct serving serving;
        struct client client;
        struct answer answer;
        struct ask read = {.command = NBD_CMD_READ, .length = DISK};
        serving_start(&serving, "gow3", DISK);
        client_start(&client, &serving, modes[i]);
        client_send(&client, 1, &read);
        client_receive(&client, 1, &read, bytes, &answer);
        assert_int_equal(answer.hole_chunks, 1);
        assert_int_equal(answer.data_chunks, 0);

        memset(model, 0, sizeof(model));
        unsigned seed = 1;
        /* More runs than a reply has chunks. */
        for (uint64_t at = 64 * KIB; at < DISK; at += 128 * KIB) {
            fill(bytes, 64 * KIB, &seed);
            memcpy(model + at, bytes, 64 * KIB);
            assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, at, 64 * KIB), 0);
        }
        client_send(&client, 2, &read);
        client_receive(&client, 2, &read, bytes, &answer);
        assert_memory_equal(bytes, model, DISK);
        assert_true(answer.hole_chunks > 1 && answer.data_chunks > 1);

        read.flags = NBD_CMD_FLAG_DF;
        memset(bytes, 1, DISK);
        client_send(&client, 3, &read);
        client_receive(&client, 3, &read, bytes, &answer);
        assert_memory_equal(bytes, model, DISK);
        assert_int_equal(answer.hole_chunks + answer.data_chunks, 1);
        client_disconnect(&client);
        serving_stop(&serving);
    }
}

static void fast_zeroes_are_fast(void **state)
{
    (void)state;
    static const char *const formats[] = {"raw", "gow3", "qed", "qcow2"};
    for (size_t f = 0; f < 4; f++) {
        struct serving serving;
        struct client client;
        serving_start(&serving, formats[f], DISK);
        client_start(&client, &serving, CLIENT_SIMPLE);
        memset(bytes, 1, MIB);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, 0, MIB), 0);
        /* Space that must be there can not be promised so fast; nothing is changed. */
        uint16_t fast = NBD_CMD_FLAG_FAST_ZERO;
        assert_int_equal(
            ask(&client, NBD_CMD_WRITE_ZEROES, fast | NBD_CMD_FLAG_NO_HOLE, 0, 512 * KIB),
            NBD_ENOTSUP);
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, 1), 0);
        assert_int_equal(bytes[0], 1);
        assert_int_equal(ask(&client, NBD_CMD_WRITE_ZEROES, fast, 0, 512 * KIB), 0);
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, MIB), 0);
        for (size_t i = 0; i < MIB; i++)
            assert_int_equal(bytes[i], i >= 512 * KIB);
        client_disconnect(&client);
        serving_stop(&serving);
    }
}

static void block_status(void **state)
{
    (void)state;
    for (size_t i = 1; i < 3; i++) {
        struct serving serving;
        struct client client;
        struct answer answer;
        serving_start(&serving, "gow3", DISK);
        client_start(&client, &serving, modes[i]);
        memset(bytes, 1, MIB);
        assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, MIB, MIB), 0);
        struct ask status = {.command = NBD_CMD_BLOCK_STATUS, .length = DISK};
        client_send(&client, 9, &status);
        client_receive(&client, 9, &status, NULL, &answer);
        assert_int_equal(answer.error, 0);
        assert_int_equal(answer.status_chunks, client.session.context_entries);
        for (uint32_t c = 0; c < answer.status_chunks; c++)
            assert_int_equal(answer.status[c].context, c + 1);
        assert_int_equal(answer.status[0].entries, 3);
        assert_int_equal(answer.status[0].extents[0].length, MIB);
        assert_int_equal(answer.status[0].extents[0].flags, NBD_STATE_HOLE | NBD_STATE_ZERO);
        assert_int_equal(answer.status[0].extents[1].length, MIB);
        assert_int_equal(answer.status[0].extents[1].flags, 0);
        assert_int_equal(answer.status[0].extents[2].length, DISK - 2 * MIB);

        status.flags = NBD_CMD_FLAG_REQ_ONE;
        status.length = 64 * KIB;
        client_send(&client, 10, &status);
        client_receive(&client, 10, &status, NULL, &answer);
        for (uint32_t c = 0; c < answer.status_chunks; c++) {
            assert_int_equal(answer.status[c].entries, 1);
            assert_true(answer.status[c].extents[0].length <= 64 * KIB);
        }
        client_disconnect(&client);
        serving_stop(&serving);
    }
}

/* What the payload of BLOCK_STATUS may be, and what it may not. */
static void a_filter_of_contexts(void **state)
{
    (void)state;
    struct filter {
        struct be64 length;
        struct be32 ids[80];
    } filter;
    static const struct {
        uint32_t bytes;
        uint32_t ids[2];
        uint32_t error;
    } cases[] = {
        {12, {2}, 0},          {16, {2, 1}, 0},          {12, {0}, NBD_EINVAL},
        {12, {3}, NBD_EINVAL}, {16, {1, 1}, NBD_EINVAL}, {8, {0}, NBD_EINVAL},
        {7, {0}, NBD_EINVAL},  {13, {1}, NBD_EINVAL},    {8 + 65 * 4, {1, 2}, NBD_EINVAL},
    };
    struct serving serving;
    struct client client;
    serving_start(&serving, "gow3", DISK);
    client_start(&client, &serving, CLIENT_EXTENDED);
    assert_int_equal(client.session.context_entries, 2);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct answer answer;
        memset(&filter, 0, sizeof(filter));
        filter.length = be64_of(DISK);
        filter.ids[0] = be32_of(cases[i].ids[0]);
        filter.ids[1] = be32_of(cases[i].ids[1]);
        const struct ask status = {.command = NBD_CMD_BLOCK_STATUS,
                                   .flags = NBD_CMD_FLAG_PAYLOAD_LEN,
                                   .length = cases[i].bytes,
                                   .payload = &filter};
        client_send(&client, i, &status);
        client_receive(&client, i, &status, NULL, &answer);
        assert_int_equal(answer.error, cases[i].error);
        if (!answer.error)
            assert_int_equal(answer.status_chunks, (cases[i].bytes - 8) / 4);
        if (i == 0)
            assert_int_equal(answer.status[0].context, 2);
    }
    /* Other commands have no payload, but it is consumed. */
    const struct ask trim = {.command = NBD_CMD_TRIM,
                             .flags = NBD_CMD_FLAG_PAYLOAD_LEN,
                             .length = 300 * KIB,
                             .payload = bytes};
    assert_int_equal(client_ask(&client, &trim, NULL), NBD_EINVAL);
    assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, 1), 0);
    client_disconnect(&client);
    serving_stop(&serving);
}

/* Many at once: each is answered once, whatever the order. */
static void every_request_is_answered_once(void **state)
{
    (void)state;
    enum {
        MANY = 2000
    };
    enum client_mode mode;
    FOR_MODES(mode)
    {
        struct serving serving;
        struct client client;
        static bool seen[MANY];
        if (mode == CLIENT_STRUCTURED)
            serving_start(&serving, "qcow2", DISK);
        else
            serving_start_slow(&serving, "qcow2", DISK);
        client_start(&client, &serving, mode);
        memset(seen, 0, sizeof(seen));
        for (unsigned i = 0; i < MANY; i++) {
            const struct ask it = {.command = i % 7 == 0   ? NBD_CMD_FLUSH
                                              : i % 7 == 1 ? NBD_CMD_TRIM
                                              : i % 7 == 2 ? 77
                                                           : NBD_CMD_WRITE,
                                   .offset = i % 7 ? (uint64_t)(i % 100) * 4 * KIB : 0,
                                   .length = i % 7 ? 100 + i : 0,
                                   .payload = i % 7 > 2 ? bytes : NULL};
            client_send(&client, i, &it);
        }
        for (unsigned i = 0; i < MANY; i++) {
            uint32_t error;
            uint64_t cookie = client_receive_any(&client, &error);
            assert_true(cookie < MANY && !seen[cookie]);
            assert_true((error != 0) == (cookie % 7 == 2));
            seen[cookie] = true;
        }
        client_disconnect(&client);
        uint64_t count = 0;
        for (unsigned k = 0; k < VDISK_REQUEST_KINDS; k++)
            count += atomic_load(&serving.export.counters.requests[k].requests);
        assert_int_equal(count, MANY - (MANY + 4) / 7); /* unknown commands are of no kind */
        serving_stop(&serving);
    }
}

static void what_is_no_request_ends_it(void **state)
{
    (void)state;
    enum client_mode mode;
    FOR_MODES(mode)
    {
        struct serving serving;
        serving_start(&serving, "raw", DISK);
        for (unsigned at = 0; at < 4; at++) {
            struct client client;
            client_start(&client, &serving, mode);
            uint8_t request[32];
            struct be32 magic =
                be32_of(mode == CLIENT_EXTENDED ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
            memset(request, 0, sizeof(request));
            memcpy(request, &magic, sizeof(magic));
            request[at] ^= 0x10;
            assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, 4 * KIB), 0);
            client_write_all(&client, request, sizeof(request));
            client_join(&client);
            assert_int_equal(client.ret, -EPROTO);
            assert_non_null(strstr(client.err.message, "request begins with"));
        }
        serving_stop(&serving);
    }
}

/* It leaves after every byte of a session: no crash, no leak, nothing half done beyond the write.
 */
static void a_client_that_vanishes(void **state)
{
    (void)state;
    enum client_mode mode;
    FOR_MODES(mode)
    {
        size_t header = mode == CLIENT_EXTENDED ? 32 : 28;
        struct serving serving;
        serving_start(&serving, "raw", DISK);
        for (size_t cut = 0; cut <= 2 * header + 100; cut++) {
            struct client client;
            client_start(&client, &serving, mode);
            int real = client.fd;
            int pair[2];
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
            client.fd = pair[0]; /* to get the bytes of the requests */
            memset(bytes, 0x5a, 100);
            const struct ask read = {.command = NBD_CMD_READ, .length = 4 * KIB};
            const struct ask write = {
                .command = NBD_CMD_WRITE, .offset = 8192, .length = 100, .payload = bytes};
            client_send(&client, 1, &read);
            client_send(&client, 2, &write);
            uint8_t all[256];
            assert_int_equal(recv(pair[1], all, sizeof(all), 0), 2 * header + 100);
            close(pair[0]);
            close(pair[1]);
            client.fd = real;
            client_write_all(&client, all, cut);
            close(client.fd);
            client.fd = -1;
            client_join(&client);
            if (cut && cut != header && cut != 2 * header + 100)
                assert_int_equal(client.ret, -ECONNRESET);
            uint8_t there[102];
            VT_OK(vdisk_image_pread(serving.image, there, sizeof(there), 8191, &vt_err));
            assert_int_equal(there[0], 0);
            assert_int_equal(there[101], 0);
            for (size_t i = 1; i <= 100; i++)
                assert_int_equal(there[i], cut == 2 * header + 100 ? 0x5a : 0);
        }
        serving_stop(&serving);
    }
}

/* Requests without end from a client that takes no replies: the server stops receiving. */
static void a_client_that_never_reads(void **state)
{
    (void)state;
    struct serving serving;
    struct client client;
    struct client other;
    serving_start(&serving, "raw", DISK);
    serving.memory_bytes = 34u << 20;
    client_start(&client, &serving, CLIENT_SIMPLE);
    client_start(&other, &serving, CLIENT_SIMPLE);
    struct vd_nbd_request request = {
        .magic = be32_of(NBD_REQUEST_MAGIC),
        .command = be16_of(NBD_CMD_READ),
        .length = be32_of(MIB),
    };
    size_t sent = 0;
    for (unsigned quiet = 0; quiet < 20;) {
        ssize_t put = send(client.fd, &request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL);
        assert_true(put == sizeof(request) || (put < 0 && errno == EAGAIN));
        if (put > 0) {
            sent++;
            quiet = 0;
        } else {
            quiet++;
            usleep(5000);
        }
    }
    /* It has done no more than fits its memory, and others are served. */
    uint64_t done = atomic_load(&serving.export.counters.requests[VDISK_REQUEST_READ].requests);
    assert_true(done < 40 && done < sent);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(ask(&other, NBD_CMD_READ, 0, i * 4 * KIB, 4 * KIB), 0);
    client_disconnect(&other);
    /* Then it reads after all, and gets everything. */
    for (size_t i = 0; i < sent; i++) {
        struct vd_nbd_simple_reply reply;
        client_read_all(&client, &reply, sizeof(reply));
        assert_int_equal(be32_get(reply.magic), NBD_SIMPLE_REPLY_MAGIC);
        client_read_all(&client, bytes, MIB);
    }
    client_disconnect(&client);
    serving_stop(&serving);
}

/* It takes its replies only when it has sent all it wants: more than is read ahead for others. */
static void a_client_that_sends_first_and_reads_later(void **state)
{
    (void)state;
    enum {
        READS = 60
    };
    struct serving serving;
    struct client client;
    struct answer answer;
    serving_start(&serving, "raw", DISK);
    client_start(&client, &serving, CLIENT_SIMPLE);
    const struct ask read = {.command = NBD_CMD_READ, .length = 128 * KIB};
    const struct ask write = {
        .command = NBD_CMD_WRITE, .offset = MIB, .length = 4 * MIB, .payload = model};
    for (unsigned i = 0; i < READS; i++)
        client_send(&client, i, &read);
    client_send(&client, READS, &write);
    for (unsigned i = 0; i < READS; i++)
        client_receive(&client, i, &read, bytes, &answer);
    client_receive(&client, READS, &write, NULL, &answer);
    assert_int_equal(answer.error, 0);
    client_disconnect(&client);
    serving_stop(&serving);
}

static void a_client_that_stalls_or_idles_is_dropped(void **state)
{
    (void)state;
    struct serving serving;
    struct client client;
    serving_start(&serving, "raw", DISK);
    serving.stall_ms = 50;
    client_start(&client, &serving, CLIENT_SIMPLE);
    const struct ask read = {.command = NBD_CMD_READ, .length = DISK};
    client_send(&client, 1, &read);
    client_join(&client);
    assert_int_equal(client.ret, -ETIMEDOUT);

    serving.stall_ms = 0;
    serving.idle_ms = 50;
    client_start(&client, &serving, CLIENT_SIMPLE);
    assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, 512), 0);
    client_join(&client);
    assert_int_equal(client.ret, -ETIMEDOUT);
    serving_stop(&serving);
}

/* What a disk can not do is the answer to the request that met it; the rest goes on. */
static void errors_of_disks_are_answers(void **state)
{
    (void)state;
    static const struct {
        enum vt_call call;
        uint16_t command;
        uint16_t flags;
        int error;
        uint32_t answer;
    } cases[] = {
        {VT_READ, NBD_CMD_READ, 0, EIO, NBD_EIO},
        {VT_READ, NBD_CMD_READ, 0, EOVERFLOW, NBD_EIO},
        {VT_READ, NBD_CMD_CACHE, 0, ENOTSUP, NBD_EINVAL},
        {VT_WRITE, NBD_CMD_WRITE, 0, ENOSPC, NBD_ENOSPC},
        {VT_WRITE, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, EDQUOT, NBD_ENOSPC},
    };
    enum client_mode mode;
    FOR_MODES(mode)
    {
        struct serving serving;
        struct client client;
        serving_start_slow(&serving, "raw", DISK);
        client_start(&client, &serving, mode);
        memset(bytes, 0x77, 8 * KIB);
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            struct answer answer;
            const struct ask it = {.command = cases[i].command,
                                   .flags = cases[i].flags,
                                   .offset = 64 * KIB,
                                   .length = 8 * KIB,
                                   .payload = cases[i].command == NBD_CMD_WRITE ? bytes : NULL};
            vt_fault_set(serving.faults, (struct vt_fault_plan){.calls = VT_CALL_BIT(cases[i].call),
                                                                .nth = 1,
                                                                .error = cases[i].error});
            client_send(&client, i, &it);
            client_receive(&client, i, &it, bytes, &answer);
            assert_int_equal(answer.error, cases[i].answer);
            if (mode != CLIENT_SIMPLE) {
                assert_non_null(strstr(answer.message, "of 8192 bytes at offset 65536: "));
                assert_null(strstr(answer.message, "mem")); /* no names of files */
            }
            assert_int_equal(client_ask(&client, &it, bytes), 0);
        }
        /* After a flush that failed nothing is durable any more, and nobody is told otherwise. */
        vt_fault_set(serving.faults,
                     (struct vt_fault_plan){
                         .calls = VT_CALL_BIT(VT_FLUSH), .nth = 1, .error = EIO, .forever = true});
        assert_int_equal(ask(&client, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 512), NBD_EIO);
        assert_int_equal(ask(&client, NBD_CMD_FLUSH, 0, 0, 0), NBD_EIO);
        assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, 512), 0);
        client_disconnect(&client);
        vd_pool_free(serving.pool);
        vd_contexts_free(&serving.export.contexts);
        VT_FAILS(EIO, vdisk_image_close(serving.image, &vt_err));
    }
}

/* One by one, so often that the thread of the connection tries to spin, and is cut while it may. */
static void requests_one_by_one(void **state)
{
    (void)state;
    enum {
        ROUNDS = 3000
    };
    enum client_mode mode;
    unsigned seed = 815;
    FOR_MODES(mode)
    {
        struct serving serving;
        struct client client;
        serving_start(&serving, "raw", DISK);
        client_start(&client, &serving, mode);
        memset(model, 0, sizeof(model));
        for (unsigned round = 0; round < ROUNDS; round += 2) {
            uint64_t offset = (uint64_t)rand_r(&seed) % (DISK - 4 * KIB);
            fill(bytes, 4 * KIB, &seed);
            memcpy(model + offset, bytes, 4 * KIB);
            assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, offset, 4 * KIB), 0);
            expect_model(&client, offset, 4 * KIB);
        }
        if (mode == CLIENT_SIMPLE) {
            client_disconnect(&client);
        } else {
            vd_stream_end_receiving(&client.stream);
            client_join(&client);
            assert_int_equal(client.ret, 0);
        }
        assert_int_equal(atomic_load(&serving.spinners.spinning), 0);
        assert_int_equal(atomic_load(&serving.spinners.requests), ROUNDS);
        serving_stop(&serving);
    }
}

static void what_goes_is_refused(void **state)
{
    (void)state;
    struct serving serving;
    struct client client;
    serving_start(&serving, "raw", DISK);
    client_start(&client, &serving, CLIENT_STRUCTURED);
    assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, 0, 512), 0);
    atomic_store(&serving.export.is_removed, true);
    assert_int_equal(ask(&client, NBD_CMD_WRITE, 0, 0, 512), NBD_ESHUTDOWN);
    assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, 512), NBD_ESHUTDOWN);
    atomic_store(&serving.export.is_removed, false);
    assert_int_equal(ask(&client, NBD_CMD_READ, 0, 0, 512), 0);
    atomic_store(&serving.is_stopping, true);
    assert_int_equal(ask(&client, NBD_CMD_FLUSH, 0, 0, 0), NBD_ESHUTDOWN);
    vd_stream_cut(&client.stream);
    client_join(&client);
    assert_int_equal(client.ret, 0);
    serving_stop(&serving);
}

/* Cut while much is under way: it ends, and workers have let go. */
static void a_cut_in_the_middle(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        struct serving serving;
        struct client client;
        serving_start(&serving, "qcow2", DISK);
        client_start(&client, &serving, CLIENT_SIMPLE);
        for (unsigned i = 0; i < 5 * round; i++) {
            const struct ask it = {.command = i % 3 ? NBD_CMD_READ : NBD_CMD_WRITE,
                                   .offset = i * 64 * KIB,
                                   .length = 4 * KIB,
                                   .payload = i % 3 ? NULL : bytes};
            client_send(&client, i, &it);
        }
        vd_stream_cut(&client.stream);
        client_join(&client);
        serving_stop(&serving);
    }
}

/* A client with a part of the disk of its own. */
struct tenant {
    struct serving *serving;
    unsigned index;
    enum client_mode mode;
    pthread_t thread;
};

#define TENANTS      4u
#define TENANT_BYTES (DISK / TENANTS)

static void *live(void *opaque)
{
    const struct tenant *tenant = opaque;
    struct client client;
    client_start(&client, tenant->serving, tenant->mode);
    uint8_t *mine = calloc(1, TENANT_BYTES);
    uint8_t *got = malloc(TENANT_BYTES);
    unsigned seed = tenant->index + 1;
    uint64_t base = (uint64_t)tenant->index * TENANT_BYTES;
    for (unsigned round = 0; round < VT_ROUNDS(300); round++) {
        enum {
            DEPTH = 8
        };
        struct ask asks[DEPTH];
        size_t piece = TENANT_BYTES / DEPTH;
        for (unsigned i = 0; i < DEPTH; i++) {
            size_t length = 1 + (size_t)rand_r(&seed) % (64 * KIB);
            size_t at = i * piece + (size_t)rand_r(&seed) % (piece - length);
            static const uint16_t commands[] = {NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_WRITE,
                                                NBD_CMD_WRITE_ZEROES};
            asks[i] = (struct ask){
                .command = commands[rand_r(&seed) % 4], .offset = base + at, .length = length};
            if (asks[i].command == NBD_CMD_WRITE) {
                fill(mine + at, length, &seed);
                asks[i].payload = mine + at;
            } else if (asks[i].command == NBD_CMD_WRITE_ZEROES) {
                memset(mine + at, 0, length);
            }
            /* One after the other: which reply comes first is not known. */
            assert_int_equal(client_ask(&client, &asks[i], got), 0);
            if (asks[i].command == NBD_CMD_READ)
                assert_memory_equal(got, mine + at, length);
        }
    }
    const struct ask all = {.command = NBD_CMD_READ, .offset = base, .length = TENANT_BYTES};
    assert_int_equal(client_ask(&client, &all, got), 0);
    assert_memory_equal(got, mine, TENANT_BYTES);
    free(mine);
    free(got);
    client_disconnect(&client);
    return NULL;
}

static void four_clients_at_once(void **state)
{
    (void)state;
    static const char *const formats[] = {"raw", "gow3", "qcow2"};
    for (size_t f = 0; f < 6; f++) {
        struct serving serving;
        struct tenant tenants[TENANTS];
        if (f < 3)
            serving_start(&serving, formats[f], DISK);
        else
            serving_start_slow(&serving, formats[f - 3], DISK);
        for (unsigned i = 0; i < TENANTS; i++) {
            tenants[i] = (struct tenant){.serving = &serving, .index = i, .mode = modes[i % 3]};
            assert_int_equal(pthread_create(&tenants[i].thread, NULL, live, &tenants[i]), 0);
        }
        for (unsigned i = 0; i < TENANTS; i++)
            pthread_join(tenants[i].thread, NULL);
        serving_stop(&serving);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk_is_a_disk),
        cmocka_unit_test(what_is_not_allowed_is_refused),
        cmocka_unit_test(what_was_not_offered_is_refused),
        cmocka_unit_test(the_limits_of_payloads),
        cmocka_unit_test(zeros_are_not_sent),
        cmocka_unit_test(fast_zeroes_are_fast),
        cmocka_unit_test(block_status),
        cmocka_unit_test(a_filter_of_contexts),
        cmocka_unit_test(every_request_is_answered_once),
        cmocka_unit_test(what_is_no_request_ends_it),
        cmocka_unit_test(a_client_that_vanishes),
        cmocka_unit_test(a_client_that_never_reads),
        cmocka_unit_test(a_client_that_sends_first_and_reads_later),
        cmocka_unit_test(a_client_that_stalls_or_idles_is_dropped),
        cmocka_unit_test(errors_of_disks_are_answers),
        cmocka_unit_test(requests_one_by_one),
        cmocka_unit_test(what_goes_is_refused),
        cmocka_unit_test(a_cut_in_the_middle),
        cmocka_unit_test(four_clients_at_once),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("transmit", tests, NULL, NULL);
}
