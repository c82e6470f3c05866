/* SPDX-License-Identifier: MIT */
/* storage/redo: changes that are kept in a log, against an array; and a log that is applied. */
#include "drivers/check.h"

#include <pthread.h>

#include "drivers/crash.h"
#include "drivers/fault.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "storage/redo.h"

#define BLOCK     65536u
#define BYTES_MAX (12u * BLOCK)
#define KIND      VD_DIGEST_XXH128
#define ROUNDS    40
#define STEPS     60

struct bench {
    struct vd_storage *below; /* clonable */
    struct vd_storage *log;
    struct vd_storage *redo;
    uint64_t size;
    uint8_t model[BYTES_MAX];
    uint8_t before[BYTES_MAX];
    uint64_t before_size;
    uint8_t digest[VD_DIGEST_BYTES_MAX];
};

static struct bench bench;
static uint8_t buf[BYTES_MAX];

static void open_bench(uint64_t size, struct vt_random *random)
{
    memset(bench.model, 0, sizeof(bench.model));
    vt_random_fill(random, bench.model, (size_t)size);
    memcpy(bench.before, bench.model, sizeof(bench.model));
    bench.size = bench.before_size = size;
    VT_OK(vt_snap_open(size, &bench.below, &vt_err));
    VT_OK(vd_storage_pwrite(bench.below, bench.model, (size_t)size, 0, &vt_err));
    VT_OK(vt_snap_open(0, &bench.log, &vt_err));
    VT_OK(vd_redo_open(bench.below, bench.log, KIND, &bench.redo, &vt_err));
}

static void close_bench(void)
{
    vd_storage_close(bench.redo);
    vd_storage_close(bench.log);
    vd_storage_close(bench.below);
}

/* Is what @storage has @size bytes of @wanted? */
static void expect(struct vd_storage *storage, const uint8_t *wanted, uint64_t size)
{
    uint64_t now;
    VT_OK(vd_storage_size(storage, &now, &vt_err));
    assert_int_equal(now, size);
    VT_OK(vd_storage_pread(storage, buf, (size_t)size, 0, &vt_err));
    for (uint64_t i = 0; i < size; i += 4096)
        if (memcmp(buf + i, wanted + i, (size_t)vd_min(4096, size - i)) != 0)
            fail_msg("bytes at offset %llu are not as they should be", (unsigned long long)i);
}

/* What is told to be a hole reads as zero. */
static void expect_extents(void)
{
    struct vd_range rest = vd_range(0, bench.size);
    while (rest.length) {
        struct vd_storage_extent extent;
        VT_OK(vd_storage_extent(bench.redo, rest, &extent, &vt_err));
        if (extent.kind == VD_STORAGE_HOLE)
            vt_assert_filled(bench.model + rest.offset, extent.length, 0);
        rest = vd_range(rest.offset + extent.length, rest.length - extent.length);
    }
}

/* ---- Random changes ---- */

static struct vd_range random_range(struct vt_random *random, uint64_t limit)
{
    uint64_t unit = vt_random_chance(random, 40) ? BLOCK : vt_random_chance(random, 50) ? 512 : 1;
    uint64_t offset = vd_round_down(vt_random_below(random, limit), unit);
    uint64_t most =
        vt_random_chance(random, 20) ? limit - offset : vd_min(limit - offset, 3 * BLOCK);
    uint64_t length = 1 + vt_random_below(random, most);
    return vd_range(offset, vd_min(vd_round_up(length, unit), limit - offset));
}

static void do_write(struct vt_random *random)
{
    struct vd_range range = random_range(random, BYTES_MAX);
    size_t first = (size_t)vt_random_below(random, range.length + 1);
    vt_random_fill(random, bench.model + range.offset, (size_t)range.length);
    struct iovec iov[] = {
        {.iov_base = bench.model + range.offset, .iov_len = first},
        {.iov_base = bench.model + range.offset + first, .iov_len = (size_t)range.length - first}};
    VT_OK(vd_storage_pwritev(bench.redo, iov, 2, range.offset, &vt_err));
    bench.size = vd_max(bench.size, vd_range_end(range));
}

