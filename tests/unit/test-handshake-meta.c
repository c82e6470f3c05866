/* SPDX-License-Identifier: MIT */
/* serve/handshake: metadata contexts, listed, chosen, and lost again. */
#include "handshake-fixture.h"

#define LIST NBD_OPT_LIST_META_CONTEXT
#define SET  NBD_OPT_SET_META_CONTEXT

static const char *const every_context[] = {"base:allocation", "qemu:allocation-depth",
                                            "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1", NULL};
static const char *const none[] = {NULL};

static void begin_structured(struct script *script)
{
    begin_script(script);
    script_option(script, NBD_OPT_STRUCTURED_REPLY, NULL);
}

static void talk_structured(struct talk *talk, struct fixture *fixture, struct script *script)
{
    talk_script(talk, fixture, script);
    talk_ack(talk, NBD_OPT_STRUCTURED_REPLY);
}

/* These contexts are listed, or chosen, and no others. */
static void check_contexts(struct talk *talk, uint32_t option, const char *const *names)
{
    for (uint32_t id = 1; *names; names++, id++) {
        struct reply reply = talk_next(talk, option, NBD_REP_META_CONTEXT);
        assert_int_equal(reply.length, 4 + strlen(*names));
        assert_int_equal(u32_at(reply.data), option == SET ? id : 0);
        assert_memory_equal(reply.data + 4, *names, strlen(*names));
    }
    talk_ack(talk, option);
}

/* The session has these. */
static void check_session(const struct talk *talk, const char *const *names)
{
    uint32_t entries = 0;
    for (; names[entries]; entries++) {
        assert_true(entries < talk->session.context_entries);
        assert_string_equal(talk->session.contexts[entries]->name, names[entries]);
    }
    assert_int_equal(talk->session.context_entries, entries);
}

static void check_go(struct talk *talk)
{
    talk_next(talk, NBD_OPT_GO, NBD_REP_INFO);
    talk_ack(talk, NBD_OPT_GO);
}

static void test_needs_structured(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_meta(&script, LIST, "disk", none);
    script_meta(&script, SET, "disk", every_context);
    script_go(&script, NBD_OPT_GO, "disk", NULL, 0);
    talk_script(&talk, fixture, &script);
    talk_refused(&talk, LIST, NBD_REP_ERR_INVALID);
    talk_refused(&talk, SET, NBD_REP_ERR_INVALID);
    check_go(&talk);
    check_session(&talk, none);
    talk_end(&talk, 0);

    begin_script(&script);
    script_option(&script, NBD_OPT_EXTENDED_HEADERS, NULL);
    script_meta(&script, LIST, "disk", none);
    talk_script(&talk, fixture, &script);
    talk_ack(&talk, NBD_OPT_EXTENDED_HEADERS);
    check_contexts(&talk, LIST, every_context);
    talk_end(&talk, ECANCELED);
}

struct wanted {
    const char *query[4];
    const char *listed[5];
    const char *chosen[5];
};

