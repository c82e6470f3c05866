/* SPDX-License-Identifier: MIT */
/*
 * Is the metadata of a QED image sound?  Tables are read in parts, and looked at in as many passes
 * as the bitmap of clusters that there is memory for takes.  qed §8.
 */
#include "format/qed/qed_check.h"

#include <inttypes.h>
#include <stdio.h>

#include "util/mem.h"

enum vd_qed_finding vd_qed_judge(const struct vd_qed_check_run *run, uint64_t offset, bool is_table)
{
    const struct vd_qed_geometry *geometry = &run->geometry;
    if (offset == VD_QED_UNALLOCATED || (offset == VD_QED_ZERO && !is_table))
        return VD_QED_NOTHING;
    if (!vd_qed_offset_is_legal(geometry, vd_qed_header_area(run->header), offset))
        return VD_QED_MISPLACED;
    if (offset >= run->file_bytes)
        return VD_QED_NOT_THERE;
    uint64_t bytes = is_table ? geometry->table_bytes : geometry->cluster_bytes;
    if (vd_range_is_within(vd_range(offset, bytes), run->file_bytes))
        return VD_QED_SOUND;
    /* qed §9.2: in drafts it goes on with zeros behind the end of the file */
    return is_table || run->header->variant == VD_QED_FINAL ? VD_QED_CUT_OFF : VD_QED_SOUND;
}

/* The clusters at @offset that are of the pass, as numbers from its start. */
struct numbers {
    uint32_t first;
    uint32_t end;
};

static struct numbers numbers_of(const struct vd_qed_check_run *run, uint64_t offset,
                                 uint32_t clusters)
{
    uint64_t first = offset / run->geometry.cluster_bytes;
    uint64_t pass_end = vd_min(run->clusters, run->pass_first + run->pass_clusters);
    uint64_t end = vd_min(first + clusters, pass_end);
    first = vd_max(first, run->pass_first);
    if (first >= end)
        return (struct numbers){0};
    return (struct numbers){(uint32_t)(first - run->pass_first), (uint32_t)(end - run->pass_first)};
}

bool vd_qed_is_claimed(const struct vd_qed_check_run *run, uint64_t offset, uint32_t clusters)
{
    struct numbers numbers = numbers_of(run, offset, clusters);
    for (uint32_t i = numbers.first; i < numbers.end; i++)
        if (vd_bits_has(&run->seen, i))
            return true;
    return false;
}

bool vd_qed_claim(struct vd_qed_check_run *run, uint64_t offset, uint32_t clusters)
{
    bool was_used = vd_qed_is_claimed(run, offset, clusters);
    struct numbers numbers = numbers_of(run, offset, clusters);
    for (uint32_t i = numbers.first; i < numbers.end; i++)
        if (!was_used || !vd_bits_has(&run->seen, i))
            vd_bits_add(&run->seen, i);
    return was_used;
}

bool vd_qed_table_is_own(const struct vd_qed_check_run *run, uint32_t index, uint64_t offset)
{
    enum vd_qed_finding finding = vd_qed_judge(run, offset, true);
    return (finding == VD_QED_SOUND || finding == VD_QED_CUT_OFF) &&
           !vd_bits_has(&run->bad_tables, index);
}

static void note_end(struct vd_qed_check_run *run, uint64_t offset, uint64_t bytes)
{
    run->used_end = vd_max(run->used_end, offset + bytes);
}

static void report_entry(const struct vd_qed_check_run *run, enum vd_qed_finding finding,
                         const char *entry, const char *what, uint64_t offset)
{
    static const char *const words[] = {
        [VD_QED_NOTHING] = "is not there, as it may be",
        [VD_QED_SOUND] = "is sound",
        [VD_QED_MISPLACED] = "is not at the start of a cluster behind the header",
        [VD_QED_NOT_THERE] = "is not in the file",
        [VD_QED_CUT_OFF] = "is cut off by the end of the file",
        [VD_QED_OVERLAPPING] = "belongs to something else, too",
    };
    run->result->corruptions++;
    vd_check_report(run->check, "%s: %s at offset %" PRIu64 " %s", entry, what, offset,
                    words[finding]);
}

