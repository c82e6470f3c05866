/* SPDX-License-Identifier: MIT */
/*
 * backup/copy: what is wanted of a disk is copied, and nothing else changes, whatever the formats,
 * sizes and options.
 *
 * Random, from a seed that is printed.  VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS (default 150)
 * the count of random rounds.
 */
#include "chain-fixture.h"

#include <errno.h>

#include "backup/copy.h"

static uint64_t seed;
static struct vd_bitmap_budget budget = {.bytes_max = VD_BITMAP_DATA_BYTES_MAX};

/* ---- One disk copied to another ---- */

struct pair {
    struct chain chain;
    struct level *source;
    struct level *target;
    struct vd_bitmap *wanted; /* or NULL: all */
};

/* A new qcow2 image whose compressed clusters, if it has any, are of one kind or the other. */
static struct level *add_qcow2(struct chain *chain, const char *file, const struct level *backing,
                               size_t size)
{
    struct level *level = chain_add(chain, file, "qcow2", backing, size);
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = size};
    create.cluster_bytes = 4096u << below(chain, 7);
    create.compression = below(chain, 2) ? "zstd" : "zlib";
    if (backing) {
        create.backing = backing->file;
        create.backing_format = backing->format;
    }
    VT_OK(vdisk_image_create(level->path, "qcow2", &create, &vt_err));
    return level;
}

/* An image on another, of any size, or on none. */
static struct level *add_target(struct chain *chain, size_t size)
{
    static const char *const formats[] = {"qcow2", "qcow2", "qed", "add-cow", "raw", "gow3"};
    size_t count = sizeof(formats) / sizeof(formats[0]);
    const struct level *backing = NULL;
    bool has_backing = below(chain, 3) > 0;
    const char *format = formats[below(chain, has_backing ? count - 2 : count)];
    if (has_backing) {
        struct level *base = chain_add(chain, "base", random_base(chain), NULL, random_size(chain));
        level_scribble(chain, base, 12);
        backing = base;
    }
    struct level *target = strcmp(format, "qcow2") == 0
                               ? add_qcow2(chain, "target", backing, size)
                               : chain_add(chain, "target", format, backing, size);
    level_scribble(chain, target, (unsigned)below(chain, 8));
    return target;
}

static struct level *add_source(struct chain *chain, size_t size)
{
    static const char *const formats[] = {"qcow2", "qed", "raw", "gow3"};
    struct level *source = chain_add(chain, "source", formats[below(chain, 4)], NULL, size);
    level_scribble(chain, source, 20);
    return source;
}

static void choose_wanted(struct pair *pair)
{
    struct chain *chain = &pair->chain;
    size_t size = pair->source->size;
    if (below(chain, 4) == 0)
        return;
    VT_OK(vd_bitmap_new(size, 9 + (uint32_t)below(chain, 10), &budget, &pair->wanted, &vt_err));
    for (uint64_t i = below(chain, 12); i; i--) {
        size_t offset = (size_t)below(chain, size);
        size_t length = 1 + (size_t)below(chain, UINT64_C(1) << (4 + below(chain, 18)));
        length = length < size - offset ? length : size - offset;
        VT_OK(vd_bitmap_set(pair->wanted, vd_range(offset, length), &vt_err));
    }
}

static void pair_init(struct pair *pair, uint64_t round_seed)
{
    *pair = (struct pair){.wanted = NULL};
    chain_init(&pair->chain, round_seed);
    if (below(&pair->chain, 3) == 0)
        pair->chain.size_max = DISK_BYTES_MAX;
    size_t size = random_size(&pair->chain);
    pair->source = add_source(&pair->chain, size);
    pair->target = add_target(&pair->chain, size);
    choose_wanted(pair);
}

static void pair_destroy(struct pair *pair)
{
    vd_bitmap_free(pair->wanted);
    chain_destroy(&pair->chain);
}

/* What the target is to show in the end; returns how much is wanted. */
static uint64_t expect(struct pair *pair, struct vd_range range)
{
    uint64_t bytes = 0;
    for (uint64_t at = range.offset; at < vd_range_end(range);) {
        struct vd_range rest = vd_range(at, vd_range_end(range) - at);
        struct vd_range run = pair->wanted ? vd_bitmap_next(pair->wanted, rest, true) : rest;
        if (!run.length)
            break;
        memcpy(pair->target->bytes + run.offset, pair->source->bytes + run.offset,
               (size_t)run.length);
        bytes += run.length;
        at = vd_range_end(run);
    }
    return bytes;
}

