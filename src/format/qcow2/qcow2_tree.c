/* SPDX-License-Identifier: MIT */
/* An L1 table of a qcow2 image and what it leads to, as a whole: for snapshots. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_snapshot.h"
#include "format/qcow2/qcow2_write.h"
#include "util/mem.h"

/* ---- reading ---- */

/* Zeros follow the end of the file. */
static int read_padded(const struct vd_qcow2_tree *tree, void *bytes, size_t length,
                       uint64_t offset, struct vdisk_error *err)
{
    uint64_t here = offset < tree->file_bytes ? vd_min(tree->file_bytes - offset, length) : 0;
    memset((uint8_t *)bytes + here, 0, length - (size_t)here);
    return here ? vd_storage_pread(tree->qcow2->file, bytes, (size_t)here, offset, err) : 0;
}

static int bad_entry(const struct vd_qcow2_tree *tree, const char *level, uint64_t index,
                     uint64_t value, const char *wrong, struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG,
                      "%s: %s: entry %" PRIu64 " of %s is 0x%016" PRIx64 ": %s: run vdisk check",
                      vd_storage_name(tree->qcow2->file), tree->name, index, level, value, wrong);
}

/* W8, and of the places in the file that have another use W5. */
static int check_l1_entry(const struct vd_qcow2_tree *tree, uint64_t index, struct vdisk_error *err)
{
    uint64_t value = be64_get(tree->l1[index]);
    uint64_t table = value & VD_QCOW2_ENTRY_OFFSET;
    const char *other;
    if (value == 0)
        return 0;
    if (value & VD_QCOW2_L1_RESERVED)
        return bad_entry(tree, "L1", index, value, "reserved bits are set", err);
    if (table == 0 || !vd_is_aligned(table, tree->qcow2->geometry.cluster_bytes))
        return bad_entry(tree, "L1", index, value, "the table is not aligned to clusters", err);
    if (table >= tree->file_bytes)
        return bad_entry(tree, "L1", index, value, "the table lies behind the end of the file",
                         err);
    other = vd_qcow2_meta_other(tree->qcow2, VD_QCOW2_META_L2, table, 1);
    return other ? bad_entry(tree, "L1", index, value, "the table lies in other metadata", err) : 0;
}

int vd_qcow2_tree_open(struct vd_qcow2 *qcow2, uint64_t l1_offset, uint64_t l1_entries,
                       const char *name, struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    size_t l1_bytes = (size_t)l1_entries * sizeof(*tree->l1);
    *tree = (struct vd_qcow2_tree){.qcow2 = qcow2,
                                   .name = name,
                                   .l1_offset = l1_offset,
                                   .l1_entries = l1_entries,
                                   .l1 = malloc(l1_bytes ? l1_bytes : 1),
                                   .table = malloc(qcow2->geometry.cluster_bytes)};
    if (!tree->l1 || !tree->table)
        return vd_err_nomem(err, "an L1 table");
    int ret = vd_storage_size(qcow2->file, &tree->file_bytes, err);
    if (ret == 0)
        ret = read_padded(tree, tree->l1, l1_bytes, l1_offset, err);
    for (uint64_t i = 0; ret == 0 && i < l1_entries; i++)
        ret = check_l1_entry(tree, i, err);
    return ret;
}

void vd_qcow2_tree_close(struct vd_qcow2_tree *tree)
{
    free(tree->l1);
    free(tree->table);
    *tree = (struct vd_qcow2_tree){0};
}

static uint64_t table_of(const struct vd_qcow2_tree *tree, uint64_t index)
{
    return be64_get(tree->l1[index]) & VD_QCOW2_ENTRY_OFFSET;
}

/* The L2 table of L1 entry @index: 0: none, or @but has it too. */
static uint64_t next_table(const struct vd_qcow2_tree *tree, const struct vd_qcow2_tree *but,
                           uint64_t index)
{
    uint64_t table = table_of(tree, index);
    return but && index < but->l1_entries && table_of(but, index) == table ? 0 : table;
}

/* ---- walking ---- */

/* Neighbours, of which the visitor has not been told yet. */
struct pending {
    vd_qcow2_tree_fn visit;
    void *opaque;
    uint64_t host;
    uint64_t clusters; /* 0: none */
};

