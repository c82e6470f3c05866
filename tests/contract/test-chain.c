/* SPDX-License-Identifier: MIT */
/*
 * Chains of images of all formats against plain arrays.
 *
 *   test-chain
 *
 * A raw, gow3 or qed image at the bottom, qed and add-cow ones above in random order, three and
 * thirty levels deep, of different sizes.  Random sessions on the top image, and between them what
 * one does to chains.  After each step, what was touched is compared byte for byte.
 *
 * Random, from a seed that is printed.  VD_TEST_SEED sets it, VD_CHAIN_STEPS (default 120) the
 * count of steps of each chain.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "contract/chain-disk.h"
#include "drivers/check.h"

#define LEVELS_MAX         40u
#define SESSION_OPERATIONS 25u

struct chain {
    char directory[200];
    struct vt_random random;
    struct vt_disk *disks[LEVELS_MAX]; /* from the bottom up */
    unsigned entries;
    unsigned wanted; /* entries that it goes back to */
    unsigned names;  /* used up */
};

static struct vt_disk *top(const struct chain *chain)
{
    return chain->disks[chain->entries - 1];
}

static unsigned below(struct chain *chain, unsigned limit)
{
    return (unsigned)vt_random_below(&chain->random, limit);
}

/* --- building -------------------------------------------------------------------------------- */

static struct vt_disk *make(struct chain *chain, enum vt_kind kind, uint64_t size,
                            const struct vt_disk *backing)
{
    char name[32];
    snprintf(name, sizeof(name), "%u.%s", chain->names++, vt_kind_name(kind));
    return vt_disk_create(chain->directory, name, kind, size, backing, &chain->random);
}

static void push(struct chain *chain, struct vt_disk *disk)
{
    assert_true(chain->entries < LEVELS_MAX);
    chain->disks[chain->entries++] = disk;
}

static void make_bottom(struct chain *chain)
{
    static const enum vt_kind kinds[] = {VT_RAW, VT_GOW3, VT_QED};
    push(chain, make(chain, kinds[below(chain, 3)], vt_disk_draw_size(&chain->random), NULL));
}

/* As long as the one behind it, or shorter, or longer. */
static void make_overlay(struct chain *chain)
{
    enum vt_kind kind = below(chain, 2) ? VT_QED : VT_ADD_COW;
    uint64_t size = below(chain, 2) ? top(chain)->size : vt_disk_draw_size(&chain->random);
    push(chain, make(chain, kind, size, top(chain)));
}

static void pop(struct chain *chain)
{
    vt_disk_free(top(chain), true);
    chain->entries--;
}

/* --- steps ----------------------------------------------------------------------------------- */

static void step_session(struct chain *chain)
{
    vt_disk_session(top(chain), SESSION_OPERATIONS, &chain->random);
}

static void step_overlay(struct chain *chain)
{
    if (chain->entries >= chain->wanted + 2)
        return;
    make_overlay(chain);
    step_session(chain);
}

/* The top image goes on under another name, and a new overlay under its own. */
static void step_snapshot(struct chain *chain)
{
    if (chain->entries >= chain->wanted + 2)
        return;
    struct vt_disk *image = top(chain);
    struct vt_disk *overlay = vt_disk_snapshot(image, chain->names++, &chain->random);
    push(chain, overlay);
    vt_disk_verify(image, &chain->random);
    vt_disk_verify(overlay, &chain->random);
    step_session(chain);
}

/* Every image of the chain is looked at. */
static void step_verify_all(struct chain *chain)
{
    for (unsigned i = 0; i < chain->entries; i++) {
        vt_disk_verify(chain->disks[i], &chain->random);
        vt_disk_check(chain->disks[i]);
    }
}

/* Fills @copy, an empty disk, with what @source reads as. */
static void convert_into(const struct vt_disk *source, struct vt_disk *copy)
{
    const char *name = source->path;
    struct vdisk_convert_options options = {
        .struct_bytes = sizeof(options),
        .sources = &name,
        .source_entries = 1,
        .source_format = vt_kind_name(source->kind),
        .target = copy->path,
        .target_format = vt_kind_name(copy->kind),
        .target_flags = VDISK_OPEN_UNSAFE,
        .gate = &vt_disk_gate,
    };
    VT_OK(vdisk_convert(&options, NULL, &vt_err));
    memcpy(copy->bytes, source->bytes, source->size);
}

static struct vt_disk *make_copy(struct chain *chain, const struct vt_disk *source)
{
    struct vt_disk *copy = make(chain, (enum vt_kind)below(chain, VT_ADD_COW), source->size, NULL);
    convert_into(source, copy);
    vt_disk_check(copy);
    return copy;
}