static void do_zero(struct vt_random *random, bool discards)
{
    struct vd_range range = random_range(random, discards ? bench.size : BYTES_MAX);
    if (discards)
        VT_OK(vd_storage_discard(bench.redo, range, &vt_err));
    else
        VT_OK(vd_storage_write_zeroes(bench.redo, range, 0, &vt_err));
    memset(bench.model + range.offset, 0, (size_t)range.length);
    bench.size = vd_max(bench.size, vd_range_end(range));
}

static void do_resize(struct vt_random *random)
{
    uint64_t size = 1 + vt_random_below(random, BYTES_MAX);
    VT_OK(vd_storage_resize(bench.redo, size, &vt_err));
    if (size < bench.size)
        memset(bench.model + size, 0, BYTES_MAX - size);
    bench.size = size;
}

static void do_read(struct vt_random *random)
{
    struct vd_range range = random_range(random, bench.size);
    size_t first = (size_t)vt_random_below(random, range.length + 1);
    struct iovec iov[] = {{.iov_base = buf, .iov_len = first},
                          {.iov_base = buf + first, .iov_len = (size_t)range.length - first}};
    VT_OK(vd_storage_preadv(bench.redo, iov, 2, range.offset, &vt_err));
    assert_memory_equal(buf, bench.model + range.offset, range.length);
}

static void do_step(struct vt_random *random)
{
    uint64_t which = vt_random_below(random, 100);
    if (which < 35)
        do_write(random);
    else if (which < 50)
        do_zero(random, which < 42);
    else if (which < 57)
        do_resize(random);
    else if (which < 60)
        VT_OK(vd_storage_preallocate(bench.redo, vd_range(0, bench.size), &vt_err));
    else if (which < 65)
        expect_extents();
    else
        do_read(random);
}

static void change(struct vt_random *random, int steps)
{
    for (int i = 0; i < steps; i++)
        do_step(random);
    expect(bench.redo, bench.model, bench.size);
    expect(bench.below, bench.before, bench.before_size); /* R1 */
}

/* What has changed is told; of what was never touched, a difference would be lost. */
static void expect_told(void)
{
    for (uint64_t at = 0; at < bench.size; at += BLOCK) {
        struct vd_range range = vd_range(at, vd_min(BLOCK, bench.size - at));
        if (!vd_redo_has_changed(bench.redo, range)) {
            assert_true(vd_range_end(range) <= bench.before_size);
            assert_memory_equal(bench.model + at, bench.before + at, range.length);
        }
    }
}

/* ---- Applied ---- */

static int apply(struct vd_storage *log, struct vd_storage *file, struct vdisk_error *err)
{
    return vd_redo_apply(log, KIND, bench.digest, file, err);
}

/* Cuts the power at every change, and applies once more what is found then. */
static void cut_here(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct vt_random *random = opaque;
    (void)call;
    for (int cut = 0; cut < VT_CUTS; cut++) {
        struct vd_storage *found;
        VT_OK(vt_crash_cut(storage, (enum vt_cut)cut, vt_random_next(random), &found, &vt_err));
        VT_OK(apply(bench.log, found, &vt_err));
        expect(found, bench.model, bench.size);
        vd_storage_close(found);
    }
}

static void apply_with_cuts(struct vt_random *random)
{
    struct vd_storage *file;
    VT_OK(vt_crash_open(vt_snap_pages(bench.below), &file, &vt_err));
    vt_crash_set_hook(file, cut_here, random);
    VT_OK(apply(bench.log, file, &vt_err));
    expect(file, bench.model, bench.size);
    assert_int_equal(vt_crash_pending(file), 0);
    vt_crash_set_hook(file, NULL, NULL);
    VT_OK(apply(bench.log, file, &vt_err)); /* R3 */
    expect(file, bench.model, bench.size);
    vd_storage_close(file);
}

