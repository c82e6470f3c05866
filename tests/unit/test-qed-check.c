/* SPDX-License-Identifier: MIT */
/* The check of QED images: every rule of qed §8, in one pass or in many. */
#include "qed-disk.h"

/* Three clusters of data under two tables; L1 at 1, then: data 2, table 3, data 4, data 5, table 6.
 */
static void put_sample_disk(struct disk *disk)
{
    disk_create(disk, 1, 2048);
    add_data(disk, 0, 100);
    add_data(disk, 7, 107);
    add_data(disk, 512, 612);
    add_data(disk, 8, 1);
    assert_int_equal(length_of(disk->file), 7 * CLUSTER);
}

#define L1      CLUSTER
#define TABLE_0 (3 * CLUSTER)
#define TABLE_1 (6 * CLUSTER)

static void test_sound(void **state)
{
    (void)state;
    struct disk disk;
    put_sample_disk(&disk);
    struct vdisk_check_result result = check(disk.file, VDISK_REPAIR_NONE);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.check_errors, 0);
    assert_int_equal(result.total_clusters, 2048);
    assert_int_equal(result.allocated_clusters, 3);
    assert_int_equal(result.fragmented_clusters, 1);
    assert_int_equal(result.image_end_offset, 7 * CLUSTER);
    assert_int_equal(expect_sound(&disk, disk.file), 0);

    /* What is no whole cluster at the end is no leak. */
    put_bytes(disk.file, 7 * CLUSTER, "tail", 4);
    result = check(disk.file, VDISK_REPAIR_NONE);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.image_end_offset, 7 * CLUSTER);
    disk_destroy(&disk);
}

struct damage {
    const char *what;
    uint64_t offset, value; /* of an entry */
    uint64_t length;        /* of the file then; 0: as it is */
    unsigned corruptions, leaks;
    const char *words; /* in the last finding that is no leak */
};

static const struct damage damages[] = {
    {"L1: 1", L1, 1, 0, 1, 3, "is not at the start"},
    {"L1: not aligned", L1, TABLE_0 + 8, 0, 1, 3, "is not at the start"},
    {"L1: in the header", L1, 0xE00, 0, 1, 3, "is not at the start"},
    {"L1: behind the file", L1 + 8, 7 * CLUSTER, 0, 1, 2, "is not in the file"},
    {"L1: far away", L1 + 8, UINT64_C(1) << 63, 0, 1, 2, "is not in the file"},
    {"L1: last cluster there is", L1 + 8, -CLUSTER, 0, 1, 2, "is not in the file"},
    {"L1: itself", L1 + 8, L1, 0, 1, 2, "belongs to something else"},
    {"L1: the same twice", L1 + 16, TABLE_0, 0, 1, 0, "belongs to something else"},
    {"L1: data as a table", L1 + 16, 4 * CLUSTER, 0, 513, 0, NULL},
    {"L1: behind the disk", L1 + 8 * 300, TABLE_1, 0, 1, 0, "belongs to something else"},
    {"L1: forgotten", L1 + 8, 0, 0, 0, 2, NULL},
    {"L2: not aligned", TABLE_0, 2 * CLUSTER + 512, 0, 1, 1, "is not at the start"},
    {"L2: 2", TABLE_0 + 800, 2, 0, 1, 0, "is not at the start"},
    {"L2: in the header", TABLE_0 + 800, 512, 0, 1, 0, "is not at the start"},
    {"L2: behind the file", TABLE_0, 7 * CLUSTER, 0, 1, 1, "is not in the file"},
    {"L2: far away", TABLE_0, UINT64_C(1) << 62, 0, 1, 1, "is not in the file"},
    {"L2: the same twice", TABLE_0 + 800, 4 * CLUSTER, 0, 1, 0, "belongs to something else"},
    {"L2: that of another table", TABLE_1 + 8, 4 * CLUSTER, 0, 1, 0, "belongs to something else"},
    {"L2: L1", TABLE_0 + 800, L1, 0, 1, 0, "belongs to something else"},
    {"L2: its own table", TABLE_0 + 800, TABLE_0, 0, 1, 0, "belongs to something else"},
    {"L2: a later table", TABLE_0 + 800, TABLE_1, 0, 1, 0, "belongs to something else"},
    {"L2: forgotten", TABLE_0, 0, 0, 0, 1, NULL},
    {"L2: zeros instead", TABLE_0, 1, 0, 0, 1, NULL},
    {"file: cut in a table", TABLE_0, 2 * CLUSTER, 6 * CLUSTER + 100, 1, 0, "is cut off"},
    {"file: cut before it", TABLE_0, 2 * CLUSTER, 6 * CLUSTER, 1, 1, "is not in the file"},
    {"file: cut in data", L1 + 8, 0, 5 * CLUSTER - 1, 1, 0, "is cut off"},
    {"file: longer", TABLE_0, 2 * CLUSTER, 9 * CLUSTER + 5, 0, 2, NULL},
};

