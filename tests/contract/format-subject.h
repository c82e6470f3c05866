/* SPDX-License-Identifier: MIT */
/* An image, perhaps of several files, on one kind of storage, to be opened again and again. */
#ifndef VT_FORMAT_SUBJECT_H
#define VT_FORMAT_SUBJECT_H

#include "drivers/stack.h"

enum vt_place {
    VT_PLACE_MEM,
    VT_PLACE_KEEP, /* memory that keeps what is discarded, as some storage does */
    VT_PLACE_FILE,
    VT_PLACE_DIRECT, /* a file, past the page cache */
    VT_PLACES
};

struct vt_subject {
    struct vt_stack stack;
    enum vt_place place;
    struct vd_storage *mem[VT_STACK_FILES_MAX]; /* MEM, KEEP: the content between opens */
    char folder[128];                           /* else: where the files are */
};

const char *vt_place_name(enum vt_place place);

/* Makes the images of @stack.  Those behind have data in @windows. */
void vt_subject_create(struct vt_subject *subject, const struct vt_stack *stack,
                       enum vt_place place, const struct vd_range *windows,
                       unsigned window_entries);
void vt_subject_destroy(struct vt_subject *subject);

/* Does this place exist here?  (A file system may know no direct I/O.) */
bool vt_place_works(enum vt_place place);

struct vdisk_image *vt_subject_open(struct vt_subject *subject, uint32_t flags);

/* A snapshot within it; in memory only. */
struct vdisk_image *vt_subject_open_snapshot(struct vt_subject *subject, const char *name);

/* Opens it for checking; fails the test unless there is nothing to find, and it is not dirty. */
void vt_subject_expect_sound(struct vt_subject *subject);

/* Block versions (GOW v3) as they lie in the file, from block @first on. */
void vt_subject_versions(struct vt_subject *subject, uint64_t first, uint32_t entries,
                         uint32_t *versions);

#endif
