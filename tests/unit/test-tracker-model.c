/* SPDX-License-Identifier: MIT */
/*
 * T1 of backup/tracker.h: whatever is done to a source, changes() tells no less than what differs
 * from the state at the parent's time, or fails.
 *
 * Random writes, zeros, discards, resizes, snapshots, sessions, crashes, older copies that are put
 * back and changes behind the source; and backups that end well, die or are gone on with.
 * VD_TRACKER_OPS (1500) operations of each kind of source; VD_TEST_SEED is the seed.
 */
#include "tracker-fixture.h"

#include <time.h>

#include "drivers/random.h"

#define DISK       "disk"
#define DATA       "disk.raw"
#define BASE       "base"
#define BYTES_MAX  ((size_t)2 << 20)
#define POINTS_MAX 14u /* in a chain */
#define SNAPSHOTS  3u

/* What a disk shows. */
struct content {
    uint8_t *bytes; /* BYTES_MAX; zeros behind the end */
    size_t size;
};

/* The source with its snapshots. */
struct disk {
    struct content now;
    struct content snapshots[SNAPSHOTS];
    unsigned snapshot_entries;
};

struct kind {
    const char *name;
    const char *format;
    uint32_t cluster_bytes;
    bool has_base;
    bool has_snapshots;
    bool may_go_back; /* an older copy is noticed, or no matter */
    bool may_crash;
};

struct world {
    struct vt_random random;
    const struct kind *kind;
    struct vdisk_image *image; /* NULL: closed */
    struct disk disk;
    struct disk copy; /* bytes NULL: there is none */
    struct content points[POINTS_MAX + 1];
    uint64_t first; /* number of points[0] */
    /* An unfinished backup. */
    char resumed[VD_UUID_TEXT_BYTES]; /* "": there is none */
    struct vdisk_backup_options resumed_options;
    struct content begun;
    int64_t base_time;
    /* Counted: */
    unsigned told, refused, resumptions;
};

static uint64_t below(struct world *world, uint64_t limit)
{
    return vt_random_below(&world->random, limit);
}

static bool chance(struct world *world, unsigned percent)
{
    return vt_random_chance(&world->random, percent);
}

/* --- contents ----------------------------------------------------------------------------------
 */

static void content_copy(struct content *to, const struct content *from)
{
    if (!to->bytes)
        to->bytes = calloc(1, BYTES_MAX);
    assert_non_null(to->bytes);
    memcpy(to->bytes, from->bytes, BYTES_MAX);
    to->size = from->size;
}

static void content_free(struct content *content)
{
    free(content->bytes);
    *content = (struct content){0};
}

static void disk_copy(struct disk *to, const struct disk *from)
{
    content_copy(&to->now, &from->now);
    for (unsigned i = 0; i < from->snapshot_entries; i++)
        content_copy(&to->snapshots[i], &from->snapshots[i]);
    to->snapshot_entries = from->snapshot_entries;
}

static void disk_free(struct disk *disk)
{
    content_free(&disk->now);
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        content_free(&disk->snapshots[i]);
}

static void set_size(struct content *content, size_t size)
{
    if (size < content->size)
        memset(content->bytes + size, 0, content->size - size);
    content->size = size;
}

/* --- the source --------------------------------------------------------------------------------
 */

