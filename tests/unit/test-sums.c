/* SPDX-License-Identifier: MIT */
/* job/sums_file: what is written reads back; whatever is altered is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "job/sums_file.h"

#define BLOCKS 10u
#define COUNT  4u

static const uint32_t blocks[COUNT] = {7, 0, 3, 9}; /* not in order: sealing sorts them */

static void fill_block(uint32_t block, uint8_t *data)
{
    for (uint32_t i = 0; i < VD_GOW_BLOCK_BYTES; i++)
        data[i] = (uint8_t)(i * (block + 1));
}

static uint8_t *make_file(void)
{
    struct vd_gow_header header = {.version = 3,
                                   .size = BLOCKS * VD_GOW_BLOCK_BYTES - 512,
                                   .generation = 42,
                                   .uuid = {1, 2, 3}};
    struct le32 versions[BLOCKS] = {{{0}}};
    static uint8_t data[VD_GOW_BLOCK_BYTES];
    uint8_t *bytes = vd_sums_encode(&header, versions, COUNT, NULL);
    assert_non_null(bytes);
    for (uint32_t i = 0; i < COUNT; i++) {
        struct vd_sums_disk_entry *entry = &vd_sums_entries(bytes)[i];
        entry->block = le32_of(blocks[i]);
        fill_block(blocks[i], data);
        assert_int_equal(vd_sha256(data, sizeof(data), entry->sha256, NULL), 0);
    }
    assert_int_equal(vd_sums_seal(bytes, COUNT, NULL), 0);
    return bytes;
}

static int decode(uint8_t *bytes, size_t length)
{
    struct vd_sums sums;
    struct vdisk_error err = {0};
    int ret = vd_sums_decode("f.sums", bytes, length, &sums, &err);
    assert_int_equal(ret, -err.code);
    if (ret < 0)
        assert_non_null(strstr(err.message, "f.sums"));
    vd_sums_free(&sums);
    return ret;
}

static void test_reads_back(void **state)
{
    (void)state;
    struct vd_sums sums;
    static uint8_t data[VD_GOW_BLOCK_BYTES];
    assert_int_equal(vd_sums_decode("f.sums", make_file(), vd_sums_file_bytes(COUNT), &sums, NULL),
                     0);
    assert_int_equal(sums.generation, 42);
    assert_int_equal(sums.count, COUNT);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        bool has = block == 0 || block == 3 || block == 7 || block == 9;
        fill_block(block, data);
        assert_int_equal(vd_sums_has(&sums, block), has);
        assert_int_equal(vd_sums_verify(&sums, block, data, NULL), has ? 0 : -EBADMSG);
        data[block * 1000] ^= 1;
        assert_int_equal(vd_sums_verify(&sums, block, data, NULL), -EBADMSG);
    }
    vd_sums_free(&sums);
}

static void test_any_altered_byte_is_refused(void **state)
{
    (void)state;
    size_t length = vd_sums_file_bytes(COUNT);
    for (size_t i = 0; i < length; i++) {
        uint8_t *bytes = make_file();
        bytes[i] ^= 0x10;
        assert_true(decode(bytes, length) < 0);
    }
}

static void test_any_other_length_is_refused(void **state)
{
    (void)state;
    size_t length = vd_sums_file_bytes(COUNT);
    for (size_t cut = 0; cut <= length + 40; cut++) {
        uint8_t *whole = make_file();
        uint8_t *bytes = calloc(1, cut + 1);
        assert_non_null(bytes);
        memcpy(bytes, whole, cut < length ? cut : length);
        free(whole);
        assert_int_equal(decode(bytes, cut) == 0, cut == length);
    }
}

/* Sealed anew, as somebody would who wants to be believed. */
static void test_bad_entries_are_refused(void **state)
{
    (void)state;
    static const uint32_t bad[][COUNT] = {{0, 3, 3, 9}, {0, 3, 7, BLOCKS}, {0, 3, 7, UINT32_MAX}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint8_t *bytes = make_file();
        for (uint32_t j = 0; j < COUNT; j++)
            vd_sums_entries(bytes)[j].block = le32_of(bad[i][j]);
        assert_int_equal(vd_sums_seal(bytes, COUNT, NULL), 0);
        assert_int_equal(decode(bytes, vd_sums_file_bytes(COUNT)), -EBADMSG);
    }
    uint8_t *bytes = make_file();
    memset(bytes + 48, 0xff, 4); /* the count */
    assert_int_equal(decode(bytes, vd_sums_file_bytes(COUNT)), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_back),
        cmocka_unit_test(test_any_altered_byte_is_refused),
        cmocka_unit_test(test_any_other_length_is_refused),
        cmocka_unit_test(test_bad_entries_are_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
