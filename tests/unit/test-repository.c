/* SPDX-License-Identifier: MIT */
/* backup/repository: what is made, opened and listed; damaged files, locks, and times. */
#include "repository-fixture.h"

#include <sched.h>
#include <stdatomic.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* ---- Making and opening ---- */

static void one_is_made_for_a_backup_only(void **state)
{
    (void)state;
    struct vdisk_repository *repository = NULL;
    VT_FAILS(ENOENT, vdisk_repository_open(REPO, NULL, &repository, &vt_err));
    VT_FAILS(ENOENT, vd_repository_open(REPO, VD_REPOSITORY_CHANGE, NULL, &repository, &vt_err));
    assert_false(exists(REPO));
    repository = open_repo(VD_REPOSITORY_ADD);
    char uuid[VD_UUID_TEXT_BYTES];
    memcpy(uuid, repository->uuid, sizeof(uuid));
    assert_true(vd_uuid_is_text(uuid));
    assert_int_equal(vdisk_repository_points(repository), 0);
    assert_int_equal(vd_repository_digest_kind(repository), VD_DIGEST_XXH128);
    vdisk_repository_close(repository);
    vdisk_repository_close(NULL);

    static const char *const names[] = {"repo", "repo/", "repo//", "./repo"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        VT_OK(vdisk_repository_open(names[i], NULL, &repository, &vt_err));
        assert_string_equal(repository->uuid, uuid);
        vdisk_repository_close(repository);
    }
    repository = open_repo(VD_REPOSITORY_ADD);
    assert_string_equal(repository->uuid, uuid);
    vdisk_repository_close(repository);
    struct stat st;
    assert_int_equal(stat(REPO, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
}

static void one_is_made_where_nothing_is(void **state)
{
    (void)state;
    struct vdisk_repository *repository = NULL;
    assert_int_equal(mkdir(REPO, 0755), 0);
    assert_int_equal(mkdir(REPO "/lost+found", 0755), 0);
    put(REPO "/vdisk-repository.json.part", "cut off");
    put(REPO "/lock", "");
    repository = open_repo(VD_REPOSITORY_ADD);
    vdisk_repository_close(repository);
    assert_true(exists(REPO "/vdisk-repository.json"));
    assert_false(exists(REPO "/vdisk-repository.json.part"));
}

static void nothing_is_made_among_files_of_somebody(void **state)
{
    (void)state;
    struct vdisk_repository *repository = NULL;
    assert_int_equal(mkdir(REPO, 0755), 0);
    put(REPO "/letter.txt", "Dear");
    VT_FAILS(ENOTEMPTY, vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
    VT_FAILS(ENOENT, vdisk_repository_open(REPO, NULL, &repository, &vt_err));
    assert_false(exists(REPO "/lock"));
    assert_false(exists(REPO "/vdisk-repository.json"));
    VT_FAILS(ENOTDIR,
             vd_repository_open(REPO "/letter.txt", VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
    VT_FAILS(ENOENT, vd_repository_open("no/" REPO, VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
    VT_FAILS(EINVAL, vd_repository_open("", VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
    VT_FAILS(EINVAL,
             vd_repository_open("nbd://host/x", VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
    assert_null(repository);
}

static void options_are_checked(void **state)
{
    (void)state;
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    struct vdisk_repository *repository = NULL;
    struct vdisk_repository_options options = {.struct_bytes = sizeof(options)};
    VT_OK(vdisk_repository_open(REPO, &options, &repository, &vt_err));
    assert_int_equal(repository->access, VD_REPOSITORY_READ);
    vdisk_repository_close(repository);
    options.flags = VDISK_REPOSITORY_WRITE;
    VT_OK(vdisk_repository_open(REPO, &options, &repository, &vt_err));
    assert_int_equal(repository->access, VD_REPOSITORY_CHANGE);
    vdisk_repository_close(repository);
    options.flags = VDISK_REPOSITORY_WRITE << 1;
    VT_FAILS(EINVAL, vdisk_repository_open(REPO, &options, &repository, &vt_err));
    options = (struct vdisk_repository_options){.struct_bytes = sizeof(options), .reserved = 1};
    VT_FAILS(EINVAL, vdisk_repository_open(REPO, &options, &repository, &vt_err));
    options = (struct vdisk_repository_options){.struct_bytes = sizeof(options) - 1};
    VT_FAILS(EINVAL, vdisk_repository_open(REPO, &options, &repository, &vt_err));
}

static void a_key_opens_what_it_has_made(void **state)
{
    (void)state;
    struct vdisk_repository *repository = NULL;
    struct vd_seal_key short_key = {.bytes = "fifteen bytes..", .length = 15};
    struct vd_seal_key key = {.bytes = "sixteen bytes...", .length = 16};
    struct vd_seal_key other = {.bytes = "sixteen others..", .length = 16};
    VT_FAILS(EINVAL, vd_repository_open(REPO, VD_REPOSITORY_ADD, &short_key, &repository, &vt_err));
    VT_OK(vd_repository_open(REPO, VD_REPOSITORY_ADD, &key, &repository, &vt_err));
    assert_int_equal(vd_repository_digest_kind(repository), VD_DIGEST_SHA256);
    add_point(repository, 1, 0, 1);
    vdisk_repository_close(repository);
    VT_FAILS(EKEYREJECTED,
             vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &repository, &vt_err));
    VT_FAILS(EKEYREJECTED,
             vd_repository_open(REPO, VD_REPOSITORY_ADD, &other, &repository, &vt_err));
    VT_OK(vd_repository_open(REPO, VD_REPOSITORY_READ, &key, &repository, &vt_err));
    assert_int_equal(vdisk_repository_points(repository), 1);
    assert_false(repository->points[0].is_damaged);
    vdisk_repository_close(repository);

    assert_int_equal(rename(REPO, "keyed"), 0);
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    VT_FAILS(EKEYREJECTED,
             vd_repository_open(REPO, VD_REPOSITORY_READ, &key, &repository, &vt_err));
}

/* Writes what the repository says of itself, sealed, with one member changed. */
static void forge_identity(const char *member, json_t *value)
{
    json_t *object = NULL;
    VT_OK(vd_sealed_read(REPO "/vdisk-repository.json", NULL, 65536, &object, &vt_err));
    if (value)
        assert_int_equal(json_object_set_new(object, member, value), 0);
    else
        assert_int_equal(json_object_del(object, member), 0);
    VT_OK(vd_sealed_write(REPO "/vdisk-repository.json", object, NULL, &vt_err));
    json_decref(object);
}

static void what_it_says_of_itself_is_checked(void **state)
{
    (void)state;
    struct {
        const char *member;
        json_t *value;
        int error;
    } rows[] = {
        {"vdisk-repository", NULL, EBADMSG},
        {"vdisk-repository", json_integer(0), EBADMSG},
        {"vdisk-repository", json_integer(2), ENOTSUP},
        {"vdisk-repository", json_string("1"), EBADMSG},
        {"uuid", json_string("../../../../../../../../../etc/passwd"), EBADMSG},
        {"uuid", NULL, EBADMSG},
        {"created", json_string("yesterday"), EBADMSG},
        {"keyed", json_true(), EBADMSG},
        {"more", json_integer(1), EBADMSG},
    };
    struct vdisk_repository *repository = NULL;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
        forge_identity(rows[i].member, rows[i].value);
        VT_FAILS(rows[i].error, vdisk_repository_open(REPO, NULL, &repository, &vt_err));
        VT_FAILS(rows[i].error,
                 vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
        assert_int_equal(unlink(REPO "/vdisk-repository.json"), 0);
    }
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    assert_int_equal(rename(REPO "/vdisk-repository.json", "identity"), 0);
    assert_int_equal(symlink("../identity", REPO "/vdisk-repository.json"), 0);
    VT_FAILS(EBADMSG, vdisk_repository_open(REPO, NULL, &repository, &vt_err));
    assert_int_equal(unlink(REPO "/vdisk-repository.json"), 0);
    assert_int_equal(mkfifo(REPO "/vdisk-repository.json", 0600), 0);
    VT_FAILS(EBADMSG, vdisk_repository_open(REPO, NULL, &repository, &vt_err));
}

/* ---- Points ---- */

static struct vdisk_point_info info_of(const struct vdisk_repository *repository, uint64_t number)
{
    for (size_t i = 0; i < vdisk_repository_points(repository); i++) {
        struct vdisk_point_info info = {.struct_bytes = sizeof(info)};
        VT_OK(vdisk_repository_point(repository, i, &info, &vt_err));
        if (info.number == number)
            return info;
    }
    fail_msg("there is no point %" PRIu64, number);
    return (struct vdisk_point_info){0};
}

static void points_are_listed_in_order(void **state)
{
    (void)state;
    static const uint64_t numbers[] = {1, 2, 3, 10, 999999, 1000000, 12345678, INT64_MAX};
    const size_t entries = sizeof(numbers) / sizeof(numbers[0]);
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    for (size_t i = entries; i-- > 0;)
        add_point(repository, numbers[i], i ? numbers[i - 1] : 0, (int64_t)i);
    /* Names that are none of theirs. */
    static const char *const others[] = {"00001.json",
                                         "0000001.json",
                                         "01000000.json",
                                         "000000.json",
                                         "000004.json.part",
                                         "000004.jsonx",
                                         "+00004.json",
                                         " 000004.json",
                                         "000004.JSON",
                                         "000004.qcow2",
                                         "x000004.json",
                                         "000004json",
                                         "0x0004.json",
                                         "9223372036854775808.json",
                                         "99999999999999999999999999.json"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        char path[128];
        snprintf(path, sizeof(path), REPO "/%s", others[i]);
        put(path, "{}");
    }
    assert_int_equal(vdisk_repository_points(repository), 0);
    VT_OK(vd_repository_reload(repository, &vt_err));
    assert_int_equal(vdisk_repository_points(repository), entries);
    for (size_t i = 0; i < entries; i++) {
        struct vdisk_point_info info = {.struct_bytes = sizeof(info)};
        VT_OK(vdisk_repository_point(repository, i, &info, &vt_err));
        assert_int_equal(info.number, numbers[i]);
        assert_int_equal(info.parent, i ? numbers[i - 1] : 0);
        assert_int_equal(info.flags, 0);
        assert_int_equal(info.created, 3600 * i);
        assert_int_equal(info.kind, i ? VDISK_POINT_INCREMENTAL : VDISK_POINT_FULL);
        assert_int_equal(info.stored_bytes, 1000 + numbers[i] % 1000);
        char name[40];
        snprintf(name, sizeof(name), "%06" PRIu64 ".qcow2", numbers[i]);
        assert_string_equal(info.image, name);
        snprintf(name, sizeof(name), "%06" PRIu64 ".json", numbers[i]);
        assert_string_equal(info.manifest, name);
        assert_string_equal(info.source, "/disks/a.qcow2");
        assert_ptr_equal(vd_repository_point_of(repository, numbers[i]), &repository->points[i]);
    }
    assert_null(vd_repository_point_of(repository, 0));
    assert_null(vd_repository_point_of(repository, 4));
    assert_null(vd_repository_point_of(repository, UINT64_MAX));
    struct vdisk_point_info info = {.struct_bytes = sizeof(info)};
    VT_FAILS(EINVAL, vdisk_repository_point(repository, entries, &info, &vt_err));
    info.struct_bytes++;
    VT_FAILS(EINVAL, vdisk_repository_point(repository, 0, &info, &vt_err));
    vdisk_repository_close(repository);
}

static void damaged_points_stay_in_the_list(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    for (uint64_t number = 1; number <= 9; number++)
        add_point(repository, number, number - 1, 1);
    add_point(repository, 20, 0, 1);
    add_point(repository, 23, 22, 1); /* one that is not there */
    add_point(repository, 24, 1, 1);  /* and one that is fine */
    put(REPO "/000003.json", "{}\n");
    assert_int_equal(unlink(REPO "/000005.json"), 0);
    assert_int_equal(symlink("000004.json", REPO "/000005.json"), 0);
    assert_int_equal(unlink(REPO "/000006.json"), 0);
    assert_int_equal(mkdir(REPO "/000006.json", 0700), 0);
    assert_int_equal(unlink(REPO "/000007.json"), 0);
    assert_int_equal(mkfifo(REPO "/000007.json", 0600), 0);
    assert_int_equal(unlink(REPO "/000008.json"), 0);
    assert_int_equal(link(REPO "/000001.json", REPO "/000008.json"), 0);
    assert_int_equal(truncate(REPO "/000009.json", 100), 0);
    assert_int_equal(unlink(REPO "/000020.json"), 0);
    assert_int_equal(symlink("nowhere", REPO "/000020.json"), 0);
    vdisk_repository_close(repository);

    static const struct {
        uint64_t number;
        uint32_t flags;
    } rows[] = {
        {1, 0},
        {2, 0},
        {3, VDISK_POINT_DAMAGED},
        {4, VDISK_POINT_ORPHAN},
        {5, VDISK_POINT_DAMAGED},
        {6, VDISK_POINT_DAMAGED},
        {7, VDISK_POINT_DAMAGED},
        {8, VDISK_POINT_DAMAGED},
        {9, VDISK_POINT_DAMAGED},
        {20, VDISK_POINT_DAMAGED},
        {23, VDISK_POINT_ORPHAN},
        {24, 0},
    };
    repository = open_repo(VD_REPOSITORY_READ);
    assert_int_equal(vdisk_repository_points(repository), 12);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct vdisk_point_info info = info_of(repository, rows[i].number);
        if (info.flags != rows[i].flags)
            fail_msg("point %" PRIu64 ": flags %#x", info.number, info.flags);
        struct vd_point *point = vd_repository_point_of(repository, rows[i].number);
        assert_int_equal(point->is_damaged, rows[i].flags == VDISK_POINT_DAMAGED);
        assert_int_equal(point->is_damaged, point->damage.code != 0);
        assert_int_equal(point->is_damaged, strstr(point->damage.message, point->file) != NULL);
    }
    vdisk_repository_close(repository);
}

static void a_parent_is_told_by_its_uuid(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    add_point(repository, 1, 0, 1);
    add_point(repository, 2, 1, 1);
    add_point(repository, 3, 2, 1);
    VT_OK(vd_repository_reload(repository, &vt_err));
    assert_int_equal(info_of(repository, 3).flags, 0);
    /* The same number, but made anew. */
    json_t *object = NULL;
    VT_OK(vd_sealed_read(REPO "/000001.json", NULL, 65536, &object, &vt_err));
    assert_int_equal(
        json_object_set_new(object, "uuid", json_string("00000000-0000-4000-8000-00000000abcd")),
        0);
    VT_OK(vd_sealed_write(REPO "/000001.json", object, NULL, &vt_err));
    json_decref(object);
    VT_OK(vd_repository_reload(repository, &vt_err));
    assert_int_equal(info_of(repository, 1).flags, 0);
    assert_int_equal(info_of(repository, 2).flags, VDISK_POINT_ORPHAN);
    assert_int_equal(info_of(repository, 3).flags, VDISK_POINT_ORPHAN);
    vdisk_repository_close(repository);
}

static void a_point_of_another_repository_is_damaged(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    add_point(repository, 1, 0, 1);
    vdisk_repository_close(repository);
    assert_int_equal(rename(REPO, "other"), 0);
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    assert_int_equal(rename("other/000001.json", REPO "/000001.json"), 0);
    repository = open_repo(VD_REPOSITORY_READ);
    assert_int_equal(info_of(repository, 1).flags, VDISK_POINT_DAMAGED);
    vdisk_repository_close(repository);
}

static void what_was_left_is_swept(void **state)
{
    (void)state;
    static const char *const left[] = {"000001.json.part", "000007.qcow2.part", "000003.redo.part",
                                       "1234567.versions.part"};
    static const char *const kept[] = {"000001.json",   "partial.json", "partial.qcow2",
                                       "00001.x.part",  "x.part",       "000001.part.qcow2",
                                       "000001-x.part", "000009.qcow2"};
    char path[64];
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    add_point(repository, 1, 0, 1);
    vdisk_repository_close(repository);
    static const enum vd_repository_access accesses[] = {VD_REPOSITORY_READ, VD_REPOSITORY_ADD,
                                                         VD_REPOSITORY_CHANGE};
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
            snprintf(path, sizeof(path), REPO "/%s", left[i]);
            put(path, "x");
        }
        for (size_t i = 1; i < sizeof(kept) / sizeof(kept[0]); i++) {
            snprintf(path, sizeof(path), REPO "/%s", kept[i]);
            put(path, "x");
        }
        vdisk_repository_close(open_repo(accesses[k]));
        for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
            snprintf(path, sizeof(path), REPO "/%s", left[i]);
            assert_int_equal(exists(path), accesses[k] == VD_REPOSITORY_READ);
        }
        for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
            snprintf(path, sizeof(path), REPO "/%s", kept[i]);
            assert_true(exists(path));
        }
    }
}

/* ---- Finding ---- */

#define NONE 99

static const struct {
    const char *point;
    int error;
    size_t index;
} found[] = {
    {NULL, 0, 4},
    {"latest", 0, 4},
    {"1", 0, 0},
    {"000001", 0, 0},
    {"5", 0, 2},
    {"2026", 0, 4},
    {"3", ENOENT, NONE},
    {"0", ENOENT, NONE},
    {"18446744073709551616", ENOENT, NONE},
    {"18446744073709551617", ENOENT, NONE}, /* 2^64 + 1 is not 1 */
    {"1970-01-01T09:59:59Z", ENOENT, NONE},
    {"1970-01-01T10:00:00Z", 0, 0},
    {"1970-01-01t10:00:00z", 0, 0},
    {"1970-01-01 10:00:00Z", 0, 0},
    {"1970-01-01T10:00:00.999Z", 0, 0},
    {"1970-01-01T12:00:00+02:00", 0, 0},
    {"1970-01-01T11:59:59+02:00", ENOENT, NONE},
    {"1970-01-01T04:30:00-05:30", 0, 0},
    {"1970-01-01T04:29:59-05:30", ENOENT, NONE},
    {"1970-01-01T21:59:60Z", 0, 2},
    {"1970-01-01T22:30:00Z", 0, 2},
    {"1970-01-01T23:30:00Z", 0, 2},
    {"1970-01-01", 0, 2},
    {"1969-12-31", ENOENT, NONE},
    {"1970-01-02", 0, 2},
    {"1970-01-03", 0, 3},
    {"1972-02-28", 0, 3},
    {"1972-02-29", 0, 4},
    {"1972-02-29T12:00:00Z", 0, 4},
    {"9999-12-31", 0, 4},
    {"0000-01-01", ENOENT, NONE},
    {"1970-02-29", EINVAL, NONE},
    {"1970-13-01", EINVAL, NONE},
    {"1970-00-01", EINVAL, NONE},
    {"1970-01-00", EINVAL, NONE},
    {"1970-1-1", EINVAL, NONE},
    {"19700101T000000Z", EINVAL, NONE},
    {"1970-01-01T", EINVAL, NONE},
    {"1970-01-01T24:00:00Z", EINVAL, NONE},
    {"1970-01-01T10:60:00Z", EINVAL, NONE},
    {"1970-01-01T10:00:61Z", EINVAL, NONE},
    {"1970-01-01T10:00Z", EINVAL, NONE},
    {"1970-01-01T10:00:00", EINVAL, NONE},
    {"1970-01-01T10:00:00.Z", EINVAL, NONE},
    {"1970-01-01T10:00:00+2:00", EINVAL, NONE},
    {"1970-01-01T10:00:00+24:00", EINVAL, NONE},
    {"1970-01-01T10:00:00Zx", EINVAL, NONE},
    {"", EINVAL, NONE},
    {"-1", EINVAL, NONE},
    {"+1", EINVAL, NONE},
    {"1x", EINVAL, NONE},
    {"last", EINVAL, NONE},
};

static void points_are_found_by_number_and_time(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    size_t index;
    VT_FAILS(ENOENT, vdisk_repository_find(repository, NULL, &index, &vt_err));
    /* Hours since 1970: 1 January 10:00, 1 January 23:00, and after the clock was set back 22:00,
     * 3 January 00:00, 29 February 1972 12:00 */
    add_point(repository, 1, 0, 10);
    add_point(repository, 2, 0, 23);
    add_point(repository, 5, 0, 22);
    add_point(repository, 7, 0, 48);
    add_point(repository, 2026, 0, (365 + 365 + 31 + 28) * 24 + 12);
    VT_OK(vd_repository_reload(repository, &vt_err));
    for (size_t i = 0; i < sizeof(found) / sizeof(found[0]); i++) {
        struct vdisk_error err = {0};
        index = NONE;
        int ret = vdisk_repository_find(repository, found[i].point, &index, &err);
        if (ret != -found[i].error || index != found[i].index || err.code != found[i].error)
            fail_msg("\"%s\": %d, index %zu: %s", found[i].point, ret, index, err.message);
    }
    vdisk_repository_close(repository);
}

static void a_damaged_point_is_not_passed_over(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    for (uint64_t number = 1; number <= 5; number++)
        add_point(repository, number, 0, (int64_t)number);
    put(REPO "/000003.json", "");
    put(REPO "/000005.json", "");
    VT_OK(vd_repository_reload(repository, &vt_err));
    size_t index;
    VT_OK(vdisk_repository_find(repository, "1970-01-01T01:00:00Z", &index, &vt_err));
    assert_int_equal(index, 0);
    VT_FAILS(EBADMSG, vdisk_repository_find(repository, "1970-01-01T02:00:00Z", &index, &vt_err));
    VT_FAILS(EBADMSG, vdisk_repository_find(repository, "1970-01-01T03:30:00Z", &index, &vt_err));
    VT_FAILS(EBADMSG, vdisk_repository_find(repository, "1970-01-01T04:00:00Z", &index, &vt_err));
    VT_OK(vdisk_repository_find(repository, "3", &index, &vt_err));
    assert_int_equal(index, 2);
    VT_OK(vdisk_repository_find(repository, NULL, &index, &vt_err));
    assert_int_equal(index, 4);
    vdisk_repository_close(repository);
}

/* ---- Locks ---- */

static const char *const reasons[] = {
    [VD_REPOSITORY_READ] = "being read",
    [VD_REPOSITORY_ADD] = "a backup is being made",
    [VD_REPOSITORY_CHANGE] = "merge or prune",
};

static void who_may_be_there_together(void **state)
{
    (void)state;
    static const struct {
        enum vd_repository_access first;
        enum vd_repository_access second;
        bool is_fine;
    } rows[] = {
        {VD_REPOSITORY_READ, VD_REPOSITORY_READ, true},
        {VD_REPOSITORY_READ, VD_REPOSITORY_ADD, true},
        {VD_REPOSITORY_READ, VD_REPOSITORY_CHANGE, false},
        {VD_REPOSITORY_ADD, VD_REPOSITORY_READ, true},
        {VD_REPOSITORY_ADD, VD_REPOSITORY_ADD, false},
        {VD_REPOSITORY_ADD, VD_REPOSITORY_CHANGE, false},
        {VD_REPOSITORY_CHANGE, VD_REPOSITORY_READ, false},
        {VD_REPOSITORY_CHANGE, VD_REPOSITORY_ADD, false},
        {VD_REPOSITORY_CHANGE, VD_REPOSITORY_CHANGE, false},
    };
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct vdisk_repository *first = open_repo(rows[i].first), *second = NULL;
        struct vdisk_error err = {0};
        int ret = vd_repository_open(REPO, rows[i].second, NULL, &second, &err);
        if (ret != (rows[i].is_fine ? 0 : -EAGAIN))
            fail_msg("row %zu: %d %s", i, ret, err.message);
        char who[32];
        snprintf(who, sizeof(who), "(process %ld ", (long)getpid());
        if (ret < 0 && (!strstr(err.message, reasons[rows[i].first]) || !strstr(err.message, who)))
            fail_msg("row %zu: %s", i, err.message);
        vdisk_repository_close(first);
        if (ret < 0)
            VT_OK(vd_repository_open(REPO, rows[i].second, NULL, &second, &vt_err));
        vdisk_repository_close(second);
    }
}

struct shared {
    atomic_int inside;
    atomic_int worst;
    atomic_int entered;
};

/* Opens the repository, made if it is not there, again and again. */
static int fight(struct shared *shared, enum vd_repository_access access, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        struct vdisk_repository *repository = NULL;
        struct vdisk_error err = {0};
        int ret = vd_repository_open(REPO, access, NULL, &repository, &err);
        if (ret == -EAGAIN || (ret == -ENOENT && access == VD_REPOSITORY_CHANGE)) {
            sched_yield();
            continue;
        }
        if (ret < 0) {
            fprintf(stderr, "# %d: %s\n", ret, err.message);
            return 1;
        }
        int inside = atomic_fetch_add(&shared->inside, 1) + 1;
        if (inside > 1)
            atomic_store(&shared->worst, inside);
        atomic_fetch_add(&shared->entered, 1);
        sched_yield();
        atomic_fetch_sub(&shared->inside, 1);
        vdisk_repository_close(repository);
    }
    return 0;
}

static void one_process_at_a_time_writes(void **state)
{
    (void)state;
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    pid_t pids[4];
    for (int i = 0; i < 4; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0)
            _exit(fight(shared, i == 3 ? VD_REPOSITORY_CHANGE : VD_REPOSITORY_ADD, 60));
    }
    for (int i = 0; i < 4; i++) {
        int status = -1;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(shared->worst, 0);
    assert_true(shared->entered > 0);
    munmap(shared, sizeof(*shared));
}

static void the_lock_ends_with_the_process(void **state)
{
    (void)state;
    int fds[2];
    char byte;
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct vdisk_repository *repository = NULL;
        if (vd_repository_open(REPO, VD_REPOSITORY_CHANGE, NULL, &repository, NULL) == 0 &&
            write(fds[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    struct vdisk_repository *repository = NULL;
    VT_FAILS(EAGAIN, vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &repository, &vt_err));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    repository = open_repo(VD_REPOSITORY_CHANGE);
    vdisk_repository_close(repository);
    close(fds[0]);
}

static void what_is_locked_is_a_file(void **state)
{
    (void)state;
    struct vdisk_repository *repository = NULL;
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    assert_int_equal(unlink(REPO "/lock"), 0);
    assert_int_equal(symlink("/etc/passwd", REPO "/lock"), 0);
    VT_FAILS(EBADMSG, vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &repository, &vt_err));
    assert_int_equal(unlink(REPO "/lock"), 0);
    assert_int_equal(mkfifo(REPO "/lock", 0600), 0);
    VT_FAILS(EBADMSG, vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
    assert_int_equal(unlink(REPO "/lock"), 0);
    assert_int_equal(mkdir(REPO "/lock", 0700), 0);
    VT_FAILS(EBADMSG, vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
}

/* Runs @body as somebody who owns nothing here.  Its result, 0 if all was as it should be. */
static int as_nobody(int (*body)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
            _exit(100);
        _exit(body());
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int read_and_lock(void)
{
    struct vdisk_repository *repository = NULL, *other = NULL;
    if (vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &repository, NULL) < 0)
        return 1;
    if (repository->lock_fd < 0 || vdisk_repository_points(repository) != 1)
        return 2;
    if (vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &other, NULL) != -EACCES)
        return 3;
    vdisk_repository_close(repository);
    return 0;
}

static int read_without_lock(void)
{
    struct vdisk_repository *repository = NULL;
    if (vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &repository, NULL) < 0)
        return 1;
    if (repository->lock_fd >= 0 || vdisk_repository_points(repository) != 1)
        return 2;
    vdisk_repository_close(repository);
    return 0;
}

static void who_may_not_write_reads(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    add_point(repository, 1, 0, 1);
    vdisk_repository_close(repository);
    assert_int_equal(chmod(work_dir, 0755), 0);
    assert_int_equal(chmod(REPO "/lock", 0444), 0);
    assert_int_equal(chmod(REPO "/000001.json", 0444), 0);
    assert_int_equal(chmod(REPO "/vdisk-repository.json", 0444), 0);
    assert_int_equal(chmod(REPO, 0555), 0);
    assert_int_equal(as_nobody(read_and_lock), 0);
    assert_int_equal(chmod(REPO, 0755), 0);
    assert_int_equal(unlink(REPO "/lock"), 0);
    assert_int_equal(chmod(REPO, 0555), 0);
    assert_int_equal(as_nobody(read_without_lock), 0);
    assert_int_equal(chmod(REPO, 0755), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, enter_work_dir, leave_work_dir)
    const struct CMUnitTest tests[] = {
        TEST(one_is_made_for_a_backup_only),
        TEST(one_is_made_where_nothing_is),
        TEST(nothing_is_made_among_files_of_somebody),
        TEST(options_are_checked),
        TEST(a_key_opens_what_it_has_made),
        TEST(what_it_says_of_itself_is_checked),
        TEST(points_are_listed_in_order),
        TEST(damaged_points_stay_in_the_list),
        TEST(a_parent_is_told_by_its_uuid),
        TEST(a_point_of_another_repository_is_damaged),
        TEST(what_was_left_is_swept),
        TEST(points_are_found_by_number_and_time),
        TEST(a_damaged_point_is_not_passed_over),
        TEST(who_may_be_there_together),
        TEST(one_process_at_a_time_writes),
        TEST(the_lock_ends_with_the_process),
        TEST(what_is_locked_is_a_file),
        TEST(who_may_not_write_reads),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
