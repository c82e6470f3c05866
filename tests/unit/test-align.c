/* SPDX-License-Identifier: MIT */
/*
 * storage/align over a driver in memory that takes only whole units, insists on it, and lets other
 * threads in at every call.  The numbers are those of align.c.
 */
#include "drivers/check.h"

#include <assert.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/random.h"
#include "storage/driver.h"
#include "util/iov.h"
#include "util/workers.h"

#define ROOM_BYTES (2u << 20)
#define THREADS    4u

struct units {
    struct vd_mutex lock;
    uint8_t bytes[ROOM_BYTES]; /* under lock, zero from size on */
    uint64_t size;             /* under lock */
    uint32_t unit;
    atomic_uint reads, writes, sizes;
    atomic_uint fail_write; /* counts down: the write that makes it 0 fails */
};

/* A1.  Plain asserts: threads come here, and cmocka is for one. */
static void check_request(const struct units *units, const struct iovec *iov, int entries,
                          uint64_t offset)
{
    assert(entries > 0);
    assert(offset % units->unit == 0);
    for (int i = 0; i < entries; i++) {
        assert((uintptr_t)iov[i].iov_base % units->unit == 0);
        assert(iov[i].iov_len % units->unit == 0);
    }
}

static void units_close(struct vd_storage *storage)
{
    struct units *units = storage->state;
    vd_mutex_destroy(&units->lock);
    free(units);
}

static int units_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    struct units *units = storage->state;
    atomic_fetch_add(&units->sizes, 1);
    vd_mutex_lock(&units->lock);
    *size = units->size;
    vd_mutex_unlock(&units->lock);
    return 0;
}

static int units_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    struct units *units = storage->state;
    check_request(units, iov, iov_entries, offset);
    atomic_fetch_add(&units->reads, 1);
    size_t length = vd_iov_length(iov, iov_entries);
    int ret = 0;
    vd_mutex_lock(&units->lock);
    if (offset + length > vd_round_up(units->size, units->unit))
        ret = vd_err_set(err, EIO, "end at %" PRIu64, units->size);
    else
        vd_iov_from_buffer(iov, 0, units->bytes + offset, length);
    vd_mutex_unlock(&units->lock);
    sched_yield();
    return ret;
}

static int units_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                         uint64_t offset, struct vdisk_error *err)
{
    struct units *units = storage->state;
    check_request(units, iov, iov_entries, offset);
    atomic_fetch_add(&units->writes, 1);
    size_t length = vd_iov_length(iov, iov_entries);
    bool fails = atomic_load(&units->fail_write) && atomic_fetch_sub(&units->fail_write, 1) == 1;
    if (fails)
        length = units->unit; /* a part of it is there all the same */
    sched_yield();
    vd_mutex_lock(&units->lock);
    assert(offset + length <= ROOM_BYTES);
    vd_iov_to_buffer(units->bytes + offset, length, iov, 0);
    units->size = vd_max(units->size, offset + length);
    vd_mutex_unlock(&units->lock);
    sched_yield();
    return fails ? vd_err_set(err, ENOSPC, "planned") : 0;
}

static int units_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    (void)err;
    struct units *units = storage->state;
    vd_mutex_lock(&units->lock);
    if (size < units->size)
        memset(units->bytes + size, 0, units->size - size);
    units->size = size;
    vd_mutex_unlock(&units->lock);
    sched_yield();
    return 0;
}

/* As the file driver with direct I/O: any bytes, and growing by resize. */
static int units_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                              struct vdisk_error *err)
{
    (void)flags;
    struct units *units = storage->state;
    uint64_t end = vd_range_end(range);
    vd_mutex_lock(&units->lock);
    uint64_t size = units->size;
    if (range.offset < size)
        memset(units->bytes + range.offset, 0, vd_min(end, size) - range.offset);
    vd_mutex_unlock(&units->lock);
    sched_yield();
    return end > size ? units_resize(storage, end, err) : 0;
}

static const struct vd_storage_driver units_driver = {
    .name = "units",
    .close = units_close,
    .size = units_size,
    .preadv = units_preadv,
    .pwritev = units_pwritev,
    .write_zeroes = units_write_zeroes,
    .resize = units_resize,
};

static struct vd_storage *make(uint32_t unit, bool can_grow)
{
    struct units *units = vt_calloc(1, sizeof(*units));
    struct vd_storage *storage = NULL;
    vd_mutex_init(&units->lock);
    units->unit = unit;
    VT_OK(vd_storage_new(&units_driver, "units", &storage, &vt_err));
    storage->state = units;
    storage->align_bytes = unit;
    storage->flags = VD_STORAGE_WRITE;
    storage->caps = VD_STORAGE_CAN_WRITE | (can_grow ? VD_STORAGE_CAN_RESIZE : 0);
    return storage;
}

