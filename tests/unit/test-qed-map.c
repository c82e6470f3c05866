/* SPDX-License-Identifier: MIT */
/* Where clusters of a QED image live: long answers, and offsets that are not to be believed. */
#include "qed-fixture.h"

/* What no table maps is one answer, over many tables that are not there. */
static void test_no_tables(void **state)
{
    (void)state;
    static const struct {
        uint32_t cluster_bytes, table_clusters;
        uint64_t size, length; /* length: of the answer at 0 */
    } cases[] = {
        {4096, 1, GIB, GIB},                               /* all of L1 is a page */
        {4096, 16, 256 * GIB, 256 * GIB},                  /* 16 pages: all that are looked at */
        {65536, 4, 64 * TIB, 16 * UINT64_C(512) * 2 * GIB} /* a part of it */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fixture fix;
        fixture_create(&fix, cases[i].cluster_bytes, cases[i].table_clusters, cases[i].size, NULL);
        fixture_open(&fix, 0);
        expect_map(&fix, vd_range(0, cases[i].size), VD_MAP_ZERO, false, cases[i].length);
        expect_map(&fix, vd_range(512, 512), VD_MAP_ZERO, false, 512);
        expect_map(&fix, vd_range(cases[i].size - 512, 512), VD_MAP_ZERO, false, 512);
        fixture_destroy(&fix);
    }
}

/* The largest images: nothing wraps, and nothing is loaded but what is asked for. */
static void test_largest(void **state)
{
    (void)state;
    static const struct {
        uint32_t cluster_bytes, table_clusters;
    } cases[] = {{4u << 20, 4}, {64u << 20, 1}, {64u << 20, 16}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fixture fix;
        fixture_create(&fix, cases[i].cluster_bytes, cases[i].table_clusters, VD_QED_SIZE_MAX,
                       NULL);
        fixture_open(&fix, VD_FORMAT_WRITE);
        uint64_t end = VD_QED_SIZE_MAX;
        expect_map(&fix, vd_range(end - 512, 512), VD_MAP_ZERO, false, 512);
        assert_true(map(&fix, 0, end).guest.length > TIB);
        assert_int_equal(fill(&fix, end - 1024, 1024, 3), 0);
        expect(&fix, end - 1024, 1024, 3);
        expect(&fix, end - 1536, 512, 0);
        assert_true(vt_trace_bytes(fix.file, VT_READ) < 4 * MIB);
        fixture_reopen(&fix);
        expect(&fix, end - 1024, 1024, 3);
        zero(&fix, end - 1024, 1024, 0);
        expect(&fix, end - 1024, 1024, 0);
        fixture_destroy(&fix);
    }
}

/* Kinds follow each other; what is alike is one answer whatever table it is in. */
static void test_kinds(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 4096, 1, GIB, "base.raw"); /* a table maps 2 MiB */
    fixture_open(&fix, VD_FORMAT_WRITE);
    zero(&fix, 4 * MIB - 8192, MIB, 0);
    expect_map(&fix, vd_range(0, GIB), VD_MAP_BACKING, false, 4 * MIB - 8192);
    expect_map(&fix, vd_range(4 * MIB - 8192, GIB / 2), VD_MAP_ZERO, true, MIB);
    assert_int_equal(fill(&fix, 4 * MIB, 4096, 1), 0);
    expect_map(&fix, vd_range(4 * MIB - 8192, GIB / 2), VD_MAP_ZERO, true, 8192);
    expect_map(&fix, vd_range(4 * MIB + 512, GIB / 2), VD_MAP_DATA, true, 4096 - 512);
    /* Zero because nothing is there, next to zero because an entry says so. */
    fixture_close(&fix);
    fixture_destroy(&fix);

    fixture_create(&fix, 4096, 1, GIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    zero(&fix, 8192, 4096, 0);
    expect_map(&fix, vd_range(0, GIB), VD_MAP_ZERO, false, 8192);
    expect_map(&fix, vd_range(8192, GIB - 8192), VD_MAP_ZERO, true, 4096);
    fixture_destroy(&fix);
}

/* An image with one table, whose first entry and whose L1 entry tests then spoil. */
static uint64_t with_table(struct fixture *fix)
{
    fixture_create(fix, 65536, 2, MIB, NULL);
    fixture_open(fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(fix, 0, MIB, 4), 0);
    fixture_close(fix);
    return l1_in_file(fix, 0);
}

static void expect_bad(struct fixture *fix, uint64_t entry, uint64_t value, const char *place)
{
    struct vd_mapping mapping;
    struct vdisk_error err = {0};
    char word[32];
    put_u64(fix->memory, entry, value);
    fixture_open(fix, VD_FORMAT_WRITE);
    assert_int_equal(vd_format_map(fix->format, vd_range(0, MIB), &mapping, &err), -EBADMSG);
    snprintf(word, sizeof(word), "0x%llx", (unsigned long long)value);
    assert_non_null(strstr(err.message, place));
    assert_non_null(strstr(err.message, word));
    VT_FAILS(EBADMSG, vd_format_map_for_write(fix->format, vd_range(0, 512), false, &mapping,
                                              &vt_err)); /* no more changes */
    vd_format_close(fix->format, NULL);
    fix->format = NULL;
}

/* Q8 */
static void test_bad_offsets(void **state)
{
    (void)state;
    struct fixture fix;
    uint64_t table = with_table(&fix);
    uint64_t end = length_of(fix.memory);
    uint64_t l1_end = first_free(&fix);
    const uint64_t bad_tables[] = {1,
                                   512,
                                   65536,
                                   l1_end - 65536,
                                   table + 512,
                                   end,
                                   end - 65536,
                                   UINT64_MAX & ~UINT64_C(65535),
                                   UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof(bad_tables) / sizeof(bad_tables[0]); i++)
        expect_bad(&fix, l1_of(&fix), bad_tables[i], "L1 entry 0");
    put_u64(fix.memory, l1_of(&fix), table);
    const uint64_t bad_data[] = {2,
                                 512,
                                 65536,
                                 l1_end - 65536,
                                 end - 512,
                                 end,
                                 UINT64_MAX & ~UINT64_C(65535),
                                 UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof(bad_data) / sizeof(bad_data[0]); i++)
        expect_bad(&fix, table, bad_data[i], "L2 entry 0 in the table of L1 entry 0");

    /* A run ends before an entry that is bad, and before it would run out of the file. */
    put_u64(fix.memory, table, end - 65536);
    put_u64(fix.memory, table + 8, end);
    fixture_open(&fix, 0);
    expect_map(&fix, vd_range(0, MIB), VD_MAP_DATA, true, 65536);
    fixture_destroy(&fix);
}

/* Who reads while somebody else writes sees that the file has grown. */
static void test_growing_file(void **state)
{
    (void)state;
    struct fixture fix;
    struct vd_format *other;
    fixture_create(&fix, 4096, 1, MIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    VT_OK(vd_format_open(qed_driver(), fix.memory, NULL, &other, &vt_err));
    assert_int_equal(fill(&fix, 0, 4096, 8), 0);
    flush(&fix);
    struct vd_mapping mapping;
    VT_OK(vd_format_map(other, vd_range(0, 4096), &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_DATA);
    VT_OK(vd_format_close(other, &vt_err));
    fixture_destroy(&fix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_tables),    cmocka_unit_test(test_largest),
        cmocka_unit_test(test_kinds),        cmocka_unit_test(test_bad_offsets),
        cmocka_unit_test(test_growing_file),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
