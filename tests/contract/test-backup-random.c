/* SPDX-License-Identifier: MIT */
/*
 * Random changes of a disk and backups of random kinds, some of them canceled and gone on with:
 * every point has to hold for ever what the disk held when it was made.
 *
 *   test-backup-random FORMAT
 *
 * VD_BACKUP_POINTS: points to be made, default 12.  VD_TEST_SEED: the seed, default random; it is
 * printed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "backup-disk.h"

#define POINTS 12u

static const char *format = "qcow2";
static uint64_t seed;
static unsigned points = POINTS;

/* Cancels at a report that is drawn in advance. */
struct end {
    unsigned reports;
};

static int count_down(void *opaque, const struct vdisk_progress *progress)
{
    struct end *end = opaque;
    (void)progress;
    return end->reports-- == 0;
}

static uint32_t draw_kind(struct vb *vb)
{
    uint64_t draw = vt_random_below(&vb->random, 100);
    bool compares = strcmp(format, "raw") == 0 || strcmp(format, "qed") == 0 ||
                    vt_random_chance(&vb->random, 10);
    uint32_t flags = compares && vb->point_entries ? VDISK_BACKUP_COMPARE : 0;
    if (!vb->point_entries)
        return 0;
    if (draw < 10)
        return VDISK_BACKUP_FULL;
    return flags | (draw < 25 ? VDISK_BACKUP_DIFFERENTIAL : VDISK_BACKUP_INCREMENTAL);
}

/* Perhaps it comes to nothing, some times; what is written meanwhile has to be in it as well. */
static void one_point(struct vb *vb)
{
    struct vdisk_backup_options options = vb_options(vb, draw_kind(vb));
    if (vt_random_chance(&vb->random, 20))
        options.flags |= VDISK_BACKUP_COMPRESS;
    if (vt_random_chance(&vb->random, 20) && !(options.flags & VDISK_BACKUP_COMPRESS))
        options.format = "qed";
    options.workers = 1 + (uint32_t)vt_random_below(&vb->random, 4);
    while (vt_random_chance(&vb->random, 30)) {
        struct end end = {.reports = (unsigned)vt_random_below(&vb->random, 4)};
        struct vdisk_backup_result result = {.struct_bytes = sizeof(result)};
        struct vdisk_error err = {0};
        options.progress = count_down;
        options.opaque = &end;
        int ret = vb_run(vb, &options, &result, &err);
        if (ret == 0) {
            vb_record(vb, result.point);
            return;
        }
        if (ret != -ECANCELED)
            fail_msg("%d: %s", ret, err.message);
        vb_session(vb, (unsigned)vt_random_below(&vb->random, 4));
    }
    options.progress = NULL;
    vb_backup_with(vb, &options);
}

static void random_backups(void **state)
{
    (void)state;
    struct vb vb;
    print_message("# %s, seed %" PRIu64 "\n", format, seed);
    vb_init(&vb, format, 3u << 20, seed);
    while (vb.point_entries < points) {
        vb_session(&vb, 1 + (unsigned)vt_random_below(&vb.random, 12));
        one_point(&vb);
        if (vt_random_chance(&vb.random, 10))
            vb_verify(&vb);
    }
    vb_verify(&vb);
    vb_destroy(&vb);
}

int main(int argc, char **argv)
{
    const char *text = getenv("VD_TEST_SEED"), *count = getenv("VD_BACKUP_POINTS");
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_backups)};
    if (argc > 1)
        format = argv[1];
    if (text)
        seed = strtoull(text, NULL, 0);
    else if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        return 1;
    if (count)
        points = (unsigned)strtoul(count, NULL, 0);
    if (points > VB_POINTS_MAX)
        points = VB_POINTS_MAX;
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("backup-random", tests, NULL, NULL);
}
