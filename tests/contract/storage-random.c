/* SPDX-License-Identifier: MIT */
/* Random operations on a storage, compared with a plain array. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/random.h"
#include "storage-suite.h"
#include "util/iov.h"

#define MODEL_BYTES_MAX (3u << 20)
#define IOV_ENTRIES     7

struct model {
    struct vt_storage_factory *factory;
    struct vd_storage *storage;
    struct vt_random random;
    uint8_t *bytes; /* MODEL_BYTES_MAX; zero from size on */
    size_t size;
    uint8_t *buffer; /* MODEL_BYTES_MAX and a bit */
    bool can_grow;
    uint64_t step; /* for messages */
};

/* Lengths of all magnitudes; offsets often at, or just beside, the edges of units. */
static struct vd_range random_range(struct model *model, size_t end)
{
    struct vt_random *random = &model->random;
    uint64_t length = vt_random_below(random, (uint64_t)1 << vt_random_below(random, 21));
    uint64_t offset = vt_random_below(random, end + 1);
    if (vt_random_chance(random, 40))
        offset = vd_round_down(offset, 512u << vt_random_below(random, 5));
    if (vt_random_chance(random, 40))
        length = vd_round_up(length, 512u << vt_random_below(random, 5));
    if (vt_random_chance(random, 10))
        offset += offset < end;
    return vd_range(offset, vd_min(length, end - offset));
}

/* A range to change: within the size, or, where that is possible, past the end. */
static struct vd_range random_change(struct model *model)
{
    bool grows = model->can_grow && vt_random_chance(&model->random, 25);
    return random_range(model, grows ? MODEL_BYTES_MAX : model->size);
}

/* Cuts @length bytes of the buffer, from an odd or even place, into a list. */
static int random_list(struct model *model, struct iovec *iov, size_t length)
{
    uint8_t *at =
        model->buffer +
        (vt_random_chance(&model->random, 50) ? 0 : vt_random_below(&model->random, 4096));
    int entries = (int)vt_random_below(&model->random, IOV_ENTRIES);
    for (int i = 0; i < entries; i++) {
        size_t step = (size_t)vt_random_below(&model->random, length + 1);
        if (vt_random_chance(&model->random, 50))
            step = (size_t)vd_round_down(step, 4096);
        iov[i] = (struct iovec){at, step};
        at += step;
        length -= step;
    }
    iov[entries] = (struct iovec){at, length};
    return entries + 1;
}

static void set_model(struct model *model, struct vd_range range, const uint8_t *from)
{
    if (from)
        memcpy(model->bytes + range.offset, from, (size_t)range.length);
    else
        memset(model->bytes + range.offset, 0, (size_t)range.length);
    if (range.length)
        model->size = (size_t)vd_max(model->size, vd_range_end(range));
}

static void do_read(struct model *model)
{
    struct vd_range range = random_range(model, model->size);
    struct iovec iov[IOV_ENTRIES + 1];
    int entries = random_list(model, iov, (size_t)range.length);
    VT_OK(vd_storage_preadv(model->storage, iov, entries, range.offset, &vt_err));
    const uint8_t *got = iov[0].iov_base;
    if (range.length && memcmp(got, model->bytes + range.offset, (size_t)range.length) != 0)
        fail_msg("step %" PRIu64 ": read of %" PRIu64 " bytes at %" PRIu64 " is wrong", model->step,
                 range.length, range.offset);
}

static void do_write(struct model *model)
{
    struct vd_range range = random_change(model);
    struct iovec iov[IOV_ENTRIES + 1];
    int entries = random_list(model, iov, (size_t)range.length);
    vt_random_fill(&model->random, iov[0].iov_base, (size_t)range.length);
    VT_OK(vd_storage_pwritev(model->storage, iov, entries, range.offset, &vt_err));
    set_model(model, range, iov[0].iov_base);
}

static void do_zeroes(struct model *model)
{
    struct vd_range range = random_change(model);
    unsigned flags = vt_random_chance(&model->random, 50) ? VD_STORAGE_ZERO_MAY_PUNCH : 0;
    VT_OK(vd_storage_write_zeroes(model->storage, range, flags, &vt_err));
    set_model(model, range, NULL);
}

static void do_discard(struct model *model)
{
    struct vd_range range = random_range(model, model->size);
    VT_OK(vd_storage_discard(model->storage, range, &vt_err));
    if (vd_storage_caps(model->storage) & VD_STORAGE_CAN_DISCARD) {
        set_model(model, range, NULL);
        return;
    }
    /* It may read as anything now: as what it does read. */
    VT_OK(vd_storage_pread(model->storage, model->buffer, (size_t)range.length, range.offset,
                           &vt_err));
    set_model(model, range, model->buffer);
}

