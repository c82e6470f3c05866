/* SPDX-License-Identifier: MIT */
/* backup/restore: a point becomes a disk again, or nothing does. */
#include "points-fixture.h"

#define POINTS 4u

static uint8_t disks[POINTS * DISK_BYTES];
static uint8_t buf[2 * DISK_BYTES];

static struct vdisk_restore_options restore_to(const char *target, const char *format)
{
    return (struct vdisk_restore_options){
        .struct_bytes = sizeof(struct vdisk_restore_options),
        .target = target,
        .target_format = format,
    };
}

static void expect_file(const char *name, const char *format, const uint8_t *disk)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .format = format};
    struct vdisk_image *image;
    VT_OK(vdisk_image_open(name, &options, &image, &vt_err));
    assert_true(vdisk_image_size(image) >= DISK_BYTES);
    VT_OK(vdisk_image_pread(image, buf, DISK_BYTES, 0, &vt_err));
    assert_memory_equal(buf, disk, DISK_BYTES);
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void test_every_format(void **state)
{
    (void)state;
    static const char *const formats[] = {"raw", "qcow2", "qed", "gow3"};
    struct vdisk_repository *repository = make_points(POINTS, disks);
    for (size_t i = 0; i < 4; i++) {
        struct vdisk_restore_options options = restore_to("disk", formats[i]);
        struct vdisk_convert_result result = {.struct_bytes = sizeof(result)};
        VT_OK(vdisk_repository_restore(repository, i, &options, &result, &vt_err));
        assert_int_equal(result.virtual_bytes, DISK_BYTES);
        assert_true(result.data_bytes > 0);
        expect_file("disk", formats[i], disks + i * DISK_BYTES);
    }
    struct vdisk_restore_options options = restore_to("small", "qcow2");
    options.flags = VDISK_CONVERT_COMPRESS;
    VT_OK(vdisk_repository_restore(repository, 1, &options, NULL, &vt_err));
    expect_file("small", "qcow2", disks + DISK_BYTES);
    vdisk_repository_close(repository);
}

/* Into an image that is there: what the disk has is there then, zeros included. */
static void test_in_place(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    struct vdisk_restore_options options = restore_to("disk", "raw");
    options.flags = VDISK_CONVERT_NO_CREATE;
    VT_FAILS(ENOENT, vdisk_repository_restore(repository, 1, &options, NULL, &vt_err));
    struct vd_storage *file;
    struct vd_storage_options create = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE};
    VT_OK(vd_storage_open("disk", &create, &file, &vt_err));
    memset(buf, 0xee, sizeof(buf));
    VT_OK(vd_storage_pwrite(file, buf, DISK_BYTES - 512, 0, &vt_err));
    vd_storage_close(file);
    VT_FAILS(EINVAL, vdisk_repository_restore(repository, 1, &options, NULL, &vt_err));

    create.flags = VD_STORAGE_WRITE;
    VT_OK(vd_storage_open("disk", &create, &file, &vt_err));
    VT_OK(vd_storage_pwrite(file, buf, sizeof(buf), 0, &vt_err));
    vd_storage_close(file);
    VT_OK(vdisk_repository_restore(repository, 1, &options, NULL, &vt_err));
    expect_file("disk", "raw", disks + DISK_BYTES);
    assert_int_equal(file_bytes("disk"), 2 * DISK_BYTES);
    vdisk_repository_close(repository);
}

/* Wherever a byte has changed: -EBADMSG with the name of the file, and no file, or the old one; or
 * the byte is of no account for this point. */
