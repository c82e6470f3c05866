/* SPDX-License-Identifier: MIT */
/* Persistent bitmaps: recording, and facts.  D1-D5: qcow2_bitmap.h. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/bitmaps.h"
#include "format/qcow2/qcow2_bitmap_state.h"
#include "format/qcow2/qcow2_write.h"
#include "util/mem.h"

int vd_qcow2_bitmaps_open(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vd_qcow2_dirty *dirty = calloc(1, sizeof(*dirty));
    if (!dirty)
        return vd_err_nomem(err, "the bitmaps of an image");
    vd_mutex_init(&dirty->lock);
    dirty->budget.bytes_max = VD_QCOW2_BITMAP_MEMORY_MAX;
    qcow2->dirty = dirty;
    return 0;
}

int vd_qcow2_pieces_new(struct vd_qcow2 *qcow2, size_t count, struct vd_qcow2_pieces *pieces,
                        struct vdisk_error *err)
{
    struct vd_bitmap_budget *budget = &qcow2->dirty->budget;
    int ret = vd_bitmap_budget_take(budget, count * sizeof(*pieces->values), err);
    if (ret < 0)
        return ret;
    uint64_t *values = vd_alloc_array(count, sizeof(*values));
    if (!values) {
        vd_bitmap_budget_give(budget, count * sizeof(*values));
        return vd_err_nomem(err, "the table of a bitmap");
    }
    *pieces = (struct vd_qcow2_pieces){.values = values, .count = count};
    return 0;
}

void vd_qcow2_pieces_free(struct vd_qcow2 *qcow2, struct vd_qcow2_pieces *pieces)
{
    if (pieces->values)
        vd_bitmap_budget_give(&qcow2->dirty->budget, pieces->count * sizeof(*pieces->values));
    free(pieces->values);
    *pieces = (struct vd_qcow2_pieces){0};
}

void vd_qcow2_bitmap_free(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap)
{
    if (!bitmap)
        return;
    vd_bitmap_free(bitmap->bits);
    vd_bitmap_free(bitmap->resized);
    vd_qcow2_pieces_free(qcow2, &bitmap->table);
    vd_qcow2_pieces_free(qcow2, &bitmap->fresh);
    free(bitmap->entry.name);
    free(bitmap);
}

void vd_qcow2_list_free(struct vd_qcow2 *qcow2, struct vd_qcow2_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        vd_qcow2_bitmap_free(qcow2, list->bitmaps[i]);
    free(list->bitmaps);
    *list = (struct vd_qcow2_list){0};
}

struct vd_qcow2_bitmap *vd_qcow2_list_find(const struct vd_qcow2_list *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->bitmaps[i]->entry.name, name) == 0)
            return list->bitmaps[i];
    return NULL;
}

void vd_qcow2_bitmaps_free(struct vd_qcow2 *qcow2)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    if (!dirty)
        return;
    vd_qcow2_list_free(qcow2, &dirty->list);
    free(dirty->recording);
    vd_mutex_destroy(&dirty->lock);
    free(dirty);
    qcow2->dirty = NULL;
}

bool vd_qcow2_has_bitmaps(const struct vd_qcow2 *qcow2)
{
    return qcow2->header.bitmaps.is_present;
}

int vd_qcow2_bitmap_count_pieces(const struct vd_qcow2 *qcow2, const char *name,
                                 uint32_t granularity_bits, uint64_t size, size_t *count,
                                 struct vdisk_error *err)
{
    uint32_t cluster_bits = qcow2->geometry.cluster_bits;
    uint64_t entries = vd_qcow2_bitmap_table_entries(size, granularity_bits, cluster_bits);
    if (entries == 0)
        return vd_err_set(err, EINVAL, "bitmap '%s': a disk of 0 bytes has nothing to track", name);
    if (entries << cluster_bits > VD_QCOW2_BITMAP_DATA_BYTES_MAX)
        return vd_err_set(err, EFBIG,
                          "bitmap '%s': with a granularity of %" PRIu64
                          " bytes it would take %" PRIu64 " bytes for a disk of %" PRIu64
                          ": at most %" PRIu64,
                          name, UINT64_C(1) << granularity_bits, entries << cluster_bits, size,
                          VD_QCOW2_BITMAP_DATA_BYTES_MAX);
    *count = (size_t)entries;
    return 0;
}

static bool is_recording(const struct vd_qcow2_bitmap *bitmap)
{
    return bitmap->is_valid && (bitmap->entry.flags & VD_QCOW2_BITMAP_AUTO);
}

/* W5: a place that bitmaps have is nobody else's. */
static int check_refcounts(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                           struct vdisk_error *err)
{
    int ret = 0;
    for (uint64_t i = 0; i < clusters && ret == 0; i++) {
        uint64_t at = host + (i << qcow2->geometry.cluster_bits);
        uint64_t refcount = 0;
        ret = vd_qcow2_refcount(qcow2, at, &refcount, err);
        if (ret == 0 && refcount != 1)
            ret = vd_err_set(err, EBADMSG,
                             "%s: the cluster at 0x%" PRIx64 ", which bitmaps have, has refcount "
                             "%" PRIu64 ": must be 1: run vdisk check -r all",
                             vd_storage_name(qcow2->file), at, refcount);
    }
    return ret;
}

