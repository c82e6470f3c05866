/* SPDX-License-Identifier: MIT */
/*
 * One call on one connection, and the loop around it that tries again.
 *
 * Whoever waits for answers polls, if nobody does so already: N1.  The leader hands over to another
 * one that waits when it has its own answers.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "storage/nbd_priv.h"
#include "util/clock.h"
#include "util/mem.h"

/* Who keeps sending, but answers nothing, is given up after so many time-outs; a flush may take as
 * long. */
#define TIMEOUTS_MAX 10u

/* What came of one try; negative: an error that another try would not mend. */
enum {
    DONE = 0,
    LOST = 1,     /* some pieces are still wanted: worth another try */
    ELSEWHERE = 2 /* there is no such connection: another one */
};

static bool is_change(enum vd_nbd_op op)
{
    return op == VD_NBD_WRITE || op == VD_NBD_ZERO || op == VD_NBD_TRIM;
}

static const char *op_text(enum vd_nbd_op op)
{
    static const char *const texts[] = {
        [VD_NBD_READ] = "read", [VD_NBD_WRITE] = "write", [VD_NBD_ZERO] = "write zeros to",
        [VD_NBD_TRIM] = "trim", [VD_NBD_FLUSH] = "flush", [VD_NBD_STATUS] = "tell what is in",
    };
    return texts[op];
}

/* Called by libnbd, in whatever thread holds the lock of the connection. */
static int on_answer(void *opaque, int *error)
{
    struct vd_nbd_piece *piece = opaque;
    struct vd_nbd_call *call = piece->call;
    if (piece->state != VD_NBD_ASKED)
        return 1;
    struct vd_nbd_conn *conn = call->conn;
    piece->state = VD_NBD_ANSWERED;
    piece->error = *error;
    conn->answered_ms = conn->moved_ms;
    if (*error == 0 && call->op == VD_NBD_READ)
        atomic_fetch_add(&conn->nbd->received_bytes, piece->range.length);
    if (*error == 0 && is_change(call->op) && !(call->flags & LIBNBD_CMD_FLAG_FUA))
        vd_nbd_note_acked(&conn->nbd->durable, conn->index, conn->number);
    if (--call->left == 0)
        vd_cond_broadcast(&call->changed);
    return 1;
}

/* Called by libnbd for each part of a read that has come. */
static int on_chunk(void *opaque, const void *data, size_t length, uint64_t offset, unsigned status,
                    int *error)
{
    struct vd_nbd_piece *piece = opaque;
    (void)data;
    if (status == LIBNBD_READ_ERROR)
        return 0;
    if (offset == piece->range.offset + piece->front_bytes && !piece->parts) {
        piece->front_bytes += length;
        return 0;
    }
    if (!piece->parts)
        piece->parts = vd_alloc_array(VD_NBD_PARTS_MAX, sizeof(*piece->parts));
    if (!piece->parts)
        *error = ENOMEM;
    else if (piece->part_count < VD_NBD_PARTS_MAX)
        piece->parts[piece->part_count] = vd_range(offset, length);
    piece->part_count++;
    return piece->parts ? 0 : -1;
}

static void forget_parts(struct vd_nbd_piece *piece)
{
    free(piece->parts);
    piece->parts = NULL;
    piece->part_count = 0;
    piece->front_bytes = 0;
}

static int64_t send_piece(struct nbd_handle *handle, struct vd_nbd_call *call,
                          struct vd_nbd_piece *piece)
{
    nbd_chunk_callback chunk = {.callback = on_chunk, .user_data = piece};
    nbd_completion_callback answer = {.callback = on_answer, .user_data = piece};
    uint64_t offset = piece->range.offset;
    uint64_t length = piece->range.length;
    switch (call->op) {
    case VD_NBD_READ:
        forget_parts(piece);
        return nbd_aio_pread_structured(handle, piece->data, length, offset, chunk, answer,
                                        call->flags);
    case VD_NBD_WRITE:
        return nbd_aio_pwrite(handle, piece->data, length, offset, answer, call->flags);
    case VD_NBD_ZERO:
        return nbd_aio_zero(handle, length, offset, answer, call->flags);
    case VD_NBD_TRIM:
        return nbd_aio_trim(handle, length, offset, answer, call->flags);
    case VD_NBD_STATUS:
        return nbd_aio_block_status(handle, length, offset, call->extent, answer, call->flags);
    case VD_NBD_FLUSH:
        break;
    }
    return nbd_aio_flush(handle, answer, call->flags);
}