static void test_damage(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    struct vdisk_restore_options options = restore_to("disk", "raw");
    struct vt_random random = {.state = 5};
    unsigned found = 0;
    for (unsigned i = 0; i < VT_ROUNDS(60); i++) {
        char path[64];
        uint64_t number = 1 + vt_random_below(&random, POINTS);
        uint64_t offset = vt_random_below(&random, file_bytes(point_path(number, "qcow2", path)));
        bool has_old = i % 2;
        unlink("disk");
        if (has_old)
            put("disk", "old");
        alter(number, offset);
        struct vdisk_error err = {0};
        int ret = vdisk_repository_restore(repository, POINTS - 1, &options, NULL, &err);
        alter(number, offset);
        if (ret == 0) {
            expect_file("disk", "raw", disks + (POINTS - 1) * DISK_BYTES);
            continue;
        }
        assert_int_equal(ret, -EBADMSG);
        assert_non_null(strstr(err.message, path));
        assert_int_equal(exists("disk"), has_old);
        if (has_old)
            assert_holds("disk", "old");
        found++;
    }
    assert_true(found > 0);
    vdisk_repository_close(repository);
}

/* A disk is not put where it would destroy what it comes from. */
static void test_into_the_repository(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    assert_int_equal(symlink(REPO "/000001.qcow2", "link"), 0);
    assert_int_equal(symlink(REPO, "way"), 0);
    assert_int_equal(link(REPO "/000004.qcow2", "hard"), 0);
    assert_int_equal(link(REPO "/000001.qcow2", "below"), 0);
    static const char *const names[] = {REPO "/000004.qcow2",
                                        REPO "/new",
                                        "way/new",
                                        "link",
                                        "./" REPO "/../" REPO "/000003.json",
                                        "hard",
                                        "below"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct vdisk_restore_options options = restore_to(names[i], "raw");
        VT_FAILS(EINVAL, vdisk_repository_restore(repository, 2, &options, NULL, &vt_err));
        options.flags = VDISK_CONVERT_NO_CREATE;
        VT_FAILS(EINVAL, vdisk_repository_restore(repository, 2, &options, NULL, &vt_err));
    }
    assert_false(exists(REPO "/new"));
    struct vdisk_restore_options options = restore_to("disk", "raw");
    for (size_t i = 0; i < POINTS; i++) {
        VT_OK(vdisk_repository_restore(repository, i, &options, NULL, &vt_err));
        expect_file("disk", "raw", disks + i * DISK_BYTES);
    }
    vdisk_repository_close(repository);
}

static int cancel(void *opaque, const struct vdisk_progress *progress)
{
    unsigned *calls = opaque;
    (void)progress;
    return ++*calls > 1;
}

static void test_cancelled(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    unsigned calls = 1;
    struct vdisk_restore_options options = restore_to("disk", "raw");
    options.progress = cancel;
    options.opaque = &calls;
    VT_FAILS(ECANCELED, vdisk_repository_restore(repository, 2, &options, NULL, &vt_err));
    assert_false(exists("disk"));
    vdisk_repository_close(repository);
}

static void test_options(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(1, disks);
    struct vdisk_restore_options options = restore_to("disk", "raw");
    struct vdisk_convert_result result = {.struct_bytes = 1};
    VT_FAILS(EINVAL, vdisk_repository_restore(repository, 0, &options, &result, &vt_err));
    VT_FAILS(EINVAL, vdisk_repository_restore(repository, 1, &options, NULL, &vt_err));
    options.flags = VDISK_CONVERT_BITMAPS;
    VT_FAILS(EINVAL, vdisk_repository_restore(repository, 0, &options, NULL, &vt_err));
    options.flags = 0;
    options.struct_bytes--;
    VT_FAILS(EINVAL, vdisk_repository_restore(repository, 0, &options, NULL, &vt_err));
    options = restore_to(NULL, "raw");
    VT_FAILS(EINVAL, vdisk_repository_restore(repository, 0, &options, NULL, &vt_err));
    assert_false(exists("disk"));
    vdisk_repository_close(repository);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_format, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_in_place, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_damage, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_into_the_repository, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_cancelled, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_options, enter_work_dir, leave_work_dir),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("restore", tests, NULL, NULL);
}
