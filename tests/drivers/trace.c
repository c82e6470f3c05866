/* SPDX-License-Identifier: MIT */
#include "drivers/trace.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "drivers/alloc.h"
#include "util/iov.h"

struct trace {
    struct vd_storage *inner;
    enum vt_ownership ownership;
    FILE *print;
    struct vd_mutex lock;
    struct vt_record *records; /* all below: under lock */
    size_t entries;
    size_t capacity;
    uint64_t count[VT_CALLS];
    uint64_t bytes[VT_CALLS];
};

static int note(struct trace *trace, enum vt_call call, struct vd_range range, int result)
{
    vd_mutex_lock(&trace->lock);
    trace->records =
        vt_reserve(trace->records, &trace->capacity, trace->entries + 1, sizeof(*trace->records));
    trace->records[trace->entries++] =
        (struct vt_record){.call = call, .result = result, .range = range};
    trace->count[call]++;
    if (result == 0)
        trace->bytes[call] += range.length;
    if (trace->print)
        fprintf(trace->print, "%s %" PRIu64 "+%" PRIu64 " = %d\n", vt_call_name(call), range.offset,
                range.length, result);
    vd_mutex_unlock(&trace->lock);
    return result;
}

static void trace_close(struct vd_storage *storage)
{
    struct trace *trace = storage->state;
    vt_under_close(trace->inner, trace->ownership);
    vd_mutex_destroy(&trace->lock);
    free(trace->records);
    free(trace);
}

static int trace_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_SIZE, vd_range(0, 0), vd_storage_size(trace->inner, size, err));
}

static int trace_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err)
{
    const struct trace *trace = storage->state;
    return vd_storage_allocated(trace->inner, bytes, err);
}

static int trace_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_READ, vd_range(offset, vd_iov_length(iov, iov_entries)),
                vd_storage_preadv(trace->inner, iov, iov_entries, offset, err));
}

static int trace_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                         uint64_t offset, struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_WRITE, vd_range(offset, vd_iov_length(iov, iov_entries)),
                vd_storage_pwritev(trace->inner, iov, iov_entries, offset, err));
}

static int trace_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                              struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_ZERO, range, vd_storage_write_zeroes(trace->inner, range, flags, err));
}

static int trace_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_DISCARD, range, vd_storage_discard(trace->inner, range, err));
}

static int trace_flush(struct vd_storage *storage, struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_FLUSH, vd_range(0, 0), vd_storage_flush(trace->inner, err));
}

static int trace_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_RESIZE, vd_range(0, size), vd_storage_resize(trace->inner, size, err));
}

static int trace_preallocate(struct vd_storage *storage, struct vd_range range,
                             struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_PREALLOCATE, range, vd_storage_preallocate(trace->inner, range, err));
}

static int trace_extent(struct vd_storage *storage, struct vd_range range,
                        struct vd_storage_extent *extent, struct vdisk_error *err)
{
    struct trace *trace = storage->state;
    return note(trace, VT_EXTENT, range, vd_storage_extent(trace->inner, range, extent, err));
}

static const struct vd_storage_driver trace_driver = {
    .name = "trace",
    .close = trace_close,
    .size = trace_size,
    .allocated = trace_allocated,
    .preadv = trace_preadv,
    .pwritev = trace_pwritev,
    .write_zeroes = trace_write_zeroes,
    .discard = trace_discard,
    .flush = trace_flush,
    .resize = trace_resize,
    .preallocate = trace_preallocate,
    .extent = trace_extent,
};

int vt_trace_open(struct vd_storage *inner, enum vt_ownership ownership, FILE *print,
                  struct vd_storage **storage, struct vdisk_error *err)
{
    struct vd_storage *st = NULL;
    int ret = vd_storage_new(&trace_driver, "trace", &st, err);
    if (ret < 0) {
        vt_under_close(inner, ownership);
        return ret;
    }
    struct trace *trace = vt_calloc(1, sizeof(*trace));
    trace->inner = inner;
    trace->ownership = ownership;
    trace->print = print;
    vd_mutex_init(&trace->lock);
    st->state = trace;
    vt_under_imitate(st, inner);
    *storage = st;
    return 0;
}

static struct trace *trace_of(struct vd_storage *storage)
{
    assert(storage->driver == &trace_driver);
    return storage->state;
}

uint64_t vt_trace_count(struct vd_storage *storage, enum vt_call call)
{
    struct trace *trace = trace_of(storage);
    vd_mutex_lock(&trace->lock);
    uint64_t count = trace->count[call];
    vd_mutex_unlock(&trace->lock);
    return count;
}

uint64_t vt_trace_bytes(struct vd_storage *storage, enum vt_call call)
{
    struct trace *trace = trace_of(storage);
    vd_mutex_lock(&trace->lock);
    uint64_t bytes = trace->bytes[call];
    vd_mutex_unlock(&trace->lock);
    return bytes;
}

const struct vt_record *vt_trace_records(struct vd_storage *storage, size_t *entries)
{
    struct trace *trace = trace_of(storage);
    vd_mutex_lock(&trace->lock);
    const struct vt_record *records = trace->records;
    *entries = trace->entries;
    vd_mutex_unlock(&trace->lock);
    return records;
}

void vt_trace_reset(struct vd_storage *storage)
{
    struct trace *trace = trace_of(storage);
    vd_mutex_lock(&trace->lock);
    trace->entries = 0;
    memset(trace->count, 0, sizeof(trace->count));
    memset(trace->bytes, 0, sizeof(trace->bytes));
    vd_mutex_unlock(&trace->lock);
}
