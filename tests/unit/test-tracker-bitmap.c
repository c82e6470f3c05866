/* SPDX-License-Identifier: MIT */
/* Bitmaps of a qcow2 source: named, begun, trusted, kept and removed. */
#include "tracker-fixture.h"

#define DISK  "disk.qcow2"
#define BLOCK 65536u

static const struct vdisk_backup_options plain = {0};
static const struct vdisk_backup_options full = {.flags = VDISK_BACKUP_FULL};
static const struct vdisk_backup_options differential = {.flags = VDISK_BACKUP_DIFFERENTIAL};
static const struct vdisk_backup_options comparing = {.flags = VDISK_BACKUP_COMPARE};
static const struct vdisk_backup_options untracked = {.flags = VDISK_BACKUP_UNTRACKED |
                                                               VDISK_BACKUP_FULL};

static size_t count_bitmaps(void)
{
    struct vdisk_image *image = open_image(DISK, 0);
    size_t count;
    VT_OK(vdisk_bitmap_count(image, &count, &vt_err));
    close_image(image);
    return count;
}

static void change_bitmap(enum vdisk_bitmap_action_kind kind, const char *name)
{
    struct vdisk_image *image = open_image(DISK, VDISK_OPEN_WRITE);
    struct vdisk_bitmap_action action = {.kind = kind, .name = name};
    VT_OK(vdisk_bitmap_change(image, &action, 1, &vt_err));
    close_image(image);
}

/* The bitmap of the last point. */
static void last_bitmap(char name[128])
{
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_READ);
    snprintf(name, 128, "%s", last_point(repository, false)->bitmap);
    vdisk_repository_close(repository);
}

static void copy_file(const char *from, const char *to)
{
    char command[128];
    snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

static void what_was_written_is_wanted(void **state)
{
    (void)state;
    uint64_t changed;
    make_image(DISK, "qcow2", 100 * BLOCK, NULL);
    back_up(DISK, &plain, &changed); /* the first is a full one */
    assert_int_equal(changed, 100 * BLOCK);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
    write_image(DISK, 1, 7 * BLOCK + 5, 1);
    write_image(DISK, 2, 9 * BLOCK - 1, 2);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 3 * BLOCK);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
    back_up(DISK, &differential, &changed);
    assert_int_equal(changed, 3 * BLOCK);
    back_up(DISK, &full, &changed);
    assert_int_equal(changed, 100 * BLOCK);
    back_up(DISK, &differential, &changed);
    assert_int_equal(changed, 0);
}

static void others_keep_theirs(void **state)
{
    (void)state;
    struct vdisk_backup_options named = {.bitmap = "nightly"};
    char name[128];
    make_image(DISK, "qcow2", 10 * BLOCK, NULL);
    change_bitmap(VDISK_BITMAP_ADD, "mine");
    change_bitmap(VDISK_BITMAP_ADD, "vdisk-00000000-11111111"); /* of another repository */
    back_up(DISK, &named, NULL);
    last_bitmap(name);
    assert_int_equal(strncmp(name, "nightly-", 8), 0);
    assert_int_equal(strlen(name), 8 + 17);
    for (int i = 0; i < 4; i++)
        back_up(DISK, &plain, NULL);
    assert_int_equal(count_bitmaps(), 4); /* with those of the full point and the last one */
    back_up(DISK, &full, NULL);
    assert_int_equal(count_bitmaps(), 3);
}

static void without_a_record_nothing_is_begun(void **state)
{
    (void)state;
    uint64_t changed;
    char name[128];
    make_image(DISK, "qcow2", 10 * BLOCK, NULL);
    back_up(DISK, &untracked, NULL);
    assert_int_equal(count_bitmaps(), 0);
    back_up_fails(DISK, &plain, ENOTSUP, "make a full backup, or --compare");
    assert_int_equal(count_bitmaps(), 0);
    back_up(DISK, &comparing, &changed); /* all is looked at, and the next one need not */
    assert_int_equal(changed, 10 * BLOCK);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
    last_bitmap(name);
    change_bitmap(VDISK_BITMAP_DISABLE, name);
    back_up_fails(DISK, &plain, EUCLEAN, "disabled");
    change_bitmap(VDISK_BITMAP_REMOVE, name);
    back_up_fails(DISK, &plain, ENOTSUP, "no record of what has changed since point 3");
}

/* A writer that died. */
static void make_inconsistent(void)
{
    struct vdisk_image *image = open_image(DISK, VDISK_OPEN_WRITE);
    uint8_t byte = 1;
    VT_OK(vdisk_image_pwrite(image, &byte, 1, 0, &vt_err));
    VT_OK(vdisk_image_flush(image, &vt_err));
    copy_file(DISK, "copy");
    close_image(image);
    assert_int_equal(rename("copy", DISK), 0);
}

