/* SPDX-License-Identifier: MIT */
/* A new add-cow image, and how large one would be.  add-cow §7. */
#include <inttypes.h>
#include <string.h>

#include "format/addcow/addcow_priv.h"

int vd_addcow_size_of(uint64_t wanted, uint32_t cluster_bits, uint64_t *size,
                      struct vdisk_error *err)
{
    uint64_t limit = vd_addcow_size_max(cluster_bits);
    *size = 0;
    if (wanted > limit)
        return vd_err_set(err, EINVAL,
                          "size of %" PRIu64
                          " bytes: the limit of add-cow with clusters of %" PRIu64
                          " bytes is %" PRIu64,
                          wanted, UINT64_C(1) << cluster_bits, limit);
    *size = vd_round_up(wanted, VD_ADDCOW_SIZE_UNIT);
    return 0;
}

/* Room for both names is behind the header, before the bitmap. */
static int check_names(const struct vdisk_create_options *options, struct vdisk_error *err)
{
    size_t data = options->data_file ? strlen(options->data_file) : 0;
    size_t backing = options->backing ? strlen(options->backing) : 0;
    if ((options->data_file && !data) || (options->backing && !backing))
        return vd_err_set(err, EINVAL, "the name of the %s file is empty",
                          data ? "backing" : "raw");
    if (data >= VD_ADDCOW_NAME_BYTES_MAX || backing >= VD_ADDCOW_NAME_BYTES_MAX ||
        data + backing > VD_ADDCOW_NAME_BYTES_MAX)
        return vd_err_set(err, ENAMETOOLONG,
                          "the names of the raw file (%zu bytes) and of the backing file (%zu "
                          "bytes) have to fit into %zu bytes of the header: use shorter names, "
                          "relative ones for example",
                          data, backing, VD_ADDCOW_NAME_BYTES_MAX);
    if (data && backing && strcmp(options->data_file, options->backing) == 0)
        return vd_err_set(err, EINVAL, "'%s' can not be the raw file and the backing file",
                          options->data_file);
    return 0;
}

/* What can be told before any file is there. */
static int check_options(const struct vdisk_create_options *options, uint64_t *size,
                         struct vdisk_error *err)
{
    if (options->preallocation != VDISK_PREALLOCATION_OFF)
        return vd_err_set(err, EINVAL, "preallocation: make the raw file with it first");
    if (options->cluster_bytes && options->cluster_bytes != VD_ADDCOW_CLUSTER_BYTES)
        return vd_err_set(err, EINVAL, "cluster size of %" PRIu32 " bytes: add-cow has %u only",
                          options->cluster_bytes, VD_ADDCOW_CLUSTER_BYTES);
    if (options->table_clusters)
        return vd_err_set(err, EINVAL, "table size: add-cow has no tables");
    int ret = check_names(options, err);
    return ret < 0 ? ret : vd_addcow_size_of(options->size, VD_ADDCOW_CLUSTER_BITS, size, err);
}

int vd_addcow_measure(const struct vd_format_driver *driver,
                      const struct vdisk_create_options *options, uint64_t data_bytes,
                      struct vdisk_measure_result *result, struct vdisk_error *err)
{
    (void)driver;
    (void)data_bytes; /* lie in the raw file */
    uint64_t size;
    int ret = check_options(options, &size, err);
    if (ret < 0)
        return ret;
    uint64_t bytes = VD_ADDCOW_HEADER_BYTES +
                     vd_addcow_bitmap_bytes(vd_addcow_clusters(size, VD_ADDCOW_CLUSTER_BITS));
    *result =
        (struct vdisk_measure_result){.required_bytes = bytes, .fully_allocated_bytes = bytes};
    return 0;
}

/* Does the raw file, of @data_bytes, hold anything that would be hidden? */
static int check_is_hole(struct vd_storage *data, uint64_t data_bytes, struct vdisk_error *err)
{
    struct vd_storage_extent extent = {.kind = VD_STORAGE_DATA};
    if (data_bytes == 0)
        return 0;
    if (vd_storage_caps(data) & VD_STORAGE_CAN_EXTENTS) {
        int ret = vd_storage_extent(data, vd_range(0, data_bytes), &extent, err);
        if (ret < 0)
            return ret;
    }
    if (extent.kind == VD_STORAGE_HOLE && extent.length == data_bytes)
        return 0;
    return vd_err_set(err, EEXIST,
                      "%s: holds data, which a new image without a backing file would hide behind "
                      "zeros: to keep the data, use the file as it is (it needs no add-cow), or "
                      "as the backing file of an image with another raw file; to begin empty, "
                      "name a raw file that is not there yet",
                      vd_storage_name(data));
}

