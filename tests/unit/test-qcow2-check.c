/* SPDX-License-Identifier: MIT */
/* What a check of a qcow2 image finds: each kind of damage, made by hand, and how it is mended. */
#include "qcow2-check.h"

#define CLUSTER UINT64_C(4096)

/* Three clusters of data, one of them behind a table of its own. */
struct disk {
    struct q2_image image;
    uint64_t data[3];
};

static void create(struct disk *disk, struct q2_shape shape)
{
    shape.cluster_bits = 12;
    shape.size = 2 * 512 * CLUSTER;
    if (shape.incompatible & 0x10) {
        shape.cluster_bits = 14;
        shape.size = 2 * 1024 * UINT64_C(16384);
    }
    q2_create(&disk->image, &shape);
    const uint64_t guests[] = {0, disk->image.cluster, disk->image.geometry.l2_span};
    for (size_t i = 0; i < 3; i++) {
        disk->data[i] = q2_add_data(&disk->image, guests[i], (uint8_t)(i + 1));
        q2_put(disk->image.file, disk->data[i], i + 1, 8);
    }
}

static void end(struct disk *disk)
{
    q2_destroy(&disk->image);
}

static uint64_t length_of(const struct disk *disk)
{
    return q2_length(disk->image.file);
}

/* Of the three clusters; @lost: that one reads as zero, or nothing if it is 3. */
static void expect_data(struct disk *disk, unsigned lost)
{
    uint64_t *tags = q2_read_all(&disk->image, disk->image.file);
    assert_int_equal(tags[0], lost == 0 ? 0 : 1);
    assert_int_equal(tags[1], lost == 1 ? 0 : 2);
    assert_int_equal(tags[disk->image.geometry.l2_entries], lost == 2 ? 0 : 3);
    test_free(tags);
}

static void test_sound(void **state)
{
    (void)state;
    for (uint32_t order = 0; order <= 6; order++) {
        struct disk disk;
        create(&disk, (struct q2_shape){.refcount_order_plus_1 = order + 1});
        if (order > 0)
            q2_add_snapshot(&disk.image);
        struct vdisk_check_result result = q2_check(disk.image.file, VDISK_REPAIR_NONE);
        assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
        assert_int_equal(result.total_clusters, 1024);
        assert_int_equal(result.allocated_clusters, 3);
        assert_int_equal(result.fragmented_clusters, 1); /* a table is between them */
        assert_int_equal(result.image_end_offset, length_of(&disk));
        end(&disk);
    }
}

/* A repair of what is sound writes nothing. */
static void test_nothing_to_mend(void **state)
{
    (void)state;
    struct disk disk;
    struct vd_storage *before;
    create(&disk, (struct q2_shape){0});
    q2_add_snapshot(&disk.image);
    VT_OK(vt_snap_clone(disk.image.file, &before, &vt_err));
    struct vdisk_check_result result = q2_mend(disk.image.file);
    assert_int_equal(result.corruptions_fixed + result.leaks_fixed, 0);
    assert_int_equal(q2_length(before), length_of(&disk));
    for (uint64_t i = 0; i < length_of(&disk); i += 8)
        assert_int_equal(q2_get(before, i, 8), q2_get(disk.image.file, i, 8));
    vd_storage_close(before);
    end(&disk);
}

/* A file that has been cut off, or a wrong field: found, and nothing is mended, as all would leak.
 */
static void test_l1_outside(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){0});
    uint64_t l1 = q2_get(disk.image.file, 40, 8);
    q2_put(disk.image.file, 40, UINT64_C(1) << 40, 8);
    for (enum vdisk_repair repair = VDISK_REPAIR_NONE; repair <= VDISK_REPAIR_ALL; repair++) {
        struct vdisk_check_result result = q2_check(disk.image.file, repair);
        assert_int_equal(result.check_errors, 1);
        assert_true(result.leaks > 3);
        assert_int_equal(result.leaks_fixed + result.corruptions_fixed, 0);
    }
    q2_put(disk.image.file, 40, l1, 8);
    q2_expect(disk.image.file, 0, 0);
    expect_data(&disk, 3);
    end(&disk);
}

