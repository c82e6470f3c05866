/* SPDX-License-Identifier: MIT */
/* Progress, cancelling, turns and the rate of long work. */
#include "job/job.h"

#include <assert.h>
#include <time.h>

#include "util/clock.h"
#include "util/range.h"
#include "util/workers.h"

#define NS_PER_SECOND      1000000000ull
#define REPORT_INTERVAL_NS (NS_PER_SECOND / 10)
#define SLEEP_MAX_NS       (NS_PER_SECOND / 20) /* so that a stop is noticed soon */
#define WORKERS_DEFAULT    8u

void vd_job_init(struct vd_job *job, vdisk_progress_fn progress, void *opaque, uint64_t rate_bytes)
{
    *job = (struct vd_job){.progress = progress, .opaque = opaque, .rate_bytes = rate_bytes};
    atomic_init(&job->stopped, false);
    atomic_init(&job->done_bytes, 0);
    atomic_init(&job->moved_bytes, 0);
    atomic_init(&job->done_blocks, 0);
    atomic_init(&job->next_report_ns, 0);
    vd_mutex_init(&job->lock);
    vd_cond_init(&job->turned);
}

void vd_job_destroy(struct vd_job *job)
{
    vd_cond_destroy(&job->turned);
    vd_mutex_destroy(&job->lock);
}

/* J3 */
static int stopped(struct vd_job *job, struct vdisk_error *err)
{
    vd_mutex_lock(&job->lock);
    struct vdisk_error failure = job->failure;
    vd_mutex_unlock(&job->lock);
    return failure.code ? vd_err_copy(err, &failure) : vd_err_set(err, ECANCELED, "canceled");
}

/* J1, J2.  Returns false if the caller cancels. */
static bool report_locked(struct vd_job *job) VD_REQUIRES(job->lock)
{
    struct vdisk_progress *told = &job->told;
    told->done_bytes =
        vd_min(vd_max(told->done_bytes, atomic_load(&job->done_bytes)), told->total_bytes);
    told->done_blocks =
        vd_min(vd_max(told->done_blocks, atomic_load(&job->done_blocks)), told->total_blocks);
    told->moved_bytes = vd_max(told->moved_bytes, atomic_load(&job->moved_bytes));
    atomic_store(&job->next_report_ns, vd_clock_ns() + REPORT_INTERVAL_NS);
    if (job->progress(job->opaque, told) == 0)
        return true;
    job->canceled = true;
    return false;
}

static int report(struct vd_job *job, struct vdisk_error *err)
{
    if (!job->progress)
        return 0;
    vd_mutex_lock(&job->lock);
    bool goes_on = !job->canceled && report_locked(job);
    vd_mutex_unlock(&job->lock);
    if (goes_on)
        return 0;
    vd_job_stop(job);
    return stopped(job, err);
}

int vd_job_phase(struct vd_job *job, const char *phase, uint64_t total_bytes, uint64_t total_blocks,
                 struct vdisk_error *err)
{
    vd_mutex_lock(&job->lock);
    job->told = (struct vdisk_progress){
        .phase = phase, .total_bytes = total_bytes, .total_blocks = total_blocks};
    job->turn = 0;
    vd_mutex_unlock(&job->lock);
    atomic_store(&job->done_bytes, 0);
    atomic_store(&job->moved_bytes, 0);
    atomic_store(&job->done_blocks, 0);
    return report(job, err);
}

int vd_job_advance(struct vd_job *job, struct vd_job_step step, struct vdisk_error *err)
{
    atomic_fetch_add(&job->done_bytes, step.done_bytes);
    atomic_fetch_add(&job->moved_bytes, step.moved_bytes);
    atomic_fetch_add(&job->done_blocks, step.done_blocks);
    if (vd_job_is_stopped(job))
        return stopped(job, err);
    if (!job->progress)
        return 0;

    /* One worker wins the right to report; the others do not wait for the caller's function. */
    uint64_t now = vd_clock_ns();
    uint64_t due = atomic_load(&job->next_report_ns);
    if (now < due ||
        !atomic_compare_exchange_strong(&job->next_report_ns, &due, now + REPORT_INTERVAL_NS))
        return 0;
    return report(job, err);
}

int vd_job_finish(struct vd_job *job, struct vdisk_error *err)
{
    return report(job, err);
}

int vd_job_fail(struct vd_job *job, const struct vdisk_error *err)
{
    assert(err->code);
    vd_mutex_lock(&job->lock);
    vd_err_copy(&job->failure, err);
    vd_mutex_unlock(&job->lock);
    vd_job_stop(job);
    return -err->code;
}

void vd_job_stop(struct vd_job *job)
{
    vd_mutex_lock(&job->lock);
    atomic_store(&job->stopped, true);
    vd_cond_broadcast(&job->turned);
    vd_mutex_unlock(&job->lock);
}

bool vd_job_is_stopped(struct vd_job *job)
{
    return atomic_load(&job->stopped);
}

bool vd_job_is_canceled(struct vd_job *job)
{
    vd_mutex_lock(&job->lock);
    bool answer = job->canceled;
    vd_mutex_unlock(&job->lock);
    return answer;
}

/* Nanoseconds that @bytes take at @rate bytes a second, without overflow for any value. */
static uint64_t bytes_to_ns(uint64_t bytes, uint64_t rate)
{
    uint64_t seconds = bytes / rate;
    if (seconds > UINT32_MAX)
        seconds = UINT32_MAX;
    return seconds * NS_PER_SECOND +
           (uint64_t)((double)(bytes % rate) * (double)NS_PER_SECOND / (double)rate);
}

int vd_job_throttle(struct vd_job *job, uint64_t bytes, struct vdisk_error *err)
{
    if (!job->rate_bytes)
        return 0;
    uint64_t now = vd_clock_ns();
    vd_mutex_lock(&job->lock);
    uint64_t wait_until = job->rate_free_ns;
    job->rate_free_ns = vd_max(job->rate_free_ns, now) + bytes_to_ns(bytes, job->rate_bytes);
    vd_mutex_unlock(&job->lock);

    for (; now < wait_until; now = vd_clock_ns()) {
        uint64_t nap = vd_min(wait_until - now, SLEEP_MAX_NS);
        struct timespec time = {.tv_nsec = (long)nap};
        nanosleep(&time, NULL);
        int ret = vd_job_advance(job, (struct vd_job_step){0}, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int vd_job_turn_wait(struct vd_job *job, uint64_t piece, struct vdisk_error *err)
{
    vd_mutex_lock(&job->lock);
    while (job->turn != piece && !atomic_load(&job->stopped))
        vd_cond_wait(&job->turned, &job->lock);
    bool mine = job->turn == piece;
    vd_mutex_unlock(&job->lock);
    return mine ? 0 : stopped(job, err);
}

void vd_job_turn_done(struct vd_job *job)
{
    vd_mutex_lock(&job->lock);
    job->turn++;
    vd_cond_broadcast(&job->turned);
    vd_mutex_unlock(&job->lock);
}

unsigned vd_job_workers(unsigned wanted)
{
    if (wanted)
        return (unsigned)vd_min(wanted, VD_JOB_WORKERS_MAX);
    return (unsigned)vd_min(WORKERS_DEFAULT, 2ull * vd_workers_cpus());
}
