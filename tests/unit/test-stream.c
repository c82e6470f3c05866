/* SPDX-License-Identifier: MIT */
/* Plain streams: what waits and what does not, deadlines, and the end from either side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/stream.h"
#include "util/iov.h"

#define MIB (1u << 20)

/* A stream and the client's end. */
static int make_pair(struct vd_stream *stream)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    vd_stream_init(stream, fds[0]);
    return fds[1];
}

static void put(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void it_receives_what_there_is(void **state)
{
    (void)state;
    struct vd_stream stream;
    int peer = make_pair(&stream);
    char buf[16];
    assert_int_equal(vd_stream_receive(&stream, buf, sizeof(buf), false), -EAGAIN);
    put(peer, "abcdef");
    assert_int_equal(vd_stream_receive(&stream, buf, 4, true), 4);
    assert_memory_equal(buf, "abcd", 4);
    assert_int_equal(vd_stream_receive(&stream, buf, sizeof(buf), true), 2);
    assert_memory_equal(buf, "ef", 2);
    assert_false(vd_stream_has_received(&stream));
    assert_true(vd_stream_sends_beside(&stream));
    close(peer);
    assert_int_equal(vd_stream_receive(&stream, buf, sizeof(buf), true), 0);
    assert_int_equal(atomic_load(&stream.received_bytes), 6);
    vd_stream_close(&stream);
}

/* A reader in a thread of its own: takes @length bytes, slowly at first, and checks them. */
struct reader {
    int fd;
    size_t length;
    size_t wrong;
};

static uint8_t byte_at(size_t index)
{
    return (uint8_t)(index * 7 + (index >> 9));
}

static void *read_all(void *opaque)
{
    struct reader *reader = opaque;
    static uint8_t buf[65536];
    size_t done = 0;
    while (done < reader->length) {
        ssize_t got = read(reader->fd, buf, done < 1000 ? 17 : sizeof(buf));
        if (got <= 0)
            break;
        for (ssize_t i = 0; i < got; i++)
            reader->wrong += buf[i] != byte_at(done + (size_t)i);
        done += (size_t)got;
    }
    reader->wrong += reader->length - done;
    return NULL;
}

/* More buffers than a call takes, empty ones among them, through a pipe that is narrower. */
static void it_sends_all_if_it_may_wait(void **state)
{
    (void)state;
    for (int is_non_blocking = 0; is_non_blocking < 2; is_non_blocking++) {
        struct vd_stream stream;
        int peer = make_pair(&stream);
        if (is_non_blocking)
            assert_int_equal(fcntl(stream.fd, F_SETFL, O_NONBLOCK), 0);
        enum {
            ENTRIES = 3000
        };
        static uint8_t data[4 * MIB];
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = byte_at(i);
        static struct iovec iov[ENTRIES];
        size_t at = 0;
        for (size_t i = 0; i < ENTRIES; i++) {
            size_t length = i % 5 == 0 ? 0 : i % 7 * 300;
            iov[i] = vd_iov_const(data + at, length);
            at += length;
        }
        assert_true(at < sizeof(data));

        struct reader reader = {.fd = peer, .length = at};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, read_all, &reader), 0);
        assert_int_equal(vd_stream_send(&stream, iov, ENTRIES, true), at);
        pthread_join(thread, NULL);
        assert_int_equal(reader.wrong, 0);
        assert_int_equal(atomic_load(&stream.sent_bytes), at);
        vd_stream_close(&stream);
        close(peer);
    }
}

static void it_sends_a_part_if_it_may_not_wait(void **state)
{
    (void)state;
    struct vd_stream stream;
    int peer = make_pair(&stream);
    static uint8_t data[8 * MIB];
    struct iovec iov = vd_iov_const(data, sizeof(data));
    ssize_t sent = vd_stream_send(&stream, &iov, 1, false);
    assert_true(sent > 0 && (size_t)sent < sizeof(data));
    while ((sent = vd_stream_send(&stream, &iov, 1, false)) > 0)
        continue;
    assert_int_equal(sent, -EAGAIN);
    close(peer);
    assert_int_equal(vd_stream_send(&stream, &iov, 1, false), -EPIPE); /* and no SIGPIPE */
    assert_int_equal(vd_stream_send(&stream, &iov, 1, true), -EPIPE);
    vd_stream_close(&stream);
}

