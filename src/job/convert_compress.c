/* SPDX-License-Identifier: MIT */
#include "job/convert_compress.h"

#include <assert.h>
#include <string.h>

#include "util/iov.h"
#include "util/mem.h"

/* So many more lots than workers; each has two pieces of memory. */
#define LOTS_AHEAD 4u

static int lot_init(struct vd_convert_lot *lot, size_t cluster_bytes, struct vdisk_error *err)
{
    lot->buf = vd_alloc_io(VD_CONVERT_PIECE_BYTES);
    lot->streams = vd_alloc_io(VD_CONVERT_PIECE_BYTES);
    lot->clusters = vd_alloc_array(VD_CONVERT_PIECE_BYTES / cluster_bytes, sizeof(*lot->clusters));
    return lot->buf && lot->streams && lot->clusters ? 0 : vd_err_nomem(err, "compression");
}

int vd_convert_line_init(struct vd_convert_line *line, struct vdisk_image *target, unsigned workers,
                         struct vdisk_error *err)
{
    struct vd_format_info info;
    int ret = vd_format_info(vd_image_format(target), &info, err);
    vd_mutex_init(&line->lock);
    vd_cond_init(&line->freed);
    if (ret < 0)
        return ret;
    assert(info.takes_encoded && VD_CONVERT_PIECE_BYTES % info.cluster_bytes == 0);
    line->cluster_bytes = info.cluster_bytes;
    line->disk_bytes = vdisk_image_size(target);
    line->codec = info.codec;
    line->lots = vd_alloc_array(workers + LOTS_AHEAD, sizeof(*line->lots));
    if (!line->lots)
        return vd_err_nomem(err, "compression");
    line->lot_entries = workers + LOTS_AHEAD;
    for (size_t i = 0; i < line->lot_entries && ret == 0; i++)
        ret = lot_init(&line->lots[i], line->cluster_bytes, err);
    return ret;
}

void vd_convert_line_destroy(struct vd_convert_line *line)
{
    for (size_t i = 0; i < line->lot_entries; i++) {
        free(line->lots[i].buf);
        free(line->lots[i].streams);
        free(line->lots[i].clusters);
    }
    free(line->lots);
    vd_cond_destroy(&line->freed);
    vd_mutex_destroy(&line->lock);
}

static struct vd_convert_lot *find_free_locked(struct vd_convert_line *line) VD_REQUIRES(line->lock)
{
    for (size_t i = 0; i < line->lot_entries; i++)
        if (!line->lots[i].is_taken)
            return &line->lots[i];
    return NULL;
}

struct vd_convert_lot *vd_convert_line_take(struct vd_convert_line *line)
{
    struct vd_convert_lot *lot = NULL;
    vd_mutex_lock(&line->lock);
    while (!line->is_stopped && !(lot = find_free_locked(line)))
        vd_cond_wait(&line->freed, &line->lock);
    if (line->is_stopped)
        lot = NULL;
    if (lot) {
        lot->is_taken = true;
        lot->entries = 0;
        lot->streams_used = 0;
    }
    vd_mutex_unlock(&line->lock);
    return lot;
}

/* Z2 */
static int encode_one(const struct vd_convert_line *line, struct vd_convert_lot *lot,
                      struct vd_encoder *encoder, struct vd_image_encoded *cluster,
                      struct vdisk_error *err)
{
    uint8_t *bytes = lot->buf + (cluster->guest.offset - lot->piece.range.offset);
    uint8_t *room = lot->streams + lot->streams_used;
    size_t length = (size_t)cluster->guest.length, made;
    if (!line->keeps_zeros && vd_buffer_is_zero(bytes, length))
        return 0;
    cluster->bytes = bytes;
    if (length < line->cluster_bytes) {
        if (vd_range_end(cluster->guest) != line->disk_bytes)
            return 0; /* the target has something behind it */
        memset(bytes + length, 0, line->cluster_bytes - length);
    }
    int ret = vd_encode(encoder, bytes, line->cluster_bytes, room, line->cluster_bytes, &made, err);
    if (ret == 0 && made) {
        cluster->bytes = room;
        cluster->length = (uint32_t)made;
        lot->streams_used += made;
    }
    return ret;
}

int vd_convert_line_encode(const struct vd_convert_line *line, struct vd_convert_lot *lot,
                           struct vd_encoder *encoder, struct vd_range range,
                           struct vdisk_error *err)
{
    int ret = 0;
    assert(vd_is_aligned(range.offset, line->cluster_bytes));
    while (range.length && ret == 0) {
        uint64_t step = vd_min(line->cluster_bytes, range.length);
        struct vd_image_encoded *cluster = &lot->clusters[lot->entries++];
        *cluster = (struct vd_image_encoded){.guest = vd_range(range.offset, step)};
        ret = encode_one(line, lot, encoder, cluster, err);
        range = vd_range(range.offset + step, range.length - step);
    }
    return ret;
}

size_t vd_convert_lot_run(const struct vd_convert_lot *lot, size_t first)
{
    const struct vd_image_encoded *start = &lot->clusters[first];
    size_t end = first + 1;
    while (end < lot->entries && !lot->clusters[end].length == !start->length &&
           !lot->clusters[end].bytes == !start->bytes &&
           lot->clusters[end].guest.offset == vd_range_end(lot->clusters[end - 1].guest))
        end++;
    return end - first;
}

static struct vd_convert_lot *find_next_locked(struct vd_convert_line *line) VD_REQUIRES(line->lock)
{
    for (size_t i = 0; i < line->lot_entries; i++)
        if (line->lots[i].is_ready && line->lots[i].piece.index == line->turn)
            return &line->lots[i];
    return NULL;
}

int vd_convert_line_put(struct vd_convert_line *line, struct vd_convert_lot *lot,
                        vd_convert_lot_fn write, void *opaque, struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&line->lock);
    lot->is_ready = true;
    while (ret == 0 && !line->is_writing && !line->is_stopped &&
           (lot = find_next_locked(line)) != NULL) {
        line->is_writing = true;
        vd_mutex_unlock(&line->lock);
        ret = write(opaque, lot, err);
        vd_mutex_lock(&line->lock);
        line->is_writing = false;
        line->turn++;
        lot->is_ready = lot->is_taken = false;
        vd_cond_broadcast(&line->freed);
    }
    vd_mutex_unlock(&line->lock);
    return ret;
}

void vd_convert_line_stop(struct vd_convert_line *line)
{
    vd_mutex_lock(&line->lock);
    line->is_stopped = true;
    vd_cond_broadcast(&line->freed);
    vd_mutex_unlock(&line->lock);
}
