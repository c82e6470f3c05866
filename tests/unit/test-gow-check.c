/* SPDX-License-Identifier: MIT */
/* Each contradiction of gow §8, planted, found, mended, and gone. */
#include "gow-fixture.h"

struct findings {
    unsigned count;
    char all[4096];
};

static void keep(void *opaque, const char *message)
{
    struct findings *findings = opaque;
    findings->count++;
    size_t used = strlen(findings->all);
    snprintf(findings->all + used, sizeof(findings->all) - used, "%s; ", message);
}

static struct vdisk_check_result run_check(struct fixture *fix, enum vdisk_repair repair,
                                           struct findings *findings)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vd_check check = {
        .repair = repair, .report = keep, .opaque = findings, .result = &result};
    *findings = (struct findings){0};
    fixture_open(fix, repair ? VD_FORMAT_CHECK | VD_FORMAT_WRITE : VD_FORMAT_CHECK);
    VT_OK(vd_format_check(fix->format, &check, &vt_err));
    fixture_close(fix);
    if (!repair)
        assert_int_equal(vt_trace_count(fix->file, VT_WRITE), 0);
    return result;
}

/* Blocks 0 to 3 hold 1, 2, 3, 4. */
static void make_sample(struct fixture *fix, uint32_t version)
{
    fixture_create(fix, version, MIB);
    fixture_open(fix, VD_FORMAT_WRITE);
    for (uint8_t i = 0; i < 4; i++)
        assert_int_equal(fill(fix, i * BLOCK, BLOCK, (uint8_t)(i + 1)), 0);
    fixture_close(fix);
}

static void expect_sample(struct fixture *fix, const uint8_t *bytes)
{
    fixture_open(fix, VD_FORMAT_WRITE);
    for (uint8_t i = 0; i < 4; i++)
        expect(fix, i * BLOCK, BLOCK, bytes[i]);
    assert_int_equal(fill(fix, 15 * BLOCK, 1, 1), 0); /* G5 lets it be changed */
    fixture_close(fix);
}

static void expect_sound(struct fixture *fix)
{
    struct findings findings;
    struct vdisk_check_result result = run_check(fix, VDISK_REPAIR_NONE, &findings);
    if (findings.count)
        print_message("# %s\n", findings.all);
    assert_int_equal(findings.count, 0);
    assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
}

/* @count corruptions are found, left alone by a repair of leaks, and mended by one of all. */
static void expect_mended(struct fixture *fix, uint64_t count, const char *word)
{
    struct findings findings;
    struct vdisk_check_result result = run_check(fix, VDISK_REPAIR_NONE, &findings);
    assert_int_equal(result.corruptions, count);
    assert_non_null(strstr(findings.all, word));
    result = run_check(fix, VDISK_REPAIR_LEAKS, &findings);
    assert_int_equal(result.corruptions, count);
    assert_int_equal(result.corruptions_fixed, 0);
    result = run_check(fix, VDISK_REPAIR_ALL, &findings);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.corruptions_fixed, count);
    assert_int_equal(fixture_header(fix).flags, 0);
    expect_sound(fix);
}

static void test_sound(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        struct findings findings;
        make_sample(&fix, version);
        expect_sound(&fix);
        struct vdisk_check_result result = run_check(&fix, VDISK_REPAIR_ALL, &findings);
        assert_int_equal(vt_trace_count(fix.file, VT_WRITE), 0); /* nothing to mend */
        assert_int_equal(result.total_clusters, 16);
        assert_int_equal(result.allocated_clusters, 4);
        assert_int_equal(result.fragmented_clusters, 0);
        assert_int_equal(result.image_end_offset, vd_gow_file_bytes(&fix.layout, 4));
        set_map_in_file(&fix, 0, 1);
        set_map_in_file(&fix, 1, 0);
        result = run_check(&fix, VDISK_REPAIR_NONE, &findings);
        assert_int_equal(result.fragmented_clusters, 2);
        fixture_destroy(&fix);
    }
}

static void test_not_there(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        make_sample(&fix, version);
        set_map_in_file(&fix, 1, 4);
        set_map_in_file(&fix, 10, VD_GOW_HOSTS_MAX);
        set_map_in_file(&fix, 11, 0xFFFFFFFE);
        expect_mended(&fix, 3, "not in the file");
        if (version == 3)
            assert_int_equal(version_in_file(&fix, 1), 2);
        expect_sample(&fix, (const uint8_t[]){1, 0, 3, 4});
        fixture_destroy(&fix);
    }
}

static void test_duplicate(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        make_sample(&fix, version);
        set_map_in_file(&fix, 2, 0);
        set_map_in_file(&fix, 3, 0);
        expect_mended(&fix, 2, "another block");
        expect_sample(&fix, (const uint8_t[]){1, 2, 1, 1});
        fixture_destroy(&fix);
    }
}

