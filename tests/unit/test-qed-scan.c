/* SPDX-License-Identifier: MIT */
/* What is looked at before the first allocation: Q4, Q5. */
#include "qed-fixture.h"

/* Clusters 0, 1, ... of the disk in the order of the file; closed. */
static void make(struct fixture *fix, uint64_t clusters)
{
    fixture_create(fix, 4096, 1, 8 * MIB, NULL);
    fixture_open(fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(fix, 0, clusters * 4096, 1), 0);
    fixture_close(fix);
}

static uint64_t host_of(struct fixture *fix, uint64_t cluster)
{
    return first_free(fix) + 4096 + cluster * 4096;
}

/* Changes are refused, overwrites too, and nothing is written, not even to close the image. */
static void expect_refused(struct fixture *fix, const char *word)
{
    struct vd_mapping mapping;
    struct vdisk_error err = {0};
    fixture_open(fix, VD_FORMAT_WRITE);
    assert_int_equal(
        vd_format_map_for_write(fix->format, vd_range(4096, 512), false, &mapping, NULL), -EBADMSG);
    assert_int_equal(
        vd_format_map_for_write(fix->format, vd_range(4 * MIB, 512), true, &mapping, &err),
        -EBADMSG);
    assert_non_null(strstr(err.message, word));
    assert_int_equal(vd_format_close(fix->format, NULL), -EBADMSG);
    fix->format = NULL;
    assert_int_equal(vt_trace_count(fix->file, VT_WRITE), 0);
    assert_int_equal(vt_trace_count(fix->file, VT_RESIZE), 0);
}

/* Also what the disk is too small for has to be right: it may grow. */
static void test_contradictions(void **state)
{
    (void)state;
    struct fixture fix;
    make(&fix, 3);
    uint64_t end = length_of(fix.memory);
    const struct {
        uint64_t at, value;
        const char *word;
    } cases[] = {
        {l1_of(&fix) + 8 * 511, end, "L1 entry 511"},
        {l1_of(&fix) + 8 * 511, 4096, "L1 entry 511"},
        {l1_of(&fix) + 8 * 511, first_free(&fix), "used twice"},
        {l1_of(&fix) + 8, host_of(&fix, 1), "used twice"},
        {first_free(&fix) + 8 * 500, end, "L2 entry 500"},
        {first_free(&fix) + 8 * 500, first_free(&fix), "used twice"}, /* its own table */
        {first_free(&fix) + 8 * 500, host_of(&fix, 2), "used twice"},
        {first_free(&fix) + 8 * 500, host_of(&fix, 2) + 8, "L2 entry 500"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put_u64(fix.memory, cases[i].at, cases[i].value);
        expect_refused(&fix, cases[i].word);
        put_u64(fix.memory, cases[i].at, 0);
    }
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 4 * MIB, 512, 2), 0);
    fixture_destroy(&fix);
}

/* Leaked clusters are used again, and show nothing of what they held. */
static void test_leaks(void **state)
{
    (void)state;
    struct fixture fix;
    make(&fix, 6);
    uint64_t end = length_of(fix.memory);
    put_u64(fix.memory, first_free(&fix) + 8 * 1, 0);
    put_u64(fix.memory, first_free(&fix) + 8 * 3, 1);
    put_u64(fix.memory, first_free(&fix) + 8 * 5, 0); /* at the end: cut off */
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 4 * MIB + 512, 512, 7), 0);
    assert_int_equal(map(&fix, 4 * MIB, 512).host_offset, host_of(&fix, 1));
    expect(&fix, 4 * MIB, 512, 0);
    expect(&fix, 4 * MIB + 1024, 4096 - 1024, 0);
    assert_int_equal(fill(&fix, 6 * MIB, 8192, 8), 0);
    assert_int_equal(map(&fix, 6 * MIB, 512).host_offset, host_of(&fix, 3));
    fixture_close(&fix);
    /* Two more tables, where the last cluster was and behind it, and half of the last write. */
    assert_int_equal(length_of(fix.memory), end - 4096 + 3 * 4096);
    fixture_open(&fix, VD_FORMAT_WRITE);
    expect(&fix, 0, 4096, 1);
    expect(&fix, 4096, 4096, 0);
    expect(&fix, 2 * 4096, 4096, 1);
    expect(&fix, 3 * 4096, 4096, 0);
    expect(&fix, 4 * MIB + 512, 512, 7);
    expect(&fix, 6 * MIB, 8192, 8);
    fixture_destroy(&fix);
}

/* What is no whole cluster at the end of the file must not show in the next one. */
static void test_tail(void **state)
{
    (void)state;
    struct fixture fix;
    make(&fix, 1);
    uint64_t end = length_of(fix.memory);
    put_run(fix.memory, end, 5000, 0xee);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 8192, 512, 1), 0);
    assert_int_equal(map(&fix, 8192, 512).host_offset, end);
    expect(&fix, 8192 + 512, 4096 - 512, 0);
    fixture_close(&fix);
    assert_int_equal(length_of(fix.memory), end + 4096);

    /* Without a change nothing is cut, nor looked at. */
    put_run(fix.memory, end + 4096, 5000, 0xee);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(map(&fix, 8192, 512).host_offset, end);
    fixture_close(&fix);
    assert_int_equal(length_of(fix.memory), end + 4096 + 5000);
    assert_true(vt_trace_bytes(fix.file, VT_READ) <= 8192);
    fixture_destroy(&fix);
}

/* The L1 table of a new image may have 1 GiB: it is not read. */
static void test_cost(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 64u << 20, 16, TIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 512, 1), 0);
    assert_true(vt_trace_bytes(fix.file, VT_READ) < MIB);
    fixture_reopen(&fix);
    assert_int_equal(fill(&fix, 64 * MIB, 512, 1), 0);
    assert_true(vt_trace_bytes(fix.file, VT_READ) < MIB);
    fixture_destroy(&fix);
}

/* A read that fails is an error now, and no reason to refuse for ever. */
static void test_failing_read(void **state)
{
    (void)state;
    struct fixture fix;
    struct vd_mapping mapping;
    make(&fix, 3);
    fixture_open(&fix, VD_FORMAT_WRITE);
    expect(&fix, 0, 4096, 1); /* the tables of this part are cached */
    vt_fault_set(fix.fault,
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_READ), .nth = 1, .error = EIO});
    VT_FAILS(EIO, vd_format_map_for_write(fix.format, vd_range(MIB, 512), true, &mapping, &vt_err));
    assert_int_equal(fill(&fix, MIB, 512, 2), 0);
    fixture_destroy(&fix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contradictions), cmocka_unit_test(test_leaks),
        cmocka_unit_test(test_tail),           cmocka_unit_test(test_cost),
        cmocka_unit_test(test_failing_read),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
