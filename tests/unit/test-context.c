/* SPDX-License-Identifier: MIT */
/* Metadata contexts: which an image has, who asks for which, and what they say of a disk. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/fault.h"
#include "drivers/snap.h"
#include "nbdproto/nbdproto.h"
#include "serve/context.h"

#define KIB   UINT64_C(1024)
#define MIB   (UINT64_C(1) << 20)
#define BLOCK (64 * KIB)

#define HOLE  (NBD_STATE_HOLE | NBD_STATE_ZERO)

static struct vd_storage *new_file(const char *format, uint64_t size)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = size};
    struct vd_storage *file;
    VT_OK(vt_snap_open(0, &file, &vt_err));
    VT_OK(vd_format_create(vd_format_find(format, NULL), file, NULL, &options, &vt_err));
    return file;
}

/* The same file again, for an image to close. */
static struct vd_storage *borrow(struct vd_storage *file)
{
    struct vd_storage *borrowed;
    VT_OK(vt_fault_open(file, VT_BORROW, &borrowed, &vt_err));
    return borrowed;
}

static struct vdisk_image *open_file(struct vd_storage *file, const char *format, uint32_t flags)
{
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .format = format};
    struct vdisk_image *image;
    VT_OK(vd_image_open_on(file, &options, &image, &vt_err));
    return image;
}

static struct vdisk_image *new_image(const char *format, uint64_t size)
{
    return open_file(new_file(format, size), format, VDISK_OPEN_WRITE);
}

static void write_at(struct vdisk_image *image, uint64_t offset, size_t length)
{
    char *bytes = malloc(length);
    assert_non_null(bytes);
    memset(bytes, 'x', length);
    VT_OK(vdisk_image_pwrite(image, bytes, length, offset, &vt_err));
    free(bytes);
}

/* What @name says of all of the disk, in one string: "length:flags length:flags ...", in KiB. */
static const char *told(struct vdisk_image *image, const struct vdisk_export_options *options,
                        const char *name)
{
    static char text[1024];
    struct vd_contexts contexts;
    struct vd_context_extent extents[8];
    size_t entries = 8, used = 0;
    VT_OK(vd_contexts_make(image, options, &contexts, &vt_err));
    const struct vd_context *context = NULL;
    for (size_t i = 0; i < contexts.entries; i++)
        if (strcmp(contexts.list[i].name, name) == 0)
            context = &contexts.list[i];
    assert_non_null(context);
    VT_OK(vd_context_look(context, image, vd_range(0, vdisk_image_size(image)), extents, &entries,
                          &vt_err));
    text[0] = '\0';
    for (size_t i = 0; i < entries; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%llu:%llu", i ? " " : "",
                                 (unsigned long long)(extents[i].length / KIB),
                                 (unsigned long long)extents[i].flags);
    vd_contexts_free(&contexts);
    return text;
}

static void close_image(struct vdisk_image *image)
{
    VT_OK(vdisk_image_close(image, &vt_err));
}

static const struct vdisk_export_options plain = {.struct_bytes = sizeof(plain)};
static const struct vdisk_export_options with_depth = {.struct_bytes = sizeof(with_depth),
                                                       .flags = VDISK_EXPORT_ALLOCATION_DEPTH};

static void allocation_tells_holes_and_zeros(void **state)
{
    (void)state;
    struct vdisk_image *image = new_image("qcow2", MIB);
    write_at(image, BLOCK, 2 * BLOCK);
    write_at(image, 6 * BLOCK, 2 * BLOCK);
    VT_OK(vdisk_image_write_zeroes(image, 6 * BLOCK, BLOCK, 0, &vt_err));
    assert_string_equal(told(image, &plain, "base:allocation"), "64:3 128:0 256:3 64:0 512:3");
    close_image(image);
}

