/* SPDX-License-Identifier: MIT */
/* The header of an add-cow file: decode, validate, encode. */
#include "format/addcow/addcow_header.h"

#include <inttypes.h>
#include <string.h>

#include "util/mem.h"

static const uint8_t magic[VD_ADDCOW_MAGIC_BYTES] = {'A', 'D', 'D', '_', 'C', 'O', 'W', 0xFF};
static const uint8_t later_magic[VD_ADDCOW_LATER_MAGIC_BYTES] = {'A', 'C', 'O', 'W'};

static bool begins_with(const uint8_t *head, size_t head_bytes, const uint8_t *what, size_t length)
{
    return head_bytes >= length && memcmp(head, what, length) == 0;
}

bool vd_addcow_header_is_here(const uint8_t *head, size_t head_bytes)
{
    return begins_with(head, head_bytes, magic, sizeof(magic)) ||
           begins_with(head, head_bytes, later_magic, sizeof(later_magic));
}

static struct vd_addcow_name decode_name(const struct vd_addcow_disk_name *disk)
{
    return (struct vd_addcow_name){.offset = le32_get(disk->offset),
                                   .length = le32_get(disk->length)};
}

static struct vd_addcow_disk_name encode_name(const struct vd_addcow_name *name)
{
    return (struct vd_addcow_disk_name){.offset = le32_of(name->offset),
                                        .length = le32_of(name->length)};
}

static void decode_later(const uint8_t *head, struct vd_addcow_header *header)
{
    struct vd_addcow_disk_later_header disk;
    memcpy(&disk, head, sizeof(disk));
    *header = (struct vd_addcow_header){
        .is_later = true,
        .cluster_bits = le32_get(disk.cluster_bits),
        .header_bytes = le32_get(disk.header_bytes),
        .features = le64_get(disk.features),
        .compat_features = le64_get(disk.compat_features),
        .backing = decode_name(&disk.backing),
        .data = decode_name(&disk.data),
    };
    memcpy(header->backing_format, disk.backing_format, sizeof(disk.backing_format));
    memcpy(header->data_format, disk.data_format, sizeof(disk.data_format));
}

int vd_addcow_header_decode(const uint8_t *head, size_t head_bytes, struct vd_addcow_header *header,
                            struct vdisk_error *err)
{
    bool is_later = begins_with(head, head_bytes, later_magic, sizeof(later_magic));
    struct vd_addcow_disk_header disk;
    size_t wanted = is_later ? sizeof(struct vd_addcow_disk_later_header) : sizeof(disk);
    if (!vd_addcow_header_is_here(head, head_bytes))
        return vd_err_set(err, EBADMSG, "not an add-cow image: no magic at offset 0");
    if (head_bytes < wanted)
        return vd_err_set(err, EBADMSG, "header: the file has %zu bytes: it is cut off before %zu",
                          head_bytes, wanted);
    if (is_later) {
        decode_later(head, header);
        return 0;
    }
    memcpy(&disk, head, sizeof(disk));
    *header = (struct vd_addcow_header){
        .version = le32_get(disk.version),
        .cluster_bits = VD_ADDCOW_CLUSTER_BITS,
        .header_bytes = VD_ADDCOW_HEADER_BYTES,
        .features = le64_get(disk.features),
        .backing = decode_name(&disk.backing),
        .data = decode_name(&disk.data),
        .data_format = "raw",
    };
    return 0;
}

void vd_addcow_header_encode(const struct vd_addcow_header *header, uint8_t *head)
{
    struct vd_addcow_disk_header disk = {
        .version = le32_of(header->version),
        .backing = encode_name(&header->backing),
        .data = encode_name(&header->data),
        .features = le64_of(header->features),
    };
    assert(!header->is_later);
    memcpy(disk.magic, magic, sizeof(magic));
    memcpy(head, &disk, sizeof(disk));
}

