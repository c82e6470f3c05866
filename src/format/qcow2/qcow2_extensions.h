/* SPDX-License-Identifier: MIT */
/* The extensions behind the fields of a qcow2 header, for the qcow2_header files only.  No I/O. */
#ifndef VD_FORMAT_QCOW2_QCOW2_EXTENSIONS_H
#define VD_FORMAT_QCOW2_QCOW2_EXTENSIONS_H

#include "format/qcow2/qcow2_header.h"

/*
 * What the extensions in @area, from the first one to where they have to end, say: into @header,
 * whose fields are there.  @flags: of enum vd_qcow2_header_flag.  -EBADMSG.
 */
int vd_qcow2_extensions_read(const uint8_t *area, size_t area_bytes, unsigned flags,
                             struct vd_qcow2_header *header, struct vdisk_error *err);

/*
 * The name that the image gives to incompatible feature @bit, in @name of 47 bytes; false: none.
 * Never fails: the image is one of which little is known.
 */
bool vd_qcow2_feature_name(const uint8_t *area, size_t area_bytes, unsigned bit, char *name);

/* Where extensions are written: as many as fit. */
struct vd_qcow2_cursor {
    uint8_t *bytes; /* zeroed; the cluster */
    size_t at;
    size_t end;
    bool is_full; /* something did not fit */
};

/* The extensions that must be in the first sector (N2): all but the others. */
void vd_qcow2_extensions_put_first(const struct vd_qcow2_header *header,
                                   struct vd_qcow2_cursor *cursor);

/* The others. */
void vd_qcow2_extensions_put_others(const struct vd_qcow2_header *header,
                                    struct vd_qcow2_cursor *cursor);

/* A string of the header, @what in messages: a copy of @text of @length bytes, without the NULs
 * that it may end with; *string is NULL if nothing is left.  -EBADMSG: there is one inside. */
int vd_qcow2_take_string(const char *what, const uint8_t *text, size_t length, char **string,
                         struct vdisk_error *err);

#endif
