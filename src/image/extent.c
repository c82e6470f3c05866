/* SPDX-License-Identifier: MIT */
/* What is there at an offset: the format's mappings, told apart further by the storage's holes. */
#include <string.h>

#include "image/image_priv.h"

/* One mapping, or the part of it that the storage says is of one kind. */
static int look(struct vdisk_image *image, struct vd_range guest, struct vdisk_extent *extent,
                struct vdisk_error *err)
{
    struct vd_mapping mapping;
    int ret = vd_format_map(image->format, guest, &mapping, err);
    if (ret < 0)
        return ret;

    *extent = (struct vdisk_extent){.offset = guest.offset, .length = mapping.guest.length};
    if (mapping.present)
        extent->flags |= VDISK_EXTENT_PRESENT;
    if (mapping.kind == VD_MAP_ZERO) {
        extent->flags |= VDISK_EXTENT_ZERO;
        return 0;
    }

    struct vd_storage_extent stored;
    ret = vd_storage_extent(mapping.storage, vd_range(mapping.host_offset, mapping.guest.length),
                            &stored, err);
    if (ret < 0)
        return ret;
    extent->length = stored.length;
    extent->flags |= stored.kind == VD_STORAGE_HOLE ? VDISK_EXTENT_ZERO : VDISK_EXTENT_DATA;
    extent->flags |= VDISK_EXTENT_OFFSET;
    extent->host_offset = mapping.host_offset;
    extent->host_name = vd_storage_name(mapping.storage);
    return 0;
}

/* Does @next carry on where @run ends, with nothing else about it? */
static bool continues(const struct vdisk_extent *run, const struct vdisk_extent *next)
{
    if (next->flags != run->flags || next->depth != run->depth)
        return false;
    return !(run->flags & VDISK_EXTENT_OFFSET) ||
           (next->host_offset == run->host_offset + run->length &&
            next->host_name == run->host_name);
}

int vdisk_image_extent(struct vdisk_image *image, uint64_t offset, uint64_t length,
                       struct vdisk_extent *extent, struct vdisk_error *err)
{
    int ret = vd_image_check_request(image, offset, length, err);
    if (ret == 0 && length == 0)
        ret = vd_err_set(err, EINVAL, "extent: a length of 0 bytes");
    if (ret < 0)
        return ret;

    unsigned ticket = vd_format_enter(image->format);
    struct vdisk_extent next;
    ret = look(image, vd_range(offset, length), extent, err);
    while (ret == 0 && extent->length < length) {
        ret = look(image, vd_range(offset + extent->length, length - extent->length), &next, err);
        if (ret < 0 || !continues(extent, &next))
            break;
        extent->length += next.length;
    }
    vd_format_leave(image->format, ticket);
    return ret;
}
