/* SPDX-License-Identifier: MIT */
/* Where qcow2 says that a range lives: every kind of entry, runs, ends of files, and bad tables. */
#include <stdio.h>
#include <stdlib.h>

#include "drivers/random.h"
#include "drivers/trace.h"
#include "format/driver.h"

#include "qcow2-fixture.h"

static const struct vd_format_driver *driver(void)
{
    const struct vd_format_driver *found = vd_format_find("qcow2", NULL);
    assert_non_null(found);
    return found;
}

static struct vd_format *open_it(struct q2_image *image, const struct vd_format_files *files)
{
    struct vd_format_options options = {.files = files};
    struct vd_format *format = NULL;
    VT_OK(vd_format_open(driver(), image->file, &options, &format, &vt_err));
    return format;
}

static void close_it(struct vd_format *format)
{
    VT_OK(vd_format_close(format, &vt_err));
}

static struct vd_mapping map(struct vd_format *format, uint64_t offset, uint64_t length)
{
    struct vd_mapping mapping;
    VT_OK(vd_format_map(format, vd_range(offset, length), &mapping, &vt_err));
    return mapping;
}

static void expect(struct vd_format *format, uint64_t offset, uint64_t asked, enum vd_map_kind kind,
                   bool present, uint64_t length)
{
    struct vd_mapping mapping = map(format, offset, asked);
    if (mapping.kind != kind || mapping.present != present || mapping.guest.length != length)
        fail_msg("at %llu: kind %d, present %d, %llu bytes", (unsigned long long)offset,
                 (int)mapping.kind, mapping.present, (unsigned long long)mapping.guest.length);
}

/* DATA at @host, or not that far. */
static void expect_data(struct vd_format *format, uint64_t offset, uint64_t asked, uint64_t host,
                        uint64_t length)
{
    expect(format, offset, asked, VD_MAP_DATA, true, length);
    assert_int_equal(map(format, offset, asked).host_offset, host);
}

static void test_kinds(void **state)
{
    (void)state;
    for (uint32_t bits = 9; bits <= 21; bits += 3) {
        struct q2_image image;
        q2_create(&image, &(struct q2_shape){.cluster_bits = bits, .size = 4 * MIB});
        uint64_t cluster = image.cluster;
        q2_set_entry(&image, 0, 0, 0);
        uint64_t data = q2_alloc(&image, 3);
        q2_set_entry(&image, 0, data | Q2_COPIED, 0);
        q2_set_entry(&image, cluster, Q2_ZERO, 0);
        if (bits < 21) {
            q2_set_entry(&image, 3 * cluster, (data + cluster) | Q2_ZERO | Q2_COPIED, 0);
            q2_set_entry(&image, 4 * cluster, (data + 2 * cluster) | Q2_COPIED, 0);
        }
        struct vd_format *format = open_it(&image, NULL);
        assert_int_equal(vd_format_size(format), 4 * MIB);
        expect_data(format, 0, cluster, data, cluster);
        expect_data(format, 7, 4 * MIB - 7, data + 7, cluster - 7);
        expect_data(format, cluster - 1, 2, data + cluster - 1, 1);
        if (bits < 21) {
            expect(format, cluster, 4 * MIB - cluster, VD_MAP_ZERO, true, cluster);
            expect(format, 2 * cluster + 9, cluster, VD_MAP_ZERO, false, cluster - 9);
            expect(format, 3 * cluster, cluster, VD_MAP_ZERO, true, cluster);
            expect_data(format, 4 * cluster, cluster, data + 2 * cluster, cluster);
        }
        close_it(format);
        q2_destroy(&image);
    }
}

