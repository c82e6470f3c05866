/* SPDX-License-Identifier: MIT */
/* The work of `vdisk bench`: threads that draw the numbers of requests. */
#include "cli/bench.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "util/err.h"
#include "util/mem.h"
#include "util/mutex.h"
#include "util/workers.h"

struct run {
    const struct vd_bench *bench;
    atomic_bool has_failed;
    atomic_uint_fast64_t next; /* number of the request that is drawn next */
    atomic_uint_fast64_t flushes;

    /* Only if flushes drain: who draws and who is under way has to be known at once. */
    struct vd_mutex lock;
    struct vd_cond changed;
    uint64_t under_way; /* requests; under lock */
    bool is_flushing;   /* under lock           */
};

/* Well mixed bits of @value (the finalizer of SplitMix64). */
static uint64_t mixed(uint64_t value)
{
    value += 0x9e3779b97f4a7c15;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
}

uint64_t vd_bench_offset(const struct vd_bench *bench, uint64_t number)
{
    uint64_t last = bench->size - bench->buffer_bytes;
    if (bench->is_random) {
        uint64_t places = (last - bench->offset) / bench->step_bytes + 1;
        return bench->offset + mixed(mixed(bench->seed) + number) % places * bench->step_bytes;
    }
    /* Below 2^62 + 2^63.  A request that would reach past the end is moved back to end there. */
    uint64_t offset = (bench->offset + number * bench->step_bytes) % bench->size;
    return offset < last ? offset : last;
}

static int flush(struct run *run, struct vdisk_error *err)
{
    atomic_fetch_add(&run->flushes, 1);
    return vdisk_image_flush(run->bench->image, err);
}

static bool wants_flush(const struct vd_bench *bench, uint64_t number)
{
    return bench->flush_interval && number && (bench->count - number) % bench->flush_interval == 0;
}

/* Returns 1 with the number of a request to make, 0: there are no more. */
static int draw(struct run *run, uint64_t *number, struct vdisk_error *err)
{
    if (atomic_load(&run->has_failed))
        return 0;
    *number = atomic_fetch_add(&run->next, 1);
    if (*number >= run->bench->count)
        return 0;
    int ret = wants_flush(run->bench, *number) ? flush(run, err) : 0;
    return ret < 0 ? ret : 1;
}

/* As draw(), with nothing under way while a flush runs. */
static int draw_drained(struct run *run, uint64_t *number, struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&run->lock);
    while (run->is_flushing)
        vd_cond_wait(&run->changed, &run->lock);
    if (!atomic_load(&run->has_failed) && atomic_load(&run->next) < run->bench->count) {
        *number = atomic_fetch_add(&run->next, 1);
        ret = 1;
    }
    if (ret == 1 && wants_flush(run->bench, *number)) {
        run->is_flushing = true;
        while (run->under_way)
            vd_cond_wait(&run->changed, &run->lock);
        vd_mutex_unlock(&run->lock);
        int flushed = flush(run, err);
        vd_mutex_lock(&run->lock);
        run->is_flushing = false;
        vd_cond_broadcast(&run->changed);
        ret = flushed < 0 ? flushed : 1;
    }
    run->under_way += ret == 1;
    vd_mutex_unlock(&run->lock);
    return ret;
}

static void finish_drained(struct run *run)
{
    vd_mutex_lock(&run->lock);
    run->under_way--;
    if (run->under_way == 0)
        vd_cond_broadcast(&run->changed);
    vd_mutex_unlock(&run->lock);
}

static int request(const struct vd_bench *bench, void *buffer, uint64_t number,
                   struct vdisk_error *err)
{
    uint64_t offset = vd_bench_offset(bench, number);
    if (bench->is_write)
        return vdisk_image_pwrite(bench->image, buffer, bench->buffer_bytes, offset, err);
    return vdisk_image_pread(bench->image, buffer, bench->buffer_bytes, offset, err);
}

static int make_requests(struct run *run, void *buffer, struct vdisk_error *err)
{
    const struct vd_bench *bench = run->bench;
    bool drains = bench->drains && bench->flush_interval;
    uint64_t number;
    int ret;
    while ((ret = drains ? draw_drained(run, &number, err) : draw(run, &number, err)) == 1) {
        ret = request(bench, buffer, number, err);
        if (drains)
            finish_drained(run);
        if (ret < 0)
            break;
    }
    return ret;
}

static int work(void *opaque, unsigned index, struct vdisk_error *err)
{
    struct run *run = opaque;
    CLEANUP_FREE void *buffer = vd_alloc_io(run->bench->buffer_bytes);
    (void)index;
    int ret;
    if (buffer) {
        memset(buffer, run->bench->pattern, run->bench->buffer_bytes);
        ret = make_requests(run, buffer, err);
    } else
        ret = vd_err_nomem(err, "the buffer of a thread: ask for less with -s or -d");
    if (ret < 0)
        atomic_store(&run->has_failed, true);
    return ret;
}

int vd_bench_run(const struct vd_bench *bench, struct vd_bench_result *result,
                 struct vdisk_error *err)
{
    struct run run = {.bench = bench};
    struct timespec start, end;
    vd_mutex_init(&run.lock);
    vd_cond_init(&run.changed);
    clock_gettime(CLOCK_MONOTONIC, &start);
    int ret = vd_workers_run(bench->depth, work, &run, err);
    clock_gettime(CLOCK_MONOTONIC, &end);
    vd_cond_destroy(&run.changed);
    vd_mutex_destroy(&run.lock);
    result->seconds =
        (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    result->flushes = atomic_load(&run.flushes);
    return ret;
}
