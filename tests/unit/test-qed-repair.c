/* SPDX-License-Identifier: MIT */
/*
 * Repairs of QED images: leaks are given back wherever they are, and contradictions mended without
 * losing what can be read; and the same at every power cut on the way.
 */
#include "drivers/fault.h"

#include "qed-cuts.h"
#include "qed-disk.h"

static uint32_t random_pass(struct vt_random *random)
{
    return vt_random_chance(random, 50) ? VD_QED_PASS_CLUSTERS
                                        : 3 + (uint32_t)vt_random_below(random, 40);
}

/* --- leaks ------------------------------------------------------------------------------------ */

static void expect_tags(const struct disk *disk, struct vd_storage *file, const uint64_t *tags)
{
    for (uint64_t i = 0; i < disk->clusters; i++)
        assert_int_equal(tag_of(disk, file, i), tags[i]);
}

static void test_compact(void **state)
{
    (void)state;
    struct vt_random random = {20261121};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    uint64_t moved = 0;
    for (int i = 0; i < VT_ROUNDS(300); i++) {
        struct disk disk;
        uint32_t table_clusters = 1u << vt_random_below(&random, 3);
        random_disk(&disk, &random, table_clusters, 1 + (unsigned)vt_random_below(&random, 40),
                    (unsigned)vt_random_below(&random, 80));
        uint64_t *tags = tags_of(&disk, disk.file);
        uint64_t leaks = expect_sound(&disk, disk.file);
        uint64_t length = length_of(disk.file);
        assert_int_equal(check(disk.file, VDISK_REPAIR_NONE).leaks, leaks);

        struct vdisk_check_result result = check(disk.file, VDISK_REPAIR_LEAKS);
        assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
        assert_int_equal(result.leaks_fixed, leaks);
        assert_int_equal(length_of(disk.file), length - leaks * CLUSTER);
        assert_int_equal(expect_sound(&disk, disk.file), 0);
        expect_tags(&disk, disk.file, tags);
        moved += leaks;
        free(tags);
        disk_destroy(&disk);
    }
    assert_true(moved > VT_ROUNDS(1000));
}

/* The last thing in the file is a table, and no hole is large enough for it. */
static void test_table_at_the_end(void **state)
{
    (void)state;
    struct disk disk;
    disk_create(&disk, 4, 6 * 2048);
    add_data(&disk, 0, 100);
    add_leaks(&disk, 1);
    add_data(&disk, 2048, 200);
    add_leaks(&disk, 1);
    add_data(&disk, 2 * 2048, 300);
    add_table(&disk, 3 * 2048);
    move_l1(&disk);
    uint64_t *tags = tags_of(&disk, disk.file);
    uint64_t leaks = expect_sound(&disk, disk.file);
    assert_int_equal(leaks, 2 + 4); /* and where L1 was */
    uint64_t length = length_of(disk.file);
    struct vdisk_check_result result = check(disk.file, VDISK_REPAIR_LEAKS);
    assert_int_equal(result.leaks_fixed, leaks);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(length_of(disk.file), length - leaks * CLUSTER);
    assert_int_equal(expect_sound(&disk, disk.file), 0);
    expect_tags(&disk, disk.file, tags);
    free(tags);
    disk_destroy(&disk);
}

/* More clusters than there is memory for: the end is given back, and that is said. */
static void test_large_file(void **state)
{
    (void)state;
    struct disk disk;
    struct log log = {0};
    disk_create(&disk, 1, 2048);
    add_data(&disk, 0, 100);
    add_leaks(&disk, 3);
    add_data(&disk, 1, 101);
    add_leaks(&disk, 2);
    struct vdisk_check_result result = check_in(disk.file, VDISK_REPAIR_LEAKS, 4, &log);
    assert_int_equal(result.leaks_fixed, 2);
    assert_int_equal(result.leaks, 3);
    assert_non_null(strstr(log.last, "convert"));
    result = check_in(disk.file, VDISK_REPAIR_LEAKS, 8, NULL);
    assert_int_equal(result.leaks_fixed, 3);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(tag_of(&disk, disk.file, 1), 101);
    disk_destroy(&disk);
}

