/* SPDX-License-Identifier: MIT */
/* The header of a QED image: decode, validate, encode. */
#include "format/qed/qed_header.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t magic[VD_QED_MAGIC_BYTES] = {'Q', 'E', 'D', 0};

bool vd_qed_header_is_here(const uint8_t *head, size_t head_bytes)
{
    return head_bytes >= VD_QED_HEADER_BYTES && memcmp(head, magic, sizeof(magic)) == 0;
}

static void decode_final(const uint8_t *head, struct vd_qed_header *header)
{
    struct vd_qed_disk_header disk;
    memcpy(&disk, head, sizeof(disk));
    *header = (struct vd_qed_header){
        .variant = VD_QED_FINAL,
        .cluster_bytes = le32_get(disk.cluster_bytes),
        .table_clusters = le32_get(disk.table_clusters),
        .header_clusters = le32_get(disk.header_clusters),
        .features = le64_get(disk.features),
        .compat_features = le64_get(disk.compat_features),
        .autoclear_features = le64_get(disk.autoclear_features),
        .l1_offset = le64_get(disk.l1_offset),
        .size = le64_get(disk.size),
        .backing_offset = le32_get(disk.backing_offset),
        .backing_bytes = le32_get(disk.backing_bytes),
    };
}

static void decode_draft(const uint8_t *head, struct vd_qed_header *header)
{
    struct vd_qed_disk_draft disk;
    memcpy(&disk, head, sizeof(disk));
    *header = (struct vd_qed_header){
        .cluster_bytes = le32_get(disk.cluster_bytes),
        .table_clusters = le32_get(disk.table_clusters),
        .header_clusters = le32_get(disk.header_clusters),
        .features = le64_get(disk.features),
        .compat_features = le64_get(disk.compat_features),
        .l1_offset = le64_get(disk.l1_offset),
        .size = le64_get(disk.size),
        .backing_offset = le32_get(disk.backing_offset),
        .backing_bytes = le32_get(disk.backing_bytes),
        .format_offset = le32_get(disk.format_offset),
        .format_bytes = le32_get(disk.format_bytes),
    };
}

void vd_qed_header_decode(const uint8_t *head, enum vd_qed_variant variant,
                          struct vd_qed_header *header)
{
    assert(variant != VD_QED_LOOK);
    if (variant == VD_QED_FINAL) {
        decode_final(head, header);
        return;
    }
    decode_draft(head, header);
    header->variant = variant;
    if (variant == VD_QED_DRAFT_3) { /* its header ends before them */
        header->format_offset = 0;
        header->format_bytes = 0;
    }
}

static int validate_units(const struct vd_qed_header *header, struct vdisk_error *err)
{
    if (!vd_qed_cluster_bytes_is_legal(header->cluster_bytes))
        return vd_err_set(
            err, EBADMSG,
            "header: cluster size %" PRIu32 ": must be a power of two from %u to %u bytes",
            header->cluster_bytes, VD_QED_CLUSTER_BYTES_MIN, VD_QED_CLUSTER_BYTES_MAX);
    if (!vd_qed_table_clusters_is_legal(header->table_clusters))
        return vd_err_set(err, EBADMSG,
                          "header: table size %" PRIu32 ": must be 1, 2, 4, 8 or 16 clusters",
                          header->table_clusters);
    uint32_t most = UINT32_MAX / header->cluster_bytes;
    if (header->header_clusters == 0 || header->header_clusters > most)
        return vd_err_set(err, EBADMSG,
                          "header: header size %" PRIu32 ": must be 1 to %" PRIu32 " clusters",
                          header->header_clusters, most);
    return 0;
}

static int validate_features(const struct vd_qed_header *header, struct vdisk_error *err)
{
    uint64_t known = VD_QED_FEATURE_BACKING;
    if (header->variant != VD_QED_DRAFT_1)
        known |= VD_QED_FEATURE_NEED_CHECK;
    if (header->variant == VD_QED_FINAL || header->variant == VD_QED_DRAFT_3)
        known |= VD_QED_FEATURE_NO_PROBE;
    uint64_t unknown = header->features & ~known;
    if (unknown)
        return vd_err_set(err, ENOTSUP,
                          "header: unknown features 0x%" PRIx64 ": a newer program may know them",
                          unknown);
    return 0;
}

