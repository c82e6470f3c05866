/* SPDX-License-Identifier: MIT */
/* What an answer must look like, and when a request is worth another try. */
#include <inttypes.h>
#include <string.h>

#include "storage/http_priv.h"
#include "util/iov.h"

#define RETRY_AFTER_MS_MAX 10000u

static bool is_passing(unsigned status)
{
    switch (status) {
    case 408:
    case 429:
    case 500:
    case 502:
    case 503:
    case 504:
        return true;
    default:
        return false;
    }
}

static int access_error(const struct vd_http *http, const struct vd_http_head *head,
                        struct vdisk_error *err)
{
    const char *advice = "it wants a user and a password, or a bearer token";
    if (http->is_redirected && http->file.size)
        advice = "where it redirected to may have been good for a while only: open the file again";
    else if (http->lost_secrets)
        advice = "user, password and token are not passed on when a server redirects elsewhere: "
                 "give the URL it redirects to";
    else if (http->bearer)
        advice = "it does not accept the bearer token for this file";
    else if (http->user)
        advice = "it does not accept this user and password for this file";
    else if (head->status == 403)
        advice = "it does not allow reading this file";
    return vd_err_set(err, EACCES, "the server answers status %u: %s", head->status, advice);
}

int vd_http_status_error(struct vd_http *http, struct vd_http_request *request,
                         const struct vd_http_head *head, struct vdisk_error *err)
{
    request->may_retry = is_passing(head->status);
    switch (head->status) {
    case 401:
    case 403:
        return access_error(http, head, err);
    case 404:
    case 410:
        return vd_err_set(err, ENOENT, "the server has no such file (status %u)", head->status);
    case 407:
        return vd_err_set(err, EACCES,
                          "the proxy wants a user and a password (status 407): put them into "
                          "the proxy's URL in the environment");
    case 412:
        return vd_err_set(err, ESTALE,
                          "the file has changed on the server since it was opened (status 412): "
                          "open it again");
    default:
        if (head->status >= 300 && head->status < 400)
            return vd_err_set(err, EIO,
                              "the server redirects (status %u) where it should not: open the file "
                              "again",
                              head->status);
        return vd_err_set(err, EIO, "the server answers status %u%s", head->status,
                          request->may_retry ? "" : ", which is no use");
    }
}

int vd_http_check_head(const struct vd_http_head *head, struct vdisk_error *err)
{
    if (head->bad_field)
        return vd_err_set(err, EIO, "%s of the server's answer makes no sense", head->bad_field);
    if (head->is_encoded)
        return vd_err_set(err, EIO,
                          "the server sends the file encoded (Content-Encoding), although it was "
                          "asked not to: turn compression off for this file on the server");
    return 0;
}

static const char *or_none(const char *text)
{
    return text[0] ? text : "none";
}

int vd_http_check_same(const struct vd_http_file *file, const struct vd_http_head *head,
                       struct vdisk_error *err)
{
    const char *what = NULL;
    const char *was = file->etag;
    const char *is = head->etag;
    if (strcmp(file->etag, head->etag) != 0) {
        what = "ETag";
    } else if (!vd_http_etag_is_strong(file->etag) &&
               strcmp(file->last_modified, head->last_modified) != 0) {
        what = "Last-Modified";
        was = file->last_modified;
        is = head->last_modified;
    }
    if (!what)
        return 0;
    return vd_err_set(err, ESTALE,
                      "the file has changed on the server since it was opened (%s was %s, is %s): "
                      "open it again",
                      what, or_none(was), or_none(is));
}

static uint32_t backoff_ms(unsigned failures, const struct vd_http_request *request)
{
    return (uint32_t)vd_max(vd_network_backoff_ms(failures),
                            vd_min(request->retry_after_ms, RETRY_AFTER_MS_MAX));
}

static bool is_stopped(const struct vd_http_request *request)
{
    return request->stop && atomic_load(request->stop);
}

