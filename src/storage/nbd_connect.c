/* SPDX-License-Identifier: MIT */
/* Connections: made, looked at, made anew. */
#include <ctype.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "storage/nbd_priv.h"
#include "util/clock.h"
#include "util/mem.h"

#define TEXT_BYTES            512u
#define MIN_BYTES_DEFAULT     512u
#define MIN_BYTES_MAX         65536u /* the limit of the protocol */
#define PAYLOAD_BYTES_DEFAULT (32u << 20)
#define MORE_TIMEOUT_MS       3000u /* for connections that are only to make it faster */

/* libnbd begins with the names of its functions. */
static const char *skip_functions(const char *text)
{
    while (strncmp(text, "nbd_", 4) == 0) {
        const char *end = text + strspn(text, "abcdefghijklmnopqrstuvwxyz_0123456789");
        if (strncmp(end, ": ", 2) != 0)
            break;
        text = end + 2;
    }
    return text;
}

int vd_nbd_library_error(int fallback_code, struct vdisk_error *err)
{
    char text[TEXT_BYTES];
    const char *said = nbd_get_error();
    int code = nbd_get_errno();
    snprintf(text, sizeof(text), "%s", said ? skip_functions(said) : "the connection failed");
    for (char *c = text; *c; c++) /* parts of it may be the server's */
        if (iscntrl((unsigned char)*c))
            *c = '?';
    return vd_err_set(err, code > 0 ? code : fallback_code, "%s", text);
}

/*
 * libnbd verifies a certificate only if it has found those to trust, and knows what the server is
 * called; it goes on without a word if not.
 */
static int check_can_verify(const struct vd_nbd_uri *uri, struct vdisk_error *err)
{
    if (!uri->is_tls || uri->has_key)
        return 0;
    if (uri->transport != VD_NBD_TCP)
        return vd_err_set(
            err, EINVAL,
            "TLS with certificates wants a server that has the name of a host; here a "
            "key that both know can be used: tls-psk-file=FILE");
    if (!uri->certificates)
        return vd_err_set(
            err, EINVAL,
            "TLS: who is to be trusted?  Name a directory that has ca-cert.pem in it, "
            "?tls-certificates=DIRECTORY, or a file with a key, ?tls-psk-file=FILE");
    CLEANUP_FREE char *path = NULL;
    if (asprintf(&path, "%s/ca-cert.pem", uri->certificates) < 0) {
        path = NULL;
        return vd_err_nomem(err, "a file name");
    }
    return access(path, R_OK) == 0 ? 0 : vd_err_errno(err, errno, "can not read '%s'", path);
}

static const char *context_of(const struct vd_nbd *nbd)
{
    return nbd->context ? nbd->context : LIBNBD_CONTEXT_BASE_ALLOCATION;
}

/* @lists: only to ask what there is; the export is not opened. */
static int new_handle(const struct vd_nbd *nbd, bool lists, struct nbd_handle **handle,
                      struct vdisk_error *err)
{
    struct nbd_handle *made = nbd_create();
    if (!made)
        return vd_err_nomem(err, "an NBD connection");
    if (nbd_set_pread_initialize(made, false) < 0 ||
        nbd_set_uri_allow_transports(made, LIBNBD_ALLOW_TRANSPORT_MASK) < 0 ||
        nbd_set_uri_allow_local_file(made, nbd->is_trusted) < 0 ||
        nbd_set_tls_verify_peer(made, true) < 0 || nbd_set_opt_mode(made, lists) < 0 ||
        (!lists && nbd_add_meta_context(made, context_of(nbd)) < 0) ||
        nbd_aio_connect_uri(made, nbd->uri.text) < 0) {
        int ret = vd_nbd_library_error(EIO, err);
        nbd_close(made);
        return ret;
    }
    *handle = made;
    return 0;
}

/* How long something may take, whatever the server says meanwhile. */
struct limit {
    uint64_t begin;
    uint32_t timeout_ms;
};

