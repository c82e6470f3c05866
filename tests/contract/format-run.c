/* SPDX-License-Identifier: MIT */
#include "format-run.h"

#include <inttypes.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/encode.h"
#include "util/iov.h"

#define IOV_MAX_ENTRIES 8

void vt_run_compare(struct vt_run *run)
{
    for (unsigned i = 0; i < run->model.window_entries; i++) {
        const struct vt_window *window = &run->model.windows[i];
        struct vd_range visible = vt_model_visible(&run->model, window);
        if (visible.length == 0)
            continue;
        VT_OK(vdisk_image_pread(run->image, run->buf, visible.length, visible.offset, &vt_err));
        assert_memory_equal(run->buf, window->bytes, visible.length);
    }
}

/* GOW: a block has a place in the file if and only if it is allocated. */
static void expect_allocated(const struct vdisk_extent *extent, uint64_t block, uint8_t flags)
{
    bool expected = (flags & VT_BLOCK_ALLOCATED) != 0;
    if (expected != ((extent->flags & VDISK_EXTENT_OFFSET) != 0))
        fail_msg("block %" PRIu64 " is %sallocated", block, expected ? "not " : "");
}

/* An overlay: what was changed is here, all else is behind. */
static void expect_depth(const struct vdisk_extent *extent, uint64_t block, uint8_t flags)
{
    if (flags & VT_BLOCK_LOOSE)
        return;
    if (((flags & VT_BLOCK_ALLOCATED) != 0) != (extent->depth == 0))
        fail_msg("block %" PRIu64 " is at depth %" PRIu32 ", flags 0x%x", block, extent->depth,
                 flags);
    if (extent->depth == 0)
        assert_true(extent->flags & VDISK_EXTENT_PRESENT);
}

/* Are the blocks of @extent where they should be? */
static void expect_places(struct vt_run *run, const struct vdisk_extent *extent)
{
    uint64_t unit = run->model.block_bytes;
    uint64_t end = extent->offset + extent->length;
    for (uint64_t at = extent->offset; at < end; at += unit - at % unit) {
        struct vt_window *window = NULL;
        uint64_t block = at / unit;
        for (unsigned i = 0; i < run->model.window_entries; i++)
            if (block - run->model.windows[i].first_block < run->model.windows[i].block_entries)
                window = &run->model.windows[i];
        uint8_t flags = window ? window->blocks[block - window->first_block] : 0;
        if (run->model.tracking == VT_TRACK_GOW)
            expect_allocated(extent, block, flags);
        else if (window)
            expect_depth(extent, block, flags);
        if (!window) /* from here to the next window it is all the same */
            return;
    }
}

static void expect_extent(struct vt_run *run, const struct vdisk_extent *extent, uint64_t offset,
                          uint64_t limit)
{
    bool data = (extent->flags & VDISK_EXTENT_DATA) != 0;
    bool zero = (extent->flags & VDISK_EXTENT_ZERO) != 0;
    assert_int_equal(extent->offset, offset);
    assert_true(extent->length > 0 && extent->length <= limit);
    assert_true(extent->depth < run->subject.stack.level_entries);
    assert_true(data != zero);
    if (extent->flags & VDISK_EXTENT_OFFSET)
        assert_non_null(extent->host_name);
    if (zero)
        assert_true(vt_model_is_zero(&run->model, vd_range(offset, extent->length)));
    if (run->model.tracking != VT_TRACK_NOTHING)
        expect_places(run, extent);
}

static void walk_range(struct vt_run *run, struct vd_range rest)
{
    while (rest.length) {
        struct vdisk_extent extent;
        VT_OK(vdisk_image_extent(run->image, rest.offset, rest.length, &extent, &vt_err));
        expect_extent(run, &extent, rest.offset, rest.length);
        rest = vd_range(rest.offset + extent.length, rest.length - extent.length);
    }
}

void vt_run_walk(struct vt_run *run)
{
    walk_range(run, vd_range(0, run->model.size));
}

/* Cuts @length bytes at @buf into a few buffers. */
static int draw_iov(struct vt_random *random, uint8_t *buf, size_t length, struct iovec *iov)
{
    int entries = (int)vt_random_below(random, IOV_MAX_ENTRIES) + 1;
    for (int i = 0; i < entries; i++) {
        size_t step = i == entries - 1 ? length : (size_t)vt_random_below(random, length / 2 + 1);
        iov[i] = (struct iovec){.iov_base = buf, .iov_len = step};
        buf += step;
        length -= step;
    }
    return entries;
}

static void announce(struct vt_run *run, struct vd_range guest)
{
    if (run->on_change && guest.length)
        run->on_change(run->opaque, guest);
}

static void op_write(struct vt_run *run, struct vd_range guest)
{
    struct iovec iov[IOV_MAX_ENTRIES];
    announce(run, guest);
    vt_random_fill(&run->random, run->buf, guest.length);
    if (vt_random_chance(&run->random, 5))
        memset(run->buf, 0, guest.length);
    int entries = draw_iov(&run->random, run->buf, guest.length, iov);
    VT_OK(vdisk_image_pwritev(run->image, iov, entries, guest.offset, &vt_err));
    vt_model_write(&run->model, guest, run->buf);
}