/* --- tables ---------------------------------------------------------------------------------- */

static void look_at_table(struct vd_qed_check_run *run, uint32_t index, uint64_t offset)
{
    char entry[64];
    snprintf(entry, sizeof(entry), "L1 entry %" PRIu32, index);
    enum vd_qed_finding finding = vd_qed_judge(run, offset, true);
    if (run->is_first_pass && finding != VD_QED_SOUND)
        report_entry(run, finding, entry, "L2 table", offset);
    if (finding != VD_QED_SOUND && finding != VD_QED_CUT_OFF)
        return;
    note_end(run, offset, run->geometry.table_bytes);
    bool is_new = !vd_bits_has(&run->bad_tables, index);
    if (vd_qed_claim(run, offset, run->geometry.table_clusters) && is_new) {
        vd_bits_add(&run->bad_tables, index);
        if (finding == VD_QED_SOUND) /* else it has been counted */
            report_entry(run, VD_QED_OVERLAPPING, entry, "L2 table", offset);
    }
}

int vd_qed_begin_pass(struct vd_qed_check_run *run, uint64_t pass_first, struct vdisk_error *err)
{
    run->pass_first = pass_first;
    run->is_first_pass = pass_first == 0;
    vd_bits_clear(&run->seen);
    uint64_t count = vd_min(run->clusters - pass_first, run->pass_clusters);
    int ret = vd_bits_reserve(&run->seen, (uint32_t)count, err);
    return ret < 0 ? ret : vd_bits_reserve(&run->bad_tables, run->geometry.table_entries, err);
}

/* The header and L1 are there before all else. */
static int begin_pass(struct vd_qed_check_run *run, uint64_t pass_first, struct vdisk_error *err)
{
    int ret = vd_qed_begin_pass(run, pass_first, err);
    if (ret < 0)
        return ret;
    vd_qed_claim(run, 0, run->header->header_clusters);
    vd_qed_claim(run, run->header->l1_offset, run->geometry.table_clusters);
    note_end(run, run->header->l1_offset, run->geometry.table_bytes);
    return 0;
}

/* Calls @fn for each entry of L1 that is not 0. */
static int for_each_table(struct vd_qed_check_run *run,
                          void (*fn)(struct vd_qed_check_run *run, uint32_t index, uint64_t offset),
                          struct vdisk_error *err)
{
    int ret = 0;
    for (uint32_t first = 0; first < run->geometry.table_entries && ret == 0;
         first += VD_QED_PART_ENTRIES) {
        ret = vd_qed_part_read(run, run->header->l1_offset, first, &run->l1, err);
        for (uint32_t i = 0; ret == 0 && !run->l1.is_empty && i < run->l1.count; i++)
            if (vd_qed_part_get(&run->l1, i) != VD_QED_UNALLOCATED)
                fn(run, first + i, vd_qed_part_get(&run->l1, i));
    }
    return ret;
}

static void claim_table(struct vd_qed_check_run *run, uint32_t index, uint64_t offset)
{
    (void)index;
    enum vd_qed_finding finding = vd_qed_judge(run, offset, true);
    if (finding == VD_QED_SOUND || finding == VD_QED_CUT_OFF)
        vd_qed_claim(run, offset, run->geometry.table_clusters);
}

int vd_qed_claim_tables(struct vd_qed_check_run *run, uint64_t pass_first, struct vdisk_error *err)
{
    int ret = begin_pass(run, pass_first, err);
    return ret < 0 ? ret : for_each_table(run, claim_table, err);
}

/* --- data ------------------------------------------------------------------------------------ */

