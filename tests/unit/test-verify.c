/* SPDX-License-Identifier: MIT */
/*
 * backup/verify: whatever byte of a repository is altered, verifying names its file, and nobody
 * gets to see what it has become.
 *
 * VDISK_TEST_ROUNDS (default 300) is how many bytes of images are altered, at random.
 */
#include "points-fixture.h"

#define POINTS 3u

enum {
    TEXTS_MAX = 16
};

static uint8_t disks[POINTS * DISK_BYTES];
static uint8_t buf[DISK_BYTES];

/* What was told. */
static struct {
    unsigned entries;
    char text[TEXTS_MAX][512];
} told;

static void hear(void *opaque, const char *message)
{
    (void)opaque;
    if (told.entries == TEXTS_MAX)
        fail_msg("too much is told: %s", message);
    snprintf(told.text[told.entries++], sizeof(told.text[0]), "%s", message);
}

static bool was_told(const char *words)
{
    for (unsigned i = 0; i < told.entries; i++)
        if (strstr(told.text[i], words))
            return true;
    return false;
}

static struct vdisk_verify_result verify(struct vdisk_repository *repository, const char *point)
{
    struct vdisk_verify_options options = {
        .struct_bytes = sizeof(options), .workers = 1, .point = point, .report = hear};
    struct vdisk_verify_result result = {.struct_bytes = sizeof(result)};
    told.entries = 0;
    VT_OK(vdisk_repository_verify(repository, &options, &result, &vt_err));
    return result;
}

/* Opens it to begin with. */
static struct vdisk_verify_result verify_anew(void)
{
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_READ);
    struct vdisk_verify_result result = verify(repository, NULL);
    vdisk_repository_close(repository);
    return result;
}

static void expect_good(void)
{
    struct vdisk_verify_result result = verify_anew();
    if (told.entries)
        fail_msg("told: %s", told.text[0]);
    assert_int_equal(result.damages, 0);
    assert_int_equal(result.damaged_points, 0);
}

/* One damage, of which this is told, and so many points that it spoils. */
static void expect_damage(struct vdisk_verify_result result, const char *words, uint64_t spoilt)
{
    if (!was_told(words))
        fail_msg("'%s' is not in: %s", words, told.entries ? told.text[0] : "");
    assert_int_equal(result.damages, 1);
    assert_int_equal(told.entries, 1);
    assert_int_equal(result.damaged_points, spoilt);
}

static void set_byte(const char *path, uint64_t offset, uint8_t byte)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    assert_int_equal(close(fd), 0);
}

/* Reads all of a point: what comes is right, or it is refused. */
static int read_point(struct vdisk_repository *repository, size_t index, struct vdisk_error *err)
{
    struct vdisk_image *image;
    int ret = vdisk_repository_open_point(repository, index, &image, err);
    if (ret < 0)
        return ret;
    ret = vdisk_image_pread(image, buf, DISK_BYTES, 0, err);
    vdisk_image_close(image, NULL);
    if (ret == 0)
        assert_memory_equal(buf, disks + index * DISK_BYTES, DISK_BYTES);
    return ret;
}

static int restore_point(struct vdisk_repository *repository, size_t index)
{
    struct vdisk_restore_options options = {
        .struct_bytes = sizeof(options), .target = "restored.raw", .target_format = "raw"};
    int ret = vdisk_repository_restore(repository, index, &options, NULL, NULL);
    if (ret < 0)
        assert_false(exists("restored.raw"));
    else
        assert_int_equal(unlink("restored.raw"), 0);
    return ret;
}

