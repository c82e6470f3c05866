/* SPDX-License-Identifier: MIT */
/* Bytes to and from a client, as they are; and what plain streams and those by TLS share. */
#include "serve/stream.h"

#include <assert.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/iov.h"

/* Waits until @fd is ready: 0, or -ETIMEDOUT. */
static int wait_for(int fd, short events, uint64_t deadline)
{
    for (;;) {
        int timeout_ms = -1;
        if (deadline != VD_NEVER) {
            uint64_t now = vd_clock_ms();
            uint64_t left_ms = deadline > now ? deadline - now : 0;
            timeout_ms = left_ms > INT_MAX ? INT_MAX : (int)left_ms;
        }
        struct pollfd at = {.fd = fd, .events = events};
        int ready = poll(&at, 1, timeout_ms);
        if (ready > 0)
            return 0;
        if (ready == 0 && timeout_ms != INT_MAX)
            return -ETIMEDOUT;
        if (ready < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
    }
}

/* A descriptor that somebody has made non-blocking is waited for as well: hence poll(). */
static ssize_t plain_receive(struct vd_stream *stream, void *buf, size_t length, bool is_waiting)
{
    for (;;) {
        ssize_t got = recv(stream->fd, buf, length, is_waiting ? 0 : MSG_DONTWAIT);
        if (got >= 0)
            return got;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return -errno;
        if (!is_waiting)
            return -EAGAIN;
        int ret = wait_for(stream->fd, POLLIN, VD_NEVER);
        if (ret < 0)
            return ret;
    }
}

/* Sends some of it: one call of the system takes IOV_MAX buffers. */
static ssize_t send_some(int fd, struct iovec *iov, int iov_entries, bool is_waiting)
{
    struct msghdr message = {.msg_iov = iov,
                             .msg_iovlen = iov_entries < IOV_MAX ? (size_t)iov_entries : IOV_MAX};
    for (;;) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | (is_waiting ? 0 : MSG_DONTWAIT));
        if (sent >= 0)
            return sent;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return -errno;
        if (!is_waiting)
            return -EAGAIN;
        int ret = wait_for(fd, POLLOUT, VD_NEVER);
        if (ret < 0)
            return ret;
    }
}

/* What a first call left over goes out in portions of so many buffers. */
#define PART_ENTRIES 64

/* Sends all but the first @skip bytes, which are less than there are. */
static int send_rest(int fd, const struct iovec *iov, int iov_entries, size_t skip)
{
    while (iov_entries > 0) {
        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            iov++;
            iov_entries--;
            continue;
        }
        struct iovec part[PART_ENTRIES];
        int entries = iov_entries < PART_ENTRIES ? iov_entries : PART_ENTRIES;
        entries = vd_iov_part(part, iov, entries, skip, SSIZE_MAX);
        ssize_t sent = send_some(fd, part, entries, true);
        if (sent < 0)
            return (int)sent;
        skip += (size_t)sent;
    }
    return 0;
}

static ssize_t plain_send(struct vd_stream *stream, const struct iovec *iov, int iov_entries,
                          bool is_waiting)
{
    /* The usual way: the system takes all of it at once.  It does not change the list. */
    ssize_t sent = send_some(stream->fd, (struct iovec *)(uintptr_t)iov, iov_entries, is_waiting);
    if (sent < 0 || !is_waiting)
        return sent;
    size_t length = vd_iov_length(iov, iov_entries);
    if ((size_t)sent < length) {
        int ret = send_rest(stream->fd, iov, iov_entries, (size_t)sent);
        if (ret < 0)
            return ret;
    }
    return (ssize_t)length;
}

static bool plain_has_received(struct vd_stream *stream)
{
    (void)stream;
    return false;
}

static void plain_close(struct vd_stream *stream)
{
    (void)stream;
}

