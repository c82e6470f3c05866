/* SPDX-License-Identifier: MIT */
/* The header of qcow2: every field against its limits and the others; what is preserved. */
#include <stdio.h>
#include <stdlib.h>

#include "drivers/random.h"
#include "format/qcow2/qcow2_header.h"

#include "qcow2-fixture.h"

struct change {
    size_t offset, bytes;
    uint64_t value;
};

static int read_flags(struct q2_image *image, unsigned flags, struct vdisk_error *err)
{
    struct vd_qcow2_header header;
    int ret = vd_qcow2_header_read(image->file, flags, &header, err);
    assert_int_equal(err->code, -ret);
    vd_qcow2_header_free(&header);
    return ret;
}

static int read_it(struct q2_image *image)
{
    struct vdisk_error err = {0};
    return read_flags(image, 0, &err);
}

static void apply(struct q2_image *image, const struct change *changes)
{
    for (; changes->bytes; changes++)
        q2_put(image->file, changes->offset, changes->value, changes->bytes);
}

/* 10 MiB, 64 KiB clusters: L1 at 0x30000, refcount table at 0x10000; everything is in its place. */
static const struct q2_shape plain = {.size = 10 * MIB};

static void test_fields(void **state)
{
    (void)state;
    struct q2_image image;
    struct vd_qcow2_header header;
    q2_create(&image, &(struct q2_shape){.size = 10 * MIB + 7,
                                         .cluster_bits = 15,
                                         .refcount_order_plus_1 = 7,
                                         .incompatible = 0x1b,
                                         .compatible = UINT64_C(0xff00000000000001),
                                         .autoclear = UINT64_C(0xee00000000000000),
                                         .compression_type = 1});
    VT_OK(vd_qcow2_header_read(image.file, 0, &header, &vt_err));
    const struct vd_qcow2_fields *fields = &header.fields;
    assert_int_equal(fields->version, 3);
    assert_int_equal(fields->backing_offset, 0);
    assert_int_equal(fields->cluster_bits, 15);
    assert_int_equal(fields->size, 10 * MIB + 7);
    assert_int_equal(fields->crypt_method, 0);
    assert_int_equal(fields->l1_entries, 1);
    assert_int_equal(fields->l1_offset, image.l1);
    assert_int_equal(fields->refcount_table_offset, image.refcount_table);
    assert_int_equal(fields->refcount_table_clusters, 1);
    assert_int_equal(fields->snapshot_entries, 0);
    assert_int_equal(fields->incompatible, 0x1b);
    assert_int_equal(fields->compatible, UINT64_C(0xff00000000000001));
    assert_int_equal(fields->autoclear, UINT64_C(0xee00000000000000));
    assert_int_equal(fields->refcount_order, 6);
    assert_int_equal(fields->header_bytes, 112);
    assert_int_equal(fields->compression_type, 1);
    struct vd_qcow2_geometry geometry = vd_qcow2_header_geometry(&header);
    assert_int_equal(geometry.entry_bytes, 16);
    assert_int_equal(geometry.l2_entries, 2048);
    assert_int_equal(geometry.subcluster_bytes, 1024);
    assert_int_equal(geometry.block_entries, 4096);
    vd_qcow2_header_free(&header);
    q2_destroy(&image);
}

static void test_version_2(void **state)
{
    (void)state;
    struct q2_image image;
    struct vd_qcow2_header header;
    q2_create(&image, &(struct q2_shape){.version = 2, .size = MIB});
    /* What would be feature words is extensions: an unknown one that must be kept. */
    uint64_t at = 72;
    q2_put_extension(&image, &at, 0x12345678, "abc", 3);
    VT_OK(vd_qcow2_header_read(image.file, 0, &header, &vt_err));
    assert_int_equal(header.fields.header_bytes, 72);
    assert_int_equal(header.fields.refcount_order, 4);
    assert_int_equal(header.fields.incompatible, 0);
    assert_int_equal(header.other_entries, 1);
    assert_int_equal(header.others[0].length, 3);
    assert_memory_equal(header.others[0].bytes, "abc", 3);
    vd_qcow2_header_free(&header);
    q2_destroy(&image);
}