static void test_all_is_well(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    char path[64];
    uint64_t bytes = file_bytes(REPO "/vdisk-repository.json");
    for (unsigned i = 1; i <= POINTS; i++)
        bytes += file_bytes(point_path(i, "qcow2", path)) + file_bytes(point_path(i, "json", path));
    struct vdisk_verify_result result = verify(repository, NULL);
    assert_int_equal(told.entries, 0);
    assert_int_equal(result.points, POINTS);
    assert_int_equal(result.damaged_points, 0);
    assert_int_equal(result.damages, 0);
    assert_int_equal(result.files, 1 + 2 * POINTS);
    assert_int_equal(result.bytes, bytes);
    assert_int_equal(verify(repository, "1").files, 3);
    assert_int_equal(verify(repository, "2").points, 2);
    assert_int_equal(verify(repository, "latest").points, POINTS);
    vdisk_repository_close(repository);
}

/* Every byte of each manifest, as those have it open who look later, and who looked before. */
static void test_every_byte_of_manifests(void **state)
{
    (void)state;
    struct vdisk_repository *before = make_points(POINTS, disks);
    struct vt_random random = {.state = 11};
    for (unsigned number = 1; number <= POINTS; number++) {
        char path[64];
        point_path(number, "json", path);
        size_t size = (size_t)file_bytes(path);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        assert_int_equal(fread(buf, 1, size, file), size);
        fclose(file);
        uint8_t *text = malloc(size);
        assert_non_null(text);
        memcpy(text, buf, size);
        for (size_t at = 0; at < size; at++) {
            struct vdisk_error err = {0};
            set_byte(path, at, text[at] ^ (uint8_t)(1 + vt_random_below(&random, 255)));
            expect_damage(verify(before, NULL), path, POINTS + 1 - number);
            struct vdisk_repository *after = open_repo(VD_REPOSITORY_READ);
            expect_damage(verify(after, NULL), path, POINTS + 1 - number);
            assert_int_equal(read_point(after, number - 1, &err), -EBADMSG);
            assert_non_null(strstr(err.message, path));
            assert_int_equal(read_point(after, POINTS - 1, NULL), -EBADMSG);
            vdisk_repository_close(after);
            set_byte(path, at, text[at]);
        }
        free(text);
    }
    vdisk_repository_close(before);
    expect_good();
}

static void test_every_byte_of_the_identity(void **state)
{
    (void)state;
    static const char path[] = REPO "/vdisk-repository.json";
    struct vdisk_repository *before = make_points(POINTS, disks);
    struct vt_random random = {.state = 12};
    size_t size = (size_t)file_bytes(path);
    for (size_t at = 0; at < size; at++) {
        struct vdisk_error err = {0};
        struct vdisk_repository *after;
        uint8_t byte;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        close(fd);
        set_byte(path, at, byte ^ (uint8_t)(1 + vt_random_below(&random, 255)));
        expect_damage(verify(before, NULL), path, 0);
        assert_int_equal(vdisk_repository_open(REPO, NULL, &after, &err), -EBADMSG);
        assert_non_null(strstr(err.message, path));
        set_byte(path, at, byte);
    }
    vdisk_repository_close(before);
    expect_good();
}

static unsigned rounds(void)
{
    const char *text = getenv("VDISK_TEST_ROUNDS");
    return text ? (unsigned)strtoul(text, NULL, 10) : VT_SHARE(300);
}

/* The first bytes of each image, which are the header, and others. */
static void test_bytes_of_images(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    struct vt_random random = {.state = 13};
    unsigned refused = 0;
    unsigned count = rounds();
    for (unsigned i = 0; i < count; i++) {
        char path[64];
        char words[128];
        uint64_t number = 1 + i % POINTS;
        uint64_t size = file_bytes(point_path(number, "qcow2", path));
        uint64_t at = i < count / 4 ? i / POINTS : vt_random_below(&random, size);
        uint64_t start = vd_round_down(at, POINT_BYTES);
        alter(number, at);
        snprintf(words, sizeof(words), "%s: bytes %llu to %llu: ", path, (unsigned long long)start,
                 (unsigned long long)(vd_min(start + POINT_BYTES, size) - 1));
        expect_damage(verify(repository, NULL), words, POINTS + 1 - number);
        for (size_t index = 0; index < POINTS; index++) {
            struct vdisk_error err = {0};
            int ret = read_point(repository, index, &err);
            assert_true(ret == 0 || ret == -EBADMSG);
            assert_true(ret == 0 || strstr(err.message, path));
            assert_true(ret == 0 || index + 1 >= number);
            refused += ret != 0;
        }
        if (i % 8 == 0)
            assert_int_equal(restore_point(repository, POINTS - 1),
                             read_point(repository, POINTS - 1, NULL));
        alter(number, at);
    }
    assert_true(refused >= count / 4); /* all those of headers, at least */
    vdisk_repository_close(repository);
    expect_good();
}

