/* SPDX-License-Identifier: MIT */
/* Making changes durable in an order that a power cut can not turn into a lie: W1 to W3. */
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_refs.h"
#include "util/mem.h"

/* ---- Numbers in the order in which they came ---- */

int vd_qcow2_places_reserve(struct vd_qcow2_places *places, struct vdisk_error *err)
{
    if (places->entries < places->room)
        return 0;
    size_t room = places->room ? places->room * 2 : 16;
    uint64_t *more = reallocarray(places->offsets, room, sizeof(*more));
    if (!more)
        return vd_err_nomem(err, "a list of tables");
    places->offsets = more;
    places->room = room;
    return 0;
}

void vd_qcow2_places_add(struct vd_qcow2_places *places, uint64_t offset)
{
    assert(places->entries < places->room);
    places->offsets[places->entries++] = offset;
}

static int compare(const void *a, const void *b)
{
    const uint64_t *left = a;
    const uint64_t *right = b;
    return (*left > *right) - (*left < *right);
}

void vd_qcow2_places_sort(struct vd_qcow2_places *places)
{
    if (places->entries)
        qsort(places->offsets, places->entries, sizeof(*places->offsets), compare);
}

bool vd_qcow2_places_have(const struct vd_qcow2_places *places, uint64_t offset)
{
    return places->entries && bsearch(&offset, places->offsets, places->entries,
                                      sizeof(*places->offsets), compare) != NULL;
}

/* ---- What a flush writes ---- */

/* Places of whole clusters, for the sectors of a snapshot. */
struct choice {
    const struct vd_qcow2_places *places;
    uint32_t cluster_bytes;
};

static bool is_in(const void *opaque, uint64_t offset)
{
    const struct choice *choice = opaque;
    return vd_qcow2_places_have(choice->places, vd_round_down(offset, choice->cluster_bytes));
}

static bool is_not_in(const void *opaque, uint64_t offset)
{
    return !is_in(opaque, offset);
}

/* The refcount table, of the file. */
static bool is_refcount_table(const void *opaque, uint64_t offset)
{
    const struct vd_range *table = opaque;
    return offset >= table->offset && offset < vd_range_end(*table);
}

static bool is_refcount_block(const void *opaque, uint64_t offset)
{
    return !is_refcount_table(opaque, offset);
}

struct changes {
    struct vd_table_snapshot tables;
    struct vd_qcow2_places new_tables;
    struct vd_qcow2_batch *releases;
    struct vd_table_snapshot refs;
    bool has_new_blocks;
};

/* A copy: room that somebody has reserved, and waits with, stays. */
static int take_places(struct vd_qcow2_places *places, struct vd_qcow2_places *taken,
                       struct vdisk_error *err)
{
    *taken = (struct vd_qcow2_places){
        .offsets = vd_alloc_array(places->entries, sizeof(*taken->offsets)),
        .entries = places->entries,
        .room = places->entries,
    };
    if (!taken->offsets) {
        *taken = (struct vd_qcow2_places){0};
        return vd_err_nomem(err, "a list of tables");
    }
    if (places->entries)
        memcpy(taken->offsets, places->offsets, places->entries * sizeof(*taken->offsets));
    places->entries = 0;
    vd_qcow2_places_sort(taken);
    return 0;
}

static int take_refs(struct vd_qcow2 *qcow2, struct changes *changes, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    vd_mutex_lock(&qcow2->writer->refs.lock);
    int ret = vd_table_cache_snapshot_locked(&qcow2->writer->refs, &changes->refs, err);
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    changes->has_new_blocks = writer->has_new_blocks;
    writer->has_new_blocks = false;
    return ret;
}

/* What is published after this belongs to the next flush.  The refcounts come last, as what is
 * published was counted before. */
static int take_changes(struct vd_qcow2 *qcow2, struct changes *changes, struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    vd_mutex_lock(&qcow2->tables.lock);
    int ret = vd_table_cache_snapshot_locked(&qcow2->tables, &changes->tables, err);
    if (ret == 0)
        ret = take_places(&writer->new_tables, &changes->new_tables, err);
    if (ret == 0)
        changes->releases = vd_qcow2_take_releases_locked(qcow2);
    vd_mutex_unlock(&qcow2->tables.lock);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    ret = take_refs(qcow2, changes, err);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return ret;
}

/*
 * W2: before an entry of the refcount table come the block that it leads to, and the refcount of
 * that, which may be in another block.
 */
