/* SPDX-License-Identifier: MIT */
#include "drivers/encode.h"

#include <string.h>

#include "drivers/alloc.h"

bool vt_takes_encoded(struct vdisk_image *image)
{
    struct vd_format_info info = {0};
    return vd_format_info(vd_image_format(image), &info, NULL) == 0 && info.takes_encoded;
}

void vt_encode_fill(struct vt_random *random, uint8_t *bytes, size_t length)
{
    vt_random_fill(random, bytes, length);
    /* Runs of one byte, and some noise, so that stored lengths differ. */
    for (size_t i = 0; i < length; i++)
        if (i % 64 > 9)
            bytes[i] = bytes[i / 512 * 512];
}

/* The clusters of @whole, which ends with one or with the disk. */
static int write_clusters(struct vdisk_image *image, const struct vd_format_info *info,
                          struct vd_range whole, const uint8_t *bytes, struct vdisk_error *err)
{
    size_t unit = info->cluster_bytes, entries = (size_t)vd_div_up(whole.length, unit), made = 0;
    struct vd_image_encoded *clusters = vt_calloc(entries, sizeof(*clusters));
    uint8_t *plain = vt_calloc(1, unit), *streams = vt_calloc(entries, unit);
    struct vd_encoder *encoder = NULL;
    int ret = vd_encoder_new(info->codec, 1, &encoder, err);
    for (size_t i = 0; i < entries && ret == 0; i++) {
        struct vd_image_encoded *cluster = &clusters[i];
        uint64_t at = i * (uint64_t)unit;
        cluster->guest = vd_range(whole.offset + at, vd_min(unit, whole.length - at));
        cluster->bytes = streams + at;
        memset(plain, 0, unit);
        memcpy(plain, bytes + at, (size_t)cluster->guest.length);
        ret = vd_encode(encoder, plain, unit, streams + at, unit, &made, err);
        if (ret == 0 && !made)
            ret = vd_err_set(err, EINVAL, "bytes that do not shrink");
        cluster->length = (uint32_t)made;
    }
    if (ret == 0)
        ret = vd_image_write_encoded(image, info->codec, clusters, entries, err);
    vd_encoder_free(encoder);
    free(streams);
    free(plain);
    free(clusters);
    return ret;
}

int vt_write_encoded(struct vdisk_image *image, struct vd_range guest, const uint8_t *bytes,
                     struct vdisk_error *err)
{
    struct vd_format_info info = {0};
    int ret = vd_format_info(vd_image_format(image), &info, err);
    if (ret < 0)
        return ret;
    uint64_t unit = info.cluster_bytes, end = vd_range_end(guest);
    uint64_t first = vd_min(vd_round_up(guest.offset, unit), end);
    uint64_t last = end == vdisk_image_size(image) ? end : vd_round_down(end, unit);
    last = vd_max(last, first);
    if (first > guest.offset)
        ret = vdisk_image_pwrite(image, bytes, (size_t)(first - guest.offset), guest.offset, err);
    if (ret == 0 && last > first)
        ret = write_clusters(image, &info, vd_range(first, last - first),
                             bytes + (first - guest.offset), err);
    if (ret == 0 && end > last)
        ret = vdisk_image_pwrite(image, bytes + (last - guest.offset), (size_t)(end - last), last,
                                 err);
    return ret;
}
