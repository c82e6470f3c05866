/* SPDX-License-Identifier: MIT */
/* Copying into compressed clusters. */
#include <assert.h>
#include <string.h>

#include "backup/copy_units.h"
#include "image/copy.h"
#include "util/mem.h"

/* So many clusters are encoded before they are written. */
#define BATCH_ENTRIES_MAX 32u

int vd_copy_encoders_new(struct vd_copy_state *state, const struct vd_format_info *info,
                         struct vdisk_error *err)
{
    int ret = 0;
    if (!info->takes_encoded)
        return vd_err_set(err, ENOTSUP, "%s: images of this kind take no compressed clusters",
                          vd_storage_name(vd_format_file(vd_image_format(state->copy->target))));
    assert(info->cluster_bytes == state->unit_bytes);
    state->codec = info->codec;
    state->encoders = vd_alloc_array(state->workers, sizeof(*state->encoders));
    if (!state->encoders)
        return vd_err_nomem(err, "compression");
    for (unsigned i = 0; i < state->workers && ret == 0; i++) {
        struct vd_copy_encoder *encoder = &state->encoders[i];
        encoder->streams = vd_alloc_io(VD_MERGE_PIECE_BYTES);
        encoder->last = vd_alloc_io((size_t)state->unit_bytes);
        ret = encoder->streams && encoder->last
                  ? vd_encoder_new(state->codec, state->copy->level, &encoder->encoder, err)
                  : vd_err_nomem(err, "compression");
    }
    return ret;
}

void vd_copy_encoders_free(struct vd_copy_state *state)
{
    for (unsigned i = 0; state->encoders && i < state->workers; i++) {
        vd_encoder_free(state->encoders[i].encoder);
        free(state->encoders[i].streams);
        free(state->encoders[i].last);
    }
    free(state->encoders);
}

/* Clusters that are encoded and not written yet. */
struct batch {
    struct vd_image_encoded clusters[BATCH_ENTRIES_MAX];
    size_t entries;
    size_t used; /* of the streams */
};

static int batch_write(struct vd_merge *merge, struct batch *batch, struct vdisk_error *err)
{
    const struct vd_copy_state *state = merge->opaque;
    if (!batch->entries)
        return 0;
    int ret =
        vd_image_write_encoded(merge->target, state->codec, batch->clusters, batch->entries, err);
    struct vd_range last = batch->clusters[batch->entries - 1].guest;
    uint64_t start = batch->clusters[0].guest.offset;
    for (size_t i = 0; i < batch->entries && ret == 0; i++)
        atomic_fetch_add(&merge->data_bytes, batch->clusters[i].guest.length);
    if (ret == 0)
        vd_image_write_behind(merge->target, start, vd_range_end(last) - start);
    batch->entries = 0;
    batch->used = 0;
    return ret;
}

/* *encoded gets the length of the unit's stream, 0: it does not shrink. */
static int encode_unit(const struct vd_copy_state *state, struct vd_copy_encoder *encoder,
                       size_t at, const uint8_t *bytes, size_t length, size_t *encoded,
                       struct vdisk_error *err)
{
    size_t unit = (size_t)state->unit_bytes;
    if (length < unit) {
        memcpy(encoder->last, bytes, length);
        memset(encoder->last + length, 0, unit - length);
        bytes = encoder->last;
    }
    return vd_encode(encoder->encoder, bytes, unit, encoder->streams + at, unit, encoded, err);
}

int vd_copy_write_encoded(struct vd_merge *merge, struct vd_copy_encoder *encoder,
                          struct vd_range run, const uint8_t *bytes, struct vdisk_error *err)
{
    const struct vd_copy_state *state = merge->opaque;
    struct batch batch = {.entries = 0};
    int ret = 0;
    while (run.length && ret == 0) {
        struct vd_range guest = vd_range(run.offset, vd_min(run.length, state->unit_bytes));
        size_t encoded;
        ret = encode_unit(state, encoder, batch.used, bytes, (size_t)guest.length, &encoded, err);
        if (ret == 0 && encoded) {
            batch.clusters[batch.entries++] =
                (struct vd_image_encoded){.guest = guest,
                                          .bytes = encoder->streams + batch.used,
                                          .length = (uint32_t)encoded};
            batch.used += encoded;
        } else if (ret == 0) {
            ret = vd_merge_write(merge, bytes, guest, err);
        }
        if (ret == 0 && batch.entries == BATCH_ENTRIES_MAX)
            ret = batch_write(merge, &batch, err);
        bytes += guest.length;
        run = vd_range(run.offset + guest.length, run.length - guest.length);
    }
    return ret < 0 ? ret : batch_write(merge, &batch, err);
}
