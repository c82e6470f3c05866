/* SPDX-License-Identifier: MIT */
/* The clonable storage against a plain array, and that clones do not see each other's writes. */
#include <stdio.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/random.h"
#include "drivers/snap.h"

#define MODEL_BYTES (3u << 20)
#define SEED        20261121u

struct model {
    struct vd_storage *storage;
    uint8_t *bytes; /* MODEL_BYTES; zero from size on */
    uint64_t size;
};

static void model_compare(const struct model *model)
{
    uint64_t size;
    uint8_t *buf = test_malloc(MODEL_BYTES);
    VT_OK(vd_storage_size(model->storage, &size, &vt_err));
    assert_int_equal(size, model->size);
    VT_OK(vd_storage_pread(model->storage, buf, model->size, 0, &vt_err));
    assert_memory_equal(buf, model->bytes, model->size);
    test_free(buf);
}

static void model_change(struct model *model, struct vt_random *random)
{
    struct vd_range range = vd_range(vt_random_below(random, MODEL_BYTES - 1), 0);
    range.length = vt_random_below(random, MODEL_BYTES - range.offset) + 1;
    uint8_t *at = model->bytes + range.offset;
    uint64_t end = vd_range_end(range);
    switch (vt_random_below(random, 5)) {
    case 0:
        vt_random_fill(random, at, range.length);
        VT_OK(vd_storage_pwrite(model->storage, at, range.length, range.offset, &vt_err));
        model->size = vd_max(model->size, end);
        break;
    case 1:
        memset(at, 0, range.length);
        VT_OK(vd_storage_write_zeroes(model->storage, range, 0, &vt_err));
        model->size = vd_max(model->size, end);
        break;
    case 2:
        memset(at, 0, range.length);
        VT_OK(vd_storage_discard(model->storage, range, &vt_err));
        break;
    case 3:
        if (end < model->size)
            memset(model->bytes + end, 0, model->size - end);
        VT_OK(vd_storage_resize(model->storage, end, &vt_err));
        model->size = end;
        break;
    default:
        model_compare(model);
    }
}

static void test_is_an_array(void **unused)
{
    (void)unused;
    struct vt_random random = {SEED};
    struct model model = {.bytes = test_calloc(1, MODEL_BYTES)};
    VT_OK(vt_snap_open(0, &model.storage, &vt_err));
    for (int i = 0; i < 300; i++)
        model_change(&model, &random);
    model_compare(&model);
    vd_storage_close(model.storage);
    test_free(model.bytes);
}

static void test_clones_are_apart(void **unused)
{
    (void)unused;
    struct vt_random random = {SEED};
    struct model models[2] = {{.bytes = test_calloc(1, MODEL_BYTES)},
                              {.bytes = test_calloc(1, MODEL_BYTES)}};
    VT_OK(vt_snap_open(0, &models[0].storage, &vt_err));
    for (int i = 0; i < 20; i++)
        model_change(&models[0], &random);
    VT_OK(vt_snap_clone(models[0].storage, &models[1].storage, &vt_err));
    memcpy(models[1].bytes, models[0].bytes, MODEL_BYTES);
    models[1].size = models[0].size;
    for (int i = 0; i < 100; i++)
        model_change(&models[i & 1], &random);
    model_compare(&models[0]);
    model_compare(&models[1]);
    vd_storage_close(models[0].storage);
    model_compare(&models[1]);
    vd_storage_close(models[1].storage);
    test_free(models[0].bytes);
    test_free(models[1].bytes);
}

static void test_merges_neighbours(void **unused)
{
    (void)unused;
    struct vt_random random = {SEED};
    struct vt_pages *pages = vt_pages_new(MODEL_BYTES);
    uint8_t *bytes = test_malloc(MODEL_BYTES);
    uint8_t *buf = test_malloc(MODEL_BYTES);
    memset(bytes, 0xff, MODEL_BYTES);
    memset(bytes + 100000, 0xee, 300000);
    vt_pages_write(pages, bytes, vd_range(0, MODEL_BYTES));
    vt_pages_merge(pages);
    for (int i = 0; i < 50; i++) { /* a change of one is no change of its neighbours */
        struct vd_range range = vd_range(vt_random_below(&random, MODEL_BYTES - 5000), 5000);
        vt_random_fill(&random, bytes + range.offset, range.length);
        vt_pages_write(pages, bytes + range.offset, range);
        vt_pages_merge(pages);
    }
    vt_pages_read(pages, buf, vd_range(0, MODEL_BYTES));
    assert_memory_equal(buf, bytes, MODEL_BYTES);
    test_free(bytes);
    test_free(buf);
    vt_pages_free(pages);
}

static void test_knows_its_holes(void **unused)
{
    (void)unused;
    struct vd_storage *st;
    struct vd_storage_extent extent;
    uint64_t bytes;
    VT_OK(vt_snap_open(1u << 20, &st, &vt_err));
    VT_OK(vd_storage_pwrite(st, "x", 1, 8192, &vt_err));
    VT_OK(vd_storage_extent(st, vd_range(0, 1u << 20), &extent, &vt_err));
    assert_int_equal(extent.kind, VD_STORAGE_HOLE);
    assert_int_equal(extent.length, 8192);
    VT_OK(vd_storage_extent(st, vd_range(8192, 100000), &extent, &vt_err));
    assert_int_equal(extent.kind, VD_STORAGE_DATA);
    assert_int_equal(extent.length, 4096);
    VT_OK(vd_storage_allocated(st, &bytes, &vt_err));
    assert_int_equal(bytes, 4096);
    vd_storage_close(st);
}

static void test_ends_where_it_ends(void **unused)
{
    (void)unused;
    struct vd_storage *st;
    char buf[2] = "ab";
    VT_OK(vt_snap_open(10, &st, &vt_err));
    VT_FAILS(EIO, vd_storage_pread(st, buf, 2, 9, &vt_err));
    assert_int_equal(buf[0], 0);
    vd_storage_close(st);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_is_an_array),        cmocka_unit_test(test_clones_are_apart),
        cmocka_unit_test(test_merges_neighbours),  cmocka_unit_test(test_knows_its_holes),
        cmocka_unit_test(test_ends_where_it_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
