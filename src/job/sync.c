/* SPDX-License-Identifier: MIT */
/*
 * vdisk_sync() and vdisk_delta(): which replica may be synced to which master, and the attempts.
 *
 * Y1  Nothing of the replica changes before the list of changes is complete and acceptable.
 * Y2  A replica becomes complete only if the master is still in the state that the list is of.
 * Y3  A master that changes meanwhile starts a new attempt.  What has been applied stays: the
 *     versions tell what it is, and the newer master has the same or newer ones.
 */
#include <inttypes.h>
#include <sys/stat.h>
#include <time.h>

#include "format/driver.h"
#include "job/sync_sums.h"
#include "job/sync_transfer.h"
#include "storage/new_file.h"
#include "util/clock.h"

#define ATTEMPTS_MAX         10u
#define WORKERS_DEFAULT      4u
#define RUN_BYTES_DEFAULT    (1u << 20)
#define RUN_BYTES_MAX        (64u << 20)
#define WINDOW_BYTES_DEFAULT (16u << 20)
#define POLL_NS              200000000
#define SYNC_FLAGS_ALL       (uint32_t)(VDISK_SYNC_FORCE | VDISK_SYNC_VERIFY)

struct sync {
    const struct vdisk_sync_options *options;
    struct vdisk_sync_result *result;
    bool is_delta; /* change nothing */
    struct vd_source source;
    struct vd_storage *file;     /* the replica's; NULL: not there (yet) */
    struct vd_replica *replica;  /* on file */
    struct vd_new_file new_file; /* holds file until it is a replica */
    struct vd_traffic planned;   /* of a delta: what the sync would add */
};

/* ---- options ---- */

static int check_options(const struct vdisk_sync_options *options,
                         const struct vdisk_sync_result *result, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "sync options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL, "sync result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    if (options->flags & ~SYNC_FLAGS_ALL)
        return vd_err_set(err, EINVAL, "sync options: unknown flags 0x%" PRIx32,
                          options->flags & ~SYNC_FLAGS_ALL);
    if (!options->source || !options->replica)
        return vd_err_set(err, EINVAL, "sync options: a source and a replica are needed");
    if (!vd_storage_name_is_local(options->replica))
        return vd_err_set(err, EROFS, "%s: a replica is a local file", options->replica);
    if (!vd_is_aligned(options->run_bytes, VD_GOW_BLOCK_BYTES) ||
        options->run_bytes > RUN_BYTES_MAX)
        return vd_err_set(err, EINVAL,
                          "sync options: run_bytes is %" PRIu32
                          ": must be a multiple of %u and at most %u",
                          options->run_bytes, VD_GOW_BLOCK_BYTES, RUN_BYTES_MAX);
    if ((options->sums || options->sums_key) && !(options->flags & VDISK_SYNC_VERIFY))
        return vd_err_set(err, EINVAL,
                          "sync options: sums and their key are for VDISK_SYNC_VERIFY only");
    return 0;
}

static int check_not_same(const struct vdisk_sync_options *options, struct vdisk_error *err)
{
    struct stat source, replica;
    if (vd_storage_name_is_local(options->source) && stat(options->source, &source) == 0 &&
        stat(options->replica, &replica) == 0 && source.st_dev == replica.st_dev &&
        source.st_ino == replica.st_ino)
        return vd_err_set(err, EINVAL, "%s and %s are the same file", options->source,
                          options->replica);
    return 0;
}

static uint32_t run_blocks(const struct vdisk_sync_options *options)
{
    return (options->run_bytes ? options->run_bytes : RUN_BYTES_DEFAULT) / VD_GOW_BLOCK_BYTES;
}

/* ---- the source ---- */

