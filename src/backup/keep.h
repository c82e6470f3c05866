/* SPDX-License-Identifier: MIT */
/* Which points are kept when old ones are to go. */
#ifndef VD_BACKUP_KEEP_H
#define VD_BACKUP_KEEP_H

#include <stdbool.h>

#include "util/err.h"

/* As in struct vdisk_prune_options. */
struct vd_keep_policy {
    uint32_t last;
    uint32_t daily;
    uint32_t weekly;
};

/*
 * @created: of points in the order in which they were made, in seconds since 1970.  The order is
 * what counts where a clock was set back.  Sets or clears @keep of each; the last is always kept.
 */
int vd_keep_choose(const int64_t *created, size_t entries, const struct vd_keep_policy *policy,
                   bool *keep, struct vdisk_error *err);

#endif
