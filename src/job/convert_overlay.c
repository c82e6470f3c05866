/* SPDX-License-Identifier: MIT */
/* What a new overlay has behind it already. */
#include "job/convert_overlay.h"

/* Is the start of @range the very same bytes in the source and behind the target?  *length gets how
 * far the answer is good. */
static int look_for_same(const struct vd_convert_overlay *overlay, struct vd_range range,
                         bool *is_same, uint64_t *length, struct vdisk_error *err)
{
    struct vdisk_image *behind = overlay->behind;
    const struct vd_convert_part *part = vd_convert_source_part(overlay->source, range.offset);
    struct vd_image_run from, to;
    uint64_t size = vdisk_image_size(behind);
    range.length = vd_min(range.length, vd_range_end(part->range) - range.offset);
    *is_same = false;
    *length = range.length;
    if (range.offset >= size)
        return 0;
    range.length = vd_min(range.length, size - range.offset);
    int ret = vd_image_look(behind, range, &to, err);
    if (ret < 0)
        return ret;
    *length = to.extent.length;
    if (!to.storage)
        return 0;
    uint64_t from_offset = vd_convert_part_offset(part, range.offset);
    ret = vd_image_look(part->image, vd_range(from_offset, to.extent.length), &from,
                        overlay->salvages ? NULL : err);
    if (ret < 0)
        return overlay->salvages ? 0 : ret;
    *length = from.extent.length;
    *is_same = vd_image_run_is_same(&from, &to);
    return 0;
}

int vd_convert_overlay_find(const struct vd_convert_overlay *overlay, struct vd_range range,
                            struct vd_range *unknown, struct vdisk_error *err)
{
    uint64_t grain = overlay->grain_bytes, end = vd_range_end(range), length;
    *unknown = vd_range(range.offset, 0);
    for (uint64_t at = range.offset; at < end; at += length) {
        bool is_same;
        int ret = look_for_same(overlay, vd_range(at, end - at), &is_same, &length, err);
        if (ret < 0)
            return ret;
        uint64_t same_start = vd_round_up(at, grain);
        uint64_t same_end = at + length == end ? end : vd_round_down(at + length, grain);
        if (is_same && same_end > same_start) {
            if (same_start > unknown->offset) {
                unknown->length = same_start - unknown->offset;
                return 0;
            }
            unknown->offset = same_end;
        }
        unknown->length = at + length - unknown->offset;
    }
    return 0;
}
