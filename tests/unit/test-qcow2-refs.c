/* SPDX-License-Identifier: MIT */
/* Refcounts of all widths against plain arrays. */
#include "drivers/random.h"
#include "format/qcow2/qcow2_refs.h"

#include "qcow2-writer.h"

#define ENTRIES 4096u

static void test_get_and_set(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++) {
        static uint8_t bytes[ENTRIES * 8];
        static uint64_t model[ENTRIES];
        struct vt_random random = {order};
        uint64_t max = vd_qcow2_geometry_of(16, order, false).refcount_max;
        memset(bytes, 0, sizeof(bytes));
        memset(model, 0, sizeof(model));
        for (unsigned i = 0; i < 20000; i++) {
            uint64_t at = vt_random_below(&random, ENTRIES);
            model[at] = vt_random_next(&random) & max;
            vd_qcow2_refcount_set(bytes, at << order, order, model[at]);
        }
        for (uint64_t i = 0; i < ENTRIES; i++)
            assert_int_equal(vd_qcow2_refcount_get(bytes, i << order, order), model[i]);
    }
    uint8_t bytes[8] = {
        0}; /* the first one of a byte is in its lowest bits; wide ones big-endian */
    vd_qcow2_refcount_set(bytes, 1, 0, 1);
    vd_qcow2_refcount_set(bytes, 4, 2, 9);
    assert_int_equal(bytes[0], 0x92);
    vd_qcow2_refcount_set(bytes, 16, 4, 0x1234);
    assert_int_equal(bytes[2], 0x12);
}

/* Up and down, as far as the width goes, and no further. */
static void test_counts(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++) {
        struct writer writer;
        writer_create(&writer, &(struct q2_shape){.size = 64 * MIB,
                                                  .cluster_bits = 9,
                                                  .refcount_order_plus_1 = order + 1});
        writer_open(&writer, VD_FORMAT_WRITE);
        struct vd_qcow2 *qcow2 = writer.format->state;
        struct vd_qcow2_space space;
        uint64_t count, most = vd_min(qcow2->geometry.refcount_max, 300);
        VT_OK(vd_qcow2_take_whole(qcow2, 700, &space, &vt_err)); /* more than one block */
        assert_int_equal(space.clusters, 700);
        uint64_t last = space.host + 699 * 512;
        for (uint64_t i = 1; i < most; i++)
            VT_OK(vd_qcow2_refer(qcow2, space.host, 700, &vt_err));
        VT_OK(vd_qcow2_refcount(qcow2, last, &count, &vt_err));
        assert_int_equal(count, most);
        if (most == qcow2->geometry.refcount_max) {
            VT_FAILS(E2BIG, vd_qcow2_refer(qcow2, space.host, 700, &vt_err));
            VT_OK(vd_qcow2_refcount(qcow2, space.host, &count, &vt_err));
            assert_int_equal(count, most); /* none was changed */
        }
        for (uint64_t i = 1; i < most; i++)
            VT_OK(vd_qcow2_release(qcow2, space.host, 700, &vt_err));
        VT_OK(vd_qcow2_refcount(qcow2, last, &count, &vt_err));
        assert_int_equal(count, most); /* W3: not before a flush */
        flush(&writer);
        VT_OK(vd_qcow2_refcount(qcow2, last, &count, &vt_err));
        assert_int_equal(count, 1);
        VT_OK(vd_qcow2_release(qcow2, space.host, 350, &vt_err));
        vd_qcow2_give_back(qcow2, space.host + 350 * 512, 350);
        writer_destroy(&writer);
    }
}

/* More references end than there are. */
static void test_too_few(void **state)
{
    (void)state;
    struct writer writer;
    struct vd_qcow2_space space;
    writer_create(&writer, &(struct q2_shape){.size = MIB});
    writer_open(&writer, VD_FORMAT_WRITE);
    struct vd_qcow2 *qcow2 = writer.format->state;
    VT_OK(vd_qcow2_take(qcow2, 1, &space, &vt_err));
    VT_OK(vd_qcow2_release(qcow2, space.host, 1, &vt_err));
    VT_OK(vd_qcow2_release(qcow2, space.host, 1, &vt_err));
    VT_FAILS(EBADMSG, vd_format_flush(writer.format, &vt_err));
    writer_fail(&writer, EBADMSG);
    writer_destroy(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get_and_set),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_too_few),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
