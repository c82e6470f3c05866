/* SPDX-License-Identifier: MIT */
/* util/endian: each byte in its place, on machines of either order. */
#include "drivers/check.h"

#include "util/endian.h"

#define VALUE UINT64_C(0x8122334455667788)

static void test_little(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x81};
    struct le16 a = le16_of((uint16_t)VALUE);
    struct le32 b = le32_of((uint32_t)VALUE);
    struct le64 c = le64_of(VALUE);
    assert_memory_equal(&a, bytes, 2);
    assert_memory_equal(&b, bytes, 4);
    assert_memory_equal(&c, bytes, 8);
    assert_int_equal(le16_get(a), (uint16_t)VALUE);
    assert_int_equal(le32_get(b), (uint32_t)VALUE);
    assert_true(le64_get(c) == VALUE);
}

static void test_big(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x81, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88};
    struct be16 a = be16_of((uint16_t)(VALUE >> 48));
    struct be32 b = be32_of((uint32_t)(VALUE >> 32));
    struct be64 c = be64_of(VALUE);
    assert_memory_equal(&a, bytes, 2);
    assert_memory_equal(&b, bytes, 4);
    assert_memory_equal(&c, bytes, 8);
    assert_int_equal(be16_get(a), (uint16_t)(VALUE >> 48));
    assert_int_equal(be32_get(b), (uint32_t)(VALUE >> 32));
    assert_true(be64_get(c) == VALUE);
}

/* They lie at any address, without padding. */
static void test_layout(void **state)
{
    (void)state;
    struct {
        uint8_t odd;
        struct le64 a;
        struct be32 b;
        struct le16 c;
    } packed;
    assert_int_equal(sizeof(packed), 15);
    packed.a = le64_of(VALUE);
    assert_true(le64_get(packed.a) == VALUE);
}

static void test_all_16(void **state)
{
    (void)state;
    for (uint32_t value = 0; value <= UINT16_MAX; value++) {
        struct le16 little = le16_of((uint16_t)value);
        struct be16 big = be16_of((uint16_t)value);
        assert_int_equal(little.bytes[0] | little.bytes[1] << 8, value);
        assert_int_equal(big.bytes[1] | big.bytes[0] << 8, value);
        assert_int_equal(le16_get(little), value);
        assert_int_equal(be16_get(big), value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_little),
        cmocka_unit_test(test_big),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_all_16),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("endian", tests, NULL, NULL);
}
