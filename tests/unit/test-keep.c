/* SPDX-License-Identifier: MIT */
/* backup/keep: which points stay, against the calendar. */
#include "drivers/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backup/keep.h"
#include "drivers/random.h"

#define DAY        INT64_C(86400)
#define POINTS_MAX 400u

static uint64_t seed;

/* A time of day on a day. */
static int64_t at(int year, int month, int day, int hour, int minute)
{
    struct tm tm = {.tm_year = year - 1900,
                    .tm_mon = month - 1,
                    .tm_mday = day,
                    .tm_hour = hour,
                    .tm_min = minute};
    return timegm(&tm);
}

/* @expected: 'k' for each that is kept, '-' for each that goes. */
static void check(const int64_t *created, struct vd_keep_policy policy, const char *expected)
{
    bool keep[POINTS_MAX];
    char got[POINTS_MAX + 1] = "";
    size_t entries = strlen(expected);
    struct vdisk_error err = {0};
    assert_int_equal(vd_keep_choose(created, entries, &policy, keep, &err), 0);
    for (size_t i = 0; i < entries; i++)
        got[i] = keep[i] ? 'k' : '-';
    assert_string_equal(got, expected);
}

static void last_ones_stay(void **state)
{
    (void)state;
    const int64_t created[] = {1, 2, 3, 4, 5};
    check(created, (struct vd_keep_policy){.last = 2}, "---kk");
    check(created, (struct vd_keep_policy){.last = 5}, "kkkkk");
    check(created, (struct vd_keep_policy){.last = UINT32_MAX}, "kkkkk");
    check(created, (struct vd_keep_policy){.last = 0, .daily = 1}, "----k");
    check(created, (struct vd_keep_policy){.last = 1}, "k");
    check(created, (struct vd_keep_policy){.last = 1}, "");
}

static void days_are_those_of_utc(void **state)
{
    (void)state;
    const int64_t created[] = {
        at(2026, 11, 18, 12, 0), at(2026, 11, 20, 0, 0),   at(2026, 11, 20, 23, 59),
        at(2026, 11, 21, 0, 0),  at(2026, 11, 21, 23, 59), at(2026, 11, 22, 0, 1),
    };
    check(created, (struct vd_keep_policy){.daily = 1}, "-----k");
    check(created, (struct vd_keep_policy){.daily = 2}, "----kk");
    check(created, (struct vd_keep_policy){.daily = 3}, "--k-kk");
    check(created, (struct vd_keep_policy){.daily = 4}, "k-k-kk"); /* a day without one */
    check(created, (struct vd_keep_policy){.daily = 9}, "k-k-kk");
    check(created, (struct vd_keep_policy){.last = 2, .daily = 1}, "----kk");
}

static void weeks_begin_on_monday(void **state)
{
    (void)state;
    const int64_t created[] = {
        at(2026, 12, 27, 23, 59), /* a Sunday, */
        at(2026, 12, 28, 0, 0),   /* a Monday: the first of week 53, */
        at(2027, 1, 3, 23, 59),   /* of which this Sunday is the last; */
        at(2027, 1, 4, 0, 0),     /* week 1 of 2027 */
    };
    check(created, (struct vd_keep_policy){.weekly = 1}, "---k");
    check(created, (struct vd_keep_policy){.weekly = 2}, "--kk");
    check(created, (struct vd_keep_policy){.weekly = 3}, "k-kk");
}

static void clocks_may_be_wrong(void **state)
{
    (void)state;
    const int64_t created[] = {5 * DAY, 6 * DAY, 5 * DAY + 1, 2 * DAY, -1, 0};
    check(created, (struct vd_keep_policy){.daily = 2}, "----kk"); /* before 1970 is a day before */
    check(created, (struct vd_keep_policy){.daily = 4}, "--kkkk");
    check(created, (struct vd_keep_policy){.daily = 5}, "-kkkkk");
}

/* The year and the week of it, as the C library tells. */
static void week_name(int64_t seconds, char name[16])
{
    struct tm tm;
    time_t time = (time_t)seconds;
    assert_non_null(gmtime_r(&time, &tm));
    assert_true(strftime(name, 16, "%G-%V", &tm) > 0);
}

/* Each point that goes has a later one of its week, or enough later weeks are there. */
static void weeks_are_those_of_iso_8601(void **state)
{
    (void)state;
    struct vt_random random = {.state = seed};
    int64_t created[POINTS_MAX], now = at(1965, 1, 1, 0, 0);
    bool keep[POINTS_MAX];
    for (size_t i = 0; i < POINTS_MAX; i++)
        created[i] = now += 1 + (int64_t)vt_random_below(&random, 20 * (uint64_t)DAY);
    for (uint32_t weeks = 1; weeks < POINTS_MAX; weeks += 37) {
        struct vd_keep_policy policy = {.weekly = weeks};
        struct vdisk_error err = {0};
        assert_int_equal(vd_keep_choose(created, POINTS_MAX, &policy, keep, &err), 0);
        char last[16] = "", name[16];
        uint32_t seen = 0;
        for (size_t i = POINTS_MAX; i-- > 0;) {
            week_name(created[i], name);
            bool is_last_of_week = strcmp(name, last) != 0;
            seen += is_last_of_week;
            assert_int_equal(keep[i], is_last_of_week && seen <= weeks);
            memcpy(last, name, sizeof(last));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_ones_stay),
        cmocka_unit_test(days_are_those_of_utc),
        cmocka_unit_test(weeks_begin_on_monday),
        cmocka_unit_test(clocks_may_be_wrong),
        cmocka_unit_test(weeks_are_those_of_iso_8601),
    };
    const char *wanted = getenv("VDISK_TEST_SEED");
    seed = wanted ? strtoull(wanted, NULL, 0) : (uint64_t)time(NULL);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    printf("# seed %llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