/* Opens the source; as long as it is busy, waits for as long as the caller wants to. */
static int open_source(struct sync *sync, struct vd_job *job, struct vdisk_error *err)
{
    uint64_t start = vd_clock_ms();
    bool has_waited = false;
    for (;;) {
        struct vdisk_error inner = {0};
        bool can_wait = false;
        int ret = vd_source_open(&sync->source, &can_wait, &inner);
        if (ret == 0)
            return 0;
        if (ret != -EBUSY || !can_wait || vd_clock_ms() - start >= sync->options->wait_ms)
            return vd_err_copy(err, &inner);

        ret = has_waited ? vd_job_advance(job, (struct vd_job_step){0}, err)
                         : vd_job_phase(job, "wait", 0, 0, err);
        if (ret < 0)
            return ret;
        has_waited = true;
        struct timespec nap = {.tv_nsec = POLL_NS};
        nanosleep(&nap, NULL);
    }
}

static void report_source(struct sync *sync)
{
    struct vdisk_sync_result *result = sync->result;
    struct vd_traffic traffic = vd_source_traffic(&sync->source);
    result->requests = traffic.requests + sync->planned.requests;
    result->fetched_bytes = traffic.bytes + sync->planned.bytes;
    if (!sync->source.storage)
        return;
    result->size = sync->source.header.size;
    result->generation = sync->source.header.generation;
    memcpy(result->uuid, sync->source.header.uuid, sizeof(result->uuid));
    result->total_blocks = vd_source_block_count(&sync->source);
    result->source_bytes = sync->source.file_bytes;
}

/* ---- the replica ---- */

/* Is it an image that a sync may write to?  Whatever else is there is never overwritten. */
static int check_target(struct vd_storage *file, struct vdisk_error *err)
{
    uint8_t head[VD_GOW_HEADER_BYTES];
    uint64_t size;
    int ret = vd_storage_size(file, &size, err);
    if (ret == 0 && size >= sizeof(head))
        ret = vd_storage_pread(file, head, sizeof(head), 0, err);
    if (ret < 0)
        return ret;
    if (size >= sizeof(head) && vd_gow_header_is_here(head, sizeof(head), 3))
        return 0;
    return vd_err_set(err, EEXIST,
                      "%s: is there, and is no GOW v3 image: a sync does not overwrite it; remove "
                      "it, or choose another name",
                      vd_storage_name(file));
}

/* Opens the replica if it is there. */
static int open_replica(struct sync *sync, struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = sync->is_delta ? 0 : VD_STORAGE_WRITE};
    struct vdisk_error inner = {0};
    int ret = vd_storage_open(sync->options->replica, &options, &sync->file, &inner);
    if (ret == -ENOENT)
        return 0;
    if (ret < 0)
        return vd_err_copy(err, &inner);
    ret = check_target(sync->file, err);
    if (ret == 0)
        ret = vd_replica_open(sync->file, &sync->replica, err);
    if (ret == 0 && (vd_replica_header(sync->replica)->flags & VD_GOW_FLAG_INCOMPLETE))
        sync->result->flags |= VDISK_SYNC_RESUMED;
    return ret;
}

/*
 * A new replica gets its name when it is marked incomplete: whatever interrupts that, nothing is
 * left behind that the next sync would refuse.
 */
static int create_file(struct sync *sync, struct vdisk_error *err)
{
    int ret = vd_new_file_open(&sync->new_file, sync->options->replica, err);
    if (ret < 0)
        return ret;
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    ret = vd_storage_open(vd_new_file_place(&sync->new_file), &options, &sync->file, err);
    if (ret < 0)
        return ret;
    struct vdisk_create_options create = {.struct_bytes = sizeof(create),
                                          .size = sync->source.header.size};
    const struct vd_format_driver *driver = vd_format_find("gow3", err);
    ret = driver ? vd_format_create(driver, sync->file, NULL, &create, err) : -EINVAL;
    return ret < 0 ? ret : vd_replica_open(sync->file, &sync->replica, err);
}

/* Gives the new file, an incomplete replica by now, its name; never over one that is there. */
static int name_new_replica(struct sync *sync, struct vdisk_error *err)
{
    int ret = vd_new_file_publish(&sync->new_file, true, err);
    if (ret == 0)
        sync->result->flags |= VDISK_SYNC_CREATED;
    return ret;
}

