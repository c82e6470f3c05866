/* SPDX-License-Identifier: MIT */
/* Writing QED images: where clusters come from, what is written when, and zero clusters. */
#include "qed-fixture.h"

static const uint32_t cluster_sizes[] = {4096, 65536, 2u << 20, 64u << 20};
static const uint32_t table_sizes[] = {1, 4, 16};

#define EACH_GEOMETRY(cluster, table)                                                             \
    for (size_t c_ = 0; c_ < 4; c_++)                                                             \
        for (size_t t_ = 0; t_ < 3; t_++)                                                         \
            for (uint32_t cluster = cluster_sizes[c_], table = table_sizes[t_], once_ = 1; once_; \
                 once_ = 0)

/* Q5: the table first, then its clusters, in the order of their writes. */
static void test_order(void **state)
{
    (void)state;
    EACH_GEOMETRY(cluster, table)
    {
        struct fixture fix;
        uint64_t span = vd_qed_geometry_of(cluster, table).table_span;
        uint64_t size = vd_min(vd_qed_geometry_of(cluster, table).size_max,
                               span > (UINT64_C(1) << 61) ? span : span * 2);
        uint64_t last = vd_round_down(size - 512, cluster);
        fixture_create(&fix, cluster, table, size, NULL);
        fixture_open(&fix, VD_FORMAT_WRITE);
        uint64_t end = first_free(&fix);
        assert_int_equal(fill(&fix, 512, 512, 1), 0);
        uint64_t host = end + fix.geometry.table_bytes;
        assert_int_equal(map(&fix, 512, 512).host_offset, host + 512);
        assert_int_equal(fill(&fix, last + 512, 512, 2), 0);
        bool has_two = vd_qed_l1_index(&fix.geometry, last) > 0;
        uint64_t next = host + cluster + (has_two ? fix.geometry.table_bytes : 0);
        assert_int_equal(map(&fix, last, 512).host_offset, next);
        expect(&fix, 0, 512, 0);
        expect(&fix, 512, 512, 1);
        expect(&fix, 1024, cluster - 1024, 0);
        expect(&fix, last, 512, 0);
        expect(&fix, last + 512, 512, 2);
        assert_int_equal(flushes(&fix), 0); /* the write path does not */
        assert_int_equal(l1_in_file(&fix, 0), 0);
        fixture_close(&fix);

        assert_int_equal(l1_in_file(&fix, 0), end);
        assert_int_equal(l2_in_file(&fix, 512), host);
        assert_int_equal(l2_in_file(&fix, last), next);
        assert_int_equal(length_of(fix.memory), next + cluster);
        fixture_open(&fix, 0);
        expect(&fix, 512, 512, 1);
        expect(&fix, last + 512, 512, 2);
        fixture_destroy(&fix);
    }
}

/* One mapping for a large write, and one for reading it, in spite of how it came about. */
static void test_contiguous(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 4096, 4, 64 * MIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    struct vd_mapping mapping;
    VT_OK(vd_format_map_for_write(fix.format, vd_range(8192, MIB), true, &mapping, &vt_err));
    assert_true(mapping.fresh);
    assert_int_equal(mapping.guest.length, MIB);
    assert_int_equal(mapping.fill, VD_FILL_NONE);
    assert_int_equal(map(&fix, 8192, 512).kind, VD_MAP_ZERO); /* Q6 */
    put_run(mapping.storage, mapping.host_offset, MIB, 5);
    vd_format_write_done(fix.format, &mapping, true);
    for (uint64_t offset = 8192 + MIB; offset < 8 * MIB; offset += 512) /* crosses pages of L2 */
        assert_int_equal(fill(&fix, offset, 512, 5), 0);
    expect_map(&fix, vd_range(8192, 56 * MIB), VD_MAP_DATA, true, 8 * MIB - 8192);
    expect_map(&fix, vd_range(8 * MIB, 56 * MIB), VD_MAP_ZERO, false, 56 * MIB);
    expect_map(&fix, vd_range(0, 56 * MIB), VD_MAP_ZERO, false, 8192);
    fixture_reopen(&fix);
    expect_map(&fix, vd_range(10000, 56 * MIB), VD_MAP_DATA, true, 8 * MIB - 10000);
    fixture_destroy(&fix);
}

