/* SPDX-License-Identifier: MIT */
#include "drivers/crash.h"

#include <assert.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "storage/driver.h"
#include "util/iov.h"

#define SECTOR_BYTES 512u

/* A change since the last flush. */
struct change {
    enum vt_call call;     /* write, zero, discard, resize */
    struct vd_range range; /* resize: 0 and the new size */
    uint8_t *data;         /* write */
};

struct crash {
    vt_crash_hook hook; /* set before use */
    void *opaque;
    struct vd_mutex lock;
    struct vt_pages *durable; /* all below: under lock */
    struct vt_pages *current; /* durable with all of the log applied in order */
    struct change *log;
    size_t log_entries;
    size_t log_capacity;
    uint64_t flushes;
    uint32_t ignore_period;
    uint32_t ignore_index;
};

static void log_clear(struct crash *crash)
{
    for (size_t i = 0; i < crash->log_entries; i++)
        free(crash->log[i].data);
    crash->log_entries = 0;
}

static void crash_close(struct vd_storage *storage)
{
    struct crash *crash = storage->state;
    log_clear(crash);
    free(crash->log);
    vt_pages_free(crash->durable);
    vt_pages_free(crash->current);
    vd_mutex_destroy(&crash->lock);
    free(crash);
}

static void grow(struct vt_pages *pages, uint64_t end)
{
    if (end > vt_pages_size(pages))
        vt_pages_resize(pages, end);
}

/* Applies the part of @change that lies in @part: all of it, or some sectors. */
static void apply_part(struct vt_pages *pages, const struct change *change, struct vd_range part)
{
    switch (change->call) {
    case VT_WRITE:
        grow(pages, vd_range_end(part));
        vt_pages_write(pages, change->data + (part.offset - change->range.offset), part);
        break;
    case VT_ZERO:
        grow(pages, vd_range_end(part));
        vt_pages_zero(pages, part);
        break;
    case VT_DISCARD:
        if (part.offset < vt_pages_size(pages))
            vt_pages_zero(pages, vd_range(part.offset,
                                          vd_min(part.length, vt_pages_size(pages) - part.offset)));
        break;
    default:
        assert(change->call == VT_RESIZE);
        vt_pages_resize(pages, change->range.length);
    }
}

static void apply(struct vt_pages *pages, const struct change *change)
{
    apply_part(pages, change, change->range);
}

/* C2, C3: some of the sectors; the size may be kept although its data is not. */
static void apply_torn(struct vt_pages *pages, const struct change *change,
                       struct vt_random *random)
{
    if (change->call == VT_RESIZE) {
        if (vt_random_chance(random, 50))
            apply(pages, change);
        return;
    }
    struct vd_range rest = change->range;
    while (rest.length) {
        uint64_t step = vd_min(rest.length, SECTOR_BYTES - rest.offset % SECTOR_BYTES);
        if (vt_random_chance(random, 50))
            apply_part(pages, change, vd_range(rest.offset, step));
        rest = vd_range(rest.offset + step, rest.length - step);
    }
    if (change->call != VT_DISCARD && vt_random_chance(random, 50))
        grow(pages, vd_range_end(change->range));
}

/* C3: the change is lost, yet the size may be there. */
static void apply_size_only(struct vt_pages *pages, const struct change *change,
                            struct vt_random *random)
{
    if ((change->call == VT_WRITE || change->call == VT_ZERO) && vt_random_chance(random, 30))
        grow(pages, vd_range_end(change->range));
}

static void run_hook(struct vd_storage *storage, enum vt_call call)
{
    const struct crash *crash = storage->state;
    if (crash->hook)
        crash->hook(crash->opaque, storage, call);
}

static int change_now(struct vd_storage *storage, struct change change)
{
    struct crash *crash = storage->state;
    run_hook(storage, change.call);
    vd_mutex_lock(&crash->lock);
    crash->log =
        vt_reserve(crash->log, &crash->log_capacity, crash->log_entries + 1, sizeof(*crash->log));
    crash->log[crash->log_entries++] = change;
    apply(crash->current, &change);
    vd_mutex_unlock(&crash->lock);
    return 0;
}