static void wake_leader(struct vd_nbd_conn *conn)
{
    uint64_t one = 1;
    if (conn->is_led && write(conn->wake_fd, &one, sizeof(one)) < 0) {
        /* full: it will wake up */
    }
}

/* N2, N4: the connection is of no use any more; what it has not answered is wanted again. */
static void lose(struct vd_nbd_conn *conn, const struct vdisk_error *why)
{
    for (struct vd_nbd_call *call = conn->calls; call; call = call->next) {
        for (unsigned i = 0; i < call->piece_count; i++) {
            struct vd_nbd_piece *piece = &call->pieces[i];
            if (piece->state == VD_NBD_ASKED && why->code == ETIMEDOUT)
                call->is_timed_out = true;
            if (piece->state == VD_NBD_ASKED || piece->error)
                piece->state = VD_NBD_WANTED;
            piece->error = 0;
        }
        call->left = 0;
        vd_cond_broadcast(&call->changed);
    }
    conn->failure = *why;
    nbd_close(conn->handle);
    conn->handle = NULL;
    vd_nbd_note_lost(&conn->nbd->durable);
    wake_leader(conn);
}

/* Loses the connection if libnbd has given it up.  @failed: libnbd has just said why. */
static void lose_if_dead(struct vd_nbd_conn *conn, bool failed)
{
    struct vdisk_error why = {0};
    if (nbd_aio_is_dead(conn->handle) == 0 && nbd_aio_is_closed(conn->handle) == 0)
        return;
    if (failed)
        vd_nbd_library_error(EIO, &why);
    else
        vd_err_set(&why, EIO, "the server closed the connection");
    lose(conn, &why);
}

static void ask(struct vd_nbd_conn *conn, struct vd_nbd_call *call)
{
    if (!conn->calls)
        conn->answered_ms = conn->moved_ms = vd_clock_ms();
    call->conn = conn;
    call->left = 0;
    call->is_timed_out = false;
    call->next = conn->calls;
    conn->calls = call;
    for (unsigned i = 0; i < call->piece_count && conn->handle; i++) {
        struct vd_nbd_piece *piece = &call->pieces[i];
        if (piece->state != VD_NBD_WANTED)
            continue;
        piece->call = call;
        piece->state = VD_NBD_ASKED;
        call->left++;
        atomic_fetch_add(&conn->nbd->request_count, 1);
        bool failed = send_piece(conn->handle, call, piece) < 0;
        if (failed && piece->state == VD_NBD_ASKED) {
            int code = nbd_get_errno();
            piece->state = VD_NBD_ANSWERED;
            piece->error = code > 0 ? code : EIO;
            call->left--;
        }
        lose_if_dead(conn, failed);
    }
    if (conn->handle && conn->is_led && (nbd_aio_get_direction(conn->handle) & ~conn->polled))
        wake_leader(conn);
}

/* The leader was woken, or the socket is ready. */
static void move(struct vd_nbd_conn *conn, int events)
{
    unsigned direction = nbd_aio_get_direction(conn->handle);
    int ret = 0;
    if (!events)
        return;
    conn->moved_ms = vd_clock_ms();
    if ((events & ~POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_READ))
        ret = nbd_aio_notify_read(conn->handle);
    else if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        ret = nbd_aio_notify_write(conn->handle);
    lose_if_dead(conn, ret < 0);
}

/* How long may nothing move?  A flush makes a server busy with its disk, not with us. */
static uint64_t patience_ms(const struct vd_nbd_conn *conn)
{
    uint64_t timeout = conn->nbd->settings.timeout_ms;
    for (const struct vd_nbd_call *call = conn->calls; call; call = call->next)
        if (call->op == VD_NBD_FLUSH && call->left)
            return timeout * TIMEOUTS_MAX;
    return timeout;
}

