/* SPDX-License-Identifier: MIT */
/* serve/handshake: what is said before and after NBD_OPT_STARTTLS. */
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "handshake-fixture.h"

#define USER "alice"
#define KEY  "00112233445566778899aabbccddeeff"

static char key_file[256];

static struct vd_tls *make_tls(uint32_t flags)
{
    const struct vdisk_tls_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .psk_file = key_file};
    struct vd_tls *tls = NULL;
    VT_OK(vd_tls_create(&options, &tls, &vt_err));
    return tls;
}

static int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct fixture *fixture = malloc(sizeof(*fixture));
    assert_non_null(fixture);
    fixture_init(fixture);
    snprintf(key_file, sizeof(key_file), "%s/test-handshake-tls-%ld", tmp ? tmp : "/tmp",
             (long)getpid());
    FILE *file = fopen(key_file, "w");
    assert_non_null(file);
    assert_true(fputs(USER ":" KEY "\n", file) >= 0);
    assert_int_equal(fclose(file), 0);
    fixture->tls = make_tls(VDISK_TLS_REQUIRED);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    vd_tls_free(fixture->tls);
    fixture_free(fixture);
    free(fixture);
    return unlink(key_file);
}

/* ---- Without TLS ---- */

static void test_required(void **state)
{
    struct fixture *fixture = *state;
    struct talk talk;
    for (uint32_t option = NBD_OPT_LIST; option <= 77; option += option < 12 ? 1 : 65) {
        if (option == NBD_OPT_STARTTLS)
            continue;
        struct script script;
        begin_script(&script);
        script_option(&script, option, NULL);
        script_head(&script, option, 5);
        script_raw(&script, "12345", 5);
        script_go(&script, NBD_OPT_GO, "disk", NULL, 0);
        script_option(&script, NBD_OPT_ABORT, NULL);
        talk_script(&talk, fixture, &script);
        talk_refused(&talk, option, NBD_REP_ERR_TLS_REQD);
        talk_refused(&talk, option, NBD_REP_ERR_TLS_REQD);
        talk_refused(&talk, NBD_OPT_GO, NBD_REP_ERR_TLS_REQD);
        talk_ack(&talk, NBD_OPT_ABORT);
        talk_end(&talk, ECANCELED);
    }
    for (uint32_t flags = 0; flags <= BOTH_FLAGS; flags++) {
        struct script script = {0};
        script_u32(&script, flags);
        script_head(&script, NBD_OPT_EXPORT_NAME, 4);
        script_raw(&script, "disk", 4);
        talk_script(&talk, fixture, &script);
        talk_end(&talk, EACCES);
    }
}