/* W5: nor is it other metadata. */
static int check_place(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                       struct vdisk_error *err)
{
    int ret = vd_qcow2_check_place(qcow2, host, clusters, "bitmaps", err);
    return ret < 0 ? ret : check_refcounts(qcow2, host, clusters, err);
}

int vd_qcow2_bitmap_table_claim(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                                struct vdisk_error *err)
{
    int ret = vd_qcow2_bitmap_table_load(qcow2, bitmap, err);
    for (size_t i = 0; i < bitmap->table.count && ret == 0; i++) {
        enum vd_qcow2_bitmap_piece piece;
        uint64_t host;
        if (vd_qcow2_bitmap_piece_decode(bitmap->table.values[i], qcow2->geometry.cluster_bits,
                                         &piece, &host) &&
            piece == VD_QCOW2_BITMAP_DATA)
            ret = check_place(qcow2, host, 1, err);
    }
    return ret;
}

/* What a bitmap needs before bits are set in it. */
static int prepare_to_record(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                             struct vdisk_error *err)
{
    int ret = vd_qcow2_bitmap_bits_load(qcow2, bitmap, err);
    if (ret == 0 && bitmap->is_in_file)
        ret = vd_qcow2_bitmap_table_claim(qcow2, bitmap, err);
    if (ret == 0 && !bitmap->fresh.values)
        ret = vd_qcow2_pieces_new(qcow2, bitmap->table.count, &bitmap->fresh, err);
    return ret;
}

/* The overlap check knows it from now on. */
static int tell_place(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                      struct vdisk_error *err)
{
    return vd_qcow2_meta_add(qcow2, VD_QCOW2_META_BITMAPS, host, clusters, err);
}

typedef int (*place_fn)(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                        struct vdisk_error *err);

/* Calls @directory, and @table for each, that are in the file. */
static int visit_places(struct vd_qcow2 *qcow2, place_fn directory, place_fn table,
                        struct vdisk_error *err)
{
    const struct vd_qcow2_list *list = &qcow2->dirty->list;
    const struct vd_qcow2_bitmaps_extension *place = &qcow2->header.bitmaps;
    int ret = 0;
    if (qcow2->dirty->is_trusted && place->is_present)
        ret = directory(qcow2, place->directory_offset,
                        vd_qcow2_clusters(&qcow2->geometry, place->directory_bytes), err);
    for (size_t i = 0; i < list->count && ret == 0; i++) {
        const struct vd_qcow2_bitmap *bitmap = list->bitmaps[i];
        if (bitmap->is_in_file)
            ret = table(qcow2, bitmap->entry.table_offset,
                        vd_qcow2_table_clusters(qcow2, bitmap->entry.table_entries), err);
    }
    return ret;
}

int vd_qcow2_bitmap_list_claim(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    int ret = vd_qcow2_bitmap_list_load(qcow2, err);
    if (ret == 0 && !dirty->is_checked) {
        /* The overlap check knows the directory already, as the header leads to it. */
        ret = visit_places(qcow2, check_refcounts, check_place, err);
        dirty->is_checked = ret == 0; /* what is stored later has places of its own */
    }
    return ret < 0 ? ret : visit_places(qcow2, tell_place, tell_place, err);
}

