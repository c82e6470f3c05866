/* SPDX-License-Identifier: MIT */
/* The final header of QED, every field against qed §3; and the geometry at every legal corner. */
#include "drivers/random.h"

#include "qed-image.h"

#define FILE_BYTES (5 * UINT64_C(65536)) /* of an image without data, default geometry */

static int judge_in(const uint8_t *head, uint64_t file_bytes)
{
    struct vd_qed_header header;
    struct vdisk_error err = {0};
    vd_qed_header_decode(head, VD_QED_FINAL, &header);
    int ret = vd_qed_header_validate(head, &header, file_bytes, &err);
    assert_int_equal(err.code, -ret);
    return ret;
}

static void test_fields(void **state)
{
    (void)state;
    uint8_t head[VD_QED_HEADER_BYTES], again[VD_QED_HEADER_BYTES];
    struct vd_qed_header header;
    put_units(head, 65536, 4);
    store(head, 12, 2, 4);
    store(head, 16, 7, 8);
    store(head, 24, UINT64_C(0x1122334455667788), 8);
    store(head, 32, UINT64_C(0x99AABBCCDDEEFF00), 8);
    store(head, 40, 131072, 8);
    store(head, 48, 10 * MIB + 512, 8);
    store(head, 56, 100, 4);
    store(head, 60, 12, 4);
    vd_qed_header_decode(head, VD_QED_FINAL, &header);
    assert_int_equal(header.variant, VD_QED_FINAL);
    assert_int_equal(header.cluster_bytes, 65536);
    assert_int_equal(header.table_clusters, 4);
    assert_int_equal(header.header_clusters, 2);
    assert_int_equal(header.features, 7);
    assert_int_equal(header.compat_features, UINT64_C(0x1122334455667788));
    assert_int_equal(header.autoclear_features, UINT64_C(0x99AABBCCDDEEFF00));
    assert_int_equal(header.l1_offset, 131072);
    assert_int_equal(header.size, 10 * MIB + 512);
    assert_int_equal(header.backing_offset, 100);
    assert_int_equal(header.backing_bytes, 12);
    assert_int_equal(vd_qed_header_area(&header), 131072);
    assert_int_equal(judge_in(head, FILE_BYTES + 65536), 0);

    vd_qed_header_encode(&header, again);
    assert_memory_equal(head, again, sizeof(head));
}

struct change {
    size_t offset, bytes;
    uint64_t value;
};

