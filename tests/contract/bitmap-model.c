/* SPDX-License-Identifier: MIT */
#include "bitmap-model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"

static const char *const names[VT_BITMAPS] = {"daily", "a", "a name that is not short at all", "d"};

struct vt_bitmap_model *vt_bitmap_model_new(uint64_t size)
{
    struct vt_bitmap_model *model = vt_calloc(1, sizeof(*model));
    model->size = model->size_max = size;
    return model;
}

bool vt_bitmap_model_is_empty(const struct vt_bitmap_model *model)
{
    for (unsigned i = 0; i < VT_BITMAPS; i++)
        if (model->bitmaps[i].is_there)
            return false;
    return true;
}

static void set(struct vt_bitmap *bitmap, struct vd_range guest)
{
    uint64_t last = (vd_range_end(guest) - 1) >> bitmap->granularity_bits;
    for (uint64_t i = guest.offset >> bitmap->granularity_bits; i <= last; i++)
        bitmap->dirty[i] = true;
}

void vt_bitmap_model_write(struct vt_bitmap_model *model, struct vd_range guest)
{
    for (unsigned i = 0; i < VT_BITMAPS && guest.length; i++)
        if (model->bitmaps[i].is_there && model->bitmaps[i].is_enabled)
            set(&model->bitmaps[i], guest);
}

static uint64_t granules(const struct vt_bitmap *bitmap, uint64_t size)
{
    return vd_div_up(size, UINT64_C(1) << bitmap->granularity_bits);
}

/* The bytes of the last cluster that become others, or that are lost until the disk grows. */
static void write_edge(struct vt_bitmap *bitmap, uint64_t old, uint64_t size,
                       uint64_t cluster_bytes)
{
    uint64_t end = vd_min(size, vd_round_up(old, cluster_bytes));
    if (size < old && size & ((UINT64_C(1) << bitmap->granularity_bits) - 1))
        set(bitmap, vd_range(size - 1, 1));
    else if (end > old)
        set(bitmap, vd_range(old, end - old));
}

/* What is cut off is forgotten; what is added is clean, but for what shared a cluster with it. */
void vt_bitmap_model_resize(struct vt_bitmap_model *model, uint64_t size, uint64_t cluster_bytes)
{
    uint64_t old = model->size;
    model->size = size;
    for (unsigned i = 0; i < VT_BITMAPS; i++) {
        struct vt_bitmap *bitmap = &model->bitmaps[i];
        if (!bitmap->is_there)
            continue;
        uint64_t from = granules(bitmap, size);
        memset(bitmap->dirty + from, 0, granules(bitmap, model->size_max) - from);
        if (bitmap->is_enabled)
            write_edge(bitmap, old, size, cluster_bytes);
    }
}

/* ---- comparing ---- */

/* The run that begins at @offset. */
static struct vd_range run_at(const struct vt_bitmap *bitmap, uint64_t size, uint64_t offset)
{
    uint64_t first = offset >> bitmap->granularity_bits, end = granules(bitmap, size);
    uint64_t next = first;
    while (next < end && bitmap->dirty[next] == bitmap->dirty[first])
        next++;
    return vd_range(offset, vd_min(next << bitmap->granularity_bits, size) - offset);
}

static void compare_bits(const struct vt_bitmap_model *model, struct vdisk_image *image,
                         const char *name, const struct vt_bitmap *bitmap)
{
    uint64_t dirty = 0, told;
    for (uint64_t at = 0; at < model->size;) {
        struct vdisk_bitmap_extent extent;
        struct vd_range run = run_at(bitmap, model->size, at);
        bool is_dirty = bitmap->dirty[at >> bitmap->granularity_bits];
        VT_OK(vdisk_bitmap_extent(image, name, at, model->size - at, &extent, &vt_err));
        if (extent.offset != at || extent.length != run.length || extent.is_dirty != is_dirty)
            fail_msg("bitmap '%s', granularity 2^%u: at %llu %s for %llu bytes, should be %s for "
                     "%llu, disk of %llu",
                     name, bitmap->granularity_bits, (unsigned long long)at,
                     extent.is_dirty ? "dirty" : "clean", (unsigned long long)extent.length,
                     is_dirty ? "dirty" : "clean", (unsigned long long)run.length,
                     (unsigned long long)model->size);
        dirty += is_dirty ? run.length : 0;
        at += run.length;
    }
    VT_OK(vdisk_bitmap_dirty_bytes(image, name, &told, &vt_err));
    assert_int_equal(told, dirty);
}

void vt_bitmap_model_compare(const struct vt_bitmap_model *model, struct vdisk_image *image)
{
    size_t count, wanted = 0;
    VT_OK(vdisk_bitmap_count(image, &count, &vt_err));
    for (unsigned i = 0; i < VT_BITMAPS; i++)
        wanted += model->bitmaps[i].is_there;
    assert_int_equal(count, wanted);
    for (size_t i = 0; i < count; i++) {
        struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
        VT_OK(vdisk_bitmap_info(image, i, &info, &vt_err));
        unsigned n = 0;
        while (n < VT_BITMAPS && strcmp(names[n], info.name) != 0)
            n++;
        assert_true(n < VT_BITMAPS && model->bitmaps[n].is_there);
        assert_int_equal(info.granularity, UINT64_C(1) << model->bitmaps[n].granularity_bits);
        assert_int_equal(info.flags, model->bitmaps[n].is_enabled ? VDISK_BITMAP_ENABLED : 0);
        compare_bits(model, image, names[n], &model->bitmaps[n]);
    }
}

