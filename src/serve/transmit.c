/* SPDX-License-Identifier: MIT */
/* The thread of a connection: it receives requests, has them done, and sends what others could not.
 */
#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "serve/transmit_priv.h"
#include "util/mem.h"

/* How long nothing is read ahead for a client that takes no replies at all. */
#define CONGESTED_MS 20

/* What a connection takes beside the payload of its largest request. */
#define ROOM_BYTES (UINT64_C(2) << 20)

/* Why the requests that were received are not dealt with any further. */
enum pause {
    PAUSE_INPUT = 1, /* what is there is no whole request */
    PAUSE_MEMORY,    /* there is no memory, or no use, until replies have been sent */
    PAUSE_DISC       /* the client has enough */
};

static size_t in_bytes(const struct vd_flow *flow)
{
    return flow->in_end - flow->in_start;
}

/* ---- Requests ---- */

static int refuse(struct vd_flow *flow)
{
    const struct vd_request *request = &flow->request;
    uint8_t *to = vd_now_room(flow, VD_REPLY_ERROR_BYTES);
    if (!to)
        return PAUSE_MEMORY;
    flow->gathered_bytes += vd_reply_error(flow->session, request, flow->refusal, flow->why, to);
    vd_log(flow->transmit->log, VDISK_LOG_DEBUG,
           "%s: export \"%s\": %s of %" PRIu64 " bytes at offset %" PRIu64 ": %s",
           flow->transmit->peer, flow->session->export->name, vd_nbd_command_name(request->command),
           request->range.length, request->range.offset, flow->why);
    if (request->command <= NBD_CMD_BLOCK_STATUS)
        vd_counters_add(&flow->session->export->counters, vd_request_kind(request), 0,
                        vd_clock_us() - flow->received_us, true);
    flow->has_request = false;
    return 0;
}

/* The payload of a request that is refused: it goes nowhere. */
static int skip_payload(struct vd_flow *flow)
{
    size_t step = (size_t)vd_min(in_bytes(flow), flow->skip_bytes);
    flow->in_start += step;
    flow->skip_bytes -= step;
    return flow->skip_bytes ? PAUSE_INPUT : refuse(flow);
}

/* Takes what has arrived of the payload of a large write. */
static void fill_from_in(struct vd_flow *flow)
{
    struct vd_task *task = flow->filling;
    size_t step = (size_t)vd_min(in_bytes(flow), task->request.payload_bytes - flow->filled_bytes);
    memcpy(task->buffer->bytes + flow->filled_bytes, flow->in + flow->in_start, step);
    flow->in_start += step;
    flow->filled_bytes += step;
}

static void submit(struct vd_flow *flow, struct vd_task *task)
{
    task->work.run = vd_run_task;
    atomic_fetch_add(&flow->under_way, 1);
    vd_pool_submit(flow->transmit->pool, &task->work);
}

/* A request that is allowed, and whose payload is there or is going to be received. */
static int start(struct vd_flow *flow)
{
    const struct vd_request *request = &flow->request;
    if (request->payload_bytes <= VD_IN_WHOLE_BYTES &&
        vd_now_try(flow, flow->in + flow->in_start)) {
        flow->in_start += request->payload_bytes;
        flow->has_request = false;
        return 0;
    }
    flow->is_congested = request->command == NBD_CMD_READ && vd_now_is_congested(flow);
    if (flow->is_congested)
        return PAUSE_MEMORY;
    struct vd_task *task = vd_now_take(flow, vd_run_buffer_bytes(flow->session, request));
    if (!task)
        return PAUSE_MEMORY;
    task->request = *request;
    task->since_us = flow->received_us;
    flow->has_request = false;
    if (request->command == NBD_CMD_WRITE && request->payload_bytes) {
        flow->filling = task;
        flow->filled_bytes = 0;
    } else if (!vd_now_try_task(flow, task)) {
        submit(flow, task);
    }
    return 0;
}

