/* SPDX-License-Identifier: MIT */
/* serve/handshake: each option, right and wrong, but for metadata contexts and abuse. */
#include "handshake-fixture.h"

static void test_client_flags(void **state)
{
    struct fixture *fixture = *state;
    struct script script = {0};
    struct talk talk;
    for (size_t length = 0; length < 4; length++) {
        talk_begin(&talk, fixture, "\0\0\0\3", length, 0);
        talk_end(&talk, length == 0 ? ECANCELED : ECONNRESET);
    }
    talk_begin(&talk, fixture, "\0\0\0\3", 4, 0);
    talk_end(&talk, ECANCELED);
    for (unsigned bit = 2; bit < 32; bit++) {
        script_u32(&script, BOTH_FLAGS | (UINT32_C(1) << bit));
        talk_script(&talk, fixture, &script);
        talk_end(&talk, EPROTO);
    }

    /* Without fixed newstyle, there is one option. */
    for (uint32_t option = NBD_OPT_ABORT; option <= 12; option++) {
        script_u32(&script, NBD_FLAG_C_NO_ZEROES);
        script_option(&script, option, NULL);
        talk_script(&talk, fixture, &script);
        talk_end(&talk, EPROTO);
    }
}

static void check_export_name(struct fixture *fixture, uint32_t client_flags, const char *name,
                              size_t name_bytes, unsigned flags)
{
    struct script script = {0};
    struct talk talk;
    script_u32(&script, client_flags);
    script_head(&script, NBD_OPT_EXPORT_NAME, (uint32_t)name_bytes);
    script_raw(&script, name, name_bytes);
    talk_script(&talk, fixture, &script);

    size_t length = client_flags & NBD_FLAG_C_NO_ZEROES ? 10 : 134;
    assert_int_equal(talk.end - talk.at, length);
    assert_int_equal(u64_at(talk.at), DISK_BYTES);
    assert_int_equal(u16_at(talk.at + 8), flags);
    for (size_t i = 10; i < length; i++)
        assert_int_equal(talk.at[i], 0);
    talk.at = talk.end;
    assert_ptr_equal(talk.session.stream, &talk.wire.stream);
    assert_int_equal(talk.session.size, DISK_BYTES);
    assert_int_equal(talk.session.flags, flags);
    assert_int_equal(talk.session.payload_max, PAYLOAD_MAX);
    assert_false(talk.session.has_structured);
    assert_false(talk.session.has_extended);
    assert_int_equal(talk.session.context_entries, 0);
    talk_end(&talk, 0);
}

#define READ_FLAGS \
    (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE)
#define RO_FLAGS (READ_FLAGS | NBD_FLAG_READ_ONLY) /* with one client: no CAN_MULTI_CONN */
#define RW_FLAGS                                                                              \
    (READ_FLAGS | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO | \
     NBD_FLAG_CAN_MULTI_CONN)

static void fail_export_name(struct fixture *fixture, const char *name, size_t name_bytes, int code)
{
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_head(&script, NBD_OPT_EXPORT_NAME, (uint32_t)name_bytes);
    script_raw(&script, name, name_bytes);
    talk_script(&talk, fixture, &script);
    talk_end(&talk, code);
}

static void test_export_name(void **state)
{
    struct fixture *fixture = *state;
    static char longest[NBD_STRING_MAX + 2];
    memset(longest, 'x', NBD_STRING_MAX);
    fixture_add(fixture, longest, NULL, 0, 0);

    for (uint32_t client_flags = 0; client_flags <= BOTH_FLAGS; client_flags++) {
        check_export_name(fixture, client_flags, "disk", 4, RW_FLAGS);
        check_export_name(fixture, client_flags, "ro", 2, RO_FLAGS);
    }
    check_export_name(fixture, BOTH_FLAGS, longest, NBD_STRING_MAX,
                      RO_FLAGS | NBD_FLAG_CAN_MULTI_CONN);

    longest[NBD_STRING_MAX] = 'x';
    fail_export_name(fixture, longest, NBD_STRING_MAX + 1, EPROTO);
    fail_export_name(fixture, longest, NBD_STRING_MAX - 1, ENOENT);
    fail_export_name(fixture, "", 0, ENOENT); /* there are several, none of them so called */
    fail_export_name(fixture, "disk", 3, ENOENT);
    fail_export_name(fixture, "disk\0", 5, ENOENT);
    fail_export_name(fixture, "\xff\xfe", 2, ENOENT);

    struct vd_export *used = NULL;
    VT_OK(vd_exports_use(&fixture->exports, "ro", 2, &used, &vt_err));
    fail_export_name(fixture, "ro", 2, EUSERS);
    vd_export_leave(&fixture->exports, used);
}

