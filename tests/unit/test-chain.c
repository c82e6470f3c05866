/* SPDX-License-Identifier: MIT */
/* image/chain: opening what is behind an image; loops, budgets, formats, flags, locks. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "drivers/check.h"
#include "format/driver.h"
#include "image/chain.h"
#include "image/image_priv.h"

#define DISK_BYTES (1u << 20)

static char work_dir[256];

static int make_work_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(work_dir, sizeof(work_dir), "%s/test-chain-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
}

static int remove_work_dir(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", work_dir);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static const struct vdisk_gate beside = {.struct_bytes = sizeof(beside),
                                         .flags = VDISK_GATE_BESIDE};

static void make_raw(const char *name, char byte)
{
    static char bytes[DISK_BYTES];
    FILE *file = fopen(name, "w");
    memset(bytes, byte, sizeof(bytes));
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, sizeof(bytes), 1, file), 1);
    assert_int_equal(fclose(file), 0);
}

/* @format: of the backing file; it need not be there. */
static void make_qed(const char *name, const char *backing, const char *format)
{
    const struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                                 .size = DISK_BYTES,
                                                 .flags = VDISK_CREATE_NO_CHECK,
                                                 .backing = backing,
                                                 .backing_format = format};
    VT_OK(vdisk_image_create(name, "qed", &options, &vt_err));
}

static int open_image(const char *name, uint32_t flags, struct vdisk_image **image,
                      struct vdisk_error *err)
{
    const struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .gate = &beside};
    return vdisk_image_open(name, &options, image, err);
}

static struct vdisk_image *must_open(const char *name, uint32_t flags)
{
    struct vdisk_image *image = NULL;
    VT_OK(open_image(name, flags, &image, &vt_err));
    return image;
}

