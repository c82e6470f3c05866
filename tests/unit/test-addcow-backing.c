/* SPDX-License-Identifier: MIT */
/* Another backing file, and an image that is emptied, whatever the power does: add-cow §5.2, §5.3.
 */
#include "addcow-fixture.h"

static int set_backing(struct fixture *fix, const char *name, const char *format,
                       struct vdisk_error *err)
{
    struct vd_backing backing = {.name = name, .format = format};
    return vd_format_set_backing(vd_image_format(fix->image), name ? &backing : NULL, err);
}

/* What the image says when it is opened anew. */
static void expect_backing(struct fixture *fix, const char *name, const char *format)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    fixture_open(fix, VDISK_OPEN_FACTS);
    VT_OK(vdisk_image_info(fix->image, &info, &vt_err));
    assert_string_equal(info.data_name, "raw");
    if (name)
        assert_string_equal(info.backing_name, name);
    else
        assert_null(info.backing_name);
    if (format)
        assert_string_equal(info.backing_format, format);
    else
        assert_null(info.backing_format);
    fixture_close(fix);
}

static void test_there_and_back(void **state)
{
    (void)state;
    struct fixture fix;
    static const char *const names[] = {"another", "base", "a", "../../far/away/base.qed",
                                        "json:{\"driver\":\"raw\"}"};
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        fixture_open(&fix, VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING);
        VT_OK(set_backing(&fix, names[i], i % 2 ? "raw" : "qed", &vt_err));
        fixture_close(&fix);
        expect_backing(&fix, names[i], i % 2 ? "raw" : NULL); /* only raw can be recorded */
    }
    /* The same name of another format; none; one again. */
    fixture_open(&fix, VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING);
    VT_OK(set_backing(&fix, names[4], "raw", &vt_err));
    fixture_close(&fix);
    expect_backing(&fix, names[4], "raw");
    fixture_open(&fix, VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING);
    VT_OK(set_backing(&fix, NULL, NULL, &vt_err));
    expect_bytes(&fix, 0, 3 * CLUSTER, 0);
    fixture_close(&fix);
    expect_backing(&fix, NULL, NULL);
    for (uint64_t at = 39; at < 4096; at++) /* nothing is left of any name */
        assert_int_equal(byte_in_file(&fix, COW, at), 0);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    VT_OK(set_backing(&fix, "base", "raw", &vt_err));
    fixture_close(&fix);
    fixture_open(&fix, 0);
    expect_bytes(&fix, 0, 3 * CLUSTER, BASE);
    fixture_destroy(&fix);
}

static char *long_name(size_t length)
{
    char *name = vt_calloc(length + 1, 1);
    memset(name, 'n', length);
    return name;
}

/* A5: where there is no room beside the present names, nothing is changed. */
static void test_room(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING);
    char *most = long_name(4096 - 43), *more = long_name(4096 - 42), *far = long_name(10000);
    struct vdisk_error err = {0};
    assert_int_equal(set_backing(&fix, more, "raw", &err), -ENAMETOOLONG);
    assert_non_null(strstr(err.message, "4053"));
    VT_FAILS(ENAMETOOLONG, set_backing(&fix, far, "raw", &vt_err));
    VT_FAILS(EINVAL, set_backing(&fix, "", "raw", &vt_err));
    VT_FAILS(EINVAL, set_backing(&fix, "raw", "raw", &vt_err));
    VT_OK(set_backing(&fix, most, "raw", &vt_err));
    /* Now there are 4 bytes before it, where the first name was. */
    VT_FAILS(ENAMETOOLONG, set_backing(&fix, "abcde", "raw", &vt_err));
    VT_OK(set_backing(&fix, "abcd", "raw", &vt_err));
    VT_OK(set_backing(&fix, most, NULL, &vt_err));
    fixture_close(&fix);
    expect_backing(&fix, most, NULL);
    free(most);
    free(more);
    free(far);
    fixture_destroy(&fix);
}

/* Steps of a round of changes, and what may be found after each call of a step. */
struct cuts {
    struct fixture fix; /* the first, for the hook */
    const char *old_name, *old_format, *new_name, *new_format;
    unsigned count;
};