static void test_abort(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_option(&script, NBD_OPT_ABORT, NULL);
    talk_script(&talk, fixture, &script);
    talk_ack(&talk, NBD_OPT_ABORT);
    talk_end(&talk, ECANCELED);

    begin_script(&script);
    script_head(&script, NBD_OPT_ABORT, 3);
    script_raw(&script, "bye", 3);
    talk_script(&talk, fixture, &script);
    talk_ack(&talk, NBD_OPT_ABORT);
    talk_end(&talk, ECANCELED);

    /* It leaves before its data is there. */
    begin_script(&script);
    script_head(&script, NBD_OPT_ABORT, 3);
    talk_script(&talk, fixture, &script);
    talk_end(&talk, ECANCELED);
}

static void check_server(struct talk *talk, const char *name, const char *description)
{
    struct reply reply = talk_next(talk, NBD_OPT_LIST, NBD_REP_SERVER);
    assert_int_equal(reply.length, 4 + strlen(name) + strlen(description));
    assert_int_equal(u32_at(reply.data), strlen(name));
    assert_memory_equal(reply.data + 4, name, strlen(name));
    assert_memory_equal(reply.data + 4 + strlen(name), description, strlen(description));
}

static void test_list(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_option(&script, NBD_OPT_LIST, NULL);
    script_head(&script, NBD_OPT_LIST, 1);
    script_raw(&script, "", 1);
    script_option(&script, NBD_OPT_LIST, NULL);
    talk_script(&talk, fixture, &script);
    for (int i = 0; i < 2; i++) {
        check_server(&talk, "disk", "the disk");
        check_server(&talk, "ro", "");
        talk_ack(&talk, NBD_OPT_LIST);
        if (i == 0)
            talk_refused(&talk, NBD_OPT_LIST, NBD_REP_ERR_INVALID);
    }
    talk_end(&talk, ECANCELED);
}

/* More than is gathered at once, by names of all lengths, whose sums meet every boundary. */
static void test_long_list(void **state)
{
    struct fixture *fixture = *state;
    static char name[NBD_STRING_MAX + 1];
    static char description[NBD_STRING_MAX + 1];
    struct script script;
    struct talk talk;
    memset(name, 'n', NBD_STRING_MAX);
    memset(description, 'd', NBD_STRING_MAX);
    for (unsigned i = 1; i <= 64; i++)
        fixture_add(fixture, name + NBD_STRING_MAX - 64 * i, description + NBD_STRING_MAX - 61 * i,
                    0, 0);
    begin_script(&script);
    script_option(&script, NBD_OPT_LIST, NULL);
    talk_script(&talk, fixture, &script);
    check_server(&talk, "disk", "the disk");
    check_server(&talk, "ro", "");
    for (unsigned i = 1; i <= 64; i++)
        check_server(&talk, name + NBD_STRING_MAX - 64 * i, description + NBD_STRING_MAX - 61 * i);
    talk_ack(&talk, NBD_OPT_LIST);
    talk_end(&talk, ECANCELED);
}

static void check_info_export(struct talk *talk, uint32_t option, unsigned flags)
{
    struct reply reply = talk_next(talk, option, NBD_REP_INFO);
    assert_int_equal(reply.length, 12);
    assert_int_equal(u16_at(reply.data), NBD_INFO_EXPORT);
    assert_int_equal(u64_at(reply.data + 2), DISK_BYTES);
    assert_int_equal(u16_at(reply.data + 10), flags);
}

static void check_info_text(struct talk *talk, uint32_t option, uint16_t type, const char *text)
{
    struct reply reply = talk_next(talk, option, NBD_REP_INFO);
    assert_int_equal(reply.length, 2 + strlen(text));
    assert_int_equal(u16_at(reply.data), type);
    assert_memory_equal(reply.data + 2, text, strlen(text));
}

static void check_info_blocks(struct talk *talk, uint32_t option)
{
    struct reply reply = talk_next(talk, option, NBD_REP_INFO);
    assert_int_equal(reply.length, 14);
    assert_int_equal(u16_at(reply.data), NBD_INFO_BLOCK_SIZE);
    assert_int_equal(u32_at(reply.data + 2), 1);
    assert_int_equal(u32_at(reply.data + 6), 4096);
    assert_int_equal(u32_at(reply.data + 10), PAYLOAD_MAX);
}