/* --- contradictions --------------------------------------------------------------------------- */

/* An offset that an entry should not have, or another one has. */
static uint64_t bad_value(struct vt_random *random, const struct disk *disk)
{
    uint64_t count = length_of(disk->file) / CLUSTER;
    switch (vt_random_below(random, 6)) {
    case 0:
        return vt_random_below(random, count) * CLUSTER + 8;
    case 1:
        return length_of(disk->file) / CLUSTER * CLUSTER + vt_random_below(random, 8) * CLUSTER;
    case 2:
        return vt_random_next(random);
    default:
        return vt_random_below(random, count) * CLUSTER;
    }
}

static void damage(struct disk *disk, struct vt_random *random)
{
    for (uint64_t n = 1 + vt_random_below(random, 4); n > 0; n--) {
        uint64_t cluster = vt_random_below(random, disk->clusters);
        uint64_t at = l1_entry(disk, disk->file, cluster);
        uint64_t table = get_u64(disk->file, at);
        if (vt_random_chance(random, 75) && is_place(disk->file, table, CLUSTER))
            at = l2_entry(disk, table, cluster);
        put_u64(disk->file, at, bad_value(random, disk));
    }
    /* Not into L1: that is no image any more. */
    uint64_t table_bytes = disk->table_clusters * CLUSTER;
    uint64_t length = length_of(disk->file) - 1 - vt_random_below(random, table_bytes);
    if (vt_random_chance(random, 20) && length >= l1_of(disk, disk->file) + table_bytes)
        VT_OK(vd_storage_resize(disk->file, length, &vt_err));
}

static bool is_data(uint64_t tag)
{
    return tag >= 1000 && tag < UINT32_MAX;
}

/* What was data is that still, whatever leads to it; what could not be read may be gone. */
static void expect_nothing_lost(const struct disk *disk, struct vd_storage *file,
                                const uint64_t *tags)
{
    for (uint64_t i = 0; i < disk->clusters; i++)
        if (is_data(tags[i]))
            assert_int_equal(tag_of(disk, file, i), tags[i]);
}

static void test_mend(void **state)
{
    (void)state;
    struct vt_random random = {20261122};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    unsigned damaged = 0;
    for (int i = 0; i < VT_ROUNDS(400); i++) {
        struct disk disk;
        uint32_t table_clusters = 1u << vt_random_below(&random, 3);
        random_disk(&disk, &random, table_clusters, 1 + (unsigned)vt_random_below(&random, 30), 10);
        damage(&disk, &random);
        uint64_t *tags = tags_of(&disk, disk.file);
        struct vdisk_check_result before = check(disk.file, VDISK_REPAIR_NONE);
        damaged += before.corruptions > 0;

        struct vdisk_check_result result =
            check_in(disk.file, VDISK_REPAIR_ALL, random_pass(&random), NULL);
        assert_int_equal(result.corruptions + result.check_errors, 0);
        assert_int_equal(result.corruptions_fixed, before.corruptions);
        expect_nothing_lost(&disk, disk.file, tags);
        result = check(disk.file, VDISK_REPAIR_LEAKS); /* where they have been kept */
        assert_int_equal(result.corruptions + result.leaks, 0);
        assert_int_equal(expect_sound(&disk, disk.file), 0);
        expect_nothing_lost(&disk, disk.file, tags);
        free(tags);
        disk_destroy(&disk);
    }
    assert_true(damaged > VT_ROUNDS(300));
}