static void depth_counts_from_the_image_itself(void **state)
{
    (void)state;
    struct vdisk_image *image = new_image("qcow2", MIB);
    write_at(image, 0, BLOCK);
    write_at(image, 2 * BLOCK, BLOCK);
    VT_OK(vdisk_image_write_zeroes(image, 2 * BLOCK, BLOCK, 0, &vt_err));
    assert_string_equal(told(image, &with_depth, "qemu:allocation-depth"), "64:1 64:0 64:1 832:0");
    close_image(image);

    struct vdisk_image *raw = new_image("raw", MIB);
    assert_string_equal(told(raw, &with_depth, "qemu:allocation-depth"), "1024:1");
    close_image(raw);
}

static void bitmaps_tell_what_was_written(void **state)
{
    (void)state;
    static const char *const names[] = {"day", "week"};
    static const struct vdisk_export_options options = {
        .struct_bytes = sizeof(options), .bitmaps = names, .bitmap_entries = 2};
    struct vdisk_image *image = new_image("qcow2", MIB);
    const struct vdisk_bitmap_action add[] = {
        {.kind = VDISK_BITMAP_ADD, .name = "day", .granularity = 4 * KIB},
        {.kind = VDISK_BITMAP_ADD, .name = "week"},
    };
    VT_OK(vdisk_bitmap_change(image, add, 2, &vt_err));
    assert_string_equal(told(image, &options, "qemu:dirty-bitmap:day"), "1024:0");
    write_at(image, 100 * KIB, 1);
    assert_string_equal(told(image, &options, "qemu:dirty-bitmap:day"), "100:0 4:1 920:0");
    assert_string_equal(told(image, &options, "qemu:dirty-bitmap:week"), "64:0 64:1 896:0");
    close_image(image);
}

static void bitmaps_have_to_be_there(void **state)
{
    (void)state;
    static const char *const absent[] = {"day"};
    static const char *const twice[] = {"day", "day"};
    struct vdisk_export_options options = {
        .struct_bytes = sizeof(options), .bitmaps = absent, .bitmap_entries = 1};
    struct vd_contexts contexts;
    struct vdisk_image *image = new_image("qcow2", MIB);
    VT_FAILS(ENOENT, vd_contexts_make(image, &options, &contexts, &vt_err));
    const struct vdisk_bitmap_action add = {.kind = VDISK_BITMAP_ADD, .name = "day"};
    VT_OK(vdisk_bitmap_change(image, &add, 1, &vt_err));
    VT_OK(vd_contexts_make(image, &options, &contexts, &vt_err));
    vd_contexts_free(&contexts);
    options.bitmaps = twice;
    options.bitmap_entries = 2;
    VT_FAILS(EINVAL, vd_contexts_make(image, &options, &contexts, &vt_err));
    close_image(image);
}

static bool offers_versions(struct vdisk_image *image)
{
    struct vd_contexts contexts;
    VT_OK(vd_contexts_make(image, &plain, &contexts, &vt_err));
    bool offers = strcmp(contexts.list[contexts.entries - 1].name, "vdisk:version") == 0;
    vd_contexts_free(&contexts);
    return offers;
}

static void versions_go_up_by_session(void **state)
{
    (void)state;
    struct vd_storage *file = new_file("gow3", 300 * MIB);
    struct vdisk_image *image = open_file(borrow(file), "gow3", VDISK_OPEN_WRITE);
    assert_string_equal(told(image, &plain, "vdisk:version"), "307200:0");
    write_at(image, BLOCK, BLOCK + 1);
    write_at(image, 300 * MIB - 1, 1);
    assert_string_equal(told(image, &plain, "vdisk:version"), "64:0 128:1 306944:0 64:1");
    /* Once a session, and discarding is a change too. */
    write_at(image, BLOCK, 1);
    VT_OK(vdisk_image_discard(image, 2 * BLOCK, BLOCK, &vt_err));
    assert_string_equal(told(image, &plain, "vdisk:version"), "64:0 128:1 306944:0 64:1");
    close_image(image);

    image = open_file(borrow(file), "gow3", VDISK_OPEN_WRITE);
    write_at(image, 2 * BLOCK, 1);
    assert_string_equal(told(image, &plain, "vdisk:version"), "64:0 64:1 64:2 306944:0 64:1");
    close_image(image);
    vd_storage_close(file);
}

