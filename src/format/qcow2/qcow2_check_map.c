/* SPDX-License-Identifier: MIT */
/*
 * A check's walk through L1 and L2 tables.  First all L1 tables: that gives the ways to each L2
 * table.  Then each L2 table once, in the order of the file (K1).
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "format/qcow2/qcow2_check.h"
#include "util/mem.h"

#define WAYS_MIN 64u

/* An L1 table that is walked through. */
struct l1_walk {
    uint64_t offset;
    uint64_t entries;
    uint64_t weight;
    bool is_active;
};

/* ---- ways ---- */

static size_t find_way(const struct vd_qcow2_ways *ways, uint64_t offset)
{
    size_t mask = ways->capacity - 1;
    size_t i = (size_t)(((offset >> 9) * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & mask;
    while (ways->entries[i].offset && ways->entries[i].offset != offset)
        i = (i + 1) & mask;
    return i;
}

static int grow_ways(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    struct vd_qcow2_ways *ways = &run->ways;
    struct vd_qcow2_ways old = *ways;
    size_t capacity = old.capacity ? old.capacity * 2 : WAYS_MIN;
    if (capacity * sizeof(*ways->entries) > run->counts_bytes_max)
        return vd_err_set(err, ENOMEM,
                          "L1 tables: a check of the %zu L2 tables they lead to takes more than "
                          "the limit of %" PRIu64 " bytes of memory",
                          old.used, run->counts_bytes_max);
    struct vd_qcow2_way *entries = vd_alloc_array(capacity, sizeof(*entries));
    if (!entries)
        return vd_err_nomem(err, "the list of L2 tables");
    ways->entries = entries;
    ways->capacity = capacity;
    for (size_t i = 0; i < old.capacity; i++)
        if (old.entries[i].offset)
            ways->entries[find_way(ways, old.entries[i].offset)] = old.entries[i];
    free(old.entries);
    return 0;
}

static int add_way(struct vd_qcow2_check_run *run, uint64_t offset, const struct l1_walk *walk,
                   uint64_t index, struct vdisk_error *err)
{
    struct vd_qcow2_ways *ways = &run->ways;
    if (ways->used * 2 >= ways->capacity) {
        int ret = grow_ways(run, err);
        if (ret < 0)
            return ret;
    }
    struct vd_qcow2_way *way = &ways->entries[find_way(ways, offset)];
    ways->used += way->offset == 0;
    way->offset = offset;
    way->l1_index = index;
    *(walk->is_active ? &way->active : &way->others) += walk->weight;
    return 0;
}

static int compare_ways(const void *a, const void *b)
{
    const struct vd_qcow2_way *left = a;
    const struct vd_qcow2_way *right = b;
    return left->offset < right->offset ? -1 : left->offset > right->offset;
}

static void sort_ways(struct vd_qcow2_ways *ways)
{
    size_t used = 0;
    for (size_t i = 0; i < ways->capacity; i++)
        if (ways->entries[i].offset)
            ways->entries[used++] = ways->entries[i];
    assert(used == ways->used);
    if (used > 1)
        qsort(ways->entries, used, sizeof(*ways->entries), compare_ways);
    ways->is_sorted = true;
}

const struct vd_qcow2_way *vd_qcow2_check_way(const struct vd_qcow2_check_run *run, uint64_t offset)
{
    const struct vd_qcow2_way key = {.offset = offset};
    assert(run->ways.is_sorted);
    if (run->ways.used == 0)
        return NULL;
    return bsearch(&key, run->ways.entries, run->ways.used, sizeof(key), compare_ways);
}

/* ---- L1 ---- */

static bool refcount_is_known(struct vd_qcow2_check_run *run, uint64_t offset)
{
    bool is_known;
    (void)vd_qcow2_check_stored_is_one(run, offset >> run->geometry.cluster_bits, &is_known);
    return is_known;
}

/* Is a COPIED bit as it has to be for @offset, which it stands beside? */
static bool copied_is_right(struct vd_qcow2_check_run *run, uint64_t entry, uint64_t offset)
{
    uint64_t cluster = offset >> run->geometry.cluster_bits;
    bool is_copied = (entry & VD_QCOW2_ENTRY_COPIED) != 0;
    if (vd_qcow2_counts_is_one(&run->counts, cluster) == is_copied)
        return true;
    bool is_known;
    bool is_one = vd_qcow2_check_stored_is_one(run, cluster, &is_known);
    return !is_known || is_one == is_copied;
}

static void bad_l1_entry(struct vd_qcow2_check_run *run, const struct l1_walk *walk, uint64_t index,
                         uint64_t entry, const char *what)
{
    run->bad_entries++;
    vd_qcow2_check_corruption(run, walk->weight,
                              "L1 table at %#" PRIx64 ", entry %" PRIu64 ": %#" PRIx64 ": %s",
                              walk->offset, index, entry, what);
}

static int look_at_l1_entry(struct vd_qcow2_check_run *run, const struct l1_walk *walk,
                            uint64_t index, uint64_t entry, struct vdisk_error *err)
{
    uint64_t offset = entry & VD_QCOW2_ENTRY_OFFSET;
    if (entry & VD_QCOW2_L1_RESERVED)
        bad_l1_entry(run, walk, index, entry, "reserved bits are set");
    if (offset == 0) {
        if (entry & VD_QCOW2_ENTRY_COPIED)
            bad_l1_entry(run, walk, index, entry, "the copied bit is set, but there is no table");
        return 0;
    }
    if (walk->is_active && !copied_is_right(run, entry, offset))
        vd_qcow2_check_corruption(run, walk->weight,
                                  "L1 table at %#" PRIx64 ", entry %" PRIu64 ": %#" PRIx64
                                  ": the copied bit is not as the refcount of the table says",
                                  walk->offset, index, entry);
    if (!vd_is_aligned(offset, run->geometry.cluster_bytes))
        bad_l1_entry(run, walk, index, entry, "not at the start of a cluster");
    if (vd_qcow2_check_is_behind(run, offset, run->geometry.cluster_bytes))
        run->bad_entries++;
    int ret = vd_qcow2_check_refer(run, vd_range(offset, run->geometry.cluster_bytes), walk->weight,
                                   "L2 table", err);
    return ret < 0 ? ret : add_way(run, offset, walk, index, err);
}

/* Without it nothing is known of the disk: all would be leaked, so nothing is mended. */
static bool active_l1_is_missing(struct vd_qcow2_check_run *run, const struct l1_walk *walk)
{
    struct vdisk_error inner = {0};
    uint64_t bytes = walk->entries * sizeof(*run->l1);
    if (!walk->is_active || vd_range_is_within(vd_range(walk->offset, bytes), run->file_bytes))
        return false;
    vd_err_set(&inner, EBADMSG,
               "%" PRIu64 " bytes at offset %" PRIu64 ": the file has only %" PRIu64, bytes,
               walk->offset, run->file_bytes);
    vd_qcow2_check_unreadable(run, "the L1 table of the disk", &inner);
    return true;
}

static int walk_l1(struct vd_qcow2_check_run *run, const struct l1_walk *walk,
                   struct vdisk_error *err)
{
    uint64_t bytes = walk->entries * sizeof(*run->l1);
    if (active_l1_is_missing(run, walk))
        return 0;
    int ret = vd_qcow2_check_refer_meta(run, vd_range(walk->offset, bytes), walk->weight,
                                        "L1 table", err);
    for (uint64_t first = 0; first < walk->entries && ret == 0; first += VD_QCOW2_CHECK_L1_PART) {
        struct vdisk_error inner = {0};
        bool is_empty;
        uint64_t count = vd_min(VD_QCOW2_CHECK_L1_PART, walk->entries - first);
        if (vd_qcow2_check_read(run, walk->offset + first * sizeof(*run->l1), run->l1,
                                count * sizeof(*run->l1), &is_empty, &inner) < 0) {
            vd_qcow2_check_unreadable(run, "L1 table", &inner);
            continue;
        }
        for (uint64_t i = 0; i < count && !is_empty && ret == 0; i++)
            if (be64_get(run->l1[i]))
                ret = look_at_l1_entry(run, walk, first + i, be64_get(run->l1[i]), err);
    }
    return ret;
}

static int walk_all_l1(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    const struct l1_walk active = {
        .offset = run->header->fields.l1_offset,
        .entries = run->header->fields.l1_entries,
        .weight = 1,
        .is_active = true,
    };
    int ret = walk_l1(run, &active, err);
    uint64_t bytes = 0;
    for (size_t i = 0; i < run->old_l1_entries && ret == 0; i++) {
        const struct l1_walk old = {
            .offset = run->old_l1[i].offset,
            .entries = run->old_l1[i].entries,
            .weight = run->old_l1[i].weight,
        };
        bytes += old.entries * sizeof(*run->l1);
        if (bytes > VD_QCOW2_CHECK_L1_BYTES)
            return vd_err_set(err, EFBIG,
                              "snapshots: their L1 tables have more than %" PRIu64 " bytes",
                              VD_QCOW2_CHECK_L1_BYTES);
        ret = walk_l1(run, &old, err);
    }
    return ret;
}

/* ---- L2 ---- */

struct l2_walk {
    const struct vd_qcow2_way *way;
    uint64_t weight; /* of both kinds of ways */
    bool checks_copied;
    uint64_t next; /* where the next data cluster is, if it is not fragmented; 0: not known */
};

static void bad_entry(struct vd_qcow2_check_run *run, const struct l2_walk *walk, uint32_t index,
                      uint64_t entry, const char *what)
{
    run->bad_entries++;
    vd_qcow2_check_corruption(run, walk->weight,
                              "L2 table at %#" PRIx64 ", entry %" PRIu32 ": %#" PRIx64 ": %s",
                              walk->way->offset, index, entry, what);
}

static int look_at_encoded(struct vd_qcow2_check_run *run, struct l2_walk *walk, uint32_t index,
                           uint64_t entry, uint64_t subclusters, struct vdisk_error *err)
{
    if (entry & VD_QCOW2_ENTRY_COPIED)
        bad_entry(run, walk, index, entry, "a compressed cluster never has the copied bit");
    if (run->has_data_file) {
        bad_entry(run, walk, index, entry, "a data file has no compressed clusters");
        return 0;
    }
    if (subclusters) {
        bad_entry(run, walk, index, entry, "a compressed cluster has no subclusters");
        return 0;
    }
    uint32_t sector_shift = 62 - (run->geometry.cluster_bits - 8);
    uint64_t offset = entry & ((UINT64_C(1) << sector_shift) - 1);
    uint64_t sectors =
        ((entry & ~(VD_QCOW2_ENTRY_COPIED | VD_QCOW2_ENTRY_COMPRESSED)) >> sector_shift) + 1;
    uint64_t bytes = sectors * 512 - (offset & 511);
    run->result->allocated_clusters += walk->way->active;
    run->result->compressed_clusters += walk->way->active;
    run->result->fragmented_clusters += walk->way->active;
    if (vd_qcow2_check_is_behind(run, offset, bytes) || offset < run->geometry.cluster_bytes)
        run->bad_entries++;
    return vd_qcow2_check_refer(run, vd_range(offset, bytes), walk->weight, "compressed cluster",
                                err);
}

static void count_cluster(struct vd_qcow2_check_run *run, struct l2_walk *walk, uint64_t offset)
{
    run->result->allocated_clusters += walk->way->active;
    if (walk->next && walk->next != offset)
        run->result->fragmented_clusters += walk->way->active;
    walk->next = offset + run->geometry.cluster_bytes;
}

static void look_at_copied(struct vd_qcow2_check_run *run, const struct l2_walk *walk,
                           uint32_t index, uint64_t entry, uint64_t offset)
{
    bool is_right = run->has_data_file ? (entry & VD_QCOW2_ENTRY_COPIED) != 0
                                       : copied_is_right(run, entry, offset);
    if (!is_right)
        vd_qcow2_check_corruption(run, walk->way->active,
                                  "L2 table at %#" PRIx64 ", entry %" PRIu32 ": %#" PRIx64
                                  ": the copied bit is not as the refcount of the cluster says",
                                  walk->way->offset, index, entry);
}

/* Of an entry of a table that has one way to it only, as with a data file. */
static uint64_t guest_offset(const struct vd_qcow2_check_run *run, const struct l2_walk *walk,
                             uint32_t index)
{
    return walk->way->l1_index * run->geometry.l2_span +
           ((uint64_t)index << run->geometry.cluster_bits);
}

static int look_at_cluster(struct vd_qcow2_check_run *run, struct l2_walk *walk, uint32_t index,
                           uint64_t entry, uint64_t subclusters, struct vdisk_error *err)
{
    bool is_extended = run->geometry.subclusters > 1;
    uint64_t offset = entry & VD_QCOW2_ENTRY_OFFSET;
    uint32_t data = (uint32_t)subclusters;
    if (entry & VD_QCOW2_L2_RESERVED)
        bad_entry(run, walk, index, entry, "reserved bits are set");
    if ((entry & VD_QCOW2_ENTRY_ZERO) && !is_extended && run->header->fields.version < 3)
        bad_entry(run, walk, index, entry, "version 2 has no zero clusters");
    bool is_there = offset != 0;
    if (run->has_data_file && (entry & VD_QCOW2_ENTRY_COPIED))
        is_there = is_extended || !(entry & VD_QCOW2_ENTRY_ZERO) || offset != 0;
    if (!is_there) {
        if (is_extended && data)
            bad_entry(run, walk, index, entry, "subclusters have data, but there is no cluster");
        return 0;
    }
    if (is_extended && (data & (uint32_t)(subclusters >> 32)))
        bad_entry(run, walk, index, entry, "subclusters have data and are zero");
    if (!vd_is_aligned(offset, run->geometry.cluster_bytes))
        bad_entry(run, walk, index, entry, "not at the start of a cluster");
    else if (run->has_data_file && offset != guest_offset(run, walk, index))
        bad_entry(run, walk, index, entry, "not where it has to be in the data file");
    count_cluster(run, walk, offset);
    if (walk->checks_copied)
        look_at_copied(run, walk, index, entry, offset);
    if (run->has_data_file)
        return 0;
    if (vd_qcow2_check_is_behind(run, offset, run->geometry.cluster_bytes))
        run->bad_entries++;
    return vd_qcow2_check_refer(run, vd_range(offset, run->geometry.cluster_bytes), walk->weight,
                                "data cluster", err);
}

/* What nearly all entries are: a place of its own in the file, with nothing wrong about it. */
static bool is_plain(struct vd_qcow2_check_run *run, struct l2_walk *walk, uint64_t entry)
{
    uint64_t offset = entry & VD_QCOW2_ENTRY_OFFSET;
    uint64_t cluster = offset >> run->geometry.cluster_bits;
    if ((entry & ~VD_QCOW2_ENTRY_OFFSET) != VD_QCOW2_ENTRY_COPIED || walk->weight != 1 ||
        !walk->way->active || cluster == 0 || cluster + 1 >= run->clusters ||
        !vd_is_aligned(offset, run->geometry.cluster_bytes))
        return false;
    struct vd_qcow2_counts_page *page = run->counts.pages[cluster / VD_QCOW2_COUNTS_PAGE];
    uint32_t i = (uint32_t)(cluster % VD_QCOW2_COUNTS_PAGE);
    if (!page || page->counts[i] >= UINT8_MAX - 1 || !((page->ones[i / 64] >> (i % 64)) & 1))
        return false;
    page->counts[i]++;
    run->end = vd_max(run->end, cluster + 1);
    count_cluster(run, walk, offset);
    return true;
}

static int look_at_l2_entry(struct vd_qcow2_check_run *run, struct l2_walk *walk, uint32_t index,
                            uint64_t entry, uint64_t subclusters, struct vdisk_error *err)
{
    if (entry & VD_QCOW2_ENTRY_COMPRESSED)
        return look_at_encoded(run, walk, index, entry, subclusters, err);
    return look_at_cluster(run, walk, index, entry, subclusters, err);
}

static int walk_l2(struct vd_qcow2_check_run *run, const struct vd_qcow2_way *way,
                   struct vdisk_error *err)
{
    struct l2_walk walk = {
        .way = way,
        .weight = way->active + way->others,
        .checks_copied = way->active && refcount_is_known(run, way->offset),
    };
    struct vdisk_error inner = {0};
    bool is_empty;
    if (vd_qcow2_check_read(run, way->offset, run->table, run->geometry.cluster_bytes, &is_empty,
                            &inner) < 0) {
        vd_qcow2_check_unreadable(run, "L2 table", &inner);
        return 0;
    }
    const struct be64 *words = (const struct be64 *)run->table;
    bool is_extended = run->geometry.subclusters > 1;
    bool may_be_plain = !is_extended && !run->has_data_file;
    int ret = 0;
    for (uint32_t i = 0; i < run->geometry.l2_entries && !is_empty && ret == 0; i++) {
        uint64_t entry = be64_get(words[is_extended ? 2 * i : i]);
        uint64_t subclusters = is_extended ? be64_get(words[2 * i + 1]) : 0;
        if ((!entry && !subclusters) || (may_be_plain && is_plain(run, &walk, entry)))
            continue;
        ret = look_at_l2_entry(run, &walk, i, entry, subclusters, err);
    }
    return ret;
}

int vd_qcow2_check_map(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    int ret = walk_all_l1(run, err);
    sort_ways(&run->ways);
    uint64_t read_end = 0; /* of the tables up to here */
    for (size_t i = 0; i < run->ways.used && ret == 0; i++) {
        const struct vd_qcow2_way *way = &run->ways.entries[i];
        if (way->offset >= run->file_bytes)
            break; /* nothing but zeros */
        if (way->offset < read_end) {
            uint64_t again = read_end - way->offset;
            if (again > run->extra_bytes)
                return vd_err_set(err, EBADMSG,
                                  "L1 tables: they lead to L2 tables that lie over each other in "
                                  "more than %" PRIu64 " bytes",
                                  VD_QCOW2_CHECK_EXTRA_BYTES);
            run->extra_bytes -= again;
        }
        read_end = way->offset + run->geometry.cluster_bytes;
        ret = walk_l2(run, way, err);
    }
    return ret;
}
