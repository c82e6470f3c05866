/* SPDX-License-Identifier: MIT */
/* util/pool: everything is done once, side by side, in order, before the pool is gone. */
#include "drivers/check.h"

#include <signal.h>
#include <stdatomic.h>

#include "util/mem.h"
#include "util/mutex.h"
#include "util/pool.h"

#define JOBS 20000u

struct log {
    struct vd_mutex lock;
    struct vd_cond changed;
    unsigned order[JOBS]; /* under lock */
    unsigned done;        /* under lock */
    unsigned inside;      /* under lock: of meet() */
};

struct job {
    struct vd_work work;
    struct log *log;
    unsigned index;
    unsigned party; /* of meet() */
    atomic_uint runs;
    bool sees_signals;
};

static void log_init(struct log *log)
{
    *log = (struct log){.done = 0};
    vd_mutex_init(&log->lock);
    vd_cond_init(&log->changed);
}

static void log_destroy(struct log *log)
{
    vd_mutex_destroy(&log->lock);
    vd_cond_destroy(&log->changed);
}

static void note(struct vd_work *work)
{
    struct job *job = (struct job *)work; /* its first field */
    atomic_fetch_add(&job->runs, 1);
    vd_mutex_lock(&job->log->lock);
    job->log->order[job->log->done++] = job->index;
    vd_mutex_unlock(&job->log->lock);
}

/* Ends when as many are in it as belong to the party. */
static void meet(struct vd_work *work)
{
    struct job *job = (struct job *)work;
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    job->sees_signals = !sigismember(&blocked, SIGTERM) || !sigismember(&blocked, SIGUSR1);
    atomic_fetch_add(&job->runs, 1);
    vd_mutex_lock(&job->log->lock);
    job->log->inside++;
    while (job->log->inside < job->party)
        vd_cond_wait(&job->log->changed, &job->log->lock);
    vd_cond_broadcast(&job->log->changed);
    vd_mutex_unlock(&job->log->lock);
}

static struct job *make_jobs(struct log *log, unsigned count, void (*run)(struct vd_work *))
{
    struct job *jobs = vd_alloc_array(count, sizeof(*jobs));
    assert_non_null(jobs);
    for (unsigned i = 0; i < count; i++) {
        jobs[i].work.run = run;
        jobs[i].log = log;
        jobs[i].index = i;
        jobs[i].party = count;
    }
    return jobs;
}

static void test_all_once(void **state)
{
    (void)state;
    static const unsigned threads[] = {1, 2, 7, 32};
    for (size_t t = 0; t < sizeof(threads) / sizeof(threads[0]); t++) {
        static struct log log;
        struct vd_pool *pool;
        log_init(&log);
        CLEANUP_FREE struct job *jobs = make_jobs(&log, JOBS, note);
        VT_OK(vd_pool_create(threads[t], &pool, &vt_err));
        for (unsigned i = 0; i < JOBS; i++)
            vd_pool_submit(pool, &jobs[i].work);
        vd_pool_free(pool); /* when all of it is done */
        assert_int_equal(log.done, JOBS);
        for (unsigned i = 0; i < JOBS; i++)
            assert_int_equal(atomic_load(&jobs[i].runs), 1);
        for (unsigned i = 0; i < JOBS && threads[t] == 1; i++)
            assert_int_equal(log.order[i], i); /* U1 */
        log_destroy(&log);
    }
}

/* Nobody waits for a thread as long as there may be one more; none of them takes signals. */
static void test_side_by_side(void **state)
{
    (void)state;
    static struct log log;
    for (unsigned threads = 1; threads <= 32; threads *= 2) {
        struct vd_pool *pool;
        log_init(&log);
        CLEANUP_FREE struct job *jobs = make_jobs(&log, threads, meet);
        VT_OK(vd_pool_create(threads, &pool, &vt_err));
        for (unsigned i = 0; i < threads; i++)
            vd_pool_submit(pool, &jobs[i].work);
        vd_pool_free(pool);
        for (unsigned i = 0; i < threads; i++) {
            assert_int_equal(atomic_load(&jobs[i].runs), 1);
            assert_false(jobs[i].sees_signals);
        }
        log_destroy(&log);
    }
}

struct submitter {
    struct vd_pool *pool;
    struct job *jobs;
    unsigned count;
};

static void *submit_all(void *opaque)
{
    const struct submitter *submitter = opaque;
    for (unsigned i = 0; i < submitter->count; i++)
        vd_pool_submit(submitter->pool, &submitter->jobs[i].work);
    return NULL;
}

static void test_many_submit(void **state)
{
    (void)state;
    static struct log log;
    enum {
        THREADS = 4
    };
    pthread_t threads[THREADS];
    struct submitter submitters[THREADS];
    struct vd_pool *pool;
    log_init(&log);
    CLEANUP_FREE struct job *jobs = make_jobs(&log, JOBS, note);
    VT_OK(vd_pool_create(3, &pool, &vt_err));
    for (unsigned i = 0; i < THREADS; i++) {
        unsigned share = JOBS / THREADS;
        submitters[i] = (struct submitter){.pool = pool, .jobs = jobs + i * share, .count = share};
        assert_int_equal(pthread_create(&threads[i], NULL, submit_all, &submitters[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    vd_pool_free(pool);
    for (unsigned i = 0; i < JOBS; i++)
        assert_int_equal(atomic_load(&jobs[i].runs), 1);
    log_destroy(&log);
}

static void test_unused(void **state)
{
    (void)state;
    struct vd_pool *pool;
    VT_OK(vd_pool_create(8, &pool, &vt_err));
    vd_pool_free(pool);
    vd_pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_once),
        cmocka_unit_test(test_side_by_side),
        cmocka_unit_test(test_many_submit),
        cmocka_unit_test(test_unused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
