/* SPDX-License-Identifier: MIT */
/* The GOW header: every field decoded, encoded, and held against gow §3 and §7. */
#include "drivers/random.h"
#include "util/uuid.h"

#include "gow-fixture.h"

static void store(uint8_t *head, size_t offset, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        head[offset + i] = (uint8_t)(value >> (8 * i));
}

static void sound_head(uint8_t *head, uint32_t version)
{
    memset(head, 0, VD_GOW_HEAD_BYTES);
    memcpy(head, "GOW", 4);
    store(head, 4, version, 4);
    store(head, 8, 10 * MIB, 8);
    store(head, 24, UINT64_C(0x1122334455667788), 8);
    memset(head + 32, 0xA5, 16);
}

static int judge(const uint8_t *head, bool lenient)
{
    struct vd_gow_header header;
    struct vdisk_error err = {0};
    vd_gow_header_decode(head, &header);
    int ret = vd_gow_header_validate(head, &header, lenient, &err);
    assert_int_equal(err.code, -ret);
    return ret;
}

static void test_fields(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        uint8_t head[VD_GOW_HEAD_BYTES], again[VD_GOW_HEAD_BYTES];
        struct vd_gow_header header;
        sound_head(head, version);
        store(head, 16, VD_GOW_FLAG_DIRTY, 4);
        if (version == 3)
            head[64 + 7] = 0x80;
        vd_gow_header_decode(head, &header);
        assert_int_equal(header.version, version);
        assert_int_equal(header.size, 10 * MIB);
        assert_int_equal(header.flags, VD_GOW_FLAG_DIRTY);
        assert_int_equal(header.generation, UINT64_C(0x1122334455667788));
        assert_int_equal(header.uuid[0], 0xA5);
        assert_int_equal(vd_gow_intent_is_set(&header, 63), version == 3);
        assert_int_equal(judge(head, false), 0);

        memset(again, 0, sizeof(again));
        size_t length = vd_gow_header_encode(&header, again);
        assert_int_equal(length, version == 3 ? 320 : 64);
        assert_memory_equal(head, again, length);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        size_t offset, bytes;
        uint64_t value;
        uint32_t version;
        int error;
        bool lenient_too;
    } cases[] = {
        {0, 1, 'g', 3, -EBADMSG, true},
        {3, 1, '1', 3, -EBADMSG, true},
        {4, 4, 0, 3, -ENOTSUP, true},
        {4, 4, 4, 3, -ENOTSUP, true},
        {4, 4, 0x03000000, 3, -ENOTSUP, true},
        {8, 8, 511, 3, -EBADMSG, true},
        {8, 8, 513, 1, -EBADMSG, true},
        {8, 8, (UINT64_C(1) << 36) + 512, 1, -EBADMSG, true},
        {8, 8, (UINT64_C(1) << 38) + 512, 2, -EBADMSG, true},
        {8, 8, (UINT64_C(1) << 38) + 512, 3, -EBADMSG, true},
        {8, 8, UINT64_MAX - 511, 3, -EBADMSG, true},
        {16, 4, 1u << 3, 3, -ENOTSUP, true},
        {16, 4, 1u << 31, 3, -ENOTSUP, true},
        {16, 4, VD_GOW_FLAG_INCOMPLETE, 2, -ENOTSUP, true},
        {16, 4, VD_GOW_FLAG_REPLICA, 1, -ENOTSUP, true},
        {20, 4, 1, 3, -EBADMSG, false},
        {48, 1, 1, 3, -EBADMSG, false},
        {63, 1, 0x80, 1, -EBADMSG, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t head[VD_GOW_HEAD_BYTES];
        sound_head(head, cases[i].version);
        store(head, cases[i].offset, cases[i].value, cases[i].bytes);
        assert_int_equal(judge(head, false), cases[i].error);
        assert_int_equal(judge(head, true), cases[i].lenient_too ? cases[i].error : 0);
    }
}

static void test_accepted(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        uint64_t value;
        uint32_t version;
    } cases[] = {
        {8, 0, 1},
        {8, 512, 2},
        {8, UINT64_C(1) << 36, 1},
        {8, UINT64_C(1) << 38, 2},
        {8, (UINT64_C(1) << 38) - 512, 3},
        {8, UINT64_C(1) << 38, 3},
        {24, UINT64_MAX, 3},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t head[VD_GOW_HEAD_BYTES];
        sound_head(head, cases[i].version);
        store(head, cases[i].offset, cases[i].value, 8);
        assert_int_equal(judge(head, false), 0);
    }
}

