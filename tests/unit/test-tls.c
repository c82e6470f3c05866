/* SPDX-License-Identifier: MIT */
/*
 * Streams by TLS with pre-shared keys: who comes in, and that all bytes arrive however they are
 * sent.  Certificates are in tests/interop/test-serve-tls.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <gnutls/gnutls.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/tls.h"
#include "serve/tls_creds.h"
#include "util/iov.h"

#define MIB     (1u << 20)
#define ALICE   "alice"
#define KEY     "00112233445566778899aabbccddeeff"
#define NEW_KEY "ffeeddccbbaa99887766554433221100"
#define FILE_OK "# keys\n\nalice:" KEY "\r\nbob:" KEY "\n"
#define FOREVER VD_NEVER

/* ---- Files and servers ---- */

static char file_name[64];

static void write_file(const char *text)
{
    if (!*file_name) {
        const char *folder = getenv("TMPDIR");
        snprintf(file_name, sizeof(file_name), "%.40s/vdisk-tls-XXXXXX", folder ? folder : "/tmp");
        int fd = mkstemp(file_name);
        assert_true(fd >= 0);
        close(fd);
    }
    FILE *file = fopen(file_name, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int remove_file(void **state)
{
    (void)state;
    unlink(file_name);
    return 0;
}

static int try_create(const char *text, struct vd_tls **tls, struct vdisk_error *err)
{
    write_file(text);
    const struct vdisk_tls_options options = {
        .struct_bytes = sizeof(options), .flags = VDISK_TLS_REQUIRED, .psk_file = file_name};
    return vd_tls_create(&options, tls, err);
}

static struct vd_tls *create(const char *text)
{
    struct vd_tls *tls = NULL;
    assert_int_equal(try_create(text, &tls, NULL), 0);
    return tls;
}

/* ---- The client ---- */

struct client {
    int fd;
    const char *user;
    const char *key;
    gnutls_session_t session;
    gnutls_psk_client_credentials_t psk;
    int code; /* of the handshake */
    pthread_t thread;
};

static void *client_main(void *opaque)
{
    struct client *client = opaque;
    const gnutls_datum_t key = {.data = (unsigned char *)(uintptr_t)client->key,
                                .size = (unsigned)strlen(client->key)};
    gnutls_psk_allocate_client_credentials(&client->psk);
    gnutls_psk_set_client_credentials(client->psk, client->user, &key, GNUTLS_PSK_KEY_HEX);
    gnutls_init(&client->session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    gnutls_priority_set_direct(client->session, "NORMAL:+ECDHE-PSK:+DHE-PSK:+PSK", NULL);
    gnutls_credentials_set(client->session, GNUTLS_CRD_PSK, client->psk);
    gnutls_transport_set_int(client->session, client->fd);
    do
        client->code = gnutls_handshake(client->session);
    while (client->code < 0 && !gnutls_error_is_fatal(client->code));
    return NULL;
}

static void end_client(struct client *client)
{
    gnutls_deinit(client->session);
    gnutls_psk_free_client_credentials(client->psk);
    close(client->fd);
}

/* Shakes hands with a client of that name and key. */
static int meet(struct vd_tls *tls, struct client *client, struct vd_stream *stream,
                const char *user, const char *key, struct vdisk_error *err)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    *client = (struct client){.fd = fds[1], .user = user, .key = key};
    vd_stream_init(stream, fds[0]);
    assert_int_equal(pthread_create(&client->thread, NULL, client_main, client), 0);
    char peer[VD_TLS_PEER_BYTES] = "unix";
    int ret = vd_tls_begin(tls, stream, FOREVER, peer, err);
    if (ret < 0)
        vd_stream_close(stream);
    pthread_join(client->thread, NULL);
    if (ret == 0) {
        char wanted[VD_TLS_PEER_BYTES];
        snprintf(wanted, sizeof(wanted), "unix %s", user);
        assert_string_equal(peer, wanted);
        assert_int_equal(client->code, 0);
        assert_false(vd_stream_sends_beside(stream));
    }
    return ret;
}

static void meet_alice(struct vd_tls *tls, struct client *client, struct vd_stream *stream)
{
    assert_int_equal(meet(tls, client, stream, ALICE, KEY, NULL), 0);
}

/* ---- Tests ---- */

static void wrong_options_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"x"};
    static const struct vdisk_tls_options bad[] = {
        {.struct_bytes = 1, .psk_file = "f"},
        {.struct_bytes = sizeof(bad[0]), .psk_file = "f", .flags = 1u << 7},
        {.struct_bytes = sizeof(bad[0]), .psk_file = "f", .reserved = 1},
        {.struct_bytes = sizeof(bad[0])},
        {.struct_bytes = sizeof(bad[0]), .psk_file = "f", .directory = "d"},
        {.struct_bytes = sizeof(bad[0]), .psk_file = "f", .flags = VDISK_TLS_VERIFY_PEER},
        {.struct_bytes = sizeof(bad[0]),
         .directory = "d",
         .authorized = names,
         .authorized_entries = 1},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct vd_tls *tls;
        struct vdisk_error err = {0};
        assert_int_equal(vd_tls_create(&bad[i], &tls, &err), -EINVAL);
        assert_non_null(strstr(err.message, "TLS options: "));
    }
    write_file(FILE_OK);
    const struct vdisk_tls_options priority = {
        .struct_bytes = sizeof(priority), .psk_file = file_name, .priority = "NORMAL:+NONSENSE"};
    struct vd_tls *tls;
    struct vdisk_error err = {0};
    assert_int_equal(vd_tls_create(&priority, &tls, &err), -EINVAL);
    assert_non_null(strstr(err.message, "NONSENSE"));
}

