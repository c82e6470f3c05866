/* SPDX-License-Identifier: MIT */
/*
 * Mending what a check found, so that nothing that can still be read is lost: what two entries lead
 * to is copied for one of them.  Copies are durable before an entry leads to them, and entries are
 * changed one by one, so a power cut leaves an image that can be checked again.  qed §8.2
 *
 * M1  A table that shares clusters with data is not changed where it is: it moves, and the clusters
 *     stay the data's.
 * M2  Before the file grows, no entry leads behind its end (but for the tables of M1): what leads
 *     there later are our copies.
 * M3  Tables that share clusters with anything have places of their own before other entries are
 *     changed than those of M2.
 */
#include <inttypes.h>

#include "format/qed/qed_check.h"

/* Copies may make the file twice as large, and a small one by this much. */
#define ROOM_BYTES_MIN (UINT64_C(64) << 20)

struct mending {
    struct vd_qed_check_run *run;
    uint64_t end;           /* of the file: where copies go */
    uint64_t room;          /* bytes that copies may still take */
    bool is_not_durable;    /* copies have been made since the last flush */
    struct vd_bits shared;  /* M1: L1 entries of such tables, */
    bool skips_shared;      /* which are all known */
    struct vd_bits visited; /* first clusters of tables: many L1 entries may lead to the same */
};

/* Space at the end of the file. */
static int take(struct mending *mending, uint64_t bytes, uint64_t *offset, struct vdisk_error *err)
{
    struct vd_storage *file = mending->run->file;
    if (!(vd_storage_caps(file) & VD_STORAGE_CAN_RESIZE))
        return vd_err_set(err, ENOSPC, "%s: can not grow for copies of what is used twice",
                          vd_storage_name(file));
    if (bytes > mending->room)
        return vd_err_set(err, EFBIG,
                          "so much is used twice that copies of it would make the file more than "
                          "twice as large: convert the image instead");
    *offset = mending->end;
    mending->end += bytes;
    mending->room -= bytes;
    return 0;
}

/* Copies come before the entries that lead to them. */
static int write_part(struct mending *mending, struct vd_qed_part *part, struct vdisk_error *err)
{
    int ret = 0;
    if (mending->is_not_durable && vd_qed_part_has_changed(part)) {
        ret = vd_storage_flush(mending->run->file, err);
        mending->is_not_durable = false;
    }
    return ret < 0 ? ret : vd_qed_part_write(mending->run, part, err);
}

/* --- every part of every table ---------------------------------------------------------------- */

typedef int (*part_fn)(struct mending *mending, struct vd_qed_part *part, struct vdisk_error *err);

/* Calls @fn for each part of the table at @table that is not empty, and writes what it changed. */
static int for_each_part(struct mending *mending, uint64_t table, struct vd_qed_part *part,
                         part_fn fn, struct vdisk_error *err)
{
    int ret = 0;
    for (uint32_t first = 0; first < mending->run->geometry.table_entries && ret == 0;
         first += VD_QED_PART_ENTRIES) {
        ret = vd_qed_part_read(mending->run, table, first, part, err);
        if (ret < 0 || part->is_empty)
            continue;
        ret = fn(mending, part, err);
        if (ret == 0)
            ret = write_part(mending, part, err);
    }
    return ret;
}

/* Is it the first time that the table at @table is met in this walk? */
static int visit(struct mending *mending, uint64_t table, bool *is_new, struct vdisk_error *err)
{
    uint64_t cluster = table / mending->run->geometry.cluster_bytes;
    *is_new = true;
    if (cluster >= UINT32_MAX)
        return 0; /* once more is no harm */
    *is_new = !vd_bits_has(&mending->visited, (uint32_t)cluster);
    if (!*is_new)
        return 0;
    int ret = vd_bits_reserve(&mending->visited, (uint32_t)cluster + 1, err);
    if (ret == 0)
        vd_bits_add(&mending->visited, (uint32_t)cluster);
    return ret;
}

/* Calls @fn for the parts of the tables that run->l1 leads to, but not of those of M1. */
static int for_each_l2_part(struct mending *mending, part_fn fn, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    int ret = 0;
    for (uint32_t i = 0; i < run->l1.count && ret == 0; i++) {
        uint64_t table = vd_qed_part_get(&run->l1, i);
        enum vd_qed_finding finding = vd_qed_judge(run, table, true);
        bool is_copy = finding == VD_QED_NOT_THERE; /* M2: not yet, when the check looked */
        if ((finding != VD_QED_SOUND && finding != VD_QED_CUT_OFF && !is_copy) ||
            (mending->skips_shared && vd_bits_has(&mending->shared, run->l1.first + i)))
            continue;
        bool is_new = true;
        if (vd_bits_has(&run->bad_tables, run->l1.first + i))
            ret = visit(mending, table, &is_new, err);
        if (ret == 0 && is_new)
            ret = for_each_part(mending, table, &run->l2, fn, err);
    }
    return ret;
}

