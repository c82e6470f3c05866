/* SPDX-License-Identifier: MIT */
/*
 * One connection: a thread that negotiates, moves data, and leaves.
 *
 * C1  A connection is in the list of the server exactly as long as its descriptor may be touched by
 *     others: to cut it off, or to count its bytes.
 *
 * C2  A thread that has ended is joined by the next one that ends, so there is one at most that
 *     nobody has joined, and it is joined before the server has stopped.
 *
 * C3  The export is left when nobody touches its image any more on behalf of the connection.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "nbdproto/nbdproto.h"
#include "serve/server.h"
#include "serve/transmit.h"

/* Requests at hand are done by the thread itself, and a chain of 1024 images takes 1 MiB. */
#define STACK_BYTES (4u << 20)

/* What a connection needs beside the payload of one request. */
#define MEMORY_BESIDE_PAYLOAD (2u << 20)

/* A client whose machine has gone without a word is found out after some two minutes. */
#define KEEPALIVE_IDLE_SECONDS     60
#define KEEPALIVE_INTERVAL_SECONDS 15
#define KEEPALIVE_PROBES           4

/* How long the last replies may be on their way. */
#define DELIVERY_MS      5000u
#define DELIVERY_LOOK_MS 5

/* ---- Who it is ---- */

static void name_of_ip(const uint8_t address[16], uint16_t port, char *peer)
{
    char text[INET6_ADDRSTRLEN] = "?";
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (memcmp(address, mapped, sizeof(mapped)) == 0) {
        inet_ntop(AF_INET, address + sizeof(mapped), text, sizeof(text));
        snprintf(peer, VD_TLS_PEER_BYTES, "%s:%u", text, (unsigned)port);
    } else {
        inet_ntop(AF_INET6, address, text, sizeof(text));
        snprintf(peer, VD_TLS_PEER_BYTES, "[%s]:%u", text, (unsigned)port);
    }
}

static void find_peer(struct vd_connection *connection, int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in ip4;
        struct sockaddr_in6 ip6;
        struct sockaddr_vm vm;
        struct sockaddr_storage all;
    } name = {.all = {0}};
    socklen_t length = sizeof(name);
    if (getpeername(fd, &name.any, &length) < 0 || length < sizeof(sa_family_t))
        name.any.sa_family = AF_UNSPEC; /* it has left already */

    switch (name.any.sa_family) {
    case AF_INET:
        connection->address[10] = 0xff;
        connection->address[11] = 0xff;
        memcpy(connection->address + 12, &name.ip4.sin_addr, 4);
        name_of_ip(connection->address, ntohs(name.ip4.sin_port), connection->peer);
        break;
    case AF_INET6:
        memcpy(connection->address, &name.ip6.sin6_addr, 16);
        name_of_ip(connection->address, ntohs(name.ip6.sin6_port), connection->peer);
        break;
    case AF_VSOCK:
        snprintf(connection->peer, sizeof(connection->peer), "vsock:%u:%u", name.vm.svm_cid,
                 name.vm.svm_port);
        break;
    case AF_UNIX:
        snprintf(connection->peer, sizeof(connection->peer), "unix");
        break;
    default:
        snprintf(connection->peer, sizeof(connection->peer), "unknown");
        break;
    }
}

/* Replies do not wait for more of them (stream.c), and who has gone is noticed.  What is no TCP
 * socket does not know these options. */
