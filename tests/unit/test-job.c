/* SPDX-License-Identifier: MIT */
/* job/job: progress, cancelling, turns, the rate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <time.h>

#include "job/job.h"
#include "util/workers.h"

#define THREADS 4u
#define PIECES  20000u

/* What the progress function saw. */
struct witness {
    atomic_int inside; /* threads in the function now */
    int calls;
    int cancel_at; /* call that answers "cancel", 0: none */
    bool overlapped;
    bool went_down;
    struct vdisk_progress last;
};

static int note(void *opaque, const struct vdisk_progress *progress)
{
    struct witness *seen = opaque;
    if (atomic_fetch_add(&seen->inside, 1) != 0)
        seen->overlapped = true;
    if (seen->calls && progress->done_bytes < seen->last.done_bytes)
        seen->went_down = true;
    seen->last = *progress;
    seen->calls++;
    atomic_fetch_sub(&seen->inside, 1);
    return seen->calls == seen->cancel_at;
}

struct work {
    struct vd_job job;
    atomic_uint_least64_t cursor;
    uint64_t order[PIECES]; /* pieces in the order of their turns */
    uint64_t turns;         /* under the turn itself */
};

static int take_turns(void *opaque, unsigned index, struct vdisk_error *err)
{
    (void)index;
    struct work *work = opaque;
    for (;;) {
        uint64_t piece = atomic_fetch_add(&work->cursor, 1);
        if (piece >= PIECES)
            return 0;
        int ret = vd_job_turn_wait(&work->job, piece, err);
        if (ret < 0)
            return ret;
        work->order[work->turns++] = piece;
        vd_job_turn_done(&work->job);
        ret = vd_job_advance(&work->job, (struct vd_job_step){.done_bytes = 10}, err);
        if (ret < 0)
            return ret;
    }
}

static void turns_come_in_order_and_progress_is_whole(void **state)
{
    (void)state;
    static struct work work;
    struct witness seen = {0};
    struct vdisk_error err = {0};
    vd_job_init(&work.job, note, &seen, 0);
    assert_int_equal(vd_job_phase(&work.job, "test", PIECES * 10ull, 0, &err), 0);
    assert_int_equal(seen.calls, 1);
    assert_int_equal(seen.last.done_bytes, 0);

    assert_int_equal(vd_workers_run(THREADS, take_turns, &work, &err), 0);
    assert_int_equal(vd_job_finish(&work.job, &err), 0);
    for (uint64_t i = 0; i < PIECES; i++)
        assert_int_equal(work.order[i], i);
    assert_false(seen.overlapped);
    assert_false(seen.went_down);
    assert_int_equal(seen.last.done_bytes, PIECES * 10ull);
    assert_string_equal(seen.last.phase, "test");
    vd_job_destroy(&work.job);
}

static int advance_forever(void *opaque, unsigned index, struct vdisk_error *err)
{
    struct vd_job *job = opaque;
    /* Worker 0 waits for a turn that never comes, until the cancelling wakes it. */
    if (index == 0)
        return vd_job_turn_wait(job, 12345, err);
    int ret = 0;
    while (ret == 0) {
        struct timespec nap = {.tv_nsec = 1000000};
        nanosleep(&nap, NULL);
        ret = vd_job_advance(job, (struct vd_job_step){.done_bytes = 1}, err);
    }
    return ret;
}

static void canceling_ends_every_worker(void **state)
{
    (void)state;
    struct vd_job job;
    struct witness seen = {.cancel_at = 2};
    struct vdisk_error err = {0};
    vd_job_init(&job, note, &seen, 0);
    assert_int_equal(vd_job_phase(&job, "test", UINT64_MAX, 0, &err), 0);
    assert_int_equal(vd_workers_run(3, advance_forever, &job, &err), -ECANCELED);
    assert_int_equal(err.code, ECANCELED);
    assert_true(vd_job_is_canceled(&job));
    assert_int_equal(seen.calls, 2);
    assert_int_equal(vd_job_finish(&job, NULL), -ECANCELED);
    assert_int_equal(seen.calls, 2); /* nothing is told to who has cancelled */
    vd_job_destroy(&job);
}

