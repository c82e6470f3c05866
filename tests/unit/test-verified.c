/* SPDX-License-Identifier: MIT */
/* storage/verified: every byte that comes out has been compared, once. */
#include "drivers/check.h"

#include <pthread.h>
#include <stdlib.h>

#include "drivers/fault.h"
#include "drivers/random.h"
#include "drivers/trace.h"
#include "storage/verified.h"

#define EXTENT     VD_DIGEST_EXTENT_BYTES_MIN
#define FILE_BYTES (5u * EXTENT + 1234u)

struct bench {
    uint8_t bytes[FILE_BYTES];
    struct vd_storage *file;  /* what is altered below */
    struct vd_storage *trace; /* over it; belongs to verified */
    struct vd_digest_table table;
    struct vd_storage *verified;
};

static void fill_table(struct bench *bench)
{
    VT_OK(vd_digest_table_init(&bench->table, VD_DIGEST_XXH128, EXTENT, FILE_BYTES, &vt_err));
    for (uint64_t i = 0; i < bench->table.entries; i++) {
        size_t length = (size_t)vd_min(EXTENT, FILE_BYTES - i * EXTENT);
        VT_OK(vd_digest(VD_DIGEST_XXH128, bench->bytes + i * EXTENT, length,
                        vd_digest_at(&bench->table, i), &vt_err));
    }
}

/* As if nothing had been read yet. */
static void reopen(struct bench *bench)
{
    vd_storage_close(bench->verified);
    VT_OK(vt_trace_open(bench->file, VT_BORROW, NULL, &bench->trace, &vt_err));
    VT_OK(vd_storage_verified_open(bench->trace, &bench->table, &bench->verified, &vt_err));
}

/* Extent 3 is a hole. */
static int set_up(void **state)
{
    static struct bench bench;
    struct vt_random random = {.state = 1};
    vt_random_fill(&random, bench.bytes, sizeof(bench.bytes));
    memset(bench.bytes + 3 * EXTENT, 0, EXTENT);
    VT_OK(vd_storage_mem_open(FILE_BYTES, &bench.file, &vt_err));
    VT_OK(vd_storage_pwrite(bench.file, bench.bytes, 3 * EXTENT, 0, &vt_err));
    VT_OK(vd_storage_pwrite(bench.file, bench.bytes + 4 * EXTENT, FILE_BYTES - 4 * EXTENT,
                            4 * EXTENT, &vt_err));
    fill_table(&bench);
    bench.verified = NULL;
    reopen(&bench);
    *state = &bench;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *bench = *state;
    vd_storage_close(bench->verified);
    vd_storage_close(bench->file);
    vd_digest_table_free(&bench->table);
    return 0;
}

static void flip(struct bench *bench, uint64_t offset)
{
    uint8_t byte;
    VT_OK(vd_storage_pread(bench->file, &byte, 1, offset, &vt_err));
    byte ^= 0x10;
    VT_OK(vd_storage_pwrite(bench->file, &byte, 1, offset, &vt_err));
}

static void expect(struct bench *bench, struct vd_range range)
{
    static uint8_t buf[FILE_BYTES];
    VT_OK(vd_storage_pread(bench->verified, buf, (size_t)range.length, range.offset, &vt_err));
    assert_memory_equal(buf, bench->bytes + range.offset, range.length);
}

static void test_reads_what_was_written(void **state)
{
    struct bench *bench = *state;
    struct vt_random random = {.state = 2};
    uint64_t size;
    VT_OK(vd_storage_size(bench->verified, &size, &vt_err));
    assert_int_equal(size, FILE_BYTES);
    assert_false(vd_storage_is_writable(bench->verified));
    for (int i = 0; i < 200; i++) {
        uint64_t offset = vt_random_below(&random, FILE_BYTES);
        expect(bench, vd_range(offset, 1 + vt_random_below(&random, FILE_BYTES - offset)));
    }
    uint8_t byte;
    VT_FAILS(EIO, vd_storage_pread(bench->verified, &byte, 1, FILE_BYTES, &vt_err));
}

