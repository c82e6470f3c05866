/* SPDX-License-Identifier: MIT */
/* A qcow2 image that is written, with a log of what the driver does to its file. */
#ifndef QCOW2_WRITER_H
#define QCOW2_WRITER_H

#include "drivers/alloc.h"
#include "drivers/fault.h"
#include "drivers/trace.h"
#include "format/driver.h"

#include "qcow2-fixture.h"

/* Byte of the backing disk that tests make up, at any offset. */
#define BACKING_BYTE 0xbb

struct writer {
    struct q2_image image;
    struct vd_storage *fault; /* over the image's file */
    struct vd_storage *file;  /* over that, traced */
    struct vd_format *format; /* NULL: closed */
};

static inline void writer_create(struct writer *writer, const struct q2_shape *shape)
{
    *writer = (struct writer){0};
    q2_create(&writer->image, shape);
    VT_OK(vt_fault_open(writer->image.file, VT_BORROW, &writer->fault, &vt_err));
    VT_OK(vt_trace_open(writer->fault, VT_BORROW, NULL, &writer->file, &vt_err));
}

static inline void writer_open(struct writer *writer, uint32_t flags)
{
    struct vd_format_options options = {.flags = flags};
    const struct vd_format_driver *driver = vd_format_find("qcow2", NULL);
    assert_non_null(driver);
    VT_OK(vd_format_open(driver, writer->file, &options, &writer->format, &vt_err));
    vt_trace_reset(writer->file);
}

/* What the builder of the image knows of its file. */
static inline void writer_look(struct writer *writer)
{
    writer->image.end = vd_round_up(q2_length(writer->image.file), writer->image.cluster);
    writer->image.refcount_table = q2_get(writer->image.file, 48, 8);
    writer->image.l1 = q2_get(writer->image.file, 40, 8);
}

static inline void writer_close(struct writer *writer)
{
    VT_OK(vd_format_close(writer->format, &vt_err));
    writer->format = NULL;
    writer_look(writer);
}

/* After a failure that ends all changes. */
static inline void writer_fail(struct writer *writer, int error)
{
    VT_FAILS(error, vd_format_close(writer->format, &vt_err));
    writer->format = NULL;
    writer_look(writer);
}

static inline void print_finding(void *opaque, const char *message)
{
    (void)opaque;
    print_message("# check: %s\n", message);
}

/* The closed image has neither corruptions nor leaks. */
static inline void writer_expect_sound(struct writer *writer)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vd_check check = {.report = print_finding, .result = &result};
    writer_open(writer, VD_FORMAT_CHECK);
    VT_OK(vd_format_check(writer->format, &check, &vt_err));
    VT_OK(vd_format_close(writer->format, &vt_err));
    writer->format = NULL;
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.check_errors, 0);
}

static inline void writer_reopen(struct writer *writer)
{
    writer_close(writer);
    writer_expect_sound(writer);
    writer_open(writer, VD_FORMAT_WRITE);
}

/* Closes what is open, and looks at the result. */
static inline void writer_destroy(struct writer *writer)
{
    if (writer->format) {
        writer_close(writer);
        writer_expect_sound(writer);
    }
    vd_storage_close(writer->file);
    vd_storage_close(writer->fault);
    q2_destroy(&writer->image);
}

static inline struct vd_mapping map(struct writer *writer, uint64_t offset, uint64_t length)
{
    struct vd_mapping mapping;
    VT_OK(vd_format_map(writer->format, vd_range(offset, length), &mapping, &vt_err));
    return mapping;
}

/* What the disk reads as, but for compressed clusters, which are all of the byte they begin with.
 */
static inline void read_disk(struct writer *writer, uint64_t offset, uint64_t length,
                             uint8_t *bytes)
{
    while (length) {
        struct vd_mapping mapping = map(writer, offset, length);
        size_t step = (size_t)mapping.guest.length;
        memset(bytes, mapping.kind == VD_MAP_BACKING ? BACKING_BYTE : 0, step);
        if (mapping.kind == VD_MAP_DATA)
            VT_OK(vd_storage_pread(mapping.storage, bytes, step, mapping.host_offset, &vt_err));
        if (mapping.kind == VD_MAP_ENCODED)
            memset(bytes, (int)q2_get(writer->image.file, mapping.host_offset, 1), step);
        offset += step;
        bytes += step;
        length -= step;
    }
}