/* With data it is refused, and nothing has begun. */
static void test_data(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    begin_script(&script);
    script_head(&script, NBD_OPT_STARTTLS, 1);
    script_raw(&script, "", 1);
    script_option(&script, NBD_OPT_LIST, NULL);
    talk_script(&talk, fixture, &script);
    talk_refused(&talk, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
    talk_refused(&talk, NBD_OPT_LIST, NBD_REP_ERR_TLS_REQD);
    talk_end(&talk, ECANCELED);

    /* A client without fixed newstyle can not ask for it. */
    script_u32(&script, NBD_FLAG_C_NO_ZEROES);
    script_option(&script, NBD_OPT_STARTTLS, NULL);
    talk_script(&talk, fixture, &script);
    talk_end(&talk, EPROTO);
}

/* Where it is not required, plain clients are served as ever. */
static void test_optional(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct talk talk;
    vd_tls_free(fixture->tls);
    fixture->tls = make_tls(0);
    begin_script(&script);
    script_go(&script, NBD_OPT_GO, "disk", NULL, 0);
    talk_script(&talk, fixture, &script);
    talk_next(&talk, NBD_OPT_GO, NBD_REP_INFO);
    talk_ack(&talk, NBD_OPT_GO);
    talk_end(&talk, 0);
}

/* ---- With TLS ---- */

/* A negotiation in a thread of its own. */
struct server {
    struct fixture *fixture;
    struct vd_stream stream;
    struct vd_session session;
    struct vd_handshake handshake;
    struct vdisk_error err;
    int ret;
    pthread_t thread;
};

static void *serve(void *opaque)
{
    struct server *server = opaque;
    server->ret = vd_handshake(&server->handshake, &server->stream, &server->session, &server->err);
    if (server->ret < 0)
        vd_stream_cut(&server->stream);
    return NULL;
}

static int start(struct server *server, struct fixture *fixture)
{
    int fds[2];
    memset(server, 0, sizeof(*server));
    server->fixture = fixture;
    server->handshake = talk_handshake(fixture);
    server->handshake.deadline = vd_clock_ms() + 60000;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    vd_stream_init(&server->stream, fds[0]);
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
    return fds[1];
}

static void stop(struct server *server)
{
    assert_int_equal(pthread_join(server->thread, NULL), 0);
    if (server->session.export)
        vd_export_leave(&server->fixture->exports, server->session.export);
    vd_stream_close(&server->stream);
    assert_int_equal(fixture_holders(server->fixture), 0);
}

static void receive(int fd, void *buf, size_t length)
{
    uint8_t *at = buf;
    while (length > 0) {
        ssize_t got = read(fd, at, length);
        assert_true(got > 0);
        at += got;
        length -= (size_t)got;
    }
}

/* A reply without data, or with some that is not looked at. */
static void expect_plain(int fd, uint32_t option, uint32_t type)
{
    struct vd_nbd_option_reply reply;
    receive(fd, &reply, sizeof(reply));
    assert_int_equal(be32_get(reply.option), option);
    assert_int_equal(be32_get(reply.type), type);
    uint8_t data[4096];
    assert_true(be32_get(reply.length) <= sizeof(data));
    receive(fd, data, be32_get(reply.length));
}

static void send_script(int fd, struct script *script)
{
    assert_int_equal(write(fd, script->bytes, script->length), script->length);
    script_free(script);
}

struct tls_client {
    gnutls_session_t session;
    gnutls_psk_client_credentials_t psk;
};

static void tls_start(struct tls_client *client, int fd)
{
    const gnutls_datum_t key = {.data = (unsigned char *)(uintptr_t)KEY,
                                .size = (unsigned)strlen(KEY)};
    assert_int_equal(gnutls_psk_allocate_client_credentials(&client->psk), 0);
    gnutls_psk_set_client_credentials(client->psk, USER, &key, GNUTLS_PSK_KEY_HEX);
    assert_int_equal(gnutls_init(&client->session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL), 0);
    gnutls_priority_set_direct(client->session, "NORMAL:+ECDHE-PSK:+DHE-PSK:+PSK", NULL);
    gnutls_credentials_set(client->session, GNUTLS_CRD_PSK, client->psk);
    gnutls_transport_set_int(client->session, fd);
    int ret;
    do
        ret = gnutls_handshake(client->session);
    while (ret < 0 && !gnutls_error_is_fatal(ret));
    assert_int_equal(ret, 0);
}

static void tls_end(struct tls_client *client)
{
    gnutls_deinit(client->session);
    gnutls_psk_free_client_credentials(client->psk);
}

static void tls_receive(struct tls_client *client, void *buf, size_t length)
{
    uint8_t *at = buf;
    while (length > 0) {
        ssize_t got = gnutls_record_recv(client->session, at, length);
        if (got == GNUTLS_E_AGAIN || got == GNUTLS_E_INTERRUPTED)
            continue;
        assert_true(got > 0);
        at += got;
        length -= (size_t)got;
    }
}

static void expect_tls(struct tls_client *client, uint32_t option, uint32_t type)
{
    struct vd_nbd_option_reply reply;
    tls_receive(client, &reply, sizeof(reply));
    assert_int_equal(be32_get(reply.option), option);
    assert_int_equal(be32_get(reply.type), type);
    uint8_t data[4096];
    assert_true(be32_get(reply.length) <= sizeof(data));
    tls_receive(client, data, be32_get(reply.length));
}

/* What was agreed on in the open does not count behind it. */
static void test_forgotten(void **state)
{
    struct fixture *fixture = *state;
    static const char *const base[] = {"base:allocation", NULL};
    struct script script;
    struct server server;
    struct tls_client client;
    struct vd_nbd_greeting greeting;
    vd_tls_free(fixture->tls);
    fixture->tls = make_tls(0);

    int fd = start(&server, fixture);
    receive(fd, &greeting, sizeof(greeting));
    begin_script(&script);
    script_option(&script, NBD_OPT_EXTENDED_HEADERS, NULL);
    script_meta(&script, NBD_OPT_SET_META_CONTEXT, "disk", base);
    script_option(&script, NBD_OPT_STARTTLS, NULL);
    send_script(fd, &script);
    expect_plain(fd, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK);
    expect_plain(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT);
    expect_plain(fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
    expect_plain(fd, NBD_OPT_STARTTLS, NBD_REP_ACK);
    tls_start(&client, fd);

    script_option(&script, NBD_OPT_STARTTLS, NULL);
    script_meta(&script, NBD_OPT_SET_META_CONTEXT, "disk", base);
    script_go(&script, NBD_OPT_GO, "disk", NULL, 0);
    assert_int_equal(gnutls_record_send(client.session, script.bytes, script.length),
                     script.length);
    script_free(&script);
    expect_tls(&client, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
    expect_tls(&client, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
    expect_tls(&client, NBD_OPT_GO, NBD_REP_INFO);
    expect_tls(&client, NBD_OPT_GO, NBD_REP_ACK);
    tls_end(&client);
    close(fd);
    stop(&server);
    assert_int_equal(server.ret, 0);
    assert_false(server.session.has_structured);
    assert_false(server.session.has_extended);
    assert_int_equal(server.session.context_entries, 0);
    assert_int_equal(server.session.flags & NBD_FLAG_SEND_DF, 0);
    assert_non_null(strstr(server.handshake.peer, USER));
}

/* Options that somebody slipped in behind STARTTLS are not taken for the client's. */
static void test_slipped_in(void **state)
{
    struct fixture *fixture = *state;
    struct script script;
    struct server server;
    struct vd_nbd_greeting greeting;
    int fd = start(&server, fixture);
    receive(fd, &greeting, sizeof(greeting));
    begin_script(&script);
    script_option(&script, NBD_OPT_STARTTLS, NULL);
    script_go(&script, NBD_OPT_GO, "disk", NULL, 0);
    send_script(fd, &script);
    expect_plain(fd, NBD_OPT_STARTTLS, NBD_REP_ACK);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    stop(&server);
    assert_true(server.ret < 0);
    assert_int_equal(server.err.code, -server.ret);
    assert_null(server.session.export);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_required, setup, teardown),
        cmocka_unit_test_setup_teardown(test_data, setup, teardown),
        cmocka_unit_test_setup_teardown(test_optional, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slipped_in, setup, teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
