/* SPDX-License-Identifier: MIT */
/* What requests do. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "serve/transmit_priv.h"

/* Shorter runs of zeros are sent as they are. */
#define HOLE_BYTES 4096u

/* What is read at once for CACHE. */
#define CACHE_BYTES (UINT64_C(256) << 10)

/* Extents of one context, and bytes for all that is said about a range. */
#define EXTENTS_MAX  4096u
#define STATUS_BYTES (UINT64_C(1) << 20)

/* Extents that fit for each context, and the one list that they are made in. */
static size_t extents_of(const struct vd_session *session, const struct vd_request *request)
{
    if (request->flags & NBD_CMD_FLAG_REQ_ONE)
        return 1;
    size_t contexts = (size_t)__builtin_popcountll(request->contexts);
    size_t each = sizeof(struct vd_context_extent) + contexts * (vd_reply_status_bytes(session, 1) -
                                                                 vd_reply_status_bytes(session, 0));
    return (size_t)vd_min(EXTENTS_MAX, STATUS_BYTES / each);
}

size_t vd_run_buffer_bytes(const struct vd_session *session, const struct vd_request *request)
{
    switch (request->command) {
    case NBD_CMD_READ:
        return (size_t)request->range.length;
    case NBD_CMD_WRITE:
        return (size_t)request->payload_bytes;
    case NBD_CMD_CACHE:
        return (size_t)vd_min(request->range.length, CACHE_BYTES);
    case NBD_CMD_BLOCK_STATUS: {
        size_t extents = extents_of(session, request);
        return extents * sizeof(struct vd_context_extent) +
               (size_t)__builtin_popcountll(request->contexts) *
                   vd_reply_status_bytes(session, extents);
    }
    default:
        return 0;
    }
}

/* ---- Replies ---- */

static void add_bytes(struct vd_task *task, void *bytes, size_t length)
{
    assert(task->iov_entries < sizeof(task->list) / sizeof(task->list[0]));
    if (length)
        task->list[task->iov_entries++] = (struct iovec){.iov_base = bytes, .iov_len = length};
}

static void answer_done(struct vd_task *task)
{
    add_bytes(task, task->heads, vd_reply_done(task->flow->session, &task->request, task->heads));
}

/* The protocol has these two for special cases only. */
static uint32_t error_for(const struct vd_request *request, int ret)
{
    uint32_t error = vd_nbd_error_of(-ret);
    if (error == NBD_ENOTSUP && !(request->flags & NBD_CMD_FLAG_FAST_ZERO))
        return NBD_EINVAL;
    return error == NBD_EOVERFLOW ? NBD_EIO : error;
}

static void answer_error(struct vd_task *task, int ret, const struct vdisk_error *err)
{
    const struct vd_transmit *transmit = task->flow->transmit;
    const struct vd_request *request = &task->request;
    bool is_expected = ret == -ENOTSUP && (request->flags & NBD_CMD_FLAG_FAST_ZERO);
    /* The story is for the owner: it has names of files. */
    vd_log(transmit->log, is_expected ? VDISK_LOG_DEBUG : VDISK_LOG_WARNING,
           "%s: export \"%s\": %s of %" PRIu64 " bytes at offset %" PRIu64 ": %s", transmit->peer,
           task->flow->session->export->name, vd_nbd_command_name(request->command),
           request->range.length, request->range.offset,
           err->code ? err->message : strerrordesc_np(-ret));
    const char *why = strerrordesc_np(-ret);
    task->iov_entries = 0;
    add_bytes(task, task->heads,
              vd_reply_error(task->flow->session, request, error_for(request, ret),
                             why ? why : "failed", task->heads));
}

/* ---- READ ---- */

/* Where the heads of a reply go, and the chunks. */
struct chunks {
    struct vd_task *task;
    uint8_t *head;
    unsigned entries;
};

static void add_chunk(struct chunks *chunks, struct vd_range part, bool is_zero, bool is_last)
{
    struct vd_task *task = chunks->task;
    const struct vd_session *session = task->flow->session;
    size_t bytes = is_zero ? vd_reply_hole(session, &task->request, part, is_last, chunks->head)
                           : vd_reply_data(session, &task->request, part, is_last, chunks->head);
    add_bytes(task, chunks->head, bytes);
    chunks->head += bytes;
    chunks->entries++;
    if (!is_zero)
        add_bytes(task, task->buffer->bytes + (part.offset - task->request.range.offset),
                  (size_t)part.length);
}