/* ---- refcounts ---- */

static void test_leaks(void **state)
{
    (void)state;
    for (uint32_t order = 0; order <= 6; order++) {
        struct disk disk;
        create(&disk, (struct q2_shape){.refcount_order_plus_1 = order + 1});
        uint64_t leaked = q2_alloc(&disk.image, 3);
        q2_expect(disk.image.file, 0, 3);
        struct vdisk_check_result result = q2_check(disk.image.file, VDISK_REPAIR_LEAKS);
        assert_int_equal(result.leaks_fixed, 3);
        assert_int_equal(result.leaks + result.corruptions, 0);
        assert_int_equal(q2_refcount(&disk.image, leaked), 0);
        q2_expect(disk.image.file, 0, 0);
        expect_data(&disk, 3);
        end(&disk);
    }
}

static void test_low_refcounts(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct disk disk;
        create(&disk, (struct q2_shape){.version = version});
        q2_set_refcount(&disk.image, disk.data[0], 0);
        q2_set_refcount(&disk.image, disk.data[1], 7);
        /* Each of them contradicts its COPIED bit, too. */
        q2_expect(disk.image.file, 3, 1);
        struct vdisk_check_result leaks = q2_check(disk.image.file, VDISK_REPAIR_LEAKS);
        assert_int_equal(leaks.leaks_fixed, 1);
        assert_int_equal(leaks.corruptions, 2);
        q2_mend(disk.image.file);
        assert_int_equal(q2_refcount(&disk.image, disk.data[0]), 1);
        expect_data(&disk, 3);
        end(&disk);
    }
}

static void test_copied(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){0});
    q2_set_entry(&disk.image, 0, disk.data[0], 0);
    q2_put(disk.image.file, disk.image.l1 + 8, q2_table(&disk.image, disk.image.geometry.l2_span),
           8);
    q2_expect(disk.image.file, 2, 0);
    struct vdisk_check_result result = q2_mend(disk.image.file);
    assert_int_equal(result.corruptions_fixed, 2);
    assert_int_equal(q2_entry(&disk.image, 0), disk.data[0] | Q2_COPIED);
    expect_data(&disk, 3);
    end(&disk);
}

/* Two entries for one cluster: both keep it, and neither may write it in place. */
static void test_shared(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){0});
    q2_set_entry(&disk.image, 5 * CLUSTER, disk.data[0] | Q2_COPIED, 0);
    q2_expect(disk.image.file, 1, 0);
    q2_mend(disk.image.file);
    assert_int_equal(q2_refcount(&disk.image, disk.data[0]), 2);
    assert_int_equal(q2_entry(&disk.image, 0), disk.data[0]);
    assert_int_equal(q2_entry(&disk.image, 5 * CLUSTER), disk.data[0]);
    expect_data(&disk, 3);
    end(&disk);
}

/* More references than a refcount holds: copies are made. */
static void test_excess(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){.refcount_order_plus_1 = 1});
    for (uint64_t i = 5; i < 8; i++)
        q2_set_entry(&disk.image, i * CLUSTER, disk.data[0] | Q2_COPIED, 0);
    q2_expect(disk.image.file, 3, 0);
    q2_mend(disk.image.file);
    expect_data(&disk, 3);
    uint64_t *tags = q2_read_all(&disk.image, disk.image.file);
    assert_int_equal(tags[5], 1);
    assert_int_equal(tags[7], 1);
    test_free(tags);
    end(&disk);
}

