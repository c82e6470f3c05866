/* SPDX-License-Identifier: MIT */
/*
 * backup/prune: points go, in any order, and all that stay show what they did when they were made.
 *
 * Random, from a seed that is printed.  VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS (default 12) the
 * count of random repositories.
 */
#include "depot-fixture.h"

static uint64_t seed;

/* ---- Random repositories ---- */

/* The last full point of those that are there, 0: none. */
static uint64_t last_full(const struct depot *depot)
{
    uint64_t number = 0;
    for (size_t i = 0; i < depot->repository->point_entries; i++)
        if (!depot->repository->points[i].manifest.parent)
            number = depot->repository->points[i].number;
    return number;
}

static struct recipe choose_recipe(struct depot *depot)
{
    size_t entries = depot->repository->point_entries;
    struct recipe recipe = {.kind = VDISK_POINT_FULL, .format = "qcow2"};
    if (below(depot, 6) == 0)
        recipe.format = "qed";
    else
        recipe.is_compressed = below(depot, 4) == 0;
    if (!entries || below(depot, 8) == 0)
        return recipe;
    recipe.is_whole = below(depot, 8) == 0;
    bool is_differential = below(depot, 3) == 0;
    recipe.kind = is_differential ? VDISK_POINT_DIFFERENTIAL : VDISK_POINT_INCREMENTAL;
    recipe.parent =
        is_differential ? last_full(depot) : depot->repository->points[entries - 1].number;
    return recipe;
}

static void add_points(struct depot *depot, uint64_t count)
{
    while (count-- && depot->point_entries < POINTS_MAX) {
        struct recipe recipe = choose_recipe(depot);
        disk_change(depot);
        depot_add(depot, &recipe);
    }
}

/* Data all over, so that a full point is much larger than the next ones. */
static void fill_disk(struct depot *depot)
{
    disk_resize(depot, DISK_BYTES_MAX);
    vt_random_fill(&depot->random, depot->bytes, depot->size);
}

/* ---- What goes ---- */

static size_t count_there(const struct depot *depot)
{
    size_t count = 0;
    for (size_t i = 0; i < depot->point_entries; i++)
        count += depot->points[i].is_there;
    return count;
}

static void prune(struct depot *depot)
{
    struct vdisk_prune_options options = {.struct_bytes = sizeof(options),
                                          .keep_last = (uint32_t)below(depot, 5),
                                          .keep_daily = (uint32_t)below(depot, 4),
                                          .keep_weekly = (uint32_t)below(depot, 3)};
    struct vdisk_prune_result result = {.struct_bytes = sizeof(result)}, dry = result;
    if (!options.keep_last && !options.keep_daily && !options.keep_weekly)
        options.keep_last = 1;
    size_t before = depot->repository->point_entries;
    options.flags = VDISK_PRUNE_DRY_RUN;
    VT_OK(vdisk_repository_prune(depot->repository, &options, &dry, &vt_err));
    assert_int_equal(depot->repository->point_entries, before);
    options.flags = 0;
    uint64_t last = depot->repository->points[before - 1].number;
    VT_OK(vdisk_repository_prune(depot->repository, &options, &result, &vt_err));
    assert_int_equal(result.removed_points, before - depot->repository->point_entries);
    assert_int_equal(dry.removed_points, result.removed_points);
    assert_non_null(vd_repository_point_of(depot->repository, last));
}

/* A point and some of those below it, if it has any. */
static void merge(struct depot *depot)
{
    const struct vdisk_repository *repository = depot->repository;
    size_t last = (size_t)below(depot, repository->point_entries);
    const struct vd_point *point = &repository->points[last];
    uint64_t number = 0, removed = 0;
    bool goes[POINTS_MAX + 1] = {false};
    do {
        if (!point->manifest.parent)
            break;
        number = point->manifest.parent;
        goes[number] = true;
        removed++;
        point = vd_repository_point_of(repository, number);
    } while (below(depot, 3));
    if (!number)
        return;
    struct vdisk_prune_result result = {.struct_bytes = sizeof(result)};
    VT_OK(vdisk_repository_merge(depot->repository, index_of(depot, number), last, NULL, &result,
                                 &vt_err));
    assert_int_equal(result.removed_points, removed);
    for (size_t i = 0; i < depot->point_entries; i++)
        if (goes[depot->points[i].number])
            assert_null(vd_repository_point_of(repository, depot->points[i].number));
}

