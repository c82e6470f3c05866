/* SPDX-License-Identifier: MIT */
/* QED images in sparse memory for unit tests, with a log of what the driver does to the file. */
#ifndef QED_FIXTURE_H
#define QED_FIXTURE_H

#include "drivers/alloc.h"
#include "drivers/fault.h"
#include "drivers/snap.h"
#include "drivers/trace.h"
#include "format/driver.h"

#include "qed-image.h"

/* Zeroed by its maker; the memory outlives sessions. */
struct fixture {
    struct vd_qed_geometry geometry;
    struct vd_storage *memory;
    struct vd_storage *fault; /* over the memory */
    struct vd_storage *file;  /* over that, traced */
    struct vd_format *format; /* NULL: closed */
};

static inline const struct vd_format_driver *qed_driver(void)
{
    const struct vd_format_driver *driver = vd_format_find("qed", NULL);
    assert_non_null(driver);
    return driver;
}

/* An empty image, closed.  @backing: its name, or NULL. */
static inline void fixture_create(struct fixture *fix, uint32_t cluster_bytes,
                                  uint32_t table_clusters, uint64_t size, const char *backing)
{
    *fix = (struct fixture){.geometry = vd_qed_geometry_of(cluster_bytes, table_clusters)};
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = size,
                                           .cluster_bytes = cluster_bytes,
                                           .table_clusters = table_clusters,
                                           .backing = backing,
                                           .backing_format = backing ? "raw" : NULL};
    VT_OK(vt_snap_open(0, &fix->memory, &vt_err));
    VT_OK(vt_fault_open(fix->memory, VT_BORROW, &fix->fault, &vt_err));
    VT_OK(vt_trace_open(fix->fault, VT_BORROW, NULL, &fix->file, &vt_err));
    VT_OK(vd_format_create(qed_driver(), fix->file, NULL, &options, &vt_err));
}

static inline void fixture_open_with(struct fixture *fix, struct vd_format_options options)
{
    VT_OK(vd_format_open(qed_driver(), fix->file, &options, &fix->format, &vt_err));
    vt_trace_reset(fix->file);
}

static inline void fixture_open(struct fixture *fix, uint32_t flags)
{
    fixture_open_with(fix, (struct vd_format_options){.flags = flags});
}

static inline void fixture_close(struct fixture *fix)
{
    VT_OK(vd_format_close(fix->format, &vt_err));
    fix->format = NULL;
}

static inline void fixture_reopen(struct fixture *fix)
{
    fixture_close(fix);
    fixture_open(fix, VD_FORMAT_WRITE);
}

/* As after a kill of the process: what was written to the file is there, and no more. */
static inline void fixture_kill(struct fixture *fix)
{
    struct vdisk_error why = {.code = EIO, .message = "killed"};
    assert_int_equal(vd_format_fail(fix->format, &why), -EIO);
    vd_format_close(fix->format, NULL);
    fix->format = NULL;
}

static inline void fixture_destroy(struct fixture *fix)
{
    if (fix->format)
        fixture_close(fix);
    vd_storage_close(fix->file);
    vd_storage_close(fix->fault);
    vd_storage_close(fix->memory);
}

/* Where the L1 table and what comes behind it are in a new image. */
static inline uint64_t l1_of(const struct fixture *fix)
{
    return fix->geometry.cluster_bytes;
}

static inline uint64_t first_free(const struct fixture *fix)
{
    return l1_of(fix) + fix->geometry.table_bytes;
}

/* What the file says, not what the driver knows. */
static inline uint64_t l1_in_file(struct fixture *fix, uint32_t index)
{
    return get_u64(fix->memory, l1_of(fix) + index * UINT64_C(8));
}

static inline uint64_t l2_in_file(struct fixture *fix, uint64_t guest_offset)
{
    uint64_t table = l1_in_file(fix, vd_qed_l1_index(&fix->geometry, guest_offset));
    if (!table)
        return 0;
    return get_u64(fix->memory,
                   table + vd_qed_l2_index(&fix->geometry, guest_offset) * UINT64_C(8));
}

