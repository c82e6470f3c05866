/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "drivers/check.h"
#include "nbdproto/nbdproto.h"

static void test_errors(void **state)
{
    (void)state;
    assert_int_equal(vd_nbd_error_of(EROFS), NBD_EPERM);
    assert_int_equal(vd_nbd_error_of(EPERM), NBD_EPERM);
    assert_int_equal(vd_nbd_error_of(EDQUOT), NBD_ENOSPC);
    assert_int_equal(vd_nbd_error_of(EFBIG), NBD_ENOSPC);
    assert_int_equal(vd_nbd_error_of(ENOSPC), NBD_ENOSPC);
    assert_int_equal(vd_nbd_error_of(EINVAL), NBD_EINVAL);
    assert_int_equal(vd_nbd_error_of(ENOMEM), NBD_ENOMEM);
    assert_int_equal(vd_nbd_error_of(EOVERFLOW), NBD_EOVERFLOW);
    assert_int_equal(vd_nbd_error_of(EOPNOTSUPP), NBD_ENOTSUP);
    assert_int_equal(vd_nbd_error_of(ESHUTDOWN), NBD_ESHUTDOWN);
    assert_int_equal(vd_nbd_error_of(EBADMSG), NBD_EIO);
    assert_int_equal(vd_nbd_error_of(EIO), NBD_EIO);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(vd_nbd_command_name(NBD_CMD_READ), "READ");
    assert_string_equal(vd_nbd_command_name(NBD_CMD_BLOCK_STATUS), "BLOCK_STATUS");
    assert_string_equal(vd_nbd_command_name(8), "unknown");
    assert_string_equal(vd_nbd_option_name(NBD_OPT_GO), "NBD_OPT_GO");
    assert_string_equal(vd_nbd_option_name(NBD_OPT_EXTENDED_HEADERS), "NBD_OPT_EXTENDED_HEADERS");
    assert_string_equal(vd_nbd_option_name(4), "unknown");
    assert_string_equal(vd_nbd_option_name(0xffffffff), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_names),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
