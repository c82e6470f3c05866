/* SPDX-License-Identifier: MIT */
/* Where new clusters of a qcow2 image come from. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_refs.h"
#include "util/mem.h"

/* The file grows by an eighth, but by no less and no more than this. */
#define GROW_BYTES_MIN (UINT64_C(256) << 10)
#define GROW_BYTES_MAX (UINT64_C(256) << 20)

/* Space is set aside in windows of this. */
#define ASIDE_BYTES (UINT64_C(64) << 10)

/* ---- The file ---- */

static void set_file_bytes(struct vd_qcow2 *qcow2, uint64_t bytes)
    VD_REQUIRES(qcow2->writer->alloc_lock)
{
    qcow2->writer->file_bytes = bytes;
    if (qcow2->data != qcow2->file)
        return;
    vd_mutex_lock(&qcow2->tables.lock);
    qcow2->file_bytes = bytes;
    vd_mutex_unlock(&qcow2->tables.lock);
}

int vd_qcow2_grow_file(struct vd_qcow2 *qcow2, uint64_t clusters, struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    unsigned bits = qcow2->geometry.cluster_bits;
    if (clusters > (UINT64_C(1) << VD_QCOW2_OFFSET_BITS) >> bits)
        return vd_err_set(err, EFBIG, "%s: is as long as a file can be",
                          vd_storage_name(qcow2->file));
    uint64_t bytes = clusters << bits;
    if (bytes <= writer->file_bytes)
        return 0;
    uint64_t step = vd_max(GROW_BYTES_MIN, vd_min(GROW_BYTES_MAX, writer->file_bytes / 8));
    uint64_t generous =
        vd_round_up(vd_max(bytes, writer->file_bytes + step), qcow2->geometry.cluster_bytes);
    /* What a file system has no room for in one step may still go in a smaller one. */
    int ret = vd_storage_resize(qcow2->file, generous, NULL);
    if (ret < 0) {
        generous = bytes;
        ret = vd_storage_resize(qcow2->file, bytes, err);
    }
    if (ret == 0)
        set_file_bytes(qcow2, generous);
    return ret;
}

int vd_qcow2_set_aside(struct vd_qcow2 *qcow2, struct vd_range *aside, struct vd_range range,
                       struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    bool is_inside = range.offset >= aside->offset && vd_range_end(range) <= vd_range_end(*aside);
    if (is_inside || !writer->can_resize)
        return 0;
    struct vd_range window = vd_range_expand(range, ASIDE_BYTES);
    window.length = vd_min(vd_range_end(window), vd_max(vd_range_end(range), writer->file_bytes)) -
                    window.offset;
    int ret = vd_storage_preallocate(qcow2->file, window, err);
    if (ret == 0)
        *aside = window;
    return ret;
}

/* ---- Clusters ---- */

/* Entries may lead behind the end of the file, where all is zero: those clusters are in use. */
static int find_at_end(struct vd_qcow2 *qcow2, uint64_t wanted, bool is_whole, struct vd_range *run,
                       struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    uint64_t limit = (UINT64_C(1) << VD_QCOW2_OFFSET_BITS) >> qcow2->geometry.cluster_bits;
    uint64_t start = qcow2->writer->end;
    int ret = 0;
    *run = vd_range(0, 0);
    while (ret == 0 && run->length == 0 && start < limit) {
        struct vd_qcow2_search search = {
            .within = vd_range(start, limit - start), .wanted = wanted, .is_whole = is_whole};
        ret = vd_qcow2_refs_find(qcow2, &search, run, &start, err);
    }
    if (ret == 0 && run->length == 0)
        ret =
            vd_err_set(err, EFBIG, "%s: is as long as a file can be", vd_storage_name(qcow2->file));
    return ret;
}

/* Free clusters, perhaps fewer than @wanted if not @is_whole; *is_new: at the end. */
static int find_place(struct vd_qcow2 *qcow2, uint64_t wanted, bool is_whole, struct vd_range *run,
                      bool *is_new, struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    uint64_t start = writer->hint;
    *is_new = false;
    do {
        struct vd_qcow2_search search = {
            .within = vd_range(start, writer->end - start), .wanted = wanted, .is_whole = is_whole};
        int ret = vd_qcow2_refs_find(qcow2, &search, run, &start, err);
        if (ret < 0 || run->length) {
            if (ret == 0 && !is_whole)
                writer->hint = run->offset;
            return ret;
        }
        if (!is_whole)
            writer->hint = start;
    } while (!writer->can_resize && start < writer->end);
    if (!writer->can_resize)
        return vd_err_set(err, ENOSPC,
                          "%s: has no room for %" PRIu64 " more clusters of %" PRIu32
                          " bytes, and is of a fixed length",
                          vd_storage_name(qcow2->file), wanted, qcow2->geometry.cluster_bytes);
    *is_new = true;
    return find_at_end(qcow2, wanted, is_whole, run, err);
}

