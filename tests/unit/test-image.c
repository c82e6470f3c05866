/* SPDX-License-Identifier: MIT */
/* The image layer over raw: what is refused, what a request may touch, what extents say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <string.h>

#include "image/image.h"

#define KIB       1024u
#define DISK_SIZE (1024u * KIB)

static const struct vdisk_open_options raw_writable = {
    .struct_bytes = sizeof(raw_writable), .flags = VDISK_OPEN_WRITE, .format = "raw"};

static struct vdisk_image *open_raw(uint64_t size, const struct vdisk_open_options *options)
{
    struct vd_storage *file;
    struct vdisk_image *image;
    assert_int_equal(vd_storage_mem_open(size, &file, NULL), 0);
    assert_int_equal(vd_image_open_on(file, options, &image, NULL), 0);
    return image;
}

static void requests_outside_the_disk_are_refused(void **state)
{
    (void)state;
    struct vdisk_image *image = open_raw(DISK_SIZE, &raw_writable);
    static const struct {
        uint64_t offset;
        size_t length;
    } bad[] = {{DISK_SIZE, 1}, {DISK_SIZE - 1, 2}, {UINT64_MAX, 1}, {UINT64_MAX - 1, 4}};
    char buf[4];
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct vdisk_error err = {0};
        memset(buf, 'x', sizeof(buf));
        assert_int_equal(vdisk_image_pread(image, buf, bad[i].length, bad[i].offset, &err),
                         -EINVAL);
        assert_non_null(strstr(err.message, "the disk ends at 1048576"));
        for (size_t b = 0; b < bad[i].length; b++)
            assert_int_equal(buf[b], 0); /* zeroed, not left as it was */
        assert_int_equal(vdisk_image_pwrite(image, buf, bad[i].length, bad[i].offset, NULL),
                         -EINVAL);
        assert_int_equal(vdisk_image_write_zeroes(image, bad[i].offset, bad[i].length, 0, NULL),
                         -EINVAL);
        assert_int_equal(vdisk_image_discard(image, bad[i].offset, bad[i].length, NULL), -EINVAL);
        struct vdisk_extent extent;
        assert_int_equal(vdisk_image_extent(image, bad[i].offset, bad[i].length, &extent, NULL),
                         -EINVAL);
    }
    assert_int_equal(vdisk_image_pread(image, buf, 0, DISK_SIZE, NULL), 0);
    assert_int_equal(vdisk_image_pwrite(image, buf, 0, DISK_SIZE, NULL), 0);
    assert_int_equal(vdisk_image_write_zeroes(image, 0, 0, 0, NULL), 0);
    struct vdisk_extent extent;
    assert_int_equal(vdisk_image_extent(image, 0, 0, &extent, NULL), -EINVAL);
    assert_int_equal(vdisk_image_write_zeroes(image, 0, 1, 0x80, NULL), -EINVAL);
    assert_int_equal(vdisk_image_close(image, NULL), 0);
}

static void a_read_only_image_takes_no_change(void **state)
{
    (void)state;
    const struct vdisk_open_options options = {.struct_bytes = sizeof(options), .format = "raw"};
    struct vdisk_image *image = open_raw(DISK_SIZE, &options);
    struct vdisk_error err = {0};
    assert_int_equal(vdisk_image_pwrite(image, "x", 1, 0, &err), -EROFS);
    assert_non_null(strstr(err.message, "mem: opened read-only"));
    assert_int_equal(vdisk_image_write_zeroes(image, 0, 1, 0, NULL), -EROFS);
    assert_int_equal(vdisk_image_discard(image, 0, 1, NULL), -EROFS);
    assert_int_equal(vdisk_image_resize(image, 0, VDISK_PREALLOCATION_OFF, NULL), -EROFS);
    assert_int_equal(vdisk_image_flush(image, NULL), 0);
    assert_int_equal(vdisk_image_close(image, NULL), 0);
}

static void raw_is_never_guessed_for_writing(void **state)
{
    (void)state;
    struct vdisk_open_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_image *image = open_raw(DISK_SIZE, &options); /* reading: fine */
    assert_int_equal(vdisk_image_close(image, NULL), 0);

    struct vd_storage *file;
    struct vdisk_error err = {0};
    options.flags = VDISK_OPEN_WRITE;
    assert_int_equal(vd_storage_mem_open(DISK_SIZE, &file, NULL), 0);
    assert_int_equal(vd_image_open_on(file, &options, &image, &err), -EINVAL);
    assert_non_null(strstr(err.message, "-f raw"));
}

static void unknown_options_are_refused(void **state)
{
    (void)state;
    const struct vdisk_open_options bad[] = {
        {.struct_bytes = 0},
        {.struct_bytes = sizeof(bad[0]) + 8},
        {.struct_bytes = sizeof(bad[0]), .reserved = 1},
        {.struct_bytes = sizeof(bad[0]), .flags = 1u << 30},
        {.struct_bytes = sizeof(bad[0]), .flags = VDISK_OPEN_WRITE | VDISK_OPEN_SHARE},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct vdisk_image *image = NULL;
        struct vdisk_error err = {0};
        assert_int_equal(vdisk_image_open("/dev/null", &bad[i], &image, &err), -EINVAL);
        assert_null(image);
        assert_true(err.message[0]);
    }
    struct vdisk_image *image;
    const struct vdisk_open_options odd = {.struct_bytes = sizeof(odd), .format = "floppy"};
    struct vdisk_error err = {0};
    struct vd_storage *file;
    assert_int_equal(vd_storage_mem_open(512, &file, NULL), 0);
    assert_int_equal(vd_image_open_on(file, &odd, &image, &err), -EINVAL);
    assert_non_null(strstr(err.message, "unknown format 'floppy'"));
}