/* The refcount table, or what it leads to, is not usable: everything is counted anew. */
static void test_rebuild(void **state)
{
    (void)state;
    const uint64_t entries[] = {0,
                                1,
                                512,
                                3 * CLUSTER + 512,
                                UINT64_C(1) << 40,
                                UINT64_C(1) << 63,
                                UINT64_C(0xffffffffffffffff),
                                CLUSTER /* the table itself */};
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
        for (uint32_t order = 0; order <= 6; order++) {
            struct disk disk;
            create(&disk, (struct q2_shape){.refcount_order_plus_1 = order + 1});
            q2_put(disk.image.file, disk.image.refcount_table, entries[i], 8);
            struct vdisk_check_result result = q2_check(disk.image.file, VDISK_REPAIR_NONE);
            assert_true(result.corruptions + result.check_errors > 0);
            uint64_t length = length_of(&disk);
            q2_mend(disk.image.file);
            assert_true(length_of(&disk) <= length + 4 * CLUSTER);
            expect_data(&disk, 3);
            end(&disk);
        }
}

static void test_no_refcounts(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct disk disk;
        create(&disk, (struct q2_shape){0});
        switch (i) {
        case 0:
            q2_put(disk.image.file, 56, 0, 4);
            break;
        case 1:
            q2_put(disk.image.file, 48, CLUSTER + 8, 8);
            break;
        case 2:
            q2_put(disk.image.file, 48, 0, 8);
            break;
        default:
            q2_put(disk.image.file, 48, UINT64_C(1) << 50, 8);
            break;
        }
        q2_mend(disk.image.file);
        expect_data(&disk, 3);
        end(&disk);
    }
}

/* ---- entries ---- */

static const struct {
    uint64_t entry;
    unsigned corruptions;
    unsigned leaks;
    bool is_lost;
} entries[] = {
    {Q2_COPIED | UINT64_C(0x1000000), 2, 1, true}, /* behind the end, and no refcount for that */
    {UINT64_C(0x00fffffffffff000), 1, 1, true},
    {Q2_COMPRESSED | UINT64_C(0x1000000), 1, 1, true},
    {Q2_COPIED, 0, 1, true},
    {UINT64_C(0x0200000000000000), 1, 1, true},
    {0, 0, 1, true},
    {1, 0, 1, true},
};

static void test_entries(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        struct disk disk;
        create(&disk, (struct q2_shape){0});
        q2_set_entry(&disk.image, CLUSTER, entries[i].entry, 0);
        q2_expect(disk.image.file, entries[i].corruptions, entries[i].leaks);
        q2_mend(disk.image.file);
        expect_data(&disk, entries[i].is_lost ? 1 : 3);
        end(&disk);
    }
}

/* Bits that mean nothing go, and the data stays. */
static void test_reserved_bits(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){0});
    q2_set_entry(&disk.image, 0, disk.data[0] | Q2_COPIED | UINT64_C(1) << 60, 0);
    q2_set_entry(&disk.image, CLUSTER, disk.data[1] | Q2_COPIED | 2, 0);
    q2_put(disk.image.file, disk.image.l1, q2_get(disk.image.file, disk.image.l1, 8) | 0x101, 8);
    q2_expect(disk.image.file, 3, 0);
    struct vdisk_check_result result = q2_mend(disk.image.file);
    assert_int_equal(result.corruptions_fixed, 3);
    expect_data(&disk, 3);
    end(&disk);
}

static void test_unaligned(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){0});
    q2_set_entry(&disk.image, CLUSTER, (disk.data[1] + 512) | Q2_COPIED, 0);
    q2_put(disk.image.file, disk.image.l1 + 8, q2_get(disk.image.file, disk.image.l1 + 8, 8) + 512,
           8);
    struct vdisk_check_result result = q2_check(disk.image.file, VDISK_REPAIR_NONE);
    assert_true(result.corruptions >= 2);
    q2_mend(disk.image.file);
    uint64_t *tags = q2_read_all(&disk.image, disk.image.file);
    assert_int_equal(tags[0], 1);
    assert_int_equal(tags[1], 0);
    assert_int_equal(tags[512], 0);
    test_free(tags);
    end(&disk);
}