static int read_part(struct vd_task *task, struct vd_range part, struct vdisk_error *err)
{
    struct vdisk_image *image = task->flow->session->export->image;
    uint8_t *to = task->buffer->bytes + (part.offset - task->request.range.offset);
    return task->is_try ? vd_image_try_pread(image, to, (size_t)part.length, part.offset)
                        : vdisk_image_pread(image, to, (size_t)part.length, part.offset, err);
}

/* The next part of @rest that is all zero, by the maps, or all not known to be. */
static int next_part(struct vd_task *task, struct vd_range rest, struct vd_range *part,
                     bool *is_zero, struct vdisk_error *err)
{
    struct vdisk_image *image = task->flow->session->export->image;
    *part = vd_range(rest.offset, 0);
    *is_zero = false;
    while (part->length < rest.length) {
        struct vd_range left = vd_range(rest.offset + part->length, rest.length - part->length);
        uint64_t length;
        bool zero;
        int ret = task->is_try ? vd_image_try_known_zero(image, left, &length, &zero)
                               : vd_image_known_zero(image, left, &length, &zero, err);
        if (ret < 0)
            return ret;
        zero = zero && length >= HOLE_BYTES;
        if (part->length && zero != *is_zero)
            break;
        *is_zero = zero;
        part->length += length;
    }
    return 0;
}

/* Chunks of data, and of zeros that are not sent. */
static int read_chunks(struct vd_task *task, struct vdisk_error *err)
{
    struct chunks chunks = {.task = task, .head = task->heads};
    struct vd_range rest = task->request.range;
    while (rest.length) {
        struct vd_range part = rest;
        bool is_zero = false;
        int ret = 0;
        if (chunks.entries < VD_TASK_CHUNKS_MAX - 1)
            ret = next_part(task, rest, &part, &is_zero, err);
        if (ret == 0 && !is_zero)
            ret = read_part(task, part, err);
        if (ret < 0)
            return ret;
        rest = vd_range(rest.offset + part.length, rest.length - part.length);
        add_chunk(&chunks, part, is_zero, rest.length == 0);
    }
    return 0;
}

static int run_read(struct vd_task *task, struct vdisk_error *err)
{
    const struct vd_request *request = &task->request;
    if (request->range.length == 0) {
        answer_done(task);
        return 0;
    }
    if (task->flow->session->has_structured && !(request->flags & NBD_CMD_FLAG_DF))
        return read_chunks(task, err);
    int ret = read_part(task, request->range, err);
    struct chunks chunks = {.task = task, .head = task->heads};
    if (ret == 0)
        add_chunk(&chunks, request->range, false, true);
    return ret;
}

/* ---- Changes ---- */

/* T4 */
static int settle(struct vd_task *task, int ret, struct vdisk_error *err)
{
    if (ret == 0 && (task->request.flags & NBD_CMD_FLAG_FUA))
        ret = vdisk_image_flush(task->flow->session->export->image, err);
    if (ret == 0)
        answer_done(task);
    return ret;
}

static int run_write(struct vd_task *task, struct vdisk_error *err)
{
    struct vdisk_image *image = task->flow->session->export->image;
    struct vd_range range = task->request.range;
    int ret = 0;
    if (range.length && task->is_try)
        ret = vd_image_try_pwrite(image, task->buffer->bytes, (size_t)range.length, range.offset);
    else if (range.length)
        ret =
            vdisk_image_pwrite(image, task->buffer->bytes, (size_t)range.length, range.offset, err);
    return settle(task, ret, err);
}

static int run_trim(struct vd_task *task, struct vdisk_error *err)
{
    struct vd_range range = task->request.range;
    int ret = 0;
    if (range.length)
        ret = vdisk_image_discard(task->flow->session->export->image, range.offset, range.length,
                                  err);
    return settle(task, ret, err);
}

static int run_zeroes(struct vd_task *task, struct vdisk_error *err)
{
    struct vdisk_image *image = task->flow->session->export->image;
    struct vd_range range = task->request.range;
    unsigned flags = task->request.flags & NBD_CMD_FLAG_NO_HOLE ? VDISK_ZERO_NO_HOLE : 0;
    int ret = 0;
    if (range.length && (task->request.flags & NBD_CMD_FLAG_FAST_ZERO) &&
        !vd_image_zeroes_fast(image, range, flags))
        ret = -ENOTSUP;
    if (ret == 0 && range.length)
        ret = vdisk_image_write_zeroes(image, range.offset, range.length, flags, err);
    return settle(task, ret, err);
}