/* The request whose header was taken: is it allowed? */
static int examine(struct vd_flow *flow)
{
    struct vd_request *request = &flow->request;
    bool is_filter = request->command == NBD_CMD_BLOCK_STATUS && request->payload_bytes;
    flow->refusal = 0;
    if (is_filter) {
        /* One that does not fit in there is refused for its length, and not looked at. */
        if (request->payload_bytes <= VD_IN_WHOLE_BYTES && in_bytes(flow) < request->payload_bytes)
            return PAUSE_INPUT;
        flow->refusal =
            vd_request_filter(flow->session, request, flow->in + flow->in_start, &flow->why);
    }
    if (!flow->refusal)
        flow->refusal = vd_request_check(flow->session, request, &flow->why);
    if (!flow->refusal && (atomic_load(&flow->session->export->is_removed) ||
                           atomic_load(flow->transmit->is_stopping))) {
        flow->refusal = NBD_ESHUTDOWN;
        flow->why = "the server is shutting down";
    }
    if (flow->refusal) {
        flow->skip_bytes = request->payload_bytes;
        return skip_payload(flow);
    }
    /* A write that fits is looked at whole. */
    if (request->payload_bytes <= VD_IN_WHOLE_BYTES && in_bytes(flow) < request->payload_bytes)
        return PAUSE_INPUT;
    if (is_filter) {
        flow->in_start += request->payload_bytes;
        request->payload_bytes = 0;
    }
    return start(flow);
}

/* Deals with what was received: returns why it can not go on, or a negative errno. */
static int consume(struct vd_flow *flow, struct vdisk_error *err)
{
    size_t header_bytes = vd_request_header_bytes(flow->session);
    flow->is_congested = false;
    for (;;) {
        int ret = 0;
        if (flow->filling) {
            fill_from_in(flow);
            if (flow->filled_bytes < flow->filling->request.payload_bytes)
                return PAUSE_INPUT;
            struct vd_task *task = STEAL_PTR(flow->filling);
            bool was_tried = task->request.payload_bytes <= VD_IN_WHOLE_BYTES;
            if (was_tried || !vd_now_try_task(flow, task))
                submit(flow, task);
        } else if (flow->has_request) {
            ret = flow->refusal ? skip_payload(flow) : examine(flow);
        } else if (in_bytes(flow) < header_bytes) {
            return PAUSE_INPUT;
        } else {
            ret = vd_request_parse(flow->session, flow->in + flow->in_start, &flow->request, err);
            if (ret < 0)
                return ret;
            flow->in_start += header_bytes;
            flow->requests++;
            if (flow->request.command == NBD_CMD_DISC)
                return PAUSE_DISC;
            flow->has_request = true;
            flow->refusal = 0;
        }
        if (ret)
            return ret;
    }
}

/* ---- Waiting ---- */

/* How long may be waited, in milliseconds; -1: for ever. */
static int time_left(uint64_t since_ms, uint32_t limit_ms)
{
    if (!limit_ms)
        return -1;
    uint64_t passed_ms = vd_clock_ms() - since_ms;
    return passed_ms >= limit_ms ? 0 : (int)vd_min(limit_ms - passed_ms, INT_MAX);
}

/* What there is to wait for. */
struct wait {
    bool is_idle;    /* no request is under way, no reply in the queue */
    bool is_starved; /* there is no memory, and nobody will give any back */
    bool is_blocked; /* replies can not be sent */
    int timeout_ms;  /* for these; -1: for ever */
};

static struct wait plan_wait(struct vd_flow *flow, bool wants_input)
{
    /* To know since when it is idle, it has to see the last request done. */
    bool is_told_all =
        !wants_input || flow->transmit->idle_ms || !vd_stream_sends_beside(flow->session->stream);
    vd_mutex_lock(&flow->lock);
    vd_send_queue(flow);
    bool is_idle = !flow->first && atomic_load(&flow->under_way) == 0;
    struct wait wait = {
        .is_idle = is_idle,
        .is_starved = is_idle && !wants_input && (flow->wakes & VD_WAKE_ALL),
        .is_blocked = flow->is_blocked,
        .timeout_ms = flow->first ? time_left(flow->progress_ms, flow->transmit->stall_ms) : -1,
    };
    flow->wakes |= is_told_all ? VD_WAKE_ALL : VD_WAKE_BLOCKED;
    vd_mutex_unlock(&flow->lock);
    return wait;
}