static void test_as_an_array(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= VT_ROUNDS(ROUNDS); seed++) {
        struct vt_random random = {.state = seed};
        print_message("# seed %llu\n", (unsigned long long)seed);
        open_bench(1 + vt_random_below(&random, BYTES_MAX), &random);
        change(&random, STEPS);
        expect_told();
        VT_OK(vd_redo_finish(bench.redo, bench.digest, &vt_err));
        expect(bench.redo, bench.model, bench.size);
        apply_with_cuts(&random);
        close_bench();
    }
}

/* Shorter, then longer again: what was there is gone. */
static void test_shrink_and_grow(void **state)
{
    (void)state;
    struct vt_random random = {.state = 1};
    open_bench(5 * BLOCK + 100, &random);
    VT_OK(vd_storage_pwrite(bench.redo, "new", 3, 2 * BLOCK + 10, &vt_err));
    VT_OK(vd_storage_pwrite(bench.redo, "far", 3, 4 * BLOCK, &vt_err));
    VT_OK(vd_storage_resize(bench.redo, 2 * BLOCK + 12, &vt_err));
    VT_OK(vd_storage_resize(bench.redo, 6 * BLOCK, &vt_err));
    memcpy(bench.model + 2 * BLOCK + 10, "new", 3);
    memset(bench.model + 2 * BLOCK + 12, 0, 4 * BLOCK - 12);
    bench.size = 6 * BLOCK;
    expect(bench.redo, bench.model, bench.size);
    expect_told();
    VT_OK(vd_redo_finish(bench.redo, bench.digest, &vt_err));
    apply_with_cuts(&random);
    close_bench();
}

static void test_log_is_as_long_as_what_changed(void **state)
{
    (void)state;
    struct vt_random random = {.state = 1};
    open_bench(BYTES_MAX, &random);
    assert_int_equal(vd_redo_bytes(bench.redo), 0);
    VT_OK(vd_storage_write_zeroes(bench.redo, vd_range(0, 8 * BLOCK), 0, &vt_err));
    VT_OK(vd_storage_discard(bench.redo, vd_range(8 * BLOCK, BLOCK), &vt_err));
    assert_int_equal(vd_redo_bytes(bench.redo), 0);
    for (int i = 0; i < 3; i++)
        VT_OK(vd_storage_pwrite(bench.redo, buf, 2 * BLOCK, BLOCK, &vt_err));
    VT_OK(vd_storage_pwrite(bench.redo, buf, 1, 0, &vt_err));
    assert_int_equal(vd_redo_bytes(bench.redo), 3 * BLOCK);
    VT_OK(vd_redo_finish(bench.redo, bench.digest, &vt_err));
    uint64_t size;
    VT_OK(vd_storage_size(bench.log, &size, &vt_err));
    assert_in_range(size, 4 * BLOCK, 4 * BLOCK + 1000);
    VT_FAILS(EROFS, vd_storage_pwrite(bench.redo, buf, 1, 0, &vt_err));
    VT_FAILS(EROFS, vd_storage_resize(bench.redo, 1, &vt_err));
    VT_FAILS(EROFS, vd_storage_discard(bench.redo, vd_range(0, 1), &vt_err));
    close_bench();
}

static void test_nothing_changed(void **state)
{
    (void)state;
    struct vt_random random = {.state = 1};
    open_bench(3 * BLOCK + 1, &random);
    assert_false(vd_redo_has_changed(bench.redo, vd_range(0, 3 * BLOCK + 1)));
    VT_OK(vd_redo_finish(bench.redo, bench.digest, &vt_err));
    apply_with_cuts(&random);
    close_bench();
}

/* ---- Refused: R2 ---- */

