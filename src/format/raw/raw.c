/* SPDX-License-Identifier: MIT */
/*
 * The raw format: guest offset = offset in the file.
 *
 * The disk is the file rounded up to a multiple of 512 bytes; what the file lacks there reads as
 * zero until it is written.
 */
#include "format/raw/raw.h"

#include <inttypes.h>
#include <stdlib.h>

#define RAW_UNIT_BYTES 512u

struct raw {
    uint64_t whole_bytes; /* of the file when it was opened or resized: whole 512s, surely there */
};

static int raw_size_of(uint64_t wanted, uint64_t *size, struct vdisk_error *err)
{
    *size = 0;
    if (wanted > vd_round_down(INT64_MAX, RAW_UNIT_BYTES))
        return vd_err_set(err, EINVAL, "size of %" PRIu64 " bytes: the limit is %" PRIu64, wanted,
                          vd_round_down(INT64_MAX, RAW_UNIT_BYTES));
    *size = vd_round_up(wanted, RAW_UNIT_BYTES);
    return 0;
}

static int raw_preallocate(struct vd_storage *file, struct vd_range range,
                           enum vdisk_preallocation preallocation, struct vdisk_error *err)
{
    int ret;
    switch (preallocation) {
    case VDISK_PREALLOCATION_METADATA:
        return vd_err_set(err, EINVAL, "preallocation=metadata: raw images have no metadata");
    case VDISK_PREALLOCATION_OFF:
        return 0;
    case VDISK_PREALLOCATION_FALLOC:
        return vd_storage_preallocate(file, range, err);
    case VDISK_PREALLOCATION_FULL:
        /* Reserve first, so that a full disk is found before anything is written. */
        ret = vd_storage_preallocate(file, range, err);
        return ret < 0 ? ret : vd_storage_write_zeroes(file, range, VD_STORAGE_ZERO_AS_DATA, err);
    }
    return vd_err_set(err, EINVAL, "unknown preallocation %d", (int)preallocation);
}

static int raw_set_size(struct vd_storage *file, uint64_t size, struct vdisk_error *err)
{
    uint64_t present;
    int ret = vd_storage_size(file, &present, err);
    if (ret < 0 || present == size)
        return ret;
    if (vd_storage_caps(file) & VD_STORAGE_CAN_RESIZE)
        return vd_storage_resize(file, size, err);
    if (present < size)
        return vd_err_set(err, ENOSPC, "size of %" PRIu64 " bytes: the device has %" PRIu64, size,
                          present);
    return 0;
}

static int raw_create(const struct vd_format_driver *driver, struct vd_storage *file,
                      struct vd_storage *data, const struct vdisk_create_options *options,
                      struct vdisk_error *err)
{
    (void)driver;
    (void)data;
    uint64_t size;
    int ret = raw_size_of(options->size, &size, err);
    if (ret == 0)
        ret = raw_set_size(file, size, err);
    if (ret == 0 && size)
        ret = raw_preallocate(file, vd_range(0, size), options->preallocation, err);
    return ret;
}

static int raw_measure(const struct vd_format_driver *driver,
                       const struct vdisk_create_options *options, uint64_t data_bytes,
                       struct vdisk_measure_result *result, struct vdisk_error *err)
{
    (void)driver;
    (void)data_bytes; /* holes need no allocation, yet the file has the length of the disk */
    uint64_t rounded;
    int ret = raw_size_of(options->size, &rounded, err);
    if (ret == 0)
        *result = (struct vdisk_measure_result){.required_bytes = rounded,
                                                .fully_allocated_bytes = rounded};
    return ret;
}

static int raw_open(struct vd_format *format, const struct vd_format_options *options,
                    struct vdisk_error *err)
{
    (void)options;
    uint64_t present;
    int ret = vd_storage_size(format->file, &present, err);
    if (ret == 0)
        ret = raw_size_of(present, &format->size, err);
    if (ret < 0)
        return ret;
    struct raw *raw = malloc(sizeof(*raw));
    if (!raw)
        return vd_err_nomem(err, "a raw image");
    raw->whole_bytes = vd_round_down(present, RAW_UNIT_BYTES);
    format->state = raw;
    return 0;
}