static const struct {
    int error;
    struct change changes[5]; /* ended by one of 0 bytes */
} refused[] = {
    {EBADMSG, {{0, 1, 'q'}}},
    {EBADMSG, {{3, 1, 0xfa}}},
    {ENOTSUP, {{4, 4, 0}}},
    {ENOTSUP, {{4, 4, 1}}},
    {ENOTSUP, {{4, 4, 4}}},
    {EBADMSG, {{20, 4, 8}}},
    {EBADMSG, {{20, 4, 22}}},
    {EBADMSG, {{20, 4, UINT32_MAX}}},
    {EBADMSG, {{100, 4, 0}}},
    {EBADMSG, {{100, 4, 96}}},
    {EBADMSG, {{100, 4, 108}}},
    {EBADMSG, {{100, 4, 65544}}},
    {EBADMSG, {{100, 4, UINT32_MAX - 7}}},
    {EBADMSG, {{96, 4, 7}}},
    {EBADMSG, {{96, 4, UINT32_MAX}}},
    {ENOTSUP, {{72, 8, 32}}},
    {ENOTSUP, {{72, 8, UINT64_C(1) << 63}}},
    /* L1: too small, too large, unaligned, in the header, behind the file, wrapping. */
    {EBADMSG, {{24, 8, 512 * MIB + 1}}},
    {EBADMSG, {{24, 8, UINT64_MAX}}},
    {EBADMSG, {{36, 4, 0}}},
    {EBADMSG, {{36, 4, (4u << 20) + 1}}},
    {EBADMSG, {{36, 4, UINT32_C(1) << 31}}},
    {EBADMSG, {{36, 4, UINT32_MAX}}},
    {EBADMSG, {{36, 4, 8193}}}, /* a byte more than the file has */
    {EBADMSG, {{40, 8, 0}}},
    {EBADMSG, {{40, 8, 0x30200}}},
    {EBADMSG, {{40, 8, 0x40000}}},
    {EBADMSG, {{40, 8, UINT64_C(1) << 63}}},
    {EBADMSG, {{40, 8, UINT64_MAX - 65535}}},
    /* The refcount table. */
    {EBADMSG, {{48, 8, 0}}},
    {EBADMSG, {{48, 8, 0x10001}}},
    {EBADMSG, {{48, 8, 0x30000}}}, /* is the L1 table's place */
    {EBADMSG, {{48, 8, 0x20000}, {56, 4, 2}}},
    {EBADMSG, {{48, 8, UINT64_C(1) << 63}}},
    {EBADMSG, {{56, 4, 0}}},
    {EBADMSG, {{56, 4, 129}}},
    {EBADMSG, {{56, 4, UINT32_MAX}}},
    /* Snapshots. */
    {EBADMSG, {{60, 4, 1}}},
    {EBADMSG, {{60, 4, 65537}, {64, 8, 0x40000}}},
    {EBADMSG, {{60, 4, 1}, {64, 8, 0x40001}}},
    {EBADMSG, {{60, 4, 1}, {64, 8, UINT64_MAX - 65535}}},
    /* Compression type and its bit. */
    {EBADMSG, {{72, 8, 8}}},
    {EBADMSG, {{104, 1, 1}}},
    {ENOTSUP, {{72, 8, 8}, {104, 1, 2}}},
    {EBADMSG, {{72, 8, 8}, {100, 4, 104}, {104, 1, 1}}},
    {EBADMSG, {{72, 8, 16}, {20, 4, 13}}},
    {EBADMSG, {{88, 8, 2}}}, /* a raw data file, but none */
    /* Encryption. */
    {ENOTSUP, {{32, 4, 3}}},
    {EBADMSG, {{32, 4, 2}}},
    /* The name: in the header's fields, past the cluster, too long, wrapping. */
    {EBADMSG, {{8, 8, 111}, {16, 4, 3}}},
    {EBADMSG, {{8, 8, 65530}, {16, 4, 7}}},
    {EBADMSG, {{8, 8, 200}, {16, 4, 1024}}},
    {EBADMSG, {{8, 8, 200}, {16, 4, UINT32_MAX}}},
    {EBADMSG, {{8, 8, UINT64_MAX - 3}, {16, 4, 4}}},
    {EBADMSG, {{8, 8, 200}, {16, 4, 3}, {200, 3, 0x610062}}},
    /* Extensions: longer than there is room, before the name too; with a wrong length. */
    {EBADMSG, {{112, 4, 0x12345678}, {116, 4, 65536 - 119}}},
    {EBADMSG, {{112, 4, 0x12345678}, {116, 4, UINT32_MAX}}},
    {EBADMSG, {{112, 4, 0x12345678}, {116, 4, 9}, {8, 8, 128}, {16, 4, 1}}},
    {EBADMSG, {{112, 4, 0x23852875}, {116, 4, 25}}},
    {EBADMSG, {{112, 4, 0x0537be77}, {116, 4, 16}}},
    {EBADMSG, {{112, 4, 0xe2792aca}, {116, 4, 4}, {120, 4, 0x61006262}}},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct q2_image image;
        q2_create(&image, &plain);
        assert_int_equal(read_it(&image), 0);
        apply(&image, refused[i].changes);
        if (read_it(&image) != -refused[i].error)
            fail_msg("case %zu: %d", i, read_it(&image));
        q2_destroy(&image);
    }
}

