/* SPDX-License-Identifier: MIT */
/* Versions of a GOW3 source, and what an add-cow overlay has of its own. */
#include "tracker-fixture.h"

#define DISK  "disk"
#define BLOCK 65536u

static const struct vdisk_backup_options plain = {0};
static const struct vdisk_backup_options full = {.flags = VDISK_BACKUP_FULL};
static const struct vdisk_backup_options differential = {.flags = VDISK_BACKUP_DIFFERENTIAL};
static const struct vdisk_backup_options comparing = {.flags = VDISK_BACKUP_COMPARE};
static const struct vdisk_backup_options untracked = {.flags = VDISK_BACKUP_UNTRACKED |
                                                               VDISK_BACKUP_FULL};

static void copy_file(const char *from, const char *to)
{
    char command[128];
    snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

static void resize_image(const char *name, uint64_t size)
{
    struct vdisk_image *image = open_image(name, VDISK_OPEN_WRITE);
    VT_OK(vdisk_image_resize(image, size, VDISK_PREALLOCATION_OFF, &vt_err));
    close_image(image);
}

/* --- GOW3 --------------------------------------------------------------------------------------
 */

static void blocks_of_another_version_are_wanted(void **state)
{
    (void)state;
    uint64_t changed;
    make_image(DISK, "gow3", 100 * BLOCK, NULL);
    write_image(DISK, 1, 0, 20 * BLOCK);
    back_up(DISK, &plain, NULL);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
    write_image(DISK, 2, 7 * BLOCK, 1);
    write_image(DISK, 2, 50 * BLOCK - 1, 2);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 3 * BLOCK);
    back_up(DISK, &differential, &changed);
    assert_int_equal(changed, 3 * BLOCK);
    resize_image(DISK, 110 * BLOCK);
    back_up(DISK, &plain, &changed); /* who knows what is there */
    assert_int_equal(changed, 10 * BLOCK);
    resize_image(DISK, 19 * BLOCK + 512);
    resize_image(DISK, 100 * BLOCK);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 3 * BLOCK); /* two that were cut off, and one in part */
}

static void images_of_another_lineage_are_refused(void **state)
{
    (void)state;
    struct vdisk_backup_options moved = {.flags = VDISK_BACKUP_MOVED};
    struct vdisk_backup_options moved_full = {.flags = VDISK_BACKUP_MOVED | VDISK_BACKUP_FULL};
    uint64_t changed;
    make_image(DISK, "gow3", 10 * BLOCK, NULL);
    back_up(DISK, &plain, NULL);
    assert_int_equal(rename(DISK, "renamed"), 0); /* the UUID tells that it is the same */
    back_up("renamed", &plain, &changed);
    assert_int_equal(changed, 0);
    make_image(DISK, "gow3", 10 * BLOCK, NULL);
    back_up_fails(DISK, &plain, EXDEV, "a replica gets its master's UUID by a sync");
    back_up_fails(DISK, &full, EXDEV, "--moved");
    back_up_fails(DISK, &moved, ENOTSUP, "another UUID");
    back_up(DISK, &moved_full, NULL);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
    back_up(DISK, &untracked, NULL);
    back_up_fails(DISK, &plain, ENOTSUP, "no record of what has changed since point 5");
    back_up(DISK, &comparing, NULL);
    back_up(DISK, &plain, NULL);
}

static void an_older_copy_is_noticed(void **state)
{
    (void)state;
    struct attempt attempt = {.options = plain};
    make_image(DISK, "gow3", 10 * BLOCK, NULL);
    copy_file(DISK, "old");
    write_image(DISK, 1, 0, 1);
    back_up(DISK, &plain, NULL);
    assert_int_equal(rename("old", DISK), 0);
    write_image(DISK, 1, BLOCK, 1);
    attempt_open(&attempt, DISK, NULL);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    struct vd_bitmap *bits = new_bits(&attempt);
    VT_FAILS(EUCLEAN, vd_tracker_changes(attempt.tracker, bits, &vt_err));
    vd_bitmap_free(bits);
    vd_tracker_cancel(attempt.tracker);
    attempt_close(&attempt);
}

/* A writer that died: its versions may be behind. */
static void an_image_that_was_not_closed_is_refused(void **state)
{
    (void)state;
    make_image(DISK, "gow3", 10 * BLOCK, NULL);
    struct vdisk_image *image = open_image(DISK, VDISK_OPEN_WRITE);
    uint8_t byte = 1;
    VT_OK(vdisk_image_pwrite(image, &byte, 1, 0, &vt_err));
    copy_file(DISK, "copy");
    close_image(image);
    back_up_fails("copy", &plain, EUCLEAN, "opened for writing");
    close_image(open_image("copy", VDISK_OPEN_WRITE));
    back_up("copy", &plain, NULL);
}

static void an_altered_file_of_versions_is_noticed(void **state)
{
    (void)state;
    struct attempt attempt = {.options = plain};
    make_image(DISK, "gow3", 10 * BLOCK, NULL);
    back_up(DISK, &plain, NULL);
    FILE *file = fopen(REPO "/000001.versions", "r+");
    assert_non_null(file);
    assert_int_equal(fputc(1, file), 1);
    assert_int_equal(fclose(file), 0);
    attempt_open(&attempt, DISK, NULL);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    struct vd_bitmap *bits = new_bits(&attempt);
    VT_FAILS(EBADMSG, vd_tracker_changes(attempt.tracker, bits, &vt_err));
    vd_bitmap_free(bits);
    attempt_close(&attempt);
}

