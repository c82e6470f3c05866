/* SPDX-License-Identifier: MIT */
/* Persistent bitmaps: from memory to the file.  D1-D4: qcow2_bitmap.h. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_bitmap_state.h"
#include "util/mem.h"

#define STAYS_MARKED                                                                         \
    "the dirty bitmaps could not be stored, and stay marked as in use: recover them (vdisk " \
    "bitmap --recover): "

/* The directory of @list as bytes, @clusters of them; owned by the caller. */
static int encode_list(const struct vd_qcow2 *qcow2, const struct vd_qcow2_list *list,
                       uint8_t **bytes, uint64_t *length, struct vdisk_error *err)
{
    struct vd_qcow2_bitmap_dir dir = {.count = list->count};
    uint64_t clusters = vd_qcow2_list_clusters(qcow2, list);
    dir.entries = vd_alloc_array(list->count, sizeof(*dir.entries));
    *bytes = calloc((size_t)clusters, qcow2->geometry.cluster_bytes);
    if (dir.entries && *bytes) {
        for (size_t i = 0; i < list->count; i++)
            dir.entries[i] = list->bitmaps[i]->entry; /* the names are borrowed */
        vd_qcow2_bitmap_dir_encode(&dir, *bytes);
        *length = vd_qcow2_bitmap_dir_bytes(&dir);
    }
    bool is_done = dir.entries && *bytes;
    free(dir.entries);
    if (is_done)
        return 0;
    free(*bytes);
    *bytes = NULL;
    return vd_err_nomem(err, "the bitmap directory");
}

/* D3: only flags differ from what the file has. */
static int overwrite_directory(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    const struct vd_qcow2_bitmaps_extension *place = &qcow2->header.bitmaps;
    CLEANUP_FREE uint8_t *bytes = NULL;
    uint64_t length;
    int ret = encode_list(qcow2, &qcow2->dirty->list, &bytes, &length, err);
    if (ret < 0)
        return ret;
    assert(qcow2->dirty->is_trusted && length == place->directory_bytes);
    struct vdisk_error inner = {0};
    ret = vd_storage_pwrite(qcow2->file, bytes, (size_t)length, place->directory_offset, &inner);
    if (ret == 0)
        ret = vd_storage_flush(qcow2->file, &inner);
    if (ret == 0)
        return 0;
    vd_err_prefix(&inner, ret, "bitmap directory: ");
    vd_format_fail(qcow2->format, &inner); /* nobody knows what the file has */
    return vd_err_copy(err, &inner);
}

int vd_qcow2_bitmap_mark(struct vd_qcow2 *qcow2, bool (*is_wanted)(const struct vd_qcow2_bitmap *),
                         struct vdisk_error *err)
{
    const struct vd_qcow2_list *list = &qcow2->dirty->list;
    for (size_t i = 0; i < list->count; i++)
        if (is_wanted(list->bitmaps[i]))
            list->bitmaps[i]->entry.flags |= VD_QCOW2_BITMAP_IN_USE;
    return overwrite_directory(qcow2, err);
}

/* --- new places --------------------------------------------------------------------------------
 */

/* A table that is being stored. */
struct new_table {
    struct vd_qcow2_bitmap *bitmap; /* NULL: the one in the file stays */
    struct vd_qcow2_pieces pieces;  /* what it will have */
    uint64_t host;                  /* its place */
    bool is_stored;                 /* the file leads to it */
};

/* One storing: of a list in place of another. */
struct storing {
    struct vd_qcow2 *qcow2;
    const struct vd_qcow2_list *list;
    struct new_table *tables; /* one a bitmap of the list */
    uint64_t directory;       /* its place */
    uint64_t directory_bytes;
    uint64_t old_directory; /* 0: none that may be released */
    uint64_t old_directory_clusters;
};

static bool has_changed(const struct vd_qcow2_bitmap *bitmap)
{
    return bitmap->is_rewritten || bitmap->is_changed;
}

