/* SPDX-License-Identifier: MIT */
/*
 * serve/transmit: clients that stop at every byte of their requests, or send every byte wrong.
 * Each connection ends, and nobody holds anything after it.
 */
#include "drivers/trace.h"
#include "handshake-fixture.h"
#include "serve/transmit.h"

static struct vd_pool *pool;

static int setup(void **state)
{
    struct fixture *fixture = malloc(sizeof(*fixture));
    assert_non_null(fixture);
    fixture_init(fixture);
    VT_OK(vd_pool_create(2, &pool, &vt_err));
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    vd_pool_free(pool);
    fixture_free(*state);
    free(*state);
    return 0;
}

/* ---- The client ---- */

enum mode {
    SIMPLE,
    STRUCTURED,
    EXTENDED
};

static void ask(struct script *script, enum mode mode, uint16_t command, uint16_t flags,
                uint64_t offset, uint64_t length)
{
    static const uint8_t payload[4096] = {1, 2, 3};
    if (mode == EXTENDED) {
        struct vd_nbd_extended_request request = {
            .magic = be32_of(NBD_EXTENDED_REQUEST_MAGIC),
            .flags = be16_of(command == NBD_CMD_WRITE ? flags | NBD_CMD_FLAG_PAYLOAD_LEN : flags),
            .command = be16_of(command),
            .cookie = be64_of(script->length),
            .offset = be64_of(offset),
            .length = be64_of(length),
        };
        script_raw(script, &request, sizeof(request));
    } else {
        struct vd_nbd_request request = {
            .magic = be32_of(NBD_REQUEST_MAGIC),
            .flags = be16_of(flags),
            .command = be16_of(command),
            .cookie = be64_of(script->length),
            .offset = be64_of(offset),
            .length = be32_of((uint32_t)length),
        };
        script_raw(script, &request, sizeof(request));
    }
    if (command == NBD_CMD_WRITE)
        script_raw(script, payload, length);
}

/* Chooses "disk", and metadata contexts if it can. */
static void negotiate(struct script *script, enum mode mode)
{
    static const char *const contexts[] = {"base:allocation", "qemu:allocation-depth", NULL};
    begin_script(script);
    if (mode != SIMPLE) {
        script_option(script,
                      mode == EXTENDED ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY, NULL);
        script_meta(script, NBD_OPT_SET_META_CONTEXT, "disk", contexts);
    }
    script_go(script, NBD_OPT_GO, "disk", NULL, 0);
}

/* BLOCK_STATUS for so many contexts by their ids, which go round. */
static void ask_filtered(struct script *script, uint32_t entries)
{
    uint64_t length = 8 + entries * UINT64_C(4);
    ask(script, EXTENDED, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, 0, length);
    struct be64 effect = be64_of(DISK_BYTES);
    script_raw(script, &effect, sizeof(effect));
    for (uint32_t i = 0; i < entries; i++)
        script_u32(script, 1 + i % 2);
}

/* Every command; returns where the requests begin. */
static size_t whole_conversation(struct script *script, enum mode mode)
{
    negotiate(script, mode);
    size_t start = script->length;
    ask(script, mode, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 512, 100);
    ask(script, mode, NBD_CMD_READ, 0, 500, 200);
    ask(script, mode, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 0, 4096);
    ask(script, mode, NBD_CMD_TRIM, 0, 65536, 65536);
    ask(script, mode, NBD_CMD_CACHE, 0, 0, 1024);
    ask(script, mode, NBD_CMD_FLUSH, 0, 0, 0);
    if (mode != SIMPLE)
        ask(script, mode, NBD_CMD_BLOCK_STATUS, 0, 0, DISK_BYTES);
    if (mode == EXTENDED)
        ask_filtered(script, 2);
    ask(script, mode, 99, 0, 0, 0);
    ask(script, mode, NBD_CMD_READ, 0, DISK_BYTES, 1);
    ask(script, mode, NBD_CMD_DISC, 0, 0, 0);
    return start;
}

