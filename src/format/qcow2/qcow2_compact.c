/* SPDX-License-Identifier: MIT */
/*
 * Compaction of a qcow2 image within its own file: clusters move from its end to free places at its
 * start, and the end is cut off.
 *
 * A cluster moves as if it were written anew: a place is taken, the data copied, the entry switched
 * in the cache, the old place released.  The order of a flush (W1 to W3) makes that safe at every
 * instant, and what was done stays done.  What has more than one reference stays where it is, and
 * so do compressed clusters and the tables of snapshots and bitmaps.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/cipher.h"
#include "format/qcow2/qcow2_refs.h"
#include "util/mem.h"

#define COPY_BYTES (UINT64_C(1) << 20)

struct compaction {
    struct vd_qcow2 *qcow2;
    const struct vd_compact *compact;
    uint64_t goal;   /* number of clusters in use: what lies behind that is to move */
    uint8_t *table;  /* one L2 table */
    uint8_t *buffer; /* of COPY_BYTES, or a cluster */
    uint64_t buffer_bytes;
    bool is_stuck; /* there is no place nearer to the start any more */
};

/* How many clusters have a refcount? */
static int count_used(struct vd_qcow2 *qcow2, uint64_t *used, struct vdisk_error *err)
{
    int ret = 0;
    *used = 0;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    qcow2->writer->hint = 1;
    for (uint64_t i = 0; i < qcow2->writer->end && ret == 0; i++) {
        uint64_t count = 0;
        ret = vd_qcow2_refs_get(qcow2, i, &count, err);
        *used += count != 0;
    }
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return ret;
}

/* With LUKS the place in the file is a part of the key. */
static int recode(const struct vd_qcow2 *qcow2, uint64_t from, uint64_t to, uint8_t *bytes,
                  size_t length, struct vdisk_error *err)
{
    if (qcow2->header.fields.crypt_method != VD_QCOW2_CRYPT_LUKS)
        return 0;
    int ret = vd_cipher_decrypt(qcow2->cipher, from, bytes, length, err);
    return ret < 0 ? ret : vd_cipher_encrypt(qcow2->cipher, to, bytes, length, err);
}

static int copy(struct compaction *compaction, uint64_t from, uint64_t to, uint64_t length,
                struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = compaction->qcow2;
    uint64_t file_bytes;
    int ret = vd_storage_size(qcow2->file, &file_bytes, err);
    if (ret < 0)
        return ret;
    uint64_t there = from < file_bytes ? vd_min(length, file_bytes - from) : 0;
    if (there)
        ret = vd_storage_pread(qcow2->file, compaction->buffer, (size_t)there, from, err);
    memset(compaction->buffer + there, 0, (size_t)(length - there));
    if (ret == 0)
        ret = recode(qcow2, from, to, compaction->buffer, (size_t)length, err);
    if (ret == 0)
        ret = vd_storage_pwrite(qcow2->file, compaction->buffer, (size_t)length, to, err);
    return ret;
}

/* @count entries at file offset @entries, in one page, lead to @from and what is behind it: to @to
 * from now on. */
static int switch_entries(struct vd_qcow2 *qcow2, uint64_t entries, uint64_t count, uint64_t from,
                          uint64_t to, struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    struct vd_table_page *page;
    bool waited = false;
    vd_mutex_lock(&qcow2->tables.lock);
    int ret = vd_table_cache_get_locked(&qcow2->tables, entries, &page, &waited, err);
    if (ret == 0)
        ret = vd_qcow2_reserve_releases_locked(qcow2, 1, err);
    if (ret == 0) {
        for (uint64_t i = 0; i < count; i++) {
            void *bytes = vd_table_page_at(page, entries + i * geometry->entry_bytes);
            struct vd_qcow2_entry entry;
            (void)vd_qcow2_entry_decode(&qcow2->rules, bytes, &entry);
            entry.host = to + (i << geometry->cluster_bits);
            vd_qcow2_entry_encode(&qcow2->rules, &entry, bytes);
        }
        vd_table_page_changed_locked(&qcow2->tables, page, entries,
                                     (size_t)(count * geometry->entry_bytes));
        vd_qcow2_release_locked(qcow2, from, count);
    }
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}

/* Where the search for a free cluster goes on. */
static uint64_t get_hint(struct vd_qcow2 *qcow2)
{
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    uint64_t hint = qcow2->writer->hint;
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return hint << qcow2->geometry.cluster_bits;
}