/* Each entry that leads to the same cluster ends with one of its own, tables too. */
static void test_duplicates(void **state)
{
    (void)state;
    struct disk disk;
    disk_create(&disk, 2, 4 * 1024);
    for (uint64_t i = 0; i < 5; i++)
        add_data(&disk, i, 1000 + i);
    uint64_t table = get_u64(disk.file, l1_entry(&disk, disk.file, 0));
    put_u64(disk.file, l2_entry(&disk, table, 9), get_u64(disk.file, l2_entry(&disk, table, 3)));
    put_u64(disk.file, l1_entry(&disk, disk.file, 2 * 1024), table);
    assert_int_equal(check(disk.file, VDISK_REPAIR_NONE).corruptions, 2);
    struct vdisk_check_result result = check(disk.file, VDISK_REPAIR_ALL);
    assert_int_equal(result.corruptions + result.leaks, 0);
    assert_int_equal(result.corruptions_fixed, 2);
    assert_int_equal(result.allocated_clusters, 12);
    assert_int_equal(expect_sound(&disk, disk.file), 0);
    for (uint64_t i = 0; i < 10; i++) {
        uint64_t tag = i == 9 ? 1003 : i < 5 ? 1000 + i : 0;
        assert_int_equal(tag_of(&disk, disk.file, i), tag);
        assert_int_equal(tag_of(&disk, disk.file, 2 * 1024 + i), tag);
    }
    disk_destroy(&disk);
}

/* Data that an L1 entry takes for a table is not touched, wherever the entry is. */
static void test_data_as_table(void **state)
{
    (void)state;
    struct disk disk;
    disk_create(&disk, 1, 2048);
    add_data(&disk, 512, 0x123456789ABCDEF0);
    put_u64(disk.file, l1_entry(&disk, disk.file, 0), 2 * CLUSTER);
    struct vdisk_check_result result = check(disk.file, VDISK_REPAIR_ALL);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(tag_of(&disk, disk.file, 512), 0x123456789ABCDEF0);
    assert_int_equal(tag_of(&disk, disk.file, 0), 0);
    disk_destroy(&disk);
}

/* What the end of the file cuts off goes on with zeros. */
static void test_cut_off(void **state)
{
    (void)state;
    struct disk disk;
    uint64_t words[2];
    disk_create(&disk, 1, 2048);
    add_data(&disk, 0, 1000);
    add_data(&disk, 1, 1001);
    VT_OK(vd_storage_resize(disk.file, length_of(disk.file) - CLUSTER + 8, &vt_err));
    struct vdisk_check_result result = check(disk.file, VDISK_REPAIR_ALL);
    assert_int_equal(result.corruptions_fixed, 1);
    assert_int_equal(result.leaks_fixed, 0);
    VT_OK(
        vd_storage_pread(disk.file, words, sizeof(words), length_of(disk.file) - CLUSTER, &vt_err));
    assert_int_equal(words[0], 1001);
    assert_int_equal(words[1], 0);
    assert_int_equal(expect_sound(&disk, disk.file), 0);

    add_data(&disk, 512, 1512); /* and so does a table */
    VT_OK(vd_storage_resize(disk.file, length_of(disk.file) - CLUSTER + 16, &vt_err));
    result = check(disk.file, VDISK_REPAIR_ALL);
    assert_int_equal(result.corruptions_fixed, 1);
    assert_int_equal(tag_of(&disk, disk.file, 512), 1512);
    assert_int_equal(expect_sound(&disk, disk.file), 0);
    disk_destroy(&disk);
}

/* What an entry that leads nowhere led to once is not given away before somebody says so. */
static void test_kept_leaks(void **state)
{
    (void)state;
    struct disk disk;
    struct log log = {0};
    disk_create(&disk, 1, 2048);
    add_data(&disk, 0, 1000);
    add_data(&disk, 1, 1001);
    uint64_t table = get_u64(disk.file, l1_entry(&disk, disk.file, 0));
    uint64_t length = length_of(disk.file);
    put_u64(disk.file, l1_entry(&disk, disk.file, 0), table + 512);
    struct vdisk_check_result result =
        check_in(disk.file, VDISK_REPAIR_ALL, VD_QED_PASS_CLUSTERS, &log);
    assert_int_equal(result.corruptions_fixed, 1);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 3);
    assert_int_equal(result.leaks_fixed, 0);
    assert_non_null(strstr(log.last, "kept"));
    assert_int_equal(length_of(disk.file), length);
    put_u64(disk.file, l1_entry(&disk, disk.file, 0), table); /* by hand: there it is */
    assert_int_equal(check(disk.file, VDISK_REPAIR_ALL).leaks, 0);
    assert_int_equal(tag_of(&disk, disk.file, 1), 1001);
    disk_destroy(&disk);
}

