/* SPDX-License-Identifier: MIT */
/* What is there at an offset: the format's mappings, told apart further by the storage's holes. */
#include <string.h>

#include "image/image_priv.h"

void vd_run_init(struct vd_run *run)
{
    vd_mutex_init(&run->lock);
    run->guest = vd_range(0, 0);
}

void vd_run_destroy(struct vd_run *run)
{
    vd_mutex_destroy(&run->lock);
}

void vd_ahead_init(struct vd_ahead *ahead)
{
    vd_mutex_init(&ahead->lock);
    ahead->run = (struct vd_image_run){0};
}

void vd_ahead_destroy(struct vd_ahead *ahead)
{
    vd_mutex_destroy(&ahead->lock);
}

/* Is the start of @guest known?  *run gets what is there, within @guest. */
static bool ahead_has(struct vdisk_image *image, struct vd_range guest, struct vd_image_run *run)
{
    if (!image->is_constant)
        return false;
    vd_mutex_lock(&image->ahead.lock);
    *run = image->ahead.run;
    vd_mutex_unlock(&image->ahead.lock);
    if (!run->extent.length || run->extent.offset != guest.offset)
        return false;
    run->extent.length = vd_min(run->extent.length, guest.length);
    return true;
}

static void ahead_learn(struct vdisk_image *image, const struct vd_image_run *run)
{
    if (!image->is_constant)
        return;
    vd_mutex_lock(&image->ahead.lock);
    image->ahead.run = *run;
    vd_mutex_unlock(&image->ahead.lock);
}

/* Is the start of @guest in the known run?  *length gets how far that goes. */
static bool run_has(struct vd_run *run, struct vd_range guest, uint64_t *length)
{
    vd_mutex_lock(&run->lock);
    struct vd_range known = run->guest;
    vd_mutex_unlock(&run->lock);
    if (guest.offset < known.offset || guest.offset >= vd_range_end(known))
        return false;
    *length = vd_min(guest.length, vd_range_end(known) - guest.offset);
    return true;
}

static void run_learn(struct vd_run *run, struct vd_range guest)
{
    vd_mutex_lock(&run->lock);
    run->guest = guest;
    vd_mutex_unlock(&run->lock);
}

/* vd_format_map(), answered from the known run where that can be. */
static int map(struct vdisk_image *image, struct vd_range guest, struct vd_mapping *mapping,
               struct vdisk_error *err)
{
    bool can_change = vd_format_is_writable(image->format);
    uint64_t length;
    if (!can_change && run_has(&image->known_backing, guest, &length)) {
        *mapping =
            (struct vd_mapping){.kind = VD_MAP_BACKING, .guest = vd_range(guest.offset, length)};
        return 0;
    }
    int ret = vd_format_map(image->format, guest, mapping, err);
    if (ret == 0 && mapping->kind == VD_MAP_BACKING && !can_change)
        run_learn(&image->known_backing, mapping->guest);
    return ret;
}

static void tell_place(const struct vd_mapping *mapping, struct vd_image_run *run)
{
    run->extent.flags |= VDISK_EXTENT_OFFSET;
    run->extent.host_offset = mapping->host_offset;
    run->extent.host_name = vd_storage_name(mapping->storage);
    run->storage = mapping->storage;
}

/* Data of a storage, of which holes may be known. */
static int look_at_data(const struct vd_mapping *mapping, struct vd_image_run *run,
                        struct vdisk_error *err)
{
    struct vdisk_extent *extent = &run->extent;
    struct vd_storage_extent stored;
    int ret = vd_storage_extent(
        mapping->storage, vd_range(mapping->host_offset, mapping->guest.length), &stored, err);
    if (ret < 0)
        return ret;
    extent->length = stored.length;
    extent->flags |=
        stored.kind == VD_STORAGE_HOLE ? VDISK_EXTENT_ZERO | VDISK_EXTENT_HOLE : VDISK_EXTENT_DATA;
    tell_place(mapping, run);
    return 0;
}

static int look(struct vdisk_image *image, struct vd_range guest, struct vd_image_run *run,
                struct vdisk_error *err);

/* What the images behind have for @guest, to which @image answered BACKING. */
static int look_behind(struct vdisk_image *image, struct vd_range guest, struct vd_image_run *run,
                       struct vdisk_error *err)
{
    struct vd_range shown;
    int ret = vd_image_behind(image, guest, &shown, err);
    if (ret < 0)
        return ret;
    if (shown.length == 0) {
        /* Zeros behind the end of a short image are that image's word. */
        run->storage = NULL;
        run->extent = (struct vdisk_extent){.offset = guest.offset,
                                            .length = guest.length,
                                            .flags = VDISK_EXTENT_ZERO | VDISK_EXTENT_PRESENT};
    } else {
        unsigned ticket = vd_format_enter(image->backing->format);
        ret = look(image->backing, shown, run, err);
        vd_format_leave(image->backing->format, ticket);
    }
    run->extent.depth++;
    return ret;
}

