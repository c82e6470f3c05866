/* SPDX-License-Identifier: MIT */
#include "format-model.h"

#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "util/iov.h"

static void add_window(struct vt_model *model, uint64_t start, uint64_t end)
{
    struct vt_window *window = &model->windows[model->window_entries++];
    window->guest = vd_range(start, end - start);
    window->first_block = start / model->block_bytes;
    window->block_entries =
        (uint32_t)(vd_div_up(end, model->block_bytes) - start / model->block_bytes);
    window->bytes = vt_calloc(1, window->guest.length);
    window->blocks = vt_calloc(window->block_entries, sizeof(*window->blocks));
    window->versions = vt_calloc(window->block_entries, sizeof(*window->versions));
}

uint64_t vt_model_window_bytes_max(const struct vt_model *model)
{
    return (uint64_t)VT_WINDOWS_MAX * VT_WINDOW_CLUSTERS * model->cluster_bytes;
}

static void add_windows(struct vt_model *model, uint64_t size, uint64_t region)
{
    uint64_t block = model->cluster_bytes;
    uint64_t window = VT_WINDOW_CLUSTERS * block;
    if (size <= VT_WINDOWS_MAX * window) {
        add_window(model, 0, size);
        return;
    }
    /* The start, the borders of the first regions, and the end. */
    uint64_t last = vd_round_down(size - window, block);
    uint64_t begun = window - 1234;
    add_window(model, 0, begun);
    for (uint64_t border = region; border <= 2 * region; border += region)
        if (border - 4 * block > begun + block && border + window < last)
            add_window(model, border - 4 * block + 333, border + 4 * block + 7);
    add_window(model, last + 1000, size);
}

void vt_model_init(struct vt_model *model, const struct vt_stack *stack)
{
    *model = (struct vt_model){.size = stack->levels[0].size,
                               .block_bytes = vt_stack_block_bytes(stack),
                               .cluster_bytes = vt_stack_cluster_bytes(stack)};
    if (strncmp(stack->levels[0].format, "gow", 3) == 0)
        model->tracking = VT_TRACK_GOW;
    else if (vt_stack_has_backing(stack))
        model->tracking = VT_TRACK_OVERLAY;
    add_windows(model, model->size, vt_stack_region_bytes(stack));
    for (unsigned i = 0; i < model->window_entries; i++)
        vt_stack_read_backing(stack, model->windows[i].guest, model->windows[i].bytes);
}

void vt_model_free(struct vt_model *model)
{
    for (unsigned i = 0; i < model->window_entries; i++) {
        free(model->windows[i].bytes);
        free(model->windows[i].blocks);
        free(model->windows[i].versions);
    }
}

static struct vd_range intersect(struct vd_range a, struct vd_range b)
{
    uint64_t start = vd_max(a.offset, b.offset);
    uint64_t end = vd_min(vd_range_end(a), vd_range_end(b));
    return start < end ? vd_range(start, end - start) : vd_range(start, 0);
}

struct vd_range vt_model_visible(const struct vt_model *model, const struct vt_window *window)
{
    return intersect(window->guest, vd_range(0, model->size));
}

static uint64_t draw_length(struct vt_random *random, uint64_t block, uint64_t limit)
{
    uint64_t length;
    switch (vt_random_below(random, 8)) {
    case 0:
        length = vt_random_below(random, 16) + 1;
        break;
    case 1:
    case 2:
        length = (vt_random_below(random, 16) + 1) * 512;
        break;
    case 3:
    case 4:
        length = (vt_random_below(random, 8) + 1) * 4096;
        break;
    case 5:
        length = (vt_random_below(random, 3) + 1) * block;
        break;
    default:
        length = vt_random_below(random, 3 * block) + 1;
    }
    return vd_min(length, limit);
}