/* W5 */
static int check_free(struct vd_qcow2 *qcow2, struct vd_range run, struct vdisk_error *err)
{
    uint64_t where;
    vd_mutex_lock(&qcow2->tables.lock);
    const char *what = vd_qcow2_meta_hit_locked(qcow2, run.offset << qcow2->geometry.cluster_bits,
                                                run.length, &where);
    vd_mutex_unlock(&qcow2->tables.lock);
    if (!what)
        return 0;
    return vd_qcow2_corrupt(qcow2, err,
                            "cluster at offset 0x%" PRIx64 ": is %s, but is not in use by its "
                            "refcount",
                            where, what);
}

/* So many blocks are made together, but not many for a small file. */
static uint64_t blocks_together(const struct vd_qcow2 *qcow2)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t there = qcow2->writer->end / geometry->block_entries;
    uint64_t wanted = vd_min(vd_qcow2_blocks_ahead(geometry), there / 4);
    return vd_max(wanted, 1);
}

/*
 * Block @index is needed, and @run is free.  At the end of the file some behind it are made, too:
 * each finds its own refcount in itself, or in one that was made before it.
 */
static int make_blocks(struct vd_qcow2 *qcow2, uint64_t index, struct vd_range run, bool is_new,
                       struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    uint64_t entries = vd_qcow2_refcount_table_entries(qcow2);
    uint64_t count = is_new ? vd_min(blocks_together(qcow2), entries - index) : 1;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t missing, used = 0;
        uint64_t cluster = i ? writer->end : run.offset;
        struct vd_range first = vd_range((index + i) * qcow2->geometry.block_entries, 1);
        int ret = vd_qcow2_refs_missing(qcow2, first, &missing, err);
        if (ret == 0 && i)
            ret = vd_qcow2_refs_get(qcow2, cluster, &used, err);
        if (ret == 0 && (missing == UINT64_MAX || used))
            break;
        if (ret == 0 && i)
            ret = check_free(qcow2, vd_range(cluster, 1), err);
        if (ret == 0 && is_new)
            ret = vd_qcow2_grow_file(qcow2, cluster + 1, err);
        if (ret == 0)
            ret = vd_qcow2_refs_make_block(qcow2, index + i, cluster, err);
        if (ret < 0)
            return ret;
        writer->end = vd_max(writer->end, cluster + 1);
    }
    return 0;
}

int vd_qcow2_take_alone(struct vd_qcow2 *qcow2, uint64_t wanted, bool is_whole,
                        struct vd_qcow2_space *space, struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    struct vd_range run;
    bool is_new;
    for (;;) {
        uint64_t missing = UINT64_MAX;
        int ret = find_place(qcow2, wanted, is_whole, &run, &is_new, err);
        if (ret == 0)
            ret = check_free(qcow2, run, err);
        if (ret == 0)
            ret = vd_qcow2_refs_missing(qcow2, run, &missing, err);
        if (ret < 0)
            return ret;
        if (missing == UINT64_MAX)
            break;
        ret = make_blocks(qcow2, missing, run, is_new, err);
        if (ret < 0)
            return ret;
    }
    int ret = is_new ? vd_qcow2_grow_file(qcow2, vd_range_end(run), err) : 0;
    if (ret == 0)
        ret = vd_qcow2_refs_up(qcow2, run, err);
    if (ret < 0)
        return ret;
    writer->end = vd_max(writer->end, vd_range_end(run));
    if (writer->hint == run.offset)
        writer->hint = vd_range_end(run);
    *space = (struct vd_qcow2_space){.host = run.offset << qcow2->geometry.cluster_bits,
                                     .clusters = run.length,
                                     .is_new = is_new};
    return 0;
}

static int take(struct vd_qcow2 *qcow2, uint64_t wanted, bool is_whole,
                struct vd_qcow2_space *space, struct vdisk_error *err)
{
    int ret = vd_qcow2_begin(qcow2, err);
    while (ret == 0) {
        vd_mutex_lock(&qcow2->writer->alloc_lock);
        uint64_t seen = vd_qcow2_refcount_table_entries(qcow2);
        ret = vd_qcow2_take_alone(qcow2, wanted, is_whole, space, err);
        vd_mutex_unlock(&qcow2->writer->alloc_lock);
        if (ret != VD_QCOW2_NEEDS_TABLE)
            break;
        ret = vd_qcow2_grow_refcounts(qcow2, seen, wanted, err);
    }
    return ret;
}