/* The disk is a multiple of 512; what the file lacks reads as zero, and can be written. */
static void a_raw_file_of_odd_size_is_rounded_up(void **state)
{
    (void)state;
    struct vd_storage *file;
    struct vdisk_image *image;
    char buf[512];
    assert_int_equal(vd_storage_mem_open(0, &file, NULL), 0);
    memset(buf, 'a', sizeof(buf));
    assert_int_equal(vd_storage_pwrite(file, buf, 100, 512, NULL), 0);
    assert_int_equal(vd_image_open_on(file, &raw_writable, &image, NULL), 0);
    assert_int_equal(vdisk_image_size(image), 1024);

    assert_int_equal(vdisk_image_pread(image, buf, 512, 512, NULL), 0);
    assert_int_equal(buf[99], 'a');
    assert_int_equal(buf[100], 0);
    assert_int_equal(vdisk_image_discard(image, 512, 512, NULL), 0);
    assert_int_equal(vdisk_image_pwrite(image, "b", 1, 1023, NULL), 0);
    assert_int_equal(vdisk_image_pread(image, buf, 512, 512, NULL), 0);
    assert_int_equal(buf[511], 'b');
    assert_int_equal(vdisk_image_close(image, NULL), 0);
}

static void vectored_requests_go_in_order(void **state)
{
    (void)state;
    struct vdisk_image *image = open_raw(DISK_SIZE, &raw_writable);
    char a[3] = "abc", b[5] = "defgh", back[8];
    const struct iovec out[] = {{a, 3}, {NULL, 0}, {b, 5}};
    assert_int_equal(vdisk_image_pwritev(image, out, 3, 65533, NULL), 0);
    const struct iovec in[] = {{back, 1}, {back + 1, 7}};
    assert_int_equal(vdisk_image_preadv(image, in, 2, 65533, NULL), 0);
    assert_memory_equal(back, "abcdefgh", 8);
    assert_int_equal(vdisk_image_close(image, NULL), 0);
}

static void extents_tell_holes_from_data(void **state)
{
    (void)state;
    struct vdisk_image *image = open_raw(DISK_SIZE, &raw_writable);
    struct vdisk_extent extent;
    assert_int_equal(vdisk_image_pwrite(image, "x", 1, 256 * KIB, NULL), 0);

    assert_int_equal(vdisk_image_extent(image, 0, DISK_SIZE, &extent, NULL), 0);
    assert_int_equal(extent.length, 256 * KIB);
    assert_int_equal(extent.flags, VDISK_EXTENT_ZERO | VDISK_EXTENT_HOLE | VDISK_EXTENT_PRESENT |
                                       VDISK_EXTENT_OFFSET);
    assert_int_equal(vdisk_image_extent(image, 256 * KIB, 768 * KIB, &extent, NULL), 0);
    assert_int_equal(extent.length, 64 * KIB); /* the page of storage in memory */
    assert_int_equal(extent.flags, VDISK_EXTENT_DATA | VDISK_EXTENT_PRESENT | VDISK_EXTENT_OFFSET);
    assert_int_equal(extent.host_offset, 256 * KIB);
    assert_string_equal(extent.host_name, "mem");

    assert_int_equal(vdisk_image_write_zeroes(image, 256 * KIB, 64 * KIB, 0, NULL), 0);
    assert_int_equal(vdisk_image_extent(image, 0, DISK_SIZE, &extent, NULL), 0);
    assert_int_equal(extent.length, DISK_SIZE);
    assert_int_equal(vdisk_image_close(image, NULL), 0);
}

static void resize_keeps_what_stays(void **state)
{
    (void)state;
    struct vdisk_image *image = open_raw(DISK_SIZE, &raw_writable);
    char byte;
    assert_int_equal(vdisk_image_pwrite(image, "k", 1, 1000, NULL), 0);
    assert_int_equal(vdisk_image_pwrite(image, "x", 1, 5000, NULL), 0);
    assert_int_equal(vdisk_image_resize(image, 4096, VDISK_PREALLOCATION_OFF, NULL), 0);
    assert_int_equal(vdisk_image_size(image), 4096);
    assert_int_equal(vdisk_image_resize(image, 8192, VDISK_PREALLOCATION_FULL, NULL), 0);
    assert_int_equal(vdisk_image_pread(image, &byte, 1, 1000, NULL), 0);
    assert_int_equal(byte, 'k');
    assert_int_equal(vdisk_image_pread(image, &byte, 1, 5000, NULL), 0);
    assert_int_equal(byte, 0);
    assert_int_equal(vdisk_image_resize(image, UINT64_MAX, VDISK_PREALLOCATION_OFF, NULL), -EINVAL);
    assert_int_equal(vdisk_image_close(image, NULL), 0);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_outside_the_disk_are_refused),
        cmocka_unit_test(a_read_only_image_takes_no_change),
        cmocka_unit_test(raw_is_never_guessed_for_writing),
        cmocka_unit_test(unknown_options_are_refused),
        cmocka_unit_test(a_raw_file_of_odd_size_is_rounded_up),
        cmocka_unit_test(vectored_requests_go_in_order),
        cmocka_unit_test(extents_tell_holes_from_data),
        cmocka_unit_test(resize_keeps_what_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
