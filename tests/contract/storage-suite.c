/* SPDX-License-Identifier: MIT */
/* The storage contract, one promise a test; those with random requests are in files of their own.
 */
#include "storage-suite.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/random.h"
#include "util/iov.h"

#define CONTENT_BYTES 300001u /* no multiple of anything */

static uint64_t number_from(const char *variable, uint64_t fallback)
{
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 0) : fallback;
}

uint64_t vt_storage_seed(void)
{
    return number_from("VD_TEST_SEED", 20261121);
}

uint64_t vt_storage_ops(void)
{
    return number_from("VD_TEST_OPS", 1500);
}

struct vd_storage *vt_storage_make(struct vt_storage_factory *factory, const uint8_t *content,
                                   size_t bytes)
{
    struct vd_storage *storage = factory->make(factory, content, bytes);
    assert_non_null(storage);
    return storage;
}

void vt_storage_destroy(struct vt_storage_factory *factory, struct vd_storage *storage)
{
    vd_storage_close(storage);
    if (factory->destroy)
        factory->destroy(factory);
}

static uint8_t *random_content(size_t bytes)
{
    struct vt_random random = {vt_storage_seed()};
    uint8_t *content = vt_calloc(bytes, 1);
    vt_random_fill(&random, content, bytes);
    return content;
}

/* Extents cover all of it, and holes read as zero. */
static void verify_extents(struct vd_storage *storage, const uint8_t *content, size_t bytes)
{
    uint64_t at = 0;
    while (at < bytes) {
        struct vd_storage_extent extent;
        VT_OK(vd_storage_extent(storage, vd_range(at, bytes - at), &extent, &vt_err));
        assert_in_range(extent.length, 1, bytes - at);
        if (extent.kind == VD_STORAGE_HOLE)
            assert_true(vd_buffer_is_zero(content + at, (size_t)extent.length));
        else
            assert_int_equal(extent.kind, VD_STORAGE_DATA);
        at += extent.length;
    }
}

void vt_storage_verify(struct vd_storage *storage, const uint8_t *content, size_t bytes)
{
    uint64_t size;
    VT_OK(vd_storage_size(storage, &size, &vt_err));
    assert_int_equal(size, bytes);

    uint8_t *buffer = vt_calloc(bytes, 1);
    if (bytes)
        VT_OK(vd_storage_pread(storage, buffer, bytes, 0, &vt_err));
    for (size_t i = 0; i < bytes; i++)
        if (buffer[i] != content[i])
            fail_msg("byte %zu of %zu: 0x%02x instead of 0x%02x", i, bytes, buffer[i], content[i]);
    free(buffer);
    verify_extents(storage, content, bytes);
}

static void test_reads_any_range(void **state)
{
    static const uint64_t offsets[] = {0, 1, 511, 512, 513, 4095, 4096, 65535, 65536, 299999};
    static const size_t lengths[] = {0, 1, 2, 511, 512, 513, 4096, 4097, 65536, 100000, 299999};
    struct vt_storage_factory *factory = *state;
    uint8_t *content = random_content(CONTENT_BYTES);
    struct vd_storage *storage = vt_storage_make(factory, content, CONTENT_BYTES);
    uint8_t *buffer = vt_calloc(CONTENT_BYTES + 2, 1);

    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
        for (size_t j = 0; j < sizeof(lengths) / sizeof(lengths[0]); j++) {
            if (offsets[i] + lengths[j] > CONTENT_BYTES)
                continue;
            memset(buffer, 0xee, CONTENT_BYTES + 2);
            VT_OK(vd_storage_pread(storage, buffer + 1, lengths[j], offsets[i], &vt_err));
            assert_memory_equal(buffer + 1, content + offsets[i], lengths[j]);
            assert_int_equal(buffer[0], 0xee);
            assert_int_equal(buffer[lengths[j] + 1], 0xee);
        }
    vt_storage_verify(storage, content, CONTENT_BYTES);
    free(buffer);
    free(content);
    vt_storage_destroy(factory, storage);
}

static void assert_names(const struct vd_storage *storage, const struct vdisk_error *err)
{
    const char *name = vd_storage_name(storage);
    size_t length = strlen(name);
    if (strncmp(err->message, name, length) != 0 || strncmp(err->message + length, ": ", 2) != 0 ||
        strncmp(err->message + length + 2, name, length) == 0)
        fail_msg("message does not start with \"%s: \", once: %s", name, err->message);
}

