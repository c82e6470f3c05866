/* SPDX-License-Identifier: MIT */
/* backup/point: a point opens as the disk that it is, or not at all. */
#include "points-fixture.h"

#include <sys/resource.h>

#define POINTS 5u

static uint8_t disks[POINTS * DISK_BYTES];
static uint8_t buf[DISK_BYTES];

static void expect_disk(struct vdisk_image *image, const uint8_t *disk)
{
    assert_int_equal(vdisk_image_size(image), DISK_BYTES);
    VT_OK(vdisk_image_pread(image, buf, DISK_BYTES, 0, &vt_err));
    assert_memory_equal(buf, disk, DISK_BYTES);
}

static void expect_point(struct vdisk_repository *repository, size_t index)
{
    struct vdisk_image *image;
    VT_OK(vdisk_repository_open_point(repository, index, &image, &vt_err));
    expect_disk(image, disks + index * DISK_BYTES);
    vdisk_image_close(image, NULL);
}

static void test_each_point_is_its_disk(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    for (size_t i = 0; i < POINTS; i++)
        expect_point(repository, i);
    struct vdisk_image *image;
    VT_FAILS(EINVAL, vdisk_repository_open_point(repository, POINTS, &image, &vt_err));
    vdisk_repository_close(repository);
}

static void test_two_readers(void **state)
{
    (void)state;
    vdisk_repository_close(make_points(POINTS, disks));
    struct vdisk_repository *one = open_repo(VD_REPOSITORY_READ);
    struct vdisk_repository *two = open_repo(VD_REPOSITORY_READ);
    struct vdisk_image *image, *again;
    VT_OK(vdisk_repository_open_point(one, POINTS - 1, &image, &vt_err));
    VT_OK(vdisk_repository_open_point(two, POINTS - 1, &again, &vt_err));
    expect_disk(image, disks + (POINTS - 1) * DISK_BYTES);
    expect_disk(again, disks + (POINTS - 1) * DISK_BYTES);
    VT_FAILS(EROFS, vdisk_image_pwrite(image, buf, 512, 0, &vt_err));
    vdisk_image_close(image, NULL);
    vdisk_image_close(again, NULL);
    vdisk_repository_close(one);
    vdisk_repository_close(two);
}

/* Any byte of any file below: it opens with -EBADMSG, or reads with it, or reads as it was. */
static void test_no_altered_byte_comes_out(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    struct vt_random random = {.state = 7};
    unsigned found = 0;
    for (unsigned i = 0; i < VT_ROUNDS(300); i++) {
        char path[64];
        uint64_t number = 1 + vt_random_below(&random, POINTS);
        uint64_t size = file_bytes(point_path(number, "qcow2", path));
        uint64_t offset = vt_random_below(&random, size);
        alter(number, offset);
        struct vdisk_error err = {0};
        struct vdisk_image *image;
        int ret = vdisk_repository_open_point(repository, POINTS - 1, &image, &err);
        if (ret == 0) {
            ret = vdisk_image_pread(image, buf, DISK_BYTES, 0, &err);
            vdisk_image_close(image, NULL);
        }
        if (ret == 0) {
            assert_memory_equal(buf, disks + (POINTS - 1) * DISK_BYTES, DISK_BYTES);
        } else {
            assert_int_equal(ret, -EBADMSG);
            assert_non_null(strstr(err.message, path));
            found++;
        }
        alter(number, offset);
    }
    assert_true(found > 0);
    expect_point(repository, POINTS - 1);
    vdisk_repository_close(repository);
}

/* ---- Chains that are not whole ---- */

static void expect_damaged(struct vdisk_repository *repository, uint64_t number, const char *word)
{
    struct vdisk_image *image;
    struct vdisk_error err = {0};
    VT_OK(vd_repository_reload(repository, &vt_err));
    const struct vd_point *point = vd_repository_point_of(repository, number);
    assert_non_null(point);
    assert_int_equal(vd_point_open(repository, point, &image, &err), -EBADMSG);
    if (!strstr(err.message, word))
        fail_msg("'%s' is not in: %s", word, err.message);
}

