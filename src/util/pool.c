/* SPDX-License-Identifier: MIT */
/*
 * Threads that do what they are given.
 *
 * U1  What is submitted is begun in the order in which it came.
 * U2  There is a thread that waits, or as many threads as there may be, or the system gave none.
 * U3  One thread is woken at a time; it wakes the next one if it finds more than it takes, so that
 *     little work does not wake many.
 * U4  Threads take no signals: those are for the program that the library is in.
 */
#include "util/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "util/mem.h"
#include "util/mutex.h"

struct vd_pool {
    struct vd_mutex lock;
    struct vd_cond changed;
    struct vd_work *first; /* under lock, as all that follows */
    struct vd_work *last;
    unsigned queued;
    unsigned waiting; /* threads that wait for work */
    unsigned started; /* entries of threads */
    bool is_waking;   /* one of those that wait was told, and has not looked yet */
    bool is_ending;
    unsigned threads_max;
    pthread_t threads[]; /* threads_max */
};

/* U3: is somebody to be told of what is in the queue? */
static bool must_wake(struct vd_pool *pool) VD_REQUIRES(pool->lock)
{
    if (!pool->first || pool->is_waking || !pool->waiting)
        return false;
    pool->is_waking = true;
    return true;
}

static struct vd_work *take(struct vd_pool *pool) VD_REQUIRES(pool->lock)
{
    struct vd_work *work = pool->first;
    pool->first = work->next;
    pool->queued--;
    return work;
}

static void *pool_main(void *opaque)
{
    struct vd_pool *pool = opaque;
    vd_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->first && !pool->is_ending) {
            pool->waiting++;
            vd_cond_wait(&pool->changed, &pool->lock);
            pool->waiting--;
            pool->is_waking = false;
        }
        if (!pool->first)
            break;
        struct vd_work *work = take(pool);
        bool is_more = must_wake(pool);
        vd_mutex_unlock(&pool->lock);
        if (is_more)
            vd_cond_signal(&pool->changed);
        work->run(work);
        vd_mutex_lock(&pool->lock);
    }
    vd_mutex_unlock(&pool->lock);
    return NULL;
}

/* U4.  Returns 0 or a positive errno. */
static int start_thread(struct vd_pool *pool) VD_REQUIRES(pool->lock)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&pool->threads[pool->started], NULL, pool_main, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code == 0)
        pool->started++;
    return code;
}

int vd_pool_create(unsigned threads, struct vd_pool **pool, struct vdisk_error *err)
{
    assert(threads > 0);
    struct vd_pool *made = calloc(1, sizeof(*made) + threads * sizeof(made->threads[0]));
    if (!made)
        return vd_err_nomem(err, "the worker threads");
    vd_mutex_init(&made->lock);
    vd_cond_init(&made->changed);
    made->threads_max = threads;
    vd_mutex_lock(&made->lock);
    int code = start_thread(made);
    vd_mutex_unlock(&made->lock);
    if (code) {
        vd_pool_free(made);
        return vd_err_errno(err, code, "can not start a worker thread");
    }
    *pool = made;
    return 0;
}

void vd_pool_submit(struct vd_pool *pool, struct vd_work *work)
{
    work->next = NULL;
    vd_mutex_lock(&pool->lock);
    assert(!pool->is_ending);
    if (pool->first)
        pool->last->next = work;
    else
        pool->first = work;
    pool->last = work;
    pool->queued++;
    bool is_awaited = must_wake(pool);
    /* U2: those that wait count for what is in the queue. */
    if (pool->queued > pool->waiting && pool->started < pool->threads_max)
        (void)start_thread(pool);
    vd_mutex_unlock(&pool->lock);
    if (is_awaited)
        vd_cond_signal(&pool->changed);
}

void vd_pool_free(struct vd_pool *pool)
{
    if (!pool)
        return;
    vd_mutex_lock(&pool->lock);
    pool->is_ending = true;
    vd_mutex_unlock(&pool->lock);
    vd_cond_broadcast(&pool->changed);
    for (unsigned i = 0; i < pool->started; i++)
        pthread_join(pool->threads[i], NULL);
    vd_cond_destroy(&pool->changed);
    vd_mutex_destroy(&pool->lock);
    free(pool);
}
