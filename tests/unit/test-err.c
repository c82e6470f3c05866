/* SPDX-License-Identifier: MIT */
/* util/err: the first story stays, prefixes are cut at the end of the room. */
#include "drivers/check.h"

#include <string.h>

#include "util/err.h"

static void test_first_writer_wins(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    assert_int_equal(vd_err_set(&err, EIO, "first %d", 1), -EIO);
    assert_int_equal(vd_err_set(&err, ENOSPC, "second"), -ENOSPC);
    assert_int_equal(vd_err_errno(&err, ENOENT, "third"), -ENOENT);
    assert_int_equal(vd_err_nomem(&err, "fourth"), -ENOMEM);
    assert_int_equal(err.code, EIO);
    assert_string_equal(err.message, "first 1");

    struct vdisk_error other = {.code = EPERM, .message = "other"};
    assert_int_equal(vd_err_copy(&err, &other), -EPERM);
    assert_string_equal(err.message, "first 1");

    vdisk_error_clear(&err);
    assert_int_equal(vd_err_copy(&err, &other), -EPERM);
    assert_int_equal(err.code, EPERM);
    assert_string_equal(err.message, "other");
}

static void test_null_is_fine(void **state)
{
    (void)state;
    struct vdisk_error from = {.code = EIO, .message = "x"};
    assert_int_equal(vd_err_set(NULL, EIO, "x"), -EIO);
    assert_int_equal(vd_err_errno(NULL, EIO, "x"), -EIO);
    assert_int_equal(vd_err_prefix(NULL, -7, "x"), -7);
    assert_int_equal(vd_err_nomem(NULL, "x"), -ENOMEM);
    assert_int_equal(vd_err_copy(NULL, &from), -EIO);
}

static void test_errno_text(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    vd_err_errno(&err, ENOENT, "can not open %s", "it");
    assert_string_equal(err.message, "can not open it: No such file or directory");
    vdisk_error_clear(&err);
    vd_err_nomem(&err, "a thing");
    assert_string_equal(err.message, "out of memory for a thing");
}

static void test_prefix(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    assert_int_equal(vd_err_prefix(&err, -EIO, "in front: "), -EIO);
    assert_string_equal(err.message, "");

    vd_err_set(&err, EIO, "tail");
    assert_int_equal(vd_err_prefix(&err, -EIO, "%s: ", "b"), -EIO);
    assert_int_equal(vd_err_prefix(&err, -EIO, "%s: ", "a"), -EIO);
    assert_string_equal(err.message, "a: b: tail");
}

/* The beginning is worth more than the end; the NUL is always there. */
static void test_long_messages(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    const size_t limit = sizeof(err.message) - 1;
    char text[2 * sizeof(err.message)];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';

    vd_err_set(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.message), limit);
    vd_err_prefix(&err, -EIO, "name: ");
    assert_int_equal(strlen(err.message), limit);
    assert_memory_equal(err.message, "name: xxx", 9);

    vd_err_prefix(&err, -EIO, "%s", text + 1);
    assert_int_equal(strlen(err.message), limit);
    assert_memory_equal(err.message, text, limit);

    /* One that just fits, and one byte more: each keeps what there is room for. */
    for (size_t spare = 0; spare <= 4; spare++) {
        vdisk_error_clear(&err);
        vd_err_set(&err, EIO, "abc");
        vd_err_prefix(&err, -EIO, "%.*s", (int)(limit - spare), text);
        assert_int_equal(strlen(err.message), spare <= 3 ? limit : limit - spare + 3);
        assert_memory_equal(err.message + limit - spare, "abc", spare < 3 ? spare : 3);
    }
    vdisk_error_clear(&err);
    vd_err_errno(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.message), limit);
}

/* Names of files come from images, and messages go to terminals and logs. */
static void control_characters_are_not_passed_on(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    assert_int_equal(vd_err_set(&err, EPERM, "the file '%s'", "a\033[2Jb\nc\x7f\xc3\xa9"), -EPERM);
    assert_string_equal(err.message, "the file 'a?[2Jb?c?\xc3\xa9'");
    vd_err_prefix(&err, -EPERM, "%s: ", "x\ry");
    assert_string_equal(err.message, "x?y: the file 'a?[2Jb?c?\xc3\xa9'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_writer_wins),
        cmocka_unit_test(test_null_is_fine),
        cmocka_unit_test(test_errno_text),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_long_messages),
        cmocka_unit_test(control_characters_are_not_passed_on),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
