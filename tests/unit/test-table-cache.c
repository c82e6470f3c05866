/* SPDX-License-Identifier: MIT */
/* The cache of tables: C1 to C4 of table_cache.h. */
#include <string.h>

#include "drivers/check.h"
#include "drivers/fault.h"
#include "drivers/snap.h"
#include "drivers/trace.h"
#include "format/table_cache.h"

#define TABLES_OFFSET 320u
#define TABLES_BYTES  (4u << 20)

struct cached {
    struct vd_storage *memory, *trace;
    struct vd_table_cache cache;
};

static void begin(struct cached *cached, uint64_t cache_bytes)
{
    VT_OK(vd_storage_mem_open(TABLES_OFFSET + TABLES_BYTES, &cached->memory, &vt_err));
    VT_OK(vt_trace_open(cached->memory, VT_BORROW, NULL, &cached->trace, &vt_err));
    VT_OK(vd_table_cache_init(&cached->cache, cached->trace, vd_range(TABLES_OFFSET, TABLES_BYTES),
                              cache_bytes, &vt_err));
}

static void end(struct cached *cached)
{
    vd_table_cache_destroy(&cached->cache);
    vd_storage_close(cached->trace);
    vd_storage_close(cached->memory);
}

static uint8_t *at_locked(struct cached *cached, uint64_t offset, struct vd_table_page **page)
    VD_REQUIRES(cached->cache.lock)
{
    bool waited = false;
    VT_OK(vd_table_cache_get_locked(&cached->cache, offset, page, &waited, &vt_err));
    return vd_table_page_at(*page, offset);
}

static void set(struct cached *cached, uint64_t offset, uint8_t value)
{
    struct vd_table_page *page;
    vd_mutex_lock(&cached->cache.lock);
    *at_locked(cached, offset, &page) = value;
    vd_table_page_changed_locked(&cached->cache, page, offset, 1);
    vd_mutex_unlock(&cached->cache.lock);
}

static uint8_t get(struct cached *cached, uint64_t offset)
{
    struct vd_table_page *page;
    vd_mutex_lock(&cached->cache.lock);
    uint8_t value = *at_locked(cached, offset, &page);
    vd_mutex_unlock(&cached->cache.lock);
    return value;
}

static uint8_t in_file(struct cached *cached, uint64_t offset)
{
    uint8_t value;
    VT_OK(vd_storage_pread(cached->memory, &value, 1, offset, &vt_err));
    return value;
}

static void snapshot(struct cached *cached, struct vd_table_snapshot *taken)
{
    vd_mutex_lock(&cached->cache.lock);
    VT_OK(vd_table_cache_snapshot_locked(&cached->cache, taken, &vt_err));
    vd_mutex_unlock(&cached->cache.lock);
}

static void test_loads_once(void **state)
{
    (void)state;
    struct cached cached;
    begin(&cached, 0);
    assert_int_equal(get(&cached, TABLES_OFFSET), 0);
    assert_int_equal(get(&cached, 4095), 0);
    assert_int_equal(vt_trace_count(cached.trace, VT_READ), 1);
    size_t entries;
    const struct vt_record *records = vt_trace_records(cached.trace, &entries);
    assert_int_equal(records[0].range.offset, TABLES_OFFSET); /* not what is before the tables */
    assert_int_equal(records[0].range.length, 4096 - TABLES_OFFSET);
    (void)get(&cached, TABLES_OFFSET + TABLES_BYTES - 1); /* nor what is behind them */
    assert_int_equal(vt_trace_count(cached.trace, VT_READ), 2);
    end(&cached);
}