/* Compressed, where the image takes that. */
static void op_write_encoded(struct vt_run *run, struct vd_range guest)
{
    announce(run, guest);
    vt_encode_fill(&run->random, run->buf, guest.length);
    VT_OK(vt_write_encoded(run->image, guest, run->buf, &vt_err));
    vt_model_write(&run->model, guest, run->buf);
}

static void op_read(struct vt_run *run, struct vd_range guest)
{
    struct iovec iov[IOV_MAX_ENTRIES];
    const struct vt_window *window = vt_model_window(&run->model, guest.offset);
    memset(run->buf, 0x5a, guest.length);
    int entries = draw_iov(&run->random, run->buf, guest.length, iov);
    VT_OK(vdisk_image_preadv(run->image, iov, entries, guest.offset, &vt_err));
    assert_memory_equal(run->buf, window->bytes + (guest.offset - window->guest.offset),
                        guest.length);
}

static void op_zero(struct vt_run *run, struct vd_range guest, bool no_hole)
{
    announce(run, guest);
    VT_OK(vdisk_image_write_zeroes(run->image, guest.offset, guest.length,
                                   no_hole ? VDISK_ZERO_NO_HOLE : 0, &vt_err));
    vt_model_zero(&run->model, guest, no_hole);
}

static void op_discard(struct vt_run *run, struct vd_range guest)
{
    announce(run, guest);
    VT_OK(vdisk_image_discard(run->image, guest.offset, guest.length, &vt_err));
    for (unsigned i = 0; i < run->model.window_entries; i++) {
        struct vt_window *window = &run->model.windows[i];
        struct vd_range visible = vt_model_visible(&run->model, window);
        uint64_t unit = run->model.block_bytes;
        if (visible.length == 0 ||
            !vd_ranges_overlap(guest, vd_range(vd_round_down(window->guest.offset, unit),
                                               window->block_entries * unit)))
            continue;
        memset(run->buf, 0, window->guest.length);
        VT_OK(vdisk_image_pread(run->image, run->buf, visible.length, visible.offset, &vt_err));
        vt_model_discard(&run->model, guest, window, run->buf);
    }
}

/* From somewhere in one window to somewhere in a later one, if there is one. */
static struct vd_range draw_long(struct vt_run *run)
{
    struct vd_range a = vt_model_draw(&run->model, &run->random, run->request_max);
    struct vd_range b = vt_model_draw(&run->model, &run->random, run->request_max);
    if (a.length == 0 || b.length == 0)
        return vd_range(0, 0);
    uint64_t start = vd_min(a.offset, b.offset);
    return vd_range(start, vd_max(vd_range_end(a), vd_range_end(b)) - start);
}

uint64_t vt_run_draw_size(struct vt_run *run)
{
    uint64_t size;
    switch (vt_random_below(&run->random, 3)) {
    case 0:
        return run->size_max;
    case 1:
        return vt_random_below(&run->random, run->size_max / 512 + 1) * 512;
    default: /* not far from the end of what there is */
        size = run->model.size + vt_random_below(&run->random, 400) * 512;
        size -= vd_min(size, vt_random_below(&run->random, 800) * 512);
        return vd_min(size, run->size_max);
    }
}

static void op_resize(struct vt_run *run)
{
    uint64_t size = vt_run_draw_size(run);
    VT_OK(vdisk_image_resize(run->image, size, VDISK_PREALLOCATION_OFF, &vt_err));
    vt_model_resize(&run->model, size);
    assert_int_equal(vdisk_image_size(run->image), size);
}

#define DATA_OPS 998u

/* @dice: below DATA_OPS; @guest: on the disk */
static void data_op(struct vt_run *run, uint64_t dice, struct vd_range guest)
{
    if (dice < 120 && vt_takes_encoded(run->image))
        op_write_encoded(run, vt_random_chance(&run->random, 60)
                                  ? vt_model_whole_clusters(&run->model, guest)
                                  : guest);
    else if (dice < 380)
        op_write(run, guest);
    else if (dice < 720)
        op_read(run, guest);
    else if (dice < 840)
        op_zero(run, guest, vt_random_chance(&run->random, 40));
    else if (dice < 930)
        op_discard(run, guest);
    else if (dice < 940)
        op_zero(run, draw_long(run), false);
    else if (dice < 944)
        op_discard(run, draw_long(run));
    else if (dice < 988)
        walk_range(run, guest);
    else if (dice < 996)
        VT_OK(vdisk_image_flush(run->image, &vt_err));
    else
        vt_run_compare(run);
}

void vt_run_write_end(struct vt_run *run)
{
    struct vd_range end = vd_range(run->model.size - 1, 1);
    if (!vt_model_window(&run->model, end.offset))
        return;
    end = vt_model_whole_clusters(&run->model, end);
    if (vt_takes_encoded(run->image))
        op_write_encoded(run, end);
    else
        op_write(run, end);
}

