/* SPDX-License-Identifier: MIT */
/* No user and password in what is shown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "util/err.h"
#include "util/url.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void secrets_are_cut_out(void **state)
{
    (void)state;
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"", ""},
        {"file", "file"},
        {"a@b:c@d", "a@b:c@d"},
        {"http://", "http://"},
        {"http://h/x", "http://h/x"},
        {"http://h/a@b", "http://h/a@b"},
        {"http://h?a@b", "http://h?a@b"},
        {"http://h#a@b", "http://h#a@b"},
        {"http://u@h", "http://h"},
        {"http://u:p@h:80/x@y", "http://h:80/x@y"},
        {"http://u:p@p@h/x", "http://h/x"},
        {"http:///u:p@h/x", "http:///h/x"},
        {"http://u:p@", "http://"},
        {"://u:p@h", "://h"},
        {"http://u:p@h/ and https://v:q@i/: no", "http://h/ and https://i/: no"},
        {"http://h: mail a@b", "http://h: mail a@b"},
        {"'http://u:p@h'", "'http://h'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[64];
        snprintf(text, sizeof(text), "%s", cases[i].text);
        vd_url_strip_secrets(text, " ");
        assert_string_equal(text, cases[i].shown);
    }
    char name[] = "http://u:p p@h/x"; /* a name is one URL, whatever is in it */
    vd_url_strip_secrets(name, "");
    assert_string_equal(name, "http://h/x");
}

static void messages_have_no_secrets(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    vd_err_set(&err, EIO, "%s: bad", "http://user:secret@h/x");
    assert_string_equal(err.message, "http://h/x: bad");
    vd_err_prefix(&err, -EIO, "%s and %s: ", "https://secret@h", "nbd://user:secret@h:1/");
    assert_string_equal(err.message, "https://h and nbd://h:1/: http://h/x: bad");
    vdisk_error_clear(&err);
    vd_err_errno(&err, ENOENT, "%s", "http://user:secret@h/x");
    assert_string_equal(err.message, "http://h/x: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(secrets_are_cut_out),
        cmocka_unit_test(messages_have_no_secrets),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
