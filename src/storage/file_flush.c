/* SPDX-License-Identifier: MIT */
/*
 * Making a file durable.
 *
 * F1  The kernel reports a failed write-back once, to the first who waits for it, and may mark the
 *     pages clean: a second fdatasync() would succeed without the data.  So the first error stays,
 *     and every later flush returns it.
 * F2  Only one thread at a time waits for write-back.  Otherwise one could take the report, and
 *     another return 0 before the first has noted it.
 *     With O_DSYNC every write waits, so many threads do: there a write that fails with EIO counts
 *     as lost for all, since the report may have been about the pages of another thread.
 * F3  A flush counts for everything written before it began.  Who arrives while one is under way
 *     waits for the next, which serves all that wait: many flushes at once cost two.
 * F4  The name of a new file is durable only when its directory has been synced: the first flush
 *     does that, and no flush returns 0 before it is done.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "storage/file_priv.h"

/* Returns 0 or a positive errno. */
static int sync_data(const struct file *file)
{
    int ret;
    do
        ret = fdatasync(file->fd);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? errno : 0;
}

/* F4.  Returns 0 or a positive errno. */
static int sync_name(const struct file *file, int parent_fd)
{
    int ret = parent_fd >= 0 ? fsync(parent_fd) : -1;
    /* A directory that can not be opened or synced: then the whole file system is. */
    if (ret < 0 && (parent_fd < 0 || errno == EINVAL))
        ret = syncfs(file->fd);
    return ret < 0 ? errno : 0;
}

static void note_error_locked(struct file_sync *sync, int code)
{
    if (!sync->lost_error)
        sync->lost_error = code;
}

/* Called, and returns, with the lock held and no other thread busy. */
static void flush_once_locked(const struct file *file, struct file_sync *sync)
    VD_REQUIRES(sync->lock)
{
    uint64_t number = ++sync->started;
    bool is_new = sync->is_new;
    sync->busy = true;
    vd_mutex_unlock(&sync->lock);

    int code = sync_data(file);
    if (code == 0 && is_new)
        code = sync_name(file, sync->parent_fd);

    vd_mutex_lock(&sync->lock);
    if (code == 0)
        sync->is_new = false;
    note_error_locked(sync, code);
    sync->done = number;
    sync->busy = false;
    vd_cond_broadcast(&sync->changed);
}

void vd_file_note_lost_write(struct file *file, int code)
{
    vd_mutex_lock(&file->sync.lock);
    note_error_locked(&file->sync, code);
    vd_mutex_unlock(&file->sync.lock);
}

int vd_file_flush(struct vd_storage *storage, struct vdisk_error *err)
{
    struct file *file = storage->state;
    struct file_sync *sync = &file->sync;

    vd_mutex_lock(&sync->lock);
    uint64_t wanted = sync->started + 1; /* F3 */
    while (!sync->lost_error && sync->done < wanted) {
        if (sync->busy)
            vd_cond_wait(&sync->changed, &sync->lock);
        else
            flush_once_locked(file, sync);
    }
    int code = sync->lost_error; /* F1 */
    vd_mutex_unlock(&sync->lock);
    return code ? vd_err_errno(err, code, "can not make it durable, written data may be lost") : 0;
}

void vd_file_wait_written(struct file *file, struct vd_range range)
{
    struct file_sync *sync = &file->sync;

    vd_mutex_lock(&sync->lock);
    while (sync->busy)
        vd_cond_wait(&sync->changed, &sync->lock);
    sync->busy = true; /* F2 */
    vd_mutex_unlock(&sync->lock);

    int ret = sync_file_range(file->fd, (off_t)range.offset, (off_t)range.length,
                              SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                  SYNC_FILE_RANGE_WAIT_AFTER);
    int code = ret < 0 ? errno : 0;
    /* These say that nothing was waited for, so no report was taken. */
    if (code == EINTR || code == ENOSYS || code == EINVAL || code == ESPIPE)
        code = 0;

    vd_mutex_lock(&sync->lock);
    note_error_locked(sync, code);
    sync->busy = false;
    vd_cond_broadcast(&sync->changed);
    vd_mutex_unlock(&sync->lock);
}

int vd_file_settle(struct vd_storage *storage, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    return file->is_sync ? vd_file_flush(storage, err) : 0;
}