/* Sends again; is_blocked is for this thread alone to end. */
static void unblock(struct vd_flow *flow)
{
    vd_mutex_lock(&flow->lock);
    flow->is_blocked = false;
    vd_send_queue(flow);
    vd_mutex_unlock(&flow->lock);
}

/* Waits for the system and for workers.  1: there may be something to receive; 0: there is not; or
 * a negative errno, -ETIMEDOUT too. */
static int wait_for_any(struct vd_flow *flow, const struct wait *wait, bool wants_input)
{
    enum {
        STREAM,
        WAKE
    };
    short events = 0;
    if (wants_input)
        events |= POLLIN;
    if (wait->is_blocked)
        events |= POLLOUT;
    /* Of a client that is gone the system tells at once, whatever was asked. */
    struct pollfd fds[] = {
        [STREAM] = {.fd = events ? flow->session->stream->fd : -1, .events = events},
        [WAKE] = {.fd = flow->wake_fd, .events = POLLIN},
    };
    int ready = poll(fds, 2, wait->timeout_ms);
    int code = errno;
    /* This thread tells itself nothing. */
    vd_mutex_lock(&flow->lock);
    flow->wakes = 0;
    vd_mutex_unlock(&flow->lock);
    if (ready < 0)
        return code == EINTR ? 0 : -code;
    if (ready == 0)
        return -ETIMEDOUT;
    if (fds[WAKE].revents) {
        eventfd_t count;
        (void)eventfd_read(flow->wake_fd, &count);
    }
    if (wait->is_blocked && (fds[STREAM].revents & ~POLLIN))
        unblock(flow);
    return wants_input && (fds[STREAM].revents & ~POLLOUT) ? 1 : 0;
}

/* As below, asleep. */
static int sleep_for_input(struct vd_flow *flow, struct vdisk_error *err)
{
    struct wait wait = plan_wait(flow, true);
    if (wait.is_idle && !flow->transmit->idle_ms)
        return vd_receive(flow, true);
    if (!vd_stream_has_received(flow->session->stream)) {
        bool is_idle = wait.is_idle;
        if (is_idle)
            wait.timeout_ms = (int)vd_min(flow->transmit->idle_ms, INT_MAX);
        int ret = wait_for_any(flow, &wait, true);
        if (ret == -ETIMEDOUT)
            return vd_err_set(err, ETIMEDOUT, "%s",
                              is_idle ? "it has sent nothing for too long"
                                      : "it has taken none of its replies for too long");
        if (ret <= 0)
            return ret ? ret : -EAGAIN;
    }
    return vd_receive(flow, false);
}

/* Waits until something has been received (1), the client has sent all (0), or something else may
 * have changed (-EAGAIN); or another negative errno. */
static int wait_for_input(struct vd_flow *flow, struct vdisk_error *err)
{
    int ret = vd_receive_soon(flow);
    if (ret == -EAGAIN)
        ret = sleep_for_input(flow, err);
    vd_receive_waited(flow, ret);
    return ret;
}

static int wait_for_memory(struct vd_flow *flow, struct vdisk_error *err)
{
    struct wait wait = plan_wait(flow, false);
    if (wait.is_starved)
        return vd_err_nomem(err, "requests of a client");
    bool is_short = flow->is_congested && (unsigned)wait.timeout_ms > CONGESTED_MS;
    if (is_short)
        wait.timeout_ms = CONGESTED_MS;
    int ret = wait_for_any(flow, &wait, false);
    if (ret == -ETIMEDOUT && is_short) {
        /* It may want to send more before it takes any. */
        vd_mutex_lock(&flow->lock);
        flow->is_stuck = true;
        vd_mutex_unlock(&flow->lock);
        return 0;
    }
    if (ret == -ETIMEDOUT)
        return vd_err_set(err, ETIMEDOUT, "it has taken none of its replies for too long");
    return ret;
}

