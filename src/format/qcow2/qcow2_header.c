/* SPDX-License-Identifier: MIT */
/* The header of a qcow2 image: read and validate. */
#include "format/qcow2/qcow2_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_extensions.h"
#include "util/mem.h"

#define FIRST_READ_BYTES 4096u

bool vd_qcow2_header_is_here(const uint8_t *head, size_t head_bytes)
{
    struct be32 magic, version;
    if (head_bytes < VD_QCOW2_V2_HEADER_BYTES)
        return false;
    memcpy(&magic, head, sizeof(magic));
    memcpy(&version, head + sizeof(magic), sizeof(version));
    /* Version 1 is another format, qcow. */
    return be32_get(magic) == VD_QCOW2_MAGIC && be32_get(version) >= 2;
}

/* The start of the file: its first cluster, as far as it is needed. */
struct head {
    uint8_t *bytes; /* owned */
    size_t length;
    size_t cluster_bytes; /* of the first cluster, what is in the file */
    uint64_t file_bytes;
};

static int load(struct vd_storage *file, struct head *head, size_t length, struct vdisk_error *err)
{
    uint8_t *bytes = realloc(head->bytes, length);
    if (!bytes)
        return vd_err_nomem(err, "the header of a qcow2 image");
    head->bytes = bytes;
    int ret =
        vd_storage_pread(file, bytes + head->length, length - head->length, head->length, err);
    if (ret == 0)
        head->length = length;
    return ret;
}

static void decode(const struct head *head, struct vd_qcow2_fields *fields)
{
    struct vd_qcow2_disk_header disk = {0};
    memcpy(&disk, head->bytes, (size_t)vd_min(sizeof(disk), head->length));
    *fields = (struct vd_qcow2_fields){
        .version = be32_get(disk.version),
        .backing_offset = be64_get(disk.backing_offset),
        .backing_bytes = be32_get(disk.backing_bytes),
        .cluster_bits = be32_get(disk.cluster_bits),
        .size = be64_get(disk.size),
        .crypt_method = be32_get(disk.crypt_method),
        .l1_entries = be32_get(disk.l1_entries),
        .l1_offset = be64_get(disk.l1_offset),
        .refcount_table_offset = be64_get(disk.refcount_table_offset),
        .refcount_table_clusters = be32_get(disk.refcount_table_clusters),
        .snapshot_entries = be32_get(disk.snapshot_entries),
        .snapshots_offset = be64_get(disk.snapshots_offset),
        .refcount_order = 4,
        .header_bytes = VD_QCOW2_V2_HEADER_BYTES,
    };
    if (fields->version < 3)
        return;
    fields->incompatible = be64_get(disk.incompatible);
    fields->compatible = be64_get(disk.compatible);
    fields->autoclear = be64_get(disk.autoclear);
    fields->refcount_order = be32_get(disk.refcount_order);
    fields->header_bytes = be32_get(disk.header_bytes);
    if (fields->header_bytes > VD_QCOW2_V3_HEADER_BYTES)
        fields->compression_type = disk.compression_type;
}

/* What has to be right before anything else is looked at. */
static int check_shape(const struct vd_qcow2_fields *fields, const struct head *head,
                       struct vdisk_error *err)
{
    if (fields->version != 2 && fields->version != 3)
        return vd_err_set(err, ENOTSUP, "header: version %" PRIu32 ": only 2 and 3 are known",
                          fields->version);
    if (fields->cluster_bits < VD_QCOW2_CLUSTER_BITS_MIN ||
        fields->cluster_bits > VD_QCOW2_CLUSTER_BITS_MAX)
        return vd_err_set(err, EBADMSG, "header: cluster bits %" PRIu32 ": must be %u to %u",
                          fields->cluster_bits, VD_QCOW2_CLUSTER_BITS_MIN,
                          VD_QCOW2_CLUSTER_BITS_MAX);
    uint32_t cluster_bytes = UINT32_C(1) << fields->cluster_bits;
    if (fields->version == 3 &&
        (fields->header_bytes < VD_QCOW2_V3_HEADER_BYTES || fields->header_bytes > cluster_bytes ||
         fields->header_bytes % 8 != 0))
        return vd_err_set(err, EBADMSG,
                          "header: length %" PRIu32
                          ": must be a multiple of 8 from %u to the cluster size of %" PRIu32,
                          fields->header_bytes, VD_QCOW2_V3_HEADER_BYTES, cluster_bytes);
    if (fields->header_bytes > head->file_bytes)
        return vd_err_set(err, EBADMSG,
                          "header: length %" PRIu32 ": the file has only %" PRIu64 " bytes",
                          fields->header_bytes, head->file_bytes);
    return 0;
}