/* What an open for writing does: all but giving space back. */
static void test_recover(void **state)
{
    (void)state;
    struct disk disk;
    struct vd_qed_header header;
    disk_create(&disk, 1, 2048);
    add_data(&disk, 0, 1000);
    add_leaks(&disk, 1);
    add_data(&disk, 1, 1001);
    uint64_t table = get_u64(disk.file, l1_entry(&disk, disk.file, 0));
    put_u64(disk.file, l2_entry(&disk, table, 5), length_of(disk.file));
    put_u64(disk.file, 16, VD_QED_FEATURE_NEED_CHECK);
    VT_OK(vd_qed_header_read(disk.file, VD_QED_LOOK, &header, &vt_err));
    VT_OK(vd_qed_recover(disk.file, &header, &vt_err));
    assert_int_equal(header.features, 0);
    assert_int_equal(get_u64(disk.file, 16), 0);
    assert_int_equal(tag_of(&disk, disk.file, 5), 0);
    assert_int_equal(tag_of(&disk, disk.file, 1), 1001);
    assert_int_equal(expect_sound(&disk, disk.file), 1);

    struct vd_storage *file;
    put_u64(disk.file, 16, VD_QED_FEATURE_NEED_CHECK);
    VT_OK(vt_fault_open(disk.file, VT_BORROW, &file, &vt_err));
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    vt_fault_set(file, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_READ),
                                              .nth = 3, /* L1 twice, then the table */
                                              .error = EIO,
                                              .forever = true});
    VT_FAILS(EIO, vd_qed_recover(file, &header, &vt_err));
    assert_int_equal(get_u64(disk.file, 16), VD_QED_FEATURE_NEED_CHECK);
    vd_storage_close(file);
    disk_destroy(&disk);
}

/* An image made to grow without end is not followed. */
static void test_too_much(void **state)
{
    (void)state;
    struct disk disk;
    struct vd_qed_header header;
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vd_check all = {.repair = VDISK_REPAIR_ALL, .result = &result};
    disk_create(&disk, 16, 8192 * 8192);
    for (uint64_t i = 0; i < 500; i++)
        add_data(&disk, i, 1000 + i);
    uint64_t length = length_of(disk.file);
    for (uint64_t i = 1; i < 8192; i++)
        put_u64(disk.file, CLUSTER + 8 * i, get_u64(disk.file, CLUSTER));
    VT_OK(vd_qed_header_read(disk.file, VD_QED_LOOK, &header, &vt_err));
    VT_FAILS(EFBIG, vd_qed_check_file(disk.file, &header, &all, &vt_err));
    assert_true(length_of(disk.file) <= 2 * length + 64 * MIB);
    assert_int_equal(tag_of(&disk, disk.file, 499), 1499);
    disk_destroy(&disk);
}

/* --- power cuts ------------------------------------------------------------------------------- */

struct expectation {
    const struct disk *disk;
    const uint64_t *tags;
    bool is_sound; /* at all times */
    struct vt_random random;
};

static void judge(void *opaque, struct vd_storage *found)
{
    struct expectation *expectation = opaque;
    if (expectation->is_sound) {
        expect_sound(expectation->disk, found);
        expect_tags(expectation->disk, found, expectation->tags);
    } else {
        expect_nothing_lost(expectation->disk, found, expectation->tags);
    }
    /* Once more, and to the end; not for each, as that takes long. */
    if (!vt_random_chance(&expectation->random, 5))
        return;
    struct vdisk_check_result result = check(found, VDISK_REPAIR_ALL);
    assert_int_equal(result.corruptions + result.check_errors, 0);
    result = check(found, VDISK_REPAIR_LEAKS);
    assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
    expect_nothing_lost(expectation->disk, found, expectation->tags);
}

