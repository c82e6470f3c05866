/* SPDX-License-Identifier: MIT */
/*
 * job/pull: what comes into an image when the storages change their minds about holes, as file
 * systems do: zeros are data at one time and a hole at another.
 *
 * Random, from a seed that is printed.  VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS the count of
 * random rounds.
 */
#include "cow-fixture.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "drivers/random.h"
#include "drivers/under.h"
#include "job/pull.h"
#include "util/iov.h"

#define CLUSTER_BYTES 4096u
#define DISK_BYTES    ((size_t)5 << 20) /* several pieces of a merge */

static uint64_t seed;

/* ---- A storage in memory that does not always say the same of zeros ---- */

enum mood {
    FICKLE,       /* zeros are a hole or data, at random each time */
    HOLE_AT_FIRST /* all is a hole, true or not, until it has been asked of the start again */
};

struct shy {
    struct vd_storage *inner;
    enum mood mood;
    struct vd_mutex lock;
    struct vt_random random; /* under lock */
    unsigned starts;         /* under lock: how often it was asked of the start */
};

static void shy_close(struct vd_storage *storage)
{
    struct shy *shy = storage->state;
    vt_under_close(shy->inner, VT_OWN);
    vd_mutex_destroy(&shy->lock);
    free(shy);
}

static int shy_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    const struct shy *shy = storage->state;
    return vd_storage_size(shy->inner, size, err);
}

static int shy_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                      uint64_t offset, struct vdisk_error *err)
{
    const struct shy *shy = storage->state;
    return vd_storage_preadv(shy->inner, iov, iov_entries, offset, err);
}

static int shy_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    const struct shy *shy = storage->state;
    return vd_storage_pwritev(shy->inner, iov, iov_entries, offset, err);
}

/* One cluster at a time. */
static int shy_extent(struct vd_storage *storage, struct vd_range range,
                      struct vd_storage_extent *extent, struct vdisk_error *err)
{
    struct shy *shy = storage->state;
    uint8_t bytes[CLUSTER_BYTES];
    vd_mutex_lock(&shy->lock);
    bool is_first_time = (shy->starts += range.offset == 0) == 1;
    bool is_hole = vt_random_chance(&shy->random, 50);
    vd_mutex_unlock(&shy->lock);
    *extent = (struct vd_storage_extent){.kind = VD_STORAGE_DATA, .length = range.length};
    if (shy->mood == HOLE_AT_FIRST) {
        extent->kind = is_first_time ? VD_STORAGE_HOLE : VD_STORAGE_DATA;
        return 0;
    }
    extent->length = vd_min(range.length, CLUSTER_BYTES - range.offset % CLUSTER_BYTES);
    int ret = vd_storage_pread(shy->inner, bytes, (size_t)extent->length, range.offset, err);
    if (ret == 0 && is_hole && vd_buffer_is_zero(bytes, (size_t)extent->length))
        extent->kind = VD_STORAGE_HOLE;
    return ret;
}

static const struct vd_storage_driver shy_driver = {
    .name = "shy",
    .close = shy_close,
    .size = shy_size,
    .preadv = shy_preadv,
    .pwritev = shy_pwritev,
    .extent = shy_extent,
};

/* A raw image of @size bytes of @bytes. */
static struct vdisk_image *shy_image(enum mood mood, const uint8_t *bytes, size_t size,
                                     uint64_t random)
{
    struct vd_storage *storage;
    struct shy *shy = vt_calloc(1, sizeof(*shy));
    *shy = (struct shy){.inner = cow_mem(size), .mood = mood, .random = {.state = random}};
    vd_mutex_init(&shy->lock);
    VT_OK(vd_storage_pwrite(shy->inner, bytes, size, 0, &vt_err));
    VT_OK(vd_storage_new(&shy_driver, "shy", &storage, &vt_err));
    storage->state = shy;
    vt_under_imitate(storage, shy->inner);
    storage->caps |= VD_STORAGE_CAN_EXTENTS;
    return cow_raw(storage);
}

/* ---- What is the same for all ---- */

static int pull_over(struct vdisk_image *image, struct vdisk_image *behind, bool takes_all,
                     unsigned workers, struct vd_pull *pull, struct vdisk_error *err)
{
    struct vd_job job;
    vd_job_init(&job, NULL, NULL, 0);
    *pull = (struct vd_pull){.image = image,
                             .behind = behind,
                             .takes_all = takes_all,
                             .job = &job,
                             .phase = "test",
                             .workers = workers};
    int ret = vd_pull(pull, err);
    vd_job_destroy(&job);
    return ret;
}

static void shows(struct vdisk_image *image, const uint8_t *bytes)
{
    uint8_t *read = vt_calloc(DISK_BYTES, 1);
    VT_OK(vdisk_image_pread(image, read, DISK_BYTES, 0, &vt_err));
    assert_memory_equal(read, bytes, DISK_BYTES);
    free(read);
}

