/* SPDX-License-Identifier: MIT */
/* Images put together byte by byte, read and written: add-cow §2, §4, §8. */
#include "addcow-fixture.h"

/* Clusters 0, 3, 8 and 9 are in the raw file: 0x09 0x03. */
static void test_bit_order(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 10 * CLUSTER, 10 * CLUSTER);
    set_byte_in_file(&fix, COW, 4096, 0x09);
    set_byte_in_file(&fix, COW, 4097, 0x03);
    fixture_open(&fix, 0);
    for (uint64_t i = 0; i < 10; i++)
        expect_bytes(&fix, i * CLUSTER, CLUSTER,
                     i == 0 || i == 3 || i == 8 || i == 9 ? STALE : BASE);
    struct vdisk_extent extent;
    VT_OK(vdisk_image_extent(fix.image, CLUSTER + 5, 9 * CLUSTER - 5, &extent, &vt_err));
    assert_int_equal(extent.length, 2 * CLUSTER - 5);
    assert_int_equal(extent.depth, 1);
    VT_OK(vdisk_image_extent(fix.image, 8 * CLUSTER, 2 * CLUSTER, &extent, &vt_err));
    assert_int_equal(extent.length, 2 * CLUSTER);
    assert_int_equal(extent.host_offset, 8 * CLUSTER);
    assert_string_equal(extent.host_name, "raw");
    assert_int_equal(extent.flags, VDISK_EXTENT_DATA | VDISK_EXTENT_PRESENT | VDISK_EXTENT_OFFSET);
    fixture_destroy(&fix);
}

/* [Q1], [Q2]: the raw file alone says how large the disk is. */
static void test_sizes(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 5 * CLUSTER, CLUSTER + 512);
    fixture_open(&fix, 0);
    assert_int_equal(vdisk_image_size(fix.image), 5 * CLUSTER);
    expect_bytes(&fix, 0, CLUSTER + 512, BASE);
    expect_bytes(&fix, CLUSTER + 512, 4 * CLUSTER - 512, 0);
    fixture_destroy(&fix);

    fixture_init(&fix, CLUSTER + 512, 5 * CLUSTER);
    fixture_open(&fix, 0);
    assert_int_equal(vdisk_image_size(fix.image), CLUSTER + 512);
    expect_bytes(&fix, 0, CLUSTER + 512, BASE);
    fixture_destroy(&fix);

    fixture_init(&fix, 0, 5 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    assert_int_equal(vdisk_image_size(fix.image), 0);
    fixture_destroy(&fix);
}

/* add-cow §2: what a raw file lacks of its last 512 bytes reads as zero, until it is written. */
static void test_odd_raw_file(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, CLUSTER + 1000, 2 * CLUSTER);
    set_bit_in_file(&fix, 1);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    assert_int_equal(vdisk_image_size(fix.image), CLUSTER + 1024);
    expect_bytes(&fix, CLUSTER, 1000, STALE);
    expect_bytes(&fix, CLUSTER + 1000, 24, 0);
    assert_int_equal(bytes_of(&fix, RAW), CLUSTER + 1000);
    write_bytes(&fix, CLUSTER + 1010, 14, 7);
    expect_bytes(&fix, CLUSTER + 1000, 10, 0);
    expect_bytes(&fix, CLUSTER + 1010, 14, 7);
    fixture_close(&fix);
    assert_int_equal(bytes_of(&fix, RAW), CLUSTER + 1024);
    fixture_destroy(&fix);

    /* Taken from the backing file, it becomes whole. */
    fixture_init(&fix, CLUSTER + 1000, 2 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, CLUSTER, 1, 7);
    expect_bytes(&fix, CLUSTER + 1, 1023, BASE);
    fixture_close(&fix);
    assert_int_equal(bytes_of(&fix, RAW), CLUSTER + 1024);
    fixture_destroy(&fix);
}

