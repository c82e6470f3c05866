/* SPDX-License-Identifier: MIT */
/* Locks that clang's thread-safety analysis understands.  Lock order: docs/locking.md. */
#ifndef VD_UTIL_MUTEX_H
#define VD_UTIL_MUTEX_H

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#ifdef __clang__
#define VD_TSA(attribute) __attribute__((attribute))
#else
#define VD_TSA(attribute)
#endif

#define VD_REQUIRES(lock) VD_TSA(exclusive_locks_required(lock))
#define VD_EXCLUDES(lock) VD_TSA(locks_excluded(lock))
#define VD_ACQUIRES(lock) VD_TSA(exclusive_lock_function(lock))
#define VD_RELEASES(lock) VD_TSA(unlock_function(lock))
#define VD_NO_ANALYSIS    VD_TSA(no_thread_safety_analysis)

struct VD_TSA(capability("mutex")) vd_mutex {
    pthread_mutex_t native;
};

struct vd_cond {
    pthread_cond_t native;
};

static inline void vd_mutex_init(struct vd_mutex *mutex)
{
    /* With default attributes neither can fail on Linux; an assert keeps that honest elsewhere. */
    int ret = pthread_mutex_init(&mutex->native, NULL);
    assert(ret == 0);
    (void)ret;
}

static inline void vd_mutex_destroy(struct vd_mutex *mutex)
{
    pthread_mutex_destroy(&mutex->native);
}

static inline void vd_mutex_lock(struct vd_mutex *mutex) VD_ACQUIRES(*mutex) VD_NO_ANALYSIS
{
    int ret = pthread_mutex_lock(&mutex->native);
    assert(ret == 0);
    (void)ret;
}

static inline void vd_mutex_unlock(struct vd_mutex *mutex) VD_RELEASES(*mutex) VD_NO_ANALYSIS
{
    int ret = pthread_mutex_unlock(&mutex->native);
    assert(ret == 0);
    (void)ret;
}

static inline void vd_cond_init(struct vd_cond *cond)
{
    pthread_condattr_t attributes;
    int ret = pthread_condattr_init(&attributes);
    assert(ret == 0);
    ret = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    assert(ret == 0);
    ret = pthread_cond_init(&cond->native, &attributes);
    assert(ret == 0);
    (void)ret;
    pthread_condattr_destroy(&attributes);
}

static inline void vd_cond_destroy(struct vd_cond *cond)
{
    pthread_cond_destroy(&cond->native);
}

static inline void vd_cond_wait(struct vd_cond *cond, struct vd_mutex *mutex) VD_REQUIRES(*mutex)
{
    pthread_cond_wait(&cond->native, &mutex->native);
}

/* Wakes at least one of those who wait. */
static inline void vd_cond_signal(struct vd_cond *cond)
{
    pthread_cond_signal(&cond->native);
}

static inline void vd_cond_broadcast(struct vd_cond *cond)
{
    pthread_cond_broadcast(&cond->native);
}

/* As vd_cond_wait(), until @deadline at most, in milliseconds of CLOCK_MONOTONIC.  false: it has
 * passed. */
static inline bool vd_cond_wait_until(struct vd_cond *cond, struct vd_mutex *mutex,
                                      uint64_t deadline) VD_REQUIRES(*mutex)
{
    struct timespec until = {.tv_sec = (time_t)(deadline / 1000),
                             .tv_nsec = (long)(deadline % 1000) * 1000000};
    return pthread_cond_timedwait(&cond->native, &mutex->native, &until) == 0;
}

#endif