/* Runs go over pages of a table, over tables, and over tables that are not there. */
static void test_runs(void **state)
{
    (void)state;
    struct q2_image image;
    uint64_t size = 3 * 512 * MIB;
    q2_create(&image, &(struct q2_shape){.size = 4 * size});
    uint64_t clusters = size / 65536;
    uint64_t data = q2_extend(&image, clusters);
    for (uint64_t i = 0; i < clusters; i++)
        q2_set_entry(&image, i * 65536, (data + i * 65536) | Q2_COPIED, 0);
    struct vd_format *format = open_it(&image, NULL);
    /* 16 pages of 512 entries. */
    expect_data(format, 0, size, data, 16 * 512 * UINT64_C(65536));
    expect_data(format, 65536 + 5, size - 65536 - 5, data + 65541,
                16 * 512 * UINT64_C(65536) - 65541);
    expect(format, size, 3 * size, VD_MAP_ZERO, false, 3 * size);
    close_it(format);

    /* A hole in the numbers ends it. */
    q2_set_entry(&image, 600 * 65536, (data + 601 * UINT64_C(65536)) | Q2_COPIED, 0);
    format = open_it(&image, NULL);
    expect_data(format, 0, size, data, 600 * UINT64_C(65536));
    expect_data(format, 600 * 65536, 65536 * 9, data + 601 * UINT64_C(65536), 65536);
    close_it(format);
    q2_destroy(&image);
}

/* A reader does not mind what may be written in place, or where zeros would go. */
static void test_runs_for_readers(void **state)
{
    (void)state;
    struct q2_image image;
    q2_create(&image, &(struct q2_shape){.size = 4 * MIB});
    uint64_t data = q2_alloc(&image, 4);
    for (uint64_t i = 0; i < 4; i++)
        q2_set_entry(&image, i * 65536, (data + i * 65536) | (i % 2 ? Q2_COPIED : 0), 0);
    for (uint64_t i = 4; i < 8; i++)
        q2_set_entry(&image, i * 65536, i % 2 ? Q2_ZERO : Q2_ZERO | data | Q2_COPIED, 0);
    struct vd_format *format = open_it(&image, NULL);
    expect_data(format, 0, 4 * MIB, data, 4 * 65536);
    expect(format, 4 * 65536, 4 * MIB - 4 * 65536, VD_MAP_ZERO, true, 4 * 65536);
    close_it(format);
    q2_destroy(&image);
}

static void test_backing(void **state)
{
    (void)state;
    struct q2_image image;
    q2_create(&image, &(struct q2_shape){.size = 4 * MIB});
    q2_put_backing(&image, 1000, "base");
    q2_set_entry(&image, MIB, Q2_ZERO, 0);
    struct vd_format *format = open_it(&image, NULL);
    expect(format, 0, 4 * MIB, VD_MAP_BACKING, false, MIB);
    expect(format, MIB, 65536, VD_MAP_ZERO, true, 65536);
    struct vd_format_info info;
    VT_OK(vd_format_info(format, &info, &vt_err));
    assert_string_equal(info.backing_name, "base");
    assert_null(info.backing_format);
    close_it(format);
    q2_destroy(&image);
}

static void test_compressed(void **state)
{
    (void)state;
    for (unsigned type = 0; type < 2; type++) {
        struct q2_image image;
        q2_create(&image, &(struct q2_shape){.size = 4 * MIB + 100,
                                             .incompatible = type ? 8 : 0,
                                             .compression_type = (uint8_t)type});
        q2_table(&image, 0);
        uint64_t data = q2_alloc(&image, 2);
        /* 3 additional sectors; then the last one of the disk and the file, which ends in it. */
        q2_set_entry(&image, 65536, Q2_COMPRESSED | UINT64_C(3) << 54 | (data + 700), 0);
        q2_set_entry(&image, 4 * MIB, Q2_COMPRESSED | UINT64_C(1) << 54 | (data + 131000), 0);
        VT_OK(vd_storage_resize(image.file, data + 131050, &vt_err));
        struct vd_format *format = open_it(&image, NULL);
        struct vd_mapping mapping = map(format, 65536 + 9, 2 * MIB);
        assert_int_equal(mapping.kind, VD_MAP_ENCODED);
        assert_int_equal(mapping.codec, type ? VD_CODEC_ZSTD : VD_CODEC_DEFLATE);
        assert_int_equal(mapping.guest.length, 65536 - 9);
        assert_int_equal(mapping.clusters.offset, 65536);
        assert_int_equal(mapping.clusters.length, 65536);
        assert_int_equal(mapping.host_offset, data + 700);
        assert_int_equal(mapping.encoded_bytes, 4 * 512 - 700 % 512);
        mapping = map(format, 4 * MIB, 100);
        assert_int_equal(mapping.kind, VD_MAP_ENCODED);
        assert_int_equal(mapping.guest.length, 100);
        assert_int_equal(mapping.clusters.length, 65536);
        assert_int_equal(mapping.encoded_bytes, 50);
        close_it(format);
        q2_destroy(&image);
    }
}