/* T5.  @is_patient: all replies are sent, if the client takes them.  0, or -ETIMEDOUT. */
static int finish(struct vd_flow *flow, bool is_patient)
{
    int ret = 0;
    for (;;) {
        struct wait wait = plan_wait(flow, false);
        vd_mutex_lock(&flow->lock);
        bool is_done =
            atomic_load(&flow->under_way) == 0 && (!flow->first || flow->send_error || !is_patient);
        vd_mutex_unlock(&flow->lock);
        if (is_done)
            return ret;
        if (!is_patient) {
            wait.is_blocked = false;
            wait.timeout_ms = -1;
        }
        if (wait_for_any(flow, &wait, false) == -ETIMEDOUT) {
            ret = -ETIMEDOUT;
            is_patient = false;
        }
    }
}

/* ---- The whole ---- */

/* Until the client has sent all (0), or something is wrong. */
static int serve(struct vd_flow *flow, struct vdisk_error *err)
{
    for (;;) {
        int ret = consume(flow, err);
        vd_now_send(flow);
        if (ret < 0)
            return ret;
        if (ret == PAUSE_DISC) {
            flow->is_disconnected = true;
            return 0;
        }
        if (ret == PAUSE_MEMORY) {
            ret = wait_for_memory(flow, err);
            if (ret < 0)
                return ret;
            continue;
        }
        ret = wait_for_input(flow, err);
        if (ret == -EAGAIN)
            continue;
        if (ret < 0)
            return vd_err_errno(err, -ret, "receiving requests");
        if (ret == 0 && (flow->filling || flow->has_request || in_bytes(flow)))
            return vd_err_set(err, ECONNRESET, "it left in the middle of a request");
        if (ret == 0)
            return 0;
    }
}

static int open_flow(struct vd_flow *flow, struct vdisk_error *err)
{
    flow->in = vd_alloc_io(VD_IN_BYTES);
    if (!flow->in)
        return vd_err_nomem(err, "a connection");
    flow->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (flow->wake_fd < 0) {
        int code = errno;
        free(flow->in);
        return vd_err_errno(err, code, "can not make an eventfd for a connection");
    }
    vd_mutex_init(&flow->lock);
    atomic_init(&flow->under_way, 0);
    return 0;
}

/* Nobody else knows it any more. */
static void close_flow(struct vd_flow *flow)
{
    vd_mutex_lock(&flow->lock);
    if (flow->filling)
        vd_memory_give(flow, flow->filling);
    if (flow->gathered)
        vd_memory_give(flow, flow->gathered);
    while (flow->first) {
        struct vd_task *task = flow->first;
        flow->first = task->next;
        vd_memory_give(flow, task);
    }
    flow->memory.used_bytes -= VD_IN_BYTES;
    vd_memory_destroy(&flow->memory);
    vd_mutex_unlock(&flow->lock);
    vd_mutex_destroy(&flow->lock);
    close(flow->wake_fd);
    free(flow->in);
}

int vd_transmit(const struct vd_transmit *transmit, struct vd_session *session,
                struct vdisk_error *err)
{
    struct vd_flow flow = {
        .transmit = transmit,
        .session = session,
        .memory = {.limit_bytes = vd_max(transmit->memory_bytes, session->payload_max + ROOM_BYTES),
                   .used_bytes = VD_IN_BYTES},
    };
    int ret = open_flow(&flow, err);
    if (ret < 0)
        return ret;
    ret = serve(&flow, err);
    /* Who left in the middle of a request, or was made to, may still take replies: if not, sending
     * says so. */
    int finished = finish(&flow, ret == 0 || ret == -ECONNRESET);
    if (ret == 0 && finished < 0)
        ret = vd_err_set(err, ETIMEDOUT, "it has not taken its last replies");
    if (ret == 0 && flow.send_error && !flow.is_disconnected)
        ret = vd_err_set(err, ECONNRESET, "it left before its last replies");
    close_flow(&flow);
    return ret;
}
