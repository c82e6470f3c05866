/* SPDX-License-Identifier: MIT */
/*
 * A host block that is freed while a request is on its way to it is neither used again nor punched
 * before that request is through, and is used again afterwards.  G4 of GOW by F4 of the formats and
 * I1 of the image layer, with the request stopped at the last moment before it reaches the file.
 */
#include <pthread.h>
#include <string.h>

#include "drivers/under.h"
#include "image/image.h"
#include "util/iov.h"

#include "gow-fixture.h"

#define OTHERS 4u   /* blocks 1 .. OTHERS: written while the request stands still */
#define LATER  10u  /* the block that is written after it is through */
#define OLD    0xaa /* what the freed block held */
#define OTHER  0xbb
#define STRAY  0xcc /* what the request writes */

/* ---- a storage at whose door one call waits ---- */

enum gate_state {
    GATE_OPEN,
    GATE_ARMED, /* the next such call will stop */
    GATE_HELD   /* it did */
};

struct gate {
    struct vd_storage *inner; /* not ours */
    struct vd_mutex lock;
    struct vd_cond changed;
    enum gate_state state; /* all below: under lock */
    enum vt_call call;
    struct vd_range range;
};

static void gate_set(struct gate *gate, enum gate_state state)
{
    vd_mutex_lock(&gate->lock);
    gate->state = state;
    vd_cond_broadcast(&gate->changed);
    vd_mutex_unlock(&gate->lock);
}

static void gate_arm(struct gate *gate, enum vt_call call, struct vd_range range)
{
    vd_mutex_lock(&gate->lock);
    gate->call = call;
    gate->range = range;
    gate->state = GATE_ARMED;
    vd_mutex_unlock(&gate->lock);
}

/* Waits until a call stopped, or the gate was opened; which of them? */
static bool gate_has_stopped(struct gate *gate)
{
    vd_mutex_lock(&gate->lock);
    while (gate->state == GATE_ARMED)
        vd_cond_wait(&gate->changed, &gate->lock);
    bool is_held = gate->state == GATE_HELD;
    vd_mutex_unlock(&gate->lock);
    return is_held;
}

/* Only the first call stops: a wrong reuse of the block must fail the test, not hang it. */
static void gate_pass(struct gate *gate, enum vt_call call, struct vd_range range)
{
    vd_mutex_lock(&gate->lock);
    if (gate->state == GATE_ARMED && call == gate->call && vd_ranges_overlap(range, gate->range)) {
        gate->state = GATE_HELD;
        vd_cond_broadcast(&gate->changed);
        while (gate->state == GATE_HELD)
            vd_cond_wait(&gate->changed, &gate->lock);
    }
    vd_mutex_unlock(&gate->lock);
}

static void gate_close(struct vd_storage *storage)
{
    struct gate *gate = storage->state;
    vd_cond_destroy(&gate->changed);
    vd_mutex_destroy(&gate->lock);
    free(gate);
}

static int gate_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    const struct gate *gate = storage->state;
    return vd_storage_size(gate->inner, size, err);
}

static int gate_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    struct gate *gate = storage->state;
    gate_pass(gate, VT_READ, vd_range(offset, vd_iov_length(iov, iov_entries)));
    return vd_storage_preadv(gate->inner, iov, iov_entries, offset, err);
}

static int gate_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    struct gate *gate = storage->state;
    gate_pass(gate, VT_WRITE, vd_range(offset, vd_iov_length(iov, iov_entries)));
    return vd_storage_pwritev(gate->inner, iov, iov_entries, offset, err);
}

static int gate_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                             struct vdisk_error *err)
{
    struct gate *gate = storage->state;
    gate_pass(gate, VT_ZERO, range);
    return vd_storage_write_zeroes(gate->inner, range, flags, err);
}

static int gate_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    const struct gate *gate = storage->state;
    return vd_storage_discard(gate->inner, range, err);
}

