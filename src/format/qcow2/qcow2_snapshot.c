/* SPDX-License-Identifier: MIT */
/* Snapshots within a qcow2 image are made, gone back to, and deleted: S1 to S4. */
#include "format/qcow2/qcow2_snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_bitmap.h"
#include "format/qcow2/qcow2_write.h"
#include "util/mem.h"

/* ---- places ---- */

/* Takes clusters for @bytes and writes them there, the rest zeros.  NOT flushed. */
static int write_new(struct vd_qcow2 *qcow2, const void *bytes, size_t length,
                     struct vd_qcow2_space *space, struct vdisk_error *err)
{
    uint64_t clusters = vd_max(vd_qcow2_clusters(&qcow2->geometry, length), 1);
    size_t whole = (size_t)clusters << qcow2->geometry.cluster_bits;
    CLEANUP_FREE uint8_t *padded = vd_alloc_array(whole, 1);
    if (!padded)
        return vd_err_nomem(err, "a table of an image");
    memcpy(padded, bytes, length);
    int ret = vd_qcow2_take_whole(qcow2, clusters, space, err);
    if (ret < 0)
        return ret;
    ret = vd_storage_pwrite(qcow2->file, padded, whole, space->host, err);
    if (ret < 0) {
        vd_qcow2_give_back(qcow2, space->host, clusters);
        space->clusters = 0;
    }
    return ret;
}

static void give_back(struct vd_qcow2 *qcow2, const struct vd_qcow2_space *space)
{
    if (space->clusters)
        vd_qcow2_give_back(qcow2, space->host, space->clusters);
}

/* Puts what is new into the set of metadata, and takes what is old out. */
static int swap_meta(struct vd_qcow2 *qcow2, enum vd_qcow2_meta_kind kind,
                     const struct vd_qcow2_space *new, const struct vd_qcow2_space *old,
                     struct vdisk_error *err)
{
    if (old->clusters)
        vd_qcow2_meta_remove(qcow2, old->host, old->clusters);
    return new->clusters ? vd_qcow2_meta_add(qcow2, kind, new->host, new->clusters, err) : 0;
}

static int release(struct vd_qcow2 *qcow2, const struct vd_qcow2_space *space,
                   struct vdisk_error *err)
{
    return space->clusters ? vd_qcow2_release(qcow2, space->host, space->clusters, err) : 0;
}

/* @bytes at @host. */
static struct vd_qcow2_space space_of(const struct vd_qcow2 *qcow2, uint64_t host, uint64_t bytes)
{
    return (struct vd_qcow2_space){.host = host,
                                   .clusters = vd_qcow2_clusters(&qcow2->geometry, bytes)};
}

/* ---- the table ---- */

/* A change of the snapshot table under way. */
struct change {
    struct vd_qcow2_snapshots table; /* as it will be */
    struct vd_qcow2_space new;
    struct vd_qcow2_space old;
};

/* Writes change->table to a new place; an empty one has none. */
static int write_table(struct vd_qcow2 *qcow2, struct change *change, struct vdisk_error *err)
{
    const struct vd_qcow2_snapshot_rules rules = {.geometry = &qcow2->geometry,
                                                  .version = qcow2->header.fields.version,
                                                  .disk_size = qcow2->header.fields.size};
    CLEANUP_FREE uint8_t *bytes = NULL;
    size_t length;
    if (change->table.count == 0)
        return 0;
    int ret = vd_qcow2_snapshots_encode(&change->table, &rules, &bytes, &length, err);
    return ret == 0 ? write_new(qcow2, bytes, length, &change->new, err) : ret;
}

/* S1: the header leads to the new table, and has the dirty bit or not. */
static int switch_table(struct vd_qcow2 *qcow2, const struct change *change, bool is_dirty,
                        struct vdisk_error *err)
{
    struct vd_qcow2_fields fields = qcow2->header.fields;
    fields.snapshot_entries = (uint32_t)change->table.count;
    fields.snapshots_offset = change->new.host;
    if (fields.version >= 3 && is_dirty)
        fields.incompatible |= VD_QCOW2_DIRTY;
    else
        fields.incompatible &= ~(uint64_t)VD_QCOW2_DIRTY;
    int ret = vd_qcow2_replace_fields(qcow2, &fields, err);
    if (ret == 0)
        ret = swap_meta(qcow2, VD_QCOW2_META_SNAPSHOTS, &change->new, &change->old, err);
    return ret;
}

