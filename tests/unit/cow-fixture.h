/* SPDX-License-Identifier: MIT */
/*
 * A format for tests of the image layer: an overlay whose map is in memory only, with every answer
 * that a format can give, and images put together by hand.
 */
#ifndef COW_FIXTURE_H
#define COW_FIXTURE_H

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "format/driver.h"
#include "image/image_priv.h"

struct cow {
    struct vd_mutex lock;
    struct vd_storage *data; /* where clusters lie: a hole of it may hold anything */
    uint32_t cluster_bytes;
    size_t clusters;
    enum vd_map_kind *kinds; /* under lock */
    uint64_t *hosts;         /* under lock */
    uint32_t *encoded;       /* under lock: bytes of an ENCODED cluster; of which kind, */
    enum vd_codec *codecs;   /* under lock */
    uint64_t host_end;       /* under lock */
    atomic_ulong maps;       /* calls of map() */
};

static inline struct cow *cow_of(const struct vdisk_image *image)
{
    return image->format->state;
}

/* The cluster at the start of @guest, and as many after it as are alike. */
static void cow_run_locked(struct vd_format *format, struct vd_range guest,
                           struct vd_mapping *mapping)
{
    struct cow *cow = format->state;
    size_t first = (size_t)(guest.offset / cow->cluster_bytes);
    uint64_t end = (uint64_t)(first + 1) * cow->cluster_bytes;
    for (size_t i = first + 1;
         end < vd_range_end(guest) && cow->kinds[i] == cow->kinds[first] &&
         cow->kinds[i] != VD_MAP_ENCODED &&
         (cow->kinds[i] != VD_MAP_DATA || cow->hosts[i] == cow->hosts[i - 1] + cow->cluster_bytes);
         i++)
        end += cow->cluster_bytes;
    mapping->kind = cow->kinds[first];
    mapping->present = mapping->kind != VD_MAP_BACKING;
    mapping->guest = vd_range(guest.offset, vd_min(guest.length, end - guest.offset));
    if (mapping->kind == VD_MAP_DATA) {
        mapping->storage = cow->data;
        mapping->host_offset = cow->hosts[first] + guest.offset % cow->cluster_bytes;
    } else if (mapping->kind == VD_MAP_ENCODED) {
        mapping->storage = cow->data;
        mapping->host_offset = cow->hosts[first];
        mapping->encoded_bytes = cow->encoded[first];
        mapping->codec = cow->codecs[first];
        mapping->clusters = vd_range(first * (uint64_t)cow->cluster_bytes, cow->cluster_bytes);
    }
}

static int cow_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
                   struct vdisk_error *err)
{
    struct cow *cow = format->state;
    (void)err;
    atomic_fetch_add(&cow->maps, 1);
    vd_mutex_lock(&cow->lock);
    cow_run_locked(format, guest, mapping);
    vd_mutex_unlock(&cow->lock);
    return 0;
}

static int cow_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                             struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct cow *cow = format->state;
    (void)err;
    vd_mutex_lock(&cow->lock);
    cow_run_locked(format, guest, mapping);
    if (mapping->kind != VD_MAP_DATA && allocate) {
        uint64_t start = vd_range_expand(mapping->guest, cow->cluster_bytes).offset;
        uint64_t end = vd_range_end(vd_range_expand(mapping->guest, cow->cluster_bytes));
        mapping->fill = mapping->kind == VD_MAP_ZERO      ? VD_FILL_ZERO
                        : mapping->kind == VD_MAP_ENCODED ? VD_FILL_OLD
                                                          : VD_FILL_BACKING;
        mapping->kind = VD_MAP_DATA;
        mapping->encoded_bytes = 0;
        mapping->fresh = true;
        mapping->storage = cow->data;
        mapping->clusters = vd_range(start, vd_min(end, format->size) - start);
        mapping->token = cow->host_end;
        mapping->host_offset = cow->host_end + (guest.offset - start);
        cow->host_end += end - start;
    } else if (mapping->kind != VD_MAP_DATA) {
        mapping->kind = VD_MAP_ZERO;
    }
    vd_mutex_unlock(&cow->lock);
    if (mapping->fresh)
        sched_yield(); /* whoever must not come in between gets the chance */
    return 0;
}

