/* SPDX-License-Identifier: MIT */
/* backup/digests: whole files, made and compared; what differs is named, each extent once. */
#include "drivers/check.h"

#include <stdlib.h>

#include "backup/digests.h"
#include "drivers/alloc.h"
#include "drivers/fault.h"
#include "drivers/random.h"

#define MIB UINT64_C(1048576)

enum {
    DAMAGES_MAX = 64
};

struct damages {
    size_t entries;
    struct vd_range ranges[DAMAGES_MAX];
    char why[DAMAGES_MAX][256];
};

struct file {
    uint8_t *bytes; /* what was written */
    struct vd_storage *storage;
    struct vd_digest_table table;
};

static void collect(void *opaque, struct vd_range range, const char *why)
{
    struct damages *damages = opaque;
    assert_true(damages->entries < DAMAGES_MAX);
    damages->ranges[damages->entries] = range;
    snprintf(damages->why[damages->entries++], sizeof(damages->why[0]), "%s", why);
}

static bool has(const struct damages *damages, uint64_t offset, uint64_t length)
{
    for (size_t i = 0; i < damages->entries; i++)
        if (damages->ranges[i].offset == offset && damages->ranges[i].length == length)
            return true;
    return false;
}

static struct file make(struct vt_random *random, enum vd_digest_kind kind, uint64_t bytes,
                        uint32_t extent_bytes)
{
    struct file file = {.bytes = vt_calloc(1, (size_t)bytes + 1)};
    struct vd_job job;
    vt_random_fill(random, file.bytes, (size_t)bytes);
    assert_int_equal(vd_storage_mem_open(bytes, &file.storage, NULL), 0);
    if (bytes)
        assert_int_equal(vd_storage_pwrite(file.storage, file.bytes, (size_t)bytes, 0, NULL), 0);
    assert_int_equal(vd_digest_table_init(&file.table, kind, extent_bytes, bytes, NULL), 0);
    vd_job_init(&job, NULL, NULL, 0);
    assert_int_equal(vd_job_phase(&job, "digest", bytes, 0, NULL), 0);
    assert_int_equal(vd_digests_make(file.storage, &file.table, &job, 3, NULL), 0);
    assert_int_equal(atomic_load(&job.done_bytes), bytes);
    vd_job_destroy(&job);
    return file;
}

static void drop(struct file *file)
{
    vd_storage_close(file->storage);
    vd_digest_table_free(&file->table);
    free(file->bytes);
}

static struct damages compare(const struct file *file, struct vd_storage *storage)
{
    struct damages damages = {0};
    struct vdisk_error err = {0};
    struct vd_job job;
    vd_job_init(&job, NULL, NULL, 0);
    assert_int_equal(vd_job_phase(&job, "verify", file->table.file_bytes, 0, NULL), 0);
    assert_int_equal(vd_digests_compare(storage, &file->table, &job, 4, collect, &damages, &err),
                     0);
    assert_int_equal(err.code, 0);
    assert_int_equal(atomic_load(&job.done_bytes), file->table.file_bytes);
    vd_job_destroy(&job);
    return damages;
}

/* Extents that are longer than what is read at once, shorter ones, and a last one that is cut. */
static void test_make(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        uint32_t extent_bytes;
    } cases[] = {
        {0, MIB}, {1, MIB}, {MIB, MIB}, {MIB + 1, MIB}, {5 * MIB - 1, 65536}, {7 * MIB, 4 * MIB},
    };
    struct vt_random random = {.state = 3};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct file file = make(&random, VD_DIGEST_XXH128, cases[i].bytes, cases[i].extent_bytes);
        for (uint64_t e = 0; e < file.table.entries; e++) {
            uint64_t offset = e * cases[i].extent_bytes;
            uint64_t length = vd_min(cases[i].extent_bytes, cases[i].bytes - offset);
            uint8_t digest[VD_DIGEST_BYTES_MAX];
            vd_digest(VD_DIGEST_XXH128, file.bytes + offset, (size_t)length, digest, NULL);
            assert_memory_equal(digest, vd_digest_at(&file.table, e), 16);
        }
        assert_int_equal(compare(&file, file.storage).entries, 0);
        drop(&file);
    }
}

