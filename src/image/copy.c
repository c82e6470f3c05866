/* SPDX-License-Identifier: MIT */
/*
 * Copies from one disk to another that do not pass through this process.
 *
 * The rules I1 and I3 of image/io.c hold here too: both disks are entered, and clusters are held by
 * the guard from before their allocation until write_done().
 */
#include "image/copy.h"

#include "image/image_priv.h"

/* One mapping of the source into (a part of) one mapping of the target. */
static int copy_mapping(const struct vd_image_copy *copy, const struct vd_mapping *from,
                        const struct vd_mapping *to, struct vdisk_error *err)
{
    int ret = -EOPNOTSUPP;
    bool covers = to->clusters.length == to->guest.length || to->fill == VD_FILL_NONE;
    if (to->kind == VD_MAP_DATA && !to->cipher && (!to->fresh || covers))
        ret = vd_storage_copy(from->storage, from->host_offset, to->storage, to->host_offset,
                              to->guest.length, copy->flags, err);
    if (to->fresh)
        vd_format_write_done(copy->to->format, to, ret == 0);
    return ret;
}

/* Copies @from, which is data. */
static int copy_data(const struct vd_image_copy *copy, const struct vd_mapping *from,
                     uint64_t to_offset, uint64_t *done, struct vdisk_error *err)
{
    struct vdisk_image *image = copy->to;
    struct vd_range target = vd_range(to_offset, from->guest.length);
    struct vd_guard_range mine;
    struct vd_mapping to;
    /* What is taken in vain may leave a gap: others take what is behind it meanwhile. */
    if (!vd_storage_can_copy(from->storage, vd_format_file(image->format), copy->flags))
        return -EOPNOTSUPP;
    vd_guard_hold(&image->guard, &mine, vd_range_expand(target, image->cluster_bytes));
    int ret = vd_format_map_for_write(image->format, target, true, &to, err);
    if (ret == 0) {
        *done = to.guest.length;
        ret = copy_mapping(copy, from, &to, err);
    }
    vd_guard_release(&image->guard, &mine);
    return ret;
}

/*
 * Copies what is at the start of @rest in @image, the source or one behind it, which is entered;
 * *done gets its length.
 */
static int copy_one(const struct vd_image_copy *copy, struct vdisk_image *image,
                    struct vd_range rest, uint64_t to_offset, uint64_t *done,
                    struct vdisk_error *err)
{
    struct vd_mapping from;
    struct vd_range shown;
    int ret = vd_format_map(image->format, rest, &from, err);
    if (ret < 0)
        return ret;
    if (from.kind == VD_MAP_DATA && !from.cipher)
        return copy_data(copy, &from, to_offset, done, err);
    if (from.kind == VD_MAP_BACKING)
        ret = vd_image_behind(image, from.guest, &shown, err);
    if (ret < 0)
        return ret;
    if (from.kind != VD_MAP_BACKING || shown.length == 0)
        return -EOPNOTSUPP;
    unsigned ticket = vd_format_enter(image->backing->format);
    ret = copy_one(copy, image->backing, shown, to_offset, done, err);
    vd_format_leave(image->backing->format, ticket);
    return ret;
}

int vd_image_copy(const struct vd_image_copy *copy, uint64_t *done, struct vdisk_error *err)
{
    *done = 0;
    int ret = vd_image_check_request(copy->from, copy->from_offset, copy->length, err);
    if (ret == 0)
        ret = vd_image_check_request(copy->to, copy->to_offset, copy->length, err);
    if (ret < 0)
        return ret;

    unsigned from_ticket = vd_format_enter(copy->from->format);
    unsigned to_ticket = vd_format_enter(copy->to->format);
    while (*done < copy->length && ret == 0) {
        uint64_t step = 0;
        ret = copy_one(copy, copy->from, vd_range(copy->from_offset + *done, copy->length - *done),
                       copy->to_offset + *done, &step, err);
        if (ret == 0)
            *done += step;
    }
    vd_format_leave(copy->to->format, to_ticket);
    vd_format_leave(copy->from->format, from_ticket);
    return ret;
}

/* Where the bytes of @mapping are in its storage. */
static struct vd_range place_of(const struct vd_mapping *mapping)
{
    bool is_encoded = mapping->kind == VD_MAP_ENCODED;
    return vd_range(mapping->host_offset,
                    is_encoded ? mapping->encoded_bytes : mapping->guest.length);
}

void vd_image_write_behind(struct vdisk_image *image, uint64_t offset, uint64_t length)
{
    if (vd_image_check_request(image, offset, length, NULL) < 0)
        return;
    unsigned ticket = vd_format_enter(image->format);
    struct vd_range rest = vd_range(offset, length);
    struct vd_range run = vd_range(0, 0); /* in `storage`, in one piece so far */
    struct vd_storage *storage = NULL;
    struct vd_mapping mapping;
    while (rest.length && vd_format_map(image->format, rest, &mapping, NULL) == 0) {
        struct vd_range place = place_of(&mapping);
        bool has_bytes = mapping.kind == VD_MAP_DATA || mapping.kind == VD_MAP_ENCODED;
        rest = vd_range(vd_range_end(mapping.guest), rest.length - mapping.guest.length);
        if (!has_bytes)
            continue;
        /* Stored lengths of compressed clusters may reach into the next one. */
        if (mapping.storage == storage && place.offset >= run.offset &&
            place.offset <= vd_range_end(run)) {
            run.length = vd_max(vd_range_end(run), vd_range_end(place)) - run.offset;
            continue;
        }
        if (storage)
            vd_storage_write_behind(storage, run);
        storage = mapping.storage;
        run = place;
    }
    if (storage)
        vd_storage_write_behind(storage, run);
    vd_format_leave(image->format, ticket);
}
