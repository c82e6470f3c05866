/* SPDX-License-Identifier: MIT */
/*
 * serve/handshake: clients that stop at every byte, send every byte wrong, wait, or do not read.
 * Each negotiation ends, with an answer that can be read, and nobody holds anything after it.
 *
 *   VD_TEST_CORPUS=DIR   also writes the conversations to files there, for the fuzzers' corpus
 */
#include <sys/socket.h>
#include <unistd.h>

#include "handshake-fixture.h"

/* Every option once at least, and some that are wrong; as clients send them.  GO is the last. */
static void whole_conversation(struct script *script)
{
    static const uint16_t infos[] = {NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE};
    static const char *const some[] = {"base:allocation", "qemu:dirty-bitmap:b0", NULL};
    static const char *const wild[] = {"base:", "qemu:", NULL};
    static const char *const none[] = {NULL};
    begin_script(script);
    script_option(script, NBD_OPT_STARTTLS, NULL);
    script_meta(script, NBD_OPT_LIST_META_CONTEXT, "disk", none);
    script_option(script, NBD_OPT_STRUCTURED_REPLY, NULL);
    script_option(script, NBD_OPT_LIST, NULL);
    script_meta(script, NBD_OPT_LIST_META_CONTEXT, "disk", none);
    script_meta(script, NBD_OPT_LIST_META_CONTEXT, "disk", wild);
    script_go(script, NBD_OPT_INFO, "disk", infos, 3);
    script_option(script, NBD_OPT_EXTENDED_HEADERS, NULL);
    script_meta(script, NBD_OPT_SET_META_CONTEXT, "ro", some);
    script_head(script, 77, 6);
    script_raw(script, "what?\n", 6);
    script_go(script, NBD_OPT_GO, "nothing", NULL, 0);
    script_meta(script, NBD_OPT_SET_META_CONTEXT, "disk", some);
    script_go(script, NBD_OPT_GO, "disk", infos, 3);
}

/* What is left of the answer: replies, and, as the end of a choice by name, its size and flags. */
static void read_replies(struct talk *talk)
{
    while (talk->at < talk->end) {
        bool is_reply = (size_t)(talk->end - talk->at) >= sizeof(struct vd_nbd_option_reply) &&
                        u64_at(talk->at) == NBD_OPTION_REPLY_MAGIC;
        if (!is_reply) {
            size_t left = (size_t)(talk->end - talk->at);
            assert_true(talk->ret == 0 && (left == 10 || left == 134));
            talk->at = talk->end;
            return;
        }
        struct reply reply = next_reply(&talk->at, talk->end);
        if (reply.type & NBD_REP_ERR(0))
            assert_true(vd_utf8_is_text((const char *)reply.data, reply.length));
        else
            assert_true(reply.type >= NBD_REP_ACK && reply.type <= NBD_REP_META_CONTEXT);
    }
}

static void have_any(struct fixture *fixture, const uint8_t *bytes, size_t length)
{
    struct talk talk;
    talk_begin(&talk, fixture, bytes, length, 0);
    read_replies(&talk);
    talk_end(&talk, -talk.ret);
}

static void test_portions(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    whole_conversation(&script);
    for (size_t portion = 0; portion < 24; portion++) {
        struct talk talk;
        talk_begin(&talk, fixture, script.bytes, script.length, portion);
        assert_int_equal(talk.ret, 0);
        assert_string_equal(talk.session.export->name, "disk");
        assert_int_equal(talk.session.context_entries, 2);
        assert_true(talk.session.has_extended);
        assert_int_equal(talk.wire.received, script.length);
        read_replies(&talk);
        talk_end(&talk, 0);
    }
    script_free(&script);
}

/* The client leaves after each byte. */
static void test_prefixes(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    whole_conversation(&script);
    for (size_t length = 0; length < script.length; length++) {
        struct talk talk;
        talk_begin(&talk, fixture, script.bytes, length, 0);
        assert_true(talk.ret == -ECANCELED || talk.ret == -ECONNRESET);
        read_replies(&talk);
        talk_end(&talk, -talk.ret);
    }
    script_free(&script);
}

/* Each byte in turn is another one. */
static void test_wrong_bytes(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    whole_conversation(&script);
    for (size_t at = 0; at < script.length; at++) {
        uint8_t good = script.bytes[at];
        for (unsigned bit = 0; bit < 8; bit++) {
            script.bytes[at] = (uint8_t)(good ^ (1u << bit));
            have_any(fixture, script.bytes, script.length);
        }
        static const uint8_t values[] = {0, 0x7f, 0x80, 0xff};
        for (size_t i = 0; i < sizeof(values); i++) {
            script.bytes[at] = values[i];
            have_any(fixture, script.bytes, script.length);
        }
        script.bytes[at] = good;
    }
    script_free(&script);
}

