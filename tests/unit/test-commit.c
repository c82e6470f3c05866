/* SPDX-License-Identifier: MIT */
/* job/commit: the base gets what is above it, and nobody sees a difference through the top. */
#include "chain-fixture.h"

static uint64_t seed;

static struct vdisk_commit_options options_for(const struct chain *chain, const char *base)
{
    const struct level *top = &chain->levels[chain->level_entries - 1];
    return (struct vdisk_commit_options){.struct_bytes = sizeof(struct vdisk_commit_options),
                                         .name = top->path,
                                         .base = base,
                                         .gate = &beside};
}

static void one_random_commit(uint64_t number)
{
    struct chain chain;
    struct vdisk_commit_result result = {.struct_bytes = sizeof(result)};
    chain_init(&chain, seed + number);
    chain_make(&chain);
    struct level *base = &chain.levels[0], *mid = &chain.levels[1], *top = &chain.levels[2];
    unsigned depth = 1 + (unsigned)below(&chain, 2);
    const char *name = depth == 1 ? below(&chain, 2) ? NULL : "mid" : "base";
    struct vdisk_commit_options options = options_for(&chain, name);
    options.workers = 1 + (uint32_t)below(&chain, 8);
    if (below(&chain, 3) == 0)
        options.flags = VDISK_COMMIT_KEEP;
    bool empties = !name && !options.flags;
    struct level *target = depth == 1 ? mid : base;
    bool grows = target->size < top->size;
    uint64_t held = level_holds(top);

    VT_OK(vdisk_commit(&options, &result, &vt_err));
    level_give(target, top);
    level_check(top);
    level_check(target);
    if (depth == 1)
        level_check(base);
    assert_int_equal(result.base_depth, depth);
    assert_string_equal(result.base_name, target->path);
    assert_int_equal(result.virtual_bytes, top->size);
    assert_int_equal((result.flags & VDISK_COMMIT_BASE_GREW) != 0, grows);
    assert_int_equal((result.flags & VDISK_COMMIT_EMPTIED) != 0, empties);
    assert_int_equal(level_holds(top), empties ? 0 : held);

    /* Once more changes nothing. */
    VT_OK(vdisk_commit(&options, &result, &vt_err));
    level_check(top);
    level_check(target);
    if (empties)
        assert_int_equal(result.data_bytes, 0);
    chain_destroy(&chain);
}

static void random_commits(void **state)
{
    (void)state;
    print_message("# seed %" PRIu64 "\n", seed);
    for (unsigned i = 0; i < test_rounds(25); i++)
        one_random_commit(i);
}

static void a_canceled_commit_is_done_again(void **state)
{
    (void)state;
    struct chain chain;
    unsigned calls = 1;
    chain_init(&chain, seed);
    struct level *base = chain_add(&chain, "base", "raw", NULL, DISK_BYTES_MAX);
    struct level *top = chain_add(&chain, "top", "qed", base, DISK_BYTES_MAX);
    level_fill(&chain, top);
    struct vdisk_commit_options options = options_for(&chain, NULL);
    options.progress = cancel_after;
    options.opaque = &calls;
    options.rate_bytes = DISK_BYTES_MAX * 4; /* there is time for a second report */
    assert_int_equal(vdisk_commit(&options, NULL, NULL), -ECANCELED);
    level_check(top);
    assert_true(level_holds(top) > 0);

    options.progress = NULL;
    options.rate_bytes = 0;
    VT_OK(vdisk_commit(&options, NULL, &vt_err));
    level_give(base, top);
    level_check(top);
    level_check(base);
    assert_int_equal(level_holds(top), 0);
    chain_destroy(&chain);
}

static void bases_are_found_by_path_and_by_name(void **state)
{
    (void)state;
    struct chain chain;
    struct vdisk_commit_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    chain_init(&chain, seed);
    chain_make(&chain);
    char link[NAME_BYTES];
    snprintf(link, sizeof(link), "%s", path_of(&chain, "link"));
    assert_int_equal(symlink("base", link), 0);
    const char *names[] = {"base", path_of(&chain, "base"), link};
    for (size_t i = 0; i < 3; i++) {
        struct vdisk_commit_options options = options_for(&chain, names[i]);
        VT_OK(vdisk_commit(&options, &result, &vt_err));
        assert_int_equal(result.base_depth, 2);
    }
    struct vdisk_commit_options options = options_for(&chain, "elsewhere");
    assert_int_equal(vdisk_commit(&options, &result, &err), -EINVAL);
    assert_non_null(strstr(err.message, "elsewhere"));
    assert_non_null(strstr(err.message, "/mid'"));
    assert_non_null(strstr(err.message, "/base'"));
    options.base = path_of(&chain, "top");
    assert_int_equal(vdisk_commit(&options, NULL, NULL), -EINVAL);
    chain_destroy(&chain);
}

static void what_can_not_be_is_refused(void **state)
{
    (void)state;
    struct chain chain;
    struct vdisk_error err = {0};
    chain_init(&chain, seed);
    chain_make(&chain);
    struct level *base = &chain.levels[0];
    struct vdisk_commit_options options = options_for(&chain, NULL);

    options.name = path_of(&chain, "base");
    options.format = base->format;
    assert_int_equal(vdisk_commit(&options, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.message, "no backing file"));

    /* Somebody else writes to the base. */
    options = options_for(&chain, "base");
    struct vdisk_image *image = level_open(base, VDISK_OPEN_WRITE);
    vdisk_error_clear(&err);
    assert_int_equal(vdisk_commit(&options, NULL, &err), -EAGAIN);
    assert_non_null(strstr(err.message, "base"));
    VT_OK(vdisk_image_close(image, &vt_err));

    options = options_for(&chain, NULL);
    options.gate = NULL;
    assert_int_equal(vdisk_commit(&options, NULL, NULL), -EPERM);
    options = options_for(&chain, NULL);
    options.flags = 0x80;
    assert_int_equal(vdisk_commit(&options, NULL, NULL), -EINVAL);
    options.flags = 0;
    options.open_flags = VDISK_OPEN_SHARE;
    assert_int_equal(vdisk_commit(&options, NULL, NULL), -EINVAL);
    options.open_flags = 0;
    options.reserved = 1;
    assert_int_equal(vdisk_commit(&options, NULL, NULL), -EINVAL);
    for (unsigned i = 0; i < chain.level_entries; i++)
        level_check(&chain.levels[i]);

    /* A backing file that has gone. */
    assert_int_equal(unlink(path_of(&chain, "base")), 0);
    options = options_for(&chain, NULL);
    assert_int_equal(vdisk_commit(&options, NULL, NULL), -ENOENT);
    chain_destroy(&chain);
}

int main(void)
{
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_commits),
        cmocka_unit_test(a_canceled_commit_is_done_again),
        cmocka_unit_test(bases_are_found_by_path_and_by_name),
        cmocka_unit_test(what_can_not_be_is_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
