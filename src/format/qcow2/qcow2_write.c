/* SPDX-License-Identifier: MIT */
/* Where may a qcow2 image be written? */
#include <inttypes.h>

#include "format/qcow2/qcow2_bitmap.h"
#include "format/qcow2/qcow2_refs.h"

/*
 * The token of a fresh mapping: the file offset of the first L2 entry, and how it ends.  The page
 * with the entries is pinned.
 */
enum token {
    TOKEN_IN_PLACE = 1 << 0, /* nothing was taken for it */
    TOKEN_RESERVED = 1 << 1, /* room to release what each entry has now */
    TOKEN_ENCODED = 1 << 2,
    TOKEN_BITS = 7
};

int vd_qcow2_find_to_change_locked(struct vd_qcow2 *qcow2, struct vd_range guest,
                                   struct vd_qcow2_run *run, struct vdisk_error *err)
{
    for (;;) {
        int ret = vd_qcow2_find_run_locked(qcow2, guest, run, err);
        if (ret < 0 || (run->entries && run->table_is_copied))
            return ret;
        vd_mutex_unlock(&qcow2->tables.lock);
        ret = vd_qcow2_make_table(qcow2, guest.offset, err);
        vd_mutex_lock(&qcow2->tables.lock);
        if (ret < 0)
            return ret;
    }
}

int vd_qcow2_overlap(struct vd_qcow2 *qcow2, const char *what, const char *other, uint64_t where,
                     struct vdisk_error *err)
{
    return vd_qcow2_corrupt(qcow2, err, "%s at offset 0x%" PRIx64 " is %s as well", what, where,
                            other);
}

int vd_qcow2_check_place(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters, const char *what,
                         struct vdisk_error *err)
{
    uint64_t where;
    vd_mutex_lock(&qcow2->tables.lock);
    const char *other = vd_qcow2_meta_hit_locked(qcow2, host, clusters, &where);
    vd_mutex_unlock(&qcow2->tables.lock);
    return other ? vd_qcow2_overlap(qcow2, what, other, where, err) : 0;
}

/* ---- What there is ---- */

bool vd_qcow2_is_in_place(const struct vd_qcow2 *qcow2, const struct vd_qcow2_run *run)
{
    return run->kind == VD_QCOW2_RUN_DATA && run->table_is_copied &&
           (run->is_copied || qcow2->rules.has_data_file);
}

/* Of @run, the part that @guest is to be written to. */
static void answer_data(const struct vd_qcow2 *qcow2, struct vd_range guest,
                        const struct vd_qcow2_run *run, struct vd_mapping *mapping)
{
    uint64_t end = vd_min(vd_range_end(guest), vd_range_end(run->guest));
    uint64_t host = run->host + (guest.offset - run->guest.offset);
    mapping->kind = VD_MAP_DATA;
    mapping->present = true;
    mapping->guest = vd_range(guest.offset, end - guest.offset);
    mapping->storage = qcow2->data;
    mapping->host_offset = host;
    if (!qcow2->cipher)
        return;
    mapping->cipher = qcow2->cipher;
    mapping->cipher_offset =
        qcow2->header.fields.crypt_method == VD_QCOW2_CRYPT_LUKS ? host : guest.offset;
}

/* W5; *other: what the clusters of [@host, +@length) of the file are besides. */
static const char *hit_data_locked(const struct vd_qcow2 *qcow2, uint64_t host, uint64_t length,
                                   uint64_t *where) VD_REQUIRES(qcow2->tables.lock)
{
    if (qcow2->data != qcow2->file)
        return NULL;
    struct vd_range whole = vd_range_expand(vd_range(host, length), qcow2->geometry.cluster_bytes);
    return vd_qcow2_meta_hit_locked(qcow2, whole.offset,
                                    whole.length >> qcow2->geometry.cluster_bits, where);
}

/* The data of @mapping lies behind the end of the file, which has to grow. */
static int grow_to(struct vd_qcow2 *qcow2, const struct vd_mapping *mapping,
                   struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    uint64_t clusters =
        vd_qcow2_clusters(&qcow2->geometry, mapping->host_offset + mapping->guest.length);
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    int ret = vd_qcow2_grow_file(qcow2, clusters, err);
    if (ret == 0)
        writer->end = vd_max(writer->end, clusters);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return ret;
}