/* Which calls on the file between two flushes of it? */
static void expect_calls(struct fixture *fix, const char *calls)
{
    size_t entries;
    const struct vt_record *records = vt_trace_records(fix->file, &entries);
    char seen[32] = "";
    size_t used = 0;
    for (size_t i = 0; i < entries && used + 1 < sizeof(seen); i++) {
        if (records[i].call == VT_WRITE)
            seen[used++] = records[i].range.offset < first_free(fix) ? '1' : '2';
        else if (records[i].call == VT_FLUSH)
            seen[used++] = 'F';
    }
    assert_string_equal(seen, calls);
    vt_trace_reset(fix->file);
}

/* Q1, Q2: a new table before its L1 entry; entries of an old one after the data. */
static void test_flush(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 65536, 4, 8 * GIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    flush(&fix);
    expect_calls(&fix, "F");
    assert_int_equal(fill(&fix, 0, 512, 1), 0);
    vt_trace_reset(fix.file);
    flush(&fix);
    expect_calls(&fix, "2F1F");
    assert_int_equal(fill(&fix, 0, 512, 2), 0); /* in place */
    vt_trace_reset(fix.file);
    flush(&fix);
    expect_calls(&fix, "F");
    assert_int_equal(fill(&fix, 65536, 512, 3), 0); /* in the table that is there */
    vt_trace_reset(fix.file);
    flush(&fix);
    expect_calls(&fix, "F2F");
    assert_int_equal(fill(&fix, 4 * GIB, 512, 4), 0); /* both */
    assert_int_equal(fill(&fix, 128 * KIB, 512, 4), 0);
    vt_trace_reset(fix.file);
    flush(&fix);
    expect_calls(&fix, "2F12F");
    fixture_destroy(&fix);
}

/* Changes do not outgrow the memory for tables: they are written when they take half of it. */
static void test_bounded_memory(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 4096, 1, GIB, NULL);
    fixture_open_with(&fix, (struct vd_format_options){.flags = VD_FORMAT_WRITE, .cache_bytes = 1});
    for (uint64_t offset = 0; offset < GIB; offset += 2 * MIB) /* each in a table of its own */
        assert_int_equal(fill(&fix, offset, 4096, 9), 0);
    assert_in_range(flushes(&fix), 2 * 512 / 34, 2 * 512 / 28);
    for (uint64_t offset = 0; offset < GIB; offset += 2 * MIB)
        expect(&fix, offset, 4096, 9);
    fixture_reopen(&fix);
    for (uint64_t offset = 0; offset < GIB; offset += 2 * MIB)
        expect(&fix, offset, 4096, 9);
    fixture_destroy(&fix);
}

static void test_backing(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 65536, 4, MIB, "base.raw");
    fixture_open(&fix, VD_FORMAT_WRITE);
    expect_map(&fix, vd_range(0, MIB), VD_MAP_BACKING, false, MIB);
    assert_int_equal(fill(&fix, 65536 + 512, 512, 1), 0);
    expect_map(&fix, vd_range(0, MIB), VD_MAP_BACKING, false, 65536);
    expect(&fix, 65536, 512, BACKING_BYTE);
    expect(&fix, 65536 + 512, 512, 1);
    expect(&fix, 65536 + 1024, 65536 - 1024, BACKING_BYTE);

    /* What is not allocated is not asked for by who only looks. */
    struct vd_mapping mapping;
    VT_OK(vd_format_map_for_write(fix.format, vd_range(0, 512), false, &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_ZERO);
    fixture_destroy(&fix);
}

