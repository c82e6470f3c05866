/* SPDX-License-Identifier: MIT */
/* The format qcow2: open, close, info, and the table of the driver. */
#include "format/qcow2/qcow2.h"

#include <inttypes.h>
#include <stdlib.h>

#include "format/qcow2/qcow2_bitmap.h"
#include "format/qcow2/qcow2_crypt.h"
#include "format/qcow2/qcow2_snapshot.h"
#include "format/qcow2/qcow2_write.h"

static bool qcow2_probe(const struct vd_format_driver *driver, const uint8_t *head,
                        size_t head_bytes)
{
    (void)driver;
    return vd_qcow2_header_is_here(head, head_bytes);
}

/* Everything is looked at, and what is wrong is a finding. */
static bool is_for_check(const struct vd_format *format)
{
    return (format->flags & VD_FORMAT_CHECK) != 0;
}

/* Will there be changes of what the image maps?  (Not by check, which starts from anything.) */
static bool is_for_writing(const struct vd_format *format)
{
    return vd_format_is_writable(format) && !is_for_check(format);
}

static void qcow2_free(struct vd_qcow2 *qcow2)
{
    vd_qcow2_bitmaps_free(qcow2);
    vd_qcow2_writer_free(qcow2);
    vd_table_cache_destroy(&qcow2->tables);
    vd_qcow2_crypt_close(qcow2);
    if (qcow2->data != qcow2->file)
        vd_storage_close(qcow2->data);
    vd_qcow2_snapshots_forget(qcow2);
    vd_qcow2_header_free(&qcow2->header);
    free(qcow2);
}

/* Guest data: here, or in the file that the header names. */
static int open_data(struct vd_qcow2 *qcow2, const struct vd_format_files *files,
                     struct vdisk_error *err)
{
    const struct vd_format *format = qcow2->format;
    const char *name = qcow2->header.data_file;
    qcow2->data = qcow2->file;
    if (!(qcow2->header.fields.incompatible & VD_QCOW2_DATA_FILE))
        return 0;
    qcow2->rules.has_data_file = true;
    qcow2->data = NULL;
    if (format->flags & VD_FORMAT_FACTS)
        return 0;
    if (!name)
        return vd_err_set(err, EBADMSG,
                          "header: its data is in a data file, whose name is not recorded: set it "
                          "by vdisk amend -o data_file=NAME");
    if (!files)
        return vd_err_set(err, EINVAL, "the data file '%s' has not been opened", name);
    struct vdisk_error inner = {0};
    int ret =
        files->open_data(files->opaque, name, vd_format_is_writable(format), &qcow2->data, &inner);
    if (ret == 0)
        return vd_storage_size(qcow2->data, &qcow2->data_bytes, err);
    qcow2->data = NULL;
    /* The tables can be checked without it. */
    return is_for_check(format) && ret == -ENOENT ? 0 : vd_err_copy(err, &inner);
}

/* What has to be in order before the first change of the disk. */
static int make_ready(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    if (!vd_format_is_writable(qcow2->format) || is_for_check(qcow2->format))
        return 0;
    if (qcow2->header.fields.incompatible & VD_QCOW2_CORRUPT)
        return vd_err_set(err, EROFS,
                          "the image is marked as corrupt, and can only be read: run vdisk check "
                          "-r all");
    return qcow2->header.fields.incompatible & VD_QCOW2_DIRTY ? vd_qcow2_recover(qcow2, err) : 0;
}

static int open_tables(struct vd_qcow2 *qcow2, const struct vd_format_options *options,
                       struct vdisk_error *err)
{
    int ret = vd_storage_size(qcow2->file, &qcow2->file_bytes, err);
    if (ret == 0)
        ret = vd_table_cache_init(&qcow2->tables, qcow2->file,
                                  vd_range(0, UINT64_C(1) << VD_QCOW2_OFFSET_BITS),
                                  options->cache_bytes, err);
    if (ret < 0)
        return ret;
    vd_table_cache_pad(&qcow2->tables);
    vd_table_cache_share(&qcow2->tables, options->budget);
    return 0;
}

static int open_image(struct vd_qcow2 *qcow2, const struct vd_format_options *options,
                      struct vdisk_error *err)
{
    struct vd_format *format = qcow2->format;
    const struct vd_qcow2_fields *fields = &qcow2->header.fields;
    unsigned flags = is_for_check(format) ? VD_QCOW2_HEADER_CHECK : 0;
    int ret = vd_qcow2_header_read(qcow2->file, flags, &qcow2->header, err);
    if (ret < 0)
        return ret;
    qcow2->geometry = vd_qcow2_header_geometry(&qcow2->header);
    qcow2->rules = (struct vd_qcow2_entry_rules){.geometry = &qcow2->geometry,
                                                 .has_zero = fields->version >= 3};
    qcow2->l1_offset = fields->l1_offset;
    qcow2->l1_entries = fields->l1_entries;
    format->size = fields->size;
    ret = vd_qcow2_crypt_open(qcow2, options, err);
    if (ret == 0)
        ret = open_data(qcow2, options->files, err);
    if (ret == 0)
        ret = open_tables(qcow2, options, err);
    if (ret == 0)
        ret = vd_qcow2_bitmaps_open(qcow2, err);
    if (ret == 0)
        ret = make_ready(qcow2, err);
    if (ret == 0 && is_for_writing(format))
        ret = vd_qcow2_writer_open(qcow2, err);
    return ret;
}

