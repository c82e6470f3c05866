/* SPDX-License-Identifier: MIT */
/* Requests that are tried: what is done at once is right, and what would have to wait is not. */
#include "drivers/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/random.h"
#include "image/image.h"
#include "util/mem.h"

#define KIB  1024u
#define MIB  (1024u * KIB)
#define DISK (4 * MIB)

static const char *const formats[] = {"raw", "gow1", "gow2", "gow3", "qed", "qcow2"};
#define FORMATS (sizeof(formats) / sizeof(formats[0]))

static uint8_t model[DISK];
static uint8_t bytes[DISK];

/* An empty image in memory. */
static struct vdisk_image *make_image(const char *format)
{
    struct vd_storage *file;
    struct vdisk_image *image;
    const struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = DISK};
    const struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = VDISK_OPEN_WRITE, .format = format};
    VT_OK(vd_storage_mem_open(0, &file, &vt_err));
    VT_OK(vd_format_create(vd_format_find(format, NULL), file, NULL, &create, &vt_err));
    VT_OK(vd_image_open_on(file, &open, &image, &vt_err));
    return image;
}

static void fill(uint8_t *to, size_t length, unsigned *seed)
{
    struct vt_random random = {.state = (unsigned)rand_r(seed)};
    vt_random_fill(&random, to, length);
}