static int wait_for_server(struct nbd_handle *handle, const struct limit *limit,
                           struct vdisk_error *err)
{
    uint64_t passed = vd_min(vd_clock_ms() - limit->begin, limit->timeout_ms);
    unsigned direction = nbd_aio_get_direction(handle);
    struct pollfd fd = {.fd = nbd_aio_get_fd(handle)};
    if (direction & LIBNBD_AIO_DIRECTION_READ)
        fd.events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        fd.events |= POLLOUT;
    int count = passed < limit->timeout_ms ? poll(&fd, 1, (int)(limit->timeout_ms - passed)) : 0;
    if (count < 0 && errno == EINTR)
        return 0;
    if (count == 0)
        return vd_err_set(err, ETIMEDOUT, "the server did not come to terms within %" PRIu32 " ms",
                          limit->timeout_ms);
    if (count < 0)
        return vd_err_errno(err, errno, "can not wait for the server");
    int ret = direction & LIBNBD_AIO_DIRECTION_READ && fd.revents & ~POLLOUT
                  ? nbd_aio_notify_read(handle)
                  : nbd_aio_notify_write(handle);
    return ret < 0 ? vd_nbd_library_error(EIO, err) : 0;
}

/* Until the server has said all. */
static int negotiate(struct nbd_handle *handle, uint32_t timeout_ms, struct vdisk_error *err)
{
    struct limit limit = {.begin = vd_clock_ms(), .timeout_ms = timeout_ms};
    int ret = 0;
    while (ret == 0 && (nbd_aio_is_connecting(handle) > 0 || nbd_aio_is_negotiating(handle) > 0))
        ret = wait_for_server(handle, &limit, err);
    if (ret < 0)
        return ret;
    return nbd_aio_is_ready(handle) > 0 ? 0 : vd_nbd_library_error(EIO, err);
}

static int read_sizes(struct nbd_handle *handle, struct vd_nbd_facts *facts,
                      struct vdisk_error *err)
{
    int64_t size = nbd_get_size(handle);
    int64_t min_bytes = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM);
    int64_t max_bytes = nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);
    if (size < 0 && nbd_get_errno() != EOVERFLOW)
        return vd_nbd_library_error(EIO, err);
    if (size < 0)
        return vd_err_set(err, EOVERFLOW,
                          "the server says that the export is larger than %" PRId64 " bytes",
                          INT64_MAX);
    if (min_bytes < 0 || max_bytes < 0)
        return vd_nbd_library_error(EIO, err);
    if (min_bytes == 0)
        min_bytes = size % MIN_BYTES_DEFAULT ? 1 : MIN_BYTES_DEFAULT;
    if (!vd_is_aligned((uint64_t)min_bytes, (uint64_t)min_bytes) || min_bytes > MIN_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "the server says that its smallest block has %" PRId64
                          " bytes: a power of two up to %u is possible",
                          min_bytes, MIN_BYTES_MAX);
    if (max_bytes == 0 || max_bytes > PAYLOAD_BYTES_DEFAULT)
        max_bytes = PAYLOAD_BYTES_DEFAULT;
    if (max_bytes < min_bytes)
        return vd_err_set(err, EBADMSG,
                          "the server says that its largest block has %" PRId64
                          " bytes, and its smallest %" PRId64,
                          max_bytes, min_bytes);
    facts->size = (uint64_t)size;
    facts->min_bytes = (uint32_t)min_bytes;
    facts->payload_bytes = (uint32_t)vd_round_down((uint64_t)max_bytes, (uint64_t)min_bytes);
    return 0;
}

