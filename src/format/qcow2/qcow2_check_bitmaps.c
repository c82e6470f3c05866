/* SPDX-License-Identifier: MIT */
/* A check's look at bitmaps: the directory, their tables, and clusters of bits. */
#include <inttypes.h>
#include <stdlib.h>

#include "format/qcow2/qcow2_bitmap_dir.h"
#include "format/qcow2/qcow2_check.h"
#include "util/mem.h"

/* K2: most bytes of the tables of all bitmaps. */
#define TABLES_BYTES_MAX (UINT64_C(16) << 30)

static int look_at_pieces(struct vd_qcow2_check_run *run, const struct vd_qcow2_bitmap_entry *entry,
                          uint64_t first, uint64_t count, struct vdisk_error *err)
{
    int ret = 0;
    for (uint64_t i = 0; i < count && ret == 0; i++) {
        uint64_t value = be64_get(run->l1[i]);
        enum vd_qcow2_bitmap_piece piece;
        uint64_t host;
        if (!vd_qcow2_bitmap_piece_decode(value, run->geometry.cluster_bits, &piece, &host)) {
            run->bad_bitmaps = true;
            vd_qcow2_check_corruption(run, 1,
                                      "bitmap '%s': table entry %" PRIu64 ": %#" PRIx64 " is none",
                                      entry->name, first + i, value);
        } else if (piece == VD_QCOW2_BITMAP_DATA) {
            if (vd_qcow2_check_is_behind(run, host, run->geometry.cluster_bytes))
                run->bad_bitmaps = true;
            ret = vd_qcow2_check_refer(run, vd_range(host, run->geometry.cluster_bytes), 1,
                                       "cluster of a bitmap", err);
        }
    }
    return ret;
}

bool vd_qcow2_check_bitmap_length(const struct vd_qcow2_check_run *run, uint32_t flags,
                                  uint32_t granularity_bits, uint32_t table_entries)
{
    /* Of one in use it may be what it was before a resize. */
    return (flags & VD_QCOW2_BITMAP_IN_USE) ||
           table_entries == vd_qcow2_bitmap_table_entries(run->header->fields.size,
                                                          granularity_bits,
                                                          run->geometry.cluster_bits);
}

static int look_at_bitmap(struct vd_qcow2_check_run *run, const struct vd_qcow2_bitmap_entry *entry,
                          struct vdisk_error *err)
{
    uint64_t bytes = (uint64_t)entry->table_entries * sizeof(*run->l1);
    uint64_t expected = vd_qcow2_bitmap_table_entries(
        run->header->fields.size, entry->granularity_bits, run->geometry.cluster_bits);
    /* One in use may be from before a change of the disk's size. */
    if (!(entry->flags & VD_QCOW2_BITMAP_IN_USE) && entry->table_entries != expected) {
        run->bad_bitmaps = true;
        vd_qcow2_check_corruption(
            run, 1,
            "bitmap '%s': its table has %" PRIu32 " entries: with a disk of %" PRIu64
            " bytes it must have %" PRIu64,
            entry->name, entry->table_entries, run->header->fields.size, expected);
    }
    if (vd_qcow2_check_is_behind(run, entry->table_offset, bytes))
        run->bad_bitmaps = true;
    if (!vd_qcow2_check_bitmap_length(run, entry->flags, entry->granularity_bits,
                                      entry->table_entries)) {
        run->bad_bitmaps = true;
        vd_qcow2_check_corruption(run, 1,
                                  "bitmap '%s': a table of %" PRIu32
                                  " entries is not of a disk of %" PRIu64 " bytes",
                                  entry->name, entry->table_entries, run->header->fields.size);
    }
    int ret = vd_qcow2_check_refer_meta(run, vd_range(entry->table_offset, bytes), 1,
                                        "table of a bitmap", err);
    for (uint64_t first = 0; first < entry->table_entries && ret == 0;
         first += VD_QCOW2_CHECK_L1_PART) {
        struct vdisk_error inner = {0};
        bool is_empty;
        uint64_t count = vd_min(VD_QCOW2_CHECK_L1_PART, entry->table_entries - first);
        if (vd_qcow2_check_read(run, entry->table_offset + first * sizeof(*run->l1), run->l1,
                                count * sizeof(*run->l1), &is_empty, &inner) < 0)
            vd_qcow2_check_unreadable(run, "table of a bitmap", &inner);
        else if (!is_empty)
            ret = look_at_pieces(run, entry, first, count, err);
    }
    return ret;
}

