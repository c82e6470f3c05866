/* SPDX-License-Identifier: MIT */
/*
 * Where zeros are, by block status (base:allocation).
 *
 * An answer is remembered, as whoever asks for extents walks through them.  It is forgotten when
 * this storage changes any of it, and not remembered if any change was under way while it was asked
 * for: it may be older than the change.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/nbd_priv.h"
#include "util/mem.h"

#define STATE_ZERO      2u                     /* of base:allocation: it reads as zeros */
#define AHEAD_BYTES     (64u << 20)            /* asked for at first */
#define AHEAD_BYTES_MAX (UINT32_MAX & ~65535u) /* a multiple of every unit */
#define FEW_RUNS        64u

/* What libnbd hands over. */
struct answer {
    const struct vd_nbd *nbd;
    struct vd_nbd_run *runs; /* VD_NBD_RUNS_MAX */
    size_t run_count;
    uint64_t asked;   /* offset */
    const char *flaw; /* or NULL */
};

/* The end of the last run. */
static uint64_t answer_end(const struct answer *answer)
{
    return answer->run_count ? answer->runs[answer->run_count - 1].end : answer->asked;
}

/* false: there is no room for it. */
static bool add_run(struct answer *answer, uint64_t end, enum vd_storage_extent_kind kind)
{
    struct vd_nbd_run *last = answer->run_count ? &answer->runs[answer->run_count - 1] : NULL;
    if (last && last->kind == kind) {
        last->end = end;
        return true;
    }
    if (answer->run_count == VD_NBD_RUNS_MAX)
        return false;
    answer->runs[answer->run_count++] = (struct vd_nbd_run){.end = end, .kind = kind};
    return true;
}

static int on_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                      size_t entry_count, int *error)
{
    struct answer *answer = opaque;
    (void)error;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    answer->run_count = 0; /* of a try whose connection was lost */
    answer->flaw = offset == answer->asked ? NULL : "it is about another place";
    uint64_t size = answer->nbd->facts.size;
    for (size_t i = 0; i + 1 < entry_count && !answer->flaw; i += 2) {
        uint64_t at = answer_end(answer);
        bool is_zero = (entries[i + 1] & STATE_ZERO) != 0;
        if (at == size)
            break;
        if (entries[i] == 0)
            answer->flaw = "an extent of no bytes";
        else if (!add_run(answer, vd_min(at + entries[i], size),
                          is_zero ? VD_STORAGE_HOLE : VD_STORAGE_DATA))
            break;
    }
    return 0;
}

static int ask(struct vd_nbd *nbd, struct answer *answer, uint64_t length, struct vdisk_error *err)
{
    struct vd_nbd_piece piece = {.range = vd_range(answer->asked, length)};
    struct vd_nbd_call call = {
        .op = VD_NBD_STATUS,
        .pieces = &piece,
        .piece_count = 1,
        .extent = {.callback = on_extents, .user_data = answer},
    };
    int ret = vd_nbd_run(nbd, &call, err);
    if (ret == 0 && !answer->flaw && !answer->run_count)
        answer->flaw = "no extents";
    if (ret == 0 && answer->flaw)
        return vd_err_set(err, EBADMSG,
                          "the server's block status of %" PRIu64 " bytes at offset %" PRIu64
                          " makes no sense: %s",
                          length, answer->asked, answer->flaw);
    return ret;
}

