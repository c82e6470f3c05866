/* SPDX-License-Identifier: MIT */
/*
 * qcow2 images with snapshots within them against a model.
 *
 * Random writes, zeroes, discards, compressed clusters, resizes, reopens, and snapshots made, gone
 * back to and deleted; then the power is cut before every call to the storage while a snapshot is
 * made, gone back to, or deleted; and each of these calls fails.
 *
 *   VD_SNAPSHOT_OPS   operations per shape, default 400
 *   VD_SNAPSHOT_SEED  default 1
 *   VD_SNAPSHOT_CUTS  seeds for each way of cutting, default 3
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "drivers/check.h"
#include "drivers/crash.h"
#include "drivers/fault.h"
#include "drivers/snap.h"
#include "snapshot-model.h"

static const struct sm_shape shapes[] = {
    {"v3", "1.1", 4096, 16, 0, false},
    {"v2", "0.10", 4096, 0, 0, false},
    {"v2 over raw", "0.10", 1024, 0, 0, true},
    {"v3 over raw", "1.1", 1024, 16, 0, true},
    {"512", "1.1", 512, 16, 0, false},
    {"64k", "1.1", 65536, 16, 0, true},
    {"subclusters", "1.1", 16384, 16, VDISK_CREATE_EXTENDED_L2, false},
    {"subclusters over raw", "1.1", 16384, 16, VDISK_CREATE_EXTENDED_L2, true},
    {"1 bit", "1.1", 4096, 1, 0, false},
    {"2 bits", "1.1", 4096, 2, 0, false},
    {"4 bits", "1.1", 4096, 4, 0, false},
    {"8 bits, lazy", "1.1", 4096, 8, VDISK_CREATE_LAZY_REFCOUNTS, false},
    {"32 bits", "1.1", 4096, 32, 0, false},
    {"64 bits", "1.1", 512, 64, 0, true},
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

/* ---- random operations ---- */

struct run {
    struct sm_model model;
    struct vd_storage *file;
    struct vdisk_image *image;
    struct vt_random random;
    unsigned refused; /* as refcounts are too narrow */
};

static void open_run(struct run *run)
{
    struct vd_storage *borrowed;
    VT_OK(vt_fault_open(run->file, VT_BORROW, &borrowed, &vt_err));
    run->image = sm_open_on(&run->model, borrowed, VDISK_OPEN_WRITE, UINT_MAX);
}

static void reopen(struct run *run)
{
    VT_OK(vdisk_image_close(run->image, &vt_err));
    sm_verify(&run->model, run->file, false);
    open_run(run);
}

/* 0, or refused for good reasons, and then nothing has changed. */
static bool is_done(struct run *run, int ret, const struct vdisk_error *err)
{
    if (ret == 0)
        return true;
    bool is_narrow = run->model.shape->refcount_bits && run->model.shape->refcount_bits <= 4;
    if (ret != -E2BIG || !is_narrow)
        fail_msg("%d: %s", ret, err->message);
    run->refused++;
    return false;
}

static void create(struct run *run)
{
    struct vdisk_error err = {0};
    char name[16];
    if (run->model.snapshot_entries == SM_SNAPSHOTS_MAX)
        return;
    snprintf(name, sizeof(name), "s%u", run->model.next_serial);
    if (is_done(run, vdisk_image_snapshot_create(run->image, name, &err), &err))
        sm_add(&run->model);
}

static void apply(struct run *run)
{
    struct vdisk_error err = {0};
    if (!run->model.snapshot_entries)
        return;
    unsigned index = (unsigned)vt_random_below(&run->random, run->model.snapshot_entries);
    if (is_done(run, vdisk_image_snapshot_apply(run->image, index, &err), &err))
        sm_copy(&run->model, &run->model.now, &run->model.snapshots[index]);
}

static void delete_one(struct run *run)
{
    if (!run->model.snapshot_entries)
        return;
    unsigned index = (unsigned)vt_random_below(&run->random, run->model.snapshot_entries);
    VT_OK(vdisk_image_snapshot_delete(run->image, index, &vt_err));
    sm_remove(&run->model, index);
}

/* Within the last window. */
static void resize(struct run *run)
{
    struct sm_model *model = &run->model;
    struct vd_range last = model->windows[SM_WINDOWS - 1];
    uint64_t size = last.offset + 512 * (1 + vt_random_below(&run->random, last.length / 512));
    uint64_t old = model->now.size;
    if (strcmp(model->shape->compat, "0.10") == 0 && model->snapshot_entries) {
        VT_FAILS(ENOTSUP, vdisk_image_resize(run->image, size, 0, &vt_err));
        return;
    }
    VT_OK(vdisk_image_resize(run->image, size, 0, &vt_err));
    uint64_t from = vd_min(size, old);
    memset(sm_at(model, &model->now, from - 1) + 1, 0, vd_range_end(last) - from);
    model->now.size = size;
}

