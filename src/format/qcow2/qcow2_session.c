/* SPDX-License-Identifier: MIT */
/* Sessions of changes, and the bits of the header that tell of them. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_refs.h"

int vd_qcow2_writer_open(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = calloc(1, sizeof(*writer));
    if (!writer)
        return vd_err_nomem(err, "a qcow2 image");
    int ret = vd_table_cache_init(&writer->refs, qcow2->file,
                                  vd_range(0, UINT64_C(1) << VD_QCOW2_OFFSET_BITS), 0, err);
    if (ret < 0) {
        free(writer);
        return ret;
    }
    vd_table_cache_share(&writer->refs, qcow2->tables.budget);
    vd_table_cache_pad(&writer->refs);
    vd_mutex_init(&writer->session_lock);
    vd_mutex_init(&writer->flush_lock);
    vd_mutex_init(&writer->alloc_lock);
    vd_mutex_init(&writer->header_lock);
    writer->can_resize = (vd_storage_caps(qcow2->file) & VD_STORAGE_CAN_RESIZE) != 0;
    qcow2->writer = writer;
    return 0;
}

static void free_lists(struct vd_qcow2_writer *writer)
{
    vd_qcow2_meta_free(&writer->meta);
    vd_qcow2_batches_free(writer->releases);
    vd_qcow2_batches_free(writer->ended);
    writer->releases = NULL;
    writer->ended = NULL;
    writer->reserved = 0;
    writer->new_tables.entries = 0;
    writer->has_new_blocks = false;
    writer->pack = (struct vd_qcow2_pack){0};
    writer->aside = vd_range(0, 0);
    writer->l1_aside = vd_range(0, 0);
}

void vd_qcow2_writer_free(struct vd_qcow2 *qcow2)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    if (!writer)
        return;
    free_lists(writer);
    free(writer->new_tables.offsets);
    vd_table_cache_destroy(&writer->refs);
    vd_mutex_destroy(&qcow2->writer->session_lock);
    vd_mutex_destroy(&qcow2->writer->flush_lock);
    vd_mutex_destroy(&qcow2->writer->alloc_lock);
    vd_mutex_destroy(&qcow2->writer->header_lock);
    free(writer);
    qcow2->writer = NULL;
}

void vd_qcow2_writer_forget(struct vd_qcow2 *qcow2)
{
    if (!qcow2->writer)
        return;
    free_lists(qcow2->writer);
    vd_table_cache_forget(&qcow2->writer->refs);
    atomic_store(&qcow2->writer->has_begun, false);
}

/* ---- The header ---- */

/* Only what differs: a reader looks at the others without a lock. */
static void adopt(struct vd_qcow2_fields *own, const struct vd_qcow2_fields *next)
{
    if (own->refcount_table_offset != next->refcount_table_offset)
        own->refcount_table_offset = next->refcount_table_offset;
    if (own->refcount_table_clusters != next->refcount_table_clusters)
        own->refcount_table_clusters = next->refcount_table_clusters;
    if (own->incompatible != next->incompatible)
        own->incompatible = next->incompatible;
    if (own->autoclear != next->autoclear)
        own->autoclear = next->autoclear;
    if (memcmp(own, next, sizeof(*own)) != 0)
        *own = *next; /* while no other call runs */
}

static int write_fields(struct vd_qcow2 *qcow2, const struct vd_qcow2_fields *fields,
                        struct vdisk_error *err) VD_REQUIRES(qcow2->writer->header_lock)
{
    struct vdisk_error inner = {0};
    struct vd_qcow2_fields old = qcow2->header.fields;
    adopt(&qcow2->header.fields, fields);
    int ret = vd_qcow2_header_write_fields(qcow2->file, &qcow2->header, &inner);
    if (ret == 0)
        ret = vd_storage_flush(qcow2->file, &inner);
    if (ret == 0)
        return 0;
    adopt(&qcow2->header.fields, &old);
    vd_err_prefix(&inner, ret, "header: ");
    vd_format_fail(qcow2->format, &inner);
    return vd_err_copy(err, &inner);
}

int vd_qcow2_replace_fields(struct vd_qcow2 *qcow2, const struct vd_qcow2_fields *fields,
                            struct vdisk_error *err)
{
    vd_mutex_lock(&qcow2->writer->header_lock);
    /* Nobody else changes anything but the corrupt bit meanwhile. */
    struct vd_qcow2_fields next = *fields;
    next.incompatible |= qcow2->header.fields.incompatible & VD_QCOW2_CORRUPT;
    int ret = write_fields(qcow2, &next, err);
    vd_mutex_unlock(&qcow2->writer->header_lock);
    return ret;
}

