/* SPDX-License-Identifier: MIT */
/* The map of an add-cow image: a bit for each cluster, and the raw file at the same offset. */
#include "format/addcow/addcow_bits.h"
#include "format/addcow/addcow_priv.h"

int vd_addcow_find_run_locked(struct vd_addcow *cow, struct vd_range guest,
                              struct vd_addcow_run *run, struct vdisk_error *err)
{
    *run =
        (struct vd_addcow_run){.clusters = vd_addcow_clusters_of(guest, cow->header.cluster_bits)};
    uint64_t first = run->clusters.offset;
    run->is_set = vd_addcow_header_is_all_allocated(&cow->header);
    if (run->is_set || first / 8 >= cow->bitmap_bytes)
        return 0;

    uint64_t offset = vd_addcow_bit_offset(cow, first);
    bool waited = false; /* all below is learned afterwards */
    int ret = vd_table_cache_get_locked(cow->bits, offset, &run->page, &waited, err);
    if (ret < 0)
        return ret;
    uint64_t in_page = (vd_table_page_end(cow->bits, run->page) - offset) * 8 - first % 8;
    run->clusters.length = vd_addcow_bits_run(vd_table_page_at(run->page, offset), first % 8,
                                              vd_min(run->clusters.length, in_page), &run->is_set);
    return 0;
}

/* How much of @guest, from its start, does the raw file have?  It is asked only about the last
 * 512. */
static int present_bytes(struct vd_addcow *cow, struct vd_range guest, uint64_t *length,
                         struct vdisk_error *err)
{
    uint64_t data_bytes;
    *length = guest.length;
    if (vd_range_end(guest) <= cow->whole_bytes)
        return 0;
    int ret = vd_storage_size(cow->data, &data_bytes, err);
    if (ret == 0)
        *length = guest.offset < data_bytes ? vd_min(guest.length, data_bytes - guest.offset) : 0;
    return ret;
}

int vd_addcow_answer(struct vd_addcow *cow, struct vd_range guest, const struct vd_addcow_run *run,
                     bool for_write, struct vd_mapping *mapping, struct vdisk_error *err)
{
    uint64_t end = vd_range_end(run->clusters) << cow->header.cluster_bits;
    mapping->guest = vd_range(guest.offset, vd_min(guest.length, end - guest.offset));
    mapping->kind = VD_MAP_ZERO;
    if (!run->is_set) {
        if (vd_addcow_header_has_backing(&cow->header))
            mapping->kind = VD_MAP_BACKING;
        return 0;
    }
    mapping->present = true;
    uint64_t length = mapping->guest.length;
    int ret = for_write ? 0 : present_bytes(cow, mapping->guest, &length, err);
    if (ret < 0 || length == 0) /* 0: the last, incomplete 512 bytes */
        return ret;
    mapping->kind = VD_MAP_DATA;
    mapping->guest.length = length;
    mapping->storage = cow->data;
    mapping->host_offset = guest.offset;
    return 0;
}

int vd_addcow_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
                  struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    struct vd_addcow_run run;
    vd_mutex_lock(&cow->bits->lock);
    int ret = vd_addcow_find_run_locked(cow, guest, &run, err);
    vd_mutex_unlock(&cow->bits->lock);
    return ret < 0 ? ret : vd_addcow_answer(cow, guest, &run, false, mapping, err);
}

int vd_addcow_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                      struct vd_mapping *mapping)
{
    struct vd_addcow *cow = format->state;
    struct vd_addcow_run run;
    if (!cow->data || vd_range_end(guest) > cow->whole_bytes)
        return -EAGAIN;
    vd_mutex_lock(&cow->bits->lock);
    cow->bits->is_trying = true;
    int ret = vd_addcow_find_run_locked(cow, guest, &run, NULL);
    cow->bits->is_trying = false;
    vd_mutex_unlock(&cow->bits->lock);
    if (ret < 0 || (for_write && !run.is_set))
        return -EAGAIN;
    return vd_addcow_answer(cow, guest, &run, for_write, mapping, NULL);
}