/* Against a plain array: each subcluster of random entries. */
static void test_subclusters(void **state)
{
    (void)state;
    struct vt_random random = {7};
    struct q2_image image;
    enum {
        CLUSTERS = 600
    };
    q2_create(&image,
              &(struct q2_shape){.cluster_bits = 14, .size = CLUSTERS * 16384, .incompatible = 16});
    static uint64_t hosts[CLUSTERS];
    static uint64_t bitmaps[CLUSTERS];
    uint64_t data = q2_extend(&image, CLUSTERS);
    for (uint64_t i = 0; i < CLUSTERS; i++) {
        uint64_t kind = vt_random_below(&random, 4);
        uint64_t bits = kind == 0 ? UINT32_MAX : kind == 1 ? 0 : vt_random_next(&random);
        bits &= ~(bits << 32);
        hosts[i] = (uint32_t)bits || vt_random_chance(&random, 50) ? data + i * 16384 : 0;
        bitmaps[i] = bits;
        q2_set_entry(&image, i * 16384, hosts[i] ? hosts[i] | Q2_COPIED : 0, bits);
    }
    struct vd_format *format = open_it(&image, NULL);
    uint64_t at = 0;
    while (at < CLUSTERS * 16384) {
        struct vd_mapping mapping = map(format, at, CLUSTERS * 16384 - at);
        for (uint64_t sub = at; sub < at + mapping.guest.length; sub += 512) {
            uint64_t cluster = sub / 16384;
            unsigned index = (unsigned)(sub % 16384 / 512);
            bool is_data = bitmaps[cluster] >> index & 1;
            bool is_zero = bitmaps[cluster] >> (index + 32) & 1;
            assert_int_equal(mapping.kind == VD_MAP_DATA, is_data);
            assert_int_equal(mapping.present, is_data || is_zero);
            if (is_data)
                assert_int_equal(mapping.host_offset + sub - at, hosts[cluster] + sub % 16384);
        }
        at += mapping.guest.length;
    }
    assert_int_equal(at, CLUSTERS * 16384);
    close_it(format);
    q2_destroy(&image);
}

/* Tables of 512 bytes share a page with each other and with L1. */
static void test_small_clusters(void **state)
{
    (void)state;
    struct q2_image image;
    q2_create(&image, &(struct q2_shape){.cluster_bits = 9, .size = 4 * MIB});
    for (uint64_t i = 0; i < 3 * 64; i++)
        q2_add_data(&image, i * 512, (uint8_t)i);
    struct vd_format *format = open_it(&image, NULL);
    for (uint64_t i = 0; i < 3 * 64; i++) {
        uint8_t byte;
        struct vd_mapping mapping = map(format, i * 512, 4 * MIB - i * 512);
        assert_int_equal(mapping.kind, VD_MAP_DATA);
        VT_OK(vd_storage_pread(mapping.storage, &byte, 1, mapping.host_offset, &vt_err));
        assert_int_equal(byte, i);
    }
    expect(format, 3 * 64 * 512, MIB, VD_MAP_ZERO, false, MIB);
    close_it(format);
    q2_destroy(&image);
}

