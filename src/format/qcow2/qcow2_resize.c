/* SPDX-License-Identifier: MIT */
/* A new size for the disk of a qcow2 image, and forgetting its data.  No other call runs. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/cipher.h"
#include "format/qcow2/qcow2_bitmap.h"
#include "format/qcow2/qcow2_write.h"
#include "util/mem.h"

#define SECTOR_BYTES 512u
#define PIECE_BYTES  (UINT64_C(2) << 20) /* a multiple of all clusters */

/* ---- Zeros in places ---- */

/* Writes zeros to what @mapping has of @guest, as its disk has to read them. */
static int write_zeros(const struct vd_mapping *mapping, struct vd_range guest, unsigned flags,
                       struct vdisk_error *err)
{
    uint64_t skip = guest.offset - mapping->guest.offset;
    uint64_t host = mapping->host_offset + skip;
    if (!mapping->cipher)
        return vd_storage_write_zeroes(mapping->storage, vd_range(host, guest.length), flags, err);
    size_t room = (size_t)vd_min(guest.length, PIECE_BYTES);
    CLEANUP_FREE uint8_t *bytes = vd_alloc_io(room);
    if (!bytes)
        return vd_err_nomem(err, "encrypted zeros");
    int ret = 0;
    for (uint64_t done = 0, step; done < guest.length && ret == 0; done += step) {
        step = vd_min(guest.length - done, room);
        memset(bytes, 0, (size_t)step);
        ret = vd_cipher_encrypt(mapping->cipher, mapping->cipher_offset + skip + done, bytes,
                                (size_t)step, err);
        if (ret == 0)
            ret = vd_storage_pwrite(mapping->storage, bytes, (size_t)step, host + done, err);
    }
    return ret;
}

/* ---- The cluster with the old end ---- */

static int read_encoded(struct vd_qcow2 *qcow2, const struct vd_mapping *mapping, uint8_t *bytes,
                        struct vdisk_error *err)
{
    struct vd_decoder *decoder = NULL;
    CLEANUP_FREE uint8_t *encoded = vd_alloc_io(mapping->encoded_bytes);
    if (!encoded)
        return vd_err_nomem(err, "a compressed cluster");
    int ret = vd_storage_pread(mapping->storage, encoded, mapping->encoded_bytes,
                               mapping->host_offset, err);
    if (ret == 0)
        ret = vd_decoder_new(&decoder, err);
    if (ret == 0)
        ret = vd_decode(decoder, mapping->codec, encoded, mapping->encoded_bytes, bytes,
                        qcow2->geometry.cluster_bytes, err);
    vd_decoder_free(decoder);
    return ret;
}

/* What the cluster at guest offset @cluster has, all of it.  Subclusters that are not in this image
 * are left as zeros. */
static int read_cluster(struct vd_qcow2 *qcow2, uint64_t cluster, uint8_t *bytes,
                        struct vdisk_error *err)
{
    struct vd_range rest = vd_range(cluster, qcow2->geometry.cluster_bytes);
    memset(bytes, 0, rest.length);
    while (rest.length) {
        struct vd_mapping mapping = {0};
        uint8_t *at = bytes + (rest.offset - cluster);
        int ret = vd_qcow2_map(qcow2->format, rest, &mapping, err);
        size_t length = (size_t)mapping.guest.length;
        if (ret == 0 && mapping.kind == VD_MAP_ENCODED)
            return read_encoded(qcow2, &mapping, bytes, err);
        if (ret == 0 && mapping.kind == VD_MAP_DATA)
            ret = vd_storage_pread(mapping.storage, at, length, mapping.host_offset, err);
        if (ret == 0 && mapping.kind == VD_MAP_DATA && mapping.cipher)
            ret = vd_cipher_decrypt(mapping.cipher, mapping.cipher_offset, at, length, err);
        if (ret < 0)
            return ret;
        rest = vd_range(rest.offset + length, rest.length - length);
    }
    return 0;
}

