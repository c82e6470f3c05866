/* SPDX-License-Identifier: MIT */
/* Making parts of qcow2 images read as zero, and discarding them. */
#include "qcow2-writer.h"

#define UNMAP    VD_MAP_ZERO_MAY_UNMAP
#define DISCARD  (VD_MAP_ZERO_MAY_UNMAP | VD_MAP_ZERO_DISCARD)
#define CLUSTER  UINT64_C(65536)
#define ZERO_ALL UINT64_C(0xffffffff00000000)

/* Version 3: the entry says so; the place stays, or goes. */
static void test_entries(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 4 * MIB});
    struct q2_image *image = &writer.image;
    uint64_t host = q2_add_data(image, 0, 1);
    uint64_t gone = q2_add_data(image, CLUSTER, 2);
    writer_open(&writer, VD_FORMAT_WRITE);
    zero(&writer, 0, CLUSTER, 0);
    zero(&writer, CLUSTER, CLUSTER, UNMAP);
    expect_map(&writer, vd_range(0, 4 * CLUSTER), VD_MAP_ZERO, true, 2 * CLUSTER);
    writer_close(&writer);
    assert_int_equal(q2_entry(image, 0), host | Q2_COPIED | Q2_ZERO);
    assert_int_equal(q2_entry(image, CLUSTER), Q2_ZERO);
    assert_int_equal(q2_refcount(image, gone), 0);
    writer_expect_sound(&writer);

    /* The place that stayed is written again; what it had does not show. */
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, 1024, 512, 3), 0);
    assert_int_equal(map(&writer, 1024, 512).host_offset, host + 1024);
    expect(&writer, 0, 1024, 0);
    expect(&writer, 1024, 512, 3);
    expect(&writer, 1536, CLUSTER - 1536, 0);
    writer_reopen(&writer);
    zero(&writer, 0, CLUSTER, 0);
    zero(&writer, 0, CLUSTER, UNMAP); /* now it goes as well */
    writer_close(&writer);
    assert_int_equal(q2_entry(image, 0), Q2_ZERO);
    writer_destroy(&writer);
}

/* Parts of clusters: written where there is data, nothing where it is zero anyway. */
static void test_parts(void **state)
{
    (void)state;
    struct writer writer;
    struct vd_mapping mapping;
    writer_create(&writer, &(struct q2_shape){.size = 4 * MIB + 512});
    struct q2_image *image = &writer.image;
    uint64_t host = q2_add_data(image, 0, 1);
    q2_add_data(image, 4 * MIB, 2);
    writer_open(&writer, VD_FORMAT_WRITE);
    VT_OK(vd_format_map_zero(writer.format, vd_range(512, CLUSTER), UNMAP, &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_DATA);
    assert_int_equal(mapping.host_offset, host + 512);
    assert_int_equal(mapping.guest.length, CLUSTER - 512);
    VT_OK(vd_format_map_zero(writer.format, vd_range(512, CLUSTER), DISCARD, &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_ZERO); /* it may stay */
    assert_int_equal(mapping.guest.length, CLUSTER - 512);
    expect(&writer, 512, 512, 1);
    VT_OK(
        vd_format_map_zero(writer.format, vd_range(CLUSTER + 512, 512), UNMAP, &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_ZERO);
    zero(&writer, 4 * MIB, 512, UNMAP); /* whole, as the disk ends there */
    expect_map(&writer, vd_range(4 * MIB, 512), VD_MAP_ZERO, true, 512);
    writer_destroy(&writer);
}

/* What is behind is hidden in version 3; version 2 has to write zeros, and discards nothing. */
static void test_backing(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct writer writer;
        writer_create(&writer, &(struct q2_shape){.version = version, .size = 4 * MIB});
        writer_put_backing(&writer);
        q2_add_data(&writer.image, 0, 1);
        writer_open(&writer, VD_FORMAT_WRITE);
        zero(&writer, 0, 2 * CLUSTER, DISCARD);
        expect(&writer, 0, CLUSTER, version == 2 ? 1 : 0); /* never what is behind */
        expect(&writer, CLUSTER, CLUSTER, BACKING_BYTE);
        zero(&writer, 0, 2 * CLUSTER + 512, UNMAP);
        expect(&writer, 0, 2 * CLUSTER + 512, 0);
        expect(&writer, 2 * CLUSTER + 512, CLUSTER - 512, BACKING_BYTE);
        expect_map(&writer, vd_range(CLUSTER, CLUSTER), version == 2 ? VD_MAP_DATA : VD_MAP_ZERO,
                   true, CLUSTER);
        writer_reopen(&writer);
        expect(&writer, 0, 2 * CLUSTER + 512, 0);
        writer_destroy(&writer);
    }
}

/* Version 2 without anything behind it: the cluster is not there any more. */
static void test_version_2(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.version = 2, .size = MIB});
    uint64_t host = q2_add_data(&writer.image, 0, 1);
    writer_open(&writer, VD_FORMAT_WRITE);
    zero(&writer, 0, CLUSTER, UNMAP);
    expect_map(&writer, vd_range(0, CLUSTER), VD_MAP_ZERO, false, CLUSTER);
    writer_close(&writer);
    assert_int_equal(q2_entry(&writer.image, 0), 0);
    assert_int_equal(q2_refcount(&writer.image, host), 0);
    writer_destroy(&writer);
}

