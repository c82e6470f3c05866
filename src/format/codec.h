/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters: one call makes one cluster, in memory.  Nothing here knows of images.
 *
 * Deflate is a raw stream whose distances stay within 4 KiB (window bits -12), zstd one frame or
 * several.  What follows the end of a stream is ignored: stored lengths are sectors, not bytes.
 */
#ifndef VD_FORMAT_CODEC_H
#define VD_FORMAT_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

enum vd_codec {
    VD_CODEC_DEFLATE,
    VD_CODEC_ZSTD
};

/* "zlib" or "zstd", as in `-o compression_type=`. */
const char *vd_codec_name(enum vd_codec codec);

/* Working memory of one thread at a time. */
struct vd_decoder;
struct vd_encoder;

int vd_decoder_new(struct vd_decoder **decoder, struct vdisk_error *err);
void vd_decoder_free(struct vd_decoder *decoder); /* NULL is accepted */

/*
 * Makes exactly @out_bytes of the start of @in.  -EBADMSG: it is no such stream, or makes fewer;
 * never reads or writes outside, and takes no memory in proportion to what the stream claims.
 */
int vd_decode(struct vd_decoder *decoder, enum vd_codec codec, const void *in, size_t in_bytes,
              void *out, size_t out_bytes, struct vdisk_error *err);

/* @level: 0: the default, the fast one; 1 to 9: more is smaller and slower. */
int vd_encoder_new(enum vd_codec codec, unsigned level, struct vd_encoder **encoder,
                   struct vdisk_error *err);
void vd_encoder_free(struct vd_encoder *encoder); /* NULL is accepted */

/*
 * *encoded_bytes gets the length of the stream in @out; 0: it would not be shorter than
 * @out_bytes.
 */
int vd_encode(struct vd_encoder *encoder, const void *in, size_t in_bytes, void *out,
              size_t out_bytes, size_t *encoded_bytes, struct vdisk_error *err);

#endif