/* [Q14]: missing bits are clear, and a writer makes room for them. */
static void test_short_bitmap(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {4096, 4097, 43, 4100};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct fixture fix;
        fixture_init(&fix, 40 * CLUSTER, 40 * CLUSTER);
        set_length(&fix, COW, lengths[i]);
        bool has_first = lengths[i] > 4096;
        if (has_first)
            set_bit_in_file(&fix, 7);
        fixture_open(&fix, 0);
        expect_bytes(&fix, 7 * CLUSTER, CLUSTER, has_first ? STALE : BASE);
        expect_bytes(&fix, 8 * CLUSTER, 32 * CLUSTER, BASE);
        struct vdisk_extent extent;
        VT_OK(vdisk_image_extent(fix.image, 8 * CLUSTER, 32 * CLUSTER, &extent, &vt_err));
        assert_int_equal(extent.length, 32 * CLUSTER);
        fixture_close(&fix);
        assert_int_equal(bytes_of(&fix, COW), lengths[i]); /* who only reads changes nothing */
        fixture_open(&fix, VDISK_OPEN_WRITE);
        write_bytes(&fix, 39 * CLUSTER, CLUSTER, 7);
        fixture_close(&fix);
        assert_int_equal(bytes_of(&fix, COW), 4096 + 5);
        assert_int_equal(byte_in_file(&fix, COW, 4100), 0x80);
        fixture_destroy(&fix);
    }
}

/* [Q13]: they mean nothing to a reader, and go when the image is changed. */
static void test_bits_behind_the_end(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    set_length(&fix, COW, 4096 + 300);
    for (uint64_t i = 1; i < 300 * 8; i++)
        set_bit_in_file(&fix, i);
    fixture_open(&fix, 0);
    expect_bytes(&fix, 0, CLUSTER, BASE);
    expect_bytes(&fix, CLUSTER, 2 * CLUSTER, STALE);
    fixture_close(&fix);
    /* Opening it for writing is no change, nor is writing in place. */
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, CLUSTER, 512, STALE);
    fixture_close(&fix);
    assert_null(strchr(fix.log, 'C'));
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, 0, 512, 7);
    fixture_close(&fix);
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0x07);
    assert_int_equal(bytes_of(&fix, COW), 4097);
    /* The raw file became longer without us: what is added is the backing file's. */
    set_length(&fix, RAW, 20 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    assert_int_equal(vdisk_image_size(fix.image), 20 * CLUSTER);
    expect_bytes(&fix, 3 * CLUSTER, 17 * CLUSTER, 0);
    fixture_destroy(&fix);
}

/* A raw file that was cut, or not copied whole, and comes back: nothing is lost by a look. */
static void test_raw_file_that_comes_back(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 20 * CLUSTER, 20 * CLUSTER);
    for (uint64_t i = 10; i < 20; i++)
        set_bit_in_file(&fix, i);
    fixture_put(&fix, RAW, filled(5 * CLUSTER + 512, STALE));
    fixture_open(&fix, VDISK_OPEN_WRITE);
    assert_int_equal(vdisk_image_size(fix.image), 5 * CLUSTER + 512);
    expect_bytes(&fix, 0, 5 * CLUSTER + 512, BASE);
    fixture_close(&fix);
    fixture_put(&fix, RAW, filled(20 * CLUSTER, STALE));
    fixture_open(&fix, VDISK_OPEN_WRITE);
    expect_bytes(&fix, 0, 10 * CLUSTER, BASE);
    expect_bytes(&fix, 10 * CLUSTER, 10 * CLUSTER, STALE);
    fixture_destroy(&fix);
}

/* The driver of v20 took a bitmap that can not be read for set bits. */
static void test_bitmap_that_can_not_be_read(void **state)
{
    (void)state;
    struct fixture fix;
    uint8_t buf[512];
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    vt_fault_set(fix.open[COW],
                 (struct vt_fault_plan){
                     .calls = VT_CALL_BIT(VT_READ), .nth = 1, .error = EIO, .forever = true});
    struct vdisk_error err = {0};
    assert_int_equal(vdisk_image_pread(fix.image, buf, 512, 0, &err), -EIO);
    assert_non_null(strstr(err.message, "cow"));
    assert_int_equal(buf[0], 0);
    VT_FAILS(EIO, vdisk_image_pwrite(fix.image, buf, 512, 0, &vt_err));
    vt_fault_set(fix.open[COW], (struct vt_fault_plan){0});
    expect_bytes(&fix, 0, 512, BASE);
    fixture_destroy(&fix);
}

