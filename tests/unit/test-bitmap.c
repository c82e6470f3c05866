/* SPDX-License-Identifier: MIT */
/* bitmap/: random operations beside a plain array, threads, budgets, bytes. */
#include <string.h>

#include "bitmap/bitmap.h"
#include "drivers/check.h"
#include "drivers/random.h"
#include "util/workers.h"

#define MODEL_BITS (5u * 32768u) /* five pages */
#define MIB        (UINT64_C(1) << 20)

/* A bitmap and what it should be: a byte a granule. */
struct model {
    struct vd_bitmap *bitmap;
    struct vd_bitmap_budget budget;
    uint64_t disk_bytes;
    uint32_t granularity_bits;
    uint8_t bits[MODEL_BITS];
};

static uint64_t granules(const struct model *model)
{
    return vd_div_up(model->disk_bytes, UINT64_C(1) << model->granularity_bits);
}

static void model_open(struct model *model, uint64_t disk_bytes, uint32_t granularity_bits)
{
    memset(model, 0, sizeof(*model));
    model->budget.bytes_max = 64 * MIB;
    model->disk_bytes = disk_bytes;
    model->granularity_bits = granularity_bits;
    assert_true(granules(model) <= MODEL_BITS);
    VT_OK(vd_bitmap_new(disk_bytes, granularity_bits, &model->budget, &model->bitmap, &vt_err));
}

static void model_close(struct model *model)
{
    vd_bitmap_free(model->bitmap);
    assert_int_equal(model->budget.used, 0);
}

/* A range that begins and ends anywhere, short ones more often than long ones. */
static struct vd_range draw_range(struct vt_random *random, uint64_t disk_bytes)
{
    uint64_t offset = vt_random_below(random, disk_bytes + 1);
    uint64_t longest = disk_bytes - offset;
    if (vt_random_chance(random, 70))
        longest = vd_min(longest, 1 + disk_bytes / 50);
    return vd_range(offset, vt_random_below(random, longest + 1));
}

static void set(struct model *model, struct vd_range disk)
{
    VT_OK(vd_bitmap_set(model->bitmap, disk, &vt_err));
    if (disk.length)
        for (uint64_t i = disk.offset >> model->granularity_bits;
             i <= (vd_range_end(disk) - 1) >> model->granularity_bits; i++)
            model->bits[i] = 1;
}

static void clear(struct model *model, struct vd_range disk)
{
    VT_OK(vd_bitmap_clear(model->bitmap, disk, &vt_err));
    for (uint64_t i = 0; i < granules(model); i++) {
        uint64_t start = i << model->granularity_bits;
        uint64_t end = vd_min(start + (UINT64_C(1) << model->granularity_bits), model->disk_bytes);
        if (start >= disk.offset && end <= vd_range_end(disk))
            model->bits[i] = 0;
    }
}

/* All of it, by walking from run to run. */
static void compare(const struct model *model)
{
    uint64_t at = 0;
    uint64_t dirty_bytes = 0;
    while (at < model->disk_bytes) {
        bool is_dirty = model->bits[at >> model->granularity_bits];
        uint64_t end = at;
        while (end < model->disk_bytes && model->bits[end >> model->granularity_bits] == is_dirty)
            end = vd_min(((end >> model->granularity_bits) + 1) << model->granularity_bits,
                         model->disk_bytes);
        struct vd_range run =
            vd_bitmap_next(model->bitmap, vd_range(at, model->disk_bytes - at), is_dirty);
        assert_int_equal(run.offset, at);
        assert_int_equal(run.length, end - at);
        dirty_bytes += is_dirty ? end - at : 0;
        at = end;
    }
    assert_int_equal(vd_bitmap_dirty_bytes(model->bitmap), dirty_bytes);
}

static void look(struct model *model, struct vt_random *random)
{
    struct vd_range disk = draw_range(random, model->disk_bytes);
    if (disk.length == 0)
        return;
    bool is_dirty = vt_random_chance(random, 50);
    bool has_all = true;
    uint64_t first = UINT64_MAX;
    for (uint64_t i = disk.offset >> model->granularity_bits;
         i <= (vd_range_end(disk) - 1) >> model->granularity_bits; i++) {
        has_all = has_all && model->bits[i];
        if (first == UINT64_MAX && model->bits[i] == is_dirty)
            first = i;
    }
    assert_int_equal(vd_bitmap_has(model->bitmap, disk), has_all);
    struct vd_range run = vd_bitmap_next(model->bitmap, disk, is_dirty);
    assert_int_equal(run.length == 0, first == UINT64_MAX);
    if (run.length)
        assert_int_equal(run.offset, vd_max(disk.offset, first << model->granularity_bits));
    assert_true(vd_range_end(run) <= vd_range_end(disk));
}

static void resize(struct model *model, uint64_t disk_bytes)
{
    uint64_t before = granules(model);
    VT_OK(vd_bitmap_resize(model->bitmap, disk_bytes, &vt_err));
    model->disk_bytes = disk_bytes;
    for (uint64_t i = granules(model); i < before; i++)
        model->bits[i] = 0;
}

