/* SPDX-License-Identifier: MIT */
/* The http storage driver: options, opening with redirects, reading. */
#include "storage/http.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "storage/http_priv.h"
#include "util/iov.h"

#define REDIRECTS_MAX 10u

static int read_settings(struct vd_http_settings *settings,
                         const struct vdisk_network_options *options, struct vdisk_error *err)
{
    int ret = vd_network_settings(options, &settings->network, err);
    if (ret < 0)
        return ret;
    if (options->ca_file) {
        settings->ca_file = strdup(options->ca_file);
        if (!settings->ca_file)
            return vd_err_nomem(err, "a file name");
    }
    return 0;
}

static int set_text(char **to, const char *text, struct vdisk_error *err)
{
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy)
        return vd_err_nomem(err, "a user name");
    free(*to);
    *to = copy;
    return 0;
}

static int set_secrets(struct vd_http *http, const char *user, const char *password,
                       const char *bearer, struct vdisk_error *err)
{
    int ret = set_text(&http->user, user, err);
    if (ret == 0)
        ret = set_text(&http->password, password, err);
    if (ret == 0)
        ret = set_text(&http->bearer, bearer, err);
    return ret;
}

/* What the caller gave goes first, in the URL or the options; then what the environment has. */
static int read_secrets(struct vd_http *http, const struct vdisk_network_options *options,
                        struct vdisk_error *err)
{
    if ((http->url.user || options->user) && options->bearer)
        return vd_err_set(err, EINVAL, "a user and a bearer token are given: give one of them");
    if (options->password && !options->user && !http->url.user)
        return vd_err_set(err, EINVAL, "a password is given, but no user");
    if (http->url.user)
        return set_secrets(http, http->url.user,
                           http->url.password ? http->url.password : options->password, NULL, err);
    if (options->user)
        return set_secrets(http, options->user,
                           options->password ? options->password
                                             : secure_getenv("VDISK_HTTP_PASSWORD"),
                           NULL, err);
    const char *bearer = options->bearer ? options->bearer : secure_getenv("VDISK_HTTP_BEARER");
    if (bearer && bearer[0])
        return set_secrets(http, NULL, NULL, bearer, err);
    const char *user = secure_getenv("VDISK_HTTP_USER");
    if (user && user[0])
        return set_secrets(http, user, secure_getenv("VDISK_HTTP_PASSWORD"), NULL, err);
    return 0;
}

/* The first request. */
struct opening {
    struct vd_http_request request;
    struct vd_http *http;
    bool is_redirect;
    bool is_whole; /* the server sends all of the file: it does not know ranges */
};

static void remember_file(struct vd_http *http, const struct vd_http_head *head, uint64_t size)
{
    http->file.size = size;
    memcpy(http->file.etag, head->etag, sizeof(http->file.etag));
    memcpy(http->file.last_modified, head->last_modified, sizeof(http->file.last_modified));
}

/* Status 206. */
static int open_part(struct opening *opening, const struct vd_http_head *head,
                     struct vdisk_error *err)
{
    struct vd_http *http = opening->http;
    struct vd_http_request *request = &opening->request;
    int ret = vd_http_check_head(head, err);
    if (ret < 0)
        return ret;
    if (head->has_range && !head->has_total)
        return vd_err_set(err, EIO, "the server does not say how long the file is");
    if (head->has_range && head->total > INT64_MAX)
        return vd_err_set(err, EIO,
                          "the server says that the file has %" PRIu64 " bytes: at most %" PRId64,
                          head->total, INT64_MAX);
    if (head->has_range && request->done_bytes == 0) {
        remember_file(http, head, head->total);
        request->range.length = vd_min(http->head_wanted, head->total);
    }
    return vd_http_check_part(request, &http->file, head, err);
}

/* Status 200. */
static int open_whole(struct opening *opening, const struct vd_http_head *head,
                      struct vdisk_error *err)
{
    int ret = vd_http_check_head(head, err);
    if (ret < 0)
        return ret;
    if (!head->has_length)
        return vd_err_set(err, EIO,
                          "the server does not serve ranges of bytes, nor say how long the file "
                          "is (Content-Length)");
    remember_file(opening->http, head, head->length);
    opening->is_whole = true;
    opening->request.done_bytes = 0;
    opening->request.expected_bytes = head->length;
    return 0;
}

