/* SPDX-License-Identifier: MIT */
/* A source of which nobody records what changes. */
#include <stdlib.h>

#include "backup/tracker_priv.h"

static int none_begin(struct vd_tracker *tracker, struct vdisk_error *err)
{
    int ret = vd_tracker_check_name(tracker, err);
    if (ret < 0 || !vd_tracker_wants_changes(tracker))
        return ret;
    bool is_wanted = (tracker->context.options->flags & VDISK_BACKUP_UNTRACKED) != 0;
    return vd_tracker_no_record(tracker, is_wanted ? "it is to be left as it is" : NULL, err);
}

static int none_changes(struct vd_tracker *tracker, struct vd_bitmap *wanted,
                        struct vdisk_error *err)
{
    (void)wanted;
    return vd_tracker_no_record(tracker, NULL, err);
}

static void none_free(struct vd_tracker *tracker)
{
    free(tracker);
}

static const struct vd_tracker_driver none_driver = {
    .kind = VDISK_TRACKER_NONE,
    .begin = none_begin,
    .changes = none_changes,
    .free = none_free,
};

int vd_tracker_none_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                        struct vdisk_error *err)
{
    struct vd_tracker *none = calloc(1, sizeof(*none));
    *tracker = none;
    if (!none)
        return vd_err_nomem(err, "a tracker");
    none->driver = &none_driver;
    none->context = *context;
    return 0;
}