int vd_qcow2_answer_in_place(struct vd_qcow2 *qcow2, struct vd_range guest,
                             const struct vd_qcow2_run *run, struct vd_mapping *mapping,
                             struct vdisk_error *err)
{
    uint64_t where;
    answer_data(qcow2, guest, run, mapping);
    const char *other = hit_data_locked(qcow2, mapping->host_offset, mapping->guest.length, &where);
    bool is_behind = qcow2->data == qcow2->file &&
                     mapping->host_offset + mapping->guest.length > qcow2->file_bytes;
    vd_mutex_unlock(&qcow2->tables.lock);
    if (other)
        return vd_qcow2_overlap(qcow2, "data", other, where, err);
    return is_behind ? grow_to(qcow2, mapping, err) : 0;
}

int vd_qcow2_try_in_place_locked(const struct vd_qcow2 *qcow2, struct vd_range guest,
                                 const struct vd_qcow2_run *run, struct vd_mapping *mapping)
{
    uint64_t where;
    if (!qcow2->writer || !atomic_load(&qcow2->writer->has_begun) ||
        !vd_qcow2_is_in_place(qcow2, run))
        return -EAGAIN;
    answer_data(qcow2, guest, run, mapping);
    uint64_t end = mapping->host_offset + mapping->guest.length;
    bool is_behind = qcow2->data == qcow2->file && end > qcow2->file_bytes;
    return is_behind || hit_data_locked(qcow2, mapping->host_offset, mapping->guest.length, &where)
               ? -EAGAIN
               : 0;
}

/* ---- New places ---- */

/* How whole clusters of a run are to be written. */
enum way {
    WAY_NEW,      /* they have no place */
    WAY_IN_PLACE, /* they have one, which nobody reads yet */
    WAY_COPY      /* theirs is not to be written: shared, or compressed */
};

struct fresh {
    enum way way;
    struct vd_range clusters; /* whole ones, or subclusters, in guest bytes */
    uint64_t entries;         /* L2 entries of them */
    uint64_t host;            /* IN_PLACE: of the first entry's cluster */
    enum vd_fill fill;
};

static enum way way_of(const struct vd_qcow2 *qcow2, const struct vd_qcow2_entry *entry)
{
    if (qcow2->rules.has_data_file)
        return WAY_IN_PLACE;
    if (entry->is_encoded || (entry->has_host && !entry->is_copied))
        return WAY_COPY;
    return entry->has_host ? WAY_IN_PLACE : WAY_NEW;
}

/* Entry @index of @run: its table has been checked, or changed, only in the first one. */
static bool decode(const struct vd_qcow2 *qcow2, const struct vd_qcow2_run *run, uint64_t index,
                   struct vd_qcow2_entry *entry)
{
    uint64_t at = run->entries + index * qcow2->geometry.entry_bytes;
    return !vd_qcow2_entry_decode(&qcow2->rules, vd_table_page_at(run->page, at), entry);
}

/* What the rest of the clusters of @run has to hold, if they read as zero or as the backing file
 * does. */
static enum vd_fill fill_of(const struct vd_qcow2 *qcow2, const struct vd_qcow2_run *run)
{
    if (run->kind == VD_QCOW2_RUN_ABSENT && qcow2->header.backing_name)
        return VD_FILL_BACKING;
    return VD_FILL_ZERO;
}

/* How is the start of @run written?  As many clusters as go the same way. */
static void plan_locked(const struct vd_qcow2 *qcow2, const struct vd_qcow2_run *run,
                        struct fresh *fresh) VD_REQUIRES(qcow2->tables.lock)
{
    uint32_t cluster_bytes = qcow2->geometry.cluster_bytes;
    struct vd_range whole = vd_range_expand(run->guest, cluster_bytes);
    uint64_t most = whole.length / cluster_bytes;
    struct vd_qcow2_entry entry, next;
    (void)decode(qcow2, run, 0, &entry);
    *fresh = (struct fresh){.way = way_of(qcow2, &entry), .host = entry.host, .entries = 1};
    if (qcow2->rules.has_data_file)
        fresh->host = whole.offset;
    while (fresh->entries < most && decode(qcow2, run, fresh->entries, &next) &&
           way_of(qcow2, &next) == fresh->way) {
        uint64_t expected = fresh->host + fresh->entries * cluster_bytes;
        if (fresh->way == WAY_IN_PLACE && !qcow2->rules.has_data_file && next.host != expected)
            break;
        fresh->entries++;
    }
    uint64_t end = whole.offset + fresh->entries * cluster_bytes;
    fresh->fill = fill_of(qcow2, run);
    if (fresh->way == WAY_COPY) {
        fresh->clusters = vd_range(whole.offset, end - whole.offset);
        /* Other subclusters may have data. */
        if (run->kind != VD_QCOW2_RUN_ZERO_AT || qcow2->geometry.subclusters > 1)
            fresh->fill = VD_FILL_OLD;
    } else {
        fresh->clusters =
            vd_range(run->guest.offset, vd_min(end, vd_range_end(run->guest)) - run->guest.offset);
    }
}