static void test_info(void **state)
{
    struct fixture *fixture = *state;
    static const uint16_t all[] = {NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME, 4,
                                   NBD_INFO_EXPORT,     0xffff,        NBD_INFO_DESCRIPTION};
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_go(&script, NBD_OPT_INFO, "disk", NULL, 0);
    script_go(&script, NBD_OPT_INFO, "disk", all, 6);
    script_go(&script, NBD_OPT_INFO, "ro", all, 6);
    script_go(&script, NBD_OPT_GO, "disk", all, 1);
    talk_script(&talk, fixture, &script);

    check_info_export(&talk, NBD_OPT_INFO, RW_FLAGS);
    talk_ack(&talk, NBD_OPT_INFO);
    check_info_export(&talk, NBD_OPT_INFO, RW_FLAGS);
    check_info_text(&talk, NBD_OPT_INFO, NBD_INFO_NAME, "disk");
    check_info_text(&talk, NBD_OPT_INFO, NBD_INFO_DESCRIPTION, "the disk");
    check_info_blocks(&talk, NBD_OPT_INFO);
    talk_ack(&talk, NBD_OPT_INFO);
    check_info_export(&talk, NBD_OPT_INFO, RO_FLAGS);
    check_info_text(&talk, NBD_OPT_INFO, NBD_INFO_NAME, "ro");
    check_info_blocks(&talk, NBD_OPT_INFO);
    talk_ack(&talk, NBD_OPT_INFO);
    check_info_export(&talk, NBD_OPT_GO, RW_FLAGS);
    check_info_blocks(&talk, NBD_OPT_GO);
    talk_ack(&talk, NBD_OPT_GO);
    assert_string_equal(talk.session.export->name, "disk");
    assert_int_equal(talk.session.export->counters.clients, 1);
    assert_int_equal(talk.session.flags, RW_FLAGS);
    assert_int_equal(talk.session.size, DISK_BYTES);
    assert_int_equal(talk.session.payload_max, PAYLOAD_MAX);
    talk_end(&talk, 0);
}

