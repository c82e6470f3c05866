/* SPDX-License-Identifier: MIT */
/*
 * All that qcow2 can do, mixed at random, on one image: writes (some compressed), zeros, discards,
 * flushes, resizes, snapshots made, gone back to and deleted, dirty bitmaps added, removed,
 * cleared, switched, merged, and sessions of any length.  The disk and each snapshot are compared
 * with plain arrays, each bitmap bit by bit with a model of the writes, and after each session a
 * check has to find nothing.
 *
 * The shapes are such that every two features that an image can have together are together in one.
 * What a feature forbids is tried all the same, and has to be refused with nothing changed: see
 * struct rules.
 *
 *   test-qcow2-all [STACK...]     all shapes, or these: drivers/stack.h
 *
 * VD_ALL_OPS: operations for each shape, default 60; 10000 for a full run.
 * VD_TEST_SEED: seed, default a fixed one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitmap-model.h"
#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/encode.h"
#include "format-run.h"

#define SNAPSHOTS_MAX  4u
#define OPS_DEFAULT    60u
#define SESSION_MAX    300u
#define REQUEST_MAX    (UINT64_C(1) << 20)
#define DISK_BYTES_MAX (UINT64_C(4) << 30)
#define SECTOR         512u

static const char *const shapes[] = {
    "qcow2-512.v2.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-512.r4.data.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-512.r64.data.luks-over-raw",
    "qcow2-512.lazy.r1.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-512.lazy.r2.zstd-over-qcow2",
    "qcow2-512.lazy.r8-over-qcow2",
    "qcow2-512.lazy.rawdata",
    "qcow2-512.lazy.r32.zstd-over-qcow2",
    "qcow2-1k.v2-over-raw",
    "qcow2-1k.r2.zstd-over-qcow2-64k.ext-over-qed",
    "qcow2-1k.r4.data-over-qcow2",
    "qcow2-1k.r32.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-1k.r64.data.luks-over-qcow2",
    "qcow2-1k.lazy.r1.data-over-raw",
    "qcow2-1k.lazy.r8.rawdata",
    "qcow2-2k.v2-over-raw",
    "qcow2-2k.r1.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-2k.r4.zstd-over-qcow2",
    "qcow2-2k.r8.zstd-over-qcow2",
    "qcow2-2k.r32.data.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-2k.lazy.r2.rawdata",
    "qcow2-2k.lazy.r64.luks-over-qcow2",
    "qcow2-4k.v2.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-4k.r2-over-qcow2",
    "qcow2-4k.r8.data-over-qcow2",
    "qcow2-4k.r32.zstd-over-raw",
    "qcow2-4k.r64-over-raw",
    "qcow2-4k.lazy.r1",
    "qcow2-4k.lazy.r4.rawdata",
    "qcow2-8k.v2-over-qcow2",
    "qcow2-8k.r4.luks-over-qcow2",
    "qcow2-8k.zstd-over-raw",
    "qcow2-8k.r64.rawdata",
    "qcow2-8k.lazy.r1.rawdata",
    "qcow2-8k.lazy.r2.data-over-raw",
    "qcow2-8k.lazy.r8.data.luks",
    "qcow2-8k.lazy.r32.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-16k.v2",
    "qcow2-16k.r1.ext.data.luks-over-qcow2",
    "qcow2-16k.ext.rawdata",
    "qcow2-16k.r32.ext",
    "qcow2-16k.lazy.r2.zstd-over-raw",
    "qcow2-16k.lazy.r4.ext.data.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-16k.lazy.r8.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-16k.lazy.r64.ext.data-over-qcow2",
    "qcow2-32k.v2.luks",
    "qcow2-32k.r2.ext.rawdata",
    "qcow2-32k.r8.data.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-32k.r32.ext-over-qcow2-64k.ext-over-qed",
    "qcow2-32k.r64.ext.zstd-over-qcow2-64k.ext-over-qed",
    "qcow2-32k.lazy.r1.data-over-raw",
    "qcow2-32k.lazy.r4.zstd-over-qcow2",
    "qcow2-64k.v2.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-64k.r2.ext-over-raw",
    "qcow2-64k.r4.ext-over-raw",
    "qcow2-64k.r8.ext.zstd",
    "qcow2-64k.r32.ext.rawdata",
    "qcow2-64k.lazy.r1.data.luks-over-qcow2",
    "qcow2-64k.lazy.r64.ext.data-over-qcow2-64k.ext-over-qed",
    "qcow2-128k.v2.luks",
    "qcow2-128k.r2.ext",
    "qcow2-128k.r4.zstd-over-raw",
    "qcow2-128k.r64.data-over-qcow2-64k.ext-over-qed",
    "qcow2-128k.lazy.r1.ext.rawdata",
    "qcow2-128k.lazy.r8.luks-over-qcow2",
    "qcow2-128k.lazy.ext.data.luks-over-qcow2",
    "qcow2-128k.lazy.r32.data.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-256k.v2.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-256k.r1.ext.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-256k.r8.zstd-over-qcow2",
    "qcow2-256k.r32.ext.data-over-raw",
    "qcow2-256k.lazy.r2.luks-over-raw",
    "qcow2-256k.lazy.r4.rawdata",
    "qcow2-256k.lazy.r64.rawdata",
    "qcow2-512k.v2-over-qcow2",
    "qcow2-512k.r1-over-qcow2",
    "qcow2-512k.r2.zstd-over-qcow2-64k.ext-over-qed",
    "qcow2-512k.r4.data-over-qcow2-64k.ext-over-qed",
    "qcow2-512k.r8.ext.data.luks-over-raw",
    "qcow2-512k.lazy.r32.ext.rawdata",
    "qcow2-512k.lazy.r64.luks-over-raw",
    "qcow2-1m.v2.luks-over-raw",
    "qcow2-1m.r2.ext.data.luks-over-qcow2",
    "qcow2-1m.r8.ext.luks-over-raw",
    "qcow2-1m.r32.ext.rawdata",
    "qcow2-1m.r64.data.luks-over-qcow2-64k.ext-over-qed",
    "qcow2-1m.lazy.r1.zstd",
    "qcow2-1m.lazy.r4.data.luks-over-raw",
    "qcow2-2m.v2.luks-over-qcow2",
    "qcow2-2m.r1.ext.data",
    "qcow2-2m.r4.ext.data.luks",
    "qcow2-2m.r32.ext.data.luks-over-raw",
    "qcow2-2m.lazy.r2.data.luks-over-raw",
    "qcow2-2m.lazy.r8.zstd-over-qcow2-64k.ext-over-qed",
    "qcow2-2m.lazy.r64.ext.rawdata",
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* What an image of this shape can not have.  Each is tried, and has to be refused. */
struct rules {
    bool no_bitmaps;     /* version 2 has no place for them */
    bool no_snapshots;   /* with a data file there are none */
    bool fixed_size;     /* version 2: while there are snapshots, which do not tell their size */
    bool no_compression; /* encrypted, or with a data file */
    bool few_references; /* a snapshot may need more than a refcount can say */
    bool writes_zeros;   /* so the disk is small */
};

