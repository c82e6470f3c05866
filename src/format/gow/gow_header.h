/* SPDX-License-Identifier: MIT */
/* The header of a GOW image, with the intent bitmap of version 3: gow §3, §5.2. */
#ifndef VD_FORMAT_GOW_GOW_HEADER_H
#define VD_FORMAT_GOW_GOW_HEADER_H

#include "format/gow/gow_geometry.h"
#include "storage/storage.h"
#include "util/err.h"

struct vd_gow_header {
    uint32_t version;
    uint32_t flags; /* of enum vd_gow_flag */
    uint64_t size;  /* bytes of the disk */
    uint64_t generation;
    uint8_t uuid[16];
    uint32_t reserved0; /* these two are zero in a sound header */
    uint8_t reserved1[16];
    uint8_t intent[VD_GOW_INTENT_BYTES]; /* all zero in version 1 and 2 */
};

/* Is this the magic, with a version that is known?  Any length, any bytes. */
bool vd_gow_header_is_here(const uint8_t *head, size_t head_bytes, uint32_t version);

/* From VD_GOW_HEAD_BYTES bytes with any content; vd_gow_header_validate() comes next. */
void vd_gow_header_decode(const uint8_t *head, struct vd_gow_header *header);

/*
 * Checks the magic in @head and the decoded fields against gow §3.  With @lenient, reserved fields
 * may have any value: for check, which reports them.  -EBADMSG, or -ENOTSUP for what a later
 * version of the specification might mean.
 */
int vd_gow_header_validate(const uint8_t *head, const struct vd_gow_header *header, bool lenient,
                           struct vdisk_error *err);

/* Into @head, which has room for VD_GOW_HEAD_BYTES; returns how many of them are the header's. */
size_t vd_gow_header_encode(const struct vd_gow_header *header, uint8_t *head);

/* Reads, decodes and validates.  Fails cleanly for any file of any length. */
int vd_gow_header_read(struct vd_storage *file, bool lenient, struct vd_gow_header *header,
                       struct vdisk_error *err);

/* Writes header and intent bitmap in one write within one sector; not durable before a flush. */
int vd_gow_header_write(struct vd_storage *file, const struct vd_gow_header *header,
                        struct vdisk_error *err);

/* Is @size one that an image of @version may have? */
int vd_gow_check_size(uint32_t version, uint64_t size, struct vdisk_error *err);

static inline bool vd_gow_intent_is_set(const struct vd_gow_header *header, uint32_t region)
{
    return (header->intent[region / 8] >> (region % 8)) & 1;
}

static inline void vd_gow_intent_set(struct vd_gow_header *header, uint32_t region)
{
    header->intent[region / 8] |= (uint8_t)(1u << (region % 8));
}

#endif
