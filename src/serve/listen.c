/* SPDX-License-Identifier: MIT */
/*
 * The thread that accepts.  When the system has no descriptor or no memory for another client, it
 * waits a while, as those who wait in the queue of the socket would only keep it awake.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/server.h"

#define PAUSE_MS 100

/* Refusals are reported so often at most; more in between are counted. */
#define REPORT_MS 1000

struct listening_socket {
    int fd;
    struct listening_socket *next;
};

struct vd_listener {
    struct vdisk_server *server;
    pthread_t thread;
    int epoll;
    int wake; /* eventfd: comes with a NULL pointer */
    struct vd_mutex lock;
    struct listening_socket *sockets; /* under lock */
    /* The thread's own: */
    bool has_run_short;
    uint64_t reported_ms;
    uint64_t unreported;
};

/* Somebody who came was not served. */
static void report_refusal(struct vd_listener *listener, const struct vdisk_error *err)
{
    uint64_t now = vd_clock_ms();
    if (listener->reported_ms && now - listener->reported_ms < REPORT_MS) {
        listener->unreported++;
        return;
    }
    const struct vd_log *log = &listener->server->log;
    if (listener->unreported)
        vd_log(log, VDISK_LOG_WARNING, "refused: %s; and %llu more before", err->message,
               (unsigned long long)listener->unreported);
    else
        vd_log(log, VDISK_LOG_WARNING, "refused: %s", err->message);
    listener->reported_ms = now;
    listener->unreported = 0;
}

static void give_up(struct vd_listener *listener, const struct listening_socket *from, int code)
{
    vd_log(&listener->server->log, VDISK_LOG_ERROR, "cannot listen any more on descriptor %d: %s",
           from->fd, strerror(code));
    epoll_ctl(listener->epoll, EPOLL_CTL_DEL, from->fd, NULL);
}

/* What accept() says when there is nobody, or nobody any more; the network's errors are those of
 * the client. */
static bool is_nobody(int code)
{
    switch (code) {
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case EPERM:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ETIMEDOUT:
        return true;
    default:
        return false;
    }
}

/* false: the system is short of something. */
static bool accept_one(struct vd_listener *listener, const struct listening_socket *from)
{
    int fd = accept4(from->fd, NULL, NULL, SOCK_CLOEXEC);
    int code = errno;
    if (fd >= 0) {
        listener->has_run_short = false;
        struct vdisk_error err = {0};
        if (vd_connection_start(listener->server, fd, &err) < 0) {
            close(fd);
            report_refusal(listener, &err);
        }
        return true;
    }
    if (is_nobody(code))
        return true;
    if (code == EBADF || code == EINVAL || code == ENOTSOCK || code == EOPNOTSUPP) {
        give_up(listener, from, code);
        return true;
    }
    if (!listener->has_run_short)
        vd_log(&listener->server->log, VDISK_LOG_ERROR,
               "cannot accept clients for now, trying again: %s", strerror(code));
    listener->has_run_short = true;
    return false;
}

static void *listener_main(void *opaque)
{
    struct vd_listener *listener = opaque;
    for (;;) {
        struct epoll_event events[16];
        int entries = epoll_wait(listener->epoll, events, 16, -1);
        for (int i = 0; i < entries; i++)
            if (!events[i].data.ptr)
                return NULL;
        bool is_short = false;
        for (int i = 0; i < entries; i++)
            if (!accept_one(listener, events[i].data.ptr))
                is_short = true;
        struct pollfd wake = {.fd = listener->wake, .events = POLLIN};
        if (is_short && poll(&wake, 1, PAUSE_MS) > 0)
            return NULL;
    }
}

/* Closes what there is of it; its thread is not running. */
static void close_listener(struct vd_listener *listener)
{
    while (listener->sockets) {
        struct listening_socket *next = listener->sockets->next;
        close(listener->sockets->fd);
        free(listener->sockets);
        listener->sockets = next;
    }
    if (listener->wake >= 0)
        close(listener->wake);
    if (listener->epoll >= 0)
        close(listener->epoll);
    vd_mutex_destroy(&listener->lock);
    free(listener);
}

/* Signals are for the program that the library is in.  Returns 0 or a positive errno. */
static int start_thread(struct vd_listener *listener)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&listener->thread, NULL, listener_main, listener);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

int vd_listener_create(struct vdisk_server *server, struct vd_listener **made,
                       struct vdisk_error *err)
{
    struct vd_listener *listener = calloc(1, sizeof(*listener));
    if (!listener)
        return vd_err_nomem(err, "the thread that accepts");
    listener->server = server;
    vd_mutex_init(&listener->lock);
    listener->epoll = epoll_create1(EPOLL_CLOEXEC);
    int code = listener->epoll < 0 ? errno : 0;
    listener->wake = eventfd(0, EFD_CLOEXEC);
    if (code == 0 && listener->wake < 0)
        code = errno;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (code == 0 && epoll_ctl(listener->epoll, EPOLL_CTL_ADD, listener->wake, &event) < 0)
        code = errno;
    if (code == 0)
        code = start_thread(listener);
    if (code != 0) {
        close_listener(listener);
        return vd_err_errno(err, code, "cannot listen");
    }
    *made = listener;
    return 0;
}

int vd_listener_add(struct vd_listener *listener, int fd, struct vdisk_error *err)
{
    /* Who has gone between epoll_wait() and accept() must not be waited for. */
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return vd_err_errno(err, errno, "cannot listen on descriptor %d", fd);
    struct listening_socket *added = malloc(sizeof(*added));
    if (!added)
        return vd_err_nomem(err, "a socket to listen on");

    vd_mutex_lock(&listener->lock);
    *added = (struct listening_socket){.fd = fd, .next = listener->sockets};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = added};
    int code = epoll_ctl(listener->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? errno : 0;
    if (code == 0)
        listener->sockets = added;
    vd_mutex_unlock(&listener->lock);
    if (code != 0) {
        free(added);
        return vd_err_errno(err, code, "cannot listen on descriptor %d", fd);
    }
    return 0;
}

void vd_listener_free(struct vd_listener *listener)
{
    /* The thread reads it never: it stays readable. */
    const uint64_t one = 1;
    ssize_t ret = write(listener->wake, &one, sizeof(one));
    assert(ret == sizeof(one));
    (void)ret;
    pthread_join(listener->thread, NULL);
    close_listener(listener);
}
