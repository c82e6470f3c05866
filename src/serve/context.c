/* SPDX-License-Identifier: MIT */
/* Metadata contexts: which there are, who asks for them, and what they say. */
#include "serve/context.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nbdproto/nbdproto.h"
#include "util/clock.h"
#include "util/mem.h"

#define BITMAP_PREFIX "qemu:dirty-bitmap:"

/* Bounds of one call: places looked at, and how long it goes on to look. */
#define LOOKS_MAX 4096u
#define LOOK_MS   50u

static int add_context(struct vd_contexts *contexts, enum vd_context_kind kind, const char *prefix,
                       const char *rest, struct vdisk_error *err)
{
    size_t bytes = strlen(prefix) + strlen(rest) + 1;
    char *name = malloc(bytes);
    if (!name)
        return vd_err_nomem(err, "a metadata context");
    snprintf(name, bytes, "%s%s", prefix, rest);
    contexts->list[contexts->entries++] = (struct vd_context){
        .kind = kind,
        .name = name,
        .bitmap = kind == VD_CONTEXT_BITMAP ? name + strlen(prefix) : NULL,
    };
    return 0;
}

/* Is there such a bitmap, and does it know? */
static int check_bitmap(struct vdisk_image *image, const char *name, struct vdisk_error *err)
{
    uint64_t dirty_bytes;
    return vdisk_bitmap_dirty_bytes(image, name, &dirty_bytes, err);
}

static int add_bitmaps(struct vdisk_image *image, const struct vdisk_export_options *options,
                       struct vd_contexts *contexts, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < options->bitmap_entries && ret == 0; i++) {
        const char *name = options->bitmaps[i];
        for (size_t before = 0; before < i && ret == 0; before++)
            if (strcmp(options->bitmaps[before], name) == 0)
                ret = vd_err_set(err, EINVAL, "bitmap '%s' is asked for twice", name);
        if (ret == 0)
            ret = check_bitmap(image, name, err);
        if (ret == 0)
            ret = add_context(contexts, VD_CONTEXT_BITMAP, BITMAP_PREFIX, name, err);
    }
    return ret;
}

int vd_contexts_make(struct vdisk_image *image, const struct vdisk_export_options *options,
                     struct vd_contexts *contexts, struct vdisk_error *err)
{
    *contexts = (struct vd_contexts){0};
    if (options->bitmap_entries > SIZE_MAX / sizeof(*contexts->list) - 3)
        return vd_err_set(err, EINVAL, "an export of %zu bitmaps", options->bitmap_entries);
    contexts->list = vd_alloc_array(options->bitmap_entries + 3, sizeof(*contexts->list));
    if (!contexts->list)
        return vd_err_nomem(err, "metadata contexts");

    int ret = add_context(contexts, VD_CONTEXT_ALLOCATION, "base:allocation", "", err);
    if (ret == 0 && (options->flags & VDISK_EXPORT_ALLOCATION_DEPTH))
        ret = add_context(contexts, VD_CONTEXT_DEPTH, "qemu:allocation-depth", "", err);
    if (ret == 0)
        ret = add_bitmaps(image, options, contexts, err);
    if (ret == 0 && vd_image_has_versions(image))
        ret = add_context(contexts, VD_CONTEXT_VERSION, "vdisk:version", "", err);
    if (ret < 0)
        vd_contexts_free(contexts);
    return ret;
}

void vd_contexts_free(struct vd_contexts *contexts)
{
    for (size_t i = 0; i < contexts->entries; i++)
        free(contexts->list[i].name);
    free(contexts->list);
    *contexts = (struct vd_contexts){0};
}

static bool is_text(const char *query, size_t length, const char *text, size_t text_length)
{
    return length == text_length && memcmp(query, text, length) == 0;
}

bool vd_context_is_asked(const struct vd_context *context, const char *query, size_t length,
                         bool is_list)
{
    if (length == 0)
        return false;
    if (is_text(query, length, context->name, strlen(context->name)))
        return true;
    if (!is_list)
        return false;
    size_t namespace = strcspn(context->name, ":") + 1;
    return is_text(query, length, context->name, namespace) ||
           (context->bitmap && is_text(query, length, BITMAP_PREFIX, strlen(BITMAP_PREFIX)));
}

/*
 * "base:allocation" of an extent.  A hole is what has no place of its own: zeros for which a place
 * is kept are none, as writing there needs no space.
 */
static uint64_t allocation_flags(const struct vdisk_extent *extent)
{
    if (!(extent->flags & VDISK_EXTENT_ZERO))
        return 0;
    bool has_place = (extent->flags & VDISK_EXTENT_OFFSET) && !(extent->flags & VDISK_EXTENT_HOLE);
    return has_place ? NBD_STATE_ZERO : NBD_STATE_ZERO | NBD_STATE_HOLE;
}

static uint64_t depth_of(const struct vdisk_extent *extent)
{
    return extent->flags & VDISK_EXTENT_PRESENT ? (uint64_t)extent->depth + 1 : 0;
}

/* What is said of the start of @range, all of which may be of one kind. */
static int look_once(const struct vd_context *context, struct vdisk_image *image,
                     struct vd_range range, struct vd_context_extent *said, struct vdisk_error *err)
{
    if (context->kind == VD_CONTEXT_BITMAP) {
        struct vdisk_bitmap_extent extent;
        int ret =
            vdisk_bitmap_extent(image, context->bitmap, range.offset, range.length, &extent, err);
        if (ret == 0)
            *said = (struct vd_context_extent){extent.length, extent.is_dirty};
        return ret;
    }
    if (context->kind == VD_CONTEXT_VERSION) {
        struct vdisk_version_extent extent;
        int ret = vdisk_image_version(image, range.offset, range.length, &extent, err);
        if (ret == 0)
            *said = (struct vd_context_extent){extent.length, extent.version};
        return ret;
    }
    struct vdisk_extent extent;
    uint64_t length = vd_min(range.length, vd_image_stride(image));
    int ret = vdisk_image_extent(image, range.offset, length, &extent, err);
    if (ret == 0)
        *said = (struct vd_context_extent){
            .length = extent.length,
            .flags =
                context->kind == VD_CONTEXT_DEPTH ? depth_of(&extent) : allocation_flags(&extent),
        };
    return ret;
}

int vd_context_look(const struct vd_context *context, struct vdisk_image *image,
                    struct vd_range range, struct vd_context_extent *extents, size_t *entries,
                    struct vdisk_error *err)
{
    assert(range.length && *entries);
    uint64_t end_ms = vd_clock_ms() + LOOK_MS;
    size_t count = 0;
    for (unsigned looks = 0; looks < LOOKS_MAX && range.length; looks++) {
        struct vd_context_extent said;
        if (looks && vd_clock_ms() >= end_ms)
            break;
        int ret = look_once(context, image, range, &said, looks ? NULL : err);
        if (ret < 0 && looks)
            break; /* whoever asks for what comes next is told */
        if (ret < 0)
            return ret;
        if (count && extents[count - 1].flags == said.flags)
            extents[count - 1].length += said.length;
        else if (count < *entries)
            extents[count++] = said;
        else
            break;
        range = vd_range(range.offset + said.length, range.length - said.length);
    }
    *entries = count;
    return 0;
}