int vd_qed_check_size(const struct vd_qed_geometry *geometry, uint64_t size,
                      struct vdisk_error *err)
{
    if (size > geometry->size_max)
        return vd_err_set(err, EINVAL,
                          "size of %" PRIu64 " bytes: the limit with clusters of %" PRIu32
                          " bytes and tables of %" PRIu32 " clusters is %" PRIu64,
                          size, geometry->cluster_bytes, geometry->table_clusters,
                          geometry->size_max);
    if (!vd_is_aligned(size, VD_QED_SIZE_UNIT))
        return vd_err_set(err, EINVAL, "size of %" PRIu64 " bytes: must be a multiple of %u", size,
                          VD_QED_SIZE_UNIT);
    return 0;
}

static int validate_disk(const struct vd_qed_header *header, uint64_t file_bytes,
                         struct vdisk_error *err)
{
    struct vd_qed_geometry geometry = vd_qed_header_geometry(header);
    struct vdisk_error inner = {0};
    if (vd_qed_check_size(&geometry, header->size, &inner) < 0)
        return vd_err_set(err, EBADMSG, "header: %s", inner.message);
    if (header->variant != VD_QED_FINAL &&
        (header->size == 0 || !vd_is_aligned(header->size, header->cluster_bytes)))
        return vd_err_set(err, EBADMSG,
                          "header: size of %" PRIu64 " bytes: must be a multiple of the cluster "
                          "size of %" PRIu32 " in a %s header, and not 0",
                          header->size, header->cluster_bytes,
                          vd_qed_variant_name(header->variant));
    if (!vd_qed_offset_is_legal(&geometry, vd_qed_header_area(header), header->l1_offset))
        return vd_err_set(err, EBADMSG,
                          "header: L1 table at offset %" PRIu64
                          ": must lie behind the header of %" PRIu64
                          " bytes, at a multiple of the cluster size of %" PRIu32,
                          header->l1_offset, vd_qed_header_area(header), header->cluster_bytes);
    if (!vd_range_is_within(vd_range(header->l1_offset, geometry.table_bytes), file_bytes))
        return vd_err_set(err, EBADMSG,
                          "header: L1 table of %" PRIu64 " bytes at offset %" PRIu64
                          ": the file has only %" PRIu64 " bytes",
                          geometry.table_bytes, header->l1_offset, file_bytes);
    return 0;
}

/* A name in the header's clusters.  @first: where names may begin. */
static int validate_name(const struct vd_qed_header *header, const char *what, uint32_t first,
                         struct vd_range name, struct vdisk_error *err)
{
    if (name.length == 0 || name.length > VD_QED_NAME_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "header: name of the %s of %" PRIu64 " bytes: must be 1 to %u", what,
                          name.length, VD_QED_NAME_BYTES_MAX);
    if (name.offset < first || vd_range_end(name) > vd_qed_header_area(header))
        return vd_err_set(err, EBADMSG,
                          "header: name of the %s at offset %" PRIu64 ", %" PRIu64
                          " bytes: must lie between offset %" PRIu32
                          " and the end of the header at %" PRIu64,
                          what, name.offset, name.length, first, vd_qed_header_area(header));
    return 0;
}

static bool has_format_name(const struct vd_qed_header *header)
{
    return (header->variant == VD_QED_DRAFT_1 || header->variant == VD_QED_DRAFT_2) &&
           (header->features & VD_QED_FEATURE_BACKING) &&
           (header->compat_features & VD_QED_DRAFT_COMPAT_FORMAT);
}

int vd_qed_header_validate(const uint8_t *head, const struct vd_qed_header *header,
                           uint64_t file_bytes, struct vdisk_error *err)
{
    if (memcmp(head, magic, sizeof(magic)) != 0)
        return vd_err_set(err, EBADMSG, "not a QED image: no magic at offset 0");
    int ret = validate_units(header, err);
    if (ret == 0)
        ret = validate_features(header, err);
    if (ret == 0)
        ret = validate_disk(header, file_bytes, err);
    uint32_t first = header->variant == VD_QED_DRAFT_3 ? VD_QED_DRAFT3_BYTES : VD_QED_HEADER_BYTES;
    if (ret == 0 && (header->features & VD_QED_FEATURE_BACKING))
        ret = validate_name(header, "backing file", first,
                            vd_range(header->backing_offset, header->backing_bytes), err);
    if (ret == 0 && has_format_name(header))
        ret = validate_name(header, "backing file's format", first,
                            vd_range(header->format_offset, header->format_bytes), err);
    return ret;
}