static void test_read_past_end(void **state)
{
    static const struct vd_range ranges[] = {{CONTENT_BYTES, 1},      {CONTENT_BYTES - 1, 2},
                                             {CONTENT_BYTES, 4096},   {0, CONTENT_BYTES + 1},
                                             {299008, 4096},          {CONTENT_BYTES + 9000, 10},
                                             {INT64_MAX - 8192, 4096}};
    struct vt_storage_factory *factory = *state;
    uint8_t *content = random_content(CONTENT_BYTES);
    struct vd_storage *storage = vt_storage_make(factory, content, CONTENT_BYTES);
    uint8_t *buffer = vt_calloc(CONTENT_BYTES + 1, 1);

    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        struct vdisk_error err = {0};
        memset(buffer, 0xee, CONTENT_BYTES + 1);
        size_t length = (size_t)ranges[i].length;
        assert_int_equal(vd_storage_pread(storage, buffer, length, ranges[i].offset, &err), -EIO);
        assert_int_equal(err.code, EIO);
        assert_names(storage, &err);
        assert_true(vd_buffer_is_zero(buffer, length));
    }
    free(buffer);
    free(content);
    vt_storage_destroy(factory, storage);
}

/* Ranges that end past all offsets, and requests that are too long, never reach a driver. */
static void test_bad_requests(void **state)
{
    struct vt_storage_factory *factory = *state;
    uint8_t content[1024] = {1};
    uint8_t buffer[512];
    struct vd_storage *storage = vt_storage_make(factory, content, sizeof(content));
    uint64_t wraps = UINT64_MAX - 100;
    struct vd_storage_extent extent;
    /* Never looked at: the total is refused. */
    struct iovec huge[2] = {{buffer, VDISK_REQUEST_BYTES_MAX}, {buffer, 1}};

    struct vdisk_error err = {0};
    memset(buffer, 0xee, sizeof(buffer));
    assert_int_equal(vd_storage_pread(storage, buffer, sizeof(buffer), wraps, &err), -EINVAL);
    assert_names(storage, &err);
    assert_true(vd_buffer_is_zero(buffer, sizeof(buffer)));
    VT_FAILS(EINVAL, vd_storage_pread(storage, buffer, 512, INT64_MAX - 100, &vt_err));
    VT_FAILS(EINVAL, vd_storage_extent(storage, vd_range(wraps, 512), &extent, &vt_err));

    if (vd_storage_is_writable(storage)) {
        struct vd_range bad = vd_range(wraps, 512);
        VT_FAILS(EINVAL, vd_storage_pwrite(storage, buffer, 512, wraps, &vt_err));
        VT_FAILS(EINVAL, vd_storage_pwritev(storage, huge, 2, 0, &vt_err));
        VT_FAILS(EINVAL, vd_storage_write_zeroes(storage, bad, 0, &vt_err));
        VT_FAILS(EINVAL, vd_storage_discard(storage, bad, &vt_err));
        VT_FAILS(EINVAL, vd_storage_preallocate(storage, bad, &vt_err));
        VT_FAILS(EINVAL, vd_storage_resize(storage, wraps, &vt_err));
        VT_FAILS(EINVAL, vd_storage_copy(storage, wraps, storage, 0, 512, 0, &vt_err));
    }
    vt_storage_verify(storage, content, sizeof(content));
    vt_storage_destroy(factory, storage);
}

/* Every change is refused, and says so. */
static void test_read_only(void **state)
{
    struct vt_storage_factory *factory = *state;
    uint8_t *content = random_content(CONTENT_BYTES);
    struct vd_storage *storage = vt_storage_make(factory, content, CONTENT_BYTES);
    if (vd_storage_is_writable(storage) && factory->reopen) {
        VT_OK(vd_storage_flush(storage, &vt_err));
        vd_storage_close(storage);
        storage = factory->reopen(factory, false);
    }
    if (!vd_storage_is_writable(storage)) {
        struct vd_range range = vd_range(0, 512);
        struct vdisk_error err = {0};
        assert_int_equal(vd_storage_pwrite(storage, content + 1, 512, 0, &err), -EROFS);
        assert_names(storage, &err);
        VT_FAILS(EROFS, vd_storage_write_zeroes(storage, range, 0, &vt_err));
        VT_FAILS(EROFS, vd_storage_discard(storage, range, &vt_err));
        VT_FAILS(EROFS, vd_storage_preallocate(storage, range, &vt_err));
        VT_FAILS(EROFS, vd_storage_resize(storage, 0, &vt_err));
        VT_FAILS(EROFS, vd_storage_copy(storage, 0, storage, 512, 512, 0, &vt_err));
        VT_OK(vd_storage_flush(storage, &vt_err));
        assert_int_equal(vd_storage_caps(storage) & (VD_STORAGE_CAN_WRITE | VD_STORAGE_CAN_RESIZE),
                         0);
    }
    vt_storage_verify(storage, content, CONTENT_BYTES);
    free(content);
    vt_storage_destroy(factory, storage);
}

