/* SPDX-License-Identifier: MIT */
/* Persistent bitmaps: reading the directory, tables and bits. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_bitmap_state.h"
#include "util/mem.h"

/* Reads @range of the file; what is behind the end of the file's last cluster reads as zero. */
static int read_place(struct vd_storage *file, uint32_t cluster_bits, struct vd_range range,
                      void *bytes, struct vdisk_error *err)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(file, &file_bytes, err);
    if (ret < 0)
        return ret;
    uint64_t end = vd_round_up(file_bytes, UINT64_C(1) << cluster_bits);
    if (!vd_range_is_within(range, end))
        return vd_err_set(err, EBADMSG,
                          "%" PRIu64 " bytes at 0x%" PRIx64 " lie behind the end of the file",
                          range.length, range.offset);
    uint64_t there =
        range.offset < file_bytes ? vd_min(range.length, file_bytes - range.offset) : 0;
    memset((uint8_t *)bytes + there, 0, (size_t)(range.length - there));
    return there ? vd_storage_pread(file, bytes, (size_t)there, range.offset, err) : 0;
}

static int read_directory(struct vd_storage *file, const struct vd_qcow2_header *header,
                          struct vd_qcow2_bitmap_dir *dir, struct vdisk_error *err)
{
    const struct vd_qcow2_bitmaps_extension *extension = &header->bitmaps;
    uint32_t cluster_bits = header->fields.cluster_bits;
    *dir = (struct vd_qcow2_bitmap_dir){0};
    int ret = vd_qcow2_bitmap_dir_check_place(extension, cluster_bits, err);
    if (ret < 0)
        return ret;
    CLEANUP_FREE uint8_t *bytes = malloc((size_t)extension->directory_bytes);
    if (!bytes)
        return vd_err_nomem(err, "the bitmap directory");
    ret = read_place(file, cluster_bits,
                     vd_range(extension->directory_offset, extension->directory_bytes), bytes, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "bitmap directory: ");
    return vd_qcow2_bitmap_dir_decode(extension, bytes, cluster_bits, dir, err);
}

/* The list of what @dir has; the names move over. */
static int make_list(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap_dir *dir, bool is_trusted,
                     struct vd_qcow2_list *list, struct vdisk_error *err)
{
    *list = (struct vd_qcow2_list){
        .bitmaps = vd_alloc_array(dir->count, sizeof(struct vd_qcow2_bitmap *))};
    if (!list->bitmaps)
        return vd_err_nomem(err, "the bitmaps of an image");
    for (size_t i = 0; i < dir->count; i++) {
        struct vd_qcow2_bitmap *bitmap = calloc(1, sizeof(*bitmap));
        if (!bitmap) {
            vd_qcow2_list_free(qcow2, list);
            return vd_err_nomem(err, "the bitmaps of an image");
        }
        bitmap->entry = dir->entries[i];
        dir->entries[i].name = NULL;
        bitmap->is_valid = is_trusted && !(bitmap->entry.flags & VD_QCOW2_BITMAP_IN_USE);
        bitmap->is_in_file = is_trusted; /* D4 */
        list->bitmaps[list->count++] = bitmap;
    }
    return 0;
}

int vd_qcow2_bitmap_list_load(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    struct vd_qcow2_bitmap_dir dir = {0};
    if (dirty->is_loaded)
        return 0;
    bool is_trusted = (qcow2->header.fields.autoclear & VD_QCOW2_BITMAPS) != 0;
    struct vd_qcow2_list list = {0};
    int ret = 0;
    /* A draft that is out of date anyway is in nobody's way. */
    bool is_old_draft = qcow2->header.bitmaps.is_draft && !is_trusted;
    if (qcow2->header.bitmaps.is_present && !is_old_draft) {
        struct vdisk_error inner = {0};
        ret = read_directory(qcow2->file, &qcow2->header, &dir, &inner);
        if (ret == 0)
            ret = make_list(qcow2, &dir, is_trusted, &list, &inner);
        /* D4: what nobody trusts may have been written over by now. */
        bool is_gone = !is_trusted && (inner.code == EBADMSG || inner.code == ENOTSUP);
        if (ret == -EBADMSG && !is_gone)
            ret =
                vd_err_set(err, EBADMSG, "%s: vdisk check -r all mends or drops it", inner.message);
        else
            ret = is_gone || ret == 0 ? 0 : vd_err_copy(err, &inner);
    }
    vd_qcow2_bitmap_dir_free(&dir);
    if (ret < 0)
        return ret;
    dirty->list = list;
    dirty->is_trusted = is_trusted;
    dirty->is_loaded = true;
    return 0;
}

/* The table of @entry in @file, as it is there. */
static int read_table(struct vd_storage *file, uint32_t cluster_bits,
                      const struct vd_qcow2_bitmap_entry *entry, uint64_t *values,
                      struct vdisk_error *err)
{
    struct vd_range place =
        vd_range(entry->table_offset, (uint64_t)entry->table_entries * sizeof(struct be64));
    int ret = read_place(file, cluster_bits, place, values, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "table of bitmap '%s': ", entry->name);
    for (uint32_t i = 0; i < entry->table_entries; i++) {
        struct be64 disk;
        memcpy(&disk, &values[i], sizeof(disk));
        values[i] = be64_get(disk);
    }
    return 0;
}