static void an_inconsistent_one_is_not_trusted(void **state)
{
    (void)state;
    uint64_t changed;
    char name[128];
    make_image(DISK, "qcow2", 10 * BLOCK, NULL);
    back_up(DISK, &plain, NULL);
    make_inconsistent();
    back_up_fails(DISK, &plain, EUCLEAN, "vdisk bitmap --recover");
    last_bitmap(name);
    change_bitmap(VDISK_BITMAP_RECOVER, name);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 10 * BLOCK);
    make_inconsistent();
    back_up(DISK, &comparing, NULL);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
    assert_int_equal(count_bitmaps(), 2); /* the full point's is for a differential */
}

static void an_unfinished_one_goes_on(void **state)
{
    (void)state;
    struct attempt attempt = {.options = plain};
    char uuid[VD_UUID_TEXT_BYTES];
    make_image(DISK, "qcow2", 10 * BLOCK, NULL);
    back_up(DISK, &plain, NULL);
    write_image(DISK, 1, 0, 1);
    attempt_open(&attempt, DISK, NULL);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    memcpy(uuid, attempt.manifest.uuid, sizeof(uuid));
    attempt_close(&attempt);
    write_image(DISK, 2, 5 * BLOCK, 1);

    attempt.options = (struct vdisk_backup_options){.bitmap = "other"};
    attempt_open(&attempt, DISK, uuid);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    struct vd_bitmap *bits = new_bits(&attempt);
    VT_OK(vd_tracker_changes_since_begin(attempt.tracker, bits, &vt_err));
    assert_int_equal(vd_bitmap_dirty_bytes(bits), BLOCK);
    assert_true(vd_bitmap_has(bits, vd_range(5 * BLOCK, 1)));
    vd_bitmap_clear_all(bits);
    VT_OK(vd_tracker_changes(attempt.tracker, bits, &vt_err));
    assert_int_equal(vd_bitmap_dirty_bytes(bits), 2 * BLOCK);
    vd_bitmap_free(bits);
    attempt_publish(&attempt);
    VT_OK(vd_tracker_settle(attempt.tracker, &vt_err));
    attempt_close(&attempt);
    assert_int_equal(count_bitmaps(), 2);
}

static void what_is_lost_meanwhile_is_not_gone_on_with(void **state)
{
    (void)state;
    struct attempt attempt = {.options = plain};
    char uuid[VD_UUID_TEXT_BYTES];
    make_image(DISK, "qcow2", 10 * BLOCK, NULL);
    attempt_open(&attempt, DISK, NULL);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    memcpy(uuid, attempt.manifest.uuid, sizeof(uuid));
    attempt_close(&attempt);
    make_inconsistent();
    attempt_open(&attempt, DISK, uuid);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    struct vd_bitmap *bits = new_bits(&attempt);
    assert_int_equal(vd_tracker_changes_since_begin(attempt.tracker, bits, NULL), -ENOTSUP);
    vd_bitmap_free(bits);
    assert_int_equal(vd_tracker_kind(attempt.tracker), VDISK_TRACKER_NONE);
    vd_tracker_cancel(attempt.tracker);
    attempt_close(&attempt);
    assert_int_equal(count_bitmaps(), 0);
}

/* It knows what it is since the point whose bitmap it has, and the points tell the rest. */
static void an_older_copy_is_no_matter(void **state)
{
    (void)state;
    uint64_t changed;
    make_image(DISK, "qcow2", 10 * BLOCK, NULL);
    back_up(DISK, &plain, NULL);
    write_image(DISK, 1, BLOCK, 1);
    copy_file(DISK, "old");
    write_image(DISK, 1, 2 * BLOCK, 1);
    back_up(DISK, &plain, NULL);
    write_image(DISK, 1, 4 * BLOCK, 1);
    back_up(DISK, &plain, NULL);
    assert_int_equal(rename("old", DISK), 0);
    write_image(DISK, 1, 3 * BLOCK, 1);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 4 * BLOCK);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
    back_up(DISK, &differential, &changed);
    assert_int_equal(changed, 2 * BLOCK);
}

