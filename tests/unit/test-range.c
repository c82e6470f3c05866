/* SPDX-License-Identifier: MIT */
/* util/range: the corners where sums wrap. */
#include "drivers/check.h"

#include "util/range.h"

static void test_within(void **state)
{
    (void)state;
    assert_true(vd_range_is_within(vd_range(0, 0), 0));
    assert_true(vd_range_is_within(vd_range(10, 0), 10));
    assert_false(vd_range_is_within(vd_range(11, 0), 10));
    assert_true(vd_range_is_within(vd_range(0, 10), 10));
    assert_false(vd_range_is_within(vd_range(0, 11), 10));
    assert_false(vd_range_is_within(vd_range(1, 10), 10));
    /* These wrap to something small. */
    assert_false(vd_range_is_within(vd_range(UINT64_MAX, 1), 10));
    assert_false(vd_range_is_within(vd_range(2, UINT64_MAX), 10));
    assert_false(vd_range_is_within(vd_range(UINT64_MAX - 4, 10), UINT64_MAX));
    assert_true(vd_range_is_within(vd_range(UINT64_MAX, 0), UINT64_MAX));
    assert_true(vd_range_is_within(vd_range(UINT64_MAX - 1, 1), UINT64_MAX));
    assert_true(vd_range_is_within(vd_range(0, UINT64_MAX), UINT64_MAX));
    assert_false(vd_range_is_within(vd_range(1, UINT64_MAX), UINT64_MAX));
}

/* Against counting, for all small ranges. */
static void test_overlap(void **state)
{
    (void)state;
    for (uint64_t a = 0; a < 6; a++)
        for (uint64_t a_length = 0; a_length < 6; a_length++)
            for (uint64_t b = 0; b < 6; b++)
                for (uint64_t b_length = 0; b_length < 6; b_length++) {
                    unsigned both = 0;
                    for (uint64_t i = 0; i < 12; i++)
                        both += i >= a && i < a + a_length && i >= b && i < b + b_length;
                    /* An empty range inside another one is no stretch, but it is in the way. */
                    if (a_length && b_length)
                        assert_int_equal(
                            vd_ranges_overlap(vd_range(a, a_length), vd_range(b, b_length)),
                            both > 0);
                }
    assert_true(vd_ranges_overlap(vd_range(0, UINT64_MAX), vd_range(UINT64_MAX - 1, 1)));
}

static void test_rounding(void **state)
{
    (void)state;
    for (uint64_t unit = 1; unit <= 64; unit *= 2)
        for (uint64_t value = 0; value < 300; value++) {
            uint64_t down = vd_round_down(value, unit);
            uint64_t up = vd_round_up(value, unit);
            assert_true(down <= value && value - down < unit && down % unit == 0);
            assert_true(up >= value && up - value < unit && up % unit == 0);
            assert_int_equal(vd_is_aligned(value, unit), value % unit == 0);
            assert_int_equal(vd_div_up(value, unit), up / unit);
        }
    assert_true(vd_round_down(UINT64_MAX, 512) == UINT64_MAX - 511);
    assert_true(vd_round_up(UINT64_MAX - 511, 512) == UINT64_MAX - 511);
    assert_true(vd_div_up(UINT64_MAX, 1) == UINT64_MAX);
    assert_true(vd_div_up(UINT64_MAX, 2) == UINT64_C(1) << 63);
    assert_true(vd_div_up(UINT64_MAX, UINT64_MAX) == 1);
    assert_true(vd_div_up(0, UINT64_MAX) == 0);
}

static void test_expand(void **state)
{
    (void)state;
    for (uint64_t offset = 0; offset < 40; offset++)
        for (uint64_t length = 1; length < 40; length++) {
            struct vd_range whole = vd_range_expand(vd_range(offset, length), 16);
            assert_true(whole.offset <= offset && offset - whole.offset < 16);
            assert_true(vd_range_end(whole) >= offset + length);
            assert_true(vd_range_end(whole) - (offset + length) < 16);
            assert_true(vd_is_aligned(whole.offset | whole.length, 16));
        }
}

static void test_min_max(void **state)
{
    (void)state;
    assert_true(vd_min(UINT64_MAX, 1) == 1 && vd_min(1, UINT64_MAX) == 1);
    assert_true(vd_max(UINT64_MAX, 1) == UINT64_MAX && vd_max(1, UINT64_MAX) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_within),   cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_rounding), cmocka_unit_test(test_expand),
        cmocka_unit_test(test_min_max),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("range", tests, NULL, NULL);
}
