/* SPDX-License-Identifier: MIT */
/* util/workers: all run, once each; errors come back. */
#include "drivers/check.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "util/workers.h"

#define WORKERS 8u

struct crew_log {
    atomic_uint runs[WORKERS];
    atomic_uint items;
    unsigned failing; /* index that fails */
};

static int count_run(void *work, unsigned index, struct vdisk_error *err)
{
    (void)err;
    struct crew_log *log = work;
    atomic_fetch_add(&log->runs[index], 1);
    while (atomic_fetch_add(&log->items, 1) < 10000)
        ;
    return 0;
}

static int fail_one(void *work, unsigned index, struct vdisk_error *err)
{
    const struct crew_log *log = work;
    return index == log->failing ? vd_err_set(err, ENOSPC, "worker %u is full", index) : 0;
}

static int fail_silently(void *work, unsigned index, struct vdisk_error *err)
{
    (void)work;
    (void)index;
    (void)err;
    return -EIO;
}

static void test_each_runs_once(void **state)
{
    (void)state;
    for (unsigned count = 1; count <= WORKERS; count++) {
        struct crew_log log = {.items = 0};
        VT_OK(vd_workers_run(count, count_run, &log, &vt_err));
        for (unsigned i = 0; i < WORKERS; i++)
            assert_int_equal(atomic_load(&log.runs[i]), i < count);
        assert_int_equal(atomic_load(&log.items), 10000 + count);
    }
}

static void test_error_of_any(void **state)
{
    (void)state;
    for (unsigned failing = 0; failing < WORKERS; failing++) {
        struct crew_log log = {.failing = failing};
        struct vdisk_error err = {0};
        char wanted[64];
        snprintf(wanted, sizeof(wanted), "worker %u is full", failing);
        assert_int_equal(vd_workers_run(WORKERS, fail_one, &log, &err), -ENOSPC);
        assert_int_equal(err.code, ENOSPC);
        assert_string_equal(err.message, wanted);
        assert_int_equal(vd_workers_run(WORKERS, fail_one, &log, NULL), -ENOSPC);
    }
}

/* A worker that forgot the story is a failure all the same. */
static void test_error_without_story(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    assert_int_equal(vd_workers_run(3, fail_silently, NULL, &err), -EIO);
    assert_int_equal(err.code, EIO);
    assert_true(err.message[0] != '\0');
}

static void test_cpus(void **state)
{
    (void)state;
    assert_in_range(vd_workers_cpus(), 1, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_runs_once),
        cmocka_unit_test(test_error_of_any),
        cmocka_unit_test(test_error_without_story),
        cmocka_unit_test(test_cpus),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("workers", tests, NULL, NULL);
}
