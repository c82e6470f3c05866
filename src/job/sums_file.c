/* SPDX-License-Identifier: MIT */
/* The file of SHA-256 sums beside a GOW master. */
#include "job/sums_file.h"

#include <inttypes.h>
#include <stdlib.h>

#include "util/mem.h"

static const uint8_t magic[VD_SUMS_MAGIC_BYTES] = "GOWSUMS";

static int check_header(const char *name, const struct vd_sums_disk_header *header, size_t length,
                        struct vdisk_error *err)
{
    if (memcmp(header->magic, magic, sizeof(magic)) != 0)
        return vd_err_set(err, EBADMSG, "%s: no file of sums: no magic at offset 0", name);
    if (le32_get(header->version) != VD_SUMS_VERSION)
        return vd_err_set(err, ENOTSUP, "%s: sums of version %" PRIu32 ", known is %u", name,
                          le32_get(header->version), VD_SUMS_VERSION);
    if (le32_get(header->reserved0) || le32_get(header->reserved1))
        return vd_err_set(err, EBADMSG, "%s: sums: reserved fields are not zero", name);

    struct vdisk_error inner = {0};
    uint64_t size = le64_get(header->size);
    if (vd_gow_check_size(3, size, &inner) < 0)
        return vd_err_set(err, EBADMSG, "%s: sums: %s", name, inner.message);
    uint32_t count = le32_get(header->count);
    if (count > vd_gow_block_count(size))
        return vd_err_set(err, EBADMSG, "%s: %" PRIu32 " sums, but the disk has %" PRIu32 " blocks",
                          name, count, vd_gow_block_count(size));
    if (length != vd_sums_file_bytes(count))
        return vd_err_set(err, EBADMSG, "%s: %zu bytes, %" PRIu32 " sums take %zu: is it complete?",
                          name, length, count, vd_sums_file_bytes(count));
    return 0;
}

static uint32_t entry_block(const struct vd_sums *sums, uint32_t index)
{
    struct le32 block;
    memcpy(&block, sums->entries + (size_t)index * sizeof(struct vd_sums_disk_entry),
           sizeof(block));
    return le32_get(block);
}

static int check_entries(const char *name, const struct vd_sums *sums, struct vdisk_error *err)
{
    uint32_t blocks = vd_gow_block_count(sums->size);
    uint32_t next = 0; /* smallest block that the next entry may be about */
    for (uint32_t i = 0; i < sums->count; i++) {
        uint32_t block = entry_block(sums, i);
        if (block < next || block >= blocks)
            return vd_err_set(err, EBADMSG,
                              "%s: sum %" PRIu32 " is of block %" PRIu32
                              ": not in order, or past the %" PRIu32 " blocks of the disk",
                              name, i, block, blocks);
        next = block + 1;
    }
    return 0;
}

static int check_seal(const char *name, const struct vd_sums *sums, struct vdisk_error *err)
{
    uint8_t digest[VD_SHA256_BYTES];
    size_t sealed = sums->length - VD_SHA256_BYTES;
    int ret = vd_sha256(sums->bytes, sealed, digest, err);
    if (ret == 0 && memcmp(digest, sums->bytes + sealed, sizeof(digest)) != 0)
        ret = vd_err_set(err, EBADMSG, "%s: the sum of the file itself is wrong: it was altered",
                         name);
    return ret;
}

int vd_sums_decode(const char *name, uint8_t *bytes, size_t length, struct vd_sums *sums,
                   struct vdisk_error *err)
{
    *sums = (struct vd_sums){.bytes = bytes, .length = length};
    struct vd_sums_disk_header header;
    if (length < vd_sums_file_bytes(0))
        return vd_err_set(err, EBADMSG, "%s: no file of sums: %zu bytes are too short", name,
                          length);
    memcpy(&header, bytes, sizeof(header));
    int ret = check_header(name, &header, length, err);
    if (ret < 0)
        return ret;
    memcpy(sums->uuid, header.uuid, sizeof(sums->uuid));
    sums->generation = le64_get(header.generation);
    sums->size = le64_get(header.size);
    memcpy(sums->versions_sha256, header.versions_sha256, sizeof(sums->versions_sha256));
    sums->count = le32_get(header.count);
    sums->entries = bytes + sizeof(header);
    ret = check_entries(name, sums, err);
    return ret < 0 ? ret : check_seal(name, sums, err);
}

void vd_sums_free(struct vd_sums *sums)
{
    free(sums->bytes);
    *sums = (struct vd_sums){0};
}

/* The digest of @block, or NULL. */
static const uint8_t *find(const struct vd_sums *sums, uint32_t block)
{
    uint32_t low = 0, high = sums->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (entry_block(sums, middle) < block)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == sums->count || entry_block(sums, low) != block)
        return NULL;
    return sums->entries + (size_t)low * sizeof(struct vd_sums_disk_entry) + sizeof(struct le32);
}

bool vd_sums_has(const struct vd_sums *sums, uint32_t block)
{
    return find(sums, block) != NULL;
}

int vd_sums_verify(const struct vd_sums *sums, uint32_t block, const uint8_t *data,
                   struct vdisk_error *err)
{
    uint8_t digest[VD_SHA256_BYTES];
    const uint8_t *wanted = find(sums, block);
    if (!wanted)
        return vd_err_set(err, EBADMSG,
                          "block %" PRIu32 " of the master has data, but no sum: not written",
                          block);
    int ret = vd_sha256(data, VD_GOW_BLOCK_BYTES, digest, err);
    if (ret == 0 && memcmp(digest, wanted, sizeof(digest)) != 0)
        ret = vd_err_set(err, EBADMSG,
                         "block %" PRIu32 " (offset %" PRIu64
                         " of the disk) does not match its sum: it was altered; not written",
                         block, vd_gow_guest_offset(block));
    return ret;
}

uint8_t *vd_sums_encode(const struct vd_gow_header *header, const struct le32 *versions,
                        uint32_t count, struct vdisk_error *err)
{
    uint8_t *bytes = calloc(1, vd_sums_file_bytes(count));
    if (!bytes) {
        vd_err_nomem(err, "the sums");
        return NULL;
    }
    struct vd_sums_disk_header disk = {
        .version = le32_of(VD_SUMS_VERSION),
        .generation = le64_of(header->generation),
        .size = le64_of(header->size),
        .count = le32_of(count),
    };
    memcpy(disk.magic, magic, sizeof(disk.magic));
    memcpy(disk.uuid, header->uuid, sizeof(disk.uuid));
    size_t versions_bytes = (size_t)vd_gow_block_count(header->size) * sizeof(*versions);
    if (vd_sha256(versions, versions_bytes, disk.versions_sha256, err) < 0) {
        free(bytes);
        return NULL;
    }
    memcpy(bytes, &disk, sizeof(disk));
    return bytes;
}

static int compare_entries(const void *a, const void *b)
{
    const struct vd_sums_disk_entry *x = a, *y = b;
    uint32_t i = le32_get(x->block), j = le32_get(y->block);
    return i < j ? -1 : i > j;
}

int vd_sums_seal(uint8_t *bytes, uint32_t count, struct vdisk_error *err)
{
    qsort(vd_sums_entries(bytes), count, sizeof(struct vd_sums_disk_entry), compare_entries);
    size_t sealed = vd_sums_file_bytes(count) - VD_SHA256_BYTES;
    return vd_sha256(bytes, sealed, bytes + sealed, err);
}
