/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps of qcow2 images: threads that write, calls that fail, actions that do not go. */
#include <stdio.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/fault.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "format/format.h"
#include "image/image.h"
#include "util/workers.h"

#define MIB        (UINT64_C(1) << 20)
#define DISK_BYTES (40 * MIB + 512)

static struct vd_storage *new_file(uint32_t cluster_bytes)
{
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options), .size = DISK_BYTES, .cluster_bytes = cluster_bytes};
    struct vd_storage *file;
    VT_OK(vt_snap_open(0, &file, &vt_err));
    VT_OK(vd_format_create(vd_format_find("qcow2", NULL), file, NULL, &options, &vt_err));
    return file;
}

/* *faults, if it is not NULL, gets the storage that fails when told. */
static struct vdisk_image *open_image(struct vd_storage *file, uint32_t flags,
                                      struct vd_storage **faults)
{
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .format = "qcow2"};
    struct vd_storage *borrowed;
    struct vdisk_image *image;
    VT_OK(vt_fault_open(file, VT_BORROW, &borrowed, &vt_err));
    if (faults)
        *faults = borrowed;
    VT_OK(vd_image_open_on(borrowed, &options, &image, &vt_err));
    return image;
}

static int act(struct vdisk_image *image, enum vdisk_bitmap_action_kind kind, const char *name,
               uint64_t granularity, struct vdisk_error *err)
{
    struct vdisk_bitmap_action action = {.kind = kind, .name = name, .granularity = granularity};
    return vdisk_bitmap_change(image, &action, 1, err);
}

static void expect_sound(struct vd_storage *file, bool may_leak)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_image *image = open_image(file, VDISK_OPEN_CHECK, NULL);
    VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.check_errors, 0);
    if (!may_leak)
        assert_int_equal(result.leaks, 0);
    VT_OK(vdisk_image_close(image, &vt_err));
}

static bool is_dirty(struct vdisk_image *image, const char *name, uint64_t offset)
{
    struct vdisk_bitmap_extent extent;
    VT_OK(vdisk_bitmap_extent(image, name, offset, 1, &extent, &vt_err));
    return extent.is_dirty;
}

/* ---- threads ---- */

#define THREADS 4u
#define WRITES  150u

static struct vd_range thread_range(unsigned index, unsigned round)
{
    struct vt_random random = {.state = index * 7919u + round};
    uint64_t length = 1 + vt_random_below(&random, round % 10 ? 20000 : MIB);
    return vd_range(vt_random_below(&random, DISK_BYTES - length), length);
}

static int write_randomly(void *work, unsigned index, struct vdisk_error *err)
{
    struct vdisk_image *image = work;
    static const uint8_t bytes[MIB];
    struct vdisk_bitmap_extent extent;
    uint64_t dirty;
    int ret = 0;
    for (unsigned i = 0; i < VT_ROUNDS(WRITES) && ret == 0; i++) {
        struct vd_range range = thread_range(index, i);
        if (i % 3 == 0)
            ret = vdisk_image_discard(image, range.offset, range.length, err);
        else
            ret = vdisk_image_pwrite(image, bytes, (size_t)range.length, range.offset, err);
        if (ret == 0)
            ret = vdisk_bitmap_extent(image, "fine", range.offset, 1, &extent, err);
        if (ret == 0 && !extent.is_dirty)
            ret = vd_err_set(err, EIO, "write %u is not in the bitmap", i);
        if (ret == 0 && i % 40 == 0)
            ret = vdisk_image_flush(image, err);
        if (ret == 0 && i % 50 == 0)
            ret = vdisk_bitmap_dirty_bytes(image, "coarse", &dirty, err);
    }
    return ret;
}

/* All that was written, and nothing else. */
static void expect_exact(struct vdisk_image *image, const char *name, uint64_t granularity)
{
    static uint8_t wanted[DISK_BYTES / 512 + 1];
    memset(wanted, 0, sizeof(wanted));
    for (unsigned thread = 0; thread < THREADS; thread++)
        for (unsigned i = 0; i < VT_ROUNDS(WRITES); i++) {
            struct vd_range range = thread_range(thread, i);
            for (uint64_t g = range.offset / granularity;
                 g <= (vd_range_end(range) - 1) / granularity; g++)
                wanted[g] = 1;
        }
    for (uint64_t g = 0; g * granularity < DISK_BYTES; g++)
        if (is_dirty(image, name, g * granularity) != wanted[g])
            fail_msg("%s: granule %llu", name, (unsigned long long)g);
}

