/* SPDX-License-Identifier: MIT */
/* Which clusters of a qcow2 image are metadata: W5. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_refs.h"
#include "format/qcow2/qcow2_write.h"
#include "util/mem.h"

#define KIND_BITS 4u
#define ROOM_MIN  256u

/* Of these, all that the largest L1 and refcount tables can lead to, and as many again. */
#define CLUSTERS_MAX (UINT64_C(8) << 20)

static const char *const kind_names[] = {
    [VD_QCOW2_META_HEADER] = "the header",
    [VD_QCOW2_META_L1] = "the L1 table",
    [VD_QCOW2_META_L2] = "an L2 table",
    [VD_QCOW2_META_REFCOUNT_TABLE] = "the refcount table",
    [VD_QCOW2_META_REFCOUNT_BLOCK] = "a refcount block",
    [VD_QCOW2_META_SNAPSHOTS] = "the snapshot table",
    [VD_QCOW2_META_SNAPSHOT_L1] = "the L1 table of a snapshot",
    [VD_QCOW2_META_BITMAPS] = VD_QCOW2_META_BITMAPS_NAME,
    [VD_QCOW2_META_CRYPTO] = "the encryption header",
};

static size_t slot_of(size_t room, uint64_t cluster)
{
    return (size_t)((cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (room - 1);
}

static uint64_t cluster_of(uint64_t slot)
{
    return (slot >> KIND_BITS) - 1;
}

/* The slot with @cluster, or the free one where it would be. */
static size_t find(const struct vd_qcow2_meta *meta, uint64_t cluster)
{
    size_t i = slot_of(meta->room, cluster);
    while (meta->slots[i] && cluster_of(meta->slots[i]) != cluster)
        i = (i + 1) & (meta->room - 1);
    return i;
}

static int reserve(struct vd_qcow2_meta *meta, uint64_t more, struct vdisk_error *err)
{
    uint64_t room = vd_max(meta->room, ROOM_MIN);
    if (more > CLUSTERS_MAX - meta->entries)
        return vd_err_set(err, EBADMSG,
                          "%" PRIu64 " clusters of metadata and more: the limit is %" PRIu64
                          ": run vdisk check",
                          meta->entries + vd_min(more, CLUSTERS_MAX), CLUSTERS_MAX);
    while (room / 2 < meta->entries + more)
        room *= 2;
    if (room == meta->room)
        return 0;
    struct vd_qcow2_meta next = {.room = (size_t)room};
    next.slots = next.room == room ? vd_alloc_array(next.room, sizeof(*next.slots)) : NULL;
    if (!next.slots)
        return vd_err_nomem(err, "the set of metadata clusters");
    for (size_t i = 0; i < meta->room; i++)
        if (meta->slots[i])
            next.slots[find(&next, cluster_of(meta->slots[i]))] = meta->slots[i];
    next.entries = meta->entries;
    free(meta->slots);
    *meta = next;
    return 0;
}

static void add(struct vd_qcow2_meta *meta, enum vd_qcow2_meta_kind kind, uint64_t cluster)
{
    size_t i = find(meta, cluster);
    meta->entries += meta->slots[i] == 0;
    meta->slots[i] = ((cluster + 1) << KIND_BITS) | (uint64_t)kind;
}

/* Those behind it in its chain move up. */
static void take_out(struct vd_qcow2_meta *meta, uint64_t cluster)
{
    size_t hole = meta->room ? find(meta, cluster) : 0;
    if (!meta->room || !meta->slots[hole])
        return;
    size_t mask = meta->room - 1;
    meta->slots[hole] = 0;
    meta->entries--;
    for (size_t i = (hole + 1) & mask; meta->slots[i]; i = (i + 1) & mask) {
        size_t home = slot_of(meta->room, cluster_of(meta->slots[i]));
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        meta->slots[hole] = meta->slots[i];
        meta->slots[i] = 0;
        hole = i;
    }
}

void vd_qcow2_meta_free(struct vd_qcow2_meta *meta)
{
    free(meta->slots);
    *meta = (struct vd_qcow2_meta){0};
}

int vd_qcow2_meta_reserve_locked(struct vd_qcow2 *qcow2, uint64_t more, struct vdisk_error *err)
{
    return reserve(&qcow2->writer->meta, more, err);
}

void vd_qcow2_meta_add_locked(struct vd_qcow2 *qcow2, enum vd_qcow2_meta_kind kind,
                              uint64_t cluster)
{
    add(&qcow2->writer->meta, kind, cluster);
}

void vd_qcow2_meta_remove_locked(struct vd_qcow2 *qcow2, uint64_t cluster)
{
    take_out(&qcow2->writer->meta, cluster);
}

static const char *hit(const struct vd_qcow2_meta *meta, uint64_t cluster)
{
    if (!meta->room)
        return NULL;
    uint64_t slot = meta->slots[find(meta, cluster)];
    return slot ? kind_names[slot & ((1u << KIND_BITS) - 1)] : NULL;
}

const char *vd_qcow2_meta_hit_locked(const struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                                     uint64_t *where)
{
    uint64_t first = host >> qcow2->geometry.cluster_bits;
    const char *name = NULL;
    for (uint64_t i = 0; i < clusters && !name; i++) {
        name = hit(&qcow2->writer->meta, first + i);
        *where = (first + i) << qcow2->geometry.cluster_bits;
    }
    return name;
}

const char *vd_qcow2_meta_other(struct vd_qcow2 *qcow2, int kind, uint64_t host, uint64_t clusters)
{
    uint64_t first = host >> qcow2->geometry.cluster_bits;
    const char *own = kind < 0 ? NULL : kind_names[kind];
    const char *name = NULL;
    vd_mutex_lock(&qcow2->tables.lock);
    for (uint64_t i = 0; i < clusters && (!name || name == own); i++)
        name = hit(&qcow2->writer->meta, first + i);
    vd_mutex_unlock(&qcow2->tables.lock);
    return name == own ? NULL : name;
}

int vd_qcow2_meta_add(struct vd_qcow2 *qcow2, enum vd_qcow2_meta_kind kind, uint64_t host,
                      uint64_t clusters, struct vdisk_error *err)
{
    if (!qcow2->writer || !atomic_load(&qcow2->writer->has_begun))
        return 0; /* it will be built from the header */
    vd_mutex_lock(&qcow2->tables.lock);
    int ret = reserve(&qcow2->writer->meta, clusters, err);
    for (uint64_t i = 0; ret == 0 && i < clusters; i++)
        add(&qcow2->writer->meta, kind, (host >> qcow2->geometry.cluster_bits) + i);
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}

void vd_qcow2_meta_remove(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters)
{
    if (!qcow2->writer)
        return;
    vd_mutex_lock(&qcow2->tables.lock);
    for (uint64_t i = 0; i < clusters; i++)
        take_out(&qcow2->writer->meta, (host >> qcow2->geometry.cluster_bits) + i);
    vd_mutex_unlock(&qcow2->tables.lock);
}

/* ---- All that there is ---- */

/* @bytes at @host, unless there is something already. */
static int add_range(struct vd_qcow2 *qcow2, enum vd_qcow2_meta_kind kind, uint64_t host,
                     uint64_t bytes, struct vdisk_error *err)
{
    struct vd_qcow2_meta *meta = &qcow2->writer->meta;
    uint64_t first = host >> qcow2->geometry.cluster_bits;
    uint64_t clusters = vd_qcow2_clusters(&qcow2->geometry, bytes);
    if (!vd_range_is_within(vd_range(host, bytes), UINT64_C(1) << VD_QCOW2_OFFSET_BITS))
        return vd_err_set(err, EBADMSG,
                          "%s: %s at offset 0x%" PRIx64 ", where no file has anything: run vdisk "
                          "check",
                          vd_storage_name(qcow2->file), kind_names[kind], host);
    int ret = reserve(meta, clusters, err);
    for (uint64_t i = 0; ret == 0 && i < clusters; i++) {
        const char *other = hit(meta, first + i);
        if (other)
            return vd_err_set(err, EBADMSG,
                              "%s: %s at offset 0x%" PRIx64
                              " lies in the same cluster as %s: run vdisk check",
                              vd_storage_name(qcow2->file), kind_names[kind], host, other);
        add(meta, kind, first + i);
    }
    return ret;
}

/* The tables that @entries of the table at @table lead to, one cluster each. */
static int add_led_to(struct vd_qcow2 *qcow2, struct vd_table_cache *cache, uint64_t table,
                      uint64_t entries, enum vd_qcow2_meta_kind kind, struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&cache->lock);
    for (uint64_t i = 0; ret == 0 && i < entries;) {
        struct vd_table_page *page;
        bool waited = false;
        uint64_t at = table + i * 8;
        ret = vd_table_cache_get_locked(cache, at, &page, &waited, err);
        if (ret < 0)
            break;
        const struct be64 *words = vd_table_page_at(page, at);
        uint64_t here = vd_min((vd_table_page_end(cache, page) - at) / 8, entries - i);
        for (uint64_t k = 0; ret == 0 && k < here; k++) {
            uint64_t host = be64_get(words[k]) & VD_QCOW2_ENTRY_OFFSET;
            if (host)
                ret = add_range(qcow2, kind, host, qcow2->geometry.cluster_bytes, err);
        }
        i += here;
    }
    vd_mutex_unlock(&cache->lock);
    return ret;
}

/* The snapshot table, as long as it is, and the L1 tables that it leads to. */
static int add_snapshots(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &qcow2->header.fields;
    uint64_t at = fields->snapshots_offset;
    int ret = 0;
    for (uint32_t i = 0; i < fields->snapshot_entries && ret == 0; i++) {
        struct vd_qcow2_disk_snapshot disk;
        ret = vd_storage_pread(qcow2->file, &disk, sizeof(disk), at, err);
        if (ret < 0)
            return ret;
        uint64_t bytes = sizeof(disk) + be32_get(disk.extra_bytes) + be16_get(disk.id_bytes) +
                         be16_get(disk.name_bytes);
        at = vd_round_up(at + bytes, 8);
        if (at - fields->snapshots_offset > VD_QCOW2_SNAPSHOT_BYTES_MAX ||
            be32_get(disk.l1_entries) > VD_QCOW2_L1_BYTES_MAX / 8)
            return vd_err_set(err, EBADMSG,
                              "%s: snapshot table: entry %" PRIu32 " is too large: run vdisk check",
                              vd_storage_name(qcow2->file), i);
        ret = add_range(qcow2, VD_QCOW2_META_SNAPSHOT_L1, be64_get(disk.l1_offset),
                        (uint64_t)be32_get(disk.l1_entries) * 8, err);
    }
    if (ret == 0)
        ret = add_range(qcow2, VD_QCOW2_META_SNAPSHOTS, fields->snapshots_offset,
                        at - fields->snapshots_offset, err);
    return ret;
}

static int add_named_by_header(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    const struct vd_qcow2_header *header = &qcow2->header;
    const struct vd_qcow2_fields *fields = &header->fields;
    uint32_t cluster_bytes = qcow2->geometry.cluster_bytes;
    int ret = add_range(qcow2, VD_QCOW2_META_HEADER, 0, cluster_bytes, err);
    if (ret == 0)
        ret = add_range(qcow2, VD_QCOW2_META_L1, fields->l1_offset,
                        (uint64_t)fields->l1_entries * 8, err);
    if (ret == 0)
        ret = add_range(qcow2, VD_QCOW2_META_REFCOUNT_TABLE, fields->refcount_table_offset,
                        (uint64_t)fields->refcount_table_clusters * cluster_bytes, err);
    if (ret == 0 && header->bitmaps.is_present && !header->bitmaps.is_draft)
        ret = add_range(qcow2, VD_QCOW2_META_BITMAPS, header->bitmaps.directory_offset,
                        header->bitmaps.directory_bytes, err);
    if (ret == 0 && header->crypto.is_present)
        ret = add_range(qcow2, VD_QCOW2_META_CRYPTO, header->crypto.offset, header->crypto.length,
                        err);
    if (ret == 0 && fields->snapshot_entries)
        ret = add_snapshots(qcow2, err);
    return ret;
}

int vd_qcow2_meta_build(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &qcow2->header.fields;
    vd_qcow2_meta_free(&qcow2->writer->meta);
    int ret = add_named_by_header(qcow2, err);
    if (ret == 0)
        ret = add_led_to(qcow2, &qcow2->tables, fields->l1_offset, fields->l1_entries,
                         VD_QCOW2_META_L2, err);
    if (ret == 0)
        ret = add_led_to(qcow2, &qcow2->writer->refs, fields->refcount_table_offset,
                         vd_qcow2_refcount_table_entries(qcow2), VD_QCOW2_META_REFCOUNT_BLOCK, err);
    return ret;
}
