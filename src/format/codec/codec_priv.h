/* SPDX-License-Identifier: MIT */
/* The two kinds of compressed clusters, for the files of this folder only. */
#ifndef VD_FORMAT_CODEC_CODEC_PRIV_H
#define VD_FORMAT_CODEC_CODEC_PRIV_H

#include "format/codec.h"

/* One encoding or decoding: nothing outside of the two buffers is touched. */
struct vd_coding {
    const void *in;
    size_t in_bytes;
    void *out;
    size_t out_bytes;
};

/* Working memory of one kind.  Each new() may return NULL: no memory.  free() accepts NULL. */
struct vd_inflate;
struct vd_inflate *vd_inflate_new(void);
void vd_inflate_free(struct vd_inflate *inflate);
int vd_inflate_run(struct vd_inflate *inflate, const struct vd_coding *coding,
                   struct vdisk_error *err);

struct vd_deflate;
struct vd_deflate *vd_deflate_new(unsigned level);
void vd_deflate_free(struct vd_deflate *deflate);

struct vd_zstd_decoder;
struct vd_zstd_decoder *vd_zstd_decoder_new(void);
void vd_zstd_decoder_free(struct vd_zstd_decoder *zstd);
int vd_zstd_decode(struct vd_zstd_decoder *zstd, const struct vd_coding *coding,
                   struct vdisk_error *err);

struct vd_zstd_encoder;
struct vd_zstd_encoder *vd_zstd_encoder_new(unsigned level);
void vd_zstd_encoder_free(struct vd_zstd_encoder *zstd);

/* As vd_encode(): *encoded_bytes is 0 if the stream does not fit into the room there is. */
int vd_deflate_run(struct vd_deflate *deflate, const struct vd_coding *coding,
                   size_t *encoded_bytes, struct vdisk_error *err);
int vd_zstd_encode(struct vd_zstd_encoder *zstd, const struct vd_coding *coding,
                   size_t *encoded_bytes, struct vdisk_error *err);

#endif
