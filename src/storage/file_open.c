/* SPDX-License-Identifier: MIT */
/* Opening a file: what it is, its locks, direct I/O.  Nothing else of the driver has paths. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/file_lock.h"
#include "storage/file_priv.h"
#include "util/mem.h"

/* Enough for every device and file system that does not tell. */
#define DIRECT_ALIGN_BYTES     4096u
#define DIRECT_ALIGN_BYTES_MAX (1u << 20)

static int check_kind(const struct stat *st, struct vdisk_error *err)
{
    switch (st->st_mode & S_IFMT) {
    case S_IFREG:
    case S_IFBLK:
        return 0;
    case S_IFDIR:
        return vd_err_set(err, EISDIR, "it is a directory: an image is a file or a block device");
    case S_IFIFO:
        return vd_err_set(err, EINVAL, "it is a pipe: an image is a file or a block device");
    case S_IFSOCK:
        return vd_err_set(err, EINVAL, "it is a socket: an image is a file or a block device");
    case S_IFCHR:
        return vd_err_set(err, EINVAL,
                          "it is a character device: an image is a file or a block device");
    default:
        return vd_err_set(err, EINVAL, "an image is a file or a block device");
    }
}

/* The directory that holds the name @name, to be synced; -1 if it can not be opened. */
static int open_parent(const char *name)
{
    const char *slash = strrchr(name, '/');
    CLEANUP_FREE char *parent = slash == name ? strdup("/")
                                : slash       ? strndup(name, (size_t)(slash - name))
                                              : strdup(".");
    return parent ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
}

/*
 * Opens without waiting for anybody (the other end of a pipe), but for the holder of a lease on a
 * regular file, who is given the time to end it.
 */
static int open_quickly(const char *name, int flags)
{
    struct stat st;
    int fd = open(name, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
    if (fd < 0 && errno == EWOULDBLOCK && stat(name, &st) == 0 && S_ISREG(st.st_mode))
        fd = open(name, flags | O_CLOEXEC | O_NOCTTY, 0666);
    return fd;
}

static int open_errno(const char *name, bool writable, struct vdisk_error *err)
{
    struct stat st;
    int code = errno;
    if (code == EBUSY && writable)
        return vd_err_set(err, code,
                          "the device is in use, by the system or another program: is it mounted?");
    if (code == ENXIO && stat(name, &st) == 0 && S_ISSOCK(st.st_mode))
        return check_kind(&st, err);
    return vd_err_errno(err, code, "can not open it");
}

/* Makes the file if it is not there.  Only one that surely is new counts as new. */
static int open_or_create(const char *name, uint32_t flags, int open_flags,
                          struct file_opened *opened)
{
    int fd = open_quickly(name, open_flags | O_CREAT | O_EXCL);
    if (fd >= 0) {
        opened->is_new = true;
        opened->is_name_new = true;
        opened->parent_fd = open_parent(name);
        return fd;
    }
    if (errno != EEXIST || (flags & VD_STORAGE_EXCLUSIVE))
        return -1;
    fd = open_quickly(name, open_flags);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    /* A symbolic link to a file that is not there yet: its directory is not the link's. */
    fd = open_quickly(name, open_flags | O_CREAT);
    opened->is_new = fd >= 0;
    return fd;
}

/* Character devices may act on being opened, so they are refused before. */
static int open_checked(const char *name, uint32_t flags, struct file_opened *opened,
                        struct stat *st, struct vdisk_error *err)
{
    bool writable = (flags & VD_STORAGE_WRITE) != 0;
    int open_flags = (writable ? O_RDWR : O_RDONLY) | (flags & VD_STORAGE_SYNC ? O_DSYNC : 0);
    int ret;
    bool is_there = stat(name, st) == 0;
    if (is_there && !(flags & VD_STORAGE_EXCLUSIVE)) {
        ret = check_kind(st, err);
        if (ret < 0)
            return ret;
        /* For a device this is the claim that mounts and RAID sets make too. */
        if (writable && S_ISBLK(st->st_mode))
            open_flags |= O_EXCL;
    }
    bool may_create = (flags & VD_STORAGE_CREATE) && !(open_flags & O_EXCL);
    opened->fd = may_create ? open_or_create(name, flags, open_flags, opened)
                            : open_quickly(name, open_flags);
    if (opened->fd < 0)
        return open_errno(name, writable, err);
    if (fstat(opened->fd, st) < 0)
        return vd_err_errno(err, errno, "can not look at it");
    return check_kind(st, err);
}

static int set_direct(int fd, const struct stat *st, uint32_t *align_bytes, struct vdisk_error *err)
{
    static const char no_direct[] =
        "this file system has no direct I/O: use cache mode writeback or writethrough "
        "instead of none or directsync";
    uint32_t align = 0;
#ifdef STATX_DIOALIGN
    struct statx stx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN)) {
        if (stx.stx_dio_offset_align == 0)
            return vd_err_set(err, EINVAL, no_direct);
        align = (uint32_t)vd_max(stx.stx_dio_mem_align, stx.stx_dio_offset_align);
    }