static void find_out_the_dead(int fd)
{
    int on = 1;
    int idle = KEEPALIVE_IDLE_SECONDS;
    int interval = KEEPALIVE_INTERVAL_SECONDS;
    int probes = KEEPALIVE_PROBES;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

/* No IP address, and so none to be limited. */
static bool is_local(const struct vd_connection *connection)
{
    static const uint8_t none[16];
    return memcmp(connection->address, none, sizeof(none)) == 0;
}

/* ---- The list ---- */

static void link_in(struct vdisk_server *server, struct vd_connection *connection)
    VD_REQUIRES(server->lock)
{
    connection->next = server->connections;
    connection->link = &server->connections;
    if (connection->next)
        connection->next->link = &connection->next;
    server->connections = connection;
}

static void link_out(const struct vdisk_server *server, struct vd_connection *connection)
    VD_REQUIRES(server->lock)
{
    (void)server;
    *connection->link = connection->next;
    if (connection->next)
        connection->next->link = connection->link;
    connection->next = NULL;
    connection->link = NULL;
}

static uint32_t count_of_address(const struct vdisk_server *server, const uint8_t address[16])
    VD_REQUIRES(server->lock)
{
    uint32_t count = 0;
    for (const struct vd_connection *at = server->connections; at; at = at->next)
        count += memcmp(at->address, address, 16) == 0;
    return count;
}

/* May there be one more, from there? */
static int admit(const struct vdisk_server *server, const struct vd_connection *connection,
                 struct vdisk_error *err) VD_REQUIRES(server->lock)
{
    const struct vdisk_server_options *options = &server->options;
    if (server->is_closed)
        return vd_err_set(err, ESHUTDOWN, "%s: the server has stopped", connection->peer);
    if (server->connection_entries >= options->connections)
        return vd_err_set(err, EUSERS, "%s: there are %u connections, as many as allowed",
                          connection->peer, server->connection_entries);
    if (options->connections_per_address < options->connections && !is_local(connection)) {
        uint32_t count = count_of_address(server, connection->address);
        if (count >= options->connections_per_address)
            return vd_err_set(err, EUSERS,
                              "%s: there are %" PRIu32
                              " connections from this address, as many as allowed",
                              connection->peer, count);
    }
    return 0;
}

void vd_connections_sum(const struct vdisk_server *server, const struct vd_export *export,
                        struct vdisk_server_stats *stats)
{
    for (const struct vd_connection *at = server->connections; at; at = at->next) {
        if (!at->export || (export && at->export != export))
            continue;
        stats->received_bytes += atomic_load(&at->stream.received_bytes);
        stats->sent_bytes += atomic_load(&at->stream.sent_bytes);
    }
}

/* ---- The thread ---- */

/* The most that one request may carry: a power of two that leaves room for another small one. */
static uint32_t payload_max_of(uint64_t memory_bytes)
{
    uint32_t payload = NBD_PAYLOAD_BASE;
    while (payload < (1u << 30) && payload * UINT64_C(2) + MEMORY_BESIDE_PAYLOAD <= memory_bytes)
        payload *= 2;
    return payload;
}

static int negotiate(struct vd_connection *connection, struct vd_session *session,
                     struct vdisk_error *err)
{
    struct vdisk_server *server = connection->server;
    struct vd_handshake handshake = {
        .exports = &server->exports,
        .tls = server->tls,
        .log = &server->log,
        .is_stopping = &server->is_stopping,
        .deadline = connection->since_ms + server->options.negotiation_ms,
        .payload_max = payload_max_of(server->options.connection_bytes),
    };
    memcpy(handshake.peer, connection->peer, sizeof(handshake.peer));
    int ret = vd_handshake(&handshake, &connection->stream, session, err);

    vd_mutex_lock(&server->lock);
    memcpy(connection->peer, handshake.peer, sizeof(connection->peer));
    if (ret == 0) {
        server->chosen++;
        connection->export = session->export;
        /* Whoever removes the export has marked it before looking for its clients. */
        if (atomic_load(&session->export->is_removed))
            vd_stream_end_receiving(&connection->stream);
    } else {
        server->refused++;
    }
    vd_mutex_unlock(&server->lock);
    return ret;
}

/* Its numbers become those of the export. */
static void leave(struct vd_connection *connection, struct vd_export *export)
{
    struct vdisk_server *server = connection->server;
    vd_mutex_lock(&server->lock);
    atomic_fetch_add(&export->counters.received_bytes, connection->stream.received_bytes);
    atomic_fetch_add(&export->counters.sent_bytes, connection->stream.sent_bytes);
    connection->export = NULL;
    vd_cond_broadcast(&server->changed);
    vd_mutex_unlock(&server->lock);
    vd_export_leave(&server->exports, export); /* C3 */
}

/*
 * When a TCP socket is closed in which there are requests that nobody has received, the system
 * resets the connection, and throws away the replies that are still on their way.  So a client that
 * goes on asking, while it is being disconnected, gets time to take them.
 */
static void deliver(const struct vd_connection *connection, const struct vd_export *export)
{
    if (is_local(connection) ||
        !(atomic_load(&connection->server->is_stopping) || atomic_load(&export->is_removed)))
        return;
    int fd = connection->stream.fd;
    uint64_t deadline = vd_clock_ms() + DELIVERY_MS;
    int left = 0;
    while (!atomic_load(&connection->is_cut) && vd_clock_ms() < deadline &&
           ioctl(fd, SIOCOUTQ, &left) == 0 && left > 0) {
        struct pollfd at = {.fd = fd}; /* tells of one that has gone, or was cut */
        if (poll(&at, 1, DELIVERY_LOOK_MS) > 0)
            break;
    }
}

static int serve(struct vd_connection *connection, struct vdisk_error *err)
{
    struct vdisk_server *server = connection->server;
    const struct vdisk_server_options *options = &server->options;
    struct vd_session session = {0};
    int ret = negotiate(connection, &session, err);
    if (ret < 0)
        return ret;
    vd_log(&server->log, VDISK_LOG_INFO, "%s: uses export '%s'", connection->peer,
           session.export->name);
    const struct vd_transmit transmit = {
        .pool = server->pool,
        .log = &server->log,
        .peer = connection->peer,
        .is_stopping = &server->is_stopping,
        .memory_bytes = options->connection_bytes,
        .idle_ms = options->idle_ms,
        .stall_ms = options->stall_ms,
        .spinners = &server->spinners,
    };
    ret = vd_transmit(&transmit, &session, err);
    deliver(connection, session.export);
    leave(connection, session.export);
    return ret;
}

static void join(struct vd_connection *finished)
{
    if (!finished)
        return;
    pthread_join(finished->thread, NULL);
    free(finished);
}

static void finish(struct vd_connection *connection)
{
    struct vdisk_server *server = connection->server;
    vd_mutex_lock(&server->lock);
    link_out(server, connection);
    vd_mutex_unlock(&server->lock);
    vd_stream_close(&connection->stream); /* C1 */

    vd_mutex_lock(&server->lock);
    struct vd_connection *before = server->finished;
    server->finished = connection; /* C2 */
    server->connection_entries--;
    vd_cond_broadcast(&server->changed);
    vd_mutex_unlock(&server->lock);
    join(before);
}

static void *connection_main(void *opaque)
{
    struct vd_connection *connection = opaque;
    struct vdisk_server *server = connection->server;
    struct vdisk_error err = {0};
    vd_log(&server->log, VDISK_LOG_DEBUG, "%s: connected", connection->peer);
    int ret = serve(connection, &err);
    if (ret == 0 || ret == -ECANCELED)
        vd_log(&server->log, VDISK_LOG_INFO, "%s: left", connection->peer);
    else if (atomic_load(&server->is_stopping))
        vd_log(&server->log, VDISK_LOG_INFO, "%s: disconnected, as the server stops",
               connection->peer);
    else
        vd_log(&server->log, VDISK_LOG_WARNING, "%s: disconnected: %s", connection->peer,
               err.code ? err.message : strerror(-ret));
    finish(connection);
    return NULL;
}

/* Signals are for the program that the library is in.  Returns 0 or a positive errno. */
static int start_thread(struct vd_connection *connection)
{
    pthread_attr_t attributes;
    int code = pthread_attr_init(&attributes);
    if (code != 0)
        return code;
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    code = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (code == 0) {
        pthread_sigmask(SIG_SETMASK, &all, &before);
        code = pthread_create(&connection->thread, &attributes, connection_main, connection);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attributes);
    return code;
}

int vd_connection_start(struct vdisk_server *server, int fd, struct vdisk_error *err)
{
    struct vd_connection *connection = calloc(1, sizeof(*connection));
    if (!connection)
        return vd_err_nomem(err, "a connection");
    connection->server = server;
    connection->since_ms = vd_clock_ms();
    find_peer(connection, fd);
    vd_stream_init(&connection->stream, fd);
    find_out_the_dead(fd);

    vd_mutex_lock(&server->lock);
    server->accepted++;
    int ret = admit(server, connection, err);
    if (ret == 0) {
        /* The thread takes the lock before anything of this is looked at. */
        int code = start_thread(connection);
        if (code != 0)
            ret = vd_err_errno(err, code, "%s: cannot start a thread", connection->peer);
    }
    if (ret == 0) {
        link_in(server, connection);
        server->connection_entries++;
    } else {
        server->refused++;
    }
    vd_mutex_unlock(&server->lock);
    if (ret < 0)
        free(connection);
    return ret;
}

/* ---- The end ---- */

static bool is_of(const struct vd_connection *connection, const struct vd_export *export)
{
    return !export || connection->export == export;
}

/* Is anybody there still? */
static bool is_used(const struct vdisk_server *server, const struct vd_export *export)
    VD_REQUIRES(server->lock)
{
    if (!export)
        return server->connection_entries > 0;
    for (const struct vd_connection *at = server->connections; at; at = at->next)
        if (at->export == export)
            return true;
    return false;
}

void vd_connections_end(struct vdisk_server *server, const struct vd_export *export,
                        uint64_t deadline)
{
    vd_mutex_lock(&server->lock);
    for (struct vd_connection *at = server->connections; at; at = at->next)
        if (is_of(at, export))
            vd_stream_end_receiving(&at->stream);
    while (is_used(server, export) && vd_cond_wait_until(&server->changed, &server->lock, deadline))
        continue;
    for (struct vd_connection *at = server->connections; at; at = at->next)
        if (is_of(at, export)) {
            atomic_store(&at->is_cut, true);
            vd_stream_cut(&at->stream);
        }
    while (is_used(server, export))
        vd_cond_wait(&server->changed, &server->lock);
    struct vd_connection *finished = NULL;
    if (!export) {
        finished = server->finished;
        server->finished = NULL;
    }
    vd_mutex_unlock(&server->lock);
    join(finished);
}