static int gate_flush(struct vd_storage *storage, struct vdisk_error *err)
{
    const struct gate *gate = storage->state;
    return vd_storage_flush(gate->inner, err);
}

static int gate_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    const struct gate *gate = storage->state;
    return vd_storage_resize(gate->inner, size, err);
}

static const struct vd_storage_driver gate_driver = {
    .name = "gate",
    .close = gate_close,
    .size = gate_size,
    .preadv = gate_preadv,
    .pwritev = gate_pwritev,
    .write_zeroes = gate_write_zeroes,
    .discard = gate_discard,
    .flush = gate_flush,
    .resize = gate_resize,
};

static struct vd_storage *gate_over(struct vd_storage *inner)
{
    struct vd_storage *storage;
    VT_OK(vd_storage_new(&gate_driver, "gate", &storage, &vt_err));
    struct gate *gate = vt_calloc(1, sizeof(*gate));
    gate->inner = inner;
    vd_mutex_init(&gate->lock);
    vd_cond_init(&gate->changed);
    storage->state = gate;
    vt_under_imitate(storage, inner);
    return storage;
}

/* ---- the request that stops, and what happens meanwhile ---- */

struct request {
    enum vt_call call;
    struct vdisk_image *image;
    struct gate *gate;
    uint8_t buf[BLOCK];
    int ret;
};

static void *run_request(void *opaque)
{
    struct request *request = opaque;
    switch (request->call) {
    case VT_READ:
        request->ret = vdisk_image_pread(request->image, request->buf, BLOCK, 0, NULL);
        break;
    case VT_WRITE:
        request->ret = vdisk_image_pwrite(request->image, request->buf, BLOCK, 0, NULL);
        break;
    default:
        request->ret = vdisk_image_write_zeroes(request->image, 0, BLOCK, VDISK_ZERO_NO_HOLE, NULL);
    }
    gate_set(request->gate, GATE_OPEN); /* also if it never came to the gate */
    return NULL;
}

static int write_block(struct vdisk_image *image, uint32_t block, uint8_t byte,
                       struct vdisk_error *err)
{
    uint8_t *buf = vt_calloc(BLOCK, 1);
    memset(buf, byte, BLOCK);
    int ret = vdisk_image_pwrite(image, buf, BLOCK, vd_gow_guest_offset(block), err);
    free(buf);
    return ret;
}

/* Frees block 0, durably, and allocates others.  Asserts nothing: somebody waits at the gate. */
static int change_others(struct vdisk_image *image, struct vdisk_error *err)
{
    int ret = vdisk_image_discard(image, 0, BLOCK, err);
    for (unsigned i = 0; i < 2 && ret == 0; i++)
        ret = vdisk_image_flush(image, err);
    for (uint32_t block = 1; block <= OTHERS && ret == 0; block++)
        ret = write_block(image, block, OTHER, err);
    return ret < 0 ? ret : vdisk_image_flush(image, err);
}

static void expect_bytes(const uint8_t *buf, size_t length, uint8_t byte)
{
    vt_assert_filled(buf, length, byte);
}

static void expect_block(struct vdisk_image *image, uint32_t block, uint8_t byte)
{
    uint8_t *buf = vt_calloc(BLOCK, 1);
    VT_OK(vdisk_image_pread(image, buf, BLOCK, vd_gow_guest_offset(block), &vt_err));
    expect_bytes(buf, BLOCK, byte);
    free(buf);
}

/* The request is through: its host block is given back, and the next allocation's. */
static void expect_reuse(struct fixture *fix, struct vdisk_image *image, uint64_t bytes)
{
    VT_OK(vdisk_image_flush(image, &vt_err));
    assert_int_equal(vt_trace_count(fix->file, VT_DISCARD), 1);
    uint64_t offset = vd_gow_guest_offset(LATER);
    VT_OK(vdisk_image_pwrite(image, "x", 1, offset, &vt_err));
    VT_OK(vdisk_image_flush(image, &vt_err));
    assert_int_equal(map_in_file(fix, LATER), 0);
    assert_int_equal(file_bytes(fix), bytes);
    uint8_t *buf = vt_calloc(BLOCK, 1);
    VT_OK(vdisk_image_pread(image, buf, BLOCK, offset, &vt_err));
    assert_int_equal(buf[0], 'x');
    expect_bytes(buf + 1, BLOCK - 1, 0); /* nothing of before shines through */
    free(buf);
}