/* add-cow §3.2: where may a name lie? */
static int validate_name(const struct vd_addcow_header *header, const struct vd_addcow_name *name,
                         const char *which, struct vdisk_error *err)
{
    uint32_t first = header->is_later ? sizeof(struct vd_addcow_disk_later_header)
                                      : sizeof(struct vd_addcow_disk_header);
    uint32_t end = header->header_bytes;
    if (name->offset < first || name->offset > end - 2)
        return vd_err_set(err, EBADMSG,
                          "header: the name of the %s file is at offset %" PRIu32
                          ": must be from %" PRIu32 " to %" PRIu32,
                          which, name->offset, first, end - 2);
    if (name->length == 0)
        return vd_err_set(err, EBADMSG, "header: the name of the %s file is empty", which);
    if (name->length >= end - first || name->length > end - name->offset)
        return vd_err_set(err, EBADMSG,
                          "header: the name of the %s file has %" PRIu32 " bytes at offset %" PRIu32
                          ": the header ends at %" PRIu32,
                          which, name->length, name->offset, end);
    if (name->length > VD_ADDCOW_LATER_NAME_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "header: the name of the %s file has %" PRIu32 " bytes: the limit is %u",
                          which, name->length, VD_ADDCOW_LATER_NAME_BYTES_MAX);
    return 0;
}

const char *vd_addcow_header_stray_length(const struct vd_addcow_header *header)
{
    if (header->backing.offset == 0 && header->backing.length != 0)
        return "the name of the backing file has a length, and no offset";
    return NULL;
}

const char *vd_addcow_header_contradiction(const struct vd_addcow_header *header)
{
    bool says_so = (header->features & VD_ADDCOW_FEATURE_BACKING) != 0;
    if (header->is_later || says_so == (header->backing.offset != 0))
        return NULL;
    return says_so ? "feature 0x1 says that there is a backing file, and no name is recorded"
                   : "the name of a backing file is recorded, and feature 0x1 says there is none";
}

static int validate_names(const struct vd_addcow_header *header, bool lenient,
                          struct vdisk_error *err)
{
    const struct vd_addcow_name *backing = &header->backing;
    int ret = validate_name(header, &header->data, "raw", err);
    if (ret == 0 && backing->offset)
        ret = validate_name(header, backing, "backing", err);
    if (ret < 0)
        return ret;
    if (backing->offset && vd_ranges_overlap(vd_range(backing->offset, backing->length),
                                             vd_range(header->data.offset, header->data.length)))
        return vd_err_set(
            err, EBADMSG,
            "header: the names of the backing file (%" PRIu32 " bytes at offset %" PRIu32
            ") and of the raw file (%" PRIu32 " at %" PRIu32 ") overlap",
            backing->length, backing->offset, header->data.length, header->data.offset);
    if (lenient)
        return 0;
    const char *finding = vd_addcow_header_contradiction(header);
    if (!finding)
        finding = vd_addcow_header_stray_length(header);
    return finding
               ? vd_err_set(err, EBADMSG, "header: %s: 'vdisk check -r all' can mend that", finding)
               : 0;
}

static int validate_v10(const struct vd_addcow_header *header, struct vdisk_error *err)
{
    uint64_t known = VD_ADDCOW_FEATURE_BACKING | VD_ADDCOW_FEATURE_BACKING_RAW;
    if (header->version != 1)
        return vd_err_set(err, ENOTSUP, "header: version %" PRIu32 ": only 1 is known",
                          header->version);
    if (header->features & ~known)
        return vd_err_set(err, ENOTSUP,
                          "header: unknown features 0x%" PRIx64 ": a newer program may know them",
                          header->features & ~known);
    return 0;
}

/* Printable ASCII up to the first NUL, or all 16 bytes. */
static int validate_format_name(const char *name, const char *which, struct vdisk_error *err)
{
    for (const char *at = name; *at; at++)
        if (*at <= ' ' || *at > '~')
            return vd_err_set(err, EBADMSG,
                              "header: the format of the %s file has the byte 0x%02x: must be "
                              "letters",
                              which, (unsigned)(unsigned char)*at);
    return 0;
}

