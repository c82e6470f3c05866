/* SPDX-License-Identifier: MIT */
/* Storage in a local file or block device. */
#include "storage/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "util/iov.h"
#include "util/mem.h"

struct file {
    int fd;
};

static int file_open(struct vd_storage *storage, const char *name,
                     const struct vd_storage_options *options, struct vdisk_error *err)
{
    bool writable = (options->flags & VD_STORAGE_WRITE) != 0;
    int flags = O_CLOEXEC | (writable ? O_RDWR : O_RDONLY);
    if (options->flags & VD_STORAGE_CREATE)
        flags |= O_CREAT;
    if (options->flags & VD_STORAGE_EXCLUSIVE)
        flags |= O_EXCL;

    CLEANUP_CLOSE int fd = open(name, flags, 0666);
    if (fd < 0)
        return vd_err_errno(err, errno, "can not open it");
    if ((options->flags & VD_STORAGE_CREATE) && ftruncate(fd, 0) < 0)
        return vd_err_errno(err, errno, "can not empty it");
    struct stat st;
    if (fstat(fd, &st) < 0)
        return vd_err_errno(err, errno, "can not look at it");

    struct file *file = calloc(1, sizeof(*file));
    if (!file)
        return vd_err_nomem(err, "a file");
    file->fd = fd;
    fd = -1;
    storage->state = file;
    storage->caps = VD_STORAGE_CAN_WRITE | VD_STORAGE_CAN_RESIZE;
    storage->identity =
        (struct vd_storage_identity){.known = true, .device = st.st_dev, .inode = st.st_ino};
    return 0;
}

static void file_close(struct vd_storage *storage)
{
    struct file *file = storage->state;
    close(file->fd);
    free(file);
}

static int file_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    struct stat st;
    if (fstat(file->fd, &st) < 0)
        return vd_err_errno(err, errno, "can not read its size");
    *size = (uint64_t)st.st_size;
    return 0;
}

static int file_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    size_t length = vd_iov_length(iov, iov_entries);
    size_t done = 0;
    while (done < length) {
        struct iovec part[IOV_MAX];
        int entries = vd_iov_part(part, iov, iov_entries, done, length - done);
        ssize_t got = preadv(file->fd, part, entries, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return vd_err_errno(err, errno, "reading %zu bytes at offset %" PRIu64, length, offset);
        if (got == 0)
            return vd_err_set(err, EIO,
                              "reading %zu bytes at offset %" PRIu64 ": the file ends at %" PRIu64,
                              length, offset, offset + done);
        done += (size_t)got;
    }
    return 0;
}

static int file_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    size_t length = vd_iov_length(iov, iov_entries);
    size_t done = 0;
    while (done < length) {
        struct iovec part[IOV_MAX];
        int entries = vd_iov_part(part, iov, iov_entries, done, length - done);
        ssize_t put = pwritev(file->fd, part, entries, (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return vd_err_errno(err, errno, "writing %zu bytes at offset %" PRIu64, length, offset);
        done += (size_t)put;
    }
    return 0;
}

static int file_flush(struct vd_storage *storage, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    if (fdatasync(file->fd) < 0)
        return vd_err_errno(err, errno, "can not make it durable");
    return 0;
}

static int file_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    if (ftruncate(file->fd, (off_t)size) < 0)
        return vd_err_errno(err, errno, "can not resize it to %" PRIu64 " bytes", size);
    return 0;
}

const struct vd_storage_driver vd_storage_file_driver = {
    .name = "file",
    .open = file_open,
    .close = file_close,
    .size = file_size,
    .preadv = file_preadv,
    .pwritev = file_pwritev,
    .flush = file_flush,
    .resize = file_resize,
};
