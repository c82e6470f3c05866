/* SPDX-License-Identifier: MIT */
/* Versions, lineage and recovery of GOW version 3, and recovery of the others: gow §5. */
#include "gow-fixture.h"

static void test_versions(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 3, 300 * MIB);
    for (uint32_t session = 1; session <= 3; session++) {
        fixture_open(&fix, VD_FORMAT_WRITE);
        for (unsigned i = 0; i < 3; i++) { /* once a session, however often */
            assert_int_equal(fill(&fix, 0, 512, 1), 0);
            assert_int_equal(fill(&fix, 512, 5 * BLOCK, 1), 0);
            flush(&fix);
        }
        assert_int_equal(fill(&fix, 200 * MIB, 1, 1), 0);
        fixture_close(&fix);
        assert_int_equal(fixture_header(&fix).generation, session);
        for (uint32_t block = 0; block < 8; block++)
            assert_int_equal(version_in_file(&fix, block), block < 6 ? session : 0);
        assert_int_equal(version_in_file(&fix, vd_gow_block_of(200 * MIB)), session);
    }
    /* Unmapping is a change; unmapping what is not there is none. */
    fixture_open(&fix, VD_FORMAT_WRITE);
    discard(&fix, 0, 8 * BLOCK);
    discard(&fix, 0, 8 * BLOCK);
    fixture_close(&fix);
    for (uint32_t block = 0; block < 8; block++)
        assert_int_equal(version_in_file(&fix, block), block < 6 ? 4 : 0);
    fixture_open(&fix, VD_FORMAT_WRITE);
    discard(&fix, 0, 8 * BLOCK);
    fixture_close(&fix);
    assert_int_equal(fixture_header(&fix).generation, 4);
    fixture_destroy(&fix);
}

/* gow §4.2: a version at its limit fails the change, before it happens. */
static void test_saturation(void **state)
{
    (void)state;
    struct fixture fix;
    struct vd_mapping mapping;
    fixture_create(&fix, 3, 10 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 4 * BLOCK, 1), 0);
    fixture_close(&fix);
    set_version_in_file(&fix, 2, VD_GOW_VERSION_MAX);
    set_version_in_file(&fix, 3, VD_GOW_VERSION_MAX - 1);
    set_version_in_file(&fix, 7, VD_GOW_VERSION_MAX);
    fixture_open(&fix, VD_FORMAT_WRITE);
    VT_OK(vd_format_map_for_write(fix.format, vd_range(0, 4 * BLOCK), false, &mapping, &vt_err));
    assert_int_equal(mapping.guest.length, 2 * BLOCK); /* up to the block that can not */
    for (unsigned i = 0; i < 2; i++) {
        VT_FAILS(EOVERFLOW, vd_format_map_for_write(fix.format, vd_range(2 * BLOCK, BLOCK), true,
                                                    &mapping, &vt_err));
        VT_FAILS(EOVERFLOW, vd_format_map_zero(fix.format, vd_range(2 * BLOCK, BLOCK),
                                               VD_MAP_ZERO_MAY_UNMAP, &mapping, &vt_err));
        assert_int_equal(fill(&fix, 3 * BLOCK, BLOCK, 2), 0);
        assert_int_equal(fill(&fix, 7 * BLOCK, 1, 2), -EOVERFLOW);
    }
    expect(&fix, 2 * BLOCK, BLOCK, 1);
    fixture_close(&fix);
    assert_int_equal(version_in_file(&fix, 2), VD_GOW_VERSION_MAX);
    assert_int_equal(version_in_file(&fix, 3), VD_GOW_VERSION_MAX);
    fixture_destroy(&fix);
}

/* gow §5.4 */
static void test_replica(void **state)
{
    (void)state;
    struct fixture fix;
    struct vd_format *format;
    fixture_create(&fix, 3, 10 * MIB);
    struct vd_gow_header header = fixture_header(&fix);
    uint8_t master[16];
    memcpy(master, header.uuid, sizeof(master));
    header.generation = 41;
    header.flags = VD_GOW_FLAG_REPLICA;
    fixture_set_header(&fix, &header);

    struct vd_format_info info;
    fixture_open(&fix, VD_FORMAT_WRITE); /* opening changes nothing */
    VT_OK(vd_format_info(fix.format, &info, &vt_err));
    assert_int_equal(info.flags, VDISK_INFO_LINEAGE | VDISK_INFO_REPLICA);
    fixture_close(&fix);
    assert_memory_equal(fixture_header(&fix).uuid, master, 16);

    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 1, 1), 0);
    header = fixture_header(&fix);
    assert_int_equal(header.flags, VD_GOW_FLAG_DIRTY);
    assert_int_equal(header.generation, 42);
    assert_memory_not_equal(header.uuid, master, 16);
    fixture_close(&fix);
    assert_memory_equal(fixture_header(&fix).uuid, header.uuid, 16);

    header.flags = VD_GOW_FLAG_REPLICA | VD_GOW_FLAG_INCOMPLETE;
    fixture_set_header(&fix, &header);
    static const uint32_t refused[] = {0, VD_FORMAT_WRITE, VD_FORMAT_WRITE | VD_FORMAT_CHECK};
    for (size_t i = 0; i < 3; i++) {
        struct vd_format_options options = {.flags = refused[i]};
        VT_FAILS(EINVAL, vd_format_open(gow_driver(3), fix.file, &options, &format, &vt_err));
    }
    fixture_open(&fix, VD_FORMAT_CHECK);
    VT_OK(vd_format_info(fix.format, &info, &vt_err));
    assert_int_equal(info.flags, VDISK_INFO_LINEAGE | VDISK_INFO_REPLICA | VDISK_INFO_INCOMPLETE);
    fixture_close(&fix);
    fixture_open(&fix, VD_FORMAT_REPLICA);
    fixture_destroy(&fix);
}

