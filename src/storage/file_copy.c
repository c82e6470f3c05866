/* SPDX-License-Identifier: MIT */
/*
 * Copies from file to file inside the kernel: shared blocks where the file system can, else
 * copy_file_range().  A copy that can not be done this way, or stops half way for a reason that is
 * no failing disk, ends in -EOPNOTSUPP: the caller then reads and writes the whole range.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "storage/file_priv.h"

/* Longest piece of one system call, so that a signal does not wait for long. */
#define COPY_STEP_BYTES (256u << 20)

static bool is_real_error(int code)
{
    return code == EIO || code == ENOSPC || code == EDQUOT || code == EFBIG || code == ENOMEM;
}

/*
 * Asks for one byte that is no block: a file system that shares blocks says that this is none of
 * them, any other that it does not do such things.
 */
static bool can_reflink(const struct file *from, struct file *to)
{
    struct file_clone_range clone = {
        .src_fd = from->fd, .src_offset = 1, .src_length = 1, .dest_offset = 1};
    if (atomic_load(&to->missing) & FILE_NO_REFLINK)
        return false;
    int ret;
    do
        ret = ioctl(to->fd, FICLONERANGE, &clone);
    while (ret < 0 && errno == EINTR);
    if (ret < 0 && (errno == EOPNOTSUPP || errno == ENOTTY))
        atomic_fetch_or(&to->missing, FILE_NO_REFLINK);
    return ret == 0 || errno == EINVAL;
}

static int reflink(const struct file *from, uint64_t from_offset, struct file *to,
                   uint64_t to_offset, uint64_t length, struct vdisk_error *err)
{
    if (atomic_load(&to->missing) & FILE_NO_REFLINK)
        return -EOPNOTSUPP;
    struct file_clone_range clone = {.src_fd = from->fd,
                                     .src_offset = from_offset,
                                     .src_length = length,
                                     .dest_offset = to_offset};
    int ret;
    do
        ret = ioctl(to->fd, FICLONERANGE, &clone);
    while (ret < 0 && errno == EINTR);
    if (ret == 0)
        return 0;
    if (is_real_error(errno))
        return vd_err_errno(err, errno,
                            "sharing %" PRIu64 " bytes of another file at offset %" PRIu64, length,
                            to_offset);
    if (errno == EOPNOTSUPP || errno == ENOTTY)
        atomic_fetch_or(&to->missing, FILE_NO_REFLINK);
    return -EOPNOTSUPP;
}

static int copy_range(const struct file *from, uint64_t from_offset, const struct file *to,
                      uint64_t to_offset, uint64_t length, struct vdisk_error *err)
{
    off_t in = (off_t)from_offset;
    off_t out = (off_t)to_offset;
    while (length) {
        ssize_t done = copy_file_range(from->fd, &in, to->fd, &out,
                                       (size_t)vd_min(length, COPY_STEP_BYTES), 0);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && is_real_error(errno))
            return vd_err_errno(err, errno, "copying %" PRIu64 " bytes to offset %jd", length,
                                (intmax_t)out);
        if (done <= 0)
            return -EOPNOTSUPP;
        length -= (uint64_t)done;
    }
    return 0;
}

bool vd_file_can_copy(struct vd_storage *from, struct vd_storage *to, unsigned flags)
{
    const struct file *source = from->state;
    struct file *target = to->state;
    if (source->is_block || target->is_block)
        return false;
    return !(flags & VD_STORAGE_COPY_REFLINK_ONLY) || can_reflink(source, target);
}

int vd_file_copy(struct vd_storage *from, uint64_t from_offset, struct vd_storage *to,
                 uint64_t to_offset, uint64_t length, unsigned flags, struct vdisk_error *err)
{
    const struct file *source = from->state;
    struct file *target = to->state;
    if (source->is_block || target->is_block)
        return -EOPNOTSUPP;
    int ret = reflink(source, from_offset, target, to_offset, length, err);
    if (ret == -EOPNOTSUPP && !(flags & VD_STORAGE_COPY_REFLINK_ONLY))
        ret = copy_range(source, from_offset, target, to_offset, length, err);
    return ret < 0 ? ret : vd_file_settle(to, err);
}
