/* SPDX-License-Identifier: MIT */
/* A new size for a GOW disk: gow §6.4. */
#include "drivers/fault.h"

#include "gow-fixture.h"

static void resize(struct fixture *fix, uint64_t size)
{
    VT_OK(vd_format_resize(fix->format, &(struct vd_resize){.size = size}, &vt_err));
    assert_int_equal(vd_format_size(fix->format), size);
    assert_int_equal(fixture_header(fix).size, size);
}

/* What is cut off never comes back, whatever the two sizes are. */
static void test_shrink_and_grow(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0, 512, 65024, 65536, 66048, 3 * 65536, 5 * 65536 - 512};
    for (uint32_t version = 1; version <= 3; version++)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            struct fixture fix;
            uint64_t size = 5 * BLOCK;
            fixture_create(&fix, version, size);
            fixture_open(&fix, VD_FORMAT_WRITE);
            assert_int_equal(fill(&fix, 0, size, 1), 0);
            resize(&fix, sizes[i]);
            if (sizes[i])
                expect(&fix, 0, sizes[i], 1);
            resize(&fix, size + BLOCK + 512);
            if (sizes[i])
                expect(&fix, 0, sizes[i], 1);
            expect(&fix, sizes[i], size + BLOCK + 512 - sizes[i], 0);
            fixture_close(&fix);
            for (uint32_t block = 0; version == 3 && block < 5; block++)
                assert_int_equal(version_in_file(&fix, block), 1);
            fixture_open(&fix, 0);
            expect(&fix, sizes[i], size + BLOCK + 512 - sizes[i], 0);
            fixture_destroy(&fix);
        }
}

/* In a session of its own, what is cut off gets a version. */
static void test_versions(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_create(&fix, 3, 5 * BLOCK);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 5 * BLOCK, 1), 0);
    fixture_close(&fix);
    fixture_open(&fix, VD_FORMAT_WRITE);
    resize(&fix, 2 * BLOCK + 512);
    fixture_close(&fix);
    static const uint32_t expected[] = {1, 1, 2, 2, 2, 0};
    for (uint32_t block = 0; block < 6; block++)
        assert_int_equal(version_in_file(&fix, block), expected[block]);
    assert_int_equal(fixture_header(&fix).generation, 2);
    assert_int_equal(file_bytes(&fix), vd_gow_file_bytes(&fix.layout, 3));
    fixture_destroy(&fix);
}

static void test_limits(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        fixture_create(&fix, version, MIB);
        fixture_open(&fix, VD_FORMAT_WRITE);
        uint64_t limit = fix.layout.size_max;
        VT_FAILS(EINVAL,
                 vd_format_resize(fix.format, &(struct vd_resize){.size = limit + 512}, &vt_err));
        VT_FAILS(EINVAL,
                 vd_format_resize(fix.format, &(struct vd_resize){.size = MIB + 1}, &vt_err));
        VT_FAILS(EINVAL,
                 vd_format_resize(fix.format,
                                  &(struct vd_resize){.size = 2 * MIB,
                                                      .preallocation = VDISK_PREALLOCATION_FALLOC},
                                  &vt_err));
        assert_int_equal(vt_trace_count(fix.file, VT_WRITE), 0);
        resize(&fix, limit);
        assert_int_equal(fill(&fix, limit - 1, 1, 1), 0);
        resize(&fix, 512);
        resize(&fix, limit);
        expect(&fix, limit - BLOCK, BLOCK, 0);
        fixture_destroy(&fix);
    }
}

/* Entries and bytes behind the end that should not be there do not appear. */
static void test_grow_over_garbage(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        uint8_t garbage[512];
        memset(garbage, 0xEE, sizeof(garbage));
        fixture_create(&fix, version, 512);
        fixture_open(&fix, VD_FORMAT_WRITE);
        assert_int_equal(fill(&fix, 0, 512, 1), 0);
        fixture_close(&fix);
        set_map_in_file(&fix, 3, 0);
        set_map_in_file(&fix, 5, 77);
        VT_OK(vd_storage_pwrite(fix.memory, garbage, 512, fix.layout.data_offset + 512, &vt_err));
        fixture_open(&fix, VD_FORMAT_WRITE);
        resize(&fix, MIB);
        expect(&fix, 0, 512, 1);
        expect(&fix, 512, MIB - 512, 0);
        fixture_close(&fix);
        if (version == 3)
            assert_int_equal(version_in_file(&fix, 0), 2);
        fixture_destroy(&fix);
    }
}

/* A flush that fails inside a resize is remembered like any other. */
static void test_failed_flush(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 3; nth++) {
        struct fixture fix;
        struct vd_storage *fault;
        struct vd_mapping mapping;
        fixture_create(&fix, 3, 5 * BLOCK);
        VT_OK(vt_fault_open(fix.memory, VT_BORROW, &fault, &vt_err));
        struct vd_format_options options = {.flags = VD_FORMAT_WRITE};
        VT_OK(vd_format_open(gow_driver(3), fault, &options, &fix.format, &vt_err));
        assert_int_equal(fill(&fix, 0, 5 * BLOCK, 1), 0);
        vt_fault_set(fault, (struct vt_fault_plan){
                                .calls = VT_CALL_BIT(VT_FLUSH), .nth = nth, .error = EIO});
        VT_FAILS(EIO, vd_format_resize(fix.format, &(struct vd_resize){.size = BLOCK}, &vt_err));
        VT_FAILS(EIO, vd_format_map_for_write(fix.format, vd_range(0, 1), true, &mapping, &vt_err));
        VT_FAILS(EIO, vd_format_flush(fix.format, &vt_err));
        VT_FAILS(EIO, vd_format_close(fix.format, &vt_err));
        fix.format = NULL;
        vd_storage_close(fault);
        fixture_open(&fix, VD_FORMAT_WRITE);
        assert_true(vd_format_size(fix.format) == 5 * BLOCK || nth == 3);
        fixture_destroy(&fix);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shrink_and_grow), cmocka_unit_test(test_versions),
        cmocka_unit_test(test_limits),          cmocka_unit_test(test_grow_over_garbage),
        cmocka_unit_test(test_failed_flush),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