/* Writes @bytes of the cluster at guest offset @cluster to the fresh @mapping. */
static int write_fresh(const struct vd_mapping *mapping, uint64_t cluster, uint8_t *bytes,
                       struct vdisk_error *err)
{
    struct vd_range whole = mapping->clusters;
    uint8_t *at = bytes + (whole.offset - cluster);
    int ret = 0;
    if (mapping->cipher)
        ret = vd_cipher_encrypt(mapping->cipher,
                                mapping->cipher_offset - (mapping->guest.offset - whole.offset), at,
                                (size_t)whole.length, err);
    return ret < 0
               ? ret
               : vd_storage_pwrite(mapping->storage, at, (size_t)whole.length,
                                   mapping->host_offset - (mapping->guest.offset - whole.offset),
                                   err);
}

/*
 * The part of the subcluster with offset @end, which is within its cluster, that lies behind @end
 * reads as zero; of a compressed cluster, all that lies behind it.  If it is shown by something
 * that is not to be written, it gets a new place.
 */
static int clean_tail(struct vd_qcow2 *qcow2, uint64_t end, struct vdisk_error *err)
{
    uint32_t cluster_bytes = qcow2->geometry.cluster_bytes;
    uint64_t cluster = vd_round_down(end, cluster_bytes);
    struct vd_range tail = vd_range(end, cluster + cluster_bytes - end);
    struct vd_mapping mapping = {0};
    int ret = vd_qcow2_map(qcow2->format, tail, &mapping, err);
    if (ret == 0 && mapping.kind != VD_MAP_ENCODED)
        tail.length = vd_round_up(end, qcow2->geometry.subcluster_bytes) - end;
    if (ret < 0 || tail.length == 0)
        return ret;
    /* What shows the backing file there was dealt with by who knows what it hid. */
    if (mapping.kind == VD_MAP_ZERO || mapping.kind == VD_MAP_BACKING)
        return 0;
    CLEANUP_FREE uint8_t *bytes = vd_alloc_io(cluster_bytes);
    if (!bytes)
        return vd_err_nomem(err, "a cluster");
    ret = read_cluster(qcow2, cluster, bytes, err);
    if (ret < 0)
        return ret;
    uint8_t *from = bytes + (end - cluster);
    if (from[0] == 0 && memcmp(from, from + 1, (size_t)tail.length - 1) == 0)
        return 0;
    memset(from, 0, (size_t)tail.length);
    mapping = (struct vd_mapping){0};
    ret = vd_qcow2_map_for_write(qcow2->format, tail, true, &mapping, err);
    if (ret < 0)
        return ret;
    if (!mapping.fresh)
        return write_zeros(&mapping, mapping.guest, 0, err);
    ret = write_fresh(&mapping, cluster, bytes, err);
    vd_qcow2_write_done(qcow2->format, &mapping, ret == 0);
    return ret;
}

/* ---- Growth ---- */

/* A place for whole clusters from the start of @guest on, and zeros in it. */
static int allocate_zeros(struct vd_qcow2 *qcow2, struct vd_range guest, uint64_t *done,
                          enum vdisk_preallocation preallocation, struct vdisk_error *err)
{
    struct vd_mapping mapping = {0};
    bool is_full = preallocation == VDISK_PREALLOCATION_FULL;
    int ret = vd_qcow2_map_for_write(qcow2->format, guest, true, &mapping, err);
    if (ret < 0)
        return ret;
    *done = mapping.guest.length;
    if (is_full || !mapping.fresh || mapping.fill != VD_FILL_NONE)
        ret = write_zeros(&mapping, mapping.guest, is_full ? VD_STORAGE_ZERO_AS_DATA : 0, err);
    if (ret == 0 && preallocation == VDISK_PREALLOCATION_FALLOC)
        ret = vd_storage_preallocate(mapping.storage,
                                     vd_range(mapping.host_offset, mapping.guest.length), err);
    if (mapping.fresh)
        vd_qcow2_write_done(qcow2->format, &mapping, ret == 0);
    return ret;
}

/* The start of @guest, whole subclusters that are not all absent, reads as zero. */
static int clean_piece(struct vd_qcow2 *qcow2, struct vd_range guest, uint64_t *done,
                       struct vdisk_error *err)
{
    struct vd_mapping mapping = {0};
    int ret = vd_qcow2_map_zero(qcow2->format, guest, VD_MAP_ZERO_MAY_UNMAP, &mapping, err);
    if (ret < 0)
        return ret;
    *done = mapping.guest.length;
    if (mapping.kind == VD_MAP_DATA)
        return write_zeros(&mapping, mapping.guest, 0, err);
    if (mapping.kind == VD_MAP_BACKING)
        return allocate_zeros(qcow2, mapping.guest, done, VDISK_PREALLOCATION_OFF, err);
    return 0;
}