/* Packed one behind the other, at any byte. */
static int cow_map_encoded(struct vd_format *format, struct vd_range guest, enum vd_codec codec,
                           uint32_t encoded_bytes, struct vd_mapping *mapping,
                           struct vdisk_error *err)
{
    struct cow *cow = format->state;
    (void)err;
    assert_int_equal(guest.offset % cow->cluster_bytes, 0);
    vd_mutex_lock(&cow->lock);
    *mapping = (struct vd_mapping){.kind = VD_MAP_DATA,
                                   .guest = guest,
                                   .clusters = guest,
                                   .fresh = true,
                                   .storage = cow->data,
                                   .host_offset = cow->host_end,
                                   .token = cow->host_end,
                                   .codec = codec,
                                   .encoded_bytes = encoded_bytes};
    cow->host_end += encoded_bytes;
    vd_mutex_unlock(&cow->lock);
    return 0;
}

static void cow_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok)
{
    struct cow *cow = format->state;
    size_t first = (size_t)(mapping->clusters.offset / cow->cluster_bytes);
    size_t end = (size_t)vd_div_up(vd_range_end(mapping->clusters), cow->cluster_bytes);
    vd_mutex_lock(&cow->lock);
    for (size_t i = first; ok && i < end; i++) {
        assert_int_not_equal(cow->kinds[i], VD_MAP_DATA); /* nobody else may have been faster */
        cow->kinds[i] = mapping->encoded_bytes ? VD_MAP_ENCODED : VD_MAP_DATA;
        cow->encoded[i] = mapping->encoded_bytes;
        cow->codecs[i] = mapping->codec;
        cow->hosts[i] = mapping->token + (uint64_t)(i - first) * cow->cluster_bytes;
    }
    vd_mutex_unlock(&cow->lock);
}

/* Whole clusters become ZERO by their entry, those with data only if they may lose their space. */
static int cow_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                        struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct cow *cow = format->state;
    (void)err;
    vd_mutex_lock(&cow->lock);
    size_t index = (size_t)(guest.offset / cow->cluster_bytes);
    uint64_t start = (uint64_t)index * cow->cluster_bytes;
    uint64_t end = vd_min(start + cow->cluster_bytes, format->size);
    cow_run_locked(format, vd_range(guest.offset, vd_min(guest.length, end - guest.offset)),
                   mapping);
    bool is_whole = guest.offset == start && vd_range_end(guest) >= end;
    if (is_whole && (mapping->kind == VD_MAP_BACKING || mapping->kind == VD_MAP_ENCODED ||
                     (flags & VD_MAP_ZERO_DISCARD))) {
        cow->kinds[index] = VD_MAP_ZERO;
        mapping->kind = VD_MAP_ZERO;
    } else if (mapping->kind == VD_MAP_ENCODED) {
        mapping->kind = VD_MAP_BACKING;
    }
    vd_mutex_unlock(&cow->lock);
    return 0;
}

static int cow_flush(struct vd_format *format, struct vdisk_error *err)
{
    struct cow *cow = format->state;
    return vd_storage_flush(cow->data, err);
}

static void cow_set_clusters(struct cow *cow, uint64_t size)
{
    size_t clusters = (size_t)vd_div_up(size, cow->cluster_bytes);
    cow->kinds = vt_must(realloc(cow->kinds, (clusters + 1) * sizeof(*cow->kinds)));
    cow->hosts = vt_must(realloc(cow->hosts, (clusters + 1) * sizeof(*cow->hosts)));
    cow->encoded = vt_must(realloc(cow->encoded, (clusters + 1) * sizeof(*cow->encoded)));
    cow->codecs = vt_must(realloc(cow->codecs, (clusters + 1) * sizeof(*cow->codecs)));
    for (size_t i = cow->clusters; i < clusters; i++)
        cow->kinds[i] = VD_MAP_BACKING;
    cow->clusters = clusters;
}