/* ---- What is refused ----------------------------------------------------------------------- */

static void expect_refused(struct fixture *fix, uint32_t flags, int code, const char *word)
{
    struct vdisk_error err = {0};
    assert_int_equal(fixture_try_open(fix, flags, &err), -code);
    if (!strstr(err.message, word))
        fail_msg("'%s' does not say '%s'", err.message, word);
}

static void test_refused(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    set_u32_in_file(&fix, 8, 2);
    expect_refused(&fix, 0, ENOTSUP, "version 2");
    set_u32_in_file(&fix, 8, 1);
    set_u32_in_file(&fix, 28, 7);
    expect_refused(&fix, 0, ENOTSUP, "0x4");
    set_u32_in_file(&fix, 28, 2);
    expect_refused(&fix, 0, EBADMSG, "check -r all");
    set_u32_in_file(&fix, 28, 3);
    set_byte_in_file(&fix, COW, 0, 'a');
    expect_refused(&fix, 0, EBADMSG, "magic");
    set_byte_in_file(&fix, COW, 0, 'A');
    set_byte_in_file(&fix, COW, 37, 0);
    expect_refused(&fix, 0, EBADMSG, "zero byte");
    set_byte_in_file(&fix, COW, 37, 'a');
    set_length(&fix, COW, 40);
    expect_refused(&fix, 0, EBADMSG, "cut off");
    fixture_destroy(&fix);

    /* A raw file that is not there. */
    fixture_init(&fix, CLUSTER, CLUSTER);
    vd_storage_close(fix.stores[RAW]);
    fix.stores[RAW] = NULL;
    expect_refused(&fix, VDISK_OPEN_WRITE, ENOENT, "raw");
    fixture_open(&fix, VDISK_OPEN_FACTS);
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    VT_OK(vdisk_image_info(fix.image, &info, &vt_err));
    assert_true(info.flags & VDISK_INFO_NO_DATA_FILE);
    assert_string_equal(info.data_name, "raw");
    assert_string_equal(info.backing_name, "base");
    assert_string_equal(info.backing_format, "raw");
    assert_string_equal(info.variant, "v10");
    fixture_destroy(&fix);
}

/* [Q18]: a raw file that looks like an image is raw. */
static void test_raw_is_not_guessed(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, CLUSTER, 0);
    VT_OK(vd_storage_pwrite(fix.stores[RAW], "QED\0\0\0\1\0", 8, 0, &vt_err));
    set_bit_in_file(&fix, 0);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    uint8_t buf[512];
    VT_OK(vdisk_image_pread(fix.image, buf, 512, 0, &vt_err));
    assert_memory_equal(buf, "QED\0\0\0\1\0", 8);
    assert_int_equal(vdisk_image_size(fix.image), CLUSTER);
    fixture_destroy(&fix);
}

/* ---- The later header ---------------------------------------------------------------------- */

#define LATER_CLUSTER UINT64_C(4096)

/* Clusters of 4096 bytes, a header of as many, "raw" and "base". */
static void later_init(struct fixture *fix, uint64_t size, uint64_t base_bytes)
{
    static const uint8_t head[] = {
        'A', 'C',  'O', 'W',                   /* magic */
        79,  0,    0,   0,   4,   0,   0,   0, /* backing file: offset, size */
        76,  0,    0,   0,   3,   0,   0,   0, /* image file */
        12,  0,    0,   0,                     /* cluster bits */
        0,   0,    0,   0,   0,   0,   0,   0, /* features */
        0,   0,    0,   0,   0,   0,   0,   0, /* compatible features */
        0,   0x10, 0,   0,                     /* header size */
        'r', 'a',  'w', 0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, /* backing format */
        'r', 'a',  'w', 0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, /* image format */
        'r', 'a',  'w', 'b', 'a', 's', 'e',
    };
    struct vd_storage *cow;
    memset(fix, 0, sizeof(*fix));
    VT_OK(vt_snap_open(8192, &cow, &vt_err));
    VT_OK(vd_storage_pwrite(cow, head, sizeof(head), 0, &vt_err));
    fixture_put(fix, COW, cow);
    fixture_put(fix, RAW, filled(size, STALE));
    fixture_put(fix, BACKING, filled(base_bytes, BASE));
}

