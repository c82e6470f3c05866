/* SPDX-License-Identifier: MIT */
/*
 * image/io, image/extent, image/copy over chains: what a fresh cluster is filled with, what reads
 * and extents find in images behind, growing, and zeros beside allocations (I4, I5).
 */
#include "cow-fixture.h"

#include <pthread.h>
#include <stdio.h>

#include "drivers/fault.h"
#include "drivers/random.h"
#include "image/copy.h"
#include "util/iov.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)

static void fill_image(struct vdisk_image *image, uint8_t byte, uint64_t offset, size_t length)
{
    uint8_t *bytes = vt_calloc(length, 1);
    memset(bytes, byte, length);
    VT_OK(vdisk_image_pwrite(image, bytes, length, offset, &vt_err));
    free(bytes);
}

static void check_all(struct vdisk_image *image, uint8_t byte, uint64_t offset, size_t length)
{
    uint8_t *bytes = vt_calloc(length, 1);
    VT_OK(vdisk_image_pread(image, bytes, length, offset, &vt_err));
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != byte)
            fail_msg("offset %llu: 0x%02x, not 0x%02x", (unsigned long long)offset + i, bytes[i],
                     byte);
    free(bytes);
}

static struct vdisk_image *raw_of(uint64_t size, uint8_t byte)
{
    struct vdisk_image *image = cow_raw(cow_mem(size));
    fill_image(image, byte, 0, (size_t)size);
    return image;
}

/* ---- random changes of chains, beside a plain array ---- */

struct shape {
    uint32_t cluster_bytes;
    uint64_t backing_bytes;
    uint64_t size;
};

static void change_randomly(struct vdisk_image *image, uint8_t *model, struct vt_random *random)
{
    uint64_t size = vdisk_image_size(image);
    uint64_t offset = vt_random_below(random, size);
    size_t length = (size_t)(1 + vt_random_below(random, vd_min(size - offset, 40 * KIB)));
    uint64_t cluster = image->cluster_bytes;
    if (vt_random_chance(random, 30)) {
        offset -= offset % cluster;
        length = (size_t)vd_min(vd_min(size - offset, cluster * 3), 512 * KIB);
    }
    switch (vt_random_below(random, 4)) {
    case 0:
        VT_OK(vdisk_image_write_zeroes(image, offset, length, 0, &vt_err));
        memset(model + offset, 0, length);
        break;
    case 1:
        VT_OK(vdisk_image_write_zeroes(image, offset, length, VDISK_ZERO_NO_HOLE, &vt_err));
        memset(model + offset, 0, length);
        break;
    default: {
        size_t first = (size_t)vt_random_below(random, length + 1);
        vt_random_fill(random, model + offset, length);
        const struct iovec iov[] = {vd_iov_const(model + offset, first), vd_iov_const(NULL, 0),
                                    vd_iov_const(model + offset + first, length - first)};
        VT_OK(vdisk_image_pwritev(image, iov, 3, offset, &vt_err));
    }
    }
}

static void check_model(struct vdisk_image *image, const uint8_t *model)
{
    size_t size = (size_t)vdisk_image_size(image);
    uint8_t *bytes = vt_calloc(size, 1);
    VT_OK(vdisk_image_pread(image, bytes, size, 0, &vt_err));
    assert_memory_equal(bytes, model, size);
    for (uint64_t at = 0; at < size;) { /* extents that claim zeros have to be right */
        struct vdisk_extent extent;
        VT_OK(vdisk_image_extent(image, at, size - at, &extent, &vt_err));
        for (uint64_t i = 0; (extent.flags & VDISK_EXTENT_ZERO) && i < extent.length; i++)
            assert_int_equal(model[at + i], 0);
        at += extent.length;
    }
    free(bytes);
}

/* Above the disk's end nothing of a cluster is anything but zeros, whatever it was filled from. */
static void check_tail(const struct vdisk_image *image)
{
    struct cow *cow = cow_of(image);
    uint64_t size = image->format->size, end;
    size_t last = cow->clusters - 1;
    size_t used = (size_t)(size - (uint64_t)last * cow->cluster_bytes);
    if (cow->kinds[last] != VD_MAP_DATA || used == cow->cluster_bytes)
        return;
    VT_OK(vd_storage_size(cow->data, &end, &vt_err));
    uint8_t byte;
    for (uint64_t at = cow->hosts[last] + used;
         at < vd_min(end, cow->hosts[last] + cow->cluster_bytes); at += 511) {
        VT_OK(vd_storage_pread(cow->data, &byte, 1, at, &vt_err));
        assert_int_equal(byte, 0);
    }
}