/* The table as it is now, to be changed; @change is zeroed. */
static int begin_change(struct vd_qcow2 *qcow2, struct change *change, struct vdisk_error *err)
{
    int ret = vd_qcow2_snapshots_read(qcow2->file, &qcow2->header, &change->table, err);
    if (ret < 0)
        vd_err_prefix(err, ret, "%s: ", vd_storage_name(qcow2->file));
    if (ret == 0)
        change->old =
            space_of(qcow2, qcow2->header.fields.snapshots_offset, change->table.table_bytes);
    return ret;
}

/* ---- references ---- */

/* How far a walk came that counts up, so that it can be taken back. */
struct counted {
    uint64_t runs;
    uint64_t left; /* when it is taken back */
};

static int count_up(void *opaque, struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                    struct vdisk_error *err)
{
    struct counted *counted = opaque;
    int ret = vd_qcow2_refer(qcow2, host, clusters, err);
    counted->runs += ret == 0;
    return ret < 0 ? ret : vd_qcow2_relieve(qcow2, err);
}

static int count_down(void *opaque, struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                      struct vdisk_error *err)
{
    (void)opaque;
    int ret = vd_qcow2_release(qcow2, host, clusters, err);
    return ret < 0 ? ret : vd_qcow2_relieve(qcow2, err);
}

static int take_back(void *opaque, struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                     struct vdisk_error *err)
{
    struct counted *counted = opaque;
    if (counted->left == 0)
        return 0;
    counted->left--;
    return count_down(NULL, qcow2, host, clusters, err);
}

/* W3: what was released is durably gone already, as the header says: it takes effect at once. */
static int end_releases(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    vd_mutex_lock(&qcow2->writer->flush_lock);
    vd_mutex_lock(&qcow2->tables.lock);
    struct vd_qcow2_batch *batch = vd_qcow2_take_releases_locked(qcow2);
    bool are_left = !batch && qcow2->writer->releases && qcow2->writer->releases->entries;
    vd_mutex_unlock(&qcow2->tables.lock);
    vd_qcow2_releases_ended(qcow2, batch);
    int ret = are_left ? vd_err_nomem(err, "a list of clusters that become free")
                       : vd_qcow2_apply_releases(qcow2, err);
    vd_mutex_unlock(&qcow2->writer->flush_lock);
    return ret;
}

/* What count_up() did to @tree, for @inner, is undone. */
static void unrefer(struct vd_qcow2_tree *tree, const struct vd_qcow2_tree *but,
                    struct counted *counted, const struct vdisk_error *inner)
{
    counted->left = counted->runs;
    /* Nothing ever led there but what still does: no flush has to be waited for. */
    if (vd_qcow2_tree_walk(tree, but, take_back, counted, NULL) < 0 ||
        end_releases(tree->qcow2, NULL) < 0)
        vd_format_fail(tree->qcow2->format, inner);
}

/*
 * One reference more to all of @tree, but to the tables that are in @but.  If one can not be
 * counted, the counts are as before.
 */
static int refer_tree(struct vd_qcow2_tree *tree, const struct vd_qcow2_tree *but,
                      struct counted *counted, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = vd_qcow2_tree_walk(tree, but, count_up, counted, &inner);
    if (ret == 0)
        return 0;
    unrefer(tree, but, counted, &inner);
    return vd_err_copy(err, &inner);
}

/* S4: the caches have nothing that the file has not, and metadata is known, that of bitmaps too. */
static int settle(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    bool has_changes = atomic_load(&qcow2->writer->has_begun);
    int ret = vd_qcow2_begin(qcow2, err);
    if (ret == 0)
        ret = vd_qcow2_bitmaps_claim(qcow2, false, err);
    return ret == 0 && has_changes ? vd_qcow2_flush(qcow2->format, err) : ret;
}

static int open_active(struct vd_qcow2 *qcow2, struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    int ret = vd_qcow2_tree_open(qcow2, qcow2->l1_offset, qcow2->l1_entries, "the active tables",
                                 tree, err);
    return ret == 0 ? vd_qcow2_tree_check(tree, err) : ret;
}