int vd_http_run(struct vd_http_conn *conn, struct vd_http_request *request, struct vdisk_error *err)
{
    uint32_t retries = conn->http->settings.network.retries;
    uint32_t failures = 0;
    for (;;) {
        struct vdisk_error reason = {0};
        uint64_t done_before = request->done_bytes;
        bool was_paused = conn->is_paused;
        int ret = vd_http_conn_run(conn, request, &reason);
        if (ret >= 0)
            return ret;
        /* A try that brought something new was no failure: a line that is cut again and again
         * still carries the file. */
        failures = request->done_bytes > done_before ? 1 : failures + 1;
        /* A server may give up a transfer that nobody wanted for a while: that is not its fault. */
        if (was_paused)
            failures = 0;
        if (!request->may_retry || is_stopped(request))
            return vd_err_copy(err, &reason);
        if (failures > retries)
            return vd_err_set(err, reason.code, "%s (gave up after %" PRIu32 " %s)", reason.message,
                              failures, failures == 1 ? "try" : "tries");
        if (failures)
            vd_http_conn_sleep(conn, backoff_ms(failures, request));
        if (is_stopped(request))
            return vd_err_copy(err, &reason);
    }
}

static int check_range_given(const struct vd_http_request *request, const struct vd_http_head *head,
                             struct vdisk_error *err)
{
    uint64_t first = request->range.offset + request->done_bytes;
    uint64_t last = vd_range_end(request->range) - 1;
    if (!head->has_range)
        return vd_err_set(err, EIO,
                          "the server answers status 206 without saying which bytes it sends");
    if (head->range_first != first || head->range_last != last)
        return vd_err_set(err, EIO,
                          "the server sends bytes %" PRIu64 "-%" PRIu64 ", but %" PRIu64 "-%" PRIu64
                          " were asked for",
                          head->range_first, head->range_last, first, last);
    if (head->has_length && head->length != last - first + 1)
        return vd_err_set(err, EIO,
                          "the server's Content-Length is %" PRIu64 ", but its Content-Range has "
                          "%" PRIu64 " bytes",
                          head->length, last - first + 1);
    return 0;
}

static int check_size(const struct vd_http_file *file, const struct vd_http_head *head,
                      struct vdisk_error *err)
{
    if (!head->has_total || head->total == file->size)
        return 0;
    return vd_err_set(
        err, ESTALE,
        "the file has changed on the server since it was opened (its size was %" PRIu64
        ", is %" PRIu64 "): open it again",
        file->size, head->total);
}

int vd_http_check_part(struct vd_http_request *request, const struct vd_http_file *file,
                       const struct vd_http_head *head, struct vdisk_error *err)
{
    int ret = vd_http_check_head(head, err);
    if (ret == 0)
        ret = check_size(file, head, err);
    if (ret == 0)
        ret = vd_http_check_same(file, head, err);
    if (ret == 0)
        ret = check_range_given(request, head, err);
    request->expected_bytes = request->range.length - request->done_bytes;
    return ret;
}

/* A read of one range. */
struct read {
    struct vd_http_request request;
    struct vd_http *http;
    const struct iovec *iov;
    size_t skip; /* bytes of iov that are filled already */
};

static int read_begin(struct vd_http_request *request, const struct vd_http_head *head,
                      struct vdisk_error *err)
{
    const struct read *read = (const struct read *)request;
    const struct vd_http_file *file = &read->http->file;
    if (head->status == 206)
        return vd_http_check_part(request, file, head, err);
    if (head->status == 416) {
        int ret = check_size(file, head, err);
        return ret < 0 ? ret
                       : vd_err_set(err, EIO,
                                    "the server answers status 416: it says that these bytes are "
                                    "not in the file");
    }
    if (head->status >= 200 && head->status < 300)
        return vd_err_set(
            err, EIO,
            "the server answers status %u to a request for a range of bytes, although "
            "it sent ranges before: open the file again",
            head->status);
    return vd_http_status_error(read->http, request, head, err);
}

static int read_take(struct vd_http_request *request, const uint8_t *data, size_t length,
                     struct vdisk_error *err)
{
    (void)err;
    const struct read *read = (const struct read *)request;
    vd_iov_from_buffer(read->iov, read->skip + (size_t)request->done_bytes, data, length);
    request->done_bytes += length;
    return 0;
}

int vd_http_read_range(struct vd_http *http, const struct iovec *iov, size_t skip,
                       struct vd_range range, struct vdisk_error *err)
{
    struct read read = {
        .request = {.range = range, .begin = read_begin, .take = read_take},
        .http = http,
        .iov = iov,
        .skip = skip,
    };
    struct vd_http_conn *conn;
    int ret = vd_http_conn_get(http, &conn, err);
    if (ret < 0)
        return ret;
    ret = vd_http_run(conn, &read.request, err);
    vd_http_conn_put(conn);
    return ret;
}