int vd_qcow2_set_dirty(struct vd_qcow2 *qcow2, bool is_dirty, struct vdisk_error *err)
{
    struct vd_qcow2_fields fields = qcow2->header.fields;
    if (fields.version < 3)
        return 0;
    fields.incompatible &= ~(uint64_t)VD_QCOW2_DIRTY;
    if (is_dirty)
        fields.incompatible |= VD_QCOW2_DIRTY;
    if (fields.incompatible == qcow2->header.fields.incompatible)
        return 0;
    return vd_qcow2_replace_fields(qcow2, &fields, err);
}

int vd_qcow2_corrupt(struct vd_qcow2 *qcow2, struct vdisk_error *err, const char *fmt, ...)
{
    struct vdisk_error inner = {0};
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    vd_err_set(&inner, EBADMSG, "%s: %s: nothing more is written: run vdisk check",
               vd_storage_name(qcow2->file), what);
    if (qcow2->header.fields.version >= 3) {
        vd_mutex_lock(&qcow2->writer->header_lock);
        struct vd_qcow2_fields fields = qcow2->header.fields;
        fields.incompatible |= VD_QCOW2_CORRUPT;
        if (fields.incompatible != qcow2->header.fields.incompatible)
            (void)write_fields(qcow2, &fields, NULL);
        vd_mutex_unlock(&qcow2->writer->header_lock);
    }
    vd_format_fail(qcow2->format, &inner);
    return vd_err_copy(err, &inner);
}

/* ---- Begin and end ---- */

/* W9 */
static int begin_alone(struct vd_qcow2 *qcow2, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->session_lock)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    struct vd_qcow2_fields fields = qcow2->header.fields;
    int ret = vd_storage_size(qcow2->file, &writer->file_bytes, err);
    if (ret == 0)
        ret = vd_qcow2_meta_build(qcow2, err);
    if (ret < 0)
        return ret;
    writer->end = vd_qcow2_clusters(&qcow2->geometry, writer->file_bytes);
    if (!writer->can_resize)
        writer->end = writer->file_bytes >> qcow2->geometry.cluster_bits;
    writer->kept_end = writer->end;
    writer->hint = 1;
    fields.autoclear &= VD_QCOW2_AUTOCLEAR_KNOWN;
    if (!qcow2->header.bitmaps.is_present) /* else they are kept up to date: qcow2_bitmap.h */
        fields.autoclear &= ~(uint64_t)VD_QCOW2_BITMAPS;
    if (fields.version >= 3 && fields.autoclear != qcow2->header.fields.autoclear)
        ret = vd_qcow2_replace_fields(qcow2, &fields, err);
    return ret;
}

int vd_qcow2_begin(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    int ret = 0;
    if (!writer)
        return vd_err_set(err, EINVAL, "%s: was opened to be checked, not to be written",
                          vd_storage_name(qcow2->file));
    if (atomic_load(&writer->has_begun))
        return 0;
    vd_mutex_lock(&qcow2->writer->session_lock);
    if (!atomic_load(&writer->has_begun)) {
        ret = begin_alone(qcow2, err);
        atomic_store(&writer->has_begun, ret == 0);
    }
    vd_mutex_unlock(&qcow2->writer->session_lock);
    return ret;
}

/* Are references left that did not take effect yet? */
static bool has_releases(struct vd_qcow2 *qcow2)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    bool answer = writer->ended != NULL;
    vd_mutex_lock(&qcow2->writer->refs.lock);
    answer = answer || writer->refs.changed_pages > 0;
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    return answer;
}

int vd_qcow2_finish(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    if (!atomic_load(&writer->has_begun))
        return vd_qcow2_flush(qcow2->format, err);
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    vd_qcow2_pack_close_alone(qcow2);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    /* With no request left, each flush ends what the one before made durable. */
    int ret = vd_qcow2_flush(qcow2->format, err);
    while (ret == 0 && has_releases(qcow2))
        ret = vd_qcow2_flush(qcow2->format, err);
    return ret < 0 ? ret : vd_qcow2_trim(qcow2, err);
}