/* Data behind the end of the file reads as zero; so does the rest of a table. */
static void test_short_file(void **state)
{
    (void)state;
    struct q2_image image;
    q2_create(&image, &(struct q2_shape){.size = 600 * MIB});
    q2_table(&image, 0);
    uint64_t data = q2_alloc(&image, 2);
    q2_set_entry(&image, 0, data | Q2_COPIED, 0);
    q2_set_entry(&image, 65536, (data + 65536) | Q2_COPIED, 0);
    q2_set_entry(&image, 131072, (data + MIB) | Q2_COPIED, 0);
    uint64_t table = q2_table(&image, 512 * MIB);
    VT_OK(vd_storage_resize(image.file, table + 24, &vt_err));
    struct vd_format *format = open_it(&image, NULL);
    expect_data(format, 0, 131072, data, 131072);
    expect(format, 131072, 65536, VD_MAP_ZERO, true, 65536);
    expect(format, 512 * MIB, 88 * MIB, VD_MAP_ZERO, false, 88 * MIB);
    close_it(format);
    VT_OK(vd_storage_resize(image.file, data + 65536 + 1000, &vt_err));
    format = open_it(&image, NULL);
    expect_data(format, 0, MIB, data, 65536 + 1000);
    expect(format, 65536 + 1000, 64536, VD_MAP_ZERO, true, 64536);
    struct vd_mapping mapping;
    VT_FAILS(EBADMSG, vd_format_map(format, vd_range(512 * MIB, 1), &mapping, &vt_err));
    assert_int_equal(vd_format_close(format, NULL), -EBADMSG);
    q2_destroy(&image);
}

static void expect_bad(struct q2_image *image, uint64_t guest)
{
    struct vd_mapping mapping;
    struct vd_format *format = open_it(image, NULL);
    VT_FAILS(EBADMSG, vd_format_map(format, vd_range(guest, 1), &mapping, &vt_err));
    /* What is before it can be had. */
    VT_OK(vd_format_map(format, vd_range(0, guest + 1), &mapping, &vt_err));
    assert_in_range(mapping.guest.length, 1, guest);
    assert_int_equal(vd_format_close(format, NULL), -EBADMSG);
}

static void test_bad(void **state)
{
    (void)state;
    static const uint64_t l1[] = {0x1,
                                  0x200,
                                  0x100,
                                  UINT64_C(1) << 56,
                                  UINT64_C(1) << 62,
                                  UINT64_C(1) << 63,
                                  0x7fff0000,
                                  UINT64_C(0xffffffffff0000)};
    static const uint64_t l2[] = {0x200,
                                  0x10002,
                                  UINT64_C(1) << 61 | 0x10000,
                                  Q2_COMPRESSED,
                                  Q2_COMPRESSED | 65535,
                                  Q2_COMPRESSED | UINT64_C(0x3f0000000)};
    struct q2_image image;
    q2_create(&image, &(struct q2_shape){.size = 2048 * MIB});
    q2_set_entry(&image, 512 * MIB, Q2_ZERO, 0);
    for (size_t i = 0; i < sizeof(l1) / sizeof(l1[0]); i++) {
        q2_put(image.file, q2_l1_entry_at(&image, 1024 * MIB), l1[i], 8);
        expect_bad(&image, 1024 * MIB);
    }
    q2_put(image.file, q2_l1_entry_at(&image, 1024 * MIB), 0, 8);
    for (size_t i = 0; i < sizeof(l2) / sizeof(l2[0]); i++) {
        q2_set_entry(&image, 900 * MIB, l2[i], 0);
        expect_bad(&image, 900 * MIB);
    }
    q2_destroy(&image);
    q2_create(&image, &(struct q2_shape){.version = 2, .size = 2048 * MIB});
    q2_set_entry(&image, MIB, Q2_ZERO, 0);
    expect_bad(&image, MIB);
    q2_destroy(&image);
}

struct data_file {
    struct vd_storage *storage;
    unsigned asked;
};

static int open_data(void *opaque, const char *name, bool writable, struct vd_storage **storage,
                     struct vdisk_error *err)
{
    struct data_file *data = opaque;
    assert_string_equal(name, "data.raw");
    assert_false(writable);
    data->asked++;
    return vt_trace_open(data->storage, VT_BORROW, NULL, storage, err);
}

