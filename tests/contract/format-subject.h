/* SPDX-License-Identifier: MIT */
/* An image of one format on one kind of storage, to be opened again and again. */
#ifndef VT_FORMAT_SUBJECT_H
#define VT_FORMAT_SUBJECT_H

#include "storage/storage.h"
#include "vdisk.h"

enum vt_place {
    VT_PLACE_MEM,
    VT_PLACE_KEEP, /* memory that keeps what is discarded, as some storage does */
    VT_PLACE_FILE,
    VT_PLACE_DIRECT, /* a file, past the page cache */
    VT_PLACES
};

struct vt_subject {
    const char *format;
    enum vt_place place;
    struct vd_storage *mem; /* MEM, KEEP: the content between opens */
    char path[256];         /* else */
};

const char *vt_place_name(enum vt_place place);
bool vt_format_is_gow(const char *format);

/* Makes an empty image of @size bytes. */
void vt_subject_create(struct vt_subject *subject, const char *format, enum vt_place place,
                       uint64_t size);
void vt_subject_destroy(struct vt_subject *subject);

/* Does this place exist here?  (A file system may know no direct I/O.) */
bool vt_place_works(enum vt_place place);

struct vdisk_image *vt_subject_open(struct vt_subject *subject, uint32_t flags);

/* Opens it for checking; fails the test unless there is nothing to find, and it is not dirty. */
void vt_subject_expect_sound(struct vt_subject *subject);

/* Block versions (GOW v3) as they lie in the file, from block @first on. */
void vt_subject_versions(struct vt_subject *subject, uint64_t first, uint32_t entries,
                         uint32_t *versions);

#endif
