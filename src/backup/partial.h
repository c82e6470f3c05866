/* SPDX-License-Identifier: MIT */
/*
 * A backup that is not finished: partial.json (sealed) tells what it is, the new image is written
 * as partial.qcow2 or partial.qed, versions as partial.versions.
 */
#ifndef VD_BACKUP_PARTIAL_H
#define VD_BACKUP_PARTIAL_H

#include "backup/repository.h"

/* "partial.qcow2", "partial.qed"; NULL: nothing is stored in this format. */
const char *vd_partial_image_name(const char *format);

/* What its tracker keeps of when it began. */
#define VD_PARTIAL_VERSIONS_NAME "partial.versions"

struct vd_partial {
    char uuid[VD_UUID_TEXT_BYTES]; /* of the point that it is to be */
    enum vdisk_point_kind kind;
    enum vdisk_tracker tracker;
    uint64_t parent; /* 0: none */
    char parent_uuid[VD_UUID_TEXT_BYTES];
    uint64_t virtual_bytes;
    char *image_format;  /* owned */
    char *source;        /* owned */
    uint64_t done_bytes; /* of the disk, from its start: what is wanted of this is in the image, and
                            durable */
};

/* Also of a zeroed one. */
void vd_partial_free(struct vd_partial *partial);

/* 1: there is one; 0: there is none, or one that can not be gone on with, as it is damaged or its
 * parent is gone; or a negative errno. */
int vd_partial_read(struct vdisk_repository *repository, struct vd_partial *partial,
                    struct vdisk_error *err);

/* Durable when this returns 0. */
int vd_partial_write(struct vdisk_repository *repository, const struct vd_partial *partial,
                     struct vdisk_error *err);

/* Removes it with its files. */
int vd_partial_remove(struct vdisk_repository *repository, struct vdisk_error *err);

#endif