/* Version 2 has no zero clusters: with a backing file, zeros are a cluster. */
static void test_lost_in_version_2(void **state)
{
    (void)state;
    for (int has_backing = 0; has_backing < 2; has_backing++) {
        struct disk disk;
        create(&disk, (struct q2_shape){.version = 2});
        if (has_backing)
            q2_put_backing(&disk.image, 512, "base");
        q2_set_entry(&disk.image, 0, UINT64_C(0x1000000) | Q2_COPIED, 0);
        q2_set_entry(&disk.image, CLUSTER, UINT64_C(0x2000000), 0);
        q2_mend(disk.image.file);
        assert_int_equal(q2_entry(&disk.image, 0) != 0, has_backing);
        assert_int_equal(q2_entry(&disk.image, 0), q2_entry(&disk.image, CLUSTER));
        end(&disk);
    }
}

static void test_subclusters(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){.incompatible = 0x10});
    uint64_t cluster = disk.image.cluster;
    q2_expect(disk.image.file, 0, 0);
    q2_set_entry(&disk.image, 0, disk.data[0] | Q2_COPIED, UINT64_C(0x3ffffffff));
    q2_set_entry(&disk.image, cluster, 0, 0xf);
    q2_expect(disk.image.file, 2, 1);
    q2_mend(disk.image.file);
    /* What is there stays data, what is not there reads as zero. */
    assert_int_equal(q2_get(disk.image.file, q2_entry_at(&disk.image, 0) + 8, 8), UINT32_MAX);
    assert_int_equal(q2_get(disk.image.file, q2_entry_at(&disk.image, cluster) + 8, 8),
                     UINT64_C(0xf) << 32);
    expect_data(&disk, 1);
    end(&disk);
}

static void test_compressed(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){0});
    uint64_t at = q2_alloc(&disk.image, 2);
    /* One in the first cluster, one in both: 4 sectors from 512 bytes before the border. */
    q2_set_entry(&disk.image, 5 * CLUSTER, Q2_COMPRESSED | at, 0);
    q2_set_entry(&disk.image, 6 * CLUSTER, Q2_COMPRESSED | UINT64_C(3) << 58 | (at + CLUSTER - 512),
                 0);
    q2_set_refcount(&disk.image, at, 2);
    struct vdisk_check_result result = q2_check(disk.image.file, VDISK_REPAIR_NONE);
    assert_int_equal(result.corruptions + result.leaks, 0);
    assert_int_equal(result.compressed_clusters, 2);
    assert_int_equal(result.allocated_clusters, 5);
    assert_int_equal(result.fragmented_clusters, 3);
    q2_set_entry(&disk.image, 5 * CLUSTER, Q2_COPIED | Q2_COMPRESSED | at, 0);
    q2_set_refcount(&disk.image, at, 1);
    q2_expect(disk.image.file, 2, 0);
    q2_mend(disk.image.file);
    assert_int_equal(q2_refcount(&disk.image, at), 2);
    assert_int_equal(q2_entry(&disk.image, 5 * CLUSTER), Q2_COMPRESSED | at);
    end(&disk);
}

/* ---- tables where something else is ---- */

static void test_data_in_metadata(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){0});
    const uint64_t places[] = {0, disk.image.refcount_table, disk.image.l1,
                               q2_table(&disk.image, 0)};
    for (uint64_t i = 0; i < 4; i++)
        if (places[i])
            q2_set_entry(&disk.image, (10 + i) * CLUSTER, places[i] | Q2_COPIED, 0);
    uint64_t *tags = q2_read_all(&disk.image, disk.image.file);
    q2_mend(disk.image.file);
    expect_data(&disk, 3);
    q2_expect_all(&disk.image, disk.image.file, tags);
    test_free(tags);
    end(&disk);
}