static void test_data_file(void **state)
{
    (void)state;
    struct q2_image image;
    struct data_file data = {0};
    struct vd_format_files files = {.open_data = open_data, .opaque = &data};
    struct vd_format_options options = {.flags = VD_FORMAT_CHECK | VD_FORMAT_FACTS};
    struct vd_format *format = NULL;
    struct vd_format_info info;
    uint64_t at = 112;
    q2_create(&image, &(struct q2_shape){.size = 4 * MIB, .incompatible = 4, .autoclear = 2});
    q2_put_extension(&image, &at, 0x44415441, "data.raw", 8);
    VT_OK(vt_snap_open(2 * MIB + 5, &data.storage, &vt_err));
    q2_set_entry(&image, 0, Q2_COPIED, 0);
    q2_set_entry(&image, 65536, Q2_COPIED | 65536, 0);
    q2_set_entry(&image, 2 * MIB, Q2_COPIED | 2 * MIB, 0);
    q2_set_entry(&image, 3 * MIB, Q2_COPIED | MIB, 0);

    VT_OK(vd_format_open(driver(), image.file, &options, &format, &vt_err));
    VT_OK(vd_format_info(format, &info, &vt_err));
    assert_string_equal(info.data_name, "data.raw");
    assert_true(info.flags & VDISK_INFO_DATA_RAW);
    assert_false(info.flags & VDISK_INFO_NO_DATA_FILE);
    assert_int_equal(vd_format_size(format), 4 * MIB);
    close_it(format);
    assert_int_equal(data.asked, 0);

    format = open_it(&image, &files);
    assert_int_equal(data.asked, 1);
    expect_data(format, 0, 4 * MIB, 0, 131072);
    assert_ptr_not_equal(map(format, 0, 1).storage, image.file);
    expect_data(format, 2 * MIB, 4096, 2 * MIB, 5);
    expect(format, 2 * MIB + 5, 100, VD_MAP_ZERO, true, 100);
    struct vd_mapping mapping;
    VT_FAILS(EBADMSG, vd_format_map(format, vd_range(3 * MIB, 1), &mapping, &vt_err));
    assert_int_equal(vd_format_close(format, NULL), -EBADMSG);
    options.flags = 0;
    VT_FAILS(EINVAL, vd_format_open(driver(), image.file, &options, &format, &vt_err));
    vd_storage_close(data.storage);
    q2_destroy(&image);
}

/* A file of 16 TiB of disk, all of L1 in use: a few reads, and as much memory as they bring. */
static void test_large(void **state)
{
    (void)state;
    struct q2_image image;
    struct vd_storage *traced;
    struct vd_format *format = NULL;
    q2_create(&image, &(struct q2_shape){.size = 16 * TIB});
    uint64_t entries = 16 * TIB / (512 * MIB);
    uint64_t tables = q2_extend(&image, entries);
    struct be64 *l1 = calloc(entries, sizeof(*l1));
    assert_non_null(l1);
    for (uint64_t i = 0; i < entries; i++)
        l1[i] = be64_of((tables + i * 65536) | Q2_COPIED);
    q2_put_bytes(image.file, image.l1, l1, entries * sizeof(*l1));
    free(l1);
    uint64_t guest = 11 * TIB + 77 * MIB;
    uint64_t data = q2_extend(&image, 1);
    q2_put(image.file, tables + guest / (512 * MIB) * 65536 + guest % (512 * MIB) / 65536 * 8,
           data | Q2_COPIED, 8);

    VT_OK(vt_trace_open(image.file, VT_BORROW, NULL, &traced, &vt_err));
    VT_OK(vd_format_open(driver(), traced, NULL, &format, &vt_err));
    expect_data(format, guest, 65536, data, 65536);
    assert_true(vt_trace_count(traced, VT_READ) <= 3);
    assert_true(vt_trace_bytes(traced, VT_READ) <= 3 * 4096);
    close_it(format);
    vd_storage_close(traced);
    q2_destroy(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_runs_for_readers),
        cmocka_unit_test(test_backing),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_subclusters),
        cmocka_unit_test(test_small_clusters),
        cmocka_unit_test(test_short_file),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_data_file),
        cmocka_unit_test(test_large),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