const char *vd_qcow2_hit_entries_locked(const struct vd_qcow2 *qcow2,
                                        const struct vd_qcow2_run *run, uint64_t entries,
                                        uint64_t *where)
{
    const char *other = NULL;
    for (uint64_t i = 0; i < entries && !other && qcow2->data == qcow2->file; i++) {
        struct vd_qcow2_entry entry;
        (void)decode(qcow2, run, i, &entry);
        if (entry.is_encoded)
            other = hit_data_locked(qcow2, entry.host, entry.encoded_bytes, where);
        else if (entry.has_host)
            other = hit_data_locked(qcow2, entry.host, qcow2->geometry.cluster_bytes, where);
    }
    return other;
}

/* Shortens @fresh to @entries. */
static void shorten(const struct vd_qcow2 *qcow2, struct fresh *fresh, uint64_t entries)
{
    uint32_t cluster_bytes = qcow2->geometry.cluster_bytes;
    uint64_t end = vd_round_down(fresh->clusters.offset, cluster_bytes) + entries * cluster_bytes;
    fresh->entries = entries;
    fresh->clusters.length = vd_min(end, vd_range_end(fresh->clusters)) - fresh->clusters.offset;
}

static void unpin(struct vd_qcow2 *qcow2, uint64_t entries, size_t reserved)
{
    vd_mutex_lock(&qcow2->tables.lock);
    vd_table_cache_unpin_locked(&qcow2->tables, entries);
    vd_qcow2_unreserve_locked(qcow2, reserved);
    vd_mutex_unlock(&qcow2->tables.lock);
}

/* W6.  The page with the entries of @run is pinned, for write_done() to change. */
static int answer_fresh(struct vd_qcow2 *qcow2, struct vd_range guest, struct vd_qcow2_run *run,
                        struct fresh *fresh, struct vd_mapping *mapping, struct vdisk_error *err)
{
    uint64_t token = run->entries;
    size_t reserved = fresh->way == WAY_COPY ? (size_t)fresh->entries : 0;
    if (fresh->way == WAY_IN_PLACE) {
        token |= TOKEN_IN_PLACE;
    } else {
        struct vd_qcow2_space space;
        int ret = vd_qcow2_take(qcow2, fresh->entries, &space, err);
        if (ret < 0) {
            unpin(qcow2, run->entries, reserved);
            return ret;
        }
        fresh->host = space.host;
        if (fresh->fill == VD_FILL_ZERO && space.is_new && !qcow2->cipher &&
            qcow2->header.fields.crypt_method == VD_QCOW2_CRYPT_NONE)
            fresh->fill = VD_FILL_NONE;
        if (reserved) {
            vd_mutex_lock(&qcow2->tables.lock);
            vd_qcow2_unreserve_locked(qcow2, reserved - (size_t)space.clusters);
            vd_mutex_unlock(&qcow2->tables.lock);
            token |= TOKEN_RESERVED;
        }
        shorten(qcow2, fresh, space.clusters);
    }
    run->guest = fresh->clusters;
    run->host = fresh->host + (run->guest.offset & (qcow2->geometry.cluster_bytes - 1));
    answer_data(qcow2, guest, run, mapping);
    mapping->fresh = true;
    mapping->fill = fresh->fill;
    mapping->clusters = fresh->clusters;
    mapping->token = token;
    return 0;
}

static int allocate_for(struct vd_qcow2 *qcow2, struct vd_range guest, struct vd_mapping *mapping,
                        struct vdisk_error *err)
{
    struct vd_qcow2_run run;
    struct fresh fresh;
    uint64_t where;
    int ret = vd_qcow2_relieve(qcow2, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->tables.lock);
    ret = vd_qcow2_find_to_change_locked(qcow2, guest, &run, err);
    if (ret == 0 && vd_qcow2_is_in_place(qcow2, &run))
        return vd_qcow2_answer_in_place(qcow2, guest, &run, mapping, err);
    const char *other = NULL;
    if (ret == 0) {
        plan_locked(qcow2, &run, &fresh);
        other = vd_qcow2_hit_entries_locked(qcow2, &run, fresh.entries, &where);
    }
    if (ret == 0 && !other && fresh.way == WAY_COPY)
        ret = vd_qcow2_reserve_releases_locked(qcow2, (size_t)fresh.entries, err);
    if (ret == 0 && !other)
        vd_table_cache_pin_locked(&qcow2->tables, run.entries);
    vd_mutex_unlock(&qcow2->tables.lock);
    if (ret < 0)
        return ret;
    if (other)
        return vd_qcow2_overlap(qcow2, "data", other, where, err);
    ret = answer_fresh(qcow2, guest, &run, &fresh, mapping, err);
    if (ret == 0 && fresh.way == WAY_IN_PLACE && qcow2->data == qcow2->file) {
        ret = grow_to(qcow2, mapping, err);
        if (ret < 0)
            unpin(qcow2, run.entries, 0);
    }
    return ret;
}