/* The edges of a fresh mapping, as the image layer fills them. */
static inline void fill_edges(struct writer *writer, const struct vd_mapping *mapping)
{
    size_t length = (size_t)mapping->clusters.length;
    uint64_t size = vd_format_size(writer->format);
    uint8_t *bytes = vt_calloc(1, length);
    if (mapping->fill == VD_FILL_BACKING)
        memset(bytes, BACKING_BYTE, length);
    if (mapping->fill == VD_FILL_OLD)
        read_disk(writer, mapping->clusters.offset, vd_min(length, size - mapping->clusters.offset),
                  bytes);
    if (mapping->fill != VD_FILL_NONE)
        VT_OK(vd_storage_pwrite(
            mapping->storage, bytes, length,
            mapping->host_offset - (mapping->guest.offset - mapping->clusters.offset), &vt_err));
    free(bytes);
}

/* As the image layer does; 0, or the error of the mapping. */
static inline int fill(struct writer *writer, uint64_t offset, uint64_t length, uint8_t byte)
{
    while (length) {
        struct vd_mapping mapping;
        struct vdisk_error err = {0};
        int ret =
            vd_format_map_for_write(writer->format, vd_range(offset, length), true, &mapping, &err);
        if (ret < 0)
            return ret;
        if (mapping.fresh)
            fill_edges(writer, &mapping);
        q2_fill(mapping.storage, mapping.host_offset, mapping.guest.length, byte);
        if (mapping.fresh)
            vd_format_write_done(writer->format, &mapping, true);
        offset += mapping.guest.length;
        length -= mapping.guest.length;
    }
    return 0;
}

/* Makes the range read as zero, or discards it, as the image layer does. */
static inline void zero(struct writer *writer, uint64_t offset, uint64_t length, unsigned flags)
{
    while (length) {
        struct vd_mapping mapping;
        VT_OK(
            vd_format_map_zero(writer->format, vd_range(offset, length), flags, &mapping, &vt_err));
        assert_false(mapping.fresh);
        if (mapping.kind == VD_MAP_DATA)
            VT_OK(vd_storage_write_zeroes(
                mapping.storage, vd_range(mapping.host_offset, mapping.guest.length), 0, &vt_err));
        else if (mapping.kind == VD_MAP_BACKING)
            assert_int_equal(fill(writer, offset, mapping.guest.length, 0), 0);
        offset += mapping.guest.length;
        length -= mapping.guest.length;
    }
}

/* All bytes of the range read as @byte. */
static inline void expect(struct writer *writer, uint64_t offset, uint64_t length, uint8_t byte)
{
    static uint8_t bytes[65536];
    while (length) {
        size_t step = (size_t)vd_min(length, sizeof(bytes));
        read_disk(writer, offset, step, bytes);
        vt_assert_filled(bytes, step, byte);
        offset += step;
        length -= step;
    }
}

/* One mapping, of exactly this range. */
static inline void expect_map(struct writer *writer, struct vd_range asked, enum vd_map_kind kind,
                              bool present, uint64_t length)
{
    struct vd_mapping mapping = map(writer, asked.offset, asked.length);
    assert_int_equal(mapping.kind, kind);
    assert_int_equal(mapping.present, present);
    assert_int_equal(mapping.guest.length, length);
}

static inline void flush(struct writer *writer)
{
    VT_OK(vd_format_flush(writer->format, &vt_err));
}

static inline uint64_t flushes(struct writer *writer)
{
    return vt_trace_count(writer->file, VT_FLUSH);
}

/* The image has a backing file, by its header. */
static inline void writer_put_backing(struct writer *writer)
{
    q2_put_backing(&writer->image, 256, "behind");
}

#endif
