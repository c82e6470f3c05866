/* SPDX-License-Identifier: MIT */
/* New places for what a repair copies. */
#include <stdlib.h>
#include <string.h>

#include "format/cipher.h"
#include "format/qcow2/qcow2_mend.h"
#include "util/mem.h"

#define COPIES_MIN 64u

int vd_qcow2_mend_take(struct vd_qcow2_mending *mending, uint64_t clusters, uint64_t *offset,
                       struct vdisk_error *err)
{
    const struct vd_qcow2_check_run *run = mending->run;
    if (!(vd_storage_caps(run->file) & VD_STORAGE_CAN_RESIZE))
        return vd_err_set(err, ENOSPC, "%s: can not grow to hold what has to be copied",
                          vd_storage_name(run->file));
    if (clusters > mending->next_max - mending->next)
        return vd_err_set(err, ENOSPC, "%s: what has to be copied would more than double the file",
                          vd_storage_name(run->file));
    *offset = mending->next << run->geometry.cluster_bits;
    mending->has_new = true;
    mending->next += clusters;
    return 0;
}

int vd_qcow2_mend_settle(struct vd_qcow2_mending *mending, struct vdisk_error *err)
{
    if (!mending->has_new)
        return 0;
    mending->has_new = false;
    return vd_storage_flush(mending->run->file, err);
}

/*
 * LUKS encrypts by the place in the file: what is in run->block, a cluster of data, is encrypted
 * for @to instead of @from, or for the first time (@from is @to).
 */
static int encrypt_for(struct vd_qcow2_check_run *run, uint64_t from, uint64_t to,
                       struct vdisk_error *err)
{
    size_t bytes = run->geometry.cluster_bytes;
    if (run->header->fields.crypt_method != VD_QCOW2_CRYPT_LUKS)
        return 0;
    if (!run->cipher)
        return vd_err_set(err, ENOKEY,
                          "%s: is encrypted by where its data is, and some of it has to be moved: "
                          "give the passphrase",
                          vd_storage_name(run->file));
    int ret = from == to ? 0 : vd_cipher_decrypt(run->cipher, from, run->block, bytes, err);
    return ret < 0 ? ret : vd_cipher_encrypt(run->cipher, to, run->block, bytes, err);
}

int vd_qcow2_mend_zeros(struct vd_qcow2_mending *mending, uint64_t *offset, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    if (!mending->zeros || mending->zeros_references >= run->geometry.refcount_max) {
        uint64_t place;
        int ret = vd_qcow2_mend_take(mending, 1, &place, err);
        if (ret < 0)
            return ret;
        memset(run->block, 0, run->geometry.cluster_bytes);
        run->block_index = UINT64_MAX;
        ret = encrypt_for(run, place, place, err);
        if (ret == 0)
            ret = vd_storage_pwrite(run->file, run->block, run->geometry.cluster_bytes, place, err);
        if (ret < 0)
            return ret;
        mending->zeros = place;
        mending->zeros_references = 0;
    }
    mending->zeros_references++;
    *offset = mending->zeros;
    return 0;
}

/* ---- copies ---- */

static size_t find(const struct vd_qcow2_copies *copies, uint64_t cluster)
{
    size_t mask = copies->capacity - 1;
    size_t i = (size_t)((cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & mask;
    while (copies->entries[i].from && copies->entries[i].from != cluster + 1)
        i = (i + 1) & mask;
    return i;
}

static int make_room(struct vd_qcow2_copies *copies, struct vdisk_error *err)
{
    struct vd_qcow2_copies old = *copies;
    if (old.used * 2 < old.capacity)
        return 0;
    size_t capacity = old.capacity ? old.capacity * 2 : COPIES_MIN;
    struct vd_qcow2_copy *entries = vd_alloc_array(capacity, sizeof(*entries));
    if (!entries)
        return vd_err_nomem(err, "the list of clusters to be copied");
    copies->entries = entries;
    copies->capacity = capacity;
    for (size_t i = 0; i < old.capacity; i++)
        if (old.entries[i].from)
            copies->entries[find(copies, old.entries[i].from - 1)] = old.entries[i];
    free(old.entries);
    return 0;
}

/* The entry of the cluster at @offset; a new one has no place yet. */
static int get(struct vd_qcow2_mending *mending, struct vd_qcow2_copies *copies, uint64_t offset,
               struct vd_qcow2_copy **copy, struct vdisk_error *err)
{
    int ret = make_room(copies, err);
    if (ret < 0)
        return ret;
    uint64_t cluster = offset >> mending->run->geometry.cluster_bits;
    *copy = &copies->entries[find(copies, cluster)];
    copies->used += (*copy)->from == 0;
    (*copy)->from = cluster + 1;
    return 0;
}

/* Copies the cluster at *offset to a new one. */
static int copy_cluster(struct vd_qcow2_mending *mending, bool is_data, uint64_t *offset,
                        struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t place;
    bool is_empty;
    run->block_index = UINT64_MAX;
    int ret =
        vd_qcow2_check_read(run, *offset, run->block, run->geometry.cluster_bytes, &is_empty, err);
    if (ret == 0)
        ret = vd_qcow2_mend_take(mending, 1, &place, err);
    if (ret == 0 && is_data)
        ret = encrypt_for(run, *offset, place, err);
    if (ret == 0)
        ret = vd_storage_pwrite(run->file, run->block, run->geometry.cluster_bytes, place, err);
    if (ret == 0)
        *offset = place;
    return ret;
}

int vd_qcow2_mend_copy(struct vd_qcow2_mending *mending, struct vd_qcow2_copies *copies,
                       uint64_t kept, uint64_t weight, uint64_t *offset, struct vdisk_error *err)
{
    struct vd_qcow2_copy *copy;
    int ret = get(mending, copies, *offset, &copy, err);
    if (ret < 0)
        return ret;
    uint64_t max = mending->run->geometry.refcount_max;
    uint64_t place = copy->to ? copy->to : *offset;
    bool is_full = copy->references && (weight > max || copy->references > max - weight);
    if ((!copy->to && !kept) || is_full) {
        ret = copy_cluster(mending, copies == &mending->data, &place, err);
        if (ret < 0)
            return ret;
        copy->references = 0;
    }
    copy->to = place;
    copy->references += weight;
    *offset = place;
    return 0;
}

int vd_qcow2_mend_moved(struct vd_qcow2_mending *mending, struct vd_qcow2_copies *copies,
                        uint64_t from, uint64_t to, struct vdisk_error *err)
{
    struct vd_qcow2_copy *copy;
    int ret = get(mending, copies, from, &copy, err);
    if (ret == 0)
        copy->to = to;
    return ret;
}
