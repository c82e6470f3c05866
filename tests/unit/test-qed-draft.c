/* SPDX-License-Identifier: MIT */
/* Images with the headers of the three drafts, made from qed §9, are told from final ones. */
#include "drivers/snap.h"

#include "qed-image.h"

#define CLUSTER UINT64_C(65536)

/* How an image of the draft looks. */
struct sample {
    const char *what;
    uint64_t features, compat;
    uint64_t name; /* offset and length; 0: none */
    uint64_t format;
    enum vd_qed_variant variant;
    const char *format_name;
};

#define AT(offset, length) ((offset) | (uint64_t)(length) << 32)

static const struct sample samples[] = {
    {"bare", 0, 0, 0, 0, VD_QED_DRAFT_1, NULL},
    {"dirty", 2, 0, 0, 0, VD_QED_DRAFT_2, NULL},
    {"overlay", 1, 0, AT(64, 9), 0, VD_QED_DRAFT_1, NULL},
    {"overlay on raw", 1, 1, AT(64, 9), AT(73, 3), VD_QED_DRAFT_1, "raw"},
    {"overlay on qcow2", 1, 1, AT(64, 9), AT(73, 5), VD_QED_DRAFT_1, "qcow2"},
    {"dirty overlay on raw", 3, 1, AT(64, 9), AT(73, 3), VD_QED_DRAFT_2, "raw"},
    {"overlay with copy-on-read", 1, 2, AT(64, 9), 0, VD_QED_DRAFT_1, NULL},
    {"third draft, overlay", 1, 0, AT(56, 9), 0, VD_QED_DRAFT_3, NULL},
    {"third draft, overlay on raw", 5, 0, AT(56, 9), 0, VD_QED_DRAFT_3, "raw"},
    {"third draft, all", 7, 0, AT(56, 9), 0, VD_QED_DRAFT_3, "raw"},
};

static void put_sample(struct vd_storage *file, const struct sample *sample)
{
    uint8_t head[VD_QED_HEADER_BYTES];
    put_draft(head, CLUSTER, 4, 2 * MIB);
    store(head, 16, sample->features, 8);
    store(head, 24, sample->compat, 8);
    store(head, 48, sample->name, 8);
    store(head, 56, sample->format, 8);
    put_bytes(file, 0, head, sizeof(head));
    if (sample->name)
        put_bytes(file, (uint32_t)sample->name, "older.img", 9);
    if (sample->format)
        put_bytes(file, (uint32_t)sample->format, sample->format_name, sample->format >> 32);
}

static void test_samples(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
        const struct sample *sample = &samples[i];
        print_message("# %s\n", sample->what);
        struct vd_storage *file;
        struct vd_qed_header header;
        struct vd_qed_names names;
        VT_OK(vd_storage_mem_open(5 * CLUSTER, &file, &vt_err));
        put_sample(file, sample);
        VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
        assert_int_equal(header.variant, sample->variant);
        assert_int_equal(header.cluster_bytes, CLUSTER);
        assert_int_equal(header.table_clusters, 4);
        assert_int_equal(header.header_clusters, 1);
        assert_int_equal(header.l1_offset, CLUSTER);
        assert_int_equal(header.size, 2 * MIB);
        assert_int_equal(header.autoclear_features, 0);
        VT_OK(vd_qed_names_read(file, &header, &names, &vt_err));
        if (sample->name)
            assert_string_equal(names.backing, "older.img");
        else
            assert_null(names.backing);
        if (sample->format_name)
            assert_string_equal(names.format, sample->format_name);
        else
            assert_null(names.format);
        vd_qed_names_free(&names);
        vd_storage_close(file);
    }
}

static enum vd_qed_variant look(const uint8_t *head, uint64_t file_bytes)
{
    return vd_qed_variant_of(head, file_bytes);
}

