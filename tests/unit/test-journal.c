/* SPDX-License-Identifier: MIT */
/*
 * backup/journal: its steps, what is refused, and who finishes one that was cut off.  What happens
 * when it is cut at each of its calls is in tests/crash/test-journal.c.
 */
#include "repository-fixture.h"

#include <sys/wait.h>

#include "backup/journal.h"
#include "storage/storage.h"

#define JOURNAL REPO "/journal.json"

static struct vdisk_repository *open_for_change(void)
{
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    return open_repo(VD_REPOSITORY_CHANGE);
}

/* ---- Steps ---- */

static void steps_are_done(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_for_change();
    put(REPO "/a", "A");
    put(REPO "/b", "B");
    put(REPO "/c", "C");
    struct vd_journal journal;
    VT_OK(vd_journal_begin(&journal, repository, &vt_err));
    VT_OK(vd_journal_rename(&journal, "b", "c", &vt_err));
    VT_OK(vd_journal_rename(&journal, "a", "d", &vt_err));
    VT_OK(vd_journal_rename(&journal, "d", "e", &vt_err));
    VT_OK(vd_journal_remove(&journal, "nothing", &vt_err));
    VT_OK(vd_journal_remove(&journal, "c", &vt_err));
    assert_holds(REPO "/a", "A");
    assert_int_equal(vd_journal_is_pending(repository, NULL), 0);
    VT_OK(vd_journal_commit(&journal, &vt_err));
    vd_journal_end(&journal);
    vd_journal_end(&journal);
    assert_holds(REPO "/e", "A");
    static const char *const gone[] = {"a", "b", "c", "d", "journal.json", "journal.json.part"};
    for (size_t i = 0; i < sizeof(gone) / sizeof(gone[0]); i++) {
        char path[64];
        snprintf(path, sizeof(path), REPO "/%s", gone[i]);
        assert_false(exists(path));
    }
    assert_int_equal(vd_journal_is_pending(repository, NULL), 0);
    vdisk_repository_close(repository);
}

static void what_is_missing_is_told_before_anything_is_done(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_for_change();
    struct vd_journal journal;
    put(REPO "/a", "A");
    VT_OK(vd_journal_begin(&journal, repository, &vt_err));
    VT_OK(vd_journal_rename(&journal, "a", "b", &vt_err));
    VT_OK(vd_journal_rename(&journal, "x", "y", &vt_err));
    VT_FAILS(ENOENT, vd_journal_commit(&journal, &vt_err));
    vd_journal_end(&journal);
    assert_int_equal(vd_journal_is_pending(repository, NULL), 0);
    assert_holds(REPO "/a", "A");
    assert_int_equal(mkdir(REPO "/x", 0700), 0);
    VT_OK(vd_journal_begin(&journal, repository, &vt_err));
    VT_OK(vd_journal_rename(&journal, "a", "b", &vt_err));
    VT_OK(vd_journal_rename(&journal, "x", "y", &vt_err));
    VT_FAILS(EBADMSG, vd_journal_commit(&journal, &vt_err));
    vd_journal_end(&journal);
    assert_holds(REPO "/a", "A");
    vdisk_repository_close(repository);
}

static void a_file_that_is_in_use_is_not_changed(void **state)
{
    (void)state;
    static const uint8_t digest[VD_DIGEST_BYTES_MAX];
    struct vdisk_repository *repository = open_for_change();
    struct vd_storage *file = NULL;
    struct vd_journal journal;
    put(REPO "/log", "L");
    put(REPO "/a", "A");
    VT_OK(vd_storage_open(REPO "/a", NULL, &file, &vt_err));
    VT_OK(vd_journal_begin(&journal, repository, &vt_err));
    VT_OK(vd_journal_apply(&journal, "log", digest, "a", &vt_err));
    VT_FAILS(EAGAIN, vd_journal_commit(&journal, &vt_err));
    assert_false(journal.has_begun);
    assert_int_equal(vd_journal_is_pending(repository, NULL), 0);
    vd_journal_end(&journal);
    vd_storage_close(file);
    vdisk_repository_close(repository);
}

/* L2: a journal that is done twice does nothing the second time. */
static void a_name_taken_away_is_not_given_again(void **state)
{
    (void)state;
    struct vdisk_repository *repository = open_for_change();
    put(REPO "/a", "A");
    put(REPO "/b", "B");
    for (int i = 0; i < 2; i++) {
        struct vd_journal journal;
        VT_OK(vd_journal_begin(&journal, repository, &vt_err));
        if (i == 0)
            VT_OK(vd_journal_rename(&journal, "a", "c", &vt_err));
        else
            VT_OK(vd_journal_remove(&journal, "a", &vt_err));
        VT_OK(vd_journal_rename(&journal, "b", "a", &vt_err));
        VT_FAILS(EBADMSG, vd_journal_commit(&journal, &vt_err));
        vd_journal_end(&journal);
    }
    assert_int_equal(vd_journal_is_pending(repository, NULL), 0);
    assert_holds(REPO "/a", "A");
    assert_holds(REPO "/b", "B");
    vdisk_repository_close(repository);
}