/* ---- which replica may be synced? ---- */

/* Why the replica is refused, or NULL.  Blocks that are ahead are found by vd_delta_make(). */
static const char *refusal(const struct vd_gow_header *replica, const struct vd_gow_header *master)
{
    if (replica->flags & VD_GOW_FLAG_DIRTY)
        return "it was opened for writing and not closed";
    if (memcmp(replica->uuid, master->uuid, sizeof(replica->uuid)) != 0)
        return "it was written to since its last sync, or belongs to another master (their UUIDs "
               "differ)";
    if (replica->generation > master->generation)
        return "it is ahead of its master (its generation is higher): was the master put back to "
               "an older state?";
    return NULL;
}

static bool is_unchanged(const struct vd_gow_header *replica, const struct vd_gow_header *master)
{
    return memcmp(replica->uuid, master->uuid, sizeof(replica->uuid)) == 0 &&
           replica->generation == master->generation && replica->size == master->size &&
           replica->flags == VD_GOW_FLAG_REPLICA;
}

/* Makes the list.  *forget: the replica's versions say nothing. */
static int make_delta(struct sync *sync, struct vd_job *job, struct vd_delta *delta, bool *forget,
                      struct vdisk_error *err)
{
    bool may_force = (sync->options->flags & VDISK_SYNC_FORCE) != 0;
    const char *reason =
        sync->replica ? refusal(vd_replica_header(sync->replica), &sync->source.header) : NULL;
    if (reason && !may_force)
        return vd_err_set(err, EPERM,
                          "%s: not synced from %s: %s.  --force makes it identical, and fetches "
                          "all data",
                          sync->options->replica, sync->source.name, reason);

    struct vd_delta_options options = {.run_blocks = run_blocks(sync->options),
                                       .forget = reason != NULL};
    struct vdisk_error inner = {0};
    int ret = vd_delta_make(&sync->source, sync->replica, &options, job, delta, &inner);
    if (ret == -EPERM && may_force) {
        options.forget = true;
        vdisk_error_clear(&inner);
        ret = vd_delta_make(&sync->source, sync->replica, &options, job, delta, &inner);
    }
    *forget = options.forget;
    if (ret == -EPERM)
        vd_err_prefix(&inner, ret, "%s: ", sync->options->replica);
    if (options.forget)
        sync->result->flags |= VDISK_SYNC_FORCED;
    return ret < 0 ? vd_err_copy(err, &inner) : 0;
}

/* ---- one attempt ---- */

static void report_delta(struct sync *sync, const struct vd_delta *delta)
{
    sync->result->changed_blocks +=
        (uint64_t)delta->fetch_count + delta->bare_count - delta->past_end_count;
    sync->result->fetched_blocks += delta->fetch_count;
    sync->result->runs += delta->run_count;
}

/* The list is there, and acceptable: Y1. */
static int apply(struct sync *sync, struct vd_job *job, const struct vd_delta *delta, bool forget,
                 const struct vd_sums *sums, struct vdisk_error *err)
{
    const struct vdisk_sync_options *options = sync->options;
    int ret = sync->replica ? 0 : create_file(sync, err);
    if (ret == 0)
        ret = vd_replica_begin(sync->replica, &sync->source.header, forget, err);
    if (ret == 0 && sync->new_file.part_name)
        ret = name_new_replica(sync, err);
    if (ret < 0)
        return ret;

    uint32_t connections = options->network ? options->network->connections : 0;
    struct vd_transfer_options transfer = {
        .window_bytes = options->window_bytes ? options->window_bytes : WINDOW_BYTES_DEFAULT,
        .workers = connections ? connections : WORKERS_DEFAULT,
        .sums = sums,
    };
    ret = vd_transfer_run(&sync->source, sync->replica, sync->file, delta, &transfer, job, err);
    if (ret == 0)
        ret = vd_source_recheck(&sync->source, err); /* Y2 */
    if (ret == 0)
        ret = vd_replica_finish(sync->replica, &sync->source.header, err);
    return ret;
}