int vd_qcow2_take(struct vd_qcow2 *qcow2, uint64_t wanted, struct vd_qcow2_space *space,
                  struct vdisk_error *err)
{
    return take(qcow2, wanted, false, space, err);
}

int vd_qcow2_take_whole(struct vd_qcow2 *qcow2, uint64_t clusters, struct vd_qcow2_space *space,
                        struct vdisk_error *err)
{
    return take(qcow2, clusters, true, space, err);
}

void vd_qcow2_give_back_alone(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    uint64_t first = host >> qcow2->geometry.cluster_bits;
    /* If its refcounts can not be read, it is a leak. */
    if (vd_qcow2_refs_down(qcow2, vd_range(first, clusters), NULL, NULL) == 0)
        writer->hint = vd_min(writer->hint, first);
}

void vd_qcow2_give_back(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters)
{
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    vd_qcow2_give_back_alone(qcow2, host, clusters);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
}

int vd_qcow2_refer(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                   struct vdisk_error *err)
{
    uint64_t missing = UINT64_MAX;
    struct vd_range run = vd_range(host >> qcow2->geometry.cluster_bits, clusters);
    int ret = vd_qcow2_begin(qcow2, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    ret = vd_qcow2_refs_missing(qcow2, run, &missing, err);
    if (ret == VD_QCOW2_NEEDS_TABLE || (ret == 0 && missing != UINT64_MAX))
        ret = vd_err_set(err, EBADMSG,
                         "%s: cluster at offset 0x%" PRIx64
                         " is in use, but has no refcount: run vdisk check",
                         vd_storage_name(qcow2->file), host);
    if (ret == 0)
        ret = vd_qcow2_refs_up(qcow2, run, err);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return ret;
}

int vd_qcow2_refcount(struct vd_qcow2 *qcow2, uint64_t host, uint64_t *refcount,
                      struct vdisk_error *err)
{
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    int ret = vd_qcow2_refs_get(qcow2, host >> qcow2->geometry.cluster_bits, refcount, err);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return ret;
}

/* ---- L2 tables ---- */

/* L1 entry @index, as the cache has it. */
static int get_l1(struct vd_qcow2 *qcow2, uint64_t index, uint64_t *value, struct vdisk_error *err)
{
    uint64_t at = qcow2->l1_offset + index * 8;
    struct vd_table_page *page;
    bool waited = false;
    vd_mutex_lock(&qcow2->tables.lock);
    int ret = vd_table_cache_get_locked(&qcow2->tables, at, &page, &waited, err);
    if (ret == 0)
        *value = be64_get(*(const struct be64 *)vd_table_page_at(page, at));
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}

int vd_qcow2_read_table(struct vd_qcow2 *qcow2, uint64_t table, uint8_t *bytes, uint64_t length,
                        struct vdisk_error *err)
{
    uint64_t end = table + length;
    int ret = 0;
    vd_mutex_lock(&qcow2->tables.lock);
    for (uint64_t at = table; ret == 0 && at < end;) {
        struct vd_table_page *page;
        bool waited = false;
        ret = vd_table_cache_get_locked(&qcow2->tables, at, &page, &waited, err);
        if (ret < 0)
            break;
        uint64_t step = vd_min(vd_table_page_end(&qcow2->tables, page), end) - at;
        memcpy(bytes + (at - table), vd_table_page_at(page, at), (size_t)step);
        at += step;
    }
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}

/* What must not fail once the table is in the cache. */
static int make_ready_locked(struct vd_qcow2 *qcow2, bool has_old, struct vdisk_error *err)
    VD_REQUIRES(qcow2->tables.lock)
{
    int ret = vd_qcow2_places_reserve(&qcow2->writer->new_tables, err);
    if (ret == 0)
        ret = vd_qcow2_meta_reserve_locked(qcow2, 1, err);
    if (ret == 0 && has_old)
        ret = vd_qcow2_reserve_releases_locked(qcow2, 1, err);
    return ret;
}

/* W7: @bytes becomes the table at @host, which L1 entry @index leads to instead of @old. */
static int put_table(struct vd_qcow2 *qcow2, uint64_t index, uint64_t host, const uint8_t *bytes,
                     uint64_t old, struct vdisk_error *err)
{
    uint64_t at = qcow2->l1_offset + index * 8;
    struct vd_table_page *page;
    bool waited = false;
    vd_mutex_lock(&qcow2->tables.lock);
    int ret = make_ready_locked(qcow2, old != 0, err);
    if (ret < 0)
        goto out;
    ret = vd_table_cache_get_locked(&qcow2->tables, at, &page, &waited, err);
    if (ret == 0) {
        vd_table_cache_pin_locked(&qcow2->tables, at);
        ret = vd_table_cache_put_locked(&qcow2->tables, host, bytes, qcow2->geometry.cluster_bytes,
                                        err);
        page = vd_table_cache_unpin_locked(&qcow2->tables, at);
    }
    if (ret < 0) {
        vd_qcow2_unreserve_locked(qcow2, old != 0);
        goto out;
    }
    *(struct be64 *)vd_table_page_at(page, at) = be64_of(host | VD_QCOW2_ENTRY_COPIED);
    vd_table_page_changed_locked(&qcow2->tables, page, at, 8);
    vd_qcow2_places_add(&qcow2->writer->new_tables, host);
    vd_qcow2_meta_add_locked(qcow2, VD_QCOW2_META_L2, host >> qcow2->geometry.cluster_bits);
    if (old) {
        vd_qcow2_meta_remove_locked(qcow2, old >> qcow2->geometry.cluster_bits);
        vd_qcow2_release_locked(qcow2, old, 1);
    }
out:
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}

/* Only who holds alloc_lock makes tables, so no second one comes up meanwhile. */
static int make_table_alone(struct vd_qcow2 *qcow2, uint64_t index, uint64_t old,
                            struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    uint32_t cluster_bytes = qcow2->geometry.cluster_bytes;
    CLEANUP_FREE uint8_t *bytes = old ? malloc(cluster_bytes) : NULL;
    struct vd_qcow2_space space;
    if (old && !bytes)
        return vd_err_nomem(err, "an L2 table");
    int ret = old ? vd_qcow2_read_table(qcow2, old, bytes, cluster_bytes, err) : 0;
    if (ret == 0)
        ret = vd_qcow2_take_alone(qcow2, 1, false, &space, err);
    if (ret < 0)
        return ret;
    ret = vd_qcow2_set_aside(qcow2, &writer->aside, vd_range(space.host, cluster_bytes), err);
    if (ret == 0)
        ret = vd_qcow2_set_aside(qcow2, &writer->l1_aside,
                                 vd_range(qcow2->l1_offset + index * 8, 8), err);
    if (ret == 0)
        ret = put_table(qcow2, index, space.host, bytes, old, err);
    if (ret < 0)
        vd_qcow2_give_back_alone(qcow2, space.host, 1);
    return ret;
}

int vd_qcow2_make_table(struct vd_qcow2 *qcow2, uint64_t guest, struct vdisk_error *err)
{
    uint64_t index = vd_qcow2_l1_index(&qcow2->geometry, guest);
    int ret = vd_qcow2_begin(qcow2, err);
    while (ret == 0) {
        uint64_t value;
        vd_mutex_lock(&qcow2->writer->alloc_lock);
        uint64_t seen = vd_qcow2_refcount_table_entries(qcow2);
        ret = get_l1(qcow2, index, &value, err);
        if (ret == 0 && !(value & VD_QCOW2_ENTRY_COPIED))
            ret = make_table_alone(qcow2, index, value & VD_QCOW2_ENTRY_OFFSET, err);
        vd_mutex_unlock(&qcow2->writer->alloc_lock);
        if (ret != VD_QCOW2_NEEDS_TABLE)
            break;
        ret = vd_qcow2_grow_refcounts(qcow2, seen, 1, err);
    }
    return ret;
}

int vd_qcow2_move_table(struct vd_qcow2 *qcow2, uint64_t index, struct vdisk_error *err)
{
    uint64_t value;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    int ret = get_l1(qcow2, index, &value, err);
    assert(ret < 0 || (value & VD_QCOW2_ENTRY_COPIED));
    if (ret == 0)
        ret = make_table_alone(qcow2, index, value & VD_QCOW2_ENTRY_OFFSET, err);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return ret;
}

/* ---- The end of the session ---- */

int vd_qcow2_trim(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    int ret = 0;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    uint64_t end = vd_min(writer->end, vd_qcow2_clusters(&qcow2->geometry, writer->file_bytes));
    uint64_t count = 0;
    while (ret == 0 && end > writer->kept_end && count == 0) {
        ret = vd_qcow2_refs_get(qcow2, end - 1, &count, err);
        end -= ret == 0 && count == 0;
    }
    uint64_t bytes = end << qcow2->geometry.cluster_bits;
    if (ret == 0 && writer->can_resize && bytes < writer->file_bytes) {
        ret = vd_storage_resize(qcow2->file, bytes, err);
        if (ret == 0)
            set_file_bytes(qcow2, bytes);
    }
    writer->end = writer->can_resize ? end : writer->end;
    writer->hint = vd_min(writer->hint, writer->end);
    writer->aside = vd_range(0, 0);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return ret;
}