static void change(uint8_t *head, const struct change *changes)
{
    for (; changes->bytes; changes++)
        store(head, changes->offset, changes->value, changes->bytes);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        int error;
        struct change changes[4];
    } cases[] = {
        {EBADMSG, {{0, 1, 'q'}}},
        {EBADMSG, {{3, 1, '1'}}},
        {EBADMSG, {{4, 4, 0}}},
        {EBADMSG, {{4, 4, 2048}}},
        {EBADMSG, {{4, 4, 65535}}},
        {EBADMSG, {{4, 4, UINT64_C(128) << 20}}},
        {EBADMSG, {{4, 4, UINT64_C(1) << 31}}},
        {EBADMSG, {{8, 4, 0}}},
        {EBADMSG, {{8, 4, 3}}},
        {EBADMSG, {{8, 4, 32}}},
        {EBADMSG, {{8, 4, UINT64_C(1) << 31}}},
        {EBADMSG, {{12, 4, 0}}},
        {EBADMSG, {{12, 4, 65536}}},
        {EBADMSG, {{12, 4, UINT32_MAX}}},
        {ENOTSUP, {{16, 8, 8}}},
        {ENOTSUP, {{16, 8, UINT64_C(1) << 63}}},
        {ENOTSUP, {{16, 8, UINT64_C(1) << 32}}},
        {EBADMSG, {{40, 8, 0}}},
        {EBADMSG, {{40, 8, 65536 + 512}}},
        {EBADMSG, {{40, 8, 131072}}}, /* the table ends past the file */
        {EBADMSG, {{40, 8, UINT64_C(1) << 63}}},
        {EBADMSG, {{40, 8, UINT64_MAX - 65535}}}, /* its end wraps */
        {EBADMSG, {{12, 4, 2}}},                  /* it lies in the header */
        {EBADMSG, {{48, 8, 511}}},
        {EBADMSG, {{48, 8, MIB + 1}}},
        {EBADMSG, {{48, 8, 64 * TIB + 512}}},
        {EBADMSG, {{48, 8, UINT64_MAX}}},
        {EBADMSG, {{48, 8, UINT64_MAX - 511}}},
        /* The name: none, too long, in the header's fields, past its clusters, wrapping. */
        {EBADMSG, {{16, 8, 1}, {56, 4, 64}, {60, 4, 0}}},
        {EBADMSG, {{16, 8, 1}, {56, 4, 64}, {60, 4, 4096}}},
        {EBADMSG, {{16, 8, 1}, {56, 4, 63}, {60, 4, 8}}},
        {EBADMSG, {{16, 8, 1}, {56, 4, 0}, {60, 4, 3}}},
        {EBADMSG, {{16, 8, 1}, {56, 4, 65530}, {60, 4, 7}}},
        {EBADMSG, {{16, 8, 1}, {56, 4, UINT32_MAX}, {60, 4, 4}}},
        {EBADMSG, {{16, 8, 1}, {56, 4, 64}, {60, 4, UINT32_MAX}}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t head[VD_QED_HEADER_BYTES];
        put_final(head, 65536, 4, 10 * MIB);
        assert_int_equal(judge_in(head, FILE_BYTES), 0);
        change(head, cases[i].changes);
        if (judge_in(head, FILE_BYTES) != -cases[i].error)
            fail_msg("case %zu: %d", i, judge_in(head, FILE_BYTES));
    }
}

