/* SPDX-License-Identifier: MIT */
/* The header of a QED image, of the final form or of a draft: qed §3, §9. */
#ifndef VD_FORMAT_QED_QED_HEADER_H
#define VD_FORMAT_QED_QED_HEADER_H

#include "format/qed/qed_geometry.h"
#include "storage/storage.h"
#include "util/err.h"

enum vd_qed_variant {
    VD_QED_LOOK, /* in questions only: which is it? */
    VD_QED_FINAL,
    VD_QED_DRAFT_1,
    VD_QED_DRAFT_2,
    VD_QED_DRAFT_3
};

/* Drafts are decoded to what they mean in the final form, but for the two fields at the end. */
struct vd_qed_header {
    enum vd_qed_variant variant;
    uint32_t cluster_bytes;
    uint32_t table_clusters;
    uint32_t header_clusters;
    uint64_t features; /* of enum vd_qed_feature */
    uint64_t compat_features;
    uint64_t autoclear_features;
    uint64_t l1_offset;
    uint64_t size;           /* bytes of the disk */
    uint32_t backing_offset; /* with VD_QED_FEATURE_BACKING: of the name, in the file */
    uint32_t backing_bytes;
    uint32_t format_offset; /* first two drafts, with VD_QED_DRAFT_COMPAT_FORMAT */
    uint32_t format_bytes;
};

/* What the image says of its backing file; NULL: nothing. */
struct vd_qed_names {
    char *backing;
    char *format; /* "raw"; of a draft: any */
};

/* "final", "draft-1", "draft-2", "draft-3": constant. */
const char *vd_qed_variant_name(enum vd_qed_variant variant);

/* VD_QED_LOOK if there is none of that @name. */
enum vd_qed_variant vd_qed_variant_find(const char *name);

/* Does a QED image begin so?  Any length, any bytes. */
bool vd_qed_header_is_here(const uint8_t *head, size_t head_bytes);

/*
 * Which form has the header in VD_QED_HEADER_BYTES bytes with any content?  Never VD_QED_LOOK; what
 * is of no form is FINAL, and vd_qed_header_validate() will not like it.  qed §9.3
 */
enum vd_qed_variant vd_qed_variant_of(const uint8_t *head, uint64_t file_bytes);

/* From VD_QED_HEADER_BYTES bytes with any content; vd_qed_header_validate() comes next. */
void vd_qed_header_decode(const uint8_t *head, enum vd_qed_variant variant,
                          struct vd_qed_header *header);

/*
 * Checks the magic in @head and the decoded fields against qed §3 and the length of the file.
 * -EBADMSG, or -ENOTSUP for features that are unknown.
 */
int vd_qed_header_validate(const uint8_t *head, const struct vd_qed_header *header,
                           uint64_t file_bytes, struct vdisk_error *err);

/* Reads, decodes as @variant (VD_QED_LOOK: as it looks) and validates.  Any file of any length. */
int vd_qed_header_read(struct vd_storage *file, enum vd_qed_variant variant,
                       struct vd_qed_header *header, struct vdisk_error *err);

/* Of the final form, into VD_QED_HEADER_BYTES bytes. */
void vd_qed_header_encode(const struct vd_qed_header *header, uint8_t *head);

/* Writes the 64 bytes, in one write within one sector; not durable before a flush. */
int vd_qed_header_write(struct vd_storage *file, const struct vd_qed_header *header,
                        struct vdisk_error *err);

/* Of a validated header. */
struct vd_qed_geometry vd_qed_header_geometry(const struct vd_qed_header *header);

/* Bytes from the start of the file that no table and no data may be in. */
static inline uint64_t vd_qed_header_area(const struct vd_qed_header *header)
{
    return (uint64_t)header->header_clusters * header->cluster_bytes;
}

/*
 * Reads what a validated @header says of the backing file; goes to vd_qed_names_free().  Names with
 * a NUL in them are -EBADMSG.
 */
int vd_qed_names_read(struct vd_storage *file, const struct vd_qed_header *header,
                      struct vd_qed_names *names, struct vdisk_error *err);
void vd_qed_names_free(struct vd_qed_names *names);

/* Is @name one that can be recorded, if there is room for it? */
int vd_qed_check_name(const char *name, struct vdisk_error *err);

/* Is @size one that an image of this geometry may have? */
int vd_qed_check_size(const struct vd_qed_geometry *geometry, uint64_t size,
                      struct vdisk_error *err);

#endif