/* Q7, and what becomes a zero cluster. */
static void test_zero_clusters(void **state)
{
    (void)state;
    struct fixture fix;
    const uint64_t size = MIB + 512;
    fixture_create(&fix, 65536, 1, size, "base.raw");
    fixture_open(&fix, VD_FORMAT_WRITE);
    zero(&fix, 65536, 2 * 65536, 0);
    expect_map(&fix, vd_range(65536, MIB - 65536), VD_MAP_ZERO, true, 2 * 65536);
    uint64_t before = length_of(fix.memory);
    zero(&fix, 65536 + 512, 512, 0); /* a part of one is zero already */
    zero(&fix, MIB, 512, 0);         /* the last one is whole */
    assert_int_equal(length_of(fix.memory), before);
    expect_map(&fix, vd_range(MIB, 512), VD_MAP_ZERO, true, 512);
    assert_int_equal(fill(&fix, 65536 + 4096, 512, 7), 0);
    expect(&fix, 65536, 4096, 0);
    expect(&fix, 65536 + 4096, 512, 7);
    expect(&fix, 65536 + 4608, 65536 - 4608, 0);

    zero(&fix, 512 * KIB + 512, 65536 * 2, 0); /* parts, and one whole between them */
    expect(&fix, 512 * KIB, 512, BACKING_BYTE);
    expect(&fix, 512 * KIB + 512, 65536 * 2, 0);
    expect(&fix, 640 * KIB + 512, 65536 - 512, BACKING_BYTE);
    expect_map(&fix, vd_range(576 * KIB, 65536), VD_MAP_ZERO, true, 65536);
    expect_map(&fix, vd_range(640 * KIB, 65536), VD_MAP_DATA, true, 65536);

    before = length_of(fix.memory);
    zero(&fix, 0, 4096, VD_MAP_ZERO_DISCARD); /* what is behind may stay */
    expect_map(&fix, vd_range(0, MIB), VD_MAP_BACKING, false, 65536);
    zero(&fix, 512 * KIB, 65536, VD_MAP_ZERO_DISCARD); /* what is here is punched */
    expect(&fix, 512 * KIB, 65536, 0);
    assert_int_equal(length_of(fix.memory), before);
    fixture_reopen(&fix);
    assert_int_equal(l2_in_file(&fix, 128 * KIB), 1);
    assert_int_equal(l2_in_file(&fix, MIB), 1);
    expect(&fix, 128 * KIB, 65536, 0);
    expect(&fix, 512 * KIB, 65536, 0);
    expect(&fix, 65536 + 4096, 512, 7);
    fixture_destroy(&fix);
}

/* As map_for_write() and a failure of the write, after half of it was written. */
static void fail_write(struct fixture *fix, uint64_t offset, uint64_t length)
{
    struct vd_mapping mapping;
    VT_OK(vd_format_map_for_write(fix->format, vd_range(offset, length), true, &mapping, &vt_err));
    assert_true(mapping.fresh);
    assert_int_equal(mapping.guest.length, length);
    put_run(mapping.storage, mapping.host_offset, length, 0xee);
    vd_format_write_done(fix->format, &mapping, false);
}

/* Q5: clusters given back are used again, zeroed, or cut off. */
static void test_given_back(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 4096, 1, MIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    fail_write(&fix, 0, 8 * 4096);
    expect(&fix, 0, 8 * 4096, 0);
    uint64_t host = first_free(&fix) + 4096;
    uint64_t before = length_of(fix.memory);
    assert_int_equal(before, host + 8 * 4096);
    assert_int_equal(fill(&fix, 512, 512, 1), 0);
    assert_int_equal(map(&fix, 0, 512).host_offset, host);
    expect(&fix, 0, 512, 0); /* and nothing of what was written before */
    expect(&fix, 1024, 4096 - 1024, 0);
    assert_int_equal(fill(&fix, 65536, 2 * 4096, 2), 0);
    assert_int_equal(length_of(fix.memory), before);
    fail_write(&fix, 8 * 4096, 3 * 4096); /* from the rest of them */
    fixture_close(&fix);
    assert_int_equal(length_of(fix.memory), host + 3 * 4096);
    fixture_open(&fix, 0);
    expect(&fix, 512, 512, 1);
    expect(&fix, 65536, 2 * 4096, 2);
    expect(&fix, 4096, 7 * 4096, 0);
    fixture_destroy(&fix);
}

