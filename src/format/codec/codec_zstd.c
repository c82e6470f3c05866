/* SPDX-License-Identifier: MIT */
/*
 * Clusters that are zstd frames.
 *
 * Each frame is decoded in one call, straight into the cluster, which is its window: so no memory
 * is taken for what a frame says of its window or of its content.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "format/codec/codec_priv.h"
#include "util/endian.h"

/* The first four bytes of a frame, little-endian; other ones are of formats before zstd 0.8. */
#define FRAME_MAGIC     0xFD2FB528u
#define SKIPPABLE_MAGIC 0x184D2A50u /* and the 15 behind it */
#define SKIPPABLE_MASK  0xFFFFFFF0u
#define MAGIC_BYTES     4u

struct vd_zstd_decoder {
    ZSTD_DCtx *context;
};

struct vd_zstd_encoder {
    ZSTD_CCtx *context;
};

struct vd_zstd_decoder *vd_zstd_decoder_new(void)
{
    struct vd_zstd_decoder *zstd = calloc(1, sizeof(*zstd));
    if (zstd)
        zstd->context = ZSTD_createDCtx();
    if (zstd && !zstd->context) {
        free(zstd);
        return NULL;
    }
    return zstd;
}

void vd_zstd_decoder_free(struct vd_zstd_decoder *zstd)
{
    if (!zstd)
        return;
    ZSTD_freeDCtx(zstd->context);
    free(zstd);
}

static bool is_frame(const uint8_t *in, size_t in_bytes)
{
    if (in_bytes < MAGIC_BYTES)
        return false;
    struct le32 magic_disk;
    memcpy(&magic_disk, in, sizeof(magic_disk));
    uint32_t magic = le32_get(magic_disk);
    return magic == FRAME_MAGIC || (magic & SKIPPABLE_MASK) == SKIPPABLE_MAGIC;
}

int vd_zstd_decode(struct vd_zstd_decoder *zstd, const struct vd_coding *coding,
                   struct vdisk_error *err)
{
    const uint8_t *in = coding->in;
    size_t in_left = coding->in_bytes;
    uint8_t *out = coding->out;
    size_t out_left = coding->out_bytes;
    while (out_left) {
        if (!is_frame(in, in_left))
            return vd_err_set(err, EBADMSG,
                              "zstd: no frame at byte %zu of %zu, and the cluster lacks %zu of "
                              "%zu bytes",
                              coding->in_bytes - in_left, coding->in_bytes, out_left,
                              coding->out_bytes);
        size_t frame = ZSTD_findFrameCompressedSize(in, in_left);
        size_t made = frame;
        if (!ZSTD_isError(frame))
            made = ZSTD_decompressDCtx(zstd->context, out, out_left, in, frame);
        if (ZSTD_isError(made))
            return vd_err_set(err, EBADMSG, "zstd: frame at byte %zu of %zu: %s",
                              coding->in_bytes - in_left, coding->in_bytes,
                              ZSTD_getErrorName(made));
        in += frame;
        in_left -= frame;
        out += made;
        out_left -= made;
    }
    return 0;
}

/* Levels of the library for ours.  Above 15 a cluster takes three times longer for 1 %. */
static int level_of(unsigned level)
{
    static const int levels[] = {3, 1, 2, 3, 4, 5, 6, 9, 12, 15};
    return levels[level];
}

struct vd_zstd_encoder *vd_zstd_encoder_new(unsigned level)
{
    struct vd_zstd_encoder *zstd = calloc(1, sizeof(*zstd));
    if (!zstd)
        return NULL;
    zstd->context = ZSTD_createCCtx();
    /* The cluster's size is known without the frame telling it. */
    if (!zstd->context ||
        ZSTD_isError(
            ZSTD_CCtx_setParameter(zstd->context, ZSTD_c_compressionLevel, level_of(level))) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(zstd->context, ZSTD_c_contentSizeFlag, 0))) {
        vd_zstd_encoder_free(zstd);
        return NULL;
    }
    return zstd;
}

void vd_zstd_encoder_free(struct vd_zstd_encoder *zstd)
{
    if (!zstd)
        return;
    ZSTD_freeCCtx(zstd->context);
    free(zstd);
}

int vd_zstd_encode(struct vd_zstd_encoder *zstd, const struct vd_coding *coding,
                   size_t *encoded_bytes, struct vdisk_error *err)
{
    size_t made =
        ZSTD_compress2(zstd->context, coding->out, coding->out_bytes, coding->in, coding->in_bytes);
    *encoded_bytes = ZSTD_isError(made) ? 0 : made;
    if (!ZSTD_isError(made) || ZSTD_getErrorCode(made) == ZSTD_error_dstSize_tooSmall)
        return 0;
    if (ZSTD_getErrorCode(made) == ZSTD_error_memory_allocation)
        return vd_err_nomem(err, "compression");
    return vd_err_set(err, EIO, "zstd: %s", ZSTD_getErrorName(made));
}
