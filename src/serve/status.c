/* SPDX-License-Identifier: MIT */
/* The thread of the status page: connections come in, are served, and are cut when they dawdle. */
#include "serve/status.h"

#include <fcntl.h>
#include <limits.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/mem.h"

#define CLIENTS_MAX     64u
#define MEMORY_BYTES    ((size_t)32 << 10) /* of a connection: heads of request and answer */
#define REQUEST_MS      10000u /* a client may take so long for a request, its answer included */
#define LOOK_MS         1000   /* how often that is looked at */
#define SHORTAGE_MS     200    /* after an accept that failed */
#define ACCEPTS_AT_ONCE 16

/* A connection of libmicrohttpd's. */
struct client {
    int fd;
    uint64_t since_ms; /* connected, or last answered */
};

struct vd_status {
    struct vd_status_site site;
    struct MHD_Daemon *daemon;
    int listen_fd; /* owned */
    int stop_fd;   /* owned: becomes readable when the thread shall end */
    int epoll_fd;  /* the daemon's */
    pthread_t thread;

    /* Used by the thread only. */
    struct client clients[CLIENTS_MAX];
    unsigned client_entries;
};

static enum MHD_Result handle(void *opaque, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **request)
{
    (void)version;
    (void)upload;
    struct vd_status *status = opaque;
    if (!*request && *upload_bytes == 0) {
        /* A request that is answered before its end, as those with a body are, ends the connection.
         */
        *request = status;
        if (vd_status_may_wait(connection))
            return MHD_YES;
    }
    return (enum MHD_Result)vd_status_answer(&status->site, connection, url, method);
}

static int fd_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

static struct client *find_client(struct vd_status *status, int fd)
{
    for (unsigned i = 0; i < status->client_entries; i++)
        if (status->clients[i].fd == fd)
            return &status->clients[i];
    return NULL;
}

static void on_connection(void *opaque, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    (void)context;
    struct vd_status *status = opaque;
    int fd = fd_of(connection);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        assert(status->client_entries < CLIENTS_MAX); /* accept_clients() sees to it */
        status->clients[status->client_entries++] = (struct client){fd, vd_clock_ms()};
        return;
    }
    struct client *client = find_client(status, fd);
    if (client)
        *client = status->clients[--status->client_entries];
}

static void on_completed(void *opaque, struct MHD_Connection *connection, void **request,
                         enum MHD_RequestTerminationCode code)
{
    (void)request;
    (void)code;
    struct client *client = find_client(opaque, fd_of(connection));
    if (client)
        client->since_ms = vd_clock_ms();
}

/* Those that send a request, or take its answer, a byte at a time. */
static void cut_dawdlers(struct vd_status *status)
{
    uint64_t now = vd_clock_ms();
    for (unsigned i = 0; i < status->client_entries; i++)
        if (now - status->clients[i].since_ms > REQUEST_MS)
            shutdown(status->clients[i].fd, SHUT_RDWR);
}

