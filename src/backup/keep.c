/* SPDX-License-Identifier: MIT */
/* Which points are kept when old ones are to go. */
#include "backup/keep.h"

#include "util/mem.h"
#include "util/range.h"

#define DAY_SECONDS 86400
#define WEEK_DAYS   7
#define MONDAY_DAYS 3 /* 1970-01-01 was a Thursday, the fourth day of its week (ISO 8601) */

static int64_t div_down(int64_t value, int64_t divisor)
{
    return value / divisor - (value % divisor < 0);
}

static int64_t day_of(int64_t seconds)
{
    return div_down(seconds, DAY_SECONDS);
}

static int64_t week_of(int64_t seconds)
{
    return div_down(day_of(seconds) + MONDAY_DAYS, WEEK_DAYS);
}

static bool has(const int64_t *values, size_t entries, int64_t value)
{
    while (entries--)
        if (values[entries] == value)
            return true;
    return false;
}

/* The last point of each of the last @count periods that have one. */
static int keep_periods(const int64_t *created, size_t entries, uint32_t count,
                        int64_t (*period_of)(int64_t seconds), bool *keep, struct vdisk_error *err)
{
    size_t room = (size_t)vd_min(count, entries), used = 0;
    CLEANUP_FREE int64_t *seen = vd_alloc_array(room, sizeof(*seen));
    if (!seen)
        return vd_err_nomem(err, "which points are kept");
    for (size_t i = entries; i-- > 0 && used < room;) {
        int64_t period = period_of(created[i]);
        if (has(seen, used, period))
            continue;
        seen[used++] = period;
        keep[i] = true;
    }
    return 0;
}

int vd_keep_choose(const int64_t *created, size_t entries, const struct vd_keep_policy *policy,
                   bool *keep, struct vdisk_error *err)
{
    uint64_t last = vd_max(policy->last, 1);
    for (size_t i = 0; i < entries; i++)
        keep[i] = entries - i <= last;
    int ret = keep_periods(created, entries, policy->daily, day_of, keep, err);
    return ret < 0 ? ret : keep_periods(created, entries, policy->weekly, week_of, keep, err);
}