static void run_shape(const struct shape *shape, uint64_t seed)
{
    struct vt_random random = {.state = seed};
    struct vdisk_image *base = cow_raw(cow_mem(shape->backing_bytes));
    uint8_t *model = vt_calloc((size_t)vd_max(shape->size, shape->backing_bytes), 1);
    for (int i = 0; i < 20; i++)
        change_randomly(base, model, &random);
    memset(model + vd_min(shape->size, shape->backing_bytes), 0,
           (size_t)(vd_max(shape->size, shape->backing_bytes) -
                    vd_min(shape->size, shape->backing_bytes)));
    struct vdisk_image *image = cow_image(base, shape->size, shape->cluster_bytes, true);
    check_model(image, model);
    for (int level = 0; level < 3; level++) {
        for (int i = 0; i < 25; i++)
            change_randomly(image, model, &random);
        check_model(image, model);
        check_tail(image);
        image = cow_image(image, shape->size, level ? 4096 : shape->cluster_bytes, true);
    }
    check_model(image, model);
    VT_OK(vdisk_image_close(image, &vt_err));
    free(model);
}

static void chains_read_as_a_plain_array_does(void **state)
{
    (void)state;
    static const struct shape shapes[] = {
        {4096, 1024 * KIB, 1024 * KIB},      {65536, 1024 * KIB, 1024 * KIB},
        {65536, 300 * KIB + 512, 700 * KIB}, {65536, 700 * KIB, 300 * KIB + 512},
        {4096, 512, 99 * KIB + 512},         {1 << 21, 5 * MIB, 5 * MIB + 512},
        {1 << 22, 3 * MIB + 512, 9 * MIB},   {1 << 26, 1 * MIB, 2 * MIB + 512},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        print_message("# clusters of %u, seed %zu\n", shapes[i].cluster_bytes, i + 1);
        run_shape(&shapes[i], i + 1);
    }
}

/* Fills beyond 2 MiB go piece by piece: before, behind, and with the end of the backing disk and
 * of the disk itself in the middle of one. */