/* Out to bytes, by parts of one length, looked at, and back into a fresh bitmap. */
static void serialise(struct model *model, uint64_t part_bytes)
{
    static uint8_t bytes[MODEL_BITS / 8 + 65536];
    uint64_t all = vd_bitmap_bytes_for(model->disk_bytes, model->granularity_bits);
    struct vd_bitmap *again;
    VT_OK(
        vd_bitmap_new(model->disk_bytes, model->granularity_bits, &model->budget, &again, &vt_err));
    for (uint64_t at = 0; at < all; at += part_bytes) {
        struct vd_range part = vd_range(at, part_bytes);
        vd_bitmap_store_part(model->bitmap, part, bytes);
        uint64_t ones = 0;
        for (uint64_t i = 0; i < part_bytes * 8; i++) {
            bool bit = (bytes[i / 8] >> i % 8) & 1;
            ones += bit;
            uint64_t granule = at * 8 + i;
            assert_int_equal(bit, granule < granules(model) && model->bits[granule]);
        }
        enum vd_bitmap_content content = ones == 0                ? VD_BITMAP_ZEROS
                                         : ones == part_bytes * 8 ? VD_BITMAP_ONES
                                                                  : VD_BITMAP_MIXED;
        assert_int_equal(vd_bitmap_part_content(model->bitmap, part), content);
        if (content == VD_BITMAP_ONES)
            VT_OK(vd_bitmap_set(again, vd_bitmap_part_disk(again, part), &vt_err));
        else
            VT_OK(vd_bitmap_load_part(again, part, bytes, &vt_err));
    }
    vd_bitmap_free(model->bitmap);
    model->bitmap = again;
}

static void random_operations_equal_the_array(void **state)
{
    (void)state;
    static const uint64_t parts[] = {512, 1024, 4096, 65536};
    static struct model model;
    struct vt_random random = {.state = 20261122};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (unsigned round = 0; round < VT_ROUNDS(60); round++) {
        uint32_t granularity_bits = 9 + (uint32_t)vt_random_below(&random, 8);
        uint64_t most = (uint64_t)MODEL_BITS << granularity_bits;
        model_open(&model, vt_random_below(&random, most + 1), granularity_bits);
        for (unsigned i = 0; i < 60; i++) {
            uint64_t what = vt_random_below(&random, 100);
            if (what < 40)
                set(&model, draw_range(&random, model.disk_bytes));
            else if (what < 60)
                clear(&model, draw_range(&random, model.disk_bytes));
            else if (what < 90)
                look(&model, &random);
            else if (what < 94)
                resize(&model, vt_random_below(&random, most + 1));
            else if (what < 98)
                serialise(&model, parts[vt_random_below(&random, 4)]);
            else
                compare(&model);
        }
        compare(&model);
        model_close(&model);
    }
}

static void merging_rounds_outwards(void **state)
{
    (void)state;
    static struct model to, from;
    struct vt_random random = {.state = 77};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (unsigned round = 0; round < VT_ROUNDS(60); round++) {
        uint64_t disk_bytes = 1 + vt_random_below(&random, 40 * MIB);
        uint32_t finer = 9 + (uint32_t)vt_random_below(&random, 6);
        model_open(&to, disk_bytes, round % 3 ? 9 + (uint32_t)vt_random_below(&random, 8) : finer);
        model_open(&from, disk_bytes, finer);
        for (unsigned i = 0; i < 10; i++) {
            set(&to, draw_range(&random, disk_bytes / 3));
            set(&from, draw_range(&random, disk_bytes));
        }
        VT_OK(vd_bitmap_merge(to.bitmap, from.bitmap, &vt_err));
        for (uint64_t i = 0; i < granules(&from); i++)
            for (uint64_t at = i << finer;
                 from.bits[i] && at < vd_min((i + 1) << finer, disk_bytes); at += 512)
                to.bits[at >> to.granularity_bits] = 1;
        compare(&to);
        model_close(&to);
        model_close(&from);
    }
}

static void copies_are_apart(void **state)
{
    (void)state;
    static struct model model;
    struct vd_bitmap *copy;
    model_open(&model, 100 * MIB, 12);
    set(&model, vd_range(5000, 70 * MIB));
    VT_OK(vd_bitmap_copy(model.bitmap, &copy, &vt_err));
    vd_bitmap_clear_all(copy);
    compare(&model);
    vd_bitmap_set_all(copy);
    compare(&model);
    assert_int_equal(vd_bitmap_dirty_bytes(copy), 100 * MIB);
    assert_int_equal(vd_bitmap_granularity_bits(copy), 12);
    assert_int_equal(vd_bitmap_disk_bytes(copy), 100 * MIB);
    vd_bitmap_free(copy);
    model_close(&model);
}

