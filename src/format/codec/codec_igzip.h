/* SPDX-License-Identifier: MIT */
/* The fast levels of deflate, by ISA-L where that is built in. */
#ifndef VD_FORMAT_CODEC_CODEC_IGZIP_H
#define VD_FORMAT_CODEC_CODEC_IGZIP_H

#include <stdbool.h>

#include "format/codec/codec_priv.h"

struct vd_igzip;

/* Is this one of the levels? */
bool vd_igzip_has_level(unsigned level);

/* NULL: no memory */
struct vd_igzip *vd_igzip_new(unsigned level);
void vd_igzip_free(struct vd_igzip *igzip); /* NULL is accepted */

int vd_igzip_run(struct vd_igzip *igzip, const struct vd_coding *coding, size_t *encoded_bytes,
                 struct vdisk_error *err);

#endif