static void names_are_plain(void **state)
{
    (void)state;
    static char long_name[300];
    memset(long_name, 'n', sizeof(long_name) - 1);
    const char *const names[] = {
        "",         ".",      "..",  "../a",         "x/y",  "/etc/passwd",
        ".a",       "a\nb",   "a b", "journal.json", "lock", "vdisk-repository.json",
        "\xc3\xa4", long_name};
    struct vdisk_repository *repository = open_for_change();
    put(REPO "/a", "A");
    put("a", "mine");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        for (int k = 0; k < 3; k++) {
            struct vd_journal journal;
            VT_OK(vd_journal_begin(&journal, repository, &vt_err));
            if (k == 0)
                VT_OK(vd_journal_rename(&journal, "a", names[i], &vt_err));
            else if (k == 1)
                VT_OK(vd_journal_rename(&journal, names[i], "b", &vt_err));
            else
                VT_OK(vd_journal_remove(&journal, names[i], &vt_err));
            VT_FAILS(EBADMSG, vd_journal_commit(&journal, &vt_err));
            vd_journal_end(&journal);
            assert_false(exists(JOURNAL));
        }
    }
    assert_holds(REPO "/a", "A");
    assert_holds("a", "mine");
    vdisk_repository_close(repository);
}

/* ---- What was cut off ---- */

/* A journal as somebody has left it: the steps are freed. */
static void leave_journal(const char *access, json_t *steps)
{
    json_t *object = NULL;
    VT_OK(vd_sealed_read(REPO "/vdisk-repository.json", NULL, 65536, &object, &vt_err));
    json_t *journal = json_pack("{s:i, s:O, s:s, s:o}", "vdisk-journal", 1, "repository",
                                json_object_get(object, "uuid"), "access", access, "steps", steps);
    assert_non_null(journal);
    VT_OK(vd_sealed_write(JOURNAL, journal, NULL, &vt_err));
    json_decref(journal);
    json_decref(object);
}

static json_t *rename_step(const char *from, const char *to)
{
    return json_pack("[{s:s, s:s, s:s}]", "do", "rename", "from", from, "to", to);
}

static void whoever_opens_finishes_it(void **state)
{
    (void)state;
    static const enum vd_repository_access accesses[] = {VD_REPOSITORY_READ, VD_REPOSITORY_ADD,
                                                         VD_REPOSITORY_CHANGE};
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    for (size_t i = 0; i < 6; i++) {
        enum vd_repository_access access = accesses[i / 2];
        put(REPO "/a", "A");
        put(REPO "/b", "B");
        leave_journal(i % 2 ? "add" : "change", rename_step("a", "b"));
        struct vdisk_repository *repository = open_repo(access), *other = NULL;
        assert_false(exists(JOURNAL));
        assert_false(exists(REPO "/a"));
        assert_holds(REPO "/b", "A");
        assert_int_equal(repository->access, access);
        /* It is locked as it was asked for again. */
        int ret = vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &other, NULL);
        assert_int_equal(ret, access == VD_REPOSITORY_READ ? 0 : -EAGAIN);
        vdisk_repository_close(other);
        ret = vd_repository_open(REPO, VD_REPOSITORY_CHANGE, NULL, &other, NULL);
        assert_int_equal(ret, -EAGAIN);
        ret = vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &other, NULL);
        assert_int_equal(ret, access == VD_REPOSITORY_CHANGE ? -EAGAIN : 0);
        if (ret == 0)
            vdisk_repository_close(other);
        vdisk_repository_close(repository);
    }
}

static void a_reader_keeps_a_merge_from_being_finished(void **state)
{
    (void)state;
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    struct vdisk_repository *reader = open_repo(VD_REPOSITORY_READ), *other = NULL;
    put(REPO "/a", "A");
    leave_journal("change", rename_step("a", "b"));
    VT_FAILS(EAGAIN, vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &other, &vt_err));
    VT_FAILS(EAGAIN, vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &other, &vt_err));
    VT_FAILS(EAGAIN, vd_repository_open(REPO, VD_REPOSITORY_CHANGE, NULL, &other, &vt_err));
    assert_holds(REPO "/a", "A");
    vdisk_repository_close(reader);
    vdisk_repository_close(open_repo(VD_REPOSITORY_READ));
    assert_holds(REPO "/b", "A");
}

