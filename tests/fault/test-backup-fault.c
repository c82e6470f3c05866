/* SPDX-License-Identifier: MIT */
/*
 * Backups in which one allocation or call of the system fails, again and again on the same disk and
 * repository: each ends with a point that is whole, or with an error; whichever it is, the points
 * that there were stay what they were, and the next backup makes a point without a fault.
 *
 *   test-backup-fault FORMAT
 *
 * VD_FAULT_CASES: calls that fail, of each kind of fault; default 12; 0: every one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "contract/backup-disk.h"
#include "inject.h"

#define CASES       12u
#define CHAIN_MAX   6u
#define HISTORY_MAX 40u

static const char *format = "qcow2";
static unsigned cases = CASES;

static uint32_t draw_kind(const struct vb *vb)
{
    bool has_record = strcmp(format, "raw") != 0 && strcmp(format, "qed") != 0;
    if (vb->point_entries % CHAIN_MAX == 0)
        return VDISK_BACKUP_FULL;
    return (vb->point_entries % 3 == 0 ? VDISK_BACKUP_DIFFERENTIAL : VDISK_BACKUP_INCREMENTAL) |
           (has_record ? 0 : VDISK_BACKUP_COMPARE);
}

/* Whatever it was that failed, this does not. */
static void without_fault(struct vb *vb, uint32_t flags)
{
    struct vdisk_backup_options options = vb_options(vb, flags);
    struct vdisk_backup_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    options.workers = 1;
    int ret = vb_run(vb, &options, &result, &err);
    /* What records in the image could not be written: then that is told, and comparing helps. */
    if (ret == -EUCLEAN || ret == -ENOTSUP) {
        vdisk_error_clear(&err);
        options.flags = flags & VDISK_BACKUP_FULL ? flags : flags | VDISK_BACKUP_COMPARE;
        ret = vb_run(vb, &options, &result, &err);
    }
    if (ret < 0)
        fail_msg("after a fault at %s: %d: %s", vt_inject_where(), ret, err.message);
    vb_record(vb, result.point);
}

static void check_counts(struct vb *vb, int ret)
{
    size_t count = vb_count(vb);
    if (count == vb->point_entries + 1) {
        /* All was written down, and has been finished since: or the fault made no difference. */
        uint64_t last = vb->point_entries ? vb->points[vb->point_entries - 1].number : 0;
        vb_record(vb, last + 1);
        return;
    }
    if (ret == 0 || count != vb->point_entries)
        fail_msg("%zu points after %d, and %u before; a fault at %s", count, ret, vb->point_entries,
                 vt_inject_where());
}

/* The calls that a backup like the next one makes.  It is made with the last of them failing, so
 * without a fault, but for what the count differs by. */
static uint64_t one_case(struct vb *vb, enum vt_fault_class fault, uint64_t nth)
{
    struct vdisk_error err = {0};
    vb_session(vb, 3);
    uint32_t flags = draw_kind(vb);
    struct vdisk_backup_options options = vb_options(vb, flags);
    options.workers = 1;
    vt_inject_start(fault, nth);
    int ret = vb_run(vb, &options, NULL, &err);
    uint64_t seen = vt_inject_stop();
    if (ret != -err.code || (ret < 0 && !err.message[0]))
        fail_msg("%s %" PRIu64 ", at %s: returned %d, told %d: %s", vt_fault_class_name(fault), nth,
                 vt_inject_where(), ret, err.code, err.message);
    check_counts(vb, ret);
    if (ret < 0) {
        vb_session(vb, 1);
        without_fault(vb, draw_kind(vb));
    }
    vb_verify(vb);
    return seen;
}

static void begin(struct vb *vb, uint64_t seed)
{
    vb_init(vb, format, 20 * 65536 + 512, seed);
    vb_session(vb, 6);
}

static void one_class(enum vt_fault_class fault)
{
    struct vb vb;
    begin(&vb, fault);
    uint64_t calls = one_case(&vb, fault, 0);
    uint64_t step = cases && calls > cases ? calls / cases : 1;
    for (uint64_t nth = 1; nth <= calls; nth += step) {
        if (vb.point_entries > HISTORY_MAX) {
            vb_destroy(&vb);
            begin(&vb, fault + nth);
        }
        one_case(&vb, fault, nth);
    }
    print_message("# %s: %" PRIu64 " calls\n", vt_fault_class_name(fault), calls);
    vb_destroy(&vb);
}

static void memory_runs_out(void **state)
{
    (void)state;
    one_class(VT_FAULT_ALLOC);
}

static void calls_fail(void **state)
{
    (void)state;
    one_class(VT_FAULT_IO);
}

static void the_disk_is_full(void **state)
{
    (void)state;
    one_class(VT_FAULT_SPACE);
}

static void calls_do_less(void **state)
{
    (void)state;
    one_class(VT_FAULT_SHORT);
    one_class(VT_FAULT_INTR);
}

int main(int argc, char **argv)
{
    const char *text = getenv("VD_FAULT_CASES");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(calls_fail),
        cmocka_unit_test(the_disk_is_full),
        cmocka_unit_test(calls_do_less),
    };
    if (argc > 1)
        format = argv[1];
    if (text)
        cases = (unsigned)strtoul(text, NULL, 0);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("backup-fault", tests, NULL, NULL);
}