static void test_length_of_images(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    char path[64];
    off_t size = (off_t)file_bytes(point_path(2, "qcow2", path));
    assert_int_equal(truncate(path, size + 1), 0);
    expect_damage(verify(repository, NULL), "000002.qcow2: bytes", 2);
    assert_int_equal(truncate(path, size - 1), 0);
    expect_damage(verify(repository, NULL), "1 are missing", 2);
    assert_int_equal(truncate(path, 0), 0);
    expect_damage(verify(repository, NULL), "000002.qcow2: bytes 0 to ", 2);
    assert_int_equal(restore_point(repository, 1), -EBADMSG);
    assert_int_equal(restore_point(repository, 0), 0);
    vdisk_repository_close(repository);
}

static void test_missing_files(void **state)
{
    (void)state;
    vdisk_repository_close(make_points(POINTS, disks));
    assert_int_equal(rename(REPO "/000001.qcow2", "away"), 0);
    expect_damage(verify_anew(), "000001.qcow2: is missing", 3);
    assert_int_equal(symlink("../away", REPO "/000001.qcow2"), 0);
    expect_damage(verify_anew(), "000001.qcow2: is no regular file", 3);
    assert_int_equal(rename("away", REPO "/000001.qcow2"), 0);

    /* A lost manifest: of one that others lie on, and of the last. */
    struct vdisk_repository *before = open_repo(VD_REPOSITORY_READ);
    assert_int_equal(rename(REPO "/000002.json", "away"), 0);
    struct vdisk_verify_result result = verify_anew();
    assert_int_equal(result.damages, 2);
    assert_int_equal(result.points, 2);
    assert_int_equal(result.damaged_points, 1);
    assert_true(was_told("000003.json: point 3 lies on point 2, which is missing"));
    assert_true(was_told("000002.qcow2: its manifest is missing"));
    expect_damage(verify(before, NULL), "000002.json: is missing", 2);
    vdisk_repository_close(before);
    assert_int_equal(rename("away", REPO "/000002.json"), 0);

    assert_int_equal(rename(REPO "/000003.json", "away"), 0);
    expect_damage(verify_anew(), "000003.qcow2: its manifest is missing: point 3 is lost", 0);
    assert_int_equal(rename("away", REPO "/000003.json"), 0);
    expect_good();
}

static void add(struct vdisk_repository *repository, struct point_plan plan)
{
    make_image(&plan);
    make_manifest(repository, &plan);
}

