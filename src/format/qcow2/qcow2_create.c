/* SPDX-License-Identifier: MIT */
/* A new qcow2 image. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_crypt.h"
#include "format/qcow2/qcow2_plan.h"
#include "format/qcow2/qcow2_priv.h"
#include "util/mem.h"

#define BUFFER_BYTES (UINT64_C(1) << 20)

/* Where the parts are. */
struct places {
    struct vd_range refcount_table;
    struct vd_range refcount_blocks;
    struct vd_range l1;
    struct vd_range crypto;
    struct vd_range l2;
    struct vd_range data;
    uint64_t end; /* of the file */
};

static struct vd_range place(const struct vd_qcow2_geometry *geometry, uint64_t clusters,
                             uint64_t *at)
{
    struct vd_range range = vd_range(*at, clusters << geometry->cluster_bits);
    *at += range.length;
    return range;
}

static void place_all(const struct vd_qcow2_plan *plan, struct places *places)
{
    const struct vd_qcow2_geometry *geometry = &plan->geometry;
    uint64_t at = geometry->cluster_bytes;
    places->refcount_table = place(geometry, plan->now.refcount_table, &at);
    places->refcount_blocks = place(geometry, plan->now.refcount_blocks, &at);
    places->l1 = place(geometry, plan->now.l1, &at);
    places->crypto = place(geometry, plan->now.crypto, &at);
    places->l2 = place(geometry, plan->now.l2, &at);
    places->data = place(geometry, plan->now.data, &at);
    places->end = at;
}

/* What is written in one piece after another. */
struct stream {
    struct vd_storage *file;
    uint8_t *bytes; /* of BUFFER_BYTES, which is whole clusters, or one cluster */
    size_t used;
    uint64_t offset; /* of the first byte in the buffer */
};

static int stream_flush(struct stream *stream, struct vdisk_error *err)
{
    int ret = 0;
    if (stream->used)
        ret = vd_storage_pwrite(stream->file, stream->bytes, stream->used, stream->offset, err);
    stream->offset += stream->used;
    stream->used = 0;
    return ret;
}

static int stream_put(struct stream *stream, const void *bytes, size_t length,
                      struct vdisk_error *err)
{
    int ret = stream->used + length > BUFFER_BYTES ? stream_flush(stream, err) : 0;
    memcpy(stream->bytes + stream->used, bytes, length);
    stream->used += length;
    return ret;
}

static int write_refcount_table(struct stream *stream, const struct places *places,
                                uint32_t cluster_bytes, struct vdisk_error *err)
{
    int ret = 0;
    stream->offset = places->refcount_table.offset;
    for (uint64_t at = 0; at < places->refcount_blocks.length && ret == 0; at += cluster_bytes) {
        struct be64 entry = be64_of(places->refcount_blocks.offset + at);
        ret = stream_put(stream, &entry, sizeof(entry), err);
    }
    return ret < 0 ? ret : stream_flush(stream, err);
}

/* All of the file is used once: refcounts of 1 for @clusters. */
static int write_refcounts(struct stream *stream, const struct vd_qcow2_geometry *geometry,
                           uint64_t offset, uint64_t clusters, struct vdisk_error *err)
{
    uint32_t bits = UINT32_C(1) << geometry->refcount_order;
    uint64_t step = bits >= 8 ? 1 : 8 / bits; /* refcounts in a unit */
    size_t unit_bytes = bits >= 8 ? bits / 8 : 1;
    uint8_t unit[8] = {0};
    int ret = 0;
    for (uint64_t i = 0; i < step; i++)
        unit[unit_bytes - 1] |= (uint8_t)(1u << (i * bits));
    stream->offset = offset;
    for (; clusters >= step && ret == 0; clusters -= step)
        ret = stream_put(stream, unit, unit_bytes, err);
    if (ret == 0 && clusters) {
        unit[0] &= (uint8_t)((1u << (clusters * bits)) - 1);
        ret = stream_put(stream, unit, unit_bytes, err);
    }
    return ret < 0 ? ret : stream_flush(stream, err);
}

static int write_l1(struct stream *stream, const struct places *places, uint32_t cluster_bytes,
                    struct vdisk_error *err)
{
    int ret = 0;
    stream->offset = places->l1.offset;
    for (uint64_t at = 0; at < places->l2.length && ret == 0; at += cluster_bytes) {
        struct be64 entry = be64_of((places->l2.offset + at) | VD_QCOW2_ENTRY_COPIED);
        ret = stream_put(stream, &entry, sizeof(entry), err);
    }
    return ret < 0 ? ret : stream_flush(stream, err);
}