static bool equals(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static void cut_name(struct fixture *fix)
{
    struct cuts *cuts = (struct cuts *)fix;
    for (size_t i = 0; i < BOTH_CUTS * 4; i++) {
        const enum vt_cut both[] = {both_cuts[i % BOTH_CUTS], VT_CUT_KEEP_ALL};
        struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
        struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
        struct fixture left;
        fixture_cut(fix, both, i, &left);
        fixture_open(&left, VDISK_OPEN_CHECK);
        VT_OK(vdisk_image_info(left.image, &info, &vt_err));
        bool is_old = equals(info.backing_name, cuts->old_name) &&
                      equals(info.backing_format, cuts->old_format);
        bool is_new = equals(info.backing_name, cuts->new_name) &&
                      equals(info.backing_format, cuts->new_format);
        if (!is_old && !is_new)
            fail_msg("backing file '%s' of format '%s'", info.backing_name, info.backing_format);
        VT_OK(vdisk_image_check(left.image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
        assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
        fixture_destroy(&left);
        cuts->count++;
    }
}

static void test_power_cuts(void **state)
{
    (void)state;
    char *name = long_name(900); /* over three sectors */
    const struct {
        const char *name, *format;
    } steps[] = {{"base", "raw"}, {"other", NULL}, {name, "raw"},  {NULL, NULL},
                 {name, NULL},    {name, "raw"},   {"base", "raw"}};
    struct cuts cuts = {0};
    fixture_init(&cuts.fix, 3 * CLUSTER, 3 * CLUSTER);
    fixture_open(&cuts.fix, VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING);
    for (size_t i = 1; i < sizeof(steps) / sizeof(steps[0]); i++) {
        cuts.old_name = steps[i - 1].name;
        cuts.old_format = steps[i - 1].format;
        cuts.new_name = steps[i].name;
        cuts.new_format = steps[i].format;
        cuts.fix.at_call = cut_name;
        VT_OK(set_backing(&cuts.fix, cuts.new_name, cuts.new_format, &vt_err));
        cuts.old_name = cuts.new_name; /* it is durable */
        cuts.old_format = cuts.new_format;
        cut_name(&cuts.fix);
        cuts.fix.at_call = NULL;
    }
    print_message("# %u states\n", cuts.count);
    assert_true(cuts.count > 300);
    free(name);
    fixture_destroy(&cuts.fix);
}

/* What was written before shows after the change, however the power goes. */
static void test_flushes_first(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, 0, CLUSTER, 7);
    fix.log[0] = '\0';
    VT_OK(set_backing(&fix, NULL, NULL, &vt_err));
    assert_int_equal(strncmp(fix.log, "Rf Cw Cf Cw Cf ", 15), 0);
    fixture_destroy(&fix);
}

static void test_failures(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 4; nth++) {
        struct fixture fix;
        fixture_init(&fix, 3 * CLUSTER, 3 * CLUSTER);
        fixture_open(&fix, VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING);
        vt_fault_set(fix.open[COW],
                     (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_WRITE) | VT_CALL_BIT(VT_FLUSH),
                                            .nth = nth,
                                            .error = EIO});
        VT_FAILS(EIO, set_backing(&fix, "other", "raw", &vt_err));
        vdisk_image_close(fix.image, NULL);
        fix.image = NULL;
        expect_backing(&fix, nth <= 3 ? "base" : "other", "raw");
        fixture_destroy(&fix);
    }
}

/* ---- Emptying ------------------------------------------------------------------------------ */

static void test_empty(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 20 * CLUSTER, 20 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, 0, 3 * CLUSTER, 7);
    VT_OK(vdisk_image_flush(fix.image, &vt_err));
    write_bytes(&fix, 10 * CLUSTER, 3 * CLUSTER, 7); /* its bits are in memory only */
    fix.log[0] = '\0';
    VT_OK(vd_format_empty(vd_image_format(fix.image), &vt_err));
    assert_string_equal(fix.log, "Cz Cf Rd "); /* the raw file's space last */
    expect_bytes(&fix, 0, 20 * CLUSTER, BASE);
    write_bytes(&fix, 5 * CLUSTER + 1, 1, 9);
    expect_bytes(&fix, 5 * CLUSTER + 2, CLUSTER, BASE);
    fixture_close(&fix);
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0x20);
    assert_int_equal(byte_in_file(&fix, COW, 4097), 0);
    assert_int_equal(bytes_of(&fix, RAW), 20 * CLUSTER);

    fixture_open(&fix, VDISK_OPEN_WRITE);
    vt_fault_set(fix.open[COW],
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_ZERO), .nth = 1, .error = EIO});
    VT_FAILS(EIO, vd_format_empty(vd_image_format(fix.image), &vt_err));
    VT_FAILS(EIO, vdisk_image_flush(fix.image, &vt_err));
    expect_bytes(&fix, 5 * CLUSTER + 1, 1, 9);
    VT_FAILS(EIO, vdisk_image_close(fix.image, &vt_err));
    fix.image = NULL;
    fixture_destroy(&fix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_room),
        cmocka_unit_test(test_power_cuts),     cmocka_unit_test(test_flushes_first),
        cmocka_unit_test(test_failures),       cmocka_unit_test(test_empty),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