static void expect_refused(struct vd_storage *log)
{
    struct vd_storage *file;
    VT_OK(vt_snap_clone(bench.below, &file, &vt_err));
    VT_FAILS(EBADMSG, apply(log, file, &vt_err));
    expect(file, bench.before, bench.before_size);
    vd_storage_close(file);
}

static void finish_some(struct vt_random *random)
{
    open_bench(4 * BLOCK, random);
    VT_OK(vd_storage_pwrite(bench.redo, "data", 4, 3 * BLOCK, &vt_err));
    VT_OK(vd_storage_pwrite(bench.redo, "dead", 4, BLOCK, &vt_err));
    VT_OK(vd_storage_discard(bench.redo, vd_range(0, 2 * BLOCK), &vt_err));
    VT_OK(vd_redo_finish(bench.redo, bench.digest, &vt_err));
}

static void test_altered(void **state)
{
    (void)state;
    struct vt_random random = {.state = 3};
    finish_some(&random);
    uint64_t size;
    VT_OK(vd_storage_size(bench.log, &size, &vt_err));
    for (uint64_t at = 0; at < size;) {
        struct vd_storage *log;
        uint8_t byte;
        VT_OK(vt_snap_clone(bench.log, &log, &vt_err));
        VT_OK(vd_storage_pread(log, &byte, 1, at, &vt_err));
        byte ^= (uint8_t)(1u << vt_random_below(&random, 8));
        VT_OK(vd_storage_pwrite(log, &byte, 1, at, &vt_err));
        expect_refused(log);
        vd_storage_close(log);
        /* All of the header and the index, and some of the rest. */
        bool is_dense = at < 128 || at >= 3 * BLOCK;
        at += is_dense ? 1 : 1 + vt_random_below(&random, VT_ROUNDS(1000));
        at = at >= 128 && at < 3 * BLOCK && at + 1000 > 3 * BLOCK ? 3 * BLOCK : at;
    }
    close_bench();
}

static void test_other_length(void **state)
{
    (void)state;
    struct vt_random random = {.state = 3};
    finish_some(&random);
    uint64_t size;
    VT_OK(vd_storage_size(bench.log, &size, &vt_err));
    const uint64_t sizes[] = {0, 1, BLOCK - 1, BLOCK, 2 * BLOCK, size - 1, size + 1};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct vd_storage *log;
        VT_OK(vt_snap_clone(bench.log, &log, &vt_err));
        VT_OK(vd_storage_resize(log, sizes[i], &vt_err));
        expect_refused(log);
        vd_storage_close(log);
    }
    close_bench();
}

static void test_not_finished(void **state)
{
    (void)state;
    struct vt_random random = {.state = 3};
    open_bench(4 * BLOCK, &random);
    VT_OK(vd_storage_pwrite(bench.redo, "data", 4, 3 * BLOCK, &vt_err));
    memset(bench.digest, 0, sizeof(bench.digest));
    expect_refused(bench.log);
    close_bench();
}

/* A file that the log can not be for. */
static void test_other_file(void **state)
{
    (void)state;
    struct vt_random random = {.state = 3};
    struct vd_storage *file;
    finish_some(&random);
    VT_OK(vd_storage_mem_open(4 * BLOCK + 1, &file, &vt_err));
    VT_FAILS(EBADMSG, apply(bench.log, file, &vt_err));
    vd_storage_close(file);
    close_bench();
}

/* ---- Threads ---- */

#define THREADS      4u
#define STRIPE_BYTES 4096u /* each has every fourth, so all have parts of each block */

struct striper {
    unsigned index;
    bool is_good;
};

static uint64_t random_stripe(struct vt_random *random, unsigned index)
{
    uint64_t stripes = BYTES_MAX / STRIPE_BYTES / THREADS;
    return (vt_random_below(random, stripes) * THREADS + index) * STRIPE_BYTES;
}