static int validate_later(const struct vd_addcow_header *header, struct vdisk_error *err)
{
    if (header->features)
        return vd_err_set(err, ENOTSUP,
                          "header: unknown features 0x%" PRIx64 ": a newer program may know them",
                          header->features);
    if (header->cluster_bits < VD_ADDCOW_LATER_CLUSTER_BITS_MIN ||
        header->cluster_bits > VD_ADDCOW_LATER_CLUSTER_BITS_MAX)
        return vd_err_set(err, EBADMSG, "header: cluster bits are %" PRIu32 ": must be %u to %u",
                          header->cluster_bits, VD_ADDCOW_LATER_CLUSTER_BITS_MIN,
                          VD_ADDCOW_LATER_CLUSTER_BITS_MAX);
    if (header->header_bytes < VD_ADDCOW_LATER_HEADER_BYTES_MIN ||
        header->header_bytes > VD_ADDCOW_LATER_HEADER_BYTES_MAX ||
        !vd_is_aligned(header->header_bytes, VD_ADDCOW_SIZE_UNIT))
        return vd_err_set(err, EBADMSG,
                          "header: its size is %" PRIu32 ": must be a multiple of %u from %u to %u",
                          header->header_bytes, VD_ADDCOW_SIZE_UNIT,
                          VD_ADDCOW_LATER_HEADER_BYTES_MIN, VD_ADDCOW_LATER_HEADER_BYTES_MAX);
    int ret = validate_format_name(header->backing_format, "backing", err);
    if (ret == 0)
        ret = validate_format_name(header->data_format, "image", err);
    if (ret < 0)
        return ret;
    if (header->backing.offset == 0 && header->backing_format[0])
        return vd_err_set(err, EBADMSG,
                          "header: a format of the backing file ('%s'), and no name of it",
                          header->backing_format);
    if (header->data_format[0] == '\0')
        return vd_err_set(err, EBADMSG, "header: the format of the image file is empty");
    if (strcmp(header->data_format, "raw") != 0)
        return vd_err_set(err, ENOTSUP,
                          "header: the format of the image file is '%s': only raw is supported",
                          header->data_format);
    return 0;
}

int vd_addcow_header_validate(const struct vd_addcow_header *header, bool lenient,
                              struct vdisk_error *err)
{
    int ret = header->is_later ? validate_later(header, err) : validate_v10(header, err);
    return ret < 0 ? ret : validate_names(header, lenient, err);
}

int vd_addcow_header_read(struct vd_storage *file, struct vd_addcow_header *header,
                          struct vdisk_error *err)
{
    uint8_t head[sizeof(struct vd_addcow_disk_later_header)];
    uint64_t file_bytes;
    int ret = vd_storage_size(file, &file_bytes, err);
    if (ret < 0)
        return ret;
    size_t head_bytes = (size_t)vd_min(file_bytes, sizeof(head));
    ret = vd_storage_pread(file, head, head_bytes, 0, err);
    return ret < 0 ? ret : vd_addcow_header_decode(head, head_bytes, header, err);
}

static int read_name(struct vd_storage *file, const struct vd_addcow_name *name, const char *which,
                     char **text, struct vdisk_error *err)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(file, &file_bytes, err);
    if (ret < 0)
        return ret;
    if (!vd_range_is_within(vd_range(name->offset, name->length), file_bytes))
        return vd_err_set(err, EBADMSG,
                          "header: the file of %" PRIu64
                          " bytes is cut off within the name of the %s file",
                          file_bytes, which);
    CLEANUP_FREE char *bytes = vd_alloc_array((size_t)name->length + 1, 1);
    if (!bytes)
        return vd_err_nomem(err, "a name");
    ret = vd_storage_pread(file, bytes, name->length, name->offset, err);
    if (ret == 0 && strlen(bytes) != name->length)
        ret = vd_err_set(err, EBADMSG, "header: the name of the %s file has a zero byte in it",
                         which);
    if (ret == 0)
        *text = STEAL_PTR(bytes);
    return ret;
}

int vd_addcow_header_read_names(struct vd_storage *file, const struct vd_addcow_header *header,
                                char **backing, char **data, struct vdisk_error *err)
{
    CLEANUP_FREE char *backing_name = NULL;
    CLEANUP_FREE char *data_name = NULL;
    int ret = read_name(file, &header->data, "raw", &data_name, err);
    if (ret == 0 && header->backing.offset)
        ret = read_name(file, &header->backing, "backing", &backing_name, err);
    if (ret < 0)
        return ret;
    if (backing_name && strcmp(backing_name, data_name) == 0)
        return vd_err_set(err, EBADMSG,
                          "header: '%s' is named as the backing file and as the raw file",
                          data_name);
    *backing = STEAL_PTR(backing_name);
    *data = STEAL_PTR(data_name);
    return 0;
}

const char *vd_addcow_header_backing_format(const struct vd_addcow_header *header)
{
    if (!vd_addcow_header_has_backing(header))
        return NULL;
    if (header->is_later)
        return header->backing_format[0] ? header->backing_format : NULL;
    return header->features & VD_ADDCOW_FEATURE_BACKING_RAW ? "raw" : NULL;
}
