/* SPDX-License-Identifier: MIT */
#include "image/encoded.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "util/iov.h"
#include "util/mem.h"

/* Read together: so many clusters, and so many bytes of the file with what lies between them. */
#define BATCH_ENTRIES_MAX 32u
#define BATCH_BYTES_MAX   (UINT64_C(1) << 20)
#define BATCH_GAP_MAX     (UINT64_C(16) << 10)

/* Memory of decoded clusters, if that is one at least. */
#define SLOTS_BYTES_MAX (512u << 10)

void vd_encoded_init(struct vd_encoded *encoded)
{
    *encoded = (struct vd_encoded){0};
    vd_mutex_init(&encoded->lock);
}

void vd_encoded_destroy(struct vd_encoded *encoded)
{
    for (unsigned i = 0; i < encoded->idle_entries; i++)
        vd_decoder_free(encoded->idle[i]);
    for (unsigned i = 0; i < VD_ENCODED_SLOTS_MAX; i++)
        free(encoded->slots[i].bytes);
    vd_mutex_destroy(&encoded->lock);
}

/* ---- Decoders ---- */

static int decoder_take(struct vd_encoded *encoded, struct vd_decoder **decoder,
                        struct vdisk_error *err)
{
    *decoder = NULL;
    vd_mutex_lock(&encoded->lock);
    if (encoded->idle_entries)
        *decoder = encoded->idle[--encoded->idle_entries];
    vd_mutex_unlock(&encoded->lock);
    return *decoder ? 0 : vd_decoder_new(decoder, err);
}

static void decoder_give(struct vd_encoded *encoded, struct vd_decoder *decoder)
{
    vd_mutex_lock(&encoded->lock);
    if (encoded->idle_entries < VD_ENCODED_IDLE_MAX) {
        encoded->idle[encoded->idle_entries++] = decoder;
        decoder = NULL;
    }
    vd_mutex_unlock(&encoded->lock);
    vd_decoder_free(decoder);
}

/* ---- Decoded clusters (E2) ---- */

static struct vd_encoded_slot *slot_find_locked(struct vd_encoded *encoded,
                                                const struct vd_mapping *mapping)
    VD_REQUIRES(encoded->lock)
{
    for (unsigned i = 0; i < VD_ENCODED_SLOTS_MAX; i++) {
        struct vd_encoded_slot *slot = &encoded->slots[i];
        if (slot->storage == mapping->storage && slot->host_offset == mapping->host_offset &&
            slot->encoded_bytes == mapping->encoded_bytes &&
            slot->cluster_bytes == mapping->clusters.length)
            return slot;
    }
    return NULL;
}

/* The slot that has the cluster, to be released; or NULL. */
static struct vd_encoded_slot *slot_hold(struct vd_encoded *encoded,
                                         const struct vd_mapping *mapping)
{
    if (!encoded->keeps_clusters)
        return NULL;
    vd_mutex_lock(&encoded->lock);
    struct vd_encoded_slot *slot = slot_find_locked(encoded, mapping);
    if (slot) {
        slot->users++;
        slot->used_tick = ++encoded->tick;
    }
    vd_mutex_unlock(&encoded->lock);
    return slot;
}

static void slot_release(struct vd_encoded *encoded, struct vd_encoded_slot *slot)
{
    vd_mutex_lock(&encoded->lock);
    slot->users--;
    vd_mutex_unlock(&encoded->lock);
}

/* Keeps the cluster in place of the one that was not asked for the longest; takes over *bytes. */
static void slot_keep(struct vd_encoded *encoded, const struct vd_mapping *mapping, uint8_t **bytes)
{
    size_t entries =
        (size_t)vd_min(SLOTS_BYTES_MAX / mapping->clusters.length, VD_ENCODED_SLOTS_MAX);
    struct vd_encoded_slot *victim = NULL;
    uint8_t *old = NULL;
    vd_mutex_lock(&encoded->lock);
    for (size_t i = 0; i < (entries ? entries : 1); i++) {
        struct vd_encoded_slot *slot = &encoded->slots[i];
        if (!slot->users && (!victim || slot->used_tick < victim->used_tick))
            victim = slot;
    }
    if (victim && !slot_find_locked(encoded, mapping)) {
        old = victim->bytes;
        *victim = (struct vd_encoded_slot){.storage = mapping->storage,
                                           .host_offset = mapping->host_offset,
                                           .encoded_bytes = mapping->encoded_bytes,
                                           .cluster_bytes = (size_t)mapping->clusters.length,
                                           .bytes = STEAL_PTR(*bytes),
                                           .used_tick = ++encoded->tick};
    }
    vd_mutex_unlock(&encoded->lock);
    free(old);
}

/* ---- One cluster ---- */

/* Bytes [@skip, @skip + @length) of the buffers, if they are in one; else NULL. */
static uint8_t *in_one_piece(const struct vd_encoded_target *target, size_t skip, size_t length)
{
    for (int i = 0; i < target->iov_entries; i++) {
        const struct iovec *iov = &target->iov[i];
        if (skip < iov->iov_len)
            return iov->iov_len - skip >= length ? (uint8_t *)iov->iov_base + skip : NULL;
        skip -= iov->iov_len;
    }
    return NULL;
}