static void threads_lose_no_bit(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct vd_storage *file = new_file(i ? 512 : 65536);
        struct vdisk_image *image = open_image(file, VDISK_OPEN_WRITE, NULL);
        VT_OK(act(image, VDISK_BITMAP_ADD, "fine", 512, &vt_err));
        VT_OK(act(image, VDISK_BITMAP_ADD, "coarse", 65536, &vt_err));
        VT_OK(vd_workers_run(THREADS, write_randomly, image, &vt_err));
        expect_exact(image, "fine", 512);
        VT_OK(vdisk_image_close(image, &vt_err));
        image = open_image(file, 0, NULL);
        expect_exact(image, "fine", 512);
        expect_exact(image, "coarse", 65536);
        VT_OK(vdisk_image_close(image, &vt_err));
        expect_sound(file, false);
        vd_storage_close(file);
    }
}

/* ---- failing calls ---- */

/* Which of the two lists has the image? */
static bool has_second(struct vdisk_image *image, bool *is_cleared)
{
    size_t count;
    VT_OK(vdisk_bitmap_count(image, &count, &vt_err));
    assert_in_range(count, 1, 2);
    *is_cleared = !is_dirty(image, "first", 0);
    return count == 2;
}

/* Each call of each kind fails once while several actions are done; then all or none are done. */
static void changes_are_all_or_nothing(void **state)
{
    (void)state;
    static const enum vt_call kinds[] = {VT_READ, VT_WRITE, VT_FLUSH, VT_PREALLOCATE, VT_RESIZE};
    const struct vdisk_bitmap_action actions[] = {
        {.kind = VDISK_BITMAP_ADD, .name = "second", .granularity = 4096},
        {.kind = VDISK_BITMAP_MERGE, .name = "second", .source = "first"},
        {.kind = VDISK_BITMAP_CLEAR, .name = "first"},
    };
    struct vd_storage *file = new_file(512);
    struct vdisk_image *image = open_image(file, VDISK_OPEN_WRITE, NULL);
    VT_OK(act(image, VDISK_BITMAP_ADD, "first", 512, &vt_err));
    VT_OK(vdisk_image_pwrite(image, "x", 1, 0, &vt_err));
    VT_OK(vdisk_image_pwrite(image, "x", 1, 30 * MIB, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));

    unsigned failures = 0;
    for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++)
        for (unsigned nth = 1;; nth++) {
            struct vd_storage *copy, *faults;
            VT_OK(vt_snap_clone(file, &copy, &vt_err));
            image = open_image(copy, VDISK_OPEN_WRITE, &faults);
            vt_fault_set(faults, (struct vt_fault_plan){.calls = VT_CALL_BIT(kinds[kind]),
                                                        .nth = nth,
                                                        .error = ENOSPC});
            struct vdisk_error err = {0};
            int ret = vdisk_bitmap_change(image, actions, 3, &err);
            uint64_t hits = vt_fault_hits(faults);
            vt_fault_set(faults, (struct vt_fault_plan){0});
            assert_true(ret == 0 || (ret == -err.code && err.message[0]));
            failures += ret < 0;
            (void)vdisk_image_close(image, NULL);
            image = open_image(copy, 0, NULL);
            bool is_cleared;
            bool is_new = has_second(image, &is_cleared);
            assert_int_equal(is_new, is_cleared);
            if (ret == 0)
                assert_true(is_new);
            if (is_new)
                assert_true(is_dirty(image, "second", 30 * MIB));
            VT_OK(vdisk_image_close(image, &vt_err));
            expect_sound(copy, true);
            vd_storage_close(copy);
            if (!hits)
                break;
        }
    assert_true(failures > 10);
    vd_storage_close(file);
}