static void step(struct run *run)
{
    unsigned what = (unsigned)vt_random_below(&run->random, 100);
    if (what < 60)
        sm_change(&run->model, run->image, &run->random);
    else if (what < 70)
        create(run);
    else if (what < 77)
        apply(run);
    else if (what < 84)
        delete_one(run);
    else if (what < 89)
        VT_OK(vdisk_image_flush(run->image, &vt_err));
    else if (what < 93)
        resize(run);
    else if (what < 96)
        reopen(run);
    else
        sm_same(&run->model, run->image, &run->model.now, false);
}

/* With something to share, and no refcount that can count to two. */
static void expect_refusal(struct run *run)
{
    unsigned refused = run->refused;
    for (unsigned i = 0; i < 8; i++)
        sm_change(&run->model, run->image, &run->random);
    create(run);
    assert_int_equal(run->refused, refused + 1);
}

static void test_random(void **state)
{
    const struct sm_shape *shape = *state;
    uint64_t ops = VT_ROUNDS(number_of("VD_SNAPSHOT_OPS", 400));
    uint64_t seed = number_of("VD_SNAPSHOT_SEED", 1);
    struct run run = {.random = {.state = seed}};
    print_message("# %s: seed %llu, %llu operations\n", shape->name, (unsigned long long)seed,
                  (unsigned long long)ops);
    sm_init(&run.model, shape, &run.file);
    open_run(&run);
    for (uint64_t i = 0; i < ops; i++)
        step(&run);
    reopen(&run);
    while (run.model.snapshot_entries)
        delete_one(&run);
    if (shape->refcount_bits == 1)
        expect_refusal(&run);
    reopen(&run);
    VT_OK(vdisk_image_close(run.image, &vt_err));
    vd_storage_close(run.file);
    sm_free(&run.model);
}

/* ---- refused ---- */

/*
 * Going back counts up before it counts down, and 2 bits count to 3.  What is refused so leaves the
 * bitmaps as they are.
 */
static void test_refused_apply_keeps_bitmaps(void **state)
{
    static const struct sm_shape shape = {"refused", "1.1", 4096, 2, 0, false};
    struct vdisk_bitmap_action action = {
        .kind = VDISK_BITMAP_ADD, .name = "b", .granularity = 4096};
    struct run run = {0};
    uint64_t dirty;
    (void)state;
    sm_init(&run.model, &shape, &run.file);
    open_run(&run);
    VT_OK(vdisk_bitmap_change(run.image, &action, 1, &vt_err));
    VT_OK(vdisk_image_pwrite(run.image, "shared", 6, 0, &vt_err));
    VT_OK(vdisk_image_snapshot_create(run.image, "a", &vt_err));
    VT_OK(vdisk_image_snapshot_create(run.image, "b", &vt_err));
    VT_OK(vdisk_image_pwrite(run.image, "a table of its own", 18, 4096, &vt_err));
    action = (struct vdisk_bitmap_action){.kind = VDISK_BITMAP_CLEAR, .name = "b"};
    VT_OK(vdisk_bitmap_change(run.image, &action, 1, &vt_err));
    VT_FAILS(E2BIG, vdisk_image_snapshot_apply(run.image, 0, &vt_err));
    VT_OK(vdisk_bitmap_dirty_bytes(run.image, "b", &dirty, &vt_err));
    assert_int_equal(dirty, 0);
    VT_OK(vdisk_image_pwrite(run.image, "x", 1, 8192, &vt_err));
    VT_OK(vdisk_image_close(run.image, &vt_err));
    sm_check(&run.model, run.file, false);
    open_run(&run);
    VT_OK(vdisk_bitmap_dirty_bytes(run.image, "b", &dirty, &vt_err));
    assert_int_equal(dirty, 4096);
    VT_OK(vdisk_image_close(run.image, &vt_err));
    vd_storage_close(run.file);
    sm_free(&run.model);
}

/* ---- power cuts ---- */

enum action {
    CREATE,
    APPLY,
    DELETE_FIRST,
    DELETE_LAST,
    ACTIONS
};

struct cuts {
    struct sm_model *model; /* with the snapshot that is made or deleted */
    enum action action;
    unsigned states;
    unsigned seeds;
    unsigned entries_before;
};