/* A6.  *data_bytes: of the raw file as it is; *size: of the disk, in: as it was asked for. */
static int choose_size(struct vd_storage *data, const struct vdisk_create_options *options,
                       uint64_t *data_bytes, uint64_t *size, struct vdisk_error *err)
{
    uint64_t present;
    int ret = vd_storage_size(data, data_bytes, err);
    if (ret == 0)
        ret = vd_addcow_size_of(*data_bytes, VD_ADDCOW_CLUSTER_BITS, &present, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", vd_storage_name(data));
    if (*size == 0)
        *size = present;
    if (*size == 0 && !options->backing)
        return vd_err_set(err, EINVAL, "no size was given, and the raw file '%s' holds nothing",
                          vd_storage_name(data));
    if (*size < present)
        return vd_err_set(err, EINVAL,
                          "size of %" PRIu64 " bytes: the raw file '%s' has %" PRIu64
                          " bytes already, and is made no shorter: leave the size out, or name "
                          "another raw file",
                          *size, vd_storage_name(data), *data_bytes);
    if (*size > present && !(vd_storage_caps(data) & VD_STORAGE_CAN_RESIZE))
        return vd_err_set(err, ENOSPC,
                          "size of %" PRIu64 " bytes: the raw file '%s' has %" PRIu64
                          " and can not grow",
                          *size, vd_storage_name(data), *data_bytes);
    return options->backing ? 0 : check_is_hole(data, *data_bytes, err);
}

/* Makes @file all zeros, so long as an image of @bytes. */
static int make_room(struct vd_storage *file, uint64_t bytes, struct vdisk_error *err)
{
    if (vd_storage_caps(file) & VD_STORAGE_CAN_RESIZE) {
        int ret = vd_storage_resize(file, 0, err);
        return ret < 0 ? ret : vd_storage_resize(file, bytes, err);
    }
    uint64_t capacity;
    int ret = vd_storage_size(file, &capacity, err);
    if (ret == 0 && capacity < bytes)
        ret = vd_err_set(err, ENOSPC, "%s: has %" PRIu64 " bytes, the image needs %" PRIu64,
                         vd_storage_name(file), capacity, bytes);
    if (ret == 0)
        ret = vd_storage_write_zeroes(file, vd_range(0, bytes), 0, err);
    /* Only then does it become an image. */
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

static struct vd_addcow_header header_of(const struct vdisk_create_options *options)
{
    struct vd_addcow_header header = {.version = 1};
    header.data.offset = sizeof(struct vd_addcow_disk_header);
    header.data.length = (uint32_t)strlen(options->data_file);
    if (options->backing) {
        header.features = VD_ADDCOW_FEATURE_BACKING;
        header.backing.offset = header.data.offset + header.data.length;
        header.backing.length = (uint32_t)strlen(options->backing);
        if (strcmp(options->backing_format, "raw") == 0)
            header.features |= VD_ADDCOW_FEATURE_BACKING_RAW;
    }
    return header;
}

static int write_header(struct vd_storage *file, const struct vdisk_create_options *options,
                        struct vdisk_error *err)
{
    uint8_t head[VD_ADDCOW_HEADER_BYTES] = {0};
    struct vd_addcow_header header = header_of(options);
    vd_addcow_header_encode(&header, head);
    memcpy(head + header.data.offset, options->data_file, header.data.length);
    if (options->backing)
        memcpy(head + header.backing.offset, options->backing, header.backing.length);
    return vd_storage_pwrite(file, head, sizeof(head), 0, err);
}

int vd_addcow_create(const struct vd_format_driver *driver, struct vd_storage *file,
                     struct vd_storage *data, const struct vdisk_create_options *options,
                     struct vdisk_error *err)
{
    uint64_t size;
    uint64_t data_bytes;
    struct vdisk_measure_result measure;
    struct vdisk_create_options final = *options;
    int ret = check_options(options, &size, err);
    if (ret == 0)
        ret = choose_size(data, options, &data_bytes, &size, err);
    final.size = size;
    if (ret == 0)
        ret = vd_addcow_measure(driver, &final, 0, &measure, err);
    if (ret == 0)
        ret = make_room(file, measure.required_bytes, err);
    if (ret == 0)
        ret = write_header(file, options, err);
    /* The last thing: if anything failed, the raw file is as it was. */
    if (ret == 0 && size > vd_round_up(data_bytes, VD_ADDCOW_SIZE_UNIT))
        ret = vd_storage_resize(data, size, err);
    return ret;
}
