/* SPDX-License-Identifier: MIT */
#include "crash-run.h"

#include <inttypes.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/fault.h"
#include "drivers/snap.h"
#include "format/format.h"
#include "image/image.h"

#define WRITE_MAX (2u * VT_LEDGER_BLOCK_BYTES)

/* ---- Cutting the power --------------------------------------------------------------------- */

static void free_consumers(struct vt_consumers *consumers)
{
    for (unsigned i = 0; i < consumers->entries; i++)
        vt_consumer_free(&consumers->all[i]);
    consumers->entries = 0;
}

/* The next round may begin with @state.  Its consumers are those of now: later ones are of a future
 * that did not come. */
static void keep_for_next(struct vt_crash_run *run, struct vd_storage *state)
{
    vd_storage_close(run->next);
    VT_OK(vt_snap_clone(state, &run->next, &vt_err));
    free_consumers(&run->next_consumers);
    for (unsigned i = 0; i < run->consumers.entries; i++)
        vt_consumer_copy(&run->next_consumers.all[i], &run->consumers.all[i], &run->ledger);
    run->next_consumers.entries = run->consumers.entries;
}

static void cut_once(struct vt_crash_run *run, struct vd_storage *storage, enum vt_call call,
                     enum vt_cut cut)
{
    struct vt_crash_site site = {.call = call, .cut = cut, .seed = vt_random_next(&run->dice)};
    struct vd_storage *state;
    VT_OK(vt_crash_cut(storage, cut, site.seed, &state, &vt_err));
    /* Each state of a round is as likely as the others to be where the next round begins. */
    if (vt_random_below(&run->dice, ++run->next_weight) == 0)
        keep_for_next(run, state);
    vt_crash_check_state(run, state, &site);
}

static void cut_here(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct vt_crash_run *run = opaque;
    size_t pending = vt_crash_pending(storage);
    run->tally->cuts++;
    cut_once(run, storage, call, VT_CUT_DROP_ALL);
    if (pending == 0)
        return;
    cut_once(run, storage, call, VT_CUT_KEEP_ALL);
    for (unsigned i = 0; i < run->plan->draws; i++) {
        cut_once(run, storage, call, VT_CUT_TORN);
        if (pending == 1) /* the others have nothing new to show */
            continue;
        cut_once(run, storage, call, VT_CUT_ALL_BUT_ONE);
        cut_once(run, storage, call, VT_CUT_ONLY_ONE);
        cut_once(run, storage, call, VT_CUT_SUBSET);
        cut_once(run, storage, call, VT_CUT_REORDERED);
    }
}

/* ---- The workload -------------------------------------------------------------------------- */

/* Within the newest size of the disk, beginning in a window. */
static struct vd_range draw(struct vt_crash_run *run)
{
    const struct vt_ledger_window *window;
    uint64_t size = run->ledger.sizes[1];
    do
        window = &run->ledger.windows[vt_random_below(&run->random, VT_LEDGER_WINDOWS)];
    while (window->guest.offset >= size);
    uint64_t end = vd_min(vd_range_end(window->guest), size);

    uint64_t length = vt_random_below(&run->random, WRITE_MAX) + 1;
    switch (vt_random_below(&run->random, 4)) {
    case 0:
        length = VT_LEDGER_BLOCK_BYTES;
        break;
    case 1:
        length = vd_round_up(length % 16384, 4096) + 4096;
        break;
    case 2:
        length = length % 3000 + 1;
    }
    length = vd_min(length, end - window->guest.offset);
    uint64_t offset = window->guest.offset +
                      vt_random_below(&run->random, end - window->guest.offset - length + 1);
    if (vt_random_chance(&run->random, 50)) {
        static const uint64_t units[] = {512, 4096, VT_LEDGER_BLOCK_BYTES, VT_LEDGER_BLOCK_BYTES};
        offset = vd_round_down(offset, units[vt_random_below(&run->random, 4)]);
    }
    return vd_range(offset, length);
}

static void op_write(struct vt_crash_run *run)
{
    struct vd_range guest = draw(run);
    run->op = "write";
    vt_random_fill(&run->random, run->buf, guest.length);
    vt_ledger_change(&run->ledger, guest, run->buf);
    VT_OK(vdisk_image_pwrite(run->image, run->buf, guest.length, guest.offset, &vt_err));
}

