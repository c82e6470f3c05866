/* SPDX-License-Identifier: MIT */
/*
 * Places for compressed clusters: back to back, at any byte.  Host clusters are taken several at a
 * time, so that one compressed cluster may reach into the next; the first one in a host cluster
 * has the reference that it was taken with, each other one adds its own.
 */
#include <inttypes.h>

#include "format/qcow2/qcow2_refs.h"

#define TAKE_BYTES (UINT64_C(1) << 20)

void vd_qcow2_pack_close_alone(struct vd_qcow2 *qcow2)
{
    struct vd_qcow2_pack *pack = &qcow2->writer->pack;
    if (pack->next && pack->untouched < pack->end)
        vd_qcow2_give_back_alone(qcow2, pack->untouched << qcow2->geometry.cluster_bits,
                                 pack->end - pack->untouched);
    *pack = (struct vd_qcow2_pack){0};
}

/* Descriptors have fewer bits for the offset the larger clusters are. */
static uint64_t offset_limit(const struct vd_qcow2 *qcow2)
{
    return UINT64_C(1) << vd_min(62 - (qcow2->geometry.cluster_bits - 8), VD_QCOW2_OFFSET_BITS);
}

/* More clusters: behind those there are, if they are free, so that nothing is left between. */
static int take_more(struct vd_qcow2 *qcow2, uint32_t encoded_bytes, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_pack *pack = &qcow2->writer->pack;
    struct vd_qcow2_space space;
    unsigned bits = qcow2->geometry.cluster_bits;
    uint64_t wanted = vd_max(TAKE_BYTES >> bits, 1);
    int ret = vd_qcow2_take_alone(qcow2, wanted, false, &space, err);
    if (ret < 0)
        return ret;
    if (space.host + (space.clusters << bits) > offset_limit(qcow2)) {
        vd_qcow2_give_back_alone(qcow2, space.host, space.clusters);
        return vd_err_set(err, EFBIG,
                          "%s: compressed clusters can not lie behind offset 0x%" PRIx64
                          " with clusters of this size",
                          vd_storage_name(qcow2->file), offset_limit(qcow2));
    }
    bool goes_on = pack->next && pack->end << bits == space.host;
    bool is_inside = pack->next && pack->next + encoded_bytes <= pack->end << bits;
    if (goes_on && !is_inside) {
        pack->end += space.clusters;
        return 0;
    }
    vd_qcow2_pack_close_alone(qcow2);
    pack->next = space.host;
    pack->untouched = space.host >> bits;
    pack->end = pack->untouched + space.clusters;
    return 0;
}

/* One reference to each cluster of it; -E2BIG: none to any. */
static int refer(struct vd_qcow2 *qcow2, uint64_t host, uint32_t encoded_bytes,
                 struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_pack *pack = &qcow2->writer->pack;
    uint64_t first = host >> qcow2->geometry.cluster_bits;
    uint64_t end = first + vd_qcow2_encoded_clusters(&qcow2->geometry, host, encoded_bytes);
    int ret = 0;
    if (first < pack->untouched)
        ret = vd_qcow2_refs_up(qcow2, vd_range(first, vd_min(end, pack->untouched) - first), err);
    if (ret == 0)
        pack->untouched = vd_max(pack->untouched, end);
    return ret;
}

static int take_place(struct vd_qcow2 *qcow2, uint32_t encoded_bytes, uint64_t *host,
                      struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_pack *pack = &qcow2->writer->pack;
    unsigned bits = qcow2->geometry.cluster_bits;
    for (;;) {
        int ret = 0;
        while (ret == 0 && (!pack->next || pack->next + encoded_bytes > pack->end << bits))
            ret = take_more(qcow2, encoded_bytes, err);
        if (ret < 0)
            return ret;
        struct vdisk_error inner = {0};
        ret = refer(qcow2, pack->next, encoded_bytes, &inner);
        if (ret == -E2BIG) { /* no more in this cluster */
            pack->next = vd_round_up(pack->next + 1, qcow2->geometry.cluster_bytes);
            if (pack->next >> bits >= pack->end)
                vd_qcow2_pack_close_alone(qcow2);
            continue;
        }
        if (ret < 0)
            return vd_err_copy(err, &inner);
        *host = pack->next;
        pack->next += encoded_bytes;
        /* With nothing taken behind it, the next one begins where there is room. */
        if (pack->next == pack->end << bits)
            pack->next = 0;
        return 0;
    }
}

int vd_qcow2_pack_take(struct vd_qcow2 *qcow2, uint32_t encoded_bytes, uint64_t *host,
                       struct vdisk_error *err)
{
    int ret = vd_qcow2_begin(qcow2, err);
    while (ret == 0) {
        vd_mutex_lock(&qcow2->writer->alloc_lock);
        uint64_t seen = vd_qcow2_refcount_table_entries(qcow2);
        ret = take_place(qcow2, encoded_bytes, host, err);
        vd_mutex_unlock(&qcow2->writer->alloc_lock);
        if (ret != VD_QCOW2_NEEDS_TABLE)
            break;
        ret = vd_qcow2_grow_refcounts(qcow2, seen, TAKE_BYTES >> qcow2->geometry.cluster_bits, err);
    }
    return ret;
}