void vt_run_data_op(struct vt_run *run)
{
    uint64_t dice = vt_random_below(&run->random, DATA_OPS);
    struct vd_range guest = vt_model_draw(&run->model, &run->random, run->request_max);
    if (guest.length)
        data_op(run, dice, guest);
}

static void one_op(struct vt_run *run)
{
    uint64_t dice = vt_random_below(&run->random, 1000);
    struct vd_range guest = vt_model_draw(&run->model, &run->random, run->request_max);
    run->ops_done++;
    if (guest.length == 0) { /* a window that the disk does not reach now */
        if (dice < 100)
            op_resize(run);
    } else if (dice < DATA_OPS) {
        data_op(run, dice, guest);
    } else {
        op_resize(run);
    }
}

static void expect_versions(struct vt_run *run)
{
    for (unsigned i = 0; i < run->model.window_entries; i++) {
        struct vt_window *window = &run->model.windows[i];
        uint32_t *now = vt_calloc(window->block_entries, sizeof(*now));
        vt_subject_versions(&run->subject, window->first_block, window->block_entries, now);
        for (uint32_t j = 0; j < window->block_entries; j++) {
            uint32_t step = now[j] - window->versions[j];
            uint8_t flags = window->blocks[j];
            if (step > 1 || (step == 0 && (flags & VT_BLOCK_TOUCHED)) ||
                (step == 1 && !(flags & (VT_BLOCK_TOUCHED | VT_BLOCK_UNSURE))))
                fail_msg("block %" PRIu64 ": version %u, then %u, flags 0x%x",
                         window->first_block + j, window->versions[j], now[j], flags);
            window->versions[j] = now[j];
        }
        free(now);
    }
}

static void expect_generation(struct vt_run *run)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_image *image = vt_subject_open(&run->subject, 0);
    VT_OK(vdisk_image_info(image, &info, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    uint64_t step = info.generation - run->generation;
    if (step > 1 || (step == 0 && run->model.changed) ||
        (step == 1 && !run->model.changed && !run->model.maybe_changed))
        fail_msg("generation %" PRIu64 ", then %" PRIu64, run->generation, info.generation);
    run->generation = info.generation;
}

static void close_and_check(struct vt_run *run)
{
    VT_OK(vdisk_image_close(run->image, &vt_err));
    run->image = NULL;
    vt_subject_expect_sound(&run->subject);
    if (run->model.tracking == VT_TRACK_GOW)
        expect_generation(run);
    if (strcmp(run->subject.stack.levels[0].format, "gow3") == 0)
        expect_versions(run);
    vt_model_session(&run->model);

    run->image = vt_subject_open(&run->subject, 0);
    assert_int_equal(vdisk_image_size(run->image), run->model.size);
    vt_run_compare(run);
    vt_run_walk(run);
    VT_OK(vdisk_image_close(run->image, &vt_err));
    run->image = NULL;
}

/* The images behind have data in the windows, and behind the end of this disk. */
static void create_subject(struct vt_run *run, const struct vt_stack *stack, enum vt_place place)
{
    struct vd_range windows[VT_WINDOWS_MAX];
    unsigned entries = run->model.window_entries;
    for (unsigned i = 0; i < entries; i++)
        windows[i] = run->model.windows[i].guest;
    windows[entries - 1].length += 5 * (uint64_t)run->model.cluster_bytes;
    vt_subject_create(&run->subject, stack, place, windows, entries);
}

void vt_run_begin(struct vt_run *run, const struct vt_stack *stack, enum vt_place place)
{
    run->size_max = stack->levels[0].size;
    vt_model_init(&run->model, stack);
    run->request_max = VT_WINDOW_CLUSTERS * (uint64_t)run->model.cluster_bytes;
    run->buf = vt_calloc(1, vt_model_window_bytes_max(&run->model));
    create_subject(run, stack, place);
}

void vt_run_end(struct vt_run *run)
{
    vt_subject_destroy(&run->subject);
    vt_model_free(&run->model);
    free(run->buf);
}

void vt_run_format(const char *name, enum vt_place place, uint64_t size, uint64_t ops,
                   uint64_t seed)
{
    struct vt_run run = {.random = {seed}};
    struct vt_stack stack;
    print_message("# %s on %s, %" PRIu64 " bytes: %" PRIu64 " operations, seed %" PRIu64 "\n", name,
                  vt_place_name(place), size, ops, seed);
    vt_stack_init(&stack, name, size, seed);
    vt_run_begin(&run, &stack, place);
    while (run.ops_done < ops) {
        /* Some sessions do nothing, or next to nothing. */
        uint64_t session = vt_random_chance(&run.random, 20)
                               ? vt_random_below(&run.random, 4)
                               : vt_random_below(&run.random, ops / 8 + 200);
        run.image = vt_subject_open(&run.subject, VDISK_OPEN_WRITE);
        for (uint64_t i = 0; i < session; i++)
            one_op(&run);
        close_and_check(&run);
        run.ops_done++;
    }
    vt_run_end(&run);
}