static void test_queries(void **state)
{
    struct fixture *fixture = *state;
    static const struct wanted cases[] = {
        {{"base:"}, {"base:allocation"}, {NULL}},
        {{"base:allocation"}, {"base:allocation"}, {"base:allocation"}},
        {{"base:allocation", "base:allocation"}, {"base:allocation"}, {"base:allocation"}},
        {{"base:allocatio"}, {NULL}, {NULL}},
        {{"base:allocation2"}, {NULL}, {NULL}},
        {{"qemu:"},
         {"qemu:allocation-depth", "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"},
         {NULL}},
        {{"qemu:dirty-bitmap:"}, {"qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"}, {NULL}},
        {{"qemu:dirty-bitmap:b1", "base:allocation"},
         {"base:allocation", "qemu:dirty-bitmap:b1"},
         {"base:allocation", "qemu:dirty-bitmap:b1"}},
        {{"x-unknown:thing", "", "nocolon"}, {NULL}, {NULL}},
        {{"x-unknown:", "qemu:allocation-depth"},
         {"qemu:allocation-depth"},
         {"qemu:allocation-depth"}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct script script;
        struct talk talk;
        begin_structured(&script);
        script_meta(&script, LIST, "disk", cases[i].query);
        script_meta(&script, SET, "disk", cases[i].query);
        script_meta(&script, LIST, "disk", none); /* changes nothing */
        script_go(&script, NBD_OPT_GO, "disk", NULL, 0);
        talk_structured(&talk, fixture, &script);
        check_contexts(&talk, LIST, cases[i].listed);
        check_contexts(&talk, SET, cases[i].chosen);
        check_contexts(&talk, LIST, every_context);
        check_go(&talk);
        check_session(&talk, cases[i].chosen);
        talk_end(&talk, 0);
    }
}

/* What is sent behind a good choice, and what is left of that. */
static void check_after(struct fixture *fixture, struct script *later, const char *name,
                        const char *const *left)
{
    struct script script;
    struct talk talk;
    begin_structured(&script);
    script_meta(&script, SET, "disk", every_context);
    script_raw(&script, later->bytes, later->length);
    script_free(later);
    script_go(&script, NBD_OPT_GO, name, NULL, 0);
    talk_structured(&talk, fixture, &script);
    check_contexts(&talk, SET, every_context);
    while (u32_at(talk.at + 8) != NBD_OPT_GO || u32_at(talk.at + 12) != NBD_REP_INFO)
        next_reply(&talk.at, talk.end);
    check_go(&talk);
    assert_string_equal(talk.session.export->name, name);
    check_session(&talk, left);
    talk_end(&talk, 0);
}

static void test_replaced(void **state)
{
    struct fixture *fixture = *state;
    static const char *const base[] = {"base:allocation", NULL};
    struct script later = {0};
    check_after(fixture, &later, "disk", every_context);
    check_after(fixture, &later, "ro", none);
    script_go(&later, NBD_OPT_INFO, "ro", NULL, 0); /* only looks */
    check_after(fixture, &later, "disk", every_context);
    script_go(&later, NBD_OPT_GO, "none", NULL, 0);
    check_after(fixture, &later, "disk", every_context);
    script_meta(&later, SET, "disk", base);
    check_after(fixture, &later, "disk", base);
    script_meta(&later, SET, "disk", none);
    check_after(fixture, &later, "disk", none);
    script_meta(&later, SET, "ro", base);
    check_after(fixture, &later, "disk", none);
    script_meta(&later, SET, "ro", base);
    check_after(fixture, &later, "ro", base);

    /* Failures, too, take away what was chosen. */
    script_option(&later, SET, NULL);
    check_after(fixture, &later, "disk", none);
    script_meta(&later, SET, "none", base);
    check_after(fixture, &later, "disk", none);
    script_head(&later, SET, 9);
    script_raw(&later, "\0\0\0\4disk\0", 9);
    check_after(fixture, &later, "disk", none);
}

/* Whatever @data is, it is refused so, and the next option is understood. */
static void refuse_data(struct fixture *fixture, const void *data, size_t length, uint32_t type)
{
    for (uint32_t option = LIST; option <= SET; option++) {
        struct script script;
        struct talk talk;
        begin_structured(&script);
        script_head(&script, option, (uint32_t)length);
        script_raw(&script, data, length);
        script_option(&script, NBD_OPT_ABORT, NULL);
        talk_structured(&talk, fixture, &script);
        talk_refused(&talk, option, type);
        talk_ack(&talk, NBD_OPT_ABORT);
        talk_end(&talk, ECANCELED);
    }
}

static void test_refused(void **state)
{
    struct fixture *fixture = *state;
    static const char good[] = "\0\0\0\4disk\0\0\0\2\0\0\0\5base:\0\0\0\5qemu:";
    for (size_t length = 0; length < sizeof(good) - 1; length++)
        refuse_data(fixture, good, length, NBD_REP_ERR_INVALID);
    refuse_data(fixture, good, sizeof(good), NBD_REP_ERR_INVALID); /* a byte too many */
    refuse_data(fixture, "\0\0\0\4dosk\0\0\0\0", 12, NBD_REP_ERR_UNKNOWN);
    refuse_data(fixture, "\0\0\0\4dos\0\0\0\0\0", 12, NBD_REP_ERR_INVALID);
    refuse_data(fixture, "\0\0\0\4disk\0\0\0\1\0\0\0\2b\xff", 18, NBD_REP_ERR_INVALID);
    refuse_data(fixture, "\0\0\0\4disk\0\0\0\1\0\0\0\2b\0", 18, NBD_REP_ERR_INVALID);
    refuse_data(fixture, "\0\0\0\4disk\xff\xff\xff\xff", 12, NBD_REP_ERR_INVALID);
    refuse_data(fixture, "\0\0\0\4disk\0\0\0\1\xff\xff\xff\xff", 16, NBD_REP_ERR_TOO_BIG);

    static uint8_t long_query[16 + NBD_STRING_MAX + 1];
    memset(long_query, 'q', sizeof(long_query));
    memcpy(long_query, "\0\0\0\4disk\0\0\0\1\0\0\x10\1", 16);
    refuse_data(fixture, long_query, sizeof(long_query), NBD_REP_ERR_TOO_BIG);
}

static void test_longest_query(void **state)
{
    struct fixture *fixture = *state;
    static uint8_t data[16 + NBD_STRING_MAX];
    struct script script;
    struct talk talk;
    memset(data, 'q', sizeof(data));
    memcpy(data, "\0\0\0\4disk\0\0\0\1\0\0\x10\0", 16);
    begin_structured(&script);
    script_head(&script, SET, sizeof(data));
    script_raw(&script, data, sizeof(data));
    talk_structured(&talk, fixture, &script);
    talk_ack(&talk, SET);
    talk_end(&talk, ECANCELED);
}

/* As many as can be chosen, and one more. */
static void check_many(struct fixture *fixture, unsigned queries)
{
    struct script script;
    struct script data = {0};
    struct talk talk;
    script_text(&data, "ro");
    script_u32(&data, queries);
    for (unsigned i = 0; i < queries; i++) {
        char name[64];
        snprintf(name, sizeof(name), "qemu:dirty-bitmap:b%u", i);
        script_text(&data, name);
    }
    begin_structured(&script);
    script_option(&script, SET, &data);
    script_go(&script, NBD_OPT_GO, "ro", NULL, 0);
    talk_structured(&talk, fixture, &script);
    if (queries <= VD_SESSION_CONTEXTS_MAX) {
        for (unsigned id = 1; id <= queries; id++)
            assert_int_equal(u32_at(talk_next(&talk, SET, NBD_REP_META_CONTEXT).data), id);
        talk_ack(&talk, SET);
    } else {
        talk_refused(&talk, SET, NBD_REP_ERR_TOO_BIG);
    }
    check_go(&talk);
    assert_int_equal(talk.session.context_entries,
                     queries <= VD_SESSION_CONTEXTS_MAX ? queries : 0);
    if (queries <= VD_SESSION_CONTEXTS_MAX)
        assert_string_equal(talk.session.contexts[queries - 1]->bitmap, "b63");
    talk_end(&talk, 0);
}

static void test_many(void **state)
{
    struct fixture *fixture = *state;
    fixture_add_bitmaps(fixture->exports.first->next, 100);
    check_many(fixture, VD_SESSION_CONTEXTS_MAX);
    check_many(fixture, VD_SESSION_CONTEXTS_MAX + 1);
    check_many(fixture, 100);

    struct script script;
    struct talk talk;
    begin_structured(&script);
    script_meta(&script, LIST, "ro", none);
    talk_structured(&talk, fixture, &script);
    for (unsigned i = 0; i < 101; i++)
        talk_next(&talk, LIST, NBD_REP_META_CONTEXT);
    talk_ack(&talk, LIST);
    talk_end(&talk, ECANCELED);
}

/* The flag that allows to ask for some of the chosen contexts. */
static void test_payload_flag(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned which = 0; which < 8; which++) {
        bool is_extended = which & 1;
        bool is_chosen = which & 2;
        const char *name = which & 4 ? "ro" : "disk";
        uint32_t option = is_extended ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY;
        struct script script;
        struct talk talk;
        begin_script(&script);
        script_option(&script, option, NULL);
        script_meta(&script, SET, "disk", is_chosen ? every_context : none);
        script_go(&script, NBD_OPT_GO, name, NULL, 0);
        talk_script(&talk, fixture, &script);
        talk_ack(&talk, option);
        check_contexts(&talk, SET, is_chosen ? every_context : none);
        check_go(&talk);
        bool is_told = (talk.session.flags & NBD_FLAG_BLOCK_STAT_PAYLOAD) != 0;
        assert_int_equal(is_told, which == 3);
        talk_end(&talk, 0);
    }
}