static void op_zero(struct vt_crash_run *run)
{
    struct vd_range guest = draw(run);
    unsigned flags = vt_random_chance(&run->random, 30) ? VDISK_ZERO_NO_HOLE : 0;
    run->op = "zero";
    vt_ledger_change(&run->ledger, guest, NULL);
    VT_OK(vdisk_image_write_zeroes(run->image, guest.offset, guest.length, flags, &vt_err));
}

/* The workload reads what it wrote; what a discard did is known only afterwards. */
static void read_back(struct vt_crash_run *run, bool adopt)
{
    VT_OK(vt_crash_read_windows(run, run->image, run->buf, &vt_err));
    if (adopt)
        vt_ledger_adopt(&run->ledger, run->buf);
    else if (!vt_ledger_is_newest(&run->ledger, run->buf, run->ledger.sizes[1]))
        fail_msg("the image does not read as written before operation %" PRIu64, run->op_number);
}

static void op_discard(struct vt_crash_run *run)
{
    struct vd_range guest = draw(run);
    run->op = "discard";
    if (vt_random_chance(&run->random, 4))
        guest = vd_range(0, run->ledger.sizes[1]);
    read_back(run, false);
    vt_ledger_change(&run->ledger, guest, NULL);
    VT_OK(vdisk_image_discard(run->image, guest.offset, guest.length, &vt_err));
    read_back(run, true);
}

static void op_flush(struct vt_crash_run *run)
{
    run->op = "flush";
    VT_OK(vdisk_image_flush(run->image, &vt_err));
    vt_ledger_flushed(&run->ledger);
}

static void op_resize(struct vt_crash_run *run)
{
    const struct vd_range last = run->ledger.windows[VT_LEDGER_WINDOWS - 1].guest;
    static const uint64_t cuts[] = {0,
                                    512,
                                    5 * 512,
                                    VT_LEDGER_BLOCK_BYTES,
                                    VT_LEDGER_BLOCK_BYTES + 512,
                                    3 * VT_LEDGER_BLOCK_BYTES};
    uint64_t before = run->ledger.sizes[1];
    uint64_t size = vd_range_end(last) - cuts[vt_random_below(&run->random, 6)];
    run->op = "resize";
    run->ledger.sizes[0] = before;
    run->ledger.sizes[1] = size;
    struct vd_range cut = vd_range(size, size < before ? before - size : 0);
    vt_ledger_change(&run->ledger, cut, NULL);
    VT_OK(vdisk_image_resize(run->image, size, VDISK_PREALLOCATION_OFF, &vt_err));
    run->ledger.sizes[0] = size;
    vt_ledger_flushed_range(&run->ledger, cut);
}

static void open_session(struct vt_crash_run *run)
{
    struct vd_storage *borrowed;
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = VDISK_OPEN_WRITE, .format = run->plan->format};
    run->op = "open";
    VT_OK(vt_fault_open(run->crash, VT_BORROW, &borrowed, &vt_err));
    VT_OK(vd_image_open_on(borrowed, &options, &run->image, &vt_err));
}

/* The newest consumer replaces one of those that there are, but never the first. */
static void add_consumer(struct vt_crash_run *run)
{
    unsigned index = run->consumers.entries;
    if (strcmp(run->plan->format, "gow3") != 0)
        return;
    if (index == VT_CONSUMERS)
        index = 1 + (unsigned)vt_random_below(&run->random, VT_CONSUMERS - 1);
    else
        run->consumers.entries++;
    vt_consumer_sync(&run->consumers.all[index], &run->ledger, run->crash, run->buf);
}

/* It has the empty image, and nothing else until the very end. */
static void add_first_consumer(struct vt_crash_run *run, const struct vt_pages *durable)
{
    VT_OK(vt_snap_open_pages(vt_pages_clone(durable), &run->crash, &vt_err));
    memset(run->buf, 0, run->ledger.bytes);
    add_consumer(run);
    if (run->plan->sync_every && run->consumers.entries)
        vt_real_sync_begin(&run->real, run->crash);
    vd_storage_close(run->crash);
}