static void test_sha256(void **state)
{
    (void)state;
    uint8_t digest[VD_SHA256_BYTES];
    struct vt_random random = {.state = 4};
    if (vd_sha256("", 0, digest, NULL) == -ENOTSUP)
        skip();
    struct file file = make(&random, VD_DIGEST_SHA256, 3 * MIB + 5, (uint32_t)(2 * MIB));
    assert_int_equal(vd_sha256(file.bytes + 2 * MIB, MIB + 5, digest, NULL), 0);
    assert_memory_equal(digest, vd_digest_at(&file.table, 1), sizeof(digest));
    assert_int_equal(compare(&file, file.storage).entries, 0);
    drop(&file);
}

/* A changed byte is found wherever it is, and its extent is told of, once. */
static void test_changed_bytes(void **state)
{
    (void)state;
    enum {
        EXTENT = 65536,
        ROUNDS = 40
    };
    struct vt_random random = {.state = 5};
    uint64_t bytes = 3 * MIB + 333;
    struct file file = make(&random, VD_DIGEST_XXH128, bytes, EXTENT);
    for (unsigned i = 0; i < VT_ROUNDS(ROUNDS); i++) {
        uint64_t at[2] = {vt_random_below(&random, bytes), vt_random_below(&random, bytes)};
        if (i == 0)
            at[0] = 0;
        if (i == 1)
            at[0] = bytes - 1;
        for (unsigned k = 0; k < 2; k++) {
            uint8_t byte = file.bytes[at[k]] ^ (uint8_t)(1 + vt_random_below(&random, 255));
            assert_int_equal(vd_storage_pwrite(file.storage, &byte, 1, at[k], NULL), 0);
        }
        struct damages damages = compare(&file, file.storage);
        assert_int_equal(damages.entries, at[0] / EXTENT == at[1] / EXTENT ? 1 : 2);
        for (unsigned k = 0; k < 2; k++) {
            uint64_t offset = vd_round_down(at[k], EXTENT);
            assert_true(has(&damages, offset, vd_min(EXTENT, bytes - offset)));
            vd_storage_pwrite(file.storage, file.bytes + at[k], 1, at[k], NULL);
        }
    }
    assert_int_equal(compare(&file, file.storage).entries, 0);
    drop(&file);
}

static void test_length(void **state)
{
    (void)state;
    struct vt_random random = {.state = 6};
    struct file file = make(&random, VD_DIGEST_XXH128, 4 * MIB + 10, (uint32_t)MIB);
    static const struct {
        uint64_t size;
        uint64_t offset;
        uint64_t length;
        const char *why;
    } cases[] = {
        {4 * MIB + 11, 4 * MIB + 10, 1, "1 bytes more"},
        {9 * MIB, 4 * MIB + 10, 5 * MIB - 10, "more than were written"},
        {4 * MIB + 9, 4 * MIB, 10, "ends at byte 4194313: 1 are missing"},
        {4 * MIB, 4 * MIB, 10, "10 are missing"},
        {2 * MIB + 1, 2 * MIB, 2 * MIB + 10, "missing"},
        {0, 0, 4 * MIB + 10, "ends at byte 0"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vd_storage *other;
        assert_int_equal(vd_storage_mem_open(cases[i].size, &other, NULL), 0);
        uint64_t same = vd_min(cases[i].size, file.table.file_bytes);
        if (same)
            vd_storage_pwrite(other, file.bytes, (size_t)same, 0, NULL);
        struct damages damages = compare(&file, other);
        assert_int_equal(damages.entries, 1);
        assert_true(has(&damages, cases[i].offset, cases[i].length));
        assert_non_null(strstr(damages.why[0], cases[i].why));
        vd_storage_close(other);
    }
    drop(&file);
}

/* What can not be read is a damage, and the rest is still looked at. */
static void test_unreadable(void **state)
{
    (void)state;
    struct vt_random random = {.state = 7};
    struct file file = make(&random, VD_DIGEST_XXH128, 6 * MIB, (uint32_t)(2 * MIB));
    struct vd_storage *fault;
    assert_int_equal(vt_fault_open(file.storage, VT_BORROW, &fault, NULL), 0);
    for (uint64_t nth = 1; nth <= 6; nth++) {
        vt_fault_set(
            fault, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_READ), .nth = nth, .error = EIO});
        struct damages damages = compare(&file, fault);
        assert_int_equal(damages.entries, 1);
        assert_int_equal(damages.ranges[0].length, 2 * MIB);
        assert_int_equal(damages.ranges[0].offset % (2 * MIB), 0);
    }
    vt_fault_set(fault,
                 (struct vt_fault_plan){
                     .calls = VT_CALL_BIT(VT_READ), .nth = 1, .error = EIO, .forever = true});
    assert_int_equal(compare(&file, fault).entries, 3);
    vd_storage_close(fault);
    drop(&file);
}