int vd_qed_header_read(struct vd_storage *file, enum vd_qed_variant variant,
                       struct vd_qed_header *header, struct vdisk_error *err)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(file, &file_bytes, err);
    if (ret < 0)
        return ret;
    if (file_bytes < VD_QED_HEADER_BYTES)
        return vd_err_set(err, EBADMSG,
                          "not a QED image: %" PRIu64 " bytes are too short for a header",
                          file_bytes);
    uint8_t head[VD_QED_HEADER_BYTES];
    ret = vd_storage_pread(file, head, sizeof(head), 0, err);
    if (ret < 0)
        return ret;
    if (variant == VD_QED_LOOK)
        variant = vd_qed_variant_of(head, file_bytes);
    vd_qed_header_decode(head, variant, header);
    return vd_qed_header_validate(head, header, file_bytes, err);
}

void vd_qed_header_encode(const struct vd_qed_header *header, uint8_t *head)
{
    assert(header->variant == VD_QED_FINAL);
    struct vd_qed_disk_header disk = {
        .cluster_bytes = le32_of(header->cluster_bytes),
        .table_clusters = le32_of(header->table_clusters),
        .header_clusters = le32_of(header->header_clusters),
        .features = le64_of(header->features),
        .compat_features = le64_of(header->compat_features),
        .autoclear_features = le64_of(header->autoclear_features),
        .l1_offset = le64_of(header->l1_offset),
        .size = le64_of(header->size),
        .backing_offset = le32_of(header->backing_offset),
        .backing_bytes = le32_of(header->backing_bytes),
    };
    memcpy(disk.magic, magic, sizeof(magic));
    memcpy(head, &disk, sizeof(disk));
}

int vd_qed_header_write(struct vd_storage *file, const struct vd_qed_header *header,
                        struct vdisk_error *err)
{
    uint8_t head[VD_QED_HEADER_BYTES];
    vd_qed_header_encode(header, head);
    return vd_storage_pwrite(file, head, sizeof(head), 0, err);
}

struct vd_qed_geometry vd_qed_header_geometry(const struct vd_qed_header *header)
{
    return vd_qed_geometry_of(header->cluster_bytes, header->table_clusters);
}

static int read_name(struct vd_storage *file, const char *what, struct vd_range range, char **name,
                     struct vdisk_error *err)
{
    char *text = calloc(range.length + 1, 1);
    if (!text)
        return vd_err_nomem(err, "the name of a backing file");
    int ret = vd_storage_pread(file, text, range.length, range.offset, err);
    if (ret == 0 && strlen(text) != range.length)
        ret = vd_err_set(err, EBADMSG, "header: name of the %s: has a NUL in it", what);
    if (ret < 0) {
        free(text);
        return ret;
    }
    *name = text;
    return 0;
}

int vd_qed_names_read(struct vd_storage *file, const struct vd_qed_header *header,
                      struct vd_qed_names *names, struct vdisk_error *err)
{
    *names = (struct vd_qed_names){0};
    if (!(header->features & VD_QED_FEATURE_BACKING))
        return 0;
    int ret =
        read_name(file, "backing file", vd_range(header->backing_offset, header->backing_bytes),
                  &names->backing, err);
    if (ret == 0 && has_format_name(header)) {
        ret = read_name(file, "backing file's format",
                        vd_range(header->format_offset, header->format_bytes), &names->format, err);
    } else if (ret == 0 && (header->features & VD_QED_FEATURE_NO_PROBE)) {
        names->format = strdup("raw");
        if (!names->format)
            ret = vd_err_nomem(err, "the name of a format");
    }
    if (ret < 0)
        vd_qed_names_free(names);
    return ret;
}

void vd_qed_names_free(struct vd_qed_names *names)
{
    free(names->backing);
    free(names->format);
    *names = (struct vd_qed_names){0};
}

int vd_qed_check_name(const char *name, struct vdisk_error *err)
{
    size_t bytes = strlen(name);
    if (bytes == 0)
        return vd_err_set(err, EINVAL, "name of the backing file: is empty");
    if (bytes > VD_QED_NAME_BYTES_MAX)
        return vd_err_set(err, ENAMETOOLONG,
                          "name of the backing file: has %zu bytes, the limit is %u", bytes,
                          VD_QED_NAME_BYTES_MAX);
    return 0;
}
