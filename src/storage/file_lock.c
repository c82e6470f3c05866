/* SPDX-License-Identifier: MIT */
/* Keeping other programs off an image: see file_lock.h for the rules. */
#include "storage/file_lock.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define USES_BYTE     100
#define UNSHARED_BYTE 200

static const struct permission {
    int number;
    const char *name;
    uint32_t used_with; /* any of these flags set; 0: always */
} permissions[] = {
    {0, "consistent read", 0},
    {1, "write", VD_STORAGE_WRITE},
    {3, "resize", VD_STORAGE_WRITE},
};

#define PERMISSIONS (sizeof(permissions) / sizeof(permissions[0]))

static bool uses(const struct permission *permission, uint32_t flags)
{
    return !permission->used_with || (permission->used_with & flags);
}

/* Everybody lets others read; nobody but a sharer lets them change anything. */
static bool unshares(const struct permission *permission, uint32_t flags)
{
    return permission->used_with && !(flags & VD_STORAGE_SHARE);
}

static void read_line(const char *path, char *line, int line_bytes)
{
    line[0] = '\0';
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (!fgets(line, line_bytes, file))
        line[0] = '\0';
    fclose(file);
    line[strcspn(line, "\n")] = '\0';
}

/* A line such as "lock:	1: OFDLCK ADVISORY  READ -1 08:01:1234 100 101": is @byte in it? */
static bool lock_line_covers(const char *line, uint64_t inode, int64_t byte)
{
    uint64_t line_inode;
    int64_t first;
    char last[24];
    if (sscanf(line, "lock: %*d: %*s %*s %*s %*d %*x:%*x:%" SCNu64 " %" SCNd64 " %23s", &line_inode,
               &first, last) != 3)
        return false;
    return line_inode == inode && first <= byte &&
           (strcmp(last, "EOF") == 0 || strtoll(last, NULL, 10) >= byte);
}

static bool descriptor_holds(const char *pid, const char *fd, const struct stat *file, int64_t byte)
{
    char path[64];
    char line[160];
    struct stat st;
    bool found = false;

    snprintf(path, sizeof(path), "/proc/%.15s/fd/%.15s", pid, fd);
    if (stat(path, &st) < 0 || st.st_ino != file->st_ino || st.st_dev != file->st_dev)
        return false;
    snprintf(path, sizeof(path), "/proc/%.15s/fdinfo/%.15s", pid, fd);
    FILE *info = fopen(path, "re");
    if (!info)
        return false;
    while (!found && fgets(line, sizeof(line), info))
        found = lock_line_covers(line, file->st_ino, byte);
    fclose(info);
    return found;
}

static bool process_holds(const char *pid, const struct stat *file, int own_fd, int64_t byte)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/%.15s/fd", pid);
    DIR *fds = opendir(path);
    if (!fds)
        return false;
    bool is_self = strtol(pid, NULL, 10) == getpid();
    bool found = false;
    const struct dirent *entry;
    while (!found && (entry = readdir(fds)))
        if (isdigit((unsigned char)entry->d_name[0]) &&
            !(is_self && strtol(entry->d_name, NULL, 10) == own_fd))
            found = descriptor_holds(pid, entry->d_name, file, byte);
    closedir(fds);
    return found;
}

void vd_file_lock_holder(int fd, int64_t byte, struct vd_lock_holder *holder)
{
    struct stat file;
    holder->pid = 0;
    DIR *processes = fstat(fd, &file) == 0 ? opendir("/proc") : NULL;
    if (!processes)
        return;
    const struct dirent *entry;
    while (!holder->pid && (entry = readdir(processes)))
        if (isdigit((unsigned char)entry->d_name[0]) &&
            process_holds(entry->d_name, &file, fd, byte))
            holder->pid = strtol(entry->d_name, NULL, 10);
    closedir(processes);
    if (holder->pid) {
        char path[48];
        snprintf(path, sizeof(path), "/proc/%ld/comm", holder->pid);
        read_line(path, holder->command, sizeof(holder->command));
    }
}

/* @how: "" or "shared ", as QEMU's messages have it. */
static int refuse(int fd, int64_t byte, const char *how, const char *what, struct vdisk_error *err)
{
    struct vd_lock_holder holder = {0};
    vd_file_lock_holder(fd, byte, &holder);
    if (!holder.pid)
        return vd_err_set(err, EAGAIN,
                          "Failed to get %s\"%s\" lock: is another process using the image?", how,
                          what);
    return vd_err_set(err, EAGAIN,
                      "Failed to get %s\"%s\" lock: is another process using the image? "
                      "(process %ld \"%s\" has it open)",
                      how, what, holder.pid, holder.command);
}

/* Sets a shared lock.  1: set; 0: this file system has no locks; -EAGAIN: somebody is there. */
static int set_byte(int fd, int64_t byte, const char *how, const char *what,
                    struct vdisk_error *err)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int ret;
    do
        ret = fcntl(fd, F_OFD_SETLK, &lock);
    while (ret < 0 && errno == EINTR);
    if (ret == 0)
        return 1;
    switch (errno) {
    case EAGAIN:
    case EACCES:
        return refuse(fd, byte, how, what, err);
    case ENOLCK:
    case EOPNOTSUPP:
    case ENOSYS:
    case EINVAL:
        return 0;
    default:
        return vd_err_errno(err, errno, "Failed to get %s\"%s\" lock", how, what);
    }
}

/* Nobody else may hold @byte. */
static int probe_byte(int fd, int64_t byte, uint32_t flags, const char *how, const char *what,
                      struct vdisk_error *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return vd_err_errno(err, errno, "Failed to look for a %s\"%s\" lock", how, what);
    if (lock.l_type == F_UNLCK)
        return 0;
    /* The whole file, shared: somebody who only reads, and minds only writers. */
    bool is_reader = lock.l_type == F_RDLCK && lock.l_start == 0 && lock.l_len != 1;
    if (is_reader && !(flags & VD_STORAGE_WRITE))
        return 0;
    return refuse(fd, byte, how, what, err);
}

/* Calls set_byte(), or then probe_byte(), for all of them; stops at the first that is not good. */
static int set_all(int fd, uint32_t flags, struct vdisk_error *err)
{
    int ret = 1;
    for (size_t i = 0; i < PERMISSIONS && ret > 0; i++) {
        const struct permission *permission = &permissions[i];
        if (uses(permission, flags))
            ret = set_byte(fd, USES_BYTE + permission->number, "", permission->name, err);
        if (ret > 0 && unshares(permission, flags))
            ret =
                set_byte(fd, UNSHARED_BYTE + permission->number, "shared ", permission->name, err);
    }
    return ret;
}

static int probe_all(int fd, uint32_t flags, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < PERMISSIONS && ret == 0; i++) {
        const struct permission *permission = &permissions[i];
        if (uses(permission, flags))
            ret = probe_byte(fd, UNSHARED_BYTE + permission->number, flags, "", permission->name,
                             err);
        if (ret == 0 && unshares(permission, flags))
            ret = probe_byte(fd, USES_BYTE + permission->number, flags, "shared ", permission->name,
                             err);
    }
    return ret;
}

int vd_file_lock(int fd, uint32_t flags, struct vdisk_error *err)
{
    int ret = set_all(fd, flags, err);
    return ret > 0 ? probe_all(fd, flags, err) : ret;
}
