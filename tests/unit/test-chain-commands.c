/* SPDX-License-Identifier: MIT */
/*
 * Long chains of any mix of formats, under random commands: after each, what every image shows is
 * what its plain array says.
 *
 * Chains have up to 30 images.  VDISK_TEST_ROUNDS is the count of commands, default 80.
 */
#include "chain-fixture.h"

#define IMAGES_MAX 30u

struct run {
    struct chain chain;
    unsigned names; /* given so far */
};

static const char *new_name(struct run *run, char *name, size_t size)
{
    snprintf(name, size, "image-%u", run->names++);
    return name;
}

static struct level *top_of(struct run *run)
{
    return &run->chain.levels[run->chain.level_entries - 1];
}

/* Somewhere in the chain, or -- more often -- its top; there are @min images behind it. */
static unsigned choose(struct run *run, unsigned min)
{
    unsigned entries = run->chain.level_entries;
    return below(&run->chain, 2) ? entries - 1 : min + (unsigned)below(&run->chain, entries - min);
}

/* Somewhere behind @index, mostly near it: chains shall stay long. */
static unsigned choose_base(struct run *run, unsigned index)
{
    uint64_t most = below(&run->chain, 20) ? 3 : index;
    return index - 1 - (unsigned)below(&run->chain, most < index ? most : index);
}

static void add_overlay(struct run *run)
{
    char name[32];
    struct chain *chain = &run->chain;
    struct level *level = chain_add(chain, new_name(run, name, sizeof(name)), random_overlay(chain),
                                    top_of(run), random_size(chain));
    level_scribble(chain, level, (unsigned)below(chain, 4));
}

static void snapshot(struct run *run)
{
    struct chain *chain = &run->chain;
    struct level old = *top_of(run);
    char name[32], data[32];
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    struct vdisk_snapshot_options options = {.struct_bytes = sizeof(options),
                                             .name = old.path,
                                             .format = old.format,
                                             .snapshot = new_name(run, name, sizeof(name)),
                                             .target_format = random_overlay(chain),
                                             .create = &create,
                                             .gate = &beside};
    if (strcmp(options.target_format, "add-cow") == 0)
        create.data_file = new_name(run, data, sizeof(data));
    VT_OK(vdisk_snapshot_external(&options, NULL, &vt_err));

    struct level *kept = top_of(run), *level = kept + 1;
    *level = old;
    level->format = options.target_format;
    level->bytes = vt_calloc(DISK_BYTES_MAX, 1);
    memcpy(level->bytes, old.bytes, old.size);
    level_rename(chain, kept, name);
    chain->level_entries++;
}

/* Between @low and @high, both left out. */
static void drop_between(struct run *run, unsigned low, unsigned high)
{
    chain_drop(&run->chain, low + 1, high - low - 1);
}

static void commit(struct run *run)
{
    struct chain *chain = &run->chain;
    unsigned index = choose(run, 1);
    unsigned base = below(chain, 2) ? index - 1 : choose_base(run, index);
    struct level *level = &chain->levels[index], *target = &chain->levels[base];
    bool is_next = base + 1 == index;
    struct vdisk_commit_options options = {.struct_bytes = sizeof(options),
                                           .name = level->path,
                                           .base = is_next ? NULL : target->path,
                                           .gate = &beside};
    VT_OK(vdisk_commit(&options, NULL, &vt_err));
    level_give(target, level);
    level_check(level);
    if (is_next)
        return;
    struct vdisk_rebase_options rebase = {.struct_bytes = sizeof(rebase),
                                          .flags = VDISK_REBASE_UNSAFE,
                                          .name = level->path,
                                          .backing = target->file,
                                          .backing_format = target->format,
                                          .gate = &beside};
    VT_OK(vdisk_rebase(&rebase, NULL, &vt_err));
    drop_between(run, base, index);
}

static void rebase(struct run *run)
{
    struct chain *chain = &run->chain;
    unsigned index = choose(run, 1);
    unsigned base = choose_base(run, index);
    struct level *level = &chain->levels[index], *target = &chain->levels[base];
    struct vdisk_rebase_options options = {.struct_bytes = sizeof(options),
                                           .name = level->path,
                                           .backing = target->file,
                                           .backing_format = target->format,
                                           .gate = &beside};
    VT_OK(vdisk_rebase(&options, NULL, &vt_err));
    drop_between(run, base, index);
}

/* The images behind it are not needed any more. */
static void make_alone(struct run *run)
{
    struct chain *chain = &run->chain;
    unsigned index = chain->level_entries < 6 ? 1 : 1 + (unsigned)below(chain, 4);
    struct level *level = &chain->levels[index];
    if (below(chain, 2)) {
        struct vdisk_flatten_options options = {
            .struct_bytes = sizeof(options), .name = level->path, .gate = &beside};
        VT_OK(vdisk_flatten(&options, NULL, &vt_err));
    } else {
        struct vdisk_rebase_options options = {
            .struct_bytes = sizeof(options), .name = level->path, .gate = &beside};
        VT_OK(vdisk_rebase(&options, NULL, &vt_err));
    }
    chain_drop(chain, 0, index);
}

static void resize(struct run *run)
{
    struct level *top = top_of(run);
    size_t size = random_size(&run->chain);
    if (strcmp(top->format, "qed") == 0 && size < top->size)
        size = top->size; /* it can not shrink */
    struct vdisk_image *image = level_open(top, VDISK_OPEN_WRITE);
    VT_OK(vdisk_image_resize(image, size, VDISK_PREALLOCATION_OFF, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    if (size < top->size)
        memset(top->bytes + size, 0, top->size - size);
    top->size = size;
}

/* Returns what was done. */
static const char *one_command(struct run *run)
{
    struct chain *chain = &run->chain;
    uint64_t what = below(chain, 100);
    bool has_backing = chain->level_entries > 1;
    bool has_room = chain->level_entries < IMAGES_MAX;
    if ((what < 45 || chain->level_entries < 10) && has_room) {
        if (what < 30) {
            add_overlay(run);
            return "overlay";
        }
        snapshot(run);
        return "snapshot";
    }
    if (what < 63 && has_backing) {
        commit(run);
        return "commit";
    }
    if (what < 77 && has_backing) {
        rebase(run);
        return "rebase";
    }
    if (what < 80 && has_backing) {
        make_alone(run);
        return "flatten";
    }
    if (what < 88) {
        resize(run);
        return "resize";
    }
    level_scribble(chain, top_of(run), 1 + (unsigned)below(chain, 6));
    return "write";
}

static void random_commands_on_long_chains(void **state)
{
    (void)state;
    struct run run = {.names = 0};
    char name[32];
    uint64_t seed = test_seed();
    print_message("# seed %" PRIu64 "\n", seed);
    chain_init(&run.chain, seed);
    run.chain.size_max = (size_t)400 << 10;
    struct level *base = chain_add(&run.chain, new_name(&run, name, sizeof(name)),
                                   random_base(&run.chain), NULL, random_size(&run.chain));
    level_scribble(&run.chain, base, 6);
    while (run.chain.level_entries < IMAGES_MAX)
        add_overlay(&run);
    for (unsigned i = 0, rounds = test_rounds(80); i < rounds; i++) {
        const char *what = one_command(&run);
        struct level *top = top_of(&run);
        print_message("# %u: %s, %u images\n", i, what, run.chain.level_entries);
        level_check(top);
        if (i % 8 == 7 || i + 1 == rounds)
            for (unsigned k = 0; k < run.chain.level_entries; k++)
                level_check(&run.chain.levels[k]);
    }
    chain_destroy(&run.chain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_commands_on_long_chains),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