/* Making digests of what can not be read fails, and so does making them of what has changed. */
static void test_make_fails(void **state)
{
    (void)state;
    struct vt_random random = {.state = 8};
    struct file file = make(&random, VD_DIGEST_XXH128, 3 * MIB, (uint32_t)MIB);
    struct vd_storage *fault;
    struct vd_job job;
    assert_int_equal(vt_fault_open(file.storage, VT_BORROW, &fault, NULL), 0);
    vd_job_init(&job, NULL, NULL, 0);
    for (uint64_t nth = 1; nth <= 3; nth++) {
        vt_fault_set(
            fault, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_READ), .nth = nth, .error = EIO});
        assert_int_equal(vd_digests_make(fault, &file.table, &job, 2, NULL), -EIO);
    }
    vt_fault_set(fault, (struct vt_fault_plan){0});
    assert_int_equal(vd_storage_resize(file.storage, 4 * MIB, NULL), 0);
    assert_int_equal(vd_digests_make(fault, &file.table, &job, 2, NULL), -EBUSY);
    vd_job_destroy(&job);
    vd_storage_close(fault);
    drop(&file);
}

static void test_stopped(void **state)
{
    (void)state;
    struct vt_random random = {.state = 9};
    struct file file = make(&random, VD_DIGEST_XXH128, 16 * MIB, (uint32_t)MIB);
    struct damages damages = {0};
    struct vd_job job;
    vd_job_init(&job, NULL, NULL, 0);
    vd_job_stop(&job);
    assert_int_equal(
        vd_digests_compare(file.storage, &file.table, &job, 2, collect, &damages, NULL),
        -ECANCELED);
    assert_int_equal(vd_digests_make(file.storage, &file.table, &job, 2, NULL), -ECANCELED);
    assert_int_equal(damages.entries, 0);
    vd_job_destroy(&job);
    drop(&file);
}

static void test_extent_bytes(void **state)
{
    (void)state;
    assert_int_equal(vd_digests_extent_bytes(0), MIB);
    assert_int_equal(vd_digests_extent_bytes(65536 * MIB - 1), MIB);
    assert_int_equal(vd_digests_extent_bytes(65536 * MIB), 2 * MIB);
    assert_int_equal(vd_digests_extent_bytes(UINT64_MAX), VD_DIGEST_EXTENT_BYTES_MAX);
    for (uint64_t bytes = 1; bytes < UINT64_C(1) << 46; bytes = bytes * 3 + 1)
        assert_true(vd_div_up(bytes, vd_digests_extent_bytes(bytes)) <= 65536);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_make),          cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_changed_bytes), cmocka_unit_test(test_length),
        cmocka_unit_test(test_unreadable),    cmocka_unit_test(test_make_fails),
        cmocka_unit_test(test_stopped),       cmocka_unit_test(test_extent_bytes),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