/*
 * Entries with a place.  Without subclusters they are data, which reads as zero, or marked as zero
 * where it would be decrypted to anything; with them, only the place is there, and what is behind
 * shows.
 */
static int write_l2(struct stream *stream, const struct vd_qcow2_plan *plan,
                    const struct places *places, struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &plan->geometry;
    const struct vd_qcow2_entry_rules rules = {.geometry = geometry,
                                               .has_zero = plan->header.fields.version >= 3,
                                               .has_data_file = plan->has_data_file};
    uint64_t base = plan->has_data_file ? 0 : places->data.offset;
    bool is_whole = geometry->subclusters == 1;
    bool is_data = is_whole && !plan->is_encrypted;
    int ret = 0;
    if (places->l2.length == 0)
        return 0;
    stream->offset = places->l2.offset;
    for (uint64_t at = 0; at < plan->header.fields.size && ret == 0;
         at += geometry->cluster_bytes) {
        struct vd_qcow2_entry entry = {.has_host = true,
                                       .is_copied = true,
                                       .host = base + at,
                                       .data = is_data,
                                       .zero = is_whole && !is_data};
        struct be64 words[2];
        vd_qcow2_entry_encode(&rules, &entry, words);
        ret = stream_put(stream, words, geometry->entry_bytes, err);
    }
    return ret < 0 ? ret : stream_flush(stream, err);
}

