/* SPDX-License-Identifier: MIT */
/*
 * Inside the http driver:
 *
 *   http.c          the driver's functions: options, open with redirects, read
 *   http_request.c  what an answer must look like; trying again
 *   http_conn.c     one connection and one transfer on it; the pool of connections
 *   http_spool.c    servers without byte ranges: the whole file, once, into a temporary file
 *   http_head.c, http_url.c  parsing
 *
 * H1  A byte reaches a caller only after the header it came with was found to be that of the same
 *     file (size, ETag or else Last-Modified), and of exactly the range that was asked for.
 * H2  User, password and token are sent to the origin that they were given for, no other.
 * H3  There are never more than settings.network.connections connections.
 */
#ifndef VD_STORAGE_HTTP_PRIV_H
#define VD_STORAGE_HTTP_PRIV_H

#include <curl/curl.h>
#include <stdatomic.h>

#include "storage/driver.h"
#include "storage/http.h"
#include "storage/http_head.h"
#include "storage/http_url.h"
#include "storage/network.h"

/* What the first request asks for, and what stays in memory of the answer. */
#define VD_HTTP_HEAD_BYTES   4096u
#define VD_HTTP_GLANCE_BYTES 320u /* instead, for VD_STORAGE_GLANCE */

struct vd_http;
struct vd_http_conn;
struct vd_http_spool;

struct vd_http_settings {
    struct vd_network_settings network;
    char *ca_file; /* or NULL */
};

/* The file that was opened; what any later answer must be from. */
struct vd_http_file {
    uint64_t size;
    char etag[VD_HTTP_VALIDATOR_BYTES]; /* empty: none */
    char last_modified[VD_HTTP_VALIDATOR_BYTES];
};

enum {
    VD_HTTP_PAUSE = 1,    /* of take(): this piece later, once more */
    VD_HTTP_SKIP_BODY = 1 /* of begin(): the header said it all */
};

/* One request, and who takes its answer; the first member of a struct of the caller's. */
struct vd_http_request {
    struct vd_range range; /* empty: the whole file */
    /*
     * The header is in: is it what was asked for?  0, VD_HTTP_SKIP_BODY, or negative, having
     * called vd_http_status_error() or cleared may_retry.  Sets ->expected_bytes.
     */
    int (*begin)(struct vd_http_request *request, const struct vd_http_head *head,
                 struct vdisk_error *err);
    /* The next bytes of the body: 0, VD_HTTP_PAUSE, or negative.  Adds to ->done_bytes. */
    int (*take)(struct vd_http_request *request, const uint8_t *data, size_t length,
                struct vdisk_error *err);
    const atomic_bool *stop; /* end it with -ECANCELED; may be NULL */
    uint64_t expected_bytes; /* of this answer's body */
    uint64_t done_bytes; /* new bytes, over all tries; a next try asks for what is behind them */
    bool may_retry;      /* after a failure: trying again makes sense */
    uint32_t retry_after_ms; /* the server's wish, or 0 */
};

struct vd_http_conn {
    struct vd_http *http;
    struct vd_http_conn *next; /* in the pool */
    CURLM *multi;
    CURL *easy;
    char curl_message[CURL_ERROR_SIZE];
    /* of the transfer under way */
    struct vd_http_request *request;
    struct vd_http_head head;
    struct vdisk_error failure; /* found by a callback */
    uint64_t body_bytes;        /* taken or skipped */
    uint64_t moved_ms;          /* when the last byte moved */
    bool has_begun;             /* begin() was called */
    bool is_skipping;
    bool is_paused;
};

struct vd_http {
    struct vd_http_settings settings;
    struct vd_http_url url; /* where the file really is, after redirects */
    char *user;             /* of this URL's origin; NULL: none */
    char *password;
    char *bearer;
    bool is_redirected;
    bool lost_secrets; /* there were some, but a redirect led elsewhere */
    struct vd_http_file file;
    struct curl_slist *fields; /* sent with each request */
    uint8_t head[VD_HTTP_HEAD_BYTES];
    size_t head_wanted; /* bytes of it that opening asks for */
    size_t head_bytes;
    struct vd_http_spool *spool; /* NULL: the server knows byte ranges */

    _Atomic uint64_t request_count;
    _Atomic uint64_t received_bytes;

    struct vd_mutex pool_lock; /* after: none */
    struct vd_cond pool_changed;
    struct vd_http_conn *idle; /* under pool_lock */
    uint32_t conn_count;       /* under pool_lock */
};

/* http_conn.c */

/* Waits while all connections are in use.  Goes back with vd_http_conn_put(). */
int vd_http_conn_get(struct vd_http *http, struct vd_http_conn **conn, struct vdisk_error *err);
void vd_http_conn_put(struct vd_http_conn *conn);
void vd_http_pool_free(struct vd_http *http);

/* The URL or the secrets are not what they were: idle connections learn it. */
int vd_http_conn_aim(struct vd_http_conn *conn, struct vdisk_error *err);

/*
 * Makes one request, or goes on with the one that take() paused (then request is the one to go on
 * with, and begin() is not called again).  0: all taken; VD_HTTP_PAUSE; or negative with
 * request->may_retry.
 */
int vd_http_conn_run(struct vd_http_conn *conn, struct vd_http_request *request,
                     struct vdisk_error *err);

/* Ends a paused transfer. */
void vd_http_conn_abort(struct vd_http_conn *conn);

/* Waits, unless vd_http_conn_wake() is called or was called since the last wait. */
void vd_http_conn_sleep(struct vd_http_conn *conn, uint32_t delay_ms);

/* From any thread, while the connection is not given back. */
void vd_http_conn_wake(struct vd_http_conn *conn);

/* http_request.c */

/* As vd_http_conn_run(), tried again as the settings say. */
int vd_http_run(struct vd_http_conn *conn, struct vd_http_request *request,
                struct vdisk_error *err);

/*
 * For an answer that is no file: the error for its status, and whether trying again makes sense.
 * Always negative.
 */
int vd_http_status_error(struct vd_http *http, struct vd_http_request *request,
                         const struct vd_http_head *head, struct vdisk_error *err);

/* Problems that any answer with a body can have, whatever was asked for. */
int vd_http_check_head(const struct vd_http_head *head, struct vdisk_error *err);

/* H1: is this still the file that was opened? */
int vd_http_check_same(const struct vd_http_file *file, const struct vd_http_head *head,
                       struct vdisk_error *err);

/* H1: is this status 206 exactly the part of @file that was asked for?  Sets expected_bytes. */
int vd_http_check_part(struct vd_http_request *request, const struct vd_http_file *file,
                       const struct vd_http_head *head, struct vdisk_error *err);

/* Reads one range, which lies in the file, into the buffers from @skip bytes on. */
int vd_http_read_range(struct vd_http *http, const struct iovec *iov, size_t skip,
                       struct vd_range range, struct vdisk_error *err);

/* http_spool.c */

/*
 * Makes http->spool for the file that @conn has a paused transfer of, at @position of it.  Takes
 * @conn over, in any case.  Nothing more is transferred before the first read.
 */
int vd_http_spool_new(struct vd_http *http, struct vd_http_conn *conn, uint64_t position,
                      struct vdisk_error *err);
void vd_http_spool_free(struct vd_http_spool *spool);

/* Waits until the bytes have arrived. */
int vd_http_spool_read(struct vd_http_spool *spool, const struct iovec *iov, int iov_entries,
                       struct vd_range range, struct vdisk_error *err);

#endif
