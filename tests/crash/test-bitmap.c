/* SPDX-License-Identifier: MIT */
/*
 * Power cuts at every change and flush of a qcow2 image with dirty bitmaps: in each state that may
 * be left, every bitmap is either inconsistent, or tells of all in which the disk differs from what
 * it was when the bitmap was last cleared, and of no more than was written since.
 *
 * VD_CRASH_OPS: operations for each shape of image, default 60; 1000 for a full run.
 * VD_CRASH_SEED: seed, default a fixed one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/crash.h"
#include "drivers/fault.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "format/format.h"
#include "image/image.h"

#define SECTOR        512u
#define WINDOWS       4u
#define WINDOW_BYTES  (UINT64_C(48) << 10)
#define ALL_BYTES     (WINDOWS * WINDOW_BYTES)
#define SECTORS       (ALL_BYTES / SECTOR)
#define BITMAPS       3u
#define SESSION_OPS   12u
#define FINDING_BYTES 300u
#define DISK_MIB      9u

/* What is remembered of a disk: its windows, all else is zero. */
struct content {
    uint64_t size;
    uint8_t bytes[ALL_BYTES];
};

/* A bitmap as it should be. */
struct model {
    bool is_there;
    bool is_enabled;
    uint64_t granularity;
    uint8_t baseline[ALL_BYTES]; /* of the disk, when it was last cleared */
    bool may_be[SECTORS];        /* written since */
};

/* The bitmaps before or after a change of them. */
struct models {
    struct model all[BITMAPS];
};

static const char *const names[BITMAPS] = {"daily", "weekly", "fixed"};

struct shape {
    uint32_t cluster_bytes;
    uint64_t granularities[BITMAPS];
};

struct run {
    struct shape shape;
    struct vt_random random, dice;
    struct vd_storage *crash;
    struct vdisk_image *image;
    const char *op;
    struct content now;
    struct models models, next; /* next: what a change in progress makes of them */
    bool is_changing, is_resizing;
    struct content seen; /* of a state */
    uint64_t cuts, states, consistent, inconsistent, recovered;
};

static uint64_t window_offset(const struct run *run, unsigned window)
{
    uint64_t disk = (uint64_t)DISK_MIB << 20;
    static const unsigned eighths[WINDOWS] = {0, 2, 5, 8};
    (void)run;
    return eighths[window] == 8 ? disk - WINDOW_BYTES
                                : disk / 8 * eighths[window] - eighths[window] * 4096u;
}

/* ---- what a state holds ---- */

static struct vdisk_image *open_on(struct vd_storage *storage, uint32_t flags,
                                   struct vdisk_error *err)
{
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .format = "qcow2"};
    struct vd_storage *borrowed;
    struct vdisk_image *image;
    VT_OK(vt_fault_open(storage, VT_BORROW, &borrowed, &vt_err));
    return vd_image_open_on(borrowed, &options, &image, err) < 0 ? NULL : image;
}

static void read_content(const struct run *run, struct vdisk_image *image, struct content *content)
{
    content->size = vdisk_image_size(image);
    memset(content->bytes, 0, sizeof(content->bytes));
    for (unsigned i = 0; i < WINDOWS; i++) {
        uint64_t offset = window_offset(run, i);
        uint64_t end = vd_min(offset + WINDOW_BYTES, content->size);
        if (end > offset)
            VT_OK(vdisk_image_pread(image, content->bytes + i * WINDOW_BYTES,
                                    (size_t)(end - offset), offset, &vt_err));
    }
}

/* Is a granule of the sector's place in the disk one that @model may have, or must have? */
static bool is_dirty(struct vdisk_image *image, const char *name, uint64_t offset)
{
    struct vdisk_bitmap_extent extent;
    VT_OK(vdisk_bitmap_extent(image, name, offset, 1, &extent, &vt_err));
    return extent.is_dirty;
}

/* No granule may be dirty unless something in it was written; sectors of the windows tell. */
static bool may_be_dirty(const struct run *run, const struct model *model, uint64_t offset)
{
    uint64_t start = vd_round_down(offset, model->granularity);
    uint64_t end = start + model->granularity;
    for (unsigned i = 0; i < WINDOWS; i++)
        for (unsigned j = 0; j < WINDOW_BYTES / SECTOR; j++) {
            uint64_t at = window_offset(run, i) + j * SECTOR;
            if (at < end && at + SECTOR > start && model->may_be[i * (WINDOW_BYTES / SECTOR) + j])
                return true;
        }
    return false;
}