static int qcow2_open(struct vd_format *format, const struct vd_format_options *options,
                      struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = calloc(1, sizeof(*qcow2));
    if (!qcow2)
        return vd_err_nomem(err, "a qcow2 image");
    qcow2->format = format;
    qcow2->file = format->file;
    format->state = qcow2;
    int ret = open_image(qcow2, options, err);
    if (ret == 0 && options->snapshot)
        ret = vd_qcow2_snapshot_show(qcow2, options->snapshot, err);
    if (ret < 0)
        qcow2_free(qcow2);
    return ret;
}

static int qcow2_close(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    int ret = 0;
    if (is_for_writing(format)) {
        ret = vd_qcow2_bitmaps_store(qcow2, err);
        int finished = atomic_load(&format->has_failed) ? 0 : vd_qcow2_finish(qcow2, err);
        ret = ret < 0 ? ret : finished;
    }
    qcow2_free(qcow2);
    return ret;
}

/* The first change of a session may be under way. */
static struct vd_qcow2_fields fields_now(const struct vd_qcow2 *qcow2)
{
    if (!qcow2->writer)
        return qcow2->header.fields;
    vd_mutex_lock(&qcow2->writer->header_lock);
    struct vd_qcow2_fields fields = qcow2->header.fields;
    vd_mutex_unlock(&qcow2->writer->header_lock);
    return fields;
}

static int qcow2_info(struct vd_format *format, struct vd_format_info *info,
                      struct vdisk_error *err)
{
    (void)err;
    const struct vd_qcow2 *qcow2 = format->state;
    static const struct {
        uint64_t bit;
        uint32_t flag;
    } incompatible[] = {
        {VD_QCOW2_DIRTY, VDISK_INFO_DIRTY},
        {VD_QCOW2_CORRUPT, VDISK_INFO_CORRUPT},
        {VD_QCOW2_EXTENDED_L2, VDISK_INFO_EXTENDED_L2},
    };
    const struct vd_qcow2_fields now = fields_now(qcow2);
    const struct vd_qcow2_fields *fields = &now;
    for (size_t i = 0; i < sizeof(incompatible) / sizeof(incompatible[0]); i++)
        if (fields->incompatible & incompatible[i].bit)
            info->flags |= incompatible[i].flag;
    if (fields->compatible & VD_QCOW2_LAZY_REFCOUNTS)
        info->flags |= VDISK_INFO_LAZY_REFCOUNTS;
    if (fields->autoclear & VD_QCOW2_DATA_RAW)
        info->flags |= VDISK_INFO_DATA_RAW;
    info->cluster_bytes = qcow2->geometry.cluster_bytes;
    info->variant = fields->version >= 3 ? "1.1" : "0.10";
    info->refcount_bits = UINT32_C(1) << fields->refcount_order;
    info->codec = fields->compression_type == 0 ? VD_CODEC_DEFLATE : VD_CODEC_ZSTD;
    info->takes_encoded =
        !(fields->incompatible & VD_QCOW2_DATA_FILE) && fields->crypt_method == VD_QCOW2_CRYPT_NONE;
    info->compression = vd_codec_name(info->codec);
    info->backing_name = qcow2->header.backing_name;
    if (info->backing_name)
        info->backing_format = qcow2->header.backing_format;
    if (fields->incompatible & VD_QCOW2_DATA_FILE)
        info->data_name = qcow2->header.data_file;
    if (format->is_locked)
        info->flags |= VDISK_INFO_LOCKED;
    info->encrypt = vd_qcow2_crypt_info(qcow2);
    return 0;
}

const struct vd_format_driver vd_qcow2_driver = {
    .name = "qcow2",
    .cluster_bytes = 65536,
    .has_backing = true,
    .encrypts = true,
    .data_file = VD_DATA_FILE_MAYBE,
    .probe = qcow2_probe,
    .create = vd_qcow2_create,
    .measure = vd_qcow2_measure,
    .open = qcow2_open,
    .close = qcow2_close,
    .info = qcow2_info,
    .map = vd_qcow2_map,
    .map_for_write = vd_qcow2_map_for_write,
    .try_map = vd_qcow2_try_map,
    .map_encoded = vd_qcow2_map_encoded,
    .write_done = vd_qcow2_write_done,
    .map_zero = vd_qcow2_map_zero,
    .flush = vd_qcow2_flush,
    .resize = vd_qcow2_resize,
    .set_backing = vd_qcow2_set_backing,
    .empty = vd_qcow2_empty,
    .amend = vd_qcow2_amend,
    .compact = vd_qcow2_compact,
    .check = vd_qcow2_check,
    .snapshots = &vd_qcow2_snapshot_driver,
    .bitmaps = &vd_qcow2_bitmap_driver,
};