/* ---- changing ---- */

/* Such that there are not too many granules. */
static unsigned draw_granularity(const struct vt_bitmap_model *model, struct vt_random *random)
{
    unsigned least = 9, most = 31;
    while (vd_div_up(model->size_max, UINT64_C(1) << least) > VT_BITMAP_GRANULES)
        least++;
    if (vt_random_chance(random, 70))
        most = (unsigned)vd_min(most, least + 6);
    return least + (unsigned)vt_random_below(random, most - least + 1);
}

static void merge(struct vt_bitmap *to, const struct vt_bitmap *from, uint64_t size)
{
    for (uint64_t i = 0, end = granules(from, size); i < end; i++)
        if (from->dirty[i]) {
            uint64_t offset = i << from->granularity_bits;
            set(to, vd_range(offset, vd_min(UINT64_C(1) << from->granularity_bits, size - offset)));
        }
}

/* 0, or the errno value of who can not do it. */
static int act(struct vt_bitmap_model *model, const struct vdisk_bitmap_action *action,
               unsigned target, unsigned source, bool can_have)
{
    struct vt_bitmap *bitmap = &model->bitmaps[target];
    if (action->kind == VDISK_BITMAP_ADD) {
        if (!can_have)
            return ENOTSUP;
        if (bitmap->is_there)
            return EEXIST;
        memset(bitmap, 0, sizeof(*bitmap));
        bitmap->is_there = bitmap->is_enabled = true;
        bitmap->granularity_bits = (unsigned)__builtin_ctzll(action->granularity);
        return 0;
    }
    if (!bitmap->is_there || (action->source && !model->bitmaps[source].is_there))
        return ENOENT;
    if (action->kind == VDISK_BITMAP_REMOVE)
        bitmap->is_there = false;
    else if (action->kind == VDISK_BITMAP_CLEAR)
        memset(bitmap->dirty, 0, sizeof(bitmap->dirty));
    else if (action->kind == VDISK_BITMAP_MERGE)
        merge(bitmap, &model->bitmaps[source], model->size);
    else if (action->kind == VDISK_BITMAP_RECOVER)
        return EINVAL; /* it is consistent */
    else
        bitmap->is_enabled = action->kind == VDISK_BITMAP_ENABLE;
    return 0;
}

static enum vdisk_bitmap_action_kind draw_kind(bool is_there, struct vt_random *random)
{
    static const enum vdisk_bitmap_action_kind usual[] = {
        VDISK_BITMAP_CLEAR,  VDISK_BITMAP_CLEAR,   VDISK_BITMAP_ENABLE, VDISK_BITMAP_ENABLE,
        VDISK_BITMAP_ENABLE, VDISK_BITMAP_DISABLE, VDISK_BITMAP_MERGE,  VDISK_BITMAP_MERGE,
        VDISK_BITMAP_REMOVE, VDISK_BITMAP_REMOVE};
    if (vt_random_chance(random, 4))
        return VDISK_BITMAP_ADD + (enum vdisk_bitmap_action_kind)vt_random_below(random, 7);
    return is_there ? usual[vt_random_below(random, sizeof(usual) / sizeof(usual[0]))]
                    : VDISK_BITMAP_ADD;
}

bool vt_bitmap_model_change(struct vt_bitmap_model *model, struct vdisk_image *image,
                            struct vt_random *random, bool can_have)
{
    struct vdisk_bitmap_action actions[VT_BITMAP_ACTIONS] = {{0}};
    struct vt_bitmap_model *next = vt_calloc(1, sizeof(*next));
    struct vdisk_error err = {0};
    size_t count = 1 + vt_random_below(random, VT_BITMAP_ACTIONS);
    int wanted = 0;
    *next = *model;
    for (size_t i = 0; i < count; i++) {
        unsigned target = (unsigned)vt_random_below(random, VT_BITMAPS);
        unsigned source = (unsigned)vt_random_below(random, VT_BITMAPS);
        actions[i].name = names[target];
        actions[i].kind = draw_kind(next->bitmaps[target].is_there, random);
        if (actions[i].kind == VDISK_BITMAP_ADD)
            actions[i].granularity = UINT64_C(1) << draw_granularity(model, random);
        if (actions[i].kind == VDISK_BITMAP_MERGE)
            actions[i].source = names[source];
        if (wanted == 0)
            wanted = act(next, &actions[i], target, source, can_have);
    }
    int ret = vdisk_bitmap_change(image, actions, count, &err);
    if (ret != -wanted)
        fail_msg("a change of bitmaps: %d: %s; should be %d", ret, err.message, -wanted);
    if (wanted == 0)
        *model = *next;
    free(next);
    vt_bitmap_model_compare(model, image);
    return wanted == 0;
}