/* A place for up to @wanted clusters that is before @from; clusters 0: there is none. */
static int take_before(struct compaction *compaction, uint64_t from, uint64_t wanted,
                       struct vd_qcow2_space *space, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = compaction->qcow2;
    for (uint64_t hint = get_hint(qcow2);;) {
        int ret = vd_qcow2_take(qcow2, wanted, space, err);
        if (ret < 0 || space->host < from)
            return ret;
        vd_qcow2_give_back(qcow2, space->host, space->clusters);
        /* A search ends after some pages of refcounts, and goes on with the next one. */
        uint64_t next = get_hint(qcow2);
        if (next >= from || next <= hint)
            break;
        hint = next;
    }
    compaction->is_stuck = true;
    space->clusters = 0;
    return 0;
}

/* Some of the @count clusters at @from; *moved of them. */
static int move_data(struct compaction *compaction, uint64_t entries, uint64_t count, uint64_t from,
                     uint64_t *moved, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = compaction->qcow2;
    unsigned bits = qcow2->geometry.cluster_bits;
    struct vd_qcow2_space space;
    *moved = 0;
    int ret = vd_qcow2_relieve(qcow2, err);
    if (ret == 0)
        ret = vd_qcow2_check_place(qcow2, from, count, "data", err);
    if (ret == 0)
        ret = take_before(compaction, from,
                          vd_min(count, vd_max(compaction->buffer_bytes >> bits, 1)), &space, err);
    if (ret < 0 || space.clusters == 0)
        return ret;
    ret = copy(compaction, from, space.host, space.clusters << bits, err);
    if (ret == 0)
        ret = switch_entries(qcow2, entries, space.clusters, from, space.host, err);
    if (ret < 0)
        vd_qcow2_give_back(qcow2, space.host, space.clusters);
    else
        *moved = space.clusters;
    compaction->compact->result->moved_bytes += *moved << bits;
    return ret;
}

/* May the cluster of @entry move, and does it have to? */
static bool is_to_move(const struct compaction *compaction, const struct vd_qcow2_entry *entry)
{
    const struct vd_qcow2 *qcow2 = compaction->qcow2;
    return entry->has_host && entry->is_copied && qcow2->data == qcow2->file &&
           entry->host >> qcow2->geometry.cluster_bits >= compaction->goal;
}

/* How many entries from @index on lead to one cluster after the other, within a page? */
static uint64_t count_run(const struct compaction *compaction, uint64_t table, uint32_t index,
                          uint64_t host)
{
    const struct vd_qcow2 *qcow2 = compaction->qcow2;
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t at = table + (uint64_t)index * geometry->entry_bytes;
    uint64_t page_end = vd_round_down(at, VD_PAGE_BYTES) + VD_PAGE_BYTES;
    uint64_t most = vd_min((page_end - at) / geometry->entry_bytes, geometry->l2_entries - index);
    uint64_t count = 1;
    struct vd_qcow2_entry entry;
    for (; count < most; count++) {
        const uint8_t *bytes = compaction->table + (index + count) * geometry->entry_bytes;
        if (vd_qcow2_entry_decode(&qcow2->rules, bytes, &entry) ||
            !is_to_move(compaction, &entry) ||
            entry.host != host + (count << geometry->cluster_bits))
            break;
    }
    return count;
}

/* All that the table at @table, of L1 entry @index, leads to. */
static int compact_table(struct compaction *compaction, uint64_t l1_index, uint64_t table,
                         struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = compaction->qcow2;
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    int ret = vd_qcow2_read_table(qcow2, table, compaction->table, geometry->cluster_bytes, err);
    for (uint32_t i = 0; i < geometry->l2_entries && ret == 0 && !compaction->is_stuck;) {
        const struct be64 *words = (const void *)(compaction->table + i * geometry->entry_bytes);
        struct vd_qcow2_entry entry;
        uint64_t moved = 1;
        vd_qcow2_wrong wrong = vd_qcow2_entry_decode(&qcow2->rules, words, &entry);
        if (wrong)
            return vd_qcow2_bad_l2(
                qcow2, l1_index * geometry->l2_span + ((uint64_t)i << geometry->cluster_bits),
                be64_get(words[0]), wrong, err);
        if (is_to_move(compaction, &entry)) {
            uint64_t count = count_run(compaction, table, i, entry.host);
            ret = move_data(compaction, table + (uint64_t)i * geometry->entry_bytes, count,
                            entry.host, &moved, err);
        }
        i += (uint32_t)moved;
    }
    if (ret == 0 && !compaction->is_stuck && table >> geometry->cluster_bits >= compaction->goal) {
        struct vd_qcow2_space space;
        ret = take_before(compaction, table, 1, &space, err);
        if (ret < 0 || space.clusters == 0)
            return ret;
        vd_qcow2_give_back(qcow2, space.host, 1);
        ret = vd_qcow2_move_table(qcow2, l1_index, err);
        compaction->compact->result->moved_bytes += geometry->cluster_bytes;
    }
    return ret;
}

