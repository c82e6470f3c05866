/* SPDX-License-Identifier: MIT */
/*
 * One connection and one transfer on it, driven by hand: a libcurl multi handle with a single easy
 * handle, because that can be paused between two calls, woken up by another thread, and watched
 * with a clock finer than libcurl's own.  And the pool of connections.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/http_priv.h"
#include "util/clock.h"

#define RECEIVE_BYTES   (128l * 1024)
#define SKIP_BYTES_MAX  65536u /* a longer body that nobody wants costs the connection instead */
#define POLL_MS_MAX     1000u
#define USER_AGENT_TEXT "vdisk/" VD_VERSION

static size_t on_header(char *line, size_t size, size_t count, void *opaque)
{
    struct vd_http_conn *conn = opaque;
    conn->moved_ms = vd_clock_ms();
    if (conn->has_begun) /* trailers change nothing of what was decided */
        return size * count;
    if (vd_http_head_line(&conn->head, line, size * count))
        return size * count;
    conn->request->may_retry = false;
    vd_err_set(&conn->failure, EIO, "the header of the answer is longer than %u bytes",
               VD_HTTP_HEADER_BYTES_MAX);
    return 0;
}

/* The header is in. */
static void begin(struct vd_http_conn *conn)
{
    conn->has_begun = true;
    conn->request->may_retry = false;
    conn->request->expected_bytes = 0;
    int ret = conn->request->begin(conn->request, &conn->head, &conn->failure);
    conn->is_skipping = ret != 0;
}

static size_t skip_body(struct vd_http_conn *conn, size_t length)
{
    bool is_long = conn->head.has_length ? conn->head.length > SKIP_BYTES_MAX
                                         : conn->body_bytes + length > SKIP_BYTES_MAX;
    conn->body_bytes += length;
    return is_long ? 0 : length;
}

static size_t on_body(char *data, size_t size, size_t count, void *opaque)
{
    struct vd_http_conn *conn = opaque;
    size_t length = size * count;
    conn->moved_ms = vd_clock_ms();
    if (!conn->has_begun)
        begin(conn);
    if (conn->is_skipping) {
        atomic_fetch_add(&conn->http->received_bytes, length);
        return skip_body(conn, length);
    }
    if (length > conn->request->expected_bytes - conn->body_bytes) {
        vd_err_set(&conn->failure, EIO,
                   "the server sends more than the %" PRIu64 " bytes it was asked for",
                   conn->request->expected_bytes);
        return 0;
    }
    int ret = conn->request->take(conn->request, (const uint8_t *)data, length, &conn->failure);
    if (ret == VD_HTTP_PAUSE) {
        conn->is_paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    atomic_fetch_add(&conn->http->received_bytes, length);
    conn->body_bytes += length;
    return ret < 0 ? 0 : length;
}

/* Connected: from now on bytes have to move. */
static int on_connected(void *opaque, char *remote, char *local, int remote_port, int local_port)
{
    struct vd_http_conn *conn = opaque;
    (void)remote;
    (void)local;
    (void)remote_port;
    (void)local_port;
    conn->moved_ms = vd_clock_ms();
    return CURL_PREREQFUNC_OK;
}

/* What never changes for a connection. */
static CURLcode set_fixed_options(struct vd_http_conn *conn)
{
    const struct vd_http_settings *settings = &conn->http->settings;
    CURL *easy = conn->easy;
    CURLcode code = curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, conn->curl_message);
#define SET(option, value) (code = code ? code : curl_easy_setopt(easy, option, value))
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L); /* http.c does, with rules of its own */
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_USERAGENT, USER_AGENT_TEXT);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_BUFFERSIZE, RECEIVE_BYTES);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)settings->network.timeout_ms);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, conn);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, conn);
    SET(CURLOPT_PREREQFUNCTION, on_connected);
    SET(CURLOPT_PREREQDATA, conn);
    if (settings->ca_file)
        SET(CURLOPT_CAINFO, settings->ca_file);
#undef SET
    return code;
}

int vd_http_conn_aim(struct vd_http_conn *conn, struct vdisk_error *err)
{
    const struct vd_http *http = conn->http;
    CURL *easy = conn->easy;
    CURLcode code = curl_easy_setopt(easy, CURLOPT_URL, http->url.url);
#define SET(option, value) (code = code ? code : curl_easy_setopt(easy, option, value))
    SET(CURLOPT_HTTPHEADER, http->fields);
    SET(CURLOPT_HTTPAUTH, (long)(http->bearer ? CURLAUTH_BEARER : CURLAUTH_BASIC));
    SET(CURLOPT_USERNAME, http->user);
    SET(CURLOPT_PASSWORD, http->user && !http->password ? "" : http->password);
    SET(CURLOPT_XOAUTH2_BEARER, http->bearer);
#undef SET
    if (code)
        return vd_err_set(err, code == CURLE_OUT_OF_MEMORY ? ENOMEM : EIO,
                          "can not prepare a request: %s", curl_easy_strerror(code));
    return 0;
}

