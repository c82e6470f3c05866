/* SPDX-License-Identifier: MIT */
/* Sessions, versions, allocation and flushes of GOW: G1 to G6 of gow_priv.h, gow §5 and §6. */
#include "drivers/fault.h"

#include "gow-fixture.h"

static uint32_t version_of(void **state)
{
    return *(const uint32_t *)*state;
}

static void test_empty(void **state)
{
    struct fixture fix;
    static const uint64_t sizes[] = {0, 512, 65024, 65536, 66048, 300 * MIB};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        fixture_create(&fix, version_of(state), sizes[i]);
        assert_int_equal(file_bytes(&fix), fix.layout.data_offset);
        fixture_open(&fix, VD_FORMAT_WRITE);
        assert_int_equal(vd_format_size(fix.format), sizes[i]);
        if (sizes[i])
            expect(&fix, 0, sizes[i], 0);
        fixture_close(&fix);
        /* A session in which nothing is changed leaves the file alone. */
        assert_int_equal(vt_trace_count(fix.file, VT_WRITE), 0);
        assert_int_equal(fixture_header(&fix).generation, 0);
        fixture_destroy(&fix);
    }
}

static void test_limits(void **state)
{
    struct vd_gow_layout layout = vd_gow_layout_of(version_of(state));
    struct fixture fix;
    fixture_create(&fix, layout.version, layout.size_max);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, layout.size_max - 512, 512, 7), 0);
    expect(&fix, layout.size_max - 65536, 65024, 0);
    fixture_close(&fix);
    assert_int_equal(map_in_file(&fix, layout.map_entries - 1), 0);
    fixture_destroy(&fix);

    struct vd_storage *file;
    struct vdisk_create_options options = {.struct_bytes = sizeof(options)};
    VT_OK(vd_storage_mem_open(0, &file, &vt_err));
    const struct vd_format_driver *driver = gow_driver(layout.version);
    options.size = layout.size_max + 512;
    VT_FAILS(EINVAL, vd_format_create(driver, file, NULL, &options, &vt_err));
    options.size = 513;
    VT_FAILS(EINVAL, vd_format_create(driver, file, NULL, &options, &vt_err));
    options.size = MIB;
    options.preallocation = VDISK_PREALLOCATION_FULL;
    VT_FAILS(EINVAL, vd_format_create(driver, file, NULL, &options, &vt_err));
    vd_storage_close(file);
}