static void test_past_end(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        make_sample(&fix, version);
        set_map_in_file(&fix, 3, VD_GOW_UNALLOCATED);
        set_map_in_file(&fix, 16, 3);
        set_map_in_file(&fix, fix.layout.map_entries - 1, 999);
        expect_mended(&fix, 2, "disk ends before");
        expect_sample(&fix, (const uint8_t[]){1, 2, 3, 0});
        fixture_destroy(&fix);
    }
}

static void test_cut_off(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        make_sample(&fix, version);
        VT_OK(vd_storage_resize(fix.memory, vd_gow_file_bytes(&fix.layout, 4) - 4096, &vt_err));
        expect_mended(&fix, 1, "cut off");
        fixture_open(&fix, 0);
        expect(&fix, 3 * BLOCK, BLOCK - 4096, 4);
        expect(&fix, 4 * BLOCK - 4096, 4096, 0);
        fixture_close(&fix);
        fixture_destroy(&fix);
    }
}

static void test_header(void **state)
{
    (void)state;
    struct fixture fix;
    make_sample(&fix, 3);
    struct vd_gow_header header = fixture_header(&fix);
    header.reserved0 = 1;
    header.reserved1[15] = 1;
    fixture_set_header(&fix, &header);
    expect_mended(&fix, 2, "48 to 63");
    header = fixture_header(&fix);
    vd_gow_intent_set(&header, 0);
    fixture_set_header(&fix, &header);
    expect_mended(&fix, 1, "no writer");
    assert_int_equal(version_in_file(&fix, 0), 2);
    expect_sample(&fix, (const uint8_t[]){1, 2, 3, 4});
    fixture_destroy(&fix);
}

static void test_unversioned(void **state)
{
    (void)state;
    struct fixture fix;
    make_sample(&fix, 3);
    set_version_in_file(&fix, 2, 0);
    expect_mended(&fix, 1, "version of the block is 0");
    assert_int_equal(version_in_file(&fix, 2), 1);
    fixture_destroy(&fix);
}

/* A writer that died is no contradiction, and a repair ends what it left. */
static void test_dirty(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        struct findings findings;
        make_sample(&fix, version);
        fixture_open(&fix, VD_FORMAT_WRITE);
        assert_int_equal(fill(&fix, 5 * BLOCK, 2 * BLOCK, 9), 0);
        fixture_kill(&fix);
        struct vdisk_check_result result = run_check(&fix, VDISK_REPAIR_NONE, &findings);
        assert_int_equal(result.corruptions, 0);
        assert_int_equal(result.leaks, 2);
        result = run_check(&fix, VDISK_REPAIR_ALL, &findings);
        assert_int_equal(result.leaks, 0);
        assert_int_equal(result.leaks_fixed, 2);
        assert_int_equal(fixture_header(&fix).flags, 0);
        assert_int_equal(file_bytes(&fix), vd_gow_file_bytes(&fix.layout, 4));
        expect_sound(&fix);
        expect_sample(&fix, (const uint8_t[]){1, 2, 3, 4});
        fixture_destroy(&fix);
    }
}

static void test_leaks(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        struct findings findings;
        make_sample(&fix, version);
        set_map_in_file(&fix, 1, VD_GOW_UNALLOCATED);
        uint64_t end = vd_gow_file_bytes(&fix.layout, 4);
        /* Two whole blocks behind the end, one of them a hole, and some bytes more. */
        VT_OK(vd_storage_pwrite(fix.memory, "leak", 4, end + 70000, &vt_err));
        VT_OK(vd_storage_resize(fix.memory, end + 2 * BLOCK + 1000, &vt_err));
        struct vdisk_check_result result = run_check(&fix, VDISK_REPAIR_NONE, &findings);
        assert_int_equal(result.corruptions, 0);
        assert_int_equal(result.leaks, 3); /* block 1, the block with "leak", the odd bytes */
        assert_int_equal(result.image_end_offset, end);
        result = run_check(&fix, VDISK_REPAIR_LEAKS, &findings);
        assert_int_equal(result.leaks, 0);
        assert_int_equal(result.leaks_fixed, 3);
        assert_int_equal(file_bytes(&fix), end);
        expect_sound(&fix);
        expect_sample(&fix, (const uint8_t[]){1, 0, 3, 4});
        fixture_destroy(&fix);
    }
}

/* All at once, and the block that a duplicate moves to is not one of the others. */
static void test_everything(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        make_sample(&fix, version);
        set_map_in_file(&fix, 0, 3);
        set_map_in_file(&fix, 1, 12345);
        set_map_in_file(&fix, 20, 1);
        expect_mended(&fix, 3, "");
        expect_sample(&fix, (const uint8_t[]){4, 0, 3, 4});
        fixture_destroy(&fix);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),       cmocka_unit_test(test_not_there),
        cmocka_unit_test(test_duplicate),   cmocka_unit_test(test_past_end),
        cmocka_unit_test(test_cut_off),     cmocka_unit_test(test_header),
        cmocka_unit_test(test_unversioned), cmocka_unit_test(test_dirty),
        cmocka_unit_test(test_leaks),       cmocka_unit_test(test_everything),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
