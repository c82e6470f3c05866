/* SPDX-License-Identifier: MIT */
/*
 * Streams by TLS.
 *
 * G1  The system's calls never wait; whoever may wait does so by poll(), so that a cut and
 *     deadlines end it.
 *
 * G2  What GnuTLS has encrypted and could not send goes out before anything else does.  Its bytes
 *     are told as sent only when all of them are: who sends them again, as they were not taken,
 *     sends the same ones.
 */
#include "serve/tls.h"

#include <assert.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "serve/tls_creds.h"
#include "util/iov.h"
#include "util/mem.h"
#include "util/mutex.h"

/* The largest record; small buffers are put together, as each record costs some 30 bytes. */
#define RECORD_BYTES 16384u

struct vd_tls {
    struct vdisk_tls_options options; /* strings owned */
    struct vd_mutex lock;
    struct vd_tls_creds *creds; /* under lock: those that new streams get */
};

struct tls_stream {
    struct vd_tls *tls;
    struct vd_tls_creds *creds; /* held */
    gnutls_session_t session;
    bool is_stuck;     /* a record has not been sent whole */
    size_t told_later; /* G2: bytes in records that were encrypted, which nobody was told of */
    uint8_t record[RECORD_BYTES];
};

/* ---- Credentials ---- */

static struct vd_tls_creds *hold(struct vd_tls *tls)
{
    vd_mutex_lock(&tls->lock);
    struct vd_tls_creds *creds = tls->creds;
    creds->holders++;
    vd_mutex_unlock(&tls->lock);
    return creds;
}

static void let_go(struct vd_tls *tls, struct vd_tls_creds *creds)
{
    vd_mutex_lock(&tls->lock);
    bool is_last = --creds->holders == 0;
    vd_mutex_unlock(&tls->lock);
    if (is_last)
        vd_tls_creds_free(creds);
}

static int check_options(const struct vdisk_tls_options *options, struct vdisk_error *err)
{
    const uint32_t known = VDISK_TLS_REQUIRED | VDISK_TLS_VERIFY_PEER;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(
            err, EINVAL,
            "TLS options: struct_bytes is %zu and reserved %u: this library wants %zu "
            "and 0",
            options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags & ~known)
        return vd_err_set(err, EINVAL, "TLS options: unknown flags 0x%x", options->flags & ~known);
    if (!options->directory == !options->psk_file)
        return vd_err_set(err, EINVAL,
                          "TLS options: either a directory with certificates or a file of "
                          "pre-shared keys is needed");
    bool verifies = options->flags & VDISK_TLS_VERIFY_PEER;
    if (options->psk_file && verifies)
        return vd_err_set(err, EINVAL,
                          "TLS options: clients with pre-shared keys have no certificate to be "
                          "verified: they are known by their keys");
    if (options->authorized_entries && options->directory && !verifies)
        return vd_err_set(err, EINVAL,
                          "TLS options: names of clients can only be checked if their "
                          "certificates are verified");
    return 0;
}

static void free_options(struct vdisk_tls_options *options)
{
    for (size_t i = 0; i < options->authorized_entries; i++)
        free((char *)(uintptr_t)options->authorized[i]);
    free((void *)(uintptr_t)options->authorized);
    free((char *)(uintptr_t)options->directory);
    free((char *)(uintptr_t)options->psk_file);
    free((char *)(uintptr_t)options->priority);
}

static bool copy_text(const char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return *to || !from;
}

static int copy_options(struct vdisk_tls_options *to, const struct vdisk_tls_options *from,
                        struct vdisk_error *err)
{
    *to = (struct vdisk_tls_options){.struct_bytes = sizeof(*to), .flags = from->flags};
    const char **authorized = vd_alloc_array(from->authorized_entries, sizeof(*authorized));
    to->authorized = authorized;
    bool is_copied = authorized && copy_text(&to->directory, from->directory) &&
                     copy_text(&to->psk_file, from->psk_file) &&
                     copy_text(&to->priority, from->priority);
    for (size_t i = 0; is_copied && i < from->authorized_entries; i++) {
        is_copied = copy_text(&authorized[i], from->authorized[i]);
        to->authorized_entries += is_copied;
    }
    return is_copied ? 0 : vd_err_nomem(err, "the TLS options");
}

