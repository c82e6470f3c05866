/* SPDX-License-Identifier: MIT */
/* What a check finds, counts and mends: add-cow §9. */
#include "addcow-fixture.h"

struct found {
    struct vdisk_check_result result;
    char told[1000];
};

static void tell(void *opaque, const char *message)
{
    struct found *found = opaque;
    size_t used = strlen(found->told);
    snprintf(found->told + used, sizeof(found->told) - used, "%s\n", message);
}

static struct found check(struct fixture *fix, enum vdisk_repair repair)
{
    struct found found = {.result = {.struct_bytes = sizeof(found.result)}};
    fixture_open(fix, VDISK_OPEN_CHECK | (repair ? VDISK_OPEN_WRITE : 0));
    VT_OK(vdisk_image_check(fix->image, repair, tell, &found, &found.result, &vt_err));
    if (repair) { /* what was mended is so at once */
        struct found again = {.result = {.struct_bytes = sizeof(again.result)}};
        VT_OK(
            vdisk_image_check(fix->image, VDISK_REPAIR_NONE, tell, &again, &again.result, &vt_err));
        assert_int_equal(again.result.corruptions, found.result.corruptions);
        assert_int_equal(again.result.leaks, found.result.leaks);
    }
    fixture_close(fix);
    return found;
}

static void expect(const struct found *found, uint64_t corruptions, uint64_t leaks, uint64_t errors,
                   const char *word)
{
    assert_int_equal(found->result.corruptions, corruptions);
    assert_int_equal(found->result.leaks, leaks);
    assert_int_equal(found->result.check_errors, errors);
    if (!word)
        assert_string_equal(found->told, "");
    else if (!strstr(found->told, word))
        fail_msg("'%s' does not say '%s'", found->told, word);
}

static void test_sound(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 19 * CLUSTER + 512, 3 * CLUSTER);
    for (uint64_t i = 5; i < 20; i++)
        set_bit_in_file(&fix, i);
    struct found found = check(&fix, VDISK_REPAIR_NONE);
    expect(&found, 0, 0, 0, NULL);
    assert_int_equal(found.result.total_clusters, 20);
    assert_int_equal(found.result.allocated_clusters, 15);
    assert_int_equal(found.result.image_end_offset, 4099);
    /* A longer file with zeros is no finding, and is left alone. */
    set_length(&fix, COW, 65536);
    found = check(&fix, VDISK_REPAIR_ALL);
    expect(&found, 0, 0, 0, NULL);
    assert_int_equal(bytes_of(&fix, COW), 65536);
    fixture_destroy(&fix);
}

static void test_bits_behind_the_end(void **state)
{
    (void)state;
    for (enum vdisk_repair repair = VDISK_REPAIR_LEAKS; repair <= VDISK_REPAIR_ALL; repair++) {
        struct fixture fix;
        fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
        set_bit_in_file(&fix, 1);
        set_bit_in_file(&fix, 3);
        set_bit_in_file(&fix, 7);
        set_length(&fix, COW, 1u << 20);
        set_bit_in_file(&fix, 8);
        set_bit_in_file(&fix, UINT64_C(1000000));
        struct found found = check(&fix, VDISK_REPAIR_NONE);
        expect(&found, 0, 4, 0, "4 bits");
        assert_int_equal(found.result.allocated_clusters, 1);
        assert_int_equal(byte_in_file(&fix, COW, 4096), 0x8A);
        found = check(&fix, repair);
        expect(&found, 0, 0, 0, "4 bits");
        assert_int_equal(found.result.leaks_fixed, 4);
        assert_int_equal(byte_in_file(&fix, COW, 4096), 0x02);
        assert_int_equal(bytes_of(&fix, COW), 4097);
        found = check(&fix, VDISK_REPAIR_NONE);
        expect(&found, 0, 0, 0, NULL);
        fixture_destroy(&fix);
    }
}

static void test_short_bitmap(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 30 * CLUSTER, 3 * CLUSTER);
    set_bit_in_file(&fix, 3);
    set_length(&fix, COW, 4097);
    struct found found = check(&fix, VDISK_REPAIR_NONE);
    expect(&found, 0, 0, 0, "missing");
    assert_int_equal(found.result.total_clusters, 30);
    assert_int_equal(found.result.allocated_clusters, 1);
    set_length(&fix, COW, 43);
    found = check(&fix, VDISK_REPAIR_NONE);
    expect(&found, 0, 0, 0, "missing");
    fixture_destroy(&fix);
}

