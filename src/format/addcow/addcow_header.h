/* SPDX-License-Identifier: MIT */
/* The header of an add-cow file, of v10 and of the later kind: add-cow §3, §8. */
#ifndef VD_FORMAT_ADDCOW_ADDCOW_HEADER_H
#define VD_FORMAT_ADDCOW_ADDCOW_HEADER_H

#include "format/addcow/addcow_geometry.h"
#include "storage/storage.h"
#include "util/err.h"

/* A name within the header; length 0: none. */
struct vd_addcow_name {
    uint32_t offset;
    uint32_t length;
};

struct vd_addcow_header {
    bool is_later; /* of v18 to v20 */
    uint32_t version;
    uint32_t cluster_bits;
    uint32_t header_bytes; /* where the bitmap begins */
    uint64_t features;
    uint64_t compat_features;
    struct vd_addcow_name backing;
    struct vd_addcow_name data;
    char backing_format[VD_ADDCOW_FORMAT_BYTES + 1]; /* empty: not recorded */
    char data_format[VD_ADDCOW_FORMAT_BYTES + 1];
};

/* Is this a magic of add-cow?  Any length, any bytes. */
bool vd_addcow_header_is_here(const uint8_t *head, size_t head_bytes);

/* From @head_bytes that begin with a magic.  -EBADMSG: they are too few. */
int vd_addcow_header_decode(const uint8_t *head, size_t head_bytes, struct vd_addcow_header *header,
                            struct vdisk_error *err);

/*
 * Checks all fields.  With @lenient, what a check can mend is let pass.  -EBADMSG, or -ENOTSUP for
 * what a program of another time might know.
 */
int vd_addcow_header_validate(const struct vd_addcow_header *header, bool lenient,
                              struct vdisk_error *err);

/* What the two findings are that @lenient lets pass; NULL: it is not so. */
const char *vd_addcow_header_stray_length(const struct vd_addcow_header *header);
const char *vd_addcow_header_contradiction(const struct vd_addcow_header *header);

/* Into the 36 bytes at @head; v10 only. */
void vd_addcow_header_encode(const struct vd_addcow_header *header, uint8_t *head);

/* Reads and decodes.  Fails cleanly for any file of any length; -EBADMSG: it is no add-cow file. */
int vd_addcow_header_read(struct vd_storage *file, struct vd_addcow_header *header,
                          struct vdisk_error *err);

/*
 * The two names, as strings of the caller's, of a header that is valid; *backing is NULL if there
 * is none.
 */
int vd_addcow_header_read_names(struct vd_storage *file, const struct vd_addcow_header *header,
                                char **backing, char **data, struct vdisk_error *err);

/* The backing file's format as it is recorded, or NULL. */
const char *vd_addcow_header_backing_format(const struct vd_addcow_header *header);

/* Does the raw file alone make the disk? */
static inline bool vd_addcow_header_is_all_allocated(const struct vd_addcow_header *header)
{
    return header->is_later && (header->compat_features & VD_ADDCOW_COMPAT_ALL_ALLOCATED);
}

static inline bool vd_addcow_header_has_backing(const struct vd_addcow_header *header)
{
    return header->backing.offset != 0 && !vd_addcow_header_is_all_allocated(header);
}

#endif
