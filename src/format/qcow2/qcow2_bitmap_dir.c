/* SPDX-License-Identifier: MIT */
/* The bitmap directory: decode, check, encode. */
#include "format/qcow2/qcow2_bitmap_dir.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/mem.h"

#define ENTRY_ALIGN   8u
#define PIECE_OFFSET  UINT64_C(0x00fffffffffffe00)
#define PIECE_ONES    UINT64_C(1)
#define TABLE_OFFSETS (UINT64_C(1) << 56) /* no cluster is behind that */

void vd_qcow2_bitmap_dir_free(struct vd_qcow2_bitmap_dir *dir)
{
    for (size_t i = 0; i < dir->count; i++)
        free(dir->entries[i].name);
    free(dir->entries);
    *dir = (struct vd_qcow2_bitmap_dir){0};
}

int vd_qcow2_bitmap_dir_check_place(const struct vd_qcow2_bitmaps_extension *extension,
                                    uint32_t cluster_bits, struct vdisk_error *err)
{
    if (extension->is_draft)
        return vd_err_set(err, ENOTSUP,
                          "bitmaps extension: 16 bytes long, as in the draft of January 2016 that "
                          "no program wrote for others: its bitmaps can not be used; convert the "
                          "image to a new one without them");
    if (extension->entries == 0 || extension->entries > VD_QCOW2_BITMAPS_MAX)
        return vd_err_set(err, EBADMSG, "bitmaps extension: %" PRIu32 " bitmaps: must be 1 to %u",
                          extension->entries, VD_QCOW2_BITMAPS_MAX);
    if (extension->directory_bytes == 0 ||
        extension->directory_bytes > VD_QCOW2_BITMAP_DIR_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "bitmaps extension: the directory has %" PRIu64
                          " bytes: must be 1 to %" PRIu64,
                          extension->directory_bytes, VD_QCOW2_BITMAP_DIR_BYTES_MAX);
    if (extension->directory_offset == 0 || extension->directory_offset >= TABLE_OFFSETS ||
        !vd_is_aligned(extension->directory_offset, UINT64_C(1) << cluster_bits))
        return vd_err_set(err, EBADMSG,
                          "bitmaps extension: the directory is said to be at 0x%" PRIx64
                          ", where no cluster begins",
                          extension->directory_offset);
    return 0;
}

static int check_table(const struct vd_qcow2_disk_bitmap *disk, uint32_t cluster_bits,
                       struct vdisk_error *err)
{
    uint64_t offset = be64_get(disk->table_offset);
    uint32_t entries = be32_get(disk->table_entries);
    uint64_t entries_max =
        vd_min(VD_QCOW2_BITMAP_TABLE_ENTRIES_MAX, VD_QCOW2_BITMAP_DATA_BYTES_MAX >> cluster_bits);
    if (offset == 0 || offset >= TABLE_OFFSETS ||
        !vd_is_aligned(offset, UINT64_C(1) << cluster_bits))
        return vd_err_set(err, EBADMSG,
                          "the table is said to be at 0x%" PRIx64 ", where no cluster begins",
                          offset);
    if (entries == 0 || entries > entries_max)
        return vd_err_set(err, EBADMSG, "the table has %" PRIu32 " entries: must be 1 to %" PRIu64,
                          entries, entries_max);
    return 0;
}