/* gow §5.5: whatever may have changed in a marked region gets a new version, and nothing else. */
static void test_recovery(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 3, 300 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 4 * BLOCK, 1), 0);
    assert_int_equal(fill(&fix, 200 * MIB, 2 * BLOCK, 1), 0);
    fixture_close(&fix);

    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 512, 2), 0);
    discard(&fix, 2 * BLOCK, BLOCK);
    flush(&fix);
    /* As if the version had not made it to the file together with the unmapping. */
    fixture_kill(&fix);
    set_version_in_file(&fix, 2, 1);
    assert_int_equal(fixture_header(&fix).flags, VD_GOW_FLAG_DIRTY);

    /* Who only looks changes nothing. */
    fixture_open(&fix, 0);
    expect(&fix, 0, 512, 2);
    fixture_close(&fix);
    assert_int_equal(vt_trace_count(fix.file, VT_WRITE), 0);
    assert_int_equal(fixture_header(&fix).generation, 2);

    uint32_t before[5];
    for (uint32_t block = 0; block < 5; block++)
        before[block] = version_in_file(&fix, block);
    fixture_open(&fix, VD_FORMAT_WRITE);
    struct vd_gow_header header = fixture_header(&fix);
    assert_int_equal(header.flags, 0);
    assert_int_equal(header.generation, 3);
    assert_false(vd_gow_intent_is_set(&header, 0));
    for (uint32_t block = 0; block < 5; block++)
        assert_int_equal(version_in_file(&fix, block), before[block] + (block < 4));
    assert_int_equal(version_in_file(&fix, vd_gow_block_of(200 * MIB)), 1);
    fixture_destroy(&fix);
}

static void test_recovery_without_versions(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 2; version++) {
        struct fixture fix;
        fixture_create(&fix, version, 10 * MIB);
        fixture_open(&fix, VD_FORMAT_WRITE);
        assert_int_equal(fill(&fix, 0, 2 * BLOCK, 1), 0);
        flush(&fix);
        assert_int_equal(fill(&fix, 2 * BLOCK, 2 * BLOCK, 2), 0); /* never flushed */
        fixture_kill(&fix);
        fixture_open(&fix, VD_FORMAT_WRITE);
        assert_int_equal(fixture_header(&fix).flags, 0);
        expect(&fix, 0, 2 * BLOCK, 1);
        expect(&fix, 2 * BLOCK, 2 * BLOCK, 0);
        /* The leaked blocks are the next ones to be used. */
        assert_int_equal(fill(&fix, 9 * BLOCK, 512, 3), 0);
        assert_int_equal(host_of(&fix, 9), 2);
        expect(&fix, 9 * BLOCK + 512, BLOCK - 512, 0);
        fixture_close(&fix);
        assert_int_equal(file_bytes(&fix), vd_gow_file_bytes(&fix.layout, 3));
        fixture_destroy(&fix);
    }
}

/* What lies behind the last whole host block must not shine through. */
static void test_torn_tail(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        uint8_t garbage[1000];
        memset(garbage, 0xEE, sizeof(garbage));
        fixture_create(&fix, version, 10 * MIB);
        VT_OK(vd_storage_pwrite(fix.memory, garbage, sizeof(garbage), fix.layout.data_offset,
                                &vt_err));
        fixture_open(&fix, VD_FORMAT_WRITE);
        assert_int_equal(fill(&fix, 4096, 1, 1), 0);
        expect(&fix, 0, 4096, 0);
        expect(&fix, 4097, BLOCK - 4097, 0);
        fixture_destroy(&fix);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),  cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_replica),   cmocka_unit_test(test_recovery),
        cmocka_unit_test(test_torn_tail), cmocka_unit_test(test_recovery_without_versions),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
