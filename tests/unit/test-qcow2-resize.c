/* SPDX-License-Identifier: MIT */
/* New sizes for the disks of qcow2 images, and forgetting their data. */
#include "qcow2-writer.h"

static int resize(struct writer *writer, uint64_t size, uint64_t backing_bytes,
                  enum vdisk_preallocation preallocation)
{
    struct vd_resize resize = {
        .size = size, .backing_bytes = backing_bytes, .preallocation = preallocation};
    struct vdisk_error err = {0};
    return vd_format_resize(writer->format, &resize, &err);
}

/* L1 grows; what was cut off does not come back, in the last cluster neither. */
static void test_sizes(void **state)
{
    (void)state;
    static const uint32_t bits[] = {9, 16, 21};
    for (size_t c = 0; c < 3; c++)
        for (unsigned kind = 0; kind < 3; kind++) {
            if (kind == 2 && bits[c] < 14)
                continue;
            struct writer writer;
            writer_create(&writer, &(struct q2_shape){.size = 4 * MIB,
                                                      .version = kind == 1 ? 2 : 3,
                                                      .incompatible = kind == 2 ? 0x10 : 0,
                                                      .cluster_bits = bits[c]});
            writer_open(&writer, VD_FORMAT_WRITE);
            assert_int_equal(fill(&writer, 0, 4 * MIB, 1), 0);
            uint64_t cut = MIB + 3 * 512;
            assert_int_equal(resize(&writer, cut, 0, VDISK_PREALLOCATION_OFF), 0);
            assert_int_equal(vd_format_size(writer.format), cut);
            expect(&writer, 0, cut, 1);
            writer_reopen(&writer);
            if (bits[c] > 9) /* refcount blocks stay where they are */
                assert_true(q2_length(writer.image.file) < 3 * MIB + 16 * writer.image.cluster);
            assert_int_equal(resize(&writer, 6 * GIB, 0, VDISK_PREALLOCATION_OFF), 0);
            expect(&writer, 0, cut, 1);
            expect(&writer, cut, 4 * MIB - cut, 0);
            assert_int_equal(fill(&writer, 6 * GIB - 512, 512, 2), 0);
            writer_reopen(&writer);
            expect(&writer, 6 * GIB - 512, 512, 2);
            assert_int_equal(resize(&writer, 512, 0, VDISK_PREALLOCATION_OFF), 0);
            expect(&writer, 0, 512, 1);
            writer_destroy(&writer);
        }
}

/* A disk that grows below the end of a longer backing file does not show it. */
static void test_backing(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct writer writer;
        writer_create(&writer, &(struct q2_shape){.version = version, .size = MIB});
        writer_put_backing(&writer);
        writer_open(&writer, VD_FORMAT_WRITE);
        assert_int_equal(resize(&writer, 3 * MIB, 2 * MIB + 512, VDISK_PREALLOCATION_OFF), 0);
        expect(&writer, 0, MIB, BACKING_BYTE);
        expect(&writer, MIB, MIB + 65536, 0);
        writer_reopen(&writer);
        expect(&writer, MIB, MIB + 65536, 0);
        writer_destroy(&writer);
    }
}

static void test_preallocation(void **state)
{
    (void)state;
    static const enum vdisk_preallocation kinds[] = {
        VDISK_PREALLOCATION_METADATA, VDISK_PREALLOCATION_FALLOC, VDISK_PREALLOCATION_FULL};
    for (size_t i = 0; i < 3; i++) {
        struct writer writer;
        writer_create(&writer, &(struct q2_shape){.size = MIB + 512});
        writer_open(&writer, VD_FORMAT_WRITE);
        assert_int_equal(fill(&writer, MIB, 512, 1), 0);
        assert_int_equal(resize(&writer, 8 * MIB, 0, kinds[i]), 0);
        expect_map(&writer, vd_range(2 * MIB, 512), VD_MAP_DATA, true, 512);
        expect(&writer, MIB, 512, 1);
        expect(&writer, MIB + 512, 7 * MIB - 512, 0);
        vt_trace_reset(writer.file);
        assert_int_equal(fill(&writer, 2 * MIB, 6 * MIB, 2), 0);
        assert_int_equal(vt_trace_count(writer.file, VT_RESIZE), 0);
        assert_int_equal(resize(&writer, MIB, 0, kinds[i]), -EINVAL);
        writer_destroy(&writer);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = MIB, .cluster_bits = 9});
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(resize(&writer, MIB + 1, 0, VDISK_PREALLOCATION_OFF), -EINVAL);
    assert_int_equal(resize(&writer, 128 * GIB + 512, 0, VDISK_PREALLOCATION_OFF), -EFBIG);
    assert_int_equal(resize(&writer, 128 * GIB, 0, VDISK_PREALLOCATION_OFF), 0);
    assert_int_equal(fill(&writer, 128 * GIB - 512, 512, 1), 0);
    writer_destroy(&writer);
}

/* Everything is behind again, and the file as short as it can be. */
static void test_empty(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 2 * GIB});
    writer_put_backing(&writer);
    uint64_t shared = q2_add_data(&writer.image, 0, 1);
    q2_set_entry(&writer.image, 0, shared, 0);
    q2_set_refcount(&writer.image, shared, 2);
    uint64_t length = q2_length(writer.image.file);
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, GIB, MIB, 3), 0);
    zero(&writer, 65536, 65536, VD_MAP_ZERO_MAY_UNMAP);
    VT_OK(vd_format_empty(writer.format, &vt_err));
    expect(&writer, 0, MIB, BACKING_BYTE);
    expect(&writer, GIB, MIB, BACKING_BYTE);
    writer_close(&writer);
    assert_true(q2_length(writer.image.file) <= length);
    assert_int_equal(q2_refcount(&writer.image, shared), 1);
    q2_set_refcount(&writer.image, shared, 0);
    writer_expect_sound(&writer);
    writer_destroy(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),         cmocka_unit_test(test_backing),
        cmocka_unit_test(test_preallocation), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_empty),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
