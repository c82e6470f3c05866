/* SPDX-License-Identifier: MIT */
/* vdisk_convert() with VDISK_CONVERT_BITMAPS. */
#include "job/convert_bitmaps.h"

#include <string.h>

#include "format/bitmaps.h"
#include "util/mem.h"

#define ACTIONS_PER_BITMAP 3u /* add, merge, disable */

/* The most memory for bits that are brought to the size of the target. */
#define MEMORY_MAX (UINT64_C(1) << 30)

/* The bitmaps on their way. */
struct transfer {
    const struct vdisk_convert_options *options;
    struct vd_format *from;
    struct vd_format *to;
    struct vd_bitmap_action *actions;
    struct vd_bitmap **resized; /* bits for a target of another size; owned */
    struct vd_bitmap_budget budget;
    size_t action_entries;
    size_t resized_entries;
};

static int check_images(const struct vdisk_convert_options *options,
                        const struct vd_convert_source *source, struct vdisk_image *target,
                        struct vdisk_error *err)
{
    if (source->part_entries != 1)
        return vd_err_set(err, EINVAL, "copying bitmaps is only possible with a single source");
    if (options->source_offset || options->source_length || options->source_snapshot)
        return vd_err_set(err, EINVAL,
                          "copying bitmaps is only possible with the whole of a disk as it is now, "
                          "which they tell of");
    if (!vd_format_has_bitmaps(vd_image_format(source->parts[0].image)))
        return vd_err_set(err, ENOTSUP, "%s: the source lacks bitmap support", options->sources[0]);
    if (!vd_format_has_bitmaps(vd_image_format(target)))
        return vd_err_set(err, ENOTSUP, "%s: images of its format have no bitmaps: use -O qcow2",
                          options->target);
    return 0;
}

/* The bits of a source, for the disk of the target. */
static int take_bits(struct transfer *transfer, const char *name, const struct vd_bitmap **bits,
                     struct vdisk_error *err)
{
    uint64_t size = vd_format_size(transfer->to);
    int ret = vd_format_bitmap_bits(transfer->from, name, bits, err);
    if (ret < 0 || vd_bitmap_disk_bytes(*bits) == size)
        return ret;
    struct vd_bitmap *own = NULL;
    ret = vd_bitmap_new(vd_bitmap_disk_bytes(*bits), vd_bitmap_granularity_bits(*bits),
                        &transfer->budget, &own, err);
    if (ret < 0)
        return ret;
    transfer->resized[transfer->resized_entries++] = own;
    ret = vd_bitmap_merge(own, *bits, err);
    if (ret == 0)
        ret = vd_bitmap_resize(own, size, err);
    *bits = own;
    return ret;
}

static int plan_one(struct transfer *transfer, const struct vd_bitmap_facts *facts,
                    struct vd_convert_bitmaps *bitmaps, struct vdisk_error *err)
{
    const struct vd_bitmap *bits;
    int ret = take_bits(transfer, facts->name, &bits, err);
    if (ret < 0)
        return ret;
    struct vd_bitmap_action *action = &transfer->actions[transfer->action_entries];
    action[0] = (struct vd_bitmap_action){
        .kind = VDISK_BITMAP_ADD, .name = facts->name, .granularity = facts->granularity};
    action[1] =
        (struct vd_bitmap_action){.kind = VDISK_BITMAP_MERGE, .name = facts->name, .bits = bits};
    action[2] = (struct vd_bitmap_action){.kind = VDISK_BITMAP_DISABLE, .name = facts->name};
    transfer->action_entries += ACTIONS_PER_BITMAP;
    if (!(facts->flags & VDISK_BITMAP_ENABLED))
        return 0;
    char *name = strdup(facts->name);
    if (!name)
        return vd_err_nomem(err, "the name of a bitmap");
    bitmaps->enabled[bitmaps->enabled_entries++] = name;
    return 0;
}