/* As a part_fn for L1, with what is to be done for L2 in each of the steps below. */
#define FOR_ALL_OF_L1(name, fn_of_l2)                                                           \
    static int name(struct mending *mending, struct vd_qed_part *part, struct vdisk_error *err) \
    {                                                                                           \
        assert(part == &mending->run->l1);                                                      \
        return for_each_l2_part(mending, fn_of_l2, err);                                        \
    }

static int walk_l1(struct mending *mending, part_fn fn, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    vd_bits_clear(&mending->visited);
    return for_each_part(mending, run->header->l1_offset, &run->l1, fn, err);
}

/* --- M1 --------------------------------------------------------------------------------------- */

/* Where the file has to end for what it cuts off. */
static void want_whole(struct mending *mending, uint64_t offset, bool is_table)
{
    struct vd_qed_check_run *run = mending->run;
    if (vd_qed_judge(run, offset, is_table) != VD_QED_CUT_OFF)
        return;
    uint64_t bytes = is_table ? run->geometry.table_bytes : run->geometry.cluster_bytes;
    mending->end = vd_max(mending->end, offset + bytes);
}

static int claim_data(struct mending *mending, struct vd_qed_part *part, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    (void)err;
    for (uint32_t i = 0; i < part->count; i++) {
        uint64_t offset = vd_qed_part_get(part, i);
        enum vd_qed_finding finding = vd_qed_judge(run, offset, false);
        if (finding == VD_QED_SOUND || finding == VD_QED_CUT_OFF)
            vd_qed_claim(run, offset, 1);
        want_whole(mending, offset, false);
    }
    return 0;
}

FOR_ALL_OF_L1(claim_all_data, claim_data)

static int note_shared(struct mending *mending, struct vd_qed_part *part, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    (void)err;
    for (uint32_t i = 0; i < part->count; i++) {
        uint64_t offset = vd_qed_part_get(part, i);
        enum vd_qed_finding finding = vd_qed_judge(run, offset, true);
        if ((finding == VD_QED_SOUND || finding == VD_QED_CUT_OFF) &&
            !vd_bits_has(&mending->shared, part->first + i) &&
            vd_qed_is_claimed(run, offset, run->geometry.table_clusters))
            vd_bits_add(&mending->shared, part->first + i);
        want_whole(mending, offset, true);
    }
    return 0;
}

static int find_shared(struct mending *mending, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    int ret = vd_bits_reserve(&mending->shared, run->geometry.table_entries, err);
    for (uint64_t first = 0; first < run->clusters && ret == 0; first += run->pass_clusters) {
        ret = vd_qed_begin_pass(run, first, err);
        if (ret == 0)
            ret = walk_l1(mending, claim_all_data, err);
        if (ret == 0)
            ret = walk_l1(mending, note_shared, err);
    }
    mending->skips_shared = true;
    return ret;
}

/* --- M2 --------------------------------------------------------------------------------------- */

static int purge(struct mending *mending, struct vd_qed_part *part, struct vdisk_error *err)
{
    (void)err;
    for (uint32_t i = 0; i < part->count; i++)
        if (vd_qed_part_get(part, i) >= mending->run->file_bytes)
            vd_qed_part_set(part, i, VD_QED_UNALLOCATED);
    return 0;
}

static int purge_all(struct mending *mending, struct vd_qed_part *part, struct vdisk_error *err)
{
    int ret = purge(mending, part, err);
    return ret < 0 ? ret : for_each_l2_part(mending, purge, err);
}

/* Makes the file long enough for what it cuts off. */
static int complete_end(struct mending *mending, struct vdisk_error *err)
{
    struct vd_storage *file = mending->run->file;
    int ret = vd_storage_flush(file, err);
    if (ret < 0 || mending->end <= mending->run->file_bytes)
        return ret;
    if (!(vd_storage_caps(file) & VD_STORAGE_CAN_RESIZE))
        return vd_err_set(err, ENOSPC, "%s: can not grow to hold what its end cuts off",
                          vd_storage_name(file));
    return vd_storage_resize(file, mending->end, err);
}

