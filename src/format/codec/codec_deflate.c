/* SPDX-License-Identifier: MIT */
/*
 * Clusters that are raw deflate streams.
 *
 * Written with distances of at most 4 KiB, as other readers want them; read with any.
 */
#include <libdeflate.h>
#include <stdlib.h>
#include <zlib.h>

#include "format/codec/codec_igzip.h"
#include "format/codec/codec_priv.h"

#define WRITE_WINDOW_BITS (-12) /* negative: without the header of zlib */
#define READ_WINDOW_BITS  (-15)

/* More, as other writers have it, makes clusters no smaller, and every reset of the state slower.
 */
#define MEM_LEVEL 8

struct vd_inflate {
    struct libdeflate_decompressor *whole;
    z_stream pieces; /* for what the other does not take */
    bool has_pieces;
};

struct vd_deflate {
    struct vd_igzip *igzip; /* one of them */
    z_stream zlib;
    bool has_zlib;
};

struct vd_inflate *vd_inflate_new(void)
{
    struct vd_inflate *inf = calloc(1, sizeof(*inf));
    if (inf)
        inf->whole = libdeflate_alloc_decompressor();
    if (inf && !inf->whole) {
        free(inf);
        return NULL;
    }
    return inf;
}

void vd_inflate_free(struct vd_inflate *inf)
{
    if (!inf)
        return;
    libdeflate_free_decompressor(inf->whole);
    if (inf->has_pieces)
        inflateEnd(&inf->pieces);
    free(inf);
}

/* zlib stops where the cluster is full: what comes then need not be sound, nor an end. */
static int inflate_until_full(struct vd_inflate *inf, const struct vd_coding *coding,
                              struct vdisk_error *err)
{
    z_stream *stream = &inf->pieces;
    int ret = inf->has_pieces ? inflateReset(stream) : inflateInit2(stream, READ_WINDOW_BITS);
    if (ret != Z_OK)
        return vd_err_nomem(err, "decompression");
    inf->has_pieces = true;
    stream->next_in = (void *)(uintptr_t)coding->in;
    stream->avail_in = (uInt)coding->in_bytes;
    stream->next_out = coding->out;
    stream->avail_out = (uInt)coding->out_bytes;
    ret = inflate(stream, Z_FINISH);
    if (stream->avail_out == 0)
        return 0;
    if (ret == Z_MEM_ERROR)
        return vd_err_nomem(err, "decompression");
    return vd_err_set(err, EBADMSG, "deflate: %s after %zu of %zu bytes of the cluster",
                      ret == Z_STREAM_END  ? "the stream ends"
                      : ret == Z_BUF_ERROR ? "the stream is cut off"
                      : stream->msg        ? stream->msg
                                           : "no such stream",
                      coding->out_bytes - stream->avail_out, coding->out_bytes);
}

int vd_inflate_run(struct vd_inflate *inf, const struct vd_coding *coding, struct vdisk_error *err)
{
    size_t in_used, made;
    enum libdeflate_result result = libdeflate_deflate_decompress_ex(
        inf->whole, coding->in, coding->in_bytes, coding->out, coding->out_bytes, &in_used, &made);
    if (result == LIBDEFLATE_SUCCESS && made == coding->out_bytes)
        return 0;
    return inflate_until_full(inf, coding, err);
}

/* Which level of zlib?  ISA-L has the lowest ones where it is built in. */
static int zlib_level_of(unsigned level)
{
    return level ? (int)level : 1;
}

struct vd_deflate *vd_deflate_new(unsigned level)
{
    struct vd_deflate *def = calloc(1, sizeof(*def));
    if (!def)
        return NULL;
    if (vd_igzip_has_level(level)) {
        def->igzip = vd_igzip_new(level);
        if (def->igzip)
            return def;
    } else if (deflateInit2(&def->zlib, zlib_level_of(level), Z_DEFLATED, WRITE_WINDOW_BITS,
                            MEM_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK) {
        def->has_zlib = true;
        return def;
    }
    free(def);
    return NULL;
}

void vd_deflate_free(struct vd_deflate *def)
{
    if (!def)
        return;
    vd_igzip_free(def->igzip);
    if (def->has_zlib)
        deflateEnd(&def->zlib);
    free(def);
}

int vd_deflate_run(struct vd_deflate *def, const struct vd_coding *coding, size_t *encoded_bytes,
                   struct vdisk_error *err)
{
    if (def->igzip)
        return vd_igzip_run(def->igzip, coding, encoded_bytes, err);
    z_stream *stream = &def->zlib;
    int ret = deflateReset(stream);
    if (ret == Z_OK) {
        stream->next_in = (void *)(uintptr_t)coding->in;
        stream->avail_in = (uInt)coding->in_bytes;
        stream->next_out = coding->out;
        stream->avail_out = (uInt)coding->out_bytes;
        ret = deflate(stream, Z_FINISH);
    }
    *encoded_bytes = ret == Z_STREAM_END ? coding->out_bytes - stream->avail_out : 0;
    if (ret == Z_STREAM_END || ret == Z_OK || ret == Z_BUF_ERROR)
        return 0;
    return vd_err_set(err, EIO, "zlib: error %d", ret);
}
