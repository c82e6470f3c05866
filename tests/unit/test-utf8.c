/* SPDX-License-Identifier: MIT */
/* util/utf8: at the edges of each form; and all sequences of two and three bytes by counting. */
#include <string.h>

#include "drivers/check.h"

#include "util/utf8.h"

static bool is_text(const char *text)
{
    return vd_utf8_is_text(text, strlen(text));
}

static void test_text(void **state)
{
    (void)state;
    assert_true(vd_utf8_is_text("", 0));
    assert_true(is_text("disk 1\t\x7f"));
    assert_true(is_text("\xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf"));
    assert_true(is_text("\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf"));

    assert_false(vd_utf8_is_text("a\0b", 3));
    assert_false(vd_utf8_is_text("\0", 1));
    assert_false(is_text("\x80"));
    assert_false(is_text("\xc0\x80"));         /* overlong */
    assert_false(is_text("\xc1\xbf"));         /* overlong */
    assert_false(is_text("\xe0\x9f\xbf"));     /* overlong */
    assert_false(is_text("\xf0\x8f\xbf\xbf")); /* overlong */
    assert_false(is_text("\xed\xa0\x80"));     /* a surrogate */
    assert_false(is_text("\xed\xbf\xbf"));     /* a surrogate */
    assert_false(is_text("\xf4\x90\x80\x80")); /* past the end */
    assert_false(is_text("\xf5\x80\x80\x80"));
    assert_false(is_text("\xff"));
    assert_false(is_text("\xc2"));
    assert_false(is_text("\xe2\x82"));
    assert_false(is_text("\xf0\x9f\x92"));
    assert_false(is_text("\xe2\x82z"));
    assert_false(is_text("z\xc2z"));
}

/* There are so many code points that take so many bytes. */
static void test_counts(void **state)
{
    (void)state;
    size_t pairs = 0;
    size_t triples = 0;
    for (unsigned first = 0; first < 256; first++)
        for (unsigned second = 0; second < 256; second++) {
            const char pair[] = {(char)first, (char)second};
            pairs += vd_utf8_length(pair, 2) == 2;
            for (unsigned third = 0; third < 256; third++) {
                const char triple[] = {(char)first, (char)second, (char)third};
                triples += vd_utf8_length(triple, 3) == 3;
            }
        }
    assert_int_equal(pairs, 0x800 - 0x80);
    assert_int_equal(triples, 0x10000 - 0x800 - 0x800);
    assert_int_equal(vd_utf8_length("", 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_counts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