/* Subclusters one by one; with the last data the place goes. */
static void test_subclusters(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = MIB, .incompatible = 0x10});
    struct q2_image *image = &writer.image;
    writer_put_backing(&writer);
    uint64_t host = q2_add_data(image, 0, 1);
    uint64_t second = q2_entry_at(image, 0) + 8;
    writer_open(&writer, VD_FORMAT_WRITE);
    zero(&writer, 2048, 4096, UNMAP);
    zero(&writer, CLUSTER + 4096, 2048, UNMAP);
    expect(&writer, 0, 2048, 1);
    expect(&writer, 2048, 4096, 0);
    expect(&writer, 6144, CLUSTER - 6144, 1);
    expect(&writer, CLUSTER, 4096, BACKING_BYTE);
    expect(&writer, CLUSTER + 4096, 2048, 0);
    expect(&writer, CLUSTER + 6144, 2048, BACKING_BYTE);
    writer_reopen(&writer);
    assert_int_equal(q2_get(image->file, second, 8), UINT64_C(0x00000006fffffff9));
    assert_int_equal(q2_get(image->file, second + 16, 8), UINT64_C(0x0000000400000000));
    assert_int_equal(fill(&writer, CLUSTER + 4096, 512, 4), 0);
    expect(&writer, CLUSTER, 4096, BACKING_BYTE);
    expect(&writer, CLUSTER + 4096, 512, 4);
    expect(&writer, CLUSTER + 4608, 1536, 0);
    expect(&writer, CLUSTER + 6144, 2048, BACKING_BYTE);
    zero(&writer, 0, CLUSTER, UNMAP);
    writer_close(&writer);
    assert_int_equal(q2_entry(image, 0), 0);
    assert_int_equal(q2_get(image->file, second, 8), ZERO_ALL);
    assert_int_equal(q2_refcount(image, host), 0);
    writer_destroy(&writer);
}

/* What others share loses a reference, and nothing else. */
static void test_shared(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = MIB});
    struct q2_image *image = &writer.image;
    uint64_t host = q2_add_data(image, 0, 1);
    q2_set_entry(image, 0, host, 0);
    q2_set_refcount(image, host, 2);
    writer_open(&writer, VD_FORMAT_WRITE);
    zero(&writer, 512, 512, UNMAP); /* a part: a copy */
    expect(&writer, 0, 512, 1);
    expect(&writer, 512, 512, 0);
    expect(&writer, 1024, CLUSTER - 1024, 1);
    writer_close(&writer);
    assert_int_equal(q2_refcount(image, host), 1);
    assert_int_equal(q2_get(image->file, host + 512, 1), 1);
    q2_set_refcount(image, host, 2);
    q2_set_entry(image, CLUSTER, host, 0);
    writer_open(&writer, VD_FORMAT_WRITE);
    zero(&writer, CLUSTER, CLUSTER, 0); /* all of it: it can not stay */
    writer_close(&writer);
    assert_int_equal(q2_entry(image, CLUSTER), Q2_ZERO);
    assert_int_equal(q2_refcount(image, host), 1);
    q2_set_refcount(image, host, 0);
    writer_destroy(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries),     cmocka_unit_test(test_parts),
        cmocka_unit_test(test_backing),     cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_subclusters), cmocka_unit_test(test_shared),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