static void uniform_pages_take_no_memory(void **state)
{
    (void)state;
    struct vd_bitmap_budget budget = {.bytes_max = 3 * MIB};
    struct vd_bitmap *bitmap;
    /* 2^32 bits: the most there may be, half a gigabyte of them. */
    VT_OK(vd_bitmap_new(UINT64_C(1) << 48, 16, &budget, &bitmap, &vt_err));
    uint64_t bare = budget.used;
    VT_OK(vd_bitmap_set(bitmap, vd_range(0, UINT64_C(1) << 48), &vt_err));
    assert_int_equal(budget.used, bare);
    assert_int_equal(vd_bitmap_dirty_bytes(bitmap), UINT64_C(1) << 48);
    VT_OK(vd_bitmap_clear(bitmap, vd_range(1, (UINT64_C(1) << 48) - 2), &vt_err));
    assert_int_equal(budget.used, bare + 2 * 4096);
    assert_int_equal(vd_bitmap_dirty_bytes(bitmap), 2 * 65536);
    vd_bitmap_free(bitmap);
    assert_int_equal(budget.used, 0);
}

static void the_budget_holds(void **state)
{
    (void)state;
    struct vd_bitmap_budget budget = {.bytes_max = 20000};
    struct vd_bitmap *bitmap, *other;
    VT_OK(vd_bitmap_new(1024 * MIB, 9, &budget, &bitmap, &vt_err)); /* 64 pages: 512 bytes */
    for (unsigned i = 0; i < 4; i++)
        VT_OK(vd_bitmap_set(bitmap, vd_range(i * 16 * MIB, 1), &vt_err));
    VT_FAILS(ENOMEM, vd_bitmap_set(bitmap, vd_range(900 * MIB, 1), &vt_err));
    VT_FAILS(ENOMEM, vd_bitmap_copy(bitmap, &other, &vt_err));
    VT_FAILS(EFBIG, vd_bitmap_new((UINT64_C(1) << 41) + 1, 9, &budget, &other, &vt_err));
    VT_FAILS(EFBIG, vd_bitmap_resize(bitmap, (UINT64_C(1) << 41) + 1, &vt_err));
    assert_int_equal(vd_bitmap_dirty_bytes(bitmap), 4 * 512);
    assert_int_equal(vd_bitmap_disk_bytes(bitmap), 1024 * MIB);
    vd_bitmap_free(bitmap);
    assert_int_equal(budget.used, 0);
}

#define THREADS       4u
#define THREAD_ROUNDS 4000u

static struct vd_range thread_range(unsigned index, unsigned round)
{
    struct vt_random random = {.state = index * 1000003u + round};
    uint64_t offset = vt_random_below(&random, 256 * MIB);
    return vd_range(offset, 1 + vt_random_below(&random, round % 100 ? 20000 : 64 * MIB));
}

static int set_randomly(void *work, unsigned index, struct vdisk_error *err)
{
    struct vd_bitmap *bitmap = work;
    for (unsigned i = 0; i < VT_ROUNDS(THREAD_ROUNDS); i++) {
        struct vd_range range = thread_range(index, i);
        if (!vd_bitmap_has(bitmap, range)) {
            int ret = vd_bitmap_set(bitmap, range, err);
            if (ret < 0)
                return ret;
        }
        if (!vd_bitmap_has(bitmap, range))
            return vd_err_set(err, EIO, "round %u: a bit went away", i);
        vd_bitmap_next(bitmap, vd_range(range.offset, 320 * MIB - range.offset), i & 1);
    }
    return 0;
}

static void threads_lose_no_bit(void **state)
{
    (void)state;
    static struct model model;
    model_open(&model, 320 * MIB, 12);
    VT_OK(vd_workers_run(THREADS, set_randomly, model.bitmap, &vt_err));
    for (unsigned thread = 0; thread < THREADS; thread++)
        for (unsigned i = 0; i < VT_ROUNDS(THREAD_ROUNDS); i++)
            set(&model, thread_range(thread, i));
    compare(&model);
    model_close(&model);
}

static void empty_disks_have_no_bits(void **state)
{
    (void)state;
    static struct model model;
    uint8_t bytes[512];
    model_open(&model, 0, 16);
    assert_int_equal(vd_bitmap_bytes_for(0, 16), 0);
    assert_int_equal(vd_bitmap_next(model.bitmap, vd_range(0, 0), false).length, 0);
    vd_bitmap_set_all(model.bitmap);
    assert_int_equal(vd_bitmap_dirty_bytes(model.bitmap), 0);
    memset(bytes, 0xFF, sizeof(bytes));
    vd_bitmap_store_part(model.bitmap, vd_range(0, sizeof(bytes)), bytes);
    for (size_t i = 0; i < sizeof(bytes); i++)
        assert_int_equal(bytes[i], 0);
    resize(&model, 3 * 65536 + 512);
    compare(&model);
    set(&model, vd_range(3 * 65536, 1));
    compare(&model);
    resize(&model, 0);
    model_close(&model);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_equal_the_array),
        cmocka_unit_test(merging_rounds_outwards),
        cmocka_unit_test(copies_are_apart),
        cmocka_unit_test(uniform_pages_take_no_memory),
        cmocka_unit_test(the_budget_holds),
        cmocka_unit_test(threads_lose_no_bit),
        cmocka_unit_test(empty_disks_have_no_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
