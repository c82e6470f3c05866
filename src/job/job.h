/* SPDX-License-Identifier: MIT */
/*
 * What all long work shares: progress and cancelling, a stop flag for the workers, turns in the
 * order of the pieces, and a limit on the rate.
 *
 * J1  The caller's progress function runs in one thread at a time, at most about ten times a
 *     second, and in any case first at the start of a phase and last by vd_job_finish().
 * J2  What it is told never goes down within a phase.
 * J3  After vd_job_fail() or vd_job_stop(), or when the caller canceled, vd_job_advance() and the
 *     waits return at once, with the first failure if there is one and else -ECANCELED, so that
 *     every worker comes to its end and reports what really went wrong.
 */
#ifndef VD_JOB_JOB_H
#define VD_JOB_JOB_H

#include <stdatomic.h>

#include "util/err.h"
#include "util/mutex.h"

struct vd_job {
    vdisk_progress_fn progress; /* or NULL */
    void *opaque;
    uint64_t rate_bytes; /* most bytes a second, 0: no limit */

    atomic_bool stopped;
    atomic_uint_least64_t done_bytes;
    atomic_uint_least64_t moved_bytes;
    atomic_uint_least64_t done_blocks;
    atomic_uint_least64_t next_report_ns; /* monotonic time from which a report is due */

    struct vd_mutex lock;
    struct vd_cond turned;
    /* Under lock: */
    struct vdisk_progress told; /* last report; its totals are those of the phase */
    bool canceled;              /* by the caller's function, not by a worker's failure */
    struct vdisk_error failure; /* the first one */
    uint64_t turn;              /* piece whose turn it is */
    uint64_t rate_free_ns;      /* monotonic time at which the bytes so far are paid for */
};

/* @progress may be NULL; @rate_bytes: 0 for no limit.  Goes to vd_job_destroy(). */
void vd_job_init(struct vd_job *job, vdisk_progress_fn progress, void *opaque, uint64_t rate_bytes);
void vd_job_destroy(struct vd_job *job);

/*
 * Begins a phase and reports it; counters start at 0.  @phase: a constant word.  No worker runs.
 * Returns 0 or -ECANCELED.
 */
int vd_job_phase(struct vd_job *job, const char *phase, uint64_t total_bytes, uint64_t total_blocks,
                 struct vdisk_error *err);

/* What a worker has got done since it last said so. */
struct vd_job_step {
    uint64_t done_bytes;
    uint64_t moved_bytes;
    uint64_t done_blocks;
};

/* Counts @step, and reports if that is due.  Returns 0 or as J3; any thread. */
int vd_job_advance(struct vd_job *job, struct vd_job_step step, struct vdisk_error *err);

/* The last report of the work, when all is well and durable.  Returns 0 or -ECANCELED. */
int vd_job_finish(struct vd_job *job, struct vdisk_error *err);

/* Makes all workers stop because one of them failed with @err.  Returns -err->code. */
int vd_job_fail(struct vd_job *job, const struct vdisk_error *err);

/* Makes all workers stop: the answer is known. */
void vd_job_stop(struct vd_job *job);
bool vd_job_is_stopped(struct vd_job *job);

/* Was it the caller who stopped it? */
bool vd_job_is_canceled(struct vd_job *job);

/* Waits until @bytes more are within the rate.  Returns 0 or as J3. */
int vd_job_throttle(struct vd_job *job, uint64_t bytes, struct vdisk_error *err);

/*
 * Turns: piece 0 has the first, and each vd_job_turn_done() passes it on to the next.  A worker
 * waits holding no lock that the pieces before its own need.  Returns 0 or as J3.
 */
int vd_job_turn_wait(struct vd_job *job, uint64_t piece, struct vdisk_error *err);
void vd_job_turn_done(struct vd_job *job);

/* The worker threads to start when the caller asked for @wanted, 0 being the default. */
unsigned vd_job_workers(unsigned wanted);

#define VD_JOB_WORKERS_MAX 64u

#endif