/* C4, and only the sectors that changed, neighbours together. */
static void test_snapshot(void **state)
{
    (void)state;
    struct cached cached;
    struct vd_table_snapshot taken;
    begin(&cached, 0);
    snapshot(&cached, &taken);
    assert_int_equal(taken.piece_entries, 0);
    vd_table_snapshot_end(&cached.cache, &taken, true);

    set(&cached, TABLES_OFFSET, 1);
    set(&cached, 512, 2);          /* its neighbour */
    set(&cached, 4096 * 2 - 1, 3); /* the last sector of a page, and the first of the next */
    set(&cached, 4096 * 2, 4);
    set(&cached, TABLES_OFFSET + TABLES_BYTES - 1, 5);
    snapshot(&cached, &taken);
    set(&cached, 512, 20);
    VT_OK(vd_table_snapshot_write(&cached.cache, &taken, &vt_err));
    assert_int_equal(vt_trace_count(cached.trace, VT_WRITE), 3);
    assert_int_equal(vt_trace_bytes(cached.trace, VT_WRITE), (512 - 320 + 512) + 1024 + 320);
    vd_table_snapshot_end(&cached.cache, &taken, true);
    assert_int_equal(in_file(&cached, 512), 2);
    assert_int_equal(in_file(&cached, 8191), 3);
    assert_int_equal(in_file(&cached, 8192), 4);
    assert_int_equal(in_file(&cached, TABLES_OFFSET + TABLES_BYTES - 1), 5);
    assert_int_equal(get(&cached, 512), 20);

    snapshot(&cached, &taken);
    assert_int_equal(taken.piece_entries, 1);
    VT_OK(vd_table_snapshot_write(&cached.cache, &taken, &vt_err));
    vd_table_snapshot_end(&cached.cache, &taken, true);
    assert_int_equal(in_file(&cached, 512), 20);
    end(&cached);
}

/* C3 */
static void test_eviction(void **state)
{
    (void)state;
    struct cached cached;
    struct vd_table_snapshot taken;
    begin(&cached, 1); /* as little as it can do with */
    set(&cached, 5000, 7);
    set(&cached, 9000, 8);
    snapshot(&cached, &taken);
    vd_mutex_lock(&cached.cache.lock);
    struct vd_table_page *pinned;
    (void)at_locked(&cached, 20000, &pinned);
    vd_table_cache_pin_locked(&cached.cache, 20000);
    vd_mutex_unlock(&cached.cache.lock);
    set(&cached, 5000, 70);
    for (unsigned round = 0; round < 2; round++)
        for (uint64_t offset = 40960; offset < TABLES_BYTES; offset += 4096)
            assert_int_equal(get(&cached, offset), 0);
    assert_true(cached.cache.pages <= 64);
    assert_int_equal(cached.cache.own.pages, cached.cache.pages);
    assert_true(vt_trace_count(cached.trace, VT_READ) > 1500); /* they do not all fit */
    vt_trace_reset(cached.trace);
    assert_int_equal(get(&cached, 5000), 70);
    assert_int_equal(get(&cached, 9000), 8); /* not in the file yet */
    assert_int_equal(get(&cached, 20000), 0);
    assert_int_equal(vt_trace_count(cached.trace, VT_READ), 0);

    vd_table_snapshot_end(&cached.cache, &taken, false); /* never written: it stays */
    vd_mutex_lock(&cached.cache.lock);
    assert_ptr_equal(vd_table_cache_unpin_locked(&cached.cache, 20000), pinned);
    vd_mutex_unlock(&cached.cache.lock);
    for (uint64_t offset = 40960; offset < TABLES_BYTES; offset += 4096)
        (void)get(&cached, offset);
    assert_int_equal(get(&cached, 9000), 8);
    vt_trace_reset(cached.trace);
    (void)get(&cached, 20000);
    assert_int_equal(vt_trace_count(cached.trace, VT_READ), 1);
    end(&cached);
}

static bool is_behind(const void *opaque, uint64_t offset)
{
    const uint64_t *boundary = opaque;
    return offset >= *boundary;
}

