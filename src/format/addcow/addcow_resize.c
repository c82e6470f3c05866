/* SPDX-License-Identifier: MIT */
/* A new size for the disk of an add-cow image.  No other call runs.  add-cow §6. */
#include <inttypes.h>

#include "format/addcow/addcow_priv.h"

/* The bits of clusters from @first to @end, of which the file may have some. */
static struct vd_range between(uint64_t first, uint64_t end)
{
    return vd_range(first, end > first ? end - first : 0);
}

static void swap_cache(struct vd_addcow *cow, struct vd_table_cache **other, uint64_t *bitmap_bytes)
{
    struct vd_table_cache *bits = cow->bits;
    uint64_t bytes = cow->bitmap_bytes;
    cow->bits = *other;
    cow->bitmap_bytes = *bitmap_bytes;
    *other = bits;
    *bitmap_bytes = bytes;
}

/* A4: the point at which the resize has happened. */
static int set_size(struct vd_addcow *cow, uint64_t size, struct vdisk_error *err)
{
    int ret = vd_storage_resize(cow->data, size, err);
    if (ret < 0)
        return ret;
    cow->format->size = size;
    cow->whole_bytes = size;
    return vd_addcow_flush_file(cow, cow->data, err);
}

/*
 * A3.  Bits that the file has got by growing are clear; what was there before may be anything. What
 * lies below the end of the backing disk has to hide it.
 */
static int ready_new_bits(struct vd_addcow *cow, const struct vd_resize *resize,
                          struct vdisk_error *err)
{
    uint64_t first = vd_addcow_cluster_count(cow, cow->format->size);
    uint64_t end = vd_addcow_cluster_count(cow, resize->size);
    uint64_t shown = vd_min(end, vd_div_up(resize->backing_bytes, VD_ADDCOW_CLUSTER_BYTES));
    uint64_t doubtful = end;
    if (vd_storage_caps(cow->file) & VD_STORAGE_CAN_RESIZE)
        doubtful = vd_min(end, vd_round_up(first, 8));
    int ret = vd_addcow_set_bits(cow, between(first, doubtful), false, err);
    if (ret == 0)
        ret = vd_addcow_set_bits(cow, between(first, shown), true, err);
    return ret < 0 ? ret : vd_addcow_write_bits(cow, true, err);
}

/* The raw file did not grow: the image is as before, but for bits that may be set behind its end.
 */
static void undo_grow(struct vd_addcow *cow)
{
    uint64_t first = vd_addcow_cluster_count(cow, cow->format->size);
    if (atomic_load(&cow->format->has_failed))
        return;
    /* If this fails too, they are leaks that the next writer clears. */
    if (vd_addcow_set_bits(cow, between(first, vd_round_up(first, 8)), false, NULL) == 0)
        (void)vd_addcow_set_file_end(cow, cow->format->size, NULL);
}

static int grow(struct vd_addcow *cow, const struct vd_resize *resize, struct vdisk_error *err)
{
    uint64_t bytes = vd_addcow_bitmap_bytes(vd_addcow_cluster_count(cow, resize->size));
    struct vd_table_cache *cache;
    int ret = vd_addcow_flush(cow->format, err); /* the old cache has nothing left to write */
    if (ret == 0)
        ret = vd_addcow_new_cache(cow, bytes, &cache, err);
    if (ret < 0)
        return ret;
    ret = vd_addcow_set_file_end(cow, cow->format->size, err); /* what is behind it goes */
    if (ret == 0)
        ret = vd_addcow_set_file_end(cow, resize->size, err);
    swap_cache(cow, &cache, &bytes);
    if (ret == 0)
        ret = ready_new_bits(cow, resize, err);
    if (ret == 0)
        ret = set_size(cow, resize->size, err);
    if (ret < 0 && cow->format->size != resize->size) {
        swap_cache(cow, &cache, &bytes);
        undo_grow(cow);
    }
    vd_addcow_free_cache(cache);
    return ret;
}

/*
 * What was cut off is gone durably before its bits are cleared; no reader looks at them any more.
 * Nor may what was written to it before come later than the cut, and make the raw file longer
 * again.
 */
static int shrink(struct vd_addcow *cow, uint64_t size, struct vdisk_error *err)
{
    uint64_t end = vd_addcow_cluster_count(cow, cow->format->size);
    uint64_t first = vd_addcow_cluster_count(cow, size);
    uint64_t bytes = vd_addcow_bitmap_bytes(first);
    struct vd_table_cache *cache;
    int ret = vd_addcow_flush(cow->format, err);
    if (ret == 0)
        ret = vd_addcow_new_cache(cow, bytes, &cache, err);
    if (ret < 0)
        return ret;
    ret = set_size(cow, size, err);
    if (ret == 0) {
        /* Where the file can be cut, only those of the last byte are left. */
        if (vd_storage_caps(cow->file) & VD_STORAGE_CAN_RESIZE)
            end = vd_round_up(first, 8);
        ret = vd_addcow_set_bits(cow, between(first, end), false, err);
    }
    if (ret == 0)
        ret = vd_addcow_write_bits(cow, true, err); /* A1: set_size() made all data durable */
    if (ret == 0)
        ret = vd_addcow_set_file_end(cow, size, err);
    if (ret == 0) {
        swap_cache(cow, &cache, &bytes);
        ret = vd_addcow_flush_file(cow, cow->file, err);
    }
    vd_addcow_free_cache(cache);
    return ret;
}

int vd_addcow_resize(struct vd_format *format, const struct vd_resize *resize,
                     struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    struct vd_resize rounded = *resize;
    if (resize->preallocation != VDISK_PREALLOCATION_OFF)
        return vd_err_set(err, EINVAL, "%s: preallocation: add-cow has none",
                          vd_storage_name(cow->file));
    int ret = vd_addcow_size_of(resize->size, cow->header.cluster_bits, &rounded.size, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", vd_storage_name(cow->file));
    if (rounded.size == format->size)
        return vd_addcow_flush(format, err);
    if (!(vd_storage_caps(cow->data) & VD_STORAGE_CAN_RESIZE))
        return vd_err_set(err, ENOTSUP,
                          "%s: the size of the disk is that of the raw file, and this one can not "
                          "be resized",
                          vd_storage_name(cow->data));
    return rounded.size > format->size ? grow(cow, &rounded, err) : shrink(cow, rounded.size, err);
}