/* Digests that are right, of images that are not what their manifests say. */
static void test_traps(void **state)
{
    (void)state;
    static const struct {
        struct point_plan plan;
        const char *words;
    } cases[] = {
        {{.number = 4, .parent = 3, .backing = "../secret"}, "its backing file is not the image"},
        {{.number = 4, .parent = 3, .backing = "000001.qcow2"}, "its backing file is not the"},
        {{.number = 4, .parent = 3, .has_no_backing = true}, "its backing file is not the image"},
        {{.number = 4, .parent = 3, .parent_seed = 1}, "and the one that is there has"},
        {{.number = 5, .parent = 4}, "lies on point 4, which is missing"},
    };
    put("secret", "of the user");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char path[64];
        struct vdisk_repository *repository = make_points(POINTS, disks);
        add(repository, cases[i].plan);
        VT_OK(vd_repository_reload(repository, &vt_err));
        expect_damage(verify(repository, NULL), cases[i].words, 1);
        assert_int_equal(verify(repository, "3").damages, 0);
        vdisk_repository_close(repository);
        for (unsigned k = 1; k <= 5; k++) {
            unlink(point_path(k, "qcow2", path));
            unlink(point_path(k, "json", path));
        }
    }
    struct vdisk_repository *repository = make_points(1, disks);
    struct point_plan plan = {.number = 2, .parent = 1};
    make_image(&plan);
    plan.disk_bytes = 2 * DISK_BYTES;
    make_manifest(repository, &plan);
    VT_OK(vd_repository_reload(repository, &vt_err));
    expect_damage(verify(repository, NULL), "not as long as its manifest says", 1);
    vdisk_repository_close(repository);
}

/* A manifest under the name of another point. */
static void test_renamed_manifest(void **state)
{
    (void)state;
    vdisk_repository_close(make_points(POINTS, disks));
    assert_int_equal(rename(REPO "/000003.json", REPO "/000004.json"), 0);
    struct vdisk_verify_result result = verify_anew();
    assert_int_equal(result.damages, 2);
    assert_true(was_told("000004.json: holds the manifest of point 3"));
    assert_true(was_told("000003.qcow2: its manifest is missing"));
    assert_int_equal(rename(REPO "/000004.json", REPO "/000003.json"), 0);
    expect_good();
}

static void test_versions(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(2, disks);
    char path[64];
    struct vd_manifest manifest;
    put(REPO "/000002.versions", "four");
    point_path(2, "json", path);
    VT_OK(vd_manifest_read(&manifest, repository->uuid, path, NULL, &vt_err));
    manifest.versions.name = strdup("000002.versions");
    make_table(REPO "/000002.versions", &manifest.versions.table);
    VT_OK(vd_manifest_write(&manifest, repository->uuid, path, NULL, &vt_err));
    vd_manifest_free(&manifest);
    vdisk_repository_close(repository);
    expect_good();

    /* Every point can still be restored, so none is spoilt. */
    set_byte(REPO "/000002.versions", 2, 'x');
    expect_damage(verify_anew(), "000002.versions: bytes 0 to 3", 0);
    assert_int_equal(unlink(REPO "/000002.versions"), 0);
    expect_damage(verify_anew(), "000002.versions: is missing", 0);
}

/* What somebody has put beside is told of, and is no damage. */
static void test_strangers(void **state)
{
    (void)state;
    static const char *const own[] = {"000009.qcow2.part", "partial.json", "partial.qcow2",
                                      "000009.json.part"};
    static const char *const strangers[] = {"notes.txt", "000002.qed", "00002.qcow2", "x.qcow2"};
    char path[64];
    struct vdisk_repository *repository = make_points(POINTS, disks);
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        snprintf(path, sizeof(path), REPO "/%s", own[i]);
        put(path, "x");
    }
    assert_int_equal(verify(repository, NULL).damages, 0);
    assert_int_equal(told.entries, 0);
    for (size_t i = 0; i < sizeof(strangers) / sizeof(strangers[0]); i++) {
        snprintf(path, sizeof(path), REPO "/%s", strangers[i]);
        put(path, "x");
        assert_int_equal(verify(repository, NULL).damages, 0);
        assert_int_equal(told.entries, 1);
        assert_true(was_told(path));
        assert_true(was_told("no damage"));
        assert_int_equal(verify(repository, "latest").damages, 0);
        assert_int_equal(told.entries, 0);
        assert_int_equal(unlink(path), 0);
    }
    vdisk_repository_close(repository);
}

