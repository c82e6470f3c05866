/* SPDX-License-Identifier: MIT */
/* Mending the entries of L2 tables; M1 to M4 are in qcow2_mend.h. */
#include <inttypes.h>
#include <stdlib.h>

#include "format/qcow2/qcow2_mend.h"
#include "util/mem.h"

#define NEW_CLUSTERS_MIN 1024u /* M4 */

/* ---- L2 entries ---- */

struct entry {
    uint64_t word;
    uint64_t subclusters;
};

/* It leads nowhere: M1. */
static int clear_entry(struct vd_qcow2_mending *mending, struct entry *entry,
                       struct vdisk_error *err)
{
    bool is_extended = mending->run->geometry.subclusters > 1;
    uint64_t data = entry->subclusters & UINT32_MAX;
    if (entry->word & VD_QCOW2_ENTRY_COMPRESSED)
        data = UINT32_MAX;
    bool is_zero = !is_extended && !(entry->word & VD_QCOW2_ENTRY_COMPRESSED) &&
                   (entry->word & VD_QCOW2_ENTRY_ZERO);
    entry->word = 0;
    if (is_extended) {
        mending->lost += data != 0;
        entry->subclusters = ((entry->subclusters >> 32) | data) << 32;
    } else if (mending->has_zero) {
        mending->lost += !is_zero;
        entry->word = VD_QCOW2_ENTRY_ZERO;
    } else {
        mending->lost++;
        if (mending->has_backing)
            return vd_qcow2_mend_zeros(mending, &entry->word, err);
    }
    return 0;
}

static int mend_encoded(struct vd_qcow2_mending *mending, struct entry *entry,
                        struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint32_t sector_shift = 62 - (run->geometry.cluster_bits - 8);
    uint64_t offset = entry->word & ((UINT64_C(1) << sector_shift) - 1);
    entry->word &= ~VD_QCOW2_ENTRY_COPIED;
    entry->subclusters = 0;
    uint64_t sectors = ((entry->word & ~VD_QCOW2_ENTRY_COMPRESSED) >> sector_shift) + 1;
    if (vd_qcow2_check_is_behind(run, offset, sectors * 512 - (offset & 511)) ||
        offset < run->geometry.cluster_bytes)
        return clear_entry(mending, entry, err);
    return 0;
}

/* With a data file: where the cluster is follows from where its entry is. */
static void mend_external(struct vd_qcow2_mending *mending, struct entry *entry, uint64_t guest)
{
    struct vd_qcow2_check_run *run = mending->run;
    if (entry->word & VD_QCOW2_ENTRY_COMPRESSED) {
        entry->word = VD_QCOW2_ENTRY_COPIED;
        entry->subclusters = run->geometry.subclusters > 1 ? UINT32_MAX : 0;
    }
    uint64_t low = run->geometry.subclusters > 1 ? 0 : entry->word & VD_QCOW2_ENTRY_ZERO;
    bool is_there = (entry->word & VD_QCOW2_ENTRY_OFFSET) ||
                    (entry->word & VD_QCOW2_ENTRY_COPIED && !low) ||
                    (entry->subclusters & UINT32_MAX);
    entry->subclusters &= ~((entry->subclusters & UINT32_MAX) << 32);
    entry->word = is_there ? VD_QCOW2_ENTRY_COPIED | guest | low : low;
}

static int mend_cluster(struct vd_qcow2_mending *mending, struct entry *entry,
                        struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t offset = entry->word & VD_QCOW2_ENTRY_OFFSET;
    entry->word &= ~VD_QCOW2_L2_RESERVED;
    if (!mending->has_zero) /* nobody could read it: what is there is what it had */
        entry->word &= ~VD_QCOW2_ENTRY_ZERO;
    if (run->geometry.subclusters > 1 && offset)
        /* The data is there. */
        entry->subclusters &= ~((entry->subclusters & UINT32_MAX) << 32);
    if (!offset) {
        bool is_wrong = run->geometry.subclusters > 1 && (entry->subclusters & UINT32_MAX);
        return is_wrong ? clear_entry(mending, entry, err) : 0;
    }
    if (!vd_is_aligned(offset, run->geometry.cluster_bytes) ||
        vd_qcow2_check_is_behind(run, offset, run->geometry.cluster_bytes))
        return clear_entry(mending, entry, err);
    uint64_t cluster = offset >> run->geometry.cluster_bits;
    bool is_meta = vd_qcow2_counts_is_meta(&run->counts, cluster);
    bool is_too_much = vd_qcow2_counts_get(&run->counts, cluster) > run->geometry.refcount_max;
    if (!is_meta && !is_too_much)
        return 0;
    /* What the first pass has left is compressed clusters, or the like, in the same place. */
    uint64_t kept = is_meta || mending->is_repeated ? 0 : run->geometry.refcount_max;
    int ret = vd_qcow2_mend_copy(mending, &mending->data, kept, mending->weight, &offset, err);
    if (ret < 0)
        return ret;
    if (offset != (entry->word & VD_QCOW2_ENTRY_OFFSET))
        entry->word = (entry->word & ~(VD_QCOW2_ENTRY_OFFSET | VD_QCOW2_ENTRY_COPIED)) | offset;
    return 0;
}

