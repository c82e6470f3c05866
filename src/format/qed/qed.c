/* SPDX-License-Identifier: MIT */
/* The format qed: open, close, info, and the table of the driver. */
#include "format/qed/qed.h"

#include <inttypes.h>
#include <stdlib.h>

#include "format/qed/qed_file.h"
#include "format/qed/qed_priv.h"

static bool qed_probe(const struct vd_format_driver *driver, const uint8_t *head, size_t head_bytes)
{
    (void)driver;
    return vd_qed_header_is_here(head, head_bytes);
}

/* Will there be changes of what the image maps?  (Not by check, which starts from anything.) */
static bool is_for_writing(const struct vd_format *format)
{
    return vd_format_is_writable(format) && !(format->flags & VD_FORMAT_CHECK);
}

/* What has to be in order before the first change. */
static int make_ready(struct vd_format *format, struct vd_qed_header *header,
                      struct vdisk_error *err)
{
    if (header->variant != VD_QED_FINAL)
        return vd_err_set(err, EROFS,
                          "header: of form %s, which can only be read: run vdisk amend to bring it "
                          "to the final form",
                          vd_qed_variant_name(header->variant));
    int ret = 0;
    /* A writer died, and was one that leaves tables wrong then.  qed §6.3 */
    if (header->features & VD_QED_FEATURE_NEED_CHECK)
        ret = vd_qed_recover(format->file, header, err);
    if (ret < 0 || header->autoclear_features == 0)
        return ret;
    /* Whatever it is that they promise, it does not hold after a change. */
    header->autoclear_features = 0;
    ret = vd_qed_header_write(format->file, header, err);
    return ret < 0 ? ret : vd_storage_flush(format->file, err);
}

static void qed_free(struct vd_qed *qed)
{
    vd_table_cache_destroy(&qed->tables);
    vd_qed_names_free(&qed->names);
    free(qed->free.runs);
    vd_mutex_destroy(&qed->alloc_lock);
    vd_mutex_destroy(&qed->flush_lock);
    free(qed);
}

/* Fills in what a valid header says. */
static int take_header(struct vd_qed *qed, const struct vd_qed_header *header,
                       const struct vd_format_options *options, struct vdisk_error *err)
{
    qed->header = *header;
    qed->geometry = vd_qed_header_geometry(header);
    qed->l1 = vd_range(header->l1_offset, qed->geometry.table_bytes);
    qed->boundary = UINT64_MAX;
    qed->can_resize = (vd_storage_caps(qed->file) & VD_STORAGE_CAN_RESIZE) != 0;
    int ret = vd_storage_size(qed->file, &qed->file_bytes, err);
    if (header->variant != VD_QED_FINAL && !vd_is_aligned(qed->file_bytes, header->cluster_bytes)) {
        qed->short_end = qed->file_bytes;
        qed->file_bytes = vd_round_up(qed->file_bytes, header->cluster_bytes);
    }
    if (ret == 0)
        ret = vd_qed_names_read(qed->file, header, &qed->names, err);
    if (ret == 0)
        ret = vd_table_cache_init(&qed->tables, qed->file, vd_range(0, VD_QED_SIZE_MAX),
                                  options->cache_bytes, err);
    if (ret == 0)
        vd_table_cache_share(&qed->tables, options->budget);
    return ret;
}

static int qed_open(struct vd_format *format, const struct vd_format_options *options,
                    struct vdisk_error *err)
{
    struct vd_qed_header header;
    int ret = vd_qed_header_read(format->file, VD_QED_LOOK, &header, err);
    if (ret == 0 && is_for_writing(format))
        ret = make_ready(format, &header, err);
    if (ret < 0)
        return ret;

    struct vd_qed *qed = calloc(1, sizeof(*qed));
    if (!qed)
        return vd_err_nomem(err, "a QED image");
    qed->format = format;
    qed->file = format->file;
    vd_mutex_init(&qed->flush_lock);
    vd_mutex_init(&qed->alloc_lock);
    ret = take_header(qed, &header, options, err);
    if (ret < 0) {
        qed_free(qed);
        return ret;
    }
    format->state = qed;
    format->size = header.size;
    return 0;
}

static int qed_close(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_qed *qed = format->state;
    int ret = 0;
    if (is_for_writing(format) && !atomic_load(&format->has_failed))
        ret = vd_qed_finish(qed, err);
    qed_free(qed);
    return ret;
}

static int qed_info(struct vd_format *format, struct vd_format_info *info, struct vdisk_error *err)
{
    (void)err;
    const struct vd_qed *qed = format->state;
    if (qed->header.features & VD_QED_FEATURE_NEED_CHECK)
        info->flags = VDISK_INFO_DIRTY;
    info->cluster_bytes = qed->geometry.cluster_bytes;
    info->backing_name = qed->names.backing;
    info->backing_format = qed->names.format;
    if (qed->header.variant != VD_QED_FINAL)
        info->variant = vd_qed_variant_name(qed->header.variant);
    return 0;
}

static int qed_set_backing(struct vd_format *format, const struct vd_backing *backing,
                           struct vdisk_error *err)
{
    struct vd_qed *qed = format->state;
    struct vd_qed_header next = qed->header;
    struct vd_qed_names names = {0};
    /* What was taken over from the old backing file comes first. */
    int ret = vd_qed_flush(format, err);
    if (ret == 0)
        ret = vd_qed_prepare_backing(qed->file, &next, backing, err);
    if (ret == 0)
        ret = vd_qed_names_read(qed->file, &next, &names, err);
    if (ret == 0)
        ret = vd_qed_replace_header(qed, &next, err);
    if (ret < 0) {
        vd_qed_names_free(&names);
        return ret;
    }
    vd_qed_names_free(&qed->names);
    qed->names = names;
    return 0;
}

static int qed_check(struct vd_format *format, const struct vd_check *check,
                     struct vdisk_error *err)
{
    struct vd_qed *qed = format->state;
    if (!is_for_writing(format))
        return vd_qed_check_file(qed->file, &qed->header, check, err);
    /* What is in use is looked at as it would be after a close, and not moved. */
    if (check->repair != VDISK_REPAIR_NONE)
        return vd_err_set(err, EINVAL, "%s: is mended only if it was opened for that",
                          vd_storage_name(qed->file));
    int ret = vd_qed_flush(format, err);
    return ret < 0 ? ret : vd_qed_check_file(qed->file, &qed->header, check, err);
}

const struct vd_format_driver vd_qed_driver = {
    .name = "qed",
    .cluster_bytes = 65536,
    .has_backing = true,
    .probe = qed_probe,
    .create = vd_qed_create,
    .measure = vd_qed_measure,
    .open = qed_open,
    .close = qed_close,
    .info = qed_info,
    .map = vd_qed_map,
    .map_for_write = vd_qed_map_for_write,
    .try_map = vd_qed_try_map,
    .write_done = vd_qed_write_done,
    .map_zero = vd_qed_map_zero,
    .flush = vd_qed_flush,
    .resize = vd_qed_resize,
    .set_backing = qed_set_backing,
    .empty = vd_qed_empty,
    .amend = vd_qed_amend,
    .check = qed_check,
};