/* Only what was asked for. */
static void test_one_point(void **state)
{
    (void)state;
    struct vdisk_repository *repository = make_points(POINTS, disks);
    struct vdisk_verify_options options = {.struct_bytes = sizeof(options), .point = "7"};
    struct vdisk_verify_result result = {.struct_bytes = sizeof(result)};
    alter(2, 70000);
    assert_int_equal(verify(repository, "1").damages, 0);
    expect_damage(verify(repository, "2"), "000002.qcow2: bytes 65536 to 131071", 1);
    expect_damage(verify(repository, "3"), "000002.qcow2: bytes 65536 to 131071", 2);
    VT_FAILS(ENOENT, vdisk_repository_verify(repository, &options, &result, &vt_err));
    options.point = "first";
    VT_FAILS(EINVAL, vdisk_repository_verify(repository, &options, &result, &vt_err));
    vdisk_repository_close(repository);

    set_byte(REPO "/000002.json", 20, 'x');
    repository = open_repo(VD_REPOSITORY_READ);
    expect_damage(verify(repository, "3"), "000002.json", 1);
    expect_damage(verify(repository, "2"), "000002.json", 1);
    vdisk_repository_close(repository);
}

/* ---- With a key, and points that vdisk_backup() has made ---- */

#define KEY "a secret of 22 bytes.."

static bool has_hmac(void)
{
    return vd_sha256("", 0, buf, NULL) == 0;
}

static struct vdisk_repository *open_with_key(const char *key)
{
    struct vdisk_repository *repository = NULL;
    struct vdisk_repository_options options = {
        .struct_bytes = sizeof(options), .key = key, .key_bytes = strlen(key)};
    VT_OK(vdisk_repository_open(REPO, &options, &repository, &vt_err));
    return repository;
}

/* Three points of "disk.raw", which is DISK_BYTES long. */
static void make_backups(struct vt_random *random)
{
    for (unsigned i = 0; i < POINTS; i++) {
        uint8_t *disk = disks + i * DISK_BYTES;
        struct vdisk_backup_options options = {
            .struct_bytes = sizeof(options),
            .flags = i ? VDISK_BACKUP_COMPARE : 0,
            .source = "disk.raw",
            .source_format = "raw",
            .repository = REPO,
            .key = KEY,
            .key_bytes = strlen(KEY),
        };
        if (i)
            memcpy(disk, disk - DISK_BYTES, DISK_BYTES);
        vt_random_fill(random, disk + i * 100000, 150000);
        FILE *file = fopen("disk.raw", "w");
        assert_non_null(file);
        assert_int_equal(fwrite(disk, 1, DISK_BYTES, file), DISK_BYTES);
        assert_int_equal(fclose(file), 0);
        VT_OK(vdisk_backup(&options, NULL, &vt_err));
    }
}

static void test_with_a_key(void **state)
{
    (void)state;
    if (!has_hmac())
        skip();
    struct vt_random random = {.state = 14};
    make_backups(&random);
    struct vdisk_repository *before = open_with_key(KEY);
    assert_int_equal(verify(before, NULL).damages, 0);
    unsigned count = rounds() / 2;
    for (unsigned i = 0; i < count; i++) {
        char path[64];
        struct vdisk_error err = {0};
        uint64_t number = 1 + i % POINTS;
        bool is_manifest = i / POINTS % 2;
        point_path(number, is_manifest ? "json" : "qcow2", path);
        uint64_t at = vt_random_below(&random, file_bytes(path));
        uint8_t was;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread(fd, &was, 1, (off_t)at), 1);
        close(fd);
        set_byte(path, at, was ^ (uint8_t)(1 + vt_random_below(&random, 255)));
        expect_damage(verify(before, NULL), path, POINTS + 1 - number);
        struct vdisk_repository *after = open_with_key(KEY);
        expect_damage(verify(after, NULL), path, POINTS + 1 - number);
        int ret = read_point(after, number - 1, &err);
        assert_true(ret == -EBADMSG || (ret == 0 && !is_manifest));
        vdisk_repository_close(after);
        set_byte(path, at, was);
    }
    vdisk_repository_close(before);
}