/* All of @guest reads as zero, whatever the tables have there, and the backing file, up to
 * @backing_bytes. */
static int clean(struct vd_qcow2 *qcow2, struct vd_range guest, uint64_t backing_bytes,
                 struct vdisk_error *err)
{
    uint64_t start = vd_round_up(guest.offset, qcow2->geometry.subcluster_bytes);
    uint64_t end = vd_round_up(vd_range_end(guest), qcow2->geometry.cluster_bytes);
    int ret = 0;
    if (!vd_is_aligned(guest.offset, qcow2->geometry.cluster_bytes))
        ret = clean_tail(qcow2, guest.offset, err);
    while (ret == 0 && start < end) {
        struct vd_qcow2_run run;
        struct vd_range rest = vd_range(start, end - start);
        vd_mutex_lock(&qcow2->tables.lock);
        ret = vd_qcow2_find_run_locked(qcow2, rest, &run, err);
        vd_mutex_unlock(&qcow2->tables.lock);
        if (ret < 0)
            break;
        uint64_t done = vd_range_end(run.guest) - start;
        if (run.kind == VD_QCOW2_RUN_ENCODED && run.guest.offset < start) {
            start += done; /* the cluster with the old end: zeros are behind that already */
            continue;
        }
        bool shows = run.kind != VD_QCOW2_RUN_ABSENT ||
                     (qcow2->header.backing_name && start < backing_bytes);
        if (run.kind == VD_QCOW2_RUN_ABSENT && start < backing_bytes)
            rest.length =
                vd_min(done, vd_round_up(backing_bytes, qcow2->geometry.cluster_bytes) - start);
        else
            rest.length = done;
        if (shows)
            ret = clean_piece(qcow2, rest, &done, err);
        start += done;
    }
    return ret;
}

