/* SPDX-License-Identifier: MIT */
/* image/gate: which names of files get through, judged by the file that they lead to. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "drivers/check.h"
#include "image/gate.h"

static char work_dir[256];

/*
 *   in/          the image's own directory
 *     base  sub/base  out -> ../out/secret  up -> ..  fifo  dangling -> nowhere
 *   in-not/base
 *   out/secret
 */
static int make_work_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(work_dir, sizeof(work_dir), "%s/test-gate-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(work_dir) || chdir(work_dir) < 0 || mkdir("in", 0777) < 0 ||
        mkdir("in/sub", 0777) < 0 || mkdir("in-not", 0777) < 0 || mkdir("out", 0777) < 0 ||
        symlink("../out/secret", "in/out") < 0 || symlink("..", "in/up") < 0 ||
        symlink("nowhere", "in/dangling") < 0 || symlink("in", "alias") < 0 ||
        mkfifo("in/fifo", 0666) < 0)
        return -1;
    static const char *const files[] = {"in/base", "in/sub/base", "in-not/base", "out/secret"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        int fd = open(files[i], O_WRONLY | O_CREAT, 0666);
        if (fd < 0 || write(fd, files[i], 4) != 4 || close(fd) < 0)
            return -1;
    }
    return 0;
}

static int remove_work_dir(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", work_dir);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

/* May an image that was opened as @bearer have @name? */
static int ask(const struct vdisk_gate *policy, const char *bearer, const char *name,
               struct vdisk_error *err)
{
    struct vd_gate gate;
    struct vd_gate_pass pass;
    struct vd_named named;
    vd_gate_init(&gate, policy);
    int ret = vd_gate_trust_beside(&gate, bearer, false, err);
    if (ret == 0)
        ret = vd_named_resolve(&named, bearer, name, err);
    if (ret == 0)
        ret = vd_gate_ask(&gate, name, &named, &pass, err);
    vd_named_free(&named);
    vd_gate_destroy(&gate);
    return ret;
}

static const struct vdisk_gate beside = {.struct_bytes = sizeof(beside),
                                         .flags = VDISK_GATE_BESIDE};

static void check_permitted(const struct vdisk_gate *policy, const char *bearer, const char *name)
{
    VT_OK(ask(policy, bearer, name, &vt_err));
}

static void check_refused(const struct vdisk_gate *policy, const char *bearer, const char *name)
{
    struct vdisk_error err = {0};
    int ret = ask(policy, bearer, name, &err);
    if (ret != -EPERM)
        fail_msg("'%s' in '%s': %d, not refused: %s", name, bearer, ret, err.message);
    assert_non_null(strstr(err.message, "--allow-"));
}

static void nothing_is_permitted_by_default(void **state)
{
    (void)state;
    static const struct vdisk_gate nothing = {.struct_bytes = sizeof(nothing)};
    check_refused(NULL, "in/top", "base");
    check_refused(&nothing, "in/top", "base");
    /* Nor is it told what is there. */
    check_refused(&nothing, "in/top", "not-there");
    check_refused(&nothing, "in/top", "http://host/x");
    check_refused(&nothing, "http://host/top", "x");
}

static void beside_is_the_directory_and_what_is_below(void **state)
{
    (void)state;
    char absolute[300];
    check_permitted(&beside, "in/top", "base");
    check_permitted(&beside, "in/top", "sub/base");
    check_permitted(&beside, "in/top", "sub/../base");
    check_permitted(&beside, "in/top", "file:base");
    check_permitted(&beside, "in/top", "../in/base");
    check_permitted(&beside, "in/top", "up/in/base");
    check_permitted(&beside, "alias/top", "base");
    check_permitted(&beside, "in//top", "base");
    snprintf(absolute, sizeof(absolute), "%s/in/base", work_dir);
    check_permitted(&beside, "in/top", absolute);
    check_permitted(&beside, "alias/top", absolute);

    check_refused(&beside, "in/top", "../out/secret");
    check_refused(&beside, "in/top", "out"); /* a link that leads out */
    check_refused(&beside, "in/top", "up/out/secret");
    check_refused(&beside, "in/top", "../in-not/base"); /* begins alike */
    check_refused(&beside, "in/sub/top", "../base");
    check_refused(&beside, "in/top", "..");
    check_refused(&beside, "in/top", "/etc/passwd");
    check_refused(&beside, "in/top", "/dev/null");
    VT_FAILS(ENOENT, ask(&beside, "in/top", "not-there", &vt_err));
    VT_FAILS(ENOENT, ask(&beside, "in/top", "dangling", &vt_err));
}

static void the_message_tells_where_a_link_leads(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    char target[300];
    assert_int_equal(ask(&beside, "in/top", "out", &err), -EPERM);
    snprintf(target, sizeof(target), "%s/out/secret", work_dir);
    assert_non_null(strstr(err.message, "'out'"));
    assert_non_null(strstr(err.message, target));
}

static void paths_permit_files_and_directories(void **state)
{
    (void)state;
    static const struct {
        const char *allowed;
        bool base, secret, not_base;
    } rows[] = {
        {"in", true, false, false},
        {"in/", true, false, false},
        {"in/.//", true, false, false},
        {"alias", true, false, false},
        {"in/base", true, false, false},
        {"out", false, true, false},
        {"out/secret", false, true, false},
        {"in/out", false, true, false}, /* the link's file */
        {".", true, true, true},
        {"in/up", true, true, true},
        {"not-there", false, false, false},
        {"in/bas", false, false, false},
        {"/", true, true, true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct vdisk_gate policy = {
            .struct_bytes = sizeof(policy), .paths = &rows[i].allowed, .path_entries = 1};
        print_message("# --allow-path %s\n", rows[i].allowed);
        (rows[i].base ? check_permitted : check_refused)(&policy, "in/top", "base");
        (rows[i].secret ? check_permitted : check_refused)(&policy, "in/top", "out");
        (rows[i].not_base ? check_permitted : check_refused)(&policy, "in/top", "../in-not/base");
    }
}

static void urls_are_permitted_by_how_they_begin(void **state)
{
    (void)state;
    static const struct {
        const char *allowed;
        const char *name;
        bool is_permitted;
    } rows[] = {
        {"http://h/dir/", "http://h/dir/x", true},
        {"http://h/dir/", "http://h/dir/sub/x?y", true},
        {"http://h/dir/", "http://h/dirx", false},
        {"http://h/dir/", "http://h/dir", false},
        {"http://h/dir", "http://h/dir/x", true},
        {"http://h/dir", "http://h/dir?x", true},
        {"http://h/dir", "http://h/dirx", false},
        {"http://h", "http://h/x", true},
        {"http://h", "http://h.evil/x", false},
        {"http://h", "http://h@evil/x", false},
        {"http://h", "http://h:80/x", false},
        {"http://h", "http://h?@evil/x", false},
        {"http://h/", "https://h/x", false},
        {"http://h/dir/", "http://h/dir/../x", false},
        {"http://h/dir/", "http://h/dir/%2e%2E/x", false},
        {"http://h/dir/", "http://h/dir/..%2fx", false},
        {"http://h/dir/", "http://h/dir\\..\\x", false},
        {"h/dir/", "http://h/dir/x", false},
        {"nbd://h/", "nbd://h/x", true},
        {"nbd://h", "nbd://h:1/x", false},
        {"nbd+unix:///e?socket=/s", "nbd+unix:///e?socket=/s", true},
        {"nbd+unix:///e?socket=/s", "nbd+unix:///e?socket=/s&socket=/t", false},
        {"nbd+unix:///e?socket=/s", "nbd+unix:///e?socket=/t", false},
        {"/", "http://h/dir/x", false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct vdisk_gate policy = {
            .struct_bytes = sizeof(policy), .paths = &rows[i].allowed, .path_entries = 1};
        print_message("# --allow-path %s, %s\n", rows[i].allowed, rows[i].name);
        (rows[i].is_permitted ? check_permitted : check_refused)(&policy, "in/top", rows[i].name);
    }
    check_permitted(&beside, "http://h/dir/top?token=a/b", "base");
    check_permitted(&beside, "http://h/dir/top", "sub/base");
    check_permitted(&beside, "http://h/dir/top", "/dir/base");
    check_refused(&beside, "http://h/dir/top", "../base");
    check_refused(&beside, "http://h/dir/top", "/base");
    check_refused(&beside, "http://h/dir/top", "http://other/dir/base");
    check_refused(&beside, "in/top", "http://h/dir/base");
    check_permitted(&beside, "nbd://h/top", "base");
    check_refused(&beside, "nbd://h/top", "nbd://h:1/base");
    check_refused(&beside, "nbd://h/top", "nbd+unix:///base?socket=/s");
    check_refused(&beside, "nbd+unix:///top?socket=/s", "nbd+unix:///base?socket=/t");
    check_refused(&beside, "nbd+unix:///top?socket=/s", "nbd+unix:///top?socket=/s");
    check_refused(&beside, "in/top", "nbd://h/base");
}

static void json_needs_leave_of_its_own(void **state)
{
    (void)state;
    static const char json[] = "json:{\"filename\":\"base\"}";
    static const char out[] = "json:{\"filename\":\"../out/secret\"}";
    const struct vdisk_gate with = {.struct_bytes = sizeof(with),
                                    .flags = VDISK_GATE_BESIDE | VDISK_GATE_JSON};
    const struct vdisk_gate only = {.struct_bytes = sizeof(only), .flags = VDISK_GATE_JSON};
    struct vdisk_error err = {0};
    check_refused(&beside, "in/top", json);
    assert_int_equal(ask(&beside, "in/top", json, &err), -EPERM);
    assert_non_null(strstr(err.message, "--allow-json"));
    check_permitted(&with, "in/top", json);
    check_refused(&with, "in/top", out); /* the file is asked about all the same */
    check_refused(&only, "in/top", json);
}

static void any_is_any(void **state)
{
    (void)state;
    const struct vdisk_gate any = {.struct_bytes = sizeof(any), .flags = VDISK_GATE_ANY};
    check_permitted(&any, "in/top", "out");
    check_permitted(&any, "in/top", "/etc/passwd");
    check_permitted(&any, "in/top", "http://h/../x");
    check_permitted(&any, "in/top", "json:{\"filename\":\"out\"}");
}

/* Somebody puts another file in the place of the one that was asked about. */
static void another_file_is_not_confirmed(void **state)
{
    (void)state;
    static const char *const first[] = {"in/base", "in/fifo"};
    for (size_t i = 0; i < 2; i++) {
        struct vd_gate gate;
        struct vd_gate_pass pass;
        struct vd_named named;
        struct vd_storage *storage;
        vd_gate_init(&gate, &beside);
        VT_OK(vd_gate_trust_beside(&gate, "in/top", false, &vt_err));
        assert_int_equal(link(first[i], "in/moving"), 0);
        VT_OK(vd_named_resolve(&named, "in/top", "moving", &vt_err));
        VT_OK(vd_gate_ask(&gate, "moving", &named, &pass, &vt_err));
        assert_int_equal(unlink("in/moving"), 0);
        assert_int_equal(symlink("../out/secret", "in/moving"), 0);
        VT_OK(vd_storage_open(named.path, NULL, &storage, &vt_err));
        VT_FAILS(EPERM, vd_gate_confirm(&pass, storage, &vt_err));
        vd_storage_close(storage);

        VT_OK(vd_storage_open("in/base", NULL, &storage, &vt_err));
        assert_int_equal(vd_gate_confirm(&pass, storage, NULL), i == 0 ? 0 : -EPERM);
        vd_storage_close(storage);
        assert_int_equal(unlink("in/moving"), 0);
        vd_named_free(&named);
        vd_gate_destroy(&gate);
    }
}

static void what_a_caller_trusts_needs_no_flag(void **state)
{
    (void)state;
    struct vd_gate gate;
    struct vd_gate_pass pass;
    struct vd_named named;
    vd_gate_init(&gate, NULL);
    VT_OK(vd_gate_trust_beside(&gate, "in/top", true, &vt_err));
    VT_OK(vd_named_resolve(&named, "in/top", "base", &vt_err));
    VT_OK(vd_gate_ask(&gate, "base", &named, &pass, &vt_err));
    /* The next one takes the place of the first. */
    VT_OK(vd_gate_trust_beside(&gate, "out/top", true, &vt_err));
    VT_FAILS(EPERM, vd_gate_ask(&gate, "base", &named, &pass, &vt_err));
    VT_FAILS(ENOENT, vd_gate_trust_beside(&gate, "not-there/top", true, &vt_err));
    VT_FAILS(EPERM, vd_gate_ask(&gate, "base", &named, &pass, &vt_err));
    vd_named_free(&named);
    vd_gate_destroy(&gate);
}

static void unknown_policies_are_refused(void **state)
{
    (void)state;
    static const char *const empty[] = {"", NULL};
    const struct vdisk_gate bad[] = {
        {.struct_bytes = 0},
        {.struct_bytes = sizeof(bad[0]), .flags = 1u << 30},
        {.struct_bytes = sizeof(bad[0]), .images_max = VDISK_CHAIN_IMAGES_MAX + 1},
        {.struct_bytes = sizeof(bad[0]), .path_entries = 1},
        {.struct_bytes = sizeof(bad[0]), .paths = empty, .path_entries = 1},
        {.struct_bytes = sizeof(bad[0]), .paths = empty + 1, .path_entries = 1},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        VT_FAILS(EINVAL, vd_gate_check_policy(&bad[i], &vt_err));
    VT_OK(vd_gate_check_policy(NULL, &vt_err));
    VT_OK(vd_gate_check_policy(&beside, &vt_err));
    assert_int_equal(vd_gate_images_max(NULL), VDISK_CHAIN_IMAGES_MAX);
    assert_int_equal(vd_gate_images_max(&beside), VDISK_CHAIN_IMAGES_MAX);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_permitted_by_default),
        cmocka_unit_test(beside_is_the_directory_and_what_is_below),
        cmocka_unit_test(the_message_tells_where_a_link_leads),
        cmocka_unit_test(paths_permit_files_and_directories),
        cmocka_unit_test(urls_are_permitted_by_how_they_begin),
        cmocka_unit_test(json_needs_leave_of_its_own),
        cmocka_unit_test(any_is_any),
        cmocka_unit_test(another_file_is_not_confirmed),
        cmocka_unit_test(what_a_caller_trusts_needs_no_flag),
        cmocka_unit_test(unknown_policies_are_refused),
    };
    return cmocka_run_group_tests(tests, make_work_dir, remove_work_dir);
}