/* Data is taken for a table: it stays as it is. */
static void test_table_in_data(void **state)
{
    (void)state;
    struct disk disk;
    create(&disk, (struct q2_shape){0});
    q2_fill(disk.image.file, disk.data[0] + 8, CLUSTER - 8, 0xa5);
    q2_put(disk.image.file, disk.image.l1 + 8, disk.data[0] | Q2_COPIED, 8);
    q2_mend(disk.image.file);
    for (uint64_t i = 8; i < CLUSTER; i++)
        assert_int_equal(q2_get(disk.image.file, disk.data[0] + i, 1), 0xa5);
    uint64_t *tags = q2_read_all(&disk.image, disk.image.file);
    assert_int_equal(tags[0], 1);
    assert_int_equal(tags[1], 2);
    test_free(tags);
    end(&disk);
}

/* ---- snapshots ---- */

static void test_snapshots(void **state)
{
    (void)state;
    for (int kind = 0; kind < 6; kind++) {
        struct disk disk;
        create(&disk, (struct q2_shape){0});
        q2_add_snapshot(&disk.image);
        uint64_t table = q2_get(disk.image.file, 64, 8);
        uint64_t l1 = q2_get(disk.image.file, table, 8);
        uint64_t left = kind < 3 ? 0 : 1;
        switch (kind) {
        case 0:
            q2_put(disk.image.file, table, l1 + 512, 8);
            break;
        case 1:
            q2_put(disk.image.file, table, UINT64_C(1) << 40, 8);
            break;
        case 2:
            q2_put(disk.image.file, 64, UINT64_C(1) << 40, 8);
            break;
        case 3:
            q2_put(disk.image.file, table + 8, UINT32_MAX, 4);
            break;
        case 4:
            q2_put(disk.image.file, table + 36, 0, 4);
            break;
        default: /* in the place of data */
            q2_put(disk.image.file, table, disk.data[0], 8);
            break;
        }
        assert_true(q2_check(disk.image.file, VDISK_REPAIR_NONE).corruptions > 0);
        q2_mend(disk.image.file);
        assert_int_equal(q2_get(disk.image.file, 60, 4), left);
        expect_data(&disk, 3);
        if (kind == 3) {
            table = q2_get(disk.image.file, 64, 8);
            assert_int_equal(q2_get(disk.image.file, table, 8), l1);
            assert_int_equal(q2_get(disk.image.file, table + 8, 4), 2);
        }
        end(&disk);
    }
}

/* ---- bitmaps ---- */

/* One bitmap "b" of one cluster of bits.  Returns where its directory is. */
static uint64_t add_bitmap(struct disk *disk)
{
    struct vd_storage *file = disk->image.file;
    uint64_t directory = q2_alloc(&disk->image, 3);
    uint64_t table = directory + CLUSTER;
    uint64_t at = 112;
    uint8_t extension[24];
    q2_store(extension, 0, 1, 4);
    q2_store(extension, 4, 0, 4);
    q2_store(extension, 8, 32, 8);
    q2_store(extension, 16, directory, 8);
    q2_put_extension(&disk->image, &at, 0x23852875, extension, sizeof(extension));
    q2_put(file, 88, 1, 8);
    q2_put(file, directory, table, 8);
    q2_put(file, directory + 8, 1, 4);
    q2_put(file, directory + 12, 2, 4); /* auto */
    q2_put(file, directory + 16, 1, 1);
    q2_put(file, directory + 17, 12, 1);
    q2_put(file, directory + 18, 1, 2);
    q2_put(file, directory + 24, 'b', 1);
    q2_put(file, table, table + CLUSTER, 8);
    return directory;
}

/* The flags of the bitmap; UINT32_MAX: there is none. */
static uint32_t flags_of(struct disk *disk)
{
    if (!(q2_get(disk->image.file, 88, 8) & 1))
        return UINT32_MAX;
    assert_int_equal(q2_get(disk->image.file, 112, 4), 0x23852875);
    return (uint32_t)q2_get(disk->image.file, q2_get(disk->image.file, 136, 8) + 12, 4);
}