static void close_session(struct vt_crash_run *run)
{
    run->op = "close";
    VT_OK(vt_crash_read_windows(run, run->image, run->buf, &vt_err));
    VT_OK(vdisk_image_close(run->image, &vt_err));
    run->image = NULL;
    vt_ledger_flushed(&run->ledger);
    add_consumer(run);
    cut_here(run, run->crash, VT_FLUSH); /* at rest */
}

static void one_op(struct vt_crash_run *run)
{
    uint64_t dice = vt_random_below(&run->random, 100);
    if (dice < 60)
        op_write(run);
    else if (dice < 72)
        op_zero(run);
    else if (dice < 83)
        op_discard(run);
    else if (dice < 92)
        op_flush(run);
    else if (dice < 94)
        op_resize(run);
    else if (dice < 97)
        read_back(run, false);
    else {
        close_session(run);
        open_session(run);
    }
}

/* ---- Rounds -------------------------------------------------------------------------------- */

static struct vt_pages *create_image(const struct vt_crash_plan *plan)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = plan->size};
    const struct vd_format_driver *driver = vd_format_find(plan->format, NULL);
    struct vd_storage *snap;
    assert_non_null(driver);
    VT_OK(vt_snap_open(0, &snap, &vt_err));
    VT_OK(vd_format_create(driver, snap, NULL, &options, &vt_err));
    struct vt_pages *pages = vt_snap_pages(snap);
    vd_storage_close(snap);
    vt_pages_merge(pages); /* of the map, which every check reads */
    return pages;
}

/* What the next round begins with is known by reading it: only that is durable now. */
static struct vt_pages *adopt_state(struct vt_crash_run *run)
{
    struct vdisk_image *image;
    VT_OK(vt_crash_open_clone(run, run->next, 0, &image, &vt_err));
    VT_OK(vt_crash_read_windows(run, image, run->buf, &vt_err));
    vt_ledger_adopt(&run->ledger, run->buf);
    run->ledger.sizes[1] = vdisk_image_size(image);
    vt_ledger_flushed(&run->ledger);
    VT_OK(vdisk_image_close(image, &vt_err));
    struct vt_pages *pages = vt_snap_pages(run->next);
    vd_storage_close(run->next);
    run->next = NULL;
    free_consumers(&run->consumers);
    run->consumers = run->next_consumers;
    run->next_consumers = (struct vt_consumers){.entries = 0};
    return pages;
}

static void one_round(struct vt_crash_run *run, struct vt_pages *durable, uint64_t ops)
{
    VT_OK(vt_crash_open(durable, &run->crash, &vt_err));
    vt_crash_ignore_flushes(run->crash, run->plan->ignore_period, run->plan->ignore_index);
    vt_crash_set_hook(run->crash, cut_here, run);
    run->next_weight = 0;
    open_session(run);
    for (uint64_t i = 0; i < ops; i++, run->op_number++)
        one_op(run);
    close_session(run);
    vd_storage_close(run->crash);
}

void vt_crash_run(const struct vt_crash_plan *plan, struct vt_crash_tally *tally)
{
    struct vt_crash_run run = {.plan = plan,
                               .tally = tally,
                               .random = {plan->seed},
                               .dice = {vt_mix(plan->seed)},
                               .op = "create"};
    vt_ledger_init(&run.ledger, plan->size);
    run.buf = vt_calloc(1, run.ledger.bytes);
    run.before = vt_calloc(1, run.ledger.bytes);
    run.after = vt_calloc(1, run.ledger.bytes);

    struct vt_pages *durable = create_image(plan);
    add_first_consumer(&run, durable);
    while (run.op_number < plan->ops) {
        one_round(&run, durable, vd_min(plan->round_ops, plan->ops - run.op_number));
        durable = tally->violations ? NULL : adopt_state(&run);
        if (!durable) /* an image that is broken already is no place to begin */
            break;
    }
    vt_pages_free(durable);
    vd_storage_close(run.next);
    free_consumers(&run.consumers);
    free_consumers(&run.next_consumers);
    vt_real_sync_end(&run.real);
    vt_ledger_free(&run.ledger);
    free(run.buf);
    free(run.before);
    free(run.after);
}