/* What the second call copied is newer than the copy, whose bitmap knows nothing of it. */
static void a_copy_from_between_two_calls_is_noticed(void **state)
{
    (void)state;
    char uuid[VD_UUID_TEXT_BYTES] = "";
    uint64_t stale;
    make_image(DISK, "qcow2", 10 * BLOCK, NULL);
    assert_int_equal(back_up_dies(DISK, uuid, &stale), -ENOTSUP);
    copy_file(DISK, "old");
    write_image(DISK, 1, 0, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(back_up_dies(DISK, uuid, &stale), 0);
        assert_int_equal(stale, BLOCK);
    }
    assert_int_equal(rename("old", DISK), 0);
    for (int i = 0; i < 2; i++) /* and from then on */
        assert_int_equal(back_up_dies(DISK, uuid, &stale), -ENOTSUP);
    back_up(DISK, &plain, NULL);
    assert_int_equal(count_bitmaps(), 1);
}

static void what_is_behind_has_to_stay(void **state)
{
    (void)state;
    uint64_t changed;
    make_image("base", "raw", 10 * BLOCK, NULL);
    make_image(DISK, "qcow2", 10 * BLOCK, "base");
    back_up(DISK, &plain, NULL);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
    FILE *file = fopen("base", "r+");
    assert_non_null(file);
    assert_int_equal(fputc('x', file), 'x');
    assert_int_equal(fclose(file), 0);
    back_up_fails(DISK, &plain, ENOTSUP, "base, which is behind it, has changed since");
    back_up(DISK, &comparing, NULL);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
}

static void another_disk_is_refused(void **state)
{
    (void)state;
    struct vdisk_backup_options moved = {.flags = VDISK_BACKUP_MOVED | VDISK_BACKUP_FULL};
    uint64_t changed;
    make_image(DISK, "qcow2", 10 * BLOCK, NULL);
    back_up(DISK, &plain, NULL);
    make_image("other", "qcow2", 10 * BLOCK, NULL);
    back_up_fails("other", &plain, EXDEV, "--moved");
    back_up_fails("other", &full, EXDEV, "--moved");
    assert_int_equal(rename(DISK, "renamed"), 0); /* its bitmap proves that it is the same */
    back_up("renamed", &plain, &changed);
    assert_int_equal(changed, 0);
    back_up("other", &moved, NULL);
    back_up("other", &plain, NULL);
}

static void names_are_absolute(void **state)
{
    (void)state;
    char wanted[512];
    assert_int_equal(mkdir("d", 0777), 0);
    assert_int_equal(symlink("d", "link"), 0);
    make_image("d/" DISK, "qcow2", BLOCK, NULL);
    struct vdisk_image *image = open_image("link/../link/" DISK, 0);
    char *name = vd_tracker_source_name(image, NULL);
    assert_non_null(name);
    snprintf(wanted, sizeof(wanted), "%s/d/" DISK, work_dir);
    assert_string_equal(name, wanted);
    free(name);
    close_image(image);
}

static void formats_have_theirs(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        enum vdisk_tracker kind;
    } cases[] = {{"qcow2", VDISK_TRACKER_BITMAP},
                 {"gow3", VDISK_TRACKER_VERSIONS},
                 {"gow2", VDISK_TRACKER_NONE},
                 {"qed", VDISK_TRACKER_NONE}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vdisk_backup_options options = {.flags = VDISK_BACKUP_COMPARE};
        make_image("image", cases[i].format, BLOCK, NULL);
        struct vdisk_image *image = open_image("image", 0);
        assert_int_equal(vd_tracker_choose(&options, NULL, image), cases[i].kind);
        options.flags |= VDISK_BACKUP_UNTRACKED;
        assert_int_equal(vd_tracker_choose(&options, NULL, image), VDISK_TRACKER_NONE);
        close_image(image);
    }
    struct vdisk_create_options old = {
        .struct_bytes = sizeof(old), .size = BLOCK, .compat = "0.10"};
    VT_OK(vdisk_image_create("old", "qcow2", &old, &vt_err));
    struct vdisk_image *image = open_image("old", 0);
    assert_int_equal(vd_tracker_choose(&plain, NULL, image), VDISK_TRACKER_NONE);
    close_image(image);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, enter_work_dir, leave_work_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_written_is_wanted),
        TEST(others_keep_theirs),
        TEST(without_a_record_nothing_is_begun),
        TEST(an_inconsistent_one_is_not_trusted),
        TEST(an_unfinished_one_goes_on),
        TEST(what_is_lost_meanwhile_is_not_gone_on_with),
        TEST(an_older_copy_is_no_matter),
        TEST(a_copy_from_between_two_calls_is_noticed),
        TEST(what_is_behind_has_to_stay),
        TEST(another_disk_is_refused),
        TEST(names_are_absolute),
        TEST(formats_have_theirs),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("tracker-bitmap", tests, NULL, NULL);
}