/* NULL: the consistent bitmap @name of a state is right by @model. */
static const char *judge(const struct run *run, struct vdisk_image *image, const char *name,
                         const struct model *model, uint64_t limit)
{
    for (unsigned i = 0; i < WINDOWS; i++)
        for (unsigned j = 0; j < WINDOW_BYTES / SECTOR; j++) {
            unsigned sector = i * (unsigned)(WINDOW_BYTES / SECTOR) + j;
            uint64_t offset = window_offset(run, i) + j * SECTOR;
            if (offset + SECTOR > limit)
                continue;
            bool dirty = is_dirty(image, name, offset);
            bool differs = memcmp(run->seen.bytes + sector * SECTOR,
                                  model->baseline + sector * SECTOR, SECTOR) != 0;
            if (differs && !dirty && model->is_enabled)
                return "a bit is missing";
            if (dirty && !may_be_dirty(run, model, offset))
                return "a bit is set for what was not written";
        }
    return NULL;
}

static bool list_is(struct vdisk_image *image, const struct models *models)
{
    size_t count, wanted = 0;
    VT_OK(vdisk_bitmap_count(image, &count, &vt_err));
    for (unsigned i = 0; i < BITMAPS; i++)
        wanted += models->all[i].is_there;
    if (count != wanted)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
        VT_OK(vdisk_bitmap_info(image, i, &info, &vt_err));
        unsigned n = 0;
        while (n < BITMAPS && strcmp(names[n], info.name) != 0)
            n++;
        if (n == BITMAPS || !models->all[n].is_there ||
            models->all[n].is_enabled != ((info.flags & VDISK_BITMAP_ENABLED) != 0))
            return false;
    }
    return true;
}

/* NULL: the state has these bitmaps, and each is right or inconsistent. */
static const char *judge_all(struct run *run, struct vdisk_image *image,
                             const struct models *models)
{
    uint64_t limit = vd_min(run->seen.size, run->is_resizing ? run->now.size : UINT64_MAX);
    size_t count;
    if (!list_is(image, models))
        return "other bitmaps than there should be";
    VT_OK(vdisk_bitmap_count(image, &count, &vt_err));
    for (size_t i = 0; i < count; i++) {
        struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
        VT_OK(vdisk_bitmap_info(image, i, &info, &vt_err));
        unsigned n = 0;
        while (strcmp(names[n], info.name) != 0)
            n++;
        if (info.flags & VDISK_BITMAP_INCONSISTENT) {
            if (!models->all[n].is_enabled && !run->is_resizing)
                return "a disabled bitmap is inconsistent";
            run->inconsistent++;
            continue;
        }
        run->consistent++;
        const char *wrong = judge(run, image, info.name, &models->all[n], limit);
        if (wrong)
            return wrong;
    }
    return NULL;
}

/* The first finding that is no leak: those are allowed. */
static void keep_finding(void *opaque, const char *message)
{
    char *first = opaque;
    if (!first[0] && !strstr(message, "leaked"))
        snprintf(first, FINDING_BYTES, "%s", message);
}

static void check_metadata(struct run *run, struct vd_storage *state, const char *when)
{
    char first[FINDING_BYTES] = "";
    struct vdisk_error err = {0};
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_image *image = open_on(state, VDISK_OPEN_CHECK, &err);
    if (!image)
        fail_msg("%s, %s: does not open for a check: %s", run->op, when, err.message);
    VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, keep_finding, first, &result, &vt_err));
    if (result.corruptions || result.check_errors)
        fail_msg("%s, %s: %" PRIu64 " corruptions, %" PRIu64 " errors: %s", run->op, when,
                 result.corruptions, result.check_errors, first);
    vdisk_image_close(image, NULL);
}