/* qed §9.3, rule by rule. */
static void test_rules(void **state)
{
    (void)state;
    uint8_t head[VD_QED_HEADER_BYTES];
    const uint64_t bytes = 20 * CLUSTER;

    put_final(head, CLUSTER, 4, MIB); /* 1: nothing where a draft has its L1 table */
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    store(head, 32, 1, 8); /* 2: something that is none */
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    store(head, 32, CLUSTER / 2, 8);
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    store(head, 32, UINT64_C(1) << 63, 8);
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    store(head, 32, 17 * CLUSTER, 8); /* its end is past the file */
    assert_int_equal(look(head, bytes), VD_QED_FINAL);

    /* 3, 4: autoclear features that look like an L1 table, but all the rest is final */
    store(head, 32, 16 * CLUSTER, 8);
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    store(head, 48, 0, 8); /* not so with a size of 0 */
    assert_int_equal(look(head, bytes), VD_QED_DRAFT_1);
    store(head, 48, MIB + 1, 8); /* or no size at all */
    assert_int_equal(look(head, bytes), VD_QED_DRAFT_1);
    store(head, 48, 65 * TIB, 8);
    assert_int_equal(look(head, bytes), VD_QED_DRAFT_1);
    store(head, 40, 17 * CLUSTER, 8); /* or no L1 table */
    store(head, 48, MIB, 8);
    assert_int_equal(look(head, bytes), VD_QED_DRAFT_1);

    put_draft(head, CLUSTER, 4, MIB);
    assert_int_equal(look(head, bytes), VD_QED_DRAFT_1);
    assert_int_equal(look(head, 5 * CLUSTER), VD_QED_DRAFT_1);
    assert_int_equal(look(head, 5 * CLUSTER - 1),
                     VD_QED_DRAFT_1); /* the file's end is rounded up */
    assert_int_equal(look(head, 4 * CLUSTER), VD_QED_FINAL);
    store(head, 40, 0, 8); /* a draft has no disk of size 0, */
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    store(head, 40, CLUSTER + 512, 8); /* nor of parts of clusters, */
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    store(head, 40, 65 * TIB, 8); /* nor a larger one than can be mapped */
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    put_draft(head, CLUSTER, 4, MIB);
    store(head, 4, 1000, 4);
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
    put_draft(head, CLUSTER, 4, MIB);
    store(head, 8, 5, 4);
    assert_int_equal(look(head, bytes), VD_QED_FINAL);
}

/* A header with all the limits of its form in force. */
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        size_t offset, bytes;
        uint64_t value;
        enum vd_qed_variant variant;
        int error;
    } cases[] = {
        {16, 8, 2, VD_QED_DRAFT_1, ENOTSUP},
        {16, 8, 4, VD_QED_DRAFT_2, ENOTSUP},
        {16, 8, 8, VD_QED_DRAFT_3, ENOTSUP},
        {40, 8, 0, VD_QED_DRAFT_1, EBADMSG},
        {40, 8, CLUSTER + 512, VD_QED_DRAFT_2, EBADMSG},
        {32, 8, CLUSTER + 4096, VD_QED_DRAFT_3, EBADMSG},
        {32, 8, 5 * CLUSTER, VD_QED_DRAFT_3, EBADMSG},
        {12, 4, 0, VD_QED_DRAFT_1, EBADMSG},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t head[VD_QED_HEADER_BYTES];
        struct vd_storage *file;
        struct vd_qed_header header;
        VT_OK(vd_storage_mem_open(5 * CLUSTER, &file, &vt_err));
        put_draft(head, CLUSTER, 4, MIB);
        put_bytes(file, 0, head, sizeof(head));
        VT_OK(vd_qed_header_read(file, cases[i].variant, &header, &vt_err));
        store(head, cases[i].offset, cases[i].value, cases[i].bytes);
        put_bytes(file, 0, head, sizeof(head));
        VT_FAILS(cases[i].error, vd_qed_header_read(file, cases[i].variant, &header, &vt_err));
        vd_storage_close(file);
    }
}

/* Names have to be in the header's clusters, that of the format too; the third draft has none. */
static void test_names(void **state)
{
    (void)state;
    static const struct {
        uint64_t name, format;
        enum vd_qed_variant variant;
        int error;
    } cases[] = {
        {AT(64, 9), AT(73, 3), VD_QED_DRAFT_1, 0},
        {AT(56, 9), AT(73, 3), VD_QED_DRAFT_1, EBADMSG},
        {AT(64, 9), AT(63, 3), VD_QED_DRAFT_1, EBADMSG},
        {AT(64, 9), AT(73, 0), VD_QED_DRAFT_2, EBADMSG},
        {AT(64, 9), AT(65530, 7), VD_QED_DRAFT_2, EBADMSG},
        {AT(64, 9), AT(65530, 7), VD_QED_DRAFT_3, 0},
        {AT(56, 9), 0, VD_QED_DRAFT_3, 0},
        {AT(55, 9), 0, VD_QED_DRAFT_3, EBADMSG},
        {AT(65530, 9), 0, VD_QED_DRAFT_3, EBADMSG},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t head[VD_QED_HEADER_BYTES];
        struct vd_qed_header header;
        struct vdisk_error err = {0};
        put_draft(head, CLUSTER, 4, MIB);
        store(head, 16, 1, 8);
        store(head, 24, 1, 8);
        store(head, 48, cases[i].name, 8);
        store(head, 56, cases[i].format, 8);
        vd_qed_header_decode(head, cases[i].variant, &header);
        assert_int_equal(vd_qed_header_validate(head, &header, 5 * CLUSTER, &err), -cases[i].error);
    }
}