/* Clusters of data and of zeros, and such with one byte in them. */
static void draw_bytes(struct vt_random *random, uint8_t *bytes, size_t size)
{
    memset(bytes, 0, size);
    for (size_t at = 0; at < size;) {
        size_t run = CLUSTER_BYTES * (1 + (size_t)vt_random_below(random, 40));
        size_t step = run < size - at ? run : size - at;
        uint64_t kind = vt_random_below(random, 4);
        if (kind == 0)
            vt_random_fill(random, bytes + at, step);
        else if (kind == 1)
            bytes[at + (size_t)vt_random_below(random, step)] = 1;
        at += step;
    }
}

/* ---- The tests ---- */

static void one_random_pull(struct vt_random *random)
{
    uint8_t *old = vt_calloc(DISK_BYTES, 1), *new = vt_calloc(DISK_BYTES, 1);
    size_t new_size = CLUSTER_BYTES * (1 + (size_t)vt_random_below(random, DISK_BYTES / 4096));
    draw_bytes(random, old, DISK_BYTES);
    draw_bytes(random, new, new_size);
    if (vt_random_chance(random, 50)) /* much of it is the same */
        memcpy(new, old, new_size / 2);
    struct vdisk_image *image =
        cow_image(shy_image(FICKLE, old, DISK_BYTES, vt_random_next(random)), DISK_BYTES,
                  CLUSTER_BYTES << vt_random_below(random, 3), true);
    struct vdisk_image *behind = shy_image(FICKLE, new, new_size, vt_random_next(random));
    for (unsigned i = 0; i < 4; i++) {
        size_t offset = (size_t)vt_random_below(random, DISK_BYTES - 70000);
        vt_random_fill(random, old + offset, 70000);
        VT_OK(vdisk_image_pwrite(image, old + offset, 70000, offset, &vt_err));
    }
    struct vd_pull pull;
    bool takes_all = vt_random_chance(random, 25);
    unsigned workers = 1 + (unsigned)vt_random_below(random, 3);
    VT_OK(pull_over(image, behind, takes_all, workers, &pull, &vt_err));
    shows(image, old);
    VT_OK(vdisk_image_close(vd_image_take_backing(image), &vt_err));
    image->backing = behind;
    shows(image, old);
    VT_OK(vdisk_image_close(image, &vt_err));
    free(old);
    free(new);
}

static void the_disk_stays_what_it_was(void **state)
{
    (void)state;
    const char *rounds = getenv("VDISK_TEST_ROUNDS");
    struct vt_random random = {.state = seed};
    print_message("# seed %" PRIu64 "\n", seed);
    for (unsigned long i = rounds ? strtoul(rounds, NULL, 0) : 12; i > 0; i--)
        one_random_pull(&random);
}

/* As an image with no backing file, which is to get @behind. */
static int pull_zeros_over(const uint8_t *behind_bytes, struct vdisk_error *err)
{
    uint8_t *zeros = vt_calloc(DISK_BYTES, 1);
    struct vdisk_image *image =
        cow_image(cow_raw(cow_mem(DISK_BYTES)), DISK_BYTES, CLUSTER_BYTES, true);
    struct vdisk_image *behind = shy_image(HOLE_AT_FIRST, behind_bytes, DISK_BYTES, 0);
    struct vd_pull pull;
    int ret = pull_over(image, behind, false, 1, &pull, err);
    assert_int_equal(pull.data_bytes + pull.zero_bytes, 0);
    shows(image, zeros);
    VT_OK(vdisk_image_close(image, &vt_err));
    VT_OK(vdisk_image_close(behind, &vt_err));
    free(zeros);
    return ret;
}

static void zeros_that_become_data_are_no_loss(void **state)
{
    (void)state;
    uint8_t *bytes = vt_calloc(DISK_BYTES, 1);
    VT_OK(pull_zeros_over(bytes, &vt_err));
    free(bytes);
}

/* What was taken for zeros was not: nothing was written over it, and one byte is enough. */
static void a_loss_is_told(void **state)
{
    (void)state;
    static const size_t places[] = {0, 1234567, DISK_BYTES - 1};
    uint8_t *bytes = vt_calloc(DISK_BYTES, 1);
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        struct vdisk_error err = {0};
        bytes[places[i]] = 1;
        assert_int_equal(pull_zeros_over(bytes, &err), -EIO);
        assert_non_null(strstr(err.message, "is not found there"));
        bytes[places[i]] = 0;
    }
    free(bytes);
}

int main(void)
{
    const char *given = getenv("VDISK_TEST_SEED");
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_disk_stays_what_it_was),
        cmocka_unit_test(zeros_that_become_data_are_no_loss),
        cmocka_unit_test(a_loss_is_told),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
