/* SPDX-License-Identifier: MIT */
/* Every field of both headers at its limits: add-cow §3, §8. */
#include <stdlib.h>
#include <string.h>

#include "drivers/check.h"
#include "format/addcow/addcow_header.h"
#include "format/format.h"
#include "storage/storage.h"

/* A sound header, with names. */
static struct vd_addcow_header sound(void)
{
    return (struct vd_addcow_header){.version = 1,
                                     .cluster_bits = 16,
                                     .header_bytes = 4096,
                                     .features = 1,
                                     .backing = {.offset = 39, .length = 4},
                                     .data = {.offset = 36, .length = 3},
                                     .data_format = "raw"};
}

static struct vd_addcow_header sound_later(void)
{
    return (struct vd_addcow_header){.is_later = true,
                                     .cluster_bits = 16,
                                     .header_bytes = 65536,
                                     .backing = {.offset = 79, .length = 4},
                                     .data = {.offset = 76, .length = 3},
                                     .backing_format = "qed",
                                     .data_format = "raw"};
}

static int validate(const struct vd_addcow_header *header)
{
    struct vdisk_error err = {0};
    int ret = vd_addcow_header_validate(header, false, &err);
    assert_true(ret == 0 || (err.code == -ret && err.message[0]));
    return ret;
}

/* Sets one field, and puts it back. */
#define WITH(header, field, value, expected)            \
    do {                                                \
        struct vd_addcow_header changed = (header);     \
        changed.field = (value);                        \
        assert_int_equal(validate(&changed), expected); \
    } while (0)

static void test_version_and_features(void **state)
{
    (void)state;
    struct vd_addcow_header header = sound();
    assert_int_equal(validate(&header), 0);
    WITH(header, version, 0, -ENOTSUP);
    WITH(header, version, 2, -ENOTSUP);
    WITH(header, version, UINT32_MAX, -ENOTSUP);
    WITH(header, features, 3, 0);
    for (unsigned bit = 2; bit < 64; bit++)
        WITH(header, features, 1 | UINT64_C(1) << bit, -ENOTSUP);
    /* They have to agree. */
    WITH(header, features, 0, -EBADMSG);
    WITH(header, features, 2, -EBADMSG);
    WITH(header, backing, (struct vd_addcow_name){0}, -EBADMSG);
    header.features = 0;
    WITH(header, backing, (struct vd_addcow_name){0}, 0);
    WITH(header, backing, ((struct vd_addcow_name){.length = 4}), -EBADMSG);
    header.features = 2; /* means nothing without a backing file */
    WITH(header, backing, (struct vd_addcow_name){0}, 0);
}

/* A check looks at what it can mend. */
static void test_lenient(void **state)
{
    (void)state;
    struct vd_addcow_header header = sound();
    assert_null(vd_addcow_header_contradiction(&header));
    assert_null(vd_addcow_header_stray_length(&header));
    header.features = 0;
    assert_non_null(vd_addcow_header_contradiction(&header));
    VT_OK(vd_addcow_header_validate(&header, true, &vt_err));
    header.backing.offset = 0;
    assert_null(vd_addcow_header_contradiction(&header));
    assert_non_null(vd_addcow_header_stray_length(&header));
    VT_OK(vd_addcow_header_validate(&header, true, &vt_err));
    header.data.length = 0;
    VT_FAILS(EBADMSG, vd_addcow_header_validate(&header, true, &vt_err));
}

static void expect_name(uint32_t offset, uint32_t length, int expected)
{
    struct vd_addcow_header header = sound();
    header.data = (struct vd_addcow_name){.offset = offset, .length = length};
    header.backing = (struct vd_addcow_name){0};
    header.features = 0;
    assert_int_equal(validate(&header), expected);
    if (offset >= 36 && offset < 39)
        return; /* there the name of the raw file is, below */
    header = sound();
    header.backing = (struct vd_addcow_name){.offset = offset, .length = length};
    assert_int_equal(validate(&header), expected);
}

