/* SPDX-License-Identifier: MIT */
#include "snapshot-model.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "drivers/check.h"
#include "drivers/fault.h"
#include "drivers/snap.h"
#include "format/codec.h"
#include "image/chain.h"

#define WINDOW_CLUSTERS 6u
#define BASE_NAME       "base"

static uint64_t table_span(const struct sm_shape *shape)
{
    uint64_t entry_bytes = shape->flags & VDISK_CREATE_EXTENDED_L2 ? 16 : 8;
    return shape->cluster_bytes / entry_bytes * shape->cluster_bytes;
}

/* At the start of the disk, around the first border of tables, and at the end. */
static void place_windows(struct sm_model *model)
{
    uint64_t cluster = model->shape->cluster_bytes;
    uint64_t span = table_span(model->shape);
    uint64_t length = WINDOW_CLUSTERS * cluster;
    const uint64_t starts[SM_WINDOWS] = {0, span - length / 2, 3 * span - length / 2};
    for (unsigned i = 0; i < SM_WINDOWS; i++) {
        model->windows[i] = vd_range(starts[i], length);
        model->window_bytes += length;
    }
    model->size_max = vd_range_end(model->windows[SM_WINDOWS - 1]);
}

static uint64_t window_start(const struct sm_model *model, unsigned window)
{
    uint64_t start = 0;
    for (unsigned i = 0; i < window; i++)
        start += model->windows[i].length;
    return start;
}

uint8_t *sm_at(const struct sm_model *model, const struct sm_disk *disk, uint64_t offset)
{
    for (unsigned i = 0; i < SM_WINDOWS; i++)
        if (offset - model->windows[i].offset < model->windows[i].length)
            return disk->bytes + window_start(model, i) + (offset - model->windows[i].offset);
    fail_msg("offset %llu is in no window", (unsigned long long)offset);
    return NULL;
}

void sm_copy(const struct sm_model *model, struct sm_disk *to, const struct sm_disk *from)
{
    if (!to->bytes)
        to->bytes = malloc(model->window_bytes);
    assert_non_null(to->bytes);
    memcpy(to->bytes, from->bytes, model->window_bytes);
    to->size = from->size;
}

void sm_add(struct sm_model *model)
{
    unsigned index = model->snapshot_entries++;
    assert_true(index < SM_SNAPSHOTS_MAX);
    model->snapshots[index] = (struct sm_disk){0};
    sm_copy(model, &model->snapshots[index], &model->now);
    model->serials[index] = model->next_serial++;
}

void sm_remove(struct sm_model *model, unsigned index)
{
    free(model->snapshots[index].bytes);
    model->snapshot_entries--;
    for (unsigned i = index; i < model->snapshot_entries; i++) {
        model->snapshots[i] = model->snapshots[i + 1];
        model->serials[i] = model->serials[i + 1];
    }
}

/* The backing disk ends in the middle of the last window. */
static void make_base(struct sm_model *model)
{
    struct vt_random random = {.state = 77};
    uint64_t size = vd_round_down(model->size_max - model->windows[0].length / 3, 512);
    VT_OK(vt_snap_open(size, &model->base, &vt_err));
    for (unsigned i = 0; i < SM_WINDOWS; i++) {
        uint8_t *bytes = model->now.bytes + window_start(model, i);
        uint64_t length = vd_min(model->windows[i].length, size - model->windows[i].offset);
        vt_random_fill(&random, bytes, length / 2);
        VT_OK(vd_storage_pwrite(model->base, bytes, length, model->windows[i].offset, &vt_err));
    }
}

void sm_init(struct sm_model *model, const struct sm_shape *shape, struct vd_storage **file)
{
    const struct vd_format_driver *driver = vd_format_find("qcow2", NULL);
    *model = (struct sm_model){.shape = shape};
    place_windows(model);
    model->now.bytes = calloc(1, model->window_bytes);
    model->now.size = model->size_max;
    assert_non_null(model->now.bytes);
    if (shape->has_backing)
        make_base(model);
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = model->now.size,
        .flags = shape->flags,
        .cluster_bytes = shape->cluster_bytes,
        .refcount_bits = shape->refcount_bits,
        .compat = shape->compat,
        .backing = shape->has_backing ? BASE_NAME : NULL,
        .backing_format = shape->has_backing ? "raw" : NULL,
    };
    VT_OK(vt_snap_open(0, file, &vt_err));
    VT_OK(vd_format_create(driver, *file, NULL, &options, &vt_err));
}