int vd_qcow2_check_read_directory(struct vd_qcow2_check_run *run, struct vd_qcow2_bitmap_dir *dir,
                                  struct vdisk_error *err)
{
    const struct vd_qcow2_bitmaps_extension *extension = &run->header->bitmaps;
    int ret = vd_qcow2_bitmap_dir_check_place(extension, run->geometry.cluster_bits, err);
    if (ret < 0)
        return ret;
    if (!vd_range_is_within(vd_range(extension->directory_offset, extension->directory_bytes),
                            run->file_bytes))
        return vd_err_set(err, EBADMSG,
                          "bitmap directory: %" PRIu64 " bytes at offset %" PRIu64
                          ": not whole in the file",
                          extension->directory_bytes, extension->directory_offset);
    CLEANUP_FREE uint8_t *bytes = vd_alloc_io((size_t)extension->directory_bytes);
    if (!bytes)
        return vd_err_nomem(err, "the bitmap directory");
    bool is_empty;
    ret = vd_qcow2_check_read(run, extension->directory_offset, bytes, extension->directory_bytes,
                              &is_empty, err);
    return ret < 0
               ? ret
               : vd_qcow2_bitmap_dir_decode(extension, bytes, run->geometry.cluster_bits, dir, err);
}

static int look_at_directory(struct vd_qcow2_check_run *run, const struct vd_qcow2_bitmap_dir *dir,
                             struct vdisk_error *err)
{
    const struct vd_qcow2_bitmaps_extension *extension = &run->header->bitmaps;
    int ret = vd_qcow2_check_refer_meta(
        run, vd_range(extension->directory_offset, extension->directory_bytes), 1,
        "bitmap directory", err);
    uint64_t bytes = 0;
    for (size_t i = 0; i < dir->count && ret == 0; i++) {
        bytes += (uint64_t)dir->entries[i].table_entries * sizeof(*run->l1);
        if (bytes > TABLES_BYTES_MAX)
            return vd_err_set(err, EFBIG, "bitmaps: their tables have more than %" PRIu64 " bytes",
                              TABLES_BYTES_MAX);
        ret = look_at_bitmap(run, &dir->entries[i], err);
    }
    return ret;
}

bool vd_qcow2_check_has_bitmaps(const struct vd_qcow2_check_run *run)
{
    return run->header->bitmaps.is_present && (run->header->fields.autoclear & VD_QCOW2_BITMAPS);
}

int vd_qcow2_check_bitmaps(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    if (!vd_qcow2_check_has_bitmaps(run))
        return 0;
    struct vd_qcow2_bitmap_dir dir = {0};
    struct vdisk_error inner = {0};
    int ret = vd_qcow2_check_read_directory(run, &dir, &inner);
    if (ret == -EBADMSG) {
        run->bad_directory = true;
        run->result->check_errors++;
        vd_qcow2_check_tell(run, "%s", inner.message);
        ret = 0;
    } else if (ret == -EIO || ret == -ENOTSUP) { /* what it leads to is not known */
        vd_qcow2_check_unreadable(run, "bitmaps", &inner);
        ret = 0;
    } else if (ret < 0) {
        ret = vd_err_copy(err, &inner);
    } else {
        ret = look_at_directory(run, &dir, err);
    }
    vd_qcow2_bitmap_dir_free(&dir);
    return ret;
}