static void conn_free(struct vd_http_conn *conn)
{
    if (!conn)
        return;
    vd_http_conn_abort(conn);
    curl_easy_cleanup(conn->easy);
    curl_multi_cleanup(conn->multi);
    free(conn);
}

static int conn_new(struct vd_http *http, struct vd_http_conn **conn, struct vdisk_error *err)
{
    struct vd_http_conn *made = calloc(1, sizeof(*made));
    if (!made)
        return vd_err_nomem(err, "a connection");
    made->http = http;
    made->multi = curl_multi_init();
    made->easy = curl_easy_init();
    int ret = 0;
    if (!made->multi || !made->easy || curl_multi_setopt(made->multi, CURLMOPT_MAXCONNECTS, 1L) ||
        curl_multi_setopt(made->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, 1L) /* H3 */ ||
        set_fixed_options(made))
        ret = vd_err_nomem(err, "a connection");
    if (ret == 0)
        ret = vd_http_conn_aim(made, err);
    if (ret < 0) {
        conn_free(made);
        return ret;
    }
    *conn = made;
    return 0;
}

static int start(struct vd_http_conn *conn, struct vd_http_request *request,
                 struct vdisk_error *err)
{
    char range[64];
    uint64_t first = request->range.offset + request->done_bytes;
    bool is_ranged = request->range.length > 0;
    snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, first, vd_range_end(request->range) - 1);
    CURLcode code = curl_easy_setopt(conn->easy, CURLOPT_RANGE, is_ranged ? range : NULL);

    conn->head = (struct vd_http_head){0};
    vdisk_error_clear(&conn->failure);
    conn->curl_message[0] = '\0';
    conn->body_bytes = 0;
    conn->has_begun = false;
    conn->is_skipping = false;
    atomic_fetch_add(&conn->http->request_count, 1);
    if (code || curl_multi_add_handle(conn->multi, conn->easy))
        return vd_err_nomem(err, "a request");
    return 0;
}

/* For how long may nothing move?  0: for too long already. */
static uint32_t patience_ms(const struct vd_http_conn *conn)
{
    uint64_t waited = vd_clock_ms() - conn->moved_ms;
    uint32_t limit = conn->http->settings.network.timeout_ms;
    return waited >= limit ? 0 : limit - (uint32_t)waited;
}

/* Moves bytes until the transfer has ended in *result, or is paused. */
static int drive(struct vd_http_conn *conn, CURLcode *result, struct vdisk_error *err)
{
    for (;;) {
        int running;
        int queued;
        CURLMcode code = curl_multi_perform(conn->multi, &running);
        if (code)
            return vd_err_set(err, EIO, "can not transfer: %s", curl_multi_strerror(code));
        if (conn->is_paused)
            return VD_HTTP_PAUSE;
        const CURLMsg *message = curl_multi_info_read(conn->multi, &queued);
        if (message && message->msg == CURLMSG_DONE) {
            *result = message->data.result;
            return 0;
        }
        if (conn->request->stop && atomic_load(conn->request->stop))
            return vd_err_set(err, ECANCELED, "closed");
        uint32_t patience = patience_ms(conn);
        if (!patience && conn->is_skipping)
            return 0; /* the header said it all */
        if (!patience) {
            conn->request->may_retry = true;
            return vd_err_set(err, ETIMEDOUT, "no byte came for %" PRIu32 " ms",
                              conn->http->settings.network.timeout_ms);
        }
        curl_multi_poll(conn->multi, NULL, 0, (int)vd_min(patience, POLL_MS_MAX), NULL);
    }
}

/* Failures of libcurl that are no accident: trying again would end the same way. */
static bool is_final(CURLcode code)
{
    switch (code) {
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_OUT_OF_MEMORY:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_BAD_CONTENT_ENCODING:
        return true;
    default:
        return false;
    }
}