/* L3 */
static void readers_and_a_backup_that_was_cut_off_go_together(void **state)
{
    (void)state;
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    struct vdisk_repository *reader = open_repo(VD_REPOSITORY_READ);
    put(REPO "/a", "A");
    leave_journal("add", rename_step("a", "b"));
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    assert_holds(REPO "/b", "A");
    assert_false(exists(JOURNAL));
    vdisk_repository_close(reader);
    /* While the backup is at it, it is let alone. */
    struct vdisk_repository *maker = open_repo(VD_REPOSITORY_ADD);
    put(REPO "/a", "A2");
    leave_journal("add", rename_step("a", "b"));
    vdisk_repository_close(open_repo(VD_REPOSITORY_READ));
    assert_holds(REPO "/a", "A2");
    struct vd_journal journal;
    VT_FAILS(EBUSY, vd_journal_begin(&journal, maker, &vt_err));
    vdisk_repository_close(maker);
    vdisk_repository_close(open_repo(VD_REPOSITORY_READ));
    assert_holds(REPO "/b", "A2");
    /* One that can not be finished hinders only who writes. */
    leave_journal("add", rename_step("gone", "nowhere"));
    vdisk_repository_close(open_repo(VD_REPOSITORY_READ));
    VT_FAILS(EBADMSG, vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &maker, &vt_err));
    assert_true(exists(JOURNAL));
}

static int open_to_read(void)
{
    struct vdisk_repository *repository = NULL;
    int ret = vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &repository, NULL);
    vdisk_repository_close(repository);
    return -ret;
}

/* Opens it as somebody who may only read: the errno that comes of it. */
static int open_as_nobody(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && (setgid(65534) < 0 || setuid(65534) < 0))
            _exit(255);
        _exit(open_to_read());
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void who_can_not_finish_it_is_told(void **state)
{
    (void)state;
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    assert_int_equal(chmod(work_dir, 0755), 0);
    put(REPO "/a", "A");
    for (int i = 0; i < 2; i++) {
        leave_journal(i ? "add" : "change", rename_step("a", "b"));
        assert_int_equal(chmod(JOURNAL, 0644), 0);
        assert_int_equal(chmod(REPO, 0555), 0);
        assert_int_equal(open_as_nobody(), i ? 0 : EROFS);
        assert_int_equal(chmod(REPO, 0755), 0);
        assert_true(exists(JOURNAL));
    }
    assert_holds(REPO "/a", "A");
}

/* ---- Damage ---- */

/* Opening fails, names the journal, and nothing is done. */
static void assert_refused(const char *what, size_t at)
{
    struct vdisk_repository *repository = NULL;
    for (int i = 0; i < 3; i++) {
        static const enum vd_repository_access accesses[] = {VD_REPOSITORY_READ, VD_REPOSITORY_ADD,
                                                             VD_REPOSITORY_CHANGE};
        struct vdisk_error err = {0};
        int ret = vd_repository_open(REPO, accesses[i], NULL, &repository, &err);
        if (ret != -EBADMSG || !strstr(err.message, JOURNAL))
            fail_msg("%s %zu: %d: %s", what, at, ret, err.message);
    }
    assert_holds(REPO "/a", "A");
    assert_holds(REPO "/b", "B");
    assert_true(exists(JOURNAL));
}

static void one_that_is_not_whole_is_refused(void **state)
{
    (void)state;
    char text[4096];
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    put(REPO "/a", "A");
    put(REPO "/b", "B");
    leave_journal("change", rename_step("a", "b"));
    int fd = open(JOURNAL, O_RDWR);
    assert_true(fd >= 0);
    ssize_t length = read(fd, text, sizeof(text));
    assert_true(length > 0 && (size_t)length < sizeof(text));
    for (ssize_t i = 0; i < length; i++) {
        uint8_t flipped = (uint8_t)(text[i] ^ 1);
        assert_int_equal(pwrite(fd, &flipped, 1, i), 1);
        assert_refused("byte", (size_t)i);
        assert_int_equal(pwrite(fd, &text[i], 1, i), 1);
    }
    for (ssize_t i = length - 1; i >= 0; i--) {
        assert_int_equal(ftruncate(fd, i), 0);
        assert_refused("length", (size_t)i);
    }
    assert_int_equal(pwrite(fd, text, (size_t)length, 0), length);
    assert_int_equal(pwrite(fd, "\n", 1, length), 1);
    assert_refused("length", (size_t)length + 1);
    assert_int_equal(ftruncate(fd, length), 0);
    close(fd);
    vdisk_repository_close(open_repo(VD_REPOSITORY_READ));
    assert_holds(REPO "/b", "A");
}