static uint32_t cluster_bytes_of(struct vdisk_image *image)
{
    struct vd_format_info info;
    VT_OK(vd_format_info(vd_image_format(image), &info, &vt_err));
    return info.cluster_bytes ? info.cluster_bytes : 4096;
}

/* All of the disk, or whole clusters of it. */
static struct vd_range choose_range(struct chain *chain, struct vdisk_image *target)
{
    uint64_t size = vdisk_image_size(target), unit = cluster_bytes_of(target);
    if (below(chain, 2))
        return vd_range(0, size);
    uint64_t start = vd_round_down(below(chain, size), unit);
    uint64_t end = vd_round_up(start + 1 + below(chain, size - start), unit);
    return vd_range(start, vd_min(end, size) - start);
}

static void copy_it(struct pair *pair, struct vd_copy *copy, struct vdisk_image *source,
                    struct vdisk_image *target)
{
    struct vd_job job;
    copy->source = source;
    copy->target = target;
    copy->wanted = pair->wanted;
    copy->job = &job;
    vd_job_init(&job, NULL, NULL, 0);
    VT_OK(vd_job_phase(&job, "copy", copy->range.length, 0, &vt_err));
    VT_OK(vd_copy_run(copy, &vt_err));
    assert_int_equal(atomic_load(&job.done_bytes), atomic_load(&copy->looked_bytes));
    vd_job_destroy(&job);
}

static bool takes_encoded(struct vdisk_image *image)
{
    struct vd_format_info info;
    VT_OK(vd_format_info(vd_image_format(image), &info, &vt_err));
    return info.takes_encoded;
}

/* Bytes that are wanted of clusters that the source does not say are zero as a whole. */
static uint64_t unknown_bytes(const struct pair *pair, struct vdisk_image *source, uint64_t unit)
{
    uint64_t bytes = 0, size = vdisk_image_size(source);
    for (uint64_t at = 0; at < size; at += unit) {
        struct vdisk_extent extent;
        struct vd_range rest = vd_range(at, vd_min(unit, size - at));
        VT_OK(vdisk_image_extent(source, at, rest.length, &extent, &vt_err));
        if (extent.length == rest.length && (extent.flags & VDISK_EXTENT_ZERO))
            continue;
        for (uint64_t end = vd_range_end(rest); rest.length;) {
            struct vd_range run = pair->wanted ? vd_bitmap_next(pair->wanted, rest, true) : rest;
            bytes += run.length;
            rest = run.length ? vd_range(vd_range_end(run), end - vd_range_end(run)) : run;
        }
    }
    return bytes;
}

static void one_round(uint64_t round_seed)
{
    struct pair pair;
    pair_init(&pair, round_seed);
    struct chain *chain = &pair.chain;
    struct vdisk_image *source = level_open(pair.source, 0);
    struct vdisk_image *target = level_open(pair.target, VDISK_OPEN_WRITE);
    struct vd_copy copy = {.range = choose_range(chain, target),
                           .compares = below(chain, 2) != 0,
                           .compresses = takes_encoded(target) && below(chain, 2) != 0,
                           .workers = (unsigned)below(chain, 5)};
    uint64_t wanted = expect(&pair, copy.range);
    copy_it(&pair, &copy, source, target);
    assert_int_equal(atomic_load(&copy.looked_bytes), wanted);
    uint64_t readable = unknown_bytes(&pair, source, cluster_bytes_of(target));
    assert_true(atomic_load(&copy.read_bytes) <= readable); /* K2 */
    image_shows(target, pair.target->bytes, pair.target->size);

    struct vd_copy again = {.range = copy.range, .compares = true};
    copy_it(&pair, &again, source, target);
    assert_int_equal(atomic_load(&again.data_bytes), 0); /* K3 */
    assert_int_equal(atomic_load(&again.zero_bytes), 0);
    assert_int_equal(vdisk_image_close(source, NULL), 0);
    VT_OK(vdisk_image_close(target, &vt_err));
    level_check(pair.target);
    level_check(pair.source);
    pair_destroy(&pair);
}