/* Those that are there have what they have to have; returns how many. */
static unsigned judge_snapshots(const struct cuts *cuts, struct vd_storage *found)
{
    const struct sm_model *model = cuts->model;
    struct vdisk_snapshot_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_image *image = sm_open_clone(model, found, 0, UINT_MAX);
    unsigned count = 0;
    while (vdisk_image_snapshot_info(image, count, &info, NULL) == 0) {
        unsigned index = 0;
        while (index < model->snapshot_entries &&
               strtoul(info.name + 1, NULL, 10) != model->serials[index])
            index++;
        assert_true(index < model->snapshot_entries);
        struct vdisk_image *shown = sm_open_clone(model, found, 0, index);
        sm_same(model, shown, &model->snapshots[index], false);
        VT_OK(vdisk_image_close(shown, &vt_err));
        count++;
    }
    VT_OK(vdisk_image_close(image, &vt_err));
    return count;
}

/* The disk of before, or of after. */
static const struct sm_disk *judge_disk(const struct cuts *cuts, struct vd_storage *found)
{
    const struct sm_model *model = cuts->model;
    struct vdisk_image *image = sm_open_clone(model, found, 0, UINT_MAX);
    const struct sm_disk *is = &model->now;
    if (cuts->action == APPLY && sm_same(model, image, &model->snapshots[0], true))
        is = &model->snapshots[0];
    else
        sm_same(model, image, &model->now, false);
    VT_OK(vdisk_image_close(image, &vt_err));
    return is;
}

/*
 * Whoever writes next changes the disk, and no snapshot.  In version 2 there is no dirty bit, so
 * COPIED bits may be missing until a repair.
 */
static void judge_writing(const struct cuts *cuts, struct vd_storage *found,
                          const struct sm_disk *disk)
{
    struct sm_model model = *cuts->model;
    struct vt_random random = {.state = cuts->states};
    struct vd_storage *borrowed;
    model.now = (struct sm_disk){0};
    sm_copy(cuts->model, &model.now, disk);
    VT_OK(vt_fault_open(found, VT_BORROW, &borrowed, &vt_err));
    struct vdisk_image *image = sm_open_on(&model, borrowed, VDISK_OPEN_WRITE, UINT_MAX);
    for (unsigned i = 0; i < 4; i++)
        sm_change(&model, image, &random);
    sm_same(&model, image, &model.now, false);
    VT_OK(vdisk_image_close(image, &vt_err));
    judge_snapshots(cuts, found);
    struct vdisk_image *again = sm_open_clone(&model, found, 0, UINT_MAX);
    sm_same(&model, again, &model.now, false);
    VT_OK(vdisk_image_close(again, &vt_err));
    if (strcmp(model.shape->compat, "0.10") == 0)
        sm_repair(&model, found);
    sm_check(&model, found, true);
    judge_snapshots(cuts, found);
    free(model.now.bytes);
}

static unsigned entries_after(const struct cuts *cuts)
{
    return cuts->entries_before + (cuts->action == CREATE) - (cuts->action >= DELETE_FIRST);
}

static void judge(struct cuts *cuts, struct vd_storage *found)
{
    unsigned count = judge_snapshots(cuts, found);
    assert_true(count == cuts->entries_before || count == entries_after(cuts));
    judge_writing(cuts, found, judge_disk(cuts, found));
    cuts->states++;
}

static void cut_all(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct cuts *cuts = opaque;
    (void)call;
    for (int cut = 0; cut < VT_CUTS; cut++)
        for (uint64_t seed = 0; seed < cuts->seeds; seed++) {
            struct vd_storage *found;
            VT_OK(vt_crash_cut(storage, (enum vt_cut)cut, seed, &found, &vt_err));
            judge(cuts, found);
            vd_storage_close(found);
            if (cut == VT_CUT_DROP_ALL || cut == VT_CUT_KEEP_ALL)
                break; /* there is only one such state */
        }
}

static int act(struct vdisk_image *image, enum action action, struct vdisk_error *err)
{
    switch (action) {
    case CREATE:
        return vdisk_image_snapshot_create(image, "s2", err);
    case APPLY:
        return vdisk_image_snapshot_apply(image, 0, err);
    default:
        return vdisk_image_snapshot_delete(image, action == DELETE_LAST, err);
    }
}

/* All that is durable is as after the change. */
static void judge_durable(struct cuts *cuts, struct vd_storage *found)
{
    const struct sm_disk *disk = judge_disk(cuts, found);
    assert_true(cuts->action != APPLY || disk == &cuts->model->snapshots[0]);
    assert_int_equal(judge_snapshots(cuts, found), entries_after(cuts));
}

