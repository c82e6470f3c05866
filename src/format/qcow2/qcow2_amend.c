/* SPDX-License-Identifier: MIT */
/*
 * Another version, refcount width or data file for a closed qcow2 image.  What the new header can
 * not say is changed first, while the old one still holds; then the header switches.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_check.h"
#include "format/qcow2/qcow2_crypt.h"
#include "format/qcow2/qcow2_plan.h"
#include "format/qcow2/qcow2_write.h"

#define VERSION_2_REFCOUNT_ORDER 4u

/* What the header shall say. */
struct wish {
    uint32_t version;
    uint32_t refcount_order;
    bool is_lazy;
    bool is_data_raw;
    const char *data_file; /* NULL: as it is */
};

static int read_wish(const struct vdisk_amend_options *options,
                     const struct vd_qcow2_header *header, struct wish *wish,
                     struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &header->fields;
    *wish = (struct wish){
        .version = fields->version,
        .refcount_order = fields->refcount_order,
        .is_lazy = (fields->compatible & VD_QCOW2_LAZY_REFCOUNTS) != 0,
        .is_data_raw = (fields->autoclear & VD_QCOW2_DATA_RAW) != 0,
        .data_file = options->data_file,
    };
    if (options->compat) {
        int ret = vd_qcow2_version_of(options->compat, &wish->version, err);
        if (ret < 0)
            return ret;
    }
    if (wish->version < fields->version)
        wish->is_lazy = false;
    if (options->flags & VDISK_AMEND_LAZY_REFCOUNTS)
        wish->is_lazy = true;
    if (options->flags & VDISK_AMEND_NO_LAZY_REFCOUNTS)
        wish->is_lazy = false;
    if (options->flags & VDISK_AMEND_NO_DATA_RAW)
        wish->is_data_raw = false;
    if (options->refcount_bits)
        return vd_qcow2_refcount_order_of(options->refcount_bits, &wish->refcount_order, err);
    return 0;
}

/* What version 2 has not; said before anything is changed. */
static int check_version_2(const struct vd_qcow2_header *header, const struct wish *wish,
                           struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &header->fields;
    const char *what = NULL;
    if (wish->version >= 3)
        return 0;
    if (wish->is_lazy)
        what = "lazy refcounts: say lazy_refcounts=off";
    else if (wish->refcount_order != VERSION_2_REFCOUNT_ORDER)
        what = "refcounts of another width than 16 bits: say refcount_bits=16 too";
    else if (fields->incompatible & VD_QCOW2_DATA_FILE)
        what = "a data file: convert the image";
    else if (fields->incompatible & VD_QCOW2_COMPRESSION)
        what = "a compression type other than zlib: convert the image";
    else if (fields->incompatible & VD_QCOW2_EXTENDED_L2)
        what = "extended L2 entries: convert the image";
    else if (fields->version < 3)
        return 0;
    else if (header->bitmaps.is_present)
        what = "dirty bitmaps, which would be lost: remove them first";
    else if (fields->snapshot_entries)
        what = "snapshots, whose zero clusters version 2 can not have: delete them first";
    for (size_t i = 0; i < header->rest_bytes && !what; i++)
        if (header->rest[i])
            what = "fields in its header that are not known";
    return what ? vd_err_set(err, EINVAL, "compat=0.10: the image has %s", what) : 0;
}

static int check_wish(const struct vd_qcow2_header *header, const struct wish *wish,
                      struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &header->fields;
    if (fields->incompatible & VD_QCOW2_CORRUPT)
        return vd_err_set(err, EROFS,
                          "the image is marked as corrupt, and can only be read: run vdisk check "
                          "-r all");
    if (wish->data_file && !(fields->incompatible & VD_QCOW2_DATA_FILE))
        return vd_err_set(err, EINVAL,
                          "data_file: the image keeps its data itself: convert it to have a data "
                          "file");
    if (wish->data_file && !*wish->data_file)
        return vd_err_set(err, EINVAL, "data_file: the name is empty");
    return check_version_2(header, wish, err);
}

/* ---- What comes before the header ---- */

static int open_with(const struct vd_format_driver *driver, struct vd_storage *file, uint32_t flags,
                     struct vd_format **format, struct vdisk_error *err)
{
    struct vd_format_options options = {.flags = VD_FORMAT_WRITE | flags};
    return vd_format_open(driver, file, &options, format, err);
}

static int close_with(struct vd_format *format, int ret, struct vdisk_error *err)
{
    int closed = vd_format_close(format, err);
    return ret < 0 ? ret : closed;
}

/* Refcounts that are right, of @order. */
static int change_refcounts(const struct vd_format_driver *driver, struct vd_storage *file,
                            uint32_t order, struct vdisk_error *err)
{
    struct vd_format *format;
    /* Its data file, if it has one, is not needed. */
    int ret = open_with(driver, file, VD_FORMAT_CHECK | VD_FORMAT_FACTS, &format, err);
    if (ret < 0)
        return ret;
    struct vd_qcow2 *qcow2 = format->state;
    if (qcow2->header.fields.incompatible & VD_QCOW2_DIRTY)
        ret = vd_qcow2_recover(qcow2, err);
    if (ret == 0 && order != qcow2->header.fields.refcount_order)
        ret = vd_qcow2_change_refcounts(qcow2, order, err);
    return close_with(format, ret, err);
}

