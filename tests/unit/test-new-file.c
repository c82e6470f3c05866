/* SPDX-License-Identifier: MIT */
/* storage/new_file: a file gets its name when it is whole, and the old one stays until then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/new_file.h"

static char work_dir[256];

static int enter_work_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(work_dir, sizeof(work_dir), "%s/test-new-file-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
}

static int leave_work_dir(void **state)
{
    (void)state;
    return chdir("/") == 0 && rmdir(work_dir) == 0 ? 0 : -1;
}

static void put(const char *name, const char *text)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void assert_holds(const char *name, const char *text)
{
    char buf[64] = "";
    FILE *file = fopen(name, "r");
    assert_non_null(file);
    size_t got = fread(buf, 1, sizeof(buf) - 1, file);
    fclose(file);
    assert_int_equal(got, strlen(text));
    assert_string_equal(buf, text);
}

static unsigned count_files(void)
{
    unsigned count = 0;
    DIR *dir = opendir(".");
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return count;
}

static void a_new_name_appears_when_published(void **state)
{
    (void)state;
    struct vd_new_file file;
    assert_int_equal(vd_new_file_open(&file, "disk", NULL), 0);
    assert_string_not_equal(vd_new_file_place(&file), "disk");
    put(vd_new_file_place(&file), "whole");
    assert_int_equal(access("disk", F_OK), -1);
    assert_int_equal(vd_new_file_publish(&file, true, NULL), 0);
    vd_new_file_abandon(&file);
    assert_holds("disk", "whole");
    assert_int_equal(count_files(), 1);
    unlink("disk");
}

static void an_old_file_stays_when_abandoned(void **state)
{
    (void)state;
    struct vd_new_file file;
    put("disk", "old");
    assert_int_equal(vd_new_file_open(&file, "disk", NULL), 0);
    put(vd_new_file_place(&file), "half");
    vd_new_file_abandon(&file);
    assert_holds("disk", "old");
    assert_int_equal(count_files(), 1);
    unlink("disk");
}

static void mode_and_links_are_kept(void **state)
{
    (void)state;
    struct vd_new_file file;
    struct stat st;
    put("disk", "old");
    assert_int_equal(chmod("disk", 0640), 0);
    assert_int_equal(symlink("disk", "link"), 0);
    assert_int_equal(vd_new_file_open(&file, "link", NULL), 0);
    put(vd_new_file_place(&file), "new");
    assert_int_equal(vd_new_file_publish(&file, false, NULL), 0);
    vd_new_file_abandon(&file);
    assert_int_equal(lstat("link", &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(stat("disk", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_holds("disk", "new");
    unlink("link");
    unlink("disk");
}

static void what_can_not_be_is_said(void **state)
{
    (void)state;
    struct vd_new_file file;
    struct vdisk_error err = {0};
    assert_int_equal(vd_new_file_open(&file, "no/such/disk", &err), -ENOENT);
    assert_non_null(strstr(err.message, "no/such/disk"));
    vd_new_file_abandon(&file);

    assert_int_equal(symlink("loop", "loop"), 0);
    vdisk_error_clear(&err);
    assert_int_equal(vd_new_file_open(&file, "loop", &err), -ELOOP);
    assert_non_null(strstr(err.message, "loop"));
    vd_new_file_abandon(&file);
    unlink("loop");
    assert_int_equal(count_files(), 0);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_name_appears_when_published),
        cmocka_unit_test(an_old_file_stays_when_abandoned),
        cmocka_unit_test(mode_and_links_are_kept),
        cmocka_unit_test(what_can_not_be_is_said),
    };
    return cmocka_run_group_tests(tests, enter_work_dir, leave_work_dir);
}
