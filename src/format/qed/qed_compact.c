/* SPDX-License-Identifier: MIT */
/*
 * Leaked clusters are given back: the file ends where its length is the count of clusters in use.
 *
 * From the end of the file down, what is there moves into the lowest holes: data anywhere, a table
 * where there is room for all of it.  A table that has no such place waits at the end of the file,
 * out of the way, until all holes are filled; then there is room for it at the end of the rest.
 * Each thing is durable in its new place before an entry leads there, and the entry is before
 * anything else takes the old place.  So a power cut leaves the same disk, and leaks.  qed §8.3
 */
#include <inttypes.h>
#include <stdlib.h>

#include "format/qed/qed_check.h"
#include "util/mem.h"

#define VIEW_CLUSTERS                                                                            \
    (1u << 20)                  /* of the file whose owners are known at a time: 8 MiB of memory \
                                 */
#define MOVES_MAX   1024u       /* of data, between two flushes, */
#define MOVED_BYTES (32u << 20) /* and about as many bytes */

#define IS_TABLE    UINT32_MAX /* as an L2 index: the table of the L1 entry itself */
#define IS_L1       UINT32_MAX /* as an L1 index: L1 */

/* What leads to a cluster. */
struct owner {
    uint32_t l1_index;
    uint32_t l2_index;
};

struct move {
    struct owner owner;
    uint64_t to; /* cluster */
};

struct compaction {
    struct vd_qed_check_run *run;
    struct vd_bits used; /* clusters below top, of the whole file */
    uint32_t top;        /* what is in use from here on has been dealt with */
    uint32_t view_first;
    struct owner *owners; /* of clusters from view_first on, as far as they are in use */
    struct move *moves;   /* copied, but nothing leads there yet */
    size_t move_entries;
    uint32_t *waiting; /* L1 indices of the tables at the end, in order */
    size_t waiting_entries;
    size_t waiting_room;
    uint64_t waiting_first; /* cluster of the first one */
};

static uint64_t offset_of(const struct compaction *compaction, uint64_t cluster)
{
    return cluster * compaction->run->geometry.cluster_bytes;
}

/* --- who leads where -------------------------------------------------------------------------- */

static void note_owner(struct compaction *compaction, uint64_t offset, uint32_t clusters,
                       struct owner owner)
{
    uint64_t first = offset / compaction->run->geometry.cluster_bytes;
    for (uint64_t i = first; i < first + clusters; i++)
        if (i >= compaction->view_first && i < compaction->top)
            compaction->owners[i - compaction->view_first] = owner;
}

static int note_entries(struct compaction *compaction, uint32_t l1_index, uint64_t table,
                        struct vdisk_error *err)
{
    struct vd_qed_check_run *run = compaction->run;
    int ret = 0;
    for (uint32_t first = 0; first < run->geometry.table_entries && ret == 0;
         first += VD_QED_PART_ENTRIES) {
        ret = vd_qed_part_read(run, table, first, &run->l2, err);
        for (uint32_t i = 0; ret == 0 && !run->l2.is_empty && i < run->l2.count; i++) {
            uint64_t offset = vd_qed_part_get(&run->l2, i);
            if (offset > VD_QED_ZERO)
                note_owner(compaction, offset, 1, (struct owner){l1_index, first + i});
        }
    }
    return ret;
}

/* Looks for the owners of the last clusters below top. */
static int view(struct compaction *compaction, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = compaction->run;
    const struct vd_qed_geometry *geometry = &run->geometry;
    compaction->view_first = compaction->top > VIEW_CLUSTERS ? compaction->top - VIEW_CLUSTERS : 0;
    note_owner(compaction, run->header->l1_offset, geometry->table_clusters,
               (struct owner){IS_L1, IS_TABLE});
    int ret = 0;
    for (uint32_t first = 0; first < geometry->table_entries && ret == 0;
         first += VD_QED_PART_ENTRIES) {
        ret = vd_qed_part_read(run, run->header->l1_offset, first, &run->l1, err);
        for (uint32_t i = 0; ret == 0 && !run->l1.is_empty && i < run->l1.count; i++) {
            uint64_t table = vd_qed_part_get(&run->l1, i);
            if (table == VD_QED_UNALLOCATED)
                continue;
            note_owner(compaction, table, geometry->table_clusters,
                       (struct owner){first + i, IS_TABLE});
            ret = note_entries(compaction, first + i, table, err);
        }
    }
    return ret;
}

/* --- entries ---------------------------------------------------------------------------------- */

