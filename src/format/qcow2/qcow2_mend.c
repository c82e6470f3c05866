/* SPDX-License-Identifier: MIT */
/*
 * Mending the entries of L1 and L2 tables.
 *
 * M1  What could be read before reads the same after.  An entry that leads nowhere reads as zeros
 *     from now on; where the format has no way to say so (version 2) and a backing file would show,
 *     it gets a cluster of zeros.  An L1 entry that leads nowhere is cleared.
 * M2  A table is written in place only if all that leads to its cluster takes it for this table.
 *     Another one is copied to a new place first, where it alone is; and so is data that lies in
 *     metadata.  New places are behind the end of the file.
 * M3  L2 tables and copies are durable before an L1 entry leads to them.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_check.h"
#include "util/mem.h"

/* A cluster of metadata that an entry takes for data, and the copy that it gets. */
struct copy {
    uint64_t from; /* cluster */
    uint64_t to;   /* 0: free */
};

struct mending {
    struct vd_qcow2_check_run *run;
    bool has_zero; /* version 3 */
    bool has_backing;
    uint64_t next;  /* cluster: free from here on */
    uint64_t zeros; /* M1: offset of a cluster of zeros; 0: none yet */
    uint64_t zeros_references;
    struct copy *copies; /* open addressing */
    size_t copy_capacity;
    size_t copy_entries;
    uint64_t *moved; /* of each way: where the table is now; 0: where it was */
    uint64_t lost;   /* entries that led to nothing that could be read */
};

/* ---- new places ---- */

/* One cluster behind all others. */
static int take(struct mending *mending, uint64_t *offset, struct vdisk_error *err)
{
    const struct vd_qcow2_check_run *run = mending->run;
    if (!(vd_storage_caps(run->file) & VD_STORAGE_CAN_RESIZE))
        return vd_err_set(err, ENOSPC, "%s: can not grow to hold what has to be copied",
                          vd_storage_name(run->file));
    *offset = mending->next++ << run->geometry.cluster_bits;
    return 0;
}

static int write_cluster(struct mending *mending, const uint8_t *bytes, uint64_t *offset,
                         struct vdisk_error *err)
{
    int ret = take(mending, offset, err);
    return ret < 0 ? ret
                   : vd_storage_pwrite(mending->run->file, bytes,
                                       mending->run->geometry.cluster_bytes, *offset, err);
}

/* M1: a cluster of zeros, as many references as there may be. */
static int take_zeros(struct mending *mending, uint64_t *offset, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    if (!mending->zeros || mending->zeros_references >= run->geometry.refcount_max) {
        memset(run->block, 0, run->geometry.cluster_bytes);
        run->block_index = UINT64_MAX;
        int ret = write_cluster(mending, run->block, &mending->zeros, err);
        if (ret < 0)
            return ret;
        mending->zeros_references = 0;
    }
    mending->zeros_references++;
    *offset = mending->zeros;
    return 0;
}

static size_t find_copy(const struct mending *mending, uint64_t from)
{
    size_t mask = mending->copy_capacity - 1;
    size_t i = (size_t)((from * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & mask;
    while (mending->copies[i].to && mending->copies[i].from != from)
        i = (i + 1) & mask;
    return i;
}

static int grow_copies(struct mending *mending, struct vdisk_error *err)
{
    struct mending old = *mending;
    size_t capacity = old.copy_capacity ? old.copy_capacity * 2 : 64;
    struct copy *copies = vd_alloc_array(capacity, sizeof(*copies));
    if (!copies)
        return vd_err_nomem(err, "the list of clusters to be copied");
    mending->copies = copies;
    mending->copy_capacity = capacity;
    for (size_t i = 0; i < old.copy_capacity; i++)
        if (old.copies[i].to)
            mending->copies[find_copy(mending, old.copies[i].from)] = old.copies[i];
    free(old.copies);
    return 0;
}

/* M2: what the cluster has, at a place of its own: the same one for all that ask. */
static int copy_data(struct mending *mending, uint64_t *offset, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t from = *offset >> run->geometry.cluster_bits;
    if (mending->copy_entries * 2 >= mending->copy_capacity) {
        int ret = grow_copies(mending, err);
        if (ret < 0)
            return ret;
    }
    struct copy *copy = &mending->copies[find_copy(mending, from)];
    if (!copy->to) {
        bool is_empty;
        run->block_index = UINT64_MAX;
        int ret = vd_qcow2_check_read(run, *offset, run->block, run->geometry.cluster_bytes,
                                      &is_empty, err);
        if (ret == 0)
            ret = write_cluster(mending, run->block, &copy->to, err);
        if (ret < 0) {
            copy->to = 0;
            return ret;
        }
        copy->from = from;
        mending->copy_entries++;
    }
    *offset = copy->to;
    return 0;
}

/* ---- L2 entries ---- */

struct entry {
    uint64_t word;
    uint64_t subclusters;
};

/* It leads nowhere: M1. */
static int clear_entry(struct mending *mending, struct entry *entry, struct vdisk_error *err)
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
            return take_zeros(mending, &entry->word, err);
    }
    return 0;
}