static void test_accepted(void **state)
{
    (void)state;
    static const struct {
        struct change changes[5]; /* ended by one of 0 bytes */
    } cases[] = {
        {{{24, 8, 0}}},
        {{{24, 8, 0}, {36, 4, 0}, {40, 8, 0}}},
        {{{24, 8, 512 * MIB}}},
        {{{36, 4, 8192}}},
        {{{48, 8, UINT64_C(1) << 60}}}, /* only a writer needs it */
        {{{56, 4, 1}, {48, 8, 0x20000}}},
        {{{64, 8, 1}}}, /* without snapshots: idle */
        {{{60, 4, 65536}, {64, 8, 0x40000}}},
        {{{72, 8, 3}}},
        {{{72, 8, 4}}},
        {{{72, 8, 4}, {88, 8, 2}}},
        {{{72, 8, 8}, {104, 1, 1}}},
        {{{72, 8, 16}}},
        {{{80, 8, UINT64_MAX}}},
        {{{88, 8, UINT64_MAX - 3}}},
        {{{88, 8, 1}}}, /* bitmaps, but none: for who writes */
        {{{100, 4, 104}}},
        {{{100, 4, 65536}}},
        {{{32, 4, 1}}},
        {{{8, 8, 112}, {16, 4, 1}, {112, 1, 'a'}}},
        {{{8, 8, 64513}, {16, 4, 1023}}},
        {{{8, 8, UINT64_MAX}, {16, 4, 0}}},
        {{{112, 4, 0x12345678}, {116, 4, 65536 - 120}}},
        {{{112, 4, 0x12345678}, {116, 4, 8}, {8, 8, 128}, {16, 4, 1}}},
        {{{112, 4, 0x12345678}, {116, 4, 5}, {8, 8, 125}, {16, 4, 1}}},
        {{{112, 4, 0xe2792aca}, {116, 4, 4}, {120, 4, 0x72617700}}}, /* "raw" and a NUL */
        {{{112, 4, 0x23852875}, {116, 4, 16}}},                      /* a draft of 2016 */
        {{{112, 4, 0x23852875}, {116, 4, 24}}},                      /* not up to date: idle */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct q2_image image;
        struct vdisk_error err = {0};
        q2_create(&image, &plain);
        apply(&image, cases[i].changes);
        if (read_flags(&image, 0, &err) != 0)
            fail_msg("case %zu: %s", i, err.message);
        q2_destroy(&image);
    }
}

/* Files that end too soon. */
static void test_short(void **state)
{
    (void)state;
    for (uint64_t bytes = 0; bytes < 0x30008; bytes += bytes < 1024 ? 1 : 4093) {
        struct q2_image image;
        q2_create(&image, &plain);
        VT_OK(vd_storage_resize(image.file, bytes, &vt_err));
        assert_int_equal(read_it(&image), -EBADMSG);
        VT_OK(vd_storage_resize(image.file, 0x30008, &vt_err));
        q2_destroy(&image);
    }
    struct q2_image image;
    q2_create(&image, &plain);
    VT_OK(vd_storage_resize(image.file, 0x30008, &vt_err)); /* as QEMU leaves it: one L1 entry */
    assert_int_equal(read_it(&image), 0);
    q2_destroy(&image);
}

/* What QEMU writes, but for the order: all that is known, and some that is not. */
static uint64_t put_all(struct q2_image *image)
{
    uint8_t bitmaps[24] = {0}, features[96] = {0};
    uint64_t at = 112;
    q2_store(bitmaps, 0, 3, 4);
    q2_store(bitmaps, 8, 96, 8);
    q2_store(bitmaps, 16, 0x50000, 8);
    features[0] = 0;
    features[1] = 7;
    memcpy(features + 2, "time travel", 11);
    features[48] = 1;
    features[49] = 7;
    memcpy(features + 50, "other", 5);
    q2_put(image->file, 88, 1, 8);
    q2_put_extension(image, &at, 0xe2792aca, "qed", 3);
    q2_put_extension(image, &at, 0x12345678, "unknown", 7);
    q2_put_extension(image, &at, 0x6803f857, features, sizeof(features));
    q2_put_extension(image, &at, 0x12345678, "", 0);
    q2_put_extension(image, &at, 0x23852875, bitmaps, sizeof(bitmaps));
    return at;
}