static void all_is_received_by_the_deadline_or_an_error(void **state)
{
    (void)state;
    struct vd_stream stream;
    int peer = make_pair(&stream);
    char buf[8];
    put(peer, "abcd");
    assert_int_equal(vd_stream_receive_all(&stream, buf, 4, VD_NEVER), 0);
    assert_memory_equal(buf, "abcd", 4);
    put(peer, "ef");
    assert_int_equal(vd_stream_receive_all(&stream, buf, 3, vd_clock_ms() + 20), -ETIMEDOUT);
    put(peer, "gh");
    assert_int_equal(vd_stream_receive_all(&stream, buf, 2, 0), 0); /* it is there: no wait */
    close(peer);
    assert_int_equal(vd_stream_receive_all(&stream, buf, 1, VD_NEVER), -ECONNRESET);
    vd_stream_close(&stream);
}

/* Sends a byte a millisecond until the other end has gone. */
static void *drip(void *opaque)
{
    const int *fd = opaque;
    while (send(*fd, "x", 1, MSG_NOSIGNAL) == 1)
        usleep(1000);
    return NULL;
}

static void a_client_that_drips_is_late_all_the_same(void **state)
{
    (void)state;
    struct vd_stream stream;
    int peer = make_pair(&stream);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, drip, &peer), 0);
    static char buf[MIB];
    assert_int_equal(vd_stream_receive_all(&stream, buf, sizeof(buf), vd_clock_ms() + 50),
                     -ETIMEDOUT);
    vd_stream_close(&stream);
    pthread_join(thread, NULL);
    close(peer);
}

static void all_is_sent_by_the_deadline_or_an_error(void **state)
{
    (void)state;
    struct vd_stream stream;
    int peer = make_pair(&stream);
    static uint8_t data[2 * MIB];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = byte_at(i);
    struct reader reader = {.fd = peer, .length = sizeof(data)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_all, &reader), 0);
    assert_int_equal(vd_stream_send_all(&stream, data, sizeof(data), vd_clock_ms() + 60000), 0);
    pthread_join(thread, NULL);
    assert_int_equal(reader.wrong, 0);

    assert_int_equal(vd_stream_send_all(&stream, data, sizeof(data), vd_clock_ms() + 20),
                     -ETIMEDOUT);
    close(peer);
    assert_int_equal(vd_stream_send_all(&stream, data, sizeof(data), VD_NEVER), -ECONNRESET);
    vd_stream_close(&stream);
}

static void *receive_in_vain(void *opaque)
{
    char byte;
    return vd_stream_receive(opaque, &byte, 1, true) == 0 ? NULL : opaque;
}

static void *send_in_vain(void *opaque)
{
    static uint8_t data[8 * MIB];
    struct iovec iov = vd_iov_const(data, sizeof(data));
    return vd_stream_send(opaque, &iov, 1, true) == -EPIPE ? NULL : opaque;
}

static void a_cut_ends_every_wait(void **state)
{
    (void)state;
    struct vd_stream stream;
    int peer = make_pair(&stream);
    pthread_t threads[2];
    assert_int_equal(pthread_create(&threads[0], NULL, receive_in_vain, &stream), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, send_in_vain, &stream), 0);
    usleep(20000); /* so that they wait; it has to work without it, too */
    vd_stream_cut(&stream);
    for (int i = 0; i < 2; i++) {
        void *fault = &stream;
        pthread_join(threads[i], &fault);
        assert_null(fault);
    }
    vd_stream_cut(&stream); /* once more: nothing happens */
    vd_stream_close(&stream);
    close(peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_receives_what_there_is),
        cmocka_unit_test(it_sends_all_if_it_may_wait),
        cmocka_unit_test(it_sends_a_part_if_it_may_not_wait),
        cmocka_unit_test(all_is_received_by_the_deadline_or_an_error),
        cmocka_unit_test(a_client_that_drips_is_late_all_the_same),
        cmocka_unit_test(all_is_sent_by_the_deadline_or_an_error),
        cmocka_unit_test(a_cut_ends_every_wait),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