static void do_resize(struct model *model)
{
    if (!model->can_grow)
        return;
    size_t size = (size_t)vt_random_below(&model->random, MODEL_BYTES_MAX + 1);
    VT_OK(vd_storage_resize(model->storage, size, &vt_err));
    if (size < model->size)
        memset(model->bytes + size, 0, model->size - size);
    model->size = size;
}

static void do_preallocate(struct model *model)
{
    struct vd_range range = random_change(model);
    VT_OK(vd_storage_preallocate(model->storage, range, &vt_err));
    if (range.length)
        model->size = (size_t)vd_max(model->size, vd_range_end(range));
}

/* Within the one object, from one place to another that does not overlap it. */
static void do_copy(struct model *model)
{
    struct vd_range from = random_range(model, model->size);
    struct vd_range to = random_change(model);
    uint64_t length = vd_min(from.length, to.length);
    if (length == 0 ||
        vd_ranges_overlap(vd_range(from.offset, length), vd_range(to.offset, length)))
        return;
    unsigned flags = vt_random_chance(&model->random, 20) ? VD_STORAGE_COPY_REFLINK_ONLY : 0;
    struct vdisk_error err = {0};
    int ret = vd_storage_copy(model->storage, from.offset, model->storage, to.offset, length, flags,
                              &err);
    if (ret == -EOPNOTSUPP) {
        /* It may have begun: whoever calls it writes all of the range then. */
        assert_int_equal(err.code, 0);
        assert_string_equal(err.message, "");
        VT_OK(vd_storage_pwrite(model->storage, model->bytes + from.offset, (size_t)length,
                                to.offset, &vt_err));
    } else if (ret < 0) {
        fail_msg("copy: %s", err.message);
    }
    memcpy(model->buffer, model->bytes + from.offset, (size_t)length);
    set_model(model, vd_range(to.offset, length), model->buffer);
}

static void do_flush(struct model *model)
{
    vd_storage_write_behind(model->storage, vd_range(0, model->size));
    VT_OK(vd_storage_flush(model->storage, &vt_err));
}

static void do_reopen(struct model *model)
{
    if (!model->factory->reopen)
        return;
    VT_OK(vd_storage_flush(model->storage, &vt_err));
    vd_storage_close(model->storage);
    model->storage = model->factory->reopen(model->factory, true);
    assert_non_null(model->storage);
    vt_storage_verify(model->storage, model->bytes, model->size);
}

static void do_verify(struct model *model)
{
    vt_storage_verify(model->storage, model->bytes, model->size);
}

static const struct {
    unsigned weight;
    bool changes;
    void (*run)(struct model *model);
} operations[] = {
    {300, false, do_read},  {300, true, do_write}, {80, true, do_zeroes},
    {60, true, do_discard}, {40, true, do_resize}, {30, true, do_preallocate},
    {60, true, do_copy},    {5, true, do_flush},   {5, true, do_reopen},
    {10, false, do_verify},
};

#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))

static void run_one(struct model *model)
{
    unsigned total = 0;
    for (size_t i = 0; i < OPERATIONS; i++)
        total += operations[i].weight;
    unsigned draw = (unsigned)vt_random_below(&model->random, total);
    size_t i = 0;
    while (draw >= operations[i].weight)
        draw -= operations[i++].weight;
    if (!operations[i].changes || vd_storage_is_writable(model->storage))
        operations[i].run(model);
}

void vt_storage_random(void **state)
{
    struct vt_storage_factory *factory = *state;
    struct model model = {.factory = factory, .random = {vt_storage_seed()}, .size = 700000};
    uint64_t ops = vt_storage_ops();
    print_message("# %s: %" PRIu64 " operations, seed %" PRIu64 "\n", factory->name, ops,
                  vt_storage_seed());
    model.bytes = vt_calloc(MODEL_BYTES_MAX, 1);
    model.buffer = vt_must(aligned_alloc(4096, MODEL_BYTES_MAX + 8192));
    vt_random_fill(&model.random, model.bytes, model.size / 2);
    model.storage = vt_storage_make(factory, model.bytes, model.size);
    model.can_grow = (vd_storage_caps(model.storage) & VD_STORAGE_CAN_RESIZE) != 0;

    for (model.step = 0; model.step < ops; model.step++)
        run_one(&model);
    vt_storage_verify(model.storage, model.bytes, model.size);
    vt_storage_destroy(factory, model.storage);
    free(model.bytes);
    free(model.buffer);
}