/* What a request covers is compared where it is: each byte is read once. */
static void test_whole_extents_are_read_once(void **state)
{
    struct bench *bench = *state;
    expect(bench, vd_range(0, FILE_BYTES));
    assert_int_equal(vt_trace_bytes(bench->trace, VT_READ), FILE_BYTES);
    vt_trace_reset(bench->trace);
    expect(bench, vd_range(EXTENT + 7, 100));
    assert_int_equal(vt_trace_bytes(bench->trace, VT_READ), 100);
}

static void test_parts_are_compared_once(void **state)
{
    struct bench *bench = *state;
    expect(bench, vd_range(EXTENT - 1, 2 * EXTENT + 2));
    assert_int_equal(vt_trace_bytes(bench->trace, VT_READ), 4 * EXTENT);
    vt_trace_reset(bench->trace);
    expect(bench, vd_range(0, 4 * EXTENT));
    assert_int_equal(vt_trace_bytes(bench->trace, VT_READ), 4 * EXTENT);
}

static void test_buffers_of_all_lengths(void **state)
{
    struct bench *bench = *state;
    static uint8_t buf[FILE_BYTES];
    struct iovec iov[] = {
        {.iov_base = buf, .iov_len = EXTENT / 2},
        {.iov_base = buf + EXTENT / 2, .iov_len = 0},
        {.iov_base = buf + EXTENT / 2, .iov_len = 2 * EXTENT},
        {.iov_base = buf + EXTENT / 2 + 2 * EXTENT, .iov_len = 10},
    };
    flip(bench, 2 * EXTENT + EXTENT / 2 + 10); /* behind, in the same extent */
    VT_FAILS(EBADMSG, vd_storage_preadv(bench->verified, iov, 4, 0, &vt_err));
    vt_assert_filled(buf, 2 * EXTENT + EXTENT / 2 + 10, 0);
    flip(bench, 2 * EXTENT + EXTENT / 2 + 10);
    VT_OK(vd_storage_preadv(bench->verified, iov, 4, 0, &vt_err));
    assert_memory_equal(buf, bench->bytes, 2 * EXTENT + EXTENT / 2 + 10);
}

/* V2: any byte of any extent, however much of it is asked for, and each time. */
static void test_damage_is_found(void **state)
{
    struct bench *bench = *state;
    static uint8_t buf[FILE_BYTES];
    const uint64_t places[] = {0, EXTENT - 1, 2 * EXTENT + 77, 3 * EXTENT, FILE_BYTES - 1};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        uint64_t extent = vd_round_down(places[i], EXTENT);
        reopen(bench);
        flip(bench, places[i]);
        for (int again = 0; again < 2; again++) {
            struct vdisk_error err = {0};
            assert_int_equal(vd_storage_pread(bench->verified, buf, 1, extent, &err), -EBADMSG);
            char where[64];
            snprintf(where, sizeof(where), "at offset %llu ", (unsigned long long)extent);
            assert_non_null(strstr(err.message, where));
            assert_non_null(strstr(err.message, vd_storage_name(bench->verified)));
            buf[0] = 1;
            VT_FAILS(EBADMSG, vd_storage_pread(bench->verified, buf, FILE_BYTES, 0, &vt_err));
            vt_assert_filled(buf, FILE_BYTES, 0);
            assert_int_equal(vd_storage_try_pread(bench->verified, buf, 1, extent), -EAGAIN);
        }
        flip(bench, places[i]);
    }
    expect(bench, vd_range(0, FILE_BYTES));
}

/* Who is told of a hole does not read: the hole has been compared. */
static void test_holes(void **state)
{
    struct bench *bench = *state;
    struct vd_storage_extent extent;
    struct vd_range hole = vd_range(3 * EXTENT + 5, EXTENT);
    VT_OK(vd_storage_extent(bench->verified, hole, &extent, &vt_err));
    assert_int_equal(extent.kind, VD_STORAGE_HOLE);
    assert_int_equal(extent.length, EXTENT - 5);

    reopen(bench);
    VT_OK(vd_storage_discard(bench->file, vd_range(2 * EXTENT, EXTENT), &vt_err));
    VT_FAILS(EBADMSG,
             vd_storage_extent(bench->verified, vd_range(2 * EXTENT, EXTENT), &extent, &vt_err));
    VT_OK(vd_storage_extent(bench->verified, vd_range(0, EXTENT), &extent, &vt_err));
    assert_int_equal(extent.kind, VD_STORAGE_DATA);
}