/* S3: tables that the disk has too count twice, or they would be given up with the snapshot. */
static int check_shared(const struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = tree->qcow2;
    int ret = 0;
    for (uint64_t i = 0; i < tree->l1_entries && ret == 0; i++) {
        uint64_t table = be64_get(tree->l1[i]) & VD_QCOW2_ENTRY_OFFSET;
        uint64_t refcount = 2;
        if (table && vd_qcow2_meta_other(qcow2, -1, table, 1))
            ret = vd_qcow2_refcount(qcow2, table, &refcount, err);
        if (ret == 0 && refcount < 2)
            ret = vd_err_set(err, EBADMSG,
                             "%s: %s: the L2 table at offset 0x%" PRIx64
                             " is that of the disk, too, and has refcount %" PRIu64
                             ": run vdisk check -r all",
                             vd_storage_name(qcow2->file), tree->name, table, refcount);
    }
    return ret;
}

static int open_snapshot(struct vd_qcow2 *qcow2, const struct vd_qcow2_snapshot *snapshot,
                         struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    int ret = vd_qcow2_snapshot_judge(qcow2, snapshot, err);
    if (ret < 0)
        vd_err_prefix(err, ret, "%s: ", vd_storage_name(qcow2->file));
    if (ret == 0)
        ret = vd_qcow2_tree_open(qcow2, snapshot->l1_offset, snapshot->l1_entries,
                                 "the snapshot's tables", tree, err);
    if (ret == 0)
        ret = check_shared(tree, err);
    return ret == 0 ? vd_qcow2_tree_check(tree, err) : ret;
}

static int check_possible(const struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    if (!(qcow2->header.fields.incompatible & VD_QCOW2_DATA_FILE))
        return 0;
    return vd_err_set(err, ENOTSUP,
                      "%s: an image with a data file has no snapshots within it: 'vdisk snapshot "
                      "--external NAME' keeps the content",
                      vd_storage_name(qcow2->file));
}

/*
 * What failed is in the middle of a change in the file: nothing more is written, and the next one
 * who writes counts again, because of the dirty bit.
 */
static int fail(struct vd_qcow2 *qcow2, const struct vdisk_error *inner, struct vdisk_error *err)
{
    vd_format_fail(qcow2->format, inner);
    return vd_err_copy(err, inner);
}

/* A new L1 table for @disk_size, with what @tree has and without COPIED bits: of one entry at
 * least, as one without would have no place. */
static int write_l1(struct vd_qcow2 *qcow2, const struct vd_qcow2_tree *tree, uint64_t disk_size,
                    uint64_t *entries, struct vd_qcow2_space *space, struct vdisk_error *err)
{
    *entries = vd_max(vd_qcow2_l1_entries(&qcow2->geometry, disk_size), tree->l1_entries);
    *entries = vd_max(*entries, 1);
    CLEANUP_FREE struct be64 *l1 = vd_alloc_array((size_t)*entries, sizeof(*l1));
    if (!l1)
        return vd_err_nomem(err, "an L1 table");
    for (uint64_t i = 0; i < tree->l1_entries; i++)
        l1[i] = be64_of(be64_get(tree->l1[i]) & ~VD_QCOW2_ENTRY_COPIED);
    return write_new(qcow2, l1, (size_t)*entries * sizeof(*l1), space, err);
}

/* ---- create ---- */

/* The new entry, whose L1 table goes to @space. */
static int add_entry(struct vd_qcow2 *qcow2, const struct vd_new_snapshot *new,
                     struct change *change, const struct vd_qcow2_tree *active,
                     struct vd_qcow2_space *space, struct vdisk_error *err)
{
    char id[VD_QCOW2_SNAPSHOT_ID_BYTES];
    struct vd_qcow2_snapshot *snapshot;
    uint64_t l1_entries;
    vd_qcow2_snapshots_new_id(&change->table, id);
    int ret = vd_qcow2_snapshots_add(&change->table, id, new->name, &snapshot, err);
    if (ret < 0)
        return ret;
    ret = write_l1(qcow2, active, qcow2->header.fields.size, &l1_entries, space, err);
    if (ret < 0)
        return ret;
    snapshot->l1_offset = space->host;
    snapshot->l1_entries = (uint32_t)l1_entries;
    snapshot->disk_size = qcow2->header.fields.size;
    snapshot->date_sec = (uint32_t) new->date_sec;
    snapshot->date_nsec = new->date_nsec;
    return write_table(qcow2, change, err);
}

