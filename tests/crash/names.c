/* SPDX-License-Identifier: MIT */
/* A directory that loses power: see names.h. */
#include "names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define ENTRIES_MAX 64u
#define CHANGES_MAX 128u
#define NAME_BYTES  64u

struct entry {
    char name[NAME_BYTES];
    uint64_t inode; /* 0: there is none */
    unsigned change;
};

/* Shared by the processes. */
static struct recorded {
    char directory[256];
    char keep[256];
    struct entry now[ENTRIES_MAX];
    unsigned now_entries;
    struct entry durable[ENTRIES_MAX];
    unsigned durable_entries;
    struct entry pending[CHANGES_MAX];
    unsigned pending_entries;
    unsigned changes; /* pending; one may be about two names */
    uint64_t settled[CHANGES_MAX];
    unsigned settled_entries;
    unsigned calls;
} * disk;

static bool is_recording; /* in this process */
static struct vt_names_event wanted;

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    abort();
}

void vt_names_init(void)
{
    disk = mmap(NULL, sizeof(*disk), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(disk != MAP_FAILED, "mmap");
}

static void path_in(char path[512], const char *directory, const char *name)
{
    must(snprintf(path, 512, "%s/%s", directory, name) < 512, "a path");
}

static struct entry *find(struct entry *entries, unsigned count, const char *name)
{
    for (unsigned i = 0; i < count; i++)
        if (strcmp(entries[i].name, name) == 0)
            return &entries[i];
    return NULL;
}

static void add(struct entry *entries, unsigned *count, unsigned max, const char *name,
                uint64_t inode)
{
    must(*count < max && strlen(name) < NAME_BYTES, "room for names");
    struct entry *entry = &entries[(*count)++];
    snprintf(entry->name, sizeof(entry->name), "%s", name);
    entry->inode = inode;
    entry->change = disk->changes;
}

static void keep_file(const char *name, uint64_t inode)
{
    char from[512], to[512], number[24];
    snprintf(number, sizeof(number), "%" PRIu64, inode);
    path_in(from, disk->directory, name);
    path_in(to, disk->keep, number);
    if (access(to, F_OK) < 0)
        must(link(from, to) == 0, "link");
}

static unsigned scan(struct entry *entries)
{
    unsigned count = 0;
    DIR *directory = opendir(disk->directory);
    must(directory != NULL, disk->directory);
    for (const struct dirent *at; (at = readdir(directory));)
        if (strcmp(at->d_name, ".") != 0 && strcmp(at->d_name, "..") != 0)
            add(entries, &count, ENTRIES_MAX, at->d_name, at->d_ino);
    closedir(directory);
    for (unsigned i = 0; i < count; i++)
        keep_file(entries[i].name, entries[i].inode);
    return count;
}

/* What is different from the last look is one change. */
static void look(void)
{
    struct entry found[ENTRIES_MAX];
    unsigned count = scan(found), before = disk->pending_entries;
    for (unsigned i = 0; i < count; i++) {
        const struct entry *old = find(disk->now, disk->now_entries, found[i].name);
        if (!old || old->inode != found[i].inode)
            add(disk->pending, &disk->pending_entries, CHANGES_MAX, found[i].name, found[i].inode);
    }
    for (unsigned i = 0; i < disk->now_entries; i++)
        if (!find(found, count, disk->now[i].name))
            add(disk->pending, &disk->pending_entries, CHANGES_MAX, disk->now[i].name, 0);
    disk->changes += disk->pending_entries > before;
    memcpy(disk->now, found, sizeof(found));
    disk->now_entries = count;
}

static bool is_settled(uint64_t inode)
{
    for (unsigned i = 0; i < disk->settled_entries; i++)
        if (disk->settled[i] == inode)
            return true;
    return false;
}

static void settle(uint64_t inode)
{
    if (is_settled(inode))
        return;
    must(disk->settled_entries < CHANGES_MAX, "room for inodes");
    disk->settled[disk->settled_entries++] = inode;
}

static void names_are_durable(void)
{
    memcpy(disk->durable, disk->now, sizeof(disk->now));
    disk->durable_entries = disk->now_entries;
    disk->pending_entries = disk->changes = 0;
}

void vt_names_record(const char *name, const char *keep, struct vt_names_event event)
{
    memset(disk, 0, sizeof(*disk));
    snprintf(disk->directory, sizeof(disk->directory), "%s", name);
    snprintf(disk->keep, sizeof(disk->keep), "%s", keep);
    disk->now_entries = scan(disk->now);
    names_are_durable();
    for (unsigned i = 0; i < disk->now_entries; i++)
        settle(disk->now[i].inode);
    wanted = event;
    is_recording = true;
}

unsigned vt_names_calls(void)
{
    return disk->calls;
}

unsigned vt_names_pending(void)
{
    return disk->changes;
}

bool vt_names_is_durable(const char *file)
{
    if (!find(disk->durable, disk->durable_entries, file))
        return false;
    return !find(disk->pending, disk->pending_entries, file);
}

/* ---- What a cut leaves ---- */

static void copy_file(const char *from, const char *to, bool is_whole)
{
    char bytes[65536];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_EXCL, 0600);
    must(in >= 0 && out >= 0, from);
    ssize_t got = 0;
    while (is_whole && (got = read(in, bytes, sizeof(bytes))) > 0)
        must(write(out, bytes, (size_t)got) == got, to);
    must(got >= 0, from);
    close(in);
    close(out);
}