static void test_is_recognised(void **state)
{
    (void)state;
    uint8_t head[VD_GOW_HEAD_BYTES];
    for (uint32_t version = 1; version <= 3; version++) {
        sound_head(head, version);
        for (uint32_t asked = 0; asked <= 4; asked++)
            assert_int_equal(vd_gow_header_is_here(head, sizeof(head), asked), asked == version);
        assert_true(vd_gow_header_is_here(head, 64, version));
        assert_false(vd_gow_header_is_here(head, 63, version));
        assert_false(vd_gow_header_is_here(head, 0, version));

        struct fixture fix;
        const struct vd_format_driver *found;
        fixture_create(&fix, version, MIB);
        VT_OK(vd_format_probe(fix.file, &found, &vt_err));
        assert_ptr_equal(found, gow_driver(version));
        struct vd_format *format;
        VT_FAILS(EINVAL,
                 vd_format_open(gow_driver(version % 3 + 1), fix.file, NULL, &format, &vt_err));
        fixture_destroy(&fix);
    }
}

/* Any bytes, any length: an answer, and no more. */
static void test_hostile(void **state)
{
    (void)state;
    struct vt_random random = {20261121};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (unsigned i = 0; i < 3000; i++) {
        uint8_t head[4096];
        struct vd_storage *file;
        uint64_t bytes = vt_random_below(&random, 5) ? vt_random_below(&random, 64 * MIB)
                                                     : vt_random_below(&random, 600);
        vt_random_fill(&random, head, sizeof(head));
        if (vt_random_chance(&random, 90))
            sound_head(head, (uint32_t)vt_random_below(&random, 3) + 1);
        for (unsigned j = 0; j < vt_random_below(&random, 4); j++)
            head[vt_random_below(&random, 400)] ^= (uint8_t)(1u << vt_random_below(&random, 8));
        VT_OK(vd_storage_mem_open(bytes, &file, &vt_err));
        if (bytes)
            VT_OK(vd_storage_pwrite(file, head, (size_t)vd_min(bytes, sizeof(head)), 0, &vt_err));
        struct vd_format *format = NULL;
        struct vdisk_error err = {0};
        struct vd_format_options options = {.flags = i % 2 ? VD_FORMAT_CHECK : VD_FORMAT_WRITE};
        int ret = vd_format_open(gow_driver(1 + i % 3), file, &options, &format, &err);
        assert_int_equal(err.code, -ret);
        if (ret == 0 && vd_format_size(format) >= 512) {
            struct vd_mapping mapping;
            (void)vd_format_map(format, vd_range(0, vd_format_size(format)), &mapping, NULL);
        }
        (void)vd_format_close(format, NULL);
        vd_storage_close(file);
    }
}

static void test_cut_off_file(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 3; version++) {
        struct fixture fix;
        struct vd_format *format;
        fixture_create(&fix, version, MIB);
        VT_OK(vd_storage_resize(fix.memory, fix.layout.data_offset - 1, &vt_err));
        VT_FAILS(EBADMSG, vd_format_open(gow_driver(version), fix.file, NULL, &format, &vt_err));
        VT_OK(vd_storage_resize(fix.memory, 63, &vt_err));
        VT_FAILS(EBADMSG, vd_format_open(gow_driver(version), fix.file, NULL, &format, &vt_err));
        VT_OK(vd_storage_resize(fix.memory, 0, &vt_err));
        VT_FAILS(EBADMSG, vd_format_open(gow_driver(version), fix.file, NULL, &format, &vt_err));
        fixture_destroy(&fix);
    }
}

static void test_uuids_differ(void **state)
{
    (void)state;
    uint8_t one[16], two[16];
    VT_OK(vd_uuid_new(one, &vt_err));
    VT_OK(vd_uuid_new(two, &vt_err));
    assert_memory_not_equal(one, two, 16);
    assert_int_equal(one[6] >> 4, 4);
    assert_int_equal(one[8] >> 6, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_accepted),     cmocka_unit_test(test_is_recognised),
        cmocka_unit_test(test_hostile),      cmocka_unit_test(test_cut_off_file),
        cmocka_unit_test(test_uuids_differ),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
