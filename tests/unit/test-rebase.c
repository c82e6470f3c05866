/* SPDX-License-Identifier: MIT */
/* job/rebase: another backing file, and the disk reads as before. */
#include "chain-fixture.h"

#include <endian.h>

static uint64_t seed;

static struct vdisk_rebase_options options_for(const struct level *image,
                                               const struct level *backing)
{
    return (struct vdisk_rebase_options){
        .struct_bytes = sizeof(struct vdisk_rebase_options),
        .name = image->path,
        .backing = backing ? backing->file : "",
        .backing_format = backing ? backing->format : NULL,
        .gate = &beside,
    };
}

/* An image with much of what @like shows. */
static struct level *add_similar(struct chain *chain, const struct level *like)
{
    struct level *other = chain_add(chain, "other", random_base(chain), NULL, random_size(chain));
    struct vdisk_image *image = level_open(other, VDISK_OPEN_WRITE);
    size_t size = other->size < like->size ? other->size : like->size;
    memcpy(other->bytes, like->bytes, size);
    VT_OK(vdisk_image_pwrite(image, other->bytes, size, 0, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    level_scribble(chain, other, (unsigned)below(chain, 6));
    return other;
}

/* The image that the top gets behind it, NULL for none. */
static const struct level *choose_backing(struct chain *chain)
{
    struct level *base = &chain->levels[0], *mid = &chain->levels[1];
    switch (below(chain, 5)) {
    case 0:
        return NULL;
    case 1:
        return base;
    case 2:
        return mid;
    case 3: {
        struct level *side =
            chain_add(chain, "side", random_overlay(chain), base, random_size(chain));
        level_scribble(chain, side, (unsigned)below(chain, 4));
        return side;
    }
    default:
        return add_similar(chain, mid);
    }
}

static void one_random_rebase(uint64_t number)
{
    struct chain chain;
    struct vdisk_rebase_result result = {.struct_bytes = sizeof(result)};
    chain_init(&chain, seed + number);
    chain_make(&chain);
    const struct level *mid = &chain.levels[1], *top = &chain.levels[2];
    if (below(&chain, 4) == 0) { /* from none */
        struct vdisk_rebase_options none = options_for(top, NULL);
        VT_OK(vdisk_rebase(&none, NULL, &vt_err));
        level_check(top);
        mid = NULL;
    }
    const struct level *backing = choose_backing(&chain);
    struct vdisk_rebase_options options = options_for(top, backing);
    options.workers = 1 + (uint32_t)below(&chain, 8);
    for (unsigned again = 0; again < 2; again++) {
        VT_OK(vdisk_rebase(&options, &result, &vt_err));
        level_names(top, backing ? backing->file : NULL);
        for (unsigned i = 0; i < chain.level_entries; i++)
            level_check(&chain.levels[i]);
        assert_int_equal(result.virtual_bytes, top->size);
        /* What is the same file is not read. */
        if (backing && (backing == mid || again)) {
            assert_int_equal(result.read_bytes, 0);
            assert_int_equal(result.data_bytes + result.zero_bytes, 0);
        }
    }
    chain_destroy(&chain);
}

static void random_rebases(void **state)
{
    (void)state;
    print_message("# seed %" PRIu64 "\n", seed);
    for (unsigned i = 0; i < test_rounds(25); i++)
        one_random_rebase(i);
}

static void a_canceled_rebase_is_done_again(void **state)
{
    (void)state;
    struct chain chain;
    unsigned calls = 1;
    chain_init(&chain, seed);
    struct level *base = chain_add(&chain, "base", "raw", NULL, DISK_BYTES_MAX);
    level_fill(&chain, base);
    struct level *top = chain_add(&chain, "top", "qed", base, DISK_BYTES_MAX);
    struct vdisk_rebase_options options = options_for(top, NULL);
    options.progress = cancel_after;
    options.opaque = &calls;
    options.rate_bytes = DISK_BYTES_MAX * 4; /* there is time for a second report */
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -ECANCELED);
    level_check(top);
    level_names(top, "base");

    options.progress = NULL;
    options.rate_bytes = 0;
    VT_OK(vdisk_rebase(&options, NULL, &vt_err));
    level_check(top);
    level_names(top, NULL);
    chain_destroy(&chain);
}

static void unsafe_changes_the_name_only(void **state)
{
    (void)state;
    struct chain chain;
    struct vdisk_rebase_result result = {.struct_bytes = sizeof(result)};
    chain_init(&chain, seed);
    chain_make(&chain);
    const struct level *top = &chain.levels[2];
    uint64_t held = level_holds(top);
    struct vdisk_rebase_options options = options_for(top, NULL);
    options.flags = VDISK_REBASE_UNSAFE;
    options.backing = "not-there";
    VT_OK(vdisk_rebase(&options, &result, &vt_err));
    assert_int_equal(result.read_bytes + result.data_bytes + result.zero_bytes, 0);
    level_names(top, "not-there");

    assert_int_equal(rename(path_of(&chain, "mid"), path_of(&chain, "moved")), 0);
    options.backing = "moved";
    VT_OK(vdisk_rebase(&options, NULL, &vt_err));
    assert_int_equal(level_holds(top), held);
    level_check(top);
    options.backing = path_of(&chain, "top");
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -ELOOP);
    options.backing = "nothing:known";
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -ENOTSUP);
    level_names(top, "moved");
    level_check(top);
    chain_destroy(&chain);
}

