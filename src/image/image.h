/* SPDX-License-Identifier: MIT */
/*
 * One disk as the guest sees it.  What the layers above need beyond the public vdisk_image_*.
 */
#ifndef VD_IMAGE_IMAGE_H
#define VD_IMAGE_IMAGE_H

#include "format/format.h"
#include "storage/storage.h"

/* What a public open means for the layer below. */
int vd_image_storage_options(const struct vdisk_open_options *options,
                             struct vd_storage_options *storage_options, struct vdisk_error *err);

/*
 * Opens an image on a storage that is open already.  The image owns @file from here on, and closes
 * it also if this fails.
 */
int vd_image_open_on(struct vd_storage *file, const struct vdisk_open_options *options,
                     struct vdisk_image **image, struct vdisk_error *err);

/*
 * Are these options such that an image of @format can be made?  *driver gets the format.  Asked
 * before anything is touched.
 */
int vd_image_check_create(const char *format, const struct vdisk_create_options *options,
                          const struct vd_format_driver **driver, struct vdisk_error *err);

/*
 * Is there a format for the backing file, if @options name one, of an image that will be called
 * @name?  The message tells what it looks like.  Asked first.
 */
int vd_image_check_backing_format(const char *name, const struct vdisk_create_options *options,
                                  struct vdisk_error *err);

/*
 * Makes a new image in place, over whatever is at @place.  @name: what it will be called in the
 * end, for the names in it.  @is_durable: on stable storage when this returns; else nothing is
 * waited for.
 */
int vd_image_create_at(const char *place, const char *name, const struct vd_format_driver *driver,
                       const struct vdisk_create_options *options, bool is_durable,
                       struct vdisk_error *err);

/*
 * The data file of a new image, for who may yet fail when the image is made but not complete.  Ask
 * expect() before vd_image_create_at(), which removes it itself if it fails: then keep(), as what
 * is there now is somebody else's.  After its success, either of the others.
 */
struct vd_image_new_data {
    char *path; /* owned; NULL: there is none, or it was there before */
};

int vd_image_expect_data(struct vd_image_new_data *data, const char *name,
                         const struct vdisk_create_options *options, struct vdisk_error *err);
void vd_image_keep_data(struct vd_image_new_data *data);
void vd_image_drop_data(struct vd_image_new_data *data); /* removes it */

/* Opens what @options name as the backing file of an image that will be called @name.  @flags: of
 * enum vdisk_open_flag. */
int vd_image_open_backing(const char *name, const struct vdisk_create_options *options,
                          uint32_t flags, struct vdisk_image **image, struct vdisk_error *err);

struct vd_format *vd_image_format(struct vdisk_image *image);

/* A run of one kind, and the storage that its bytes are in. */
struct vd_image_run {
    struct vdisk_extent extent;
    struct vd_storage *storage; /* NULL without VDISK_EXTENT_OFFSET */
};

/* vdisk_image_extent() with the storage itself. */
int vd_image_look(struct vdisk_image *image, struct vd_range guest, struct vd_image_run *run,
                  struct vdisk_error *err);

/* Have the blocks of the image itself versions that can be trusted?  vdisk_image_version() */
bool vd_image_has_versions(struct vdisk_image *image);

/* So many bytes of the disk are described by some tens of tables at most, in each image of the
 * chain: for who looks at a disk in steps of bounded work. */
uint64_t vd_image_stride(const struct vdisk_image *image);

/* Do both begin with the very same bytes of the same file? */
bool vd_image_run_is_same(const struct vd_image_run *a, const struct vd_image_run *b);

/* Reads what @image has at @guest, and zeros past its end. */
int vd_image_read_padded(struct vdisk_image *image, void *buf, struct vd_range guest,
                         struct vdisk_error *err);

/* A compressed cluster: @bytes decode to what is to be in @guest, a whole cluster or the last one.
 */
struct vd_image_encoded {
    struct vd_range guest;
    const void *bytes;
    uint32_t length; /* of @bytes */
};

/*
 * Writes clusters as they are, otherwise as vdisk_image_pwrite().  They are in the order of the
 * disk, and there may be others in between.  -ENOTSUP: this image takes
 * none, or none of this kind.
 */
int vd_image_write_encoded(struct vdisk_image *image, enum vd_codec codec,
                           const struct vd_image_encoded *clusters, size_t entries,
                           struct vdisk_error *err);

/*
 * Is what begins at guest.offset zero, by the word of the formats alone?  *length gets how much of
 * @guest, which is not empty, the answer is good for.
 */
int vd_image_known_zero(struct vdisk_image *image, struct vd_range guest, uint64_t *length,
                        bool *is_zero, struct vdisk_error *err);

/* The same, if it can be known without waiting for a disk or for others: 0.  Else -EAGAIN. */
int vd_image_try_known_zero(struct vdisk_image *image, struct vd_range guest, uint64_t *length,
                            bool *is_zero);

/* Would vdisk_image_write_zeroes() surely take less time than writing as many bytes?  @guest:
 * within the size. */
bool vd_image_zeroes_fast(struct vdisk_image *image, struct vd_range guest, unsigned flags);

/*
 * As vdisk_image_pread() and vdisk_image_pwrite(), if it can be done without waiting for a disk or
 * for other requests: 0.  Else -EAGAIN, and it has to be done by those, which also tell what is
 * wrong: the buffer may hold anything then, and a part of the range may be written.
 */
int vd_image_try_pread(struct vdisk_image *image, void *buf, size_t length, uint64_t offset);
int vd_image_try_pwrite(struct vdisk_image *image, const void *buf, size_t length, uint64_t offset);

/* Takes the image behind @image out, for the caller to close; NULL if there is none.  From then on
 * @image does not know it any more. */
struct vdisk_image *vd_image_take_backing(struct vdisk_image *image);

/* vdisk_image_close(), but the file of @image itself stays open: *file is the caller's from then
 * on.
 */
int vd_image_close_keeping_file(struct vdisk_image *image, struct vd_storage **file,
                                struct vdisk_error *err);

#endif