static int raw_flush(struct vd_format *format, struct vdisk_error *err)
{
    return vd_storage_flush(format->file, err);
}

static int raw_close(struct vd_format *format, struct vdisk_error *err)
{
    free(format->state);
    return vd_format_is_writable(format) ? raw_flush(format, err) : 0;
}

static int raw_info(struct vd_format *format, struct vd_format_info *info, struct vdisk_error *err)
{
    (void)format;
    (void)info;
    (void)err;
    return 0;
}

/* How much of @guest, from its start, does the file have?  It is asked only about the last 512. */
static int raw_present(struct vd_format *format, struct vd_range guest, uint64_t *length,
                       struct vdisk_error *err)
{
    const struct raw *raw = format->state;
    uint64_t present;
    *length = guest.length;
    if (vd_range_end(guest) <= raw->whole_bytes)
        return 0;
    int ret = vd_storage_size(format->file, &present, err);
    if (ret == 0)
        *length = guest.offset < present ? vd_min(guest.length, present - guest.offset) : 0;
    return ret;
}

/* It is where it is on the disk. */
static void answer_data(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping)
{
    mapping->kind = VD_MAP_DATA;
    mapping->present = true;
    mapping->guest = guest;
    mapping->storage = format->file;
    mapping->host_offset = guest.offset;
}

static int raw_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
                   struct vdisk_error *err)
{
    uint64_t length;
    int ret = raw_present(format, guest, &length, err);
    if (ret < 0)
        return ret;

    if (length == 0) { /* the last, incomplete 512 bytes */
        mapping->kind = VD_MAP_ZERO;
        mapping->present = true;
        mapping->guest = guest;
        return 0;
    }
    answer_data(format, vd_range(guest.offset, length), mapping);
    return 0;
}

static int raw_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                             struct vd_mapping *mapping, struct vdisk_error *err)
{
    (void)allocate;
    (void)err;
    answer_data(format, guest, mapping);
    return 0;
}

/* Where the file surely is. */
static int raw_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                       struct vd_mapping *mapping)
{
    const struct raw *raw = format->state;
    (void)for_write;
    if (vd_range_end(guest) > raw->whole_bytes)
        return -EAGAIN;
    answer_data(format, guest, mapping);
    return 0;
}

static int raw_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                        struct vd_mapping *mapping, struct vdisk_error *err)
{
    if (!(flags & VD_MAP_ZERO_DISCARD))
        return raw_map_for_write(format, guest, true, mapping, err);

    uint64_t length;
    int ret = raw_present(format, guest, &length, err);
    if (ret == 0)
        ret = vd_storage_discard(format->file, vd_range(guest.offset, length), err);
    mapping->kind = VD_MAP_ZERO;
    mapping->present = true;
    mapping->guest = guest;
    return ret;
}

static int raw_resize(struct vd_format *format, const struct vd_resize *resize,
                      struct vdisk_error *err)
{
    uint64_t before = format->size;
    uint64_t rounded;
    int ret = raw_size_of(resize->size, &rounded, err);
    /* What was written to the end before does not come later than the cut, and make it longer. */
    if (ret == 0 && rounded < before)
        ret = vd_storage_flush(format->file, err);
    if (ret == 0)
        ret = raw_set_size(format->file, rounded, err);
    if (ret < 0)
        return ret;
    struct raw *raw = format->state;
    format->size = rounded;
    raw->whole_bytes = rounded;
    if (rounded > before)
        ret = raw_preallocate(format->file, vd_range(before, rounded - before),
                              resize->preallocation, err);
    return ret < 0 ? ret : vd_storage_flush(format->file, err);
}

const struct vd_format_driver vd_raw_driver = {
    .name = "raw",
    .create = raw_create,
    .measure = raw_measure,
    .open = raw_open,
    .close = raw_close,
    .info = raw_info,
    .map = raw_map,
    .map_for_write = raw_map_for_write,
    .try_map = raw_try_map,
    .map_zero = raw_map_zero,
    .flush = raw_flush,
    .resize = raw_resize,
};