static void wrong_key_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *message;
    } bad[] = {
        {"", "there is no 'user:key' in it"},
        {"# only this\n", "there is no 'user:key' in it"},
        {"alice\n", "line 1 is not 'user:key'"},
        {"\n:" KEY "\n", "line 2 is not 'user:key'"},
        {"alice:\n", "line 1: the key is not hexadecimal"},
        {"alice:xyz\n", "line 1: the key is not hexadecimal"},
        {"alice:" KEY "0\n", "line 1: the key is not hexadecimal"},
        {"alice:" KEY "\nalice:" KEY "\n", "line 2: the user is there twice"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct vd_tls *tls;
        struct vdisk_error err = {0};
        assert_int_equal(try_create(bad[i].text, &tls, &err), -EINVAL);
        assert_non_null(strstr(err.message, file_name));
        assert_non_null(strstr(err.message, bad[i].message));
        assert_null(strstr(err.message, KEY)); /* logs are no place for keys */
    }
    const struct vdisk_tls_options nowhere = {.struct_bytes = sizeof(nowhere),
                                              .psk_file = "/nonexistent/keys"};
    struct vd_tls *tls;
    struct vdisk_error err = {0};
    assert_int_equal(vd_tls_create(&nowhere, &tls, &err), -ENOENT);
    assert_non_null(strstr(err.message, "/nonexistent/keys"));
}

