/* SPDX-License-Identifier: MIT */
/* The bitmap as a whole: its cache, its end in the file, long runs of bits. */
#include <inttypes.h>
#include <stdlib.h>

#include "format/addcow/addcow_bits.h"
#include "format/addcow/addcow_priv.h"

/* Changed bits wait in memory; so many clusters of them at most (16 MiB of bitmap). */
#define STEP_CLUSTERS (UINT64_C(1) << 27)

int vd_addcow_new_cache(struct vd_addcow *cow, uint64_t bitmap_bytes, struct vd_table_cache **cache,
                        struct vdisk_error *err)
{
    struct vd_table_cache *bits = malloc(sizeof(*bits));
    if (!bits)
        return vd_err_nomem(err, "a cache of the bitmap");
    int ret = vd_table_cache_init(bits, cow->file, vd_range(cow->header.header_bytes, bitmap_bytes),
                                  cow->cache_bytes, err);
    if (ret < 0) {
        free(bits);
        return ret;
    }
    vd_table_cache_share(bits, cow->budget);
    *cache = bits;
    return 0;
}

void vd_addcow_free_cache(struct vd_table_cache *cache)
{
    if (cache)
        vd_table_cache_destroy(cache);
    free(cache);
}

/* The bits of one page at most; *done: of how many clusters. */
static int set_in_page_locked(struct vd_addcow *cow, struct vd_range clusters, bool set,
                              uint64_t *done, struct vdisk_error *err) VD_REQUIRES(cow->bits->lock)
{
    uint64_t first = vd_addcow_bit_offset(cow, clusters.offset);
    struct vd_table_page *page;
    bool waited = false;
    int ret = vd_table_cache_get_locked(cow->bits, first, &page, &waited, err);
    if (ret < 0)
        return ret;
    uint64_t in_page = (vd_table_page_end(cow->bits, page) - first) * 8 - clusters.offset % 8;
    *done = vd_min(clusters.length, in_page);
    uint64_t last = vd_addcow_bit_offset(cow, clusters.offset + *done - 1);
    vd_addcow_bits_fill(vd_table_page_at(page, first), clusters.offset % 8, *done, set);
    vd_table_page_changed_locked(cow->bits, page, first, (size_t)(last - first + 1));
    cow->bits_have_changed = true;
    return 0;
}

int vd_addcow_set_bits(struct vd_addcow *cow, struct vd_range clusters, bool set,
                       struct vdisk_error *err)
{
    int ret = 0;
    while (clusters.length && ret == 0) {
        struct vd_range step = vd_range(clusters.offset, vd_min(clusters.length, STEP_CLUSTERS));
        clusters = vd_range(vd_range_end(step), clusters.length - step.length);
        vd_mutex_lock(&cow->bits->lock);
        while (step.length && ret == 0) {
            uint64_t done = 0;
            ret = set_in_page_locked(cow, step, set, &done, err);
            step = vd_range(step.offset + done, step.length - done);
        }
        vd_mutex_unlock(&cow->bits->lock);
        if (ret == 0)
            ret = vd_addcow_write_bits(cow, false, err);
    }
    return ret;
}

int vd_addcow_set_file_end(struct vd_addcow *cow, uint64_t size, struct vdisk_error *err)
{
    uint64_t wanted = vd_addcow_bitmap_end(cow, size);
    uint64_t present;
    int ret = vd_storage_size(cow->file, &present, err);
    if (ret < 0 || present == wanted)
        return ret;
    if (vd_storage_caps(cow->file) & VD_STORAGE_CAN_RESIZE)
        return vd_storage_resize(cow->file, wanted, err);
    if (present < wanted)
        return vd_err_set(err, ENOSPC,
                          "%s: has %" PRIu64 " bytes: the bitmap of a disk of %" PRIu64
                          " bytes ends at %" PRIu64,
                          vd_storage_name(cow->file), present, size, wanted);
    return 0;
}

/* Of the last byte with bits of clusters. */
static int clear_last_byte(struct vd_addcow *cow, struct vdisk_error *err)
{
    uint64_t clusters = vd_addcow_cluster_count(cow, cow->format->size);
    uint8_t mask = vd_addcow_last_byte_mask(clusters);
    if (mask == 0xFF || clusters / 8 >= cow->bitmap_bytes)
        return 0;
    uint64_t offset = vd_addcow_bit_offset(cow, clusters);
    struct vd_table_page *page;
    bool waited = false;
    vd_mutex_lock(&cow->bits->lock);
    int ret = vd_table_cache_get_locked(cow->bits, offset, &page, &waited, err);
    uint8_t *last = ret == 0 ? vd_table_page_at(page, offset) : NULL;
    if (last && (*last & mask) != *last) {
        *last &= mask;
        vd_table_page_changed_locked(cow->bits, page, offset, 1);
        cow->bits_have_changed = true;
    }
    vd_mutex_unlock(&cow->bits->lock);
    return ret;
}

int vd_addcow_trim(struct vd_addcow *cow, struct vdisk_error *err)
{
    int ret = clear_last_byte(cow, err);
    return ret < 0 ? ret : vd_addcow_set_file_end(cow, cow->format->size, err);
}

int vd_addcow_empty(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    struct vd_range bitmap = vd_range(cow->header.header_bytes, cow->bitmap_bytes);
    struct vdisk_error inner = {0};
    uint64_t data_bytes;
    int ret = vd_storage_size(cow->data, &data_bytes, err);
    if (ret == 0)
        ret = vd_addcow_begin(cow, err);
    if (ret < 0)
        return ret;
    ret = vd_storage_write_zeroes(cow->file, bitmap, VD_STORAGE_ZERO_MAY_PUNCH, &inner);
    vd_table_cache_forget(cow->bits);
    cow->bits_have_changed = false;
    if (ret < 0) {
        vd_format_fail(format, &inner); /* how much of it is zero, nobody knows */
        return vd_err_copy(err, &inner);
    }
    ret = vd_addcow_flush_file(cow, cow->file, err);
    /* Nothing leads to it any more.  A failure costs space, no data. */
    if (ret == 0 && (vd_storage_caps(cow->data) & VD_STORAGE_CAN_DISCARD))
        (void)vd_storage_discard(cow->data, vd_range(0, data_bytes), NULL);
    return ret;
}
