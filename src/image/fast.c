/* SPDX-License-Identifier: MIT */
/* What can be known, or done, without the bytes themselves. */
#include "image/image_priv.h"

/* How many mappings are looked at to answer a question. */
#define LOOKS_MAX 1000u

static int known_zero(struct vdisk_image *image, struct vd_range guest, uint64_t *length,
                      bool *is_zero, struct vdisk_error *err)
{
    struct vd_mapping mapping;
    struct vd_range shown;
    int ret = vd_format_map(image->format, guest, &mapping, err);
    if (ret < 0)
        return ret;
    *length = mapping.guest.length;
    *is_zero = mapping.kind == VD_MAP_ZERO;
    if (mapping.kind != VD_MAP_BACKING)
        return 0;
    ret = vd_image_behind(image, mapping.guest, &shown, err);
    if (ret == 0 && shown.length)
        return vd_image_known_zero(image->backing, shown, length, is_zero, err);
    *is_zero = true;
    return ret;
}

int vd_image_known_zero(struct vdisk_image *image, struct vd_range guest, uint64_t *length,
                        bool *is_zero, struct vdisk_error *err)
{
    int ret = vd_image_check_request(image, guest.offset, guest.length, err);
    if (ret < 0)
        return ret;
    unsigned ticket = vd_format_enter(image->format);
    ret = known_zero(image, guest, length, is_zero, err);
    vd_format_leave(image->format, ticket);
    return ret;
}

/* Bytes in place of a file that makes them zero without writing them, or zeros already. */
static bool is_fast(const struct vd_mapping *mapping)
{
    if (mapping->kind == VD_MAP_ZERO)
        return true;
    return mapping->kind == VD_MAP_DATA && !mapping->cipher &&
           (vd_storage_caps(mapping->storage) & VD_STORAGE_FAST_ZEROES);
}

bool vd_image_zeroes_fast(struct vdisk_image *image, struct vd_range guest, unsigned flags)
{
    /* Space that has to be there takes what the file system takes to find it. */
    if (flags & VDISK_ZERO_NO_HOLE)
        return false;
    bool fast = true;
    unsigned ticket = vd_format_enter(image->format);
    for (unsigned looks = 0; guest.length && fast; looks++) {
        struct vd_mapping mapping;
        fast = looks < LOOKS_MAX && vd_format_map(image->format, guest, &mapping, NULL) == 0 &&
               is_fast(&mapping);
        if (fast)
            guest = vd_range(vd_range_end(mapping.guest), guest.length - mapping.guest.length);
    }
    vd_format_leave(image->format, ticket);
    return fast;
}