static void copy_file(const char *from, const char *to)
{
    char command[128];
    snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

static struct vdisk_image *opened(struct world *world)
{
    if (!world->image)
        world->image = open_image(DISK, VDISK_OPEN_WRITE);
    return world->image;
}

static void closed(struct world *world)
{
    if (world->image)
        close_image(world->image);
    world->image = NULL;
}

static void read_back(struct world *world, uint64_t offset, size_t length)
{
    VT_OK(
        vdisk_image_pread(opened(world), world->disk.now.bytes + offset, length, offset, &vt_err));
}

static size_t random_size(struct world *world)
{
    size_t unit = chance(world, 40) ? 65536 : 512;
    return unit + unit * (size_t)below(world, BYTES_MAX / unit - 1);
}

static void make_source(struct world *world)
{
    const struct kind *kind = world->kind;
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = BYTES_MAX / 2,
                                           .cluster_bytes = kind->cluster_bytes,
                                           .gate = &any_gate};
    content_free(&world->disk.now);
    if (kind->has_base) {
        options.backing = BASE;
        options.backing_format = "raw";
    }
    if (strcmp(kind->format, "add-cow") == 0)
        options.data_file = DATA;
    VT_OK(vdisk_image_create(DISK, kind->format, &options, &vt_err));
    world->disk.now = (struct content){.bytes = calloc(1, BYTES_MAX), .size = BYTES_MAX / 2};
    assert_non_null(world->disk.now.bytes);
    read_back(world, 0, world->disk.now.size);
}

static struct vd_range random_range(struct world *world)
{
    uint64_t size = world->disk.now.size;
    uint64_t length = 1 + below(world, UINT64_C(1) << below(world, 19));
    uint64_t offset = below(world, size);
    if (chance(world, 50)) {
        offset = offset / 512 * 512;
        length = (length + 511) / 512 * 512;
    }
    if (chance(world, 20)) {
        offset = offset / 65536 * 65536;
        length = (length + 65535) / 65536 * 65536;
    }
    return vd_range(offset, length < size - offset ? length : size - offset);
}

static void write_some(struct world *world)
{
    struct vd_range range = random_range(world);
    uint8_t *bytes = world->disk.now.bytes + range.offset;
    if (chance(world, 90))
        vt_random_fill(&world->random, bytes, (size_t)range.length);
    else
        memset(bytes, 0, (size_t)range.length);
    VT_OK(vdisk_image_pwrite(opened(world), bytes, (size_t)range.length, range.offset, &vt_err));
}

static void zero_some(struct world *world)
{
    struct vd_range range = random_range(world);
    memset(world->disk.now.bytes + range.offset, 0, (size_t)range.length);
    VT_OK(vdisk_image_write_zeroes(opened(world), range.offset, range.length,
                                   chance(world, 30) ? VDISK_ZERO_NO_HOLE : 0, &vt_err));
}

static void discard_some(struct world *world)
{
    struct vd_range range = random_range(world);
    VT_OK(vdisk_image_discard(opened(world), range.offset, range.length, &vt_err));
    read_back(world, range.offset, (size_t)range.length);
}

static void resize_some(struct world *world)
{
    size_t size = random_size(world);
    VT_OK(vdisk_image_resize(opened(world), size, VDISK_PREALLOCATION_OFF, &vt_err));
    set_size(&world->disk.now, size);
    if (chance(world, 50)) { /* and back: what is cut off is lost */
        size = random_size(world);
        VT_OK(vdisk_image_resize(opened(world), size, VDISK_PREALLOCATION_OFF, &vt_err));
        set_size(&world->disk.now, size);
    }
}

static void snapshot_some(struct world *world)
{
    struct disk *disk = &world->disk;
    unsigned index = (unsigned)below(world, SNAPSHOTS);
    if (disk->snapshot_entries < SNAPSHOTS && chance(world, 50)) {
        VT_OK(vdisk_image_snapshot_create(opened(world), "s", &vt_err));
        content_copy(&disk->snapshots[disk->snapshot_entries++], &disk->now);
    } else if (index < disk->snapshot_entries && chance(world, 70)) {
        VT_OK(vdisk_image_snapshot_apply(opened(world), index, &vt_err));
        content_copy(&disk->now, &disk->snapshots[index]);
    } else if (index < disk->snapshot_entries) {
        VT_OK(vdisk_image_snapshot_delete(opened(world), index, &vt_err));
        for (disk->snapshot_entries--; index < disk->snapshot_entries; index++)
            content_copy(&disk->snapshots[index], &disk->snapshots[index + 1]);
    }
}

/* The writer dies: what it has flushed is there, and it has not closed the image. */
static void crash(struct world *world)
{
    VT_OK(vdisk_image_flush(opened(world), &vt_err));
    copy_file(DISK, "crashed");
    closed(world);
    assert_int_equal(rename("crashed", DISK), 0);
}

