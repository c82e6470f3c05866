/* SPDX-License-Identifier: MIT */
/* What arrives: where it goes, and the moment for which it is waited without sleeping. */
#include <assert.h>
#include <string.h>

#include "serve/transmit_priv.h"

/* What arrives next goes to *to: returns how much of it may come. */
static size_t receive_room(struct vd_flow *flow, uint8_t **to)
{
    if (flow->in_start == flow->in_end)
        flow->in_start = flow->in_end = 0;
    if (flow->filling) {
        assert(flow->in_end == 0);
        *to = flow->filling->buffer->bytes + flow->filled_bytes;
        return (size_t)(flow->filling->request.payload_bytes - flow->filled_bytes);
    }
    /* The start of one request is left, or of all while there is no memory. */
    if (flow->in_start && VD_IN_BYTES - flow->in_end < VD_IN_WHOLE_BYTES) {
        memmove(flow->in, flow->in + flow->in_start, flow->in_end - flow->in_start);
        flow->in_end -= flow->in_start;
        flow->in_start = 0;
    }
    *to = flow->in + flow->in_end;
    return VD_IN_BYTES - flow->in_end;
}

int vd_receive(struct vd_flow *flow, bool is_waiting)
{
    uint8_t *to;
    size_t room = receive_room(flow, &to);
    ssize_t got = vd_stream_receive(flow->session->stream, to, room, is_waiting);
    if (got <= 0)
        return (int)got;
    flow->received_us = vd_clock_us();
    if (flow->filling)
        flow->filled_bytes += (size_t)got;
    else
        flow->in_end += (size_t)got;
    return 1;
}

/* ---- A moment ---- */

static int spin(struct vd_flow *flow)
{
    uint64_t deadline_us = flow->wait.begin_us + VD_SPIN_US;
    int ret;
    do
        ret = vd_receive(flow, false);
    while (ret == -EAGAIN && vd_clock_us() < deadline_us);
    return ret;
}

int vd_receive_soon(struct vd_flow *flow)
{
    struct vd_spinners *spinners = flow->transmit->spinners;
    flow->is_wait_noted = false;
    if (!spinners || !spinners->places)
        return -EAGAIN;
    uint64_t more = flow->requests - flow->wait.requests;
    flow->wait = (struct vd_spin_wait){
        .requests = flow->requests,
        .all_requests =
            atomic_fetch_add_explicit(&spinners->requests, more, memory_order_relaxed) + more,
    };
    if (!vd_flow_is_alone(flow)) {
        vd_spin_skip(&flow->spin);
        return -EAGAIN;
    }
    flow->is_wait_noted = true;
    flow->wait.begin_us = vd_clock_us();
    if (!vd_spin_wants(&flow->spin) || !vd_spinners_enter(spinners))
        return -EAGAIN;
    int ret = spin(flow);
    vd_spinners_leave(spinners);
    flow->wait.outcome = ret == -EAGAIN ? VD_SPIN_FAILED : VD_SPIN_FOUND;
    return ret;
}

void vd_receive_waited(struct vd_flow *flow, int ret)
{
    if (!flow->is_wait_noted)
        return;
    if (ret != 1) {
        vd_spin_skip(&flow->spin);
        return;
    }
    flow->wait.end_us = flow->received_us;
    vd_spin_note(&flow->spin, flow->transmit->spinners->places, &flow->wait);
}