/* Inconsistent bitmaps can be recovered, and what a state has can be written to. */
static void use_state(struct run *run, struct vd_storage *state)
{
    struct vdisk_error err = {0};
    size_t count;
    struct vdisk_image *image = open_on(state, VDISK_OPEN_WRITE, &err);
    if (!image)
        fail_msg("%s: a state can not be written: %s", run->op, err.message);
    VT_OK(vdisk_image_pwrite(image, "x", 1, 100, &vt_err));
    VT_OK(vdisk_bitmap_count(image, &count, &vt_err));
    for (size_t i = 0; i < count; i++) {
        struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
        VT_OK(vdisk_bitmap_info(image, i, &info, &vt_err));
        struct vdisk_bitmap_action action = {.kind = VDISK_BITMAP_RECOVER, .name = info.name};
        uint64_t dirty;
        if (!(info.flags & VDISK_BITMAP_INCONSISTENT)) {
            if (info.flags & VDISK_BITMAP_ENABLED)
                assert_true(is_dirty(image, info.name, 100));
            continue;
        }
        char name[16];
        snprintf(name, sizeof(name), "%s", info.name);
        action.name = name;
        VT_OK(vdisk_bitmap_change(image, &action, 1, &vt_err));
        VT_OK(vdisk_bitmap_dirty_bytes(image, name, &dirty, &vt_err));
        assert_int_equal(dirty, vdisk_image_size(image));
        run->recovered++;
    }
    VT_OK(vdisk_image_close(image, &vt_err));
    check_metadata(run, state, "after it was used");
}

static void check_state(struct run *run, enum vt_cut cut, uint64_t seed)
{
    struct vdisk_error err = {0};
    struct vd_storage *state;
    VT_OK(vt_crash_cut(run->crash, cut, seed, &state, &vt_err));
    struct vdisk_image *image = open_on(state, 0, &err);
    if (!image)
        fail_msg("%s: a state does not open: %s", run->op, err.message);
    read_content(run, image, &run->seen);
    const char *wrong = judge_all(run, image, &run->models);
    if (wrong && run->is_changing)
        wrong = judge_all(run, image, &run->next);
    if (wrong)
        fail_msg("%s, cut %s, seed %" PRIu64 ": %s", run->op, vt_cut_name(cut), seed, wrong);
    vdisk_image_close(image, NULL);
    run->states++;
    if (vt_random_chance(&run->dice, 25))
        check_metadata(run, state, "as it is");
    if (vt_random_chance(&run->dice, 8))
        use_state(run, state);
    vd_storage_close(state);
}

static void cut_here(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    static const enum vt_cut random_cuts[] = {VT_CUT_ALL_BUT_ONE, VT_CUT_ONLY_ONE, VT_CUT_SUBSET,
                                              VT_CUT_TORN, VT_CUT_REORDERED};
    struct run *run = opaque;
    size_t pending = vt_crash_pending(storage);
    (void)call;
    run->cuts++;
    check_state(run, VT_CUT_DROP_ALL, 0);
    if (pending == 0)
        return;
    check_state(run, VT_CUT_KEEP_ALL, 0);
    check_state(run, VT_CUT_TORN, vt_random_next(&run->dice));
    if (pending > 1)
        check_state(run, random_cuts[vt_random_below(&run->dice, 5)], vt_random_next(&run->dice));
}

/* ---- the workload ---- */

static void open_session(struct run *run)
{
    struct vdisk_error err = {0};
    run->op = "open";
    run->image = open_on(run->crash, VDISK_OPEN_WRITE, &err);
    if (!run->image)
        fail_msg("does not open: %s", err.message);
}

static void close_session(struct run *run)
{
    run->op = "close";
    VT_OK(vdisk_image_close(run->image, &vt_err));
    run->image = NULL;
    cut_here(run, run->crash, VT_FLUSH);
    /* A clean end leaves nothing to recover, nothing unused, and exactly what was recorded. */
    struct vdisk_image *image = open_on(run->crash, 0, NULL);
    read_content(run, image, &run->seen);
    uint64_t before = run->inconsistent;
    assert_null(judge_all(run, image, &run->models));
    assert_int_equal(run->inconsistent, before);
    vdisk_image_close(image, NULL);
    check_metadata(run, run->crash, "closed");
}

/* Sectors of a window, within the disk; length 0: the disk ends before. */
static struct vd_range draw(struct run *run, unsigned *first_sector)
{
    unsigned window = (unsigned)vt_random_below(&run->random, WINDOWS);
    unsigned first = (unsigned)vt_random_below(&run->random, WINDOW_BYTES / SECTOR);
    unsigned count = 1 + (unsigned)vt_random_below(&run->random, 20);
    uint64_t offset = window_offset(run, window) + first * SECTOR;
    uint64_t end = vd_min(window_offset(run, window) + WINDOW_BYTES, run->now.size);
    *first_sector = window * (unsigned)(WINDOW_BYTES / SECTOR) + first;
    if (offset >= end)
        return vd_range(offset, 0);
    return vd_range(offset, vd_min(count * SECTOR, end - offset));
}

