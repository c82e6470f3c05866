/* SPDX-License-Identifier: MIT */
/*
 * What can be known, or done, at once.  Requests that are tried here keep the rules I1 to I5 of
 * io.c: they are bracketed, and overwrite only what needs neither allocation nor guard.
 */
#include <string.h>

#include "image/image_priv.h"

/* How many mappings are looked at to answer a question. */
#define LOOKS_MAX 1000u

/* By @is_try: from memory, or -EAGAIN. */
static int map(struct vdisk_image *image, struct vd_range guest, bool is_try,
               struct vd_mapping *mapping, struct vdisk_error *err)
{
    return is_try ? vd_format_try_map(image->format, guest, false, mapping)
                  : vd_format_map(image->format, guest, mapping, err);
}

/* @image is entered. */
static int known_zero(struct vdisk_image *image, struct vd_range guest, bool is_try,
                      uint64_t *length, bool *is_zero, struct vdisk_error *err)
{
    struct vd_mapping mapping;
    struct vd_range shown;
    int ret = map(image, guest, is_try, &mapping, err);
    if (ret < 0)
        return ret;
    *length = mapping.guest.length;
    *is_zero = mapping.kind == VD_MAP_ZERO;
    if (mapping.kind != VD_MAP_BACKING)
        return 0;
    ret = vd_image_behind(image, mapping.guest, &shown, err);
    if (ret == 0 && shown.length) {
        unsigned ticket = vd_format_enter(image->backing->format);
        ret = known_zero(image->backing, shown, is_try, length, is_zero, err);
        vd_format_leave(image->backing->format, ticket);
        return ret;
    }
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
    ret = known_zero(image, guest, false, length, is_zero, err);
    vd_format_leave(image->format, ticket);
    return ret;
}

int vd_image_try_known_zero(struct vdisk_image *image, struct vd_range guest, uint64_t *length,
                            bool *is_zero)
{
    if (!vd_range_is_within(guest, vdisk_image_size(image)))
        return -EAGAIN;
    unsigned ticket = vd_format_enter(image->format);
    int ret = known_zero(image, guest, true, length, is_zero, NULL);
    vd_format_leave(image->format, ticket);
    return ret < 0 ? -EAGAIN : 0;
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

static int try_read(struct vdisk_image *image, uint8_t *buf, struct vd_range guest);

/* What the images behind have. */
static int try_read_behind(struct vdisk_image *image, uint8_t *buf, struct vd_range guest)
{
    struct vd_range shown;
    if (vd_image_behind(image, guest, &shown, NULL) < 0)
        return -EAGAIN;
    int ret = 0;
    if (shown.length) {
        unsigned ticket = vd_format_enter(image->backing->format);
        ret = try_read(image->backing, buf, shown);
        vd_format_leave(image->backing->format, ticket);
    }
    memset(buf + shown.length, 0, (size_t)(guest.length - shown.length));
    return ret;
}

static int try_read_mapping(struct vdisk_image *image, const struct vd_mapping *mapping,
                            uint8_t *buf)
{
    size_t length = (size_t)mapping->guest.length;
    if (mapping->kind == VD_MAP_BACKING)
        return try_read_behind(image, buf, mapping->guest);
    if (mapping->kind == VD_MAP_DATA && !mapping->cipher)
        return vd_storage_try_pread(mapping->storage, buf, length, mapping->host_offset);
    if (mapping->kind != VD_MAP_ZERO)
        return -EAGAIN;
    memset(buf, 0, length);
    return 0;
}

/* @image is entered. */
static int try_read(struct vdisk_image *image, uint8_t *buf, struct vd_range guest)
{
    while (guest.length) {
        struct vd_mapping mapping;
        int ret = vd_format_try_map(image->format, guest, false, &mapping);
        if (ret == 0)
            ret = try_read_mapping(image, &mapping, buf);
        if (ret < 0)
            return ret;
        buf += mapping.guest.length;
        guest = vd_range(vd_range_end(mapping.guest), guest.length - mapping.guest.length);
    }
    return 0;
}

int vd_image_try_pread(struct vdisk_image *image, void *buf, size_t length, uint64_t offset)
{
    struct vd_range guest = vd_range(offset, length);
    if (length == 0 || !vd_range_is_within(guest, vdisk_image_size(image)))
        return -EAGAIN;
    unsigned ticket = vd_format_enter(image->format); /* I1 */
    int ret = try_read(image, buf, guest);
    vd_format_leave(image->format, ticket);
    return ret;
}

int vd_image_try_pwrite(struct vdisk_image *image, const void *buf, size_t length, uint64_t offset)
{
    struct vd_range guest = vd_range(offset, length);
    const uint8_t *at = buf;
    int ret = 0;
    if (length == 0 || !vd_range_is_within(guest, vdisk_image_size(image)))
        return -EAGAIN;
    unsigned ticket = vd_format_enter(image->format); /* I1 */
    while (guest.length && ret == 0) {
        struct vd_mapping mapping;
        ret = vd_format_try_map(image->format, guest, true, &mapping);
        if (ret == 0 && mapping.cipher)
            ret = -EAGAIN;
        if (ret == 0) /* I2 */
            ret = vd_storage_try_pwrite(mapping.storage, at, (size_t)mapping.guest.length,
                                        mapping.host_offset);
        if (ret == 0) {
            at += mapping.guest.length;
            guest = vd_range(vd_range_end(mapping.guest), guest.length - mapping.guest.length);
        }
    }
    vd_format_leave(image->format, ticket);
    return ret;
}