/* The second entry for a cluster that is cut off, too, counts once, however many passes there are.
 */
static void test_cut_off_twice(void **state)
{
    (void)state;
    struct disk disk;
    put_sample_disk(&disk);
    put_u64(disk.file, L1 + 8, 0);
    put_u64(disk.file, TABLE_0 + 800, 4 * CLUSTER);
    VT_OK(vd_storage_resize(disk.file, 5 * CLUSTER - 8, &vt_err));
    for (uint32_t pass = 1; pass < 8; pass++)
        assert_int_equal(check_in(disk.file, VDISK_REPAIR_NONE, pass, NULL).corruptions, 2);
    put_u64(disk.file, L1 + 8, 4 * CLUSTER); /* the same as a table */
    for (uint32_t pass = 1; pass < 8; pass++)
        assert_int_equal(check_in(disk.file, VDISK_REPAIR_NONE, pass, NULL).corruptions, 514);
    disk_destroy(&disk);
}

static void put_damage(const struct disk *disk, const struct damage *damage)
{
    put_u64(disk->file, damage->offset, damage->value);
    if (damage->length)
        VT_OK(vd_storage_resize(disk->file, damage->length, &vt_err));
}

static void test_damages(void **state)
{
    (void)state;
    static const uint32_t passes[] = {VD_QED_PASS_CLUSTERS, 7, 6, 3, 2, 1};
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++)
        for (size_t k = 0; k < sizeof(passes) / sizeof(passes[0]); k++) {
            const struct damage *damage = &damages[i];
            struct disk disk;
            struct log log = {0};
            put_sample_disk(&disk);
            put_damage(&disk, damage);
            struct vdisk_check_result result =
                check_in(disk.file, VDISK_REPAIR_NONE, passes[k], &log);
            if (result.corruptions != damage->corruptions || result.leaks != damage->leaks)
                fail_msg("%s, passes of %u: %llu corruptions, %llu leaks", damage->what, passes[k],
                         (unsigned long long)result.corruptions, (unsigned long long)result.leaks);
            assert_int_equal(result.check_errors, 0);
            if (damage->words && damage->leaks == 0 && !strstr(log.last, damage->words))
                fail_msg("%s, passes of %u: %s", damage->what, passes[k], log.last);
            assert_int_equal(log.lines > 0, damage->corruptions + damage->leaks > 0);
            disk_destroy(&disk);
        }
}

/* Tables that share a part of their clusters. */
static void test_overlapping_tables(void **state)
{
    (void)state;
    struct disk disk;
    disk_create(&disk, 4, 4 * 2048);
    add_data(&disk, 0, 100); /* data at 5, table at 6 .. 9 */
    add_leaks(&disk, 4);
    for (uint64_t first = 4; first <= 9; first++) {
        put_u64(disk.file, CLUSTER + 8, first * CLUSTER);
        for (uint32_t pass = 1; pass < 20; pass++) {
            struct vdisk_check_result result = check_in(disk.file, VDISK_REPAIR_NONE, pass, NULL);
            /* At 5 it begins with the data, which then belongs to it, too. */
            assert_int_equal(result.corruptions, first <= 5 ? 2 : 1);
            assert_int_equal(result.leaks, first <= 6 ? 4 : 10 - first);
        }
    }
    disk_destroy(&disk);
}