static void test_variant_names(void **state)
{
    (void)state;
    for (enum vd_qed_variant variant = VD_QED_FINAL; variant <= VD_QED_DRAFT_3; variant++)
        assert_int_equal(vd_qed_variant_find(vd_qed_variant_name(variant)), variant);
    assert_int_equal(vd_qed_variant_find("draft-4"), VD_QED_LOOK);
    assert_int_equal(vd_qed_variant_find(""), VD_QED_LOOK);
}

static enum vd_map_kind map(struct vd_format *format, uint64_t offset, uint8_t *first)
{
    struct vd_mapping mapping;
    VT_OK(vd_format_map(format, vd_range(offset, 512), &mapping, &vt_err));
    if (mapping.kind == VD_MAP_DATA)
        VT_OK(vd_storage_pread(mapping.storage, first, 1, mapping.host_offset, &vt_err));
    return mapping.kind;
}

/* What the driver makes of them: to be read, to be checked, and no more. */
static void test_data(void **state)
{
    (void)state;
    const struct vd_format_driver *driver = vd_format_find("qed", NULL);
    const struct vd_format_options for_reading = {0};
    const struct vd_format_options for_writing = {.flags = VD_FORMAT_WRITE};
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
        const struct sample *sample = &samples[i];
        struct vd_storage *file;
        struct vd_format *format;
        struct vd_format_info info;
        VT_OK(vt_snap_open(11 * CLUSTER, &file, &vt_err));
        put_sample(file, sample);
        put_u64(file, CLUSTER, 5 * CLUSTER);
        put_u64(file, 5 * CLUSTER, 9 * CLUSTER);
        put_u64(file, 5 * CLUSTER + 2 * 8, 1);
        put_u64(file, 5 * CLUSTER + 31 * 8, 10 * CLUSTER);
        put_bytes(file, 9 * CLUSTER, "a", 1);
        put_bytes(file, 10 * CLUSTER, "z", 1);
        VT_OK(vd_storage_resize(file, 10 * CLUSTER + 512, &vt_err)); /* within the last cluster */

        VT_FAILS(EROFS, vd_format_open(driver, file, &for_writing, &format, &vt_err));
        VT_OK(vd_format_open(driver, file, &for_reading, &format, &vt_err));
        VT_OK(vd_format_info(format, &info, &vt_err));
        assert_string_equal(info.variant, vd_qed_variant_name(sample->variant));
        assert_int_equal((info.flags & VDISK_INFO_DIRTY) != 0, (sample->features & 2) != 0);
        uint8_t first = 0;
        enum vd_map_kind behind = sample->name ? VD_MAP_BACKING : VD_MAP_ZERO;
        assert_int_equal(map(format, 0, &first), VD_MAP_DATA);
        assert_int_equal(first, 'a');
        assert_int_equal(map(format, CLUSTER, &first), behind);
        assert_int_equal(map(format, 2 * CLUSTER, &first), VD_MAP_ZERO);
        assert_int_equal(map(format, 31 * CLUSTER, &first), VD_MAP_DATA);
        assert_int_equal(first, 'z');
        assert_int_equal(map(format, 31 * CLUSTER + 512, &first), VD_MAP_ZERO);

        struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
        struct vd_check check = {.result = &result};
        VT_OK(vd_format_check(format, &check, &vt_err));
        assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
        assert_int_equal(result.allocated_clusters, 2);
        VT_OK(vd_format_close(format, &vt_err));
        vd_storage_close(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),       cmocka_unit_test(test_rules),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_variant_names), cmocka_unit_test(test_data),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
