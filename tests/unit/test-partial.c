/* SPDX-License-Identifier: MIT */
/* backup/partial: what is gone on with, and what is not. */
#include "repository-fixture.h"

#include "backup/partial.h"

#define PARTIAL REPO "/partial.json"

static struct vd_partial on_point_2(void)
{
    static char format[] = "qed", source[] = "/disks/b.gow";
    return (struct vd_partial){
        .uuid = "00000000-0000-4000-8000-000000000abc",
        .kind = VDISK_POINT_INCREMENTAL,
        .tracker = VDISK_TRACKER_VERSIONS,
        .parent = 2,
        .parent_uuid = "02000000-0000-0000-0000-000000000000",
        .virtual_bytes = UINT64_C(8) << 40,
        .image_format = format,
        .source = source,
        .done_bytes = UINT64_C(5) << 40,
    };
}

static struct vdisk_repository *with_two_points(void)
{
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    add_point(repository, 1, 0, 1);
    add_point(repository, 2, 1, 2);
    VT_OK(vd_repository_reload(repository, &vt_err));
    put(REPO "/partial.qed", "image");
    put(REPO "/partial.qcow2", "image");
    return repository;
}

static void assert_same(const struct vd_partial *a, const struct vd_partial *b)
{
    assert_string_equal(a->uuid, b->uuid);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->tracker, b->tracker);
    assert_int_equal(a->parent, b->parent);
    assert_string_equal(a->parent_uuid, b->parent_uuid);
    assert_int_equal(a->virtual_bytes, b->virtual_bytes);
    assert_string_equal(a->image_format, b->image_format);
    assert_string_equal(a->source, b->source);
    assert_int_equal(a->done_bytes, b->done_bytes);
}

static void names_are_known_for_what_can_be_stored(void **state)
{
    (void)state;
    assert_string_equal(vd_partial_image_name("qcow2"), "partial.qcow2");
    assert_string_equal(vd_partial_image_name("qed"), "partial.qed");
    assert_null(vd_partial_image_name("raw"));
    assert_null(vd_partial_image_name(""));
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct vdisk_repository *repository = with_two_points();
    struct vd_partial read = {0};
    assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    struct vd_partial rows[] = {on_point_2(), on_point_2(), on_point_2()};
    rows[1].kind = VDISK_POINT_FULL;
    rows[1].tracker = VDISK_TRACKER_NONE;
    rows[1].parent = 0;
    rows[1].parent_uuid[0] = '\0';
    rows[1].image_format = (char[]){"qcow2"};
    rows[1].source = (char[]){"/disks/\xe4.raw"}; /* no UTF-8 */
    rows[1].done_bytes = 0;
    rows[2].kind = VDISK_POINT_DIFFERENTIAL;
    rows[2].tracker = VDISK_TRACKER_NBD;
    rows[2].source = (char[]){"nbd://h/\xc3\xa4"};
    rows[2].virtual_bytes = rows[2].done_bytes = 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        VT_OK(vd_partial_write(repository, &rows[i], &vt_err));
        assert_int_equal(vd_partial_read(repository, &read, NULL), 1);
        assert_same(&read, &rows[i]);
        vd_partial_free(&read);
        vd_partial_free(&read);
    }
    assert_false(exists(REPO "/partial.json.part"));
    vdisk_repository_close(repository);
}

static void what_was_removed_is_gone(void **state)
{
    (void)state;
    static const char *const names[] = {"partial.json", "partial.json.part", "partial.qcow2",
                                        "partial.qed", "partial.versions"};
    char path[64];
    struct vdisk_repository *repository = with_two_points();
    struct vd_partial partial = on_point_2(), read = {0};
    for (int i = 0; i < 2; i++) {
        VT_OK(vd_partial_remove(repository, &vt_err)); /* also if there is none */
        for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
            snprintf(path, sizeof(path), REPO "/%s", names[k]);
            assert_false(exists(path));
            put(path, "x");
        }
        VT_OK(vd_partial_write(repository, &partial, &vt_err));
    }
    assert_int_equal(vd_partial_read(repository, &read, NULL), 1);
    vd_partial_free(&read);
    assert_true(exists(REPO "/000002.json"));
    vdisk_repository_close(repository);
}

static void one_without_its_parent_or_image_is_not_gone_on_with(void **state)
{
    (void)state;
    struct vdisk_repository *repository = with_two_points();
    struct vd_partial partial = on_point_2(), read = {0};
    VT_OK(vd_partial_write(repository, &partial, &vt_err));
    assert_int_equal(rename(REPO "/partial.qed", "image"), 0);
    assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    assert_int_equal(symlink("../image", REPO "/partial.qed"), 0);
    assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    assert_int_equal(rename("image", REPO "/partial.qed"), 0);
    assert_int_equal(vd_partial_read(repository, &read, NULL), 1);
    vd_partial_free(&read);

    partial.parent_uuid[0] = '1';
    VT_OK(vd_partial_write(repository, &partial, &vt_err));
    assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    partial = on_point_2();
    VT_OK(vd_partial_write(repository, &partial, &vt_err));
    assert_int_equal(rename(REPO "/000002.json", "manifest"), 0);
    VT_OK(vd_repository_reload(repository, &vt_err));
    assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    put(REPO "/000002.json", "damaged");
    VT_OK(vd_repository_reload(repository, &vt_err));
    assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    vdisk_repository_close(repository);
}