static int read_table_offset(struct compaction *compaction, uint32_t l1_index, uint64_t *offset,
                             struct vdisk_error *err)
{
    struct vd_qed_check_run *run = compaction->run;
    struct le64 entry;
    *offset = run->header->l1_offset;
    if (l1_index == IS_L1)
        return 0;
    int ret = vd_storage_pread(run->file, &entry, sizeof(entry),
                               *offset + (uint64_t)l1_index * sizeof(entry), err);
    *offset = le64_get(entry);
    return ret;
}

static int write_entry(struct compaction *compaction, uint64_t table, uint32_t index,
                       uint64_t value, struct vdisk_error *err)
{
    struct le64 entry = le64_of(value);
    return vd_storage_pwrite(compaction->run->file, &entry, sizeof(entry),
                             table + (uint64_t)index * sizeof(entry), err);
}

/* The table is at @cluster now. */
static int redirect_table(struct compaction *compaction, uint32_t l1_index, uint64_t cluster,
                          struct vdisk_error *err)
{
    struct vd_qed_check_run *run = compaction->run;
    uint64_t offset = offset_of(compaction, cluster);
    if (l1_index != IS_L1)
        return write_entry(compaction, run->header->l1_offset, l1_index, offset, err);
    run->header->l1_offset = offset;
    return vd_qed_header_write(run->file, run->header, err);
}

/* --- moves ------------------------------------------------------------------------------------ */

