/* SPDX-License-Identifier: MIT */
/*
 * Writing compressed clusters, several at a time: formats put them one behind the other, so they
 * are one write.
 *
 * The rules I1 and I3 of image/io.c hold here too.
 */
#include <assert.h>
#include <sys/uio.h>

#include "image/image_priv.h"
#include "util/iov.h"

/* So many are mapped before they are written. */
#define BATCH_ENTRIES_MAX 32u

struct batch {
    struct vd_mapping mappings[BATCH_ENTRIES_MAX];
    struct iovec iov[BATCH_ENTRIES_MAX];
    size_t entries;
};

/* How many from @first on are one behind the other in the file?  *bytes gets their length. */
static size_t neighbours(const struct batch *batch, size_t first, uint64_t *bytes)
{
    const struct vd_mapping *start = &batch->mappings[first];
    size_t end = first;
    *bytes = 0;
    do {
        *bytes += batch->iov[end++].iov_len;
    } while (end < batch->entries && batch->mappings[end].storage == start->storage &&
             batch->mappings[end].host_offset == start->host_offset + *bytes);
    return end - first;
}

/* Writes what is mapped, and says for each whether it is there. */
static int batch_write(struct vdisk_image *image, const struct batch *batch,
                       struct vdisk_error *err)
{
    int ret = 0;
    for (size_t first = 0; first < batch->entries;) {
        uint64_t bytes;
        size_t run = neighbours(batch, first, &bytes);
        if (ret == 0)
            ret = vd_storage_pwritev(batch->mappings[first].storage, batch->iov + first, (int)run,
                                     batch->mappings[first].host_offset, err);
        for (; run; run--, first++)
            vd_format_write_done(image->format, &batch->mappings[first], ret == 0);
    }
    return ret;
}

/* The clusters are held.  What could be mapped is written also if the next one could not. */
static int write_held(struct vdisk_image *image, enum vd_codec codec,
                      const struct vd_image_encoded *clusters, size_t entries,
                      struct vdisk_error *err)
{
    struct batch batch;
    int ret = 0;
    for (batch.entries = 0; batch.entries < entries; batch.entries++) {
        const struct vd_image_encoded *cluster = &clusters[batch.entries];
        ret = vd_format_map_encoded(image->format, cluster->guest, codec, cluster->length,
                                    &batch.mappings[batch.entries], err);
        if (ret < 0)
            break;
        batch.iov[batch.entries] = vd_iov_const(cluster->bytes, cluster->length);
    }
    int written = batch_write(image, &batch, ret < 0 ? NULL : err);
    return ret < 0 ? ret : written;
}

/* I3 */
static int write_batch(struct vdisk_image *image, enum vd_codec codec,
                       const struct vd_image_encoded *clusters, size_t entries,
                       struct vdisk_error *err)
{
    struct vd_guard_range mine;
    uint64_t start = clusters[0].guest.offset;
    struct vd_range all = vd_range(start, vd_range_end(clusters[entries - 1].guest) - start);
    int ret = vd_image_check_request(image, all.offset, all.length, err);
    if (ret < 0)
        return ret;
    vd_guard_hold(&image->guard, &mine, vd_range_expand(all, image->cluster_bytes));
    ret = write_held(image, codec, clusters, entries, err);
    vd_guard_release(&image->guard, &mine);
    return ret;
}

int vd_image_write_encoded(struct vdisk_image *image, enum vd_codec codec,
                           const struct vd_image_encoded *clusters, size_t entries,
                           struct vdisk_error *err)
{
    int ret = 0;
    unsigned ticket = vd_format_enter(image->format); /* I1 */
    for (size_t i = 1; i < entries; i++)
        assert(clusters[i].guest.offset >= vd_range_end(clusters[i - 1].guest));
    for (size_t done = 0; done < entries && ret == 0;) {
        size_t step = (size_t)vd_min(entries - done, BATCH_ENTRIES_MAX);
        ret = write_batch(image, codec, clusters + done, step, err);
        done += step;
    }
    vd_format_leave(image->format, ticket);
    return ret;
}