/* Tried ones and others, in turns, beside a plain array. */
static void a_tried_request_is_like_any_other(void **state)
{
    (void)state;
    unsigned seed = 815;
    for (size_t f = 0; f < FORMATS; f++) {
        struct vdisk_image *image = make_image(formats[f]);
        unsigned reads = 0;
        unsigned writes = 0;
        memset(model, 0, sizeof(model));
        for (unsigned round = 0; round < VT_ROUNDS(3000); round++) {
            size_t length = 1 + (size_t)rand_r(&seed) % (rand_r(&seed) % 4 ? 5000 : 200 * KIB);
            uint64_t offset = (uint64_t)rand_r(&seed) % (DISK - length);
            unsigned what = (unsigned)rand_r(&seed) % 8;
            if (what == 0) {
                memset(model + offset, 0, length);
                VT_OK(vdisk_image_write_zeroes(image, offset, length, 0, &vt_err));
            } else if (what < 4) {
                fill(bytes, length, &seed);
                memcpy(model + offset, bytes, length);
                if (vd_image_try_pwrite(image, bytes, length, offset) == 0)
                    writes++;
                else
                    VT_OK(vdisk_image_pwrite(image, bytes, length, offset, &vt_err));
            } else {
                memset(bytes, 0xaa, length);
                if (vd_image_try_pread(image, bytes, length, offset) == 0)
                    reads++;
                else
                    VT_OK(vdisk_image_pread(image, bytes, length, offset, &vt_err));
                assert_memory_equal(bytes, model + offset, length);
            }
        }
        VT_OK(vdisk_image_pread(image, bytes, DISK, 0, &vt_err));
        assert_memory_equal(bytes, model, DISK);
        assert_true(reads > 0 && writes > 0);
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

static void what_needs_more_than_an_overwrite_is_not_tried(void **state)
{
    (void)state;
    memset(bytes, 3, sizeof(bytes));
    for (size_t f = 1; f < FORMATS; f++) {
        struct vdisk_image *image = make_image(formats[f]);
        assert_int_equal(vd_image_try_pwrite(image, bytes, 4 * KIB, 0), -EAGAIN);
        VT_OK(vdisk_image_pread(image, bytes, 4 * KIB, 0, &vt_err));
        assert_int_equal(bytes[0], 0);
        VT_OK(vdisk_image_pwrite(image, "x", 1, 0, &vt_err));
        assert_int_equal(vd_image_try_pwrite(image, bytes, 4 * KIB, 0), 0);
        /* Into a cluster that has no place yet. */
        assert_int_equal(vd_image_try_pwrite(image, bytes, 128 * KIB, 0), -EAGAIN);
        assert_int_equal(vd_image_try_pwrite(image, bytes, 4 * KIB, DISK - 4 * KIB), -EAGAIN);
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

static void nothing_outside_the_disk_is_tried(void **state)
{
    (void)state;
    for (size_t f = 0; f < FORMATS; f++) {
        struct vdisk_image *image = make_image(formats[f]);
        VT_OK(vdisk_image_pwrite(image, bytes, DISK, 0, &vt_err));
        static const struct {
            uint64_t offset;
            size_t length;
        } bad[] = {{DISK, 1}, {DISK - 1, 2}, {UINT64_MAX, 1}, {UINT64_MAX - 1, 4}, {0, 0}};
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
            assert_int_equal(vd_image_try_pread(image, bytes, bad[i].length, bad[i].offset),
                             -EAGAIN);
            assert_int_equal(vd_image_try_pwrite(image, bytes, bad[i].length, bad[i].offset),
                             -EAGAIN);
        }
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

static char directory[64];

/* A file of @format; the name is good until the next call. */
static const char *make_file(const char *name, const char *format,
                             struct vdisk_create_options *options)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    options->struct_bytes = sizeof(*options);
    VT_OK(vdisk_image_create(path, format, options, &vt_err));
    return path;
}

static struct vdisk_image *open_file(const char *path, const char *format, uint32_t flags)
{
    struct vdisk_image *image;
    const struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .format = format};
    VT_OK(vdisk_image_open(path, &options, &image, &vt_err));
    return image;
}

/* Each session raises the version of a block before its first change, tried or not. */
static void a_version_goes_up_before_a_block_changes(void **state)
{
    (void)state;
    struct vdisk_create_options options = {.size = DISK};
    const char *path = make_file("versions.gow", "gow3", &options);
    for (uint32_t session = 1; session < 4; session++) {
        struct vdisk_image *image = open_file(path, "gow3", VDISK_OPEN_WRITE);
        struct vdisk_version_extent extent;
        assert_int_equal(vd_image_try_pwrite(image, "a", 1, 5), -EAGAIN);
        VT_OK(vdisk_image_pwrite(image, "a", 1, 5, &vt_err));
        (void)vd_image_try_pwrite(image, "b", 1, 6);
        VT_OK(vdisk_image_version(image, 0, 1, &extent, &vt_err));
        assert_int_equal(extent.version, session);
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

/* A bitmap that records knows of every change. */
static void bitmaps_record_what_is_tried(void **state)
{
    (void)state;
    struct vdisk_create_options options = {.size = DISK};
    const char *path = make_file("bitmap.qcow2", "qcow2", &options);
    struct vdisk_image *image = open_file(path, "qcow2", VDISK_OPEN_WRITE);
    memset(bytes, 1, DISK);
    VT_OK(vdisk_image_pwrite(image, bytes, DISK, 0, &vt_err));
    assert_int_equal(vd_image_try_pwrite(image, bytes, 4 * KIB, MIB), 0);
    const struct vdisk_bitmap_action add = {.kind = VDISK_BITMAP_ADD, .name = "b"};
    VT_OK(vdisk_bitmap_change(image, &add, 1, &vt_err));
    assert_int_equal(vd_image_try_pwrite(image, bytes, 4 * KIB, MIB), -EAGAIN);
    uint64_t dirty;
    VT_OK(vdisk_bitmap_dirty_bytes(image, "b", &dirty, &vt_err));
    assert_int_equal(dirty, 0);
    VT_OK(vdisk_image_pwrite(image, bytes, 4 * KIB, MIB, &vt_err));
    assert_int_equal(vd_image_try_pwrite(image, bytes, 4 * KIB, MIB), 0);
    assert_int_equal(vd_image_try_pwrite(image, bytes, 4 * KIB, 2 * MIB), -EAGAIN);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* What is not in memory is not waited for; and it is the same once it is. */
static void tables_that_are_not_loaded_are_not_waited_for(void **state)
{
    (void)state;
    for (size_t f = 1; f < FORMATS; f++) {
        struct vdisk_create_options options = {.size = DISK};
        const char *path = make_file(formats[f], formats[f], &options);
        struct vdisk_image *image = open_file(path, formats[f], VDISK_OPEN_WRITE);
        memset(bytes, (int)f, DISK);
        VT_OK(vdisk_image_pwrite(image, bytes, DISK, 0, &vt_err));
        VT_OK(vdisk_image_close(image, &vt_err));
        image = open_file(path, formats[f], 0);
        uint8_t got[4 * KIB] = {0};
        assert_int_equal(vd_image_try_pread(image, got, sizeof(got), MIB), -EAGAIN);
        assert_int_equal(vd_image_try_pwrite(image, got, sizeof(got), MIB), -EAGAIN);
        VT_OK(vdisk_image_pread(image, got, sizeof(got), MIB, &vt_err));
        memset(got, 0, sizeof(got));
        if (vd_image_try_pread(image, got, sizeof(got), MIB) == 0) /* by the file system */
            assert_memory_equal(got, bytes, sizeof(got));
        assert_int_equal(vd_image_try_pwrite(image, got, sizeof(got), MIB), -EAGAIN);
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

static const struct vdisk_gate beside = {.struct_bytes = sizeof(beside),
                                         .flags = VDISK_GATE_BESIDE};

/* An overlay reads what is behind it, and does not write there. */
static void a_chain_is_read_to_its_end(void **state)
{
    (void)state;
    struct vdisk_create_options options = {.size = DISK / 2};
    const char *base = make_file("base.qcow2", "qcow2", &options);
    struct vdisk_image *image = open_file(base, "qcow2", VDISK_OPEN_WRITE);
    memset(bytes, 7, DISK);
    VT_OK(vdisk_image_pwrite(image, bytes, MIB, MIB, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));

    options = (struct vdisk_create_options){
        .size = DISK, .backing = "base.qcow2", .backing_format = "qcow2"};
    const char *path = make_file("top.qcow2", "qcow2", &options);
    const struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                            .flags = VDISK_OPEN_WRITE,
                                            .format = "qcow2",
                                            .gate = &beside};
    VT_OK(vdisk_image_open(path, &open, &image, &vt_err));
    /* Everything is loaded, and at the boundaries of data, zeros, and the end of the base. */
    VT_OK(vdisk_image_pread(image, bytes, DISK, 0, &vt_err));
    static const uint64_t places[] = {0, MIB - 512, MIB, 2 * MIB - 512, 3 * MIB};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        uint8_t got[KIB];
        memset(got, 0xee, sizeof(got));
        if (vd_image_try_pread(image, got, sizeof(got), places[i]) < 0)
            VT_OK(vdisk_image_pread(image, got, sizeof(got), places[i], &vt_err));
        for (size_t b = 0; b < sizeof(got); b++)
            assert_int_equal(got[b], places[i] + b >= MIB && places[i] + b < 2 * MIB ? 7 : 0);
        assert_int_equal(vd_image_try_pwrite(image, got, sizeof(got), places[i]), -EAGAIN);
    }
    uint64_t length;
    bool is_zero;
    VT_OK(vd_image_known_zero(image, vd_range(0, DISK), &length, &is_zero, &vt_err));
    assert_true(is_zero && length == MIB);
    assert_int_equal(vd_image_try_known_zero(image, vd_range(MIB, DISK - MIB), &length, &is_zero),
                     0);
    assert_true(!is_zero && length == MIB);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* Direct and synchronous files do more than to copy, so nothing of them is tried. */
static void modes_that_wait_are_not_tried(void **state)
{
    (void)state;
    static const uint32_t flags[] = {VDISK_OPEN_DIRECT, VDISK_OPEN_SYNC};
    struct vdisk_create_options options = {.size = DISK};
    const char *path = make_file("modes.raw", "raw", &options);
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        struct vdisk_image *image;
        const struct vdisk_open_options open = {
            .struct_bytes = sizeof(open), .flags = VDISK_OPEN_WRITE | flags[i], .format = "raw"};
        if (vdisk_image_open(path, &open, &image, NULL) < 0)
            continue; /* a file system without direct I/O */
        VT_OK(vdisk_image_pwrite(image, bytes, 4 * KIB, 0, &vt_err));
        assert_int_equal(vd_image_try_pwrite(image, bytes, 4 * KIB, 0), -EAGAIN);
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

static int make_directory(void **state)
{
    (void)state;
    const char *parent = getenv("TMPDIR");
    snprintf(directory, sizeof(directory), "%s/vdisk-fast.XXXXXX", parent ? parent : "/tmp");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tried_request_is_like_any_other),
        cmocka_unit_test(what_needs_more_than_an_overwrite_is_not_tried),
        cmocka_unit_test(nothing_outside_the_disk_is_tried),
        cmocka_unit_test(a_version_goes_up_before_a_block_changes),
        cmocka_unit_test(bitmaps_record_what_is_tried),
        cmocka_unit_test(tables_that_are_not_loaded_are_not_waited_for),
        cmocka_unit_test(a_chain_is_read_to_its_end),
        cmocka_unit_test(modes_that_wait_are_not_tried),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("fast", tests, make_directory, remove_directory);
}
