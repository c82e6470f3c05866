/* SPDX-License-Identifier: MIT */
/*
 * job/compare: the answer is that of comparing byte by byte, whatever the threads do.
 *
 * Random, from a seed that is printed.  VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS (default 80) the
 * count of random comparisons.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "job/compare_cursor.h"

#define UNIT_BYTES     512u
#define DISK_UNITS_MAX 16000u

static unsigned seed;
static char directory[] = "/tmp/vdisk-test-compare-XXXXXX";

static unsigned below(unsigned limit)
{
    return (unsigned)rand_r(&seed) % limit;
}

static void fail_with(const char *what, const struct vdisk_error *err)
{
    print_error("%s: %s\n", what, err->message);
    fail();
}

struct disk {
    char name[64];
    size_t size;
    uint8_t *bytes; /* zeros up to the size of the longest disk */
};

static void disk_init(struct disk *disk, const char *name, size_t size)
{
    snprintf(disk->name, sizeof(disk->name), "%s/%s", directory, name);
    disk->size = size;
    disk->bytes = calloc(DISK_UNITS_MAX, UNIT_BYTES);
    int fd = open(disk->name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static void disk_write(struct disk *disk, size_t offset, size_t length, int fill)
{
    if (offset >= disk->size)
        return;
    if (length > disk->size - offset)
        length = disk->size - offset;
    memset(disk->bytes + offset, fill, length);
    int fd = open(disk->name, O_RDWR);
    assert_int_equal(pwrite(fd, disk->bytes + offset, length, (off_t)offset), length);
    close(fd);
}

static void disk_free(struct disk *disk)
{
    unlink(disk->name);
    free(disk->bytes);
}

/* Two disks with much in common. */
static void make_disks(struct disk *disks)
{
    size_t size = (size_t)(1 + below(DISK_UNITS_MAX)) * UNIT_BYTES;
    disk_init(&disks[0], "a", size);
    disk_init(&disks[1], "b", below(3) ? size : (size_t)(1 + below(DISK_UNITS_MAX)) * UNIT_BYTES);
    for (unsigned i = below(12); i; i--) {
        size_t offset = below((unsigned)size);
        size_t length = 1 + below(1u << (4 + below(18)));
        int fill = (int)below(3);
        for (int d = 0; d < 2; d++)
            disk_write(&disks[d], offset, length, fill);
    }
    for (unsigned i = below(5); i; i--)
        disk_write(&disks[below(2)], below((unsigned)size), 1 + below(1u << below(12)),
                   (int)below(2));
}

/* What was told, beside what byte by byte says. */
struct list {
    const struct disk *disks;
    uint64_t at; /* what lies before has been compared */
    uint64_t total;
    bool wrong;
};

static bool differs(const struct list *list, uint64_t offset)
{
    return memcmp(list->disks[0].bytes + offset, list->disks[1].bytes + offset, UNIT_BYTES) != 0;
}

static int note(void *opaque, uint64_t offset, uint64_t length)
{
    struct list *list = opaque;
    for (; list->at < offset; list->at += UNIT_BYTES)
        if (differs(list, list->at))
            list->wrong = true;
    for (; list->at < offset + length; list->at += UNIT_BYTES)
        if (!differs(list, list->at))
            list->wrong = true;
    list->total += length;
    return 0;
}

static struct vdisk_compare_options options_for(const struct disk *disks)
{
    return (struct vdisk_compare_options){
        .struct_bytes = sizeof(struct vdisk_compare_options),
        .names = {disks[0].name, disks[1].name},
        .formats = {"raw", "raw"},
        .workers = 1 + below(16),
    };
}

static void one_random_comparison(void)
{
    struct disk disks[2];
    struct vdisk_error err = {0};
    struct vdisk_compare_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_compare_result listed = {.struct_bytes = sizeof(listed)};
    make_disks(disks);
    struct list list = {.disks = disks};
    size_t longest = disks[0].size > disks[1].size ? disks[0].size : disks[1].size;
    uint64_t first = 0;
    while (first < longest && !differs(&list, first))
        first += UNIT_BYTES;

    struct vdisk_compare_options options = options_for(disks);
    if (vdisk_compare(&options, &result, &err) < 0)
        fail_with("comparing", &err);
    assert_int_equal(result.outcome, first < longest ? VDISK_COMPARE_CONTENT : VDISK_COMPARE_SAME);
    if (first < longest)
        assert_int_equal(result.offset, first);
    assert_int_equal(result.virtual_bytes[0], disks[0].size);
    assert_int_equal(result.virtual_bytes[1], disks[1].size);

    options.difference = note;
    options.opaque = &list;
    if (vdisk_compare(&options, &listed, &err) < 0)
        fail_with("listing", &err);
    assert_int_equal(listed.outcome, result.outcome);
    assert_int_equal(listed.offset, result.offset);
    assert_int_equal(listed.different_bytes, list.total);
    for (; list.at < longest; list.at += UNIT_BYTES)
        if (differs(&list, list.at))
            list.wrong = true;
    assert_false(list.wrong);
    disk_free(&disks[0]);
    disk_free(&disks[1]);
}

static void random_comparisons(void **state)
{
    (void)state;
    const char *wanted = getenv("VDISK_TEST_ROUNDS");
    for (unsigned long i = wanted ? strtoul(wanted, NULL, 10) : 80; i; i--)
        one_random_comparison();
}

static void strict_looks_at_size_and_allocation(void **state)
{
    (void)state;
    struct disk disks[2];
    struct vdisk_error err = {0};
    struct vdisk_compare_result result = {.struct_bytes = sizeof(result)};
    disk_init(&disks[0], "a", 1u << 20);
    disk_init(&disks[1], "b", 2u << 20);
    struct vdisk_compare_options options = options_for(disks);
    assert_int_equal(vdisk_compare(&options, &result, &err), 0);
    assert_int_equal(result.outcome, VDISK_COMPARE_SAME);
    options.flags = VDISK_COMPARE_STRICT;
    assert_int_equal(vdisk_compare(&options, &result, &err), 0);
    assert_int_equal(result.outcome, VDISK_COMPARE_SIZE);

    disk_free(&disks[0]);
    disk_init(&disks[0], "a", 2u << 20);
    assert_int_equal(vdisk_compare(&options, &result, &err), 0);
    assert_int_equal(result.outcome, VDISK_COMPARE_SAME);
    disk_write(&disks[1], 1u << 20, 65536, 0); /* zeros, but written */
    disk_write(&disks[1], 3u << 19, 65536, 1); /* a difference, but further behind */
    assert_int_equal(vdisk_compare(&options, &result, &err), 0);
    assert_int_equal(result.outcome, VDISK_COMPARE_STATUS);
    assert_int_equal(result.offset, 1u << 20);
    disk_free(&disks[0]);
    disk_free(&disks[1]);
}

static int cancel(void *opaque, uint64_t offset, uint64_t length)
{
    int *calls = opaque;
    (void)offset;
    (void)length;
    ++*calls;
    return 1;
}

static void who_is_told_may_cancel(void **state)
{
    (void)state;
    struct disk disks[2];
    struct vdisk_error err = {0};
    struct vdisk_compare_result result = {.struct_bytes = sizeof(result)};
    int calls = 0;
    disk_init(&disks[0], "a", 8000000 / UNIT_BYTES * UNIT_BYTES);
    disk_init(&disks[1], "b", disks[0].size);
    for (unsigned i = 0; i < 1000; i++)
        disk_write(&disks[0], i * 2000, 1, 1);
    struct vdisk_compare_options options = options_for(disks);
    options.difference = cancel;
    options.opaque = &calls;
    assert_int_equal(vdisk_compare(&options, &result, &err), -ECANCELED);
    assert_int_equal(calls, 1);
    disk_free(&disks[0]);
    disk_free(&disks[1]);
}

static void failures_name_their_step(void **state)
{
    (void)state;
    struct disk disks[2];
    struct vdisk_error err = {0};
    struct vdisk_compare_result result = {.struct_bytes = sizeof(result)};
    disk_init(&disks[0], "a", UNIT_BYTES);
    disk_init(&disks[1], "b", UNIT_BYTES);
    struct vdisk_compare_options options = options_for(disks);
    unlink(disks[1].name);
    assert_int_equal(vdisk_compare(&options, &result, &err), -ENOENT);
    assert_int_equal(result.failed_step, VDISK_COMPARE_OPENING);
    assert_non_null(strstr(err.message, disks[1].name));

    struct vdisk_compare_options bad = options;
    bad.flags = 1u << 20;
    assert_int_equal(vdisk_compare(&bad, &result, NULL), -EINVAL);
    bad = options;
    bad.flags = VDISK_COMPARE_STRICT;
    bad.difference = cancel;
    assert_int_equal(vdisk_compare(&bad, &result, NULL), -EINVAL);
    bad = options;
    bad.open_flags = VDISK_OPEN_WRITE;
    assert_int_equal(vdisk_compare(&bad, &result, NULL), -EINVAL);
    bad = options;
    bad.names[1] = NULL;
    assert_int_equal(vdisk_compare(&bad, &result, NULL), -EINVAL);
    disk_free(&disks[0]);
    disk_free(&disks[1]);
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
        cmocka_unit_test(random_comparisons),
        cmocka_unit_test(strict_looks_at_size_and_allocation),
        cmocka_unit_test(who_is_told_may_cancel),
        cmocka_unit_test(failures_name_their_step),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
