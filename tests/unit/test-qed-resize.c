/* SPDX-License-Identifier: MIT */
/* QED images that become larger and smaller, lose their backing file, or all their data. */
#include "qed-fixture.h"

static void resize_to(struct fixture *fix, uint64_t size, uint64_t backing_bytes)
{
    struct vd_resize resize = {.size = size, .backing_bytes = backing_bytes};
    VT_OK(vd_format_resize(fix->format, &resize, &vt_err));
    assert_int_equal(vd_format_size(fix->format), size);
    assert_int_equal(get_u64(fix->memory, 48), size);
}

/* What was cut off does not come back, whatever was allocated there. */
static void test_cut_off(void **state)
{
    (void)state;
    for (unsigned closes = 0; closes < 2; closes++) {
        struct fixture fix;
        fixture_create(&fix, 4096, 1, 8 * MIB, NULL);
        fixture_open(&fix, VD_FORMAT_WRITE);
        assert_int_equal(fill(&fix, 0, 4 * MIB, 1), 0);
        zero(&fix, 6 * MIB, 65536, 0);
        resize_to(&fix, MIB + 512, 0);
        expect(&fix, 0, MIB + 512, 1);
        if (closes)
            fixture_reopen(&fix);
        /* Also what a writer would leave that does not clean up. */
        put_run(fix.memory, l2_in_file(&fix, 2 * MIB), 4096, 0xee);
        put_run(fix.memory, l2_in_file(&fix, MIB) + 512, 4096 - 512, 0xee);
        resize_to(&fix, 8 * MIB, 0);
        expect(&fix, 0, MIB + 512, 1);
        expect(&fix, MIB + 512, 7 * MIB - 512, 0);
        fixture_reopen(&fix);
        expect(&fix, 0, MIB + 512, 1);
        expect(&fix, MIB + 512, 7 * MIB - 512, 0);
        fixture_destroy(&fix);
    }
}

/* Who makes it larger without looking, as QEMU does, finds zeros all the same. */
static void test_punched(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 65536, 1, 8 * MIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 8 * MIB, 1), 0);
    resize_to(&fix, MIB + 4096, 0);
    fixture_close(&fix);
    put_u64(fix.memory, 48, 8 * MIB);
    fixture_open(&fix, 0);
    expect(&fix, 0, MIB + 4096, 1);
    expect(&fix, MIB + 4096, 7 * MIB - 4096, 0);
    fixture_destroy(&fix);
}

/* The header first, and durable, when it shrinks; last when it grows. */
static void test_order(void **state)
{
    (void)state;
    struct fixture fix;
    size_t entries;
    fixture_create(&fix, 4096, 1, MIB, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, MIB, 1), 0);
    flush(&fix);
    vt_trace_reset(fix.file);
    resize_to(&fix, 4096, 0);
    const struct vt_record *records = vt_trace_records(fix.file, &entries);
    size_t header = 0;
    while (records[header].call != VT_WRITE)
        assert_int_equal(records[header++].call, VT_FLUSH);
    assert_int_equal(records[header].range.offset, 0);
    assert_int_equal(records[header + 1].call, VT_FLUSH);

    put_run(fix.memory, l2_in_file(&fix, 8192), 4096, 0xee);
    vt_trace_reset(fix.file);
    resize_to(&fix, MIB, 0);
    records = vt_trace_records(fix.file, &entries);
    assert_int_equal(records[entries - 1].call, VT_FLUSH);
    assert_int_equal(records[entries - 2].call, VT_WRITE);
    assert_int_equal(records[entries - 2].range.offset, 0);
    assert_int_equal(records[entries - 3].call, VT_FLUSH);
    expect(&fix, 4096, MIB - 4096, 0);
    fixture_destroy(&fix);
}

/* What is added does not show the backing disk; what lies behind its end needs no entries. */
static void test_backing(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 65536, 1, MIB, "base.raw");
    fixture_open(&fix, VD_FORMAT_WRITE);
    resize_to(&fix, 16 * MIB, 2 * MIB + 512);
    expect_map(&fix, vd_range(0, 16 * MIB), VD_MAP_BACKING, false, MIB);
    expect_map(&fix, vd_range(MIB, 15 * MIB), VD_MAP_ZERO, true, MIB + 65536);
    expect_map(&fix, vd_range(2 * MIB + 65536, MIB), VD_MAP_BACKING, false, MIB);
    assert_int_equal(l2_in_file(&fix, MIB), 1); /* durable with the size */
    fixture_destroy(&fix);
}