void sm_free(struct sm_model *model)
{
    for (unsigned i = 0; i < model->snapshot_entries; i++)
        free(model->snapshots[i].bytes);
    free(model->now.bytes);
    if (model->base)
        vd_storage_close(model->base);
}

static int open_base(void *opaque, const char *bearer, const char *name,
                     const struct vd_storage_options *options, struct vd_storage **storage,
                     struct vdisk_error *err)
{
    const struct sm_model *model = opaque;
    (void)bearer;
    (void)options;
    assert_string_equal(name, BASE_NAME);
    int ret = vt_snap_clone(model->base, storage, err);
    if (ret == 0)
        (*storage)->flags &= ~(uint32_t)VD_STORAGE_WRITE;
    return ret;
}

struct vdisk_image *sm_open_on(const struct sm_model *model, struct vd_storage *file,
                               uint32_t flags, unsigned snapshot)
{
    char id[16];
    struct vdisk_snapshot_key key = {.struct_bytes = sizeof(key), .name = id};
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = flags, .format = "qcow2"};
    struct vd_image_files files = {.open = open_base, .opaque = (void *)model};
    struct vd_chain_options options = {.open = &open, .files = &files};
    struct vdisk_image *image;
    if (snapshot != UINT_MAX) {
        snprintf(id, sizeof(id), "s%u", model->serials[snapshot]);
        open.snapshot = &key;
    }
    VT_OK(vd_image_open_chain_on(file, &options, &image, &vt_err));
    return image;
}

struct vdisk_image *sm_open_clone(const struct sm_model *model, struct vd_storage *file,
                                  uint32_t flags, unsigned snapshot)
{
    struct vd_storage *clone;
    VT_OK(vt_snap_clone(file, &clone, &vt_err));
    return sm_open_on(model, clone, flags, snapshot);
}

static void tell_difference(struct vd_range window, const uint8_t *bytes, const uint8_t *wanted)
{
    uint64_t at = 0;
    while (bytes[at] == wanted[at])
        at++;
    fail_msg("byte %llu is 0x%02x, not 0x%02x", (unsigned long long)(window.offset + at), bytes[at],
             wanted[at]);
}

bool sm_same(const struct sm_model *model, struct vdisk_image *image, const struct sm_disk *disk,
             bool may_differ)
{
    bool same = vdisk_image_size(image) == disk->size;
    if (!same && !may_differ)
        fail_msg("a disk of %llu bytes, not %llu", (unsigned long long)vdisk_image_size(image),
                 (unsigned long long)disk->size);
    uint8_t *bytes = malloc(model->windows[0].length);
    assert_non_null(bytes);
    for (unsigned i = 0; same && i < SM_WINDOWS; i++) {
        struct vd_range window = model->windows[i];
        const uint8_t *wanted = sm_at(model, disk, window.offset);
        window.length = vd_min(window.length, disk->size - window.offset);
        VT_OK(vdisk_image_pread(image, bytes, window.length, window.offset, &vt_err));
        same = memcmp(bytes, wanted, window.length) == 0;
        if (!same && !may_differ)
            tell_difference(window, bytes, wanted);
    }
    free(bytes);
    return same;
}

