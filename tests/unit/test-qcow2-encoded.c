/* SPDX-License-Identifier: MIT */
/* Where compressed clusters go: back to back, each counted in every cluster that it is in. */
#include "qcow2-writer.h"

#define CLUSTER UINT64_C(65536)

/* A place for @encoded_bytes at guest offset @guest, filled with @byte, as the image layer does. */
static int encode(struct writer *writer, uint64_t guest, uint32_t encoded_bytes, uint8_t byte,
                  bool ok, uint64_t *host)
{
    struct vd_mapping mapping;
    uint64_t cluster = writer->image.cluster;
    uint64_t length = vd_min(cluster, vd_format_size(writer->format) - guest);
    struct vdisk_error err = {0};
    int ret = vd_format_map_encoded(writer->format, vd_range(guest, length), VD_CODEC_DEFLATE,
                                    encoded_bytes, &mapping, &err);
    if (ret < 0)
        return ret;
    assert_true(mapping.fresh);
    assert_int_equal(mapping.fill, VD_FILL_NONE);
    q2_fill(mapping.storage, mapping.host_offset, encoded_bytes, byte);
    vd_format_write_done(writer->format, &mapping, ok);
    *host = mapping.host_offset;
    return 0;
}

static void test_back_to_back(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 64 * MIB});
    struct q2_image *image = &writer.image;
    writer_open(&writer, VD_FORMAT_WRITE);
    uint64_t first, host, end;
    assert_int_equal(encode(&writer, 0, 1001, 1, true, &first), 0);
    end = first + 1001;
    for (unsigned i = 1; i < 100; i++, end += 30001) {
        assert_int_equal(encode(&writer, i * CLUSTER, 30001, (uint8_t)(i + 1), true, &host), 0);
        assert_int_equal(host, end);
    }
    for (unsigned i = 0; i < 100; i++) {
        struct vd_mapping mapping = map(&writer, i * CLUSTER, CLUSTER);
        assert_int_equal(mapping.kind, VD_MAP_ENCODED);
        assert_in_range(mapping.encoded_bytes, i ? 30001 : 1001, (i ? 30001 : 1001) + 511);
        expect(&writer, i * CLUSTER, CLUSTER, (uint8_t)(i + 1));
    }
    writer_close(&writer);
    assert_int_equal(q2_length(image->file), vd_round_up(end, CLUSTER)); /* the rest was cut off */
    assert_int_equal(q2_refcount(image, first), 1 + (CLUSTER - 1001 + 30000) / 30001);
    writer_expect_sound(&writer);

    /* Written again, as data and as zeros and compressed: the references go one by one. */
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, 512, 512, 7), 0);
    zero(&writer, CLUSTER, CLUSTER, VD_MAP_ZERO_MAY_UNMAP);
    assert_int_equal(encode(&writer, 2 * CLUSTER, 5, 8, true, &host), 0);
    expect(&writer, 0, 512, 1);
    expect(&writer, 512, 512, 7);
    writer_reopen(&writer);
    expect(&writer, 1024, CLUSTER - 1024, 1);
    expect(&writer, CLUSTER, CLUSTER, 0);
    expect(&writer, 2 * CLUSTER, CLUSTER, 8);
    expect(&writer, 3 * CLUSTER, CLUSTER, 4);
    writer_destroy(&writer);
}

/* Refcounts that are too narrow for neighbours; clusters of every size. */
static void test_widths(void **state)
{
    (void)state;
    static const uint32_t bits[] = {9, 12, 16, 21};
    for (size_t c = 0; c < 4; c++)
        for (uint32_t order = 0; order <= 6; order += 2) {
            struct writer writer;
            uint64_t host;
            uint64_t cluster = UINT64_C(1) << bits[c];
            writer_create(&writer, &(struct q2_shape){.size = 40 * cluster + 512,
                                                      .cluster_bits = bits[c],
                                                      .refcount_order_plus_1 = order + 1});
            writer_open(&writer, VD_FORMAT_WRITE);
            for (unsigned i = 0; i <= 40; i++) {
                uint32_t length = (uint32_t)(cluster - 1) >> (i % 7);
                assert_int_equal(
                    encode(&writer, i * cluster, length, (uint8_t)(i + 1), true, &host), 0);
                if (i % 9 == 0)
                    flush(&writer);
            }
            writer_reopen(&writer);
            for (unsigned i = 0; i < 40; i++)
                expect(&writer, i * cluster, vd_min(cluster, 4096), (uint8_t)(i + 1));
            zero(&writer, 0, 20 * cluster, VD_MAP_ZERO_MAY_UNMAP);
            writer_destroy(&writer);
        }
}

/* What fails is given back; what is freed in the cluster that is being filled ends the filling. */
static void test_give_back(void **state)
{
    (void)state;
    struct writer writer;
    uint64_t host, next;
    writer_create(&writer, &(struct q2_shape){.size = 64 * MIB});
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(encode(&writer, 0, 1000, 1, false, &host), 0);
    expect_map(&writer, vd_range(0, CLUSTER), VD_MAP_ZERO, false, CLUSTER);
    writer_reopen(&writer);
    assert_int_equal(encode(&writer, 0, 1000, 2, true, &host), 0);
    flush(&writer);
    zero(&writer, 0, CLUSTER, VD_MAP_ZERO_MAY_UNMAP);
    flush(&writer); /* the only one in it */
    assert_int_equal(fill(&writer, MIB, MIB, 3), 0);
    assert_int_equal(encode(&writer, CLUSTER, 1000, 4, true, &next), 0);
    assert_int_equal(fill(&writer, 4 * MIB, MIB, 5), 0);
    writer_reopen(&writer);
    expect(&writer, MIB, MIB, 3);
    expect(&writer, CLUSTER, CLUSTER, 4);
    expect(&writer, 4 * MIB, MIB, 5);
    writer_destroy(&writer);
}

/* Images that can not have them. */
static void test_refused(void **state)
{
    (void)state;
    struct writer writer;
    struct vd_mapping mapping;
    writer_create(&writer, &(struct q2_shape){.size = MIB});
    writer_open(&writer, VD_FORMAT_WRITE);
    VT_FAILS(ENOTSUP, vd_format_map_encoded(writer.format, vd_range(0, CLUSTER), VD_CODEC_ZSTD, 100,
                                            &mapping, &vt_err));
    expect_map(&writer, vd_range(0, CLUSTER), VD_MAP_ZERO, false, CLUSTER);
    writer_destroy(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_back_to_back),
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_give_back),
        cmocka_unit_test(test_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