/* An encrypted image without its key. */
static int check_key(const struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    if (qcow2->cipher || qcow2->header.fields.crypt_method == VD_QCOW2_CRYPT_NONE)
        return 0;
    return vd_err_set(err, EACCES, "%s: is encrypted: it can not be written without its passphrase",
                      vd_storage_name(qcow2->file));
}

int vd_qcow2_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                           struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    struct vd_qcow2_run run;
    int ret = check_key(qcow2, err);
    if (ret == 0)
        ret = vd_qcow2_begin(qcow2, err);
    if (ret == 0)
        ret = vd_qcow2_record(qcow2, guest, err);
    if (ret < 0)
        return ret;
    if (allocate)
        return allocate_for(qcow2, guest, mapping, err);
    vd_mutex_lock(&qcow2->tables.lock);
    ret = vd_qcow2_find_run_locked(qcow2, guest, &run, err);
    if (ret == 0 && vd_qcow2_is_in_place(qcow2, &run))
        return vd_qcow2_answer_in_place(qcow2, guest, &run, mapping, err);
    vd_mutex_unlock(&qcow2->tables.lock);
    uint64_t end = vd_min(vd_range_end(guest), vd_range_end(run.guest));
    mapping->kind = VD_MAP_ZERO; /* an allocation is needed: no more was asked */
    mapping->guest = vd_range(guest.offset, end - guest.offset);
    return ret;
}

int vd_qcow2_map_encoded(struct vd_format *format, struct vd_range guest, enum vd_codec codec,
                         uint32_t encoded_bytes, struct vd_mapping *mapping,
                         struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    enum vd_codec own =
        qcow2->header.fields.compression_type == 0 ? VD_CODEC_DEFLATE : VD_CODEC_ZSTD;
    struct vd_qcow2_run run;
    uint64_t host, where;
    const char *other = NULL;
    if (qcow2->rules.has_data_file || qcow2->header.fields.crypt_method != VD_QCOW2_CRYPT_NONE)
        return vd_err_set(err, ENOTSUP, "%s: images with %s have no compressed clusters",
                          vd_storage_name(qcow2->file),
                          qcow2->rules.has_data_file ? "a data file" : "encryption");
    if (codec != own)
        return vd_err_set(err, ENOTSUP, "%s: its compressed clusters are of type %s, not %s",
                          vd_storage_name(qcow2->file), vd_codec_name(own), vd_codec_name(codec));
    assert(encoded_bytes > 0 && encoded_bytes < qcow2->geometry.cluster_bytes);
    int ret = vd_qcow2_begin(qcow2, err);
    if (ret == 0)
        ret = vd_qcow2_record(qcow2, guest, err);
    if (ret == 0)
        ret = vd_qcow2_relieve(qcow2, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->tables.lock);
    ret = vd_qcow2_find_to_change_locked(qcow2, guest, &run, err);
    if (ret == 0)
        other = vd_qcow2_hit_entries_locked(qcow2, &run, 1, &where);
    if (ret == 0 && !other)
        ret = vd_qcow2_reserve_releases_locked(qcow2, 1, err);
    if (ret == 0 && !other)
        vd_table_cache_pin_locked(&qcow2->tables, run.entries);
    vd_mutex_unlock(&qcow2->tables.lock);
    if (ret == 0 && other)
        ret = vd_qcow2_overlap(qcow2, "data", other, where, err);
    if (ret < 0)
        return ret;
    ret = vd_qcow2_pack_take(qcow2, encoded_bytes, &host, err);
    if (ret < 0) {
        unpin(qcow2, run.entries, 1);
        return ret;
    }
    *mapping = (struct vd_mapping){
        .kind = VD_MAP_DATA,
        .present = true,
        .guest = guest,
        .storage = qcow2->file,
        .host_offset = host,
        .encoded_bytes = encoded_bytes,
        .fresh = true,
        .fill = VD_FILL_NONE,
        .clusters = vd_range_expand(guest, qcow2->geometry.cluster_bytes),
        .token = run.entries | TOKEN_ENCODED | TOKEN_RESERVED,
    };
    return 0;
}

