/* SPDX-License-Identifier: MIT */
/* A crew of threads for one piece of work: started, run to the end, joined. */
#ifndef VD_UTIL_WORKERS_H
#define VD_UTIL_WORKERS_H

#include "util/err.h"

/*
 * What each thread runs: @index is 0 .. count-1.  It draws its share of the work from @work, and
 * returns 0, or a negative errno with @err set; a worker that fails should make the others stop.
 */
typedef int (*vd_worker_fn)(void *work, unsigned index, struct vdisk_error *err);

/*
 * Runs @fn in @count threads (at least 1; the caller's thread is one of them) and waits for all.
 * Fewer threads than asked, when the system gives no more, is not an error.
 * Returns 0, or the first error that any worker reported.
 */
int vd_workers_run(unsigned count, vd_worker_fn fn, void *work, struct vdisk_error *err);

/* The processors this process may use, at least 1. */
unsigned vd_workers_cpus(void);

#endif
