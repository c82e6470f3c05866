/* SPDX-License-Identifier: MIT */
/* Another backing file: where its name goes, what is refused, and every power cut on the way. */
#include "qed-cuts.h"

#define CLUSTER 4096u

static struct vd_storage *image(uint64_t features, uint32_t name_offset, const char *name)
{
    struct vd_storage *file;
    uint8_t head[VD_QED_HEADER_BYTES];
    VT_OK(vt_snap_open(2 * CLUSTER, &file, &vt_err));
    put_final(head, CLUSTER, 1, MIB);
    store(head, 16, features, 8);
    if (name) {
        store(head, 56, name_offset, 4);
        store(head, 60, strlen(name), 4);
        put_bytes(file, name_offset, name, strlen(name));
    }
    put_bytes(file, 0, head, sizeof(head));
    return file;
}

static int set_backing(struct vd_storage *file, const char *name, const char *format,
                       struct vdisk_error *err)
{
    struct vd_qed_header header;
    struct vd_backing backing = {.name = name, .format = format};
    int ret = vd_qed_header_read(file, VD_QED_LOOK, &header, err);
    if (ret == 0)
        ret = vd_qed_prepare_backing(file, &header, name ? &backing : NULL, err);
    if (ret == 0)
        ret = vd_qed_header_write(file, &header, err);
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

static bool is_backed_by(struct vd_storage *file, const char *name, const char *format)
{
    struct vd_qed_header header;
    struct vd_qed_names names;
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    VT_OK(vd_qed_names_read(file, &header, &names, &vt_err));
    bool is = name ? names.backing && strcmp(names.backing, name) == 0 : !names.backing;
    is = is && (format ? names.format && strcmp(names.format, format) == 0 : !names.format);
    vd_qed_names_free(&names);
    return is;
}

static void test_changes(void **state)
{
    (void)state;
    struct vd_storage *file = image(VD_QED_FEATURE_NEED_CHECK, 0, NULL);
    VT_OK(set_backing(file, "one.img", "raw", &vt_err));
    assert_true(is_backed_by(file, "one.img", "raw"));
    assert_int_equal(get_u64(file, 56), 64 | UINT64_C(7) << 32);
    assert_int_equal(get_u64(file, 16), 7); /* the rest of the header stays */
    VT_OK(set_backing(file, "second.img", "qed", &vt_err));
    assert_true(is_backed_by(file, "second.img", NULL));
    assert_int_equal(get_u64(file, 56), 71 | UINT64_C(10) << 32);
    VT_OK(set_backing(file, "3.img", NULL, &vt_err)); /* room before the one that is there */
    assert_int_equal(get_u64(file, 56), 64 | UINT64_C(5) << 32);
    VT_OK(set_backing(file, "3.img", "raw", &vt_err)); /* the same name stays where it is */
    assert_int_equal(get_u64(file, 56), 64 | UINT64_C(5) << 32);
    assert_true(is_backed_by(file, "3.img", "raw"));
    VT_OK(set_backing(file, NULL, NULL, &vt_err));
    assert_true(is_backed_by(file, NULL, NULL));
    assert_int_equal(get_u64(file, 16), 2);
    assert_int_equal(get_u64(file, 56), 0);
    vd_storage_close(file);
}

static void test_room(void **state)
{
    (void)state;
    char name[VD_QED_NAME_BYTES_MAX + 2];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    const char *end = name + sizeof(name) - 1;

    struct vd_storage *file = image(0, 0, NULL);
    VT_FAILS(ENAMETOOLONG, set_backing(file, name, NULL, &vt_err));
    VT_FAILS(EINVAL, set_backing(file, "", NULL, &vt_err));
    VT_FAILS(ENOSPC, set_backing(file, end - 4033, NULL, &vt_err));
    VT_OK(set_backing(file, end - 4032, NULL, &vt_err));
    VT_OK(set_backing(file, end - 4032, "raw", &vt_err));
    VT_FAILS(ENOSPC, set_backing(file, "x", NULL, &vt_err));
    assert_true(is_backed_by(file, end - 4032, "raw"));
    VT_OK(set_backing(file, NULL, NULL, &vt_err));
    VT_OK(set_backing(file, "x", NULL, &vt_err));
    vd_storage_close(file);

    /* Whichever side of the name there is has the more room. */
    file = image(1, 64 + 1000, "in the middle");
    VT_FAILS(ENOSPC, set_backing(file, end - 3020, NULL, &vt_err));
    VT_OK(set_backing(file, end - 3019, NULL, &vt_err));
    assert_int_equal(get_u64(file, 56), (64 + 1013) | UINT64_C(3019) << 32);
    VT_FAILS(ENOSPC, set_backing(file, end - 1014, NULL, &vt_err));
    VT_OK(set_backing(file, end - 1013, NULL, &vt_err));
    assert_int_equal(get_u64(file, 56), 64 | UINT64_C(1013) << 32);
    vd_storage_close(file);
}

static void test_unknown_features(void **state)
{
    (void)state;
    struct vd_storage *file = image(1, 64, "base.img");
    put_u64(file, 24, UINT64_C(1) << 40);
    VT_FAILS(ENOTSUP, set_backing(file, "other.img", NULL, &vt_err));
    VT_FAILS(ENOTSUP, set_backing(file, NULL, NULL, &vt_err));
    assert_true(is_backed_by(file, "base.img", NULL));
    vd_storage_close(file);
}

struct change {
    const char *before, *before_format, *after, *after_format;
    unsigned seen[2];
};

static void judge(void *opaque, struct vd_storage *found)
{
    struct change *change = opaque;
    bool is_old = is_backed_by(found, change->before, change->before_format);
    bool is_new = is_backed_by(found, change->after, change->after_format);
    assert_true(is_old || is_new);
    change->seen[is_new]++;
}

static void test_power_cut(void **state)
{
    (void)state;
    char longer[600]; /* over two sectors */
    memset(longer, 'l', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    struct change changes[] = {
        {"base.img", NULL, "other.img", "raw", {0}},
        {"base.img", "raw", longer, NULL, {0}},
        {longer, "raw", "base.img", "raw", {0}},
        {"base.img", "raw", NULL, NULL, {0}},
        {NULL, NULL, longer, "raw", {0}},
    };
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct change *change = &changes[i];
        struct vd_storage *start = image(0, 0, NULL);
        if (change->before)
            VT_OK(set_backing(start, change->before, change->before_format, &vt_err));
        struct cuts cuts = {.judge = judge, .opaque = change};
        struct vd_storage *file = cuts_open(&cuts, start);
        VT_OK(set_backing(file, change->after, change->after_format, &vt_err));
        assert_true(change->seen[0] > 0 && change->seen[1] > 0);
        change->seen[0] = 0;
        cut_all(&cuts, file, VT_FLUSH); /* after the end */
        assert_int_equal(change->seen[0], 0);
        print_message("# %u states\n", cuts.count);
        vd_storage_close(file);
        vd_storage_close(start);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_unknown_features),
        cmocka_unit_test(test_power_cut),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
