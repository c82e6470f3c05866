/* SPDX-License-Identifier: MIT */
/* Sockets from whoever started us: socket activation, and --fd. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/servebind.h"
#include "util/err.h"
#include "util/mem.h"

#define ACTIVATION_FIRST 3 /* descriptors behind the standard ones */
#define ACTIVATION_MAX   1000

/* A whole decimal number; false: it is none. */
static bool read_number(const char *text, long max, long *number)
{
    char *end;
    errno = 0;
    *number = strtol(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && !*end && !errno && *number <= max;
}

static int take_activation(struct vd_serve_activation *activation, const char *count,
                           struct vdisk_error *err)
{
    long entries;
    if (!read_number(count, ACTIVATION_MAX, &entries))
        return vd_err_set(err, EINVAL, "LISTEN_FDS: '%s' is not a number from 0 to %d", count,
                          ACTIVATION_MAX);
    for (int i = 0; i < (int)entries; i++)
        if (fcntl(ACTIVATION_FIRST + i, F_SETFD, FD_CLOEXEC) < 0)
            return vd_err_errno(err, errno, "LISTEN_FDS=%ld: file descriptor %d", entries,
                                ACTIVATION_FIRST + i);
    const char *names = getenv("LISTEN_FDNAMES");
    activation->names = names ? strdup(names) : NULL;
    if (names && !activation->names)
        return vd_err_nomem(err, "LISTEN_FDNAMES");
    activation->first = ACTIVATION_FIRST;
    activation->entries = (int)entries;
    return 0;
}

int vd_serve_activation_take(struct vd_serve_activation *activation, struct vdisk_error *err)
{
    const char *owner = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    long pid;
    int ret = 0;
    *activation = (struct vd_serve_activation){0};
    if (owner && count && read_number(owner, INT32_MAX, &pid) && pid == (long)getpid())
        ret = take_activation(activation, count, err);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return ret;
}

/* Is the name at *names "status"?  Moves *names behind it. */
static bool is_status(const char **names)
{
    const char *name = *names;
    if (!name)
        return false;
    size_t length = strcspn(name, ":");
    *names = name[length] ? name + length + 1 : NULL;
    return length == strlen("status") && memcmp(name, "status", length) == 0;
}

int vd_inherit_activation(const struct vd_serve_activation *activation,
                          struct vd_serve_sockets *sockets, struct vdisk_error *err)
{
    const char *names = activation->names;
    for (int i = 0; i < activation->entries; i++) {
        struct vd_serve_socket *socket = &sockets->status;
        if (!is_status(&names))
            socket = vd_serve_sockets_add(sockets, err);
        else if (socket->fd >= 0)
            return vd_err_set(err, EINVAL, "LISTEN_FDNAMES: two sockets are called 'status'");
        if (!socket)
            return -ENOMEM;
        socket->kind = VD_SERVE_INHERITED;
        socket->fd = activation->first + i;
    }
    if (!sockets->entries)
        return vd_err_set(err, EINVAL, "LISTEN_FDS: there is no socket for clients");
    return 0;
}

/* Puts a file that is neither read nor written in the place of standard file @fd. */
static void fill_standard(int fd)
{
    CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0)
        dup2(null, fd);
}

static bool is_same(int a, int b)
{
    struct stat facts_a, facts_b;
    return fstat(a, &facts_a) == 0 && fstat(b, &facts_b) == 0 && facts_a.st_dev == facts_b.st_dev &&
           facts_a.st_ino == facts_b.st_ino;
}

int vd_inherit_fd(int fd, struct vd_serve_sockets *sockets, struct vdisk_error *err)
{
    struct vd_serve_socket *socket = vd_serve_sockets_add(sockets, err);
    if (!socket)
        return -ENOMEM;
    socket->kind = VD_SERVE_INHERITED;
    socket->fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (socket->fd < 0)
        return vd_err_errno(err, errno, "--fd %d", fd);
    /* A client whose connection is our standard input and output waits for the end of both. */
    for (int standard = 0; standard <= STDOUT_FILENO; standard++)
        if (is_same(standard, socket->fd))
            fill_standard(standard);
    if (fd > STDERR_FILENO)
        close(fd);
    return 0;
}