static bool is_redirect(unsigned status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static int open_begin(struct vd_http_request *request, const struct vd_http_head *head,
                      struct vdisk_error *err)
{
    struct opening *opening = (struct opening *)request;
    if (head->status == 206)
        return open_part(opening, head, err);
    if (head->status == 200)
        return open_whole(opening, head, err);
    if (is_redirect(head->status)) {
        opening->is_redirect = true;
        return VD_HTTP_SKIP_BODY;
    }
    if (head->status == 416) {
        if (!head->has_no_range || head->total > 0)
            return vd_err_set(err, EIO,
                              "the server answers status 416 to a request for the first %zu bytes",
                              opening->http->head_wanted);
        remember_file(opening->http, head, 0);
        return VD_HTTP_SKIP_BODY;
    }
    return vd_http_status_error(opening->http, request, head, err);
}

static int open_take(struct vd_http_request *request, const uint8_t *data, size_t length,
                     struct vdisk_error *err)
{
    (void)err;
    struct vd_http *http = ((struct opening *)request)->http;
    size_t used = (size_t)request->done_bytes;
    size_t taken = (size_t)vd_min(length, VD_HTTP_HEAD_BYTES - used);
    memcpy(http->head + used, data, taken);
    http->head_bytes = used + taken;
    if (taken < length) /* http_spool.c goes on with this piece */
        return VD_HTTP_PAUSE;
    request->done_bytes += length;
    return 0;
}

/* The server names another place: @conn aims there next. */
static int follow(struct vd_http *http, struct vd_http_conn *conn, struct vdisk_error *err)
{
    char *location = NULL;
    struct vd_http_url url;
    curl_easy_getinfo(conn->easy, CURLINFO_REDIRECT_URL, &location);
    if (!location)
        return vd_err_set(err, EIO, "the server redirects without saying where to (Location)");
    struct vdisk_error bad_url = {0};
    int ret = vd_http_url_parse(location, &url, &bad_url);
    if (ret < 0)
        return vd_err_set(err, EIO, "the server redirects: %s", bad_url.message);
    if (strcasecmp(http->url.scheme, "https") == 0 && strcasecmp(url.scheme, "https") != 0) {
        ret = vd_err_set(err, EIO,
                         "the server redirects from https to http, to host %s: refused, as "
                         "anybody between could then change the file",
                         url.host);
        vd_http_url_free(&url);
        return ret;
    }

    bool same = vd_http_url_same_origin(&http->url, &url);
    vd_http_url_free(&http->url);
    http->url = url;
    http->is_redirected = true;
    if (url.user) {
        ret = set_secrets(http, url.user, url.password, NULL, err);
    } else if (!same && (http->user || http->bearer)) { /* H2 */
        http->lost_secrets = true;
        ret = set_secrets(http, NULL, NULL, NULL, err);
    }
    return ret < 0 ? ret : vd_http_conn_aim(conn, err);
}

/* Asks for the first bytes, wherever redirects lead. */
static int ask(struct opening *opening, struct vd_http_conn *conn, struct vdisk_error *err)
{
    for (unsigned redirects = 0;; redirects++) {
        opening->is_redirect = false;
        int ret = vd_http_run(conn, &opening->request, err);
        if (ret != 0 || !opening->is_redirect)
            return ret;
        if (redirects == REDIRECTS_MAX)
            return vd_err_set(err, EIO, "more than %u redirects: they seem to go round in circles",
                              REDIRECTS_MAX);
        ret = follow(opening->http, conn, err);
        if (ret < 0)
            return ret;
    }
}

/* Every later request tells which version of the file it is about. */
static int name_version(struct vd_http *http, struct vdisk_error *err)
{
    char field[VD_HTTP_VALIDATOR_BYTES + 16];
    if (!vd_http_etag_is_strong(http->file.etag))
        return 0;
    snprintf(field, sizeof(field), "If-Match: %s", http->file.etag);
    return curl_slist_append(http->fields, field) ? 0 : vd_err_nomem(err, "a request");
}

static int connect_and_ask(struct vd_http *http, struct vdisk_error *err)
{
    struct opening opening = {
        .request = {.range = vd_range(0, http->head_wanted),
                    .begin = open_begin,
                    .take = open_take},
        .http = http,
    };
    struct vd_http_conn *conn;
    http->fields = curl_slist_append(NULL, "Accept-Encoding: identity");
    if (!http->fields)
        return vd_err_nomem(err, "a request");
    int ret = vd_http_conn_get(http, &conn, err);
    if (ret < 0)
        return ret;
    ret = ask(&opening, conn, err);
    if (ret == VD_HTTP_PAUSE)
        return vd_http_spool_new(http, conn, opening.request.done_bytes, err);
    vd_http_conn_put(conn);
    return ret < 0 ? ret : name_version(http, err);
}

static int set_up(struct vd_http *http, const char *name,
                  const struct vdisk_network_options *options, struct vdisk_error *err)
{
    static const struct vdisk_network_options defaults = {.struct_bytes = sizeof(defaults)};
    if (!options)
        options = &defaults;
    int ret = read_settings(&http->settings, options, err);
    if (ret == 0)
        ret = vd_http_url_parse(name, &http->url, err);
    return ret < 0 ? ret : read_secrets(http, options, err);
}

static int with_place(const struct vd_http *http, int ret, struct vdisk_error *err)
{
    if (ret < 0 && http->is_redirected)
        vd_err_prefix(err, ret, "redirected to %s://%s:%s: ", http->url.scheme, http->url.host,
                      http->url.port);
    return ret;
}

static void http_free(struct vd_http *http)
{
    vd_http_spool_free(http->spool);
    vd_http_pool_free(http);
    curl_slist_free_all(http->fields);
    vd_http_url_free(&http->url);
    free(http->settings.ca_file);
    free(http->user);
    free(http->password);
    free(http->bearer);
    vd_cond_destroy(&http->pool_changed);
    vd_mutex_destroy(&http->pool_lock);
    free(http);
    curl_global_cleanup();
}

/* libcurl counts the users of its global state, and locks it if it was built to. */
static int init_curl(struct vdisk_error *err)
{
    const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);
    if (!(info->features & CURL_VERSION_THREADSAFE))
        return vd_err_set(err, EOPNOTSUPP,
                          "this libcurl (%s) can not be initialised by several threads: install "
                          "one that can",
                          info->version);
    if (curl_global_init(CURL_GLOBAL_DEFAULT))
        return vd_err_set(err, EIO, "libcurl does not start");
    return 0;
}