/* A longer L1 table, for a disk of @size. */
static int grow_l1(struct vd_qcow2 *qcow2, uint64_t entries, struct vdisk_error *err)
{
    unsigned bits = qcow2->geometry.cluster_bits;
    struct vd_qcow2_fields fields = qcow2->header.fields;
    uint64_t clusters = vd_qcow2_clusters(&qcow2->geometry, entries * 8);
    size_t bytes = (size_t)clusters << bits;
    struct vd_qcow2_space space;
    struct vd_range aside = {0, 0};
    CLEANUP_FREE uint8_t *table = calloc(1, bytes);
    if (!table)
        return vd_err_nomem(err, "an L1 table");
    int ret =
        vd_qcow2_read_table(qcow2, fields.l1_offset, table, fields.l1_entries * UINT64_C(8), err);
    if (ret == 0)
        ret = vd_qcow2_take_whole(qcow2, clusters, &space, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    ret = vd_qcow2_set_aside(qcow2, &aside, vd_range(space.host, bytes), err);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    vd_mutex_lock(&qcow2->tables.lock);
    if (ret == 0)
        ret = vd_table_cache_put_locked(&qcow2->tables, space.host, table, bytes, err); /* W7 */
    vd_mutex_unlock(&qcow2->tables.lock);
    if (ret < 0) {
        vd_qcow2_give_back(qcow2, space.host, clusters);
        return ret;
    }
    ret = vd_qcow2_meta_add(qcow2, VD_QCOW2_META_L1, space.host, clusters, err);
    if (ret == 0)
        ret = vd_qcow2_flush(qcow2->format, err);
    if (ret < 0)
        return ret;                /* it is a leak */
    fields = qcow2->header.fields; /* the refcount table may have another place since */
    uint64_t old = fields.l1_offset;
    uint64_t old_clusters = vd_qcow2_clusters(&qcow2->geometry, fields.l1_entries * UINT64_C(8));
    fields.l1_offset = space.host;
    fields.l1_entries = (uint32_t)entries;
    ret = vd_qcow2_replace_fields(qcow2, &fields, err);
    if (ret < 0)
        return ret;
    qcow2->l1_offset = fields.l1_offset;
    qcow2->l1_entries = fields.l1_entries;
    qcow2->writer->l1_aside = vd_range(0, 0);
    vd_qcow2_meta_remove(qcow2, old, old_clusters);
    if (old_clusters)
        vd_qcow2_give_back(qcow2, old, old_clusters); /* its reference is durably gone */
    return 0;
}

static int replace_size(struct vd_qcow2 *qcow2, uint64_t size, struct vdisk_error *err)
{
    struct vd_qcow2_fields fields = qcow2->header.fields;
    fields.size = size;
    return vd_qcow2_replace_fields(qcow2, &fields, err);
}

int vd_qcow2_preallocate(struct vd_qcow2 *qcow2, struct vd_range guest,
                         enum vdisk_preallocation preallocation, struct vdisk_error *err)
{
    uint64_t start = vd_round_down(guest.offset, qcow2->geometry.cluster_bytes);
    uint64_t end = vd_round_up(vd_range_end(guest), qcow2->geometry.cluster_bytes);
    int ret = 0;
    for (uint64_t done; start < end && ret == 0; start += done) {
        struct vd_qcow2_run run;
        struct vd_range rest = vd_range(start, end - start);
        done = 0;
        vd_mutex_lock(&qcow2->tables.lock);
        ret = vd_qcow2_find_run_locked(qcow2, rest, &run, err);
        vd_mutex_unlock(&qcow2->tables.lock);
        if (ret < 0)
            break;
        /* The cluster with the old end may have its data already. */
        if (run.kind == VD_QCOW2_RUN_DATA || run.kind == VD_QCOW2_RUN_ENCODED)
            done = vd_range_end(run.guest) - start;
        else
            ret = allocate_zeros(qcow2, vd_range(start, vd_min(rest.length, PIECE_BYTES)), &done,
                                 preallocation, err);
    }
    return ret;
}

/* The data file of a disk of @size: it is made longer, but no shorter unless it is the disk. */
static int resize_data(struct vd_qcow2 *qcow2, uint64_t size, struct vdisk_error *err)
{
    bool is_raw = (qcow2->header.fields.autoclear & VD_QCOW2_DATA_RAW) != 0;
    uint64_t bytes;
    if (qcow2->data == qcow2->file)
        return 0;
    int ret = vd_storage_size(qcow2->data, &bytes, err);
    if (ret == 0 && bytes != size && (is_raw || bytes < size))
        ret = vd_storage_resize(qcow2->data, size, err);
    if (ret == 0) {
        vd_mutex_lock(&qcow2->tables.lock);
        ret = vd_storage_size(qcow2->data, &qcow2->data_bytes, err);
        vd_mutex_unlock(&qcow2->tables.lock);
    }
    return ret;
}

/* The header is the last to change, so that what becomes visible is clean. */
static int grow(struct vd_qcow2 *qcow2, const struct vd_resize *resize, struct vdisk_error *err)
{
    uint64_t size = qcow2->format->size;
    struct vd_range added = vd_range(size, resize->size - size);
    bool is_raw = (qcow2->header.fields.autoclear & VD_QCOW2_DATA_RAW) != 0;
    uint64_t entries = vd_qcow2_l1_entries(&qcow2->geometry, resize->size);
    int ret = entries > qcow2->l1_entries ? grow_l1(qcow2, entries, err) : 0;
    if (ret == 0)
        ret = resize_data(qcow2, resize->size, err);
    if (ret == 0)
        ret = clean(qcow2, added, resize->backing_bytes, err);
    if (ret == 0 && (resize->preallocation != VDISK_PREALLOCATION_OFF || is_raw))
        ret = vd_qcow2_preallocate(qcow2, added, resize->preallocation, err);
    if (ret == 0)
        ret = vd_qcow2_flush(qcow2->format, err);
    return ret < 0 ? ret : replace_size(qcow2, resize->size, err);
}

/* ---- Forgetting data ---- */

static void release_entry_locked(struct vd_qcow2 *qcow2, const struct vd_qcow2_entry *entry)
    VD_REQUIRES(qcow2->tables.lock)
{
    if (entry->is_encoded)
        vd_qcow2_release_locked(
            qcow2, entry->host,
            vd_qcow2_encoded_clusters(&qcow2->geometry, entry->host, entry->encoded_bytes));
    else if (entry->has_host && qcow2->data == qcow2->file)
        vd_qcow2_release_locked(qcow2, entry->host, 1);
    else
        vd_qcow2_unreserve_locked(qcow2, 1);
}

/* Entry @index of @table, which L1 entry @l1_index leads to, may be released. */
static int check_entry(struct vd_qcow2 *qcow2, uint64_t l1_index, uint32_t index,
                       const uint8_t *table, struct vd_qcow2_entry *entry, struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    const uint8_t *bytes = table + (size_t)index * geometry->entry_bytes;
    uint64_t guest = l1_index * geometry->l2_span + ((uint64_t)index << geometry->cluster_bits);
    vd_qcow2_wrong wrong = vd_qcow2_entry_decode(&qcow2->rules, bytes, entry);
    if (wrong)
        return vd_qcow2_bad_l2(qcow2, guest, be64_get(*(const struct be64 *)bytes), wrong, err);
    if (entry->is_encoded)
        return vd_qcow2_check_place(
            qcow2, vd_round_down(entry->host, geometry->cluster_bytes),
            vd_qcow2_encoded_clusters(geometry, entry->host, entry->encoded_bytes), "data", err);
    if (entry->has_host && qcow2->data == qcow2->file)
        return vd_qcow2_check_place(qcow2, entry->host, 1, "data", err);
    return 0;
}

/* L1 entry @index leads to nothing any more; what it led to is released: W3. */
static int drop_table(struct vd_qcow2 *qcow2, uint64_t index, uint64_t table,
                      struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t at = qcow2->l1_offset + index * 8;
    CLEANUP_FREE uint8_t *bytes = malloc(geometry->cluster_bytes);
    CLEANUP_FREE struct vd_qcow2_entry *entries =
        vd_alloc_array(geometry->l2_entries, sizeof(*entries));
    struct vd_table_page *page;
    bool waited = false;
    if (!bytes || !entries)
        return vd_err_nomem(err, "an L2 table");
    int ret = vd_qcow2_read_table(qcow2, table, bytes, geometry->cluster_bytes, err);
    for (uint32_t i = 0; i < geometry->l2_entries && ret == 0; i++)
        ret = check_entry(qcow2, index, i, bytes, &entries[i], err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->tables.lock);
    ret = vd_qcow2_reserve_releases_locked(qcow2, (size_t)geometry->l2_entries + 1, err);
    if (ret == 0) {
        ret = vd_table_cache_get_locked(&qcow2->tables, at, &page, &waited, err);
        if (ret < 0)
            vd_qcow2_unreserve_locked(qcow2, (size_t)geometry->l2_entries + 1);
    }
    if (ret == 0) {
        *(struct be64 *)vd_table_page_at(page, at) = be64_of(0);
        vd_table_page_changed_locked(&qcow2->tables, page, at, 8);
        for (uint32_t i = 0; i < geometry->l2_entries; i++)
            release_entry_locked(qcow2, &entries[i]);
        vd_qcow2_meta_remove_locked(qcow2, table >> geometry->cluster_bits);
        vd_qcow2_release_locked(qcow2, table, 1);
    }
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret < 0 ? ret : vd_qcow2_relieve(qcow2, err);
}

/* All tables from L1 entry @index on. */
static int drop_tables(struct vd_qcow2 *qcow2, uint64_t index, struct vdisk_error *err)
{
    int ret = 0;
    while (ret == 0 && index < qcow2->l1_entries) {
        struct vd_qcow2_run run;
        uint64_t guest = index * qcow2->geometry.l2_span;
        uint64_t end = qcow2->l1_entries * qcow2->geometry.l2_span;
        vd_mutex_lock(&qcow2->tables.lock);
        ret = vd_qcow2_find_run_locked(qcow2, vd_range(guest, end - guest), &run, err);
        vd_mutex_unlock(&qcow2->tables.lock);
        if (ret == 0 && run.entries) {
            ret = drop_table(qcow2, index, run.table, err);
            index++;
        } else if (ret == 0) {
            index = vd_div_up(vd_range_end(run.guest), qcow2->geometry.l2_span);
        }
    }
    return ret;
}

/* What the table with @guest, its start on, leads to up to the end of the table. */
static int drop_entries(struct vd_qcow2 *qcow2, uint64_t guest, struct vdisk_error *err)
{
    uint64_t end = vd_round_up(guest, qcow2->geometry.l2_span);
    int ret = 0;
    while (ret == 0 && guest < end) {
        struct vd_qcow2_run run;
        struct vd_range rest = vd_range(guest, end - guest);
        vd_mutex_lock(&qcow2->tables.lock);
        ret = vd_qcow2_find_run_locked(qcow2, rest, &run, err);
        vd_mutex_unlock(&qcow2->tables.lock);
        if (ret < 0)
            break;
        uint64_t done = vd_range_end(run.guest) - guest;
        /* Extended entries may have a place without anything in it. */
        bool has_some = run.kind != VD_QCOW2_RUN_ABSENT || qcow2->geometry.subclusters > 1;
        if (run.entries && has_some)
            ret = vd_qcow2_forget_run(qcow2, rest, &done, err);
        guest += done;
    }
    return ret;
}

/*
 * The header is the first to change, so that nothing of the old disk is lost before.  What hides in
 * the last cluster is zeroed for who makes the disk larger without looking; grow() looks.
 */
static int shrink(struct vd_qcow2 *qcow2, uint64_t size, struct vdisk_error *err)
{
    uint64_t span = qcow2->geometry.l2_span;
    int ret = vd_qcow2_flush(qcow2->format, err);
    if (ret == 0)
        ret = replace_size(qcow2, size, err);
    if (ret < 0)
        return ret;
    qcow2->format->size = size;
    if (!vd_is_aligned(size, qcow2->geometry.cluster_bytes))
        ret = clean_tail(qcow2, size, err);
    if (ret == 0)
        ret = drop_entries(qcow2, vd_round_up(size, qcow2->geometry.cluster_bytes), err);
    if (ret == 0)
        ret = drop_tables(qcow2, vd_div_up(size, span), err);
    if (ret == 0)
        ret = resize_data(qcow2, size, err);
    return ret < 0 ? ret : vd_qcow2_flush(qcow2->format, err);
}

static int check_resize(const struct vd_qcow2 *qcow2, const struct vd_resize *resize,
                        struct vdisk_error *err)
{
    const char *name = vd_storage_name(qcow2->file);
    uint64_t limit = VD_QCOW2_L1_BYTES_MAX / 8 * qcow2->geometry.l2_span;
    if (!vd_is_aligned(resize->size, SECTOR_BYTES))
        return vd_err_set(err, EINVAL, "%s: size %" PRIu64 ": is no multiple of 512", name,
                          resize->size);
    if (resize->size > limit)
        return vd_err_set(err, EFBIG,
                          "%s: size %" PRIu64 ": the limit with clusters of %" PRIu32
                          " bytes is %" PRIu64,
                          name, resize->size, qcow2->geometry.cluster_bytes, limit);
    if (qcow2->header.fields.snapshot_entries && qcow2->header.fields.version < 3)
        return vd_err_set(err, ENOTSUP,
                          "%s: has snapshots, which do not know their size in version 2: run vdisk "
                          "amend -o compat=1.1 first",
                          name);
    if (resize->preallocation != VDISK_PREALLOCATION_OFF && resize->size < qcow2->format->size)
        return vd_err_set(err, EINVAL, "%s: preallocation: only for a disk that grows", name);
    return 0;
}

int vd_qcow2_resize(struct vd_format *format, const struct vd_resize *resize,
                    struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    int ret = check_resize(qcow2, resize, err);
    if (ret == 0)
        ret = vd_qcow2_begin(qcow2, err);
    if (ret == 0 && resize->size != format->size)
        ret = vd_qcow2_bitmaps_resize(qcow2, resize->size, err);
    if (ret < 0)
        return ret;
    if (resize->size == format->size)
        return vd_qcow2_flush(format, err);
    if (resize->size > format->size)
        ret = grow(qcow2, resize, err);
    else
        ret = shrink(qcow2, resize->size, err);
    vd_qcow2_bitmaps_resized(qcow2, qcow2->header.fields.size == resize->size);
    if (ret == 0)
        format->size = resize->size;
    return ret;
}

int vd_qcow2_empty(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    if (qcow2->header.fields.autoclear & VD_QCOW2_DATA_RAW)
        return vd_err_set(err, ENOTSUP, "%s: has all its data in a raw file, and can not forget it",
                          vd_storage_name(qcow2->file));
    int ret = vd_qcow2_begin(qcow2, err);
    if (ret == 0) /* the disk reads the same: nothing for the bitmaps */
        ret = drop_tables(qcow2, 0, err);
    return ret < 0 ? ret : vd_qcow2_flush(format, err);
}
