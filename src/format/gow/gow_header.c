/* SPDX-License-Identifier: MIT */
/* The header of a GOW image: decode, validate, encode. */
#include "format/gow/gow_header.h"

#include <errno.h>
#include <inttypes.h>

#include "util/iov.h"

static const uint8_t magic[VD_GOW_MAGIC_BYTES] = {'G', 'O', 'W', 0};

bool vd_gow_header_is_here(const uint8_t *head, size_t head_bytes, uint32_t version)
{
    struct vd_gow_disk_header disk;
    if (head_bytes < sizeof(disk))
        return false;
    memcpy(&disk, head, sizeof(disk));
    return memcmp(disk.magic, magic, sizeof(magic)) == 0 && le32_get(disk.version) == version;
}

void vd_gow_header_decode(const uint8_t *head, struct vd_gow_header *header)
{
    struct vd_gow_disk_header disk;
    memcpy(&disk, head, sizeof(disk));
    *header = (struct vd_gow_header){
        .version = le32_get(disk.version),
        .flags = le32_get(disk.flags),
        .size = le64_get(disk.size),
        .generation = le64_get(disk.generation),
        .reserved0 = le32_get(disk.reserved0),
    };
    memcpy(header->uuid, disk.uuid, sizeof(header->uuid));
    memcpy(header->reserved1, disk.reserved1, sizeof(header->reserved1));
    if (header->version == 3)
        memcpy(header->intent, head + VD_GOW_HEADER_BYTES, sizeof(header->intent));
}

int vd_gow_check_size(uint32_t version, uint64_t size, struct vdisk_error *err)
{
    struct vd_gow_layout layout = vd_gow_layout_of(version);
    if (size > layout.size_max)
        return vd_err_set(err, EINVAL,
                          "size of %" PRIu64 " bytes: the limit of GOW version %" PRIu32
                          " is %" PRIu64 " (%" PRIu64 " GiB)",
                          size, version, layout.size_max, layout.size_max >> 30);
    if (!vd_is_aligned(size, VD_GOW_SIZE_UNIT))
        return vd_err_set(err, EINVAL, "size of %" PRIu64 " bytes: must be a multiple of %u", size,
                          VD_GOW_SIZE_UNIT);
    return 0;
}

static int validate_reserved(const struct vd_gow_header *header, struct vdisk_error *err)
{
    if (header->reserved0)
        return vd_err_set(err, EBADMSG,
                          "header: reserved field at offset 20 is 0x%" PRIx32 ", must be zero",
                          header->reserved0);
    if (!vd_buffer_is_zero(header->reserved1, sizeof(header->reserved1)))
        return vd_err_set(err, EBADMSG,
                          "header: reserved bytes at offset 48 to 63 are not all zero");
    return 0;
}

int vd_gow_header_validate(const uint8_t *head, const struct vd_gow_header *header, bool lenient,
                           struct vdisk_error *err)
{
    if (memcmp(head, magic, sizeof(magic)) != 0)
        return vd_err_set(err, EBADMSG, "not a GOW image: no magic at offset 0");
    if (!vd_gow_version_is_known(header->version))
        return vd_err_set(err, ENOTSUP, "header: version %" PRIu32 ": known are 1, 2 and 3",
                          header->version);

    uint32_t known = VD_GOW_FLAG_DIRTY;
    if (header->version == 3)
        known |= VD_GOW_FLAG_INCOMPLETE | VD_GOW_FLAG_REPLICA;
    if (header->flags & ~known)
        return vd_err_set(err, ENOTSUP,
                          "header: unknown flags 0x%" PRIx32 ": a newer program may know them",
                          header->flags & ~known);

    struct vdisk_error inner = {0};
    if (vd_gow_check_size(header->version, header->size, &inner) < 0)
        return vd_err_set(err, EBADMSG, "header: %s", inner.message);
    return lenient ? 0 : validate_reserved(header, err);
}

size_t vd_gow_header_encode(const struct vd_gow_header *header, uint8_t *head)
{
    struct vd_gow_disk_header disk = {
        .version = le32_of(header->version),
        .size = le64_of(header->size),
        .flags = le32_of(header->flags),
        .reserved0 = le32_of(header->reserved0),
        .generation = le64_of(header->generation),
    };
    memcpy(disk.magic, magic, sizeof(magic));
    memcpy(disk.uuid, header->uuid, sizeof(disk.uuid));
    memcpy(disk.reserved1, header->reserved1, sizeof(disk.reserved1));
    memcpy(head, &disk, sizeof(disk));
    if (header->version != 3)
        return VD_GOW_HEADER_BYTES;
    memcpy(head + VD_GOW_HEADER_BYTES, header->intent, sizeof(header->intent));
    return VD_GOW_HEAD_BYTES;
}

int vd_gow_header_read(struct vd_storage *file, bool lenient, struct vd_gow_header *header,
                       struct vdisk_error *err)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(file, &file_bytes, err);
    if (ret < 0)
        return ret;
    /* The smallest image is far longer than this. */
    if (file_bytes < VD_GOW_HEAD_BYTES)
        return vd_err_set(err, EBADMSG,
                          "not a GOW image: %" PRIu64 " bytes are too short for a header",
                          file_bytes);
    uint8_t head[VD_GOW_HEAD_BYTES];
    ret = vd_storage_pread(file, head, sizeof(head), 0, err);
    if (ret < 0)
        return ret;
    vd_gow_header_decode(head, header);
    return vd_gow_header_validate(head, header, lenient, err);
}

int vd_gow_header_write(struct vd_storage *file, const struct vd_gow_header *header,
                        struct vdisk_error *err)
{
    uint8_t head[VD_GOW_HEAD_BYTES];
    size_t length = vd_gow_header_encode(header, head);
    return vd_storage_pwrite(file, head, length, 0, err);
}
