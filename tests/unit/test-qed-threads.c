/* SPDX-License-Identifier: MIT */
/*
 * Threads on a QED image: threads.h.
 *
 * VD_QED_THREAD_OPS: operations of each thread, default 1500.
 */
#include "threads.h"

static void test_disjoint(void **state)
{
    (void)state;
    struct vdisk_create_options create = {.struct_bytes = sizeof(create),
                                          .size = THREADS_DISK,
                                          .cluster_bytes = CLUSTER,
                                          .table_clusters = 1};
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    run_threads(vd_format_find("qed", NULL), &create, "VD_QED_THREAD_OPS", &result);
    /* Clusters given back by failed writes may be left over within the file. */
    assert_int_equal(result.corruptions + result.check_errors, 0);
    assert_in_range(result.leaks, 0, THREADS * OWNED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disjoint),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
