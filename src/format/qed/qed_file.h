/* SPDX-License-Identifier: MIT */
/*
 * What is done to a QED image as a file, while nobody has it open as a disk: making one, checking,
 * mending, changing what its header says.  The slots of the driver and its open end here.
 */
#ifndef VD_FORMAT_QED_QED_FILE_H
#define VD_FORMAT_QED_QED_FILE_H

#include "format/driver.h"
#include "format/qed/qed_header.h"

/* ---- qed_create.c: slots of the driver ---- */

int vd_qed_create(const struct vd_format_driver *driver, struct vd_storage *file,
                  struct vd_storage *data, const struct vdisk_create_options *options,
                  struct vdisk_error *err);
int vd_qed_measure(const struct vd_format_driver *driver,
                   const struct vdisk_create_options *options, uint64_t data_bytes,
                   struct vdisk_measure_result *result, struct vdisk_error *err);

/* ---- qed_backing.c ---- */

/*
 * Where in the clusters of @header are @bytes for a name, behind the fields of a final header and
 * not where the name is now?  -ENOSPC: nowhere.
 */
int vd_qed_find_name_room(const struct vd_qed_header *header, uint32_t bytes, uint32_t *offset,
                          struct vdisk_error *err);

/*
 * Readies a change of what the image in @file says of its backing file (NULL: it has none): puts
 * the name into the file, durably, where nothing refers to it, and the rest into @header, which is
 * what the caller then writes.  After a failure the image is as before, and so is @header.
 * -ENOTSUP: compatible features that are unknown.  -ENOSPC: there is no room for both names.
 */
int vd_qed_prepare_backing(struct vd_storage *file, struct vd_qed_header *header,
                           const struct vd_backing *backing, struct vdisk_error *err);

/* ---- qed_check.c ---- */

/*
 * Checks the image in @file, which nobody changes meanwhile, and mends it as check->repair asks,
 * durably; then @header is what the file has.  NEED_CHECK is cleared by a repair that leaves no
 * contradictions and could read everything.  Drafts are not mended: -EROFS.
 */
int vd_qed_check_file(struct vd_storage *file, struct vd_qed_header *header,
                      const struct vd_check *check, struct vdisk_error *err);

/*
 * For an open for writing that finds NEED_CHECK: contradictions are mended, the bit is cleared,
 * durably; leaked clusters stay.
 */
int vd_qed_recover(struct vd_storage *file, struct vd_qed_header *header, struct vdisk_error *err);

/* ---- qed_amend.c: a slot of the driver ---- */

/* compat=final: gives an image with the header of a draft a final one.  qed §9.4 */
int vd_qed_amend(const struct vd_format_driver *driver, struct vd_storage *file,
                 const struct vdisk_amend_options *options, struct vdisk_error *err);

#endif