static int get_l1(struct vd_qcow2 *qcow2, uint64_t index, uint64_t *value, struct vdisk_error *err)
{
    struct be64 entry;
    int ret = vd_qcow2_read_table(qcow2, qcow2->l1_offset + index * sizeof(entry),
                                  (uint8_t *)&entry, sizeof(entry), err);
    *value = ret == 0 ? be64_get(entry) : 0;
    return ret;
}

static int compact_all(struct compaction *compaction, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = compaction->qcow2;
    const struct vd_compact *compact = compaction->compact;
    int ret = 0;
    for (uint64_t i = 0; i < qcow2->l1_entries && ret == 0 && !compaction->is_stuck; i++) {
        uint64_t value;
        ret = get_l1(qcow2, i, &value, err);
        /* A table that is shared is a snapshot's, too. */
        if (ret == 0 && (value & VD_QCOW2_ENTRY_COPIED))
            ret = compact_table(compaction, i, value & VD_QCOW2_ENTRY_OFFSET, err);
        if (ret == 0 && compact->progress)
            ret = compact->progress(compact->opaque, i + 1, qcow2->l1_entries, err);
    }
    return ret;
}

/* What is free within the file takes no space. */
static int punch_free(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    unsigned bits = qcow2->geometry.cluster_bits;
    int ret = 0;
    if (!(vd_storage_caps(qcow2->file) & VD_STORAGE_CAN_DISCARD))
        return 0;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    for (uint64_t at = 1; at < qcow2->writer->end && ret == 0;) {
        struct vd_qcow2_search search = {.within = vd_range(at, qcow2->writer->end - at),
                                         .wanted = UINT64_C(1) << 20};
        struct vd_range run;
        ret = vd_qcow2_refs_find(qcow2, &search, &run, &at, err);
        if (ret == 0 && run.length) {
            ret = vd_storage_discard(qcow2->file, vd_range(run.offset << bits, run.length << bits),
                                     err);
            at = vd_range_end(run);
        }
    }
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return ret;
}

/* No other call runs, and the image is open for writing. */
static int compact_clusters(struct vd_qcow2 *qcow2, const struct vd_compact *compact,
                            struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t buffer_bytes = vd_max(COPY_BYTES, geometry->cluster_bytes);
    CLEANUP_FREE uint8_t *table = vd_alloc_io(geometry->cluster_bytes);
    CLEANUP_FREE uint8_t *buffer = vd_alloc_io((size_t)buffer_bytes);
    struct compaction compaction = {.qcow2 = qcow2,
                                    .compact = compact,
                                    .table = table,
                                    .buffer = buffer,
                                    .buffer_bytes = buffer_bytes};
    if (!table || !buffer)
        return vd_err_nomem(err, "a part of an image");
    int ret = vd_qcow2_begin(qcow2, err);
    if (ret == 0)
        ret = count_used(qcow2, &compaction.goal, err);
    if (ret == 0)
        ret = compact_all(&compaction, err);
    /* What has been moved by then is not lost, if it was canceled. */
    int finished = vd_qcow2_finish(qcow2, ret == 0 ? err : NULL);
    if (ret == 0)
        ret = finished;
    return ret < 0 ? ret : punch_free(qcow2, err);
}

int vd_qcow2_compact(struct vd_format *format, const struct vd_compact *compact,
                     struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    if (format->flags & VD_FORMAT_CHECK)
        return vd_qcow2_move_refcounts(qcow2, err);
    if (qcow2->header.fields.crypt_method == VD_QCOW2_CRYPT_LUKS && !qcow2->cipher)
        return vd_err_set(err, EACCES,
                          "%s: is encrypted by where its data is: moving that needs a passphrase",
                          vd_storage_name(qcow2->file));
    return compact_clusters(qcow2, compact, err);
}
