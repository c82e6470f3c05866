/* SPDX-License-Identifier: MIT */
/* Checks of qcow2 images in memory, and what a guest reads of them. */
#ifndef QCOW2_CHECK_TEST_H
#define QCOW2_CHECK_TEST_H

#include "drivers/random.h"
#include "format/format.h"

#include "qcow2-fixture.h"

#define UNREADABLE UINT64_MAX

static inline struct vdisk_check_result q2_check(struct vd_storage *file, enum vdisk_repair repair)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vd_check check = {.repair = repair, .result = &result};
    struct vd_format_options options = {.flags = VD_FORMAT_CHECK};
    struct vd_format *format;
    if (repair != VDISK_REPAIR_NONE)
        options.flags |= VD_FORMAT_WRITE;
    VT_OK(vd_format_open(vd_format_find("qcow2", NULL), file, &options, &format, &vt_err));
    VT_OK(vd_format_check(format, &check, &vt_err));
    VT_OK(vd_format_close(format, &vt_err));
    return result;
}

/* How a check ends. */
static inline void q2_expect(struct vd_storage *file, uint64_t corruptions, uint64_t leaks)
{
    struct vdisk_check_result result = q2_check(file, VDISK_REPAIR_NONE);
    assert_int_equal(result.check_errors, 0);
    assert_int_equal(result.corruptions, corruptions);
    assert_int_equal(result.leaks, leaks);
}

/* Mended, and then there is nothing more to mend. */
static inline struct vdisk_check_result q2_mend(struct vd_storage *file)
{
    struct vdisk_check_result result = q2_check(file, VDISK_REPAIR_ALL);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.check_errors, 0);
    q2_expect(file, 0, 0);
    assert_int_equal(q2_get(file, 4, 4) > 2 ? q2_get(file, 72, 8) & 3 : 0, 0);
    return result;
}

/* The first 8 bytes of the guest cluster at @guest; UNREADABLE: its entry is wrong. */
static inline uint64_t q2_read(struct vd_format *format, uint64_t guest)
{
    struct vd_mapping mapping;
    if (vd_format_map(format, vd_range(guest, 8), &mapping, NULL) < 0)
        return UNREADABLE;
    if (mapping.kind != VD_MAP_DATA)
        return 0;
    uint64_t size;
    VT_OK(vd_storage_size(mapping.storage, &size, &vt_err));
    return mapping.host_offset + 8 > size ? 0 : q2_get(mapping.storage, mapping.host_offset, 8);
}

/* Of each cluster: goes to free().  NULL: the image does not open. */
static inline uint64_t *q2_read_all(const struct q2_image *image, struct vd_storage *file)
{
    const struct vd_format_options options = {0};
    struct vd_format *format;
    VT_OK(vd_format_open(vd_format_find("qcow2", NULL), file, &options, &format, &vt_err));
    uint64_t clusters = image->size / image->cluster;
    uint64_t *tags = test_calloc(clusters, sizeof(*tags));
    for (uint64_t i = 0; i < clusters; i++)
        tags[i] = q2_read(format, i * image->cluster);
    (void)!vd_format_close(format, NULL); /* tells again what was wrong */
    return tags;
}

/* What was readable reads the same. */
static inline void q2_expect_all(const struct q2_image *image, struct vd_storage *file,
                                 const uint64_t *tags)
{
    uint64_t *now = q2_read_all(image, file);
    for (uint64_t i = 0; i < image->size / image->cluster; i++)
        if (tags[i] != UNREADABLE)
            assert_int_equal(now[i], tags[i]);
    test_free(now);
}

/* A snapshot of all there is: its L1 table is a copy, and everything has one reference more. */
static inline void q2_add_snapshot(struct q2_image *image)
{
    static const uint8_t text[] = "1first";
    uint64_t entries = q2_get(image->file, 36, 4);
    uint64_t l1 = q2_alloc(image, (entries * 8 + image->cluster - 1) / image->cluster);
    uint64_t table = q2_alloc(image, 1);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t l2 = q2_get(image->file, image->l1 + 8 * i, 8) & ~Q2_COPIED;
        q2_put(image->file, image->l1 + 8 * i, l2, 8);
        q2_put(image->file, l1 + 8 * i, l2, 8);
        if (!l2)
            continue;
        q2_set_refcount(image, l2, q2_refcount(image, l2) + 1);
        for (uint64_t j = 0; j < image->geometry.l2_entries; j++) {
            uint64_t at = l2 + j * image->geometry.entry_bytes;
            uint64_t entry = q2_get(image->file, at, 8) & ~Q2_COPIED;
            uint64_t host = entry & UINT64_C(0x00fffffffffffe00);
            q2_put(image->file, at, entry, 8);
            if (host)
                q2_set_refcount(image, host, q2_refcount(image, host) + 1);
        }
    }
    q2_put(image->file, table, l1, 8);
    q2_put(image->file, table + 8, entries, 4);
    q2_put(image->file, table + 12, 1, 2);
    q2_put(image->file, table + 14, 5, 2);
    q2_put(image->file, table + 36, 16, 4);
    q2_put(image->file, table + 48, image->size, 8);
    q2_put_bytes(image->file, table + 56, text, 6);
    q2_put(image->file, 60, 1, 4);
    q2_put(image->file, 64, table, 8);
}

#endif