static void test_later_header(void **state)
{
    (void)state;
    struct fixture fix;
    later_init(&fix, 20 * LATER_CLUSTER + 512, 10 * LATER_CLUSTER);
    set_byte_in_file(&fix, COW, 4096, 0x81);
    set_byte_in_file(&fix, COW, 4098, 0x10); /* the last, incomplete one */
    fixture_open(&fix, 0);
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    VT_OK(vdisk_image_info(fix.image, &info, &vt_err));
    assert_int_equal(info.cluster_bytes, 4096);
    assert_string_equal(info.variant, "v18");
    assert_string_equal(info.backing_name, "base");
    assert_string_equal(info.backing_format, "raw");
    expect_bytes(&fix, 0, LATER_CLUSTER, STALE);
    expect_bytes(&fix, LATER_CLUSTER, 6 * LATER_CLUSTER, BASE);
    expect_bytes(&fix, 7 * LATER_CLUSTER, LATER_CLUSTER, STALE);
    expect_bytes(&fix, 8 * LATER_CLUSTER, 2 * LATER_CLUSTER, BASE);
    expect_bytes(&fix, 10 * LATER_CLUSTER, 10 * LATER_CLUSTER, 0);
    expect_bytes(&fix, 20 * LATER_CLUSTER, 512, STALE);
    fixture_close(&fix);
    expect_refused(&fix, VDISK_OPEN_WRITE, EROFS, "convert");

    /* All clusters are allocated: neither bitmap nor backing file matter, nor have to be there. */
    set_u32_in_file(&fix, 32, 1);
    vd_storage_close(fix.stores[BACKING]);
    fix.stores[BACKING] = NULL;
    fixture_open(&fix, 0);
    expect_bytes(&fix, 0, 20 * LATER_CLUSTER + 512, STALE);
    VT_OK(vdisk_image_info(fix.image, &info, &vt_err));
    assert_null(info.backing_name);
    fixture_close(&fix);

    set_byte_in_file(&fix, COW, 60, 'q');
    expect_refused(&fix, 0, ENOTSUP, "only raw");
    set_byte_in_file(&fix, COW, 60, 'r');
    set_u32_in_file(&fix, 24, 1);
    expect_refused(&fix, 0, ENOTSUP, "features");
    fixture_destroy(&fix);
}

/* v18: a format of 16 letters has no NUL; small and large clusters, a header that is longer. */
static void test_later_corners(void **state)
{
    (void)state;
    static const struct {
        uint32_t bits, header;
    } table[] = {{9, 4096}, {12, 65536}, {16, 65536}, {21, 2u << 20}};
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct fixture fix;
        uint64_t cluster = UINT64_C(1) << table[i].bits;
        later_init(&fix, 9 * cluster, 9 * cluster);
        set_u32_in_file(&fix, 20, table[i].bits);
        set_u32_in_file(&fix, 40, table[i].header);
        set_length(&fix, COW, table[i].header + UINT64_C(4096));
        set_byte_in_file(&fix, COW, table[i].header, 0x02);
        set_byte_in_file(&fix, COW, table[i].header + UINT64_C(1), 0xFF);
        fixture_open(&fix, 0);
        expect_bytes(&fix, 0, cluster, BASE);
        expect_bytes(&fix, cluster, cluster, STALE);
        expect_bytes(&fix, 2 * cluster, 6 * cluster, BASE);
        expect_bytes(&fix, 8 * cluster, cluster, STALE);
        fixture_close(&fix);
        VT_OK(vd_storage_pwrite(fix.stores[COW], "abcdefghijklmnop", 16, 44, &vt_err));
        expect_refused(&fix, 0, EINVAL, "'abcdefghijklmnop'");
        fixture_destroy(&fix);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bit_order),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_odd_raw_file),
        cmocka_unit_test(test_short_bitmap),
        cmocka_unit_test(test_bits_behind_the_end),
        cmocka_unit_test(test_raw_file_that_comes_back),
        cmocka_unit_test(test_bitmap_that_can_not_be_read),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_raw_is_not_guessed),
        cmocka_unit_test(test_later_header),
        cmocka_unit_test(test_later_corners),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