static void cut_during(struct sm_model *model, struct vd_storage *file, enum action action)
{
    struct cuts cuts = {.model = model,
                        .action = action,
                        .entries_before = 2,
                        .seeds = (unsigned)number_of("VD_SNAPSHOT_CUTS", 3)};
    struct vd_storage *crash, *found;
    VT_OK(vt_crash_open(vt_snap_pages(file), &crash, &vt_err));
    vt_crash_set_hook(crash, cut_all, &cuts);
    struct vdisk_image *image = sm_open_on(model, crash, VDISK_OPEN_WRITE, UINT_MAX);
    if (action == CREATE)
        sm_add(model);
    VT_OK(act(image, action, &vt_err));
    VT_OK(vt_crash_cut(crash, VT_CUT_DROP_ALL, 0, &found, &vt_err));
    judge_durable(&cuts, found);
    vd_storage_close(found);
    VT_OK(vdisk_image_close(image, &vt_err));
    if (action == CREATE)
        sm_remove(model, 2);
    assert_true(cuts.states > 20);
    print_message("# %u states\n", cuts.states);
}

/* Call number @nth fails, and those behind it too if @forever.  False: there are not so many. */
static bool fail_at(struct cuts *cuts, struct vd_storage *file, uint64_t nth, bool forever)
{
    struct vdisk_error err = {0};
    struct vd_storage *clone, *fault;
    VT_OK(vt_snap_clone(file, &clone, &vt_err));
    VT_OK(vt_fault_open(clone, VT_BORROW, &fault, &vt_err));
    struct vdisk_image *image = sm_open_on(cuts->model, fault, VDISK_OPEN_WRITE, UINT_MAX);
    vt_fault_set(fault, (struct vt_fault_plan){.calls = VT_CALL_ANY & ~VT_CALL_BIT(VT_SIZE),
                                               .nth = nth,
                                               .error = nth % 2 ? EIO : ENOSPC,
                                               .forever = forever,
                                               .prefix_bytes = 512});
    int ret = act(image, cuts->action, &err);
    assert_int_equal(err.code, -ret);
    bool has_failed = vt_fault_hits(fault) > 0;
    if (!forever)
        vt_fault_set(fault, (struct vt_fault_plan){0});
    (void)vdisk_image_close(image, NULL);
    if (ret == 0)
        judge_durable(cuts, clone);
    judge(cuts, clone);
    vd_storage_close(clone);
    return has_failed;
}

static void fail_during(struct sm_model *model, struct vd_storage *file, enum action action)
{
    struct cuts cuts = {.model = model, .action = action, .entries_before = 2};
    if (action == CREATE)
        sm_add(model);
    uint64_t nth = 1;
    while (fail_at(&cuts, file, nth, false) && fail_at(&cuts, file, nth, true))
        nth++;
    if (action == CREATE)
        sm_remove(model, 2);
    assert_true(nth > 10);
    print_message("# %llu calls\n", (unsigned long long)nth - 1);
}

static void test_broken(const struct sm_shape *shape,
                        void (*during)(struct sm_model *model, struct vd_storage *file,
                                       enum action action))
{
    struct run run = {.random = {.state = 3}};
    print_message("# %s\n", shape->name);
    sm_init(&run.model, shape, &run.file);
    open_run(&run);
    for (unsigned i = 0; i < 60; i++) {
        sm_change(&run.model, run.image, &run.random);
        if (i % 20 == 19 && i < 40)
            create(&run);
    }
    reopen(&run);
    VT_OK(vdisk_image_close(run.image, &vt_err));
    assert_int_equal(run.model.snapshot_entries, 2);
    for (int action = 0; action < ACTIONS; action++) {
        run.model.next_serial = 2;
        during(&run.model, run.file, (enum action)action);
    }
    vd_storage_close(run.file);
    sm_free(&run.model);
}

static void test_cuts(void **state)
{
    test_broken(*state, cut_during);
}

static void test_faults(void **state)
{
    test_broken(*state, fail_during);
}

int main(void)
{
    static const size_t broken[] = {0, 1, 2, 4, 7};
    struct CMUnitTest tests[2 * SHAPES] = {{0}};
    size_t count = 0;
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_refused_apply_keeps_bitmaps);
    for (size_t i = 0; i < SHAPES; i++)
        tests[count++] = (struct CMUnitTest){
            .name = shapes[i].name, .test_func = test_random, .initial_state = (void *)&shapes[i]};
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        void *shape = (void *)&shapes[broken[i]];
        tests[count++] =
            (struct CMUnitTest){.name = "cuts", .test_func = test_cuts, .initial_state = shape};
        tests[count++] =
            (struct CMUnitTest){.name = "faults", .test_func = test_faults, .initial_state = shape};
    }
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return _cmocka_run_group_tests("snapshots", tests, count, NULL, NULL);
}
