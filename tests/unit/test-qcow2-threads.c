/* SPDX-License-Identifier: MIT */
/*
 * Threads on a qcow2 image: threads.h.
 *
 * VD_QCOW2_THREAD_OPS: operations of each thread, default 1500.
 */
#include "threads.h"

static void test_disjoint(void **state)
{
    (void)state;
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create), .size = THREADS_DISK, .cluster_bytes = CLUSTER};
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    run_threads(vd_format_find("qcow2", NULL), &create, "VD_QCOW2_THREAD_OPS", &result);
    assert_int_equal(result.corruptions + result.check_errors + result.leaks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disjoint),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