static void one_repository(uint64_t round_seed)
{
    struct depot depot;
    depot_init(&depot, round_seed);
    if (below(&depot, 2))
        fill_disk(&depot);
    for (unsigned i = 0; i < 3; i++) {
        add_points(&depot, 3 + below(&depot, 8));
        depot_close(&depot);
        depot_open(&depot, VD_REPOSITORY_CHANGE);
        size_t before = count_there(&depot);
        if (below(&depot, 2))
            prune(&depot);
        else
            merge(&depot);
        depot_look(&depot);
        assert_true(count_there(&depot) <= before);
        depot_check(&depot);
        depot_close(&depot);
        depot_open(&depot, VD_REPOSITORY_ADD);
        depot_check(&depot);
    }
    depot_destroy(&depot);
}

static void random_repositories(void **state)
{
    (void)state;
    const char *wanted = getenv("VDISK_TEST_ROUNDS");
    struct vt_random seeds = {.state = seed};
    for (unsigned long i = wanted ? strtoul(wanted, NULL, 0) : VT_ROUNDS(12); i; i--) {
        uint64_t round_seed = vt_random_next(&seeds);
        if (getenv("VDISK_TEST_VERBOSE"))
            print_message("round with seed %" PRIu64 "\n", round_seed);
        one_repository(round_seed);
    }
}

/* ---- Shapes that are known ---- */

static const struct vd_manifest *manifest_of(const struct depot *depot, uint64_t number)
{
    return &depot->repository->points[index_of(depot, number)].manifest;
}

static void expect_point(const struct depot *depot, uint64_t number, enum vdisk_point_kind kind,
                         uint64_t parent)
{
    const struct vd_manifest *manifest = manifest_of(depot, number);
    assert_int_equal(manifest->kind, kind);
    assert_int_equal(manifest->parent, parent);
    if (parent)
        assert_string_equal(manifest->parent_uuid, manifest_of(depot, parent)->uuid);
}

static uint64_t add_as(struct depot *depot, const struct recipe *how, enum vdisk_point_kind kind,
                       uint64_t parent)
{
    struct recipe recipe = *how;
    recipe.kind = kind;
    recipe.parent = parent;
    for (unsigned i = 0; i < 3; i++)
        disk_write(depot, 20000);
    return depot_add(depot, &recipe);
}

static uint64_t add(struct depot *depot, enum vdisk_point_kind kind, uint64_t parent)
{
    struct recipe recipe = {.format = "qcow2"};
    return add_as(depot, &recipe, kind, parent);
}

static void go(struct depot *depot, uint64_t first, uint64_t last)
{
    depot_close(depot);
    depot_open(depot, VD_REPOSITORY_CHANGE);
    VT_OK(vdisk_repository_merge(depot->repository, index_of(depot, first), index_of(depot, last),
                                 NULL, NULL, &vt_err));
    depot_look(depot);
    depot_check(depot);
}

/* The full point goes, and has three differential ones, one with an incremental one. */
static void full_one_with_several(void **state)
{
    (void)state;
    struct depot depot;
    depot_init(&depot, seed);
    depot.cluster_bytes = 4096;
    fill_disk(&depot);
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_DIFFERENTIAL, 1);
    disk_resize(&depot, DISK_BYTES_MAX / 4);
    add(&depot, VDISK_POINT_DIFFERENTIAL, 1);
    add(&depot, VDISK_POINT_INCREMENTAL, 3);
    disk_resize(&depot, DISK_BYTES_MAX);
    add(&depot, VDISK_POINT_DIFFERENTIAL, 1);
    uint64_t full_bytes = vd_manifest_stored_bytes(manifest_of(&depot, 1));
    go(&depot, 1, 3);
    expect_point(&depot, 2, VDISK_POINT_FULL, 0);
    expect_point(&depot, 3, VDISK_POINT_DIFFERENTIAL, 2);
    expect_point(&depot, 4, VDISK_POINT_INCREMENTAL, 3);
    expect_point(&depot, 5, VDISK_POINT_DIFFERENTIAL, 2);
    /* What is the same in both is not in both. */
    assert_true(vd_manifest_stored_bytes(manifest_of(&depot, 5)) < full_bytes);
    depot_destroy(&depot);
}

static ino_t inode_of(const struct depot *depot, uint64_t number)
{
    struct stat stat_buffer;
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/%s", depot->path, manifest_of(depot, number)->image.name);
    assert_int_equal(stat(path, &stat_buffer), 0);
    return stat_buffer.st_ino;
}