/* ---- L2 tables ---- */

bool vd_qcow2_mend_is_there(const struct vd_qcow2_check_run *run, uint64_t offset)
{
    return offset && vd_is_aligned(offset, run->geometry.cluster_bytes) &&
           !vd_qcow2_check_is_behind(run, offset, run->geometry.cluster_bytes);
}

static bool table_is_own(const struct vd_qcow2_check_run *run, const struct vd_qcow2_way *way)
{
    uint64_t cluster = way->offset >> run->geometry.cluster_bits;
    return vd_qcow2_counts_get(&run->counts, cluster) == way->active + way->others &&
           !vd_qcow2_counts_is_meta(&run->counts, cluster);
}

/* What was changed of a table, in bytes. */
struct changes {
    uint64_t first;
    uint64_t end; /* 0: nothing */
};

static void note_change(struct changes *changes, uint64_t offset, uint64_t bytes)
{
    if (changes->end == 0)
        changes->first = offset;
    changes->end = offset + bytes;
}

static int write_changes(struct vd_qcow2_check_run *run, const void *table, uint64_t offset,
                         const struct changes *changes, struct vdisk_error *err)
{
    uint64_t first = vd_round_down(changes->first, 512);
    uint64_t end = vd_round_up(changes->end, 512);
    if (changes->end == 0)
        return 0;
    return vd_storage_pwrite(run->file, (const uint8_t *)table + first, (size_t)(end - first),
                             offset + first, err);
}

typedef int (*entry_fn)(struct vd_qcow2_mending *mending, struct entry *entry, uint64_t guest,
                        struct vdisk_error *err);

/* Calls @fn for each entry of the table in run->table that is not empty. */
static int for_each_entry(struct vd_qcow2_mending *mending, const struct vd_qcow2_way *way,
                          entry_fn fn, struct changes *changes, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct be64 *words = (struct be64 *)run->table;
    bool is_extended = run->geometry.subclusters > 1;
    int ret = 0;
    for (uint32_t i = 0; i < run->geometry.l2_entries && ret == 0; i++) {
        struct be64 *word = &words[is_extended ? 2 * i : i];
        const struct entry old = {
            .word = be64_get(word[0]),
            .subclusters = is_extended ? be64_get(word[1]) : 0,
        };
        struct entry entry = old;
        if (!old.word && !old.subclusters)
            continue;
        uint64_t guest =
            way->l1_index * run->geometry.l2_span + ((uint64_t)i << run->geometry.cluster_bits);
        ret = fn(mending, &entry, guest, err);
        if (entry.word == old.word && entry.subclusters == old.subclusters)
            continue;
        word[0] = be64_of(entry.word);
        if (is_extended)
            word[1] = be64_of(entry.subclusters);
        run->result->corruptions_fixed++;
        note_change(changes, (uint64_t)i * run->geometry.entry_bytes, run->geometry.entry_bytes);
    }
    return ret;
}

static int mend_entry(struct vd_qcow2_mending *mending, struct entry *entry, uint64_t guest,
                      struct vdisk_error *err)
{
    if (mending->run->has_data_file) {
        mend_external(mending, entry, guest);
        return 0;
    }
    if (entry->word & VD_QCOW2_ENTRY_COMPRESSED)
        return mend_encoded(mending, entry, err);
    return mend_cluster(mending, entry, err);
}