static int cow_resize(struct vd_format *format, const struct vd_resize *resize,
                      struct vdisk_error *err)
{
    struct cow *cow = format->state;
    size_t old = cow->clusters;
    uint64_t end;
    int ret = vd_storage_size(cow->data, &end, err);
    if (ret == 0 && end < cow->host_end) /* the last cluster was cut at the end of the disk */
        ret = vd_storage_resize(cow->data, cow->host_end, err);
    if (ret < 0)
        return ret;
    cow_set_clusters(cow, resize->size);
    for (size_t i = old; i < cow->clusters; i++)
        if ((uint64_t)i * cow->cluster_bytes < resize->backing_bytes)
            cow->kinds[i] = VD_MAP_ZERO;
    format->size = resize->size;
    return 0;
}

static int cow_info(struct vd_format *format, struct vd_format_info *info, struct vdisk_error *err)
{
    struct cow *cow = format->state;
    (void)err;
    info->cluster_bytes = cow->cluster_bytes;
    info->backing_name = "base";
    return 0;
}

static int cow_open(struct vd_format *format, const struct vd_format_options *options,
                    struct vdisk_error *err)
{
    (void)options;
    (void)err;
    format->state = vt_calloc(1, sizeof(struct cow));
    return 0;
}

static int cow_close(struct vd_format *format, struct vdisk_error *err)
{
    struct cow *cow = format->state;
    (void)err;
    vd_storage_close(cow->data);
    vd_mutex_destroy(&cow->lock);
    free(cow->kinds);
    free(cow->hosts);
    free(cow->encoded);
    free(cow->codecs);
    free(cow);
    return 0;
}

static const struct vd_format_driver cow_driver = {
    .name = "cow",
    .has_backing = true,
    .open = cow_open,
    .close = cow_close,
    .info = cow_info,
    .map = cow_map,
    .map_for_write = cow_map_for_write,
    .map_encoded = cow_map_encoded,
    .write_done = cow_write_done,
    .map_zero = cow_map_zero,
    .flush = cow_flush,
    .resize = cow_resize,
};

/* A raw image on @file, which it owns. */
static inline struct vdisk_image *cow_raw(struct vd_storage *file)
{
    static const struct vdisk_open_options writable = {
        .struct_bytes = sizeof(writable), .flags = VDISK_OPEN_WRITE, .format = "raw"};
    struct vdisk_image *image;
    VT_OK(vd_image_open_on(file, &writable, &image, &vt_err));
    return image;
}

static inline struct vd_storage *cow_mem(uint64_t size)
{
    struct vd_storage *file;
    VT_OK(vd_storage_mem_open(size, &file, &vt_err));
    return file;
}

/* An overlay of @size bytes on @backing, which it owns; @backing may be NULL: not opened. */
static inline struct vdisk_image *cow_image(struct vdisk_image *backing, uint64_t size,
                                            uint32_t cluster_bytes, bool writable)
{
    struct vdisk_image *image = cow_raw(cow_mem(0));
    const struct vd_format_options options = {.flags = writable ? VD_FORMAT_WRITE : 0};
    VT_OK(vd_format_close(image->format, &vt_err));
    VT_OK(vd_format_open(&cow_driver, image->file, &options, &image->format, &vt_err));
    struct cow *cow = cow_of(image);
    vd_mutex_init(&cow->lock);
    cow->data = cow_mem(0);
    cow->cluster_bytes = cluster_bytes;
    cow_set_clusters(cow, size);
    image->format->size = size;
    image->cluster_bytes = cluster_bytes;
    image->backing = backing;
    return image;
}

#endif