int vd_tls_create(const struct vdisk_tls_options *options, struct vd_tls **made,
                  struct vdisk_error *err)
{
    int ret = check_options(options, err);
    if (ret < 0)
        return ret;
    struct vd_tls *tls = calloc(1, sizeof(*tls));
    if (!tls)
        return vd_err_nomem(err, "TLS");
    vd_mutex_init(&tls->lock);
    ret = copy_options(&tls->options, options, err);
    if (ret == 0)
        ret = vd_tls_creds_read(&tls->options, &tls->creds, err);
    if (ret < 0) {
        vd_tls_free(tls);
        return ret;
    }
    *made = tls;
    return 0;
}

int vd_tls_reload(struct vd_tls *tls, struct vdisk_error *err)
{
    struct vd_tls_creds *creds;
    int ret = vd_tls_creds_read(&tls->options, &creds, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&tls->lock);
    struct vd_tls_creds *before = tls->creds;
    tls->creds = creds;
    vd_mutex_unlock(&tls->lock);
    let_go(tls, before);
    return 0;
}

void vd_tls_free(struct vd_tls *tls)
{
    if (!tls)
        return;
    assert(!tls->creds || tls->creds->holders == 1);
    vd_tls_creds_free(tls->creds);
    free_options(&tls->options);
    vd_mutex_destroy(&tls->lock);
    free(tls);
}

bool vd_tls_is_required(const struct vd_tls *tls)
{
    return tls->options.flags & VDISK_TLS_REQUIRED;
}

/* ---- Below GnuTLS ---- */

static int fd_of(gnutls_transport_ptr_t transport)
{
    return ((const struct vd_stream *)transport)->fd;
}

static ssize_t pull(gnutls_transport_ptr_t transport, void *buf, size_t length)
{
    return recv(fd_of(transport), buf, length, MSG_DONTWAIT);
}