/* Returns false if nothing can be accepted for now. */
static bool accept_clients(struct vd_status *status)
{
    for (int i = 0; i < ACCEPTS_AT_ONCE && status->client_entries < CLIENTS_MAX; i++) {
        struct sockaddr_storage address = {0};
        socklen_t length = sizeof(address);
        int fd = accept4(status->listen_fd, (struct sockaddr *)&address, &length,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ||
                   errno == ECONNABORTED;
        /* It closes the socket also if it fails. */
        MHD_add_connection(status->daemon, fd, (struct sockaddr *)&address, length);
    }
    return true;
}

static int wait_ms(struct vd_status *status, bool has_shortage)
{
    MHD_UNSIGNED_LONG_LONG wanted;
    int limit = has_shortage ? SHORTAGE_MS : LOOK_MS;
    if (MHD_get_timeout(status->daemon, &wanted) == MHD_YES && wanted < (unsigned)limit)
        return (int)wanted;
    return status->client_entries || has_shortage ? limit : -1;
}

static void *status_main(void *opaque)
{
    struct vd_status *status = opaque;
    bool has_shortage = false;
    uint64_t looked_ms = vd_clock_ms();
    for (;;) {
        bool is_full = status->client_entries == CLIENTS_MAX;
        struct pollfd fds[] = {
            {.fd = status->stop_fd, .events = POLLIN},
            {.fd = status->epoll_fd, .events = POLLIN},
            {.fd = is_full || has_shortage ? -1 : status->listen_fd, .events = POLLIN},
        };
        if (poll(fds, 3, wait_ms(status, has_shortage)) < 0 && errno != EINTR && errno != EAGAIN)
            break;
        if (fds[0].revents)
            break;
        has_shortage = fds[2].revents && !accept_clients(status);
        MHD_run(status->daemon);
        if (vd_clock_ms() - looked_ms >= LOOK_MS) {
            looked_ms = vd_clock_ms();
            cut_dawdlers(status);
        }
    }
    return NULL;
}

VD_PRINTF(2, 0)
static void log_line(void *opaque, const char *fmt, va_list args)
{
    struct vd_status *status = opaque;
    char line[512];
    vsnprintf(line, sizeof(line), fmt, args);
    vd_log(&status->site.server->log, VDISK_LOG_DEBUG, "status page: %s", line);
}

static struct MHD_Daemon *start_daemon(struct vd_status *status)
{
    const struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)log_line, status},
        {MHD_OPTION_CONNECTION_LIMIT, CLIENTS_MAX, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)MEMORY_BYTES, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, REQUEST_MS / 1000, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, status},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, status},
        {MHD_OPTION_END, 0, NULL},
    };
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG, 0, NULL,
                            NULL, handle, status, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
}

/* The program's signals are not for this thread. */
static int start_thread(struct vd_status *status)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int code = pthread_create(&status->thread, NULL, status_main, status);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return code;
}

/* All but the thread and the listening socket. */
static void release(struct vd_status *status)
{
    if (status->daemon)
        MHD_stop_daemon(status->daemon);
    if (status->stop_fd >= 0)
        close(status->stop_fd);
    vd_status_maps_free(status->site.maps);
    free(status);
}

static int start(struct vd_status *status, struct vdisk_error *err)
{
    status->site.maps = vd_status_maps_create();
    if (!status->site.maps)
        return vd_err_nomem(err, "the status page");
    status->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (status->stop_fd < 0)
        return vd_err_errno(err, errno, "status page: eventfd");
    int flags = fcntl(status->listen_fd, F_GETFL);
    if (flags < 0 || fcntl(status->listen_fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return vd_err_errno(err, errno, "status page: socket");
    status->daemon = start_daemon(status);
    const union MHD_DaemonInfo *info =
        status->daemon ? MHD_get_daemon_info(status->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info)
        return vd_err_nomem(err, "the status page: libmicrohttpd does not start");
    status->epoll_fd = info->epoll_fd;
    int code = start_thread(status);
    return code ? vd_err_errno(err, code, "status page: thread") : 0;
}

int vd_status_create(struct vdisk_server *server, int fd, struct vd_status **status,
                     struct vdisk_error *err)
{
    struct vd_status *made = calloc(1, sizeof(*made));
    if (!made)
        return vd_err_nomem(err, "the status page");
    made->site.server = server;
    made->site.since_ms = vd_clock_ms();
    made->listen_fd = fd;
    made->stop_fd = -1;
    int ret = start(made, err);
    if (ret < 0) {
        release(made);
        return ret;
    }
    *status = made;
    return 0;
}

void vd_status_free(struct vd_status *status)
{
    if (!status)
        return;
    uint64_t one = 1;
    ssize_t written = write(status->stop_fd, &one, sizeof(one));
    assert(written == (ssize_t)sizeof(one));
    (void)written;
    pthread_join(status->thread, NULL);
    close(status->listen_fd);
    release(status);
}