static void patterns_match_names(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        const char *name;
        bool matches;
    } cases[] = {
        {"CN=a,O=b", "CN=a,O=b", true},
        {"CN=a,O=b", "CN=a,O=bc", false},
        {"CN=a", "CN=a,O=b", false},
        {"CN=*,O=b", "CN=anything,O=b", true},
        {"CN=*,O=b", "CN=,O=b", true},
        {"CN=*,O=b", "CN=a,O=c", false},
        {"*", "", true},
        {"", "", true},
        {"", "a", false},
        {"*b*b", "abab", true},
        {"*b*bc", "abab", false},
        {"a*", "ba", false},
        {"**x**", "x", true},
        {"*aab", "aaaaaab", true},
        {"cn=a", "CN=a", false},
        {"a?", "ab", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(vd_tls_name_matches(cases[i].pattern, cases[i].name), cases[i].matches);
}

static void bytes_go_both_ways(void **state)
{
    (void)state;
    struct vd_tls *tls = create(FILE_OK);
    struct client client;
    struct vd_stream stream;
    meet_alice(tls, &client, &stream);
    char buf[64] = {0};
    assert_int_equal(vd_stream_receive(&stream, buf, sizeof(buf), false), -EAGAIN);
    assert_int_equal(gnutls_record_send(client.session, "abcdef", 6), 6);
    assert_int_equal(vd_stream_receive(&stream, buf, 4, true), 4);
    assert_true(vd_stream_has_received(&stream)); /* which poll() does not see */
    assert_int_equal(vd_stream_receive(&stream, buf + 4, 60, false), 2);
    assert_memory_equal(buf, "abcdef", 6);
    assert_false(vd_stream_has_received(&stream));

    struct iovec iov[] = {vd_iov_const("gh", 2), vd_iov_const("", 0), vd_iov_const("ijk", 3)};
    assert_int_equal(vd_stream_send(&stream, iov, 3, true), 5);
    assert_int_equal(gnutls_record_recv(client.session, buf, sizeof(buf)), 5); /* one record */
    assert_memory_equal(buf, "ghijk", 5);
    assert_int_equal(atomic_load(&stream.received_bytes), 6);
    assert_int_equal(atomic_load(&stream.sent_bytes), 5);

    gnutls_bye(client.session, GNUTLS_SHUT_WR);
    assert_int_equal(vd_stream_receive(&stream, buf, sizeof(buf), true), 0);
    vd_stream_close(&stream);
    assert_int_equal(gnutls_record_recv(client.session, buf, sizeof(buf)), 0); /* a bye as well */
    end_client(&client);

    meet_alice(tls, &client, &stream);
    end_client(&client); /* leaves without a word */
    assert_int_equal(vd_stream_receive(&stream, buf, sizeof(buf), true), 0);
    vd_stream_close(&stream);
    vd_tls_free(tls);
}

static uint8_t byte_at(size_t index)
{
    return (uint8_t)(index * 7 + (index >> 9));
}

struct reader {
    struct client *client;
    atomic_bool may_begin; /* the sender has met a full socket */
    size_t length;
    size_t wrong;
};

static void *read_all(void *opaque)
{
    struct reader *reader = opaque;
    uint8_t buf[5000];
    size_t done = 0;
    while (!atomic_load(&reader->may_begin))
        usleep(1000);
    while (done < reader->length) {
        ssize_t got = gnutls_record_recv(reader->client->session, buf, sizeof(buf));
        if (got <= 0)
            break;
        for (ssize_t i = 0; i < got; i++)
            reader->wrong += buf[i] != byte_at(done + (size_t)i);
        done += (size_t)got;
        if (done / 400000 != (done - (size_t)got) / 400000)
            usleep(1000); /* so that the sender meets a full socket again */
    }
    reader->wrong += reader->length - done;
    return NULL;
}

/* Buffers of all sizes around that of a record; by waiting, by poll(), and with other lists at each
 * attempt. */
static void all_bytes_arrive_once(void **state)
{
    (void)state;
    struct vd_tls *tls = create(FILE_OK);
    static uint8_t data[6 * MIB];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = byte_at(i);
    static const size_t sizes[] = {1, 16, 28, 16383, 16384, 16385, 40000, 100, 0, 300000, 7};
    for (int is_waiting = 0; is_waiting < 2; is_waiting++) {
        struct client client;
        struct vd_stream stream;
        meet_alice(tls, &client, &stream);
        struct reader reader = {.client = &client, .length = sizeof(data)};
        atomic_store(&reader.may_begin, is_waiting);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, read_all, &reader), 0);
        size_t done = 0;
        unsigned stuck = 0;
        unsigned turn = 0;
        while (done < sizeof(data)) {
            struct iovec iov[20];
            int entries = 0;
            size_t at = done;
            int wanted = 1 + (int)(turn * 5 % 20);
            while (entries < wanted && at < sizeof(data)) {
                size_t length = sizes[(turn + (unsigned)entries) % 11];
                if (length > sizeof(data) - at)
                    length = sizeof(data) - at;
                iov[entries++] = vd_iov_const(data + at, length);
                at += length;
            }
            turn++;
            if (at == done)
                continue;
            ssize_t sent = vd_stream_send(&stream, iov, entries, is_waiting);
            if (sent == -EAGAIN) {
                struct pollfd fd = {.fd = stream.fd, .events = POLLOUT};
                atomic_store(&reader.may_begin, true);
                poll(&fd, 1, -1);
                stuck++;
                continue;
            }
            assert_true(sent > 0 && (size_t)sent <= at - done);
            if (is_waiting)
                assert_int_equal(sent, at - done);
            done += (size_t)sent;
        }
        /* All was told as sent: nothing may be left in here. */
        pthread_join(thread, NULL);
        assert_int_equal(reader.wrong, 0);
        assert_true(is_waiting || stuck > 0);
        vd_stream_close(&stream);
        end_client(&client);
    }
    vd_tls_free(tls);
}

