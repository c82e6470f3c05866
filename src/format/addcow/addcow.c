/* SPDX-License-Identifier: MIT */
/* The format add-cow: open, close, info, and the table of the driver. */
#include "format/addcow/addcow.h"

#include <inttypes.h>
#include <stdlib.h>

#include "format/addcow/addcow_priv.h"

static bool addcow_probe(const struct vd_format_driver *driver, const uint8_t *head,
                         size_t head_bytes)
{
    (void)driver;
    return vd_addcow_header_is_here(head, head_bytes);
}

static void addcow_free(struct vd_addcow *cow)
{
    vd_addcow_free_cache(cow->bits);
    vd_storage_close(cow->data);
    free(cow->backing_name);
    free(cow->data_name);
    vd_mutex_destroy(&cow->flush_lock);
    free(cow);
}

/* Everything is looked at, and what is wrong is a finding. */
static bool is_for_check(const struct vd_format *format)
{
    return (format->flags & (VD_FORMAT_CHECK | VD_FORMAT_FACTS)) == VD_FORMAT_CHECK;
}

static int open_header(struct vd_addcow *cow, struct vdisk_error *err)
{
    const struct vd_format *format = cow->format;
    int ret = vd_addcow_header_read(cow->file, &cow->header, err);
    if (ret < 0)
        return ret;
    if (cow->header.is_later && (format->flags & VD_FORMAT_WRITE))
        return vd_err_set(err, EROFS,
                          "an add-cow image with the header of version 18 or later can only be "
                          "read: convert it to write to the copy");
    struct vdisk_error inner = {0};
    ret = vd_addcow_header_validate(&cow->header, is_for_check(format), &inner);
    if (ret == 0)
        ret = vd_addcow_header_read_names(cow->file, &cow->header, &cow->backing_name,
                                          &cow->data_name, &inner);
    if (ret == 0)
        return 0;
    if (ret != -EBADMSG || !is_for_check(format))
        return vd_err_copy(err, &inner);
    cow->broken = inner;
    return 0;
}

/* A6: raw, whatever it holds. */
static int open_data(struct vd_addcow *cow, const struct vd_format_files *files,
                     struct vdisk_error *err)
{
    const struct vd_format *format = cow->format;
    bool is_writable = (format->flags & VD_FORMAT_WRITE) != 0;
    struct vdisk_error inner = {0};
    int ret =
        files ? files->open_data(files->opaque, cow->data_name, is_writable, &cow->data, &inner)
              : vd_err_set(&inner, EINVAL, "the raw file '%s' has not been opened", cow->data_name);
    if (ret == 0)
        return 0;
    cow->data = NULL;
    if (!(format->flags & VD_FORMAT_FACTS) && !(is_for_check(format) && ret == -ENOENT))
        return vd_err_copy(err, &inner);
    cow->no_data = inner;
    return 0;
}

/* For a writer, the file has all bits that there should be. */
static int make_room(struct vd_addcow *cow, struct vdisk_error *err)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(cow->file, &file_bytes, err);
    if (ret == 0 && file_bytes < vd_addcow_bitmap_end(cow, cow->format->size))
        ret = vd_addcow_set_file_end(cow, cow->format->size, err);
    return ret;
}

/* A4.  A bitmap that is too short reads as zero bits: add-cow §4.2. */
static int open_bitmap(struct vd_addcow *cow, struct vdisk_error *err)
{
    struct vd_format *format = cow->format;
    uint64_t file_bytes;
    if (cow->data) {
        uint64_t data_bytes;
        int ret = vd_storage_size(cow->data, &data_bytes, err);
        if (ret == 0)
            ret = vd_addcow_size_of(data_bytes, cow->header.cluster_bits, &format->size, err);
        if (ret < 0)
            return vd_err_prefix(err, ret, "%s: ", vd_storage_name(cow->data));
        cow->whole_bytes = vd_round_down(data_bytes, VD_ADDCOW_SIZE_UNIT);
        if (vd_format_is_writable(format) && !is_for_check(format))
            ret = make_room(cow, err);
        if (ret < 0)
            return ret;
    }
    int ret = vd_storage_size(cow->file, &file_bytes, err);
    if (ret < 0)
        return ret;
    uint64_t end = vd_min(file_bytes, vd_addcow_bitmap_end(cow, format->size));
    cow->bitmap_bytes = end > cow->header.header_bytes ? end - cow->header.header_bytes : 0;
    return vd_addcow_new_cache(cow, cow->bitmap_bytes, &cow->bits, err);
}

static int addcow_open(struct vd_format *format, const struct vd_format_options *options,
                       struct vdisk_error *err)
{
    struct vd_addcow *cow = calloc(1, sizeof(*cow));
    if (!cow)
        return vd_err_nomem(err, "an add-cow image");
    cow->format = format;
    cow->file = format->file;
    cow->cache_bytes = options->cache_bytes;
    cow->budget = options->budget;
    vd_mutex_init(&cow->flush_lock);
    format->size = 0;
    int ret = open_header(cow, err);
    if (ret == 0 && !cow->broken.code) {
        ret = open_data(cow, options->files, err);
        if (ret == 0)
            ret = open_bitmap(cow, err);
    }
    if (ret < 0) {
        addcow_free(cow);
        return ret;
    }
    format->state = cow;
    return 0;
}

static int addcow_close(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    int ret = 0;
    if (vd_format_is_writable(format) && cow->data && !atomic_load(&format->has_failed))
        ret = vd_addcow_flush(format, err);
    addcow_free(cow);
    return ret;
}

static int addcow_info(struct vd_format *format, struct vd_format_info *info,
                       struct vdisk_error *err)
{
    (void)err;
    const struct vd_addcow *cow = format->state;
    info->variant = cow->header.is_later ? "v18" : "v10";
    info->data_name = cow->data_name;
    if (!cow->data)
        info->flags |= VDISK_INFO_NO_DATA_FILE;
    if (cow->broken.code)
        return 0;
    info->cluster_bytes = UINT32_C(1) << cow->header.cluster_bits;
    info->backing_format = vd_addcow_header_backing_format(&cow->header);
    if (vd_addcow_header_has_backing(&cow->header))
        info->backing_name = cow->backing_name;
    return 0;
}

const struct vd_format_driver vd_addcow_driver = {
    .name = "add-cow",
    .cluster_bytes = VD_ADDCOW_CLUSTER_BYTES,
    .has_backing = true,
    .data_file = VD_DATA_FILE_ALWAYS,
    .probe = addcow_probe,
    .create = vd_addcow_create,
    .measure = vd_addcow_measure,
    .open = addcow_open,
    .close = addcow_close,
    .info = addcow_info,
    .map = vd_addcow_map,
    .map_for_write = vd_addcow_map_for_write,
    .try_map = vd_addcow_try_map,
    .write_done = vd_addcow_write_done,
    .map_zero = vd_addcow_map_zero,
    .flush = vd_addcow_flush,
    .resize = vd_addcow_resize,
    .set_backing = vd_addcow_set_backing,
    .empty = vd_addcow_empty,
    .check = vd_addcow_check,
};