static void test_chain_is_not_whole(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    assert_int_equal(rename(REPO "/000002.qcow2", "away"), 0);
    expect_damaged(repository, 5, "000002.qcow2: is missing");
    assert_int_equal(symlink("../away", REPO "/000002.qcow2"), 0);
    expect_damaged(repository, 5, "000002.qcow2");
    assert_int_equal(rename("away", REPO "/000002.qcow2"), 0);
    expect_point(repository, 4);

    uint64_t size = file_bytes(REPO "/000002.qcow2");
    assert_int_equal(truncate(REPO "/000002.qcow2", (off_t)size + 1), 0);
    expect_damaged(repository, 3, "000002.qcow2");
    assert_int_equal(truncate(REPO "/000002.qcow2", (off_t)size), 0);
    expect_point(repository, 4);

    assert_int_equal(rename(REPO "/000003.json", "away"), 0);
    expect_damaged(repository, 5, "lies on point 3");
    put(REPO "/000003.json", "{}");
    expect_damaged(repository, 5, "lies on point 3");
    expect_damaged(repository, 3, "point 3 is damaged");
    expect_point(repository, 1);
    assert_int_equal(rename("away", REPO "/000003.json"), 0);
    VT_OK(vd_repository_reload(repository, &vt_err));
    expect_point(repository, 4);
    vdisk_repository_close(repository);
}

static void add(struct vdisk_repository *repository, struct point_plan plan)
{
    make_image(&plan);
    make_manifest(repository, &plan);
}

/* Images that do not say what their manifests do, though all digests are right. */
static void test_traps(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(2, disks);
    put("secret", "of the user");
    add(repository, (struct point_plan){.number = 10, .parent = 2, .backing = "../secret"});
    expect_damaged(repository, 10, "'../secret'");
    add(repository, (struct point_plan){.number = 11, .parent = 2, .backing = "000001.qcow2"});
    expect_damaged(repository, 11, "'000001.qcow2'");
    add(repository, (struct point_plan){.number = 12, .parent = 2, .has_no_backing = true});
    expect_damaged(repository, 12, "does not name '000002.qcow2'");
    add(repository, (struct point_plan){.number = 13, .parent = 2, .parent_seed = 1});
    expect_damaged(repository, 13, "another one of that number");

    struct point_plan plan = {.number = 14, .parent = 2};
    make_image(&plan);
    plan.parent = 0;
    make_manifest(repository, &plan);
    expect_damaged(repository, 14, "lies on no other point");

    plan = (struct point_plan){.number = 15, .parent = 2};
    make_image(&plan);
    plan.disk_bytes = 2 * DISK_BYTES;
    make_manifest(repository, &plan);
    expect_damaged(repository, 15, "bytes, and had");
    vdisk_repository_close(repository);
}

/* ---- On another storage ---- */

struct instead {
    const char *path;
    unsigned opened;
};

static int open_instead(void *opaque, struct vd_storage **storage, struct vdisk_error *err)
{
    struct instead *instead = opaque;
    instead->opened++;
    return vd_storage_open(instead->path, NULL, storage, err);
}

static void open_new(struct vdisk_repository *repository, uint64_t number, uint64_t parent,
                     const struct vd_point_stand_in *stand_in, struct vdisk_image **image)
{
    char path[64];
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    struct vd_storage *file;
    make_image(&(struct point_plan){.number = number, .parent = parent});
    VT_OK(vd_storage_open(point_path(number, "qcow2", path), &options, &file, &vt_err));
    VT_OK(vd_point_open_on(repository, file, "qcow2", vd_repository_point_of(repository, parent),
                           VDISK_OPEN_WRITE, stand_in, image, &vt_err));
}

static void test_new_image_on_a_point(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    struct vdisk_image *image;
    open_new(repository, 9, POINTS, NULL, &image);
    expect_disk(image, disks + (POINTS - 1) * DISK_BYTES);
    VT_OK(vdisk_image_pwrite(image, "new", 3, 100, &vt_err));
    VT_OK(vdisk_image_pread(image, buf, 3, 100, &vt_err));
    assert_memory_equal(buf, "new", 3);
    VT_OK(vdisk_image_close(image, &vt_err));

    open_new(repository, 10, 0, NULL, &image);
    VT_OK(vdisk_image_pread(image, buf, DISK_BYTES, 0, &vt_err));
    vt_assert_filled(buf, DISK_BYTES, 0);
    VT_OK(vdisk_image_close(image, &vt_err));
    vdisk_repository_close(repository);
}