/* Opening fails with -@error, read-only and writable, and the message has all of @words in it. */
static void check_fails(const char *name, int error, const char *const words[])
{
    static const uint32_t flags[] = {0, VDISK_OPEN_WRITE};
    for (size_t i = 0; i < 2; i++) {
        struct vdisk_image *image = NULL;
        struct vdisk_error err = {0};
        int ret = open_image(name, flags[i], &image, &err);
        if (ret != -error)
            fail_msg("%s: %d: %s", name, ret, err.message);
        assert_null(image);
        for (size_t word = 0; words[word]; word++)
            if (!strstr(err.message, words[word]))
                fail_msg("no \"%s\" in: %s", words[word], err.message);
    }
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void check_byte(struct vdisk_image *image, uint64_t offset, char expected)
{
    char byte = 'x';
    VT_OK(vdisk_image_pread(image, &byte, 1, offset, &vt_err));
    assert_int_equal(byte, expected);
}

static void writes_stay_in_the_top_image(void **state)
{
    (void)state;
    make_raw("base.raw", 'b');
    make_qed("middle.qed", "base.raw", "raw");
    make_qed("top.qed", "middle.qed", "qed");
    struct vdisk_image *image = must_open("middle.qed", VDISK_OPEN_WRITE);
    VT_OK(vdisk_image_pwrite(image, "m", 1, 70000, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));

    image = must_open("top.qed", VDISK_OPEN_WRITE);
    VT_OK(vdisk_image_pwrite(image, "t", 1, 70001, &vt_err));
    check_byte(image, 69999, 'b');
    check_byte(image, 70000, 'm');
    check_byte(image, 70001, 't');
    VT_OK(vdisk_image_close(image, &vt_err));

    image = must_open("middle.qed", 0);
    check_byte(image, 70000, 'm');
    check_byte(image, 70001, 'b');
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void loops_are_refused(void **state)
{
    (void)state;
    make_qed("self.qed", "self-too.qed", "qed");
    assert_int_equal(link("self.qed", "self-too.qed"), 0);
    check_fails("self.qed", ELOOP, WORDS("self.qed: backing file", "the same file"));

    make_qed("soft.qed", "soft-too.qed", "qed");
    assert_int_equal(symlink("soft.qed", "soft-too.qed"), 0);
    check_fails("soft.qed", ELOOP, WORDS("soft.qed: backing file", "'soft-too.qed'"));

    make_qed("one.qed", "two.qed", "qed");
    make_qed("two.qed", "./three.qed", "qed");
    make_qed("three.qed", "one.qed", "qed");
    check_fails("one.qed", ELOOP, WORDS("three.qed: backing file", "'one.qed'"));
    check_fails("two.qed", ELOOP, WORDS("one.qed: backing file", "'two.qed'"));

    /* Not a loop of names; the raw file is in the chain twice all the same. */
    make_raw("twice.raw", 'b');
    make_qed("lower.qed", "twice.raw", "raw");
    assert_int_equal(link("lower.qed", "lower-too.qed"), 0);
    make_qed("upper.qed", "lower-too.qed", "qed");
    struct vdisk_image *image = must_open("upper.qed", VDISK_OPEN_WRITE);
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void an_image_is_not_made_on_itself(void **state)
{
    (void)state;
    make_raw("own.raw", 'o');
    assert_int_equal(link("own.raw", "own-too.raw"), 0);
    static const char *const names[] = {"own.raw", "./own.raw", "own-too.raw"};
    for (size_t i = 0; i < 6; i++) {
        const struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                                     .size = DISK_BYTES,
                                                     .flags = i < 3 ? 0 : VDISK_CREATE_NO_CHECK,
                                                     .backing = names[i % 3],
                                                     .backing_format = "raw"};
        VT_FAILS(EINVAL, vdisk_image_create("own.raw", "qed", &options, &vt_err));
    }
    const struct vdisk_open_options raw = {.struct_bytes = sizeof(raw), .format = "raw"};
    struct vdisk_image *image;
    VT_OK(vdisk_image_open("own.raw", &raw, &image, &vt_err));
    check_byte(image, 0, 'o');
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void chains_have_a_budget(void **state)
{
    (void)state;
    char name[16] = "d0.raw", next[16];
    make_raw(name, 'd');
    for (unsigned i = 1; i <= 4; i++) {
        snprintf(next, sizeof(next), "d%u.qed", i);
        make_qed(next, name, i == 1 ? "raw" : "qed");
        memcpy(name, next, sizeof(name));
    }
    struct vdisk_gate gate = beside;
    const struct vdisk_open_options options = {.struct_bytes = sizeof(options), .gate = &gate};
    struct vdisk_image *image;
    for (gate.images_max = 1; gate.images_max <= 4; gate.images_max++) {
        struct vdisk_error err = {0};
        assert_int_equal(vdisk_image_open(name, &options, &image, &err), -ELOOP);
        assert_non_null(strstr(err.message, "the limit is"));
    }
    VT_OK(vdisk_image_open(name, &options, &image, &vt_err));
    check_byte(image, 5, 'd');
    unsigned images = 0;
    for (struct vdisk_image *at = image; at; at = vdisk_image_backing(at))
        images++;
    assert_int_equal(images, 5);
    VT_OK(vdisk_image_close(image, &vt_err));
    gate.images_max = VDISK_CHAIN_IMAGES_MAX + 1;
    VT_FAILS(EINVAL, vdisk_image_open(name, &options, &image, &vt_err));
}

static void what_is_no_image_is_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *backing;
        int error;
        const char *word;
    } rows[] = {
        {"missing", ENOENT, "missing"},
        {"fifo", EINVAL, "pipe"},
        {"directory", EISDIR, "directory"},
        {".", EISDIR, "directory"},
        {"/dev/null", EPERM, "not permitted"},
        {"nbd:unix:x", ENOTSUP, "protocol"},
        {"json:{\"filename\":\"missing\"}", EPERM, "--allow-json"},
        {"http://127.0.0.1:1/x", EPERM, "not permitted"},
    };
    assert_int_equal(mkfifo("fifo", 0666), 0);
    assert_int_equal(mkdir("directory", 0777), 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        make_qed("bad.qed", rows[i].backing, "raw");
        check_fails("bad.qed", rows[i].error, WORDS("bad.qed: backing file", rows[i].word));
        make_qed("upper.qed", "bad.qed", "qed");
        check_fails("upper.qed", rows[i].error, WORDS("bad.qed: backing file", rows[i].word));
    }
}

static void formats_are_neither_guessed_nor_doubted(void **state)
{
    (void)state;
    /* The guest wrote an image into its raw disk: it stays raw, as is recorded. */
    make_qed("inner.qed", "/etc/passwd", "raw");
    make_qed("on-raw.qed", "inner.qed", "raw");
    struct vdisk_image *image = must_open("on-raw.qed", 0);
    check_byte(image, 0, 'Q');
    assert_null(vdisk_image_backing(vdisk_image_backing(image)));
    VT_OK(vdisk_image_close(image, &vt_err));

    /* QED can not say which format it is, so it has to look like one. */
    make_raw("plain", 'p');
    make_qed("on-plain.qed", "plain", "qed");
    check_fails("on-plain.qed", EINVAL,
                WORDS("on-plain.qed", "plain", "vdisk rebase -u -F raw -b"));
}

static void flags_leave_the_backing_closed(void **state)
{
    (void)state;
    static const uint32_t flags[] = {
        VDISK_OPEN_NO_BACKING, VDISK_OPEN_NO_BACKING | VDISK_OPEN_WRITE,
        VDISK_OPEN_CHECK,      VDISK_OPEN_CHECK | VDISK_OPEN_WRITE,
        VDISK_OPEN_FACTS,      VDISK_OPEN_FACTS | VDISK_OPEN_SHARE};
    make_qed("lonely.qed", "gone/base.raw", "raw");
    check_fails("lonely.qed", ENOENT, WORDS("lonely.qed: backing file", "gone/base.raw"));
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        struct vdisk_image *image = must_open("lonely.qed", flags[i]);
        struct vdisk_image_info info = {.struct_bytes = sizeof(info)}, again = info;
        assert_null(vdisk_image_backing(image));
        VT_OK(vdisk_image_info(image, &info, &vt_err));
        assert_string_equal(info.backing_name, "gone/base.raw");
        assert_string_equal(info.backing_path, "gone/base.raw");
        assert_string_equal(info.backing_format, "raw");
        VT_OK(vdisk_image_info(image, &again, &vt_err));
        assert_ptr_equal(info.backing_path, again.backing_path); /* good until it is closed */
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

static void names_count_from_the_image_that_has_them(void **state)
{
    (void)state;
    assert_int_equal(mkdir("sub", 0777), 0);
    assert_int_equal(mkdir("sub/deep", 0777), 0);
    make_raw("sub/deep/base.raw", 'r');
    make_qed("sub/middle.qed", "deep/base.raw", "raw");
    make_qed("from.qed", "sub/middle.qed", "qed");
    struct vdisk_image *image = must_open("from.qed", 0);
    check_byte(image, 9, 'r');
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    VT_OK(vdisk_image_info(vdisk_image_backing(image), &info, &vt_err));
    assert_string_equal(info.backing_path, "sub/deep/base.raw");
    VT_OK(vdisk_image_close(image, &vt_err));

    /* The gate is about the image that was opened: the same names are refused from further in. */
    make_qed("sub/deep/up.qed", "../middle.qed", "qed");
    check_fails("sub/deep/up.qed", EPERM, WORDS("up.qed: backing file", "not permitted"));
    make_qed("around.qed", "sub/deep/up.qed", "qed");
    image = must_open("around.qed", 0);
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void backing_files_are_locked_against_writers(void **state)
{
    (void)state;
    make_raw("shared.raw", 's');
    make_qed("a.qed", "shared.raw", "raw");
    make_qed("b.qed", "shared.raw", "raw");
    struct vdisk_image *a = must_open("a.qed", VDISK_OPEN_WRITE), *other;
    struct vdisk_image *b = must_open("b.qed", VDISK_OPEN_WRITE);
    const struct vdisk_open_options raw = {
        .struct_bytes = sizeof(raw), .flags = VDISK_OPEN_WRITE, .format = "raw"};
    VT_FAILS(EAGAIN, vdisk_image_open("shared.raw", &raw, &other, &vt_err));
    VT_FAILS(EAGAIN, open_image("a.qed", 0, &other, &vt_err));
    VT_OK(vdisk_image_close(a, &vt_err));
    VT_OK(vdisk_image_close(b, &vt_err));

    VT_OK(vdisk_image_open("shared.raw", &raw, &other, &vt_err));
    check_fails("a.qed", EAGAIN, WORDS("a.qed: backing file", "shared.raw"));
    a = must_open("a.qed", VDISK_OPEN_SHARE);
    VT_OK(vdisk_image_close(a, &vt_err));
    VT_OK(vdisk_image_close(other, &vt_err));
}

/* A caller's own files: every name is asked of it, and of no gate. */
struct shelf {
    unsigned asked;
};

static int open_from_shelf(void *opaque, const char *bearer, const char *name,
                           const struct vd_storage_options *options, struct vd_storage **storage,
                           struct vdisk_error *err)
{
    struct shelf *shelf = opaque;
    assert_string_equal(bearer, "mem");
    assert_false(options->flags & VD_STORAGE_WRITE);
    shelf->asked++;
    if (strcmp(name, "json:on the shelf") != 0)
        return vd_err_set(err, ENOENT, "no '%s' on the shelf", name);
    int ret = vd_storage_mem_open(DISK_BYTES, storage, err);
    return ret < 0 ? ret : vd_storage_pwrite(*storage, "shelf", 5, 0, err);
}

static void callers_can_have_files_of_their_own(void **state)
{
    (void)state;
    static const char *const names[] = {"json:on the shelf", "elsewhere"};
    struct shelf shelf = {0};
    const struct vd_image_files files = {.open = open_from_shelf, .opaque = &shelf};
    const struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                            .flags = VDISK_OPEN_WRITE};
    const struct vd_chain_options options = {.open = &open, .files = &files};
    for (size_t i = 0; i < 2; i++) {
        const struct vdisk_create_options create = {.struct_bytes = sizeof(create),
                                                    .size = DISK_BYTES,
                                                    .backing = names[i],
                                                    .backing_format = "raw"};
        struct vd_storage *file;
        struct vdisk_image *image;
        VT_OK(vd_storage_mem_open(0, &file, &vt_err));
        VT_OK(vd_format_create(vd_format_find("qed", NULL), file, NULL, &create, &vt_err));
        if (i == 1) {
            VT_FAILS(ENOENT, vd_image_open_chain_on(file, &options, &image, &vt_err));
            continue;
        }
        VT_OK(vd_image_open_chain_on(file, &options, &image, &vt_err));
        check_byte(image, 4, 'f');
        VT_OK(vdisk_image_close(image, &vt_err));
    }
    assert_int_equal(shelf.asked, 2);
}

/* The caller's word stands in for the image's, and for the gate's. */
static void callers_can_name_another_backing_file(void **state)
{
    (void)state;
    assert_int_equal(mkdir("far", 0777), 0);
    make_raw("far/base.raw", 'f');
    make_qed("far/far.qed", "base.raw", "raw");
    make_qed("near.qed", "missing", "raw");
    static const struct vd_backing backings[] = {{"far/far.qed", "qed"},
                                                 {"far/far.qed", NULL},
                                                 {"far/base.raw", "raw"},
                                                 {"far/base.raw", NULL}};
    const struct vdisk_open_options open = {.struct_bytes = sizeof(open)};
    for (size_t i = 0; i < 4; i++) {
        const struct vd_chain_options options = {.open = &open, .backing = &backings[i]};
        struct vdisk_image *image;
        if (i == 3) {
            VT_FAILS(EINVAL, vd_image_open_chain("near.qed", &options, &image, &vt_err));
            continue;
        }
        VT_OK(vd_image_open_chain("near.qed", &options, &image, &vt_err));
        check_byte(image, 0, 'f');
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_stay_in_the_top_image),
        cmocka_unit_test(loops_are_refused),
        cmocka_unit_test(an_image_is_not_made_on_itself),
        cmocka_unit_test(chains_have_a_budget),
        cmocka_unit_test(what_is_no_image_is_told_apart),
        cmocka_unit_test(formats_are_neither_guessed_nor_doubted),
        cmocka_unit_test(flags_leave_the_backing_closed),
        cmocka_unit_test(names_count_from_the_image_that_has_them),
        cmocka_unit_test(backing_files_are_locked_against_writers),
        cmocka_unit_test(callers_can_have_files_of_their_own),
        cmocka_unit_test(callers_can_name_another_backing_file),
    };
    return cmocka_run_group_tests(tests, make_work_dir, remove_work_dir);
}
