/* SPDX-License-Identifier: MIT */
/* job/flatten: no backing file any more, and the disk reads as before. */
#include "chain-fixture.h"

#include <signal.h>
#include <sys/resource.h>

static uint64_t seed;

static struct vdisk_flatten_options options_for(const struct level *image)
{
    return (struct vdisk_flatten_options){
        .struct_bytes = sizeof(struct vdisk_flatten_options), .name = image->path, .gate = &beside};
}

/* The raw file alone is the disk, and no larger. */
static void raw_file_is_the_disk(const struct level *level, const char *path)
{
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .format = "raw"};
    struct vdisk_image *image;
    assert_int_equal(level_holds(level), level->size);
    VT_OK(vdisk_image_open(path, &open, &image, &vt_err));
    image_shows(image, level->bytes, level->size);
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void one_random_flatten(uint64_t number)
{
    struct chain chain;
    struct vdisk_flatten_result result = {.struct_bytes = sizeof(result)};
    chain_init(&chain, seed + number);
    chain_make(&chain);
    const struct level *top = &chain.levels[2];
    struct vdisk_flatten_options options = options_for(top);
    options.workers = 1 + (uint32_t)below(&chain, 8);
    bool has_data_file = strcmp(top->format, "add-cow") == 0;
    VT_OK(vdisk_flatten(&options, &result, &vt_err));
    level_names(top, NULL);
    assert_int_equal(result.flags, VDISK_FLATTEN_DROPPED);
    assert_int_equal(result.virtual_bytes, top->size);
    assert_string_equal(result.data_file, has_data_file ? path_of(&chain, "top.raw") : "");
    for (unsigned i = 0; i < chain.level_entries; i++)
        level_check(&chain.levels[i]);
    if (has_data_file)
        raw_file_is_the_disk(top, result.data_file);

    VT_OK(vdisk_flatten(&options, &result, &vt_err));
    assert_int_equal(result.flags, 0);
    assert_int_equal(result.data_bytes + result.zero_bytes, 0);
    level_check(top);
    chain_destroy(&chain);
}

static void random_flattens(void **state)
{
    (void)state;
    print_message("# seed %" PRIu64 "\n", seed);
    for (unsigned i = 0; i < test_rounds(25); i++)
        one_random_flatten(i);
}

static void a_canceled_flatten_is_done_again(void **state)
{
    (void)state;
    struct chain chain;
    unsigned calls = 1;
    chain_init(&chain, seed);
    struct level *base = chain_add(&chain, "base", "raw", NULL, DISK_BYTES_MAX);
    level_fill(&chain, base);
    struct level *top = chain_add(&chain, "top", "add-cow", base, DISK_BYTES_MAX);
    struct vdisk_flatten_options options = options_for(top);
    options.progress = cancel_after;
    options.opaque = &calls;
    options.rate_bytes = DISK_BYTES_MAX * 4; /* there is time for a second report */
    assert_int_equal(vdisk_flatten(&options, NULL, NULL), -ECANCELED);
    level_check(top);
    level_names(top, "base");

    options.progress = NULL;
    options.rate_bytes = 0;
    VT_OK(vdisk_flatten(&options, NULL, &vt_err));
    level_check(top);
    raw_file_is_the_disk(top, path_of(&chain, "top.raw"));
    chain_destroy(&chain);
}

/* What the raw file of an image without a backing file hides becomes zeros. */
static void hidden_bytes_of_a_raw_file_do_not_show(void **state)
{
    (void)state;
    struct chain chain;
    chain_init(&chain, seed);
    struct level *base = chain_add(&chain, "base", "raw", NULL, SIZE_BYTES_MAX);
    struct level *old = chain_add(&chain, "top.raw", "raw", NULL, SIZE_BYTES_MAX);
    level_fill(&chain, old);
    struct level *top = chain_add(&chain, "top", "add-cow", base, SIZE_BYTES_MAX);
    level_scribble(&chain, top, 3);
    struct vdisk_rebase_options none = {
        .struct_bytes = sizeof(none), .name = top->path, .gate = &beside};
    VT_OK(vdisk_rebase(&none, NULL, &vt_err));
    level_check(top);
    assert_true(level_holds(top) < SIZE_BYTES_MAX);
    struct vdisk_flatten_options options = options_for(top);
    VT_OK(vdisk_flatten(&options, NULL, &vt_err));
    level_check(top);
    raw_file_is_the_disk(top, path_of(&chain, "top.raw"));
    chain_destroy(&chain);
}

/* No file can become longer than a limit: as on a disk that is full. */
static void a_full_disk_costs_nothing(void **state)
{
    (void)state;
    struct chain chain;
    struct rlimit before, limit;
    struct vdisk_error err = {0};
    chain_init(&chain, seed);
    struct level *base = chain_add(&chain, "base", "raw", NULL, DISK_BYTES_MAX);
    level_fill(&chain, base);
    struct level *top = chain_add(&chain, "top", "qed", base, DISK_BYTES_MAX);

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = (struct rlimit){.rlim_cur = DISK_BYTES_MAX / 2, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct vdisk_flatten_options options = options_for(top);
    assert_int_equal(vdisk_flatten(&options, NULL, &err), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_non_null(strstr(err.message, "top"));
    level_check(top);
    level_names(top, "base");

    VT_OK(vdisk_flatten(&options, NULL, &vt_err));
    level_check(top);
    level_names(top, NULL);
    chain_destroy(&chain);
}

static void what_can_not_be_is_refused(void **state)
{
    (void)state;
    struct chain chain;
    chain_init(&chain, seed);
    chain_make(&chain);
    const struct level *base = &chain.levels[0], *top = &chain.levels[2];
    struct vdisk_flatten_options options = options_for(top);
    options.gate = NULL;
    assert_int_equal(vdisk_flatten(&options, NULL, NULL), -EPERM);
    options = options_for(top);
    options.flags = 1;
    assert_int_equal(vdisk_flatten(&options, NULL, NULL), -EINVAL);
    options = options_for(top);
    struct vdisk_image *image = level_open(base, VDISK_OPEN_WRITE);
    assert_int_equal(vdisk_flatten(&options, NULL, NULL), -EAGAIN);
    VT_OK(vdisk_image_close(image, &vt_err));
    options.name = path_of(&chain, "base");
    options.format = "raw";
    assert_int_equal(vdisk_flatten(&options, NULL, NULL), -ENOTSUP);
    for (unsigned i = 0; i < chain.level_entries; i++)
        level_check(&chain.levels[i]);
    chain_destroy(&chain);
}

int main(void)
{
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_flattens),
        cmocka_unit_test(a_canceled_flatten_is_done_again),
        cmocka_unit_test(hidden_bytes_of_a_raw_file_do_not_show),
        cmocka_unit_test(a_full_disk_costs_nothing),
        cmocka_unit_test(what_can_not_be_is_refused),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
