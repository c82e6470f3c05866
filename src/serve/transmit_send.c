/* SPDX-License-Identifier: MIT */
/*
 * The queue of replies.  Whoever adds one sends what is there, unless somebody is doing so already,
 * who then sends it too.  Nobody waits for the client here: when the system takes no more, the
 * thread of the connection, which polls, goes on.
 */
#include <sys/eventfd.h>

#include "serve/transmit_priv.h"

/* Buffers that are handed to the system at once. */
#define SEND_ENTRIES 128u

void vd_send_wake(struct vd_flow *flow, unsigned wakes)
{
    if (!(flow->wakes & wakes))
        return;
    flow->wakes = 0;
    eventfd_write(flow->wake_fd, 1);
}

static void forget(struct vd_flow *flow) VD_REQUIRES(flow->lock)
{
    while (flow->first) {
        struct vd_task *task = flow->first;
        flow->first = task->next;
        vd_memory_give(flow, task);
    }
    flow->queued_bytes = 0;
    vd_send_wake(flow, VD_WAKE_ALL);
}

void vd_send_push(struct vd_flow *flow, struct vd_task *task)
{
    if (flow->send_error) {
        vd_memory_give(flow, task);
        return;
    }
    task->next = NULL;
    if (flow->first) {
        flow->last->next = task;
    } else {
        flow->first = task;
        if (flow->transmit->stall_ms)
            flow->progress_ms = vd_clock_ms();
    }
    flow->last = task;
    for (unsigned i = 0; i < task->iov_entries; i++)
        flow->queued_bytes += task->iov[i].iov_len;
}

/* The start of the queue as one list of buffers. */
static unsigned list_queue(const struct vd_flow *flow, struct iovec iov[SEND_ENTRIES])
    VD_REQUIRES(flow->lock)
{
    unsigned entries = 0;
    for (const struct vd_task *task = flow->first; task; task = task->next)
        for (unsigned i = 0; i < task->iov_entries; i++) {
            if (entries == SEND_ENTRIES)
                return entries;
            iov[entries++] = task->iov[i];
        }
    return entries;
}

/* @bytes of the start of the queue have been sent. */
static void advance(struct vd_flow *flow, size_t bytes) VD_REQUIRES(flow->lock)
{
    flow->queued_bytes -= bytes;
    flow->is_stuck = false;
    while (bytes) {
        struct vd_task *task = flow->first;
        struct iovec *at = task->iov;
        if (bytes < at->iov_len) {
            at->iov_base = (uint8_t *)at->iov_base + bytes;
            at->iov_len -= bytes;
            return;
        }
        bytes -= at->iov_len;
        task->iov++;
        if (--task->iov_entries == 0) {
            flow->first = task->next;
            vd_memory_give(flow, task);
            vd_send_wake(flow, VD_WAKE_ALL);
        }
    }
}

void vd_send_queue(struct vd_flow *flow)
{
    if (flow->is_sending || flow->is_blocked)
        return;
    flow->is_sending = true;
    while (flow->first && !flow->send_error) {
        struct iovec iov[SEND_ENTRIES];
        unsigned entries = list_queue(flow, iov);
        vd_mutex_unlock(&flow->lock);
        ssize_t sent = vd_stream_send(flow->session->stream, iov, (int)entries, false);
        vd_mutex_lock(&flow->lock);
        if (sent == -EAGAIN) {
            flow->is_blocked = true;
            vd_send_wake(flow, VD_WAKE_BLOCKED);
            break;
        }
        if (sent < 0) {
            flow->send_error = (int)sent;
            break;
        }
        if (flow->transmit->stall_ms)
            flow->progress_ms = vd_clock_ms();
        advance(flow, (size_t)sent);
    }
    if (flow->send_error)
        forget(flow);
    flow->is_sending = false;
}
