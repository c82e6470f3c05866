/* SPDX-License-Identifier: MIT */
/* The disks a conversion reads. */
#include "job/convert_source.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "util/mem.h"

/* What is taken of the disk of @part, which begins at @at of the whole. */
static int set_range(struct vd_convert_part *part, uint64_t at,
                     const struct vdisk_convert_options *options, const char *name,
                     struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(part->image);
    if (options->source_offset > size)
        return vd_err_set(err, EINVAL,
                          "%s: source offset of %" PRIu64 " bytes: the disk has %" PRIu64, name,
                          options->source_offset, size);
    part->start = options->source_offset;
    part->range = vd_range(at, size - part->start);
    if (options->source_length)
        part->range.length = vd_min(part->range.length, options->source_length);
    if (part->range.length > (uint64_t)INT64_MAX - at)
        return vd_err_set(err, EFBIG, "%s: the sources together are larger than 2^63 bytes", name);
    return 0;
}

/* @part has an image now. */
static void add_part(struct vd_convert_source *source, struct vd_convert_part *part)
{
    source->part_entries++;
    atomic_init(&part->can_share, true);
    atomic_init(&part->can_offload, true);
}

int vd_convert_source_open(struct vd_convert_source *source,
                           const struct vdisk_convert_options *options, struct vdisk_error *err)
{
    struct vdisk_open_options open_options = {
        .struct_bytes = sizeof(open_options),
        .flags = options->source_flags,
        .format = options->source_format,
        .network = options->network,
        .passphrases = options->passphrases,
        .gate = options->gate,
        .snapshot = options->source_snapshot,
    };
    *source = (struct vd_convert_source){0};
    source->parts = vd_alloc_array(options->source_entries, sizeof(*source->parts));
    if (!source->parts)
        return vd_err_nomem(err, "the list of sources");

    for (size_t i = 0; i < options->source_entries; i++) {
        struct vd_convert_part *part = &source->parts[i];
        int ret = vdisk_image_open(options->sources[i], &open_options, &part->image, err);
        if (ret < 0)
            return ret;
        add_part(source, part);
        ret = set_range(part, source->size, options, options->sources[i], err);
        if (ret < 0)
            return ret;
        source->size += part->range.length;
    }
    return 0;
}

int vd_convert_source_borrow(struct vd_convert_source *source, struct vdisk_image *image,
                             struct vdisk_error *err)
{
    *source = (struct vd_convert_source){.size = vdisk_image_size(image)};
    source->parts = vd_alloc_array(1, sizeof(*source->parts));
    if (!source->parts)
        return vd_err_nomem(err, "the list of sources");
    source->parts->image = image;
    source->parts->is_borrowed = true;
    source->parts->range = vd_range(0, source->size);
    add_part(source, source->parts);
    return 0;
}

void vd_convert_source_close(struct vd_convert_source *source)
{
    for (size_t i = 0; i < source->part_entries; i++)
        if (!source->parts[i].is_borrowed)
            vdisk_image_close(source->parts[i].image, NULL); /* read-only: nothing to lose */
    free(source->parts);
    *source = (struct vd_convert_source){0};
}

struct vd_convert_part *vd_convert_source_part(const struct vd_convert_source *source,
                                               uint64_t offset)
{
    assert(offset < source->size);
    struct vd_convert_part *part = source->parts;
    while (offset >= vd_range_end(part->range))
        part++;
    return part;
}

uint64_t vd_convert_part_offset(const struct vd_convert_part *part, uint64_t offset)
{
    return part->start + (offset - part->range.offset);
}

int vd_convert_source_read(const struct vd_convert_source *source, void *buf, struct vd_range range,
                           struct vdisk_error *err)
{
    uint8_t *to = buf;
    while (range.length) {
        const struct vd_convert_part *part = vd_convert_source_part(source, range.offset);
        size_t step = (size_t)vd_min(range.length, vd_range_end(part->range) - range.offset);
        int ret = vdisk_image_pread(part->image, to, step,
                                    vd_convert_part_offset(part, range.offset), err);
        if (ret < 0)
            return ret;
        to += step;
        range = vd_range(range.offset + step, range.length - step);
    }
    return 0;
}

int vd_convert_source_look(const struct vd_convert_source *source, struct vd_range range,
                           bool *is_zero, uint64_t *length, struct vdisk_error *err)
{
    const struct vd_convert_part *part = vd_convert_source_part(source, range.offset);
    struct vdisk_extent extent;
    int ret = vdisk_image_extent(part->image, vd_convert_part_offset(part, range.offset),
                                 vd_min(range.length, vd_range_end(part->range) - range.offset),
                                 &extent, err);
    if (ret < 0)
        return ret;
    *is_zero = (extent.flags & VDISK_EXTENT_ZERO) != 0;
    *length = extent.length;
    return 0;
}
