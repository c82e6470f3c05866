/* SPDX-License-Identifier: MIT */
/* Another header for an open qcow2 image, as for another backing file. */
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_write.h"

int vd_qcow2_replace_header(struct vd_qcow2 *qcow2, struct vd_qcow2_header *next,
                            struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    vd_mutex_lock(&qcow2->writer->header_lock);
    next->fields.incompatible |= qcow2->header.fields.incompatible & VD_QCOW2_CORRUPT;
    int ret = vd_qcow2_header_write(qcow2->file, next, &inner);
    if (ret == 0) {
        struct vd_qcow2_header old = qcow2->header;
        qcow2->header = *next;
        *next = old;
    }
    vd_mutex_unlock(&qcow2->writer->header_lock);
    if (ret == 0)
        return 0;
    /* For lack of room nothing was changed; else what the file has is unknown. */
    vd_err_prefix(&inner, ret, "%s: ", vd_storage_name(qcow2->file));
    if (ret != -ENOSPC)
        vd_format_fail(qcow2->format, &inner);
    return vd_err_copy(err, &inner);
}

static int check_backing(const struct vd_qcow2 *qcow2, const struct vd_backing *backing,
                         struct vdisk_error *err)
{
    if (!backing)
        return 0;
    if (qcow2->header.fields.autoclear & VD_QCOW2_DATA_RAW)
        return vd_err_set(err, EINVAL,
                          "%s: its data file alone is the disk (data_file_raw): there is nothing "
                          "that a backing file could show",
                          vd_storage_name(qcow2->file));
    size_t bytes = strlen(backing->name);
    if (bytes == 0 || bytes > VD_QCOW2_NAME_BYTES_MAX)
        return vd_err_set(err, bytes ? ENAMETOOLONG : EINVAL,
                          "name of the backing file: has %zu bytes: must have 1 to %u", bytes,
                          VD_QCOW2_NAME_BYTES_MAX);
    return 0;
}

static int take_names(struct vd_qcow2_header *header, const struct vd_backing *backing,
                      struct vdisk_error *err)
{
    free(header->backing_name);
    free(header->backing_format);
    header->backing_name = backing ? strdup(backing->name) : NULL;
    header->backing_format = backing && backing->format ? strdup(backing->format) : NULL;
    if (backing && (!header->backing_name || (backing->format && !header->backing_format)))
        return vd_err_nomem(err, "the name of a backing file");
    return 0;
}

int vd_qcow2_set_backing(struct vd_format *format, const struct vd_backing *backing,
                         struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    struct vd_qcow2_header next = {0};
    int ret = check_backing(qcow2, backing, err);
    if (ret == 0)
        ret = vd_qcow2_begin(qcow2, err);
    /* What was taken over from the old backing file comes first. */
    if (ret == 0)
        ret = vd_qcow2_flush(format, err);
    if (ret == 0)
        ret = vd_qcow2_header_copy(&qcow2->header, &next, err);
    if (ret == 0)
        ret = take_names(&next, backing, err);
    if (ret == 0)
        ret = vd_qcow2_replace_header(qcow2, &next, err);
    vd_qcow2_header_free(&next);
    return ret;
}