static void an_unfinished_one_goes_on(void **state)
{
    (void)state;
    struct attempt attempt = {.options = plain};
    char uuid[VD_UUID_TEXT_BYTES];
    uint64_t changed;
    make_image(DISK, "gow3", 10 * BLOCK, NULL);
    back_up(DISK, &plain, NULL);
    write_image(DISK, 1, 0, 1);
    attempt_open(&attempt, DISK, NULL);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    memcpy(uuid, attempt.manifest.uuid, sizeof(uuid));
    attempt_close(&attempt);
    write_image(DISK, 2, 5 * BLOCK, 1);
    for (int i = 0; i < 2; i++) {
        attempt.options = plain;
        attempt_open(&attempt, DISK, uuid);
        VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
        struct vd_bitmap *bits = new_bits(&attempt);
        VT_OK(vd_tracker_changes_since_begin(attempt.tracker, bits, &vt_err));
        assert_int_equal(vd_bitmap_dirty_bytes(bits), BLOCK);
        assert_true(vd_bitmap_has(bits, vd_range(5 * BLOCK, 1)));
        vd_bitmap_free(bits);
        if (i == 1)
            attempt_publish(&attempt);
        attempt_close(&attempt);
    }
    assert_false(exists(REPO "/" VD_PARTIAL_VERSIONS_NAME));
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 0);
}

/* What the second call copied is newer than the copy. */
static void a_copy_from_between_two_calls_is_noticed(void **state)
{
    (void)state;
    char uuid[VD_UUID_TEXT_BYTES] = "";
    uint64_t stale;
    make_image(DISK, "gow3", 10 * BLOCK, NULL);
    assert_int_equal(back_up_dies(DISK, uuid, &stale), -ENOTSUP);
    copy_file(DISK, "old");
    write_image(DISK, 1, 0, 1);
    assert_int_equal(back_up_dies(DISK, uuid, &stale), 0);
    assert_int_equal(stale, BLOCK);
    assert_int_equal(rename("old", DISK), 0);
    assert_int_equal(back_up_dies(DISK, uuid, &stale), 0);
    assert_int_equal(stale, BLOCK);
    assert_int_equal(unlink(REPO "/" VD_PARTIAL_VERSIONS_NAME), 0); /* nor is another begun */
    for (int i = 0; i < 2; i++)
        assert_int_equal(back_up_dies(DISK, uuid, &stale), -ENOTSUP);
}

/* --- add-cow -----------------------------------------------------------------------------------
 */

static void scribble_on_base(const char *mode)
{
    FILE *file = fopen("base", mode);
    assert_non_null(file);
    assert_int_equal(fputc('x', file), 'x');
    assert_int_equal(fclose(file), 0);
}

static void an_overlay_has_its_own(void **state)
{
    (void)state;
    uint64_t changed;
    make_image("base", "raw", 100 * BLOCK, NULL);
    make_image(DISK, "add-cow", 100 * BLOCK, "base");
    write_image(DISK, 1, 0, 2 * BLOCK);
    back_up(DISK, &plain, NULL);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 2 * BLOCK); /* and is compared by content */
    write_image(DISK, 1, 99 * BLOCK + 700, 1);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 3 * BLOCK);
    struct attempt attempt = {.options = plain};
    attempt_open(&attempt, DISK, NULL);
    assert_true(vd_tracker_compares(attempt.tracker));
    assert_int_equal(vd_tracker_kind(attempt.tracker), VDISK_TRACKER_OVERLAY);
    attempt_close(&attempt);
}

static void another_overlay_in_its_place_is_no_matter(void **state)
{
    (void)state;
    uint64_t changed;
    make_image("base", "raw", 100 * BLOCK, NULL);
    make_image(DISK, "add-cow", 100 * BLOCK, "base");
    write_image(DISK, 1, 5 * BLOCK, 2 * BLOCK);
    write_image(DISK, 1, 98 * BLOCK - 512, 1);
    back_up(DISK, &plain, NULL);
    assert_int_equal(unlink(DISK), 0);
    assert_int_equal(unlink(DISK ".raw"), 0);
    make_image(DISK, "add-cow", 100 * BLOCK, "base"); /* where the base shows again */
    write_image(DISK, 1, 0, 1);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, 4 * BLOCK);
    back_up(DISK, &plain, &changed);
    assert_int_equal(changed, BLOCK);
}

static void what_is_behind_it_has_to_stay(void **state)
{
    (void)state;
    make_image("base", "raw", 10 * BLOCK, NULL);
    make_image(DISK, "add-cow", 10 * BLOCK, "base");
    back_up(DISK, &plain, NULL);
    scribble_on_base("r+");
    back_up_fails(DISK, &plain, ENOTSUP, "base, which is behind it, has changed since");
    back_up(DISK, &comparing, NULL);
    back_up(DISK, &plain, NULL);
    scribble_on_base("a");
    back_up_fails(DISK, &plain, ENOTSUP, "base, which is behind it, has changed since");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, enter_work_dir, leave_work_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(blocks_of_another_version_are_wanted),
        TEST(images_of_another_lineage_are_refused),
        TEST(an_older_copy_is_noticed),
        TEST(an_image_that_was_not_closed_is_refused),
        TEST(an_altered_file_of_versions_is_noticed),
        TEST(an_unfinished_one_goes_on),
        TEST(a_copy_from_between_two_calls_is_noticed),
        TEST(an_overlay_has_its_own),
        TEST(another_overlay_in_its_place_is_no_matter),
        TEST(what_is_behind_it_has_to_stay),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("tracker-versions", tests, NULL, NULL);
}
