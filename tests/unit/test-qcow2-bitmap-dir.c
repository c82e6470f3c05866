/* SPDX-License-Identifier: MIT */
/* The bitmap directory of qcow2: each field at its limits, and there and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/random.h"
#include "format/qcow2/qcow2_bitmap_dir.h"

#define CLUSTER_BITS 16u

/* One entry called "b" at the start of a directory of 32 bytes. */
struct sample {
    struct vd_qcow2_bitmaps_extension extension;
    struct vd_qcow2_disk_bitmap disk;
    char name[8];
};

static_assert(sizeof(struct vd_qcow2_disk_bitmap) + 8 == 32, "an entry with a short name");

static struct sample good(void)
{
    return (struct sample){
        .extension = {.is_present = true,
                      .entries = 1,
                      .directory_bytes = 32,
                      .directory_offset = 0x50000},
        .disk = {.table_offset = be64_of(0x60000),
                 .table_entries = be32_of(1),
                 .flags = be32_of(VD_QCOW2_BITMAP_AUTO),
                 .type = 1,
                 .granularity_bits = 16,
                 .name_bytes = be16_of(1)},
        .name = "b",
    };
}

static int decode(const struct sample *sample, struct vd_qcow2_bitmap_dir *dir,
                  struct vdisk_error *err)
{
    uint8_t bytes[32];
    memcpy(bytes, &sample->disk, sizeof(sample->disk));
    memcpy(bytes + sizeof(sample->disk), sample->name, 8);
    *dir = (struct vd_qcow2_bitmap_dir){0};
    int ret = vd_qcow2_bitmap_dir_check_place(&sample->extension, CLUSTER_BITS, err);
    if (ret == 0)
        ret = vd_qcow2_bitmap_dir_decode(&sample->extension, bytes, CLUSTER_BITS, dir, err);
    return ret;
}

static void expect_good(const struct sample *sample)
{
    struct vd_qcow2_bitmap_dir dir;
    VT_OK(decode(sample, &dir, &vt_err));
    assert_int_equal(dir.count, 1);
    vd_qcow2_bitmap_dir_free(&dir);
}

static void expect_bad(const struct sample *sample, int code, const char *words)
{
    struct vd_qcow2_bitmap_dir dir;
    struct vdisk_error err = {0};
    assert_int_equal(decode(sample, &dir, &err), -code);
    assert_int_equal(err.code, code);
    if (!strstr(err.message, words))
        fail_msg("'%s' does not say '%s'", err.message, words);
    assert_null(dir.entries);
}

static void a_good_entry_is_read(void **state)
{
    (void)state;
    struct sample sample = good();
    struct vd_qcow2_bitmap_dir dir;
    VT_OK(decode(&sample, &dir, &vt_err));
    assert_string_equal(dir.entries[0].name, "b");
    assert_int_equal(dir.entries[0].table_offset, 0x60000);
    assert_int_equal(dir.entries[0].table_entries, 1);
    assert_int_equal(dir.entries[0].flags, VD_QCOW2_BITMAP_AUTO);
    assert_int_equal(dir.entries[0].granularity_bits, 16);
    vd_qcow2_bitmap_dir_free(&dir);
}

static void places_are_checked(void **state)
{
    (void)state;
    struct sample sample = good();
    sample.extension.is_draft = true;
    expect_bad(&sample, ENOTSUP, "draft of January 2016");
    sample = good();
    sample.extension.entries = 0;
    expect_bad(&sample, EBADMSG, "0 bitmaps: must be 1 to 65535");
    sample.extension.entries = 65536;
    expect_bad(&sample, EBADMSG, "65536 bitmaps");
    sample = good();
    sample.extension.directory_bytes = 0;
    expect_bad(&sample, EBADMSG, "directory has 0 bytes");
    sample.extension.directory_bytes = VD_QCOW2_BITMAP_DIR_BYTES_MAX + 1;
    expect_bad(&sample, EBADMSG, "67107841 bytes");
    sample = good();
    static const uint64_t offsets[] = {0, 0x50200, UINT64_C(1) << 56, UINT64_MAX - 0xffff};
    for (size_t i = 0; i < 4; i++) {
        sample.extension.directory_offset = offsets[i];
        expect_bad(&sample, EBADMSG, "where no cluster begins");
    }
}