static void test_names(void **state)
{
    (void)state;
    expect_name(37, 1, 0);
    expect_name(36, 1, 0);
    expect_name(35, 1, -EBADMSG);
    expect_name(1, 1, -EBADMSG);
    expect_name(4094, 1, 0);
    expect_name(4094, 2, 0);
    expect_name(4094, 3, -EBADMSG);
    expect_name(4095, 1, -EBADMSG);
    expect_name(4096, 1, -EBADMSG);
    expect_name(UINT32_MAX, 1, -EBADMSG);
    expect_name(36, 0, -EBADMSG);
    expect_name(36, 4059, 0);
    expect_name(36, 4060, -EBADMSG);
    expect_name(37, 4059, 0);
    expect_name(38, 4059, -EBADMSG);
    expect_name(36, UINT32_MAX, -EBADMSG);
    expect_name(4000, UINT32_MAX - 3000, -EBADMSG);
    struct vd_addcow_header header = sound();
    WITH(header, data, (struct vd_addcow_name){0}, -EBADMSG); /* mandatory */
}

static void test_overlap(void **state)
{
    (void)state;
    struct vd_addcow_header header = sound();
    header.data = (struct vd_addcow_name){.offset = 100, .length = 10};
    static const struct {
        uint32_t offset, length;
        int expected;
    } table[] = {{90, 10, 0},  {90, 11, -EBADMSG}, {100, 10, -EBADMSG}, {109, 1, -EBADMSG},
                 {110, 10, 0}, {95, 40, -EBADMSG}, {103, 2, -EBADMSG}};
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        WITH(header, backing,
             ((struct vd_addcow_name){.offset = table[i].offset, .length = table[i].length}),
             table[i].expected);
}

static void test_later(void **state)
{
    (void)state;
    struct vd_addcow_header header = sound_later();
    assert_int_equal(validate(&header), 0);
    for (uint32_t bits = 0; bits < 70; bits++)
        WITH(header, cluster_bits, bits, bits >= 9 && bits <= 21 ? 0 : -EBADMSG);
    for (unsigned bit = 0; bit < 64; bit++) {
        WITH(header, features, UINT64_C(1) << bit, -ENOTSUP);
        WITH(header, compat_features, UINT64_C(1) << bit, 0);
    }
    static const struct {
        uint32_t bytes;
        int expected;
    } sizes[] = {{0, -EBADMSG},
                 {512, -EBADMSG},
                 {4095, -EBADMSG},
                 {4096, 0},
                 {4608, 0},
                 {4097, -EBADMSG},
                 {2u << 20, 0},
                 {(2u << 20) + 512, -EBADMSG},
                 {UINT32_MAX, -EBADMSG}};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        WITH(header, header_bytes, sizes[i].bytes, sizes[i].expected);
    WITH(header, data, ((struct vd_addcow_name){.offset = 75, .length = 1}), -EBADMSG);
    WITH(header, data, ((struct vd_addcow_name){.offset = 65534, .length = 2}), 0);
    WITH(header, data, ((struct vd_addcow_name){.offset = 65534, .length = 3}), -EBADMSG);
    WITH(header, data, ((struct vd_addcow_name){.offset = 65535, .length = 1}), -EBADMSG);
    WITH(header, data, ((struct vd_addcow_name){.offset = 100, .length = 4095}), 0);
    WITH(header, data, ((struct vd_addcow_name){.offset = 100, .length = 4096}), -EBADMSG);
    WITH(header, data, (struct vd_addcow_name){0}, -EBADMSG);
    WITH(header, data_format[0], 'q', -ENOTSUP);
    WITH(header, data_format[0], '\0', -EBADMSG);
    WITH(header, data_format[0], '\n', -EBADMSG);
    WITH(header, backing_format[0], '\0', 0); /* not recorded */
    WITH(header, backing_format[1], (char)0x80, -EBADMSG);
    WITH(header, backing, (struct vd_addcow_name){0}, -EBADMSG); /* a format of nothing */
}

