/* SPDX-License-Identifier: MIT */
/*
 * job/convert: what comes out is what went in, whatever the options; and failures leave no trace.
 *
 * Random, from a seed that is printed.  VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS (default 60) the
 * count of random conversions.
 */
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
#include <time.h>
#include <unistd.h>

#include "job/convert_cursor.h"
#include "util/mem.h"

#define DISK_BYTES_MAX (9u << 20)

static unsigned seed;
static char directory[] = "/tmp/vdisk-test-convert-XXXXXX";

static unsigned below(unsigned limit)
{
    return (unsigned)rand_r(&seed) % limit;
}

static void fail_with(const char *what, const struct vdisk_error *err)
{
    print_error("%s: %s\n", what, err->message);
    fail();
}

/* A name in the test's directory; four are good at a time. */
static const char *in_directory(const char *name)
{
    static char names[4][300];
    static unsigned next;
    char *path = names[next++ % 4];
    snprintf(path, sizeof(names[0]), "%s/%s", directory, name);
    return path;
}

/* ---- Disks ---- */

struct disk {
    char name[300];
    const char *format;
    uint8_t *bytes; /* what it should hold */
    size_t size;
};

static void write_stretch(struct vdisk_image *image, struct disk *disk, size_t offset,
                          size_t length, int fill)
{
    struct vdisk_error err = {0};
    memset(disk->bytes + offset, fill, length);
    for (size_t i = 0; fill && i < length; i += 1 + below(4000))
        disk->bytes[offset + i] = (uint8_t)below(256);
    if (vdisk_image_pwrite(image, disk->bytes + offset, length, offset, &err) < 0)
        fail_with("writing", &err);
}

/* A disk of random size with holes, zeros that are written, and data, of all lengths. */
static void make_disk(struct disk *disk, const char *name, const char *format)
{
    struct vdisk_error err = {0};
    disk->size = (size_t)(1 + below(DISK_BYTES_MAX / 512)) * 512;
    if (below(4) == 0)
        disk->size = (disk->size + 65535) / 65536 * 65536;
    disk->bytes = calloc(1, disk->size);
    disk->format = format;
    snprintf(disk->name, sizeof(disk->name), "%s", in_directory(name));

    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = disk->size};
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = VDISK_OPEN_WRITE, .format = format};
    struct vdisk_image *image;
    if (vdisk_image_create(disk->name, format, &create, &err) < 0 ||
        vdisk_image_open(disk->name, &open, &image, &err) < 0)
        fail_with(disk->name, &err);
    for (unsigned i = below(30); i; i--) {
        size_t offset = below((unsigned)disk->size);
        size_t length = 1 + below(1u << (4 + below(18)));
        if (below(2))
            offset = offset / 4096 * 4096;
        if (length > disk->size - offset)
            length = disk->size - offset;
        write_stretch(image, disk, offset, length, below(3) ? 1 + (int)below(255) : 0);
    }
    if (vdisk_image_close(image, &err) < 0)
        fail_with("closing", &err);
}

/* @size: of the disk, at least as much as @bytes has; the rest must be zero. */
static void check_disk(const char *name, const char *format, const uint8_t *bytes, size_t length)
{
    struct vdisk_error err = {0};
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .format = format};
    struct vdisk_image *image;
    if (vdisk_image_open(name, &open, &image, &err) < 0)
        fail_with(name, &err);
    assert_true(vdisk_image_size(image) >= length);
    uint8_t *got = malloc(length + 1);
    if (vdisk_image_pread(image, got, length, 0, &err) < 0)
        fail_with(name, &err);
    assert_memory_equal(got, bytes, length);
    free(got);
    vdisk_image_close(image, NULL);
}

static unsigned count_files(void)
{
    unsigned count = 0;
    DIR *dir = opendir(directory);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return count;
}

/* A random format that can be written, and whose images are one file. */
static const char *some_format(void)
{
    size_t count = 0;
    const char *name;
    while (vdisk_format_name(count))
        count++;
    do {
        name = vdisk_format_name(below((unsigned)count));
    } while (strcmp(name, "add-cow") == 0);
    return name;
}

/* ---- Conversions ---- */