static struct units *units_of(struct vd_storage *storage)
{
    return storage->state;
}

/* Every offset and length around a few units, within the storage and past its end. */
static void test_every_write(void **state)
{
    (void)state;
    enum {
        UNIT = 16,
        SIZE = 41,
        ROOM = 80
    };
    struct vd_storage *storage = make(UNIT, true);
    struct units *units = units_of(storage);
    uint8_t model[ROOM], data[ROOM + 1], back[ROOM];
    for (size_t offset = 0; offset < 60; offset++)
        for (size_t length = 1; offset + length <= ROOM; length++) {
            for (size_t i = 0; i < ROOM; i++) {
                model[i] = i < SIZE ? (uint8_t)(i + 1) : 0;
                data[i + 1] = (uint8_t)(0x80 + i);
            }
            VT_OK(vd_storage_resize(storage, 0, &vt_err));
            VT_OK(vd_storage_pwrite(storage, model, SIZE, 0, &vt_err));
            VT_OK(vd_storage_pwrite(storage, data + 1, length, offset, &vt_err));
            memcpy(model + offset, data + 1, length);
            uint64_t size = offset + length > SIZE ? offset + length : SIZE;
            assert_int_equal(units->size, size);
            assert_memory_equal(units->bytes, model, ROOM);
            VT_OK(vd_storage_pread(storage, back, length, offset, &vt_err));
            assert_memory_equal(back, data + 1, length);
            VT_FAILS(EIO, vd_storage_pread(storage, back, 1, size, &vt_err));
        }
    vd_storage_close(storage);
}

/* A4: after a write that failed the size is the old one, and no byte outside was touched. */
static void test_failed_write(void **state)
{
    (void)state;
    static uint8_t big[1500000];
    struct vd_storage *storage = make(512, true);
    struct units *units = units_of(storage);
    memset(big, 9, sizeof(big));
    VT_OK(vd_storage_pwrite(storage, big, 1000, 0, &vt_err));
    for (unsigned nth = 1; nth <= 2; nth++) { /* the first and the second bounce buffer */
        atomic_store(&units->fail_write, nth);
        VT_FAILS(ENOSPC, vd_storage_pwrite(storage, big, sizeof(big), 700, &vt_err));
        uint64_t size;
        VT_OK(vd_storage_size(storage, &size, &vt_err));
        assert_int_equal(size, 1000);
        assert_memory_equal(units->bytes, big, 1000);
        assert_true(vd_buffer_is_zero(units->bytes + 1000, ROOM_BYTES - 1000));
    }
    VT_OK(vd_storage_pwrite(storage, big, sizeof(big), 700, &vt_err));
    assert_int_equal(units->size, 700 + sizeof(big));
    vd_storage_close(storage);
}

static void test_fixed_size(void **state)
{
    (void)state;
    uint8_t data[600] = {1};
    struct vd_storage *storage = make(512, false);
    units_of(storage)->size = 2048;
    VT_OK(vd_storage_pwrite(storage, data, 600, 1448, &vt_err));
    VT_FAILS(ENOSPC, vd_storage_pwrite(storage, data, 600, 1449, &vt_err));
    assert_int_equal(units_of(storage)->size, 2048);
    vd_storage_close(storage);
}

/* Whole units in aligned buffers go straight through, without a look at the size. */
static void test_fast_path(void **state)
{
    (void)state;
    struct vd_storage *storage = make(512, true);
    struct units *units = units_of(storage);
    uint8_t *buffer = vt_must(aligned_alloc(4096, 8192));
    memset(buffer, 1, 8192);
    VT_OK(vd_storage_pwrite(storage, buffer, 8192, 0, &vt_err));
    unsigned sizes = atomic_load(&units->sizes);
    unsigned writes = atomic_load(&units->writes);
    unsigned reads = atomic_load(&units->reads);
    VT_OK(vd_storage_pwrite(storage, buffer, 4096, 512, &vt_err));
    VT_OK(vd_storage_pread(storage, buffer, 8192, 0, &vt_err));
    assert_int_equal(atomic_load(&units->sizes), sizes);
    assert_int_equal(atomic_load(&units->writes), writes + 1);
    assert_int_equal(atomic_load(&units->reads), reads + 1);

    /* An odd one: two units read, all of it written at once. */
    VT_OK(vd_storage_pwrite(storage, buffer, 4096, 700, &vt_err));
    assert_int_equal(atomic_load(&units->sizes), sizes);
    assert_int_equal(atomic_load(&units->writes), writes + 2);
    assert_int_equal(atomic_load(&units->reads), reads + 3);
    free(buffer);
    vd_storage_close(storage);
}