struct snapshot {
    unsigned serial; /* it is called "s%u" */
    uint64_t size;
    uint8_t *windows[VT_WINDOWS_MAX];
};

struct tally {
    unsigned sessions, resizes, made, gone_back, deleted, changes, refused;
};

struct all {
    struct vt_run run;
    struct rules rules;
    struct vt_bitmap_model *bitmaps;
    struct snapshot snapshots[SNAPSHOTS_MAX];
    unsigned snapshot_entries;
    unsigned next_serial;
    struct tally tally;
};

static struct rules rules_of(const struct vt_stack *stack)
{
    const struct vt_stack_level *top = &stack->levels[0];
    bool is_v2 = top->compat != NULL;
    bool has_data_file = top->data_file != VT_STACK_NONE;
    return (struct rules){
        .no_bitmaps = is_v2,
        .no_snapshots = has_data_file,
        .fixed_size = is_v2,
        .no_compression = has_data_file || top->is_encrypted,
        .few_references = top->refcount_bits && top->refcount_bits <= 8,
        .writes_zeros = (top->flags & VDISK_CREATE_DATA_RAW) || (is_v2 && stack->level_entries > 1),
    };
}

/* Some tables, where clusters are not so large that it takes too long. */
static uint64_t size_of_disk(const struct vt_stack *stack, const struct rules *rules)
{
    uint64_t cluster = vt_stack_cluster_bytes(stack);
    if (rules->writes_zeros)
        return 37 * cluster + 3 * SECTOR;
    return vd_min(2 * vt_stack_region_bytes(stack) + 40 * cluster + SECTOR, DISK_BYTES_MAX);
}

