/* SPDX-License-Identifier: MIT */
/*
 * One suite for every format driver: random operations against plain arrays, on every kind of
 * storage, with sizes of the disk at corners.
 *
 *   test-format STACK     such as gow3, or qed-4k-1-over-raw: drivers/stack.h
 *
 * VD_TEST_OPS: operations in memory, default 20000, or 5000 for an image of several files, of large
 *              clusters or with a cipher; 1000000 for a full run.  On files a fifth of it, as they
 *              wait for the disk at every flush.  Sanitizer builds have smaller defaults, and do
 *              with ThreadSanitizer a tenth of what one thread does.
 * VD_TEST_SEED: seed, default a fixed one; the seed of each part is printed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/check.h"
#include "format-run.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

struct setting {
    const char *stack;
    uint64_t ops;
    uint64_t seed;
    enum vt_place place;
};

static uint64_t number_from(const char *variable, uint64_t fallback)
{
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 0) : fallback;
}

#define SIZES_MAX 12u

/* The disks; the last ones only where the format and the place can have them. */
static size_t make_sizes(const struct setting *setting, uint64_t sizes[SIZES_MAX])
{
    struct vt_stack stack;
    vt_stack_init(&stack, setting->stack, 512, 0);
    const uint64_t block = vt_stack_block_bytes(&stack);
    const uint64_t all[SIZES_MAX] = {
        512,
        block - 512,
        block,
        3 * block + 512,
        2 * MIB + 1536,
        37 * block + 3 * 512,
        128 * MIB + 512,
        300 * MIB + 98304,
        vt_stack_region_bytes(&stack) + 5 * block + 512,
        64 * GIB,
        256 * GIB - 512,
        256 * GIB,
    };
    uint64_t size_max = vd_min(vt_stack_size_max(&stack), 256 * GIB);
    /* Where zeros have to be written, those of large disks take most of the time: 64 GiB once. */
    bool writes_zeros = strstr(setting->stack, "rawdata") || strstr(setting->stack, "v2-over");
    if (writes_zeros)
        size_max = vd_min(size_max, setting->place == VT_PLACE_MEM && VT_SHARE(10) == 10
                                        ? 64 * GIB
                                        : 300 * MIB + 98304);
    bool has_metadata = strncmp(setting->stack, "gow", 3) == 0;
    if (setting->place > VT_PLACE_KEEP && !has_metadata)
        size_max = vd_min(size_max, 300 * MIB + 98304);
    size_t count = 0;
    for (size_t i = 0; i < SIZES_MAX; i++)
        if (all[i] <= size_max)
            sizes[count++] = all[i];
    return count;
}

static void test_random_operations(void **state)
{
    const struct setting *setting = *state;
    uint64_t sizes[SIZES_MAX];
    size_t count = make_sizes(setting, sizes);
    if (!vt_place_works(setting->place))
        skip();
    for (size_t i = 0; i < count; i++)
        vt_run_format(setting->stack, setting->place, sizes[i], VT_ROUNDS(setting->ops) / count + 1,
                      vt_mix(setting->seed + i));
}

/* What an operation costs goes with what it moves. */
static uint64_t default_ops(const char *stack)
{
    static const char *const dear[] = {"-over-", "-1m", "-2m", "luks"};
    uint64_t ops = 20000;
    for (size_t i = 0; i < sizeof(dear) / sizeof(dear[0]); i++)
        if (strstr(stack, dear[i]))
            ops = 5000;
    return VT_SHARE(ops);
}

static void test_threads(void **state)
{
    const struct setting *setting = *state;
    if (!vt_place_works(setting->place))
        skip();
    vt_run_threads(setting->stack, setting->place, setting->ops / 2, setting->seed);
}

static void test_refuses_what_is_outside(void **state)
{
    const struct setting *setting = *state;
    struct vt_stack stack;
    struct vt_subject subject;
    uint8_t buf[1024];
    vt_stack_init(&stack, setting->stack, MIB, setting->seed);
    vt_subject_create(&subject, &stack, VT_PLACE_MEM, NULL, 0);
    struct vdisk_image *image = vt_subject_open(&subject, VDISK_OPEN_WRITE);
    struct vdisk_extent extent;
    VT_FAILS(EINVAL, vdisk_image_pread(image, buf, 1024, MIB - 512, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_pread(image, buf, 1, UINT64_MAX, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_pwrite(image, buf, 1024, MIB - 512, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_write_zeroes(image, MIB, 1, 0, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_write_zeroes(image, 1, UINT64_MAX, 0, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_write_zeroes(image, 0, 1, 0x100, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_discard(image, 0, MIB + 1, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_extent(image, MIB, 1, &extent, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_extent(image, 0, 0, &extent, &vt_err));
    /* Nothing at all is no request, wherever it is. */
    VT_OK(vdisk_image_pread(image, buf, 0, MIB, &vt_err));
    VT_OK(vdisk_image_pwrite(image, buf, 0, MIB, &vt_err));
    VT_OK(vdisk_image_write_zeroes(image, MIB, 0, 0, &vt_err));
    VT_OK(vdisk_image_discard(image, 0, 0, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    vt_subject_destroy(&subject);
}

static void test_read_only_is_read_only(void **state)
{
    const struct setting *setting = *state;
    struct vt_stack stack;
    struct vt_subject subject;
    uint8_t buf[512] = {1};
    vt_stack_init(&stack, setting->stack, MIB, setting->seed);
    vt_subject_create(&subject, &stack, VT_PLACE_MEM, NULL, 0);
    struct vdisk_image *image = vt_subject_open(&subject, 0);
    VT_FAILS(EROFS, vdisk_image_pwrite(image, buf, 512, 0, &vt_err));
    VT_FAILS(EROFS, vdisk_image_write_zeroes(image, 0, 512, 0, &vt_err));
    VT_FAILS(EROFS, vdisk_image_discard(image, 0, 512, &vt_err));
    VT_FAILS(EROFS, vdisk_image_resize(image, 2 * MIB, VDISK_PREALLOCATION_OFF, &vt_err));
    VT_OK(vdisk_image_flush(image, &vt_err));
    VT_OK(vdisk_image_pread(image, buf, 512, 0, &vt_err));
    assert_int_equal(buf[0], 0);
    VT_OK(vdisk_image_close(image, &vt_err));
    vt_subject_destroy(&subject);
}

int main(int argc, char **argv)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    if (argc != 2) {
        fprintf(stderr, "usage: test-format STACK\n");
        return 2;
    }
    struct setting settings[VT_PLACES];
    uint64_t ops = number_from("VD_TEST_OPS", default_ops(argv[1]));
    for (enum vt_place place = 0; place < VT_PLACES; place++)
        settings[place] = (struct setting){.stack = argv[1],
                                           .ops = ops / (place == VT_PLACE_MEM    ? 1
                                                         : place == VT_PLACE_KEEP ? 2
                                                                                  : 5),
                                           .seed = number_from("VD_TEST_SEED", 20261121),
                                           .place = place};
#define ON(test, where)                                                    \
    {                                                                      \
#test " on " #where, test, NULL, NULL, &settings[VT_PLACE_##where] \
    }
    const struct CMUnitTest tests[] = {
        ON(test_refuses_what_is_outside, MEM),
        ON(test_read_only_is_read_only, MEM),
        ON(test_random_operations, MEM),
        ON(test_random_operations, FILE),
        ON(test_random_operations, DIRECT),
        ON(test_threads, MEM),
        ON(test_random_operations, KEEP),
        ON(test_threads, KEEP),
        ON(test_threads, FILE),
        ON(test_threads, DIRECT),
    };
    return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
}