/* One mapping, or the part of it that the storage says is of one kind.  @image is entered. */
static int look(struct vdisk_image *image, struct vd_range guest, struct vd_image_run *run,
                struct vdisk_error *err)
{
    struct vdisk_extent *extent = &run->extent;
    struct vd_mapping mapping;
    int ret = map(image, guest, &mapping, err);
    if (ret < 0)
        return ret;
    if (mapping.kind == VD_MAP_BACKING)
        return look_behind(image, mapping.guest, run, err);

    run->storage = NULL;
    *extent = (struct vdisk_extent){.offset = guest.offset, .length = mapping.guest.length};
    if (mapping.present)
        extent->flags |= VDISK_EXTENT_PRESENT;
    if (mapping.kind == VD_MAP_ZERO) {
        extent->flags |= VDISK_EXTENT_ZERO;
        if (mapping.storage)
            tell_place(&mapping, run);
        return 0;
    }
    if (mapping.kind == VD_MAP_ENCODED) {
        extent->flags |= VDISK_EXTENT_DATA | VDISK_EXTENT_COMPRESSED;
        return 0;
    }
    if (mapping.cipher) {
        /* Only by way of the cipher: a hole of the storage is nothing, and its bytes mean nothing.
         */
        extent->flags |= VDISK_EXTENT_DATA;
        return 0;
    }
    return look_at_data(&mapping, run, err);
}

/* Does @next carry on where @run ends, with nothing else about it? */
static bool continues(const struct vd_image_run *run, const struct vd_image_run *next)
{
    const struct vdisk_extent *a = &run->extent, *b = &next->extent;
    if (b->flags != a->flags || b->depth != a->depth || next->storage != run->storage)
        return false;
    return !(a->flags & VDISK_EXTENT_OFFSET) || b->host_offset == a->host_offset + a->length;
}

int vd_image_look(struct vdisk_image *image, struct vd_range guest, struct vd_image_run *run,
                  struct vdisk_error *err)
{
    int ret = vd_image_check_request(image, guest.offset, guest.length, err);
    if (ret == 0 && guest.length == 0)
        ret = vd_err_set(err, EINVAL, "extent: a length of 0 bytes");
    if (ret < 0)
        return ret;

    unsigned ticket = vd_format_enter(image->format);
    struct vdisk_extent *extent = &run->extent;
    struct vd_image_run next;
    ret = ahead_has(image, guest, run) ? 0 : look(image, guest, run, err);
    while (ret == 0 && extent->length < guest.length) {
        uint64_t done = extent->length;
        ret = look(image, vd_range(guest.offset + done, guest.length - done), &next, err);
        if (ret < 0)
            break;
        if (!continues(run, &next)) {
            ahead_learn(image, &next);
            break;
        }
        extent->length += next.extent.length;
    }
    vd_format_leave(image->format, ticket);
    return ret;
}

/* Zeros by the word of a format: what lies at the place that is kept for them may be anything. */
static bool is_said_zero(const struct vdisk_extent *extent)
{
    return (extent->flags & (VDISK_EXTENT_ZERO | VDISK_EXTENT_HOLE)) == VDISK_EXTENT_ZERO;
}

bool vd_image_run_is_same(const struct vd_image_run *a, const struct vd_image_run *b)
{
    return is_said_zero(&a->extent) == is_said_zero(&b->extent) && a->storage && b->storage &&
           a->extent.host_offset == b->extent.host_offset &&
           vd_storage_identity_equals(vd_storage_identity(a->storage),
                                      vd_storage_identity(b->storage));
}

uint64_t vd_image_stride(const struct vdisk_image *image)
{
    uint64_t stride = UINT64_MAX;
    for (; image; image = image->backing)
        if (image->cluster_bytes > 1)
            stride = vd_min(stride, (uint64_t)image->cluster_bytes * 4096);
    return stride;
}

int vdisk_image_extent(struct vdisk_image *image, uint64_t offset, uint64_t length,
                       struct vdisk_extent *extent, struct vdisk_error *err)
{
    struct vd_image_run run;
    int ret = vd_image_look(image, vd_range(offset, length), &run, err);
    if (ret == 0)
        *extent = run.extent;
    return ret;
}