static int tell(struct vd_qcow2 *qcow2, struct pending *pending, struct vdisk_error *err)
{
    uint64_t clusters = pending->clusters;
    pending->clusters = 0;
    if (!clusters)
        return 0;
    const char *other = vd_qcow2_meta_other(qcow2, -1, pending->host, clusters);
    if (other)
        return vd_err_set(err, EBADMSG,
                          "%s: %s lies in the %" PRIu64 " clusters at offset 0x%" PRIx64
                          ", which have data by an L2 table: run vdisk check",
                          vd_storage_name(qcow2->file), other, clusters, pending->host);
    return pending->visit ? pending->visit(pending->opaque, qcow2, pending->host, clusters, err)
                          : 0;
}

static int add(struct vd_qcow2 *qcow2, struct pending *pending, uint64_t host, uint64_t clusters,
               struct vdisk_error *err)
{
    uint64_t end = pending->host + (pending->clusters << qcow2->geometry.cluster_bits);
    if (pending->clusters && host == end) {
        pending->clusters += clusters;
        return 0;
    }
    int ret = tell(qcow2, pending, err);
    pending->host = host;
    pending->clusters = clusters;
    return ret;
}

/* What the L2 table of L1 entry @index, in tree->table, leads to. */
static int walk_table(struct vd_qcow2_tree *tree, uint64_t index, struct pending *pending,
                      struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = tree->qcow2;
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    int ret = 0;
    for (uint32_t i = 0; ret == 0 && i < geometry->l2_entries; i++) {
        const uint8_t *bytes = tree->table + (size_t)i * geometry->entry_bytes;
        struct vd_qcow2_entry entry;
        uint64_t value = be64_get(*(const struct be64 *)bytes);
        if (value == 0 && geometry->subclusters == 1)
            continue;
        const char *wrong = vd_qcow2_entry_decode(&qcow2->rules, bytes, &entry);
        if (wrong)
            return bad_entry(tree, "L2", index * geometry->l2_entries + i, value, wrong, err);
        if (entry.is_encoded)
            ret = add(qcow2, pending, vd_round_down(entry.host, geometry->cluster_bytes),
                      vd_qcow2_encoded_clusters(geometry, entry.host, entry.encoded_bytes), err);
        else if (entry.has_host)
            ret = add(qcow2, pending, entry.host, 1, err);
    }
    return ret;
}

int vd_qcow2_tree_walk(struct vd_qcow2_tree *tree, const struct vd_qcow2_tree *but,
                       vd_qcow2_tree_fn visit, void *opaque, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = tree->qcow2;
    struct pending pending = {.visit = visit, .opaque = opaque};
    int ret = 0;
    for (uint64_t i = 0; ret == 0 && i < tree->l1_entries; i++) {
        uint64_t table = next_table(tree, but, i);
        if (!table)
            continue;
        if (visit)
            ret = visit(opaque, qcow2, table, 1, err);
        if (ret == 0)
            ret = read_padded(tree, tree->table, qcow2->geometry.cluster_bytes, table, err);
        if (ret == 0)
            ret = walk_table(tree, i, &pending, err);
    }
    return ret == 0 ? tell(qcow2, &pending, err) : ret;
}

int vd_qcow2_tree_check(struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    return vd_qcow2_tree_walk(tree, NULL, NULL, NULL, err);
}

static int compare(const void *a, const void *b)
{
    uint64_t left = be64_get(*(const struct be64 *)a) & VD_QCOW2_ENTRY_OFFSET;
    uint64_t right = be64_get(*(const struct be64 *)b) & VD_QCOW2_ENTRY_OFFSET;
    return (left > right) - (left < right);
}