static void canceling_at_the_first_report(void **state)
{
    (void)state;
    struct vd_job job;
    struct witness seen = {.cancel_at = 1};
    vd_job_init(&job, note, &seen, 0);
    assert_int_equal(vd_job_phase(&job, "test", 1, 0, NULL), -ECANCELED);
    assert_true(vd_job_is_stopped(&job));
    vd_job_destroy(&job);
}

static void a_stop_is_not_a_cancel(void **state)
{
    (void)state;
    struct vd_job job;
    vd_job_init(&job, NULL, NULL, 0);
    assert_int_equal(vd_job_phase(&job, "test", 1, 0, NULL), 0);
    vd_job_stop(&job);
    assert_false(vd_job_is_canceled(&job));
    assert_int_equal(vd_job_advance(&job, (struct vd_job_step){0}, NULL), -ECANCELED);
    assert_int_equal(vd_job_turn_wait(&job, 1, NULL), -ECANCELED);
    vd_job_destroy(&job);
}

static void the_first_failure_is_everybodys(void **state)
{
    (void)state;
    struct vd_job job;
    struct vdisk_error first = {.code = EIO, .message = "the first"};
    struct vdisk_error second = {.code = ENOSPC, .message = "the second"};
    struct vdisk_error err = {0};
    vd_job_init(&job, NULL, NULL, 1);
    assert_int_equal(vd_job_fail(&job, &first), -EIO);
    assert_int_equal(vd_job_fail(&job, &second), -ENOSPC);
    assert_int_equal(vd_job_advance(&job, (struct vd_job_step){0}, &err), -EIO);
    assert_string_equal(err.message, "the first");
    assert_int_equal(vd_job_throttle(&job, 1000000, NULL), 0);
    assert_int_equal(vd_job_throttle(&job, 1000000, NULL), -EIO);
    assert_false(vd_job_is_canceled(&job));
    vd_job_destroy(&job);
}

static void reports_are_few(void **state)
{
    (void)state;
    struct vd_job job;
    struct witness seen = {0};
    vd_job_init(&job, note, &seen, 0);
    assert_int_equal(vd_job_phase(&job, "test", 1000000, 0, NULL), 0);
    time_t start = time(NULL);
    for (int i = 0; i < 1000000; i++)
        assert_int_equal(vd_job_advance(&job, (struct vd_job_step){.done_bytes = 1}, NULL), 0);
    /* However slow the machine is: no more than ten for each second that began. */
    assert_in_range(seen.calls, 1, 1 + 10 * (time(NULL) - start + 2));
    vd_job_destroy(&job);
}

static void the_rate_is_kept(void **state)
{
    (void)state;
    struct vd_job job;
    struct timespec start, end;
    vd_job_init(&job, NULL, NULL, 1000000);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < 5; i++)
        assert_int_equal(vd_job_throttle(&job, 20000, NULL), 0);
    clock_gettime(CLOCK_MONOTONIC, &end);
    int64_t ns = (end.tv_sec - start.tv_sec) * 1000000000ll + end.tv_nsec - start.tv_nsec;
    /* The first is free to go at once, the next four wait for 20 ms each. */
    assert_true(ns >= 80000000);
    vd_job_destroy(&job);
}

static void worker_counts(void **state)
{
    (void)state;
    assert_int_equal(vd_job_workers(1), 1);
    assert_int_equal(vd_job_workers(16), 16);
    assert_int_equal(vd_job_workers(1000000), VD_JOB_WORKERS_MAX);
    assert_in_range(vd_job_workers(0), 2, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_come_in_order_and_progress_is_whole),
        cmocka_unit_test(canceling_ends_every_worker),
        cmocka_unit_test(canceling_at_the_first_report),
        cmocka_unit_test(a_stop_is_not_a_cancel),
        cmocka_unit_test(the_first_failure_is_everybodys),
        cmocka_unit_test(reports_are_few),
        cmocka_unit_test(the_rate_is_kept),
        cmocka_unit_test(worker_counts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
