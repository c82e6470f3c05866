/* SPDX-License-Identifier: MIT */
#include "format/codec/codec_igzip.h"

#include <isa-l.h>
#include <stdlib.h>

#define WINDOW_BITS   12
#define LEVEL_DEFAULT 3u

struct vd_igzip {
    struct isal_zstream stream;
    uint8_t *tokens; /* owned */
};

bool vd_igzip_has_level(unsigned level)
{
    return level <= ISAL_DEF_MAX_LEVEL;
}

struct vd_igzip *vd_igzip_new(unsigned level)
{
    static const uint32_t token_bytes[] = {0, ISAL_DEF_LVL1_DEFAULT, ISAL_DEF_LVL2_DEFAULT,
                                           ISAL_DEF_LVL3_DEFAULT};
    struct vd_igzip *igzip = calloc(1, sizeof(*igzip));
    if (!igzip)
        return NULL;
    isal_deflate_init(&igzip->stream);
    igzip->stream.level = level ? level : LEVEL_DEFAULT;
    igzip->stream.level_buf_size = token_bytes[igzip->stream.level];
    igzip->stream.hist_bits = WINDOW_BITS;
    igzip->stream.level_buf = igzip->tokens = calloc(1, igzip->stream.level_buf_size);
    if (!igzip->tokens) {
        free(igzip);
        return NULL;
    }
    return igzip;
}

void vd_igzip_free(struct vd_igzip *igzip)
{
    if (!igzip)
        return;
    free(igzip->tokens);
    free(igzip);
}

int vd_igzip_run(struct vd_igzip *igzip, const struct vd_coding *coding, size_t *encoded_bytes,
                 struct vdisk_error *err)
{
    struct isal_zstream *stream = &igzip->stream;
    isal_deflate_reset(stream);
    stream->end_of_stream = 1;
    stream->flush = NO_FLUSH;
    stream->next_in = (void *)(uintptr_t)coding->in;
    stream->avail_in = (uint32_t)coding->in_bytes;
    stream->next_out = coding->out;
    stream->avail_out = (uint32_t)coding->out_bytes;
    int ret = isal_deflate(stream);
    if (ret != COMP_OK)
        return vd_err_set(err, EIO, "igzip: error %d", ret);
    bool has_ended = stream->internal_state.state == ZSTATE_END;
    *encoded_bytes = has_ended ? stream->total_out : 0;
    return 0;
}