static void test_try(void **state)
{
    struct bench *bench = *state;
    struct vd_storage *file, *verified;
    static uint8_t buf[FILE_BYTES];
    VT_OK(vd_storage_mem_open(FILE_BYTES, &file, &vt_err));
    VT_OK(vd_storage_pwrite(file, bench->bytes, FILE_BYTES, 0, &vt_err));
    VT_OK(vd_storage_verified_open(file, &bench->table, &verified, &vt_err));
    assert_int_equal(vd_storage_try_pread(verified, buf, 100, EXTENT - 50), -EAGAIN);
    VT_OK(vd_storage_pread(verified, buf, 1, 0, &vt_err));
    assert_int_equal(vd_storage_try_pread(verified, buf, 100, EXTENT - 50), -EAGAIN);
    VT_OK(vd_storage_pread(verified, buf, 1, EXTENT, &vt_err));
    assert_int_equal(vd_storage_try_pread(verified, buf, 100, EXTENT - 50), 0);
    assert_memory_equal(buf, bench->bytes + EXTENT - 50, 100);
    VT_OK(vd_storage_pread(verified, buf, FILE_BYTES, 0, &vt_err));
    assert_int_equal(vd_storage_try_pread(verified, buf, 100, FILE_BYTES - 50), -EAGAIN);
    vd_storage_close(verified);
}

/* V3 */
static void test_length(void **state)
{
    struct bench *bench = *state;
    const uint64_t sizes[] = {FILE_BYTES - 1, FILE_BYTES + 1, 0};
    for (size_t i = 0; i < 3; i++) {
        struct vd_storage *file, *verified;
        VT_OK(vd_storage_mem_open(sizes[i], &file, &vt_err));
        VT_FAILS(EBADMSG, vd_storage_verified_open(file, &bench->table, &verified, &vt_err));
    }
}

static void test_errors_below(void **state)
{
    struct bench *bench = *state;
    struct vd_storage *fault, *verified;
    uint8_t buf[10];
    VT_OK(vt_fault_open(bench->file, VT_BORROW, &fault, &vt_err));
    VT_OK(vd_storage_verified_open(fault, &bench->table, &verified, &vt_err));
    for (uint64_t nth = 1; nth <= 2; nth++) {
        vt_fault_set(
            fault, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_READ), .nth = nth, .error = EIO});
        VT_FAILS(EIO, vd_storage_pread(verified, buf, 10, 10, &vt_err));
    }
    VT_OK(vd_storage_pread(verified, buf, 10, 10, &vt_err));
    assert_memory_equal(buf, bench->bytes + 10, 10);
    vd_storage_close(verified);
}

/* ---- Threads ---- */

static struct vd_storage *shared;
static const uint8_t *shared_bytes;

/* @opaque: the seed */
static void *read_parts(void *opaque)
{
    uint8_t *buf = malloc(FILE_BYTES);
    struct vt_random random = {.state = *(const uint64_t *)opaque};
    bool is_good = buf != NULL;
    for (int i = 0; i < 300 && is_good; i++) {
        uint64_t offset = vt_random_below(&random, FILE_BYTES);
        size_t length = (size_t)(1 + vt_random_below(&random, vd_min(FILE_BYTES - offset, 90000)));
        is_good = vd_storage_pread(shared, buf, length, offset, NULL) == 0 &&
                  memcmp(buf, shared_bytes + offset, length) == 0;
    }
    free(buf);
    return is_good ? opaque : NULL;
}

static void test_threads(void **state)
{
    const struct bench *bench = *state;
    pthread_t threads[6];
    static uint64_t seeds[6] = {1, 2, 3, 4, 5, 6};
    shared = bench->verified;
    shared_bytes = bench->bytes;
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_parts, &seeds[i]), 0);
    for (size_t i = 0; i < 6; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_non_null(result);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reads_what_was_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_whole_extents_are_read_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_parts_are_compared_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_buffers_of_all_lengths, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_holes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_try, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_length, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_errors_below, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("verified", tests, NULL, NULL);
}
