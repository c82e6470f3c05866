/* SPDX-License-Identifier: MIT */
/* nbd_durable: which connection proves a flush, and when nothing can. */
#include "drivers/check.h"

#include <errno.h>

#include "storage/nbd_priv.h"

static void numbers_go_up(void **state)
{
    (void)state;
    struct vd_nbd_durable durable;
    vd_nbd_durable_init(&durable);
    assert_int_equal(vd_nbd_durable_number(&durable), 1);
    assert_int_equal(vd_nbd_durable_number(&durable), 2);
    vd_mutex_destroy(&durable.lock);
}

static void the_anchor_is_the_oldest_that_acknowledged(void **state)
{
    (void)state;
    struct vd_nbd_durable durable;
    vd_nbd_durable_init(&durable);
    vd_nbd_note_acked(&durable, 2, 7);
    assert_int_equal(durable.anchor, 2);
    vd_nbd_note_acked(&durable, 3, 9); /* younger: it may lead to another server than 2 did */
    assert_int_equal(durable.anchor, 2);
    vd_nbd_note_acked(&durable, 1, 4);
    assert_int_equal(durable.anchor, 1);
    assert_int_equal(durable.anchor_number, 4);
    assert_int_equal(durable.acked, 3);

    durable.flushed = durable.acked; /* all is durable: the next change chooses anew */
    vd_nbd_note_acked(&durable, 3, 9);
    assert_int_equal(durable.anchor, 3);
    assert_int_equal(durable.anchor_number, 9);
    vd_mutex_destroy(&durable.lock);
}

static void losing_a_connection_breaks_what_is_not_flushed(void **state)
{
    (void)state;
    struct vd_nbd nbd = {.facts = {.can = 0}};
    vd_nbd_durable_init(&nbd.durable);
    vd_nbd_note_lost(&nbd.durable); /* nothing was acknowledged */
    VT_OK(vd_nbd_check_whole(&nbd, &vt_err));
    vd_nbd_note_acked(&nbd.durable, 0, 1);
    nbd.durable.flushed = 1;
    vd_nbd_note_lost(&nbd.durable); /* nothing that is not durable */
    VT_OK(vd_nbd_check_whole(&nbd, &vt_err));
    vd_nbd_note_acked(&nbd.durable, 0, 1);
    vd_nbd_note_lost(&nbd.durable);
    VT_FAILS(EIO, vd_nbd_check_whole(&nbd, &vt_err));

    struct vd_storage storage = {.state = &nbd};
    VT_FAILS(EIO, vd_nbd_flush(&storage, &vt_err));
    vd_mutex_destroy(&nbd.durable.lock);
}

static void who_has_no_flush_promises_nothing(void **state)
{
    (void)state;
    struct vd_nbd nbd = {.facts = {.can = VD_NBD_CAN_WRITE}};
    struct vd_storage storage = {.state = &nbd};
    vd_nbd_durable_init(&nbd.durable);
    VT_OK(vd_nbd_flush(&storage, &vt_err)); /* there is nothing to flush */
    vd_nbd_note_acked(&nbd.durable, 0, 1);
    VT_FAILS(EOPNOTSUPP, vd_nbd_flush(&storage, &vt_err));
    vd_mutex_destroy(&nbd.durable.lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_go_up),
        cmocka_unit_test(the_anchor_is_the_oldest_that_acknowledged),
        cmocka_unit_test(losing_a_connection_breaks_what_is_not_flushed),
        cmocka_unit_test(who_has_no_flush_promises_nothing),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("nbd-durable", tests, NULL, NULL);
}