/* The recorded name decides. */
static void test_header(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    set_u32_in_file(&fix, 28, 2);
    struct found found = check(&fix, VDISK_REPAIR_LEAKS);
    expect(&found, 1, 0, 0, "feature 0x1");
    found = check(&fix, VDISK_REPAIR_ALL);
    expect(&found, 0, 0, 0, "feature 0x1");
    assert_int_equal(found.result.corruptions_fixed, 1);
    assert_int_equal(byte_in_file(&fix, COW, 28), 3);
    fixture_open(&fix, 0);
    expect_bytes(&fix, 0, 3 * CLUSTER, BASE);
    fixture_close(&fix);

    set_u32_in_file(&fix, 12, 0); /* no name, but a length and the bit */
    found = check(&fix, VDISK_REPAIR_NONE);
    expect(&found, 2, 0, 0, "length");
    found = check(&fix, VDISK_REPAIR_ALL);
    expect(&found, 0, 0, 0, "no name is recorded");
    assert_int_equal(found.result.corruptions_fixed, 2);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    expect_bytes(&fix, 0, 3 * CLUSTER, 0);
    fixture_destroy(&fix);
}

/* What can not be mended is left alone. */
static void test_names(void **state)
{
    (void)state;
    static const struct {
        uint64_t offset;
        uint32_t value;
        const char *word;
    } table[] = {{12, 20, "offset 20"}, {16, 0, "empty"},    {20, 4095, "offset 4095"},
                 {24, 5000, "5000"},    {20, 38, "overlap"}, {24, 0, "empty"}};
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct fixture fix;
        uint8_t before[64], after[64];
        fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
        set_u32_in_file(&fix, table[i].offset, table[i].value);
        VT_OK(vd_storage_pread(fix.stores[COW], before, sizeof(before), 0, &vt_err));
        struct found found = check(&fix, VDISK_REPAIR_ALL);
        expect(&found, 1, 0, 0, table[i].word);
        VT_OK(vd_storage_pread(fix.stores[COW], after, sizeof(after), 0, &vt_err));
        assert_memory_equal(before, after, sizeof(before));
        struct vdisk_error err = {0};
        assert_int_equal(fixture_try_open(&fix, 0, &err), -EBADMSG);
        fixture_destroy(&fix);
    }
}

static void test_what_can_not_be_looked_at(void **state)
{
    (void)state;
    struct fixture fix;
    struct found found = {.result = {.struct_bytes = sizeof(found.result)}};
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    set_bit_in_file(&fix, 5);
    fixture_open(&fix, VDISK_OPEN_CHECK | VDISK_OPEN_WRITE);
    vt_fault_set(fix.open[COW],
                 (struct vt_fault_plan){
                     .calls = VT_CALL_BIT(VT_READ), .nth = 1, .error = EIO, .forever = true});
    VT_OK(vdisk_image_check(fix.image, VDISK_REPAIR_ALL, tell, &found, &found.result, &vt_err));
    expect(&found, 0, 0, 1, "cow");
    fixture_close(&fix);
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0x20); /* nothing was mended */

    vd_storage_close(fix.stores[RAW]);
    fix.stores[RAW] = NULL;
    found = check(&fix, VDISK_REPAIR_ALL);
    expect(&found, 0, 0, 1, "raw");
    fixture_destroy(&fix);
}

/* A repair that fails says so. */
static void test_failed_repair(void **state)
{
    (void)state;
    struct fixture fix;
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    set_bit_in_file(&fix, 5);
    fixture_open(&fix, VDISK_OPEN_CHECK | VDISK_OPEN_WRITE);
    vt_fault_set(fix.open[COW],
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_FLUSH), .nth = 1, .error = EIO});
    VT_FAILS(EIO, vdisk_image_check(fix.image, VDISK_REPAIR_LEAKS, NULL, NULL, &result, &vt_err));
    assert_int_equal(result.leaks_fixed, 0);
    vdisk_image_close(fix.image, NULL);
    fix.image = NULL;
    fixture_destroy(&fix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),         cmocka_unit_test(test_bits_behind_the_end),
        cmocka_unit_test(test_short_bitmap),  cmocka_unit_test(test_header),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_what_can_not_be_looked_at),
        cmocka_unit_test(test_failed_repair),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