/*
 * COPIED bits go first: W4.  If a reference can not be counted, all is as it was, but for places
 * that are given back.
 */
static int refer_active(struct vd_qcow2_tree *active, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = active->qcow2;
    struct vdisk_error inner = {0};
    struct counted counted = {0};
    int ret = vd_qcow2_tree_clear_copied(active, NULL, true, &inner);
    if (ret == 0 && qcow2->header.fields.version < 3)
        ret = vd_storage_flush(qcow2->file, &inner);
    vd_table_cache_forget(&qcow2->tables);
    if (ret < 0)
        return fail(qcow2, &inner, err);
    ret = refer_tree(active, NULL, &counted, err);
    if (ret == 0)
        return 0;
    int undone = vd_qcow2_flush(qcow2->format, &inner);
    if (undone == 0)
        undone = vd_qcow2_tree_set_copied(active, &inner);
    if (undone == 0)
        undone = vd_qcow2_flush(qcow2->format, &inner);
    vd_table_cache_forget(&qcow2->tables);
    if (undone == 0)
        undone = vd_qcow2_set_dirty(qcow2, false, &inner);
    if (undone < 0)
        vd_format_fail(qcow2->format, &inner);
    return ret;
}

/* All places are taken, and all references counted. */
static int finish_create(struct vd_qcow2 *qcow2, const struct change *change,
                         const struct vd_qcow2_space *l1, struct vdisk_error *err)
{
    const struct vd_qcow2_space none = {0};
    int ret = vd_qcow2_flush(qcow2->format, err);
    if (ret == 0)
        ret = switch_table(qcow2, change, false, err);
    if (ret == 0)
        ret = swap_meta(qcow2, VD_QCOW2_META_SNAPSHOT_L1, l1, &none, err);
    if (ret == 0)
        (void)release(qcow2, &change->old, NULL); /* else it is a leak */
    return ret;
}

static int create(struct vd_qcow2 *qcow2, const struct vd_new_snapshot *new, struct change *change,
                  struct vd_qcow2_tree *active, struct vdisk_error *err)
{
    struct vd_qcow2_space l1 = {0};
    struct vdisk_error inner = {0};
    int ret = open_active(qcow2, active, err);
    if (ret == 0)
        ret = add_entry(qcow2, new, change, active, &l1, err);
    if (ret == 0)
        ret = vd_qcow2_set_dirty(qcow2, true, err);
    if (ret == 0)
        ret = refer_active(active, err);
    if (ret < 0) {
        give_back(qcow2, &l1);
        give_back(qcow2, &change->new);
        return ret;
    }
    ret = finish_create(qcow2, change, &l1, &inner);
    return ret < 0 ? fail(qcow2, &inner, err) : 0;
}

int vd_qcow2_snapshot_create(struct vd_format *format, const struct vd_new_snapshot *snapshot,
                             struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    struct change change = {0};
    struct vd_qcow2_tree active = {0};
    int ret = check_possible(qcow2, err);
    if (ret == 0)
        ret = settle(qcow2, err);
    if (ret == 0)
        ret = begin_change(qcow2, &change, err);
    if (ret == 0)
        ret = create(qcow2, snapshot, &change, &active, err);
    vd_qcow2_tree_close(&active);
    vd_qcow2_snapshots_free(&change.table);
    vd_qcow2_snapshots_forget(qcow2);
    return ret;
}

/* ---- delete ---- */

