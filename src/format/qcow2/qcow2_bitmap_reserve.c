/* SPDX-License-Identifier: MIT */
/* Persistent bitmaps: places for what will be stored, taken before they are needed: D2. */
#include <assert.h>
#include <errno.h>

#include "format/qcow2/qcow2_bitmap_state.h"

uint64_t vd_qcow2_table_clusters(const struct vd_qcow2 *qcow2, size_t pieces)
{
    return vd_qcow2_clusters(&qcow2->geometry, (uint64_t)pieces * sizeof(struct be64));
}

uint64_t vd_qcow2_list_clusters(const struct vd_qcow2 *qcow2, const struct vd_qcow2_list *list)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < list->count; i++)
        bytes += vd_qcow2_bitmap_entry_bytes(&list->bitmaps[i]->entry);
    return vd_qcow2_clusters(&qcow2->geometry, bytes);
}

int vd_qcow2_bitmap_take(struct vd_qcow2 *qcow2, uint64_t clusters, uint64_t *host,
                         struct vdisk_error *err)
{
    struct vd_qcow2_space space;
    int ret = vd_qcow2_take_whole(qcow2, clusters, &space, err);
    if (ret < 0)
        return ret;
    struct vd_range place = vd_range(space.host, clusters << qcow2->geometry.cluster_bits);
    ret = vd_storage_preallocate(qcow2->file, place, err);
    if (ret < 0) {
        vd_qcow2_give_back(qcow2, space.host, clusters);
        return ret;
    }
    *host = space.host;
    return 0;
}

static int reserve_rest(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                        struct vdisk_error *err)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    int ret = 0;
    if (!bitmap->fresh_table)
        ret = vd_qcow2_bitmap_take(qcow2, vd_qcow2_table_clusters(qcow2, bitmap->fresh.count),
                                   &bitmap->fresh_table, err);
    if (ret == 0 && !dirty->fresh_directory)
        ret = vd_qcow2_bitmap_take(qcow2, vd_qcow2_list_clusters(qcow2, &dirty->list),
                                   &dirty->fresh_directory, err);
    return ret;
}

int vd_qcow2_bitmap_reserve(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                            struct vd_range guest, struct vdisk_error *err)
{
    uint32_t granularity_bits = bitmap->entry.granularity_bits;
    uint32_t piece_bits = qcow2->geometry.cluster_bits + 3; /* bits of a cluster of bits */
    uint64_t first = guest.offset >> granularity_bits >> piece_bits;
    uint64_t last = (vd_range_end(guest) - 1) >> granularity_bits >> piece_bits;
    int ret = reserve_rest(qcow2, bitmap, err);
    assert(last < bitmap->fresh.count);
    for (uint64_t i = first; i <= last && ret == 0; i++)
        if (!bitmap->fresh.values[i])
            ret = vd_qcow2_bitmap_take(qcow2, 1, &bitmap->fresh.values[i], err);
    if (ret == 0)
        bitmap->is_changed = true;
    return ret;
}

int vd_qcow2_bitmap_reserve_all(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                                const struct vd_bitmap *bits, struct vdisk_error *err)
{
    uint32_t cluster_bytes = qcow2->geometry.cluster_bytes;
    int ret = reserve_rest(qcow2, bitmap, err);
    for (size_t i = 0; i < bitmap->fresh.count && ret == 0; i++) {
        struct vd_range part = vd_range((uint64_t)i * cluster_bytes, cluster_bytes);
        if (!bitmap->fresh.values[i] && vd_bitmap_part_content(bits, part) == VD_BITMAP_MIXED)
            ret = vd_qcow2_bitmap_take(qcow2, 1, &bitmap->fresh.values[i], err);
    }
    return ret;
}

void vd_qcow2_bitmap_unreserve(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap)
{
    for (size_t i = 0; i < bitmap->fresh.count; i++)
        if (bitmap->fresh.values[i]) {
            vd_qcow2_give_back(qcow2, bitmap->fresh.values[i], 1);
            bitmap->fresh.values[i] = 0;
        }
    if (bitmap->fresh_table)
        vd_qcow2_give_back(qcow2, bitmap->fresh_table,
                           vd_qcow2_table_clusters(qcow2, bitmap->fresh.count));
    bitmap->fresh_table = 0;
    bitmap->is_changed = false;
}

void vd_qcow2_bitmap_unreserve_directory(struct vd_qcow2 *qcow2, uint64_t clusters)
{
    if (qcow2->dirty->fresh_directory)
        vd_qcow2_give_back(qcow2, qcow2->dirty->fresh_directory, clusters);
    qcow2->dirty->fresh_directory = 0;
}