/* ---- The server ---- */

/* Negotiates, and serves; what was sent is talk->at to talk->end.  Goes to talk_end(). */
static int have(struct talk *talk, struct fixture *fixture, const void *bytes, size_t length,
                size_t portion)
{
    const struct vd_transmit transmit = {
        .pool = pool,
        .log = &fixture->log,
        .peer = "test",
        .is_stopping = &fixture->is_stopping,
        .memory_bytes = 64u << 20,
    };
    talk_begin(talk, fixture, bytes, length, portion);
    assert_int_equal(talk->ret, 0);
    talk->at = talk->end;
    int ret = vd_transmit(&transmit, &talk->session, &talk->err);
    talk->end = talk->wire.sent + talk->wire.sent_kept;
    assert_int_equal(talk->err.code, -ret);
    assert_int_equal(talk->wire.sent_length, talk->wire.sent_kept);
    return ret;
}

static void end(struct talk *talk)
{
    talk->at = talk->end;
    talk_end(talk, 0);
}

static void test_portions(void **state)
{
    struct fixture *fixture = *state;
    for (enum mode mode = SIMPLE; mode <= EXTENDED; mode++) {
        struct script script;
        whole_conversation(&script, mode);
        for (size_t portion = 0; portion < 40; portion++) {
            struct talk talk;
            assert_int_equal(have(&talk, fixture, script.bytes, script.length, portion), 0);
            assert_int_equal(talk.wire.received, script.length);
            end(&talk);
        }
        script_free(&script);
    }
}

static void test_prefixes(void **state)
{
    struct fixture *fixture = *state;
    for (enum mode mode = SIMPLE; mode <= EXTENDED; mode++) {
        struct script script;
        for (size_t length = whole_conversation(&script, mode); length < script.length; length++) {
            struct talk talk;
            int ret = have(&talk, fixture, script.bytes, length, 0);
            assert_true(ret == 0 || ret == -ECONNRESET);
            end(&talk);
        }
        script_free(&script);
    }
}

static void test_wrong_bytes(void **state)
{
    struct fixture *fixture = *state;
    for (enum mode mode = SIMPLE; mode <= EXTENDED; mode++) {
        struct script script;
        for (size_t at = whole_conversation(&script, mode); at < script.length; at++) {
            uint8_t good = script.bytes[at];
            for (unsigned bit = 0; bit < 8; bit++) {
                struct talk talk;
                script.bytes[at] = (uint8_t)(good ^ (1u << bit));
                int ret = have(&talk, fixture, script.bytes, script.length, 0);
                assert_true(ret == 0 || ret == -ECONNRESET || ret == -EPROTO);
                end(&talk);
            }
            script.bytes[at] = good;
        }
        script_free(&script);
    }
}

/* The error of the last reply, or 0. */
static uint32_t last_error(const struct talk *talk)
{
    const uint8_t *at = talk->at;
    uint32_t error = 0;
    while (at < talk->end) {
        struct vd_nbd_extended_chunk chunk;
        assert_true((size_t)(talk->end - at) >= sizeof(chunk));
        memcpy(&chunk, at, sizeof(chunk));
        assert_int_equal(be32_get(chunk.magic), NBD_EXTENDED_CHUNK_MAGIC);
        error = be16_get(chunk.type) == NBD_REPLY_TYPE_ERROR ? u32_at(at + sizeof(chunk)) : 0;
        at += sizeof(chunk) + be64_get(chunk.length);
    }
    return error;
}