static void steps_that_nobody_should_do_are_refused(void **state)
{
    (void)state;
    static const char *const steps[] = {
        "{}",
        "[1]",
        "[{\"do\": \"rename\", \"from\": \"a\"}]",
        "[{\"do\": \"rename\", \"from\": \"a\", \"to\": 1}]",
        "[{\"do\": \"rename\", \"from\": \"a\", \"to\": \"a\"}]",
        "[{\"do\": \"rename\", \"from\": \"a\", \"to\": \"../stolen\"}]",
        "[{\"do\": \"rename\", \"from\": \"/etc/passwd\", \"to\": \"c\"}]",
        "[{\"do\": \"rename\", \"from\": \"a\", \"to\": \"vdisk-repository.json\"}]",
        "[{\"do\": \"remove\", \"name\": \"../a\"}]",
        "[{\"do\": \"remove\", \"name\": \"lock\"}]",
        "[{\"do\": \"remove\", \"name\": \"b\", \"more\": 1}]",
        "[{\"do\": \"erase\", \"name\": \"b\"}]",
        "[{\"name\": \"b\"}]",
        "[{\"do\": \"remove\", \"name\": \"x\"}, {\"do\": \"remove\"}]",
        "[{\"do\": \"apply\", \"log\": \"a\", \"digest\": \"00\", \"file\": \"b\"}]",
        "[{\"do\": \"apply\", \"log\": \"a\", \"digest\": "
        "\"0123456789abcdef0123456789abcdef\", \"file\": \"b\"}]",
        "[{\"do\": \"apply\", \"log\": \"a\", \"digest\": "
        "\"0123456789abcdef0123456789abcdef\", \"file\": \"x\"}]",
        "[{\"do\": \"apply\", \"log\": \"a\", \"file\": \"b\"}]",
        "[{\"do\": \"rename\", \"from\": \"a\", \"to\": \"c\"}, "
        "{\"do\": \"rename\", \"from\": \"b\", \"to\": \"a\"}]",
        "[{\"do\": \"rename\", \"from\": \"x\", \"to\": \"y\"}]",
    };
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    put(REPO "/a", "A");
    put(REPO "/b", "B");
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        json_t *json = json_loads(steps[i], 0, NULL);
        assert_non_null(json);
        leave_journal("change", json);
        assert_refused(steps[i], i);
    }
    leave_journal("read", rename_step("a", "c"));
    assert_refused("access", 0);
}

static void one_of_a_newer_vdisk_is_left_to_it(void **state)
{
    (void)state;
    json_t *object = NULL;
    struct vdisk_repository *repository = NULL;
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    put(REPO "/a", "A");
    leave_journal("add", rename_step("a", "b"));
    VT_OK(vd_sealed_read(JOURNAL, NULL, 65536, &object, &vt_err));
    assert_int_equal(json_object_set_new(object, "vdisk-journal", json_integer(2)), 0);
    assert_int_equal(json_object_set_new(object, "more", json_integer(2)), 0);
    VT_OK(vd_sealed_write(JOURNAL, object, NULL, &vt_err));
    json_decref(object);
    VT_FAILS(ENOTSUP, vdisk_repository_open(REPO, NULL, &repository, &vt_err));
    VT_FAILS(ENOTSUP, vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
    assert_holds(REPO "/a", "A");
}

static void one_of_another_repository_is_refused(void **state)
{
    (void)state;
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    leave_journal("change", rename_step("a", "c"));
    assert_int_equal(rename(REPO, "other"), 0);
    vdisk_repository_close(open_repo(VD_REPOSITORY_ADD));
    put(REPO "/a", "A");
    put(REPO "/b", "B");
    assert_int_equal(rename("other/journal.json", JOURNAL), 0);
    assert_refused("uuid", 0);
    assert_int_equal(unlink(JOURNAL), 0);
    assert_int_equal(symlink("../other/journal.json", JOURNAL), 0);
    assert_refused("symbolic link", 0);
    assert_int_equal(unlink(JOURNAL), 0);
    assert_int_equal(mkfifo(JOURNAL, 0600), 0);
    assert_refused("pipe", 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, enter_work_dir, leave_work_dir)
    const struct CMUnitTest tests[] = {
        TEST(steps_are_done),
        TEST(what_is_missing_is_told_before_anything_is_done),
        TEST(a_file_that_is_in_use_is_not_changed),
        TEST(a_name_taken_away_is_not_given_again),
        TEST(names_are_plain),
        TEST(whoever_opens_finishes_it),
        TEST(a_reader_keeps_a_merge_from_being_finished),
        TEST(readers_and_a_backup_that_was_cut_off_go_together),
        TEST(who_can_not_finish_it_is_told),
        TEST(one_that_is_not_whole_is_refused),
        TEST(steps_that_nobody_should_do_are_refused),
        TEST(one_of_a_newer_vdisk_is_left_to_it),
        TEST(one_of_another_repository_is_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
