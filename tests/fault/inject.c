/* SPDX-License-Identifier: MIT */
#include "inject.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* What a function is made of, for the classes. */
enum kind {
    KIND_ALLOC,
    KIND_PLAIN,
    KIND_INTR,
    KIND_SPACE,
    KIND_MOVE_IN,
    KIND_MOVE_OUT
};

enum answer {
    GO_ON,
    FAIL,
    MOVE_LESS
};

static atomic_bool is_on;
static atomic_int active_class;
static atomic_ullong wanted;
static atomic_ullong seen;
static _Atomic(const char *) where = "nothing";

const char *vt_fault_class_name(enum vt_fault_class fault)
{
    static const char *const names[VT_FAULT_CLASSES] = {[VT_FAULT_ALLOC] = "memory",
                                                        [VT_FAULT_IO] = "EIO",
                                                        [VT_FAULT_SPACE] = "ENOSPC",
                                                        [VT_FAULT_INTR] = "EINTR",
                                                        [VT_FAULT_SHORT] = "short"};
    return names[fault];
}

void vt_inject_start(enum vt_fault_class fault, uint64_t nth)
{
    atomic_store(&active_class, (int)fault);
    atomic_store(&wanted, nth);
    atomic_store(&seen, 0);
    atomic_store(&where, "nothing");
    atomic_store(&is_on, true);
}

uint64_t vt_inject_stop(void)
{
    atomic_store(&is_on, false);
    return atomic_load(&seen);
}

const char *vt_inject_where(void)
{
    return atomic_load(&where);
}

static bool belongs(enum vt_fault_class fault, enum kind kind)
{
    switch (fault) {
    case VT_FAULT_ALLOC:
        return kind == KIND_ALLOC;
    case VT_FAULT_IO:
        return kind != KIND_ALLOC;
    case VT_FAULT_SPACE:
        return kind == KIND_SPACE || kind == KIND_MOVE_OUT;
    case VT_FAULT_INTR:
        return kind == KIND_INTR || kind == KIND_SPACE || kind == KIND_MOVE_IN ||
               kind == KIND_MOVE_OUT;
    case VT_FAULT_SHORT:
        return kind == KIND_MOVE_IN || kind == KIND_MOVE_OUT;
    default:
        return false;
    }
}

static enum answer ask(enum kind kind, const char *name)
{
    static const int errors[VT_FAULT_CLASSES] = {ENOMEM, EIO, ENOSPC, EINTR, 0};
    enum vt_fault_class fault = (enum vt_fault_class)atomic_load(&active_class);
    if (!atomic_load(&is_on) || !belongs(fault, kind))
        return GO_ON;
    uint64_t number = atomic_fetch_add(&seen, 1) + 1;
    uint64_t nth = atomic_load(&wanted);
    if (nth == 0 || number < nth || (number > nth && fault != VT_FAULT_SPACE))
        return GO_ON;
    if (number == nth)
        atomic_store(&where, name);
    errno = errors[fault];
    return fault == VT_FAULT_SHORT ? MOVE_LESS : FAIL;
}