/* The default export, if there is one export only: it tells its name. */
static void test_default(void **state)
{
    struct fixture *fixture = *state;
    static const uint16_t name[] = {NBD_INFO_NAME};
    struct vd_export *removed = NULL;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_go(&script, NBD_OPT_GO, "", name, 1);
    talk_script(&talk, fixture, &script);
    talk_refused(&talk, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
    talk_end(&talk, ECANCELED);

    VT_OK(vd_exports_unlist(&fixture->exports, "ro", &removed, &vt_err));
    vd_exports_drop(&fixture->exports, removed);
    begin_script(&script);
    script_go(&script, NBD_OPT_GO, "", name, 1);
    talk_script(&talk, fixture, &script);
    check_info_export(&talk, NBD_OPT_GO, RW_FLAGS);
    check_info_text(&talk, NBD_OPT_GO, NBD_INFO_NAME, "disk");
    talk_ack(&talk, NBD_OPT_GO);
    talk_end(&talk, 0);
    check_export_name(fixture, 0, "", 0, RW_FLAGS);
}

/* INFO and GO whose data is @bytes, and what is said to it; another option is understood behind. */
static void refuse_data(struct fixture *fixture, const void *bytes, size_t length, uint32_t type)
{
    struct script script;
    struct talk talk;
    begin_script(&script);
    for (uint32_t option = NBD_OPT_INFO; option <= NBD_OPT_GO; option++) {
        script_head(&script, option, (uint32_t)length);
        script_raw(&script, bytes, length);
    }
    script_option(&script, NBD_OPT_ABORT, NULL);
    talk_script(&talk, fixture, &script);
    talk_refused(&talk, NBD_OPT_INFO, type);
    talk_refused(&talk, NBD_OPT_GO, type);
    talk_ack(&talk, NBD_OPT_ABORT);
    talk_end(&talk, ECANCELED);
}

static void test_info_refused(void **state)
{
    struct fixture *fixture = *state;
    static const char good[] = "\0\0\0\4disk\0\1\0\3";
    for (size_t length = 0; length < sizeof(good) - 1; length++)
        refuse_data(fixture, good, length, NBD_REP_ERR_INVALID);
    refuse_data(fixture, good, sizeof(good), NBD_REP_ERR_INVALID); /* a byte too many */
    refuse_data(fixture, "\0\0\0\5disk\0\0", 10, NBD_REP_ERR_INVALID);
    refuse_data(fixture, "\0\0\0\3disk\0\0", 10, NBD_REP_ERR_INVALID);
    refuse_data(fixture, "\0\0\0\4dis\0\0\0", 10, NBD_REP_ERR_INVALID);
    refuse_data(fixture, "\0\0\0\4dis\xff\0\0", 10, NBD_REP_ERR_INVALID);
    refuse_data(fixture, "\0\0\0\4dosk\0\0", 10, NBD_REP_ERR_UNKNOWN);
    refuse_data(fixture, "\xff\xff\xff\xff", 4, NBD_REP_ERR_TOO_BIG);

    static uint8_t data[4 + NBD_STRING_MAX + 1 + 2];
    memset(data, 'n', sizeof(data));
    memcpy(data, "\0\0\x10\0", 4);
    memcpy(data + 4 + NBD_STRING_MAX, "\0\0", 2);
    refuse_data(fixture, data, sizeof(data) - 1, NBD_REP_ERR_UNKNOWN);
    memcpy(data, "\0\0\x10\1", 4);
    memcpy(data + 4 + NBD_STRING_MAX, "n\0\0", 3);
    refuse_data(fixture, data, sizeof(data), NBD_REP_ERR_TOO_BIG);
}

/* A name shown in the message is cut between two characters. */
static void test_shown_name(void **state)
{
    struct fixture *fixture = *state;
    for (size_t before = 0; before < 4; before++) {
        static char name[601];
        struct script script;
        struct talk talk;
        memset(name, 'a', before);
        for (size_t i = before; i + 3 < sizeof(name); i += 3)
            memcpy(name + i, "\xe2\x82\xac", 4);
        begin_script(&script);
        script_go(&script, NBD_OPT_GO, name, NULL, 0);
        talk_script(&talk, fixture, &script);
        talk_refused(&talk, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
        talk_end(&talk, ECANCELED);
    }
}

static void test_full(void **state)
{
    struct fixture *fixture = *state;
    struct vd_export *used = NULL;
    struct script script;
    struct talk talk;
    VT_OK(vd_exports_use(&fixture->exports, "ro", 2, &used, &vt_err));
    begin_script(&script);
    script_go(&script, NBD_OPT_INFO, "ro", NULL, 0);
    script_go(&script, NBD_OPT_GO, "ro", NULL, 0);
    script_go(&script, NBD_OPT_GO, "disk", NULL, 0); /* another one will do */
    talk_script(&talk, fixture, &script);
    check_info_export(&talk, NBD_OPT_INFO, RO_FLAGS);
    talk_ack(&talk, NBD_OPT_INFO);
    talk_refused(&talk, NBD_OPT_GO, NBD_REP_ERR_POLICY);
    check_info_export(&talk, NBD_OPT_GO, RW_FLAGS);
    talk_ack(&talk, NBD_OPT_GO);
    talk_end(&talk, 0);
    vd_export_leave(&fixture->exports, used);
}

static void test_structured(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_head(&script, NBD_OPT_STRUCTURED_REPLY, 1);
    script_raw(&script, "", 1);
    script_go(&script, NBD_OPT_INFO, "ro", NULL, 0);
    script_option(&script, NBD_OPT_STRUCTURED_REPLY, NULL);
    script_option(&script, NBD_OPT_STRUCTURED_REPLY, NULL);
    script_go(&script, NBD_OPT_GO, "ro", NULL, 0);
    talk_script(&talk, fixture, &script);
    talk_refused(&talk, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
    check_info_export(&talk, NBD_OPT_INFO, RO_FLAGS);
    talk_ack(&talk, NBD_OPT_INFO);
    talk_ack(&talk, NBD_OPT_STRUCTURED_REPLY);
    talk_ack(&talk, NBD_OPT_STRUCTURED_REPLY);
    check_info_export(&talk, NBD_OPT_GO, RO_FLAGS | NBD_FLAG_SEND_DF);
    talk_ack(&talk, NBD_OPT_GO);
    assert_true(talk.session.has_structured);
    assert_false(talk.session.has_extended);
    talk_end(&talk, 0);
}

static void test_extended(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_head(&script, NBD_OPT_EXTENDED_HEADERS, 2);
    script_raw(&script, "\0", 2);
    script_option(&script, NBD_OPT_STRUCTURED_REPLY, NULL);
    script_option(&script, NBD_OPT_EXTENDED_HEADERS, NULL);
    script_option(&script, NBD_OPT_EXTENDED_HEADERS, NULL);
    script_option(&script, NBD_OPT_STRUCTURED_REPLY, NULL);
    script_go(&script, NBD_OPT_GO, "ro", NULL, 0);
    talk_script(&talk, fixture, &script);
    talk_refused(&talk, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID);
    talk_ack(&talk, NBD_OPT_STRUCTURED_REPLY);
    talk_ack(&talk, NBD_OPT_EXTENDED_HEADERS);
    talk_ack(&talk, NBD_OPT_EXTENDED_HEADERS);
    talk_refused(&talk, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD);
    check_info_export(&talk, NBD_OPT_GO, RO_FLAGS | NBD_FLAG_SEND_DF);
    talk_ack(&talk, NBD_OPT_GO);
    assert_true(talk.session.has_structured);
    assert_true(talk.session.has_extended);
    talk_end(&talk, 0);

    begin_script(&script);
    script_option(&script, NBD_OPT_EXTENDED_HEADERS, NULL);
    script_head(&script, NBD_OPT_EXPORT_NAME, 4);
    script_raw(&script, "disk", 4);
    talk_script(&talk, fixture, &script);
    talk_ack(&talk, NBD_OPT_EXTENDED_HEADERS);
    talk_end(&talk, EPROTO);
}

/* Structured replies that the old way of choosing goes with. */
static void test_structured_export_name(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_option(&script, NBD_OPT_STRUCTURED_REPLY, NULL);
    script_head(&script, NBD_OPT_EXPORT_NAME, 2);
    script_raw(&script, "ro", 2);
    talk_script(&talk, fixture, &script);
    talk_ack(&talk, NBD_OPT_STRUCTURED_REPLY);
    assert_int_equal(u16_at(talk.at + 8), RO_FLAGS | NBD_FLAG_SEND_DF);
    talk.at = talk.end;
    assert_true(talk.session.has_structured);
    talk_end(&talk, 0);
}

static void test_unknown_options(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t options[] = {0, 4, 12, 0x7fffffff, 0xffffffff};
    static const uint32_t lengths[] = {0, 1, 4095, 4096, 4097, 1u << 20};
    static const uint8_t zeros[1u << 20];
    struct talk talk;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        for (size_t j = 0; j < sizeof(lengths) / sizeof(lengths[0]); j++) {
            struct script script;
            begin_script(&script);
            script_head(&script, options[i], lengths[j]);
            script_raw(&script, zeros, lengths[j]);
            script_option(&script, NBD_OPT_ABORT, NULL);
            talk_script(&talk, fixture, &script);
            talk_refused(&talk, options[i], NBD_REP_ERR_UNSUP);
            talk_ack(&talk, NBD_OPT_ABORT);
            talk_end(&talk, ECANCELED);
        }
}

/* Whatever the option: nobody waits for so much, nor keeps it. */
static void test_huge_options(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t lengths[] = {(1u << 20) + 1, 1u << 31, 0xffffffff};
    for (uint32_t option = 0; option <= 12; option++)
        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            struct script script;
            struct talk talk;
            begin_script(&script);
            script_head(&script, option, lengths[i]);
            size_t length = script.length;
            script_option(&script, NBD_OPT_ABORT, NULL);
            talk_script(&talk, fixture, &script);
            assert_int_equal(talk.wire.received, length);
            talk_end(&talk, EPROTO);
        }
}

static void test_wrong_magic(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned at = 0; at < 8; at++) {
        struct script script;
        struct talk talk;
        begin_script(&script);
        script_option(&script, NBD_OPT_LIST, NULL);
        script.bytes[4 + at] ^= 1;
        talk_script(&talk, fixture, &script);
        talk_end(&talk, EPROTO);
    }
}

static void test_stopping(void **state)
{
    struct fixture *fixture = *state;
    struct talk talk;
    atomic_store(&fixture->is_stopping, true);
    for (uint32_t option = NBD_OPT_LIST; option <= 12; option++) {
        struct script script;
        begin_script(&script);
        script_option(&script, NBD_OPT_STRUCTURED_REPLY, NULL);
        script_head(&script, option, 2);
        script_raw(&script, "xy", 2);
        script_option(&script, NBD_OPT_ABORT, NULL);
        talk_script(&talk, fixture, &script);
        talk_refused(&talk, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_SHUTDOWN);
        talk_refused(&talk, option, NBD_REP_ERR_SHUTDOWN);
        talk_ack(&talk, NBD_OPT_ABORT);
        talk_end(&talk, ECANCELED);
    }
    fail_export_name(fixture, "disk", 4, ESHUTDOWN);
}

static void test_no_tls(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_option(&script, NBD_OPT_STARTTLS, NULL);
    script_option(&script, NBD_OPT_ABORT, NULL);
    talk_script(&talk, fixture, &script);
    talk_refused(&talk, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY);
    talk_ack(&talk, NBD_OPT_ABORT);
    talk_end(&talk, ECANCELED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_client_flags, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_export_name, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_abort, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_list, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_long_list, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_info, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_default, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_info_refused, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_shown_name, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_full, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_structured, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_extended, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_structured_export_name, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_unknown_options, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_huge_options, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_wrong_magic, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_stopping, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_no_tls, fixture_setup, fixture_teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