static void test_accepted(void **state)
{
    (void)state;
    static const struct {
        struct change changes[4];
    } cases[] = {
        {{{48, 8, 0}}},
        {{{48, 8, 512}}},
        {{{48, 8, 64 * TIB}}},
        {{{16, 8, 2}}},
        {{{16, 8, 4}}}, /* without a backing file: idle */
        {{{24, 8, UINT64_MAX}}},
        {{{32, 8, UINT64_MAX}}},
        {{{56, 4, 1}, {60, 4, UINT32_MAX}}}, /* without the feature: not looked at */
        {{{16, 8, 1}, {56, 4, 64}, {60, 4, 1}}},
        {{{16, 8, 7}, {56, 4, 64}, {60, 4, 4095}}},
        {{{16, 8, 1}, {56, 4, 65530}, {60, 4, 6}}},
        {{{16, 8, 1}, {56, 4, 65535}, {60, 4, 1}}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t head[VD_QED_HEADER_BYTES];
        put_final(head, 65536, 4, 10 * MIB);
        change(head, cases[i].changes);
        assert_int_equal(judge_in(head, FILE_BYTES), 0);
    }
    uint8_t head[VD_QED_HEADER_BYTES];
    put_final(head, 65536, 4, 10 * MIB);
    assert_int_equal(judge_in(head, FILE_BYTES - 1), -EBADMSG);
    assert_int_equal(judge_in(head, FILE_BYTES + 1), 0);
}

/* qed §2: products that 64 bits do not hold, with the arithmetic of 128. */
static void test_geometry(void **state)
{
    (void)state;
    for (uint32_t cluster = 4096; cluster <= 64u << 20; cluster *= 2)
        for (uint32_t tables = 1; tables <= 16; tables *= 2) {
            struct vd_qed_geometry geometry = vd_qed_geometry_of(cluster, tables);
            __extension__ typedef unsigned __int128 wide;
            wide entries = (wide)cluster * tables / 8;
            wide most = entries * entries * cluster;
            wide limit = ((wide)1 << 63) - 512;
            assert_int_equal(geometry.table_entries, (uint64_t)entries);
            assert_int_equal(geometry.table_bytes, (uint64_t)cluster * tables);
            assert_int_equal(geometry.table_span, (uint64_t)(entries * cluster));
            assert_true(geometry.size_max == (most < limit ? most : limit));
            assert_true(vd_qed_size_is_legal(&geometry, geometry.size_max));
            assert_false(vd_qed_size_is_legal(&geometry, geometry.size_max + 512));
            assert_true(vd_qed_table_count(&geometry, geometry.size_max) <= entries);

            uint64_t last = geometry.size_max - 1;
            uint32_t l1 = vd_qed_l1_index(&geometry, last);
            uint32_t l2 = vd_qed_l2_index(&geometry, last);
            assert_true(l1 < geometry.table_entries && l2 < geometry.table_entries);
            assert_int_equal(vd_qed_guest_offset(&geometry, l1, l2), last / cluster * cluster);
            assert_int_equal(vd_qed_l1_index(&geometry, geometry.table_span - 1), 0);
            assert_int_equal(vd_qed_l1_index(&geometry, geometry.table_span), 1);
            assert_int_equal(vd_qed_l2_index(&geometry, geometry.table_span), 0);
            assert_int_equal(vd_qed_l2_index(&geometry, geometry.table_span - 1), entries - 1);
        }
    assert_int_equal(vd_qed_geometry_of(4096, 1).size_max, GIB);
    assert_int_equal(vd_qed_geometry_of(4096, 2).size_max, 4 * GIB);
    assert_int_equal(vd_qed_geometry_of(65536, 4).size_max, 64 * TIB);
    assert_int_equal(vd_qed_geometry_of(65536, 16).size_max, 1024 * TIB);
    assert_int_equal(vd_qed_geometry_of(2u << 20, 4).size_max, UINT64_C(1) << 61);
    assert_int_equal(vd_qed_geometry_of(4u << 20, 4).size_max, (UINT64_C(1) << 63) - 512);
}

static void test_places(void **state)
{
    (void)state;
    struct vd_qed_geometry geometry = vd_qed_geometry_of(65536, 4);
    assert_true(vd_qed_table_is_within(&geometry, 65536, 5 * 65536, 65536));
    assert_false(vd_qed_table_is_within(&geometry, 65536, 5 * 65536 - 1, 65536));
    assert_false(vd_qed_table_is_within(&geometry, 65536, 5 * 65536, 131072));
    assert_false(vd_qed_table_is_within(&geometry, 65536, 5 * 65536, 65536 + 4096));
    assert_false(vd_qed_table_is_within(&geometry, 65536, UINT64_MAX, UINT64_MAX - 65535));
    assert_false(vd_qed_table_is_within(&geometry, 131072, 6 * 65536, 65536));
    assert_true(vd_qed_cluster_is_within(&geometry, 65536, 131072, 65536));
    assert_false(vd_qed_cluster_is_within(&geometry, 65536, 131072, 0));
    assert_false(vd_qed_cluster_is_within(&geometry, 65536, 131072, 1));
    assert_false(vd_qed_cluster_is_within(&geometry, 65536, 131072, 131072));
    assert_false(vd_qed_cluster_is_within(&geometry, 65536, 131071, 65536));
}

static void test_is_recognised(void **state)
{
    (void)state;
    uint8_t head[VD_QED_HEADER_BYTES];
    put_final(head, 4096, 1, MIB);
    assert_true(vd_qed_header_is_here(head, sizeof(head)));
    assert_false(vd_qed_header_is_here(head, sizeof(head) - 1));
    assert_false(vd_qed_header_is_here(head, 0));
    head[3] = 1;
    assert_false(vd_qed_header_is_here(head, sizeof(head)));
}

static void test_names(void **state)
{
    (void)state;
    struct vd_storage *file;
    struct vd_qed_header header;
    struct vd_qed_names names;
    uint8_t head[VD_QED_HEADER_BYTES];
    VT_OK(vd_storage_mem_open(FILE_BYTES, &file, &vt_err));
    put_final(head, 65536, 4, 10 * MIB);
    put_bytes(file, 0, head, sizeof(head));
    put_bytes(file, 1000, "base.img", 8);
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    VT_OK(vd_qed_names_read(file, &header, &names, &vt_err));
    assert_null(names.backing);
    assert_null(names.format);

    store(head, 16, 1, 8);
    store(head, 56, 1000, 4);
    store(head, 60, 8, 4);
    put_bytes(file, 0, head, sizeof(head));
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    VT_OK(vd_qed_names_read(file, &header, &names, &vt_err));
    assert_string_equal(names.backing, "base.img");
    assert_null(names.format);
    vd_qed_names_free(&names);

    header.features |= VD_QED_FEATURE_NO_PROBE;
    VT_OK(vd_qed_header_write(file, &header, &vt_err));
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    VT_OK(vd_qed_names_read(file, &header, &names, &vt_err));
    assert_string_equal(names.backing, "base.img");
    assert_string_equal(names.format, "raw");
    vd_qed_names_free(&names);

    put_bytes(file, 1003, "", 1);
    VT_FAILS(EBADMSG, vd_qed_names_read(file, &header, &names, &vt_err));
    assert_null(names.backing);
    vd_storage_close(file);
}

static void test_short_files(void **state)
{
    (void)state;
    struct vd_storage *file;
    struct vd_qed_header header;
    uint8_t head[VD_QED_HEADER_BYTES];
    put_final(head, 4096, 1, MIB);
    VT_OK(vd_storage_mem_open(8192, &file, &vt_err));
    put_bytes(file, 0, head, sizeof(head));
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    static const uint64_t lengths[] = {8191, 4096, 64, 63, 4, 0};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        VT_OK(vd_storage_resize(file, lengths[i], &vt_err));
        VT_FAILS(EBADMSG, vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    }
    vd_storage_close(file);
}

/* Any bytes, any length of the file: an answer, and no more; what is accepted keeps its promises.
 */
static void test_hostile(void **state)
{
    (void)state;
    struct vt_random random = {20261121};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    unsigned accepted = 0;
    for (int i = 0; i < 200000; i++) {
        uint8_t head[VD_QED_HEADER_BYTES];
        uint32_t cluster = 4096u << vt_random_below(&random, 15);
        if (i & 1)
            put_final(head, cluster, 1u << vt_random_below(&random, 5), MIB);
        else
            put_draft(head, cluster, 1u << vt_random_below(&random, 5), 64 * MIB);
        uint64_t n = vt_random_below(&random, 4);
        for (uint64_t k = 0; k < n; k++)
            head[vt_random_below(&random, sizeof(head))] = (uint8_t)vt_random_next(&random);
        uint64_t file_bytes = vt_random_next(&random) >> vt_random_below(&random, 64);

        struct vd_qed_header header;
        struct vdisk_error err = {0};
        vd_qed_header_decode(head, vd_qed_variant_of(head, file_bytes), &header);
        if (vd_qed_header_validate(head, &header, file_bytes, &err) < 0)
            continue;
        accepted++;
        struct vd_qed_geometry geometry = vd_qed_header_geometry(&header);
        assert_true(header.size <= geometry.size_max);
        assert_true(header.l1_offset >= vd_qed_header_area(&header));
        assert_true(header.l1_offset + geometry.table_bytes <= file_bytes);
    }
    assert_true(accepted > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_accepted), cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_places),   cmocka_unit_test(test_is_recognised),
        cmocka_unit_test(test_names),    cmocka_unit_test(test_short_files),
        cmocka_unit_test(test_hostile),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
