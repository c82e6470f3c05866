/* SPDX-License-Identifier: MIT */
/* Runs of bits, beside a loop over single ones; the arithmetic of clusters. */
#include <string.h>

#include "drivers/check.h"
#include "drivers/random.h"
#include "format/addcow/addcow_bits.h"
#include "format/addcow/addcow_priv.h"

#define BYTES 96u
#define BITS  (BYTES * 8u)

static bool bit_of(const uint8_t *bits, uint64_t index)
{
    return (bits[index / 8] >> (index % 8)) & 1;
}

/* Long runs with a few changes, so that every way through the loops is taken. */
static void draw(struct vt_random *random, uint8_t *bits)
{
    memset(bits, vt_random_chance(random, 50) ? 0xFF : 0, BYTES);
    for (uint64_t i = vt_random_below(random, 4); i; i--) {
        uint64_t at = vt_random_below(random, BITS);
        bits[at / 8] ^= (uint8_t)(1u << (at % 8));
    }
}

static void test_run(void **state)
{
    (void)state;
    struct vt_random random = {.state = 20261121};
    uint8_t bits[BYTES];
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (unsigned round = 0; round < 20000; round++) {
        draw(&random, bits);
        uint64_t first = vt_random_below(&random, BITS);
        uint64_t limit = 1 + vt_random_below(&random, BITS - first);
        uint64_t expected = 1;
        bool is_set;
        while (expected < limit && bit_of(bits, first + expected) == bit_of(bits, first))
            expected++;
        assert_int_equal(vd_addcow_bits_run(bits, first, limit, &is_set), expected);
        assert_int_equal(is_set, bit_of(bits, first));
    }
}

static void test_fill_and_count(void **state)
{
    (void)state;
    struct vt_random random = {.state = 7};
    uint8_t bits[BYTES], expected[BYTES];
    for (unsigned round = 0; round < 5000; round++) {
        draw(&random, bits);
        memcpy(expected, bits, BYTES);
        uint64_t first = vt_random_below(&random, BITS);
        uint64_t count = vt_random_below(&random, BITS - first + 1);
        bool set = vt_random_chance(&random, 50);
        for (uint64_t i = first; i < first + count; i++)
            expected[i / 8] = (uint8_t)(set ? expected[i / 8] | 1u << (i % 8)
                                            : expected[i / 8] & ~(1u << (i % 8)));
        vd_addcow_bits_fill(bits, first, count, set);
        assert_memory_equal(bits, expected, BYTES);

        uint64_t ones = 0;
        size_t length = (size_t)vt_random_below(&random, BYTES + 1);
        for (uint64_t i = 0; i < length * 8; i++)
            ones += bit_of(bits, i);
        assert_int_equal(vd_addcow_bits_count(bits, length), ones);
    }
}

/* The lowest bit of a byte is the first: add-cow §2. */
static void test_order(void **state)
{
    (void)state;
    uint8_t bits[2] = {0x01, 0x80};
    bool is_set;
    assert_int_equal(vd_addcow_bits_run(bits, 0, 16, &is_set), 1);
    assert_true(is_set);
    assert_int_equal(vd_addcow_bits_run(bits, 1, 15, &is_set), 14);
    assert_false(is_set);
    vd_addcow_bits_fill(bits, 9, 1, true);
    assert_int_equal(bits[1], 0x82);
}

/* The example of the text of v10: 8 GiB have 131072 bits, 16 KiB. */
static void test_geometry(void **state)
{
    (void)state;
    static const struct {
        uint64_t size, clusters, bytes;
        uint8_t mask;
    } table[] = {
        {0, 0, 0, 0xFF},
        {512, 1, 1, 0x01},
        {65535, 1, 1, 0x01},
        {65536, 1, 1, 0x01},
        {65537, 2, 1, 0x03},
        {7 * 65536, 7, 1, 0x7F},
        {8 * 65536, 8, 1, 0xFF},
        {8 * 65536 + 1, 9, 2, 0x01},
        {UINT64_C(8) << 30, 131072, 16384, 0xFF},
        {UINT64_C(1) << 56, UINT64_C(1) << 40, UINT64_C(1) << 37, 0xFF},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        uint64_t clusters = vd_addcow_clusters(table[i].size, VD_ADDCOW_CLUSTER_BITS);
        assert_int_equal(clusters, table[i].clusters);
        assert_int_equal(vd_addcow_bitmap_bytes(clusters), table[i].bytes);
        assert_int_equal(vd_addcow_last_byte_mask(clusters), table[i].mask);
    }
    assert_int_equal(vd_addcow_size_max(VD_ADDCOW_CLUSTER_BITS), UINT64_C(1) << 56);
    struct vd_range touched = vd_addcow_clusters_of(vd_range(65535, 2), VD_ADDCOW_CLUSTER_BITS);
    assert_int_equal(touched.offset, 0);
    assert_int_equal(touched.length, 2);
}

static void test_size_limits(void **state)
{
    (void)state;
    uint64_t size;
    VT_OK(vd_addcow_size_of(0, 16, &size, &vt_err));
    assert_int_equal(size, 0);
    VT_OK(vd_addcow_size_of(1, 16, &size, &vt_err));
    assert_int_equal(size, 512);
    VT_OK(vd_addcow_size_of((UINT64_C(1) << 56) - 1, 16, &size, &vt_err));
    assert_int_equal(size, UINT64_C(1) << 56);
    VT_FAILS(EINVAL, vd_addcow_size_of((UINT64_C(1) << 56) + 1, 16, &size, &vt_err));
    VT_FAILS(EINVAL, vd_addcow_size_of(UINT64_MAX, 16, &size, &vt_err));
    VT_OK(vd_addcow_size_of(UINT64_C(1) << 49, 9, &size, &vt_err));
    VT_FAILS(EINVAL, vd_addcow_size_of((UINT64_C(1) << 49) + 1, 9, &size, &vt_err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),         cmocka_unit_test(test_fill_and_count),
        cmocka_unit_test(test_order),       cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_size_limits),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