static int check_piece(const struct vd_qcow2_bitmap_entry *entry, uint32_t index, uint64_t value,
                       uint32_t cluster_bits, struct vdisk_error *err)
{
    enum vd_qcow2_bitmap_piece piece;
    uint64_t host;
    if (vd_qcow2_bitmap_piece_decode(value, cluster_bits, &piece, &host))
        return 0;
    return vd_err_set(err, EBADMSG,
                      "table of bitmap '%s': entry %" PRIu32 " is 0x%" PRIx64
                      ": neither all clear, nor all set, nor a cluster",
                      entry->name, index, value);
}

int vd_qcow2_bitmap_table_load(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                               struct vdisk_error *err)
{
    const struct vd_qcow2_bitmap_entry *entry = &bitmap->entry;
    uint32_t cluster_bits = qcow2->geometry.cluster_bits;
    struct vd_qcow2_pieces table;
    if (bitmap->table.values)
        return 0;
    assert(bitmap->is_in_file);
    int ret = vd_qcow2_pieces_new(qcow2, entry->table_entries, &table, err);
    if (ret < 0)
        return ret;
    struct vdisk_error inner = {0};
    ret = read_table(qcow2->file, cluster_bits, entry, table.values, &inner);
    for (uint32_t i = 0; i < entry->table_entries && ret == 0; i++) {
        ret = check_piece(entry, i, table.values[i], cluster_bits, &inner);
        if (ret < 0 && !bitmap->is_valid) {
            table.values[i] = 0;
            vdisk_error_clear(&inner);
            ret = 0;
        }
    }
    if (ret == -EBADMSG && !bitmap->is_valid) { /* it lies behind the end of the file */
        memset(table.values, 0, table.count * sizeof(*table.values));
        ret = 0;
    }
    if (ret < 0) {
        vd_qcow2_pieces_free(qcow2, &table);
        return vd_err_copy(err, &inner);
    }
    bitmap->table = table;
    return 0;
}

static int load_piece(struct vd_qcow2 *qcow2, const struct vd_qcow2_bitmap *bitmap, size_t index,
                      struct vd_bitmap *bits, uint8_t *buffer, struct vdisk_error *err)
{
    uint32_t cluster_bytes = qcow2->geometry.cluster_bytes;
    struct vd_range part = vd_range((uint64_t)index * cluster_bytes, cluster_bytes);
    enum vd_qcow2_bitmap_piece piece;
    uint64_t host;
    bool is_good = vd_qcow2_bitmap_piece_decode(bitmap->table.values[index],
                                                qcow2->geometry.cluster_bits, &piece, &host);
    assert(is_good); /* it has been checked */
    if (!is_good || piece == VD_QCOW2_BITMAP_ZEROS)
        return 0;
    if (piece == VD_QCOW2_BITMAP_ONES)
        return vd_bitmap_set(bits, vd_bitmap_part_disk(bits, part), err);
    int ret = read_place(qcow2->file, qcow2->geometry.cluster_bits, vd_range(host, cluster_bytes),
                         buffer, err);
    return ret < 0 ? ret : vd_bitmap_load_part(bits, part, buffer, err);
}

int vd_qcow2_bitmap_bits_load(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                              struct vdisk_error *err)
{
    const struct vd_qcow2_bitmap_entry *entry = &bitmap->entry;
    uint64_t size = qcow2->format->size;
    struct vd_bitmap *bits = NULL;
    if (bitmap->bits)
        return 0;
    assert(bitmap->is_valid);
    uint64_t expected =
        vd_qcow2_bitmap_table_entries(size, entry->granularity_bits, qcow2->geometry.cluster_bits);
    if (entry->table_entries != expected)
        return vd_err_set(err, EBADMSG,
                          "bitmap '%s': its table has %" PRIu32 " entries: with a disk of %" PRIu64
                          " bytes it must have %" PRIu64,
                          entry->name, entry->table_entries, size, expected);
    int ret = vd_qcow2_bitmap_table_load(qcow2, bitmap, err);
    if (ret < 0)
        return ret;
    CLEANUP_FREE uint8_t *buffer = vd_alloc_io(qcow2->geometry.cluster_bytes);
    if (!buffer)
        return vd_err_nomem(err, "the bits of a bitmap");
    ret = vd_bitmap_new(size, entry->granularity_bits, &qcow2->dirty->budget, &bits, err);
    for (size_t i = 0; i < bitmap->table.count && ret == 0; i++)
        ret = load_piece(qcow2, bitmap, i, bits, buffer, err);
    if (ret < 0) {
        vd_bitmap_free(bits);
        return vd_err_prefix(err, ret, "bitmap '%s': ", entry->name);
    }
    bitmap->bits = bits;
    return 0;
}
