/* SPDX-License-Identifier: MIT */
/*
 * Fetching and applying.
 *
 * T1  Bytes of runs that were begun and are not committed yet are at most the window (or one run,
 *     if the window is smaller).  So that is the most that a kill costs.
 * T2  One worker at a time commits; the others go on fetching, as far as the window allows.
 * T3  A batch is committed when it is half a window, when it is old, or when no worker has
 *     anything else to do.
 */
#include "job/sync_transfer.h"

#include <stdlib.h>
#include <time.h>

#include "util/mem.h"
#include "util/workers.h"

#define BATCH_AGE_S 3

/* Changes that are written and wait to be committed. */
struct batch {
    struct vd_replica_change *changes;
    size_t count;
};

struct transfer {
    struct vd_source *source;
    struct vd_replica *replica;
    struct vd_storage *file; /* of the replica */
    const struct vd_delta *delta;
    const struct vd_transfer_options *options;
    struct vd_job *job;
    uint32_t run_blocks_max;

    struct vd_mutex lock; /* before: job->lock, replica->lock */
    struct vd_cond changed;
    /* Under lock: */
    uint32_t next_run;
    unsigned fetching;          /* workers that are busy with a run */
    uint64_t outstanding_bytes; /* T1 */
    bool is_committing;         /* T2 */
    bool is_stopped;
    time_t batch_start; /* when the first change came into the batch; monotonic seconds */
    struct batch batch; /* room for as many changes as there are blocks to fetch */
    struct batch spare; /* the other buffer: what is being committed */
};

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static uint64_t run_bytes(const struct vd_delta_run *run)
{
    return (uint64_t)run->count * VD_GOW_BLOCK_BYTES;
}

/* ---- one run ---- */

/* Writes the blocks of @run to their places in the replica, neighbours there together. */
static int write_run(struct transfer *t, const struct vd_delta_run *run, const uint8_t *data,
                     struct vd_replica_change *changes, struct vdisk_error *err)
{
    const struct vd_gow_layout *layout = &t->source->layout;
    for (uint32_t i = 0; i < run->count; i++) {
        uint32_t block = t->delta->fetch[run->first + i].block;
        changes[i] = (struct vd_replica_change){.block = block,
                                                .version = le32_get(t->delta->versions[block])};
        int ret = vd_replica_place(t->replica, block, &changes[i].host, err);
        if (ret < 0)
            return ret;
    }
    for (uint32_t i = 0; i < run->count;) {
        uint32_t first = i;
        for (i++; i < run->count && changes[i].host == changes[i - 1].host + 1; i++)
            ;
        struct vd_range range = vd_range(vd_gow_host_offset(layout, changes[first].host),
                                         (uint64_t)(i - first) * VD_GOW_BLOCK_BYTES);
        int ret = vd_storage_pwrite(t->file, data + (size_t)first * VD_GOW_BLOCK_BYTES,
                                    (size_t)range.length, range.offset, err);
        if (ret < 0)
            return ret;
        vd_storage_write_behind(t->file, range);
    }
    return 0;
}