static void strangers_are_refused(void **state)
{
    (void)state;
    struct vd_tls *tls = create(FILE_OK);
    struct client client;
    struct vd_stream stream;
    struct vdisk_error err = {0};
    assert_int_equal(meet(tls, &client, &stream, ALICE, NEW_KEY, &err), -EPROTO);
    assert_int_not_equal(client.code, 0);
    end_client(&client);
    err = (struct vdisk_error){0};
    assert_int_equal(meet(tls, &client, &stream, "mallory", KEY, &err), -EPROTO);
    assert_int_not_equal(client.code, 0);
    end_client(&client);
    vd_tls_free(tls);

    static const char *const names[] = {"carol", "b*"};
    const struct vdisk_tls_options options = {.struct_bytes = sizeof(options),
                                              .psk_file = file_name,
                                              .authorized = names,
                                              .authorized_entries = 2};
    assert_int_equal(vd_tls_create(&options, &tls, NULL), 0);
    assert_false(vd_tls_is_required(tls));
    err = (struct vdisk_error){0};
    assert_int_equal(meet(tls, &client, &stream, ALICE, KEY, &err), -EACCES);
    assert_non_null(strstr(err.message, "'alice' is not on the list"));
    end_client(&client);
    assert_int_equal(meet(tls, &client, &stream, "bob", KEY, NULL), 0);
    vd_stream_close(&stream);
    end_client(&client);
    vd_tls_free(tls);
}

static void who_does_not_shake_hands_is_dropped(void **state)
{
    (void)state;
    struct vd_tls *tls = create(FILE_OK);
    static const char *const texts[] = {"", "\x16\x03", "not TLS at all, but long enough\r\n\r\n"};
    for (size_t i = 0; i < 3; i++) {
        int fds[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        struct vd_stream stream;
        vd_stream_init(&stream, fds[0]);
        assert_int_equal(write(fds[1], texts[i], strlen(texts[i])), strlen(texts[i]));
        char peer[VD_TLS_PEER_BYTES] = "";
        struct vdisk_error err = {0};
        assert_int_equal(vd_tls_begin(tls, &stream, vd_clock_ms() + 30, peer, &err),
                         i < 2 ? -ETIMEDOUT : -EPROTO);
        close(fds[1]);
        vd_stream_close(&stream);
    }
    vd_tls_free(tls);
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
    return vd_stream_send(opaque, &iov, 1, true) < 0 ? NULL : opaque;
}

static void a_cut_ends_every_wait(void **state)
{
    (void)state;
    struct vd_tls *tls = create(FILE_OK);
    for (int i = 0; i < 3; i++) {
        struct client client;
        struct vd_stream stream;
        meet_alice(tls, &client, &stream);
        pthread_t thread;
        assert_int_equal(
            pthread_create(&thread, NULL, i == 1 ? send_in_vain : receive_in_vain, &stream), 0);
        usleep(10000); /* so that it waits; it has to work without it, too */
        if (i == 2)
            vd_stream_end_receiving(&stream);
        else
            vd_stream_cut(&stream);
        void *fault = &stream;
        pthread_join(thread, &fault);
        assert_null(fault);
        vd_stream_close(&stream);
        end_client(&client);
    }
    vd_tls_free(tls);
}

static void keys_can_be_read_again(void **state)
{
    (void)state;
    struct vd_tls *tls = create(FILE_OK);
    struct client old;
    struct vd_stream old_stream;
    meet_alice(tls, &old, &old_stream);

    write_file("no keys\n");
    assert_int_equal(vd_tls_reload(tls, NULL), -EINVAL);
    struct client client;
    struct vd_stream stream;
    meet_alice(tls, &client, &stream); /* as before */
    vd_stream_close(&stream);
    end_client(&client);

    write_file("alice:" NEW_KEY "\n");
    assert_int_equal(vd_tls_reload(tls, NULL), 0);
    assert_int_equal(meet(tls, &client, &stream, ALICE, KEY, NULL), -EPROTO);
    end_client(&client);
    assert_int_equal(meet(tls, &client, &stream, ALICE, NEW_KEY, NULL), 0);
    vd_stream_close(&stream);
    end_client(&client);

    char byte = 0;
    assert_int_equal(gnutls_record_send(old.session, "x", 1), 1);
    assert_int_equal(vd_stream_receive(&old_stream, &byte, 1, true), 1);
    vd_stream_close(&old_stream);
    end_client(&old);
    vd_tls_free(tls);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(wrong_key_files_are_refused),
        cmocka_unit_test(patterns_match_names),
        cmocka_unit_test(bytes_go_both_ways),
        cmocka_unit_test(all_bytes_arrive_once),
        cmocka_unit_test(strangers_are_refused),
        cmocka_unit_test(who_does_not_shake_hands_is_dropped),
        cmocka_unit_test(a_cut_ends_every_wait),
        cmocka_unit_test(keys_can_be_read_again),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
