/* SPDX-License-Identifier: MIT */
/*
 * Points that are restored while one allocation or call of the system fails: each time the disk is
 * there, whole, or an error is told and what was there before is.  A failure that is none of the
 * files is not told to be damage.
 *
 * VD_FAULT_CASES: calls that fail, of each kind of fault; default 150; 0: every one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract/backup-disk.h"
#include "inject.h"

#define CASES  150u
#define POINTS 4u

static unsigned cases = CASES;
static uint8_t bytes[VB_DISK_BYTES_MAX + 1];

static int restore(const struct vb *vb, const char *target, struct vdisk_error *err)
{
    struct vdisk_restore_options options = {
        .struct_bytes = sizeof(options), .workers = 1, .target = target, .target_format = "raw"};
    struct vdisk_repository *repository;
    size_t index;
    int ret = vdisk_repository_open(vb->repository, NULL, &repository, err);
    if (ret < 0)
        return ret;
    ret = vdisk_repository_find(repository, NULL, &index, err);
    if (ret == 0)
        ret = vdisk_repository_restore(repository, index, &options, NULL, err);
    vdisk_repository_close(repository);
    return ret;
}

/* Bytes of the file, in bytes[]; -1: there is none. */
static int64_t read_file(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (!file)
        return -1;
    size_t length = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    return (int64_t)length;
}

static void write_old(const char *name)
{
    FILE *file = fopen(name, "wb");
    assert_non_null(file);
    assert_true(fputs("old", file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void expect_outcome(const struct vb *vb, const char *target, int ret, bool has_old)
{
    const struct vb_content *wanted = &vb->points[vb->point_entries - 1].content;
    int64_t length = read_file(target);
    if (ret == 0) {
        assert_int_equal(length, wanted->size);
        assert_memory_equal(bytes, wanted->bytes, wanted->size);
    } else if (has_old) {
        assert_int_equal(length, 3);
        assert_memory_equal(bytes, "old", 3);
    } else {
        assert_int_equal(length, -1);
    }
}

/* After a rename it may be too late: what can not be made durable then is told, and is there. */
static bool is_published(const struct vb *vb, const char *target)
{
    struct stat st;
    return stat(target, &st) == 0 &&
           (uint64_t)st.st_size == vb->points[vb->point_entries - 1].content.size;
}

static uint64_t one_case(const struct vb *vb, enum vt_fault_class fault, uint64_t nth, bool has_old)
{
    const char *target = vb_path(vb, "restored");
    struct vdisk_error err = {0};
    unlink(target);
    if (has_old)
        write_old(target);
    vt_inject_start(fault, nth);
    int ret = restore(vb, target, &err);
    uint64_t seen = vt_inject_stop();
    bool may_fail = fault != VT_FAULT_SHORT;
    bool may_be_damage = fault == VT_FAULT_IO || fault == VT_FAULT_INTR;
    if (ret != -err.code || (ret < 0 && !err.message[0]) || (ret < 0 && !may_fail) ||
        (ret == -EBADMSG && !may_be_damage))
        fail_msg("%s %" PRIu64 ", at %s: returned %d, told %d: %s", vt_fault_class_name(fault), nth,
                 vt_inject_where(), ret, err.code, err.message);
    expect_outcome(vb, target, ret < 0 && is_published(vb, target) ? 0 : ret, has_old);
    return seen;
}

static void one_class(enum vt_fault_class fault)
{
    struct vb vb;
    vb_init(&vb, "qcow2", 20 * 65536 + 512, fault);
    for (unsigned i = 0; i < POINTS; i++) {
        vb_session(&vb, 5);
        vb_backup(&vb, i ? VDISK_BACKUP_INCREMENTAL : VDISK_BACKUP_FULL);
    }
    uint64_t calls = one_case(&vb, fault, 0, false);
    uint64_t step = cases && calls > cases ? calls / cases : 1;
    for (uint64_t nth = 1; nth <= calls; nth += step)
        one_case(&vb, fault, nth, nth / step % 2);
    print_message("# %s: %" PRIu64 " calls\n", vt_fault_class_name(fault), calls);
    vb_verify(&vb);
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

int main(void)
{
    const char *text = getenv("VD_FAULT_CASES");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(calls_fail),
        cmocka_unit_test(the_disk_is_full),
        cmocka_unit_test(calls_do_less),
    };
    if (text)
        cases = (unsigned)strtoul(text, NULL, 0);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("restore-fault", tests, NULL, NULL);
}
