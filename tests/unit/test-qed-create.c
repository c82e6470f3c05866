/* SPDX-License-Identifier: MIT */
/* New QED images: the bytes of the file, and what is refused; and how large one would be. */
#include <stdlib.h>

#include "drivers/alloc.h"
#include "drivers/crash.h"
#include "drivers/snap.h"

#include "qed-image.h"

static int create(struct vd_storage *file, struct vdisk_create_options options,
                  struct vdisk_error *err)
{
    options.struct_bytes = sizeof(options);
    return vd_qed_create(NULL, file, NULL, &options, err);
}

static void expect_file(struct vd_storage *file, const uint8_t *head, size_t head_bytes,
                        uint64_t length)
{
    assert_int_equal(length_of(file), length);
    uint8_t *bytes = vt_calloc(length, 1);
    uint8_t *expected = vt_calloc(length, 1);
    memcpy(expected, head, head_bytes);
    VT_OK(vd_storage_pread(file, bytes, length, 0, &vt_err));
    assert_memory_equal(bytes, expected, length);
    free(bytes);
    free(expected);
}

static void test_bytes(void **state)
{
    (void)state;
    struct vd_storage *file;
    uint8_t head[VD_QED_HEADER_BYTES + 8];
    VT_OK(vd_storage_mem_open(0, &file, &vt_err));
    VT_OK(create(file, (struct vdisk_create_options){.size = 10 * MIB}, &vt_err));
    put_final(head, 65536, 4, 10 * MIB);
    expect_file(file, head, VD_QED_HEADER_BYTES, 5 * 65536);

    /* What was there is gone; sizes are rounded up to sectors as QEMU does. */
    put_bytes(file, 70000, "old", 3);
    put_bytes(file, 900000, "old", 3);
    VT_OK(create(
        file,
        (struct vdisk_create_options){.size = MIB + 1, .cluster_bytes = 4096, .table_clusters = 1},
        &vt_err));
    put_final(head, 4096, 1, MIB + 512);
    expect_file(file, head, VD_QED_HEADER_BYTES, 8192);

    VT_OK(create(file, (struct vdisk_create_options){.size = 0}, &vt_err));
    put_final(head, 65536, 4, 0);
    expect_file(file, head, VD_QED_HEADER_BYTES, 5 * 65536);

    struct vdisk_create_options overlay = {
        .size = MIB, .backing = "base.img", .backing_format = "qcow2", .cluster_bytes = 8192};
    VT_OK(create(file, overlay, &vt_err));
    put_final(head, 8192, 4, MIB);
    store(head, 16, 1, 8);
    store(head, 56, 64, 4);
    store(head, 60, 8, 4);
    memcpy(head + 64, "base.img", 8);
    expect_file(file, head, sizeof(head), 5 * 8192);
    overlay.backing_format = "raw";
    VT_OK(create(file, overlay, &vt_err));
    store(head, 16, 5, 8);
    expect_file(file, head, sizeof(head), 5 * 8192);
    vd_storage_close(file);
}

/* All units there are, with the largest disk of each. */
static void test_units(void **state)
{
    (void)state;
    struct vd_storage *file;
    struct vd_qed_header header;
    VT_OK(vd_storage_mem_open(0, &file, &vt_err));
    for (uint32_t cluster = 4096; cluster <= 64u << 20; cluster *= 2)
        for (uint32_t tables = 1; tables <= 16; tables *= 2) {
            struct vd_qed_geometry geometry = vd_qed_geometry_of(cluster, tables);
            struct vdisk_create_options options = {
                .size = geometry.size_max, .cluster_bytes = cluster, .table_clusters = tables};
            VT_OK(create(file, options, &vt_err));
            assert_int_equal(length_of(file), (1 + (uint64_t)tables) * cluster);
            VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
            assert_int_equal(header.variant, VD_QED_FINAL);
            assert_int_equal(header.size, geometry.size_max);
            assert_int_equal(header.cluster_bytes, cluster);
            assert_int_equal(header.table_clusters, tables);
            options.size++;
            VT_FAILS(EINVAL, create(file, options, &vt_err));
        }
    vd_storage_close(file);
}