/* No room: the request fails, and nothing else changes. */
static void test_no_space(void **state)
{
    (void)state;
    struct fixture fix;
    struct vd_mapping mapping;
    struct vt_fault_plan full = {
        .calls = VT_CALL_BIT(VT_RESIZE), .nth = 2, .error = ENOSPC, .forever = true};
    fixture_create(&fix, 65536, 1, MIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    vt_fault_set(fix.fault, full); /* there is room for the table only */
    VT_FAILS(ENOSPC,
             vd_format_map_for_write(fix.format, vd_range(0, 512), true, &mapping, &vt_err));
    VT_FAILS(ENOSPC,
             vd_format_map_for_write(fix.format, vd_range(0, 512), true, &mapping, &vt_err));
    expect(&fix, 0, MIB, 0);
    vt_fault_set(fix.fault, (struct vt_fault_plan){0});
    assert_int_equal(fill(&fix, 0, 512, 1), 0);
    fixture_reopen(&fix);
    expect(&fix, 0, 512, 1);
    assert_int_equal(length_of(fix.memory), first_free(&fix) + 2 * 65536);
    fixture_destroy(&fix);
}

/*
 * The space of a table is set aside with it, so that a flush does not find the disk full.  What a
 * request that failed so had taken is used by the next ones.
 */
static void test_set_aside(void **state)
{
    (void)state;
    struct fixture fix;
    struct vd_mapping mapping;
    fixture_create(&fix, 65536, 4, 8 * GIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    vt_fault_set(fix.fault, (struct vt_fault_plan){
                                .calls = VT_CALL_BIT(VT_PREALLOCATE), .nth = 2, .error = ENOSPC});
    VT_FAILS(ENOSPC,
             vd_format_map_for_write(fix.format, vd_range(0, 512), true, &mapping, &vt_err));
    expect_map(&fix, vd_range(0, 8 * GIB), VD_MAP_ZERO, false, 8 * GIB);
    uint64_t table = first_free(&fix) + fix.geometry.table_bytes;
    assert_int_equal(fill(&fix, 0, 4 * 65536, 1), 0);
    assert_int_equal(map(&fix, 0, 512).host_offset, first_free(&fix));
    assert_int_equal(length_of(fix.memory), table + fix.geometry.table_bytes);
    size_t entries;
    const struct vt_record *records = vt_trace_records(fix.file, &entries);
    bool is_set_aside = false;
    for (size_t i = 0; i < entries; i++)
        if (records[i].call == VT_PREALLOCATE && records[i].range.offset == table)
            is_set_aside = records[i].range.length == fix.geometry.table_bytes;
    assert_true(is_set_aside);
    fixture_reopen(&fix);
    expect(&fix, 0, 4 * 65536, 1);
    assert_int_equal(l1_in_file(&fix, 0), table);
    fixture_destroy(&fix);
}

/* After metadata could not be written, nothing is changed any more. */
static void test_failed_flush(void **state)
{
    (void)state;
    struct fixture fix;
    struct vd_mapping mapping;
    fixture_create(&fix, 65536, 1, MIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 512, 1), 0);
    vt_fault_set(fix.fault,
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_FLUSH), .nth = 2, .error = EIO});
    VT_FAILS(EIO, vd_format_flush(fix.format, &vt_err));
    VT_FAILS(EIO, vd_format_flush(fix.format, &vt_err));
    VT_FAILS(EIO, vd_format_map_for_write(fix.format, vd_range(0, 512), false, &mapping, &vt_err));
    expect(&fix, 0, 512, 1);
    VT_FAILS(EIO, vd_format_close(fix.format, &vt_err));
    fix.format = NULL;
    fixture_destroy(&fix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),      cmocka_unit_test(test_contiguous),
        cmocka_unit_test(test_flush),      cmocka_unit_test(test_bounded_memory),
        cmocka_unit_test(test_backing),    cmocka_unit_test(test_zero_clusters),
        cmocka_unit_test(test_given_back), cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_set_aside),  cmocka_unit_test(test_failed_flush),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
