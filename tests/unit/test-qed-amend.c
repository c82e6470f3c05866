/* SPDX-License-Identifier: MIT */
/* Drafts become final images: the bytes of the header, what is refused, every power cut. */
#include "qed-cuts.h"

#define CLUSTER  UINT64_C(4096)
#define L2       (2 * CLUSTER)
#define DATA     (3 * CLUSTER)
#define AT(a, b) ((a) | (uint64_t)(b) << 32)

struct sample {
    const char *what;
    uint64_t features, compat;
    uint64_t name; /* offset and length; 0: none */
    uint64_t format;
    const char *format_text;
    enum vd_qed_variant variant;
    /* What the final header has. */
    uint64_t final_features;
    uint64_t final_name;
};

static const struct sample samples[] = {
    {"1, bare", 0, 0, 0, 0, NULL, VD_QED_DRAFT_1, 0, 0},
    {"1, overlay", 1, 0, AT(64, 8), 0, NULL, VD_QED_DRAFT_1, 1, AT(64, 8)},
    {"1, on raw", 1, 1, AT(64, 8), AT(72, 3), "raw", VD_QED_DRAFT_1, 5, AT(64, 8)},
    {"1, on qcow2", 1, 3, AT(64, 8), AT(72, 5), "qcow2", VD_QED_DRAFT_1, 1, AT(64, 8)},
    {"2, dirty", 2, 0, 0, 0, NULL, VD_QED_DRAFT_2, 2, 0},
    {"2, dirty, on raw", 3, 1, AT(64, 8), AT(72, 3), "raw", VD_QED_DRAFT_2, 7, AT(64, 8)},
    {"3, on raw", 5, 0, AT(56, 8), 0, NULL, VD_QED_DRAFT_3, 5, AT(64, 8)},
    {"3, dirty overlay", 3, 0, AT(56, 8), 0, NULL, VD_QED_DRAFT_3, 3, AT(64, 8)},
    {"3, long name", 1, 0, AT(56, 600), 0, NULL, VD_QED_DRAFT_3, 1, AT(656, 600)},
    {"3, elsewhere", 5, 0, AT(100, 8), 0, NULL, VD_QED_DRAFT_3, 5, AT(100, 8)},
};

/* With one cluster of data, which the file ends within. */
static struct vd_storage *image(const struct sample *sample)
{
    struct vd_storage *file;
    uint8_t head[VD_QED_HEADER_BYTES];
    VT_OK(vt_snap_open(3 * CLUSTER, &file, &vt_err));
    put_draft(head, CLUSTER, 1, MIB);
    store(head, 16, sample->features, 8);
    store(head, 24, sample->compat, 8);
    store(head, 48, sample->name, 8);
    if (sample->variant != VD_QED_DRAFT_3)
        store(head, 56, sample->format, 8);
    put_bytes(file, 0, head, sizeof(head));
    for (uint32_t i = 0; i < sample->name >> 32; i++)
        put_bytes(file, (uint32_t)sample->name + i, "n", 1);
    if (sample->format)
        put_bytes(file, (uint32_t)sample->format, sample->format_text, sample->format >> 32);
    put_u64(file, CLUSTER, L2);
    put_u64(file, L2 + 8, DATA);
    put_bytes(file, DATA, "the data", 8);
    return file;
}

static int amend(struct vd_storage *file, const char *compat, const char *draft,
                 struct vdisk_error *err)
{
    struct vdisk_amend_options options = {
        .struct_bytes = sizeof(options), .compat = compat, .draft = draft};
    return vd_qed_amend(NULL, file, &options, err);
}

static void expect_final(struct vd_storage *file, const struct sample *sample)
{
    uint8_t expected[VD_QED_HEADER_BYTES], head[VD_QED_HEADER_BYTES];
    put_final(expected, CLUSTER, 1, MIB);
    store(expected, 16, sample->final_features, 8);
    store(expected, 56, sample->final_name, 8);
    VT_OK(vd_storage_pread(file, head, sizeof(head), 0, &vt_err));
    assert_memory_equal(head, expected, sizeof(head));
    assert_int_equal(length_of(file), DATA + CLUSTER);
}

/* Draft or final, it says the same. */
static enum vd_qed_variant expect_content(struct vd_storage *file, const struct sample *sample)
{
    struct vd_qed_header header;
    struct vd_qed_names names;
    char text[8];
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    assert_int_equal(header.size, MIB);
    assert_int_equal(header.l1_offset, CLUSTER);
    VT_OK(vd_qed_names_read(file, &header, &names, &vt_err));
    assert_int_equal(names.backing ? strlen(names.backing) : 0, sample->name >> 32);
    for (uint64_t i = 0; i < sample->name >> 32; i++)
        assert_int_equal(names.backing[i], 'n');
    if (sample->final_features & VD_QED_FEATURE_NO_PROBE)
        assert_string_equal(names.format, "raw");
    vd_qed_names_free(&names);
    assert_int_equal(get_u64(file, CLUSTER), L2);
    assert_int_equal(get_u64(file, L2 + 8), DATA);
    VT_OK(vd_storage_pread(file, text, sizeof(text), DATA, &vt_err));
    assert_memory_equal(text, "the data", 8);
    return header.variant;
}