/* Each thread owns every so many bytes, of whole units and of parts, and checks only its own. */
struct strip {
    struct vd_storage *storage;
    uint64_t seed;
    uint64_t pieces; /* that threads have still to write */
    uint32_t *ends;  /* of the pieces, which follow each other */
    uint8_t *expected;
    atomic_uint next;
};

static int write_pieces(void *work, unsigned index, struct vdisk_error *err)
{
    struct strip *strip = work;
    struct vt_random random = {strip->seed + index};
    unsigned piece;
    int ret = 0;
    while (ret == 0 && (piece = atomic_fetch_add(&strip->next, 1)) < strip->pieces) {
        uint32_t start = piece ? strip->ends[piece - 1] : 0;
        struct vd_range range = vd_range(start, strip->ends[piece] - start);
        const uint8_t *bytes = strip->expected + start;
        if (vt_random_chance(&random, 30))
            ret = vd_storage_write_zeroes(strip->storage, range, 0, err);
        if (ret == 0 && vt_random_chance(&random, 30))
            ret = vd_storage_pwrite(strip->storage, bytes, (size_t)range.length / 2, start, err);
        if (ret == 0)
            ret = vd_storage_pwrite(strip->storage, bytes, (size_t)range.length, start, err);
    }
    return ret;
}

static void run_strip(uint32_t unit, uint64_t seed)
{
    enum {
        PIECES = 400
    };
    struct vt_random random = {seed};
    struct strip strip = {.storage = make(unit, true), .seed = seed, .pieces = PIECES};
    strip.ends = vt_calloc(PIECES, sizeof(*strip.ends));
    strip.expected = vt_must(aligned_alloc(4096, ROOM_BYTES));
    uint32_t end = 0;
    for (unsigned i = 0; i < PIECES; i++) {
        end += 1 + (uint32_t)vt_random_below(&random, 3 * unit);
        if (vt_random_chance(&random, 30))
            end = (uint32_t)vd_round_up(end, unit);
        strip.ends[i] = end;
    }
    vt_random_fill(&random, strip.expected, ROOM_BYTES);
    /* Half of it is there before, so that some requests extend and others do not. */
    VT_OK(vd_storage_resize(strip.storage, end / 2, &vt_err));
    VT_OK(vd_workers_run(THREADS, write_pieces, &strip, &vt_err));

    const struct units *units = units_of(strip.storage);
    assert_int_equal(units->size, end);
    assert_memory_equal(units->bytes, strip.expected, end);
    vd_storage_close(strip.storage);
    free(strip.ends);
    free(strip.expected);
}

static void test_neighbours(void **state)
{
    (void)state;
    const char *text = getenv("VD_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 20261121;
    print_message("# seed %" PRIu64 "\n", seed);
    for (uint64_t round = 0; round < 6; round++)
        run_strip(round % 2 ? 512 : 1024, seed + round);
}

/*
 * A2: a whole unit written while a part of it is changed: the bytes of the unit that the second
 * writer did not give are always those of the first.
 */
struct duel {
    struct vd_storage *storage;
    uint8_t *unit; /* aligned, 512 bytes */
};

static int fight(void *work, unsigned index, struct vdisk_error *err)
{
    struct duel *duel = work;
    return index ? vd_storage_pwrite(duel->storage, "part", 4, 100, err)
                 : vd_storage_pwrite(duel->storage, duel->unit, 512, 0, err);
}

static void test_whole_beside_part(void **state)
{
    (void)state;
    struct duel duel = {.storage = make(512, true), .unit = vt_must(aligned_alloc(4096, 4096))};
    uint8_t back[512];
    for (unsigned round = 0; round < 300; round++) {
        memset(duel.unit, (int)(round % 200) + 1, 512);
        VT_OK(vd_storage_write_zeroes(duel.storage, vd_range(0, 1024), 0, &vt_err));
        VT_OK(vd_workers_run(2, fight, &duel, &vt_err));
        VT_OK(vd_storage_pread(duel.storage, back, 512, 0, &vt_err));
        assert_memory_equal(back, duel.unit, 100);
        assert_memory_equal(back + 104, duel.unit, 512 - 104);
    }
    free(duel.unit);
    vd_storage_close(duel.storage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_write), cmocka_unit_test(test_failed_write),
        cmocka_unit_test(test_fixed_size),  cmocka_unit_test(test_fast_path),
        cmocka_unit_test(test_neighbours),  cmocka_unit_test(test_whole_beside_part),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("align", tests, NULL, NULL);
}