static bool change_stripe(struct vt_random *random, struct vd_range range)
{
    uint8_t *model = bench.model + range.offset;
    uint8_t bytes[STRIPE_BYTES];
    switch (vt_random_below(random, 3)) {
    case 0:
        memset(model, 0, (size_t)range.length);
        return vd_storage_write_zeroes(bench.redo, range, 0, NULL) == 0;
    case 1:
        vt_random_fill(random, model, (size_t)range.length);
        return vd_storage_pwrite(bench.redo, model, (size_t)range.length, range.offset, NULL) == 0;
    default:
        return vd_storage_pread(bench.redo, bytes, (size_t)range.length, range.offset, NULL) == 0 &&
               memcmp(bytes, model, (size_t)range.length) == 0;
    }
}

static void *change_stripes(void *opaque)
{
    struct striper *striper = opaque;
    struct vt_random random = {.state = striper->index};
    striper->is_good = true;
    for (int i = 0; i < 500 && striper->is_good; i++) {
        uint64_t offset = random_stripe(&random, striper->index);
        uint64_t length = 1 + vt_random_below(&random, STRIPE_BYTES);
        striper->is_good = change_stripe(&random, vd_range(offset, length));
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct vt_random random = {.state = 5};
    pthread_t threads[THREADS];
    struct striper stripers[THREADS];
    open_bench(BYTES_MAX, &random);
    for (unsigned i = 0; i < THREADS; i++) {
        stripers[i].index = i;
        assert_int_equal(pthread_create(&threads[i], NULL, change_stripes, &stripers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(stripers[i].is_good);
    }
    expect(bench.redo, bench.model, bench.size);
    expect_told();
    VT_OK(vd_redo_finish(bench.redo, bench.digest, &vt_err));
    apply_with_cuts(&random);
    close_bench();
}

/* ---- Failures ---- */

/* A log that is full: what was changed before stays, and a failed write may be done again. */
static void test_log_is_full(void **state)
{
    (void)state;
    struct vt_random random = {.state = 4};
    struct vd_storage *fault;
    open_bench(4 * BLOCK, &random);
    vd_storage_close(bench.redo);
    VT_OK(vt_fault_open(bench.log, VT_BORROW, &fault, &vt_err));
    VT_OK(vd_redo_open(bench.below, fault, KIND, &bench.redo, &vt_err));
    VT_OK(vd_storage_pwrite(bench.redo, "one", 3, 0, &vt_err));
    memcpy(bench.model, "one", 3);
    vt_fault_set(fault, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_WRITE),
                                               .nth = 1,
                                               .error = ENOSPC,
                                               .prefix_bytes = 1000});
    VT_FAILS(ENOSPC, vd_storage_pwrite(bench.redo, "two", 3, 2 * BLOCK, &vt_err));
    expect(bench.redo, bench.model, bench.size);
    VT_OK(vd_storage_pwrite(bench.redo, "two", 3, 2 * BLOCK, &vt_err));
    memcpy(bench.model + 2 * BLOCK, "two", 3);
    expect(bench.redo, bench.model, bench.size);
    for (uint64_t nth = 1; nth <= 3; nth++) {
        vt_fault_set(fault,
                     (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_WRITE) | VT_CALL_BIT(VT_FLUSH),
                                            .nth = nth,
                                            .error = ENOSPC});
        VT_FAILS(ENOSPC, vd_redo_finish(bench.redo, bench.digest, &vt_err));
    }
    VT_OK(vd_redo_finish(bench.redo, bench.digest, &vt_err));
    apply_with_cuts(&random);
    vd_storage_close(bench.redo);
    bench.redo = NULL;
    vd_storage_close(fault);
    close_bench();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_an_array),
        cmocka_unit_test(test_shrink_and_grow),
        cmocka_unit_test(test_log_is_as_long_as_what_changed),
        cmocka_unit_test(test_nothing_changed),
        cmocka_unit_test(test_altered),
        cmocka_unit_test(test_other_length),
        cmocka_unit_test(test_not_finished),
        cmocka_unit_test(test_other_file),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_log_is_full),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("redo", tests, NULL, NULL);
}