static int check_backing(const struct vd_qcow2_fields *fields, const struct head *head,
                         struct vdisk_error *err)
{
    if (fields->backing_offset == 0 || fields->backing_bytes == 0)
        return 0;
    if (fields->backing_bytes > VD_QCOW2_NAME_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "header: name of the backing file of %" PRIu32 " bytes: the limit is %u",
                          fields->backing_bytes, VD_QCOW2_NAME_BYTES_MAX);
    if (fields->backing_offset < fields->header_bytes ||
        !vd_range_is_within(vd_range(fields->backing_offset, fields->backing_bytes),
                            head->cluster_bytes))
        return vd_err_set(err, EBADMSG,
                          "header: name of the backing file at offset %" PRIu64 ", %" PRIu32
                          " bytes: must lie between the header of %" PRIu32
                          " bytes and the end of the first cluster",
                          fields->backing_offset, fields->backing_bytes, fields->header_bytes);
    return 0;
}

/* Where the extensions have to end. */
static size_t area_end(const struct vd_qcow2_fields *fields, const struct head *head)
{
    if (fields->backing_offset == 0)
        return head->cluster_bytes;
    return (size_t)vd_min(vd_max(fields->backing_offset, fields->header_bytes),
                          head->cluster_bytes);
}

/* Is all there of what the header says? */
static bool is_complete(const struct vd_qcow2_fields *fields, const struct head *head)
{
    size_t end = area_end(fields, head);
    size_t at = fields->header_bytes;
    struct vd_qcow2_disk_extension extension;
    if (fields->backing_offset && fields->backing_offset + fields->backing_bytes > head->length)
        return false;
    while (at < end && end - at >= sizeof(extension)) {
        if (at + sizeof(extension) > head->length)
            return false;
        memcpy(&extension, head->bytes + at, sizeof(extension));
        uint32_t length = be32_get(extension.bytes);
        if (be32_get(extension.type) == VD_QCOW2_EXT_END || length > end - at)
            return true;
        at = (size_t)vd_round_up(at + sizeof(extension) + (uint64_t)length, 8);
    }
    return vd_min(at, end) <= head->length;
}

static int load_all(struct vd_storage *file, struct head *head, struct vd_qcow2_fields *fields,
                    struct vdisk_error *err)
{
    int ret = vd_storage_size(file, &head->file_bytes, err);
    if (ret < 0)
        return ret;
    if (head->file_bytes < VD_QCOW2_V2_HEADER_BYTES)
        return vd_err_set(err, EBADMSG,
                          "not a qcow2 image: %" PRIu64 " bytes are too short for a header",
                          head->file_bytes);
    ret = load(file, head, (size_t)vd_min(FIRST_READ_BYTES, head->file_bytes), err);
    if (ret < 0)
        return ret;
    decode(head, fields);
    struct be32 magic;
    memcpy(&magic, head->bytes, sizeof(magic));
    if (be32_get(magic) != VD_QCOW2_MAGIC)
        return vd_err_set(err, EBADMSG, "not a qcow2 image: no magic at offset 0");
    ret = check_shape(fields, head, err);
    if (ret < 0)
        return ret;
    head->cluster_bytes = (size_t)vd_min(UINT64_C(1) << fields->cluster_bits, head->file_bytes);
    ret = check_backing(fields, head, err);
    if (ret == 0 && head->length < head->cluster_bytes && !is_complete(fields, head))
        ret = load(file, head, head->cluster_bytes, err);
    return ret;
}

