/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters: a byte that chooses kind, level and size, then the stream.  What decodes is
 * the same by zlib alone, and again after it was encoded.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "format/codec.h"
#include "input.h"

#define CLUSTER_BYTES_MAX 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

/* If zlib takes it too, then as the same bytes. */
static void check_beside_zlib(const uint8_t *in, size_t in_bytes, const uint8_t *out,
                              size_t out_bytes)
{
    z_stream stream = {.next_in = (void *)(uintptr_t)in, .avail_in = (uInt)in_bytes};
    uint8_t *other = malloc(out_bytes);
    if (other && inflateInit2(&stream, -15) == Z_OK) {
        stream.next_out = other;
        stream.avail_out = (uInt)out_bytes;
        inflate(&stream, Z_FINISH);
        assert(stream.avail_out > 0 || memcmp(other, out, out_bytes) == 0);
        inflateEnd(&stream);
    }
    free(other);
}

static void check_again(enum vd_codec codec, unsigned level, const uint8_t *plain,
                        size_t plain_bytes, struct vd_decoder *decoder)
{
    struct vd_encoder *encoder;
    struct vdisk_error err = {0};
    uint8_t *encoded = malloc(plain_bytes), *again = malloc(plain_bytes);
    size_t encoded_bytes;
    if (encoded && again && vd_encoder_new(codec, level, &encoder, &err) == 0) {
        int ret =
            vd_encode(encoder, plain, plain_bytes, encoded, plain_bytes, &encoded_bytes, &err);
        assert(ret == 0 && encoded_bytes < plain_bytes);
        if (encoded_bytes) {
            ret = vd_decode(decoder, codec, encoded, encoded_bytes, again, plain_bytes, &err);
            assert(ret == 0 && memcmp(again, plain, plain_bytes) == 0);
        }
        vd_encoder_free(encoder);
    }
    free(encoded);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    struct vd_decoder *decoder = NULL;
    struct vdisk_error err = {0};
    unsigned choice = (unsigned)input_take(&in, 1);
    enum vd_codec codec = choice & 1 ? VD_CODEC_ZSTD : VD_CODEC_DEFLATE;
    size_t out_bytes = 512u << (choice >> 1) % 8;
    uint8_t *out = malloc(CLUSTER_BYTES_MAX);
    if (in.left && out && vd_decoder_new(&decoder, &err) == 0) {
        int ret = vd_decode(decoder, codec, in.data, in.left, out, out_bytes, &err);
        assert(ret == 0 || (ret == -EBADMSG && err.message[0]) || ret == -ENOMEM);
        if (ret == 0 && codec == VD_CODEC_DEFLATE)
            check_beside_zlib(in.data, in.left, out, out_bytes);
        if (ret == 0)
            check_again(codec, (choice >> 4) % 10, out, out_bytes, decoder);
    }
    vd_decoder_free(decoder);
    free(out);
    return 0;
}
