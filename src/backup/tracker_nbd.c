/* SPDX-License-Identifier: MIT */
/*
 * A dirty bitmap of an NBD server: somebody else makes it, and tells us its name.  What has changed
 * since it began is known by it, if it is the right one: so is the next one's name recorded.
 */
#include <stdlib.h>
#include <string.h>

#include "backup/tracker_priv.h"
#include "storage/nbd_dirty.h"
#include "util/mem.h"

/* The one that has recorded what changed since the parent. */
static const char *bitmap_since(const struct vd_tracker *tracker)
{
    const char *given = tracker->context.options->bitmap;
    return given ? given : tracker->context.parent->bitmap;
}

static int nbd_begin(struct vd_tracker *tracker, struct vdisk_error *err)
{
    int ret = vd_tracker_check_name(tracker, err);
    if (ret == 0 && vd_tracker_wants_changes(tracker) && !bitmap_since(tracker))
        ret = vd_tracker_no_record(tracker, "no bitmap of the server is named (--bitmap)", err);
    return ret;
}

static int nbd_changes(struct vd_tracker *tracker, struct vd_bitmap *wanted,
                       struct vdisk_error *err)
{
    const struct vdisk_backup_options *options = tracker->context.options;
    return vd_nbd_read_bitmap(options->source, bitmap_since(tracker), options->network, wanted,
                              err);
}

static int nbd_record(struct vd_tracker *tracker, struct vd_manifest *manifest,
                      struct vdisk_error *err)
{
    const char *next = tracker->context.options->next_bitmap;
    manifest->bitmap = next ? strdup(next) : NULL;
    return next && !manifest->bitmap ? vd_err_nomem(err, "the name of a bitmap") : 0;
}

static void nbd_free(struct vd_tracker *tracker)
{
    free(tracker);
}

static const struct vd_tracker_driver nbd_driver = {
    .kind = VDISK_TRACKER_NBD,
    .begin = nbd_begin,
    .changes = nbd_changes,
    .record = nbd_record,
    .free = nbd_free,
};

int vd_tracker_nbd_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                       struct vdisk_error *err)
{
    struct vd_tracker *nbd = calloc(1, sizeof(*nbd));
    *tracker = nbd;
    if (!nbd)
        return vd_err_nomem(err, "a tracker");
    nbd->driver = &nbd_driver;
    nbd->context = *context;
    return 0;
}
