/* SPDX-License-Identifier: MIT */
/*
 * Keeping the page cache small when a file is read or written once from start to end.  What lies
 * more than a window behind is dropped; a written window is waited for first, so that no more
 * than about two windows are ever dirty.  Several threads working side by side share one mark.
 */
#include <fcntl.h>

#include "storage/file_priv.h"

#define WINDOW_BYTES (32u << 20)

/*
 * Moves @mark up to one window before @end, if that is a window or more.  Returns the range that
 * this call passed, of length 0 for most calls: it is this thread's to drop.
 */
static struct vd_range claim_behind(atomic_ullong *mark, uint64_t end)
{
    unsigned long long old = atomic_load(mark);
    while (end >= WINDOW_BYTES && end - WINDOW_BYTES >= old + WINDOW_BYTES) {
        uint64_t now = vd_round_down(end - WINDOW_BYTES, WINDOW_BYTES);
        if (atomic_compare_exchange_weak(mark, &old, now))
            return vd_range(old, now - old);
    }
    return vd_range(0, 0);
}

void vd_file_read_behind(struct file *file, uint64_t end)
{
    struct vd_range behind = claim_behind(&file->read_dropped, end);
    if (behind.length)
        posix_fadvise(file->fd, (off_t)behind.offset, (off_t)behind.length, POSIX_FADV_DONTNEED);
}

void vd_file_write_behind(struct vd_storage *storage, struct vd_range range)
{
    struct file *file = storage->state;
    if (file->is_direct)
        return;
    /* Only begun: an error is found by who waits, see vd_file_wait_written(). */
    sync_file_range(file->fd, (off_t)range.offset, (off_t)range.length, SYNC_FILE_RANGE_WRITE);

    struct vd_range behind = claim_behind(&file->write_dropped, vd_range_end(range));
    if (behind.length == 0)
        return;
    vd_file_wait_written(file, behind);
    posix_fadvise(file->fd, (off_t)behind.offset, (off_t)behind.length, POSIX_FADV_DONTNEED);
}