static void random_options(struct vdisk_convert_options *options)
{
    static const uint64_t sparse[] = {0, 512, 4096, 65536, 1u << 20, 2u << 20};
    options->workers = 1 + below(16);
    options->sparse_bytes = sparse[below(6)];
    if (below(4) == 0)
        options->flags |= VDISK_CONVERT_ALLOCATE_ALL;
    if (below(4) == 0)
        options->flags |= VDISK_CONVERT_COPY_OFFLOAD;
    else if (below(4) == 0)
        options->flags |= VDISK_CONVERT_SALVAGE;
    if (below(2))
        options->target_flags |= VDISK_OPEN_UNSAFE;
}

/* Only a part of the disk of @size; returns its length, and leaves what it holds in @expected. */
static size_t choose_part(struct vdisk_convert_options *options, uint8_t *expected, size_t size)
{
    size_t offset = below((unsigned)size - 512);
    size_t length = 512 * (1 + (size_t)below((unsigned)(size - offset) / 512));
    memmove(expected, expected + offset, length);
    options->source_offset = offset;
    options->source_length = length;
    return length;
}

static void one_random_conversion(void)
{
    struct disk disks[3] = {0};
    const char *names[3];
    char number[16];
    struct vdisk_error err = {0};
    struct vdisk_convert_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_convert_result result = {.struct_bytes = sizeof(result)};
    size_t count = below(3) ? 1 : 1 + below(3);
    size_t total = 0;

    random_options(&options);
    const char *format = some_format();
    for (size_t i = 0; i < count; i++) {
        snprintf(number, sizeof(number), "source%zu", i);
        make_disk(&disks[i], number, format);
        names[i] = disks[i].name;
        total += disks[i].size;
    }
    uint8_t *expected = malloc(total);
    for (size_t i = 0, at = 0; i < count; at += disks[i].size, i++)
        memcpy(expected + at, disks[i].bytes, disks[i].size);

    if (count == 1 && below(3) == 0 && total >= 1024)
        total = choose_part(&options, expected, total);

    struct disk old = {0};
    bool no_create = below(3) == 0;
    options.target = in_directory("target");
    options.target_format = some_format();
    if (no_create) {
        /* Something else is there before; where it is long enough, it is written over. */
        do {
            free(old.bytes);
            make_disk(&old, "target", options.target_format);
        } while (old.size < total && total <= DISK_BYTES_MAX);
        options.flags |= VDISK_CONVERT_NO_CREATE;
    }
    options.sources = names;
    options.source_entries = count;
    options.source_format = format;

    int ret = vdisk_convert(&options, &result, &err);
    if (no_create && old.size < total) {
        assert_int_equal(ret, -EINVAL);
        check_disk(options.target, options.target_format, old.bytes, old.size);
    } else {
        if (ret < 0)
            fail_with("converting", &err);
        assert_int_equal(result.virtual_bytes, total);
        assert_int_equal(result.salvaged_bytes, 0);
        check_disk(options.target, options.target_format, expected, total);
    }
    if (no_create && old.size > total) { /* the rest is as it was */
        memcpy(old.bytes, expected, total);
        check_disk(options.target, options.target_format, old.bytes, old.size);
    }
    for (size_t i = 0; i < count; i++) {
        check_disk(disks[i].name, format, disks[i].bytes, disks[i].size);
        unlink(disks[i].name);
        free(disks[i].bytes);
    }
    unlink(options.target);
    assert_int_equal(count_files(), 0);
    free(old.bytes);
    free(expected);
}

static void random_conversions(void **state)
{
    (void)state;
    const char *wanted = getenv("VDISK_TEST_ROUNDS");
    for (unsigned long i = wanted ? strtoul(wanted, NULL, 10) : 60; i; i--)
        one_random_conversion();
}

/* A raw disk of 4 MiB of ones, "source". */
static void make_ones(struct disk *disk)
{
    *disk = (struct disk){.size = 4u << 20, .format = "raw"};
    disk->bytes = malloc(disk->size);
    memset(disk->bytes, 1, disk->size);
    snprintf(disk->name, sizeof(disk->name), "%s", in_directory("source"));
    FILE *file = fopen(disk->name, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(disk->bytes, 1, disk->size, file), disk->size);
    assert_int_equal(fclose(file), 0);
}

static void write_text(const char *name, const char *text, mode_t mode)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(name, mode), 0);
}

static void assert_text(const char *name, const char *text)
{
    char got[64] = "";
    FILE *file = fopen(name, "r");
    assert_non_null(file);
    size_t length = fread(got, 1, sizeof(got) - 1, file);
    got[length] = '\0';
    fclose(file);
    assert_string_equal(got, text);
}

