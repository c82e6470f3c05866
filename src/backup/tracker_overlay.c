/* SPDX-License-Identifier: MIT */
/*
 * An overlay over files that stay as they are: only what it has of its own can have changed.  What
 * it had then is recorded with each point, since another overlay may have taken its place, or an
 * older copy: where that one has nothing, what is behind shows again.
 */
#include <stdlib.h>

#include "backup/tracker_own.h"
#include "backup/tracker_priv.h"
#include "util/mem.h"

static int overlay_begin(struct vd_tracker *tracker, struct vdisk_error *err)
{
    const struct vd_manifest *parent = tracker->context.parent;
    int ret = vd_tracker_check_name(tracker, err);
    if (ret == 0)
        ret = vd_tracker_look_behind(tracker, err);
    if (ret < 0 || !vd_tracker_wants_changes(tracker))
        return ret;
    if (!parent->versions.name || parent->source_uuid[0])
        return vd_tracker_no_record(tracker, NULL, err);
    return vd_tracker_check_behind(tracker, parent, err);
}

/* 1 for a block of which the image has something of its own. */
static int get_own(void *opaque, struct vd_range *guest, uint32_t *number, struct vdisk_error *err)
{
    struct vdisk_image *source = opaque;
    uint64_t size = vdisk_image_size(source);
    uint64_t limit = vd_range_end(*guest);
    struct vd_range run = *guest;
    bool is_own = false;
    int ret = vd_tracker_own_run(source, &run, &is_own, err);
    uint64_t end = vd_range_end(run);
    if (ret < 0)
        return ret;
    *number = is_own;
    if (end == size || end - guest->offset >= VD_TRACKER_BLOCK_BYTES) {
        if (end != size)
            end = vd_round_down(end, VD_TRACKER_BLOCK_BYTES);
        guest->length = end - guest->offset;
        return 0;
    }
    /* A block of several runs. */
    limit = vd_min(limit, guest->offset + VD_TRACKER_BLOCK_BYTES);
    while (ret == 0 && end < limit && !*number) {
        run = vd_range(end, limit - end);
        ret = vd_tracker_own_run(source, &run, &is_own, err);
        end = vd_range_end(run);
        *number = is_own;
    }
    guest->length = limit - guest->offset;
    return ret;
}

/* What it had. */
static int add_recorded(struct vd_tracker *tracker, struct vd_bitmap *wanted,
                        struct vdisk_error *err)
{
    struct vd_tracker_file file = {0};
    uint64_t size = vd_bitmap_disk_bytes(wanted);
    int ret = vd_tracker_file_open(tracker, tracker->context.parent, &file, err);
    for (uint64_t at = 0; at < size && ret == 0; at += VD_TRACKER_BLOCK_BYTES) {
        uint32_t was_own = 0;
        uint64_t block = at / VD_TRACKER_BLOCK_BYTES;
        ret = vd_tracker_file_get(&file, block, &was_own, err);
        if (ret == 0 && (was_own || block >= file.blocks))
            ret =
                vd_bitmap_set(wanted, vd_range(at, vd_min(VD_TRACKER_BLOCK_BYTES, size - at)), err);
    }
    vd_tracker_file_close(&file);
    return ret;
}

static int overlay_changes(struct vd_tracker *tracker, struct vd_bitmap *wanted,
                           struct vdisk_error *err)
{
    int ret = add_recorded(tracker, wanted, err);
    return ret < 0 ? ret : vd_tracker_add_own(tracker->context.source, wanted, err);
}

static int overlay_record(struct vd_tracker *tracker, struct vd_manifest *manifest,
                          struct vdisk_error *err)
{
    struct vd_tracker_numbers own = {.get = get_own, .opaque = tracker->context.source};
    int ret = vd_tracker_record_behind(tracker, manifest, err);
    if (ret == 0)
        ret = vd_tracker_file_write(tracker, VD_TRACKER_FILE_NEW, &own, err);
    if (ret == 0)
        ret = vd_tracker_file_record(tracker, VD_TRACKER_FILE_NEW, manifest, err);
    return ret;
}

static void overlay_free(struct vd_tracker *tracker)
{
    free(tracker);
}

static const struct vd_tracker_driver overlay_driver = {
    .kind = VDISK_TRACKER_OVERLAY,
    .begin = overlay_begin,
    .changes = overlay_changes,
    .record = overlay_record,
    .free = overlay_free,
};

int vd_tracker_overlay_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                           struct vdisk_error *err)
{
    struct vd_tracker *overlay = calloc(1, sizeof(*overlay));
    *tracker = overlay;
    if (!overlay)
        return vd_err_nomem(err, "a tracker");
    overlay->driver = &overlay_driver;
    overlay->context = *context;
    return 0;
}