static void cut_repairs(struct vt_random *random, bool is_damaged, unsigned rounds)
{
    unsigned states = 0;
    print_message("# seed %llu\n", (unsigned long long)random->state);
    for (unsigned i = 0; i < rounds; i++) {
        struct disk disk;
        random_disk(&disk, random, 1u << vt_random_below(random, 2),
                    1 + (unsigned)vt_random_below(random, 10), is_damaged ? 10 : 60);
        if (is_damaged)
            damage(&disk, random);
        disk.clusters = vd_min(disk.clusters, 1500); /* looked at each time */
        uint64_t *tags = tags_of(&disk, disk.file);
        struct expectation expectation = {
            .disk = &disk, .tags = tags, .is_sound = !is_damaged, .random = *random};
        struct cuts cuts = {.judge = judge, .opaque = &expectation};
        struct vd_storage *file = cuts_open(&cuts, disk.file);
        check(file, VDISK_REPAIR_ALL);
        expect_sound(&disk, file);
        states += cuts.count;
        vd_storage_close(file);
        free(tags);
        disk_destroy(&disk);
    }
    print_message("# %u states\n", states);
    assert_true(states > 10 * rounds);
}

static void test_power_cut_compact(void **state)
{
    (void)state;
    struct vt_random random = {20261123};
    cut_repairs(&random, false, VT_ROUNDS(15));
}

static void test_power_cut_mend(void **state)
{
    (void)state;
    struct vt_random random = {20261124};
    cut_repairs(&random, true, VT_ROUNDS(25));
}

/* --- failures --------------------------------------------------------------------------------- */

/* The nth call fails: that is reported, and the next repair ends the work. */
static void test_failures(void **state)
{
    (void)state;
    struct vt_random random = {20261125};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (int i = 0; i < VT_ROUNDS(6); i++) {
        struct disk disk;
        random_disk(&disk, &random, 1, 12, 30);
        damage(&disk, &random);
        uint64_t *tags = tags_of(&disk, disk.file);
        bool is_done = false;
        for (uint64_t nth = 1; !is_done; nth++) {
            struct vd_storage *copy, *file;
            struct vd_qed_header header;
            struct vdisk_error err = {0};
            struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
            struct vd_check all = {.repair = VDISK_REPAIR_ALL, .result = &result};
            VT_OK(vt_snap_clone(disk.file, &copy, &vt_err));
            VT_OK(vt_fault_open(copy, VT_BORROW, &file, &vt_err));
            VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
            vt_fault_set(file, (struct vt_fault_plan){
                                   .calls = VT_CALL_BIT(VT_READ) | VT_CALL_BIT(VT_WRITE) |
                                            VT_CALL_BIT(VT_RESIZE) | VT_CALL_BIT(VT_FLUSH),
                                   .nth = nth,
                                   .error = EIO});
            int ret = vd_qed_check_file(file, &header, &all, &err);
            is_done = vt_fault_hits(file) == 0;
            assert_int_equal(err.code, -ret);
            /* A table that can not be read is told, and nothing is mended then. */
            assert_true(is_done ? ret == 0 : ret == -EIO || result.check_errors > 0);
            expect_nothing_lost(&disk, copy, tags);
            struct vdisk_check_result again = check(copy, VDISK_REPAIR_ALL);
            assert_int_equal(again.corruptions + again.check_errors, 0);
            again = check(copy, VDISK_REPAIR_LEAKS);
            assert_int_equal(again.corruptions + again.leaks + again.check_errors, 0);
            expect_nothing_lost(&disk, copy, tags);
            vd_storage_close(file);
            vd_storage_close(copy);
        }
        free(tags);
        disk_destroy(&disk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compact),           cmocka_unit_test(test_table_at_the_end),
        cmocka_unit_test(test_large_file),        cmocka_unit_test(test_mend),
        cmocka_unit_test(test_duplicates),        cmocka_unit_test(test_data_as_table),
        cmocka_unit_test(test_cut_off),           cmocka_unit_test(test_kept_leaks),
        cmocka_unit_test(test_recover),           cmocka_unit_test(test_too_much),
        cmocka_unit_test(test_power_cut_compact), cmocka_unit_test(test_power_cut_mend),
        cmocka_unit_test(test_failures),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