struct vd_range vt_model_draw(const struct vt_model *model, struct vt_random *random,
                              uint64_t length_max)
{
    const struct vt_window *window =
        &model->windows[vt_random_below(random, model->window_entries)];
    struct vd_range visible = vt_model_visible(model, window);
    if (visible.length == 0)
        return visible;

    uint64_t unit = model->block_bytes;
    if (unit != model->cluster_bytes && vt_random_chance(random, 50))
        unit = model->cluster_bytes;
    uint64_t length = draw_length(random, unit, vd_min(length_max, visible.length));
    uint64_t offset = visible.offset + vt_random_below(random, visible.length - length + 1);
    if (vt_random_chance(random, 60)) { /* at corners of sectors, pages and blocks */
        const uint64_t units[] = {512, 4096, model->block_bytes, model->cluster_bytes};
        uint64_t aligned = vd_round_down(offset, units[vt_random_below(random, 4)]);
        if (aligned >= visible.offset)
            offset = aligned;
    }
    return vd_range(offset, length);
}

struct vd_range vt_model_whole_clusters(struct vt_model *model, struct vd_range guest)
{
    struct vt_window *window = vt_model_window(model, guest.offset);
    return intersect(vd_range_expand(guest, model->cluster_bytes), vt_model_visible(model, window));
}

struct vt_window *vt_model_window(struct vt_model *model, uint64_t offset)
{
    for (unsigned i = 0; i < model->window_entries; i++)
        if (vd_ranges_overlap(model->windows[i].guest, vd_range(offset, 1)))
            return &model->windows[i];
    return NULL;
}

static uint8_t *bytes_at(struct vt_window *window, uint64_t offset)
{
    return window->bytes + (offset - window->guest.offset);
}

/* The bytes of the disk that block @index of @window has. */
static struct vd_range block_range(const struct vt_model *model, const struct vt_window *window,
                                   uint32_t index)
{
    return intersect(
        vd_range((window->first_block + index) * model->block_bytes, model->block_bytes),
        vd_range(0, model->size));
}

static bool covers(struct vd_range outer, struct vd_range inner)
{
    return inner.length && outer.offset <= inner.offset &&
           vd_range_end(outer) >= vd_range_end(inner);
}

static void touch(struct vt_model *model, uint8_t *block)
{
    *block |= VT_BLOCK_TOUCHED;
    model->changed = true;
}

static void blocks_written(struct vt_model *model, struct vt_window *window, struct vd_range guest)
{
    for (uint32_t i = 0; i < window->block_entries; i++)
        if (intersect(block_range(model, window, i), guest).length) {
            touch(model, &window->blocks[i]);
            window->blocks[i] |= VT_BLOCK_ALLOCATED;
            window->blocks[i] &= (uint8_t)~VT_BLOCK_LOOSE;
        }
}

void vt_model_write(struct vt_model *model, struct vd_range guest, const void *data)
{
    struct vt_window *window = vt_model_window(model, guest.offset);
    if (guest.length == 0)
        return;
    assert_true(covers(window->guest, guest));
    memcpy(bytes_at(window, guest.offset), data, guest.length);
    blocks_written(model, window, guest);
}

static void blocks_zeroed(struct vt_model *model, struct vt_window *window, struct vd_range guest)
{
    for (uint32_t i = 0; i < window->block_entries; i++) {
        struct vd_range block = block_range(model, window, i);
        if (!(window->blocks[i] & VT_BLOCK_ALLOCATED) || !intersect(block, guest).length)
            continue;
        touch(model, &window->blocks[i]);
        if (covers(guest, block))
            window->blocks[i] &= (uint8_t)~VT_BLOCK_ALLOCATED;
    }
}

void vt_model_zero(struct vt_model *model, struct vd_range guest, bool no_hole)
{
    for (unsigned i = 0; i < model->window_entries; i++) {
        struct vt_window *window = &model->windows[i];
        struct vd_range part = intersect(window->guest, guest);
        if (part.length)
            memset(bytes_at(window, part.offset), 0, part.length);
        if (no_hole || model->tracking == VT_TRACK_OVERLAY) /* zeros hide what is behind, too */
            blocks_written(model, window, guest);
        else
            blocks_zeroed(model, window, guest);
    }
}

