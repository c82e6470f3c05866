/* SPDX-License-Identifier: MIT */
/* The dirty bitmaps of an image. */
#include <inttypes.h>

#include "format/bitmaps.h"
#include "image/image_priv.h"
#include "util/mem.h"

int vdisk_bitmap_count(struct vdisk_image *image, size_t *count, struct vdisk_error *err)
{
    *count = 0;
    if (!vd_format_has_bitmaps(image->format))
        return 0;
    return vd_format_bitmap_count(image->format, count, err);
}

int vdisk_bitmap_info(struct vdisk_image *image, size_t index, struct vdisk_bitmap_info *info,
                      struct vdisk_error *err)
{
    struct vd_bitmap_facts facts;
    size_t count;
    if (info->struct_bytes != sizeof(*info) || info->reserved)
        return vd_err_set(err, EINVAL,
                          "bitmap info: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          info->struct_bytes, info->reserved, sizeof(*info));
    int ret = vdisk_bitmap_count(image, &count, err);
    if (ret == 0 && index >= count)
        ret = vd_err_set(err, EINVAL, "%s: there is no bitmap %zu: there are %zu",
                         vd_storage_name(image->file), index, count);
    if (ret == 0)
        ret = vd_format_bitmap_facts(image->format, index, &facts, err);
    if (ret < 0)
        return ret;
    info->flags = facts.flags;
    info->name = facts.name;
    info->granularity = facts.granularity;
    return 0;
}

int vdisk_bitmap_extent(struct vdisk_image *image, const char *name, uint64_t offset,
                        uint64_t length, struct vdisk_bitmap_extent *extent,
                        struct vdisk_error *err)
{
    const struct vd_bitmap *bits;
    struct vd_range range = vd_range(offset, length);
    uint64_t size = vdisk_image_size(image);
    if (length == 0 || !vd_range_is_within(range, size))
        return vd_err_set(err, EINVAL,
                          "%s: %" PRIu64 " bytes at offset %" PRIu64
                          " are no part of a disk of %" PRIu64,
                          vd_storage_name(image->file), length, offset, size);
    int ret = vd_format_bitmap_bits(image->format, name, &bits, err);
    if (ret < 0)
        return ret;
    /* As the first dirty granule of the range: bits may be set meanwhile. */
    struct vd_range dirty = vd_bitmap_next(bits, range, true);
    bool is_dirty = dirty.length && dirty.offset == offset;
    uint64_t end =
        is_dirty || !dirty.length ? vd_range_end(is_dirty ? dirty : range) : dirty.offset;
    *extent = (struct vdisk_bitmap_extent){
        .offset = offset, .length = end - offset, .is_dirty = is_dirty};
    return 0;
}

int vdisk_bitmap_dirty_bytes(struct vdisk_image *image, const char *name, uint64_t *bytes,
                             struct vdisk_error *err)
{
    const struct vd_bitmap *bits;
    int ret = vd_format_bitmap_bits(image->format, name, &bits, err);
    *bytes = ret == 0 ? vd_bitmap_dirty_bytes(bits) : 0;
    return ret;
}

/* What the layer below needs: names instead of images. */
static int translate(const struct vdisk_bitmap_action *action, struct vd_bitmap_action *below,
                     struct vdisk_error *err)
{
    if (action->reserved || !action->name)
        return vd_err_set(err, EINVAL, "an action on a bitmap has no name, or reserved is not 0");
    if (action->granularity && action->kind != VDISK_BITMAP_ADD)
        return vd_err_set(err, EINVAL, "bitmap '%s': a granularity is for a new bitmap only",
                          action->name);
    bool is_merge = action->kind == VDISK_BITMAP_MERGE;
    if (is_merge != (action->source != NULL) || (action->source_image && !is_merge))
        return vd_err_set(err, EINVAL, "bitmap '%s': a source is what merging needs, alone",
                          action->name);
    *below = (struct vd_bitmap_action){.kind = action->kind,
                                       .name = action->name,
                                       .granularity = action->granularity,
                                       .source = action->source};
    if (!action->source_image)
        return 0;
    return vd_format_bitmap_bits(action->source_image->format, action->source, &below->bits, err);
}

int vdisk_bitmap_change(struct vdisk_image *image, const struct vdisk_bitmap_action *actions,
                        size_t count, struct vdisk_error *err)
{
    CLEANUP_FREE struct vd_bitmap_action *below = vd_alloc_array(count, sizeof(*below));
    if (!below)
        return vd_err_nomem(err, "a change of bitmaps");
    int ret = 0;
    for (size_t i = 0; i < count && ret == 0; i++)
        ret = translate(&actions[i], &below[i], err);
    return ret < 0 ? ret : vd_format_bitmap_change(image->format, below, count, err);
}
