/* SPDX-License-Identifier: MIT */
/* A crew of threads for one piece of work. */
#include "util/workers.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <unistd.h>

#include "util/mem.h"
#include "util/mutex.h"

struct crew {
    vd_worker_fn fn;
    void *work;
    struct vd_mutex lock;
    struct vdisk_error first_error; /* under lock */
};

struct worker {
    struct crew *crew;
    pthread_t thread;
    unsigned index;
    bool started;
};

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;
    struct crew *crew = worker->crew;
    struct vdisk_error err = {0};

    int ret = crew->fn(crew->work, worker->index, &err);
    if (ret < 0) {
        vd_err_set(&err, -ret, "worker %u failed", worker->index);
        vd_mutex_lock(&crew->lock);
        vd_err_copy(&crew->first_error, &err);
        vd_mutex_unlock(&crew->lock);
    }
    return NULL;
}

int vd_workers_run(unsigned count, vd_worker_fn fn, void *work, struct vdisk_error *err)
{
    struct crew crew = {.fn = fn, .work = work};
    CLEANUP_FREE struct worker *workers = vd_alloc_array(count, sizeof(*workers));
    if (!workers)
        return vd_err_nomem(err, "the worker threads");

    vd_mutex_init(&crew.lock);
    for (unsigned i = 0; i < count; i++)
        workers[i] = (struct worker){.crew = &crew, .index = i};
    for (unsigned i = 1; i < count; i++)
        workers[i].started =
            pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0;
    worker_main(&workers[0]);
    for (unsigned i = 1; i < count; i++)
        if (workers[i].started)
            pthread_join(workers[i].thread, NULL);
    vd_mutex_destroy(&crew.lock);

    return crew.first_error.code ? vd_err_copy(err, &crew.first_error) : 0;
}

unsigned vd_workers_cpus(void)
{
    cpu_set_t set;
    long count;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        count = CPU_COUNT(&set);
    else
        count = sysconf(_SC_NPROCESSORS_ONLN); /* more of them than a cpu_set_t holds */
    return count > 0 ? (unsigned)count : 1;
}