/* Lists of contexts of any length: nothing behind them is taken for one, nor for a request. */
static void test_long_filters(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        uint32_t entries;
        uint32_t error;
    } cases[] = {
        {0, NBD_EINVAL},
        {1, 0},
        {2, 0},
        {3, NBD_EINVAL},
        {64, NBD_EINVAL},
        {65, NBD_EINVAL},
        {32765, NBD_EINVAL},
        {32766, NBD_EINVAL},
        {32767, NBD_EINVAL},
        {65534, NBD_EINVAL},
        {100000, NBD_EINVAL},
        {DISK_BYTES / 4 - 2, NBD_EINVAL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct script script;
        struct talk talk;
        negotiate(&script, EXTENDED);
        ask_filtered(&script, cases[i].entries);
        ask(&script, EXTENDED, NBD_CMD_DISC, 0, 0, 0);
        assert_int_equal(have(&talk, fixture, script.bytes, script.length, 0), 0);
        assert_int_equal(talk.wire.received, script.length);
        assert_int_equal(last_error(&talk), cases[i].error);
        end(&talk);
        script_free(&script);
    }
}

/* QEMU 8.2 to 10 write so with extended headers: the length is that of the payload all the same. */
static void test_write_without_flag(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    uint8_t written[4] = {0};
    negotiate(&script, EXTENDED);
    struct vd_nbd_extended_request request = {
        .magic = be32_of(NBD_EXTENDED_REQUEST_MAGIC),
        .command = be16_of(NBD_CMD_WRITE),
        .offset = be64_of(512),
        .length = be64_of(4),
    };
    script_raw(&script, &request, sizeof(request));
    script_raw(&script, "data", 4);
    ask(&script, EXTENDED, NBD_CMD_DISC, 0, 0, 0);
    assert_int_equal(have(&talk, fixture, script.bytes, script.length, 0), 0);
    assert_int_equal(talk.wire.received, script.length);
    assert_int_equal(last_error(&talk), 0);
    VT_OK(vdisk_image_pread(fixture->image, written, sizeof(written), 512, &vt_err));
    assert_memory_equal(written, "data", 4);
    end(&talk);
    script_free(&script);
}

/* CACHE of a whole disk, many times over: each reads what one READ may ask for, and no more. */
static void test_cache(void **state)
{
    struct fixture *fixture = *state;
    struct vdisk_open_options raw = {.struct_bytes = sizeof(raw), .format = "raw"};
    struct vdisk_export_options options = {.struct_bytes = sizeof(options), .name = "large"};
    struct vd_storage *file = NULL;
    struct vd_storage *trace = NULL;
    struct vdisk_image *image = NULL;
    const uint64_t size = 4 * (uint64_t)PAYLOAD_MAX;
    VT_OK(vd_storage_mem_open(size, &file, &vt_err));
    VT_OK(vt_trace_open(file, VT_OWN, NULL, &trace, &vt_err));
    VT_OK(vd_image_open_on(trace, &raw, &image, &vt_err));
    VT_OK(vd_exports_add(&fixture->exports, image, &options, &vt_err));

    struct script script;
    struct talk talk;
    begin_script(&script);
    script_option(&script, NBD_OPT_EXTENDED_HEADERS, NULL);
    script_go(&script, NBD_OPT_GO, "large", NULL, 0);
    ask(&script, EXTENDED, NBD_CMD_CACHE, 0, 0, size);
    ask(&script, EXTENDED, NBD_CMD_CACHE, 0, 7, PAYLOAD_MAX - 7);
    ask(&script, EXTENDED, NBD_CMD_DISC, 0, 0, 0);
    vt_trace_reset(trace);
    assert_int_equal(have(&talk, fixture, script.bytes, script.length, 0), 0);
    assert_int_equal(vt_trace_bytes(trace, VT_READ), 2 * (uint64_t)PAYLOAD_MAX - 7);
    end(&talk);
    script_free(&script);

    struct vd_export *removed = NULL;
    VT_OK(vd_exports_unlist(&fixture->exports, "large", &removed, &vt_err));
    vd_exports_drop(&fixture->exports, removed);
    VT_OK(vdisk_image_close(image, &vt_err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_portions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prefixes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_filters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_without_flag, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cache, setup, teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