static void fields_are_checked(void **state)
{
    (void)state;
    struct sample sample = good();
    static const uint64_t offsets[] = {0, 0x60200, UINT64_C(1) << 56};
    for (size_t i = 0; i < 3; i++) {
        sample.disk.table_offset = be64_of(offsets[i]);
        expect_bad(&sample, EBADMSG, "entry 0: the table is said to be at");
    }
    sample = good();
    sample.disk.table_entries = be32_of(0);
    expect_bad(&sample, EBADMSG, "table has 0 entries: must be 1 to 8192");
    sample.disk.table_entries = be32_of(8193);
    expect_bad(&sample, EBADMSG, "table has 8193 entries");
    sample.disk.table_entries = be32_of(8192);
    expect_good(&sample);
    sample = good();
    for (unsigned bit = 2; bit < 32; bit++) {
        sample.disk.flags = be32_of(UINT32_C(1) << bit);
        expect_bad(&sample, ENOTSUP, "unknown flags 0x");
    }
    sample.disk.flags = be32_of(3);
    expect_good(&sample);
    sample = good();
    sample.disk.type = 2;
    expect_bad(&sample, ENOTSUP, "type 2");
    sample = good();
    for (unsigned bits = 0; bits < 256; bits++) {
        sample.disk.granularity_bits = (uint8_t)bits;
        if (bits >= 9 && bits <= 31)
            expect_good(&sample);
        else
            expect_bad(&sample, EBADMSG, "must be 2^9 to 2^31");
    }
    sample = good();
    sample.disk.extra_bytes = be32_of(1);
    expect_bad(&sample, ENOTSUP, "1 bytes of extra data");
    sample.disk.extra_bytes = be32_of(UINT32_MAX);
    expect_bad(&sample, ENOTSUP, "4294967295 bytes of extra data");
}

static void names_are_checked(void **state)
{
    (void)state;
    struct sample sample = good();
    sample.disk.name_bytes = be16_of(0);
    expect_bad(&sample, EBADMSG, "the name has 0 bytes");
    sample.disk.name_bytes = be16_of(1024);
    expect_bad(&sample, EBADMSG, "the name has 1024 bytes");
    sample.disk.name_bytes = be16_of(9);
    expect_bad(&sample, EBADMSG, "the directory ends within it");
    sample.disk.name_bytes = be16_of(2);
    expect_bad(&sample, EBADMSG, "zero byte");
    memcpy(sample.name, "12345678", 8);
    sample.disk.name_bytes = be16_of(8);
    expect_good(&sample);
}

static void lengths_are_checked(void **state)
{
    (void)state;
    struct sample sample = good();
    sample.extension.directory_bytes = 31;
    expect_bad(&sample, EBADMSG, "entry 0: the directory ends within it");
    sample.extension.directory_bytes = 20;
    expect_bad(&sample, EBADMSG, "20 bytes do not hold 1 entries");
    sample.extension.directory_bytes = 32;
    sample.extension.entries = 2;
    expect_bad(&sample, EBADMSG, "do not hold 2 entries");

    uint8_t bytes[64] = {0};
    struct vd_qcow2_bitmap_dir dir;
    sample = good();
    memcpy(bytes, &sample.disk, sizeof(sample.disk));
    memcpy(bytes + 24, "b", 1);
    memcpy(bytes + 32, &sample.disk, sizeof(sample.disk));
    memcpy(bytes + 56, "c", 1);
    sample.extension.directory_bytes = 64;
    VT_FAILS(EBADMSG, vd_qcow2_bitmap_dir_decode(&sample.extension, bytes, CLUSTER_BITS, &dir,
                                                 &vt_err)); /* 32 bytes are left */
    sample.extension.entries = 2;
    VT_OK(vd_qcow2_bitmap_dir_decode(&sample.extension, bytes, CLUSTER_BITS, &dir, &vt_err));
    assert_int_equal(dir.count, 2);
    vd_qcow2_bitmap_dir_free(&dir);
    memcpy(bytes + 56, "b", 1);
    VT_FAILS(EBADMSG, vd_qcow2_bitmap_dir_decode(&sample.extension, bytes, CLUSTER_BITS, &dir,
                                                 &vt_err)); /* twice the same name */
}

static void new_names_are_checked(void **state)
{
    (void)state;
    char name[1025];
    memset(name, 'n', sizeof(name));
    name[1024] = '\0';
    VT_FAILS(EINVAL, vd_qcow2_bitmap_check_name(name, &vt_err));
    VT_FAILS(EINVAL, vd_qcow2_bitmap_check_name("", &vt_err));
    name[1023] = '\0';
    VT_OK(vd_qcow2_bitmap_check_name(name, &vt_err));
}

