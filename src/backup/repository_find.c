/* SPDX-License-Identifier: MIT */
/* Which point is meant: a number, "latest", a time or a day. */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backup/repository.h"

#define DAY_SECONDS 86400

/* @count digits at *@at, which goes behind them; -1: there are not. */
static int take_digits(const char **at, int count)
{
    int value = 0;
    for (int i = 0; i < count; i++) {
        if (!isdigit((unsigned char)**at))
            return -1;
        value = value * 10 + (*(*at)++ - '0');
    }
    return value;
}

static bool take_char(const char **at, const char *one_of)
{
    if (!**at || !strchr(one_of, **at))
        return false;
    (*at)++;
    return true;
}

/* "2026-11-22": its first second */
static bool take_day(const char **at, int64_t *seconds)
{
    int year = take_digits(at, 4);
    if (year < 0 || !take_char(at, "-"))
        return false;
    int month = take_digits(at, 2);
    if (month < 0 || !take_char(at, "-"))
        return false;
    int day = take_digits(at, 2);
    struct tm tm = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day};
    if (month < 1 || month > 12 || day < 1)
        return false;
    *seconds = timegm(&tm);
    return tm.tm_mday == day; /* there is no 30 February */
}

/* "01:30:00", with a fraction that points do not have */
static bool take_clock(const char **at, int64_t *seconds)
{
    int hour = take_digits(at, 2);
    if (hour < 0 || hour > 23 || !take_char(at, ":"))
        return false;
    int minute = take_digits(at, 2);
    if (minute < 0 || minute > 59 || !take_char(at, ":"))
        return false;
    int second = take_digits(at, 2);
    if (second < 0 || second > 60)
        return false;
    if (take_char(at, ".")) {
        if (!isdigit((unsigned char)**at))
            return false;
        *at += strspn(*at, "0123456789");
    }
    *seconds += hour * 3600 + minute * 60 + second;
    return true;
}

/* "Z", "+01:00" */
static bool take_zone(const char **at, int64_t *seconds)
{
    if (take_char(at, "Zz"))
        return true;
    int sign = **at == '-' ? 1 : -1;
    if (!take_char(at, "+-"))
        return false;
    int hour = take_digits(at, 2);
    if (hour < 0 || hour > 23 || !take_char(at, ":"))
        return false;
    int minute = take_digits(at, 2);
    if (minute < 0 || minute > 59)
        return false;
    *seconds += sign * (hour * 3600 + minute * 60);
    return true;
}

/* The last second that is meant by @text. */
static bool read_time(const char *text, int64_t *seconds)
{
    const char *at = text;
    if (!take_day(&at, seconds))
        return false;
    if (!*at) {
        *seconds += DAY_SECONDS - 1;
        return true;
    }
    return take_char(&at, "Tt ") && take_clock(&at, seconds) && take_zone(&at, seconds) && !*at;
}

static int find_number(const struct vdisk_repository *repository, const char *text, size_t *index,
                       struct vdisk_error *err)
{
    errno = 0;
    uint64_t number = strtoull(text, NULL, 10);
    const struct vd_point *point = errno ? NULL : vd_repository_point_of(repository, number);
    if (!point)
        return vd_err_set(err, ENOENT, "%s: there is no point %.40s", repository->name, text);
    *index = (size_t)(point - repository->points);
    return 0;
}

/* The one of the highest number, as clocks are set back now and then.  An older one is not taken
 * silently where one that is damaged may be the one. */
static int find_time(const struct vdisk_repository *repository, const char *text, int64_t until,
                     size_t *index, struct vdisk_error *err)
{
    const struct vd_point *damaged = NULL; /* and likely made until then */
    size_t i = repository->point_entries;
    while (i-- > 0) {
        const struct vd_point *point = &repository->points[i];
        if (point->is_damaged) {
            damaged = point;
            continue;
        }
        if (point->manifest.created <= until)
            break;
        damaged = NULL;
    }
    if (damaged)
        return vd_err_set(err, EBADMSG,
                          "%s: the manifest of point %" PRIu64
                          " is damaged, so nobody can tell whether it is the last until %s: give "
                          "the number of a point",
                          repository->name, damaged->number, text);
    if (i == SIZE_MAX)
        return vd_err_set(err, ENOENT, "%s: there is no point that was made until %s",
                          repository->name, text);
    *index = i;
    return 0;
}

int vdisk_repository_find(const struct vdisk_repository *repository, const char *point,
                          size_t *index, struct vdisk_error *err)
{
    int64_t until;
    if (!point || strcmp(point, "latest") == 0) {
        if (!repository->point_entries)
            return vd_err_set(err, ENOENT, "%s: there is no point yet", repository->name);
        *index = repository->point_entries - 1;
        return 0;
    }
    if (*point && strspn(point, "0123456789") == strlen(point))
        return find_number(repository, point, index, err);
    if (read_time(point, &until))
        return find_time(repository, point, until, index, err);
    return vd_err_set(err, EINVAL,
                      "point \"%.60s\": neither a number, nor \"latest\", nor a time such as "
                      "2026-11-22T01:30:00Z, nor a day such as 2026-11-22",
                      point);
}