/* A new disk of the same content, in another format. */
static void step_convert(struct chain *chain)
{
    struct vt_disk *copy = make_copy(chain, chain->disks[below(chain, chain->entries)]);
    vt_disk_verify(copy, &chain->random);
    vt_disk_free(copy, true);
}

/* Of the images that have one behind them, one near the end that is told. */
static unsigned draw_level(struct chain *chain, bool near_bottom)
{
    unsigned range = chain->entries - 1 < 3 ? chain->entries - 1 : 3;
    unsigned at = below(chain, range);
    return near_bottom ? 1 + at : chain->entries - 1 - at;
}

/* Takes the images from @first to before @last out of the chain. */
static void drop(struct chain *chain, unsigned first, unsigned last)
{
    for (unsigned i = first; i < last; i++)
        vt_disk_free(chain->disks[i], true);
    memmove(chain->disks + first, chain->disks + last,
            (chain->entries - last) * sizeof(chain->disks[0]));
    chain->entries -= last - first;
}

/* The base gets the content of the image that is committed; what it has behind that stays. */
static void model_commit(struct vt_disk *base, const struct vt_disk *image)
{
    if (base->size < image->size)
        vt_disk_set_size(base, image->size);
    memcpy(base->bytes, image->bytes, image->size);
}

/* Any image into the one behind it. */
static void step_commit(struct chain *chain)
{
    unsigned level = draw_level(chain, below(chain, 2));
    struct vt_disk *image = chain->disks[level];
    struct vt_disk *base = chain->disks[level - 1];
    struct vdisk_commit_options options = {
        .struct_bytes = sizeof(options),
        .flags = below(chain, 4) ? 0 : VDISK_COMMIT_KEEP,
        .name = image->path,
        .format = vt_kind_name(image->kind),
        .gate = &vt_disk_gate,
    };
    struct vdisk_commit_result result = {.struct_bytes = sizeof(result)};
    VT_OK(vdisk_commit(&options, &result, &vt_err));
    assert_int_equal(result.base_depth, 1);
    assert_int_equal((result.flags & VDISK_COMMIT_BASE_GREW) != 0, base->size < image->size);
    assert_int_equal((result.flags & VDISK_COMMIT_EMPTIED) != 0,
                     !(options.flags & VDISK_COMMIT_KEEP));
    model_commit(base, image);
    vt_disk_verify(image, &chain->random);
    vt_disk_verify(base, &chain->random);
    vt_disk_check(image);
    vt_disk_check(base);
}

/* The top image into any below it, which becomes the top. */
static void step_commit_to_base(struct chain *chain)
{
    unsigned depth = 1 + below(chain, chain->entries - 1 < 8 ? chain->entries - 1 : 8);
    unsigned level = chain->entries - 1 - depth;
    struct vt_disk *image = top(chain);
    struct vt_disk *base = chain->disks[level];
    struct vdisk_commit_options options = {
        .struct_bytes = sizeof(options),
        .name = image->path,
        .format = vt_kind_name(image->kind),
        .base = base->path,
        .gate = &vt_disk_gate,
    };
    struct vdisk_commit_result result = {.struct_bytes = sizeof(result)};
    VT_OK(vdisk_commit(&options, &result, &vt_err));
    assert_int_equal(result.base_depth, depth);
    assert_false(result.flags & VDISK_COMMIT_EMPTIED);
    model_commit(base, image);
    vt_disk_verify(image, &chain->random);
    drop(chain, level + 1, chain->entries);
    vt_disk_verify(base, &chain->random);
    vt_disk_check(base);
}

static void rebase(struct vt_disk *image, const struct vt_disk *backing, unsigned flags)
{
    const char *slash = backing ? strrchr(backing->path, '/') : NULL;
    struct vdisk_rebase_options options = {
        .struct_bytes = sizeof(options),
        .flags = flags,
        .name = image->path,
        .format = vt_kind_name(image->kind),
        .backing = slash ? slash + 1 : NULL,
        .backing_format = backing ? vt_kind_name(backing->kind) : NULL,
        .gate = &vt_disk_gate,
    };
    VT_OK(vdisk_rebase(&options, NULL, &vt_err));
}

/* Onto an image further down, so that those between are in the chain no more. */
static void step_rebase_down(struct chain *chain)
{
    unsigned level = draw_level(chain, false);
    unsigned depth = below(chain, level < 4 ? level : 4);
    rebase(chain->disks[level], chain->disks[level - 1 - depth], 0);
    drop(chain, level - depth, level);
    vt_disk_check(chain->disks[level - depth]);
}