static void test_limits(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 4096, 1, 0, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    resize_to(&fix, GIB, 0);
    struct vd_resize resize = {.size = GIB + 512};
    VT_FAILS(EINVAL, vd_format_resize(fix.format, &resize, &vt_err));
    resize.size = 1000;
    VT_FAILS(EINVAL, vd_format_resize(fix.format, &resize, &vt_err));
    resize = (struct vd_resize){.size = MIB, .preallocation = VDISK_PREALLOCATION_FULL};
    VT_FAILS(EINVAL, vd_format_resize(fix.format, &resize, &vt_err));
    assert_int_equal(fill(&fix, GIB - 512, 512, 1), 0);
    resize_to(&fix, 0, 0);
    fixture_reopen(&fix);
    assert_int_equal(vd_format_size(fix.format), 0);
    resize_to(&fix, GIB, 0);
    expect(&fix, GIB - MIB, MIB, 0);
    fixture_destroy(&fix);

    /* Over the whole of an image with tables of 1 GiB, in next to no time. */
    fixture_create(&fix, 64u << 20, 16, 512, NULL);
    fixture_open(&fix, VD_FORMAT_WRITE);
    resize_to(&fix, VD_QED_SIZE_MAX, 0);
    resize_to(&fix, 512, 0);
    assert_true(vt_trace_bytes(fix.file, VT_READ) < MIB);
    fixture_destroy(&fix);
}

/* All is backing again, the file as after creation, and goes on to work. */
static void test_empty(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 65536, 4, 8 * GIB, "base.raw");
    uint64_t new_bytes = length_of(fix.memory);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, MIB, BACKING_BYTE), 0);
    assert_int_equal(fill(&fix, 5 * GIB, MIB, BACKING_BYTE), 0);
    VT_OK(vd_format_empty(fix.format, &vt_err));
    expect_map(&fix, vd_range(0, 8 * GIB), VD_MAP_BACKING, false, 8 * GIB);
    assert_int_equal(length_of(fix.memory), new_bytes);
    assert_int_equal(fill(&fix, 5 * GIB, 512, 9), 0);
    expect(&fix, 5 * GIB, 512, 9);
    expect(&fix, 5 * GIB + 512, 65024, BACKING_BYTE);
    fixture_reopen(&fix);
    expect(&fix, 5 * GIB, 512, 9);
    expect_map(&fix, vd_range(0, 4 * GIB), VD_MAP_BACKING, false, 4 * GIB);
    fixture_destroy(&fix);
}

/* L1 is empty durably before the file is cut: no entry ever leads out of it. */
static void test_empty_order(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 65536, 4, MIB, "base.raw");
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 512, BACKING_BYTE), 0);
    flush(&fix);
    vt_trace_reset(fix.file);
    VT_OK(vd_format_empty(fix.format, &vt_err));
    size_t entries;
    const struct vt_record *records = vt_trace_records(fix.file, &entries);
    static const enum vt_call calls[] = {VT_FLUSH, VT_ZERO, VT_FLUSH, VT_RESIZE, VT_FLUSH};
    assert_int_equal(entries, sizeof(calls) / sizeof(calls[0]));
    for (size_t i = 0; i < entries; i++)
        assert_int_equal(records[i].call, calls[i]);
    fixture_destroy(&fix);
}

static void test_set_backing(void **state)
{
    (void)state;
    struct fixture fix;
    struct vd_format_info info;
    struct vd_backing backing = {.name = "other.qed", .format = "qed"};
    fixture_create(&fix, 65536, 4, MIB, "base.raw");
    fixture_open(&fix, VD_FORMAT_WRITE);
    VT_OK(vd_format_info(fix.format, &info, &vt_err));
    assert_string_equal(info.backing_name, "base.raw");
    assert_string_equal(info.backing_format, "raw");
    VT_OK(vd_format_set_backing(fix.format, &backing, &vt_err));
    VT_OK(vd_format_info(fix.format, &info, &vt_err));
    assert_string_equal(info.backing_name, "other.qed");
    assert_null(info.backing_format); /* the format has no place for it */
    expect_map(&fix, vd_range(0, MIB), VD_MAP_BACKING, false, MIB);
    VT_OK(vd_format_set_backing(fix.format, NULL, &vt_err));
    expect_map(&fix, vd_range(0, MIB), VD_MAP_ZERO, false, MIB);
    fixture_reopen(&fix);
    VT_OK(vd_format_info(fix.format, &info, &vt_err));
    assert_null(info.backing_name);
    assert_int_equal(info.cluster_bytes, 65536);
    fixture_destroy(&fix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_off),     cmocka_unit_test(test_punched),
        cmocka_unit_test(test_order),       cmocka_unit_test(test_backing),
        cmocka_unit_test(test_limits),      cmocka_unit_test(test_empty),
        cmocka_unit_test(test_empty_order), cmocka_unit_test(test_set_backing),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