static void keep_copy(struct world *world)
{
    closed(world);
    copy_file(DISK, "copy");
    if (strcmp(world->kind->format, "add-cow") == 0)
        copy_file(DATA, "copy.raw");
    disk_copy(&world->copy, &world->disk);
}

static void put_copy_back(struct world *world)
{
    if (!world->copy.now.bytes)
        return;
    closed(world);
    copy_file("copy", DISK);
    if (strcmp(world->kind->format, "add-cow") == 0)
        copy_file("copy.raw", DATA);
    disk_copy(&world->disk, &world->copy);
    if (world->kind->has_base) /* which may have changed since */
        read_back(world, 0, world->disk.now.size);
    closed(world);
}

/* Somebody writes to what is behind, at another time than the last one. */
static void change_base(struct world *world)
{
    closed(world);
    FILE *file = fopen(BASE, "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)below(world, BYTES_MAX / 2), SEEK_SET), 0);
    assert_true(fputc((int)below(world, 256), file) >= 0);
    assert_int_equal(fclose(file), 0);
    struct timespec times[2] = {{.tv_sec = ++world->base_time}, {.tv_sec = world->base_time}};
    assert_int_equal(utimensat(AT_FDCWD, BASE, times, 0), 0);
    read_back(world, 0, world->disk.now.size);
    disk_free(&world->copy);
    closed(world);
}

/* --- backups -----------------------------------------------------------------------------------
 */

static struct content *point_content(struct world *world, uint64_t number)
{
    assert_true(number >= world->first && number - world->first <= POINTS_MAX);
    return &world->points[number - world->first];
}

/* What vd_copy_add_zeros() adds: of a disk of the same size, whole granules only. */
static bool is_added(struct attempt *attempt, struct vd_range range, bool is_exact)
{
    uint64_t size = vdisk_image_size(attempt->source);
    if (!is_exact)
        range = vd_range_expand(range, UINT64_C(1) << GRANULARITY_BITS);
    for (uint64_t at = range.offset, end = vd_min(vd_range_end(range), size); at < end;) {
        uint64_t known = 0;
        bool is_zero = false;
        VT_OK(vd_image_known_zero(attempt->source, vd_range(at, end - at), &known, &is_zero,
                                  &vt_err));
        if (!is_zero)
            return false;
        at += known;
    }
    return true;
}

/* All bytes that differ have their bit, or read as zero by the word of the format. */
static void covers(struct world *world, struct attempt *attempt, const struct vd_bitmap *bits,
                   const struct content *then)
{
    const struct content *now = &world->disk.now;
    for (uint64_t at = 0; at < now->size; at += 512) {
        if (memcmp(now->bytes + at, then->bytes + at, 512) == 0 ||
            vd_bitmap_has(bits, vd_range(at, 512)))
            continue;
        if (!is_added(attempt, vd_range(at, 512), now->size != then->size))
            fail_msg("%s: offset %llu of %zu (%zu then) has changed since point %llu, and nothing "
                     "tells",
                     world->kind->name, (unsigned long long)at, now->size, then->size,
                     (unsigned long long)attempt->manifest.parent);
    }
}

/* begin() and changes(): false: there is a reason why not. */
static bool begins(struct world *world, struct attempt *attempt)
{
    struct vdisk_error err = {0};
    int ret = vd_tracker_begin(attempt->tracker, &err);
    struct vd_bitmap *wanted = new_bits(attempt);
    if (ret == 0)
        ret = vd_tracker_changes(attempt->tracker, wanted, &err);
    if (ret == 0 && attempt->manifest.parent)
        covers(world, attempt, wanted, point_content(world, attempt->manifest.parent));
    vd_bitmap_free(wanted);
    if (ret < 0 && ret != -ENOTSUP && ret != -EUCLEAN)
        fail_msg("%s: %d: %s", world->kind->name, ret, err.message);
    return ret == 0;
}

static void goes_on(struct world *world, struct attempt *attempt)
{
    struct vd_bitmap *stale = new_bits(attempt);
    int ret = vd_tracker_changes_since_begin(attempt->tracker, stale, NULL);
    assert_true(ret == 0 || ret == -ENOTSUP || ret == -EUCLEAN);
    if (ret == 0) {
        covers(world, attempt, stale, &world->begun);
        world->resumptions++;
    }
    vd_bitmap_free(stale);
}

static void remove_point(uint64_t number)
{
    static const char *const suffixes[] = {"json", "qcow2", "versions"};
    char name[64];
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), REPO "/%06llu.%s", (unsigned long long)number, suffixes[i]);
        (void)unlink(name);
    }
}