static void remember(struct run *run, unsigned first_sector, uint64_t length)
{
    for (unsigned i = 0; i < BITMAPS; i++)
        for (unsigned j = 0; run->models.all[i].is_enabled && j < length / SECTOR; j++)
            run->models.all[i].may_be[first_sector + j] = true;
}

static void op_write(struct run *run)
{
    uint8_t bytes[20 * SECTOR];
    unsigned sector;
    struct vd_range guest = draw(run, &sector);
    if (guest.length == 0)
        return;
    run->op = "write";
    vt_random_fill(&run->random, bytes, (size_t)guest.length);
    remember(run, sector, guest.length);
    memcpy(run->now.bytes + sector * SECTOR, bytes, (size_t)guest.length);
    VT_OK(vdisk_image_pwrite(run->image, bytes, (size_t)guest.length, guest.offset, &vt_err));
}

static void op_zero(struct run *run, bool discard)
{
    unsigned sector;
    struct vd_range guest = draw(run, &sector);
    if (guest.length == 0)
        return;
    run->op = discard ? "discard" : "zero";
    remember(run, sector, guest.length);
    if (discard)
        VT_OK(vdisk_image_discard(run->image, guest.offset, guest.length, &vt_err));
    else
        VT_OK(vdisk_image_write_zeroes(run->image, guest.offset, guest.length, 0, &vt_err));
    read_content(run, run->image, &run->now);
}

/* From a clean start, so that all bitmaps are what they are before it. */
static void op_resize(struct run *run)
{
    static const uint64_t cuts[] = {0, SECTOR, 20 * SECTOR, UINT64_C(3) << 20};
    close_session(run);
    open_session(run);
    run->op = "resize";
    run->is_resizing = true;
    uint64_t size = ((uint64_t)DISK_MIB << 20) - cuts[vt_random_below(&run->random, 4)];
    VT_OK(vdisk_image_resize(run->image, size, VDISK_PREALLOCATION_OFF, &vt_err));
    VT_OK(vdisk_image_close(run->image, &vt_err));
    open_session(run);
    run->is_resizing = false;
    read_content(run, run->image, &run->now);
    /* Bits of what was cut off are gone, and what comes again is clean. */
    for (unsigned i = 0; i < SECTORS; i++) {
        uint64_t at = window_offset(run, i / (unsigned)(WINDOW_BYTES / SECTOR)) +
                      i % (WINDOW_BYTES / SECTOR) * SECTOR;
        for (unsigned j = 0; j < BITMAPS && at >= size; j++)
            memset(run->models.all[j].baseline + i * SECTOR, 0, SECTOR);
    }
}

static void op_change(struct run *run)
{
    struct vdisk_bitmap_action actions[3] = {{0}};
    size_t count = 0;
    unsigned n = (unsigned)vt_random_below(&run->random, 2);
    run->next = run->models;
    struct model *model = &run->next.all[n];
    run->op = "change of bitmaps";
    if (vt_random_chance(&run->random, 60)) {
        actions[count++] = (struct vdisk_bitmap_action){.kind = VDISK_BITMAP_CLEAR};
        memcpy(model->baseline, run->now.bytes, ALL_BYTES);
        memset(model->may_be, 0, sizeof(model->may_be));
    } else if (vt_random_chance(&run->random, 50)) {
        actions[count++] = (struct vdisk_bitmap_action){.kind = VDISK_BITMAP_REMOVE};
        actions[count++] = (struct vdisk_bitmap_action){.kind = VDISK_BITMAP_ADD,
                                                        .granularity = model->granularity};
        memcpy(model->baseline, run->now.bytes, ALL_BYTES);
        memset(model->may_be, 0, sizeof(model->may_be));
    } else {
        /* What the other one has, too: no less than before. */
        actions[count++] =
            (struct vdisk_bitmap_action){.kind = VDISK_BITMAP_MERGE, .source = names[1 - n]};
        for (unsigned i = 0; i < SECTORS; i++)
            model->may_be[i] = true;
    }
    for (size_t i = 0; i < count; i++)
        actions[i].name = names[n];
    run->is_changing = true;
    VT_OK(vdisk_bitmap_change(run->image, actions, count, &vt_err));
    run->is_changing = false;
    run->models = run->next;
}

