/* SPDX-License-Identifier: MIT */
/* The file "lock" of a repository. */
#include "backup/repository_lock.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "storage/file_lock.h"
#include "util/mem.h"

#define THERE_BYTE  0
#define MAKING_BYTE 1

/* What is held on the two bytes, for each access. */
static const struct {
    short there;
    short making;
} locks[] = {
    [VD_REPOSITORY_READ] = {F_RDLCK, F_UNLCK},
    [VD_REPOSITORY_ADD] = {F_RDLCK, F_WRLCK},
    [VD_REPOSITORY_CHANGE] = {F_WRLCK, F_WRLCK},
};

static struct flock lock_of(short type, off_t byte)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

static int set_byte(int fd, short type, off_t byte)
{
    struct flock lock = lock_of(type, byte);
    int ret;
    do
        ret = fcntl(fd, F_OFD_SETLK, &lock);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

/* Byte 1 goes first: of two who want to be alone, one gets it, and the other is gone at once. */
static int set_bytes(int fd, short there, short making)
{
    int ret = set_byte(fd, making, MAKING_BYTE);
    if (ret == 0)
        ret = set_byte(fd, there, THERE_BYTE);
    if (ret < 0) {
        set_byte(fd, F_UNLCK, THERE_BYTE);
        set_byte(fd, F_UNLCK, MAKING_BYTE);
    }
    return ret;
}

/* The lock that somebody else has on @byte. */
static short held_by_others(int fd, off_t byte)
{
    struct flock lock = lock_of(F_WRLCK, byte);
    return fcntl(fd, F_OFD_GETLK, &lock) < 0 ? F_UNLCK : lock.l_type;
}

static int refuse_in_use(const struct vdisk_repository *repository, struct vdisk_error *err)
{
    int fd = repository->lock_fd;
    short there = held_by_others(fd, THERE_BYTE);
    bool makes = held_by_others(fd, MAKING_BYTE) != F_UNLCK;
    const char *what = "somebody had it open a moment ago";
    if (there == F_WRLCK)
        what = "a merge or prune is under way";
    else if (makes)
        what = "a backup is being made";
    else if (there == F_RDLCK)
        what = "it is being read, to list, verify, restore or serve it";
    struct vd_lock_holder holder = {0};
    vd_file_lock_holder(fd, makes ? MAKING_BYTE : THERE_BYTE, &holder);
    if (!holder.pid)
        return vd_err_set(err, EAGAIN, "%s: the repository is in use: %s", repository->name, what);
    return vd_err_set(err, EAGAIN, "%s: the repository is in use: %s (process %ld \"%s\")",
                      repository->name, what, holder.pid, holder.command);
}

static int refuse(const struct vdisk_repository *repository, int code, struct vdisk_error *err)
{
    const char *name = repository->name;
    switch (code) {
    case EAGAIN:
    case EACCES:
        return refuse_in_use(repository, err);
    case EBADF:
        return vd_err_set(err, EROFS, "%s/%s: can not be locked for a change: not writable", name,
                          VD_REPOSITORY_LOCK);
    default:
        return vd_err_errno(err, code,
                            "%s/%s: can not be locked, so that nobody else changes the repository "
                            "meanwhile: does the file system have locks?",
                            name, VD_REPOSITORY_LOCK);
    }
}

/* Locks that no file system without them can give: there nobody changes anything. */
static bool are_missing(int code)
{
    return code == ENOLCK || code == EOPNOTSUPP || code == ENOSYS || code == EINVAL;
}

/* A file system, or permissions, that let nobody write here. */
static bool is_refusal(int code)
{
    return code == EROFS || code == EACCES || code == EPERM;
}

/* -1 with errno.  Who may only read still keeps a prune away by the lock. */
static int open_file(const char *path, enum vd_repository_access access)
{
    int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int fd = open(path, O_RDWR | flags);
    if (fd < 0 && errno == ENOENT)
        fd = open(path, O_RDWR | O_CREAT | flags, 0666);
    if (fd < 0 && access == VD_REPOSITORY_READ && is_refusal(errno)) {
        int code = errno;
        fd = open(path, O_RDONLY | flags);
        if (fd < 0 && errno == ENOENT)
            errno = code;
    }
    return fd;
}

/* Who takes an empty repository away takes this file too: a lock on what has no name is none. */
static int check_is_there(const char *path, const struct stat *locked, struct vdisk_error *err)
{
    struct stat st;
    if (stat(path, &st) == 0 && st.st_dev == locked->st_dev && st.st_ino == locked->st_ino)
        return 0;
    return vd_err_set(err, EAGAIN, "%s: was replaced a moment ago: the repository is in use", path);
}

int vd_repository_lock(struct vdisk_repository *repository, struct vdisk_error *err)
{
    enum vd_repository_access access = repository->access;
    CLEANUP_FREE char *path = vd_repository_path(repository, VD_REPOSITORY_LOCK, err);
    if (!path)
        return -ENOMEM;
    int fd = open_file(path, access);
    if (fd < 0) {
        if (access == VD_REPOSITORY_READ && is_refusal(errno))
            return 0;
        int code = errno == ELOOP || errno == EISDIR || errno == ENXIO ? EBADMSG : errno;
        return vd_err_errno(err, code, "%s: can not open the file that is locked", path);
    }
    repository->lock_fd = fd;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return vd_err_errno(err, errno, "%s: can not look at it", path);
    if (!S_ISREG(st.st_mode))
        return vd_err_set(err, EBADMSG, "%s: is no regular file: remove it", path);
    int ret = set_bytes(fd, locks[access].there, locks[access].making);
    if (ret == 0)
        return check_is_there(path, &st, err);
    if (access == VD_REPOSITORY_READ && are_missing(-ret)) {
        repository->lock_fd = -1;
        close(fd);
        return 0;
    }
    return refuse(repository, -ret, err);
}

int vd_repository_relock(struct vdisk_repository *repository, enum vd_repository_access access,
                         struct vdisk_error *err)
{
    int fd = repository->lock_fd;
    if (fd < 0)
        return access == VD_REPOSITORY_READ ? 0 : refuse(repository, EBADF, err);
    int ret = 0;
    if (access == VD_REPOSITORY_CHANGE)
        ret = set_byte(fd, F_UNLCK, THERE_BYTE); /* or two of them would keep each other out */
    if (ret == 0)
        ret = set_bytes(fd, locks[access].there, locks[access].making);
    return ret < 0 ? refuse(repository, -ret, err) : 0;
}