/* The run that holds @offset, which is before the end of the last one. */
static const struct vd_nbd_run *find_run(const struct vd_nbd_run *runs, size_t count,
                                         uint64_t offset)
{
    size_t low = 0;
    size_t high = count - 1;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (runs[middle].end <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return &runs[low];
}

static void set_extent(const struct vd_nbd_run *run, struct vd_range range,
                       struct vd_storage_extent *extent)
{
    extent->kind = run->kind;
    extent->length = vd_min(range.length, run->end - range.offset);
}

/* Is it remembered?  Else *ahead is how much to ask for, and *changes what has changed so far. */
static bool recall(struct vd_nbd_extents *extents, struct vd_range range,
                   struct vd_storage_extent *extent, uint64_t *ahead, uint64_t *changes)
{
    vd_mutex_lock(&extents->lock);
    bool is_known = extents->run_count && range.offset >= extents->start &&
                    range.offset < extents->runs[extents->run_count - 1].end;
    if (is_known)
        set_extent(find_run(extents->runs, extents->run_count, range.offset), range, extent);
    *ahead = extents->ahead_bytes ? extents->ahead_bytes : AHEAD_BYTES;
    *changes = extents->started;
    vd_mutex_unlock(&extents->lock);
    return is_known;
}

/* Takes answer->runs over, or leaves them. */
static void remember(struct vd_nbd_extents *extents, struct answer *answer, uint64_t asked_bytes,
                     uint64_t changes)
{
    bool is_whole = answer_end(answer) >= answer->asked + asked_bytes;
    vd_mutex_lock(&extents->lock);
    if (is_whole && answer->run_count <= FEW_RUNS)
        extents->ahead_bytes = vd_min(asked_bytes * 4, AHEAD_BYTES_MAX);
    else if (answer->run_count > VD_NBD_RUNS_MAX / 2)
        extents->ahead_bytes = AHEAD_BYTES;
    if (extents->started == changes && extents->ended == changes) {
        free(extents->runs);
        extents->runs = STEAL_PTR(answer->runs);
        extents->run_count = answer->run_count;
        extents->start = answer->asked;
    }
    vd_mutex_unlock(&extents->lock);
}

int vd_nbd_extent(struct vd_storage *storage, struct vd_range range,
                  struct vd_storage_extent *extent, struct vdisk_error *err)
{
    struct vd_nbd *nbd = storage->state;
    uint64_t ahead;
    uint64_t changes;
    uint64_t size = nbd->facts.size;
    if (!(nbd->facts.can & VD_NBD_CAN_EXTENTS) || range.offset >= size)
        return 0;
    if (recall(&nbd->extents, range, extent, &ahead, &changes))
        return 0;
    struct answer answer = {.nbd = nbd,
                            .asked = vd_round_down(range.offset, nbd->facts.min_bytes),
                            .runs = vd_alloc_array(VD_NBD_RUNS_MAX, sizeof(*answer.runs))};
    if (!answer.runs)
        return vd_err_nomem(err, "the extents of an export");
    uint64_t length = vd_min(ahead, size - answer.asked);
    struct vdisk_error failure = {0};
    int ret = ask(nbd, &answer, length, &failure);
    if (ret == 0 && answer_end(&answer) <= range.offset)
        ret = vd_err_set(&failure, EBADMSG, "the server's block status ends before its unit does");
    if (ret == 0) {
        set_extent(find_run(answer.runs, answer.run_count, range.offset), range, extent);
        remember(&nbd->extents, &answer, length, changes);
    } else if (ret == -EINVAL || ret == -ENOTSUP) {
        ret = 0; /* it does not tell here: all of it counts as data */
    }
    free(answer.runs);
    return ret < 0 ? vd_err_copy(err, &failure) : 0;
}

static void forget(struct vd_nbd_extents *extents, struct vd_range range)
{
    if (extents->run_count &&
        vd_ranges_overlap(
            range,
            vd_range(extents->start, extents->runs[extents->run_count - 1].end - extents->start)))
        extents->run_count = 0;
}

void vd_nbd_change_begin(struct vd_nbd_extents *extents, struct vd_range range)
{
    vd_mutex_lock(&extents->lock);
    extents->started++;
    forget(extents, range);
    vd_mutex_unlock(&extents->lock);
}

void vd_nbd_change_end(struct vd_nbd_extents *extents, struct vd_range range)
{
    vd_mutex_lock(&extents->lock);
    extents->ended++;
    forget(extents, range);
    vd_mutex_unlock(&extents->lock);
}