/* Random directories, encoded and decoded again. */
static void directories_come_back(void **state)
{
    (void)state;
    struct vt_random random = {.state = 4};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (unsigned round = 0; round < 200; round++) {
        uint32_t cluster_bits = 9 + (uint32_t)vt_random_below(&random, 13);
        struct vd_qcow2_bitmap_entry entries[20];
        struct vd_qcow2_bitmap_dir dir = {.entries = entries,
                                          .count = 1 + (size_t)vt_random_below(&random, 20)};
        for (size_t i = 0; i < dir.count; i++) {
            uint64_t most = vd_min(VD_QCOW2_BITMAP_TABLE_ENTRIES_MAX,
                                   VD_QCOW2_BITMAP_DATA_BYTES_MAX >> cluster_bits);
            size_t name_bytes = 3 + (size_t)vt_random_below(&random, 1021);
            entries[i] = (struct vd_qcow2_bitmap_entry){
                .name = calloc(1, name_bytes + 1),
                .table_offset = (1 + vt_random_below(&random, 1u << 30)) << cluster_bits,
                .table_entries = (uint32_t)(1 + vt_random_below(&random, most)),
                .flags = (uint32_t)vt_random_below(&random, 4),
                .granularity_bits = 9 + (uint32_t)vt_random_below(&random, 23),
            };
            memset(entries[i].name, 'a' + (int)(name_bytes % 26), name_bytes);
            entries[i].name[0] = (char)('0' + i);
        }
        struct vd_qcow2_bitmaps_extension extension = {
            .is_present = true,
            .entries = (uint32_t)dir.count,
            .directory_bytes = vd_qcow2_bitmap_dir_bytes(&dir),
            .directory_offset = UINT64_C(1) << cluster_bits,
        };
        uint8_t *bytes = malloc((size_t)extension.directory_bytes);
        memset(bytes, 0xAA, (size_t)extension.directory_bytes);
        vd_qcow2_bitmap_dir_encode(&dir, bytes);
        struct vd_qcow2_bitmap_dir again;
        VT_OK(vd_qcow2_bitmap_dir_check_place(&extension, cluster_bits, &vt_err));
        VT_OK(vd_qcow2_bitmap_dir_decode(&extension, bytes, cluster_bits, &again, &vt_err));
        assert_int_equal(again.count, dir.count);
        for (size_t i = 0; i < dir.count; i++) {
            assert_string_equal(again.entries[i].name, entries[i].name);
            assert_int_equal(again.entries[i].table_offset, entries[i].table_offset);
            assert_int_equal(again.entries[i].table_entries, entries[i].table_entries);
            assert_int_equal(again.entries[i].flags, entries[i].flags);
            assert_int_equal(again.entries[i].granularity_bits, entries[i].granularity_bits);
            free(entries[i].name);
        }
        vd_qcow2_bitmap_dir_free(&again);
        free(bytes);
    }
}

static void table_entries_are_checked(void **state)
{
    (void)state;
    enum vd_qcow2_bitmap_piece piece;
    uint64_t host;
    assert_true(vd_qcow2_bitmap_piece_decode(0, 16, &piece, &host));
    assert_int_equal(piece, VD_QCOW2_BITMAP_ZEROS);
    assert_true(vd_qcow2_bitmap_piece_decode(1, 16, &piece, &host));
    assert_int_equal(piece, VD_QCOW2_BITMAP_ONES);
    assert_true(vd_qcow2_bitmap_piece_decode(0x70000, 16, &piece, &host));
    assert_int_equal(piece, VD_QCOW2_BITMAP_DATA);
    assert_int_equal(host, 0x70000);
    assert_false(vd_qcow2_bitmap_piece_decode(0x70001, 16, &piece, &host));
    assert_false(vd_qcow2_bitmap_piece_decode(0x70200, 16, &piece, &host));
    assert_true(vd_qcow2_bitmap_piece_decode(0x70200, 9, &piece, &host));
    for (unsigned bit = 1; bit < 9; bit++)
        assert_false(vd_qcow2_bitmap_piece_decode(UINT64_C(1) << bit, 9, &piece, &host));
    for (unsigned bit = 56; bit < 64; bit++)
        assert_false(vd_qcow2_bitmap_piece_decode(UINT64_C(1) << bit, 9, &piece, &host));
    assert_int_equal(vd_qcow2_bitmap_piece_encode(VD_QCOW2_BITMAP_ZEROS, 0), 0);
    assert_int_equal(vd_qcow2_bitmap_piece_encode(VD_QCOW2_BITMAP_ONES, 0), 1);
    assert_int_equal(vd_qcow2_bitmap_piece_encode(VD_QCOW2_BITMAP_DATA, 0x70000), 0x70000);
}

static void tables_have_the_right_length(void **state)
{
    (void)state;
    assert_int_equal(vd_qcow2_bitmap_table_entries(0, 16, 16), 0);
    assert_int_equal(vd_qcow2_bitmap_table_entries(1, 16, 16), 1);
    /* A cluster of 512 bytes has the bits of 4096 granules of 512 bytes. */
    assert_int_equal(vd_qcow2_bitmap_table_entries(UINT64_C(2) << 20, 9, 9), 1);
    assert_int_equal(vd_qcow2_bitmap_table_entries((UINT64_C(2) << 20) + 1, 9, 9), 2);
    assert_int_equal(vd_qcow2_bitmap_table_entries(UINT64_C(16) << 40, 16, 16), 512);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_entry_is_read),         cmocka_unit_test(places_are_checked),
        cmocka_unit_test(fields_are_checked),           cmocka_unit_test(names_are_checked),
        cmocka_unit_test(lengths_are_checked),          cmocka_unit_test(new_names_are_checked),
        cmocka_unit_test(directories_come_back),        cmocka_unit_test(table_entries_are_checked),
        cmocka_unit_test(tables_have_the_right_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