static int check_incompatible(const struct vd_qcow2_fields *fields, const struct head *head,
                              struct vdisk_error *err)
{
    uint64_t unknown = fields->incompatible & ~VD_QCOW2_INCOMPATIBLE_KNOWN;
    if (unknown == 0)
        return 0;
    char names[256] = "";
    size_t used = 0;
    size_t end = (size_t)vd_min(area_end(fields, head), head->length);
    for (unsigned bit = 0; bit < 64 && used < sizeof(names) - 64; bit++) {
        char name[sizeof(((struct vd_qcow2_disk_feature_name *)0)->name) + 1];
        if (!(unknown >> bit & 1))
            continue;
        if (!vd_qcow2_feature_name(head->bytes + fields->header_bytes, end - fields->header_bytes,
                                   bit, name))
            snprintf(name, sizeof(name), "bit %u", bit);
        used +=
            (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", name);
    }
    return vd_err_set(err, ENOTSUP,
                      "header: unknown incompatible features 0x%" PRIx64
                      " (%s): a newer program may know them",
                      unknown, names);
}

static int check_features(const struct vd_qcow2_fields *fields, struct vdisk_error *err)
{
    bool has_type = (fields->incompatible & VD_QCOW2_COMPRESSION) != 0;
    if (has_type != (fields->compression_type != 0))
        return vd_err_set(err, EBADMSG,
                          "header: compression type %u, and its incompatible bit is %s: the bit is "
                          "set if, and only if, the type is not 0",
                          fields->compression_type, has_type ? "set" : "not set");
    if (fields->compression_type > VD_QCOW2_COMPRESSION_MAX)
        return vd_err_set(err, ENOTSUP,
                          "header: compression type %u: only 0 (zlib) and 1 (zstd) are known",
                          fields->compression_type);
    if ((fields->incompatible & VD_QCOW2_EXTENDED_L2) &&
        fields->cluster_bits < VD_QCOW2_EXTENDED_L2_BITS_MIN)
        return vd_err_set(err, EBADMSG,
                          "header: cluster bits %" PRIu32
                          ": with extended L2 entries it must be %u or more",
                          fields->cluster_bits, VD_QCOW2_EXTENDED_L2_BITS_MIN);
    if ((fields->autoclear & VD_QCOW2_DATA_RAW) && !(fields->incompatible & VD_QCOW2_DATA_FILE))
        return vd_err_set(err, EBADMSG,
                          "header: the autoclear bit of a raw data file is set, but there is no "
                          "data file");
    if (fields->refcount_order > VD_QCOW2_REFCOUNT_ORDER_MAX)
        return vd_err_set(err, EBADMSG, "header: refcount order %" PRIu32 ": must be 0 to %u",
                          fields->refcount_order, VD_QCOW2_REFCOUNT_ORDER_MAX);
    return 0;
}

/* A table that begins at a cluster, but not in the first one, and that 63 bits can count to. */
static int check_place(const char *what, struct vd_range table, uint64_t cluster_bytes,
                       struct vdisk_error *err)
{
    if (table.offset != 0 && vd_is_aligned(table.offset, cluster_bytes) &&
        vd_range_is_within(table, INT64_MAX))
        return 0;
    return vd_err_set(err, EBADMSG,
                      "header: %s at offset %" PRIu64 ", %" PRIu64
                      " bytes: must lie behind the header, at a multiple of the cluster size of "
                      "%" PRIu64,
                      what, table.offset, table.length, cluster_bytes);
}

/* @file_bytes: UINT64_MAX: whether the file has it is for the check to find. */
static int check_l1(const struct vd_qcow2_header *header, uint64_t file_bytes,
                    struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &header->fields;
    struct vd_qcow2_geometry geometry = vd_qcow2_header_geometry(header);
    struct vd_range l1 = vd_range(fields->l1_offset, fields->l1_entries * UINT64_C(8));
    if (l1.length > VD_QCOW2_L1_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "header: L1 table of %" PRIu32 " entries: the limit is %" PRIu64,
                          fields->l1_entries, VD_QCOW2_L1_BYTES_MAX / 8);
    uint64_t needed = vd_qcow2_l1_entries(&geometry, fields->size);
    if (fields->l1_entries < needed)
        return vd_err_set(err, EBADMSG,
                          "header: L1 table of %" PRIu32 " entries: a disk of %" PRIu64
                          " bytes needs %" PRIu64,
                          fields->l1_entries, fields->size, needed);
    if (l1.length == 0)
        return 0;
    int ret = check_place("L1 table", l1, geometry.cluster_bytes, err);
    if (ret == 0 && !vd_range_is_within(l1, file_bytes))
        ret = vd_err_set(err, EBADMSG,
                         "header: L1 table of %" PRIu64 " bytes at offset %" PRIu64
                         ": the file has only %" PRIu64 " bytes",
                         l1.length, l1.offset, file_bytes);
    return ret;
}

static int check_refcount_table(const struct vd_qcow2_header *header, struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &header->fields;
    uint64_t cluster_bytes = UINT64_C(1) << fields->cluster_bits;
    uint64_t most = vd_max(VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX >> fields->cluster_bits, 1);
    if (fields->refcount_table_clusters == 0 || fields->refcount_table_clusters > most)
        return vd_err_set(err, EBADMSG,
                          "header: refcount table of %" PRIu32 " clusters: must be 1 to %" PRIu64,
                          fields->refcount_table_clusters, most);
    struct vd_range table =
        vd_range(fields->refcount_table_offset, fields->refcount_table_clusters * cluster_bytes);
    struct vd_range l1 = vd_range(fields->l1_offset, fields->l1_entries * UINT64_C(8));
    int ret = check_place("refcount table", table, cluster_bytes, err);
    if (ret == 0 && l1.length && vd_ranges_overlap(table, l1))
        ret = vd_err_set(err, EBADMSG,
                         "header: refcount table at offset %" PRIu64
                         ": overlaps the L1 table at offset %" PRIu64,
                         table.offset, l1.offset);
    return ret;
}

static int check_snapshots(const struct vd_qcow2_fields *fields, struct vdisk_error *err)
{
    if (fields->snapshot_entries == 0)
        return 0;
    if (fields->snapshot_entries > VD_QCOW2_SNAPSHOTS_MAX)
        return vd_err_set(err, EBADMSG, "header: %" PRIu32 " snapshots: the limit is %u",
                          fields->snapshot_entries, VD_QCOW2_SNAPSHOTS_MAX);
    uint64_t least = fields->snapshot_entries * sizeof(struct vd_qcow2_disk_snapshot);
    return check_place("snapshot table", vd_range(fields->snapshots_offset, least),
                       UINT64_C(1) << fields->cluster_bits, err);
}

static int check_crypto(const struct vd_qcow2_header *header, struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &header->fields;
    const struct vd_qcow2_crypto_extension *crypto = &header->crypto;
    if (fields->crypt_method > VD_QCOW2_CRYPT_LUKS)
        return vd_err_set(err, ENOTSUP,
                          "header: encryption method %" PRIu32
                          ": only 0 (none), 1 (AES) and 2 (LUKS) are known",
                          fields->crypt_method);
    if (crypto->is_present != (fields->crypt_method == VD_QCOW2_CRYPT_LUKS))
        return vd_err_set(err, EBADMSG,
                          "header: encryption method %" PRIu32 ", and %s encryption extension: "
                          "there is one if, and only if, the method is 2 (LUKS)",
                          fields->crypt_method, crypto->is_present ? "an" : "no");
    if (!crypto->is_present)
        return 0;
    if (crypto->length > VD_QCOW2_CRYPTO_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "header: encryption header of %" PRIu64 " bytes: the limit is %" PRIu64,
                          crypto->length, VD_QCOW2_CRYPTO_BYTES_MAX);
    return check_place("encryption header", vd_range(crypto->offset, crypto->length),
                       UINT64_C(1) << fields->cluster_bits, err);
}

static int take_names(const struct head *head, unsigned flags, struct vd_qcow2_header *header,
                      struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &header->fields;
    size_t start = fields->header_bytes;
    size_t end = (size_t)vd_min(area_end(fields, head), head->length);
    int ret = vd_qcow2_extensions_read(head->bytes + start, end - start, flags, header, err);
    if (ret == 0 && fields->backing_offset && fields->backing_bytes)
        ret = vd_qcow2_take_string("name of the backing file", head->bytes + fields->backing_offset,
                                   fields->backing_bytes, &header->backing_name, err);
    if (ret < 0 || fields->header_bytes <= VD_QCOW2_REST_OFFSET)
        return ret;
    header->rest_bytes = fields->header_bytes - VD_QCOW2_REST_OFFSET;
    header->rest = vd_alloc_array(header->rest_bytes, 1);
    if (!header->rest)
        return vd_err_nomem(err, "the fields of a header");
    memcpy(header->rest, head->bytes + VD_QCOW2_REST_OFFSET, header->rest_bytes);
    return 0;
}

int vd_qcow2_header_read(struct vd_storage *file, unsigned flags, struct vd_qcow2_header *header,
                         struct vdisk_error *err)
{
    struct head head = {0};
    *header = (struct vd_qcow2_header){0};
    int ret = load_all(file, &head, &header->fields, err);
    if (ret == 0)
        ret = check_incompatible(&header->fields, &head, err);
    if (ret == 0)
        ret = check_features(&header->fields, err);
    if (ret == 0)
        ret = take_names(&head, flags, header, err);
    if (ret == 0)
        ret = check_l1(header, flags & VD_QCOW2_HEADER_CHECK ? UINT64_MAX : head.file_bytes, err);
    if (ret == 0 && !(flags & VD_QCOW2_HEADER_CHECK))
        ret = check_refcount_table(header, err);
    if (ret == 0)
        ret = check_snapshots(&header->fields, err);
    if (ret == 0)
        ret = check_crypto(header, err);
    free(head.bytes);
    return ret;
}

void vd_qcow2_header_free(struct vd_qcow2_header *header)
{
    free(header->backing_name);
    free(header->backing_format);
    free(header->data_file);
    for (size_t i = 0; i < header->other_entries; i++)
        free(header->others[i].bytes);
    free(header->others);
    free(header->rest);
    *header = (struct vd_qcow2_header){0};
}