static void count_cluster(struct vd_qed_check_run *run, uint64_t offset)
{
    uint64_t cluster_bytes = run->geometry.cluster_bytes;
    note_end(run, offset, cluster_bytes);
    run->result->allocated_clusters++;
    if (run->last_data && offset != run->last_data + cluster_bytes)
        run->result->fragmented_clusters++;
    run->last_data = offset;
}

static void look_at_cluster(struct vd_qed_check_run *run, uint32_t l1_index, uint32_t index,
                            uint64_t offset)
{
    enum vd_qed_finding finding = vd_qed_judge(run, offset, false);
    if (finding == VD_QED_NOTHING)
        return;
    bool is_counted = run->is_first_pass;
    if (finding == VD_QED_SOUND || finding == VD_QED_CUT_OFF) {
        if (run->is_first_pass)
            count_cluster(run, offset);
        if (vd_qed_claim(run, offset, 1))
            finding = VD_QED_OVERLAPPING;
        /* In the pass that it lies in: only there the two can be told apart. */
        struct numbers numbers = numbers_of(run, offset, 1);
        is_counted = numbers.end > numbers.first;
    }
    if (finding == VD_QED_SOUND || !is_counted)
        return;
    char entry[96];
    snprintf(entry, sizeof(entry), "L1 entry %" PRIu32 ", L2 entry %" PRIu32, l1_index, index);
    report_entry(run, finding, entry, "cluster", offset);
}

static int look_at_entries(struct vd_qed_check_run *run, uint32_t l1_index, uint64_t table,
                           struct vdisk_error *err)
{
    int ret = 0;
    for (uint32_t first = 0; first < run->geometry.table_entries && ret == 0;
         first += VD_QED_PART_ENTRIES) {
        struct vdisk_error inner = {0};
        if (vd_qed_part_read(run, table, first, &run->l2, &inner) < 0) {
            if (inner.code == ENOMEM)
                return vd_err_copy(err, &inner);
            if (!run->is_first_pass)
                continue;
            vd_check_report(run->check,
                            "L1 entry %" PRIu32 ": L2 entries %" PRIu32 " to %" PRIu32 ": %s",
                            l1_index, first, first + run->l2.count - 1, inner.message);
            run->result->check_errors++;
            continue;
        }
        for (uint32_t i = 0; !run->l2.is_empty && i < run->l2.count; i++)
            look_at_cluster(run, l1_index, first + i, vd_qed_part_get(&run->l2, i));
    }
    return ret;
}

static int look_at_data(struct vd_qed_check_run *run, struct vdisk_error *err)
{
    int ret = 0;
    for (uint32_t first = 0; first < run->geometry.table_entries && ret == 0;
         first += VD_QED_PART_ENTRIES) {
        ret = vd_qed_part_read(run, run->header->l1_offset, first, &run->l1, err);
        for (uint32_t i = 0; ret == 0 && !run->l1.is_empty && i < run->l1.count; i++) {
            uint64_t table = vd_qed_part_get(&run->l1, i);
            if (table != VD_QED_UNALLOCATED && vd_qed_table_is_own(run, first + i, table))
                ret = look_at_entries(run, first + i, table, err);
        }
    }
    return ret;
}

static void report_leak(struct vd_qed_check_run *run, uint64_t first, uint64_t end)
{
    run->result->leaks += end - first;
    vd_check_report(run->check,
                    "%" PRIu64 " clusters at offset %" PRIu64
                    " take space, but nothing leads to them",
                    end - first, first * run->geometry.cluster_bytes);
}

/* Whole clusters of the pass, before @end, that nothing leads to. */
static void look_for_leaks(struct vd_qed_check_run *run, uint64_t end)
{
    uint64_t from = run->pass_first;
    end = vd_min(end, run->pass_first + run->pass_clusters);
    while (from < end) {
        uint32_t start = 0;
        uint32_t used = vd_bits_next_run(&run->seen, (uint32_t)(from - run->pass_first), &start);
        uint64_t next = used ? vd_min(end, run->pass_first + start) : end;
        if (next > from)
            report_leak(run, from, next);
        from = next + used;
    }
}