static void published(struct world *world, const struct attempt *attempt)
{
    uint64_t number = attempt->manifest.number;
    if (attempt->manifest.kind == VDISK_POINT_FULL) {
        for (; world->first < number; world->first++)
            remove_point(world->first);
        world->first = number;
    }
    content_copy(point_content(world, number), &world->disk.now);
    world->resumed[0] = '\0';
}

static void end_attempt(struct world *world, struct attempt *attempt)
{
    unsigned fate = (unsigned)below(world, 100);
    struct vdisk_backup_options options = attempt->options;
    char uuid[VD_UUID_TEXT_BYTES];
    memcpy(uuid, attempt->manifest.uuid, sizeof(uuid));
    if (fate < 80) {
        attempt_publish(attempt);
        if (fate < 70)
            VT_OK(vd_tracker_settle(attempt->tracker, &vt_err));
        published(world, attempt);
    } else if (fate < 85) {
        vd_tracker_cancel(attempt->tracker);
        VT_OK(vd_partial_remove(attempt->repository, &vt_err));
        world->resumed[0] = '\0';
    } else if (fate < 95) { /* dies, and may be gone on with */
        if (!world->resumed[0])
            content_copy(&world->begun, &world->disk.now);
        memcpy(world->resumed, uuid, sizeof(uuid));
        world->resumed_options = options;
    } else {
        world->resumed[0] = '\0';
    }
}

static uint32_t random_flags(struct world *world)
{
    unsigned what = (unsigned)below(world, 100);
    return what < 60   ? 0
           : what < 75 ? VDISK_BACKUP_DIFFERENTIAL
           : what < 83 ? VDISK_BACKUP_FULL
           : what < 95 ? VDISK_BACKUP_COMPARE
                       : VDISK_BACKUP_COMPARE | VDISK_BACKUP_UNTRACKED;
}

static void try_backup(struct world *world, uint32_t flags)
{
    bool is_resumed = world->resumed[0] && chance(world, 70);
    struct attempt attempt = {.options = {.flags = flags}};
    char uuid[VD_UUID_TEXT_BYTES];
    memcpy(uuid, world->resumed, sizeof(uuid));
    if (is_resumed)
        attempt.options = world->resumed_options;
    else
        world->resumed[0] = '\0';
    closed(world);
    attempt_open(&attempt, DISK, is_resumed ? uuid : NULL);
    if (begins(world, &attempt)) {
        world->told += attempt.manifest.parent != 0;
        if (is_resumed)
            goes_on(world, &attempt);
        end_attempt(world, &attempt);
        attempt_close(&attempt);
        return;
    }
    world->refused++;
    vd_tracker_cancel(attempt.tracker);
    VT_OK(vd_partial_remove(attempt.repository, &vt_err));
    world->resumed[0] = '\0';
    attempt_close(&attempt);
    close_image(open_image(DISK, VDISK_OPEN_WRITE)); /* of a writer that died */
    if (chance(world, 70))
        try_backup(world, chance(world, 50) ? VDISK_BACKUP_COMPARE : VDISK_BACKUP_FULL);
}