/* What somebody makes up who can write to the directory, and does not have the key. */
static void test_forged(void **state)
{
    (void)state;
    static const struct vd_seal_key keys[] = {{.bytes = NULL},
                                              {.bytes = "another secret........", .length = 22}};
    struct vt_random random = {.state = 15};
    struct vd_seal_key key = {.bytes = KEY, .length = strlen(KEY)};
    struct vd_manifest manifest;
    char path[64];
    if (!has_hmac())
        skip();
    make_backups(&random);
    struct vdisk_repository *before = open_with_key(KEY);
    point_path(2, "json", path);
    VT_OK(vd_manifest_read(&manifest, before->uuid, path, &key, &vt_err));
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        VT_OK(vd_manifest_write(&manifest, before->uuid, path, &keys[i], &vt_err));
        struct vdisk_repository *after = open_with_key(KEY);
        expect_damage(verify(after, NULL), path, 2);
        assert_int_equal(read_point(after, 1, NULL), -EBADMSG);
        assert_int_equal(restore_point(after, 2), -EBADMSG);
        assert_int_equal(restore_point(after, 0), 0);
        vdisk_repository_close(after);
    }
    VT_OK(vd_manifest_write(&manifest, before->uuid, path, &key, &vt_err));
    vd_manifest_free(&manifest);
    assert_int_equal(verify(before, NULL).damages, 0);
    vdisk_repository_close(before);
}

static int cancel(void *opaque, const struct vdisk_progress *progress)
{
    unsigned *calls = opaque;
    assert_string_equal(progress->phase, "verify");
    return ++*calls > 1;
}

static int watch(void *opaque, const struct vdisk_progress *progress)
{
    *(struct vdisk_progress *)opaque = *progress;
    return 0;
}

static void test_progress_and_options(void **state)
{
    (void)state;
    unsigned calls = 0;
    struct vdisk_progress last = {0};
    struct vdisk_repository *repository = make_points(POINTS, disks);
    struct vdisk_verify_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_verify_options options = {
        .struct_bytes = sizeof(options), .progress = cancel, .opaque = &calls};
    VT_FAILS(ECANCELED, vdisk_repository_verify(repository, &options, &result, &vt_err));

    /* Also with a file that is not there. */
    options.progress = watch;
    options.opaque = &last;
    assert_int_equal(unlink(REPO "/000003.qcow2"), 0);
    VT_OK(vdisk_repository_verify(repository, &options, &result, &vt_err));
    assert_int_equal(result.damages, 1);
    assert_true(last.total_bytes > POINTS * POINT_BYTES);
    assert_int_equal(last.done_bytes, last.total_bytes);

    VT_OK(vdisk_repository_verify(repository, NULL, &result, &vt_err));
    assert_int_equal(result.damages, 1);
    options.reserved = 1;
    VT_FAILS(EINVAL, vdisk_repository_verify(repository, &options, &result, &vt_err));
    result.struct_bytes--;
    VT_FAILS(EINVAL, vdisk_repository_verify(repository, NULL, &result, &vt_err));
    vdisk_repository_close(repository);
}

#define VERIFY_TEST(name) cmocka_unit_test_setup_teardown(name, enter_work_dir, leave_work_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        VERIFY_TEST(test_all_is_well),
        VERIFY_TEST(test_every_byte_of_manifests),
        VERIFY_TEST(test_every_byte_of_the_identity),
        VERIFY_TEST(test_bytes_of_images),
        VERIFY_TEST(test_length_of_images),
        VERIFY_TEST(test_missing_files),
        VERIFY_TEST(test_traps),
        VERIFY_TEST(test_renamed_manifest),
        VERIFY_TEST(test_versions),
        VERIFY_TEST(test_strangers),
        VERIFY_TEST(test_one_point),
        VERIFY_TEST(test_with_a_key),
        VERIFY_TEST(test_forged),
        VERIFY_TEST(test_progress_and_options),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