/* What piece @index will be; a place is taken, and written, if it needs one. */
static int store_piece(struct storing *st, struct new_table *table, size_t index, uint8_t *buffer,
                       struct vdisk_error *err)
{
    struct vd_qcow2_bitmap *bitmap = table->bitmap;
    uint32_t cluster_bytes = st->qcow2->geometry.cluster_bytes;
    struct vd_range part = vd_range((uint64_t)index * cluster_bytes, cluster_bytes);
    uint64_t *fresh = &bitmap->fresh.values[index];
    uint64_t *value = &table->pieces.values[index];
    if (!bitmap->is_rewritten && !*fresh) {
        *value = bitmap->table.values[index];
        return 0;
    }
    if (!bitmap->bits) /* one that is not valid: nobody will read it */
        return 0;
    enum vd_bitmap_content content = vd_bitmap_part_content(bitmap->bits, part);
    if (content != VD_BITMAP_MIXED) {
        *value = vd_qcow2_bitmap_piece_encode(
            content == VD_BITMAP_ONES ? VD_QCOW2_BITMAP_ONES : VD_QCOW2_BITMAP_ZEROS, 0);
        return 0;
    }
    if (!*fresh) {
        int ret = vd_qcow2_bitmap_take(st->qcow2, 1, fresh, err);
        if (ret < 0)
            return ret;
    }
    *value = vd_qcow2_bitmap_piece_encode(VD_QCOW2_BITMAP_DATA, *fresh);
    vd_bitmap_store_part(bitmap->bits, part, buffer);
    return vd_storage_pwrite(st->qcow2->file, buffer, cluster_bytes, *fresh, err);
}

static int write_table(struct storing *st, struct new_table *table, struct vdisk_error *err)
{
    uint64_t clusters = vd_qcow2_table_clusters(st->qcow2, table->pieces.count);
    uint64_t bytes = clusters << st->qcow2->geometry.cluster_bits;
    CLEANUP_FREE struct be64 *disk = calloc(1, (size_t)bytes);
    if (!disk)
        return vd_err_nomem(err, "the table of a bitmap");
    for (size_t i = 0; i < table->pieces.count; i++)
        disk[i] = be64_of(table->pieces.values[i]);
    if (!table->bitmap->fresh_table) {
        int ret = vd_qcow2_bitmap_take(st->qcow2, clusters, &table->bitmap->fresh_table, err);
        if (ret < 0)
            return ret;
    }
    table->host = table->bitmap->fresh_table;
    return vd_storage_pwrite(st->qcow2->file, disk, (size_t)bytes, table->host, err);
}

static int store_table(struct storing *st, struct new_table *table, struct vdisk_error *err)
{
    struct vd_qcow2_bitmap *bitmap = table->bitmap;
    struct vd_qcow2 *qcow2 = st->qcow2;
    size_t count = 0;
    int ret =
        vd_qcow2_bitmap_count_pieces(qcow2, bitmap->entry.name, bitmap->entry.granularity_bits,
                                     qcow2->format->size, &count, err);
    if (ret == 0)
        ret = vd_qcow2_pieces_new(qcow2, count, &table->pieces, err);
    if (ret == 0 && !bitmap->fresh.values)
        ret = vd_qcow2_pieces_new(qcow2, count, &bitmap->fresh, err);
    if (ret < 0)
        return ret;
    CLEANUP_FREE uint8_t *buffer = vd_alloc_io(qcow2->geometry.cluster_bytes);
    if (!buffer)
        return vd_err_nomem(err, "the bits of a bitmap");
    assert(bitmap->fresh.count == count);
    assert(bitmap->is_rewritten || bitmap->table.count == count);
    for (size_t i = 0; i < count && ret == 0; i++)
        ret = store_piece(st, table, i, buffer, err);
    return ret < 0 ? ret : write_table(st, table, err);
}

/* The entries as the file will have them. */
static void settle_entries(struct storing *st)
{
    for (size_t i = 0; i < st->list->count; i++) {
        struct vd_qcow2_bitmap_entry *entry = &st->list->bitmaps[i]->entry;
        const struct new_table *table = &st->tables[i];
        if (table->bitmap) {
            entry->table_offset = table->host;
            entry->table_entries = (uint32_t)table->pieces.count;
        }
        if (st->list->bitmaps[i]->is_valid)
            entry->flags &= ~(uint32_t)VD_QCOW2_BITMAP_IN_USE;
        else
            entry->flags |= VD_QCOW2_BITMAP_IN_USE;
    }
}