/* Each byte in turn is not there, or twice. */
static void test_shifted_bytes(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct script changed = {0};
    whole_conversation(&script);
    for (size_t at = 0; at < script.length; at++) {
        for (size_t skip = 0; skip < 2; skip++) {
            changed.length = 0;
            script_raw(&changed, script.bytes, at + 1 - skip);
            script_raw(&changed, script.bytes + at + skip, script.length - at - skip);
            have_any(fixture, changed.bytes, changed.length);
        }
    }
    script_free(&changed);
    script_free(&script);
}

/* A negotiation over a socket: so many ms for it, and what the client has sent beforehand. */
static int negotiate_over(struct fixture *fixture, int fds[2], uint64_t limit_ms,
                          const struct script *script, struct vdisk_error *err)
{
    struct vd_handshake handshake = talk_handshake(fixture);
    struct vd_stream stream;
    struct vd_session session;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    if (script->length > 0)
        assert_int_equal(write(fds[1], script->bytes, script->length), script->length);
    vd_stream_init(&stream, fds[0]);
    handshake.deadline = vd_clock_ms() + limit_ms;
    int ret = vd_handshake(&handshake, &stream, &session, err);
    assert_null(session.export);
    vd_stream_close(&stream);
    assert_int_equal(close(fds[1]), 0);
    return ret;
}

static void test_silence(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    whole_conversation(&script);
    /* Before the flags, in them, before an option, in its head, in its data. */
    static const size_t lengths[] = {0, 2, 4, 10, 30, 50};
    size_t whole = script.length;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        int fds[2];
        script.length = lengths[i];
        VT_FAILS(ETIMEDOUT, negotiate_over(fixture, fds, 10, &script, &vt_err));
    }
    script.length = whole;
    script_free(&script);
    assert_int_equal(fixture_holders(fixture), 0);
}

/* It asks and asks, and takes no answer: the socket is full in the end. */
static void test_no_reader(void **state)
{
    struct fixture *fixture = *state;
    static char description[NBD_STRING_MAX + 1];
    memset(description, 'd', NBD_STRING_MAX);
    for (unsigned i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof(name), "%u", i);
        fixture_add(fixture, name, description, 0, 0);
    }
    struct script script;
    begin_script(&script);
    for (unsigned i = 0; i < 100; i++)
        script_option(&script, NBD_OPT_LIST, NULL);
    int fds[2];
    VT_FAILS(ETIMEDOUT, negotiate_over(fixture, fds, 50, &script, &vt_err));
    script_free(&script);
    assert_int_equal(fixture_holders(fixture), 0);
}

/* As fuzz_nbdnegotiation.c takes it: a byte that says how, and what the client sends. */
static void write_file(const char *directory, const char *name, const struct script *script)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    if (!file || fputc(0, file) == EOF ||
        fwrite(script->bytes, 1, script->length, file) != script->length || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

/* One file with all, and one for each option alone. */
static void record(const char *directory)
{
    struct script script;
    whole_conversation(&script);
    write_file(directory, "all", &script);
    size_t at = 4;
    for (unsigned i = 0; at < script.length; i++) {
        struct vd_nbd_option_head head;
        memcpy(&head, script.bytes + at, sizeof(head));
        size_t length = sizeof(head) + be32_get(head.length);
        struct script one;
        begin_script(&one);
        script_option(&one, NBD_OPT_STRUCTURED_REPLY, NULL);
        script_raw(&one, script.bytes + at, length);
        char name[64];
        snprintf(name, sizeof(name), "%02u-option-%u", i, be32_get(head.option));
        write_file(directory, name, &one);
        script_free(&one);
        at += length;
    }
    begin_script(&script);
    script_head(&script, NBD_OPT_EXPORT_NAME, 4);
    script_raw(&script, "disk", 4);
    write_file(directory, "export-name", &script);
    script_free(&script);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_portions, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_prefixes, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_wrong_bytes, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_shifted_bytes, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_silence, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_no_reader, fixture_setup, fixture_teardown),
    };
    const char *directory = getenv("VD_TEST_CORPUS");
    if (directory)
        record(directory);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