static int check_fixed(const struct vd_qcow2_disk_bitmap *disk, uint32_t cluster_bits,
                       struct vdisk_error *err)
{
    uint32_t flags = be32_get(disk->flags);
    uint32_t known = VD_QCOW2_BITMAP_IN_USE | VD_QCOW2_BITMAP_AUTO;
    if (flags & ~known)
        return vd_err_set(err, ENOTSUP, "unknown flags 0x%" PRIx32, flags & ~known);
    if (disk->type != VD_QCOW2_BITMAP_TYPE_DIRTY_TRACKING)
        return vd_err_set(err, ENOTSUP, "type %u: only 1, dirty tracking, is known", disk->type);
    if (disk->granularity_bits < VD_QCOW2_BITMAP_GRANULARITY_MIN ||
        disk->granularity_bits > VD_QCOW2_BITMAP_GRANULARITY_MAX)
        return vd_err_set(err, EBADMSG, "granularity 2^%u: must be 2^%u to 2^%u bytes",
                          disk->granularity_bits, VD_QCOW2_BITMAP_GRANULARITY_MIN,
                          VD_QCOW2_BITMAP_GRANULARITY_MAX);
    if (be32_get(disk->extra_bytes))
        return vd_err_set(err, ENOTSUP, "%" PRIu32 " bytes of extra data, of unknown meaning",
                          be32_get(disk->extra_bytes));
    uint16_t name_bytes = be16_get(disk->name_bytes);
    if (name_bytes == 0 || name_bytes > VD_QCOW2_BITMAP_NAME_BYTES_MAX)
        return vd_err_set(err, EBADMSG, "the name has %u bytes: must be 1 to %u", name_bytes,
                          VD_QCOW2_BITMAP_NAME_BYTES_MAX);
    return check_table(disk, cluster_bits, err);
}

/* The entry at the start of @bytes; *used gets its length. */
static int decode_entry(const uint8_t *bytes, uint64_t left, uint32_t cluster_bits,
                        struct vd_qcow2_bitmap_entry *entry, uint64_t *used,
                        struct vdisk_error *err)
{
    struct vd_qcow2_disk_bitmap disk;
    if (left < sizeof(disk))
        return vd_err_set(err, EBADMSG, "the directory ends within it");
    memcpy(&disk, bytes, sizeof(disk));
    int ret = check_fixed(&disk, cluster_bits, err);
    if (ret < 0)
        return ret;
    uint16_t name_bytes = be16_get(disk.name_bytes);
    *used = vd_round_up(sizeof(disk) + name_bytes, ENTRY_ALIGN);
    if (left < *used)
        return vd_err_set(err, EBADMSG, "the directory ends within it");
    if (memchr(bytes + sizeof(disk), 0, name_bytes))
        return vd_err_set(err, EBADMSG, "the name has a zero byte in it");
    *entry = (struct vd_qcow2_bitmap_entry){
        .name = malloc(name_bytes + 1u),
        .table_offset = be64_get(disk.table_offset),
        .table_entries = be32_get(disk.table_entries),
        .flags = be32_get(disk.flags),
        .granularity_bits = disk.granularity_bits,
    };
    if (!entry->name)
        return vd_err_nomem(err, "a bitmap's name");
    memcpy(entry->name, bytes + sizeof(disk), name_bytes);
    entry->name[name_bytes] = '\0';
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    const char *const *first = a;
    const char *const *second = b;
    return strcmp(*first, *second);
}