static int store_directory(struct storing *st, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = st->qcow2;
    CLEANUP_FREE uint8_t *bytes = NULL;
    uint64_t clusters = vd_qcow2_list_clusters(qcow2, st->list);
    int ret = 0;
    if (st->list->count == 0)
        return 0;
    if (!qcow2->dirty->fresh_directory)
        ret = vd_qcow2_bitmap_take(qcow2, clusters, &qcow2->dirty->fresh_directory, err);
    st->directory = qcow2->dirty->fresh_directory;
    if (ret == 0)
        ret = encode_list(qcow2, st->list, &bytes, &st->directory_bytes, err);
    if (ret < 0)
        return ret;
    return vd_storage_pwrite(qcow2->file, bytes, (size_t)(clusters << qcow2->geometry.cluster_bits),
                             st->directory, err);
}

/* The switch: all that the new directory leads to is durable. */
static int switch_header(struct storing *st, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = st->qcow2;
    struct vd_qcow2_header *header = &qcow2->header;
    struct vd_qcow2_bitmaps_extension old = header->bitmaps;
    uint64_t old_autoclear = header->fields.autoclear;
    struct vdisk_error inner = {0};
    header->bitmaps = (struct vd_qcow2_bitmaps_extension){0};
    header->fields.autoclear &= ~(uint64_t)VD_QCOW2_BITMAPS;
    if (st->list->count) {
        header->bitmaps.is_present = true;
        header->bitmaps.entries = (uint32_t)st->list->count;
        header->bitmaps.directory_bytes = st->directory_bytes;
        header->bitmaps.directory_offset = st->directory;
        header->fields.autoclear |= VD_QCOW2_BITMAPS;
    }
    int ret = vd_qcow2_header_write(qcow2->file, header, &inner);
    if (ret == 0)
        return 0;
    header->bitmaps = old;
    header->fields.autoclear = old_autoclear;
    if (ret != -ENOSPC) /* nobody knows which one the file has */
        vd_format_fail(qcow2->format, &inner);
    return vd_err_copy(err, &inner);
}

/* --- old places --------------------------------------------------------------------------------
 */

/* Releases what @table leads to and @next does not; NULL: nothing is kept. */
static int release_data(struct vd_qcow2 *qcow2, const struct vd_qcow2_pieces *table,
                        const struct vd_qcow2_pieces *next, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < table->count && ret == 0; i++) {
        enum vd_qcow2_bitmap_piece piece;
        uint64_t host;
        if (next && i < next->count && next->values[i] == table->values[i])
            continue;
        if (vd_qcow2_bitmap_piece_decode(table->values[i], qcow2->geometry.cluster_bits, &piece,
                                         &host) &&
            piece == VD_QCOW2_BITMAP_DATA)
            ret = vd_qcow2_release(qcow2, host, 1, err);
    }
    return ret;
}

static int release_table(struct vd_qcow2 *qcow2, const struct vd_qcow2_bitmap *bitmap,
                         uint64_t table_offset, uint32_t table_entries,
                         const struct vd_qcow2_pieces *next, struct vdisk_error *err)
{
    int ret = release_data(qcow2, &bitmap->table, next, err);
    if (ret < 0)
        return ret;
    uint64_t clusters = vd_qcow2_table_clusters(qcow2, table_entries);
    vd_qcow2_meta_remove(qcow2, table_offset, clusters);
    return vd_qcow2_release(qcow2, table_offset, clusters, err);
}

/* Places that were taken and that nothing leads to now. */
static void drop_unused(struct vd_qcow2 *qcow2, const struct new_table *table)
{
    struct vd_qcow2_bitmap *bitmap = table->bitmap;
    for (size_t i = 0; i < bitmap->fresh.count; i++)
        if (bitmap->fresh.values[i] && table->pieces.values[i] == bitmap->fresh.values[i])
            bitmap->fresh.values[i] = 0;
    bitmap->fresh_table = 0;
    vd_qcow2_bitmap_unreserve(qcow2, bitmap);
}