static struct vdisk_convert_options simple_options(const char *const *sources)
{
    return (struct vdisk_convert_options){
        .struct_bytes = sizeof(struct vdisk_convert_options),
        .sources = sources,
        .source_entries = 1,
        .source_format = "raw",
    };
}

static void an_old_target_is_replaced_with_its_mode(void **state)
{
    (void)state;
    struct disk disk;
    make_ones(&disk);
    const char *source = disk.name;
    struct vdisk_convert_options options = simple_options(&source);
    options.target = in_directory("link");
    const char *target = in_directory("target");
    write_text(target, "precious", 0640);
    assert_int_equal(symlink("target", options.target), 0);

    struct vdisk_error err = {0};
    if (vdisk_convert(&options, NULL, &err) < 0)
        fail_with("converting", &err);
    struct stat st;
    assert_int_equal(lstat(options.target, &st), 0);
    assert_true(S_ISLNK(st.st_mode)); /* the file behind the link was replaced, not the link */
    assert_int_equal(lstat(target, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    check_disk(target, "raw", disk.bytes, disk.size);
    unlink(options.target);
    unlink(target);
    unlink(disk.name);
    free(disk.bytes);
    assert_int_equal(count_files(), 0);
}

static int cancel_second_call(void *opaque, const struct vdisk_progress *progress)
{
    int *calls = opaque;
    assert_string_equal(progress->phase, "copy");
    return ++*calls == 2;
}

static void canceling_leaves_the_old_target(void **state)
{
    (void)state;
    struct disk disk;
    int calls = 0;
    make_ones(&disk);
    const char *source = disk.name;
    struct vdisk_convert_options options = simple_options(&source);
    options.target = in_directory("target");
    options.progress = cancel_second_call;
    options.opaque = &calls;
    options.rate_bytes = 1u << 20; /* so slow that the second report comes in the middle */
    write_text(options.target, "precious", 0600);

    struct vdisk_error err = {0};
    assert_int_equal(vdisk_convert(&options, NULL, &err), -ECANCELED);
    assert_int_equal(calls, 2);
    assert_text(options.target, "precious");
    assert_int_equal(count_files(), 2);
    unlink(options.target);
    unlink(disk.name);
    free(disk.bytes);
}

static void the_same_file_is_refused(void **state)
{
    (void)state;
    struct disk disk;
    make_ones(&disk);
    const char *source = disk.name;
    const char *link_name = in_directory("link");
    const char *hard_name = in_directory("hard");
    assert_int_equal(symlink("source", link_name), 0);
    assert_int_equal(link(disk.name, hard_name), 0);
    const char *const targets[] = {disk.name, link_name, hard_name};
    for (size_t i = 0; i < 6; i++) {
        struct vdisk_convert_options options = simple_options(&source);
        struct vdisk_error err = {0};
        options.target = targets[i / 2];
        options.target_format = "raw";
        options.flags = i % 2 ? VDISK_CONVERT_NO_CREATE : 0;
        assert_int_equal(vdisk_convert(&options, NULL, &err), -EINVAL);
        assert_non_null(strstr(err.message, "same file"));
    }
    check_disk(disk.name, "raw", disk.bytes, disk.size);
    unlink(link_name);
    unlink(hard_name);
    unlink(disk.name);
    free(disk.bytes);
    assert_int_equal(count_files(), 0);
}

static void bad_options_touch_nothing(void **state)
{
    (void)state;
    struct disk disk;
    make_ones(&disk);
    const char *source = disk.name;
    struct vdisk_create_options small = {.struct_bytes = sizeof(small), .size = 512};
    struct vdisk_convert_options good = simple_options(&source);
    good.target = in_directory("target");
    write_text(good.target, "precious", 0600);

    const char *const twice[] = {source, source};
    struct vdisk_convert_options bad[12];
    for (size_t i = 0; i < 12; i++)
        bad[i] = good;
    bad[0].struct_bytes--;
    bad[1].reserved = 1;
    bad[2].flags = 1u << 30;
    bad[3].flags = VDISK_CONVERT_TARGET_IS_ZERO;
    bad[4].flags = VDISK_CONVERT_SALVAGE | VDISK_CONVERT_COPY_OFFLOAD;
    bad[5].sparse_bytes = 513;
    bad[6].sparse_bytes = 4u << 20;
    bad[7].source_flags = VDISK_OPEN_WRITE;
    bad[8].target_format = "nonsense";
    bad[9].create = &small;
    bad[10].source_offset = disk.size + 1;
    bad[11].sources = twice;
    bad[11].source_entries = 2;
    bad[11].source_length = 512;
    for (size_t i = 0; i < 12; i++) {
        struct vdisk_error err = {0};
        assert_int_equal(vdisk_convert(&bad[i], NULL, &err), -EINVAL);
        assert_true(strlen(err.message) > 10);
    }
    assert_text(good.target, "precious");
    unlink(good.target);
    unlink(disk.name);
    free(disk.bytes);
    assert_int_equal(count_files(), 0);
}

/* ---- The cursor, over disks in memory ---- */

static void make_mem_part(struct vd_convert_part *part, uint64_t size, uint8_t *expected)
{
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .format = "raw"};
    struct vdisk_error err = {0};
    struct vd_storage *storage;
    assert_int_equal(vd_storage_mem_open(size, &storage, &err), 0);
    for (unsigned i = below(6); i; i--) {
        uint64_t offset = below((unsigned)size);
        uint64_t length = vd_min(1 + below(1u << 18), size - offset);
        memset(expected + offset, 1, length);
        assert_int_equal(vd_storage_pwrite(storage, expected + offset, length, offset, &err), 0);
    }
    assert_int_equal(vd_image_open_on(storage, &open, &part->image, &err), 0);
    part->range.length = vdisk_image_size(part->image);
}

static void check_cursor(const struct vd_convert_source *source, uint64_t unit_bytes,
                         const uint8_t *expected)
{
    struct vd_convert_cursor cursor = {
        .source = source, .unit_bytes = unit_bytes, .zero_bytes_max = (1 + below(4)) * 2u << 20};
    struct vd_convert_piece piece;
    struct vdisk_error err = {0};
    uint64_t at = 0, pieces = 0;
    vd_convert_cursor_init(&cursor);
    for (;;) {
        assert_int_equal(vd_convert_cursor_next(&cursor, &piece, &err), 0);
        if (!piece.range.length)
            break;
        assert_int_equal(piece.range.offset, at);   /* C1 */
        assert_true(vd_is_aligned(at, unit_bytes)); /* C2 */
        at = vd_range_end(piece.range);
        assert_int_equal(piece.index, pieces++);
        for (uint64_t i = piece.range.offset; piece.is_zero && i < at; i++)
            assert_int_equal(expected[i], 0);
        if (!piece.is_zero)
            assert_int_equal(piece.range.offset / VD_CONVERT_PIECE_BYTES,
                             (at - 1) / VD_CONVERT_PIECE_BYTES);
        else
            assert_in_range(piece.range.length, 1, cursor.zero_bytes_max);
    }
    assert_int_equal(at, source->size);
    vd_convert_cursor_destroy(&cursor);
}

static void the_cursor_leaves_nothing_out(void **state)
{
    (void)state;
    for (int round = 0; round < 100; round++) {
        struct vd_convert_part parts[3] = {0};
        struct vd_convert_source source = {.parts = parts, .part_entries = 1 + below(3)};
        uint8_t *expected = calloc(3, 4u << 20);
        for (size_t i = 0; i < source.part_entries; i++) {
            make_mem_part(&parts[i], (uint64_t)(1 + below(8191)) * 512, expected + source.size);
            parts[i].range.offset = source.size;
            source.size += parts[i].range.length;
        }
        check_cursor(&source, 4096u << below(10), expected);
        for (size_t i = 0; i < source.part_entries; i++)
            vdisk_image_close(parts[i].image, NULL);
        free(expected);
    }
}

static int set_up(void **state)
{
    (void)state;
    const char *wanted = getenv("VDISK_TEST_SEED");
    seed = wanted ? (unsigned)strtoul(wanted, NULL, 0) : (unsigned)time(NULL);
    print_message("# seed %u\n", seed);
    return mkdtemp(directory) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cursor_leaves_nothing_out),
        cmocka_unit_test(random_conversions),
        cmocka_unit_test(an_old_target_is_replaced_with_its_mode),
        cmocka_unit_test(canceling_leaves_the_old_target),
        cmocka_unit_test(the_same_file_is_refused),
        cmocka_unit_test(bad_options_touch_nothing),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