/* Some messages tell of the file, and others of what is in it. */
static int name_file(const struct vd_qcow2 *qcow2, int ret, struct vdisk_error *err)
{
    const char *name = vd_storage_name(qcow2->file);
    bool is_named = err && strncmp(err->message, name, strlen(name)) == 0;
    return ret == 0 || is_named ? ret : vd_err_prefix(err, ret, "%s: ", name);
}

int vd_qcow2_bitmaps_claim(struct vd_qcow2 *qcow2, bool with_tables, struct vdisk_error *err)
{
    const struct vd_qcow2_bitmaps_extension *place = &qcow2->header.bitmaps;
    struct vd_qcow2_list *list = &qcow2->dirty->list;
    if (!place->is_present || place->is_draft)
        return 0;
    vd_mutex_lock(&qcow2->dirty->lock);
    int ret = vd_qcow2_bitmap_list_claim(qcow2, err);
    for (size_t i = 0; i < list->count && ret == 0 && with_tables; i++)
        if (list->bitmaps[i]->is_valid && list->bitmaps[i]->is_in_file)
            ret = vd_qcow2_bitmap_table_claim(qcow2, list->bitmaps[i], err);
    vd_mutex_unlock(&qcow2->dirty->lock);
    return name_file(qcow2, ret, err);
}

/* Finds those that record, loads their bits, and marks them in the file: D1. */
static int begin_recording(struct vd_qcow2 *qcow2, struct vdisk_error *err)
    VD_REQUIRES(qcow2->dirty->lock)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    int ret = vd_qcow2_bitmap_list_claim(qcow2, err);
    if (ret < 0)
        return ret;
    free(dirty->recording);
    dirty->recording_count = 0;
    dirty->recording = vd_alloc_array(dirty->list.count, sizeof(struct vd_qcow2_bitmap *));
    if (!dirty->recording)
        return vd_err_nomem(err, "the bitmaps of an image");
    for (size_t i = 0; i < dirty->list.count; i++) {
        struct vd_qcow2_bitmap *bitmap = dirty->list.bitmaps[i];
        if (!is_recording(bitmap))
            continue;
        ret = prepare_to_record(qcow2, bitmap, err);
        if (ret < 0)
            return ret;
        dirty->recording[dirty->recording_count++] = bitmap;
    }
    if (dirty->recording_count == 0) {
        atomic_store(&dirty->state, VD_QCOW2_DIRTY_NONE);
        return 0;
    }
    ret = vd_qcow2_bitmap_mark(qcow2, is_recording, err);
    if (ret == 0)
        atomic_store(&dirty->state, VD_QCOW2_DIRTY_RECORDING);
    return ret;
}

/* The bits of @guest in one bitmap: D2. */
static int record_in(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap, struct vd_range guest,
                     struct vdisk_error *err)
{
    if (vd_bitmap_has(bitmap->bits, guest))
        return 0;
    vd_mutex_lock(&qcow2->dirty->lock);
    int ret = vd_qcow2_bitmap_reserve(qcow2, bitmap, guest, err);
    if (ret == 0)
        ret = vd_bitmap_set(bitmap->bits, guest, err);
    vd_mutex_unlock(&qcow2->dirty->lock);
    return ret < 0 ? vd_err_prefix(err, ret, "bitmap '%s': ", bitmap->entry.name) : ret;
}

int vd_qcow2_record(struct vd_qcow2 *qcow2, struct vd_range guest, struct vdisk_error *err)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    int state = atomic_load_explicit(&dirty->state, memory_order_acquire);
    int ret = 0;
    if (state == VD_QCOW2_DIRTY_NONE || !qcow2->header.bitmaps.is_present)
        return 0;
    if (state == VD_QCOW2_DIRTY_UNKNOWN) {
        vd_mutex_lock(&qcow2->dirty->lock);
        if (atomic_load(&dirty->state) == VD_QCOW2_DIRTY_UNKNOWN)
            ret = begin_recording(qcow2, err);
        vd_mutex_unlock(&qcow2->dirty->lock);
        if (ret < 0)
            return name_file(qcow2, ret, err);
        if (atomic_load(&dirty->state) == VD_QCOW2_DIRTY_NONE)
            return 0;
    }
    for (size_t i = 0; i < dirty->recording_count && ret == 0; i++)
        ret = record_in(qcow2, dirty->recording[i], guest, err);
    return ret;
}