/* The new table becomes the bitmap's, the old one is released, unless that has failed before. */
static void adopt(struct storing *st, struct new_table *table, uint64_t old_offset,
                  uint32_t old_entries, struct vdisk_error *first)
{
    struct vd_qcow2 *qcow2 = st->qcow2;
    struct vd_qcow2_bitmap *bitmap = table->bitmap;
    drop_unused(qcow2, table);
    if (bitmap->is_in_file && !first->code)
        release_table(qcow2, bitmap, old_offset, old_entries, &table->pieces, first);
    vd_qcow2_pieces_free(qcow2, &bitmap->table);
    vd_qcow2_pieces_free(qcow2, &bitmap->fresh);
    bitmap->table = table->pieces;
    table->pieces = (struct vd_qcow2_pieces){0};
    bitmap->is_in_file = true;
    bitmap->is_rewritten = false;
}

/* --- all of it ---------------------------------------------------------------------------------
 */

/* What an entry was before settle_entries(). */
struct old_entry {
    uint64_t table_offset;
    uint32_t table_entries;
    uint32_t flags;
};

/* Everything but the switch.  What was taken stays with the bitmaps if this fails. */
static int store_new_places(struct storing *st, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < st->list->count && ret == 0; i++)
        if (has_changed(st->list->bitmaps[i])) {
            st->tables[i].bitmap = st->list->bitmaps[i];
            ret = store_table(st, &st->tables[i], err);
        }
    if (ret < 0)
        return ret;
    settle_entries(st);
    ret = store_directory(st, err);
    if (ret < 0)
        return ret;
    struct vdisk_error inner = {0};
    if (vd_qcow2_flush(st->qcow2->format, &inner) == 0)
        return 0;
    vd_format_fail(st->qcow2->format, &inner);
    return vd_err_copy(err, &inner);
}

static void restore_entries(struct storing *st, const struct old_entry *old)
{
    for (size_t i = 0; i < st->list->count; i++) {
        struct vd_qcow2_bitmap_entry *entry = &st->list->bitmaps[i]->entry;
        entry->table_offset = old[i].table_offset;
        entry->table_entries = old[i].table_entries;
        entry->flags = old[i].flags;
    }
}

/* The overlap check knows the new places. */
static int tell_places(struct storing *st, struct vdisk_error *err)
{
    int ret = 0;
    if (st->list->count)
        ret = vd_qcow2_meta_add(st->qcow2, VD_QCOW2_META_BITMAPS, st->directory,
                                vd_qcow2_list_clusters(st->qcow2, st->list), err);
    for (size_t i = 0; i < st->list->count && ret == 0; i++)
        if (st->tables[i].bitmap)
            ret = vd_qcow2_meta_add(st->qcow2, VD_QCOW2_META_BITMAPS, st->tables[i].host,
                                    vd_qcow2_table_clusters(st->qcow2, st->tables[i].pieces.count),
                                    err);
    return ret;
}

/* What the switch left behind.  After a failure the rest is leaked. */
static int release_old(struct storing *st, const struct vd_qcow2_list *dropped,
                       const struct old_entry *old, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = st->qcow2;
    struct vdisk_error first = {0};
    for (size_t i = 0; i < st->list->count; i++)
        if (st->tables[i].bitmap)
            adopt(st, &st->tables[i], old[i].table_offset, old[i].table_entries, &first);
    for (size_t i = 0; dropped && i < dropped->count; i++) {
        const struct vd_qcow2_bitmap *bitmap = dropped->bitmaps[i];
        if (bitmap->is_in_file && !first.code)
            release_table(qcow2, bitmap, bitmap->entry.table_offset, bitmap->entry.table_entries,
                          NULL, &first);
    }
    if (st->old_directory && !first.code) {
        vd_qcow2_meta_remove(qcow2, st->old_directory, st->old_directory_clusters);
        vd_qcow2_release(qcow2, st->old_directory, st->old_directory_clusters, &first);
    }
    if (!first.code)
        return 0;
    vd_format_fail(qcow2->format, &first);
    return vd_err_copy(err, &first);
}