static int read_facts(struct nbd_handle *handle, struct vd_nbd_facts *facts,
                      struct vdisk_error *err)
{
    uint32_t can = 0;
    can |= nbd_is_read_only(handle) == 0 ? VD_NBD_CAN_WRITE : 0;
    can |= nbd_can_flush(handle) > 0 ? VD_NBD_CAN_FLUSH : 0;
    can |= nbd_can_fua(handle) > 0 ? VD_NBD_CAN_FUA : 0;
    can |= nbd_can_zero(handle) > 0 ? VD_NBD_CAN_ZERO : 0;
    can |= nbd_can_fast_zero(handle) > 0 ? VD_NBD_CAN_FAST_ZERO : 0;
    can |= nbd_can_trim(handle) > 0 ? VD_NBD_CAN_TRIM : 0;
    can |= nbd_can_multi_conn(handle) > 0 ? VD_NBD_CAN_MULTI_CONN : 0;
    can |=
        nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0 ? VD_NBD_CAN_EXTENTS : 0;
    *facts = (struct vd_nbd_facts){.can = can};
    return read_sizes(handle, facts, err);
}

int vd_nbd_connect(struct vd_nbd *nbd, uint32_t timeout_ms, struct nbd_handle **handle,
                   struct vd_nbd_facts *facts, struct vdisk_error *err)
{
    *handle = NULL;
    int ret = check_can_verify(&nbd->uri, err);
    if (ret == 0)
        ret = new_handle(nbd, false, handle, err);
    if (ret == 0)
        ret = negotiate(*handle, timeout_ms, err);
    if (ret == 0 && nbd->uri.is_tls && nbd_get_tls_negotiated(*handle) <= 0)
        ret = vd_err_set(err, EACCES, "the server did not start TLS");
    if (ret == 0)
        ret = read_facts(*handle, facts, err);
    if (ret < 0) {
        nbd_close(*handle);
        *handle = NULL;
    }
    return ret;
}

bool vd_nbd_has_context(struct vd_nbd *nbd)
{
    struct vd_nbd_conn *conn = &nbd->conns[0];
    vd_mutex_lock(&conn->lock);
    bool has = conn->handle && nbd_can_meta_context(conn->handle, context_of(nbd)) > 0;
    vd_mutex_unlock(&conn->lock);
    return has;
}

/* It is idle. */
static void hang_up(struct vd_nbd_conn *conn)
{
    if (conn->handle && nbd_aio_is_ready(conn->handle) > 0)
        (void)nbd_aio_disconnect(conn->handle, 0);
    nbd_close(conn->handle);
    conn->handle = NULL;
}

struct listing {
    vd_nbd_context_fn found;
    void *opaque;
    bool is_done;
    int error;
};

static int on_context(void *opaque, const char *name)
{
    struct listing *listing = opaque;
    listing->found(listing->opaque, name);
    return 0;
}

static int on_listed(void *opaque, int *error)
{
    struct listing *listing = opaque;
    listing->is_done = true;
    listing->error = *error;
    return 1;
}

static int list_contexts(struct nbd_handle *handle, struct listing *listing, uint32_t timeout_ms,
                         struct vdisk_error *err)
{
    struct limit limit = {.begin = vd_clock_ms(), .timeout_ms = timeout_ms};
    nbd_context_callback context = {.callback = on_context, .user_data = listing};
    nbd_completion_callback completion = {.callback = on_listed, .user_data = listing};
    int ret = 0;
    while (ret == 0 && nbd_aio_is_connecting(handle) > 0)
        ret = wait_for_server(handle, &limit, err);
    if (ret == 0 && nbd_aio_opt_list_meta_context(handle, context, completion) < 0)
        ret = vd_nbd_library_error(EIO, err);
    while (ret == 0 && !listing->is_done)
        ret = wait_for_server(handle, &limit, err);
    if (ret == 0 && listing->error)
        ret = vd_err_errno(err, listing->error, "the server does not list its contexts");
    return ret;
}