/* QEMU counts clusters of this size one byte too short, and finds leaks: formats of 4 KiB only. */
static void test_many_clusters(void **state)
{
    (void)state;
    struct disk disk;
    disk_create(&disk, 16, 20000);
    for (uint64_t i = 0; i < 9000; i++)
        add_data(&disk, i, 5000 + i);
    struct vdisk_check_result result = check(disk.file, VDISK_REPAIR_NONE);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.allocated_clusters, 9000);
    add_leaks(&disk, 2);
    assert_int_equal(check(disk.file, VDISK_REPAIR_NONE).leaks, 2);
    assert_int_equal(check_in(disk.file, VDISK_REPAIR_NONE, 1000, NULL).leaks, 2);
    disk_destroy(&disk);
}

/* The mark of a writer is told, and stays if nothing is to be mended. */
static void test_need_check(void **state)
{
    (void)state;
    struct disk disk;
    struct log log = {0};
    put_sample_disk(&disk);
    put_u64(disk.file, 16, VD_QED_FEATURE_NEED_CHECK);
    struct vdisk_check_result result =
        check_in(disk.file, VDISK_REPAIR_NONE, VD_QED_PASS_CLUSTERS, &log);
    assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
    assert_int_equal(log.lines, 1);
    assert_int_equal(get_u64(disk.file, 16), VD_QED_FEATURE_NEED_CHECK);
    check(disk.file, VDISK_REPAIR_LEAKS);
    assert_int_equal(get_u64(disk.file, 16), 0);

    put_u64(disk.file, 16, VD_QED_FEATURE_NEED_CHECK);
    put_u64(disk.file, TABLE_0, 2);
    result = check(disk.file, VDISK_REPAIR_LEAKS);
    assert_int_equal(result.corruptions, 1);
    assert_int_equal(result.leaks, 1);
    assert_int_equal(result.leaks_fixed, 0); /* it may be what the entry should lead to */
    assert_int_equal(get_u64(disk.file, 16), VD_QED_FEATURE_NEED_CHECK);
    result = check(disk.file, VDISK_REPAIR_ALL);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 1);
    assert_int_equal(get_u64(disk.file, 16), 0);
    disk_destroy(&disk);
}

/* A draft has its fields elsewhere, and may end within its last cluster. */
static void test_draft(void **state)
{
    (void)state;
    struct disk disk;
    uint8_t head[VD_QED_HEADER_BYTES];
    put_sample_disk(&disk);
    put_draft(head, CLUSTER, 1, 2048 * CLUSTER);
    put_bytes(disk.file, 0, head, sizeof(head));
    put_u64(disk.file, L1 + 8, 0);
    VT_OK(vd_storage_resize(disk.file, 5 * CLUSTER - 512, &vt_err));
    struct vdisk_check_result result = check(disk.file, VDISK_REPAIR_NONE);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.allocated_clusters, 2);

    struct vd_qed_header header;
    struct vd_check leaks = {.repair = VDISK_REPAIR_LEAKS, .result = &result};
    VT_OK(vd_qed_header_read(disk.file, VD_QED_LOOK, &header, &vt_err));
    VT_FAILS(EROFS, vd_qed_check_file(disk.file, &header, &leaks, &vt_err));
    disk_destroy(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),         cmocka_unit_test(test_cut_off_twice),
        cmocka_unit_test(test_damages),       cmocka_unit_test(test_overlapping_tables),
        cmocka_unit_test(test_many_clusters), cmocka_unit_test(test_need_check),
        cmocka_unit_test(test_draft),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