static void one_op(struct run *run)
{
    uint64_t dice = vt_random_below(&run->random, 100);
    if (dice < 50)
        op_write(run);
    else if (dice < 65)
        op_zero(run, dice & 1);
    else if (dice < 75)
        VT_OK(vdisk_image_flush(run->image, &vt_err));
    else if (dice < 85)
        op_change(run);
    else if (dice < 90)
        op_resize(run);
    else {
        close_session(run);
        open_session(run);
    }
}

/* An image with three bitmaps; the last is disabled and tells of one sector. */
static struct vt_pages *make_image(struct run *run)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = (uint64_t)DISK_MIB << 20,
                                           .cluster_bytes = run->shape.cluster_bytes};
    const struct vd_format_driver *driver = vd_format_find("qcow2", NULL);
    struct vd_storage *file;
    VT_OK(vt_snap_open(0, &file, &vt_err));
    VT_OK(vd_format_create(driver, file, NULL, &options, &vt_err));
    struct vdisk_image *image = open_on(file, VDISK_OPEN_WRITE, NULL);
    assert_non_null(image);
    struct vdisk_bitmap_action actions[BITMAPS] = {{0}};
    for (unsigned i = 0; i < BITMAPS; i++) {
        actions[i] = (struct vdisk_bitmap_action){
            .kind = VDISK_BITMAP_ADD, .name = names[i], .granularity = run->shape.granularities[i]};
        run->models.all[i] = (struct model){
            .is_there = true, .is_enabled = i < 2, .granularity = run->shape.granularities[i]};
    }
    VT_OK(vdisk_bitmap_change(image, actions, BITMAPS, &vt_err));
    memset(run->now.bytes, 'a', SECTOR);
    VT_OK(vdisk_image_pwrite(image, run->now.bytes, SECTOR, 0, &vt_err));
    for (unsigned i = 0; i < BITMAPS; i++)
        run->models.all[i].may_be[0] = true;
    actions[2].kind = VDISK_BITMAP_DISABLE;
    actions[2].granularity = 0;
    VT_OK(vdisk_bitmap_change(image, &actions[2], 1, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    struct vt_pages *pages = vt_snap_pages(file);
    vd_storage_close(file);
    return pages;
}

static uint64_t number_from(const char *variable, uint64_t fallback)
{
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 0) : fallback;
}

static void run_shape(const struct shape *shape)
{
    uint64_t ops = number_from("VD_CRASH_OPS", 60);
    uint64_t seed = number_from("VD_CRASH_SEED", 20261121);
    struct run *run = calloc(1, sizeof(*run));
    assert_non_null(run);
    *run = (struct run){.shape = *shape,
                        .random = {.state = seed},
                        .dice = {.state = vt_mix(seed)},
                        .now = {.size = (uint64_t)DISK_MIB << 20}};
    VT_OK(vt_crash_open(make_image(run), &run->crash, &vt_err));
    vt_crash_set_hook(run->crash, cut_here, run);
    open_session(run);
    for (uint64_t i = 0; i < ops; i++)
        one_op(run);
    close_session(run);
    print_message("# clusters of %" PRIu32 ", seed %" PRIu64 ": cuts: %" PRIu64 ", states: %" PRIu64
                  ", consistent bitmaps: %" PRIu64 ", inconsistent: %" PRIu64
                  ", recovered: %" PRIu64 "\n",
                  shape->cluster_bytes, seed, run->cuts, run->states, run->consistent,
                  run->inconsistent, run->recovered);
    assert_true(run->consistent && run->inconsistent && run->recovered);
    vd_storage_close(run->crash);
    free(run);
}

static void small_clusters(void **state)
{
    (void)state;
    run_shape(&(struct shape){.cluster_bytes = 512, .granularities = {512, 4096, 512}});
}

static void usual_clusters(void **state)
{
    (void)state;
    run_shape(&(struct shape){.cluster_bytes = 65536, .granularities = {65536, 512, 4096}});
}

static void coarse_bitmaps(void **state)
{
    (void)state;
    run_shape(&(struct shape){.cluster_bytes = 4096, .granularities = {4096, 1u << 20, 1u << 31}});
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_clusters),
        cmocka_unit_test(usual_clusters),
        cmocka_unit_test(coarse_bitmaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
