/* SPDX-License-Identifier: MIT */
/* util/iov: every cut of every small list. */
#include "drivers/check.h"

#include <stdio.h>
#include <string.h>

#include "util/iov.h"

#define ENTRIES   4
#define ENTRY_MAX 3

/* Calls @check for all lists of up to ENTRIES buffers of 0 .. ENTRY_MAX bytes, cut from @bytes. */
static void each_list(uint8_t *bytes, void (*check)(const struct iovec *iov, int entries))
{
    for (int entries = 1; entries <= ENTRIES; entries++) {
        int variants = 1;
        for (int i = 0; i < entries; i++)
            variants *= ENTRY_MAX + 1;
        for (int variant = 0; variant < variants; variant++) {
            struct iovec iov[ENTRIES];
            size_t at = 0;
            int rest = variant;
            for (int i = 0; i < entries; i++) {
                iov[i] = (struct iovec){bytes + at, (size_t)(rest % (ENTRY_MAX + 1))};
                at += iov[i].iov_len;
                rest /= ENTRY_MAX + 1;
            }
            check(iov, entries);
        }
    }
}

static uint8_t list_bytes[ENTRIES * ENTRY_MAX];

static void fill_list_bytes(void)
{
    for (size_t i = 0; i < sizeof(list_bytes); i++)
        list_bytes[i] = (uint8_t)(i + 1);
}

static void check_parts(const struct iovec *iov, int entries)
{
    size_t total = vd_iov_length(iov, entries);
    for (size_t skip = 0; skip <= total; skip++)
        for (size_t length = 0; length <= total - skip; length++) {
            struct iovec part[ENTRIES];
            int used = vd_iov_part(part, iov, entries, skip, length);
            assert_in_range(used, 0, entries);
            assert_int_equal(vd_iov_length(part, used), length);
            size_t at = skip;
            for (int i = 0; i < used; i++)
                for (size_t j = 0; j < part[i].iov_len; j++)
                    assert_int_equal(((uint8_t *)part[i].iov_base)[j], ++at);
        }
}

static void check_copies(const struct iovec *iov, int entries)
{
    size_t total = vd_iov_length(iov, entries);
    for (size_t skip = 0; skip <= total; skip++)
        for (size_t length = 0; length <= total - skip; length++) {
            uint8_t buffer[sizeof(list_bytes) + 1] = {0};
            vd_iov_to_buffer(buffer, length, iov, skip);
            assert_memory_equal(buffer, list_bytes + skip, length);
            assert_int_equal(buffer[length], 0);

            memset(buffer, 0xaa, sizeof(buffer));
            vd_iov_from_buffer(iov, skip, buffer, length);
            for (size_t i = 0; i < sizeof(list_bytes); i++)
                assert_int_equal(list_bytes[i], i >= skip && i < skip + length ? 0xaa : i + 1);
            fill_list_bytes();
        }
}

static void check_zero(const struct iovec *iov, int entries)
{
    size_t total = vd_iov_length(iov, entries);
    vd_iov_zero(iov, entries);
    for (size_t i = 0; i < sizeof(list_bytes); i++)
        assert_int_equal(list_bytes[i], i < total ? 0 : i + 1);
    fill_list_bytes();
}

static void test_parts(void **state)
{
    (void)state;
    fill_list_bytes();
    each_list(list_bytes, check_parts);
}

static void test_copies(void **state)
{
    (void)state;
    fill_list_bytes();
    each_list(list_bytes, check_copies);
}

static void test_zero(void **state)
{
    (void)state;
    fill_list_bytes();
    each_list(list_bytes, check_zero);
}

static void test_length(void **state)
{
    (void)state;
    struct iovec iov[] = {{NULL, SIZE_MAX - 1}, {NULL, 1}, {NULL, 1}};
    assert_int_equal(vd_iov_length(iov, 0), 0);
    assert_true(vd_iov_length(iov, 1) == SIZE_MAX - 1);
    assert_true(vd_iov_length(iov, 3) == SIZE_MAX);
}

static void test_is_zero(void **state)
{
    (void)state;
    uint8_t bytes[100] = {0};
    for (size_t start = 0; start < 20; start++)
        for (size_t length = 0; length <= 60; length++) {
            assert_true(vd_buffer_is_zero(bytes + start, length));
            for (size_t i = 0; i < sizeof(bytes); i++) {
                bytes[i] = 0x80;
                assert_int_equal(vd_buffer_is_zero(bytes + start, length),
                                 i < start || i >= start + length);
                bytes[i] = 0;
            }
        }
}

static void test_const(void **state)
{
    (void)state;
    static const char text[] = "text";
    struct iovec iov = vd_iov_const(text, sizeof(text));
    assert_ptr_equal(iov.iov_base, text);
    assert_int_equal(iov.iov_len, sizeof(text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),  cmocka_unit_test(test_copies),  cmocka_unit_test(test_zero),
        cmocka_unit_test(test_length), cmocka_unit_test(test_is_zero), cmocka_unit_test(test_const),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("iov", tests, NULL, NULL);
}
