/* SPDX-License-Identifier: MIT */
/* The extensions of a qcow2 header. */
#include "format/qcow2/qcow2_extensions.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/mem.h"

#define EXTENSION_ALIGN        8u
#define BITMAP_ENTRY_BYTES_MAX UINT64_C(1024) /* QEMU's limit for a directory, per bitmap */
#define BITMAPS_DRAFT_BYTES    16u

struct extension {
    uint32_t type;
    uint32_t length;
    const uint8_t *bytes;
};

/* The extension at *at, which goes behind it; false: there is no more, or it does not fit. */
static bool next_extension(const uint8_t *area, size_t area_bytes, size_t *at,
                           struct extension *extension, bool *fits)
{
    struct vd_qcow2_disk_extension disk;
    *fits = true;
    if (area_bytes - *at < sizeof(disk))
        return false;
    memcpy(&disk, area + *at, sizeof(disk));
    extension->type = be32_get(disk.type);
    extension->length = be32_get(disk.bytes);
    extension->bytes = area + *at + sizeof(disk);
    if (extension->type == VD_QCOW2_EXT_END)
        return false;
    if (extension->length > area_bytes - *at - sizeof(disk)) {
        *fits = false;
        return false;
    }
    *at += sizeof(disk) + (size_t)extension->length;
    *at = (size_t)vd_min(vd_round_up(*at, EXTENSION_ALIGN), area_bytes);
    return true;
}

int vd_qcow2_take_string(const char *what, const uint8_t *text, size_t length, char **string,
                         struct vdisk_error *err)
{
    *string = NULL;
    while (length && text[length - 1] == 0)
        length--;
    if (length == 0)
        return 0;
    if (memchr(text, 0, length))
        return vd_err_set(err, EBADMSG, "header: %s: has a NUL in it", what);
    *string = malloc(length + 1);
    if (!*string)
        return vd_err_nomem(err, what);
    memcpy(*string, text, length);
    (*string)[length] = '\0';
    return 0;
}

static int check_bitmaps(const struct vd_qcow2_disk_bitmaps *disk,
                         const struct vd_qcow2_header *header, struct vdisk_error *err)
{
    uint32_t entries = be32_get(disk->entries);
    uint32_t reserved = be32_get(disk->reserved);
    uint64_t bytes = be64_get(disk->directory_bytes);
    uint64_t offset = be64_get(disk->directory_offset);
    if (entries == 0 || entries > VD_QCOW2_BITMAPS_MAX)
        return vd_err_set(err, EBADMSG, "bitmaps extension: %" PRIu32 " bitmaps: must be 1 to %u",
                          entries, VD_QCOW2_BITMAPS_MAX);
    if (reserved)
        return vd_err_set(err, EBADMSG,
                          "bitmaps extension: reserved field 0x%" PRIx32 ": must be 0", reserved);
    if (bytes < entries * sizeof(struct vd_qcow2_disk_bitmap) ||
        bytes > entries * BITMAP_ENTRY_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "bitmaps extension: directory of %" PRIu64 " bytes: with %" PRIu32
                          " bitmaps it must have %" PRIu64 " to %" PRIu64,
                          bytes, entries, entries * (uint64_t)sizeof(struct vd_qcow2_disk_bitmap),
                          entries * BITMAP_ENTRY_BYTES_MAX);
    uint64_t cluster_bytes = UINT64_C(1) << header->fields.cluster_bits;
    if (offset == 0 || !vd_is_aligned(offset, cluster_bytes) ||
        !vd_range_is_within(vd_range(offset, bytes), UINT64_C(1) << VD_QCOW2_OFFSET_BITS))
        return vd_err_set(err, EBADMSG,
                          "bitmaps extension: directory at offset %" PRIu64
                          ": must be a multiple of the cluster size of %" PRIu64 ", and not 0",
                          offset, cluster_bytes);
    return 0;
}