/* Tables anywhere in a huge file, written in two parts, each in the order of the file. */
static void test_parts(void **state)
{
    (void)state;
    static const uint64_t offsets[] = {
        UINT64_C(1) << 39, 4096, UINT64_C(3) << 37, 8192, 4608, (UINT64_C(1) << 39) + 4096};
    struct vd_storage *memory, *trace;
    struct vd_table_cache cache;
    struct vd_table_snapshot taken;
    struct vd_table_page *page;
    bool waited = false;
    VT_OK(vt_snap_open(UINT64_C(1) << 40, &memory, &vt_err));
    VT_OK(vt_trace_open(memory, VT_BORROW, NULL, &trace, &vt_err));
    VT_OK(vd_table_cache_init(&cache, trace, vd_range(0, UINT64_C(1) << 40), 0, &vt_err));
    vd_mutex_lock(&cache.lock);
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        VT_OK(vd_table_cache_get_locked(&cache, offsets[i], &page, &waited, &vt_err));
        *(uint8_t *)vd_table_page_at(page, offsets[i]) = (uint8_t)(i + 1);
        vd_table_page_changed_locked(&cache, page, offsets[i], 1);
    }
    VT_OK(vd_table_cache_snapshot_locked(&cache, &taken, &vt_err));
    vd_mutex_unlock(&cache.lock);
    assert_int_equal(taken.piece_entries, 5); /* 4096 and 4608 are neighbours */

    vt_trace_reset(trace);
    uint64_t boundary = 4608; /* within a piece */
    VT_OK(vd_table_snapshot_write_some(&cache, &taken, is_behind, &boundary, &vt_err));
    size_t entries;
    const struct vt_record *records = vt_trace_records(trace, &entries);
    static const uint64_t behind[] = {4608, 8192, UINT64_C(3) << 37, UINT64_C(1) << 39,
                                      (UINT64_C(1) << 39) + 4096};
    assert_int_equal(entries, sizeof(behind) / sizeof(behind[0]));
    for (size_t i = 0; i < entries; i++) {
        assert_int_equal(records[i].range.offset, behind[i]);
        assert_int_equal(records[i].range.length, 512);
    }
    uint8_t value;
    VT_OK(vd_storage_pread(memory, &value, 1, 4096, &vt_err));
    assert_int_equal(value, 0);
    VT_OK(vd_table_snapshot_write(&cache, &taken, &vt_err));
    vd_table_snapshot_end(&cache, &taken, true);
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        VT_OK(vd_storage_pread(memory, &value, 1, offsets[i], &vt_err));
        assert_int_equal(value, i + 1);
    }

    value = 77; /* behind its back */
    VT_OK(vd_storage_pwrite(memory, &value, 1, 4096, &vt_err));
    vd_table_cache_forget(&cache);
    vd_mutex_lock(&cache.lock);
    VT_OK(vd_table_cache_get_locked(&cache, 4096, &page, &waited, &vt_err));
    assert_int_equal(*(uint8_t *)vd_table_page_at(page, 4096), 77);
    vd_mutex_unlock(&cache.lock);
    vd_table_cache_destroy(&cache);
    vd_storage_close(trace);
    vd_storage_close(memory);
}

/* C5 */
static void test_shared_budget(void **state)
{
    (void)state;
    struct cached first, second;
    struct vd_table_budget *budget = vd_table_budget_new(400 * 4096);
    assert_non_null(budget);
    begin(&first, 0);
    begin(&second, 0);
    vd_table_cache_share(&first.cache, budget);
    vd_table_cache_share(&second.cache, budget);
    for (uint64_t offset = 4096; offset < TABLES_BYTES; offset += 4096)
        (void)get(&first, offset);
    assert_int_equal(first.cache.pages, 400);
    for (uint64_t offset = 4096; offset < TABLES_BYTES; offset += 4096)
        (void)get(&second, offset);
    assert_int_equal(second.cache.pages, 16); /* what each may always have */
    assert_int_equal(budget->pages, 416);
    (void)get(&first, TABLES_OFFSET); /* who is above its minimum gives way */
    assert_int_equal(budget->pages, 400);
    end(&first);
    assert_int_equal(budget->pages, 16);
    for (uint64_t offset = 4096; offset < TABLES_BYTES; offset += 4096)
        (void)get(&second, offset);
    assert_int_equal(second.cache.pages, 400); /* and there is room again */
    vd_table_budget_release(budget);           /* the cache is its last user */
    assert_int_equal(second.cache.budget->pages, 400);
    end(&second);
}

/* A page that can not be read is an error now, and read again next time. */
/* Behind the end of the file are zeros, if it is to be so. */
static void test_short_file(void **state)
{
    (void)state;
    struct cached cached;
    begin(&cached, 0);
    uint8_t last = 7;
    uint64_t bytes = 8192 + 100;
    VT_OK(vd_storage_resize(cached.memory, bytes, &vt_err));
    VT_OK(vd_storage_pwrite(cached.memory, &last, 1, bytes - 1, &vt_err));
    struct vd_table_page *page;
    bool waited = false;
    vd_mutex_lock(&cached.cache.lock);
    VT_FAILS(EIO, vd_table_cache_get_locked(&cached.cache, bytes - 1, &page, &waited, &vt_err));
    vd_mutex_unlock(&cached.cache.lock);
    vd_table_cache_pad(&cached.cache);
    assert_int_equal(get(&cached, bytes - 1), 7);
    assert_int_equal(get(&cached, bytes), 0);
    assert_int_equal(get(&cached, TABLES_BYTES), 0);
    end(&cached);
}