/* There may be 65535 of them, and who wrote the image chose them: sorted, not each with each. */
static int check_names(const struct vd_qcow2_bitmap_dir *dir, struct vdisk_error *err)
{
    CLEANUP_FREE const char **names = vd_alloc_array(dir->count, sizeof(*names));
    if (!names)
        return vd_err_nomem(err, "the names of bitmaps");
    for (size_t i = 0; i < dir->count; i++)
        names[i] = dir->entries[i].name;
    qsort(names, dir->count, sizeof(*names), compare_names);
    for (size_t i = 1; i < dir->count; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return vd_err_set(err, EBADMSG, "bitmap directory: two bitmaps are called '%s'",
                              names[i]);
    return 0;
}

static int decode_all(const struct vd_qcow2_bitmaps_extension *extension, const uint8_t *bytes,
                      uint32_t cluster_bits, struct vd_qcow2_bitmap_dir *dir,
                      struct vdisk_error *err)
{
    uint64_t left = extension->directory_bytes;
    while (dir->count < extension->entries) {
        uint64_t used;
        int ret = decode_entry(bytes, left, cluster_bits, &dir->entries[dir->count], &used, err);
        if (ret < 0)
            return vd_err_prefix(err, ret, "bitmap directory: entry %zu: ", dir->count);
        dir->count++;
        bytes += used;
        left -= used;
    }
    if (left)
        return vd_err_set(err, EBADMSG,
                          "bitmap directory: %" PRIu64 " bytes are left behind its %" PRIu32
                          " entries",
                          left, extension->entries);
    return check_names(dir, err);
}

int vd_qcow2_bitmap_dir_decode(const struct vd_qcow2_bitmaps_extension *extension,
                               const uint8_t *bytes, uint32_t cluster_bits,
                               struct vd_qcow2_bitmap_dir *dir, struct vdisk_error *err)
{
    *dir = (struct vd_qcow2_bitmap_dir){0};
    /* An entry has 32 bytes at least: no more memory than the directory is worth. */
    if (extension->entries > extension->directory_bytes / sizeof(struct vd_qcow2_disk_bitmap))
        return vd_err_set(err, EBADMSG,
                          "bitmap directory: %" PRIu64 " bytes do not hold %" PRIu32 " entries",
                          extension->directory_bytes, extension->entries);
    dir->entries = vd_alloc_array(extension->entries, sizeof(*dir->entries));
    if (!dir->entries)
        return vd_err_nomem(err, "the bitmap directory");
    int ret = decode_all(extension, bytes, cluster_bits, dir, err);
    if (ret < 0)
        vd_qcow2_bitmap_dir_free(dir);
    return ret;
}

size_t vd_qcow2_bitmap_entry_bytes(const struct vd_qcow2_bitmap_entry *entry)
{
    return (size_t)vd_round_up(sizeof(struct vd_qcow2_disk_bitmap) + strlen(entry->name),
                               ENTRY_ALIGN);
}

uint64_t vd_qcow2_bitmap_dir_bytes(const struct vd_qcow2_bitmap_dir *dir)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < dir->count; i++)
        bytes += vd_qcow2_bitmap_entry_bytes(&dir->entries[i]);
    return bytes;
}

void vd_qcow2_bitmap_dir_encode(const struct vd_qcow2_bitmap_dir *dir, uint8_t *bytes)
{
    for (size_t i = 0; i < dir->count; i++) {
        const struct vd_qcow2_bitmap_entry *entry = &dir->entries[i];
        size_t name_bytes = strlen(entry->name);
        size_t entry_bytes = vd_qcow2_bitmap_entry_bytes(entry);
        struct vd_qcow2_disk_bitmap disk = {
            .table_offset = be64_of(entry->table_offset),
            .table_entries = be32_of(entry->table_entries),
            .flags = be32_of(entry->flags),
            .type = VD_QCOW2_BITMAP_TYPE_DIRTY_TRACKING,
            .granularity_bits = (uint8_t)entry->granularity_bits,
            .name_bytes = be16_of((uint16_t)name_bytes),
        };
        assert(name_bytes && name_bytes <= VD_QCOW2_BITMAP_NAME_BYTES_MAX);
        memset(bytes, 0, entry_bytes);
        memcpy(bytes, &disk, sizeof(disk));
        memcpy(bytes + sizeof(disk), entry->name, name_bytes);
        bytes += entry_bytes;
    }
}

int vd_qcow2_bitmap_check_name(const char *name, struct vdisk_error *err)
{
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > VD_QCOW2_BITMAP_NAME_BYTES_MAX)
        return vd_err_set(err, EINVAL, "the name of a bitmap has %zu bytes: must be 1 to %u", bytes,
                          VD_QCOW2_BITMAP_NAME_BYTES_MAX);
    return 0;
}

bool vd_qcow2_bitmap_piece_decode(uint64_t value, uint32_t cluster_bits,
                                  enum vd_qcow2_bitmap_piece *piece, uint64_t *host)
{
    *host = value & PIECE_OFFSET;
    if (value & ~(PIECE_OFFSET | PIECE_ONES))
        return false;
    if (*host == 0) {
        *piece = value & PIECE_ONES ? VD_QCOW2_BITMAP_ONES : VD_QCOW2_BITMAP_ZEROS;
        return true;
    }
    *piece = VD_QCOW2_BITMAP_DATA;
    return !(value & PIECE_ONES) && vd_is_aligned(*host, UINT64_C(1) << cluster_bits);
}