/* N1.  An extension for bitmaps too, if it is one that we can only preserve. */
static int take_other(const struct extension *extension, struct vd_qcow2_header *header,
                      struct vdisk_error *err)
{
    size_t entries = header->other_entries + 1;
    struct vd_qcow2_extension *others = realloc(header->others, entries * sizeof(*others));
    if (!others)
        return vd_err_nomem(err, "the extensions of a header");
    header->others = others;
    struct vd_qcow2_extension *other = &others[header->other_entries];
    *other = (struct vd_qcow2_extension){.type = extension->type, .length = extension->length};
    other->bytes = vd_alloc_array(extension->length, 1);
    if (!other->bytes)
        return vd_err_nomem(err, "an extension of a header");
    memcpy(other->bytes, extension->bytes, extension->length);
    header->other_entries = entries;
    return 0;
}

static int take_bitmaps(const struct extension *extension, unsigned flags,
                        struct vd_qcow2_header *header, struct vdisk_error *err)
{
    struct vd_qcow2_bitmaps_extension *bitmaps = &header->bitmaps;
    struct vd_qcow2_disk_bitmaps disk;
    bitmaps->is_present = true;
    bitmaps->is_draft = extension->length == BITMAPS_DRAFT_BYTES;
    if (bitmaps->is_draft)
        return take_other(extension, header, err);
    struct vdisk_error why = {0};
    int ret = 0;
    if (extension->length != sizeof(disk)) {
        ret = vd_err_set(&why, EBADMSG, "bitmaps extension: %" PRIu32 " bytes: must be %zu",
                         extension->length, sizeof(disk));
    } else {
        memcpy(&disk, extension->bytes, sizeof(disk));
        bitmaps->entries = be32_get(disk.entries);
        bitmaps->directory_bytes = be64_get(disk.directory_bytes);
        bitmaps->directory_offset = be64_get(disk.directory_offset);
        if (header->fields.autoclear & VD_QCOW2_BITMAPS)
            ret = check_bitmaps(&disk, header, &why);
    }
    if (ret == 0)
        return 0;
    bitmaps->is_wrong = true;
    if (!(flags & VD_QCOW2_HEADER_CHECK))
        return vd_err_set(err, why.code, "header: %s", why.message);
    return take_other(extension, header, err);
}

static int take_crypto(const struct extension *extension, struct vd_qcow2_header *header,
                       struct vdisk_error *err)
{
    struct vd_qcow2_disk_crypto disk;
    if (extension->length != sizeof(disk))
        return vd_err_set(err, EBADMSG,
                          "header: encryption extension: %" PRIu32 " bytes: must be %zu",
                          extension->length, sizeof(disk));
    memcpy(&disk, extension->bytes, sizeof(disk));
    header->crypto.is_present = true;
    header->crypto.offset = be64_get(disk.offset);
    header->crypto.length = be64_get(disk.bytes);
    return 0;
}

/* Those that are known appear once. */
static int check_first(bool is_there, const char *what, struct vdisk_error *err)
{
    return is_there ? vd_err_set(err, EBADMSG, "header: there are two extensions for %s", what) : 0;
}

static int take(const struct extension *extension, unsigned flags, struct vd_qcow2_header *header,
                struct vdisk_error *err)
{
    int ret;
    switch (extension->type) {
    case VD_QCOW2_EXT_BACKING_FORMAT:
        ret = check_first(header->backing_format != NULL, "the backing file's format", err);
        return ret < 0 ? ret
                       : vd_qcow2_take_string("format of the backing file", extension->bytes,
                                              extension->length, &header->backing_format, err);
    case VD_QCOW2_EXT_DATA_FILE:
        ret = check_first(header->data_file != NULL, "the data file's name", err);
        return ret < 0 ? ret
                       : vd_qcow2_take_string("name of the data file", extension->bytes,
                                              extension->length, &header->data_file, err);
    case VD_QCOW2_EXT_BITMAPS:
        ret = check_first(header->bitmaps.is_present, "bitmaps", err);
        return ret < 0 ? ret : take_bitmaps(extension, flags, header, err);
    case VD_QCOW2_EXT_CRYPTO:
        ret = check_first(header->crypto.is_present, "encryption", err);
        return ret < 0 ? ret : take_crypto(extension, header, err);
    default:
        return take_other(extension, header, err);
    }
}

