/* SPDX-License-Identifier: MIT */
/* vdisk_bitmap_recover(): an inconsistent dirty bitmap gets bits again. */
#include <inttypes.h>
#include <string.h>

#include "format/bitmaps.h"
#include "image/image.h"
#include "job/compare.h"

/* The most memory for the bits while they are collected. */
#define MEMORY_MAX (UINT64_C(1) << 30)

/* One recovery. */
struct recovery {
    const struct vdisk_bitmap_recover_options *options;
    struct vdisk_image *image;
    struct vd_bitmap_budget budget;
    struct vd_bitmap *bits;     /* what differs; NULL: all is dirty */
    struct vdisk_error failure; /* of collecting them */
};

static int check_options(const struct vdisk_bitmap_recover_options *options,
                         const struct vdisk_bitmap_recover_result *result, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options) || options->reserved || options->flags)
        return vd_err_set(err, EINVAL,
                          "recover options: struct_bytes is %zu, flags 0x%" PRIx32
                          " and reserved %" PRIu64 ": this library wants %zu, 0 and 0",
                          options->struct_bytes, options->flags, options->reserved,
                          sizeof(*options));
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL,
                          "recover result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    if (!options->name || !options->bitmap)
        return vd_err_set(err, EINVAL,
                          "recover options: the names of an image and a bitmap are needed");
    if (options->open_flags & ~(uint32_t)(VDISK_OPEN_DIRECT | VDISK_OPEN_SYNC))
        return vd_err_set(err, EINVAL,
                          "recover options: flags 0x%" PRIx32
                          " for opening the image: only direct and sync are possible",
                          options->open_flags);
    if (options->older_flags & VDISK_OPEN_WRITE)
        return vd_err_set(err, EINVAL, "recover options: the older image is only read");
    return 0;
}

/* Is there such a bitmap, that needs it?  *facts are of it. */
static int find_bitmap(const struct recovery *recovery, struct vd_bitmap_facts *facts,
                       struct vdisk_error *err)
{
    struct vd_format *format = vd_image_format(recovery->image);
    const char *name = recovery->options->bitmap;
    size_t count;
    int ret = vd_format_bitmap_count(format, &count, err);
    for (size_t i = 0; i < count && ret == 0; i++) {
        ret = vd_format_bitmap_facts(format, i, facts, err);
        if (ret == 0 && strcmp(facts->name, name) == 0 && (facts->flags & VDISK_BITMAP_RECOVERABLE))
            return 0;
        if (ret == 0 && strcmp(facts->name, name) == 0)
            return vd_err_set(err, EINVAL,
                              "%s: bitmap '%s' is consistent: there is nothing to recover",
                              recovery->options->name, name);
    }
    return ret < 0 ? ret
                   : vd_err_set(err, ENOENT, "%s: there is no bitmap '%s'", recovery->options->name,
                                name);
}

static int take_difference(void *opaque, uint64_t offset, uint64_t length)
{
    struct recovery *recovery = opaque;
    /* The longer one of the two disks may be the other one. */
    uint64_t size = vd_bitmap_disk_bytes(recovery->bits);
    if (offset >= size)
        return 0;
    struct vd_range range = vd_range(offset, vd_min(length, size - offset));
    return vd_bitmap_set(recovery->bits, range, &recovery->failure);
}

static int tell_progress(void *opaque, const struct vdisk_progress *progress)
{
    const struct recovery *recovery = opaque;
    const struct vdisk_bitmap_recover_options *options = recovery->options;
    return options->progress ? options->progress(options->opaque, progress) : 0;
}

static int compare(struct recovery *recovery, struct vdisk_image *older, struct vdisk_error *err)
{
    struct vdisk_image *images[2] = {older, recovery->image};
    struct vdisk_compare_options options = {
        .struct_bytes = sizeof(options),
        .workers = recovery->options->workers,
        .progress = tell_progress,
        .difference = take_difference,
        .opaque = recovery,
    };
    struct vdisk_compare_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error inner = {0};
    int ret = vd_compare_images(images, &options, &result, &inner);
    if (recovery->failure.code)
        return vd_err_copy(err, &recovery->failure);
    return ret < 0 ? vd_err_copy(err, &inner) : 0;
}

/* The bits: where does the disk differ from the older one? */
static int collect(struct recovery *recovery, uint64_t granularity, struct vdisk_error *err)
{
    const struct vdisk_bitmap_recover_options *o = recovery->options;
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open),
        .flags = o->older_flags,
        .format = o->older_format,
        .network = o->network,
        .gate = o->gate,
        .passphrases = o->passphrases,
    };
    struct vdisk_image *older;
    int ret = vdisk_image_open(o->older, &open, &older, err);
    if (ret < 0)
        return ret;
    ret = vd_bitmap_new(vdisk_image_size(recovery->image), (uint32_t)__builtin_ctzll(granularity),
                        &recovery->budget, &recovery->bits, err);
    if (ret == 0)
        ret = compare(recovery, older, err);
    vdisk_image_close(older, NULL); /* read-only: nothing to lose */
    return ret;
}

static int recover(struct recovery *recovery, struct vdisk_bitmap_recover_result *result,
                   struct vdisk_error *err)
{
    struct vd_bitmap_facts facts;
    struct vd_format *format = vd_image_format(recovery->image);
    const char *name = recovery->options->bitmap;
    int ret = find_bitmap(recovery, &facts, err);
    if (ret == 0 && recovery->options->older)
        ret = collect(recovery, facts.granularity, err);
    if (ret < 0)
        return ret;
    struct vd_bitmap_action action = {
        .kind = VDISK_BITMAP_RECOVER, .name = name, .bits = recovery->bits};
    ret = vd_format_bitmap_change(format, &action, 1, err);
    if (ret == 0 && result) {
        result->virtual_bytes = vdisk_image_size(recovery->image);
        ret = vdisk_bitmap_dirty_bytes(recovery->image, name, &result->dirty_bytes, err);
    }
    return ret;
}

int vdisk_bitmap_recover(const struct vdisk_bitmap_recover_options *options,
                         struct vdisk_bitmap_recover_result *result, struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    if (ret < 0)
        return ret;
    struct recovery recovery = {.options = options, .budget = {.bytes_max = MEMORY_MAX}};
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open),
        .flags = options->open_flags | VDISK_OPEN_WRITE |
                 (options->older ? 0 : (uint32_t)VDISK_OPEN_NO_BACKING),
        .format = options->format,
        .network = options->network,
        .gate = options->gate,
        .passphrases = options->passphrases,
    };
    ret = vdisk_image_open(options->name, &open, &recovery.image, err);
    if (ret < 0)
        return ret;
    ret = recover(&recovery, result, err);
    vd_bitmap_free(recovery.bits);
    int closed = vdisk_image_close(recovery.image, ret < 0 ? NULL : err);
    return ret < 0 ? ret : closed;
}