static int crash_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    struct crash *crash = storage->state;
    vd_mutex_lock(&crash->lock);
    *size = vt_pages_size(crash->current);
    vd_mutex_unlock(&crash->lock);
    return 0;
}

static int crash_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    struct crash *crash = storage->state;
    int ret = 0;
    vd_mutex_lock(&crash->lock);
    uint64_t size = vt_pages_size(crash->current);
    for (int i = 0; i < iov_entries && ret == 0; i++) {
        struct vd_range range = vd_range(offset, iov[i].iov_len);
        if (vd_range_is_within(range, size))
            vt_pages_read(crash->current, iov[i].iov_base, range);
        else
            ret = vd_err_set(err, EIO, "end of storage at offset %llu", (unsigned long long)size);
        offset += iov[i].iov_len;
    }
    vd_mutex_unlock(&crash->lock);
    return ret;
}

static int crash_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                         uint64_t offset, struct vdisk_error *err)
{
    (void)err;
    size_t length = vd_iov_length(iov, iov_entries);
    uint8_t *data = vt_calloc(1, length);
    vd_iov_to_buffer(data, length, iov, 0);
    return change_now(storage, (struct change){
                                   .call = VT_WRITE,
                                   .range = vd_range(offset, length),
                                   .data = data,
                               });
}

static int crash_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                              struct vdisk_error *err)
{
    (void)flags;
    (void)err;
    return change_now(storage, (struct change){.call = VT_ZERO, .range = range});
}

static int crash_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    (void)err;
    return change_now(storage, (struct change){.call = VT_DISCARD, .range = range});
}

static int crash_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    (void)err;
    return change_now(storage, (struct change){.call = VT_RESIZE, .range = vd_range(0, size)});
}

/* C1 */
static int crash_flush(struct vd_storage *storage, struct vdisk_error *err)
{
    (void)err;
    struct crash *crash = storage->state;
    run_hook(storage, VT_FLUSH);
    vd_mutex_lock(&crash->lock);
    bool ignored =
        crash->ignore_period && crash->flushes % crash->ignore_period == crash->ignore_index;
    crash->flushes++;
    if (!ignored && crash->log_entries) {
        vt_pages_free(crash->durable);
        crash->durable = vt_pages_clone(crash->current);
        log_clear(crash);
    }
    vd_mutex_unlock(&crash->lock);
    return 0;
}

static int crash_extent(struct vd_storage *storage, struct vd_range range,
                        struct vd_storage_extent *extent, struct vdisk_error *err)
{
    (void)err;
    struct crash *crash = storage->state;
    vd_mutex_lock(&crash->lock);
    bool data = vt_pages_extent(crash->current, range, &extent->length);
    vd_mutex_unlock(&crash->lock);
    extent->kind = data ? VD_STORAGE_DATA : VD_STORAGE_HOLE;
    return 0;
}

static const struct vd_storage_driver crash_driver = {
    .name = "crash",
    .close = crash_close,
    .size = crash_size,
    .preadv = crash_preadv,
    .pwritev = crash_pwritev,
    .write_zeroes = crash_write_zeroes,
    .discard = crash_discard,
    .flush = crash_flush,
    .resize = crash_resize,
    .extent = crash_extent,
};

int vt_crash_open(struct vt_pages *durable, struct vd_storage **storage, struct vdisk_error *err)
{
    struct vd_storage *st = NULL;
    int ret = vd_storage_new(&crash_driver, "crash", &st, err);
    if (ret < 0) {
        vt_pages_free(durable);
        return ret;
    }
    struct crash *crash = vt_calloc(1, sizeof(*crash));
    vd_mutex_init(&crash->lock);
    crash->durable = durable;
    crash->current = vt_pages_clone(durable);
    st->state = crash;
    st->flags = VD_STORAGE_WRITE;
    st->caps = VD_STORAGE_CAN_WRITE | VD_STORAGE_CAN_RESIZE | VD_STORAGE_CAN_DISCARD |
               VD_STORAGE_CAN_EXTENTS | VD_STORAGE_FAST_ZEROES;
    *storage = st;
    return 0;
}

static struct crash *crash_of(struct vd_storage *storage)
{
    assert(storage->driver == &crash_driver);
    return storage->state;
}