int vd_qcow2_extensions_read(const uint8_t *area, size_t area_bytes, unsigned flags,
                             struct vd_qcow2_header *header, struct vdisk_error *err)
{
    struct extension extension;
    size_t at = 0, start = 0;
    bool fits;
    int ret = 0;
    while (ret == 0 && next_extension(area, area_bytes, &at, &extension, &fits)) {
        ret = take(&extension, flags, header, err);
        start = at;
    }
    if (ret == 0 && !fits)
        ret = vd_err_set(err, EBADMSG,
                         "header: extension 0x%" PRIx32 " of %" PRIu32
                         " bytes: there are only %zu before the end of the extensions",
                         extension.type, extension.length,
                         area_bytes - start - sizeof(struct vd_qcow2_disk_extension));
    return ret;
}

bool vd_qcow2_feature_name(const uint8_t *area, size_t area_bytes, unsigned bit, char *name)
{
    struct extension extension;
    struct vd_qcow2_disk_feature_name feature;
    size_t at = 0;
    bool fits;
    while (next_extension(area, area_bytes, &at, &extension, &fits)) {
        if (extension.type != VD_QCOW2_EXT_FEATURE_NAMES)
            continue;
        for (size_t i = 0; i + sizeof(feature) <= extension.length; i += sizeof(feature)) {
            memcpy(&feature, extension.bytes + i, sizeof(feature));
            if (feature.kind != 0 || feature.bit != bit)
                continue;
            /* Printed as it is in the file: nothing that a terminal would obey. */
            for (size_t k = 0; k < sizeof(feature.name); k++)
                name[k] = feature.name[k] >= ' ' && feature.name[k] < 0x7f ? feature.name[k]
                          : feature.name[k]                                ? '?'
                                                                           : '\0';
            name[sizeof(feature.name)] = '\0';
            return name[0] != '\0';
        }
    }
    return false;
}

static void put(struct vd_qcow2_cursor *cursor, uint32_t type, const void *bytes, size_t length)
{
    struct vd_qcow2_disk_extension disk = {be32_of(type), be32_of((uint32_t)length)};
    size_t whole = sizeof(disk) + (size_t)vd_round_up(length, EXTENSION_ALIGN);
    if (cursor->is_full || cursor->end - cursor->at < whole) {
        cursor->is_full = true;
        return;
    }
    memcpy(cursor->bytes + cursor->at, &disk, sizeof(disk));
    if (length)
        memcpy(cursor->bytes + cursor->at + sizeof(disk), bytes, length);
    cursor->at += whole;
}

/* Is the extension for bitmaps among the others, as it was found? */
static bool has_raw_bitmaps(const struct vd_qcow2_header *header)
{
    return header->bitmaps.is_present && (header->bitmaps.is_draft || header->bitmaps.is_wrong);
}

void vd_qcow2_extensions_put_first(const struct vd_qcow2_header *header,
                                   struct vd_qcow2_cursor *cursor)
{
    const struct vd_qcow2_bitmaps_extension *bitmaps = &header->bitmaps;
    if (header->backing_format)
        put(cursor, VD_QCOW2_EXT_BACKING_FORMAT, header->backing_format,
            strlen(header->backing_format));
    if (bitmaps->is_present && !has_raw_bitmaps(header)) {
        struct vd_qcow2_disk_bitmaps disk = {
            .entries = be32_of(bitmaps->entries),
            .directory_bytes = be64_of(bitmaps->directory_bytes),
            .directory_offset = be64_of(bitmaps->directory_offset),
        };
        put(cursor, VD_QCOW2_EXT_BITMAPS, &disk, sizeof(disk));
    }
    if (header->crypto.is_present) {
        struct vd_qcow2_disk_crypto disk = {
            .offset = be64_of(header->crypto.offset),
            .bytes = be64_of(header->crypto.length),
        };
        put(cursor, VD_QCOW2_EXT_CRYPTO, &disk, sizeof(disk));
    }
    if (header->data_file)
        put(cursor, VD_QCOW2_EXT_DATA_FILE, header->data_file, strlen(header->data_file));
}

void vd_qcow2_extensions_put_others(const struct vd_qcow2_header *header,
                                    struct vd_qcow2_cursor *cursor)
{
    for (size_t i = 0; i < header->other_entries; i++)
        if (header->others[i].type != VD_QCOW2_EXT_BITMAPS || has_raw_bitmaps(header))
            put(cursor, header->others[i].type, header->others[i].bytes, header->others[i].length);
}