static int http_open(struct vd_storage *storage, const char *name,
                     const struct vd_storage_options *options, struct vdisk_error *err)
{
    int ret = init_curl(err);
    if (ret < 0)
        return ret;
    struct vd_http *http = calloc(1, sizeof(*http));
    if (!http) {
        curl_global_cleanup();
        return vd_err_nomem(err, "an HTTP client");
    }
    vd_mutex_init(&http->pool_lock);
    vd_cond_init(&http->pool_changed);
    http->head_wanted =
        options->flags & VD_STORAGE_GLANCE ? VD_HTTP_GLANCE_BYTES : VD_HTTP_HEAD_BYTES;

    ret = set_up(http, name, options->network, err);
    if (ret == 0)
        ret = with_place(http, connect_and_ask(http, err), err);
    if (ret < 0) {
        http_free(http);
        return ret;
    }
    storage->state = http;
    storage->caps = VD_STORAGE_IS_REMOTE;
    return 0;
}

static void http_close(struct vd_storage *storage)
{
    http_free(storage->state);
}

static int http_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    const struct vd_http *http = storage->state;
    *size = http->file.size;
    return 0;
}

static int http_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    struct vd_http *http = storage->state;
    struct vd_range range = vd_range(offset, vd_iov_length(iov, iov_entries));
    if (!vd_range_is_within(range, http->file.size))
        return vd_err_set(
            err, EIO, "reading %" PRIu64 " bytes at offset %" PRIu64 ": the file ends at %" PRIu64,
            range.length, offset, http->file.size);
    size_t known = 0;
    if (offset < http->head_bytes) {
        known = (size_t)vd_min(range.length, http->head_bytes - offset);
        vd_iov_from_buffer(iov, 0, http->head + offset, known);
    }
    if (known == range.length)
        return 0;

    int ret;
    if (http->spool)
        ret = vd_http_spool_read(http->spool, iov, iov_entries, range, err);
    else
        ret = vd_http_read_range(http, iov, known, vd_range(offset + known, range.length - known),
                                 err);
    if (ret < 0)
        vd_err_prefix(err, ret, "reading %" PRIu64 " bytes at offset %" PRIu64 ": ", range.length,
                      offset);
    return with_place(http, ret, err);
}

static void http_stats(struct vd_storage *storage, struct vd_storage_stats *stats)
{
    struct vd_http *http = storage->state;
    stats->requests = atomic_load(&http->request_count);
    stats->bytes = atomic_load(&http->received_bytes);
}

static const char *const http_schemes[] = {"http", "https", NULL};

const struct vd_storage_driver vd_storage_http_driver = {
    .name = "http",
    .schemes = http_schemes,
    .open = http_open,
    .close = http_close,
    .size = http_size,
    .preadv = http_preadv,
    .stats = http_stats,
};