int vd_nbd_list_contexts(struct vd_nbd *nbd, vd_nbd_context_fn found, void *opaque,
                         struct vdisk_error *err)
{
    struct listing listing = {.found = found, .opaque = opaque};
    struct nbd_handle *handle = NULL;
    vd_mutex_lock(&nbd->conns[0].lock);
    hang_up(&nbd->conns[0]); /* some servers take one connection at a time */
    vd_mutex_unlock(&nbd->conns[0].lock);
    int ret = new_handle(nbd, true, &handle, err);
    if (ret == 0)
        ret = list_contexts(handle, &listing, nbd->settings.timeout_ms, err);
    nbd_close(handle);
    return ret;
}

int vd_nbd_conn_adopt(struct vd_nbd_conn *conn, struct nbd_handle *handle, struct vdisk_error *err)
{
    if (conn->wake_fd < 0)
        conn->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (conn->wake_fd < 0)
        return vd_err_errno(err, errno, "can not make an eventfd");
    conn->handle = handle;
    conn->number = vd_nbd_durable_number(&conn->nbd->durable);
    conn->polled = 0;
    return 0;
}

/* Is it the export that was opened? */
static int check_same(const struct vd_nbd *nbd, const struct vd_nbd_facts *now,
                      struct vdisk_error *err)
{
    const struct vd_nbd_facts *was = &nbd->facts;
    if (now->size != was->size)
        return vd_err_set(err, ESTALE,
                          "the export has changed: it had %" PRIu64 " bytes, and now has %" PRIu64
                          ": open it again",
                          was->size, now->size);
    if (now->min_bytes != was->min_bytes || now->payload_bytes != was->payload_bytes ||
        now->can != was->can)
        return vd_err_set(err, ESTALE,
                          "the server now offers the export in another way (read-only, block "
                          "sizes, or what it can do): open it again");
    return 0;
}

/* Some servers take only so many connections, and leave the next one waiting. */
static void use_fewer(struct vd_nbd *nbd, unsigned count)
{
    unsigned present = atomic_load(&nbd->conn_count);
    while (present > count && !atomic_compare_exchange_weak(&nbd->conn_count, &present, count))
        ;
}

/* Connects, without the lock meanwhile. */
static int make(struct vd_nbd_conn *conn, struct vdisk_error *err) VD_REQUIRES(conn->lock)
{
    struct vd_nbd *nbd = conn->nbd;
    bool is_first = conn->number == 0;
    uint32_t timeout_ms = nbd->settings.timeout_ms;
    if (is_first)
        timeout_ms = (uint32_t)vd_min(timeout_ms, MORE_TIMEOUT_MS);
    struct nbd_handle *handle = NULL;
    struct vd_nbd_facts facts;
    struct vdisk_error failure = {0};
    conn->is_connecting = true;
    vd_mutex_unlock(&conn->lock);
    int ret = vd_nbd_connect(nbd, timeout_ms, &handle, &facts, &failure);
    if (ret == 0)
        ret = check_same(nbd, &facts, &failure);
    vd_mutex_lock(&conn->lock);
    conn->is_connecting = false;
    if (ret == 0)
        ret = vd_nbd_conn_adopt(conn, handle, &failure);
    if (ret < 0) {
        nbd_close(handle);
        conn->failures++;
        conn->failure = failure;
        vd_err_copy(err, &failure);
        if (is_first)
            use_fewer(nbd, conn->index);
    }
    vd_cond_broadcast(&conn->changed);
    return ret;
}

int vd_nbd_conn_ready(struct vd_nbd_conn *conn, struct vdisk_error *err)
{
    unsigned failures = conn->failures;
    while (conn->is_connecting) {
        vd_cond_wait(&conn->changed, &conn->lock);
        if (conn->failures != failures)
            return vd_err_copy(err, &conn->failure);
    }
    return conn->handle ? 0 : make(conn, err);
}

void vd_nbd_conn_close(struct vd_nbd_conn *conn)
{
    hang_up(conn);
    if (conn->wake_fd >= 0)
        close(conn->wake_fd);
    vd_cond_destroy(&conn->changed);
    vd_mutex_destroy(&conn->lock);
}
