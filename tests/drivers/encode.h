/* SPDX-License-Identifier: MIT */
/* Compressed clusters for tests of images that may have them. */
#ifndef VT_ENCODE_H
#define VT_ENCODE_H

#include "drivers/random.h"
#include "image/image.h"

/* Does the image take compressed clusters? */
bool vt_takes_encoded(struct vdisk_image *image);

/* Bytes that shrink. */
void vt_encode_fill(struct vt_random *random, uint8_t *bytes, size_t length);

/* Writes @bytes to @guest, compressed where that is whole clusters. */
int vt_write_encoded(struct vdisk_image *image, struct vd_range guest, const uint8_t *bytes,
                     struct vdisk_error *err);

#endif