static void what_can_not_be_is_refused(void **state)
{
    (void)state;
    struct chain chain;
    struct vdisk_error err = {0};
    chain_init(&chain, seed);
    struct level *base = chain_add(&chain, "base", "raw", NULL, 1 << 20);
    level_scribble(&chain, base, 8);
    struct level *mid = chain_add(&chain, "mid", "qed", base, 1 << 20);
    struct level *top = chain_add(&chain, "top", "qed", mid, 1 << 20);

    /* Loops: the image itself, and behind what is behind it. */
    struct vdisk_rebase_options options = options_for(mid, top);
    assert_int_equal(vdisk_rebase(&options, NULL, &err), -ELOOP);
    assert_non_null(strstr(err.message, "only once"));
    options = options_for(mid, mid);
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -ELOOP);
    options = options_for(top, mid);
    options.backing = "not-there";
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -ENOENT);

    /* Raw is never a guess, and no format is recorded that is not what the content looks like. */
    options = options_for(top, base);
    options.backing_format = NULL;
    vdisk_error_clear(&err);
    assert_int_equal(vdisk_rebase(&options, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.message, "-F raw"));
    options.backing_format = "qed";
    assert_true(vdisk_rebase(&options, NULL, NULL) < 0);
    options.backing_format = "strange";
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -EINVAL);

    /* A format without backing files; somebody else who writes; the gate; options. */
    options = options_for(base, mid);
    options.format = "raw";
    options.flags = VDISK_REBASE_UNSAFE;
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -ENOTSUP);
    options = options_for(top, base);
    struct vdisk_image *image = level_open(base, VDISK_OPEN_WRITE);
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -EAGAIN);
    VT_OK(vdisk_image_close(image, &vt_err));
    options.gate = NULL; /* the new one is permitted, the old one is not */
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -EPERM);
    options = options_for(top, NULL);
    options.backing_format = "raw";
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -EINVAL);
    options.backing_format = NULL;
    options.flags = 0x80;
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -EINVAL);
    options.flags = 0;
    options.backing_flags = VDISK_OPEN_WRITE;
    assert_int_equal(vdisk_rebase(&options, NULL, NULL), -EINVAL);

    for (unsigned i = 0; i < chain.level_entries; i++)
        level_check(&chain.levels[i]);
    level_names(top, "mid");
    level_names(mid, "base");
    chain_destroy(&chain);
}

#define CLUSTER_BYTES 65536u

/* Fills a cluster of a new qcow2 image; returns its place in the file. */
static uint64_t fill_cluster(const struct level *level, uint64_t at)
{
    struct vdisk_image *image = level_open(level, VDISK_OPEN_WRITE);
    struct vdisk_extent extent;
    uint8_t *bytes = vt_calloc(CLUSTER_BYTES, 1);
    memset(bytes, 1, CLUSTER_BYTES);
    VT_OK(vdisk_image_pwrite(image, bytes, CLUSTER_BYTES, at, &vt_err));
    VT_OK(vdisk_image_extent(image, at, CLUSTER_BYTES, &extent, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    free(bytes);
    return extent.host_offset;
}

/* Its entry, the only one for that @place, says zeros from now on, and keeps the place. */
static void zero_in_entry(const struct level *level, uint64_t place)
{
    const uint64_t is_data = 1ull << 63, is_zero = 1;
    struct vd_storage *file;
    uint64_t size;
    unsigned found = 0;
    const struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    VT_OK(vd_storage_open(level->path, &options, &file, &vt_err));
    VT_OK(vd_storage_size(file, &size, &vt_err));
    for (uint64_t at = 0; at < vd_min(size, place); at += 8) {
        uint64_t entry;
        VT_OK(vd_storage_pread(file, &entry, sizeof(entry), at, &vt_err));
        if (be64toh(entry) != (place | is_data))
            continue;
        entry = htobe64(place | is_data | is_zero);
        VT_OK(vd_storage_pwrite(file, &entry, sizeof(entry), at, &vt_err));
        found++;
    }
    vd_storage_close(file);
    assert_int_equal(found, 1);
}

/* Zeros may keep a place in the file, where a raw disk shows what was there before. */
static void one_file_is_read_in_two_ways(void **state)
{
    (void)state;
    struct chain chain;
    chain_init(&chain, seed);
    uint64_t at = fill_cluster(chain_add(&chain, "probe", "qcow2", NULL, 1 << 20), 0);
    struct level *both = chain_add(&chain, "both", "qcow2", NULL, 1 << 20);
    assert_int_equal(fill_cluster(both, at), at); /* the same offset in disk and file */
    zero_in_entry(both, at);
    level_check(both);

    both->format = "raw";
    struct level *top = chain_add(&chain, "top", "qed", both, 1 << 20);
    struct vdisk_image *image = level_open(top, 0);
    VT_OK(vdisk_image_pread(image, top->bytes, top->size, 0, &vt_err));
    assert_int_equal(top->bytes[at], 1);
    VT_OK(vdisk_image_close(image, &vt_err));

    both->format = "qcow2";
    struct vdisk_rebase_options options = options_for(top, both);
    VT_OK(vdisk_rebase(&options, NULL, &vt_err));
    level_check(top);
    chain_destroy(&chain);
}

int main(void)
{
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_rebases),
        cmocka_unit_test(a_canceled_rebase_is_done_again),
        cmocka_unit_test(unsafe_changes_the_name_only),
        cmocka_unit_test(one_file_is_read_in_two_ways),
        cmocka_unit_test(what_can_not_be_is_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