static ssize_t push(gnutls_transport_ptr_t transport, const giovec_t *iov, int iov_entries)
{
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                             .msg_iovlen = (size_t)iov_entries};
    return sendmsg(fd_of(transport), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int pull_timeout(gnutls_transport_ptr_t transport, unsigned timeout_ms)
{
    struct pollfd at = {.fd = fd_of(transport), .events = POLLIN};
    return poll(&at, 1, timeout_ms == GNUTLS_INDEFINITE_TIMEOUT ? -1 : (int)timeout_ms);
}

/* ---- The driver of streams ---- */

static int errno_of(int code)
{
    switch (code) {
    case GNUTLS_E_AGAIN:
    case GNUTLS_E_INTERRUPTED:
        return -EAGAIN;
    case GNUTLS_E_PUSH_ERROR:
        return -EPIPE;
    case GNUTLS_E_PULL_ERROR:
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
    case GNUTLS_E_SESSION_EOF:
    case GNUTLS_E_INVALID_SESSION: /* after one of those above */
        return -ECONNRESET;
    case GNUTLS_E_MEMORY_ERROR:
        return -ENOMEM;
    default:
        return -EPROTO;
    }
}

/* Waits for what GnuTLS wants to go on with. */
static int wait_for(const struct tls_stream *state, const struct vd_stream *stream)
{
    short events = gnutls_record_get_direction(state->session) ? POLLOUT : POLLIN;
    struct pollfd at = {.fd = stream->fd, .events = events};
    if (poll(&at, 1, -1) < 0 && errno != EINTR && errno != EAGAIN)
        return -errno;
    return 0;
}

static ssize_t tls_receive(struct vd_stream *stream, void *buf, size_t length, bool is_waiting)
{
    struct tls_stream *state = stream->state;
    for (;;) {
        ssize_t got = gnutls_record_recv(state->session, buf, length);
        if (got >= 0)
            return got;
        /* Every message of NBD tells its length: an end that was not announced cuts none short. */
        if (got == GNUTLS_E_PREMATURE_TERMINATION)
            return 0;
        if (got == GNUTLS_E_WARNING_ALERT_RECEIVED || got == GNUTLS_E_INTERRUPTED)
            continue;
        if (got != GNUTLS_E_AGAIN)
            return errno_of((int)got);
        if (!is_waiting)
            return -EAGAIN;
        int ret = wait_for(state, stream);
        if (ret < 0)
            return ret;
    }
}

/* The next bytes for a record: in place, if there are enough of them, else put together. */
static size_t next_record(struct tls_stream *state, const struct iovec *iov, int iov_entries,
                          size_t skip, size_t length, const void **bytes)
{
    size_t record = length - skip < RECORD_BYTES ? length - skip : RECORD_BYTES;
    size_t at = skip;
    for (int i = 0; i < iov_entries; i++) {
        if (at >= iov[i].iov_len) {
            at -= iov[i].iov_len;
            continue;
        }
        if (iov[i].iov_len - at < record)
            break;
        *bytes = (const uint8_t *)iov[i].iov_base + at;
        return record;
    }
    vd_iov_to_buffer(state->record, record, iov, skip);
    *bytes = state->record;
    return record;
}

/* Sends what there is of a record before.  Returns 0, -EAGAIN, or another negative errno. */
static int unstick(struct tls_stream *state)
{
    ssize_t sent = 0;
    if (state->is_stuck)
        do
            sent = gnutls_record_send(state->session, NULL, 0);
        while (sent == GNUTLS_E_INTERRUPTED);
    if (sent < 0)
        return errno_of((int)sent);
    state->is_stuck = false;
    return 0;
}

/* Sends without waiting what is behind @skip, and tells how much of it has been sent whole. */
static ssize_t send_some(struct tls_stream *state, const struct iovec *iov, int iov_entries,
                         size_t skip)
{
    int ret = unstick(state);
    if (ret < 0)
        return ret;
    size_t length = vd_iov_length(iov, iov_entries);
    size_t told = length - skip < state->told_later ? length - skip : state->told_later; /* G2 */
    state->told_later -= told;
    size_t done = skip + told;
    while (done < length) {
        const void *bytes;
        size_t record = next_record(state, iov, iov_entries, done, length, &bytes);
        ssize_t sent = gnutls_record_send(state->session, bytes, record);
        if (sent == GNUTLS_E_AGAIN || sent == GNUTLS_E_INTERRUPTED) {
            state->is_stuck = true;
            state->told_later = record;
            break;
        }
        if (sent < 0)
            return errno_of((int)sent);
        done += (size_t)sent;
    }
    return done > skip ? (ssize_t)(done - skip) : -EAGAIN;
}

static ssize_t tls_send(struct vd_stream *stream, const struct iovec *iov, int iov_entries,
                        bool is_waiting)
{
    struct tls_stream *state = stream->state;
    if (!is_waiting)
        return send_some(state, iov, iov_entries, 0);
    size_t length = vd_iov_length(iov, iov_entries);
    size_t done = 0;
    while (done < length) {
        ssize_t sent = send_some(state, iov, iov_entries, done);
        if (sent == -EAGAIN)
            sent = wait_for(state, stream);
        if (sent < 0)
            return sent;
        done += (size_t)sent;
    }
    return (ssize_t)length;
}

static bool tls_has_received(struct vd_stream *stream)
{
    const struct tls_stream *state = stream->state;
    return gnutls_record_check_pending(state->session) > 0;
}

static void free_stream(struct tls_stream *state)
{
    if (state->session)
        gnutls_deinit(state->session);
    let_go(state->tls, state->creds);
    gnutls_memset(state->record, 0, sizeof(state->record));
    free(state);
}

static void tls_close(struct vd_stream *stream)
{
    struct tls_stream *state = stream->state;
    (void)gnutls_bye(state->session, GNUTLS_SHUT_WR); /* a word, if it can be said at once */
    free_stream(state);
}

/* GnuTLS keeps one state for both directions: one thread at a time. */
static const struct vd_stream_driver driver = {
    .receive = tls_receive,
    .send = tls_send,
    .has_received = tls_has_received,
    .close = tls_close,
    .sends_beside = false,
};

/* ---- The handshake ---- */

static int start(struct tls_stream *state, struct vd_stream *stream, struct vdisk_error *err)
{
    const struct vd_tls_creds *creds = state->creds;
    int code = gnutls_init(&state->session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    if (code < 0) {
        state->session = NULL;
        return vd_err_set(err, ENOMEM, "TLS: %s", gnutls_strerror(code));
    }
    code = gnutls_priority_set(state->session, creds->priority);
    if (code == 0 && creds->x509)
        code = gnutls_credentials_set(state->session, GNUTLS_CRD_CERTIFICATE, creds->x509);
    if (code == 0 && creds->psk)
        code = gnutls_credentials_set(state->session, GNUTLS_CRD_PSK, creds->psk);
    if (code < 0)
        return vd_err_set(err, EIO, "TLS: %s", gnutls_strerror(code));
    if (state->tls->options.flags & VDISK_TLS_VERIFY_PEER)
        gnutls_certificate_server_set_request(state->session, GNUTLS_CERT_REQUIRE);
    gnutls_session_set_ptr(state->session, state->creds);
    gnutls_transport_set_ptr(state->session, stream);
    gnutls_transport_set_pull_function(state->session, pull);
    gnutls_transport_set_pull_timeout_function(state->session, pull_timeout);
    gnutls_transport_set_vec_push_function(state->session, push);
    return 0;
}

/* Waits for the socket, until the deadline. */
static int wait_until(const struct tls_stream *state, const struct vd_stream *stream,
                      uint64_t deadline)
{
    uint64_t now = vd_clock_ms();
    if (now >= deadline)
        return -ETIMEDOUT;
    short events = gnutls_record_get_direction(state->session) ? POLLOUT : POLLIN;
    struct pollfd at = {.fd = stream->fd, .events = events};
    uint64_t left_ms = deadline - now;
    (void)poll(&at, 1, left_ms > 60000 ? 60000 : (int)left_ms);
    return 0;
}

static int shake_hands(const struct tls_stream *state, const struct vd_stream *stream,
                       uint64_t deadline, struct vdisk_error *err)
{
    for (;;) {
        int code = gnutls_handshake(state->session);
        if (code == 0)
            return 0;
        if (code == GNUTLS_E_FATAL_ALERT_RECEIVED) {
            const char *alert = gnutls_alert_get_name(gnutls_alert_get(state->session));
            return vd_err_set(err, EPROTO, "TLS: the client says: %s", alert ? alert : "?");
        }
        if (code == GNUTLS_E_PULL_ERROR || code == GNUTLS_E_PUSH_ERROR ||
            code == GNUTLS_E_PREMATURE_TERMINATION)
            return vd_err_set(err, ECONNRESET, "TLS: the client left before hands were shaken");
        if (gnutls_error_is_fatal(code)) {
            (void)gnutls_alert_send_appropriate(state->session, code);
            return vd_err_set(err, EPROTO, "TLS: %s", gnutls_strerror(code));
        }
        int ret = wait_until(state, stream, deadline);
        if (ret < 0)
            return vd_err_set(err, ETIMEDOUT, "TLS: the client is too slow");
    }
}

/* ---- Who it is ---- */

static bool is_authorized(const struct vd_tls *tls, const char *name)
{
    const struct vdisk_tls_options *options = &tls->options;
    for (size_t i = 0; i < options->authorized_entries; i++)
        if (vd_tls_name_matches(options->authorized[i], name))
            return true;
    return options->authorized_entries == 0;
}

static void add_name(char peer[VD_TLS_PEER_BYTES], const char *name)
{
    size_t length = strlen(peer);
    snprintf(peer + length, VD_TLS_PEER_BYTES - length, "%s%s", length ? " " : "", name);
}

static int verify_certificate(const struct tls_stream *state, struct vdisk_error *err)
{
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                     .data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT};
    unsigned status = 0;
    int code = gnutls_certificate_verify_peers(state->session, &purpose, 1, &status);
    if (code < 0)
        return vd_err_set(err, EACCES, "TLS: the certificate of the client: %s",
                          gnutls_strerror(code));
    if (status == 0)
        return 0;
    gnutls_datum_t text = {0};
    code = gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
    vd_err_set(err, EACCES, "TLS: the certificate of the client is refused: %s",
               code == 0 ? (const char *)text.data : "it can not be verified");
    gnutls_free(text.data);
    return -EACCES;
}

/* The name in the order of the certificate, which older programs print, and in that of RFC 4514:
 * either may be on the list. */
static int check_name(const struct tls_stream *state, char peer[VD_TLS_PEER_BYTES],
                      struct vdisk_error *err)
{
    unsigned entries = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(state->session, &entries);
    gnutls_x509_crt_t certificate = NULL;
    gnutls_datum_t names[2] = {{0}, {0}};
    int code =
        chain && entries ? gnutls_x509_crt_init(&certificate) : GNUTLS_E_NO_CERTIFICATE_FOUND;
    if (code == 0)
        code = gnutls_x509_crt_import(certificate, &chain[0], GNUTLS_X509_FMT_DER);
    if (code == 0)
        code = gnutls_x509_crt_get_dn3(certificate, &names[0], 0);
    if (code == 0)
        code = gnutls_x509_crt_get_dn3(certificate, &names[1], GNUTLS_X509_DN_FLAG_COMPAT);
    int ret = 0;
    if (code < 0) {
        ret = vd_err_set(err, EACCES, "TLS: the certificate of the client: %s",
                         gnutls_strerror(code));
    } else {
        const char *name = (const char *)names[0].data;
        add_name(peer, name);
        if (!is_authorized(state->tls, name) &&
            !is_authorized(state->tls, (const char *)names[1].data))
            ret = vd_err_set(err, EACCES, "TLS: '%s' is not on the list of who may connect", name);
    }
    gnutls_free(names[0].data);
    gnutls_free(names[1].data);
    if (certificate)
        gnutls_x509_crt_deinit(certificate);
    return ret;
}

static int check_client(const struct tls_stream *state, char peer[VD_TLS_PEER_BYTES],
                        struct vdisk_error *err)
{
    if (state->creds->psk) {
        const char *user = gnutls_psk_server_get_username(state->session);
        if (!user)
            return vd_err_set(err, EACCES, "TLS: the client has no pre-shared key");
        add_name(peer, user);
        if (!is_authorized(state->tls, user))
            return vd_err_set(err, EACCES, "TLS: user '%s' is not on the list of who may connect",
                              user);
        return 0;
    }
    if (!(state->tls->options.flags & VDISK_TLS_VERIFY_PEER))
        return 0;
    int ret = verify_certificate(state, err);
    return ret < 0 ? ret : check_name(state, peer, err);
}

int vd_tls_begin(struct vd_tls *tls, struct vd_stream *stream, uint64_t deadline,
                 char peer[VD_TLS_PEER_BYTES], struct vdisk_error *err)
{
    struct tls_stream *state = calloc(1, sizeof(*state));
    if (!state)
        return vd_err_nomem(err, "a connection by TLS");
    state->tls = tls;
    state->creds = hold(tls);
    int ret = start(state, stream, err);
    if (ret == 0)
        ret = shake_hands(state, stream, deadline, err);
    if (ret == 0) {
        ret = check_client(state, peer, err);
        if (ret < 0)
            (void)gnutls_alert_send(state->session, GNUTLS_AL_FATAL, GNUTLS_A_ACCESS_DENIED);
    }
    if (ret < 0) {
        free_stream(state);
        return ret;
    }
    stream->driver = &driver;
    stream->state = state;
    return 0;
}