bool vd_qcow2_is_recorded(const struct vd_qcow2 *qcow2, struct vd_range guest)
{
    const struct vd_qcow2_dirty *dirty = qcow2->dirty;
    int state = atomic_load_explicit(&dirty->state, memory_order_acquire);
    if (state == VD_QCOW2_DIRTY_NONE || !qcow2->header.bitmaps.is_present)
        return true;
    if (state == VD_QCOW2_DIRTY_UNKNOWN)
        return false;
    for (size_t i = 0; i < dirty->recording_count; i++)
        if (!vd_bitmap_has(dirty->recording[i]->bits, guest))
            return false;
    return true;
}

/* --- another size ------------------------------------------------------------------------------
 */

static bool is_valid(const struct vd_qcow2_bitmap *bitmap)
{
    return bitmap->is_valid;
}

/*
 * The cluster that the disk ends in loses what was behind the end.  Where the disk becomes longer
 * again there are zeros, which nobody has written: what records has to have them.
 */
static int record_edge(const struct vd_qcow2 *qcow2, struct vd_bitmap *bits, uint64_t size,
                       struct vdisk_error *err)
{
    uint64_t old = qcow2->format->size;
    if (size < old) {
        bool is_cut = !vd_is_aligned(size, UINT64_C(1) << vd_bitmap_granularity_bits(bits));
        return is_cut ? vd_bitmap_set(bits, vd_range(size - 1, 1), err) : 0;
    }
    uint64_t end = vd_min(size, vd_round_up(old, qcow2->geometry.cluster_bytes));
    return end > old ? vd_bitmap_set(bits, vd_range(old, end - old), err) : 0;
}

/* The bits for a disk of @size bytes, and places for all of them. */
static int prepare_to_resize(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap, uint64_t size,
                             struct vdisk_error *err) VD_REQUIRES(qcow2->dirty->lock)
{
    const char *name = bitmap->entry.name;
    size_t count;
    int ret = vd_qcow2_bitmap_count_pieces(qcow2, name, bitmap->entry.granularity_bits, size,
                                           &count, err);
    if (ret == 0)
        ret = vd_qcow2_bitmap_bits_load(qcow2, bitmap, err);
    if (ret == 0 && bitmap->is_in_file)
        ret = vd_qcow2_bitmap_table_claim(qcow2, bitmap, err);
    if (ret == 0)
        ret = vd_bitmap_copy(bitmap->bits, &bitmap->resized, err);
    if (ret == 0)
        ret = vd_bitmap_resize(bitmap->resized, size, err);
    if (ret == 0 && is_recording(bitmap))
        ret = record_edge(qcow2, bitmap->resized, size, err);
    vd_qcow2_pieces_free(qcow2, &bitmap->fresh);
    if (ret == 0)
        ret = vd_qcow2_pieces_new(qcow2, count, &bitmap->fresh, err);
    if (ret == 0)
        ret = vd_qcow2_bitmap_reserve_all(qcow2, bitmap, bitmap->resized, err);
    return ret;
}

/* As before vd_qcow2_bitmaps_resize(), but for the marks. */
static void forget_resized(struct vd_qcow2 *qcow2)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    for (size_t i = 0; i < dirty->list.count; i++) {
        struct vd_qcow2_bitmap *bitmap = dirty->list.bitmaps[i];
        vd_bitmap_free(bitmap->resized);
        bitmap->resized = NULL;
        vd_qcow2_bitmap_unreserve(qcow2, bitmap);
        vd_qcow2_pieces_free(qcow2, &bitmap->fresh);
    }
}

static int resize_all(struct vd_qcow2 *qcow2, uint64_t size, struct vdisk_error *err)
    VD_REQUIRES(qcow2->dirty->lock)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    int ret = vd_qcow2_bitmap_list_claim(qcow2, err);
    bool has_valid = false;
    for (size_t i = 0; i < dirty->list.count && ret == 0; i++)
        if (dirty->list.bitmaps[i]->is_valid) {
            has_valid = true;
            ret = prepare_to_resize(qcow2, dirty->list.bitmaps[i], size, err);
        }
    if (ret == 0 && has_valid)
        ret = vd_qcow2_bitmap_mark(qcow2, is_valid, err); /* D5 */
    if (ret < 0)
        forget_resized(qcow2);
    return ret;
}