static void test_stand_in(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    struct vdisk_image *image;
    struct instead instead = {.path = "elsewhere"};
    struct vd_point_stand_in stand_in = {
        .file = "000002.qcow2", .open = open_instead, .opaque = &instead};
    assert_int_equal(rename(REPO "/000002.qcow2", "elsewhere"), 0);
    open_new(repository, 9, POINTS, &stand_in, &image);
    assert_int_equal(instead.opened, 1);
    expect_disk(image, disks + (POINTS - 1) * DISK_BYTES);
    VT_OK(vdisk_image_close(image, &vt_err));
    vdisk_repository_close(repository);
}

/* ---- Long chains ---- */

/* Each is on the one before, and has nothing of its own. */
static struct vdisk_repository *make_long(unsigned points)
{
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    for (unsigned i = 1; i <= points; i++) {
        struct point_plan plan = {.number = i, .parent = i - 1};
        make_image(&plan);
        make_manifest(repository, &plan);
    }
    VT_OK(vd_repository_reload(repository, &vt_err));
    return repository;
}

static void test_long_chain(void **state)
{
    (void)state;
    struct rlimit limit, less;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    less = limit;
    if (less.rlim_cur < VD_POINT_CHAIN_MAX + 64)
        less.rlim_cur = vd_min(VD_POINT_CHAIN_MAX + 64, limit.rlim_max);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &less), 0);

    struct vdisk_repository *repository = make_long(VD_POINT_CHAIN_MAX + 1);
    struct vdisk_image *image;
    VT_FAILS(ELOOP, vdisk_repository_open_point(repository, VD_POINT_CHAIN_MAX, &image, &vt_err));
    VT_OK(vdisk_repository_open_point(repository, VD_POINT_CHAIN_MAX - 1, &image, &vt_err));
    memset(buf, 1, DISK_BYTES);
    VT_OK(vdisk_image_pread(image, buf, DISK_BYTES, 0, &vt_err));
    vt_assert_filled(buf, DISK_BYTES, 0);
    struct vdisk_extent extent;
    VT_OK(vdisk_image_extent(image, 0, DISK_BYTES, &extent, &vt_err));
    assert_true(extent.flags & VDISK_EXTENT_ZERO);
    assert_int_equal(extent.length, DISK_BYTES);
    vdisk_image_close(image, NULL);

    /* No new image lies on the longest, so each point that is made can be opened. */
    struct vd_storage *file;
    VT_OK(vd_storage_mem_open(0, &file, &vt_err));
    VT_FAILS(ELOOP, vd_point_open_on(repository, file, "qcow2",
                                     &repository->points[VD_POINT_CHAIN_MAX - 1], 0, NULL, &image,
                                     &vt_err));

    less.rlim_cur = 100;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &less), 0);
    struct vdisk_error err = {0};
    assert_int_equal(vdisk_repository_open_point(repository, 200, &image, &err), -EMFILE);
    assert_non_null(strstr(err.message, "201 images"));
    assert_non_null(strstr(err.message, "ulimit -n"));
    VT_OK(vdisk_repository_open_point(repository, 50, &image, &vt_err));
    vdisk_image_close(image, NULL);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    vdisk_repository_close(repository);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_point_is_its_disk, enter_work_dir,
                                        leave_work_dir),
        cmocka_unit_test_setup_teardown(test_two_readers, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_no_altered_byte_comes_out, enter_work_dir,
                                        leave_work_dir),
        cmocka_unit_test_setup_teardown(test_chain_is_not_whole, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_traps, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_new_image_on_a_point, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_stand_in, enter_work_dir, leave_work_dir),
        cmocka_unit_test_setup_teardown(test_long_chain, enter_work_dir, leave_work_dir),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("point", tests, NULL, NULL);
}