static void test_bitmaps(void **state)
{
    (void)state;
    for (int kind = 0; kind < 6; kind++) {
        struct disk disk;
        create(&disk, (struct q2_shape){0});
        uint64_t directory = add_bitmap(&disk);
        struct vd_storage *file = disk.image.file;
        uint32_t expected = 3; /* in use, and auto */
        q2_expect(file, 0, 0);
        switch (kind) {
        case 0: /* a refcount: the bitmap has nothing to do with it */
            q2_set_refcount(&disk.image, disk.data[0], 2);
            expected = 2;
            break;
        case 1:
            q2_put(file, directory + CLUSTER, 2, 8);
            break;
        case 2:
            q2_put(file, directory + CLUSTER, UINT64_C(1) << 40, 8);
            break;
        case 3: /* the disk may read otherwise */
            q2_set_entry(&disk.image, CLUSTER, (disk.data[1] + 512) | Q2_COPIED, 0);
            break;
        case 4:
            q2_put(file, directory, UINT64_C(1) << 40, 8);
            expected = UINT32_MAX;
            break;
        default:
            q2_put(file, directory + 18, 500, 2);
            expected = UINT32_MAX;
            break;
        }
        q2_check(file, VDISK_REPAIR_LEAKS);
        assert_true(flags_of(&disk) == 2);
        q2_mend(file);
        assert_int_equal(flags_of(&disk), expected);
        expect_data(&disk, kind == 3 ? 1 : 3);
        end(&disk);
    }
}

/* ---- hostile images ---- */

/* A long L1 table whose entries all lead to one L2 table, whose entries all lead to one cluster. */
static void test_table_again_and_again(void **state)
{
    (void)state;
    struct q2_image image;
    const struct q2_shape shape = {.size = 1 * GIB, .l1_entries = 1 << 16};
    q2_create(&image, &shape);
    uint64_t data = q2_add_data(&image, 0, 1);
    uint64_t table = q2_table(&image, 0);
    for (uint64_t i = 0; i < image.geometry.l2_entries; i++)
        q2_put(image.file, table + 8 * i, data, 8);
    for (uint64_t i = 0; i < shape.l1_entries; i++)
        q2_put(image.file, image.l1 + 8 * i, table, 8);
    struct vdisk_check_result result = q2_check(image.file, VDISK_REPAIR_NONE);
    assert_int_equal(result.allocated_clusters, (UINT64_C(1) << 16) * image.geometry.l2_entries);
    assert_true(result.corruptions > UINT64_C(1) << 16);
    q2_destroy(&image);
}

/* Places all over 2^56 bytes take neither memory nor time. */
static void test_far_away(void **state)
{
    (void)state;
    struct q2_image image;
    const struct q2_shape shape = {.size = 1 * GIB, .cluster_bits = 12};
    struct vt_random random = {20261201};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    q2_create(&image, &shape);
    for (uint64_t i = 0; i < 2000; i++)
        q2_set_entry(&image, i * image.cluster,
                     vt_random_next(&random) & UINT64_C(0x00fffffffffff000), 0);
    uint64_t length = q2_length(image.file);
    struct vdisk_check_result result = q2_check(image.file, VDISK_REPAIR_NONE);
    assert_int_equal(result.corruptions, 2000);
    q2_mend(image.file);
    assert_int_equal(q2_length(image.file), length);
    q2_destroy(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_nothing_to_mend),
        cmocka_unit_test(test_leaks),
        cmocka_unit_test(test_low_refcounts),
        cmocka_unit_test(test_copied),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_excess),
        cmocka_unit_test(test_rebuild),
        cmocka_unit_test(test_no_refcounts),
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_reserved_bits),
        cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_lost_in_version_2),
        cmocka_unit_test(test_subclusters),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_data_in_metadata),
        cmocka_unit_test(test_table_in_data),
        cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_bitmaps),
        cmocka_unit_test(test_table_again_and_again),
        cmocka_unit_test(test_far_away),
        cmocka_unit_test(test_l1_outside),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