/* Places that become tables: whole pages are not read, and a failure leaves all as it was. */
static void test_put(void **state)
{
    (void)state;
    struct cached cached;
    struct vd_storage *fault;
    uint8_t bytes[3 * 4096], old = 9;
    memset(bytes, 5, sizeof(bytes));
    begin(&cached, 0);
    VT_OK(vd_storage_pwrite(cached.memory, &old, 1, 4095, &vt_err));
    vd_mutex_lock(&cached.cache.lock);
    VT_OK(vd_table_cache_put_locked(&cached.cache, 8192, bytes, 8192, &vt_err));
    vd_mutex_unlock(&cached.cache.lock);
    assert_int_equal(vt_trace_count(cached.trace, VT_READ), 0);
    vd_mutex_lock(&cached.cache.lock);
    VT_OK(vd_table_cache_put_locked(&cached.cache, 4096 - 512, bytes, 1024, &vt_err));
    VT_OK(vd_table_cache_put_locked(&cached.cache, 8192 + 512, NULL, 512, &vt_err));
    vd_mutex_unlock(&cached.cache.lock);
    assert_int_equal(vt_trace_count(cached.trace, VT_READ), 2);
    assert_int_equal(get(&cached, 4095), 5);
    assert_int_equal(get(&cached, 4096 - 513), 0);
    assert_int_equal(get(&cached, 8192 + 511), 5);
    assert_int_equal(get(&cached, 8192 + 512), 0);
    struct vd_table_snapshot taken;
    snapshot(&cached, &taken);
    VT_OK(vd_table_snapshot_write(&cached.cache, &taken, &vt_err));
    vd_table_snapshot_end(&cached.cache, &taken, true);
    assert_int_equal(in_file(&cached, 8192 * 2 - 1), 5);
    assert_int_equal(in_file(&cached, 4096 + 511), 5);
    assert_int_equal(in_file(&cached, 4096 + 512), 0);
    end(&cached);

    /* The third page is only touched in part, and can not be read. */
    begin(&cached, 0);
    VT_OK(vt_fault_open(cached.memory, VT_BORROW, &fault, &vt_err));
    cached.cache.file = fault;
    vt_fault_set(fault,
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_READ), .nth = 1, .error = EIO});
    VT_OK(vd_storage_pwrite(cached.memory, &old, 1, 8192, &vt_err));
    vd_mutex_lock(&cached.cache.lock);
    VT_FAILS(EIO, vd_table_cache_put_locked(&cached.cache, 8192, bytes, 8192 + 512, &vt_err));
    vd_mutex_unlock(&cached.cache.lock);
    assert_int_equal(get(&cached, 8192), 9);
    assert_int_equal(get(&cached, 8192 + 4096), 0);
    vd_storage_close(fault);
    end(&cached);
}

static void test_failure(void **state)
{
    (void)state;
    struct vd_storage *memory, *fault;
    struct vd_table_cache cache;
    struct vd_table_page *page;
    bool waited = false;
    VT_OK(vd_storage_mem_open(TABLES_OFFSET + TABLES_BYTES, &memory, &vt_err));
    VT_OK(vt_fault_open(memory, VT_BORROW, &fault, &vt_err));
    VT_OK(vd_table_cache_init(&cache, fault, vd_range(TABLES_OFFSET, TABLES_BYTES), 0, &vt_err));
    vt_fault_set(fault,
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_READ), .nth = 1, .error = EIO});
    vd_mutex_lock(&cache.lock);
    VT_FAILS(EIO, vd_table_cache_get_locked(&cache, 5000, &page, &waited, &vt_err));
    VT_OK(vd_table_cache_get_locked(&cache, 5000, &page, &waited, &vt_err));
    vd_mutex_unlock(&cache.lock);
    assert_true(waited);
    vd_table_cache_destroy(&cache);
    vd_storage_close(fault);
    vd_storage_close(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loads_once),    cmocka_unit_test(test_snapshot),
        cmocka_unit_test(test_eviction),      cmocka_unit_test(test_parts),
        cmocka_unit_test(test_shared_budget), cmocka_unit_test(test_failure),
        cmocka_unit_test(test_short_file),    cmocka_unit_test(test_put),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