#endif
    int block_bytes;
    if (align == 0 && S_ISBLK(st->st_mode) && ioctl(fd, BLKSSZGET, &block_bytes) == 0)
        align = (uint32_t)vd_max((uint64_t)block_bytes, DIRECT_ALIGN_BYTES);
    if (align == 0)
        align = DIRECT_ALIGN_BYTES;
    if (align > DIRECT_ALIGN_BYTES_MAX || !vd_is_aligned(align, align))
        return vd_err_set(err, EINVAL,
                          "direct I/O wants units of %" PRIu32 " bytes: the limit is %u", align,
                          DIRECT_ALIGN_BYTES_MAX);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0)
        return errno == EINVAL ? vd_err_set(err, EINVAL, no_direct)
                               : vd_err_errno(err, errno, "can not set direct I/O");
    *align_bytes = align;
    return 0;
}

/* All nodes of one device are the same bytes; no file has inode 0. */
static struct vd_storage_identity identity_of(const struct stat *st)
{
    if (S_ISBLK(st->st_mode))
        return (struct vd_storage_identity){.known = true, .device = st->st_rdev, .inode = 0};
    return (struct vd_storage_identity){
        .known = S_ISREG(st->st_mode), .device = st->st_dev, .inode = st->st_ino};
}

struct vd_storage_identity vd_file_identify(const char *name)
{
    struct stat st;
    return stat(name, &st) == 0 ? identity_of(&st) : (struct vd_storage_identity){0};
}

static int set_up(uint32_t flags, struct file_opened *opened, const struct stat *st,
                  struct vdisk_error *err)
{
    int status = fcntl(opened->fd, F_GETFL);
    if (status < 0 || fcntl(opened->fd, F_SETFL, status & ~O_NONBLOCK) < 0)
        return vd_err_errno(err, errno, "can not set it up");
    opened->align_bytes = 1;
    opened->block_bytes = 1;
    opened->is_block = S_ISBLK(st->st_mode);
    int block_bytes;
    if (opened->is_block) {
        if (ioctl(opened->fd, BLKSSZGET, &block_bytes) < 0)
            return vd_err_errno(err, errno, "can not read the block size of the device");
        opened->block_bytes = (uint32_t)block_bytes;
    }
    opened->identity = identity_of(st);
    return flags & VD_STORAGE_DIRECT ? set_direct(opened->fd, st, &opened->align_bytes, err) : 0;
}

int vd_file_open_fd(const char *name, uint32_t flags, struct file_opened *opened,
                    struct vdisk_error *err)
{
    struct stat st;
    *opened = (struct file_opened){.fd = -1, .parent_fd = -1};
    int ret = open_checked(name, flags, opened, &st, err);
    if (ret == 0)
        ret = set_up(flags, opened, &st, err);
    bool is_ours = opened->is_name_new;
    if (ret == 0) {
        ret = vd_file_lock(opened->fd, flags, err);
        is_ours = is_ours && ret != -EAGAIN; /* else whoever came between has it */
    }
    /* Emptied only now that it is locked: nobody loses an image that is in use. */
    if (ret == 0 && (flags & VD_STORAGE_CREATE) && !opened->is_block &&
        ftruncate(opened->fd, 0) < 0)
        ret = vd_err_errno(err, errno, "can not empty it");
    if (ret < 0) {
        if (is_ours)
            unlink(name);
        if (opened->fd >= 0)
            close(opened->fd);
        if (opened->parent_fd >= 0)
            close(opened->parent_fd);
    }
    return ret;
}