static void test_samples(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
        const struct sample *sample = &samples[i];
        print_message("# %s\n", sample->what);
        struct vd_storage *file = image(sample);
        assert_int_equal(expect_content(file, sample), sample->variant);
        VT_OK(amend(file, NULL, NULL, &vt_err)); /* asks for nothing */
        assert_int_equal(expect_content(file, sample), sample->variant);
        VT_OK(amend(file, "final", NULL, &vt_err));
        assert_int_equal(expect_content(file, sample), VD_QED_FINAL);
        expect_final(file, sample);
        VT_OK(amend(file, "final", NULL, &vt_err)); /* nothing left to do */
        expect_final(file, sample);
        vd_storage_close(file);

        file = image(sample);
        VT_OK(amend(file, "final", vd_qed_variant_name(sample->variant), &vt_err));
        expect_final(file, sample);
        vd_storage_close(file);
    }
}

struct expectation {
    const struct sample *sample;
    unsigned seen[2];
};

static void judge(void *opaque, struct vd_storage *found)
{
    struct expectation *expectation = opaque;
    enum vd_qed_variant variant = expect_content(found, expectation->sample);
    if (variant == VD_QED_FINAL)
        expect_final(found, expectation->sample);
    else
        assert_int_equal(variant, expectation->sample->variant);
    expectation->seen[variant == VD_QED_FINAL]++;
}

static void test_power_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
        struct expectation expectation = {.sample = &samples[i]};
        struct cuts cuts = {.judge = judge, .opaque = &expectation};
        struct vd_storage *start = image(&samples[i]);
        struct vd_storage *file = cuts_open(&cuts, start);
        VT_OK(amend(file, "final", NULL, &vt_err));
        assert_true(expectation.seen[0] > 0 && expectation.seen[1] > 0);
        expectation.seen[0] = 0;
        cut_all(&cuts, file, VT_FLUSH); /* after the end */
        assert_int_equal(expectation.seen[0], 0);
        print_message("# %s: %u states\n", samples[i].what, cuts.count);
        vd_storage_close(file);
        vd_storage_close(start);
    }
}

/* What can not be is refused, and the file is as it was. */
static void test_refused(void **state)
{
    (void)state;
    struct vd_storage *file = image(&samples[2]);
    VT_FAILS(EINVAL, amend(file, "0.10", NULL, &vt_err));
    VT_FAILS(EINVAL, amend(file, "final", "draft-4", &vt_err));
    VT_FAILS(EINVAL, amend(file, "final", "final", &vt_err));
    VT_FAILS(EINVAL, amend(file, NULL, "draft-1", &vt_err));
    put_bytes(file, 66, "", 1); /* a NUL in the name */
    VT_FAILS(EBADMSG, amend(file, "final", NULL, &vt_err));
    put_bytes(file, 66, "n", 1);
    assert_int_equal(expect_content(file, &samples[2]), samples[2].variant);
    VT_OK(amend(file, "final", NULL, &vt_err));
    VT_FAILS(EBADMSG, amend(file, "final", "draft-3", &vt_err)); /* it is none any more */
    expect_final(file, &samples[2]);
    vd_storage_close(file);

    /* The name has to move, and there is no room for it twice. */
    struct sample full = {"3", 1, 0, AT(56, 2100), 0, NULL, VD_QED_DRAFT_3, 1, 0};
    file = image(&full);
    VT_FAILS(ENOSPC, amend(file, "final", NULL, &vt_err));
    assert_int_equal(expect_content(file, &full), VD_QED_DRAFT_3);
    vd_storage_close(file);
}

/* An image that looks final is a draft because the user says so. */
static void test_override(void **state)
{
    (void)state;
    struct vd_storage *file = image(&samples[0]);
    struct vd_qed_header header;
    VT_OK(vd_storage_resize(file, 4 * CLUSTER, &vt_err));
    put_u64(file, 48, CLUSTER);     /* idle in a draft: a size, in a final header */
    put_u64(file, 40, 3 * CLUSTER); /* the size, or where an L1 table could be */
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    assert_int_equal(header.variant, VD_QED_FINAL);
    VT_OK(amend(file, "final", "draft-2", &vt_err));
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    assert_int_equal(header.size, 3 * CLUSTER);
    assert_int_equal(header.l1_offset, CLUSTER);
    assert_int_equal(header.backing_offset, 0);
    vd_storage_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_power_cut),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_override),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
