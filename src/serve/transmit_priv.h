/* SPDX-License-Identifier: MIT */
/* What the rooms of the transmission share: transmit.c, transmit_receive.c,
 * transmit_now.c, transmit_send.c, transmit_memory.c, run.c. */
#ifndef VD_SERVE_TRANSMIT_PRIV_H
#define VD_SERVE_TRANSMIT_PRIV_H

#include <sys/uio.h>

#include "serve/reply.h"
#include "serve/transmit.h"
#include "util/mutex.h"

/* What is received at once; a request of up to half of it is looked at when it is there whole. */
#define VD_IN_BYTES       (256u << 10)
#define VD_IN_WHOLE_BYTES (VD_IN_BYTES / 2)

/* So many requests of one connection are with workers at once. */
#define VD_FLOW_TASKS_MAX 256u

/* A read is answered by so many chunks at most. */
#define VD_TASK_CHUNKS_MAX 16u

/* Memory of a connection, used again and again. */
struct vd_buffer {
    struct vd_buffer *next;
    uint8_t *bytes; /* owned, aligned for direct I/O */
    size_t size;
};

struct vd_flow;

/* A request that somebody has to do, and then its reply; or replies that were gathered. */
struct vd_task {
    struct vd_work work;  /* first */
    struct vd_task *next; /* in the queue of replies, or of tasks that are free */
    struct vd_flow *flow;
    struct vd_request request;
    uint64_t since_us;
    bool is_try;              /* what would have to wait is not to be done */
    struct vd_buffer *buffer; /* owned, or NULL: payload, then what the reply carries */
    struct iovec *iov;        /* what is still to be sent: of list */
    unsigned iov_entries;
    struct iovec list[2 * VD_TASK_CHUNKS_MAX];
    uint8_t heads[VD_TASK_CHUNKS_MAX * VD_REPLY_HEAD_BYTES];
};

_Static_assert(VD_TASK_CHUNKS_MAX *VD_REPLY_HEAD_BYTES >= VD_REPLY_ERROR_BYTES,
               "the heads of a task have room for an error");

/* Buffers are of 2^12, 2^13, ..., and these sizes are kept for the next request. */
#define VD_MEMORY_CLASSES 11u

struct vd_memory {
    uint64_t limit_bytes;
    uint64_t used_bytes; /* of all that is not free()d */
    struct vd_buffer *buffers[VD_MEMORY_CLASSES];
    struct vd_task *tasks;
};

/* What somebody else does that the thread of the connection wants to be told of. */
enum vd_flow_wake {
    VD_WAKE_BLOCKED = 1 << 0, /* replies can not be sent without waiting */
    VD_WAKE_ALL = 1 << 1      /* memory came free, a request is done, a reply is in the queue */
};

/* A connection while data moves. */
struct vd_flow {
    const struct vd_transmit *transmit;
    struct vd_session *session;
    int wake_fd; /* an eventfd */

    /* Of the thread of the connection alone. */
    uint8_t *in;     /* owned: what was received */
    size_t in_start; /* of this, the bytes that are not dealt with are */
    size_t in_end;   /* from here to there */
    uint64_t received_us;
    bool has_request;                 /* a header was taken from in: */
    struct vd_request request;        /* it is this one, */
    uint64_t skip_bytes;              /* of whose payload so much is to be thrown away, */
    uint32_t refusal;                 /* since this is the error of the protocol that answers it, */
    const char *why;                  /* for this reason; */
    struct vd_task *filling;          /* or whose payload goes to this task, */
    size_t filled_bytes;              /* which has so much of it */
    struct vd_task *gathered;         /* replies, or NULL */
    size_t gathered_bytes;            /* in its buffer */
    struct vdisk_request_stats reads; /* done by this thread, and not counted yet */
    struct vdisk_request_stats writes;
    uint64_t writes_wait_us; /* until then writes may wait for the disk, as one did */
    bool is_congested;       /* nothing is read ahead, as the client takes no replies */
    bool is_disconnected;    /* the client said that it leaves */
    uint64_t requests;       /* received so far */
    struct vd_spin spin;
    struct vd_spin_wait wait; /* the one under way, or the last */
    bool is_wait_noted;       /* it tells something about spinning */

