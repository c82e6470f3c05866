/* SPDX-License-Identifier: MIT */
#include "drivers/check.h"
#include "serve/counters.h"

static void test_classes(void **state)
{
    (void)state;
    assert_int_equal(vd_latency_class(0), 0);
    assert_int_equal(vd_latency_class(15), 0);
    assert_int_equal(vd_latency_class(16), 1);
    for (unsigned i = 0; i + 1 < VDISK_LATENCY_CLASSES; i++) {
        assert_int_equal(vd_latency_class(vd_latency_limit(i) - 1), i);
        assert_int_equal(vd_latency_class(vd_latency_limit(i)), i + 1);
    }
    assert_int_equal(vd_latency_class(UINT64_MAX), VDISK_LATENCY_CLASSES - 1);
}

static void test_sums(void **state)
{
    (void)state;
    struct vd_counters counters = {0};
    struct vdisk_server_stats stats = {.struct_bytes = sizeof(stats)};
    vd_counters_add(&counters, VDISK_REQUEST_READ, 4096, 20, false);
    vd_counters_add(&counters, VDISK_REQUEST_READ, 512, 3, false);
    vd_counters_add(&counters, VDISK_REQUEST_READ, 512, 9, true);
    vd_counters_add(&counters, VDISK_REQUEST_FLUSH, 0, 5000, false);
    vd_counters_sum(&counters, &stats);
    vd_counters_sum(&counters, &stats);
    const struct vdisk_request_stats *reads = &stats.requests[VDISK_REQUEST_READ];
    assert_int_equal(reads->requests, 6);
    assert_int_equal(reads->errors, 2);
    assert_int_equal(reads->bytes, 2 * 4608);
    assert_int_equal(reads->total_us, 64);
    assert_int_equal(reads->latencies[0], 4);
    assert_int_equal(reads->latencies[1], 2);
    assert_int_equal(stats.requests[VDISK_REQUEST_FLUSH].requests, 2);
    assert_int_equal(stats.requests[VDISK_REQUEST_WRITE].requests, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_sums),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