static const struct vd_stream_driver plain = {
    .receive = plain_receive,
    .send = plain_send,
    .has_received = plain_has_received,
    .close = plain_close,
    .sends_beside = true,
};

/* So much of replies may be on the way through a local socket; TCP finds out by itself. */
#define LOCAL_SEND_BYTES (1 << 20)

static void widen_local(int fd)
{
    int domain = 0;
    int wanted = LOCAL_SEND_BYTES;
    socklen_t length = sizeof(domain);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted));
}

void vd_stream_init(struct vd_stream *stream, int fd)
{
    *stream = (struct vd_stream){.driver = &plain, .fd = fd};
    /* Replies go out when they are made.  What is no TCP socket does not know the option. */
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    widen_local(fd);
}

void vd_stream_close(struct vd_stream *stream)
{
    stream->driver->close(stream);
    close(stream->fd);
    stream->fd = -1;
}

/* Numbers that only people read: no order between them is needed. */
static void count(atomic_ullong *counter, ssize_t bytes)
{
    if (bytes > 0)
        atomic_fetch_add_explicit(counter, (unsigned long long)bytes, memory_order_relaxed);
}

ssize_t vd_stream_receive(struct vd_stream *stream, void *buf, size_t length, bool is_waiting)
{
    assert(length > 0);
    ssize_t got = stream->driver->receive(stream, buf, length, is_waiting);
    count(&stream->received_bytes, got);
    return got;
}

ssize_t vd_stream_send(struct vd_stream *stream, const struct iovec *iov, int iov_entries,
                       bool is_waiting)
{
    assert(iov_entries > 0);
    ssize_t sent = stream->driver->send(stream, iov, iov_entries, is_waiting);
    count(&stream->sent_bytes, sent);
    return sent;
}

/* @moved bytes have gone, or -EAGAIN, and @left are left: 0 to try again, or -ETIMEDOUT. */
static int go_on(int fd, short events, ssize_t moved, size_t left, uint64_t deadline)
{
    if (moved < 0)
        return wait_for(fd, events, deadline);
    /* One byte now and then must not make it last. */
    return left > 0 && deadline != VD_NEVER && vd_clock_ms() >= deadline ? -ETIMEDOUT : 0;
}

int vd_stream_receive_all(struct vd_stream *stream, void *buf, size_t length, uint64_t deadline)
{
    uint8_t *at = buf;
    while (length > 0) {
        ssize_t got = vd_stream_receive(stream, at, length, false);
        if (got == 0)
            return -ECONNRESET;
        if (got < 0 && got != -EAGAIN)
            return (int)got;
        if (got > 0) {
            at += got;
            length -= (size_t)got;
        }
        int ret = go_on(stream->fd, POLLIN, got, length, deadline);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int vd_stream_send_all(struct vd_stream *stream, const void *buf, size_t length, uint64_t deadline)
{
    const uint8_t *at = buf;
    while (length > 0) {
        struct iovec iov = vd_iov_const(at, length);
        ssize_t sent = vd_stream_send(stream, &iov, 1, false);
        if (sent < 0 && sent != -EAGAIN)
            return sent == -EPIPE ? -ECONNRESET : (int)sent;
        if (sent > 0) {
            at += sent;
            length -= (size_t)sent;
        }
        int ret = go_on(stream->fd, POLLOUT, sent, length, deadline);
        if (ret < 0)
            return ret;
    }
    return 0;
}

bool vd_stream_has_received(struct vd_stream *stream)
{
    return stream->driver->has_received(stream);
}

bool vd_stream_sends_beside(const struct vd_stream *stream)
{
    return stream->driver->sends_beside;
}

void vd_stream_end_receiving(struct vd_stream *stream)
{
    (void)shutdown(stream->fd, SHUT_RD);
}

void vd_stream_cut(struct vd_stream *stream)
{
    /* Fails for a client that has gone, who is waited for by nobody. */
    (void)shutdown(stream->fd, SHUT_RDWR);
}