/* What the file held is gone; all of it reads as zero, up to the end of what it is to have. */
static int make_room(struct vd_storage *file, const struct places *places, struct vdisk_error *err)
{
    uint64_t size;
    if (vd_storage_caps(file) & VD_STORAGE_CAN_RESIZE) {
        int ret = vd_storage_resize(file, 0, err);
        return ret < 0 ? ret : vd_storage_resize(file, places->end, err);
    }
    int ret = vd_storage_size(file, &size, err);
    if (ret == 0 && size < places->end)
        ret = vd_err_set(err, ENOSPC, "%s: has %" PRIu64 " bytes, the image needs %" PRIu64,
                         vd_storage_name(file), size, places->end);
    if (ret == 0)
        ret =
            vd_storage_write_zeroes(file, vd_range(0, places->end), VD_STORAGE_ZERO_MAY_PUNCH, err);
    /* From now on no program takes what is there for an image. */
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

static int write_tables(struct vd_storage *file, const struct vd_qcow2_plan *plan,
                        const struct places *places, struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &plan->geometry;
    struct stream stream = {.file = file, .bytes = vd_alloc_io(BUFFER_BYTES)};
    if (!stream.bytes)
        return vd_err_nomem(err, "the tables of a new image");
    int ret = write_refcount_table(&stream, places, geometry->cluster_bytes, err);
    if (ret == 0)
        ret = write_refcounts(&stream, geometry, places->refcount_blocks.offset, plan->now.total,
                              err);
    if (ret == 0)
        ret = write_l1(&stream, places, geometry->cluster_bytes, err);
    if (ret == 0)
        ret = write_l2(&stream, plan, places, err);
    free(stream.bytes);
    return ret;
}

/* Space for the data that preallocation sets aside. */
static int set_aside(struct vd_storage *storage, struct vd_range range,
                     const struct vd_qcow2_plan *plan, struct vdisk_error *err)
{
    if (range.length == 0)
        return 0;
    if (plan->preallocation == VDISK_PREALLOCATION_FALLOC)
        return vd_storage_preallocate(storage, range, err);
    if (plan->preallocation == VDISK_PREALLOCATION_FULL)
        return vd_storage_write_zeroes(storage, range, VD_STORAGE_ZERO_AS_DATA, err);
    return 0;
}

/*
 * The data file is as long as the disk.  What it holds stays: hidden, or with preallocation shown
 * as what the disk has.
 */
static int make_data(struct vd_storage *data, const struct vd_qcow2_plan *plan,
                     struct vdisk_error *err)
{
    uint64_t size = plan->header.fields.size;
    uint64_t bytes;
    int ret = vd_storage_size(data, &bytes, err);
    if (ret < 0)
        return ret;
    if ((plan->header.fields.autoclear & VD_QCOW2_DATA_RAW) && bytes > size &&
        (vd_storage_caps(data) & VD_STORAGE_CAN_RESIZE))
        return vd_err_set(err, EINVAL,
                          "%s: has %" PRIu64 " bytes, and the disk %" PRIu64
                          ": a raw data file is as long as its disk",
                          vd_storage_name(data), bytes, size);
    if (bytes == 0) {
        ret = size ? vd_storage_resize(data, size, err) : 0;
        return ret < 0 ? ret : set_aside(data, vd_range(0, size), plan, err);
    }
    if (bytes < size)
        ret = vd_storage_resize(data, size, err);
    if (ret == 0 && size && plan->preallocation != VDISK_PREALLOCATION_OFF &&
        plan->preallocation != VDISK_PREALLOCATION_METADATA)
        ret = vd_storage_preallocate(data, vd_range(0, size), err);
    return ret;
}

static int write_header(struct vd_storage *file, struct vd_qcow2_header *header,
                        const struct vd_qcow2_geometry *geometry, struct vdisk_error *err)
{
    CLEANUP_FREE uint8_t *bytes = vd_alloc_array(geometry->cluster_bytes, 1);
    if (!bytes)
        return vd_err_nomem(err, "the header of a qcow2 image");
    int ret = vd_qcow2_header_format(header, bytes, err);
    return ret < 0 ? ret : vd_storage_pwrite(file, bytes, geometry->cluster_bytes, 0, err);
}

/* The header fits: seen before anything is changed. */
static int try_header(struct vd_qcow2_header *header, const struct vd_qcow2_geometry *geometry,
                      struct vdisk_error *err)
{
    CLEANUP_FREE uint8_t *bytes = vd_alloc_array(geometry->cluster_bytes, 1);
    if (!bytes)
        return vd_err_nomem(err, "the header of a qcow2 image");
    return vd_qcow2_header_format(header, bytes, err);
}

/* What a new image is encrypted with. */
struct encryption {
    const struct vdisk_encrypt_options *options; /* NULL: not at all */
    struct vd_luks_options luks;
    uint64_t header_bytes;
};

static int write_encryption(struct vd_storage *file, const struct encryption *encryption,
                            const struct places *places, struct vdisk_error *err)
{
    const struct vdisk_encrypt_options *options = encryption->options;
    const struct vd_luks_area area = {file,
                                      vd_range(places->crypto.offset, encryption->header_bytes)};
    if (!options)
        return 0;
    return vd_luks_create(
        &area, &encryption->luks,
        (struct vd_crypt_bytes){options->passphrase.bytes, options->passphrase.length}, err);
}

static int create(struct vd_storage *file, struct vd_storage *data,
                  const struct encryption *encryption, struct vd_qcow2_plan *plan,
                  struct vdisk_error *err)
{
    struct vd_qcow2_fields *fields = &plan->header.fields;
    struct places places;
    place_all(plan, &places);
    fields->refcount_table_offset = places.refcount_table.offset;
    fields->refcount_table_clusters = (uint32_t)plan->now.refcount_table;
    fields->l1_offset = places.l1.length ? places.l1.offset : 0;
    if (encryption->options) {
        fields->crypt_method = VD_QCOW2_CRYPT_LUKS;
        plan->header.crypto = (struct vd_qcow2_crypto_extension){
            .is_present = true,
            .offset = places.crypto.offset,
            .length = encryption->header_bytes,
        };
    }
    int ret = try_header(&plan->header, &plan->geometry, err);
    if (ret == 0 && data)
        ret = make_data(data, plan, err);
    if (ret == 0)
        ret = make_room(file, &places, err);
    if (ret == 0)
        ret = write_tables(file, plan, &places, err);
    if (ret == 0)
        ret = write_encryption(file, encryption, &places, err);
    if (ret == 0)
        ret = set_aside(file, places.data, plan, err);
    /* Only now does it become an image. */
    if (ret == 0)
        ret = vd_storage_flush(file, err);
    return ret < 0 ? ret : write_header(file, &plan->header, &plan->geometry, err);
}

int vd_qcow2_create(const struct vd_format_driver *driver, struct vd_storage *file,
                    struct vd_storage *data, const struct vdisk_create_options *options,
                    struct vdisk_error *err)
{
    (void)driver;
    struct vd_qcow2_plan plan;
    struct vdisk_create_options sized = *options;
    struct encryption encryption = {.options = options->encrypt};
    int ret = vd_qcow2_crypt_plan(options, &encryption.luks, &encryption.header_bytes, err);
    if (ret == 0 && data && options->size == 0) /* a data file that is there already tells */
        ret = vd_storage_size(data, &sized.size, err);
    if (ret < 0)
        return ret;
    ret = vd_qcow2_plan(&sized, encryption.header_bytes, &plan, err);
    if (ret == 0)
        ret = create(file, data, &encryption, &plan, err);
    vd_qcow2_plan_free(&plan);
    return ret;
}