    struct vd_mutex lock;
    struct vd_memory memory; /* under lock, as all that follows */
    struct vd_task *first;   /* replies to be sent */
    struct vd_task *last;
    uint64_t queued_bytes; /* of these replies */
    bool is_stuck;         /* the client took none of them for a while */
    bool is_sending;       /* somebody is, without the lock */
    bool is_blocked;       /* the system takes no more for now */
    int send_error;       /* 0, or the negative errno with which sending failed: replies are lost */
    unsigned wakes;       /* of enum vd_flow_wake; cleared when it has been done */
    uint64_t progress_ms; /* when something was sent, or began to wait for that; with stall_ms */
    atomic_uint under_way; /* tasks with workers; changed under lock */
};

/* Has nobody else to do with it, and is all sent?  Then nobody else begins to, as only the thread
 * of the connection, which asks, gives work to others. */
static inline bool vd_flow_is_alone(const struct vd_flow *flow)
{
    return !atomic_load(&flow->under_way) && !flow->first && !flow->send_error && !flow->is_blocked;
}

/* ---- transmit_receive.c: the thread of the connection ---- */

/* 1: something was received; 0: the client has sent all; or a negative errno, -EAGAIN too. */
int vd_receive(struct vd_flow *flow, bool is_waiting);

/* The same before a wait for input: if that pays, it is tried for a moment, else this is -EAGAIN.
 */
int vd_receive_soon(struct vd_flow *flow);

/* After the wait, with what it returned: learns whether that would pay the next time. */
void vd_receive_waited(struct vd_flow *flow, int ret);

/* ---- transmit_memory.c: under flow->lock ---- */

/* A task with a buffer of at least @bytes (0: none); NULL: no memory now. */
struct vd_task *vd_memory_take(struct vd_flow *flow, size_t bytes) VD_REQUIRES(flow->lock);
void vd_memory_give(struct vd_flow *flow, struct vd_task *task) VD_REQUIRES(flow->lock);
void vd_memory_destroy(struct vd_memory *memory);

/* ---- transmit_send.c ---- */

/* Puts the reply of @task into the queue, or forgets it if nothing can be sent any more. */
void vd_send_push(struct vd_flow *flow, struct vd_task *task) VD_REQUIRES(flow->lock);

/* Sends what is in the queue, unless somebody else does, as far as the system takes it. */
void vd_send_queue(struct vd_flow *flow) VD_REQUIRES(flow->lock);

/* Wakes the thread of the connection if it asked for one of @wakes. */
void vd_send_wake(struct vd_flow *flow, unsigned wakes) VD_REQUIRES(flow->lock);

/* ---- transmit_now.c: the thread of the connection ---- */

/* Sends what was gathered, or leaves it in the queue, and counts what was done. */
void vd_now_send(struct vd_flow *flow);

/* A task for this thread or a worker, or NULL: then somebody wakes us when there may be one. */
struct vd_task *vd_now_take(struct vd_flow *flow, size_t bytes);

/* Do so many bytes wait for the client that no more should be read for it?  Then somebody wakes us
 * when that may have changed. */
bool vd_now_is_congested(struct vd_flow *flow);

/* Room for @bytes among the gathered replies: NULL: no memory now.  What is put there counts with
 * gathered_bytes. */
uint8_t *vd_now_room(struct vd_flow *flow, size_t bytes);

/*
 * Does flow->request, which is allowed, if it is small and that needs no waiting, and gathers the
 * reply: true.  A write's @payload is there.
 */
bool vd_now_try(struct vd_flow *flow, const uint8_t *payload);

/* The same for a task: its reply goes into the queue, and the task is done with. */
bool vd_now_try_task(struct vd_flow *flow, struct vd_task *task);

/* ---- run.c ---- */

/* The bytes of the buffer that @request takes, payload included. */
size_t vd_run_buffer_bytes(const struct vd_session *session, const struct vd_request *request);

/* Does it, without waiting for a disk or for others, and leaves the reply in the task; false: it
 * could not be done so, and has to be done by a worker. */
bool vd_run_try(struct vd_task *task);

/* Does it, and puts the reply into the queue: the function of its work. */
void vd_run_task(struct vd_work *work);

#endif