/* ---- The end of a fresh mapping ---- */

uint32_t vd_qcow2_mask_of(const struct vd_qcow2_geometry *geometry, uint64_t cluster,
                          struct vd_range range)
{
    uint64_t start = vd_max(range.offset, cluster) - cluster;
    uint64_t end = vd_min(vd_range_end(range), cluster + geometry->cluster_bytes) - cluster;
    uint64_t below_start = (UINT64_C(1) << (start / geometry->subcluster_bytes)) - 1;
    uint64_t below_end = (UINT64_C(1) << (end / geometry->subcluster_bytes)) - 1;
    return (uint32_t)(below_end & ~below_start);
}

/* What @old becomes when the subclusters of @mask are written at @host. */
static struct vd_qcow2_entry written(const struct vd_qcow2 *qcow2, const struct vd_qcow2_entry *old,
                                     const struct vd_mapping *mapping, uint64_t host, uint32_t mask)
{
    if (mapping->token & TOKEN_ENCODED)
        return (struct vd_qcow2_entry){.is_encoded = true,
                                       .host = mapping->host_offset,
                                       .encoded_bytes = mapping->encoded_bytes,
                                       .data = vd_qcow2_all_subclusters(&qcow2->geometry)};
    return (struct vd_qcow2_entry){.has_host = true,
                                   .is_copied = true,
                                   .host = host,
                                   .data = (old->is_encoded ? 0 : old->data) | mask,
                                   .zero = old->zero & ~mask};
}

static void publish_locked(struct vd_qcow2 *qcow2, struct vd_table_page *page,
                           const struct vd_mapping *mapping, uint64_t first_host, uint64_t entries)
    VD_REQUIRES(qcow2->tables.lock)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t at = mapping->token & ~(uint64_t)TOKEN_BITS;
    uint64_t cluster = vd_round_down(mapping->clusters.offset, geometry->cluster_bytes);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t host = first_host + i * geometry->cluster_bytes;
        void *bytes = vd_table_page_at(page, at + i * geometry->entry_bytes);
        struct vd_qcow2_entry old;
        (void)vd_qcow2_entry_decode(&qcow2->rules, bytes, &old);
        uint32_t mask =
            vd_qcow2_mask_of(geometry, cluster + i * geometry->cluster_bytes, mapping->clusters);
        struct vd_qcow2_entry next = written(qcow2, &old, mapping, host, mask);
        vd_qcow2_entry_encode(&qcow2->rules, &next, bytes);
        if (!(mapping->token & TOKEN_RESERVED))
            continue;
        if (old.is_encoded)
            vd_qcow2_release_locked(
                qcow2, old.host, vd_qcow2_encoded_clusters(geometry, old.host, old.encoded_bytes));
        else if (old.has_host)
            vd_qcow2_release_locked(qcow2, old.host, 1);
        else
            vd_qcow2_unreserve_locked(qcow2, 1);
    }
    vd_table_page_changed_locked(&qcow2->tables, page, at, (size_t)entries * geometry->entry_bytes);
}

void vd_qcow2_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok)
{
    struct vd_qcow2 *qcow2 = format->state;
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    struct vd_range whole = vd_range_expand(mapping->clusters, geometry->cluster_bytes);
    uint64_t entries = whole.length >> geometry->cluster_bits;
    uint64_t host = mapping->host_offset - (mapping->guest.offset - whole.offset);
    uint64_t clusters = entries;
    if (mapping->token & TOKEN_ENCODED) {
        host = mapping->host_offset;
        clusters = vd_qcow2_encoded_clusters(geometry, host, mapping->encoded_bytes);
    }
    vd_mutex_lock(&qcow2->tables.lock);
    struct vd_table_page *page =
        vd_table_cache_unpin_locked(&qcow2->tables, mapping->token & ~(uint64_t)TOKEN_BITS);
    if (ok)
        publish_locked(qcow2, page, mapping, host, entries);
    else if (mapping->token & TOKEN_RESERVED)
        vd_qcow2_unreserve_locked(qcow2, (size_t)entries);
    vd_mutex_unlock(&qcow2->tables.lock);
    if (ok || (mapping->token & TOKEN_IN_PLACE))
        return;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    if (mapping->token & TOKEN_ENCODED)
        vd_qcow2_pack_close_alone(qcow2); /* it may be the last one where the next would go */
    vd_qcow2_give_back_alone(qcow2, host, clusters);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
}