void vt_crash_set_hook(struct vd_storage *storage, vt_crash_hook hook, void *opaque)
{
    struct crash *crash = crash_of(storage);
    crash->hook = hook;
    crash->opaque = opaque;
}

const char *vt_cut_name(enum vt_cut cut)
{
    static const char *const names[VT_CUTS] = {
        [VT_CUT_DROP_ALL] = "drop-all",       [VT_CUT_KEEP_ALL] = "keep-all",
        [VT_CUT_ALL_BUT_ONE] = "all-but-one", [VT_CUT_ONLY_ONE] = "only-one",
        [VT_CUT_SUBSET] = "subset",           [VT_CUT_TORN] = "torn",
        [VT_CUT_REORDERED] = "reordered",
    };
    return names[cut];
}

/* The order in which the log is gone through: as it is, or shuffled.  For free(). */
static size_t *make_order(size_t entries, bool shuffled, struct vt_random *random)
{
    size_t *order = vt_calloc(entries, sizeof(*order));
    for (size_t i = 0; i < entries; i++) {
        size_t j = shuffled ? (size_t)vt_random_below(random, i + 1) : i;
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

/* How often a change is kept: rarely, in half of the cases, nearly always. */
static unsigned draw_keep_percent(struct vt_random *random)
{
    static const unsigned percents[] = {8, 50, 92};
    return percents[vt_random_below(random, sizeof(percents) / sizeof(percents[0]))];
}

static void apply_drawn(struct vt_pages *pages, const struct change *change, unsigned keep_percent,
                        bool may_tear, struct vt_random *random)
{
    if (may_tear && vt_random_chance(random, 40))
        apply_torn(pages, change, random);
    else if (vt_random_chance(random, keep_percent))
        apply(pages, change);
    else
        apply_size_only(pages, change, random);
}

static void apply_log(struct vt_pages *pages, const struct crash *crash, enum vt_cut cut,
                      struct vt_random *random)
{
    size_t entries = crash->log_entries;
    if (cut == VT_CUT_DROP_ALL || entries == 0)
        return;

    size_t *order = make_order(entries, cut == VT_CUT_REORDERED, random);
    size_t chosen = (size_t)vt_random_below(random, entries);
    unsigned keep_percent = draw_keep_percent(random);
    for (size_t i = 0; i < entries; i++) {
        const struct change *change = &crash->log[order[i]];
        if (cut == VT_CUT_KEEP_ALL || (cut == VT_CUT_ALL_BUT_ONE && i != chosen) ||
            (cut == VT_CUT_ONLY_ONE && i == chosen))
            apply(pages, change);
        else if (cut >= VT_CUT_SUBSET)
            apply_drawn(pages, change, keep_percent, cut != VT_CUT_SUBSET, random);
    }
    free(order);
}

int vt_crash_cut(struct vd_storage *storage, enum vt_cut cut, uint64_t seed,
                 struct vd_storage **state, struct vdisk_error *err)
{
    struct crash *crash = crash_of(storage);
    struct vt_random random = {seed};
    vd_mutex_lock(&crash->lock);
    struct vt_pages *pages = vt_pages_clone(crash->durable);
    apply_log(pages, crash, cut, &random);
    vd_mutex_unlock(&crash->lock);
    return vt_snap_open_pages(pages, state, err);
}

size_t vt_crash_pending(struct vd_storage *storage)
{
    struct crash *crash = crash_of(storage);
    vd_mutex_lock(&crash->lock);
    size_t pending = crash->log_entries;
    vd_mutex_unlock(&crash->lock);
    return pending;
}

uint64_t vt_crash_flushes(struct vd_storage *storage)
{
    struct crash *crash = crash_of(storage);
    vd_mutex_lock(&crash->lock);
    uint64_t flushes = crash->flushes;
    vd_mutex_unlock(&crash->lock);
    return flushes;
}

void vt_crash_ignore_flushes(struct vd_storage *storage, uint32_t period, uint32_t index)
{
    struct crash *crash = crash_of(storage);
    assert(period == 0 || index < period);
    vd_mutex_lock(&crash->lock);
    crash->ignore_period = period;
    crash->ignore_index = index;
    vd_mutex_unlock(&crash->lock);
}