int vd_qcow2_bitmaps_resize(struct vd_qcow2 *qcow2, uint64_t size, struct vdisk_error *err)
{
    if (!qcow2->header.bitmaps.is_present)
        return 0;
    int ret = vd_qcow2_bitmaps_store(qcow2, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->dirty->lock);
    ret = resize_all(qcow2, size, err);
    if (ret == 0) /* what is written meanwhile lies behind one of the two ends */
        atomic_store(&qcow2->dirty->state, VD_QCOW2_DIRTY_NONE);
    vd_mutex_unlock(&qcow2->dirty->lock);
    return name_file(qcow2, ret, err);
}

void vd_qcow2_bitmaps_resized(struct vd_qcow2 *qcow2, bool ok)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    if (!ok)
        forget_resized(qcow2);
    for (size_t i = 0; i < dirty->list.count; i++) {
        struct vd_qcow2_bitmap *bitmap = dirty->list.bitmaps[i];
        if (!bitmap->resized)
            continue;
        vd_bitmap_free(bitmap->bits);
        bitmap->bits = STEAL_PTR(bitmap->resized);
        bitmap->is_rewritten = true;
    }
    atomic_store(&dirty->state, VD_QCOW2_DIRTY_UNKNOWN);
}

/* --- for format/bitmaps.h ----------------------------------------------------------------------
 */

static int load_list(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    vd_mutex_lock(&qcow2->dirty->lock);
    int ret = vd_qcow2_bitmap_list_load(qcow2, err);
    vd_mutex_unlock(&qcow2->dirty->lock);
    return ret;
}

static int count_bitmaps(struct vd_format *format, size_t *count, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    int ret = load_list(qcow2, err);
    *count = ret == 0 ? qcow2->dirty->list.count : 0;
    return ret;
}

static int look_at(struct vd_format *format, size_t index, struct vd_bitmap_facts *facts,
                   struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    int ret = load_list(qcow2, err);
    if (ret < 0)
        return ret;
    const struct vd_qcow2_bitmap *bitmap = qcow2->dirty->list.bitmaps[index];
    *facts = (struct vd_bitmap_facts){
        .name = bitmap->entry.name,
        .granularity = UINT64_C(1) << bitmap->entry.granularity_bits,
    };
    if (bitmap->entry.flags & VD_QCOW2_BITMAP_AUTO)
        facts->flags |= VDISK_BITMAP_ENABLED;
    if (!bitmap->is_valid)
        facts->flags |= VDISK_BITMAP_INCONSISTENT | VDISK_BITMAP_RECOVERABLE;
    if (!bitmap->is_valid && (bitmap->entry.flags & VD_QCOW2_BITMAP_IN_USE))
        facts->flags |= VDISK_BITMAP_IN_USE;
    if (!qcow2->dirty->is_trusted)
        facts->flags |= VDISK_BITMAP_HIDDEN;
    return 0;
}

static int find_bits(struct vd_qcow2 *qcow2, const char *name, const struct vd_bitmap **bits,
                     struct vdisk_error *err) VD_REQUIRES(qcow2->dirty->lock)
{
    int ret = vd_qcow2_bitmap_list_load(qcow2, err);
    if (ret < 0)
        return ret;
    struct vd_qcow2_bitmap *bitmap = vd_qcow2_list_find(&qcow2->dirty->list, name);
    if (!bitmap)
        return vd_err_set(err, ENOENT, "there is no bitmap '%s'", name);
    if (!bitmap->is_valid)
        return vd_err_set(err, EUCLEAN,
                          "bitmap '%s' is inconsistent: not all that was written is in it; "
                          "recover or remove it",
                          name);
    ret = vd_qcow2_bitmap_bits_load(qcow2, bitmap, err);
    *bits = bitmap->bits;
    return ret;
}

static int get_bits(struct vd_format *format, const char *name, const struct vd_bitmap **bits,
                    struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    vd_mutex_lock(&qcow2->dirty->lock);
    int ret = find_bits(qcow2, name, bits, err);
    vd_mutex_unlock(&qcow2->dirty->lock);
    return ret;
}

const struct vd_bitmap_driver vd_qcow2_bitmap_driver = {
    .count = count_bitmaps,
    .facts = look_at,
    .bits = get_bits,
    .change = vd_qcow2_bitmap_change,
};
