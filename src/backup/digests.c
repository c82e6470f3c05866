/* SPDX-License-Identifier: MIT */
/* Digests of whole files, made and compared by several threads. */
#include "backup/digests.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/mem.h"
#include "util/range.h"
#include "util/workers.h"

#define EXTENT_BYTES_MIN    (UINT32_C(1) << 20)
#define EXTENT_ENTRIES_WISH 65536u
#define PIECE_BYTES         (UINT32_C(1) << 20) /* read at once */

uint32_t vd_digests_extent_bytes(uint64_t file_bytes)
{
    uint32_t bytes = EXTENT_BYTES_MIN;
    while (bytes < VD_DIGEST_EXTENT_BYTES_MAX && file_bytes / bytes >= EXTENT_ENTRIES_WISH)
        bytes *= 2;
    return bytes;
}

/* All extents of a file, drawn one by one by the workers. */
struct pass {
    struct vd_storage *file;
    const struct vd_digest_table *table;
    struct vd_job *job;
    uint64_t readable_bytes; /* of the file: up to here the table knows of it */
    atomic_uint_least64_t next;

    /* NULL: digests go to the table. */
    vd_digests_damage_fn damaged;
    void *opaque;
    struct vd_mutex lock; /* one call at a time */
};

static struct vd_range extent_range(const struct vd_digest_table *table, uint64_t index)
{
    uint64_t offset = index * table->extent_bytes;
    return vd_range(offset, vd_min(table->extent_bytes, table->file_bytes - offset));
}

static void tell(struct pass *pass, struct vd_range range, const char *why)
{
    vd_mutex_lock(&pass->lock);
    pass->damaged(pass->opaque, range, why);
    vd_mutex_unlock(&pass->lock);
}

/* Tells the job of @bytes that are done. */
static int account(struct pass *pass, uint64_t bytes, struct vdisk_error *err)
{
    int ret = vd_job_throttle(pass->job, bytes, err);
    struct vd_job_step step = {.done_bytes = bytes, .moved_bytes = bytes};
    return ret < 0 ? ret : vd_job_advance(pass->job, step, err);
}

/* @unread: what is left of the range if it is the file that failed, and not the job; else 0. */
static int digest_range(struct pass *pass, struct vd_range range, uint8_t *buffer, uint8_t *digest,
                        uint64_t *unread, struct vdisk_error *err)
{
    struct vd_digest_run run;
    *unread = 0;
    int ret = vd_digest_begin(&run, pass->table->kind, err);
    if (ret < 0)
        return ret;
    for (uint64_t done = 0; ret == 0 && done < range.length;) {
        size_t length = (size_t)vd_min(PIECE_BYTES, range.length - done);
        ret = vd_storage_pread(pass->file, buffer, length, range.offset + done, err);
        if (ret < 0 && ret != -ENOMEM)
            *unread = range.length - done;
        if (ret == 0)
            ret = vd_digest_add(&run, buffer, length, err);
        if (ret == 0)
            ret = account(pass, length, err);
        done += length;
    }
    if (ret == 0)
        vd_digest_end(&run, digest);
    else
        vd_digest_cancel(&run);
    return ret;
}

static int compare_extent(struct pass *pass, uint64_t index, uint8_t *buffer,
                          struct vdisk_error *err)
{
    struct vd_range range = extent_range(pass->table, index);
    struct vdisk_error failure = {0};
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    uint64_t unread;
    if (vd_range_end(range) > pass->readable_bytes)
        return account(pass, range.length, err); /* told of already: it is not all there */
    int ret = digest_range(pass, range, buffer, digest, &unread, &failure);
    if (ret < 0 && !unread)
        return vd_err_copy(err, &failure);
    if (ret < 0) {
        tell(pass, range, failure.message);
        return account(pass, unread, err);
    }
    if (memcmp(digest, vd_digest_at(pass->table, index), vd_digest_bytes(pass->table->kind)) != 0)
        tell(pass, range, "its digest is another one: it is not what was written");
    return 0;
}

static int digest_extents(void *opaque, unsigned index, struct vdisk_error *err)
{
    struct pass *pass = opaque;
    (void)index;
    CLEANUP_FREE uint8_t *buffer = vd_alloc_io(PIECE_BYTES);
    int ret = buffer ? 0 : vd_err_nomem(err, "digests");
    while (ret == 0) {
        uint64_t extent = atomic_fetch_add(&pass->next, 1);
        uint64_t unread;
        if (extent >= pass->table->entries)
            break;
        if (pass->damaged)
            ret = compare_extent(pass, extent, buffer, err);
        else
            ret = digest_range(pass, extent_range(pass->table, extent), buffer,
                               vd_digest_at(pass->table, extent), &unread, err);
    }
    if (ret < 0)
        atomic_store(&pass->next, pass->table->entries);
    return ret;
}

static int run(struct pass *pass, unsigned workers, struct vdisk_error *err)
{
    uint64_t useful = vd_max(1, vd_min(pass->table->entries, vd_job_workers(workers)));
    atomic_init(&pass->next, 0);
    vd_mutex_init(&pass->lock);
    int ret = vd_workers_run((unsigned)useful, digest_extents, pass, err);
    vd_mutex_destroy(&pass->lock);
    return ret;
}

int vd_digests_make(struct vd_storage *file, struct vd_digest_table *table, struct vd_job *job,
                    unsigned workers, struct vdisk_error *err)
{
    uint64_t size;
    int ret = vd_storage_size(file, &size, err);
    if (ret < 0)
        return ret;
    if (size != table->file_bytes)
        return vd_err_set(
            err, EBUSY, "%s: its length is %" PRIu64 " and was %" PRIu64 ": somebody writes to it",
            vd_storage_name(file), size, table->file_bytes);
    struct pass pass = {.file = file, .table = table, .job = job, .readable_bytes = size};
    return run(&pass, workers, err);
}

/* What of the file the table does not know of, or the other way round. */
static void compare_length(struct pass *pass, uint64_t size)
{
    uint64_t wanted = pass->table->file_bytes;
    char why[128];
    if (size < wanted) {
        uint64_t start = vd_round_down(size, pass->table->extent_bytes);
        snprintf(why, sizeof(why), "the file ends at byte %" PRIu64 ": %" PRIu64 " are missing",
                 size, wanted - size);
        tell(pass, vd_range(start, wanted - start), why);
    } else if (size > wanted) {
        snprintf(why, sizeof(why), "%" PRIu64 " bytes more than were written", size - wanted);
        tell(pass, vd_range(wanted, size - wanted), why);
    }
}

int vd_digests_compare(struct vd_storage *file, const struct vd_digest_table *table,
                       struct vd_job *job, unsigned workers, vd_digests_damage_fn damaged,
                       void *opaque, struct vdisk_error *err)
{
    struct pass pass = {
        .file = file, .table = table, .job = job, .damaged = damaged, .opaque = opaque};
    uint64_t size;
    int ret = vd_storage_size(file, &size, err);
    if (ret < 0)
        return ret;
    pass.readable_bytes = vd_min(size, table->file_bytes);
    vd_mutex_init(&pass.lock);
    compare_length(&pass, size);
    vd_mutex_destroy(&pass.lock);
    return run(&pass, workers, err);
}