/* The file of the full point becomes that of its child, by a log, whatever the sizes in between. */
static void full_one_with_a_chain(void **state)
{
    (void)state;
    static const struct recipe recipes[] = {
        {.format = "qcow2"}, {.format = "qed"}, {.format = "qcow2", .is_compressed = true}};
    struct depot depot;
    for (unsigned i = 0; i < 12; i++) {
        const struct recipe *how = &recipes[i / 4];
        depot_init(&depot, seed + i);
        depot.cluster_bytes = 4096;
        fill_disk(&depot);
        disk_resize(&depot, i % 2 ? DISK_BYTES_MAX - 77 * 512 : DISK_BYTES_MAX);
        add_as(&depot, how, VDISK_POINT_FULL, 0);
        disk_resize(&depot, i % 4 < 2 ? DISK_BYTES_MAX / 4 : DISK_BYTES_MAX);
        add_as(&depot, how, VDISK_POINT_INCREMENTAL, 1);
        disk_resize(&depot, i % 2 ? DISK_BYTES_MAX / 2 + 512 : DISK_BYTES_MAX);
        add_as(&depot, how, VDISK_POINT_INCREMENTAL, 2);
        add_as(&depot, how, VDISK_POINT_INCREMENTAL, 3);
        ino_t inode = inode_of(&depot, 1);
        go(&depot, 1, 3);
        if (i < 4) /* of the others the sizes decide */
            assert_int_equal(inode_of(&depot, 3), inode);
        expect_point(&depot, 3, VDISK_POINT_FULL, 0);
        expect_point(&depot, 4, VDISK_POINT_INCREMENTAL, 3);
        go(&depot, 3, 4); /* once more, into what was changed already */
        depot_destroy(&depot);
    }
}

static void middle_of_a_chain(void **state)
{
    (void)state;
    struct depot depot;
    depot_init(&depot, seed);
    add(&depot, VDISK_POINT_FULL, 0);
    for (uint64_t i = 1; i < 8; i++)
        add(&depot, VDISK_POINT_INCREMENTAL, i);
    go(&depot, 3, 6);
    expect_point(&depot, 6, VDISK_POINT_INCREMENTAL, 2);
    expect_point(&depot, 7, VDISK_POINT_INCREMENTAL, 6);
    go(&depot, 7, 8);
    expect_point(&depot, 8, VDISK_POINT_INCREMENTAL, 6);
    assert_int_equal(depot.repository->point_entries, 4);
    depot_destroy(&depot);
}

/* ---- What is refused ---- */

static void wrong_calls_are_refused(void **state)
{
    (void)state;
    struct depot depot;
    struct vdisk_error err = {0};
    struct vdisk_prune_options options = {.struct_bytes = sizeof(options)};
    depot_init(&depot, seed);
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_INCREMENTAL, 1);
    add(&depot, VDISK_POINT_FULL, 0);
    options.keep_last = 1;
    assert_int_equal(vdisk_repository_prune(depot.repository, &options, NULL, &err), -EACCES);
    depot_close(&depot);
    depot_open(&depot, VD_REPOSITORY_CHANGE);
    struct vdisk_repository *repository = depot.repository;
    assert_int_equal(vdisk_repository_merge(repository, 0, 1, &options, NULL, &err), -EINVAL);
    options.keep_last = 0;
    assert_int_equal(vdisk_repository_prune(repository, &options, NULL, &err), -EINVAL);
    assert_int_equal(vdisk_repository_merge(repository, 0, 0, &options, NULL, &err), -EINVAL);
    assert_int_equal(vdisk_repository_merge(repository, 1, 0, &options, NULL, &err), -EINVAL);
    assert_int_equal(vdisk_repository_merge(repository, 0, 2, &options, NULL, &err), -EINVAL);
    assert_int_equal(vdisk_repository_merge(repository, 0, 3, &options, NULL, &err), -EINVAL);
    options.flags = 2;
    assert_int_equal(vdisk_repository_merge(repository, 0, 1, &options, NULL, &err), -EINVAL);
    depot_check(&depot);
    depot_destroy(&depot);
}