void vt_names_empty(const char *name)
{
    char path[512];
    DIR *directory = opendir(name);
    if (!directory)
        must(mkdir(name, 0700) == 0, name);
    for (const struct dirent *at; directory && (at = readdir(directory));) {
        path_in(path, name, at->d_name);
        if (strcmp(at->d_name, ".") != 0 && strcmp(at->d_name, "..") != 0)
            must(unlink(path) == 0, path);
    }
    if (directory)
        closedir(directory);
}

void vt_names_copy(const char *from, const char *name)
{
    DIR *directory = opendir(from);
    must(directory != NULL, from);
    vt_names_empty(name);
    for (const struct dirent *at; (at = readdir(directory));) {
        char source[512], target[512];
        path_in(source, from, at->d_name);
        path_in(target, name, at->d_name);
        if (strcmp(at->d_name, ".") != 0 && strcmp(at->d_name, "..") != 0)
            copy_file(source, target, true);
    }
    closedir(directory);
}

void vt_names_restore(const char *name, uint64_t mask)
{
    struct entry left[ENTRIES_MAX];
    unsigned count = disk->durable_entries;
    memcpy(left, disk->durable, sizeof(left));
    for (unsigned i = 0; i < disk->pending_entries; i++) {
        const struct entry *change = &disk->pending[i];
        if (!(mask >> change->change & 1))
            continue;
        struct entry *entry = find(left, count, change->name);
        if (entry)
            entry->inode = change->inode;
        else
            add(left, &count, ENTRIES_MAX, change->name, change->inode);
    }
    vt_names_empty(name);
    for (unsigned i = 0; i < count; i++) {
        char from[512], to[512], number[24];
        snprintf(number, sizeof(number), "%" PRIu64, left[i].inode);
        path_in(from, disk->keep, number);
        path_in(to, name, left[i].name);
        if (left[i].inode)
            copy_file(from, to, is_settled(left[i].inode));
    }
}

/* ---- The calls ---- */

/* false: the call fails. */
static bool before_call(void)
{
    if (!is_recording)
        return true;
    look();
    if (++disk->calls == wanted.cut)
        _exit(VT_NAMES_CUT);
    errno = EIO;
    return disk->calls != wanted.fails;
}

static void after_call(void)
{
    int code = errno;
    if (is_recording)
        look();
    errno = code;
}

static void after_sync(int fd)
{
    struct stat st, directory;
    if (!is_recording)
        return;
    must(fstat(fd, &st) == 0 && stat(disk->directory, &directory) == 0, "stat");
    if (S_ISREG(st.st_mode))
        settle(st.st_ino);
    else if (st.st_ino == directory.st_ino)
        names_are_durable();
}

#define WRAP(type, name, arguments, ...)       \
    type __real_##name arguments;              \
    type __wrap_##name arguments;              \
    type __wrap_##name arguments               \
    {                                          \
        if (!before_call())                    \
            return -1;                         \
        type ret = __real_##name(__VA_ARGS__); \
        after_call();                          \
        return ret;                            \
    }

#define WRAP_SYNC(name)              \
    int __real_##name(int fd);       \
    int __wrap_##name(int fd);       \
    int __wrap_##name(int fd)        \
    {                                \
        if (!before_call())          \
            return -1;               \
        int ret = __real_##name(fd); \
        if (ret == 0)                \
            after_sync(fd);          \
        return ret;                  \
    }

WRAP(int, rename, (const char *from, const char *to), from, to)
WRAP(int, unlink, (const char *name), name)
WRAP(int, unlinkat, (int fd, const char *name, int flags), fd, name, flags)
WRAP(ssize_t, write, (int fd, const void *bytes, size_t length), fd, bytes, length)
WRAP(ssize_t, pwrite64, (int fd, const void *bytes, size_t length, off_t at), fd, bytes, length, at)
WRAP(ssize_t, pwritev64, (int fd, const struct iovec *iov, int entries, off_t at), fd, iov, entries,
     at)
WRAP(ssize_t, pwritev64v2, (int fd, const struct iovec *iov, int entries, off_t at, int flags), fd,
     iov, entries, at, flags)
WRAP_SYNC(fsync)
WRAP_SYNC(fdatasync)