/* The header does not lead to the snapshot any more. */
static int finish_remove(struct vd_qcow2 *qcow2, const struct change *change,
                         const struct vd_qcow2_space *l1, struct vd_qcow2_tree *tree,
                         struct vdisk_error *err)
{
    const struct vd_qcow2_space none = {0};
    struct vd_qcow2_tree active = {0};
    int ret = swap_meta(qcow2, VD_QCOW2_META_SNAPSHOT_L1, &none, l1, err);
    if (ret == 0)
        ret = vd_qcow2_tree_walk(tree, NULL, count_down, NULL, err);
    if (ret == 0)
        ret = release(qcow2, l1, err);
    if (ret == 0)
        ret = release(qcow2, &change->old, err);
    if (ret == 0)
        ret = end_releases(qcow2, err);
    if (ret == 0 && qcow2->header.fields.version < 3) /* W4: there is no dirty bit */
        ret = vd_qcow2_flush(qcow2->format, err);
    if (ret == 0)
        ret = open_active(qcow2, &active, err);
    if (ret == 0)
        ret = vd_qcow2_tree_set_copied(&active, err);
    vd_qcow2_tree_close(&active);
    vd_table_cache_forget(&qcow2->tables);
    if (ret == 0)
        ret = vd_qcow2_flush(qcow2->format, err);
    return ret == 0 ? vd_qcow2_set_dirty(qcow2, false, err) : ret;
}

static int remove_at(struct vd_qcow2 *qcow2, size_t index, struct change *change,
                     struct vd_qcow2_tree *tree, struct vdisk_error *err)
{
    const struct vd_qcow2_snapshot *snapshot = &change->table.entries[index];
    struct vd_qcow2_space l1 =
        space_of(qcow2, snapshot->l1_offset, snapshot->l1_entries * sizeof(struct be64));
    struct vd_qcow2_tree active = {0};
    struct vdisk_error inner = {0};
    int ret = open_snapshot(qcow2, snapshot, tree, err);
    if (ret == 0)
        ret = open_active(qcow2, &active, err); /* S3 */
    vd_qcow2_tree_close(&active);
    if (ret < 0)
        return ret;
    vd_qcow2_snapshots_remove(&change->table, index);
    ret = write_table(qcow2, change, err);
    if (ret == 0 && change->new.clusters) {
        ret = vd_qcow2_flush(qcow2->format, err);
        if (ret < 0)
            return ret; /* which ended all changes */
    }
    if (ret == 0)
        ret = switch_table(qcow2, change, true, err);
    if (ret < 0)
        return ret;
    ret = finish_remove(qcow2, change, &l1, tree, &inner);
    return ret < 0 ? fail(qcow2, &inner, err) : 0;
}

int vd_qcow2_snapshot_remove(struct vd_format *format, size_t index, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    struct change change = {0};
    struct vd_qcow2_tree tree = {0};
    int ret = settle(qcow2, err);
    if (ret == 0)
        ret = begin_change(qcow2, &change, err);
    if (ret == 0)
        ret = remove_at(qcow2, index, &change, &tree, err);
    vd_qcow2_tree_close(&tree);
    vd_qcow2_snapshots_free(&change.table);
    vd_qcow2_snapshots_forget(qcow2);
    return ret;
}

/* ---- apply ---- */

/* Can the disk become that of @snapshot? */
static int check_apply(const struct vd_qcow2 *qcow2, const struct vd_qcow2_snapshot *snapshot,
                       struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &qcow2->header.fields;
    if (snapshot->disk_size != fields->size && fields->version < 3)
        return vd_err_set(err, ENOTSUP,
                          "%s: the snapshot has a disk of %" PRIu64 " bytes, the image one of "
                          "%" PRIu64
                          ", which can not change in version 2: make it version 3 by 'vdisk amend "
                          "-o compat=1.1'",
                          vd_storage_name(qcow2->file), snapshot->disk_size, fields->size);
    return 0;
}

static int mark_all(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    uint64_t size = qcow2->format->size;
    return size ? vd_qcow2_record(qcow2, vd_range(0, size), err) : 0;
}

/*
 * The references of the disk that is to be, and then, as nothing but the system can refuse it any
 * more, enabled bitmaps say that all of the disk changes, and get its new size.
 */
static int announce(struct vd_qcow2_tree *tree, const struct vd_qcow2_tree *old, uint64_t disk_size,
                    struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = tree->qcow2;
    struct vdisk_error inner = {0};
    struct counted counted = {0};
    int ret = refer_tree(tree, old, &counted, err);
    if (ret < 0)
        return ret;
    ret = mark_all(qcow2, &inner);
    if (ret == 0)
        ret = vd_qcow2_bitmaps_resize(qcow2, disk_size, &inner);
    if (ret == 0)
        return 0;
    unrefer(tree, old, &counted, &inner);
    return vd_err_copy(err, &inner);
}