static void large_clusters_are_filled_in_pieces(void **state)
{
    (void)state;
    const uint64_t cluster = 64 * MIB, size = 60 * MIB + 512, shown = 37 * MIB + 512;
    struct vdisk_image *image = cow_image(raw_of(shown, 0xaa), size, (uint32_t)cluster, true);
    fill_image(image, 0xbb, 7 * MIB + 100, 5000);
    assert_int_equal(cow_of(image)->kinds[0], VD_MAP_DATA);
    check_all(image, 0xaa, 0, 7 * MIB + 100);
    check_all(image, 0xbb, 7 * MIB + 100, 5000);
    check_all(image, 0xaa, 7 * MIB + 5100, (size_t)(shown - 7 * MIB - 5100));
    check_all(image, 0, shown, (size_t)(size - shown));
    check_tail(image);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* ---- failures ---- */

static void a_fill_that_can_not_be_read_changes_nothing(void **state)
{
    (void)state;
    static const uint32_t clusters[] = {65536, 1 << 23};
    for (size_t i = 0; i < 2; i++) {
        struct vd_storage *faulty;
        VT_OK(vt_fault_open(cow_mem(16 * MIB), VT_OWN, &faulty, &vt_err));
        struct vdisk_image *base = cow_raw(faulty);
        fill_image(base, 0xaa, 0, 16 * MIB);
        struct vdisk_image *image = cow_image(base, 16 * MIB, clusters[i], true);
        for (uint64_t nth = 1; nth <= 2; nth++) { /* the head, the tail */
            struct vdisk_error err = {0};
            uint8_t bytes[512] = {0xbb};
            vt_fault_set(faulty, (struct vt_fault_plan){
                                     .calls = VT_CALL_BIT(VT_READ), .nth = nth, .error = EIO});
            assert_int_equal(vdisk_image_pwrite(image, bytes, sizeof(bytes), 4096, &err), -EIO);
            assert_int_equal(cow_of(image)->kinds[0], VD_MAP_BACKING);
            check_all(image, 0xaa, 0, 65536);
        }
        vt_fault_set(faulty, (struct vt_fault_plan){0});
        fill_image(image, 0xbb, 4096, 512);
        check_all(image, 0xbb, 4096, 512);
        check_all(image, 0xaa, 4608, 65536 - 4608);
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

/* What needs a backing image that was left closed fails; what does not works. */
static void without_its_backing_image_only_the_rest_works(void **state)
{
    (void)state;
    struct vdisk_image *image = cow_image(NULL, MIB, 65536, true);
    uint8_t bytes[512] = {0};
    struct vdisk_extent extent;
    fill_image(image, 0xbb, 65536, 65536);
    check_all(image, 0xbb, 65536, 65536);
    memset(bytes, 0xcc, sizeof(bytes));
    VT_FAILS(EINVAL, vdisk_image_pread(image, bytes, sizeof(bytes), 0, &vt_err));
    assert_int_equal(bytes[0], 0);
    VT_FAILS(EINVAL, vdisk_image_pwrite(image, bytes, sizeof(bytes), 512, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_write_zeroes(image, 512, 512, 0, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_extent(image, 0, 512, &extent, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_resize(image, 2 * MIB, VDISK_PREALLOCATION_OFF, &vt_err));
    VT_OK(vdisk_image_write_zeroes(image, 0, 65536, 0, &vt_err));
    check_all(image, 0, 0, 65536);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* ---- sizes ---- */

/* Whatever the backing disk has beyond the old end must not come up. */
static void growing_shows_zeros(void **state)
{
    (void)state;
    static const struct {
        uint64_t backing, old_size, new_size;
        bool zero_before; /* the last cluster is zero by its entry */
    } rows[] = {
        {MIB, 256 * KIB, 512 * KIB, false},       {MIB, 256 * KIB + 512, 512 * KIB, false},
        {MIB, 256 * KIB + 512, 2 * MIB, false},   {MIB, 320 * KIB - 512, 320 * KIB, false},
        {300 * KIB, 280 * KIB, 2 * MIB, false},   {300 * KIB, 299 * KIB + 512, 300 * KIB, false},
        {200 * KIB, 256 * KIB + 512, MIB, false}, {MIB, 512, MIB, false},
        {MIB, 256 * KIB + 512, 512 * KIB, true},  {MIB, 0, 512 * KIB, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t shown = vd_min(rows[i].backing, rows[i].old_size);
        struct vdisk_image *image =
            cow_image(raw_of(rows[i].backing, 0xaa), rows[i].old_size, 65536, true);
        if (rows[i].zero_before) {
            shown = 256 * KIB;
            VT_OK(vdisk_image_write_zeroes(image, shown, 512, 0, &vt_err));
        }
        VT_OK(vdisk_image_resize(image, rows[i].new_size, VDISK_PREALLOCATION_OFF, &vt_err));
        assert_int_equal(vdisk_image_size(image), rows[i].new_size);
        check_all(image, 0xaa, 0, (size_t)shown);
        check_all(image, 0, shown, (size_t)(rows[i].new_size - shown));
        VT_OK(vdisk_image_close(image, &vt_err));
    }
}

static void reads_cross_the_end_of_a_short_backing_disk(void **state)
{
    (void)state;
    struct vdisk_image *image = cow_image(raw_of(100 * KIB + 512, 0xaa), MIB, 65536, true);
    uint8_t first[1000], second[2000];
    struct iovec iov[] = {{first, sizeof(first)}, {NULL, 0}, {second, sizeof(second)}};
    memset(first, 0xcc, sizeof(first));
    memset(second, 0xcc, sizeof(second));
    VT_OK(vdisk_image_preadv(image, iov, 3, 100 * KIB + 512 - 1500, &vt_err));
    for (size_t i = 0; i < sizeof(first); i++)
        assert_int_equal(first[i], 0xaa);
    for (size_t i = 0; i < sizeof(second); i++)
        assert_int_equal(second[i], i < 500 ? 0xaa : 0);
    check_all(image, 0, 101 * KIB, (size_t)(MIB - 101 * KIB));

    struct vdisk_extent extent;
    VT_OK(vdisk_image_extent(image, 0, MIB, &extent, &vt_err));
    assert_int_equal(extent.length, 100 * KIB + 512);
    assert_int_equal(extent.depth, 1);
    assert_int_equal(extent.flags, VDISK_EXTENT_DATA | VDISK_EXTENT_PRESENT | VDISK_EXTENT_OFFSET);
    VT_OK(vdisk_image_extent(image, 100 * KIB + 512, MIB - 100 * KIB - 512, &extent, &vt_err));
    assert_int_equal(extent.length, MIB - 100 * KIB - 512);
    assert_int_equal(extent.depth, 1);
    assert_int_equal(extent.flags, VDISK_EXTENT_ZERO | VDISK_EXTENT_PRESENT);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* ---- depth ---- */

/* @levels overlays, one behind the other, of which every one has a cluster of its own. */
static struct vdisk_image *deep_image(unsigned levels, uint64_t size)
{
    struct vdisk_image *image = raw_of(size, 0xff);
    for (unsigned level = 1; level <= levels; level++) {
        image = cow_image(image, size, 65536, true);
        fill_image(image, (uint8_t)level, (uint64_t)level * 65536, 65536);
        image->format->flags = 0; /* as if it had been opened read-only */
    }
    return image;
}

static unsigned long count_maps(const struct vdisk_image *image)
{
    unsigned long maps = 0;
    for (; image->backing; image = image->backing)
        maps += atomic_load(&cow_of(image)->maps);
    return maps;
}

/* Each level is asked for each of its runs a few times, and not for every run of the others. */
static void extents_of_deep_chains_cost_little(void **state)
{
    (void)state;
    enum {
        LEVELS = 100,
        CLUSTERS = 128
    };
    struct vdisk_image *image = deep_image(LEVELS, CLUSTERS * UINT64_C(65536));
    unsigned long before = count_maps(image);
    unsigned extents = 0;
    for (uint64_t at = 0; at < vdisk_image_size(image); extents++) {
        if (at >=
            LEVELS / 2 * UINT64_C(65536)) /* from here on, what was looked at ahead is known */
            image->is_constant = true;
        struct vdisk_extent extent;
        VT_OK(vdisk_image_extent(image, at, vdisk_image_size(image) - at, &extent, &vt_err));
        uint64_t index = at / 65536;
        bool is_base = index == 0 || index > LEVELS;
        assert_int_equal(extent.depth, is_base ? LEVELS : LEVELS - index);
        assert_int_equal(extent.length, !is_base ? 65536
                                        : index  ? (CLUSTERS - index) * 65536
                                                 : 65536);
        at += extent.length;
    }
    assert_int_equal(extents, LEVELS + 2);
    unsigned long maps = count_maps(image) - before;
    print_message("# %lu calls of map() for %u extents of %u levels\n", maps, extents, LEVELS);
    assert_in_range(maps, LEVELS, 12 * LEVELS);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* A writable image is asked every time: what was BACKING need not be so any more. */
static void runs_of_writable_images_are_not_remembered(void **state)
{
    (void)state;
    struct vdisk_image *image =
        cow_image(cow_image(raw_of(MIB, 0xaa), MIB, 65536, true), MIB, 65536, true);
    struct vdisk_extent extent;
    for (unsigned depth = 2; depth + 1 > 0; depth--) {
        VT_OK(vdisk_image_extent(image, 65536, 65536, &extent, &vt_err));
        assert_int_equal(extent.depth, depth);
        check_all(image, depth == 2 ? 0xaa : (uint8_t)depth, 65536, 65536);
        if (depth > 0) /* as commit does, in an image that is behind; then in the top one */
            fill_image(depth == 2 ? image->backing : image, (uint8_t)(depth - 1), 65536, 65536);
    }
    VT_OK(vdisk_image_close(image, &vt_err));
}

#define STACK_BYTES (256 * KIB)
#define PATTERN     0x5a

/* Reads, looks and copies through all levels; returns NULL if that went well. */
static void *walk_deep(void *opaque)
{
    struct vdisk_image *image = opaque;
    struct vdisk_extent extent;
    static uint8_t bytes[65536];
    uint64_t done = 0;
    struct vdisk_image *target = NULL;
    struct vd_storage *file = NULL;
    const struct vdisk_open_options raw = {
        .struct_bytes = sizeof(raw), .flags = VDISK_OPEN_WRITE, .format = "raw"};
    int ret = vdisk_image_pread(image, bytes, sizeof(bytes), 0, NULL);
    if (ret == 0)
        ret = vdisk_image_extent(image, 0, 65536, &extent, NULL);
    if (ret == 0)
        ret = vd_storage_mem_open(vdisk_image_size(image), &file, NULL);
    if (ret == 0)
        ret = vd_image_open_on(file, &raw, &target, NULL);
    if (ret < 0)
        return "failed";
    struct vd_image_copy copy = {.from = image, .to = target, .length = 65536};
    ret = vd_image_copy(&copy, &done, NULL); /* storage in memory can not */
    vdisk_image_close(target, NULL);
    return ret == -EOPNOTSUPP && bytes[65535] == 0xff && extent.depth + 1 == VDISK_CHAIN_IMAGES_MAX
               ? NULL
               : "wrong";
}

/* The deepest chain there can be needs no more stack than a small thread has. */
static void the_deepest_chain_fits_a_small_stack(void **state)
{
    (void)state;
    struct vdisk_image *image =
        deep_image(VDISK_CHAIN_IMAGES_MAX - 1, VDISK_CHAIN_IMAGES_MAX * UINT64_C(65536));
    size_t stack_bytes = 16 * MIB; /* sanitizers take more, so what is used is looked at, not had */
    uint8_t *stack = vt_must(aligned_alloc(4096, stack_bytes));
    memset(stack, PATTERN, stack_bytes);
    pthread_attr_t attributes;
    pthread_t thread;
    void *story = "did not run";
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstack(&attributes, stack, stack_bytes), 0);
    assert_int_equal(pthread_create(&thread, &attributes, walk_deep, image), 0);
    assert_int_equal(pthread_join(thread, &story), 0);
    if (story)
        fail_msg("%s", (const char *)story);
    size_t untouched = 0;
    while (untouched < stack_bytes && stack[untouched] == PATTERN)
        untouched++;
    size_t used = stack_bytes - untouched;
    print_message("# %zu bytes of stack for %u images\n", used, VDISK_CHAIN_IMAGES_MAX);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__OPTIMIZE__)
    assert_true(used <= STACK_BYTES);
#endif
    pthread_attr_destroy(&attributes);
    free(stack);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* ---- zeros beside allocations ---- */

#define ROUNDS     400u
#define PART_BYTES 512u

struct race {
    struct vdisk_image *image;
    pthread_barrier_t start;
    uint64_t clusters; /* of one call that zeroes */
    bool discards;
    const char *failure;
};

static void *zero_clusters(void *opaque)
{
    struct race *race = opaque;
    for (uint64_t round = 0; round < ROUNDS; round += race->clusters) {
        pthread_barrier_wait(&race->start);
        uint64_t offset = round * 4096, length = race->clusters * 4096;
        int ret = race->discards ? vdisk_image_discard(race->image, offset, length, NULL)
                                 : vdisk_image_write_zeroes(race->image, offset, length, 0, NULL);
        if (ret < 0)
            race->failure = "zeroing failed";
        pthread_barrier_wait(&race->start);
    }
    return NULL;
}

/* Writes parts of clusters that are being zeroed.  Old bytes must not come back with them. */
static void write_beside(struct race *race)
{
    uint8_t part[PART_BYTES], cluster[4096];
    memset(part, 0xbb, sizeof(part));
    for (uint64_t round = 0; round < ROUNDS; round += race->clusters) {
        pthread_barrier_wait(&race->start);
        for (uint64_t i = 0; i < race->clusters; i++)
            VT_OK(vdisk_image_pwrite(race->image, part, sizeof(part), (round + i) * 4096 + 1024,
                                     &vt_err));
        pthread_barrier_wait(&race->start);
        for (uint64_t i = 0; i < race->clusters; i++) {
            VT_OK(vdisk_image_pread(race->image, cluster, sizeof(cluster), (round + i) * 4096,
                                    &vt_err));
            for (size_t b = 0; b < sizeof(cluster); b++)
                if (cluster[b] != 0 && (cluster[b] != 0xbb || b < 1024 || b >= 1024 + PART_BYTES))
                    fail_msg("cluster %llu, byte %zu: 0x%02x came back",
                             (unsigned long long)(round + i), b, cluster[b]);
        }
    }
}

static void zeroing_keeps_old_bytes_away_for_good(void **state)
{
    (void)state;
    for (unsigned variant = 0; variant < 4; variant++) {
        struct race race = {.clusters = variant & 1 ? 8 : 1, .discards = variant & 2};
        race.image = cow_image(raw_of(ROUNDS * 4096, 0xaa), ROUNDS * 4096, 4096, true);
        pthread_t thread;
        assert_int_equal(pthread_barrier_init(&race.start, NULL, 2), 0);
        assert_int_equal(pthread_create(&thread, NULL, zero_clusters, &race), 0);
        write_beside(&race);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_null(race.failure);
        pthread_barrier_destroy(&race.start);
        VT_OK(vdisk_image_close(race.image, &vt_err));
    }
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_read_as_a_plain_array_does),
        cmocka_unit_test(large_clusters_are_filled_in_pieces),
        cmocka_unit_test(a_fill_that_can_not_be_read_changes_nothing),
        cmocka_unit_test(without_its_backing_image_only_the_rest_works),
        cmocka_unit_test(growing_shows_zeros),
        cmocka_unit_test(reads_cross_the_end_of_a_short_backing_disk),
        cmocka_unit_test(extents_of_deep_chains_cost_little),
        cmocka_unit_test(runs_of_writable_images_are_not_remembered),
        cmocka_unit_test(the_deepest_chain_fits_a_small_stack),
        cmocka_unit_test(zeroing_keeps_old_bytes_away_for_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