static void back_up_some(struct world *world)
{
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    const struct vd_manifest *latest = last_point(repository, false);
    bool is_long = latest && latest->number - world->first >= POINTS_MAX - 2;
    if (is_long) { /* a new chain, for which nothing is gone on with */
        VT_OK(vd_partial_remove(repository, &vt_err));
        world->resumed[0] = '\0';
    }
    vdisk_repository_close(repository);
    try_backup(world, is_long ? VDISK_BACKUP_FULL : random_flags(world));
}

/* --- all of it ---------------------------------------------------------------------------------
 */

static void step(struct world *world)
{
    const struct kind *kind = world->kind;
    unsigned what = (unsigned)below(world, 1000);
    if (what < 500)
        write_some(world);
    else if (what < 600)
        zero_some(world);
    else if (what < 680)
        discard_some(world);
    else if (what < 730)
        resize_some(world);
    else if (what < 790 && kind->has_snapshots)
        snapshot_some(world);
    else if (what < 870)
        closed(world);
    else if (what < 880 && kind->may_crash)
        crash(world);
    else if (what < 890 && kind->may_go_back)
        keep_copy(world);
    else if (what < 900 && kind->may_go_back)
        put_copy_back(world);
    else if (what < 905 && kind->has_base)
        change_base(world);
    else if (what >= 910)
        back_up_some(world);
}

/* Data here and there. */
static void make_base(void)
{
    FILE *file = fopen(BASE, "w");
    assert_non_null(file);
    for (size_t at = 0; at < BYTES_MAX / 2; at++)
        assert_true(fputc(at % 100000 < 40000 ? 'b' : 0, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void run(const struct kind *kind)
{
    const char *seed = getenv("VD_TEST_SEED");
    const char *ops = getenv("VD_TRACKER_OPS");
    uint64_t start = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    unsigned steps = ops ? (unsigned)strtoul(ops, NULL, 0) : VT_SHARE(1500);
    struct world world = {.random = {.state = start}, .kind = kind, .first = 1, .base_time = 1000};
    print_message("# %s: VD_TEST_SEED=%llu\n", kind->name, (unsigned long long)start);
    if (kind->has_base)
        make_base();
    make_source(&world);
    while (steps--)
        step(&world);
    closed(&world);
    print_message("# %s: %u backups that knew what had changed, %u that did not, %u gone on with\n",
                  kind->name, world.told, world.refused, world.resumptions);
    assert_true(world.told > world.refused);
    disk_free(&world.disk);
    disk_free(&world.copy);
    content_free(&world.begun);
    for (unsigned i = 0; i <= POINTS_MAX; i++)
        content_free(&world.points[i]);
}

#define KIND(function, ...)                            \
    static void function(void **state)                 \
    {                                                  \
        static const struct kind kind = {__VA_ARGS__}; \
        (void)state;                                   \
        run(&kind);                                    \
    }

KIND(a_qcow2_image, .name = "qcow2", .format = "qcow2", .has_snapshots = true, .may_go_back = true,
     .may_crash = true)
KIND(a_qcow2_image_of_small_clusters, .name = "qcow2, 4 KiB", .format = "qcow2",
     .cluster_bytes = 4096, .has_snapshots = true, .may_go_back = true)
KIND(a_qcow2_image_of_large_clusters, .name = "qcow2, 1 MiB", .format = "qcow2",
     .cluster_bytes = 1 << 20, .has_snapshots = true, .may_go_back = true)
KIND(a_qcow2_overlay, .name = "qcow2 overlay", .format = "qcow2", .has_base = true,
     .may_go_back = true, .may_crash = true)
KIND(a_gow3_image, .name = "gow3", .format = "gow3", .may_crash = true)
KIND(an_add_cow_overlay, .name = "add-cow", .format = "add-cow", .has_base = true,
     .may_go_back = true)

#define TEST(name) cmocka_unit_test_setup_teardown(name, enter_work_dir, leave_work_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_qcow2_image),   TEST(a_qcow2_image_of_small_clusters),
        TEST(a_qcow2_overlay), TEST(a_qcow2_image_of_large_clusters),
        TEST(a_gow3_image),    TEST(an_add_cow_overlay),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("tracker-model", tests, NULL, NULL);
}