static int curl_error(struct vd_http_conn *conn, CURLcode code, struct vdisk_error *err)
{
    long native = 0;
    curl_easy_getinfo(conn->easy, CURLINFO_OS_ERRNO, &native);
    const char *text = conn->curl_message[0] ? conn->curl_message : curl_easy_strerror(code);
    conn->request->may_retry = !is_final(code);
    switch (code) {
    case CURLE_OUT_OF_MEMORY:
        return vd_err_nomem(err, "a transfer");
    case CURLE_OPERATION_TIMEDOUT:
        return vd_err_set(err, ETIMEDOUT, "%s", text);
    case CURLE_COULDNT_CONNECT:
        return vd_err_set(err, native == ECONNREFUSED ? ECONNREFUSED : EIO, "%s", text);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return vd_err_set(err, EIO,
                          "the server's certificate can not be trusted: %s (a file of certificates "
                          "to trust can be given)",
                          text);
    default:
        return vd_err_set(err, EIO, "%s", text);
    }
}

/* The transfer has ended: what came of it? */
static int conclude(struct vd_http_conn *conn, CURLcode result, struct vdisk_error *err)
{
    struct vd_http_request *request = conn->request;
    if (!conn->has_begun && !conn->failure.code && conn->head.is_complete &&
        (result == CURLE_OK || conn->head.status >= 300))
        begin(conn);
    if (conn->failure.code)
        return vd_err_copy(err, &conn->failure);
    if (conn->is_skipping)
        return 0;
    if (result != CURLE_OK)
        return curl_error(conn, result, err);
    if (!conn->has_begun) {
        request->may_retry = false;
        return vd_err_set(err, EIO, "the server's answer is not HTTP");
    }
    if (conn->body_bytes < request->expected_bytes) {
        request->may_retry = true;
        return vd_err_set(err, EIO, "the answer ended after %" PRIu64 " of %" PRIu64 " bytes",
                          conn->body_bytes, request->expected_bytes);
    }
    return 0;
}

int vd_http_conn_run(struct vd_http_conn *conn, struct vd_http_request *request,
                     struct vdisk_error *err)
{
    request->may_retry = false;
    request->retry_after_ms = 0;
    conn->request = request;
    conn->moved_ms = vd_clock_ms();
    CURLcode result = CURLE_OK;
    int ret = 0;
    if (conn->is_paused) {
        conn->is_paused = false;
        result = curl_easy_pause(conn->easy, CURLPAUSE_CONT);
    } else {
        ret = start(conn, request, err);
        if (ret < 0)
            return ret;
    }
    if (result == CURLE_OK)
        ret = drive(conn, &result, err);
    if (ret == VD_HTTP_PAUSE)
        return ret;
    if (ret == 0)
        ret = conclude(conn, result, err);
    curl_off_t retry_after = 0;
    curl_easy_getinfo(conn->easy, CURLINFO_RETRY_AFTER, &retry_after);
    if (retry_after > 0)
        request->retry_after_ms = (uint32_t)vd_min((uint64_t)retry_after, 3600) * 1000;
    curl_multi_remove_handle(conn->multi, conn->easy);
    return ret;
}

void vd_http_conn_abort(struct vd_http_conn *conn)
{
    if (conn->is_paused)
        curl_multi_remove_handle(conn->multi, conn->easy);
    conn->is_paused = false;
}

void vd_http_conn_sleep(struct vd_http_conn *conn, uint32_t delay_ms)
{
    curl_multi_poll(conn->multi, NULL, 0, (int)delay_ms, NULL);
}

void vd_http_conn_wake(struct vd_http_conn *conn)
{
    curl_multi_wakeup(conn->multi);
}

int vd_http_conn_get(struct vd_http *http, struct vd_http_conn **conn, struct vdisk_error *err)
{
    vd_mutex_lock(&http->pool_lock);
    while (!http->idle && http->conn_count == http->settings.network.connections)
        vd_cond_wait(&http->pool_changed, &http->pool_lock);
    *conn = http->idle;
    if (*conn)
        http->idle = (*conn)->next;
    else
        http->conn_count++;
    vd_mutex_unlock(&http->pool_lock);
    if (*conn)
        return 0;

    int ret = conn_new(http, conn, err);
    if (ret < 0) {
        vd_mutex_lock(&http->pool_lock);
        http->conn_count--;
        vd_cond_broadcast(&http->pool_changed);
        vd_mutex_unlock(&http->pool_lock);
    }
    return ret;
}

void vd_http_conn_put(struct vd_http_conn *conn)
{
    struct vd_http *http = conn->http;
    vd_http_conn_abort(conn);
    vd_mutex_lock(&http->pool_lock);
    conn->next = http->idle;
    http->idle = conn;
    vd_cond_broadcast(&http->pool_changed);
    vd_mutex_unlock(&http->pool_lock);
}

void vd_http_pool_free(struct vd_http *http)
{
    while (http->idle) {
        struct vd_http_conn *conn = http->idle;
        http->idle = conn->next;
        conn_free(conn);
    }
}