static void forget(struct snapshot *snapshot)
{
    for (unsigned i = 0; i < VT_WINDOWS_MAX; i++)
        free(snapshot->windows[i]);
}

static void told_of_change(void *opaque, struct vd_range guest)
{
    struct all *all = opaque;
    vt_bitmap_model_write(all->bitmaps, guest);
}

/* ---- snapshots ---- */

/* Takes the place of the disk in @run->model until it is called again. */
static void swap_disks(struct all *all, struct snapshot *snapshot)
{
    struct vt_model *model = &all->run.model;
    uint64_t size = model->size;
    model->size = snapshot->size;
    snapshot->size = size;
    for (unsigned i = 0; i < model->window_entries; i++) {
        uint8_t *bytes = model->windows[i].bytes;
        model->windows[i].bytes = snapshot->windows[i];
        snapshot->windows[i] = bytes;
    }
}

static void keep_disk(const struct vt_model *model, struct snapshot *snapshot)
{
    snapshot->size = model->size;
    for (unsigned i = 0; i < model->window_entries; i++) {
        snapshot->windows[i] = vt_calloc(1, model->windows[i].guest.length);
        memcpy(snapshot->windows[i], model->windows[i].bytes, model->windows[i].guest.length);
    }
}

/* 0; or refused, as refcounts are too narrow for it. */
static bool is_done(struct all *all, int ret, const struct vdisk_error *err)
{
    if (ret == 0)
        return true;
    if (ret != -E2BIG || !all->rules.few_references)
        fail_msg("%d: %s", ret, err->message);
    all->tally.refused++;
    return false;
}

static void op_make(struct all *all)
{
    struct vdisk_error err = {0};
    struct snapshot *snapshot = &all->snapshots[all->snapshot_entries];
    char name[16];
    if (all->rules.no_snapshots) {
        VT_FAILS(ENOTSUP, vdisk_image_snapshot_create(all->run.image, "s", &vt_err));
        all->tally.refused++;
        return;
    }
    if (all->snapshot_entries == SNAPSHOTS_MAX)
        return;
    snprintf(name, sizeof(name), "s%u", all->next_serial);
    if (!is_done(all, vdisk_image_snapshot_create(all->run.image, name, &err), &err))
        return;
    snapshot->serial = all->next_serial++;
    keep_disk(&all->run.model, snapshot);
    all->snapshot_entries++;
    all->tally.made++;
}

/* All of the disk that was and of the one that is now is dirty, but nothing in disabled bitmaps. */
static void op_go_back(struct all *all)
{
    struct vdisk_error err = {0};
    struct vt_model *model = &all->run.model;
    if (!all->snapshot_entries) {
        VT_FAILS(ENOENT, vdisk_image_snapshot_apply(all->run.image, 0, &vt_err));
        return;
    }
    unsigned index = (unsigned)vt_random_below(&all->run.random, all->snapshot_entries);
    const struct snapshot *snapshot = &all->snapshots[index];
    bool is_done_now = is_done(all, vdisk_image_snapshot_apply(all->run.image, index, &err), &err);
    if (!is_done_now)
        return;
    vt_bitmap_model_resize(all->bitmaps, snapshot->size, 1); /* all is dirty anyhow */
    vt_bitmap_model_write(all->bitmaps, vd_range(0, snapshot->size));
    model->size = snapshot->size;
    for (unsigned i = 0; i < model->window_entries; i++)
        memcpy(model->windows[i].bytes, snapshot->windows[i], model->windows[i].guest.length);
    all->tally.gone_back++;
}