static void random_rounds(void **state)
{
    (void)state;
    struct vt_random seeds = {.state = seed};
    for (unsigned i = test_rounds(VT_ROUNDS(150)); i; i--) {
        uint64_t round_seed = vt_random_next(&seeds);
        if (getenv("VDISK_TEST_VERBOSE"))
            print_message("round with seed %" PRIu64 "\n", round_seed);
        one_round(round_seed);
    }
}

/* ---- What is refused ---- */

static int try_copy(struct vd_copy *copy)
{
    struct vd_job job;
    vd_job_init(&job, NULL, NULL, 0);
    copy->job = &job;
    struct vdisk_error err = {0};
    int ret = vd_copy_run(copy, &err);
    vd_job_destroy(&job);
    return ret;
}

static void wrong_ones_are_refused(void **state)
{
    (void)state;
    struct chain chain;
    chain_init(&chain, seed);
    struct level *small = chain_add(&chain, "small", "raw", NULL, 65536);
    struct level *large = chain_add(&chain, "large", "gow3", NULL, 2 * 65536);
    struct vdisk_image *source = level_open(small, 0);
    struct vdisk_image *target = level_open(large, VDISK_OPEN_WRITE);
    struct vd_copy other_size = {.source = source, .target = target, .range = vd_range(0, 65536)};
    assert_int_equal(try_copy(&other_size), -EINVAL);
    struct vd_copy compressed = {
        .source = target, .target = target, .range = vd_range(0, 65536), .compresses = true};
    assert_int_equal(try_copy(&compressed), -ENOTSUP);
    struct vd_copy part = {.source = target, .target = target, .range = vd_range(512, 65536)};
    assert_int_equal(try_copy(&part), -EINVAL);
    struct vd_copy past = {.source = target, .target = target, .range = vd_range(65536, 131072)};
    assert_int_equal(try_copy(&past), -EINVAL);
    VT_OK(vdisk_image_close(source, &vt_err));
    VT_OK(vdisk_image_close(target, &vt_err));
    chain_destroy(&chain);
}

/* ---- Zeros that nothing tells of ---- */

static bool is_known_zero(struct vdisk_image *image, size_t at, size_t length)
{
    bool is_zero = true;
    for (size_t end = at + length; at < end && is_zero;) {
        struct vdisk_extent extent;
        VT_OK(vdisk_image_extent(image, at, end - at, &extent, &vt_err));
        is_zero = (extent.flags & VDISK_EXTENT_ZERO) != 0;
        at += (size_t)extent.length;
    }
    return is_zero;
}

static bool is_zero_content(const uint8_t *bytes, size_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

static void zeros_are_added(void **state)
{
    (void)state;
    struct vt_random seeds = {.state = seed};
    for (unsigned i = test_rounds(VT_ROUNDS(40)); i; i--) {
        struct pair pair;
        struct vd_bitmap *wanted;
        pair_init(&pair, vt_random_next(&seeds));
        size_t size = pair.source->size;
        struct vdisk_image *source = level_open(pair.source, 0);
        struct vdisk_image *before = level_open(pair.target, 0);
        VT_OK(vd_bitmap_new(size, 12, &budget, &wanted, &vt_err));
        size_t step = 4096;
        VT_OK(vd_copy_add_zeros(source, before, wanted, &vt_err));
        for (size_t at = 0; at < size; at += step) {
            size_t length = size - at < step ? size - at : step;
            bool is_zero = is_known_zero(source, at, length);
            if (is_zero && !is_zero_content(pair.target->bytes + at, length))
                assert_true(vd_bitmap_has(wanted, vd_range(at, length)));
            if (!is_zero)
                assert_false(vd_bitmap_has(wanted, vd_range(at, length)));
        }
        vd_bitmap_free(wanted);
        VT_OK(vdisk_image_close(source, &vt_err));
        VT_OK(vdisk_image_close(before, &vt_err));
        pair_destroy(&pair);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rounds),
        cmocka_unit_test(wrong_ones_are_refused),
        cmocka_unit_test(zeros_are_added),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    seed = test_seed();
    printf("# seed %" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
