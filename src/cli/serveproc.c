/* SPDX-License-Identifier: MIT */
/* The process of a server: background, file with its id, signals. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "cli/serverun.h"
#include "util/err.h"
#include "util/mem.h"

/* A chain of 256 images, and the rest. */
#define FILES_BESIDE_CONNECTIONS 512u

/* --- the background -------------------------------------------------------------------------- */

/* The exit status of the parent. */
static int wait_until_ready(int fd, pid_t child)
{
    char byte;
    ssize_t count;
    do
        count = read(fd, &byte, 1);
    while (count < 0 && errno == EINTR);
    if (count == 1)
        return 0;
    int how = 0;
    while (waitpid(child, &how, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(how) && WEXITSTATUS(how) ? WEXITSTATUS(how) : 1;
}

int vd_serve_fork(int *ready_fd)
{
    int fds[2];
    fflush(stdout);
    if (pipe2(fds, O_CLOEXEC) < 0) {
        vd_cli_error("--fork: %s", strerror(errno));
        return 1;
    }
    pid_t child = fork();
    if (child == 0) {
        close(fds[0]);
        *ready_fd = fds[1];
        setsid();
        return VD_CLI_GO;
    }
    int problem = errno;
    close(fds[1]);
    CLEANUP_CLOSE int fd = fds[0];
    if (child > 0)
        return wait_until_ready(fd, child);
    vd_cli_error("--fork: %s", strerror(problem));
    return 1;
}

void vd_serve_leave_terminal(int ready_fd)
{
    fflush(stdout);
    CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = STDIN_FILENO; null >= 0 && fd <= STDERR_FILENO; fd++)
        dup2(null, fd);
    ssize_t count;
    do
        count = write(ready_fd, "", 1); /* SIGPIPE is ignored: a parent that was killed waits not */
    while (count < 0 && errno == EINTR);
    close(ready_fd);
}

/* --- the file with the process id ------------------------------------------------------------- */

int vd_pid_file_make(const char *path, int *fd, struct vdisk_error *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char text[32];
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (*fd < 0)
        return vd_err_errno(err, errno, "--pid-file: %s", path);
    int ret = 0;
    if (fcntl(*fd, F_OFD_SETLK, &lock) < 0)
        ret = vd_err_set(err, EBUSY, "--pid-file: %s: another server has this file", path);
    int length = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ret == 0 && (ftruncate(*fd, 0) < 0 || write(*fd, text, (size_t)length) != length))
        ret = vd_err_errno(err, errno, "--pid-file: %s", path);
    if (ret < 0) {
        close(*fd);
        *fd = -1;
    }
    return ret;
}

void vd_pid_file_remove(const char *path, int fd)
{
    struct stat ours, there;
    if (fd < 0)
        return;
    if (fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_dev == there.st_dev &&
        ours.st_ino == there.st_ino)
        unlink(path);
    close(fd);
}

/* --- limits ------------------------------------------------------------------------------------
 */

void vd_serve_allow_connections(uint32_t connections)
{
    vd_cli_allow_files(connections + FILES_BESIDE_CONNECTIONS); /* or clients too many wait */
}

/* --- signals -----------------------------------------------------------------------------------
 */

static void *guard(void *opaque)
{
    struct vd_serve_signals *signals = opaque;
    struct pollfd fds[] = {
        {.fd = signals->signal_fd, .events = POLLIN},
        {.fd = signals->stop_fd, .events = POLLIN},
    };
    for (;;) {
        struct signalfd_siginfo info;
        if (poll(fds, 2, -1) < 0)
            continue; /* EINTR */
        if (fds[1].revents)
            return NULL;
        if (read(fds[0].fd, &info, sizeof(info)) == (ssize_t)sizeof(info) &&
            info.ssi_signo != SIGCHLD)
            _exit(128 + (int)info.ssi_signo);
    }
}

int vd_serve_signals_begin(struct vd_serve_signals *signals, struct vdisk_error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    *signals = (struct vd_serve_signals){
        .signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
        .stop_fd = eventfd(0, EFD_CLOEXEC),
    };
    pthread_sigmask(SIG_BLOCK, &set, &signals->before);
    int problem = signals->signal_fd < 0 || signals->stop_fd < 0
                      ? errno
                      : pthread_create(&signals->guard, NULL, guard, signals);
    signals->is_guarded = problem == 0;
    return problem ? vd_err_errno(err, problem, "waiting for signals") : 0;
}

void vd_serve_signals_take(struct vd_serve_signals *signals)
{
    uint64_t one = 1;
    if (!signals->is_guarded)
        return;
    while (write(signals->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        continue;
    pthread_join(signals->guard, NULL);
    signals->is_guarded = false;
}

void vd_serve_signals_end(struct vd_serve_signals *signals)
{
    struct signalfd_siginfo info;
    vd_serve_signals_take(signals);
    while (signals->signal_fd >= 0 && read(signals->signal_fd, &info, sizeof(info)) > 0)
        continue; /* came too late to end anything */
    if (signals->signal_fd >= 0)
        close(signals->signal_fd);
    if (signals->stop_fd >= 0)
        close(signals->stop_fd);
    pthread_sigmask(SIG_SETMASK, &signals->before, NULL);
}