static void op_delete(struct all *all)
{
    if (!all->snapshot_entries)
        return;
    unsigned index = (unsigned)vt_random_below(&all->run.random, all->snapshot_entries);
    VT_OK(vdisk_image_snapshot_delete(all->run.image, index, &vt_err));
    forget(&all->snapshots[index]);
    all->snapshot_entries--;
    memmove(&all->snapshots[index], &all->snapshots[index + 1],
            (all->snapshot_entries - index) * sizeof(all->snapshots[0]));
    all->snapshots[all->snapshot_entries] = (struct snapshot){0};
    all->tally.deleted++;
}

static void compare_snapshot(struct all *all, unsigned index)
{
    char name[16];
    snprintf(name, sizeof(name), "s%u", all->snapshots[index].serial);
    swap_disks(all, &all->snapshots[index]);
    all->run.image = vt_subject_open_snapshot(&all->run.subject, name);
    assert_int_equal(vdisk_image_size(all->run.image), all->run.model.size);
    vt_run_compare(&all->run);
    VT_OK(vdisk_image_close(all->run.image, &vt_err));
    all->run.image = NULL;
    swap_disks(all, &all->snapshots[index]);
}

static void compare_list(struct all *all)
{
    for (unsigned i = 0; i <= all->snapshot_entries; i++) {
        struct vdisk_snapshot_info info = {.struct_bytes = sizeof(info)};
        int ret = vdisk_image_snapshot_info(all->run.image, i, &info, NULL);
        if (i == all->snapshot_entries) {
            assert_int_equal(ret, -ENOENT);
            break;
        }
        assert_int_equal(ret, 0);
        assert_int_equal(strtoul(info.name + 1, NULL, 10), all->snapshots[i].serial);
    }
}

/* ---- size, bitmaps, sessions ---- */

/* Before a disk grows over a longer one behind it, its last sector is written once more if it ends
 * within a cluster: image/io.c. */
static void expect_last_sector(struct all *all, uint64_t size)
{
    const struct vt_stack *stack = &all->run.subject.stack;
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    uint64_t old = all->run.model.size;
    VT_OK(vdisk_image_info(all->run.image, &info, &vt_err));
    if (size > old && old % info.cluster_bytes && stack->level_entries > 1 &&
        stack->levels[1].size > old)
        vt_bitmap_model_write(all->bitmaps, vd_range(old - SECTOR, SECTOR));
}

/* Half of them in a window, and of those half where a block ends. */
static uint64_t draw_size(struct all *all)
{
    struct vt_random *random = &all->run.random;
    const struct vt_model *model = &all->run.model;
    const struct vt_window *window =
        &model->windows[vt_random_below(random, model->window_entries)];
    if (vt_random_chance(random, 50))
        return vd_max(vt_run_draw_size(&all->run), SECTOR);
    uint64_t size = window->guest.offset + 1 + vt_random_below(random, window->guest.length);
    size = vd_round_up(size, vt_random_chance(random, 50) ? model->block_bytes : SECTOR);
    return vd_min(size, all->run.size_max);
}

static void op_resize(struct all *all)
{
    struct vt_run *run = &all->run;
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    uint64_t size = draw_size(all);
    VT_OK(vdisk_image_info(run->image, &info, &vt_err));
    if (vt_random_chance(&run->random, 50))
        vt_run_write_end(run);
    if (all->rules.fixed_size && all->snapshot_entries) {
        VT_FAILS(ENOTSUP, vdisk_image_resize(run->image, size, VDISK_PREALLOCATION_OFF, &vt_err));
        all->tally.refused++;
        return;
    }
    expect_last_sector(all, size);
    VT_OK(vdisk_image_resize(run->image, size, VDISK_PREALLOCATION_OFF, &vt_err));
    assert_int_equal(vdisk_image_size(run->image), size);
    vt_model_resize(&run->model, size);
    vt_bitmap_model_resize(all->bitmaps, size, info.cluster_bytes);
    all->tally.resizes++;
}

static void op_bitmaps(struct all *all)
{
    bool can_have = !all->rules.no_bitmaps;
    if (vt_bitmap_model_change(all->bitmaps, all->run.image, &all->run.random, can_have))
        all->tally.changes++;
    else
        all->tally.refused++;
}

static void begin_session(struct all *all)
{
    all->run.image = vt_subject_open(&all->run.subject, VDISK_OPEN_WRITE);
    assert_int_equal(vt_takes_encoded(all->run.image), !all->rules.no_compression);
}