/* S1 */
static int switch_disk(struct vd_qcow2 *qcow2, const struct vd_qcow2_space *l1, uint64_t l1_entries,
                       uint64_t disk_size, struct vdisk_error *err)
{
    struct vd_qcow2_fields fields = qcow2->header.fields;
    fields.l1_offset = l1->host;
    fields.l1_entries = (uint32_t)l1_entries;
    fields.size = disk_size;
    if (fields.version >= 3)
        fields.incompatible |= VD_QCOW2_DIRTY;
    int ret = vd_qcow2_replace_fields(qcow2, &fields, err);
    if (ret < 0)
        return ret;
    vd_table_cache_forget(&qcow2->tables);
    qcow2->writer->l1_aside = vd_range(0, 0);
    qcow2->l1_offset = fields.l1_offset;
    qcow2->l1_entries = fields.l1_entries;
    qcow2->format->size = fields.size;
    return vd_qcow2_meta_build(qcow2, err);
}

/* What the disk was is not led to any more. */
static int drop_old(struct vd_qcow2_tree *old, const struct vd_qcow2_tree *tree,
                    struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = old->qcow2;
    struct vd_qcow2_space l1 =
        space_of(qcow2, old->l1_offset, old->l1_entries * sizeof(struct be64));
    int ret = vd_qcow2_tree_walk(old, tree, count_down, NULL, err);
    if (ret == 0)
        ret = release(qcow2, &l1, err);
    if (ret == 0)
        ret = end_releases(qcow2, err);
    if (ret == 0)
        ret = vd_qcow2_flush(qcow2->format, err);
    return ret == 0 ? vd_qcow2_set_dirty(qcow2, false, err) : ret;
}

/* Tables that both have keep as many references as they have, and what they lead to. */
static int apply(struct vd_qcow2 *qcow2, const struct vd_qcow2_snapshot *snapshot,
                 struct vd_qcow2_tree *tree, struct vd_qcow2_tree *old, struct vdisk_error *err)
{
    struct vd_qcow2_space l1 = {0};
    uint64_t l1_entries;
    struct vdisk_error inner = {0};
    int ret = open_snapshot(qcow2, snapshot, tree, err);
    if (ret == 0)
        ret = vd_qcow2_tree_check_tables(tree, err);
    if (ret == 0)
        ret = open_active(qcow2, old, err);
    if (ret == 0)
        ret = vd_qcow2_bitmaps_claim(qcow2, true, err);
    if (ret < 0)
        return ret;
    ret = write_l1(qcow2, tree, snapshot->disk_size, &l1_entries, &l1, err);
    if (ret == 0)
        ret = announce(tree, old, snapshot->disk_size, err);
    if (ret < 0) {
        give_back(qcow2, &l1);
        return ret;
    }
    ret = vd_qcow2_tree_clear_copied(tree, old, false, &inner);
    if (ret == 0)
        ret = vd_qcow2_flush(qcow2->format, &inner);
    if (ret == 0)
        ret = switch_disk(qcow2, &l1, l1_entries, snapshot->disk_size, &inner);
    vd_qcow2_bitmaps_resized(qcow2, ret == 0);
    if (ret == 0)
        ret = mark_all(qcow2, &inner);
    if (ret == 0)
        ret = drop_old(old, tree, &inner);
    return ret < 0 ? fail(qcow2, &inner, err) : 0;
}

int vd_qcow2_snapshot_apply(struct vd_format *format, size_t index, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    struct vd_qcow2_snapshots snapshots = {0};
    struct vd_qcow2_tree tree = {0}, old = {0};
    int ret = vd_qcow2_snapshots_read(qcow2->file, &qcow2->header, &snapshots, err);
    if (ret == 0)
        ret = check_apply(qcow2, &snapshots.entries[index], err);
    if (ret == 0)
        ret = settle(qcow2, err);
    if (ret == 0)
        ret = apply(qcow2, &snapshots.entries[index], &tree, &old, err);
    vd_qcow2_tree_close(&tree);
    vd_qcow2_tree_close(&old);
    vd_qcow2_snapshots_free(&snapshots);
    return ret;
}