static void one_that_is_damaged_is_not_gone_on_with(void **state)
{
    (void)state;
    char text[4096];
    struct vdisk_repository *repository = with_two_points();
    struct vd_partial partial = on_point_2(), read = {0};
    VT_OK(vd_partial_write(repository, &partial, &vt_err));
    int fd = open(PARTIAL, O_RDWR);
    assert_true(fd >= 0);
    ssize_t length = pread(fd, text, sizeof(text), 0);
    assert_true(length > 0 && (size_t)length < sizeof(text));
    for (ssize_t i = 0; i < length; i++) {
        uint8_t flipped = (uint8_t)(text[i] ^ 2);
        assert_int_equal(pwrite(fd, &flipped, 1, i), 1);
        assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
        assert_int_equal(pwrite(fd, &text[i], 1, i), 1);
    }
    assert_int_equal(vd_partial_read(repository, &read, NULL), 1);
    vd_partial_free(&read);
    for (ssize_t i = length - 1; i >= 0; i--) {
        assert_int_equal(ftruncate(fd, i), 0);
        assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    }
    close(fd);
    assert_int_equal(unlink(PARTIAL), 0);
    assert_int_equal(mkfifo(PARTIAL, 0600), 0);
    assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    /* It goes as a damaged one would. */
    VT_OK(vd_partial_remove(repository, &vt_err));
    VT_OK(vd_partial_write(repository, &partial, &vt_err));
    vdisk_repository_close(repository);
}

/* Well sealed, but nothing that vd_partial_write() would say. */
static void one_that_makes_no_sense_is_not_gone_on_with(void **state)
{
    (void)state;
    struct {
        const char *member;
        json_t *value;
    } rows[] = {
        {"vdisk-partial", NULL},
        {"vdisk-partial", json_integer(2)},
        {"vdisk-journal", json_integer(1)},
        {"repository", json_string("00000000-0000-4000-8000-000000000abc")},
        {"uuid", json_string("x")},
        {"kind", json_string("full")}, /* on a parent */
        {"kind", json_string("most")},
        {"tracker", json_string("")},
        {"parent", json_integer(-2)},
        {"parent", json_integer(0)},
        {"parent-uuid", json_string("")},
        {"virtual-size", json_integer(-1)},
        {"done", json_integer(-1)},
        {"done", json_integer((json_int_t)9 << 40)}, /* more than there is */
        {"done", json_string("1")},
        {"format", json_string("raw")},
        {"format", json_string("../x")},
        {"source", NULL},
        {"source-hex", json_string("2f61")}, /* both */
        {"more", json_integer(1)},
    };
    struct vdisk_repository *repository = with_two_points();
    struct vd_partial partial = on_point_2(), read = {0};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *object = NULL;
        VT_OK(vd_partial_write(repository, &partial, &vt_err));
        VT_OK(vd_sealed_read(PARTIAL, NULL, 65536, &object, &vt_err));
        if (rows[i].value)
            assert_int_equal(json_object_set_new(object, rows[i].member, rows[i].value), 0);
        else
            assert_int_equal(json_object_del(object, rows[i].member), 0);
        VT_OK(vd_sealed_write(PARTIAL, object, NULL, &vt_err));
        json_decref(object);
        if (vd_partial_read(repository, &read, NULL) != 0)
            fail_msg("row %zu: %s", i, rows[i].member);
    }
    vdisk_repository_close(repository);
}

static void one_sealed_otherwise_is_not_gone_on_with(void **state)
{
    (void)state;
    struct vdisk_repository *repository = with_two_points();
    struct vd_seal_key none = repository->key, key = {.bytes = "0123456789abcdef", .length = 16};
    struct vd_partial partial = on_point_2(), read = {0};
    repository->key = key;
    VT_OK(vd_partial_write(repository, &partial, &vt_err));
    assert_int_equal(vd_partial_read(repository, &read, NULL), 1);
    vd_partial_free(&read);
    repository->key = none;
    assert_int_equal(vd_partial_read(repository, &read, NULL), 0);
    vdisk_repository_close(repository);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, enter_work_dir, leave_work_dir)
    const struct CMUnitTest tests[] = {
        TEST(names_are_known_for_what_can_be_stored),
        TEST(what_is_written_is_read),
        TEST(what_was_removed_is_gone),
        TEST(one_without_its_parent_or_image_is_not_gone_on_with),
        TEST(one_that_is_damaged_is_not_gone_on_with),
        TEST(one_that_makes_no_sense_is_not_gone_on_with),
        TEST(one_sealed_otherwise_is_not_gone_on_with),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