/* Closes it, and looks at all there is, with what was stored. */
static void end_session(struct all *all)
{
    struct vt_run *run = &all->run;
    VT_OK(vdisk_image_close(run->image, &vt_err));
    vt_subject_expect_sound(&run->subject);
    run->image = vt_subject_open(&run->subject, 0);
    assert_int_equal(vdisk_image_size(run->image), run->model.size);
    vt_run_compare(run);
    vt_run_walk(run);
    vt_bitmap_model_compare(all->bitmaps, run->image);
    compare_list(all);
    VT_OK(vdisk_image_close(run->image, &vt_err));
    run->image = NULL;
    for (unsigned i = 0; i < all->snapshot_entries; i++)
        compare_snapshot(all, i);
    all->tally.sessions++;
}

static void one_op(struct all *all)
{
    uint64_t dice = vt_random_below(&all->run.random, 100);
    if (dice < 76)
        vt_run_data_op(&all->run);
    else if (dice < 81)
        op_make(all);
    else if (dice < 84)
        op_go_back(all);
    else if (dice < 88)
        op_delete(all);
    else if (dice < 92)
        op_resize(all);
    else if (dice < 98)
        op_bitmaps(all);
    else
        vt_bitmap_model_compare(all->bitmaps, all->run.image);
}

/* ---- a shape ---- */

static uint64_t number_from(const char *variable, uint64_t fallback)
{
    const char *text = getenv(variable);
    return text && *text ? strtoull(text, NULL, 0) : fallback;
}

static uint64_t session_ops(struct all *all, uint64_t left)
{
    uint64_t most = vt_random_chance(&all->run.random, 20) ? 4 : SESSION_MAX;
    return vd_min(left, 1 + vt_random_below(&all->run.random, vd_min(most, 4 + left / 2)));
}

static void test_shape(void **state)
{
    const char *name = *state;
    uint64_t ops = VT_ROUNDS(number_from("VD_ALL_OPS", OPS_DEFAULT));
    uint64_t seed = number_from("VD_TEST_SEED", 20261121);
    struct all all = {.run = {.random = {vt_mix(seed)}}};
    struct vt_stack stack;
    vt_stack_init(&stack, name, SECTOR, seed);
    all.rules = rules_of(&stack);
    vt_stack_init(&stack, name, size_of_disk(&stack, &all.rules), seed);
    vt_run_begin(&all.run, &stack, VT_PLACE_MEM);
    all.run.model.tracking = VT_TRACK_NOTHING; /* where it is matters not, with snapshots */
    all.run.request_max = vd_min(all.run.request_max, REQUEST_MAX);
    all.run.on_change = told_of_change;
    all.run.opaque = &all;
    all.bitmaps = vt_bitmap_model_new(all.run.size_max);
    for (uint64_t done = 0; done < ops;) {
        uint64_t session = session_ops(&all, ops - done);
        begin_session(&all);
        for (uint64_t i = 0; i < session; i++)
            one_op(&all);
        end_session(&all);
        done += session;
    }
    const struct tally *tally = &all.tally;
    print_message("# seed %" PRIu64 ": %" PRIu64 " operations, %u sessions; %u resizes; snapshots: "
                  "%u made, %u gone back to, %u deleted; bitmaps: %u changes; refused: %u\n",
                  seed, ops, tally->sessions, tally->resizes, tally->made, tally->gone_back,
                  tally->deleted, tally->changes, tally->refused);
    for (unsigned i = 0; i < all.snapshot_entries; i++)
        forget(&all.snapshots[i]);
    vt_run_end(&all.run);
    free(all.bitmaps);
}

int main(int argc, char **argv)
{
    size_t count = argc > 1 ? (size_t)argc - 1 : SHAPES;
    struct CMUnitTest *tests = vt_calloc(count, sizeof(*tests));
    for (size_t i = 0; i < count; i++) {
        const char *name = argc > 1 ? argv[1 + i] : shapes[i];
        tests[i] = (struct CMUnitTest){
            .name = name, .test_func = test_shape, .initial_state = (void *)name};
    }
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = _cmocka_run_group_tests("qcow2-all", tests, count, NULL, NULL);
    free(tests);
    return failed;
}