static struct vdisk_image *open_image(const struct fixture *fix, struct vd_storage *file)
{
    const struct vdisk_open_options options = {.struct_bytes = sizeof(options),
                                               .flags = VDISK_OPEN_WRITE,
                                               .format = gow_driver(fix->version)->name};
    struct vdisk_image *image;
    VT_OK(vd_image_open_on(file, &options, &image, &vt_err));
    return image;
}

static void reuse_waits(uint32_t version, enum vt_call call)
{
    struct fixture fix;
    fixture_create(&fix, version, 10 * MIB);
    struct vd_storage *file = gate_over(fix.file);
    struct gate *gate = file->state;
    struct vdisk_image *image = open_image(&fix, file);
    VT_OK(write_block(image, 0, OLD, &vt_err));
    VT_OK(vdisk_image_flush(image, &vt_err));
    assert_int_equal(map_in_file(&fix, 0), 0);
    vt_trace_reset(fix.file);

    struct request *request = vt_calloc(1, sizeof(*request));
    *request = (struct request){.call = call, .image = image, .gate = gate};
    memset(request->buf, STRAY, BLOCK);
    gate_arm(gate, call, vd_range(vd_gow_host_offset(&fix.layout, 0), BLOCK));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_request, request), 0);
    bool has_stopped = gate_has_stopped(gate);
    struct vdisk_error err = {0};
    int ret = change_others(image, &err);
    uint64_t punches = vt_trace_count(fix.file, VT_DISCARD);
    gate_set(gate, GATE_OPEN);
    assert_int_equal(pthread_join(thread, NULL), 0);

    assert_true(has_stopped);
    assert_string_equal(err.message, "");
    assert_int_equal(ret, 0);
    assert_int_equal(request->ret, 0);
    expect_bytes(request->buf, BLOCK, call == VT_READ ? OLD : STRAY);
    for (uint32_t block = 1; block <= OTHERS; block++)
        expect_block(image, block, OTHER);
    expect_block(image, 0, 0);
    assert_int_equal(punches, 0);
    /* Nothing but the request was in the way. */
    assert_int_equal(map_in_file(&fix, 0), VD_GOW_UNALLOCATED);
    uint64_t bytes = vd_gow_file_bytes(&fix.layout, 1 + OTHERS);
    assert_int_equal(file_bytes(&fix), bytes);
    expect_reuse(&fix, image, bytes);

    free(request);
    VT_OK(vdisk_image_close(image, &vt_err));
    fixture_destroy(&fix);
}

static void test_read_sees_what_was_there(void **state)
{
    reuse_waits(*(const uint32_t *)*state, VT_READ);
}

static void test_overwrite_hits_no_other_block(void **state)
{
    reuse_waits(*(const uint32_t *)*state, VT_WRITE);
}

static void test_zeroes_hit_no_other_block(void **state)
{
    reuse_waits(*(const uint32_t *)*state, VT_ZERO);
}

#define OF_VERSION(test, number)                                              \
    {                                                                         \
#test " gow" #number, test, NULL, NULL, (void *)&versions[(number)-1] \
    }
#define OF_EACH_VERSION(test) OF_VERSION(test, 1), OF_VERSION(test, 2), OF_VERSION(test, 3)

int main(void)
{
    static const uint32_t versions[] = {1, 2, 3};
    const struct CMUnitTest tests[] = {
        OF_EACH_VERSION(test_read_sees_what_was_there),
        OF_EACH_VERSION(test_overwrite_hits_no_other_block),
        OF_EACH_VERSION(test_zeroes_hit_no_other_block),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