static void expect_all(const struct vd_qcow2_header *header)
{
    assert_string_equal(header->backing_format, "qed");
    assert_string_equal(header->backing_name, "base.img");
    assert_true(header->bitmaps.is_present && !header->bitmaps.is_draft);
    assert_int_equal(header->bitmaps.entries, 3);
    assert_int_equal(header->bitmaps.directory_bytes, 96);
    assert_int_equal(header->bitmaps.directory_offset, 0x50000);
    assert_int_equal(header->other_entries, 3);
    assert_int_equal(header->others[0].type, 0x12345678);
    assert_memory_equal(header->others[0].bytes, "unknown", 7);
    assert_int_equal(header->others[1].type, 0x6803f857);
    assert_int_equal(header->others[1].length, 96);
    assert_int_equal(header->others[2].length, 0);
}

static void test_extensions(void **state)
{
    (void)state;
    struct q2_image image;
    struct vd_qcow2_header header, copy;
    q2_create(&image, &plain);
    q2_put_backing(&image, put_all(&image), "base.img"); /* no end mark */
    VT_OK(vd_qcow2_header_read(image.file, 0, &header, &vt_err));
    expect_all(&header);
    VT_OK(vd_qcow2_header_copy(&header, &copy, &vt_err));
    vd_qcow2_header_free(&header);
    expect_all(&copy);
    vd_qcow2_header_free(&copy);
    q2_destroy(&image);
}

static void test_two_of_a_kind(void **state)
{
    (void)state;
    static const uint32_t types[] = {0xe2792aca, 0x44415441, 0x23852875};
    for (size_t i = 0; i < 3; i++) {
        struct q2_image image;
        uint64_t at = 112;
        q2_create(&image, &plain);
        q2_put_extension(&image, &at, types[i], "0123456789abcdef01234567", 24);
        assert_int_equal(read_it(&image), 0);
        q2_put_extension(&image, &at, types[i], "0123456789abcdef01234567", 24);
        assert_int_equal(read_it(&image), -EBADMSG);
        q2_destroy(&image);
    }
}

static void test_bad_bitmaps(void **state)
{
    (void)state;
    static const struct {
        uint64_t entries, reserved, bytes, offset;
    } cases[] = {
        {0, 0, 96, 0x50000},
        {65536, 0, 65536 * 24, 0x50000},
        {3, 1, 96, 0x50000},
        {3, 0, 71, 0x50000},
        {3, 0, 3073, 0x50000},
        {3, 0, UINT64_MAX, 0x50000},
        {3, 0, 96, 0},
        {3, 0, 96, 0x50200},
        {3, 0, 96, UINT64_C(1) << 63},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct q2_image image;
        struct vdisk_error err = {0};
        uint8_t bytes[24];
        uint64_t at = 112;
        q2_store(bytes, 0, cases[i].entries, 4);
        q2_store(bytes, 4, cases[i].reserved, 4);
        q2_store(bytes, 8, cases[i].bytes, 8);
        q2_store(bytes, 16, cases[i].offset, 8);
        q2_create(&image, &plain);
        q2_put_extension(&image, &at, 0x23852875, bytes, sizeof(bytes));
        assert_int_equal(read_it(&image), 0); /* not up to date: not looked at */
        q2_put(image.file, 88, 1, 8);
        if (read_it(&image) != -EBADMSG)
            fail_msg("case %zu", i);
        assert_int_equal(read_flags(&image, VD_QCOW2_HEADER_CHECK, &err), 0);
        q2_destroy(&image);
    }
}

/* Check has to come to an image whose refcounts can not be found. */
static void test_for_check(void **state)
{
    (void)state;
    struct q2_image image;
    struct vdisk_error err = {0};
    q2_create(&image, &plain);
    q2_put(image.file, 48, 0, 8);
    q2_put(image.file, 56, 0, 4);
    assert_int_equal(read_it(&image), -EBADMSG);
    assert_int_equal(read_flags(&image, VD_QCOW2_HEADER_CHECK, &err), 0);
    q2_put(image.file, 40, 1, 8);
    assert_int_equal(read_flags(&image, VD_QCOW2_HEADER_CHECK, &err), -EBADMSG);
    q2_destroy(&image);
}