static int mend_table(struct vd_qcow2_mending *mending, const struct vd_qcow2_way *way,
                      struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct changes changes = {0};
    bool is_empty;
    if (!vd_qcow2_mend_is_there(run, way->offset))
        return 0;
    int ret = vd_qcow2_check_read(run, way->offset, run->table, run->geometry.cluster_bytes,
                                  &is_empty, err);
    mending->weight = way->active + way->others;
    if (ret == 0 && !is_empty)
        ret = for_each_entry(mending, way, mend_entry, &changes, err);
    if (ret < 0)
        return ret;
    if (!table_is_own(run, way)) {
        uint64_t to;
        ret = vd_qcow2_mend_take(mending, 1, &to, err);
        if (ret == 0)
            ret = vd_storage_pwrite(run->file, run->table, run->geometry.cluster_bytes, to, err);
        return ret < 0 ? ret : vd_qcow2_mend_moved(mending, &mending->tables, way->offset, to, err);
    }
    if (changes.end)
        ret = vd_qcow2_mend_settle(mending, err);
    return ret < 0 ? ret : write_changes(run, run->table, way->offset, &changes, err);
}

/* ---- all of it ---- */

static void begin(struct vd_qcow2_mending *mending, struct vd_qcow2_check_run *run)
{
    *mending = (struct vd_qcow2_mending){
        .run = run,
        .has_zero = run->header->fields.version >= 3,
        .has_backing = run->header->backing_name != NULL,
        .next = vd_max(vd_max(run->clusters, run->end), 1),
    };
    mending->next_max = mending->next + vd_max(run->clusters, NEW_CLUSTERS_MIN);
}

static void end(struct vd_qcow2_mending *mending)
{
    free(mending->data.entries);
    free(mending->tables.entries);
}

int vd_qcow2_mend_entries(struct vd_qcow2_check_run *run, bool is_repeated, struct vdisk_error *err)
{
    struct vd_qcow2_mending mending;
    begin(&mending, run);
    mending.is_repeated = is_repeated;
    int ret = vd_qcow2_mend_bitmaps(&mending, err);
    for (size_t i = 0; i < run->ways.used && ret == 0; i++)
        ret = mend_table(&mending, &run->ways.entries[i], err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    if (ret == 0)
        ret = vd_qcow2_mend_l1(&mending, err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    if (mending.lost)
        vd_qcow2_check_tell(run,
                            "%" PRIu64 " entries that led to nothing are cleared: what they "
                            "should have led to is lost",
                            mending.lost);
    end(&mending);
    return ret;
}

bool vd_qcow2_mend_is_needed(const struct vd_qcow2_check_run *run)
{
    if (run->bad_entries || run->bad_snapshots || run->has_excess || run->bad_bitmaps ||
        run->bad_directory)
        return true;
    for (size_t i = 0; i < run->ways.used; i++)
        if (vd_qcow2_mend_is_there(run, run->ways.entries[i].offset) &&
            !table_is_own(run, &run->ways.entries[i]))
            return true;
    return false;
}

/* ---- COPIED bits ---- */

static int mend_copied_entry(struct vd_qcow2_mending *mending, struct entry *entry, uint64_t guest,
                             struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t offset = entry->word & VD_QCOW2_ENTRY_OFFSET;
    (void)guest;
    (void)err;
    if (entry->word & VD_QCOW2_ENTRY_COMPRESSED || (!offset && !run->has_data_file))
        return 0;
    if (run->has_data_file) {
        entry->word |= offset ? VD_QCOW2_ENTRY_COPIED : 0;
        return 0;
    }
    bool is_one = vd_qcow2_counts_get(&run->counts, offset >> run->geometry.cluster_bits) == 1;
    entry->word =
        is_one ? entry->word | VD_QCOW2_ENTRY_COPIED : entry->word & ~VD_QCOW2_ENTRY_COPIED;
    return 0;
}

static int mend_copied_table(struct vd_qcow2_mending *mending, const struct vd_qcow2_way *way,
                             struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct changes changes = {0};
    bool is_empty;
    if (!way->active || !vd_qcow2_mend_is_there(run, way->offset) || !table_is_own(run, way))
        return 0;
    int ret = vd_qcow2_check_read(run, way->offset, run->table, run->geometry.cluster_bytes,
                                  &is_empty, err);
    if (ret == 0 && !is_empty)
        ret = for_each_entry(mending, way, mend_copied_entry, &changes, err);
    return ret < 0 ? ret : write_changes(run, run->table, way->offset, &changes, err);
}

int vd_qcow2_mend_copied(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    struct vd_qcow2_mending mending;
    begin(&mending, run);
    int ret = 0;
    for (size_t i = 0; i < run->ways.used && ret == 0; i++)
        ret = mend_copied_table(&mending, &run->ways.entries[i], err);
    if (ret == 0)
        ret = vd_qcow2_mend_l1_copied(&mending, err);
    end(&mending);
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}