/* Waits, without the lock, until the socket is ready, somebody wakes us, or for too long. */
static void poll_once(struct vd_nbd_conn *conn) VD_REQUIRES(conn->lock)
{
    struct pollfd fds[2] = {{.fd = nbd_aio_get_fd(conn->handle)},
                            {.fd = conn->wake_fd, .events = POLLIN}};
    uint64_t now = vd_clock_ms();
    uint64_t timeout = conn->nbd->settings.timeout_ms;
    uint64_t patience = patience_ms(conn);
    uint64_t waited = now - conn->moved_ms;
    if (waited >= patience || now - conn->answered_ms >= timeout * TIMEOUTS_MAX) {
        struct vdisk_error why = {0};
        vd_err_set(&why, ETIMEDOUT, "the server did not answer for %" PRIu64 " ms",
                   waited >= patience ? patience : timeout * TIMEOUTS_MAX);
        lose(conn, &why);
        return;
    }
    conn->polled = nbd_aio_get_direction(conn->handle);
    if (conn->polled & LIBNBD_AIO_DIRECTION_READ)
        fds[0].events |= POLLIN;
    if (conn->polled & LIBNBD_AIO_DIRECTION_WRITE)
        fds[0].events |= POLLOUT;
    vd_mutex_unlock(&conn->lock);
    int count = poll(fds, 2, (int)vd_min(patience - waited, INT32_MAX));
    uint64_t wakes;
    if (count > 0 && fds[1].revents && read(conn->wake_fd, &wakes, sizeof(wakes)) < 0) {
        /* empty again */
    }
    vd_mutex_lock(&conn->lock);
    if (count > 0 && conn->handle)
        move(conn, fds[0].revents);
}

static void lead(struct vd_nbd_conn *conn, struct vd_nbd_call *call) VD_REQUIRES(conn->lock)
{
    conn->is_led = true;
    while (call->left && conn->handle)
        poll_once(conn);
    conn->is_led = false;
    for (struct vd_nbd_call *next = conn->calls; next; next = next->next)
        if (next != call && next->left) {
            vd_cond_broadcast(&next->changed);
            break;
        }
}

static void wait_for(struct vd_nbd_conn *conn, struct vd_nbd_call *call) VD_REQUIRES(conn->lock)
{
    while (call->left) {
        if (conn->is_led)
            vd_cond_wait(&call->changed, &conn->lock);
        else
            lead(conn, call);
    }
    struct vd_nbd_call **link = &conn->calls;
    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
}

static int compare_parts(const void *a, const void *b)
{
    const struct vd_range *first = a;
    const struct vd_range *second = b;
    return (first->offset > second->offset) - (first->offset < second->offset);
}

/* libnbd takes a read for done that the server says is done.  Did all bytes come, once each? */
static int check_came(struct vd_nbd_piece *piece, struct vdisk_error *err)
{
    unsigned count = piece->part_count;
    if (count > VD_NBD_PARTS_MAX)
        return vd_err_set(err, EBADMSG, "the server answers a read in more than %u parts",
                          VD_NBD_PARTS_MAX);
    if (count)
        qsort(piece->parts, count, sizeof(*piece->parts), compare_parts);
    uint64_t at = piece->range.offset + piece->front_bytes;
    for (unsigned i = 0; i < count && piece->parts[i].offset == at; i++)
        at = vd_range_end(piece->parts[i]);
    if (at == vd_range_end(piece->range))
        return 0;
    return vd_err_set(err, EBADMSG,
                      "the server's answer to a read of %" PRIu64 " bytes at offset %" PRIu64
                      " has gaps, or comes twice in places",
                      piece->range.length, piece->range.offset);
}

/* All pieces have been answered, or the connection is lost. */
static int conclude(const struct vd_nbd_conn *conn, struct vd_nbd_call *call,
                    struct vdisk_error *err)
{
    bool is_lost = false;
    for (unsigned i = 0; i < call->piece_count; i++) {
        struct vd_nbd_piece *piece = &call->pieces[i];
        if (piece->state == VD_NBD_ANSWERED && piece->error == ESHUTDOWN) {
            vd_err_set(err, EIO, "the server is shutting down");
            piece->state = VD_NBD_WANTED;
            is_lost = true;
        }
        if (piece->state == VD_NBD_WANTED)
            is_lost = true;
        else if (piece->error && call->op == VD_NBD_FLUSH)
            return vd_err_errno(err, piece->error, "the server can not flush");
        else if (piece->error)
            return vd_err_errno(err, piece->error,
                                "the server can not %s %" PRIu64 " bytes at offset %" PRIu64,
                                op_text(call->op), piece->range.length, piece->range.offset);
        else if (call->op == VD_NBD_READ && check_came(piece, err) < 0)
            return -EBADMSG;
    }
    if (!is_lost)
        return DONE;
    vd_err_copy(err, &conn->failure);
    if (call->is_timed_out && is_change(call->op)) /* N5 */
        return vd_err_prefix(err, -ETIMEDOUT, "a change may have been made, or may yet be: ");
    return LOST;
}