/* One that is not to be trusted: an error, or left out. */
static int leave_out(const struct transfer *transfer, const struct vd_bitmap_facts *facts,
                     struct vdisk_error *err)
{
    const struct vdisk_convert_options *options = transfer->options;
    struct vdisk_error message = {0};
    if (!(options->flags & VDISK_CONVERT_SKIP_BROKEN_BITMAPS))
        return vd_err_set(err, EUCLEAN,
                          "%s: cannot copy the inconsistent bitmap '%s': recover or remove it "
                          "(vdisk bitmap), or leave it out by --skip-broken-bitmaps",
                          options->sources[0], facts->name);
    vd_err_set(&message, EUCLEAN, "%s: left out the inconsistent bitmap '%s'", options->sources[0],
               facts->name);
    if (options->report)
        options->report(options->opaque, message.message);
    return 0;
}

static int plan(struct transfer *transfer, size_t count, struct vd_convert_bitmaps *bitmaps,
                struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < count && ret == 0; i++) {
        struct vd_bitmap_facts facts;
        ret = vd_format_bitmap_facts(transfer->from, i, &facts, err);
        if (ret == 0 && (facts.flags & VDISK_BITMAP_INCONSISTENT))
            ret = leave_out(transfer, &facts, err);
        else if (ret == 0)
            ret = plan_one(transfer, &facts, bitmaps, err);
    }
    return ret;
}

int vd_convert_bitmaps_add(struct vd_convert_bitmaps *bitmaps,
                           const struct vdisk_convert_options *options,
                           const struct vd_convert_source *source, struct vdisk_image *target,
                           struct vdisk_error *err)
{
    size_t count;
    int ret = check_images(options, source, target, err);
    if (ret < 0)
        return ret;
    struct transfer transfer = {.options = options,
                                .from = vd_image_format(source->parts[0].image),
                                .to = vd_image_format(target),
                                .budget = {.bytes_max = MEMORY_MAX}};
    ret = vd_format_bitmap_count(transfer.from, &count, err);
    if (ret < 0)
        return ret;
    transfer.actions = vd_alloc_array(count, ACTIONS_PER_BITMAP * sizeof(*transfer.actions));
    transfer.resized = vd_alloc_array(count, sizeof(*transfer.resized));
    bitmaps->enabled = vd_alloc_array(count, sizeof(*bitmaps->enabled));
    if (!transfer.actions || !transfer.resized || !bitmaps->enabled)
        ret = vd_err_nomem(err, "the bitmaps of an image");
    if (ret == 0)
        ret = plan(&transfer, count, bitmaps, err);
    if (ret == 0 && transfer.action_entries)
        ret = vd_format_bitmap_change(transfer.to, transfer.actions, transfer.action_entries, err);
    for (size_t i = 0; i < transfer.resized_entries; i++)
        vd_bitmap_free(transfer.resized[i]);
    free(transfer.resized);
    free(transfer.actions);
    return ret;
}

int vd_convert_bitmaps_enable(const struct vd_convert_bitmaps *bitmaps, struct vdisk_image *target,
                              struct vdisk_error *err)
{
    if (bitmaps->enabled_entries == 0)
        return 0;
    CLEANUP_FREE struct vd_bitmap_action *actions =
        vd_alloc_array(bitmaps->enabled_entries, sizeof(*actions));
    if (!actions)
        return vd_err_nomem(err, "the bitmaps of an image");
    for (size_t i = 0; i < bitmaps->enabled_entries; i++)
        actions[i] =
            (struct vd_bitmap_action){.kind = VDISK_BITMAP_ENABLE, .name = bitmaps->enabled[i]};
    return vd_format_bitmap_change(vd_image_format(target), actions, bitmaps->enabled_entries, err);
}

void vd_convert_bitmaps_free(struct vd_convert_bitmaps *bitmaps)
{
    for (size_t i = 0; i < bitmaps->enabled_entries; i++)
        free(bitmaps->enabled[i]);
    free(bitmaps->enabled);
    *bitmaps = (struct vd_convert_bitmaps){0};
}
