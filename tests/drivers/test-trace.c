/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/snap.h"
#include "drivers/trace.h"

static void make_calls(struct vd_storage *st)
{
    char buf[100] = {0};
    uint64_t size;
    struct vd_storage_extent extent;
    VT_OK(vd_storage_pwrite(st, buf, 100, 5, &vt_err));
    VT_OK(vd_storage_pwrite(st, buf, 7, 300, &vt_err));
    VT_OK(vd_storage_pread(st, buf, 50, 10, &vt_err));
    VT_FAILS(EIO, vd_storage_pread(st, buf, 50, 1000000, &vt_err));
    VT_OK(vd_storage_write_zeroes(st, vd_range(1, 2), 0, &vt_err));
    VT_OK(vd_storage_discard(st, vd_range(3, 4), &vt_err));
    VT_OK(vd_storage_flush(st, &vt_err));
    VT_OK(vd_storage_resize(st, 4096, &vt_err));
    VT_OK(vd_storage_preallocate(st, vd_range(0, 10), &vt_err));
    VT_OK(vd_storage_extent(st, vd_range(0, 4096), &extent, &vt_err));
    VT_OK(vd_storage_size(st, &size, &vt_err));
    assert_int_equal(size, 4096);
}

static void test_counts_and_records(void **unused)
{
    (void)unused;
    struct vd_storage *inner, *st;
    VT_OK(vt_snap_open(0, &inner, &vt_err));
    VT_OK(vt_trace_open(inner, VT_OWN, NULL, &st, &vt_err));
    make_calls(st);

    static const struct vt_record expected[] = {
        {VT_WRITE, 0, {5, 100}},        {VT_WRITE, 0, {300, 7}},   {VT_READ, 0, {10, 50}},
        {VT_READ, -EIO, {1000000, 50}}, {VT_ZERO, 0, {1, 2}},      {VT_DISCARD, 0, {3, 4}},
        {VT_FLUSH, 0, {0, 0}},          {VT_RESIZE, 0, {0, 4096}}, {VT_PREALLOCATE, 0, {0, 10}},
        {VT_EXTENT, 0, {0, 4096}},      {VT_SIZE, 0, {0, 0}},
    };
    size_t entries;
    const struct vt_record *records = vt_trace_records(st, &entries);
    assert_int_equal(entries, sizeof(expected) / sizeof(expected[0]));
    for (size_t i = 0; i < entries; i++) {
        assert_int_equal(records[i].call, expected[i].call);
        assert_int_equal(records[i].result, expected[i].result);
        assert_int_equal(records[i].range.offset, expected[i].range.offset);
        assert_int_equal(records[i].range.length, expected[i].range.length);
    }
    assert_int_equal(vt_trace_count(st, VT_WRITE), 2);
    assert_int_equal(vt_trace_bytes(st, VT_WRITE), 107);
    assert_int_equal(vt_trace_count(st, VT_READ), 2);
    assert_int_equal(vt_trace_bytes(st, VT_READ), 50); /* a failed read moves nothing */
    assert_int_equal(vt_trace_count(st, VT_FLUSH), 1);

    vt_trace_reset(st);
    assert_int_equal(vt_trace_count(st, VT_WRITE), 0);
    vt_trace_records(st, &entries);
    assert_int_equal(entries, 0);
    vd_storage_close(st);
}

static void test_prints_and_borrows(void **unused)
{
    (void)unused;
    struct vd_storage *inner, *st;
    char text[4096] = "";
    FILE *print = fmemopen(text, sizeof(text), "w");
    assert_non_null(print);
    VT_OK(vt_snap_open(0, &inner, &vt_err));
    VT_OK(vt_trace_open(inner, VT_BORROW, print, &st, &vt_err));
    VT_OK(vd_storage_pwrite(st, "abc", 3, 20, &vt_err));
    VT_OK(vd_storage_flush(st, &vt_err));
    fclose(print);
    assert_string_equal(text, "write 20+3 = 0\nflush 0+0 = 0\n");
    vd_storage_close(st);

    char buf[3];
    VT_OK(vd_storage_pread(inner, buf, 3, 20, &vt_err)); /* still open */
    assert_memory_equal(buf, "abc", 3);
    vd_storage_close(inner);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_and_records),
        cmocka_unit_test(test_prints_and_borrows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