/* --- all of it ------------------------------------------------------------------------------- */

/* Clusters of the file up to the last one that something leads to, as far as is known. */
static uint64_t used_clusters(const struct vd_qed_check_run *run)
{
    return vd_min(run->clusters, vd_div_up(run->used_end, run->geometry.cluster_bytes));
}

static int look_in_passes(struct vd_qed_check_run *run, struct vdisk_error *err)
{
    int ret = 0;
    for (uint64_t first = 0; first < used_clusters(run) && ret == 0; first += run->pass_clusters) {
        ret = begin_pass(run, first, err);
        if (ret == 0)
            ret = for_each_table(run, look_at_table, err);
    }
    /* What is at the end of a cluster the file ends within is no leak. */
    uint64_t whole = run->file_bytes / run->geometry.cluster_bytes;
    uint64_t first = 0;
    for (; first < used_clusters(run) && ret == 0; first += run->pass_clusters) {
        ret = vd_qed_claim_tables(run, first, err);
        if (ret == 0)
            ret = look_at_data(run, err);
        if (ret == 0 && run->result->check_errors == 0)
            look_for_leaks(run, whole);
    }
    if (ret == 0 && run->result->check_errors == 0 && first < whole)
        report_leak(run, first, whole);
    return ret;
}

/* Looks at everything, as if for the first time. */
static int look(struct vd_qed_check_run *run, struct vdisk_error *err)
{
    struct vdisk_check_result *result = run->result;
    *result = (struct vdisk_check_result){
        .struct_bytes = result->struct_bytes,
        .corruptions_fixed = result->corruptions_fixed,
        .leaks_fixed = result->leaks_fixed,
        .total_clusters = vd_qed_cluster_count(&run->geometry, run->header->size),
    };
    run->last_data = 0;
    run->used_end = vd_qed_header_area(run->header);
    vd_bits_free(&run->bad_tables);
    int ret = vd_storage_size(run->file, &run->file_bytes, err);
    if (ret < 0)
        return ret;
    run->clusters = vd_div_up(run->file_bytes, run->geometry.cluster_bytes);
    ret = look_in_passes(run, err);
    if (result->check_errors)
        result->leaks = 0; /* they may belong to what could not be read */
    result->image_end_offset = vd_min(run->used_end, run->file_bytes);
    return ret;
}

/* After a repair; the user has been told what it was about. */
static int look_quietly(struct vd_qed_check_run *run, struct vdisk_error *err)
{
    static const struct vd_check quiet = {0};
    const struct vd_check *check = run->check;
    run->check = &quiet;
    int ret = look(run, err);
    run->check = check;
    return ret;
}

/* qed §8.1: what nothing leads to may be what an entry led to before it was damaged. */
static int give_back(struct vd_qed_check_run *run, bool was_sound, struct vdisk_error *err)
{
    struct vdisk_check_result *result = run->result;
    if (result->leaks == 0)
        return 0;
    if (!was_sound) {
        vd_check_report(run->check,
                        "leaked clusters are kept until the next repair: they may be what "
                        "the wrong entries should lead to");
        return 0;
    }
    uint64_t leaks = result->leaks;
    int ret = vd_qed_compact(run, err);
    if (ret == 0)
        ret = look_quietly(run, err);
    if (ret == 0 && result->leaks < leaks)
        result->leaks_fixed = leaks - result->leaks;
    return ret;
}

static int repair(struct vd_qed_check_run *run, enum vdisk_repair what, struct vdisk_error *err)
{
    struct vdisk_check_result *result = run->result;
    bool was_sound = result->corruptions == 0;
    int ret = 0;
    if (!was_sound && what == VDISK_REPAIR_ALL) {
        ret = vd_qed_mend(run, err);
        if (ret == 0)
            ret = look_quietly(run, err);
    }
    if (ret < 0 || result->check_errors || run->keeps_leaks)
        return ret;
    return give_back(run, was_sound, err);
}