static void check(const struct sm_model *model, struct vd_storage *file, enum vdisk_repair repair,
                  struct vdisk_check_result *result)
{
    struct vd_storage *borrowed;
    uint32_t flags = VDISK_OPEN_CHECK | (repair == VDISK_REPAIR_NONE ? 0 : VDISK_OPEN_WRITE);
    *result = (struct vdisk_check_result){.struct_bytes = sizeof(*result)};
    VT_OK(vt_fault_open(file, VT_BORROW, &borrowed, &vt_err));
    struct vdisk_image *image = sm_open_on(model, borrowed, flags, UINT_MAX);
    VT_OK(vdisk_image_check(image, repair, NULL, NULL, result, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
}

void sm_repair(const struct sm_model *model, struct vd_storage *file)
{
    struct vdisk_check_result result;
    check(model, file, VDISK_REPAIR_ALL, &result);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
}

void sm_check(const struct sm_model *model, struct vd_storage *file, bool may_leak)
{
    struct vdisk_check_result result;
    check(model, file, VDISK_REPAIR_NONE, &result);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.check_errors, 0);
    assert_true(may_leak || result.leaks == 0);
}

void sm_verify(const struct sm_model *model, struct vd_storage *file, bool may_leak)
{
    struct vdisk_image *image = sm_open_clone(model, file, 0, UINT_MAX);
    sm_same(model, image, &model->now, false);
    VT_OK(vdisk_image_close(image, &vt_err));
    for (unsigned i = 0; i < model->snapshot_entries; i++) {
        image = sm_open_clone(model, file, 0, i);
        sm_same(model, image, &model->snapshots[i], false);
        VT_OK(vdisk_image_close(image, &vt_err));
    }
    sm_check(model, file, may_leak);
}

/* A range in a window and on the disk, of some clusters at most. */
static struct vd_range draw_range(const struct sm_model *model, struct vt_random *random)
{
    for (;;) {
        struct vd_range window = model->windows[vt_random_below(random, SM_WINDOWS)];
        uint64_t cluster = model->shape->cluster_bytes;
        uint64_t offset = vt_random_below(random, window.length);
        uint64_t length = 1 + vt_random_below(random, 3 * cluster);
        if (vt_random_chance(random, 50)) {
            offset = vd_round_down(offset, cluster);
            length = vd_round_up(length, cluster);
        }
        offset += window.offset;
        uint64_t end = vd_min(vd_range_end(window), model->now.size);
        if (offset < end)
            return vd_range(offset, vd_min(length, end - offset));
    }
}

/* Each byte reads as before, or as zero: the model becomes what it is. */
static void discard(struct sm_model *model, struct vdisk_image *image, struct vd_range guest)
{
    uint8_t *wanted = sm_at(model, &model->now, guest.offset);
    uint8_t *bytes = malloc(guest.length);
    assert_non_null(bytes);
    VT_OK(vdisk_image_discard(image, guest.offset, guest.length, &vt_err));
    VT_OK(vdisk_image_pread(image, bytes, guest.length, guest.offset, &vt_err));
    for (uint64_t i = 0; i < guest.length; i++)
        assert_true(bytes[i] == wanted[i] || bytes[i] == 0);
    memcpy(wanted, bytes, guest.length);
    free(bytes);
}

/* A cluster that compresses well. */
static void write_compressed(struct sm_model *model, struct vdisk_image *image,
                             struct vt_random *random)
{
    uint32_t cluster = model->shape->cluster_bytes;
    struct vd_range guest = draw_range(model, random);
    guest = vd_range(vd_round_down(guest.offset, cluster), cluster);
    if (vd_range_end(guest) > model->now.size)
        return;
    uint8_t *bytes = sm_at(model, &model->now, guest.offset);
    uint8_t *encoded = malloc(cluster);
    struct vd_encoder *encoder;
    size_t encoded_bytes;
    assert_non_null(encoded);
    memset(bytes, 'a' + (int)vt_random_below(random, 26), cluster);
    vt_random_fill(random, bytes, cluster / 8);
    VT_OK(vd_encoder_new(VD_CODEC_DEFLATE, 0, &encoder, &vt_err));
    VT_OK(vd_encode(encoder, bytes, cluster, encoded, cluster, &encoded_bytes, &vt_err));
    assert_true(encoded_bytes > 0);
    struct vd_image_encoded one = {
        .guest = guest, .bytes = encoded, .length = (uint32_t)encoded_bytes};
    VT_OK(vd_image_write_encoded(image, VD_CODEC_DEFLATE, &one, 1, &vt_err));
    vd_encoder_free(encoder);
    free(encoded);
}

void sm_change(struct sm_model *model, struct vdisk_image *image, struct vt_random *random)
{
    struct vd_range guest = draw_range(model, random);
    uint8_t *bytes = sm_at(model, &model->now, guest.offset);
    unsigned what = (unsigned)vt_random_below(random, 10);
    /* Several compressed clusters in one need wider refcounts. */
    bool can_compress = model->shape->refcount_bits == 0 || model->shape->refcount_bits >= 8;
    if (what == 0) {
        memset(bytes, 0, guest.length);
        VT_OK(vdisk_image_write_zeroes(image, guest.offset, guest.length,
                                       vt_random_chance(random, 50) ? VDISK_ZERO_NO_HOLE : 0,
                                       &vt_err));
    } else if (what == 1) {
        discard(model, image, guest);
    } else if (what <= 3 && can_compress) {
        write_compressed(model, image, random);
    } else {
        vt_random_fill(random, bytes, guest.length);
        VT_OK(vdisk_image_pwrite(image, bytes, guest.length, guest.offset, &vt_err));
    }
}