/* Onto a new image of other content, size and format, or onto none. */
static void step_rebase_away(struct chain *chain)
{
    unsigned level = draw_level(chain, true);
    struct vt_disk *other = NULL;
    if (below(chain, 4)) {
        other = make(chain, (enum vt_kind)below(chain, VT_KINDS), vt_disk_draw_size(&chain->random),
                     NULL);
        vt_disk_session(other, SESSION_OPERATIONS, &chain->random);
    }
    rebase(chain->disks[level], other, 0);
    vt_disk_verify(chain->disks[level], &chain->random);
    vt_disk_check(chain->disks[level]);
    drop(chain, other ? 1 : 0, level);
    if (other) {
        vt_disk_free(chain->disks[0], true);
        chain->disks[0] = other;
    }
}

/* -u onto an image of the same content. */
static void step_rebase_unsafe(struct chain *chain)
{
    unsigned level = draw_level(chain, true);
    struct vt_disk *copy = make_copy(chain, chain->disks[level - 1]);
    rebase(chain->disks[level], copy, VDISK_REBASE_UNSAFE);
    drop(chain, 1, level);
    vt_disk_free(chain->disks[0], true);
    chain->disks[0] = copy;
}

/* The raw file that an add-cow image leaves is the disk. */
static void take_data_file(struct chain *chain)
{
    struct vt_disk *disk = chain->disks[0];
    assert_int_equal(unlink(disk->path), 0);
    snprintf(disk->path, sizeof(disk->path), "%s", disk->data);
    disk->data[0] = '\0';
    disk->kind = VT_RAW;
}

static void step_flatten(struct chain *chain)
{
    unsigned level = draw_level(chain, chain->entries > 6 || below(chain, 2));
    struct vt_disk *image = chain->disks[level];
    struct vdisk_flatten_options options = {
        .struct_bytes = sizeof(options),
        .name = image->path,
        .format = vt_kind_name(image->kind),
        .gate = &vt_disk_gate,
    };
    struct vdisk_flatten_result result = {.struct_bytes = sizeof(result)};
    VT_OK(vdisk_flatten(&options, &result, &vt_err));
    assert_true(result.flags & VDISK_FLATTEN_DROPPED);
    assert_string_equal(result.data_file, image->data);
    drop(chain, 0, level);
    vt_disk_verify(image, &chain->random);
    vt_disk_check(image);
    if (image->kind == VT_ADD_COW && chain->entries == 1)
        take_data_file(chain);
}

struct step {
    const char *name;
    unsigned weight;
    void (*run)(struct chain *chain);
};

static const struct step steps[] = {
    {"session", 50, step_session},
    {"overlay", 10, step_overlay},
    {"external snapshot", 8, step_snapshot},
    {"verify all", 5, step_verify_all},
    {"convert", 5, step_convert},
    {"commit", 10, step_commit},
    {"commit to a base", 4, step_commit_to_base},
    {"rebase further down", 5, step_rebase_down},
    {"rebase onto another image", 5, step_rebase_away},
    {"rebase -u", 4, step_rebase_unsafe},
    {"flatten", 3, step_flatten},
};

#define STEP_ENTRIES (sizeof(steps) / sizeof(steps[0]))

static unsigned draw_step(struct chain *chain)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < STEP_ENTRIES; i++)
        sum += steps[i].weight;
    unsigned at = below(chain, sum);
    unsigned index = 0;
    for (; at >= steps[index].weight; index++)
        at -= steps[index].weight;
    return index;
}

static unsigned from_environment(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);
    return text ? (unsigned)strtoul(text, NULL, 0) : otherwise;
}

static void run_chain(unsigned levels)
{
    unsigned counts[STEP_ENTRIES] = {0};
    unsigned seed = from_environment("VD_TEST_SEED", (unsigned)time(NULL));
    struct chain chain = {.random = {.state = seed + levels}, .wanted = levels};
    const char *parent = getenv("TMPDIR");
    snprintf(chain.directory, sizeof(chain.directory), "%s/vdisk-chain.XXXXXX",
             parent ? parent : "/tmp");
    assert_non_null(mkdtemp(chain.directory));
    print_message("# VD_TEST_SEED=%u\n", seed);

    make_bottom(&chain);
    step_session(&chain);
    for (unsigned left = from_environment("VD_CHAIN_STEPS", 120); left > 0; left--) {
        while (chain.entries < levels)
            step_overlay(&chain);
        unsigned index = draw_step(&chain);
        steps[index].run(&chain);
        counts[index]++;
        vt_disk_verify(top(&chain), &chain.random);
        vt_disk_verify(chain.disks[below(&chain, chain.entries)], &chain.random);
    }
    step_verify_all(&chain);
    for (unsigned i = 0; i < STEP_ENTRIES; i++)
        print_message("# %s: %u\n", steps[i].name, counts[i]);
    while (chain.entries)
        pop(&chain);
    assert_int_equal(rmdir(chain.directory), 0);
}

static void test_three_levels(void **state)
{
    (void)state;
    run_chain(3);
}

static void test_thirty_levels(void **state)
{
    (void)state;
    run_chain(30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_levels),
        cmocka_unit_test(test_thirty_levels),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