static int run(struct storing *st, const struct vd_qcow2_list *dropped, const struct old_entry *old,
               bool *is_stored, struct vdisk_error *err)
{
    struct vd_qcow2_dirty *dirty = st->qcow2->dirty;
    int ret = store_new_places(st, err);
    if (ret == 0)
        ret = tell_places(st, err);
    if (ret == 0)
        ret = switch_header(st, err);
    if (ret < 0) {
        restore_entries(st, old);
        return ret;
    }
    *is_stored = true;
    dirty->fresh_directory = 0;
    dirty->is_trusted = true;
    atomic_store(&dirty->state, VD_QCOW2_DIRTY_UNKNOWN);
    return release_old(st, dropped, old, err);
}

int vd_qcow2_bitmap_list_store(struct vd_qcow2 *qcow2, const struct vd_qcow2_list *list,
                               const struct vd_qcow2_list *dropped, bool *is_stored,
                               struct vdisk_error *err)
{
    const struct vd_qcow2_bitmaps_extension *place = &qcow2->header.bitmaps;
    struct storing st = {.qcow2 = qcow2, .list = list};
    *is_stored = false;
    if (qcow2->dirty->is_trusted && place->is_present) {
        st.old_directory = place->directory_offset;
        st.old_directory_clusters = vd_qcow2_clusters(&qcow2->geometry, place->directory_bytes);
    }
    CLEANUP_FREE struct old_entry *old = vd_alloc_array(list->count, sizeof(*old));
    st.tables = vd_alloc_array(list->count, sizeof(*st.tables));
    if (!old || !st.tables) {
        free(st.tables);
        return vd_err_nomem(err, "the bitmaps of an image");
    }
    for (size_t i = 0; i < list->count; i++)
        old[i] = (struct old_entry){.table_offset = list->bitmaps[i]->entry.table_offset,
                                    .table_entries = list->bitmaps[i]->entry.table_entries,
                                    .flags = list->bitmaps[i]->entry.flags};
    int ret = run(&st, dropped, old, is_stored, err);
    for (size_t i = 0; i < list->count; i++)
        vd_qcow2_pieces_free(qcow2, &st.tables[i].pieces);
    free(st.tables);
    return ret;
}

/* Nothing but marks has to go: the bits in the file are exact. */
static int take_marks_away(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    const struct vd_qcow2_list *list = &qcow2->dirty->list;
    for (size_t i = 0; i < list->count; i++)
        if (list->bitmaps[i]->is_valid)
            list->bitmaps[i]->entry.flags &= ~(uint32_t)VD_QCOW2_BITMAP_IN_USE;
    atomic_store(&qcow2->dirty->state, VD_QCOW2_DIRTY_UNKNOWN);
    return overwrite_directory(qcow2, err);
}

/* After a failure nothing is stored. */
static int stays_marked(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vd_format *format = qcow2->format;
    vd_mutex_lock(&format->failure_lock);
    int ret = vd_err_set(err, format->failure.code, STAYS_MARKED "%s", format->failure.message);
    vd_mutex_unlock(&format->failure_lock);
    return ret;
}

int vd_qcow2_bitmaps_store(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    const struct vd_qcow2_list *list = &qcow2->dirty->list;
    bool is_marked = false;
    bool is_changed = false;
    bool is_stored;
    for (size_t i = 0; i < list->count; i++) {
        struct vd_qcow2_bitmap *bitmap = list->bitmaps[i];
        is_changed = is_changed || has_changed(bitmap);
        is_marked =
            is_marked || (bitmap->is_valid && (bitmap->entry.flags & VD_QCOW2_BITMAP_IN_USE));
        if (!has_changed(bitmap) && !atomic_load(&qcow2->format->has_failed))
            vd_qcow2_bitmap_unreserve(qcow2, bitmap);
    }
    if (atomic_load(&qcow2->format->has_failed))
        return is_changed || is_marked ? stays_marked(qcow2, err) : 0;
    if (!is_changed)
        vd_qcow2_bitmap_unreserve_directory(qcow2, vd_qcow2_list_clusters(qcow2, list));
    if (!is_changed && !is_marked)
        return 0;
    int ret = is_changed ? vd_qcow2_bitmap_list_store(qcow2, list, NULL, &is_stored, err)
                         : take_marks_away(qcow2, err);
    return ret < 0 ? vd_err_prefix(err, ret, STAYS_MARKED) : ret;
}