static void copy_out(const struct vd_mapping *mapping, const uint8_t *cluster,
                     const struct vd_encoded_target *target)
{
    vd_iov_from_buffer(target->iov, (size_t)(mapping->guest.offset - target->offset),
                       cluster + (mapping->guest.offset - mapping->clusters.offset),
                       (size_t)mapping->guest.length);
}

/* E1 */
static int decode(struct vd_encoded *encoded, struct vd_decoder *decoder,
                  const struct vd_mapping *mapping, const uint8_t *bytes,
                  const struct vd_encoded_target *target, struct vdisk_error *err)
{
    size_t cluster_bytes = (size_t)mapping->clusters.length;
    bool is_whole = mapping->guest.length == cluster_bytes;
    uint8_t *out = NULL;
    CLEANUP_FREE uint8_t *aside = NULL;
    if (is_whole)
        out = in_one_piece(target, (size_t)(mapping->guest.offset - target->offset), cluster_bytes);
    if (!out)
        out = aside = malloc(cluster_bytes);
    if (!out)
        return vd_err_nomem(err, "a compressed cluster");
    int ret =
        vd_decode(decoder, mapping->codec, bytes, mapping->encoded_bytes, out, cluster_bytes, err);
    if (ret < 0)
        return vd_err_prefix(err, ret,
                             "%s: compressed cluster of %zu bytes at offset %" PRIu64
                             " of the disk, %" PRIu32 " bytes at offset %" PRIu64 ": ",
                             vd_storage_name(mapping->storage), cluster_bytes,
                             mapping->clusters.offset, mapping->encoded_bytes,
                             mapping->host_offset);
    if (aside)
        copy_out(mapping, aside, target);
    if (aside && !is_whole && encoded->keeps_clusters)
        slot_keep(encoded, mapping, &aside);
    return 0;
}

/* ---- Several clusters (E3) ---- */

struct batch {
    struct vd_mapping mappings[BATCH_ENTRIES_MAX];
    unsigned entries;
    struct vd_range host; /* that they are in */
};

/* Adds @mapping if that makes nothing be read in vain. */
static bool batch_add(struct batch *batch, const struct vd_mapping *mapping)
{
    uint64_t end = mapping->host_offset + mapping->encoded_bytes;
    if (batch->entries == 0) {
        batch->host = vd_range(mapping->host_offset, mapping->encoded_bytes);
    } else {
        uint64_t start = batch->host.offset;
        if (batch->entries == BATCH_ENTRIES_MAX || mapping->kind != VD_MAP_ENCODED ||
            mapping->storage != batch->mappings[0].storage || mapping->host_offset < start ||
            mapping->host_offset > vd_range_end(batch->host) + BATCH_GAP_MAX ||
            end - start > BATCH_BYTES_MAX)
            return false;
        batch->host.length = vd_max(batch->host.length, end - start);
    }
    assert(mapping->guest.offset >= mapping->clusters.offset &&
           vd_range_end(mapping->guest) <= vd_range_end(mapping->clusters));
    batch->mappings[batch->entries++] = *mapping;
    return true;
}

/* Adds what follows of @rest.  What can not be mapped is met again, by who asks for it. */
static void batch_fill(struct batch *batch, struct vd_format *format, struct vd_range rest)
{
    struct vd_mapping mapping = batch->mappings[0];
    do {
        rest = vd_range(vd_range_end(mapping.guest), rest.length - mapping.guest.length);
    } while (rest.length && batch->entries < BATCH_ENTRIES_MAX &&
             vd_format_map(format, rest, &mapping, NULL) == 0 && batch_add(batch, &mapping));
}

static int batch_read(struct vd_encoded *encoded, const struct batch *batch,
                      const struct vd_encoded_target *target, struct vdisk_error *err)
{
    CLEANUP_FREE uint8_t *bytes = vd_alloc_io((size_t)batch->host.length);
    struct vd_decoder *decoder;
    int ret =
        bytes ? decoder_take(encoded, &decoder, err) : vd_err_nomem(err, "compressed clusters");
    if (ret < 0)
        return ret;
    ret = vd_storage_pread(batch->mappings[0].storage, bytes, (size_t)batch->host.length,
                           batch->host.offset, err);
    for (unsigned i = 0; i < batch->entries && ret == 0; i++) {
        const struct vd_mapping *mapping = &batch->mappings[i];
        ret = decode(encoded, decoder, mapping, bytes + (mapping->host_offset - batch->host.offset),
                     target, err);
    }
    decoder_give(encoded, decoder);
    return ret;
}

int vd_encoded_read(struct vd_encoded *encoded, struct vd_format *format,
                    const struct vd_mapping *first, struct vd_range rest,
                    const struct vd_encoded_target *target, uint64_t *done, struct vdisk_error *err)
{
    struct vd_encoded_slot *slot = slot_hold(encoded, first);
    *done = first->guest.length;
    if (slot) {
        copy_out(first, slot->bytes, target);
        slot_release(encoded, slot);
        return 0;
    }
    struct batch batch;
    batch.entries = 0;
    batch_add(&batch, first);
    batch_fill(&batch, format, rest);
    *done = vd_range_end(batch.mappings[batch.entries - 1].guest) - rest.offset;
    return batch_read(encoded, &batch, target, err);
}