static int write_refs(struct vd_qcow2 *qcow2, const struct changes *changes,
                      struct vdisk_error *err)
{
    const struct vd_table_cache *refs = &qcow2->writer->refs;
    const struct vd_range table = vd_range(qcow2->header.fields.refcount_table_offset,
                                           vd_qcow2_refcount_table_entries(qcow2) * 8);
    int ret = vd_table_snapshot_write_some(refs, &changes->refs, is_refcount_block, &table, err);
    if (ret < 0 || !changes->has_new_blocks)
        return ret;
    ret = vd_storage_flush(qcow2->file, err);
    if (ret == 0)
        ret = vd_table_snapshot_write_some(refs, &changes->refs, is_refcount_table, &table, err);
    return ret;
}

static int write_changes(struct vd_qcow2 *qcow2, const struct changes *changes,
                         struct vdisk_error *err)
{
    const struct choice choice = {&changes->new_tables, qcow2->geometry.cluster_bytes};
    int ret = write_refs(qcow2, changes, err);
    if (ret == 0)
        ret = vd_table_snapshot_write_some(&qcow2->tables, &changes->tables, is_in, &choice, err);
    if (ret == 0 && qcow2->data != qcow2->file)
        ret = vd_storage_flush(qcow2->data, err);
    if (ret == 0)
        ret = vd_storage_flush(qcow2->file, err); /* the data, too */
    if (ret < 0 || changes->tables.piece_entries == 0)
        return ret;
    ret = vd_table_snapshot_write_some(&qcow2->tables, &changes->tables, is_not_in, &choice, err);
    return ret < 0 ? ret : vd_storage_flush(qcow2->file, err);
}

static void end_changes(struct vd_qcow2 *qcow2, struct changes *changes, bool written)
{
    vd_table_snapshot_end(&qcow2->tables, &changes->tables, written);
    vd_table_snapshot_end(&qcow2->writer->refs, &changes->refs, written);
    free(changes->new_tables.offsets);
    if (written)
        vd_qcow2_releases_ended(qcow2, changes->releases);
    else
        vd_qcow2_batches_free(changes->releases);
}

/* What a failed flush took counts as written and is not, so that ends all changes, whoever asked.
 */
static int flush_alone(struct vd_qcow2 *qcow2, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->flush_lock)
{
    struct changes changes = {0};
    struct vdisk_error inner = {0};
    int ret = take_changes(qcow2, &changes, &inner);
    if (ret == 0)
        ret = write_changes(qcow2, &changes, &inner);
    end_changes(qcow2, &changes, ret == 0);
    if (ret == 0)
        ret = vd_qcow2_apply_releases(qcow2, &inner);
    if (ret == 0)
        return 0;
    vd_format_fail(qcow2->format, &inner);
    return vd_err_copy(err, &inner);
}

int vd_qcow2_flush_refs_alone(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct changes changes = {0};
    struct vdisk_error inner = {0};
    int ret = take_refs(qcow2, &changes, &inner);
    if (ret == 0)
        ret = write_refs(qcow2, &changes, &inner);
    if (ret == 0)
        ret = vd_storage_flush(qcow2->file, &inner);
    vd_table_snapshot_end(&qcow2->writer->refs, &changes.refs, ret == 0);
    if (ret == 0)
        return 0;
    vd_format_fail(qcow2->format, &inner);
    return vd_err_copy(err, &inner);
}

int vd_qcow2_flush(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    if (!qcow2->writer) /* opened to be checked */
        return vd_storage_flush(qcow2->file, err);
    vd_mutex_lock(&qcow2->writer->flush_lock);
    int ret = flush_alone(qcow2, err);
    vd_mutex_unlock(&qcow2->writer->flush_lock);
    return ret;
}

static bool is_strained(struct vd_qcow2 *qcow2)
{
    vd_mutex_lock(&qcow2->tables.lock);
    bool answer = vd_table_cache_is_strained_locked(&qcow2->tables) ||
                  vd_qcow2_releases_are_many_locked(qcow2);
    vd_mutex_unlock(&qcow2->tables.lock);
    vd_mutex_lock(&qcow2->writer->refs.lock);
    answer = answer || vd_table_cache_is_strained_locked(&qcow2->writer->refs);
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    return answer;
}

int vd_qcow2_relieve(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    int ret = 0;
    if (!is_strained(qcow2))
        return 0;
    vd_mutex_lock(&qcow2->writer->flush_lock);
    if (is_strained(qcow2)) /* it may have been another thread's work meanwhile */
        ret = flush_alone(qcow2, err);
    vd_mutex_unlock(&qcow2->writer->flush_lock);
    return ret;
}
