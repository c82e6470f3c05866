/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/fault.h"
#include "drivers/snap.h"

static struct vd_storage *open_over_zeros(void)
{
    struct vd_storage *inner, *st;
    VT_OK(vt_snap_open(4096, &inner, &vt_err));
    VT_OK(vt_fault_open(inner, VT_OWN, &st, &vt_err));
    return st;
}

static int call(struct vd_storage *st, enum vt_call kind, struct vdisk_error *err)
{
    char buf[16] = "0123456789abcde";
    uint64_t size;
    struct vd_storage_extent extent;
    switch (kind) {
    case VT_READ:
        return vd_storage_pread(st, buf, 16, 0, err);
    case VT_WRITE:
        return vd_storage_pwrite(st, buf, 16, 0, err);
    case VT_ZERO:
        return vd_storage_write_zeroes(st, vd_range(0, 16), 0, err);
    case VT_DISCARD:
        return vd_storage_discard(st, vd_range(0, 16), err);
    case VT_FLUSH:
        return vd_storage_flush(st, err);
    case VT_RESIZE:
        return vd_storage_resize(st, 4096, err);
    case VT_PREALLOCATE:
        return vd_storage_preallocate(st, vd_range(0, 16), err);
    case VT_EXTENT:
        return vd_storage_extent(st, vd_range(0, 16), &extent, err);
    default:
        return vd_storage_size(st, &size, err);
    }
}

static void test_each_kind_fails_once(void **unused)
{
    (void)unused;
    for (enum vt_call kind = 0; kind < VT_CALLS; kind++) {
        struct vd_storage *st = open_over_zeros();
        vt_fault_set(st, (struct vt_fault_plan){VT_CALL_BIT(kind), 2, EIO, false, 0});
        for (enum vt_call other = 0; other < VT_CALLS; other++)
            VT_OK(call(st, other, &vt_err));
        VT_FAILS(EIO, call(st, kind, &vt_err));
        VT_OK(call(st, kind, &vt_err));
        assert_int_equal(vt_fault_seen(st), 3);
        assert_int_equal(vt_fault_hits(st), 1);
        vd_storage_close(st);
    }
}

static void test_fails_from_then_on(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_over_zeros();
    uint32_t calls = VT_CALL_BIT(VT_WRITE) | VT_CALL_BIT(VT_FLUSH);
    vt_fault_set(st, (struct vt_fault_plan){calls, 2, ENOSPC, true, 0});
    VT_OK(call(st, VT_WRITE, &vt_err));
    VT_FAILS(ENOSPC, call(st, VT_FLUSH, &vt_err));
    VT_FAILS(ENOSPC, call(st, VT_WRITE, &vt_err));
    VT_OK(call(st, VT_READ, &vt_err));
    VT_FAILS(ENOSPC, call(st, VT_FLUSH, &vt_err));
    vt_fault_set(st, (struct vt_fault_plan){0});
    VT_OK(call(st, VT_FLUSH, &vt_err));
    vd_storage_close(st);
}

static void test_writes_a_prefix(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_over_zeros();
    char buf[16];
    uint32_t calls = VT_CALL_BIT(VT_WRITE) | VT_CALL_BIT(VT_ZERO);
    vt_fault_set(st, (struct vt_fault_plan){calls, 1, ENOSPC, true, 5});
    VT_FAILS(ENOSPC, call(st, VT_WRITE, &vt_err));
    VT_OK(vd_storage_pread(st, buf, 16, 0, &vt_err));
    assert_memory_equal(buf, "01234\0\0\0\0\0\0\0\0\0\0", 16);
    vt_fault_set(st, (struct vt_fault_plan){calls, 1, EIO, true, 2});
    VT_FAILS(EIO, call(st, VT_ZERO, &vt_err));
    VT_OK(vd_storage_pread(st, buf, 16, 0, &vt_err));
    assert_memory_equal(buf,
                        "\0\0"
                        "234\0\0\0\0\0\0\0\0\0\0",
                        16);
    vd_storage_close(st);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_fails_once),
        cmocka_unit_test(test_fails_from_then_on),
        cmocka_unit_test(test_writes_a_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
