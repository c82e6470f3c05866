/* SPDX-License-Identifier: MIT */
#include "crash-run.h"

#include <inttypes.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/encode.h"
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

void vt_crash_files_close(struct vt_crash_files *files)
{
    for (unsigned i = 0; i < VT_STACK_FILES_MAX; i++)
        vd_storage_close(files->all[i]);
    *files = (struct vt_crash_files){0};
}

/* The next round may begin with @state.  Its consumers are those of now: later ones are of a future
 * that did not come. */
static void keep_for_next(struct vt_crash_run *run, const struct vt_crash_files *state)
{
    vt_crash_files_close(&run->next);
    for (unsigned i = 0; i < run->stack.file_entries; i++)
        VT_OK(vt_snap_clone(state->all[i], &run->next.all[i], &vt_err));
    free_consumers(&run->next_consumers);
    for (unsigned i = 0; i < run->consumers.entries; i++)
        vt_consumer_copy(&run->next_consumers.all[i], &run->consumers.all[i], &run->ledger);
    run->next_consumers.entries = run->consumers.entries;
}

/* @site: but for the seed */
static void cut_once(struct vt_crash_run *run, struct vt_crash_site site)
{
    struct vt_crash_files state = {0};
    site.seed = vt_random_next(&run->dice);
    for (unsigned i = 0; i < run->stack.file_entries; i++)
        VT_OK(vt_crash_cut(run->crash.all[i], site.cuts[i], vt_mix(site.seed + i), &state.all[i],
                           &vt_err));
    /* Each state of a round is as likely as the others to be where the next round begins. */
    if (vt_random_below(&run->dice, ++run->next_weight) == 0)
        keep_for_next(run, &state);
    vt_crash_check_state(run, &state, &site);
}

/* The same kind for all files. */
static void cut_all(struct vt_crash_run *run, enum vt_call call, enum vt_cut cut)
{
    struct vt_crash_site site = {.call = call};
    for (unsigned i = 0; i < VT_STACK_FILES_MAX; i++)
        site.cuts[i] = cut;
    cut_once(run, site);
}

/* @cut for one of the files, and something else for the others. */
static void cut_mixed(struct vt_crash_run *run, enum vt_call call, unsigned file, enum vt_cut cut)
{
    struct vt_crash_site site = {.call = call};
    for (unsigned i = 0; i < VT_STACK_FILES_MAX; i++)
        site.cuts[i] = (enum vt_cut)vt_random_below(&run->dice, VT_CUTS);
    site.cuts[file] = cut;
    cut_once(run, site);
}

/* States of several files that have something to lose. */
static void cut_several(struct vt_crash_run *run, enum vt_call call, const size_t *pending)
{
    for (unsigned i = 0; i < run->stack.file_entries; i++) {
        struct vt_crash_site site = {.call = call};
        if (pending[i] == 0)
            continue;
        for (unsigned j = 0; j < VT_STACK_FILES_MAX; j++)
            site.cuts[j] = j == i ? VT_CUT_KEEP_ALL : VT_CUT_DROP_ALL;
        cut_once(run, site);
        for (unsigned j = 0; j < run->plan->draws; j++) {
            cut_mixed(run, call, i, VT_CUT_TORN);
            cut_mixed(run, call, i, VT_CUT_REORDERED);
            cut_mixed(run, call, i, VT_CUT_SUBSET);
        }
    }
}

/* Of a run that has to find something wrong, one thing is enough. */
static bool has_noticed(const struct vt_crash_run *run)
{
    return run->plan->ignore_period && run->tally->violations;
}