static inline uint64_t flushes(struct fixture *fix)
{
    return vt_trace_count(fix->file, VT_FLUSH);
}

static inline void flush(struct fixture *fix)
{
    VT_OK(vd_format_flush(fix->format, &vt_err));
}

/* Byte of the backing disk that tests make up, at any offset. */
#define BACKING_BYTE 0xbb

static inline void put_run(struct vd_storage *storage, uint64_t offset, uint64_t length,
                           uint8_t byte)
{
    static uint8_t bytes[MIB];
    memset(bytes, byte, sizeof(bytes));
    for (uint64_t step; length; offset += step, length -= step) {
        step = vd_min(length, sizeof(bytes));
        VT_OK(vd_storage_pwrite(storage, bytes, (size_t)step, offset, &vt_err));
    }
}

/* As the image layer does; 0, or the error of the mapping. */
static inline int fill(struct fixture *fix, uint64_t offset, uint64_t length, uint8_t byte)
{
    while (length) {
        struct vd_mapping mapping;
        struct vdisk_error err = {0};
        int ret =
            vd_format_map_for_write(fix->format, vd_range(offset, length), true, &mapping, &err);
        if (ret < 0)
            return ret;
        if (mapping.fresh && mapping.fill != VD_FILL_NONE) {
            uint64_t head = mapping.guest.offset - mapping.clusters.offset;
            put_run(mapping.storage, mapping.host_offset - head, mapping.clusters.length,
                    mapping.fill == VD_FILL_ZERO ? 0 : BACKING_BYTE);
        }
        put_run(mapping.storage, mapping.host_offset, mapping.guest.length, byte);
        if (mapping.fresh)
            vd_format_write_done(fix->format, &mapping, true);
        offset += mapping.guest.length;
        length -= mapping.guest.length;
    }
    return 0;
}

/* Makes the range read as zero, or discards it, as the image layer does. */
static inline void zero(struct fixture *fix, uint64_t offset, uint64_t length, unsigned flags)
{
    while (length) {
        struct vd_mapping mapping;
        VT_OK(vd_format_map_zero(fix->format, vd_range(offset, length),
                                 VD_MAP_ZERO_MAY_UNMAP | flags, &mapping, &vt_err));
        assert_false(mapping.fresh);
        if (mapping.kind == VD_MAP_DATA)
            VT_OK(vd_storage_write_zeroes(mapping.storage,
                                          vd_range(mapping.host_offset, mapping.guest.length),
                                          VD_STORAGE_ZERO_MAY_PUNCH, &vt_err));
        else if (mapping.kind == VD_MAP_BACKING)
            assert_int_equal(fill(fix, offset, mapping.guest.length, 0), 0);
        offset += mapping.guest.length;
        length -= mapping.guest.length;
    }
}

static inline struct vd_mapping map(struct fixture *fix, uint64_t offset, uint64_t length)
{
    struct vd_mapping mapping;
    VT_OK(vd_format_map(fix->format, vd_range(offset, length), &mapping, &vt_err));
    return mapping;
}

/* All bytes of the range read as @byte. */
static inline void expect(struct fixture *fix, uint64_t offset, uint64_t length, uint8_t byte)
{
    static uint8_t bytes[MIB];
    while (length) {
        struct vd_mapping mapping = map(fix, offset, vd_min(length, sizeof(bytes)));
        size_t step = (size_t)mapping.guest.length;
        memset(bytes, mapping.kind == VD_MAP_ZERO ? 0 : BACKING_BYTE, step);
        if (mapping.kind == VD_MAP_DATA)
            VT_OK(vd_storage_pread(mapping.storage, bytes, step, mapping.host_offset, &vt_err));
        vt_assert_filled(bytes, step, byte);
        offset += step;
        length -= step;
    }
}

/* One mapping, of exactly this range. */
static inline void expect_map(struct fixture *fix, struct vd_range asked, enum vd_map_kind kind,
                              bool present, uint64_t length)
{
    struct vd_mapping mapping = map(fix, asked.offset, asked.length);
    assert_int_equal(mapping.kind, kind);
    assert_int_equal(mapping.present, present);
    assert_int_equal(mapping.guest.length, length);
}

#endif