/* @number: only if this is still the connection, unless 0. */
static int try(struct vd_nbd_conn *conn, uint64_t number, struct vd_nbd_call *call,
               struct vdisk_error *err)
{
    vd_mutex_lock(&conn->lock);
    int ret = 0;
    if (number && (conn->number != number || !conn->handle))
        ret = LOST;
    else if (conn->index >= atomic_load(&conn->nbd->conn_count))
        ret = ELSEWHERE;
    else if (vd_nbd_conn_ready(conn, err) < 0)
        ret = conn->index >= atomic_load(&conn->nbd->conn_count) ? ELSEWHERE : LOST;
    if (ret == 0) {
        ask(conn, call);
        wait_for(conn, call);
        ret = conclude(conn, call, err);
    }
    vd_mutex_unlock(&conn->lock);
    return ret;
}

/* The one with the least to do; the first of several. */
static struct vd_nbd_conn *choose(struct vd_nbd *nbd)
{
    unsigned count = atomic_load(&nbd->conn_count);
    struct vd_nbd_conn *best = &nbd->conns[0];
    unsigned least = atomic_load(&best->load);
    for (unsigned i = 1; i < count && least; i++) {
        unsigned load = atomic_load(&nbd->conns[i].load);
        if (load < least) {
            least = load;
            best = &nbd->conns[i];
        }
    }
    return best;
}

static unsigned count_wanted(const struct vd_nbd_call *call)
{
    unsigned count = 0;
    for (unsigned i = 0; i < call->piece_count; i++)
        count += call->pieces[i].state == VD_NBD_WANTED;
    return count;
}

static void back_off(unsigned tries)
{
    uint32_t delay_ms = vd_network_backoff_ms(tries);
    struct timespec delay = {.tv_sec = (time_t)(delay_ms / 1000),
                             .tv_nsec = (long)(delay_ms % 1000) * 1000000};
    nanosleep(&delay, NULL);
}

int vd_nbd_run(struct vd_nbd *nbd, struct vd_nbd_call *call, struct vdisk_error *err)
{
    unsigned tries = 0;
    int ret = vd_nbd_check_whole(nbd, err);
    if (ret < 0)
        return ret;
    vd_cond_init(&call->changed);
    for (;;) {
        struct vdisk_error failure = {0};
        unsigned wanted = count_wanted(call);
        struct vd_nbd_conn *conn = choose(nbd);
        atomic_fetch_add(&conn->load, 1);
        ret = try(conn, 0, call, &failure);
        atomic_fetch_sub(&conn->load, 1);
        if (ret == ELSEWHERE)
            continue;
        if (ret == LOST) {
            if (count_wanted(call) < wanted)
                tries = 0;
            if (vd_nbd_check_whole(nbd, err) < 0) {
                ret = -EIO;
            } else if (failure.code == ESTALE || tries == nbd->settings.retries) {
                ret = vd_err_copy(err, &failure);
            } else {
                back_off(++tries);
                continue;
            }
        } else if (ret < 0) {
            vd_err_copy(err, &failure);
        }
        break;
    }
    for (unsigned i = 0; i < call->piece_count; i++)
        forget_parts(&call->pieces[i]);
    vd_cond_destroy(&call->changed);
    return ret;
}

int vd_nbd_run_on(struct vd_nbd_conn *conn, uint64_t number, struct vd_nbd_call *call,
                  struct vdisk_error *err)
{
    vd_cond_init(&call->changed);
    atomic_fetch_add(&conn->load, 1);
    int ret = try(conn, number, call, err);
    atomic_fetch_sub(&conn->load, 1);
    vd_cond_destroy(&call->changed);
    if (ret <= 0)
        return ret;
    /* It was the anchor of what is not flushed, so the storage is broken now. */
    if (err)
        vdisk_error_clear(err);
    ret = vd_nbd_check_whole(conn->nbd, err);
    return ret < 0 ? ret : vd_err_set(err, EIO, "the connection to the server was lost");
}