int vd_qcow2_tree_check_tables(const struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    size_t entries = (size_t)tree->l1_entries;
    CLEANUP_FREE struct be64 *sorted = vd_alloc_array(entries, sizeof(*sorted));
    if (!sorted)
        return vd_err_nomem(err, "an L1 table");
    memcpy(sorted, tree->l1, entries * sizeof(*sorted));
    qsort(sorted, entries, sizeof(*sorted), compare);
    for (size_t i = 1; i < entries; i++) {
        uint64_t table = be64_get(sorted[i]) & VD_QCOW2_ENTRY_OFFSET;
        if (table && compare(&sorted[i - 1], &sorted[i]) == 0)
            return vd_err_set(err, EBADMSG,
                              "%s: %s: two entries of L1 lead to the table at offset 0x%" PRIx64
                              ": run vdisk check",
                              vd_storage_name(tree->qcow2->file), tree->name, table);
    }
    return 0;
}

/* ---- COPIED bits ---- */

/* Has the cluster of @entry the bit by its refcount? */
static int judge(struct vd_qcow2 *qcow2, uint64_t host, bool *is_copied, struct vdisk_error *err)
{
    uint64_t refcount;
    int ret = vd_qcow2_refcount(qcow2, host, &refcount, err);
    *is_copied = ret == 0 && refcount == 1;
    return ret;
}

/* Sets the bit of @word, or clears it; *is_changed becomes true if that changes it. */
static void set_bit(struct be64 *word, bool is_copied, bool *is_changed)
{
    uint64_t old = be64_get(*word);
    uint64_t value = is_copied ? old | VD_QCOW2_ENTRY_COPIED : old & ~VD_QCOW2_ENTRY_COPIED;
    if (value == old)
        return;
    *word = be64_of(value);
    *is_changed = true;
}

/* The entries of tree->table. */
static int mark_entries(struct vd_qcow2_tree *tree, bool clear, bool *is_changed,
                        struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &tree->qcow2->geometry;
    int ret = 0;
    for (uint32_t i = 0; ret == 0 && i < geometry->l2_entries; i++) {
        struct be64 *word = (struct be64 *)(tree->table + (size_t)i * geometry->entry_bytes);
        uint64_t value = be64_get(*word);
        bool is_copied = false;
        if ((value & VD_QCOW2_ENTRY_COMPRESSED) || !(value & VD_QCOW2_ENTRY_OFFSET))
            continue;
        if (!clear)
            ret = judge(tree->qcow2, value & VD_QCOW2_ENTRY_OFFSET, &is_copied, err);
        if (ret == 0)
            set_bit(word, is_copied, is_changed);
    }
    return ret;
}

static int mark_table(struct vd_qcow2_tree *tree, uint64_t table, bool clear,
                      struct vdisk_error *err)
{
    uint32_t bytes = tree->qcow2->geometry.cluster_bytes;
    bool is_changed = false;
    int ret = read_padded(tree, tree->table, bytes, table, err);
    if (ret == 0)
        ret = mark_entries(tree, clear, &is_changed, err);
    return ret == 0 && is_changed
               ? vd_storage_pwrite(tree->qcow2->file, tree->table, bytes, table, err)
               : ret;
}

static int write_l1(const struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    return vd_storage_pwrite(tree->qcow2->file, tree->l1,
                             (size_t)tree->l1_entries * sizeof(*tree->l1), tree->l1_offset, err);
}

int vd_qcow2_tree_clear_copied(struct vd_qcow2_tree *tree, const struct vd_qcow2_tree *but,
                               bool with_l1, struct vdisk_error *err)
{
    bool is_changed = false;
    int ret = 0;
    for (uint64_t i = 0; ret == 0 && i < tree->l1_entries; i++) {
        uint64_t table = next_table(tree, but, i);
        if (table)
            ret = mark_table(tree, table, true, err);
        set_bit(&tree->l1[i], false, &is_changed);
    }
    return ret == 0 && is_changed && with_l1 ? write_l1(tree, err) : ret;
}

int vd_qcow2_tree_set_copied(struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    bool is_changed = false;
    int ret = 0;
    for (uint64_t i = 0; ret == 0 && i < tree->l1_entries; i++) {
        bool is_copied;
        uint64_t table = table_of(tree, i);
        if (!table)
            continue;
        ret = mark_table(tree, table, false, err);
        if (ret == 0)
            ret = judge(tree->qcow2, table, &is_copied, err);
        if (ret == 0)
            set_bit(&tree->l1[i], is_copied, &is_changed);
    }
    return ret == 0 && is_changed ? write_l1(tree, err) : ret;
}
