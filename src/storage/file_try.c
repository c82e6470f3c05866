/* SPDX-License-Identifier: MIT */
/*
 * Reads and writes that do not wait for a disk.
 *
 * Linux has RWF_NOWAIT for that.  Some file systems do not know it:
 *
 *   tmpfs  has no disk.
 *   ext4   reads by it, but does not write.  There a write is a copy into the page cache, but for
 *          pages that are written in part and are not there: these would have to be read first.
 */
#include <errno.h>
#include <linux/magic.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "storage/file_priv.h"
#include "util/iov.h"
#include "util/mem.h"

void vd_file_try_init(struct file *file)
{
    struct statfs fs;
    file->try_read = FILE_TRY_NEVER;
    file->try_write = FILE_TRY_NEVER;
    /* These do more than to read and to write. */
    if (file->is_direct || file->is_sync || file->keeps_cache_small || fstatfs(file->fd, &fs) < 0)
        return;
    file->try_read = FILE_TRY_NOWAIT;
    file->try_write = FILE_TRY_NOWAIT;
    if (file->is_block)
        return;
    if ((unsigned long)fs.f_type == TMPFS_MAGIC) {
        file->try_read = FILE_TRY_ALL;
        file->try_write = FILE_TRY_ALL;
    } else if ((unsigned long)fs.f_type == EXT4_SUPER_MAGIC) {
        file->try_write = FILE_TRY_PAGES;
    }
}

/* It was not done: does the system not know how? */
static int note_failure(struct file *file, ssize_t done, enum file_missing missing)
{
    if (done < 0 && errno == EOPNOTSUPP)
        atomic_fetch_or(&file->missing, missing);
    return -EAGAIN;
}

int vd_file_try_pread(struct vd_storage *storage, void *buf, size_t length, uint64_t offset)
{
    struct file *file = storage->state;
    struct iovec iov = {.iov_base = buf, .iov_len = length};
    if (file->try_read == FILE_TRY_NEVER || (atomic_load(&file->missing) & FILE_NO_TRY_READ))
        return -EAGAIN;
    int flags = file->try_read == FILE_TRY_NOWAIT ? RWF_NOWAIT : 0;
    ssize_t done = preadv2(file->fd, &iov, 1, (off_t)offset, flags);
    return done == (ssize_t)length ? 0 : note_failure(file, done, FILE_NO_TRY_READ);
}

/* Is the page with the byte at @offset, if it is not to be written whole, in memory? */
static bool is_cached(const struct file *file, uint64_t offset)
{
    uint8_t byte;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    return preadv2(file->fd, &iov, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

static bool has_edges(const struct file *file, uint64_t offset, size_t length)
{
    uint64_t end = offset + length;
    return (vd_is_aligned(offset, VD_PAGE_BYTES) || is_cached(file, offset)) &&
           (vd_is_aligned(end, VD_PAGE_BYTES) || is_cached(file, end - 1));
}

int vd_file_try_pwrite(struct vd_storage *storage, const void *buf, size_t length, uint64_t offset)
{
    struct file *file = storage->state;
    struct iovec iov = vd_iov_const(buf, length);
    if (file->try_write == FILE_TRY_NEVER || (atomic_load(&file->missing) & FILE_NO_TRY_WRITE) ||
        (file->try_write == FILE_TRY_PAGES && !has_edges(file, offset, length)))
        return -EAGAIN;
    int flags = file->try_write == FILE_TRY_NOWAIT ? RWF_NOWAIT : 0;
    ssize_t done = pwritev2(file->fd, &iov, 1, (off_t)offset, flags);
    return done == (ssize_t)length ? 0 : note_failure(file, done, FILE_NO_TRY_WRITE);
}
