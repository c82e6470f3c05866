/* SPDX-License-Identifier: MIT */
/* Sizes and lists of options, as the command reads them. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/optlist.h"
#include "cli/size.h"

#define KIB (UINT64_C(1) << 10)
#define GIB (UINT64_C(1) << 30)
#define EIB (UINT64_C(1) << 60)

static void sizes_are_read(void **state)
{
    static const struct {
        const char *text;
        uint64_t size;
    } cases[] = {
        {"0", 0},
        {"00010", 10},
        {"1b", 1},
        {"1B", 1},
        {"0b", 0},
        {"1k", KIB},
        {"1K", KIB},
        {"1m", KIB * KIB},
        {"1M", KIB * KIB},
        {"1G", GIB},
        {"1g", GIB},
        {"1T", GIB * KIB},
        {"1t", GIB * KIB},
        {"1P", GIB * KIB * KIB},
        {"1p", GIB * KIB * KIB},
        {"1E", EIB},
        {"7E", 7 * EIB},
        {"7.5e", 7 * EIB + EIB / 2},
        {"1.0", 1},
        {"1.", 1},
        {"1.G", GIB},
        {"1.5G", GIB + GIB / 2},
        {"1.5k", 1536},
        {"0.1K", 102},
        {"1.00001k", 1024},
        {"1.0000000000000000000000000001T", GIB * KIB},
        {"0x1000", 4096},
        {"0X1000", 4096},
        {"0xfFk", 255 * KIB},
        {"0x1b", 27},
        {"0x1e", 30},
        {"+1", 1},
        {" 1", 1},
        {"9223372036854775807", INT64_MAX},
        {"0x7fffffffffffffff", INT64_MAX},
        {"9007199254740993", 9007199254740993}, /* a double does not hold it */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t size = 99;
        if (vd_size_parse(cases[i].text, &size) != 0 || size != cases[i].size)
            fail_msg("'%s': %" PRIu64 " instead of %" PRIu64, cases[i].text, size, cases[i].size);
    }
}

static void other_texts_are_refused(void **state)
{
    static const struct {
        const char *text;
        int ret;
    } cases[] = {
        {"", -EINVAL},
        {" ", -EINVAL},
        {"k", -EINVAL},
        {"1.5", -EINVAL},
        {"1.5b", -EINVAL},
        {"1kb", -EINVAL},
        {"1KiB", -EINVAL},
        {"1 G", -EINVAL},
        {"1G ", -EINVAL},
        {"1kk", -EINVAL},
        {".5G", -EINVAL},
        {"-1", -EINVAL},
        {"--1", -EINVAL},
        {"++1", -EINVAL},
        {"1e3", -EINVAL},
        {"0x", -EINVAL},
        {"0x1.8k", -EINVAL},
        {"0xg", -EINVAL},
        {"inf", -EINVAL},
        {"nan", -EINVAL},
        {"1,5G", -EINVAL},
        {"1\n", -EINVAL},
        {"8E", -ERANGE},
        {"7.9999999999999999999E8", -EINVAL},
        {"9223372036854775808", -ERANGE},
        {"0x8000000000000000", -ERANGE},
        {"18446744073709551615", -ERANGE},
        {"18446744073709551616", -ERANGE},
        {"99999999999999999999999999999", -ERANGE},
        {"99999999999999999999999999999x", -EINVAL},
        {"18014398509481984k", -ERANGE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t size;
        int ret = vd_size_parse(cases[i].text, &size);
        if (ret != cases[i].ret)
            fail_msg("'%s': %d instead of %d", cases[i].text, ret, cases[i].ret);
    }
}

static void changes_are_read(void **state)
{
    struct vd_size_change change;
    (void)state;
    assert_int_equal(vd_size_parse_change("5", &change), 0);
    assert_true(change.kind == VD_SIZE_SET && change.bytes == 5);
    assert_int_equal(vd_size_parse_change("+1.5k", &change), 0);
    assert_true(change.kind == VD_SIZE_ADD && change.bytes == 1536);
    assert_int_equal(vd_size_parse_change("-0x10", &change), 0);
    assert_true(change.kind == VD_SIZE_SUBTRACT && change.bytes == 16);
    assert_int_equal(vd_size_parse_change("+", &change), -EINVAL);
    assert_int_equal(vd_size_parse_change("-", &change), -EINVAL);
    assert_int_equal(vd_size_parse_change("+-1", &change), -EINVAL);
    assert_int_equal(vd_size_parse_change("--1", &change), -EINVAL);
    assert_int_equal(vd_size_parse_change("+ 1", &change), -EINVAL);
    assert_int_equal(vd_size_parse_change("-8E", &change), -ERANGE);
}

static void sizes_are_printed_with_three_digits(void **state)
{
    static const struct {
        uint64_t size;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {1, "1 B"},
        {512, "512 B"},
        {999, "999 B"},
        {1000, "0.977 KiB"},
        {1024, "1 KiB"},
        {100352, "98 KiB"},
        {352 * KIB, "352 KiB"},
        {1000448, "977 KiB"},
        {1024000, "0.977 MiB"},
        {12345856, "11.8 MiB"},
        {GIB + GIB / 2, "1.5 GiB"},
        {1234567890432, "1.12 TiB"},
        {7 * EIB, "7 EiB"},
        {INT64_MAX, "8 EiB"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[VD_SIZE_TEXT_BYTES];
        assert_string_equal(vd_size_text(cases[i].size, text), cases[i].text);
    }
}

static void lists_are_split(void **state)
{
    struct vd_optlist list = {0};
    struct vdisk_error err = {0};
    (void)state;
    assert_int_equal(vd_optlist_parse(&list, "size=1G,name=a,,b,empty=", &err), 0);
    assert_int_equal(vd_optlist_parse(&list, "size=2G,alone", &err), 0);
    assert_int_equal(list.entry_count, 5);
    assert_string_equal(vd_optlist_take(&list, "size"), "2G"); /* the last one counts */
    assert_string_equal(vd_optlist_take(&list, "name"), "a,b");
    assert_string_equal(vd_optlist_take(&list, "empty"), "");
    assert_null(vd_optlist_take(&list, "other"));
    assert_null(vd_optlist_take(&list, "alone")); /* it has no value */
    assert_string_equal(vd_optlist_left_over(&list)->key, "alone");
    assert_false(list.wants_help);
    vd_optlist_free(&list);
}

static void help_is_noticed(void **state)
{
    static const char *const texts[] = {"help", "?", "a=b,help", "?,c=d"};
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct vd_optlist list = {0};
        struct vdisk_error err = {0};
        assert_int_equal(vd_optlist_parse(&list, texts[i], &err), 0);
        assert_true(list.wants_help);
        vd_optlist_free(&list);
    }
}

static void bad_lists_are_refused(void **state)
{
    static const char *const texts[] = {"", ",", "a=b,", ",a=b", "=b", "a=b,=c", "a=b,,,"};
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct vd_optlist list = {0};
        struct vdisk_error err = {0};
        if (vd_optlist_parse(&list, texts[i], &err) != -EINVAL)
            fail_msg("'%s' is taken", texts[i]);
        assert_non_null(strstr(err.message, "Invalid option list: "));
        vd_optlist_free(&list);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read),
        cmocka_unit_test(other_texts_are_refused),
        cmocka_unit_test(changes_are_read),
        cmocka_unit_test(sizes_are_printed_with_three_digits),
        cmocka_unit_test(lists_are_split),
        cmocka_unit_test(help_is_noticed),
        cmocka_unit_test(bad_lists_are_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