static void test_magic(void **state)
{
    (void)state;
    static const uint8_t v10[8] = {'A', 'D', 'D', '_', 'C', 'O', 'W', 0xFF};
    static const uint8_t reversed[8] = {0xFF, 'W', 'O', 'C', '_', 'D', 'D', 'A'};
    uint8_t head[76] = {0};
    struct vd_addcow_header header;
    assert_false(vd_addcow_header_is_here(v10, 0));
    assert_false(vd_addcow_header_is_here(v10, 7));
    assert_true(vd_addcow_header_is_here(v10, 8));
    assert_false(vd_addcow_header_is_here(reversed, 8));
    assert_true(vd_addcow_header_is_here((const uint8_t *)"ACOW", 4));
    assert_false(vd_addcow_header_is_here((const uint8_t *)"ACO", 3));
    memcpy(head, v10, 8);
    VT_FAILS(EBADMSG, vd_addcow_header_decode(head, 35, &header, &vt_err));
    VT_OK(vd_addcow_header_decode(head, 36, &header, &vt_err));
    memcpy(head, "ACOW", 4);
    VT_FAILS(EBADMSG, vd_addcow_header_decode(head, 75, &header, &vt_err));
    VT_OK(vd_addcow_header_decode(head, 76, &header, &vt_err));
    assert_true(header.is_later);
    VT_FAILS(EBADMSG, vd_addcow_header_decode(reversed, 8, &header, &vt_err));
}

/* Each field has its own bytes, and comes back from them. */
static void test_encode(void **state)
{
    (void)state;
    struct vd_addcow_header header = {.version = 0x04030201,
                                      .features = 0x2423222120191817,
                                      .backing = {.offset = 0x08070605, .length = 0x0C0B0A09},
                                      .data = {.offset = 0x100F0E0D, .length = 0x14131211}};
    static const uint8_t expected[36] = {
        'A',  'D',  'D',  '_',  'C',  'O',  'W',  0xFF, 0x01, 0x02, 0x03, 0x04,
        0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0x10,
        0x11, 0x12, 0x13, 0x14, 0x17, 0x18, 0x19, 0x20, 0x21, 0x22, 0x23, 0x24,
    };
    uint8_t head[36];
    struct vd_addcow_header back;
    vd_addcow_header_encode(&header, head);
    assert_memory_equal(head, expected, sizeof(head));
    VT_OK(vd_addcow_header_decode(head, sizeof(head), &back, &vt_err));
    assert_int_equal(back.version, header.version);
    assert_int_equal(back.features, header.features);
    assert_int_equal(back.backing.offset, header.backing.offset);
    assert_int_equal(back.backing.length, header.backing.length);
    assert_int_equal(back.data.offset, header.data.offset);
    assert_int_equal(back.data.length, header.data.length);
}

static struct vd_storage *file_of(const char *names, uint64_t size)
{
    struct vd_storage *file;
    VT_OK(vd_storage_mem_open(0, &file, &vt_err));
    VT_OK(vd_storage_pwrite(file, names, 7, 36, &vt_err));
    VT_OK(vd_storage_resize(file, size, &vt_err));
    return file;
}

static void test_read_names(void **state)
{
    (void)state;
    struct vd_addcow_header header = sound();
    char *backing = NULL, *data = NULL;
    struct vd_storage *file = file_of("rawbase", 43);
    VT_OK(vd_addcow_header_read_names(file, &header, &backing, &data, &vt_err));
    assert_string_equal(backing, "base");
    assert_string_equal(data, "raw");
    free(backing);
    free(data);
    vd_storage_close(file);

    static const struct {
        const char *names;
        uint64_t size;
    } bad[] = {{"r\0wbase", 4096}, {"raw\0ase", 4096}, {"rawbas\0", 4096}, {"rawbase", 42}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        file = file_of(bad[i].names, bad[i].size);
        VT_FAILS(EBADMSG, vd_addcow_header_read_names(file, &header, &backing, &data, &vt_err));
        vd_storage_close(file);
    }
    /* The driver of v20 gave a positive errno for this. */
    header.backing.length = 3;
    file = file_of("rawrawx", 4096);
    VT_FAILS(EBADMSG, vd_addcow_header_read_names(file, &header, &backing, &data, &vt_err));
    vd_storage_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_and_features),
        cmocka_unit_test(test_lenient),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_later),
        cmocka_unit_test(test_magic),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_read_names),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