static void test_feature_names(void **state)
{
    (void)state;
    struct q2_image image;
    struct vdisk_error err = {0};
    q2_create(&image, &plain);
    put_all(&image);
    q2_put(image.file, 72, 0x1a0, 8);
    assert_int_equal(read_flags(&image, 0, &err), -ENOTSUP);
    assert_non_null(strstr(err.message, "0x1a0 (bit 5, time travel, bit 8)"));
    q2_destroy(&image);
}

static void test_crypto(void **state)
{
    (void)state;
    static const struct {
        uint64_t offset, bytes;
        int result;
    } cases[] = {{0x40000, 0x1f8200, 0},
                 {0, 1024, -EBADMSG},
                 {0x40200, 1024, -EBADMSG},
                 {0x40000, UINT64_MAX, -EBADMSG}};
    for (size_t i = 0; i < 4; i++) {
        struct q2_image image;
        uint8_t bytes[16];
        uint64_t at = 112;
        q2_store(bytes, 0, cases[i].offset, 8);
        q2_store(bytes, 8, cases[i].bytes, 8);
        q2_create(&image, &plain);
        q2_put_extension(&image, &at, 0x0537be77, bytes, sizeof(bytes));
        assert_int_equal(read_it(&image), -EBADMSG);
        q2_put(image.file, 32, 2, 4);
        assert_int_equal(read_it(&image), cases[i].result);
        q2_destroy(&image);
    }
}

static void test_is_recognised(void **state)
{
    (void)state;
    uint8_t head[112] = {0};
    q2_store_header(head, &plain);
    assert_true(vd_qcow2_header_is_here(head, sizeof(head)));
    assert_false(vd_qcow2_header_is_here(head, 71));
    q2_store(head, 4, 1, 4);
    assert_false(vd_qcow2_header_is_here(head, sizeof(head)));
    q2_store(head, 4, 9, 4); /* refused with a message of its own */
    assert_true(vd_qcow2_header_is_here(head, sizeof(head)));
    head[3] = 0;
    assert_false(vd_qcow2_header_is_here(head, sizeof(head)));
}

/* Random damage: an answer, and one that can be computed with. */
static void test_hostile(void **state)
{
    (void)state;
    struct vt_random random = {1};
    struct q2_image image;
    unsigned accepted = 0;
    q2_create(&image, &plain);
    uint64_t end = put_all(&image);
    q2_put_backing(&image, end, "base.img");
    uint8_t sound[1024], bytes[1024];
    VT_OK(vd_storage_pread(image.file, sound, sizeof(sound), 0, &vt_err));
    for (unsigned i = 0; i < VT_ROUNDS(20000); i++) {
        struct vd_qcow2_header header;
        struct vdisk_error err = {0};
        memcpy(bytes, sound, sizeof(bytes));
        for (uint64_t n = vt_random_below(&random, 4); n < 4; n++)
            bytes[4 + vt_random_below(&random, end + 4)] ^=
                (uint8_t)(1u << vt_random_below(&random, 8));
        q2_put_bytes(image.file, 0, bytes, sizeof(bytes));
        int ret = vd_qcow2_header_read(image.file, i & 1, &header, &err);
        assert_int_equal(err.code, -ret);
        if (ret == 0) {
            struct vd_qcow2_geometry geometry = vd_qcow2_header_geometry(&header);
            accepted++;
            assert_true(vd_qcow2_l1_entries(&geometry, header.fields.size) <=
                        header.fields.l1_entries);
            assert_true(header.fields.l1_entries * UINT64_C(8) <= VD_QCOW2_L1_BYTES_MAX);
            assert_true(vd_is_aligned(header.fields.l1_offset, geometry.cluster_bytes));
        }
        vd_qcow2_header_free(&header);
    }
    assert_true(accepted > VT_ROUNDS(1000));
    q2_destroy(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_short),         cmocka_unit_test(test_extensions),
        cmocka_unit_test(test_two_of_a_kind), cmocka_unit_test(test_bad_bitmaps),
        cmocka_unit_test(test_for_check),     cmocka_unit_test(test_feature_names),
        cmocka_unit_test(test_crypto),        cmocka_unit_test(test_is_recognised),
        cmocka_unit_test(test_hostile),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