static int attempt_with(struct sync *sync, struct vd_job *job, struct vdisk_error *err)
{
    int ret = open_source(sync, job, err);
    if (ret < 0)
        return ret;
    if (sync->replica && is_unchanged(vd_replica_header(sync->replica), &sync->source.header)) {
        sync->result->flags |= VDISK_SYNC_UNCHANGED;
        return vd_job_phase(job, "sync", 0, 0, err);
    }

    struct vd_delta delta;
    struct vd_sums sums = {0};
    bool forget = false;
    ret = make_delta(sync, job, &delta, &forget, err);
    if (ret < 0)
        return ret;
    report_delta(sync, &delta);
    if (sync->options->flags & VDISK_SYNC_VERIFY)
        ret = vd_sync_sums_load(&sync->source, &delta, sync->options->sums, sync->options->sums_key,
                                &sums, err);
    if (ret == 0 && !sync->is_delta)
        ret = apply(sync, job, &delta, forget,
                    sync->options->flags & VDISK_SYNC_VERIFY ? &sums : NULL, err);
    if (ret == 0 && sync->is_delta) {
        sync->planned = vd_source_recheck_cost(&sync->source);
        sync->planned.requests += delta.run_count;
        sync->planned.bytes += vd_delta_fetch_bytes(&delta);
    }
    if (ret == 0)
        ret = vd_job_finish(job, err);
    vd_sums_free(&sums);
    vd_delta_free(&delta);
    return ret;
}

static int attempt(struct sync *sync, struct vdisk_error *err)
{
    const struct vdisk_sync_options *options = sync->options;
    struct vd_job job;
    vd_job_init(&job, options->progress, options->opaque, options->rate_bytes);
    int ret = attempt_with(sync, &job, err);
    report_source(sync);
    vd_job_destroy(&job);
    return ret;
}

/* Y3 */
static int attempts(struct sync *sync, struct vdisk_error *err)
{
    for (;;) {
        struct vdisk_error inner = {0};
        int ret = attempt(sync, &inner);
        if (ret != -ESTALE)
            return ret < 0 ? vd_err_copy(err, &inner) : ret;
        if (++sync->result->restarts == ATTEMPTS_MAX)
            return vd_err_set(err, ESTALE,
                              "%s: the master was changed during each of %u attempts; what has "
                              "been fetched is kept: try again later",
                              sync->source.name, ATTEMPTS_MAX);
    }
}

static int run(const struct vdisk_sync_options *options, struct vdisk_sync_result *result,
               bool is_delta, struct vdisk_error *err)
{
    struct vdisk_sync_result unwanted = {.struct_bytes = sizeof(unwanted)};
    if (!result)
        result = &unwanted;
    int ret = check_options(options, result, err);
    if (ret == 0)
        ret = check_not_same(options, err);
    if (ret < 0)
        return ret;

    *result = (struct vdisk_sync_result){.struct_bytes = sizeof(*result)};
    struct sync sync = {.options = options, .result = result, .is_delta = is_delta};
    vd_source_init(&sync.source, options->source, options->network);
    ret = open_replica(&sync, err);
    if (ret == 0)
        ret = attempts(&sync, err);
    vd_source_close(&sync.source);
    vd_replica_close(sync.replica);
    vd_storage_close(sync.file);
    vd_new_file_abandon(&sync.new_file);
    return ret;
}

int vdisk_sync(const struct vdisk_sync_options *options, struct vdisk_sync_result *result,
               struct vdisk_error *err)
{
    return run(options, result, false, err);
}

int vdisk_delta(const struct vdisk_sync_options *options, struct vdisk_sync_result *result,
                struct vdisk_error *err)
{
    return run(options, result, true, err);
}