/* The start of @guest, zero clusters, gets zeros that are written. */
static int write_zeros(struct vd_format *format, struct vd_range guest, uint64_t *done,
                       struct vdisk_error *err)
{
    struct vd_mapping mapping;
    int ret = vd_format_map_for_write(format, guest, true, &mapping, err);
    if (ret < 0)
        return ret;
    if (mapping.cipher) {
        ret = vd_err_set(err, ENOTSUP, "zero clusters of an encrypted image: convert it");
    } else {
        struct vd_range range = vd_range(mapping.host_offset, mapping.guest.length);
        if (mapping.fresh)
            range = vd_range(mapping.host_offset - (mapping.guest.offset - mapping.clusters.offset),
                             mapping.clusters.length);
        ret = vd_storage_write_zeroes(mapping.storage, range, 0, err);
    }
    if (mapping.fresh)
        vd_format_write_done(format, &mapping, ret == 0);
    *done = mapping.guest.length;
    return ret;
}

/* No entry is one of a zero cluster any more. */
static int expand_zeros(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    int ret = vd_qcow2_begin(qcow2, err);
    for (uint64_t at = 0, done; at < format->size && ret == 0; at += done) {
        struct vd_range guest = vd_range(at, format->size - at);
        struct vd_qcow2_run run;
        vd_mutex_lock(&qcow2->tables.lock);
        ret = vd_qcow2_find_run_locked(qcow2, guest, &run, err);
        vd_mutex_unlock(&qcow2->tables.lock);
        if (ret < 0)
            break;
        guest.length = vd_min(vd_range_end(run.guest), format->size) - at;
        done = guest.length;
        if (run.kind != VD_QCOW2_RUN_ZERO && run.kind != VD_QCOW2_RUN_ZERO_AT)
            continue;
        ret = qcow2->header.backing_name ? write_zeros(format, guest, &done, err)
                                         : vd_qcow2_forget_run(qcow2, guest, &done, err);
    }
    return ret < 0 ? ret : vd_format_flush(format, err);
}

static int prepare_version_2(const struct vd_format_driver *driver, struct vd_storage *file,
                             struct vdisk_error *err)
{
    struct vd_format *format;
    int ret = open_with(driver, file, 0, &format, err);
    return ret < 0 ? ret : close_with(format, expand_zeros(format, err), err);
}

/* ---- The header ---- */

static int take_wish(const struct wish *wish, struct vd_qcow2_header *header,
                     struct vdisk_error *err)
{
    struct vd_qcow2_fields *fields = &header->fields;
    uint32_t version = fields->version;
    fields->version = wish->version;
    fields->autoclear &= VD_QCOW2_AUTOCLEAR_KNOWN;
    fields->compatible &= ~(uint64_t)VD_QCOW2_LAZY_REFCOUNTS;
    if (wish->is_lazy)
        fields->compatible |= VD_QCOW2_LAZY_REFCOUNTS;
    if (!wish->is_data_raw)
        fields->autoclear &= ~(uint64_t)VD_QCOW2_DATA_RAW;
    if (wish->version < 3) {
        fields->incompatible = 0;
        fields->compatible = 0;
        fields->autoclear = 0;
        free(header->rest);
        header->rest = NULL;
        header->rest_bytes = 0;
    }
    if (wish->data_file) {
        free(header->data_file);
        header->data_file = strdup(wish->data_file);
        if (!header->data_file)
            return vd_err_nomem(err, "the name of a data file");
    }
    bool has_names = false;
    for (size_t i = 0; i < header->other_entries; i++)
        has_names = has_names || header->others[i].type == VD_QCOW2_EXT_FEATURE_NAMES;
    return version < wish->version && !has_names ? vd_qcow2_name_features(header, err) : 0;
}

static int write_header(struct vd_storage *file, const struct wish *wish, struct vdisk_error *err)
{
    struct vd_qcow2_header header = {0};
    int ret = vd_qcow2_header_read(file, 0, &header, err);
    if (ret == 0)
        ret = take_wish(wish, &header, err);
    if (ret == 0)
        ret = vd_qcow2_header_write(file, &header, err);
    vd_qcow2_header_free(&header);
    return ret;
}

static int amend(const struct vd_format_driver *driver, struct vd_storage *file,
                 const struct vd_qcow2_header *header, const struct vdisk_amend_options *options,
                 struct vdisk_error *err)
{
    struct wish wish;
    const struct vd_qcow2_fields *fields = &header->fields;
    int ret = read_wish(options, header, &wish, err);
    if (ret == 0)
        ret = check_wish(header, &wish, err);
    bool is_down = wish.version < fields->version;
    /* The wish for a version 3 that has other refcounts comes before them. */
    if (ret == 0 && !is_down)
        ret = write_header(file, &wish, err);
    if (ret == 0 &&
        (wish.refcount_order != fields->refcount_order || (fields->incompatible & VD_QCOW2_DIRTY)))
        ret = change_refcounts(driver, file, wish.refcount_order, err);
    if (ret == 0 && is_down)
        ret = prepare_version_2(driver, file, err);
    if (ret == 0 && is_down)
        ret = write_header(file, &wish, err);
    return ret;
}

int vd_qcow2_amend(const struct vd_format_driver *driver, struct vd_storage *file,
                   const struct vdisk_amend_options *options, struct vdisk_error *err)
{
    struct vd_qcow2_header header = {0};
    int ret = vd_qcow2_header_read(file, 0, &header, err);
    if (ret == 0)
        ret = options->key_slot ? vd_qcow2_crypt_amend(file, &header, options, err)
                                : amend(driver, file, &header, options, err);
    vd_qcow2_header_free(&header);
    return ret;
}