/* qed §8: all is well now, and durable. */
static int clear_need_check(struct vd_qed_check_run *run, struct vdisk_error *err)
{
    if (!(run->header->features & VD_QED_FEATURE_NEED_CHECK) || run->result->corruptions ||
        run->result->check_errors)
        return 0;
    int ret = vd_storage_flush(run->file, err);
    if (ret < 0)
        return ret;
    struct vd_qed_header header = *run->header;
    header.features &= ~(uint64_t)VD_QED_FEATURE_NEED_CHECK;
    ret = vd_qed_header_write(run->file, &header, err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    if (ret == 0)
        *run->header = header;
    return ret;
}

static int check_all(struct vd_qed_check_run *run, enum vdisk_repair what, struct vdisk_error *err)
{
    if (what != VDISK_REPAIR_NONE && run->header->variant != VD_QED_FINAL)
        return vd_err_set(err, EROFS,
                          "%s: header: of form %s, which can only be read: run vdisk amend to "
                          "bring it to the final form, then check again",
                          vd_storage_name(run->file), vd_qed_variant_name(run->header->variant));
    if (run->header->features & VD_QED_FEATURE_NEED_CHECK)
        vd_check_report(run->check, "the image was not closed by its last writer, or is being "
                                    "written to");
    int ret = look(run, err);
    if (ret < 0 || what == VDISK_REPAIR_NONE)
        return ret;
    if (run->result->check_errors) {
        vd_check_report(run->check, "nothing is mended, as not everything could be looked at");
        return 0;
    }
    ret = repair(run, what, err);
    return ret < 0 ? ret : clear_need_check(run, err);
}

static int check_run(struct vd_qed_check_run *run, struct vdisk_error *err)
{
    CLEANUP_FREE void *l1 = vd_alloc_io(VD_QED_PART_ENTRIES * VD_QED_ENTRY_BYTES);
    CLEANUP_FREE void *l2 = vd_alloc_io(VD_QED_PART_ENTRIES * VD_QED_ENTRY_BYTES);
    if (!l1 || !l2)
        return vd_err_nomem(err, "parts of tables");
    run->geometry = vd_qed_header_geometry(run->header);
    run->result = run->check->result;
    run->l1.entries = l1;
    run->l2.entries = l2;
    int ret = check_all(run, run->check->repair, err);
    vd_bits_free(&run->seen);
    vd_bits_free(&run->bad_tables);
    return ret;
}

int vd_qed_check_in_passes(struct vd_storage *file, struct vd_qed_header *header,
                           const struct vd_check *check, uint32_t pass_clusters,
                           struct vdisk_error *err)
{
    struct vd_qed_check_run run = {
        .file = file,
        .header = header,
        .check = check,
        .pass_clusters = pass_clusters,
    };
    return check_run(&run, err);
}

int vd_qed_check_file(struct vd_storage *file, struct vd_qed_header *header,
                      const struct vd_check *check, struct vdisk_error *err)
{
    return vd_qed_check_in_passes(file, header, check, VD_QED_PASS_CLUSTERS, err);
}

int vd_qed_recover(struct vd_storage *file, struct vd_qed_header *header, struct vdisk_error *err)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    const struct vd_check check = {.repair = VDISK_REPAIR_ALL, .result = &result};
    struct vd_qed_check_run run = {
        .file = file,
        .header = header,
        .check = &check,
        .pass_clusters = VD_QED_PASS_CLUSTERS,
        .keeps_leaks = true,
    };
    int ret = check_run(&run, err);
    if (ret == 0 && (header->features & VD_QED_FEATURE_NEED_CHECK))
        ret = vd_err_set(err, EIO, "not all tables could be read: see vdisk check");
    return ret < 0 ? vd_err_prefix(err, ret, "repair after a writer that did not end well: ") : 0;
}