static int run_flush(struct vd_task *task, struct vdisk_error *err)
{
    int ret = vdisk_image_flush(task->flow->session->export->image, err);
    if (ret == 0)
        answer_done(task);
    return ret;
}

/* ---- Questions ---- */

/* Reads it to nowhere, so that it is in memory: no more than one READ may ask for, as a request for
 * the whole of a large disk would keep this worker for hours, whether its client waits or not. */
static int run_cache(struct vd_task *task, struct vdisk_error *err)
{
    struct vd_range rest = task->request.range;
    rest.length = vd_min(rest.length, task->flow->session->payload_max);
    while (rest.length && !atomic_load(&task->flow->session->export->is_removed) &&
           !atomic_load(task->flow->transmit->is_stopping)) {
        uint64_t length = vd_min(rest.length, CACHE_BYTES);
        int ret = vdisk_image_pread(task->flow->session->export->image, task->buffer->bytes,
                                    (size_t)length, rest.offset, err);
        if (ret < 0)
            return ret;
        rest = vd_range(rest.offset + length, rest.length - length);
    }
    answer_done(task);
    return 0;
}

static int run_status(struct vd_task *task, struct vdisk_error *err)
{
    const struct vd_session *session = task->flow->session;
    const struct vd_request *request = &task->request;
    size_t extents_max = extents_of(session, request);
    struct vd_context_extent *extents = (struct vd_context_extent *)(void *)task->buffer->bytes;
    uint8_t *start = task->buffer->bytes + extents_max * sizeof(*extents);
    uint8_t *to = start;
    uint64_t left = request->contexts;
    while (left) {
        uint32_t index = (uint32_t)__builtin_ctzll(left);
        size_t entries = extents_max;
        left &= left - 1;
        int ret = vd_context_look(session->contexts[index], session->export->image, request->range,
                                  extents, &entries, err);
        if (ret < 0)
            return ret;
        to += vd_reply_status(session, request, index, extents, entries, left == 0, to);
    }
    add_bytes(task, start, (size_t)(to - start));
    return 0;
}

/* ---- All of them ---- */

static int run_request(struct vd_task *task, struct vdisk_error *err)
{
    switch (task->request.command) {
    case NBD_CMD_READ:
        return run_read(task, err);
    case NBD_CMD_WRITE:
        return run_write(task, err);
    case NBD_CMD_FLUSH:
        return run_flush(task, err);
    case NBD_CMD_TRIM:
        return run_trim(task, err);
    case NBD_CMD_CACHE:
        return run_cache(task, err);
    case NBD_CMD_WRITE_ZEROES:
        return run_zeroes(task, err);
    default:
        assert(task->request.command == NBD_CMD_BLOCK_STATUS);
        return run_status(task, err);
    }
}

bool vd_run_try(struct vd_task *task)
{
    const struct vd_request *request = &task->request;
    bool is_write = request->command == NBD_CMD_WRITE && !(request->flags & NBD_CMD_FLAG_FUA);
    if (request->command != NBD_CMD_READ && !is_write)
        return false;
    task->is_try = true;
    int ret = run_request(task, NULL);
    task->is_try = false;
    if (ret < 0)
        task->iov_entries = 0;
    return ret == 0;
}

void vd_run_task(struct vd_work *work)
{
    struct vd_task *task = (struct vd_task *)work; /* its first field */
    struct vd_flow *flow = task->flow;
    struct vdisk_error err;
    vdisk_error_clear(&err);
    int ret = run_request(task, &err);
    if (ret < 0)
        answer_error(task, ret, &err);
    vd_counters_add(&flow->session->export->counters, vd_request_kind(&task->request),
                    task->request.range.length, vd_clock_us() - task->since_us, ret < 0);

    vd_mutex_lock(&flow->lock);
    vd_send_push(flow, task);
    if (vd_stream_sends_beside(flow->session->stream))
        vd_send_queue(flow);
    /* T5: nothing of the flow is touched once the lock is released. */
    atomic_fetch_sub(&flow->under_way, 1);
    vd_send_wake(flow, VD_WAKE_ALL);
    vd_mutex_unlock(&flow->lock);
}