static int verify_run(struct transfer *t, const struct vd_delta_run *run, const uint8_t *data,
                      struct vdisk_error *err)
{
    if (!t->options->sums)
        return 0;
    for (uint32_t i = 0; i < run->count; i++) {
        int ret = vd_sums_verify(t->options->sums, t->delta->fetch[run->first + i].block,
                                 data + (size_t)i * VD_GOW_BLOCK_BYTES, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int move_run(struct transfer *t, const struct vd_delta_run *run, uint8_t *data,
                    struct vd_replica_change *changes, struct vdisk_error *err)
{
    uint64_t length = run_bytes(run);
    uint64_t offset = vd_gow_host_offset(&t->source->layout, t->delta->fetch[run->first].host);
    int ret = vd_job_throttle(t->job, length, err);
    if (ret == 0)
        ret = vd_source_read(t->source, data, (size_t)length, offset, err);
    if (ret == 0)
        ret = verify_run(t, run, data, err);
    if (ret == 0)
        ret = write_run(t, run, data, changes, err);
    return ret;
}

/* ---- committing ---- */

static int commit_locked(struct transfer *t, struct vdisk_error *err) VD_REQUIRES(t->lock)
{
    struct batch batch = t->batch;
    t->batch = t->spare;
    t->spare = batch;
    t->is_committing = true;
    vd_mutex_unlock(&t->lock);

    int ret = vd_replica_commit(t->replica, batch.changes, batch.count, err);
    uint64_t bytes = (uint64_t)batch.count * VD_GOW_BLOCK_BYTES;
    if (ret == 0)
        ret = vd_job_advance(
            t->job, (struct vd_job_step){.done_bytes = bytes, .done_blocks = batch.count}, err);

    vd_mutex_lock(&t->lock);
    t->spare.count = 0;
    t->is_committing = false;
    t->outstanding_bytes -= bytes;
    vd_cond_broadcast(&t->changed);
    return ret;
}

/* T1 */
static bool can_fetch_locked(const struct transfer *t) VD_REQUIRES(t->lock)
{
    if (t->next_run == t->delta->run_count)
        return false;
    uint64_t length = run_bytes(&t->delta->runs[t->next_run]);
    return t->outstanding_bytes == 0 || t->outstanding_bytes + length <= t->options->window_bytes;
}

/* T3 */
static bool is_commit_due_locked(const struct transfer *t) VD_REQUIRES(t->lock)
{
    if (t->is_committing || t->batch.count == 0)
        return false;
    return (uint64_t)t->batch.count * VD_GOW_BLOCK_BYTES >= t->options->window_bytes / 2 ||
           now_s() - t->batch_start >= BATCH_AGE_S || (!can_fetch_locked(t) && t->fetching == 0);
}

/* ---- workers ---- */

static int fetch_next_locked(struct transfer *t, uint8_t *data, struct vd_replica_change *changes,
                             struct vdisk_error *err) VD_REQUIRES(t->lock)
{
    const struct vd_delta_run *run = &t->delta->runs[t->next_run++];
    t->outstanding_bytes += run_bytes(run);
    t->fetching++;
    vd_mutex_unlock(&t->lock);

    int ret = move_run(t, run, data, changes, err);
    int canceled =
        vd_job_advance(t->job, (struct vd_job_step){.moved_bytes = ret == 0 ? run_bytes(run) : 0},
                       ret == 0 ? err : NULL);

    vd_mutex_lock(&t->lock);
    t->fetching--;
    if (ret == 0) {
        if (t->batch.count == 0)
            t->batch_start = now_s();
        memcpy(t->batch.changes + t->batch.count, changes, run->count * sizeof(*changes));
        t->batch.count += run->count;
    }
    vd_cond_broadcast(&t->changed);
    return ret < 0 ? ret : canceled;
}

static int work(void *opaque, unsigned index, struct vdisk_error *err)
{
    struct transfer *t = opaque;
    (void)index;
    CLEANUP_FREE uint8_t *data = vd_alloc_io((size_t)t->run_blocks_max * VD_GOW_BLOCK_BYTES);
    CLEANUP_FREE struct vd_replica_change *changes =
        vd_alloc_array(t->run_blocks_max, sizeof(*changes));
    int ret = data && changes ? 0 : vd_err_nomem(err, "a run of blocks");

    vd_mutex_lock(&t->lock);
    while (ret == 0 && !t->is_stopped) {
        if (is_commit_due_locked(t))
            ret = commit_locked(t, err);
        else if (can_fetch_locked(t))
            ret = fetch_next_locked(t, data, changes, err);
        else if (t->next_run < t->delta->run_count || t->fetching || t->is_committing ||
                 t->batch.count)
            vd_cond_wait(&t->changed, &t->lock);
        else
            break;
    }
    if (ret < 0) {
        t->is_stopped = true;
        vd_cond_broadcast(&t->changed);
    }
    vd_mutex_unlock(&t->lock);
    return ret;
}

static int allocate(struct transfer *t, struct vdisk_error *err)
{
    uint32_t fetch_count = t->delta->fetch_count;
    for (uint32_t i = 0; i < t->delta->run_count; i++)
        t->run_blocks_max = (uint32_t)vd_max(t->run_blocks_max, t->delta->runs[i].count);
    /* T1 bounds a batch, and so does the number of blocks. */
    size_t limit = (size_t)(t->options->window_bytes / VD_GOW_BLOCK_BYTES) + t->run_blocks_max;
    size_t room = (size_t)vd_min(fetch_count, limit);
    t->batch.changes = vd_alloc_array(room, sizeof(*t->batch.changes));
    t->spare.changes = vd_alloc_array(room, sizeof(*t->spare.changes));
    return t->batch.changes && t->spare.changes ? 0 : vd_err_nomem(err, "the batches of a sync");
}

/* The changes that need no data: one commit. */
static int commit_bare(struct transfer *t, struct vdisk_error *err)
{
    int ret = vd_replica_commit(t->replica, t->delta->bare, t->delta->bare_count, err);
    return ret < 0 ? ret
                   : vd_job_advance(t->job,
                                    (struct vd_job_step){.done_blocks = t->delta->bare_count}, err);
}

int vd_transfer_run(struct vd_source *source, struct vd_replica *replica, struct vd_storage *file,
                    const struct vd_delta *delta, const struct vd_transfer_options *options,
                    struct vd_job *job, struct vdisk_error *err)
{
    struct transfer t = {.source = source,
                         .replica = replica,
                         .file = file,
                         .delta = delta,
                         .options = options,
                         .job = job};
    vd_mutex_init(&t.lock);
    vd_cond_init(&t.changed);
    int ret = vd_job_phase(job, "sync", vd_delta_fetch_bytes(delta),
                           (uint64_t)delta->fetch_count + delta->bare_count, err);
    if (ret == 0)
        ret = allocate(&t, err);
    if (ret == 0)
        ret = commit_bare(&t, err);
    if (ret == 0) {
        unsigned workers = (unsigned)vd_min(options->workers, vd_max(delta->run_count, 1));
        ret = vd_workers_run(workers, work, &t, err);
        /* What has come in whole is kept, whatever went wrong; the first failure is the answer. */
        if (ret < 0)
            (void)vd_replica_commit(replica, t.batch.changes, t.batch.count, NULL);
    }
    free(t.batch.changes);
    free(t.spare.changes);
    vd_cond_destroy(&t.changed);
    vd_mutex_destroy(&t.lock);
    return ret;
}
