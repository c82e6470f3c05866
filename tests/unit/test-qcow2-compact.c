/* SPDX-License-Identifier: MIT */
/* Compaction of qcow2 images: what it gives back, and that a power cut at any instant costs
 * nothing.
 */
#include <stdio.h>
#include <stdlib.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/crash.h"
#include "drivers/fault.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "format/format.h"
#include "image/image.h"

#define CLUSTERS 160u

struct model {
    struct vd_storage *crash;
    uint64_t cluster_bytes;
    uint64_t size;
    uint8_t *bytes; /* of the disk */
    uint8_t *seen;
    unsigned calls, states;
};

/* The image on @file, which stays open. */
static struct vdisk_image *open_on(struct vd_storage *file, uint32_t flags)
{
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .format = "qcow2"};
    struct vd_storage *borrowed;
    struct vdisk_image *image = NULL;
    VT_OK(vt_fault_open(file, VT_BORROW, &borrowed, &vt_err));
    VT_OK(vd_image_open_on(borrowed, &options, &image, &vt_err));
    return image;
}

static void close_it(struct vdisk_image *image)
{
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void expect_content(struct model *model, struct vd_storage *file)
{
    struct vdisk_image *image = open_on(file, 0);
    VT_OK(vdisk_image_pread(image, model->seen, model->size, 0, &vt_err));
    assert_memory_equal(model->seen, model->bytes, model->size);
    close_it(image);
}

/* @leaks: may there be any? */
static void expect_sound(struct vd_storage *file, bool leaks)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_image *image = open_on(file, VDISK_OPEN_CHECK);
    VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.check_errors, 0);
    assert_true(leaks || result.leaks == 0);
    close_it(image);
}

static void make_image(struct model *model, uint32_t cluster_bytes, uint32_t flags,
                       struct vt_random *random)
{
    struct vd_storage *file;
    struct vdisk_create_options create = {.struct_bytes = sizeof(create),
                                          .cluster_bytes = cluster_bytes,
                                          .flags = flags,
                                          .size = (uint64_t)CLUSTERS * cluster_bytes};
    *model = (struct model){.cluster_bytes = cluster_bytes, .size = create.size};
    model->bytes = vt_calloc(model->size, 1);
    model->seen = vt_calloc(model->size, 1);
    VT_OK(vt_snap_open(0, &file, &vt_err));
    VT_OK(vd_format_create(vd_format_find("qcow2", NULL), file, NULL, &create, &vt_err));
    struct vdisk_image *image = open_on(file, VDISK_OPEN_WRITE);
    vt_random_fill(random, model->bytes, model->size);
    VT_OK(vdisk_image_pwrite(image, model->bytes, model->size, 0, &vt_err));
    VT_OK(vdisk_image_flush(image, &vt_err));
    for (uint64_t i = 0; i < CLUSTERS; i++) {
        if (i % 16 == 15 || vt_random_chance(random, 20))
            continue;
        memset(model->bytes + i * cluster_bytes, 0, cluster_bytes);
        VT_OK(vdisk_image_write_zeroes(image, i * cluster_bytes, cluster_bytes, 0, &vt_err));
    }
    close_it(image);
    VT_OK(vt_crash_open(vt_snap_pages(file), &model->crash, &vt_err));
    vd_storage_close(file);
}

static void destroy(struct model *model)
{
    vd_storage_close(model->crash);
    free(model->bytes);
    free(model->seen);
}

static uint64_t compact(struct model *model)
{
    struct vdisk_compact_result result = {.struct_bytes = sizeof(result)};
    const struct vd_compact options = {.result = &result};
    static const uint32_t flags[] = {VDISK_OPEN_WRITE, VDISK_OPEN_WRITE | VDISK_OPEN_CHECK};
    for (size_t i = 0; i < 2; i++) {
        struct vdisk_image *image = open_on(model->crash, flags[i]);
        VT_OK(vd_format_compact(vd_image_format(image), &options, &vt_err));
        close_it(image);
    }
    return result.moved_bytes;
}

static uint64_t length_of(struct vd_storage *file)
{
    uint64_t bytes;
    VT_OK(vd_storage_size(file, &bytes, &vt_err));
    return bytes;
}

static const struct {
    uint32_t cluster_bytes, flags;
} shapes[] = {{512, 0}, {4096, 0}, {65536, 0}, {16384, VDISK_CREATE_EXTENDED_L2}};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static void test_gives_back(void **state)
{
    (void)state;
    struct vt_random random = {11};
    for (size_t i = 0; i < SHAPES; i++) {
        struct model model;
        make_image(&model, shapes[i].cluster_bytes, shapes[i].flags, &random);
        uint64_t before = length_of(model.crash);
        assert_true(compact(&model) > 0);
        uint64_t after = length_of(model.crash);
        assert_true(after < before * 2 / 3);
        expect_sound(model.crash, false);
        expect_content(&model, model.crash);
        assert_int_equal(compact(&model), 0); /* there is nothing left to do */
        assert_int_equal(length_of(model.crash), after);
        expect_content(&model, model.crash);
        destroy(&model);
    }
}

static void look(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct model *model = opaque;
    (void)call;
    for (int cut = 0; cut < VT_CUTS; cut++) {
        struct vd_storage *state;
        VT_OK(vt_crash_cut(storage, (enum vt_cut)cut, model->calls * UINT64_C(31) + (uint64_t)cut,
                           &state, &vt_err));
        expect_sound(state, true);
        expect_content(model, state);
        vd_storage_close(state);
        model->states++;
    }
    model->calls++;
}

/* Each state is sound and has all of the disk. */
static void test_cuts(void **state)
{
    (void)state;
    struct vt_random random = {12};
    unsigned states = 0;
    for (size_t i = 0; i < SHAPES; i++) {
        struct model model;
        if (shapes[i].cluster_bytes > 16384)
            continue;
        make_image(&model, shapes[i].cluster_bytes, shapes[i].flags, &random);
        vt_crash_set_hook(model.crash, look, &model);
        assert_true(compact(&model) > 0);
        vt_crash_set_hook(model.crash, NULL, NULL);
        states += model.states;
        destroy(&model);
    }
    printf("# %u states\n", states);
    assert_true(states > 200);
}

static int stop(void *opaque, uint64_t done, uint64_t total, struct vdisk_error *err)
{
    (void)opaque;
    (void)done;
    (void)total;
    return vd_err_set(err, ECANCELED, "canceled");
}

/* What was moved by then stays moved, and the image is sound. */
static void test_canceled(void **state)
{
    (void)state;
    struct vt_random random = {13};
    struct model model;
    struct vdisk_compact_result result = {.struct_bytes = sizeof(result)};
    const struct vd_compact options = {.progress = stop, .result = &result};
    make_image(&model, 512, 0, &random);
    struct vdisk_image *image = open_on(model.crash, VDISK_OPEN_WRITE);
    VT_FAILS(ECANCELED, vd_format_compact(vd_image_format(image), &options, &vt_err));
    close_it(image);
    expect_sound(model.crash, false);
    expect_content(&model, model.crash);
    assert_true(compact(&model) > 0);
    expect_sound(model.crash, false);
    expect_content(&model, model.crash);
    destroy(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gives_back),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_canceled),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