static void test_refused(void **state)
{
    (void)state;
    char name[4097];
    memset(name, 'n', sizeof(name) - 1);
    name[4096] = '\0';
    const struct {
        int error;
        struct vdisk_create_options options;
    } cases[] = {
        {EINVAL, {.size = MIB, .cluster_bytes = 2048}},
        {EINVAL, {.size = MIB, .cluster_bytes = 5000}},
        {EINVAL, {.size = MIB, .cluster_bytes = 128u << 20}},
        {EINVAL, {.size = MIB, .table_clusters = 3}},
        {EINVAL, {.size = MIB, .table_clusters = 32}},
        {EINVAL, {.size = 64 * TIB + 1}},
        {EINVAL, {.size = UINT64_MAX}},
        {EINVAL, {.size = MIB, .preallocation = VDISK_PREALLOCATION_FULL}},
        {EINVAL, {.size = MIB, .backing = ""}},
        {ENAMETOOLONG, {.size = MIB, .backing = name}},
        {ENAMETOOLONG, {.size = MIB, .backing = name + 4096 - 4033, .cluster_bytes = 4096}},
    };
    struct vd_storage *file;
    VT_OK(vd_storage_mem_open(10, &file, &vt_err));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        VT_FAILS(cases[i].error, create(file, cases[i].options, &vt_err));
    assert_int_equal(length_of(file), 10); /* nothing was done to it */

    struct vdisk_create_options longest = {
        .size = MIB, .backing = name + 4096 - 4032, .cluster_bytes = 4096};
    VT_OK(create(file, longest, &vt_err));
    struct vd_qed_header header;
    struct vd_qed_names names;
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    VT_OK(vd_qed_names_read(file, &header, &names, &vt_err));
    assert_string_equal(names.backing, longest.backing);
    vd_qed_names_free(&names);
    vd_storage_close(file);
}

static void check_cut(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    unsigned *sound = opaque;
    (void)call;
    for (int cut = 0; cut < VT_CUTS; cut++) {
        struct vd_storage *found;
        struct vd_qed_header header;
        struct vd_qed_names names;
        uint8_t magic[4] = {0};
        VT_OK(vt_crash_cut(storage, (enum vt_cut)cut, (uint64_t)cut, &found, &vt_err));
        if (length_of(found) >= sizeof(magic))
            VT_OK(vd_storage_pread(found, magic, sizeof(magic), 0, &vt_err));
        /* Either no image at all, or a whole one. */
        if (memcmp(magic, "QED", 4) == 0) {
            VT_OK(vd_qed_header_read(found, VD_QED_LOOK, &header, &vt_err));
            VT_OK(vd_qed_names_read(found, &header, &names, &vt_err));
            assert_string_equal(names.backing, "base.img");
            vd_qed_names_free(&names);
            (*sound)++;
        }
        vd_storage_close(found);
    }
}

static void test_power_cut(void **state)
{
    (void)state;
    struct vd_storage *file;
    unsigned sound = 0;
    struct vt_pages *empty = vt_pages_new(0);
    assert_non_null(empty);
    VT_OK(vt_crash_open(empty, &file, &vt_err));
    vt_crash_set_hook(file, check_cut, &sound);
    VT_OK(create(file, (struct vdisk_create_options){.size = MIB, .backing = "base.img"}, &vt_err));
    VT_OK(vd_storage_flush(file, &vt_err));
    assert_true(sound > 0); /* before the last flush it may be there */
    vd_storage_close(file);
}

static struct vdisk_measure_result measure(struct vdisk_create_options options, uint64_t data_bytes)
{
    struct vdisk_measure_result result;
    VT_OK(vd_qed_measure(NULL, &options, data_bytes, &result, &vt_err));
    return result;
}

static void test_measure(void **state)
{
    (void)state;
    struct vdisk_create_options options = {.size = GIB};
    struct vdisk_measure_result result = measure(options, 0);
    assert_int_equal(result.required_bytes, 5 * 65536);
    assert_int_equal(result.fully_allocated_bytes, 9 * 65536 + GIB);
    assert_int_equal(measure(options, 65536).required_bytes, 10 * 65536);
    assert_int_equal(measure(options, GIB).required_bytes, 9 * 65536 + GIB);
    assert_int_equal(measure(options, 2 * GIB).required_bytes, 9 * 65536 + GIB);

    /* Two clusters may need two tables, and three too if there are only two. */
    options.size = 4 * GIB;
    assert_int_equal(measure(options, 2 * 65536).required_bytes, (5 + 2 * 4 + 2) * 65536);
    assert_int_equal(measure(options, 3 * 65536).required_bytes, (5 + 2 * 4 + 3) * 65536);

    options =
        (struct vdisk_create_options){.size = GIB, .cluster_bytes = 4096, .table_clusters = 1};
    assert_int_equal(measure(options, 0).fully_allocated_bytes, (2 + 512) * 4096 + GIB);

    options.size++;
    VT_FAILS(EINVAL, vd_qed_measure(NULL, &options, 0, &result, &vt_err));

    /* The largest of all: more than 64 bits count is said as the most that they do. */
    options = (struct vdisk_create_options){
        .size = (UINT64_C(1) << 63) - 512, .cluster_bytes = 4u << 20, .table_clusters = 4};
    result = measure(options, options.size);
    assert_true(result.required_bytes > options.size);
    assert_int_equal(result.required_bytes, result.fully_allocated_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),   cmocka_unit_test(test_units),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_power_cut),
        cmocka_unit_test(test_measure),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
