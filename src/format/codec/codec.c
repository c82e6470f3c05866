/* SPDX-License-Identifier: MIT */
/* Chooses between the kinds; codec_deflate.c and codec_zstd.c do the work. */
#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "format/codec/codec_priv.h"

#define LEVEL_MAX 9u

/* Each part is made when it is first needed: an image has one kind of compressed clusters. */
struct vd_decoder {
    struct vd_inflate *inflate;
    struct vd_zstd_decoder *zstd;
};

struct vd_encoder {
    struct vd_deflate *deflate; /* one of them */
    struct vd_zstd_encoder *zstd;
};

const char *vd_codec_name(enum vd_codec codec)
{
    return codec == VD_CODEC_ZSTD ? "zstd" : "zlib";
}

int vd_decoder_new(struct vd_decoder **decoder, struct vdisk_error *err)
{
    *decoder = calloc(1, sizeof(**decoder));
    return *decoder ? 0 : vd_err_nomem(err, "decompression");
}

void vd_decoder_free(struct vd_decoder *decoder)
{
    if (!decoder)
        return;
    vd_inflate_free(decoder->inflate);
    vd_zstd_decoder_free(decoder->zstd);
    free(decoder);
}

int vd_decode(struct vd_decoder *decoder, enum vd_codec codec, const void *in, size_t in_bytes,
              void *out, size_t out_bytes, struct vdisk_error *err)
{
    struct vd_coding coding = {.in = in, .in_bytes = in_bytes, .out = out, .out_bytes = out_bytes};
    assert(in_bytes > 0 && in_bytes <= INT_MAX && out_bytes > 0 && out_bytes <= INT_MAX);
    if (codec == VD_CODEC_ZSTD) {
        if (!decoder->zstd)
            decoder->zstd = vd_zstd_decoder_new();
        if (!decoder->zstd)
            return vd_err_nomem(err, "decompression");
        return vd_zstd_decode(decoder->zstd, &coding, err);
    }
    if (!decoder->inflate)
        decoder->inflate = vd_inflate_new();
    if (!decoder->inflate)
        return vd_err_nomem(err, "decompression");
    return vd_inflate_run(decoder->inflate, &coding, err);
}

int vd_encoder_new(enum vd_codec codec, unsigned level, struct vd_encoder **encoder,
                   struct vdisk_error *err)
{
    if (level > LEVEL_MAX)
        return vd_err_set(err, EINVAL,
                          "compression level %u: there are 1 to %u, and 0 for the default", level,
                          LEVEL_MAX);
    struct vd_encoder *enc = calloc(1, sizeof(*enc));
    if (enc && codec == VD_CODEC_ZSTD)
        enc->zstd = vd_zstd_encoder_new(level);
    else if (enc)
        enc->deflate = vd_deflate_new(level);
    if (!enc || (!enc->zstd && !enc->deflate)) {
        vd_encoder_free(enc);
        return vd_err_nomem(err, "compression");
    }
    *encoder = enc;
    return 0;
}

void vd_encoder_free(struct vd_encoder *encoder)
{
    if (!encoder)
        return;
    vd_deflate_free(encoder->deflate);
    vd_zstd_encoder_free(encoder->zstd);
    free(encoder);
}

int vd_encode(struct vd_encoder *encoder, const void *in, size_t in_bytes, void *out,
              size_t out_bytes, size_t *encoded_bytes, struct vdisk_error *err)
{
    assert(in_bytes > 0 && in_bytes <= INT_MAX && out_bytes > 0 && out_bytes <= INT_MAX);
    struct vd_coding coding = {
        .in = in, .in_bytes = in_bytes, .out = out, .out_bytes = out_bytes - 1};
    *encoded_bytes = 0;
    if (coding.out_bytes == 0)
        return 0;
    if (encoder->zstd)
        return vd_zstd_encode(encoder->zstd, &coding, encoded_bytes, err);
    return vd_deflate_run(encoder->deflate, &coding, encoded_bytes, err);
}