/* Whoever only reads what a writer left can not tell which blocks it had changed. */
static void versions_behind_the_changes_are_not_offered(void **state)
{
    (void)state;
    struct vdisk_version_extent extent;
    struct vd_storage *left, *file = new_file("gow3", 300 * MIB);
    struct vdisk_image *image = open_file(borrow(file), "gow3", VDISK_OPEN_WRITE);
    write_at(image, BLOCK, 1);
    VT_OK(vdisk_image_flush(image, &vt_err));
    VT_OK(vt_snap_clone(file, &left, &vt_err)); /* as if it died now */
    assert_true(offers_versions(image));
    close_image(image);

    image = open_file(borrow(left), "gow3", 0);
    assert_false(offers_versions(image));
    VT_FAILS(EUCLEAN, vdisk_image_version(image, 0, 1, &extent, &vt_err));
    close_image(image);
    image = open_file(borrow(left), "gow3", VDISK_OPEN_WRITE); /* mends that */
    assert_string_equal(told(image, &plain, "vdisk:version"), "64:0 64:2 307072:0");
    close_image(image);
    vd_storage_close(left);
    vd_storage_close(file);

    image = new_image("gow2", MIB);
    assert_false(offers_versions(image));
    VT_FAILS(ENOTSUP, vdisk_image_version(image, 0, 1, &extent, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_version(image, MIB, 1, &extent, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_version(image, 0, 0, &extent, &vt_err));
    close_image(image);
}

static void queries_ask_by_name_and_lists_by_namespace(void **state)
{
    (void)state;
    const struct vd_context base = {.kind = VD_CONTEXT_ALLOCATION,
                                    .name = (char *)"base:allocation"};
    const struct vd_context depth = {.kind = VD_CONTEXT_DEPTH,
                                     .name = (char *)"qemu:allocation-depth"};
    const struct vd_context bitmap = {
        .kind = VD_CONTEXT_BITMAP, .name = (char *)"qemu:dirty-bitmap:a:b", .bitmap = "a:b"};
    const struct {
        const struct vd_context *context;
        const char *query;
        bool set, list;
    } cases[] = {
        {&base, "base:allocation", true, true},
        {&base, "base:", false, true},
        {&base, "base", false, false},
        {&base, "", false, false},
        {&base, "base:alloc", false, false},
        {&base, "base:allocation2", false, false},
        {&base, "qemu:", false, false},
        {&depth, "qemu:", false, true},
        {&depth, "qemu:dirty-bitmap:", false, false},
        {&bitmap, "qemu:", false, true},
        {&bitmap, "qemu:dirty-bitmap:", false, true},
        {&bitmap, "qemu:dirty-bitmap:a:", false, false},
        {&bitmap, "qemu:dirty-bitmap:a:b", true, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *query = cases[i].query;
        bool set = vd_context_is_asked(cases[i].context, query, strlen(query), false);
        bool list = vd_context_is_asked(cases[i].context, query, strlen(query), true);
        if (set != cases[i].set || list != cases[i].list)
            fail_msg("'%s' and %s: %d %d", query, cases[i].context->name, set, list);
    }
    /* Bytes, not strings. */
    assert_false(vd_context_is_asked(&base, "base:\0", 6, true));
    assert_true(vd_context_is_asked(&base, "base:allocation!", 15, false));
}

/* Runs side by side differ, whatever they are made of; there are never more than asked for. */
static void runs_are_merged_and_counted(void **state)
{
    (void)state;
    struct vd_context context = {.kind = VD_CONTEXT_ALLOCATION, .name = (char *)"base:allocation"};
    struct vd_context_extent extents[3];
    size_t entries = 3;
    struct vdisk_image *image = new_image("qcow2", MIB);
    write_at(image, 3 * BLOCK, BLOCK);
    write_at(image, 2 * BLOCK, BLOCK); /* lies behind it in the file: two runs of the image */
    write_at(image, 5 * BLOCK, BLOCK);
    VT_OK(vd_context_look(&context, image, vd_range(1, MIB - 1), extents, &entries, &vt_err));
    assert_int_equal(entries, 3);
    assert_int_equal(extents[0].length, 2 * BLOCK - 1);
    assert_int_equal(extents[0].flags, HOLE);
    assert_int_equal(extents[1].length, 2 * BLOCK);
    assert_int_equal(extents[1].flags, 0);
    assert_int_equal(extents[2].length, BLOCK);
    entries = 1;
    VT_OK(vd_context_look(&context, image, vd_range(2 * BLOCK, BLOCK + 1), extents, &entries,
                          &vt_err));
    assert_int_equal(entries, 1);
    assert_int_equal(extents[0].length, BLOCK + 1); /* no further than asked */
    close_image(image);
}

/* A disk of which nothing has to be looked at twice is answered in one go. */
static void large_disks_take_few_calls(void **state)
{
    (void)state;
    struct vd_context context = {.kind = VD_CONTEXT_ALLOCATION, .name = (char *)"base:allocation"};
    uint64_t size = UINT64_C(4) << 40, done = 0;
    struct vdisk_image *image = new_image("qcow2", size);
    unsigned calls = 0;
    for (; done < size; calls++) {
        struct vd_context_extent extents[2];
        size_t entries = 2;
        VT_OK(vd_context_look(&context, image, vd_range(done, size - done), extents, &entries,
                              &vt_err));
        assert_int_equal(entries, 1);
        assert_int_equal(extents[0].flags, HOLE);
        done += extents[0].length;
    }
    assert_int_equal(done, size);
    assert_in_range(calls, 1, 1000);
    close_image(image);
}

/* However many runs are asked for, one call tells of some thousands; the next one goes on there. */
static void calls_are_bounded(void **state)
{
    (void)state;
    enum {
        BLOCKS = 10000
    };
    struct vd_context context = {.kind = VD_CONTEXT_VERSION, .name = (char *)"vdisk:version"};
    struct vdisk_image *image = new_image("gow3", BLOCKS * BLOCK);
    for (uint64_t block = 1; block < BLOCKS; block += 2)
        write_at(image, block * BLOCK, 1);
    struct vd_context_extent *extents = calloc(BLOCKS, sizeof(*extents));
    assert_non_null(extents);
    uint64_t block = 0;
    unsigned calls = 0;
    for (; block < BLOCKS; calls++) {
        size_t entries = BLOCKS;
        VT_OK(vd_context_look(&context, image, vd_range(block * BLOCK, (BLOCKS - block) * BLOCK),
                              extents, &entries, &vt_err));
        assert_in_range(entries, 1, 4096);
        for (size_t i = 0; i < entries; i++, block++) {
            assert_int_equal(extents[i].length, BLOCK);
            assert_int_equal(extents[i].flags, block % 2);
        }
    }
    assert_int_equal(block, BLOCKS);
    assert_in_range(calls, 3, BLOCKS);
    free(extents);
    close_image(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocation_tells_holes_and_zeros),
        cmocka_unit_test(depth_counts_from_the_image_itself),
        cmocka_unit_test(bitmaps_tell_what_was_written),
        cmocka_unit_test(bitmaps_have_to_be_there),
        cmocka_unit_test(versions_go_up_by_session),
        cmocka_unit_test(versions_behind_the_changes_are_not_offered),
        cmocka_unit_test(queries_ask_by_name_and_lists_by_namespace),
        cmocka_unit_test(runs_are_merged_and_counted),
        cmocka_unit_test(large_disks_take_few_calls),
        cmocka_unit_test(calls_are_bounded),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