/* --- M3 --------------------------------------------------------------------------------------- */

/* A table without what leads behind the end, at a place of its own. */
static int copy_table(struct mending *mending, uint64_t from, uint64_t *to, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    int ret = take(mending, run->geometry.table_bytes, to, err);
    if (ret == 0)
        ret = vd_storage_resize(run->file, mending->end, err);
    for (uint32_t first = 0; first < run->geometry.table_entries && ret == 0;
         first += VD_QED_PART_ENTRIES) {
        ret = vd_qed_part_read(run, from, first, &run->l2, err);
        if (ret < 0 || run->l2.is_empty)
            continue;
        ret = purge(mending, &run->l2, err);
        run->l2.offset = *to + (uint64_t)first * VD_QED_ENTRY_BYTES;
        run->l2.changed_first = 0;
        run->l2.changed_end = run->l2.count;
        if (ret == 0)
            ret = vd_qed_part_write(run, &run->l2, err);
    }
    mending->is_not_durable = true;
    return ret;
}

static int separate_tables(struct mending *mending, struct vd_qed_part *part,
                           struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    int ret = 0;
    for (uint32_t i = 0; i < part->count && ret == 0; i++) {
        uint64_t offset = vd_qed_part_get(part, i);
        uint32_t index = part->first + i;
        if (vd_qed_judge(run, offset, true) == VD_QED_MISPLACED) {
            vd_qed_part_set(part, i, VD_QED_UNALLOCATED);
        } else if (vd_bits_has(&run->bad_tables, index) || vd_bits_has(&mending->shared, index)) {
            ret = copy_table(mending, offset, &offset, err);
            if (ret == 0)
                vd_qed_part_set(part, i, offset);
        }
    }
    return ret;
}

/* --- data ------------------------------------------------------------------------------------- */

static int mend_cluster(struct mending *mending, struct vd_qed_part *part, uint32_t i,
                        struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    uint64_t offset = vd_qed_part_get(part, i);
    enum vd_qed_finding finding = vd_qed_judge(run, offset, false);
    if (finding == VD_QED_MISPLACED)
        vd_qed_part_set(part, i, VD_QED_UNALLOCATED);
    /* M2: what is behind the old end is ours, and used once */
    bool is_checked = finding == VD_QED_SOUND || finding == VD_QED_CUT_OFF;
    if (!is_checked || !vd_qed_claim(run, offset, 1))
        return 0;
    uint64_t copy;
    int ret = take(mending, run->geometry.cluster_bytes, &copy, err);
    if (ret == 0)
        ret = vd_qed_copy(run, offset, copy, run->geometry.cluster_bytes, err);
    if (ret < 0)
        return ret;
    vd_qed_part_set(part, i, copy);
    mending->is_not_durable = true;
    return 0;
}

static int mend_data(struct mending *mending, struct vd_qed_part *part, struct vdisk_error *err)
{
    int ret = 0;
    for (uint32_t i = 0; i < part->count && ret == 0; i++)
        ret = mend_cluster(mending, part, i, err);
    return ret;
}

FOR_ALL_OF_L1(mend_all_data, mend_data)

static int mend(struct mending *mending, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = mending->run;
    int ret = find_shared(mending, err);
    if (ret == 0)
        ret = walk_l1(mending, purge_all, err);
    if (ret == 0)
        ret = complete_end(mending, err);
    mending->room = vd_min(mending->end + ROOM_BYTES_MIN, INT64_MAX - mending->end);
    if (ret == 0)
        ret = walk_l1(mending, separate_tables, err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    /* There are none any more. */
    vd_bits_free(&run->bad_tables);
    vd_bits_free(&mending->shared);
    for (uint64_t first = 0; first < run->clusters && ret == 0; first += run->pass_clusters) {
        ret = vd_qed_claim_tables(run, first, err);
        if (ret == 0)
            ret = walk_l1(mending, mend_all_data, err);
    }
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

int vd_qed_mend(struct vd_qed_check_run *run, struct vdisk_error *err)
{
    struct mending mending = {
        .run = run,
        .end = vd_round_up(run->file_bytes, run->geometry.cluster_bytes),
    };
    int ret = mend(&mending, err);
    if (ret == 0)
        run->result->corruptions_fixed += run->result->corruptions;
    vd_bits_free(&mending.shared);
    vd_bits_free(&mending.visited);
    return ret;
}
