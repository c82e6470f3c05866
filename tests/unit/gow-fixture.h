/* SPDX-License-Identifier: MIT */
/* GOW images in memory for unit tests, with a log of what the driver does to the file. */
#ifndef GOW_FIXTURE_H
#define GOW_FIXTURE_H

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/trace.h"
#include "format/driver.h"
#include "format/gow/gow_header.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* Zeroed by its maker; the memory outlives sessions. */
struct fixture {
    uint32_t version;
    struct vd_gow_layout layout;
    struct vd_storage *memory;
    struct vd_storage *file;  /* the memory, traced */
    struct vd_format *format; /* NULL: closed */
};

static inline const struct vd_format_driver *gow_driver(uint32_t version)
{
    static const char *const names[] = {"", "gow1", "gow2", "gow3"};
    const struct vd_format_driver *driver = vd_format_find(names[version], NULL);
    assert_non_null(driver);
    return driver;
}

/* An empty image, closed. */
static inline void fixture_create(struct fixture *fix, uint32_t version, uint64_t size)
{
    *fix = (struct fixture){.version = version, .layout = vd_gow_layout_of(version)};
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = size};
    VT_OK(vd_storage_mem_open(0, &fix->memory, &vt_err));
    VT_OK(vt_trace_open(fix->memory, VT_BORROW, NULL, &fix->file, &vt_err));
    VT_OK(vd_format_create(gow_driver(version), fix->file, NULL, &options, &vt_err));
}

static inline void fixture_open_with(struct fixture *fix, struct vd_format_options options)
{
    VT_OK(vd_format_open(gow_driver(fix->version), fix->file, &options, &fix->format, &vt_err));
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
    vd_storage_close(fix->memory);
}

static inline struct vd_gow_header fixture_header(struct fixture *fix)
{
    struct vd_gow_header header;
    VT_OK(vd_gow_header_read(fix->memory, true, &header, &vt_err));
    return header;
}

static inline void fixture_set_header(struct fixture *fix, const struct vd_gow_header *header)
{
    VT_OK(vd_gow_header_write(fix->memory, header, &vt_err));
}

static inline uint32_t read_entry(struct fixture *fix, uint64_t offset)
{
    struct le32 entry;
    VT_OK(vd_storage_pread(fix->memory, &entry, sizeof(entry), offset, &vt_err));
    return le32_get(entry);
}

static inline void write_entry(struct fixture *fix, uint64_t offset, uint32_t value)
{
    struct le32 entry = le32_of(value);
    VT_OK(vd_storage_pwrite(fix->memory, &entry, sizeof(entry), offset, &vt_err));
}

/* What the file says, not what the driver knows. */
static inline uint32_t map_in_file(struct fixture *fix, uint32_t block)
{
    return read_entry(fix, vd_gow_map_entry_offset(&fix->layout, block));
}

static inline void set_map_in_file(struct fixture *fix, uint32_t block, uint32_t host)
{
    write_entry(fix, vd_gow_map_entry_offset(&fix->layout, block), host);
}

static inline uint32_t version_in_file(struct fixture *fix, uint32_t block)
{
    return read_entry(fix, vd_gow_version_entry_offset(&fix->layout, block));
}

static inline void set_version_in_file(struct fixture *fix, uint32_t block, uint32_t version)
{
    write_entry(fix, vd_gow_version_entry_offset(&fix->layout, block), version);
}

static inline uint64_t file_bytes(struct fixture *fix)
{
    uint64_t bytes = 0;
    VT_OK(vd_storage_size(fix->memory, &bytes, &vt_err));
    return bytes;
}

static inline uint64_t flushes(struct fixture *fix)
{
    return vt_trace_count(fix->file, VT_FLUSH);
}

/* Writes @byte over the range as the image layer does; 0, or the error of the mapping. */
static inline int fill(struct fixture *fix, uint64_t offset, uint64_t length, uint8_t byte)
{
    while (length) {
        struct vd_mapping mapping;
        struct vdisk_error err = {0};
        int ret =
            vd_format_map_for_write(fix->format, vd_range(offset, length), true, &mapping, &err);
        if (ret < 0)
            return ret;
        if (mapping.fresh && mapping.fill == VD_FILL_ZERO) {
            uint64_t head = mapping.guest.offset - mapping.clusters.offset;
            VT_OK(vd_storage_write_zeroes(
                mapping.storage, vd_range(mapping.host_offset - head, mapping.clusters.length), 0,
                &vt_err));
        }
        uint8_t *buf = vt_calloc(mapping.guest.length, 1);
        memset(buf, byte, mapping.guest.length);
        VT_OK(vd_storage_pwrite(mapping.storage, buf, mapping.guest.length, mapping.host_offset,
                                &vt_err));
        free(buf);
        if (mapping.fresh)
            vd_format_write_done(fix->format, &mapping, true);
        offset += mapping.guest.length;
        length -= mapping.guest.length;
    }
    return 0;
}

/* All bytes of the range read as @byte. */
static inline void expect(struct fixture *fix, uint64_t offset, uint64_t length, uint8_t byte)
{
    while (length) {
        struct vd_mapping mapping;
        VT_OK(vd_format_map(fix->format, vd_range(offset, length), &mapping, &vt_err));
        if (mapping.kind == VD_MAP_ZERO) {
            assert_int_equal(byte, 0);
        } else {
            uint8_t *buf = vt_calloc(mapping.guest.length, 1);
            VT_OK(vd_storage_pread(mapping.storage, buf, mapping.guest.length, mapping.host_offset,
                                   &vt_err));
            vt_assert_filled(buf, mapping.guest.length, byte);
            free(buf);
        }
        offset += mapping.guest.length;
        length -= mapping.guest.length;
    }
}

static inline void discard(struct fixture *fix, uint64_t offset, uint64_t length)
{
    while (length) {
        struct vd_mapping mapping;
        VT_OK(vd_format_map_zero(fix->format, vd_range(offset, length),
                                 VD_MAP_ZERO_MAY_UNMAP | VD_MAP_ZERO_DISCARD, &mapping, &vt_err));
        assert_int_equal(mapping.kind, VD_MAP_ZERO);
        offset += mapping.guest.length;
        length -= mapping.guest.length;
    }
}

static inline void flush(struct fixture *fix)
{
    VT_OK(vd_format_flush(fix->format, &vt_err));
}

/* Host block of a block of the disk, as the driver sees it. */
static inline uint32_t host_of(struct fixture *fix, uint32_t block)
{
    struct vd_mapping mapping;
    VT_OK(vd_format_map(fix->format, vd_range(vd_gow_guest_offset(block), 1), &mapping, &vt_err));
    if (mapping.kind == VD_MAP_ZERO)
        return VD_GOW_UNALLOCATED;
    return (uint32_t)((mapping.host_offset - fix->layout.data_offset) / VD_GOW_BLOCK_BYTES);
}

#define BLOCK ((uint64_t)VD_GOW_BLOCK_BYTES)

#endif
