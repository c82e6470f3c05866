/* SPDX-License-Identifier: MIT */
/* Mending the entries of L1 tables. */
#include <inttypes.h>
#include <stdlib.h>

#include "format/qcow2/qcow2_mend.h"
#include "util/mem.h"

/* An L1 table that is being mended. */
struct l1 {
    uint64_t offset;
    uint64_t entries;
    uint64_t weight; /* references to it */
    uint64_t to;     /* where it is written: `offset`, or all of it to another place */
};

typedef int (*entry_fn)(struct vd_qcow2_mending *mending, const struct l1 *l1, uint64_t *entry,
                        struct vdisk_error *err);

static int mend_entry(struct vd_qcow2_mending *mending, const struct l1 *l1, uint64_t *entry,
                      struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t offset = *entry & VD_QCOW2_ENTRY_OFFSET;
    if (!vd_qcow2_mend_is_there(run, offset)) {
        mending->lost += offset != 0;
        *entry = 0;
        return 0;
    }
    *entry &= ~VD_QCOW2_L1_RESERVED;
    uint64_t cluster = offset >> run->geometry.cluster_bits;
    uint64_t references = vd_qcow2_counts_get(&run->counts, cluster);
    const struct vd_qcow2_way *way = vd_qcow2_check_way(run, offset);
    bool is_own = way && references == way->active + way->others &&
                  !vd_qcow2_counts_is_meta(&run->counts, cluster);
    if (!way || (is_own && references <= run->geometry.refcount_max))
        return 0;
    /* M2: one that is not its own has been copied already. */
    int ret = vd_qcow2_mend_copy(mending, &mending->tables, run->geometry.refcount_max, l1->weight,
                                 &offset, err);
    if (ret == 0 && offset != (*entry & VD_QCOW2_ENTRY_OFFSET))
        *entry = offset;
    return ret;
}

static int mend_copied(struct vd_qcow2_mending *mending, const struct l1 *l1, uint64_t *entry,
                       struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t offset = *entry & VD_QCOW2_ENTRY_OFFSET;
    (void)l1;
    (void)err;
    *entry &= ~VD_QCOW2_ENTRY_COPIED;
    if (offset && vd_qcow2_counts_get(&run->counts, offset >> run->geometry.cluster_bits) == 1)
        *entry |= VD_QCOW2_ENTRY_COPIED;
    return 0;
}

/* The entries in run->l1, of which there are @count; the changed ones are [*first, *end). */
static int mend_part(struct vd_qcow2_mending *mending, const struct l1 *l1, uint64_t count,
                     entry_fn fn, uint64_t *first, uint64_t *end, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    int ret = 0;
    *first = 0;
    *end = 0;
    for (uint64_t i = 0; i < count && ret == 0; i++) {
        uint64_t old = be64_get(run->l1[i]);
        uint64_t entry = old;
        if (old)
            ret = fn(mending, l1, &entry, err);
        if (ret < 0 || entry == old)
            continue;
        run->l1[i] = be64_of(entry);
        run->result->corruptions_fixed++;
        if (*end == 0)
            *first = i;
        *end = i + 1;
    }
    return ret;
}

static int mend_table(struct vd_qcow2_mending *mending, const struct l1 *l1, entry_fn fn,
                      struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    int ret = 0;
    for (uint64_t done = 0; done < l1->entries && ret == 0; done += VD_QCOW2_CHECK_L1_PART) {
        uint64_t count = vd_min(VD_QCOW2_CHECK_L1_PART, l1->entries - done);
        uint64_t offset = done * sizeof(*run->l1);
        uint64_t first, end;
        bool is_empty;
        /* Whole sectors are written. */
        ret = vd_qcow2_check_read(run, l1->offset + offset, run->l1,
                                  vd_round_up(count * sizeof(*run->l1), 512), &is_empty, err);
        if (ret == 0)
            ret = mend_part(mending, l1, count, fn, &first, &end, err);
        if (ret < 0)
            return ret;
        if (l1->to != l1->offset) {
            first = 0;
            end = count;
        }
        first = vd_round_down(first * sizeof(*run->l1), 512);
        end = vd_round_up(end * sizeof(*run->l1), 512);
        if (end > first)
            ret = vd_qcow2_mend_settle(mending, err);
        if (ret == 0 && end > first)
            ret = vd_storage_pwrite(run->file, (const uint8_t *)run->l1 + first,
                                    (size_t)(end - first), l1->to + offset + first, err);
    }
    return ret;
}

/* M2: has nothing else the clusters of this L1 table? */
static bool is_own(const struct vd_qcow2_check_run *run, const struct l1 *l1)
{
    uint64_t first = l1->offset >> run->geometry.cluster_bits;
    uint64_t count = vd_qcow2_clusters(&run->geometry, l1->entries * sizeof(struct be64));
    for (uint64_t i = first; i < first + count; i++)
        if (vd_qcow2_counts_get(&run->counts, i) != l1->weight)
            return false;
    return l1->offset != 0;
}

/* In place, or at a new place, which is l1->to then. */
static int mend_own(struct vd_qcow2_mending *mending, struct l1 *l1, struct vdisk_error *err)
{
    uint64_t bytes = l1->entries * sizeof(struct be64);
    l1->to = l1->offset;
    if (!is_own(mending->run, l1)) {
        int ret = vd_qcow2_mend_take(mending, vd_qcow2_clusters(&mending->run->geometry, bytes),
                                     &l1->to, err);
        if (ret < 0)
            return ret;
    }
    return mend_table(mending, l1, mend_entry, err);
}

/* Those of snapshots; one that is nowhere is left to vd_qcow2_mend_snapshots(). */
static int mend_old(struct vd_qcow2_mending *mending, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    int ret = 0;
    for (size_t i = 0; i < run->old_l1_entries && ret == 0; i++) {
        struct vd_qcow2_old_l1 *old = &run->old_l1[i];
        struct l1 l1 = {.offset = old->offset, .entries = old->entries, .weight = old->weight};
        if (l1.entries == 0 || l1.offset == 0 ||
            vd_qcow2_check_is_behind(run, l1.offset, l1.entries * sizeof(struct be64)))
            continue;
        ret = mend_own(mending, &l1, err);
        old->moved = l1.to != l1.offset ? l1.to : 0;
    }
    return ret;
}

static struct l1 active_l1(const struct vd_qcow2_check_run *run)
{
    const struct vd_qcow2_fields *fields = &run->header->fields;
    return (struct l1){
        .offset = fields->l1_offset,
        .entries = fields->l1_entries,
        .weight = 1,
        .to = fields->l1_offset,
    };
}

int vd_qcow2_mend_l1(struct vd_qcow2_mending *mending, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct l1 active = active_l1(run);
    int ret = active.entries ? mend_own(mending, &active, err) : 0;
    if (ret == 0)
        ret = mend_old(mending, err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    if (ret < 0 || (active.to == active.offset && !vd_qcow2_mend_wants_snapshots(run)))
        return ret;
    return vd_qcow2_mend_snapshots(mending, active.to, err);
}

int vd_qcow2_mend_l1_copied(struct vd_qcow2_mending *mending, struct vdisk_error *err)
{
    const struct l1 active = active_l1(mending->run);
    return mend_table(mending, &active, mend_copied, err);
}