/* An overlay of another size now: what is in the image for blocks that are not whole in both? */
static void blocks_resized(const struct vt_model *model, struct vt_window *window, uint64_t size)
{
    uint64_t common = vd_min(size, model->size);
    for (uint32_t j = 0; j < window->block_entries; j++) {
        uint64_t start = (window->first_block + j) * model->block_bytes;
        if (start + model->block_bytes <= common ||
            (start < common && (window->blocks[j] & VT_BLOCK_ALLOCATED)))
            continue;
        window->blocks[j] &= (uint8_t)~VT_BLOCK_ALLOCATED;
        window->blocks[j] |= VT_BLOCK_LOOSE;
    }
}

void vt_model_resize(struct vt_model *model, uint64_t size)
{
    struct vd_range cut = vd_range(size, size < model->size ? model->size - size : 0);
    if (size != model->size)
        model->changed = true;
    for (unsigned i = 0; i < model->window_entries; i++) {
        struct vt_window *window = &model->windows[i];
        struct vd_range part = intersect(window->guest, cut);
        if (part.length)
            memset(bytes_at(window, part.offset), 0, part.length);
        if (model->tracking == VT_TRACK_OVERLAY) {
            blocks_resized(model, window, size);
            continue;
        }
        for (uint32_t j = 0; j < window->block_entries; j++) {
            struct vd_range block = block_range(model, window, j);
            if (!(window->blocks[j] & VT_BLOCK_ALLOCATED))
                continue;
            if (covers(cut, block)) {
                touch(model, &window->blocks[j]);
                window->blocks[j] &= (uint8_t)~VT_BLOCK_ALLOCATED;
            } else if (intersect(block, cut).length || size > model->size) {
                window->blocks[j] |= VT_BLOCK_UNSURE; /* zeroed behind the end, now or then */
            }
        }
    }
    model->size = size;
}

static void discard_bytes(struct vt_window *window, struct vd_range part, const uint8_t *now)
{
    for (uint64_t i = part.offset - window->guest.offset, end = i + part.length; i < end; i++)
        if (now[i] != 0 && now[i] != window->bytes[i])
            fail_msg("discard made byte %llu %u, it was %u",
                     (unsigned long long)(window->guest.offset + i), now[i], window->bytes[i]);
    memcpy(bytes_at(window, part.offset), now + (part.offset - window->guest.offset), part.length);
}

void vt_model_discard(struct vt_model *model, struct vd_range guest, struct vt_window *window,
                      const uint8_t *now)
{
    for (uint32_t i = 0; model->tracking != VT_TRACK_NOTHING && i < window->block_entries; i++) {
        struct vd_range block = block_range(model, window, i);
        struct vd_range mine = intersect(block, window->guest);
        if (!intersect(block, guest).length)
            continue;
        if (model->tracking == VT_TRACK_OVERLAY) {
            if (!(window->blocks[i] & VT_BLOCK_ALLOCATED))
                window->blocks[i] |= VT_BLOCK_LOOSE;
            continue;
        }
        if (covers(guest, block)) {
            assert_true(vd_buffer_is_zero(now + (mine.offset - window->guest.offset), mine.length));
            if (window->blocks[i] & VT_BLOCK_ALLOCATED)
                touch(model, &window->blocks[i]);
            window->blocks[i] &= (uint8_t)~VT_BLOCK_ALLOCATED;
        } else if (window->blocks[i] & VT_BLOCK_ALLOCATED) {
            window->blocks[i] |= VT_BLOCK_UNSURE;
            model->maybe_changed = true;
        }
    }
    struct vd_range part = intersect(window->guest, guest);
    if (part.length)
        discard_bytes(window, part, now);
}

bool vt_model_is_zero(struct vt_model *model, struct vd_range guest)
{
    for (unsigned i = 0; i < model->window_entries; i++) {
        struct vd_range part = intersect(model->windows[i].guest, guest);
        if (part.length &&
            !vd_buffer_is_zero(bytes_at(&model->windows[i], part.offset), part.length))
            return false;
    }
    return true;
}

void vt_model_session(struct vt_model *model)
{
    model->changed = false;
    model->maybe_changed = false;
    for (unsigned i = 0; i < model->window_entries; i++)
        for (uint32_t j = 0; j < model->windows[i].block_entries; j++)
            model->windows[i].blocks[j] &= VT_BLOCK_ALLOCATED | VT_BLOCK_LOOSE;
}