/* Lets the entries lead to the copies that have been made. */
static int finish_moves(struct compaction *compaction, struct vdisk_error *err)
{
    struct vd_storage *file = compaction->run->file;
    if (compaction->move_entries == 0)
        return 0;
    int ret = vd_storage_flush(file, err);
    for (size_t i = 0; i < compaction->move_entries && ret == 0; i++) {
        const struct move *move = &compaction->moves[i];
        uint64_t table;
        ret = read_table_offset(compaction, move->owner.l1_index, &table, err);
        if (ret == 0)
            ret = write_entry(compaction, table, move->owner.l2_index,
                              offset_of(compaction, move->to), err);
    }
    compaction->move_entries = 0;
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

static int move_data(struct compaction *compaction, uint32_t from, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = compaction->run;
    uint32_t to = vd_bits_first_missing(&compaction->used);
    uint32_t cluster_bytes = run->geometry.cluster_bytes;
    int ret = vd_qed_copy(run, offset_of(compaction, from), offset_of(compaction, to),
                          cluster_bytes, err);
    if (ret < 0)
        return ret;
    compaction->moves[compaction->move_entries++] = (struct move){
        .owner = compaction->owners[from - compaction->view_first],
        .to = to,
    };
    vd_bits_add(&compaction->used, to);
    vd_bits_remove(&compaction->used, from);
    compaction->top = from;
    if (compaction->move_entries < MOVES_MAX &&
        compaction->move_entries * (uint64_t)cluster_bytes < MOVED_BYTES)
        return 0;
    return finish_moves(compaction, err);
}

/* The moves of data are finished.  Nothing is at @to, and @from is not in it. */
static int move_table(struct compaction *compaction, uint32_t l1_index, uint64_t from, uint64_t to,
                      struct vdisk_error *err)
{
    struct vd_qed_check_run *run = compaction->run;
    int ret = vd_qed_copy(run, offset_of(compaction, from), offset_of(compaction, to),
                          run->geometry.table_bytes, err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    if (ret == 0)
        ret = redirect_table(compaction, l1_index, to, err);
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

/* The lowest place for a table that ends at @limit or before it; false: there is none. */
static bool find_gap(struct compaction *compaction, uint32_t limit, uint32_t *gap)
{
    uint32_t wanted = compaction->run->geometry.table_clusters;
    uint32_t from = vd_bits_first_missing(&compaction->used);
    while (from < limit && wanted <= limit - from) {
        uint32_t start = limit;
        uint32_t count = vd_bits_next_run(&compaction->used, from, &start);
        if (start - from >= wanted) {
            *gap = from;
            return true;
        }
        from = start + count;
    }
    return false;
}

static int wait_at_end(struct compaction *compaction, uint32_t l1_index, uint32_t from,
                       struct vdisk_error *err)
{
    if (compaction->waiting_entries == compaction->waiting_room) {
        size_t room = 2 * compaction->waiting_room + 64;
        uint32_t *waiting = realloc(compaction->waiting, room * sizeof(*waiting));
        if (!waiting)
            return vd_err_nomem(err, "a list of tables");
        compaction->waiting = waiting;
        compaction->waiting_room = room;
    }
    uint64_t to = compaction->waiting_first +
                  compaction->waiting_entries * compaction->run->geometry.table_clusters;
    compaction->waiting[compaction->waiting_entries++] = l1_index;
    return move_table(compaction, l1_index, from, to, err);
}

/* The table whose last cluster is below top. */
static int remove_table(struct compaction *compaction, uint32_t l1_index, struct vdisk_error *err)
{
    uint32_t clusters = compaction->run->geometry.table_clusters;
    uint64_t offset;
    int ret = finish_moves(compaction, err);
    if (ret == 0)
        ret = read_table_offset(compaction, l1_index, &offset, err);
    if (ret < 0)
        return ret;
    uint32_t from = (uint32_t)(offset / compaction->run->geometry.cluster_bytes);
    assert(from + clusters == compaction->top);
    uint32_t gap;
    bool has_gap = find_gap(compaction, from, &gap);
    if (has_gap)
        ret = move_table(compaction, l1_index, from, gap, err);
    else
        ret = wait_at_end(compaction, l1_index, from, err);
    for (uint32_t i = 0; i < clusters; i++) {
        vd_bits_remove(&compaction->used, from + i);
        if (has_gap)
            vd_bits_add(&compaction->used, gap + i);
    }
    compaction->top = from;
    if (has_gap) /* there may be holes below it still, so that its turn comes again */
        note_owner(compaction, offset_of(compaction, gap), clusters,
                   (struct owner){l1_index, IS_TABLE});
    return ret;
}

/* Until no hole is below top. */
static int fill_holes(struct compaction *compaction, struct vdisk_error *err)
{
    int ret = 0;
    bool has_view = false;
    while (ret == 0 && vd_bits_first_missing(&compaction->used) < compaction->top) {
        uint32_t last = compaction->top - 1;
        if (!vd_bits_has(&compaction->used, last)) {
            compaction->top = last;
            continue;
        }
        if (!has_view || last < compaction->view_first) {
            ret = finish_moves(compaction, err);
            if (ret == 0)
                ret = view(compaction, err);
            has_view = true;
            continue;
        }
        struct owner owner = compaction->owners[last - compaction->view_first];
        if (owner.l2_index == IS_TABLE)
            ret = remove_table(compaction, owner.l1_index, err);
        else
            ret = move_data(compaction, last, err);
    }
    return ret < 0 ? ret : finish_moves(compaction, err);
}

/* The tables that waited go behind the rest.  All of them were between here and the end before. */
static int place_waiting(struct compaction *compaction, struct vdisk_error *err)
{
    uint32_t clusters = compaction->run->geometry.table_clusters;
    int ret = 0;
    for (size_t i = 0; i < compaction->waiting_entries && ret == 0; i++) {
        ret = move_table(compaction, compaction->waiting[i],
                         compaction->waiting_first + i * clusters, compaction->top, err);
        compaction->top += clusters;
    }
    return ret;
}

static int compact(struct compaction *compaction, struct vdisk_error *err)
{
    struct vd_qed_check_run *run = compaction->run;
    compaction->owners = vd_alloc_array(VIEW_CLUSTERS, sizeof(*compaction->owners));
    compaction->moves = vd_alloc_array(MOVES_MAX, sizeof(*compaction->moves));
    if (!compaction->owners || !compaction->moves)
        return vd_err_nomem(err, "a list of clusters");
    int ret = fill_holes(compaction, err);
    if (ret == 0)
        ret = place_waiting(compaction, err);
    if (ret == 0)
        ret = vd_storage_resize(run->file, offset_of(compaction, compaction->top), err);
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

/* Without memory for all clusters, only the end of the file is given back. */
static int cut_end(struct vd_qed_check_run *run, uint64_t end, struct vdisk_error *err)
{
    vd_check_report(run->check,
                    "only leaked clusters at the end are given back, as more than %" PRIu32
                    " clusters are in use: convert the image to get rid of all",
                    run->pass_clusters);
    int ret = vd_storage_resize(run->file, end * run->geometry.cluster_bytes, err);
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

int vd_qed_compact(struct vd_qed_check_run *run, struct vdisk_error *err)
{
    uint64_t end = vd_div_up(run->used_end, run->geometry.cluster_bytes);
    if (!(vd_storage_caps(run->file) & VD_STORAGE_CAN_RESIZE))
        return 0; /* they stay leaks */
    if (end > run->pass_clusters)
        return cut_end(run, end, err);
    struct compaction compaction = {
        .run = run,
        .used = run->seen, /* one pass was enough, so it has them all */
        .top = (uint32_t)end,
        .waiting_first = run->clusters,
    };
    run->seen = (struct vd_bits){0};
    int ret = compact(&compaction, err);
    vd_bits_free(&compaction.used);
    free(compaction.owners);
    free(compaction.moves);
    free(compaction.waiting);
    return ret;
}