/* One byte of a file in the middle is another one. */
static void damage(const struct depot *depot, const char *file)
{
    char path[PATH_BYTES];
    struct stat stat_buffer;
    snprintf(path, sizeof(path), "%s/%s", depot->path, file);
    FILE *stream = fopen(path, "r+");
    assert_non_null(stream);
    assert_int_equal(fstat(fileno(stream), &stat_buffer), 0);
    long at = (long)stat_buffer.st_size / 2;
    assert_int_equal(fseek(stream, at, SEEK_SET), 0);
    int byte = fgetc(stream);
    assert_int_equal(fseek(stream, at, SEEK_SET), 0);
    assert_int_equal(fputc(byte ^ 1, stream), byte ^ 1);
    assert_int_equal(fclose(stream), 0);
}

static void damaged_data_is_not_moved(void **state)
{
    (void)state;
    struct depot depot;
    struct vdisk_error err = {0};
    depot_init(&depot, seed);
    fill_disk(&depot);
    add(&depot, VDISK_POINT_FULL, 0);
    fill_disk(&depot);
    for (uint64_t i = 1; i < 4; i++)
        add(&depot, VDISK_POINT_INCREMENTAL, i);
    damage(&depot, "000002.qcow2"); /* data, as nearly all of it is */
    depot_close(&depot);
    depot_open(&depot, VD_REPOSITORY_CHANGE);
    assert_int_equal(vdisk_repository_merge(depot.repository, 0, 2, NULL, NULL, &err), -EBADMSG);
    assert_int_equal(vdisk_repository_merge(depot.repository, 0, 1, NULL, NULL, &err), -EBADMSG);
    assert_int_equal(depot.repository->point_entries, 4);
    assert_int_equal(count_files(depot.path), 2 * 4 + 2);
    damage(&depot, "000002.qcow2"); /* back again */
    depot_close(&depot);
    depot_open(&depot, VD_REPOSITORY_CHANGE);
    depot_check(&depot);
    depot_destroy(&depot);
}

static void count_report(void *opaque, const char *message)
{
    unsigned *told = opaque;
    told[strstr(message, "left as they are") != NULL]++;
}

/* Point 3 is damaged: all from the full point below it to the next one stays. */
static void chains_of_damaged_points_stay(void **state)
{
    (void)state;
    struct depot depot;
    struct vdisk_error err = {0};
    unsigned told[2] = {0, 0};
    struct vdisk_prune_options options = {
        .struct_bytes = sizeof(options), .keep_last = 1, .report = count_report, .opaque = told};
    depot_init(&depot, seed);
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_INCREMENTAL, 2);
    add(&depot, VDISK_POINT_INCREMENTAL, 3);
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_INCREMENTAL, 5);
    damage(&depot, "000003.json");
    depot_close(&depot);
    depot_open(&depot, VD_REPOSITORY_CHANGE);
    assert_int_equal(vdisk_repository_merge(depot.repository, 1, 3, NULL, NULL, &err), -EBADMSG);
    VT_OK(vdisk_repository_prune(depot.repository, &options, NULL, &vt_err));
    assert_int_equal(told[1], 2); /* 3 itself, and 4 that lies on it */
    assert_int_equal(told[0], 2); /* 1 and 5 */
    assert_int_equal(depot.repository->point_entries, 4);
    damage(&depot, "000003.json"); /* back again */
    depot_close(&depot);
    depot_open(&depot, VD_REPOSITORY_CHANGE);
    depot_look(&depot);
    depot_check(&depot);
    depot_destroy(&depot);
}

static int cancel(void *opaque, const struct vdisk_progress *progress)
{
    (void)opaque;
    (void)progress;
    return 1;
}

static void canceled_ones_change_nothing(void **state)
{
    (void)state;
    struct depot depot;
    struct vdisk_error err = {0};
    struct vdisk_prune_options options = {.struct_bytes = sizeof(options), .progress = cancel};
    depot_init(&depot, seed);
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_INCREMENTAL, 1);
    depot_close(&depot);
    depot_open(&depot, VD_REPOSITORY_CHANGE);
    assert_int_equal(vdisk_repository_merge(depot.repository, 0, 1, &options, NULL, &err),
                     -ECANCELED);
    depot_check(&depot);
    depot_destroy(&depot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(middle_of_a_chain),
        cmocka_unit_test(full_one_with_a_chain),
        cmocka_unit_test(full_one_with_several),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(damaged_data_is_not_moved),
        cmocka_unit_test(chains_of_damaged_points_stay),
        cmocka_unit_test(canceled_ones_change_nothing),
        cmocka_unit_test(random_repositories),
    };
    const char *wanted = getenv("VDISK_TEST_SEED");
    seed = wanted ? strtoull(wanted, NULL, 0) : (uint64_t)time(NULL);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    printf("# seed %" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
