/* SPDX-License-Identifier: MIT */
/* storage/mem: what the contract does not ask for: the memory it takes, and gives back. */
#include "drivers/check.h"

#include "storage/storage.h"

#define PAGE 65536u

static uint64_t allocated(struct vd_storage *storage)
{
    uint64_t bytes = 0;
    VT_OK(vd_storage_allocated(storage, &bytes, &vt_err));
    return bytes;
}

static void test_is_sparse(void **state)
{
    (void)state;
    struct vd_storage *storage = NULL;
    VT_OK(vd_storage_mem_open(UINT64_C(64) << 30, &storage, &vt_err));
    assert_int_equal(allocated(storage), 0);

    VT_OK(vd_storage_pwrite(storage, "ab", 2, PAGE - 1, &vt_err));
    assert_int_equal(allocated(storage), 2 * PAGE);
    struct vd_storage_extent extent;
    VT_OK(vd_storage_extent(storage, vd_range(0, 4 * PAGE), &extent, &vt_err));
    assert_int_equal(extent.kind, VD_STORAGE_DATA);
    assert_int_equal(extent.length, 2 * PAGE);
    VT_OK(vd_storage_extent(storage, vd_range(2 * PAGE, 2 * PAGE), &extent, &vt_err));
    assert_int_equal(extent.kind, VD_STORAGE_HOLE);
    assert_int_equal(extent.length, 2 * PAGE);

    VT_OK(vd_storage_discard(storage, vd_range(0, PAGE), &vt_err));
    assert_int_equal(allocated(storage), PAGE);
    VT_OK(vd_storage_resize(storage, PAGE, &vt_err));
    assert_int_equal(allocated(storage), 0);
    vd_storage_close(storage);
}

static void test_promises(void **state)
{
    (void)state;
    struct vd_storage *storage = NULL;
    VT_OK(vd_storage_mem_open(0, &storage, &vt_err));
    assert_true(vd_storage_is_writable(storage));
    assert_false(vd_storage_identity(storage).known);
    assert_int_equal(vd_storage_caps(storage), VD_STORAGE_CAN_WRITE | VD_STORAGE_CAN_RESIZE |
                                                   VD_STORAGE_CAN_DISCARD | VD_STORAGE_CAN_EXTENTS |
                                                   VD_STORAGE_FAST_ZEROES);
    VT_OK(vd_storage_flush(storage, &vt_err));
    vd_storage_close(storage);
    vd_storage_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_is_sparse),
        cmocka_unit_test(test_promises),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