static int mend_encoded(struct mending *mending, struct entry *entry, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint32_t sector_shift = 62 - (run->geometry.cluster_bits - 8);
    uint64_t offset = entry->word & ((UINT64_C(1) << sector_shift) - 1);
    entry->word &= ~VD_QCOW2_ENTRY_COPIED;
    entry->subclusters = 0;
    uint64_t sectors = ((entry->word & ~VD_QCOW2_ENTRY_COMPRESSED) >> sector_shift) + 1;
    if (vd_qcow2_check_is_behind(run, offset, sectors * 512 - (offset & 511)))
        return clear_entry(mending, entry, err);
    return 0;
}

/* With a data file: where the cluster is follows from where its entry is. */
static void mend_external(struct mending *mending, struct entry *entry, uint64_t guest)
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

static int mend_cluster(struct mending *mending, struct entry *entry, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t offset = entry->word & VD_QCOW2_ENTRY_OFFSET;
    entry->word &= ~VD_QCOW2_L2_RESERVED;
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
    if (vd_qcow2_counts_is_meta(&run->counts, offset >> run->geometry.cluster_bits)) {
        int ret = copy_data(mending, &offset, err);
        if (ret < 0)
            return ret;
        entry->word = (entry->word & ~(VD_QCOW2_ENTRY_OFFSET | VD_QCOW2_ENTRY_COPIED)) | offset;
    }
    return 0;
}

/* ---- L2 tables ---- */

/* Is it in the file, as a whole table? */
static bool table_is_there(const struct vd_qcow2_check_run *run, uint64_t offset)
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

typedef int (*entry_fn)(struct mending *mending, struct entry *entry, uint64_t guest,
                        struct vdisk_error *err);

/* Calls @fn for each entry of the table in run->table that is not empty. */
static int for_each_entry(struct mending *mending, const struct vd_qcow2_way *way, entry_fn fn,
                          struct changes *changes, struct vdisk_error *err)
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

static int mend_entry(struct mending *mending, struct entry *entry, uint64_t guest,
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

static int mend_table(struct mending *mending, size_t index, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    const struct vd_qcow2_way *way = &run->ways.entries[index];
    struct changes changes = {0};
    bool is_empty;
    if (!table_is_there(run, way->offset))
        return 0;
    int ret = vd_qcow2_check_read(run, way->offset, run->table, run->geometry.cluster_bytes,
                                  &is_empty, err);
    if (ret == 0 && !is_empty)
        ret = for_each_entry(mending, way, mend_entry, &changes, err);
    if (ret < 0)
        return ret;
    if (!table_is_own(run, way))
        return write_cluster(mending, run->table, &mending->moved[index], err);
    return write_changes(run, run->table, way->offset, &changes, err);
}

/* ---- L1 tables ---- */

static uint64_t mended_l1_entry(struct mending *mending, uint64_t entry)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t offset = entry & VD_QCOW2_ENTRY_OFFSET;
    if (offset && !table_is_there(run, offset)) {
        mending->lost++;
        return 0;
    }
    const struct vd_qcow2_way *way = vd_qcow2_check_way(run, offset);
    uint64_t moved = way ? mending->moved[way - run->ways.entries] : 0;
    entry &= ~VD_QCOW2_L1_RESERVED;
    return moved ? moved : offset ? entry : 0;
}

static uint64_t copied_l1_entry(struct mending *mending, uint64_t entry)
{
    struct vd_qcow2_check_run *run = mending->run;
    uint64_t offset = entry & VD_QCOW2_ENTRY_OFFSET;
    if (!offset)
        return entry;
    bool is_one = vd_qcow2_counts_get(&run->counts, offset >> run->geometry.cluster_bits) == 1;
    return is_one ? entry | VD_QCOW2_ENTRY_COPIED : entry & ~VD_QCOW2_ENTRY_COPIED;
}