/* int-like functions whose arguments have names a, b, c ... and that answer -1 */
#define WRAP(type, kind, name, params, args, bad) \
    type __real_##name params;                    \
    type __wrap_##name params;                    \
    type __wrap_##name params                     \
    {                                             \
        if (ask(kind, #name) != GO_ON)            \
            return bad;                           \
        return __real_##name args;                \
    }

/* As WRAP(); a short transfer is one of half the length. */
#define WRAP_MOVE(kind, name, params, args, length) \
    ssize_t __real_##name params;                   \
    ssize_t __wrap_##name params;                   \
    ssize_t __wrap_##name params                    \
    {                                               \
        enum answer answer = ask(kind, #name);      \
        if (answer == FAIL)                         \
            return -1;                              \
        if (answer == MOVE_LESS && length > 1)      \
            length /= 2;                            \
        return __real_##name args;                  \
    }

WRAP(void *, KIND_ALLOC, malloc, (size_t a), (a), NULL)
WRAP(void *, KIND_ALLOC, calloc, (size_t a, size_t b), (a, b), NULL)
WRAP(void *, KIND_ALLOC, realloc, (void *a, size_t b), (a, b), NULL)
WRAP(char *, KIND_ALLOC, strdup, (const char *a), (a), NULL)
WRAP(char *, KIND_ALLOC, strndup, (const char *a, size_t b), (a, b), NULL)
WRAP(int, KIND_ALLOC, posix_memalign, (void **a, size_t b, size_t c), (a, b, c), ENOMEM)

int __wrap_asprintf(char **text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int __wrap_asprintf(char **text, const char *fmt, ...)
{
    if (ask(KIND_ALLOC, "asprintf") != GO_ON)
        return -1;
    va_list args;
    va_start(args, fmt);
    int length = vasprintf(text, fmt, args);
    va_end(args);
    return length;
}

WRAP_MOVE(KIND_MOVE_IN, read, (int a, void *b, size_t c), (a, b, c), c)
WRAP_MOVE(KIND_MOVE_IN, pread64, (int a, void *b, size_t c, off_t d), (a, b, c, d), c)
WRAP_MOVE(KIND_MOVE_OUT, pwrite64, (int a, const void *b, size_t c, off_t d), (a, b, c, d), c)
WRAP_MOVE(KIND_MOVE_OUT, copy_file_range, (int a, off_t *b, int c, off_t *d, size_t e, unsigned f),
          (a, b, c, d, e, f), e)

/* A short transfer is one of half of the first buffer. */
#define WRAP_MOVE_VECTOR(kind, name)                                     \
    ssize_t __real_##name(int a, const struct iovec *b, int c, off_t d); \
    ssize_t __wrap_##name(int a, const struct iovec *b, int c, off_t d); \
    ssize_t __wrap_##name(int a, const struct iovec *b, int c, off_t d)  \
    {                                                                    \
        enum answer answer = ask(kind, #name);                           \
        struct iovec half = c > 0 ? b[0] : (struct iovec){0};            \
        if (answer == FAIL)                                              \
            return -1;                                                   \
        if (answer == GO_ON || half.iov_len < 2)                         \
            return __real_##name(a, b, c, d);                            \
        half.iov_len /= 2;                                               \
        return __real_##name(a, &half, 1, d);                            \
    }

WRAP_MOVE_VECTOR(KIND_MOVE_IN, preadv64)
WRAP_MOVE_VECTOR(KIND_MOVE_OUT, pwritev64)

WRAP(int, KIND_INTR, fdatasync, (int a), (a), -1)
WRAP(int, KIND_INTR, fsync, (int a), (a), -1)
WRAP(int, KIND_PLAIN, syncfs, (int a), (a), -1)
WRAP(int, KIND_SPACE, fallocate64, (int a, int b, off_t c, off_t d), (a, b, c, d), -1)
WRAP(int, KIND_SPACE, ftruncate64, (int a, off_t b), (a, b), -1)
WRAP(off_t, KIND_PLAIN, lseek64, (int a, off_t b, int c), (a, b, c), -1)
WRAP(int, KIND_PLAIN, fstat64, (int a, struct stat *b), (a, b), -1)
WRAP(int, KIND_PLAIN, stat64, (const char *a, struct stat *b), (a, b), -1)
WRAP(int, KIND_PLAIN, statx, (int a, const char *b, int c, unsigned d, struct statx *e),
     (a, b, c, d, e), -1)
WRAP(int, KIND_PLAIN, sync_file_range, (int a, off_t b, off_t c, unsigned d), (a, b, c, d), -1)
WRAP(int, KIND_PLAIN, unlink, (const char *a), (a), -1)
WRAP(int, KIND_SPACE, link, (const char *a, const char *b), (a, b), -1)
WRAP(int, KIND_SPACE, rename, (const char *a, const char *b), (a, b), -1)
WRAP(int, KIND_SPACE, renameat2, (int a, const char *b, int c, const char *d, unsigned e),
     (a, b, c, d, e), -1)
WRAP(int, KIND_PLAIN, posix_fadvise64, (int a, off_t b, off_t c, int d), (a, b, c, d), EIO)
WRAP(FILE *, KIND_PLAIN, fopen64, (const char *a, const char *b), (a, b), NULL)
WRAP(ssize_t, KIND_PLAIN, getrandom, (void *a, size_t b, unsigned c), (a, b, c), -1)
WRAP(int, KIND_PLAIN, pthread_create,
     (pthread_t * a, const pthread_attr_t *b, void *(*c)(void *), void *d), (a, b, c, d), EAGAIN)

int __real_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode)
{
    if (ask((flags & O_CREAT) ? KIND_SPACE : KIND_INTR, "open64") != GO_ON)
        return -1;
    return __real_open64(path, flags, mode);
}

int __real_fcntl64(int fd, int command, void *argument);
int __wrap_fcntl64(int fd, int command, void *argument);
int __wrap_fcntl64(int fd, int command, void *argument)
{
    if (ask(KIND_PLAIN, "fcntl64") != GO_ON)
        return -1;
    return __real_fcntl64(fd, command, argument);
}

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
    if (ask(KIND_PLAIN, "ioctl") != GO_ON)
        return -1;
    return __real_ioctl(fd, request, argument);
}
