/* SPDX-License-Identifier: MIT */
#include "job/convert_compress.h"

#include <assert.h>
#include <string.h>

#include "job/convert_cursor.h"
#include "util/iov.h"
#include "util/mem.h"

int vd_convert_encoder_init(struct vd_convert_encoder *encoder, struct vdisk_image *target,
                            unsigned level, struct vdisk_error *err)
{
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(target), &info, err);
    if (ret < 0)
        return ret;
    assert(info.takes_encoded && VD_CONVERT_PIECE_BYTES % info.cluster_bytes == 0);
    encoder->cluster_bytes = info.cluster_bytes;
    encoder->disk_bytes = vdisk_image_size(target);
    encoder->codec = info.codec;
    encoder->streams = vd_alloc_io(VD_CONVERT_PIECE_BYTES);
    encoder->clusters =
        vd_alloc_array(VD_CONVERT_PIECE_BYTES / info.cluster_bytes, sizeof(*encoder->clusters));
    if (!encoder->streams || !encoder->clusters)
        return vd_err_nomem(err, "compression");
    return vd_encoder_new(info.codec, level, &encoder->encoder, err);
}

void vd_convert_encoder_destroy(struct vd_convert_encoder *encoder)
{
    vd_encoder_free(encoder->encoder);
    free(encoder->streams);
    free(encoder->clusters);
}

/* Encodes what is at @buf, all of @cluster->guest, into @room; Z2. */
static int encode_one(struct vd_convert_encoder *encoder, uint8_t *buf, uint8_t *room,
                      struct vd_image_encoded *cluster, struct vdisk_error *err)
{
    size_t length = (size_t)cluster->guest.length, made;
    if (!encoder->keeps_zeros && vd_buffer_is_zero(buf, length))
        return 0;
    cluster->bytes = buf;
    if (length < encoder->cluster_bytes) {
        if (vd_range_end(cluster->guest) != encoder->disk_bytes)
            return 0; /* the target has something behind it */
        memset(buf + length, 0, encoder->cluster_bytes - length);
    }
    int ret = vd_encode(encoder->encoder, buf, encoder->cluster_bytes, room, encoder->cluster_bytes,
                        &made, err);
    if (ret == 0 && made) {
        cluster->bytes = room;
        cluster->length = (uint32_t)made;
    }
    return ret;
}

int vd_convert_encoder_run(struct vd_convert_encoder *encoder, uint8_t *buf, struct vd_range range,
                           struct vdisk_error *err)
{
    uint8_t *room = encoder->streams;
    int ret = 0;
    assert(vd_is_aligned(range.offset, encoder->cluster_bytes));
    assert(range.length <= VD_CONVERT_PIECE_BYTES);
    encoder->entries = 0;
    for (uint64_t at = 0; at < range.length && ret == 0; at += encoder->cluster_bytes) {
        struct vd_image_encoded *cluster = &encoder->clusters[encoder->entries++];
        uint64_t length = vd_min(encoder->cluster_bytes, range.length - at);
        *cluster = (struct vd_image_encoded){.guest = vd_range(range.offset + at, length)};
        ret = encode_one(encoder, buf + at, room, cluster, err);
        room += cluster->length;
    }
    return ret;
}

size_t vd_convert_encoder_run_length(const struct vd_convert_encoder *encoder, size_t first)
{
    const struct vd_image_encoded *clusters = encoder->clusters;
    size_t end = first + 1;
    while (end < encoder->entries && !clusters[end].length == !clusters[first].length &&
           !clusters[end].bytes == !clusters[first].bytes)
        end++;
    return end - first;
}
