/* SPDX-License-Identifier: MIT */
/* What a server has acknowledged, and whether a flush can still prove it durable: N3, N4. */
#include <inttypes.h>

#include "storage/nbd_priv.h"

void vd_nbd_durable_init(struct vd_nbd_durable *durable)
{
    *durable = (struct vd_nbd_durable){.next_number = 1};
    vd_mutex_init(&durable->lock);
    atomic_init(&durable->is_broken, false);
}

uint64_t vd_nbd_durable_number(struct vd_nbd_durable *durable)
{
    vd_mutex_lock(&durable->lock);
    uint64_t number = durable->next_number++;
    vd_mutex_unlock(&durable->lock);
    return number;
}

void vd_nbd_note_acked(struct vd_nbd_durable *durable, unsigned index, uint64_t number)
{
    vd_mutex_lock(&durable->lock);
    if (durable->flushed == durable->acked || number < durable->anchor_number) {
        durable->anchor = index;
        durable->anchor_number = number;
    }
    durable->acked++;
    vd_mutex_unlock(&durable->lock);
}

void vd_nbd_note_lost(struct vd_nbd_durable *durable)
{
    vd_mutex_lock(&durable->lock);
    if (durable->flushed < durable->acked)
        atomic_store(&durable->is_broken, true);
    vd_mutex_unlock(&durable->lock);
}

int vd_nbd_check_whole(struct vd_nbd *nbd, struct vdisk_error *err)
{
    if (!atomic_load(&nbd->durable.is_broken))
        return 0;
    return vd_err_set(err, EIO,
                      "the connection to the server was lost while it had not made everything "
                      "durable: what was written since the last flush may be lost; open it again, "
                      "and write that again");
}

int vd_nbd_flush(struct vd_storage *storage, struct vdisk_error *err)
{
    struct vd_nbd *nbd = storage->state;
    struct vd_nbd_durable *durable = &nbd->durable;
    struct vd_nbd_piece piece = {0};
    struct vd_nbd_call call = {.op = VD_NBD_FLUSH, .pieces = &piece, .piece_count = 1};
    bool can_flush = (nbd->facts.can & VD_NBD_CAN_FLUSH) != 0;
    int ret = vd_nbd_check_whole(nbd, err);
    if (ret < 0)
        return ret;

    vd_mutex_lock(&durable->lock);
    uint64_t acked = durable->acked;
    bool is_dirty = durable->flushed < acked;
    unsigned anchor = durable->anchor;
    uint64_t anchor_number = durable->anchor_number;
    vd_mutex_unlock(&durable->lock);
    if (!can_flush && is_dirty)
        return vd_err_set(
            err, EOPNOTSUPP,
            "the server has no flush: nothing tells when what was written is durable; "
            "cache mode unsafe does not ask");
    if (!can_flush)
        return 0;

    if (is_dirty)
        ret = vd_nbd_run_on(&nbd->conns[anchor], anchor_number, &call, err);
    else
        ret = vd_nbd_run(nbd, &call, err);
    /* A connection may have been lost meanwhile, so that this proves nothing of the others. */
    if (ret == 0)
        ret = vd_nbd_check_whole(nbd, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "flush: ");
    vd_mutex_lock(&durable->lock);
    durable->flushed = vd_max(durable->flushed, acked);
    vd_mutex_unlock(&durable->lock);
    return 0;
}