/* G1: the header is durable before the data is written. */
static void test_session(void **state)
{
    struct fixture fix;
    fixture_create(&fix, version_of(state), 300 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    struct vd_mapping mapping;
    VT_OK(vd_format_map_for_write(fix.format, vd_range(0, 512), false, &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_ZERO);
    assert_int_equal(vt_trace_count(fix.file, VT_WRITE), 0);

    assert_int_equal(fill(&fix, 0, 512, 1), 0);
    size_t entries;
    const struct vt_record *records = vt_trace_records(fix.file, &entries);
    size_t i = 0;
    while (i < entries && records[i].call != VT_WRITE)
        i++;
    assert_true(i + 1 < entries && records[i].range.offset == 0);
    assert_int_equal(records[i + 1].call, VT_FLUSH);
    struct vd_gow_header header = fixture_header(&fix);
    assert_int_equal(header.flags, VD_GOW_FLAG_DIRTY);
    assert_int_equal(header.generation, 1);
    assert_int_equal(vd_gow_intent_is_set(&header, 0), fix.version == 3);
    assert_false(vd_gow_intent_is_set(&header, 1));

    /* Another region: one more durable mark in version 3, nothing before. */
    uint64_t before = flushes(&fix);
    assert_int_equal(fill(&fix, 128 * MIB - 512, 1024, 2), 0);
    assert_int_equal(flushes(&fix) - before, fix.version == 3 ? 1 : 0);
    before = flushes(&fix);
    assert_int_equal(fill(&fix, 200 * MIB, 512, 3), 0);
    assert_int_equal(flushes(&fix), before);

    fixture_close(&fix);
    header = fixture_header(&fix);
    assert_int_equal(header.flags, 0);
    assert_int_equal(header.generation, 1);
    assert_false(vd_gow_intent_is_set(&header, 0));
    fixture_destroy(&fix);
}

/* Two flushes after allocations, one after overwrites. */
static void test_flush_counts(void **state)
{
    struct fixture fix;
    fixture_create(&fix, version_of(state), 100 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(fill(&fix, i * 2 * BLOCK, 4096, 1), 0);
    vt_trace_reset(fix.file);
    flush(&fix);
    assert_int_equal(flushes(&fix), 2);
    assert_true(vt_trace_count(fix.file, VT_WRITE) <= 2); /* map and versions */

    vt_trace_reset(fix.file);
    assert_int_equal(fill(&fix, 0, 4096, 2), 0);
    flush(&fix);
    assert_int_equal(flushes(&fix), 1);
    assert_int_equal(vt_trace_count(fix.file, VT_WRITE), 1); /* the data */
    fixture_destroy(&fix);
}

/* G3: what is not published when a flush begins is not in the file when it ends. */
static void test_map_follows_data(void **state)
{
    struct fixture fix;
    struct vd_mapping mapping;
    fixture_create(&fix, version_of(state), 10 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 512, 1), 0);
    assert_int_equal(map_in_file(&fix, 0), VD_GOW_UNALLOCATED);

    VT_OK(vd_format_map_for_write(fix.format, vd_range(BLOCK, 512), true, &mapping, &vt_err));
    assert_true(mapping.fresh);
    assert_int_equal(host_of(&fix, 1), VD_GOW_UNALLOCATED); /* G6 */
    flush(&fix);
    assert_int_equal(map_in_file(&fix, 0), 0);
    assert_int_equal(map_in_file(&fix, 1), VD_GOW_UNALLOCATED);
    vd_format_write_done(fix.format, &mapping, true);
    assert_int_equal(host_of(&fix, 1), 1);
    flush(&fix);
    assert_int_equal(map_in_file(&fix, 1), 1);

    /* Given back: as before, and the host block is the next one's, to be filled. */
    VT_OK(vd_format_map_for_write(fix.format, vd_range(2 * BLOCK, 512), true, &mapping, &vt_err));
    assert_int_equal(mapping.fill, VD_FILL_NONE);
    uint64_t host_offset = mapping.host_offset;
    vd_format_write_done(fix.format, &mapping, false);
    assert_int_equal(host_of(&fix, 2), VD_GOW_UNALLOCATED);
    VT_OK(vd_format_map_for_write(fix.format, vd_range(3 * BLOCK, 512), true, &mapping, &vt_err));
    assert_int_equal(mapping.host_offset, host_offset);
    assert_int_equal(mapping.fill, VD_FILL_ZERO);
    vd_format_write_done(fix.format, &mapping, false);
    fixture_close(&fix);
    assert_int_equal(file_bytes(&fix), vd_gow_file_bytes(&fix.layout, 2));
    fixture_destroy(&fix);
}

/* As long a run as possible, and no longer than asked. */
static void test_runs(void **state)
{
    struct fixture fix;
    struct vd_mapping mapping;
    fixture_create(&fix, version_of(state), 20 * MIB + 512);
    fixture_open(&fix, VD_FORMAT_WRITE);
    VT_OK(vd_format_map_for_write(fix.format, vd_range(512, 2 * MIB), true, &mapping, &vt_err));
    assert_int_equal(mapping.guest.length, 2 * MIB);
    assert_int_equal(mapping.clusters.offset, 0);
    assert_int_equal(mapping.clusters.length, 2 * MIB + BLOCK);
    assert_int_equal(file_bytes(&fix), vd_gow_file_bytes(&fix.layout, 33));
    vd_format_write_done(fix.format, &mapping, true);
    VT_OK(vd_format_map(fix.format, vd_range(4096, 10 * MIB), &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_DATA);
    assert_int_equal(mapping.guest.length, 2 * MIB + BLOCK - 4096);
    VT_OK(vd_format_map(fix.format, vd_range(3 * MIB, 10 * MIB), &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_ZERO);
    assert_int_equal(mapping.guest.length, 10 * MIB);
    /* The last block is whole in the file. */
    VT_OK(vd_format_map_for_write(fix.format, vd_range(20 * MIB, 512), true, &mapping, &vt_err));
    assert_int_equal(mapping.clusters.length, BLOCK);
    vd_format_write_done(fix.format, &mapping, true);
    fixture_destroy(&fix);
}

/* G4: a host block comes back only after its unmapping is durable. */
static void test_reuse_waits_for_flush(void **state)
{
    struct fixture fix;
    fixture_create(&fix, version_of(state), 10 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 3 * BLOCK, 1), 0);
    discard(&fix, 0, BLOCK); /* never durable in the map, but a flush could have begun */
    assert_int_equal(fill(&fix, 5 * BLOCK, BLOCK, 2), 0);
    assert_int_equal(host_of(&fix, 5), 3);
    flush(&fix);
    assert_int_equal(fill(&fix, 6 * BLOCK, 512, 3), 0);
    assert_int_equal(host_of(&fix, 6), 0);
    expect(&fix, 6 * BLOCK + 512, BLOCK - 512, 0);
    expect(&fix, 0, BLOCK, 0);
    fixture_destroy(&fix);
}

/* G4: and only after the requests that could see it are gone. */
static void test_reuse_waits_for_requests(void **state)
{
    struct fixture fix;
    fixture_create(&fix, version_of(state), 10 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 2 * BLOCK, 1), 0);
    flush(&fix);
    unsigned ticket = vd_format_enter(fix.format);
    discard(&fix, 0, BLOCK);
    flush(&fix);
    assert_int_equal(map_in_file(&fix, 0), VD_GOW_UNALLOCATED);
    assert_int_equal(fill(&fix, 5 * BLOCK, BLOCK, 2), 0);
    assert_int_equal(host_of(&fix, 5), 2);
    assert_int_equal(vt_trace_count(fix.file, VT_DISCARD), 0);
    vd_format_leave(fix.format, ticket);
    flush(&fix);
    assert_int_equal(vt_trace_count(fix.file, VT_DISCARD), 1);
    assert_int_equal(fill(&fix, 6 * BLOCK, BLOCK, 3), 0);
    assert_int_equal(host_of(&fix, 6), 0);
    fixture_destroy(&fix);
}

/* The free tail of the file goes when the session ends, a hole in the middle is punched. */
static void test_close_gives_back(void **state)
{
    struct fixture fix;
    fixture_create(&fix, version_of(state), 10 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 10 * BLOCK, 1), 0);
    fixture_close(&fix);
    assert_int_equal(file_bytes(&fix), vd_gow_file_bytes(&fix.layout, 10));
    fixture_open(&fix, VD_FORMAT_WRITE);
    discard(&fix, 2 * BLOCK, BLOCK);
    discard(&fix, 7 * BLOCK, 3 * BLOCK);
    fixture_close(&fix);
    assert_int_equal(file_bytes(&fix), vd_gow_file_bytes(&fix.layout, 7));
    assert_true(vt_trace_count(fix.file, VT_DISCARD) >= 1);
    fixture_open(&fix, 0);
    expect(&fix, 0, 2 * BLOCK, 1);
    expect(&fix, 2 * BLOCK, BLOCK, 0);
    expect(&fix, 3 * BLOCK, 4 * BLOCK, 1);
    expect(&fix, 7 * BLOCK, 3 * BLOCK, 0);
    fixture_destroy(&fix);
}

static void test_zero(void **state)
{
    struct fixture fix;
    struct vd_mapping mapping;
    uint64_t size = 10 * BLOCK + 512;
    fixture_create(&fix, version_of(state), size);
    fixture_open(&fix, VD_FORMAT_WRITE);
    /* Nothing there: nothing done. */
    VT_OK(vd_format_map_zero(fix.format, vd_range(100, size - 100), VD_MAP_ZERO_MAY_UNMAP, &mapping,
                             &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_ZERO);
    assert_int_equal(mapping.guest.length, size - 100);
    assert_int_equal(vt_trace_count(fix.file, VT_WRITE), 0);

    assert_int_equal(fill(&fix, 0, size, 1), 0);
    /* Part of a block: zeros are written there, or nothing is done. */
    VT_OK(vd_format_map_zero(fix.format, vd_range(512, BLOCK), VD_MAP_ZERO_MAY_UNMAP, &mapping,
                             &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_DATA);
    assert_int_equal(mapping.guest.length, BLOCK - 512);
    assert_false(mapping.fresh);
    VT_OK(vd_format_map_zero(fix.format, vd_range(512, BLOCK),
                             VD_MAP_ZERO_MAY_UNMAP | VD_MAP_ZERO_DISCARD, &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_ZERO);
    assert_int_equal(mapping.guest.length, BLOCK - 512);
    expect(&fix, 0, size, 1);
    /* Whole blocks, with the last one of the disk. */
    discard(&fix, 4 * BLOCK, size - 4 * BLOCK);
    expect(&fix, 4 * BLOCK, size - 4 * BLOCK, 0);
    assert_int_equal(host_of(&fix, 10), VD_GOW_UNALLOCATED);
    discard(&fix, 0, BLOCK + 512); /* one whole, and a part that stays */
    expect(&fix, 0, BLOCK, 0);
    expect(&fix, BLOCK, 3 * BLOCK, 1);
    fixture_destroy(&fix);
}

/* gow §4.1: an entry that leads nowhere is found on use, and ends all changes. */
static void test_bad_entry(void **state)
{
    struct fixture fix;
    struct vd_mapping mapping;
    fixture_create(&fix, version_of(state), 10 * MIB);
    fixture_open(&fix, VD_FORMAT_WRITE);
    assert_int_equal(fill(&fix, 0, 2 * BLOCK, 1), 0);
    fixture_close(&fix);
    static const uint32_t bad[] = {2, 1000000, VD_GOW_HOSTS_MAX, 0xFFFFFFFE};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        set_map_in_file(&fix, 1, bad[i]);
        fixture_open(&fix, VD_FORMAT_WRITE);
        expect(&fix, 0, BLOCK, 1);
        VT_OK(vd_format_map(fix.format, vd_range(0, 2 * BLOCK), &mapping, &vt_err));
        assert_int_equal(mapping.guest.length, BLOCK);
        VT_FAILS(EBADMSG, vd_format_map(fix.format, vd_range(BLOCK, 1), &mapping, &vt_err));
        VT_FAILS(EBADMSG,
                 vd_format_map_for_write(fix.format, vd_range(0, 1), true, &mapping, &vt_err));
        VT_FAILS(EBADMSG, vd_format_close(fix.format, &vt_err));
        fix.format = NULL;
    }
    /* G5: two owners are found before the map changes. */
    set_map_in_file(&fix, 1, 0);
    fixture_open(&fix, VD_FORMAT_WRITE);
    expect(&fix, 0, 2 * BLOCK, 1);
    assert_int_equal(fill(&fix, 5 * BLOCK, 1, 1), -EBADMSG);
    vd_format_close(fix.format, NULL);
    fix.format = NULL;
    fixture_destroy(&fix);
}

/* A full storage costs the request, nothing else. */
static void test_no_space(void **state)
{
    struct fixture fix;
    struct vd_storage *fault;
    struct vd_mapping mapping;
    fixture_create(&fix, version_of(state), 10 * MIB);
    VT_OK(vt_fault_open(fix.memory, VT_BORROW, &fault, &vt_err));
    struct vd_storage *trace = fix.file;
    fix.file = fault;
    struct vd_format_options options = {.flags = VD_FORMAT_WRITE};
    VT_OK(vd_format_open(gow_driver(fix.version), fault, &options, &fix.format, &vt_err));
    assert_int_equal(fill(&fix, 0, BLOCK, 1), 0);
    vt_fault_set(
        fault, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_RESIZE), .nth = 1, .error = ENOSPC});
    VT_FAILS(ENOSPC,
             vd_format_map_for_write(fix.format, vd_range(BLOCK, 1), true, &mapping, &vt_err));
    assert_int_equal(fill(&fix, BLOCK, BLOCK, 2), 0);
    assert_int_equal(host_of(&fix, 1), 1);
    /* A flush that fails is remembered. */
    vt_fault_set(fault,
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_FLUSH), .nth = 2, .error = EIO});
    VT_FAILS(EIO, vd_format_flush(fix.format, &vt_err));
    VT_FAILS(EIO, vd_format_map_for_write(fix.format, vd_range(0, 1), true, &mapping, &vt_err));
    expect(&fix, 0, BLOCK, 1);
    expect(&fix, BLOCK, BLOCK, 2);
    VT_FAILS(EIO, vd_format_close(fix.format, &vt_err));
    fix.format = NULL;
    assert_int_equal(fixture_header(&fix).flags, VD_GOW_FLAG_DIRTY);
    vd_storage_close(fault);
    fix.file = trace;
    fixture_destroy(&fix);
}

#define OF_VERSION(test, version)                                             \
    {                                                                         \
#test "_v" #version, test, NULL, NULL, (void *)&versions[(version)-1] \
    }
#define OF_EACH_VERSION(test) OF_VERSION(test, 1), OF_VERSION(test, 2), OF_VERSION(test, 3)

int main(void)
{
    static const uint32_t versions[] = {1, 2, 3};
    const struct CMUnitTest tests[] = {
        OF_EACH_VERSION(test_empty),
        OF_EACH_VERSION(test_limits),
        OF_EACH_VERSION(test_session),
        OF_EACH_VERSION(test_flush_counts),
        OF_EACH_VERSION(test_map_follows_data),
        OF_EACH_VERSION(test_runs),
        OF_EACH_VERSION(test_reuse_waits_for_flush),
        OF_EACH_VERSION(test_reuse_waits_for_requests),
        OF_EACH_VERSION(test_close_gives_back),
        OF_EACH_VERSION(test_zero),
        OF_EACH_VERSION(test_bad_entry),
        OF_EACH_VERSION(test_no_space),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
