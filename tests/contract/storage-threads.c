/* SPDX-License-Identifier: MIT */
/*
 * Threads that write bytes side by side: slices too small and too odd for any unit, each owned by
 * one thread, inside the storage and past its end.  No byte may be lost, and the size at the end is
 * exactly the end of the last slice.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/random.h"
#include "storage-suite.h"
#include "util/workers.h"

#define THREADS     4u
#define SLICE_BYTES 1237u
#define SLICES      600u
#define ALL_BYTES   (SLICES * SLICE_BYTES)

struct field {
    struct vd_storage *storage;
    uint8_t *bytes; /* ALL_BYTES: what each slice holds in the end */
    bool can_grow;
    atomic_uint next;
};

/* Each slice in two halves, by different kinds of request, with reads of its own bytes between. */
static int write_slice(struct field *field, size_t slice, struct vdisk_error *err)
{
    uint64_t offset = slice * SLICE_BYTES;
    const uint8_t *bytes = field->bytes + offset;
    size_t half = slice % SLICE_BYTES;
    uint8_t back[SLICE_BYTES];

    int ret = vd_storage_write_zeroes(field->storage, vd_range(offset, SLICE_BYTES),
                                      slice % 2 ? VD_STORAGE_ZERO_MAY_PUNCH : 0, err);
    if (ret == 0)
        ret =
            vd_storage_pwrite(field->storage, bytes + half, SLICE_BYTES - half, offset + half, err);
    if (ret == 0)
        ret = vd_storage_pwrite(field->storage, bytes, half, offset, err);
    if (ret == 0)
        ret = vd_storage_pread(field->storage, back, SLICE_BYTES, offset, err);
    if (ret == 0 && memcmp(back, bytes, SLICE_BYTES) != 0)
        ret = vd_err_set(err, EILSEQ, "slice %zu reads wrong after it was written", slice);
    return ret;
}

static int write_slices(void *work, unsigned index, struct vdisk_error *err)
{
    (void)index;
    struct field *field = work;
    unsigned slice;
    int ret = 0;
    while (ret == 0 && (slice = atomic_fetch_add(&field->next, 1)) < SLICES)
        ret = write_slice(field, slice, err);
    return ret;
}

static int read_slices(void *work, unsigned index, struct vdisk_error *err)
{
    struct field *field = work;
    uint8_t back[3 * SLICE_BYTES];
    for (size_t slice = index; slice + 3 <= SLICES; slice++) {
        int ret = vd_storage_pread(field->storage, back, sizeof(back), slice * SLICE_BYTES, err);
        if (ret < 0)
            return ret;
        if (memcmp(back, field->bytes + slice * SLICE_BYTES, sizeof(back)) != 0)
            return vd_err_set(err, EILSEQ, "slice %zu reads wrong", slice);
    }
    return 0;
}

void vt_storage_threads(void **state)
{
    struct vt_storage_factory *factory = *state;
    struct vt_random random = {vt_storage_seed()};
    struct field field = {.bytes = vt_calloc(ALL_BYTES, 1)};
    vt_random_fill(&random, field.bytes, ALL_BYTES);

    field.storage = vt_storage_make(factory, field.bytes, ALL_BYTES);
    if (vd_storage_is_writable(field.storage)) {
        for (size_t i = 0; i < ALL_BYTES; i++)
            field.bytes[i] ^= 0x5a;
        field.can_grow = (vd_storage_caps(field.storage) & VD_STORAGE_CAN_RESIZE) != 0;
        if (field.can_grow)
            VT_OK(vd_storage_resize(field.storage, 1000, &vt_err));
        VT_OK(vd_workers_run(THREADS, write_slices, &field, &vt_err));
        vt_storage_verify(field.storage, field.bytes, ALL_BYTES);
    }
    VT_OK(vd_workers_run(THREADS, read_slices, &field, &vt_err));
    vt_storage_destroy(factory, field.storage);
    free(field.bytes);
}