static int mend_l1(struct mending *mending, uint64_t table, uint64_t entries,
                   uint64_t (*fn)(struct mending *mending, uint64_t entry), struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    int ret = 0;
    for (uint64_t first = 0; first < entries && ret == 0; first += VD_QCOW2_CHECK_L1_PART) {
        uint64_t count = vd_min(VD_QCOW2_CHECK_L1_PART, entries - first);
        uint64_t offset = table + first * sizeof(*run->l1);
        struct changes changes = {0};
        bool is_empty;
        /* Whole sectors are written. */
        uint64_t bytes = vd_round_up(count * sizeof(*run->l1), 512);
        ret = vd_qcow2_check_read(run, offset, run->l1, bytes, &is_empty, err);
        for (uint64_t i = 0; i < count && ret == 0 && !is_empty; i++) {
            uint64_t entry = be64_get(run->l1[i]);
            uint64_t mended = entry ? fn(mending, entry) : 0;
            if (mended == entry)
                continue;
            run->l1[i] = be64_of(mended);
            run->result->corruptions_fixed++;
            note_change(&changes, i * sizeof(*run->l1), sizeof(*run->l1));
        }
        if (ret == 0)
            ret = write_changes(run, run->l1, offset, &changes, err);
    }
    return ret;
}

/* M2: has nothing else the clusters of this L1 table? */
static bool l1_is_own(const struct vd_qcow2_check_run *run, const struct vd_qcow2_old_l1 *l1)
{
    uint64_t bytes = l1->entries * sizeof(struct be64);
    if (bytes == 0 || vd_qcow2_check_is_behind(run, l1->offset, bytes))
        return false;
    uint64_t first = l1->offset >> run->geometry.cluster_bits;
    uint64_t count = vd_qcow2_clusters(&run->geometry, bytes);
    for (uint64_t i = first; i < first + count; i++)
        if (vd_qcow2_counts_get(&run->counts, i) != l1->weight)
            return false;
    return true;
}

static int mend_all_l1(struct mending *mending, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    int ret = mend_l1(mending, run->header->fields.l1_offset, run->header->fields.l1_entries,
                      mended_l1_entry, err);
    for (size_t i = 0; i < run->old_l1_entries && ret == 0; i++)
        if (l1_is_own(run, &run->old_l1[i]))
            ret = mend_l1(mending, run->old_l1[i].offset, run->old_l1[i].entries, mended_l1_entry,
                          err);
    return ret;
}

/* ---- all of it ---- */

static void begin(struct mending *mending, struct vd_qcow2_check_run *run)
{
    *mending = (struct mending){
        .run = run,
        .has_zero = run->header->fields.version >= 3,
        .has_backing = run->header->backing_name != NULL,
        .next = vd_max(vd_max(run->clusters, run->end), 1),
    };
}

int vd_qcow2_mend_entries(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    struct mending mending;
    begin(&mending, run);
    int ret = 0;
    mending.moved = vd_alloc_array(run->ways.used, sizeof(*mending.moved));
    if (!mending.moved)
        ret = vd_err_nomem(err, "the list of L2 tables");
    for (size_t i = 0; i < run->ways.used && ret == 0; i++)
        ret = mend_table(&mending, i, err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    if (ret == 0)
        ret = mend_all_l1(&mending, err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    if (mending.lost)
        vd_qcow2_check_tell(run,
                            "%" PRIu64 " entries that led to nothing are cleared: what they "
                            "should have led to is lost",
                            mending.lost);
    free(mending.moved);
    free(mending.copies);
    return ret;
}

/* ---- COPIED bits ---- */

static int mend_copied_entry(struct mending *mending, struct entry *entry, uint64_t guest,
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

static int mend_copied_table(struct mending *mending, const struct vd_qcow2_way *way,
                             struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct changes changes = {0};
    bool is_empty;
    if (!way->active || !table_is_there(run, way->offset) || !table_is_own(run, way))
        return 0;
    int ret = vd_qcow2_check_read(run, way->offset, run->table, run->geometry.cluster_bytes,
                                  &is_empty, err);
    if (ret == 0 && !is_empty)
        ret = for_each_entry(mending, way, mend_copied_entry, &changes, err);
    return ret < 0 ? ret : write_changes(run, run->table, way->offset, &changes, err);
}

int vd_qcow2_mend_copied(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    struct mending mending;
    begin(&mending, run);
    int ret = 0;
    for (size_t i = 0; i < run->ways.used && ret == 0; i++)
        ret = mend_copied_table(&mending, &run->ways.entries[i], err);
    if (ret == 0)
        ret = mend_l1(&mending, run->header->fields.l1_offset, run->header->fields.l1_entries,
                      copied_l1_entry, err);
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}
