/* SPDX-License-Identifier: MIT */
/* job/snapshot: the name leads to the same disk, and what it held has another name. */
#include "chain-fixture.h"

#include <unistd.h>

static uint64_t seed;

static struct vdisk_snapshot_options options_for(const struct chain *chain,
                                                 const struct level *image)
{
    return (struct vdisk_snapshot_options){.struct_bytes = sizeof(struct vdisk_snapshot_options),
                                           .name = image->path,
                                           .format = image->format,
                                           .snapshot = path_of(chain, "kept"),
                                           .target_format = "qed",
                                           .gate = &beside};
}

static void one_random_snapshot(uint64_t number)
{
    struct chain chain;
    struct vdisk_snapshot_result result = {.struct_bytes = sizeof(result)};
    chain_init(&chain, seed + number);
    chain_make(&chain);
    struct level *top = &chain.levels[2];
    struct vdisk_snapshot_options options = options_for(&chain, top);
    bool is_resumed = below(&chain, 2) != 0;
    if (is_resumed) /* as a run leaves it that was killed before its last step */
        assert_int_equal(link(top->path, options.snapshot), 0);
    VT_OK(vdisk_snapshot_external(&options, &result, &vt_err));
    assert_int_equal(result.flags, is_resumed ? VDISK_SNAPSHOT_RESUMED : 0);
    assert_int_equal(result.virtual_bytes, top->size);
    assert_string_equal(result.format, "qed");
    assert_string_equal(result.backing_format, top->format);

    top->format = "qed";
    level_check(top);
    level_names(top, "kept");
    assert_int_equal(level_holds(top), 0);
    assert_int_equal(vdisk_snapshot_external(&options, NULL, NULL), -EEXIST);
    level_check(top);
    chain_destroy(&chain);
}

static void random_snapshots(void **state)
{
    (void)state;
    print_message("# seed %" PRIu64 "\n", seed);
    for (unsigned i = 0; i < test_rounds(10); i++)
        one_random_snapshot(i);
}

static void what_can_not_be_is_refused(void **state)
{
    (void)state;
    struct chain chain;
    chain_init(&chain, seed);
    chain_make(&chain);
    struct level *top = &chain.levels[2];
    struct vdisk_snapshot_options options = options_for(&chain, top);
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = 512};
    options.create = &create;
    assert_int_equal(vdisk_snapshot_external(&options, NULL, NULL), -EINVAL);
    options.create = NULL;
    options.reserved = 1;
    assert_int_equal(vdisk_snapshot_external(&options, NULL, NULL), -EINVAL);
    options.reserved = 0;
    options.target_format = "gow3";
    assert_int_equal(vdisk_snapshot_external(&options, NULL, NULL), -EINVAL);
    options.target_format = "qed";
    struct vdisk_image *image = level_open(top, 0);
    assert_int_equal(vdisk_snapshot_external(&options, NULL, NULL), -EAGAIN);
    VT_OK(vdisk_image_close(image, &vt_err));
    assert_int_not_equal(access(options.snapshot, F_OK), 0);
    level_check(top);
    chain_destroy(&chain);
}

int main(void)
{
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_snapshots),
        cmocka_unit_test(what_can_not_be_is_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
