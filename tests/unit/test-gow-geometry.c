/* SPDX-License-Identifier: MIT */
/* GOW's arithmetic, at every corner of the layout of gow §2. */
#include "drivers/check.h"
#include "format/gow/gow_geometry.h"

static const struct {
    uint32_t version, entries;
    uint64_t size_max, map, versions, data;
} expected[] = {
    {1, 1u << 20, UINT64_C(1) << 36, 64, 0, 4194368},
    {2, 1u << 22, UINT64_C(1) << 38, 64, 0, 16777728},
    {3, 1u << 22, UINT64_C(1) << 38, 320, 16777536, 33554944},
};
#define VERSIONS (sizeof(expected) / sizeof(expected[0]))

static void test_layouts(void **state)
{
    (void)state;
    for (size_t i = 0; i < VERSIONS; i++) {
        struct vd_gow_layout layout = vd_gow_layout_of(expected[i].version);
        assert_int_equal(layout.version, expected[i].version);
        assert_int_equal(layout.map_entries, expected[i].entries);
        assert_int_equal(layout.size_max, expected[i].size_max);
        assert_int_equal(layout.map_offset, expected[i].map);
        assert_int_equal(layout.versions_offset, expected[i].versions);
        assert_int_equal(layout.data_offset, expected[i].data);
    }
    assert_false(vd_gow_version_is_known(0));
    assert_true(vd_gow_version_is_known(1) && vd_gow_version_is_known(3));
    assert_false(vd_gow_version_is_known(4));
    assert_false(vd_gow_version_is_known(UINT32_MAX));
}

/* Tables lie behind each other, entries never cross a sector, and host blocks follow. */
static void test_tables(void **state)
{
    (void)state;
    for (size_t i = 0; i < VERSIONS; i++) {
        struct vd_gow_layout layout = vd_gow_layout_of(expected[i].version);
        uint64_t end = layout.map_offset + vd_gow_table_bytes(&layout);
        for (uint32_t block = 0; block < layout.map_entries; block++) {
            uint64_t offset = vd_gow_map_entry_offset(&layout, block);
            assert_true(offset == layout.map_offset + UINT64_C(4) * block);
            assert_true(offset % 512 <= 508 && offset + 4 <= end);
        }
        if (layout.versions_offset) {
            assert_int_equal(layout.versions_offset, end);
            /* A page of the map has its versions in one page: gow_version.c relies on it. */
            assert_int_equal((layout.versions_offset - layout.map_offset) % 4096, 0);
            end = vd_gow_version_entry_offset(&layout, layout.map_entries - 1) + 4;
        }
        assert_true(layout.data_offset >= end && layout.data_offset - end < 512);
        assert_int_equal(layout.data_offset % 512, layout.version == 1 ? 64 : 0);
    }
}

static void test_blocks(void **state)
{
    (void)state;
    static const struct {
        uint64_t size;
        uint32_t blocks;
    } counts[] = {
        {0, 0},
        {512, 1},
        {65024, 1},
        {65536, 1},
        {66048, 2},
        {(UINT64_C(1) << 36) - 512, 1u << 20},
        {UINT64_C(1) << 36, 1u << 20},
        {(UINT64_C(1) << 38) - 65536, (1u << 22) - 1},
        {(UINT64_C(1) << 38) - 65024, 1u << 22},
        {UINT64_C(1) << 38, 1u << 22},
    };
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        assert_int_equal(vd_gow_block_count(counts[i].size), counts[i].blocks);

    for (uint32_t block = 0; block < 1u << 22; block++) {
        uint64_t offset = vd_gow_guest_offset(block);
        assert_true(vd_gow_block_of(offset) == block && vd_gow_block_of(offset + 65535) == block);
        assert_true(vd_gow_region_of(block) == offset / VD_GOW_REGION_BYTES);
    }
    assert_int_equal(vd_gow_region_of((1u << 22) - 1), VD_GOW_REGIONS - 1);
}

static void test_hosts(void **state)
{
    (void)state;
    for (size_t i = 0; i < VERSIONS; i++) {
        struct vd_gow_layout layout = vd_gow_layout_of(expected[i].version);
        assert_int_equal(vd_gow_host_count(&layout, 0), 0);
        assert_int_equal(vd_gow_host_count(&layout, layout.data_offset - 1), 0);
        assert_int_equal(vd_gow_tail_bytes(&layout, layout.data_offset - 1), 0);
        static const uint32_t hosts[] = {0, 1, 2, 1000, 1u << 22, VD_GOW_HOSTS_MAX - 1};
        for (size_t j = 0; j < sizeof(hosts) / sizeof(hosts[0]); j++) {
            uint64_t end = vd_gow_file_bytes(&layout, hosts[j]);
            assert_int_equal(end, vd_gow_host_offset(&layout, hosts[j]));
            assert_int_equal(vd_gow_host_count(&layout, end), hosts[j]);
            assert_int_equal(vd_gow_host_count(&layout, end + 65535), hosts[j]);
            assert_int_equal(vd_gow_host_count(&layout, end + 65536), hosts[j] + 1);
            assert_int_equal(vd_gow_tail_bytes(&layout, end), 0);
            assert_int_equal(vd_gow_tail_bytes(&layout, end + 1), 1);
            assert_int_equal(vd_gow_tail_bytes(&layout, end + 65535), 65535);
        }
        assert_int_equal(vd_gow_host_count(&layout, INT64_MAX), VD_GOW_HOSTS_MAX);
        assert_true(vd_gow_host_offset(&layout, UINT32_MAX) < UINT64_C(1) << 49);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_hosts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
