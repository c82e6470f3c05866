/* SPDX-License-Identifier: MIT */
/* Memory of a connection: taken from the system once, used again, and never more than its limit. */
#include <assert.h>

#include "serve/transmit_priv.h"
#include "util/mem.h"

#define SMALLEST_SHIFT 12u
#define LARGEST_KEPT   (UINT64_C(1) << (SMALLEST_SHIFT + VD_MEMORY_CLASSES - 1))
#define LARGE_UNIT     (UINT64_C(64) << 10)

/* The size of the buffer for so many bytes. */
static uint64_t size_of(uint64_t bytes)
{
    uint64_t size = UINT64_C(1) << SMALLEST_SHIFT;
    while (size < bytes && size < LARGEST_KEPT)
        size *= 2;
    return size < bytes ? vd_round_up(bytes, LARGE_UNIT) : size;
}

/* Where buffers of a size that is kept are. */
static unsigned class_of(uint64_t size)
{
    return (unsigned)__builtin_ctzll(size) - SMALLEST_SHIFT;
}

static void free_buffer(struct vd_memory *memory, struct vd_buffer *buffer)
{
    memory->used_bytes -= sizeof(*buffer) + buffer->size;
    free(buffer->bytes);
    free(buffer);
}

/* Gives back what is free but kept, until @bytes more are within the limit. */
static bool make_room(struct vd_memory *memory, uint64_t bytes)
{
    for (unsigned i = VD_MEMORY_CLASSES; i-- > 0;) {
        while (memory->buffers[i] && memory->used_bytes + bytes > memory->limit_bytes) {
            struct vd_buffer *buffer = memory->buffers[i];
            memory->buffers[i] = buffer->next;
            free_buffer(memory, buffer);
        }
    }
    return memory->used_bytes + bytes <= memory->limit_bytes;
}

static struct vd_buffer *make_buffer(struct vd_memory *memory, uint64_t size)
{
    if (!make_room(memory, sizeof(struct vd_buffer) + size))
        return NULL;
    struct vd_buffer *buffer = malloc(sizeof(*buffer));
    uint8_t *bytes = vd_alloc_io(size);
    if (!buffer || !bytes) {
        free(bytes);
        free(buffer);
        return NULL;
    }
    *buffer = (struct vd_buffer){.bytes = bytes, .size = size};
    memory->used_bytes += sizeof(*buffer) + size;
    return buffer;
}

static struct vd_buffer *take_buffer(struct vd_memory *memory, uint64_t bytes)
{
    uint64_t size = size_of(bytes);
    if (size > LARGEST_KEPT)
        return make_buffer(memory, size);
    struct vd_buffer **kept = &memory->buffers[class_of(size)];
    struct vd_buffer *buffer = *kept;
    if (!buffer)
        return make_buffer(memory, size);
    *kept = buffer->next;
    return buffer;
}

static void give_buffer(struct vd_memory *memory, struct vd_buffer *buffer)
{
    if (buffer->size > LARGEST_KEPT) {
        free_buffer(memory, buffer);
        return;
    }
    struct vd_buffer **kept = &memory->buffers[class_of(buffer->size)];
    buffer->next = *kept;
    *kept = buffer;
}

static struct vd_task *take_task(struct vd_memory *memory)
{
    struct vd_task *task = memory->tasks;
    if (task) {
        memory->tasks = task->next;
        return task;
    }
    if (!make_room(memory, sizeof(*task)))
        return NULL;
    task = malloc(sizeof(*task));
    if (task)
        memory->used_bytes += sizeof(*task);
    return task;
}

struct vd_task *vd_memory_take(struct vd_flow *flow, size_t bytes)
{
    struct vd_memory *memory = &flow->memory;
    struct vd_task *task = take_task(memory);
    if (!task)
        return NULL;
    task->flow = flow;
    task->next = NULL;
    task->iov = task->list;
    task->iov_entries = 0;
    task->is_try = false;
    task->buffer = bytes ? take_buffer(memory, bytes) : NULL;
    if (bytes && !task->buffer) {
        vd_memory_give(flow, task);
        return NULL;
    }
    return task;
}

void vd_memory_give(struct vd_flow *flow, struct vd_task *task)
{
    if (task->buffer)
        give_buffer(&flow->memory, task->buffer);
    task->buffer = NULL;
    task->next = flow->memory.tasks;
    flow->memory.tasks = task;
}

void vd_memory_destroy(struct vd_memory *memory)
{
    while (memory->tasks) {
        struct vd_task *task = memory->tasks;
        memory->tasks = task->next;
        memory->used_bytes -= sizeof(*task);
        free(task);
    }
    for (unsigned i = 0; i < VD_MEMORY_CLASSES; i++) {
        while (memory->buffers[i]) {
            struct vd_buffer *buffer = memory->buffers[i];
            memory->buffers[i] = buffer->next;
            free_buffer(memory, buffer);
        }
    }
    assert(memory->used_bytes == 0);
}