/* The one export may be called by no name, too. */
static void test_default_export(void **state)
{
    struct fixture *fixture = *state;
    struct vd_export *removed = NULL;
    VT_OK(vd_exports_unlist(&fixture->exports, "ro", &removed, &vt_err));
    vd_exports_drop(&fixture->exports, removed);
    struct script script;
    struct talk talk;
    begin_structured(&script);
    script_meta(&script, SET, "", every_context);
    script_go(&script, NBD_OPT_GO, "disk", NULL, 0);
    talk_structured(&talk, fixture, &script);
    check_contexts(&talk, SET, every_context);
    check_go(&talk);
    check_session(&talk, every_context);
    talk_end(&talk, 0);
}

/* Removes "disk" when NBD_OPT_GO arrives, which the log tells, and offers another one. */
struct swap {
    struct fixture *fixture;
    bool is_done;
};

static void swap_disk(void *opaque, enum vdisk_log_level level, const char *message)
{
    struct swap *swap = opaque;
    (void)level;
    if (swap->is_done || !strstr(message, "NBD_OPT_GO"))
        return;
    struct vd_export *removed = NULL;
    swap->is_done = true;
    VT_OK(vd_exports_unlist(&swap->fixture->exports, "disk", &removed, &vt_err));
    vd_exports_drop(&swap->fixture->exports, removed);
    fixture_add(swap->fixture, "disk", NULL, 0, 0);
}

static void test_removed(void **state)
{
    struct fixture *fixture = *state;
    struct swap swap = {.fixture = fixture};
    struct script script;
    struct talk talk;
    fixture->log = (struct vd_log){.write = swap_disk, .opaque = &swap};
    begin_structured(&script);
    script_meta(&script, SET, "disk", every_context);
    script_go(&script, NBD_OPT_GO, "disk", NULL, 0);
    talk_structured(&talk, fixture, &script);
    check_contexts(&talk, SET, every_context);
    check_go(&talk);
    assert_true(swap.is_done);
    assert_false(talk.session.export->is_writable);
    check_session(&talk, none);
    talk_end(&talk, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_needs_structured, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_queries, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_replaced, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_refused, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_longest_query, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_many, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_payload_flag, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_default_export, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_removed, fixture_setup, fixture_teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
