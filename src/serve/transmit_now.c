/* SPDX-License-Identifier: MIT */
/*
 * What the thread of the connection does itself: requests that need no waiting, one after the
 * other, whose replies are sent together.  T2
 */
#include <assert.h>

#include "serve/transmit_priv.h"

/* Replies that are gathered before they are sent; what is read by longer requests is not copied to
 * the others. */
#define GATHER_BYTES     (64u << 10)
#define GATHER_MOST_READ (32u << 10)

/* When the system takes no more replies, and so much waits, nothing is read ahead: it would only go
 * through memory that the caches of the processor do not have any more. */
#define CONGESTED_BYTES (2u << 20)

/* A write that took so long waited for the disk, so others are not tried for a while. */
#define WAIT_US  8000u
#define PAUSE_US 100000u

/* ---- Replies ---- */

static void count(struct vd_flow *flow)
{
    struct vd_counters *counters = &flow->session->export->counters;
    if (flow->reads.requests)
        vd_counters_add_all(counters, VDISK_REQUEST_READ, &flow->reads);
    if (flow->writes.requests)
        vd_counters_add_all(counters, VDISK_REQUEST_WRITE, &flow->writes);
}

/* Alone with the connection: no worker has a request, and the queue is empty.  True: all is sent.
 */
static bool send_alone(struct vd_flow *flow, struct vd_task *task)
{
    if (!vd_flow_is_alone(flow))
        return false;
    ssize_t sent = vd_stream_send(flow->session->stream, task->list, 1, false);
    if (sent == (ssize_t)task->list[0].iov_len)
        return true;
    if (sent > 0) {
        task->list[0].iov_base = (uint8_t *)task->list[0].iov_base + sent;
        task->list[0].iov_len -= (size_t)sent;
    }
    return false;
}

void vd_now_send(struct vd_flow *flow)
{
    struct vd_task *task = flow->gathered;
    count(flow);
    if (!task || !flow->gathered_bytes)
        return;
    task->list[0] =
        (struct iovec){.iov_base = task->buffer->bytes, .iov_len = flow->gathered_bytes};
    task->iov_entries = 1;
    flow->gathered_bytes = 0;
    if (send_alone(flow, task))
        return;
    flow->gathered = NULL;
    vd_mutex_lock(&flow->lock);
    vd_send_push(flow, task);
    vd_send_queue(flow);
    vd_mutex_unlock(&flow->lock);
}

struct vd_task *vd_now_take(struct vd_flow *flow, size_t bytes)
{
    vd_mutex_lock(&flow->lock);
    struct vd_task *task = NULL;
    if (atomic_load(&flow->under_way) < VD_FLOW_TASKS_MAX)
        task = vd_memory_take(flow, bytes);
    if (!task)
        flow->wakes |= VD_WAKE_ALL;
    vd_mutex_unlock(&flow->lock);
    return task;
}

bool vd_now_is_congested(struct vd_flow *flow)
{
    vd_mutex_lock(&flow->lock);
    bool answer = flow->is_blocked && !flow->is_stuck && flow->queued_bytes >= CONGESTED_BYTES;
    if (answer)
        flow->wakes |= VD_WAKE_ALL;
    vd_mutex_unlock(&flow->lock);
    return answer;
}

uint8_t *vd_now_room(struct vd_flow *flow, size_t bytes)
{
    assert(bytes <= GATHER_BYTES);
    if (flow->gathered && flow->gathered_bytes + bytes > GATHER_BYTES)
        vd_now_send(flow);
    if (!flow->gathered)
        flow->gathered = vd_now_take(flow, GATHER_BYTES);
    return flow->gathered ? flow->gathered->buffer->bytes + flow->gathered_bytes : NULL;
}

/* ---- Requests ---- */

static bool try_read(struct vd_flow *flow)
{
    const struct vd_request *request = &flow->request;
    size_t length = (size_t)request->range.length;
    if (length == 0 || length > GATHER_MOST_READ)
        return false;
    uint8_t *to = vd_now_room(flow, VD_REPLY_HEAD_BYTES + length);
    if (!to)
        return false;
    size_t head = vd_reply_data(flow->session, request, request->range, true, to);
    if (vd_image_try_pread(flow->session->export->image, to + head, length, request->range.offset) <
        0)
        return false;
    flow->gathered_bytes += head + length;
    vd_stats_add(&flow->reads, length, vd_clock_us() - flow->received_us);
    return true;
}

/* A write was done at @now_us that was begun at @since_us: did it wait? */
static void look_at_wait(struct vd_flow *flow, uint64_t since_us, uint64_t now_us)
{
    if (now_us - since_us > WAIT_US)
        flow->writes_wait_us = now_us + PAUSE_US;
}

static bool may_write(const struct vd_flow *flow, const struct vd_request *request)
{
    return !(request->flags & NBD_CMD_FLAG_FUA) && flow->received_us >= flow->writes_wait_us;
}

static bool try_write(struct vd_flow *flow, const uint8_t *payload)
{
    const struct vd_request *request = &flow->request;
    size_t length = (size_t)request->range.length;
    uint8_t *to = may_write(flow, request) ? vd_now_room(flow, VD_REPLY_HEAD_BYTES) : NULL;
    if (!to || length == 0)
        return false;
    uint64_t since_us = vd_clock_us();
    if (vd_image_try_pwrite(flow->session->export->image, payload, length, request->range.offset) <
        0)
        return false;
    flow->gathered_bytes += vd_reply_done(flow->session, request, to);
    uint64_t now_us = vd_clock_us();
    look_at_wait(flow, since_us, now_us);
    vd_stats_add(&flow->writes, length, now_us - flow->received_us);
    return true;
}

bool vd_now_try(struct vd_flow *flow, const uint8_t *payload)
{
    if (flow->request.command == NBD_CMD_READ)
        return try_read(flow);
    return flow->request.command == NBD_CMD_WRITE && try_write(flow, payload);
}

bool vd_now_try_task(struct vd_flow *flow, struct vd_task *task)
{
    const struct vd_request *request = &task->request;
    bool is_read = request->command == NBD_CMD_READ;
    if (!is_read && !may_write(flow, request))
        return false;
    uint64_t since_us = vd_clock_us();
    if (!vd_run_try(task))
        return false;
    uint64_t now_us = vd_clock_us();
    if (!is_read)
        look_at_wait(flow, since_us, now_us);
    vd_stats_add(is_read ? &flow->reads : &flow->writes, request->range.length,
                 now_us - task->since_us);
    vd_mutex_lock(&flow->lock);
    vd_send_push(flow, task);
    vd_send_queue(flow);
    vd_mutex_unlock(&flow->lock);
    return true;
}