/* The same for a write, and the close that stores what it recorded: nothing is ever missing. */
static void failing_sessions_lose_no_bit(void **state)
{
    (void)state;
    static const enum vt_call kinds[] = {VT_READ, VT_WRITE, VT_FLUSH, VT_PREALLOCATE, VT_RESIZE};
    struct vd_storage *file = new_file(4096);
    struct vdisk_image *image = open_image(file, VDISK_OPEN_WRITE, NULL);
    VT_OK(act(image, VDISK_BITMAP_ADD, "b", 512, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    unsigned both = 0, kept = 0, marked = 0;
    for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++)
        for (unsigned nth = 1; nth <= 40; nth++) {
            struct vd_storage *copy, *faults;
            VT_OK(vt_snap_clone(file, &copy, &vt_err));
            image = open_image(copy, VDISK_OPEN_WRITE, &faults);
            vt_fault_set(faults, (struct vt_fault_plan){
                                     .calls = VT_CALL_BIT(kinds[kind]), .nth = nth, .error = EIO});
            bool wrote = vdisk_image_pwrite(image, "x", 1, 7 * MIB, NULL) == 0;
            wrote = vdisk_image_pwrite(image, "y", 1, 39 * MIB, NULL) == 0 && wrote;
            both += wrote;
            struct vdisk_error err = {0};
            int closed = vdisk_image_close(image, &err);
            struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
            uint8_t byte;
            image = open_image(copy, 0, NULL);
            VT_OK(vdisk_bitmap_info(image, 0, &info, &vt_err));
            if (info.flags & VDISK_BITMAP_INCONSISTENT) {
                assert_true(closed < 0);
                marked++;
            } else {
                VT_OK(vdisk_image_pread(image, &byte, 1, 7 * MIB, &vt_err));
                assert_true(byte == 0 || is_dirty(image, "b", 7 * MIB));
                VT_OK(vdisk_image_pread(image, &byte, 1, 39 * MIB, &vt_err));
                assert_true(byte == 0 || is_dirty(image, "b", 39 * MIB));
                kept++;
            }
            VT_OK(vdisk_image_close(image, &vt_err));
            expect_sound(copy, true);
            vd_storage_close(copy);
        }
    assert_true(both > 0 && kept > 0 && marked > 0);
    vd_storage_close(file);
}

/* ---- the interface ---- */

static void arguments_are_checked(void **state)
{
    (void)state;
    struct vd_storage *file = new_file(65536);
    struct vdisk_image *image = open_image(file, VDISK_OPEN_WRITE, NULL);
    struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_bitmap_extent extent;
    size_t count;
    VT_OK(vdisk_bitmap_count(image, &count, &vt_err));
    assert_int_equal(count, 0);
    VT_FAILS(EINVAL, vdisk_bitmap_info(image, 0, &info, &vt_err));
    VT_OK(act(image, VDISK_BITMAP_ADD, "b", 0, &vt_err));
    VT_OK(vdisk_bitmap_info(image, 0, &info, &vt_err));
    assert_string_equal(info.name, "b");
    assert_int_equal(info.granularity, 65536);
    assert_int_equal(info.flags, VDISK_BITMAP_ENABLED);
    info.struct_bytes--;
    VT_FAILS(EINVAL, vdisk_bitmap_info(image, 0, &info, &vt_err));
    VT_FAILS(EEXIST, act(image, VDISK_BITMAP_ADD, "b", 0, &vt_err));
    VT_FAILS(EINVAL, act(image, VDISK_BITMAP_CLEAR, "b", 512, &vt_err));
    VT_FAILS(EINVAL, act(image, VDISK_BITMAP_MERGE, "b", 0, &vt_err)); /* no source */
    VT_FAILS(EINVAL, act(image, (enum vdisk_bitmap_action_kind)99, "b", 0, &vt_err));
    VT_FAILS(EINVAL, act(image, VDISK_BITMAP_RECOVER, "b", 0, &vt_err));
    VT_FAILS(ENOENT, act(image, VDISK_BITMAP_ENABLE, "c", 0, &vt_err));
    VT_FAILS(ENOENT, vdisk_bitmap_extent(image, "c", 0, 1, &extent, &vt_err));
    VT_FAILS(EINVAL, vdisk_bitmap_extent(image, "b", DISK_BYTES, 1, &extent, &vt_err));
    VT_FAILS(EINVAL, vdisk_bitmap_extent(image, "b", 0, 0, &extent, &vt_err));
    VT_OK(vdisk_bitmap_extent(image, "b", 0, DISK_BYTES, &extent, &vt_err));
    assert_false(extent.is_dirty);
    assert_int_equal(extent.length, DISK_BYTES);
    VT_OK(vdisk_image_pwrite(image, "x", 1, MIB, &vt_err));
    VT_OK(vdisk_bitmap_extent(image, "b", 5, DISK_BYTES - 5, &extent, &vt_err));
    assert_int_equal(extent.length, MIB - 5);
    VT_OK(vdisk_bitmap_extent(image, "b", MIB + 100, MIB, &extent, &vt_err));
    assert_true(extent.is_dirty);
    assert_int_equal(extent.length, 65536 - 100);
    VT_OK(vdisk_image_close(image, &vt_err));
    image = open_image(file, 0, NULL);
    VT_FAILS(EROFS, act(image, VDISK_BITMAP_CLEAR, "b", 0, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    vd_storage_close(file);
}

/* A bitmap may be merged into itself, whether its bits have been read or made. */
static void merging_into_itself_changes_nothing(void **state)
{
    (void)state;
    struct vd_storage *file = new_file(65536);
    struct vdisk_image *image = open_image(file, VDISK_OPEN_WRITE, NULL);
    VT_OK(act(image, VDISK_BITMAP_ADD, "b", 0, &vt_err));
    VT_OK(vdisk_image_pwrite(image, "x", 1, 0, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    const struct vdisk_bitmap_action merges[] = {
        {.kind = VDISK_BITMAP_MERGE, .name = "b", .source = "b"},
        {.kind = VDISK_BITMAP_MERGE, .name = "b", .source = "b", .source_image = NULL},
    };
    image = open_image(file, VDISK_OPEN_WRITE, NULL);
    VT_OK(vdisk_bitmap_change(image, merges, 2, &vt_err));
    struct vdisk_bitmap_action from_image = merges[0];
    from_image.source_image = image;
    VT_OK(vdisk_bitmap_change(image, &from_image, 1, &vt_err));
    assert_true(is_dirty(image, "b", 0));
    uint64_t dirty;
    VT_OK(vdisk_bitmap_dirty_bytes(image, "b", &dirty, &vt_err));
    assert_int_equal(dirty, 65536);
    VT_OK(vdisk_image_close(image, &vt_err));
    expect_sound(file, false);
    vd_storage_close(file);
}

/* An image that is only read is not changed, and one that nobody wrote to keeps its bitmaps. */
static void looking_changes_nothing(void **state)
{
    (void)state;
    struct vd_storage *file = new_file(65536);
    struct vdisk_image *image = open_image(file, VDISK_OPEN_WRITE, NULL);
    VT_OK(act(image, VDISK_BITMAP_ADD, "b", 0, &vt_err));
    VT_OK(vdisk_image_pwrite(image, "x", 1, MIB, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    for (unsigned i = 0; i < 2; i++) {
        struct vd_storage *faults;
        uint64_t dirty;
        image = open_image(file, i ? VDISK_OPEN_WRITE : 0, &faults);
        vt_fault_set(faults,
                     (struct vt_fault_plan){
                         .calls = VT_CALL_BIT(VT_WRITE), .nth = 1, .error = EIO, .forever = true});
        VT_OK(vdisk_bitmap_dirty_bytes(image, "b", &dirty, &vt_err));
        assert_int_equal(dirty, 65536);
        assert_int_equal(vt_fault_seen(faults), 0);
        VT_OK(vdisk_image_close(image, &vt_err));
    }
    vd_storage_close(file);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_lose_no_bit),
        cmocka_unit_test(changes_are_all_or_nothing),
        cmocka_unit_test(failing_sessions_lose_no_bit),
        cmocka_unit_test(arguments_are_checked),
        cmocka_unit_test(looking_changes_nothing),
        cmocka_unit_test(merging_into_itself_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