/* More buffers than the system takes at once, empty ones among them. */
static void test_many_buffers(void **state)
{
    enum {
        ENTRIES = 5000
    };
    struct vt_storage_factory *factory = *state;
    struct vt_random random = {vt_storage_seed()};
    uint8_t *content = random_content(CONTENT_BYTES);
    uint8_t *buffer = vt_calloc(CONTENT_BYTES, 1);
    struct iovec *iov = vt_calloc(ENTRIES, sizeof(*iov));
    size_t length = 0;
    for (int i = 0; i < ENTRIES; i++) {
        /* First a run of empty ones that is longer than one system call takes. */
        size_t step = i < 1500 ? 0 : (size_t)vt_random_below(&random, 80);
        iov[i] = (struct iovec){buffer + length, step};
        length += step;
    }
    assert_in_range(length, 100000, CONTENT_BYTES - 100);

    struct vd_storage *storage = vt_storage_make(factory, content, CONTENT_BYTES);
    VT_OK(vd_storage_preadv(storage, iov, ENTRIES, 77, &vt_err));
    assert_memory_equal(buffer, content + 77, length);
    if (vd_storage_is_writable(storage)) {
        vt_random_fill(&random, buffer, length);
        VT_OK(vd_storage_pwritev(storage, iov, ENTRIES, 99, &vt_err));
        memcpy(content + 99, buffer, length);
    }
    vt_storage_verify(storage, content, CONTENT_BYTES);
    free(iov);
    free(buffer);
    free(content);
    vt_storage_destroy(factory, storage);
}

/* What was cut off does not come back, and what was jumped over is zero. */
static void test_growth_reads_zero(void **state)
{
    struct vt_storage_factory *factory = *state;
    uint8_t *content = random_content(CONTENT_BYTES);
    struct vd_storage *storage = vt_storage_make(factory, content, CONTENT_BYTES);

    if (vd_storage_caps(storage) & VD_STORAGE_CAN_RESIZE) {
        static const size_t cuts[] = {262144, 100000, 99999, 4096, 4095, 1, 0};
        for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
            uint8_t byte = (uint8_t)(i + 1);
            VT_OK(vd_storage_resize(storage, cuts[i], &vt_err));
            vt_storage_verify(storage, content, cuts[i]);
            memset(content + cuts[i], 0, CONTENT_BYTES - cuts[i]);
            if (i % 2)
                VT_OK(vd_storage_resize(storage, CONTENT_BYTES - 1, &vt_err));
            VT_OK(vd_storage_pwrite(storage, &byte, 1, CONTENT_BYTES - 1, &vt_err));
            content[CONTENT_BYTES - 1] = byte;
            vt_storage_verify(storage, content, CONTENT_BYTES);
        }
    } else if (vd_storage_is_writable(storage)) {
        VT_FAILS(EOPNOTSUPP, vd_storage_resize(storage, CONTENT_BYTES + 512, &vt_err));
        vt_storage_verify(storage, content, CONTENT_BYTES);
    }
    free(content);
    vt_storage_destroy(factory, storage);
}

static void test_identity(void **state)
{
    struct vt_storage_factory *factory = *state;
    uint8_t content[4096] = {7};
    struct vd_storage *storage = vt_storage_make(factory, content, sizeof(content));
    struct vd_storage_identity identity = vd_storage_identity(storage);
    uint64_t allocated = 0;
    struct vdisk_error err = {0};
    int ret = vd_storage_allocated(storage, &allocated, &err);
    if (ret == -EOPNOTSUPP)
        assert_int_equal(err.code, 0);
    else
        assert_int_equal(ret, 0);
    if (identity.known && factory->reopen) {
        if (vd_storage_is_writable(storage))
            VT_OK(vd_storage_flush(storage, &vt_err));
        vd_storage_close(storage);
        storage = factory->reopen(factory, false);
        struct vd_storage_identity again = vd_storage_identity(storage);
        assert_true(again.known);
        assert_int_equal(again.device, identity.device);
        assert_int_equal(again.inode, identity.inode);
    }
    vt_storage_destroy(factory, storage);
}

static const struct {
    const char *name;
    CMUnitTestFunction function;
} tests[] = {
    {"reads any range", test_reads_any_range},
    {"read past the end", test_read_past_end},
    {"bad requests", test_bad_requests},
    {"read-only", test_read_only},
    {"many buffers", test_many_buffers},
    {"growth reads zero", test_growth_reads_zero},
    {"identity", test_identity},
    {"random operations", vt_storage_random},
    {"threads", vt_storage_threads},
};

#define TESTS (sizeof(tests) / sizeof(tests[0]))

int vt_storage_contract(struct vt_storage_factory *const *factories, size_t count)
{
    struct CMUnitTest *list = vt_calloc(count * TESTS, sizeof(*list));
    char(*names)[96] = vt_calloc(count * TESTS, sizeof(*names));

    for (size_t f = 0; f < count; f++)
        for (size_t t = 0; t < TESTS; t++) {
            size_t i = f * TESTS + t;
            snprintf(names[i], sizeof(names[i]), "%s: %s", factories[f]->name, tests[t].name);
            list[i] = (struct CMUnitTest){
                .name = names[i], .test_func = tests[t].function, .initial_state = factories[f]};
        }
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = _cmocka_run_group_tests("storage", list, count * TESTS, NULL, NULL);
    free(names);
    free(list);
    return failed;
}