static void cut_here(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct vt_crash_run *run = opaque;
    size_t pending[VT_STACK_FILES_MAX] = {0}, all = 0;
    unsigned changed = 0;
    (void)storage;
    if (has_noticed(run))
        return;
    for (unsigned i = 0; i < run->stack.file_entries; i++) {
        pending[i] = vt_crash_pending(run->crash.all[i]);
        all += pending[i];
        changed += pending[i] > 0;
    }
    run->tally->cuts++;
    cut_all(run, call, VT_CUT_DROP_ALL);
    if (all == 0)
        return;
    cut_all(run, call, VT_CUT_KEEP_ALL);
    for (unsigned i = 0; i < run->plan->draws; i++) {
        cut_all(run, call, VT_CUT_TORN);
        if (all == 1) /* the others have nothing new to show */
            continue;
        cut_all(run, call, VT_CUT_ALL_BUT_ONE);
        cut_all(run, call, VT_CUT_ONLY_ONE);
        cut_all(run, call, VT_CUT_SUBSET);
        cut_all(run, call, VT_CUT_REORDERED);
    }
    if (changed > 1)
        cut_several(run, call, pending);
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

/* Compressed, where the image takes that. */
static void op_write_encoded(struct vt_crash_run *run)
{
    struct vd_range guest = draw(run);
    run->op = "write encoded";
    vt_encode_fill(&run->random, run->buf, guest.length);
    vt_ledger_change(&run->ledger, guest, run->buf);
    VT_OK(vt_write_encoded(run->image, guest, run->buf, &vt_err));
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

/* The backing file gets its other name; it is the same file, so the disk stays as it is. */
static void op_rename(struct vt_crash_run *run)
{
    const struct vt_stack_level *behind = &run->stack.levels[1];
    char name[200];
    struct vd_backing backing = {.name = name, .format = behind->format};
    if (!vt_stack_has_backing(&run->stack))
        return;
    run->op = "set backing";
    run->has_alias = !run->has_alias;
    snprintf(name, sizeof(name), "%s%s", run->has_alias ? VT_STACK_ALIAS_PREFIX : "",
             vt_stack_file_name(&run->stack, behind->file));
    VT_OK(vd_format_set_backing(vd_image_format(run->image), &backing, &vt_err));
}

/* All data of the image itself goes: each byte is as it was, or what is behind has it. */
static void op_empty(struct vt_crash_run *run)
{
    uint8_t *at = run->buf;
    if (!vt_stack_has_backing(&run->stack))
        return;
    run->op = "empty";
    for (unsigned i = 0; i < VT_LEDGER_WINDOWS; i++) {
        struct vd_range guest = run->ledger.windows[i].guest;
        uint64_t end = vd_min(vd_range_end(guest), run->ledger.sizes[1]);
        memset(at, 0, guest.length);
        if (end > guest.offset)
            vt_stack_read_backing(&run->stack, vd_range(guest.offset, end - guest.offset), at);
        at += guest.length;
    }
    vt_ledger_adopt(&run->ledger, run->buf);
    VT_OK(vd_format_empty(vd_image_format(run->image), &vt_err));
    vt_ledger_flushed(&run->ledger);
    read_back(run, false);
}

static void open_session(struct vt_crash_run *run)
{
    run->op = "open";
    VT_OK(vt_crash_open_image(run, &run->crash, VDISK_OPEN_WRITE, &run->image, &vt_err));
}

/* The newest consumer replaces one of those that there are, but never the first. */
static void add_consumer(struct vt_crash_run *run)
{
    unsigned index = run->consumers.entries;
    if (strcmp(run->stack.levels[0].format, "gow3") != 0)
        return;
    if (index == VT_CONSUMERS)
        index = 1 + (unsigned)vt_random_below(&run->random, VT_CONSUMERS - 1);
    else
        run->consumers.entries++;
    vt_consumer_sync(&run->consumers.all[index], &run->ledger, run->crash.all[0], run->buf);
}

/* It has the empty image, and nothing else until the very end. */
static void add_first_consumer(struct vt_crash_run *run, const struct vt_pages *durable)
{
    VT_OK(vt_snap_open_pages(vt_pages_clone(durable), &run->crash.all[0], &vt_err));
    memset(run->buf, 0, run->ledger.bytes);
    add_consumer(run);
    if (run->plan->sync_every && run->consumers.entries)
        vt_real_sync_begin(&run->real, run->crash.all[0]);
    vt_crash_files_close(&run->crash);
}

static void close_session(struct vt_crash_run *run)
{
    run->op = "close";
    VT_OK(vt_crash_read_windows(run, run->image, run->buf, &vt_err));
    VT_OK(vdisk_image_close(run->image, &vt_err));
    run->image = NULL;
    vt_ledger_flushed(&run->ledger);
    add_consumer(run);
    cut_here(run, NULL, VT_FLUSH); /* at rest */
}

static void one_op(struct vt_crash_run *run)
{
    uint64_t dice = vt_random_below(&run->random, 100);
    if (dice < 20 && vt_takes_encoded(run->image))
        op_write_encoded(run);
    else if (dice < 60)
        op_write(run);
    else if (dice < 72)
        op_zero(run);
    else if (dice < 83)
        op_discard(run);
    else if (dice < 92)
        op_flush(run);
    else if (dice < 94)
        op_resize(run);
    else if (dice < 95)
        op_rename(run);
    else if (dice < 97)
        read_back(run, false);
    else if (dice < 98 && vt_random_chance(&run->random, 30))
        op_empty(run);
    else {
        close_session(run);
        open_session(run);
    }
}

/* ---- Rounds -------------------------------------------------------------------------------- */

/* The content of the files of a stack. */
struct content {
    struct vt_pages *all[VT_STACK_FILES_MAX]; /* NULL: no such file */
};

static int open_snap(void *opaque, unsigned file, bool writable, struct vd_storage **storage,
                     struct vdisk_error *err)
{
    const struct vt_crash_files *files = opaque;
    (void)writable;
    return vt_fault_open(files->all[file], VT_BORROW, storage, err);
}

/* The images, and what the disk reads as, which is in the ledger too. */
static struct content create_image(struct vt_crash_run *run)
{
    struct content content = {{0}};
    struct vt_crash_files snaps = {0};
    struct vt_stack_files files = {.open = open_snap, .opaque = &snaps};
    struct vd_range windows[VT_LEDGER_WINDOWS];
    uint8_t *at = run->buf;
    for (unsigned i = 0; i < VT_LEDGER_WINDOWS; i++) {
        windows[i] = run->ledger.windows[i].guest;
        vt_stack_read_backing(&run->stack, windows[i], at);
        at += windows[i].length;
    }
    vt_ledger_adopt(&run->ledger, run->buf);
    vt_ledger_flushed(&run->ledger);

    /* Images behind go on where this one ends. */
    windows[VT_LEDGER_WINDOWS - 1].length += 5 * VT_LEDGER_BLOCK_BYTES;
    for (unsigned i = 0; i < run->stack.file_entries; i++)
        VT_OK(vt_snap_open(0, &snaps.all[i], &vt_err));
    vt_stack_create_on(&run->stack, &files, windows, VT_LEDGER_WINDOWS);
    for (unsigned i = 0; i < run->stack.file_entries; i++) {
        content.all[i] = vt_snap_pages(snaps.all[i]);
        vt_pages_merge(content.all[i]); /* of the map, which every check reads */
    }
    vt_crash_files_close(&snaps);
    return content;
}

/* What the next round begins with is known by reading it: only that is durable now. */
static struct content adopt_state(struct vt_crash_run *run)
{
    struct content content = {{0}};
    struct vdisk_image *image;
    VT_OK(vt_crash_open_image(run, &run->next, 0, &image, &vt_err));
    VT_OK(vt_crash_read_windows(run, image, run->buf, &vt_err));
    vt_ledger_adopt(&run->ledger, run->buf);
    run->ledger.sizes[1] = vdisk_image_size(image);
    vt_ledger_flushed(&run->ledger);
    VT_OK(vdisk_image_close(image, &vt_err));
    for (unsigned i = 0; i < run->stack.file_entries; i++)
        content.all[i] = vt_snap_pages(run->next.all[i]);
    vt_crash_files_close(&run->next);
    free_consumers(&run->consumers);
    run->consumers = run->next_consumers;
    run->next_consumers = (struct vt_consumers){.entries = 0};
    return content;
}

/* @durable is used up. */
static void one_round(struct vt_crash_run *run, const struct content *durable, uint64_t ops)
{
    for (unsigned i = 0; i < run->stack.file_entries; i++) {
        struct vd_storage **crash = &run->crash.all[i];
        VT_OK(vt_crash_open(durable->all[i], crash, &vt_err));
        if (run->plan->ignore_file == VT_STACK_NONE || run->plan->ignore_file == i)
            vt_crash_ignore_flushes(*crash, run->plan->ignore_period, run->plan->ignore_index);
    }
    for (unsigned i = 0; i < run->stack.file_entries; i++)
        vt_crash_set_hook(run->crash.all[i], cut_here, run);
    run->next_weight = 0;
    open_session(run);
    for (uint64_t i = 0; i < ops && !has_noticed(run); i++, run->op_number++)
        one_op(run);
    close_session(run);
    vt_crash_files_close(&run->crash);
}

void vt_crash_run(const struct vt_crash_plan *plan, struct vt_crash_tally *tally)
{
    struct vt_crash_run run = {.plan = plan,
                               .tally = tally,
                               .random = {plan->seed},
                               .dice = {vt_mix(plan->seed)},
                               .op = "create"};
    vt_ledger_init(&run.ledger, plan->size);
    vt_stack_init(&run.stack, plan->stack, plan->size, plan->seed);
    run.buf = vt_calloc(1, run.ledger.bytes);
    run.before = vt_calloc(1, run.ledger.bytes);
    run.after = vt_calloc(1, run.ledger.bytes);

    struct content durable = create_image(&run);
    add_first_consumer(&run, durable.all[0]);
    while (run.op_number < plan->ops) {
        one_round(&run, &durable, vd_min(plan->round_ops, plan->ops - run.op_number));
        durable = (struct content){{0}};
        if (tally->violations) /* an image that is broken already is no place to begin */
            break;
        durable = adopt_state(&run);
    }
    for (unsigned i = 0; i < VT_STACK_FILES_MAX; i++)
        vt_pages_free(durable.all[i]);
    vt_crash_files_close(&run.next);
    free_consumers(&run.consumers);
    free_consumers(&run.next_consumers);
    vt_real_sync_end(&run.real);
    vt_ledger_free(&run.ledger);
    free(run.buf);
    free(run.before);
    free(run.after);
}
