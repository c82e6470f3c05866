/* SPDX-License-Identifier: MIT */
/* Is the metadata of a qcow2 image sound?  And the order of a repair. */
#include "format/qcow2/qcow2_check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_priv.h"
#include "util/mem.h"

#define PASSES_MAX 4u                   /* over the entries of all tables */
#define HOLE_BYTES (UINT64_C(64) << 10) /* less is read sooner than asked about */

/* ---- findings ---- */

__attribute__((format(printf, 2, 0))) static void tell(struct vd_qcow2_check_run *run,
                                                       const char *fmt, va_list args)
{
    if (!run->check->report || run->reports > VD_QCOW2_CHECK_REPORTS)
        return;
    if (run->reports++ == VD_QCOW2_CHECK_REPORTS) {
        vd_check_report(run->check, "more findings are counted, but not listed");
        return;
    }
    char message[256];
    vsnprintf(message, sizeof(message), fmt, args);
    vd_check_report(run->check, "%s", message);
}

void vd_qcow2_check_tell(struct vd_qcow2_check_run *run, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    tell(run, fmt, args);
    va_end(args);
}

void vd_qcow2_check_corruption(struct vd_qcow2_check_run *run, uint64_t weight, const char *fmt,
                               ...)
{
    run->result->corruptions += weight;
    va_list args;
    va_start(args, fmt);
    tell(run, fmt, args);
    va_end(args);
}

void vd_qcow2_check_unreadable(struct vd_qcow2_check_run *run, const char *what,
                               const struct vdisk_error *inner)
{
    run->result->check_errors++;
    run->has_io_errors = true;
    vd_qcow2_check_tell(run, "%s: %s", what, inner->message);
}

/* ---- reading, and references ---- */

/* Is all of the range, which is in the file, a hole? */
static int is_hole(struct vd_qcow2_check_run *run, struct vd_range range, bool *answer,
                   struct vdisk_error *err)
{
    struct vd_storage_extent extent;
    *answer = false;
    if (range.length < HOLE_BYTES || !(vd_storage_caps(run->file) & VD_STORAGE_CAN_EXTENTS))
        return 0;
    int ret = vd_storage_extent(run->file, range, &extent, err);
    if (ret == 0)
        *answer = extent.kind == VD_STORAGE_HOLE && extent.length == range.length;
    return ret;
}

int vd_qcow2_check_read(struct vd_qcow2_check_run *run, uint64_t offset, void *buffer,
                        uint64_t bytes, bool *is_empty, struct vdisk_error *err)
{
    uint64_t size;
    int ret = vd_storage_size(run->file, &size, err);
    if (ret < 0)
        return ret;
    uint64_t there = offset < size ? vd_min(bytes, size - offset) : 0;
    *is_empty = there == 0;
    if (there > 0)
        ret = is_hole(run, vd_range(offset, there), is_empty, err);
    if (ret == 0 && !*is_empty)
        ret = vd_storage_pread(run->file, buffer, (size_t)there, offset, err);
    if (*is_empty)
        there = 0;
    memset((uint8_t *)buffer + there, 0, (size_t)(bytes - there));
    return ret;
}

bool vd_qcow2_check_is_behind(const struct vd_qcow2_check_run *run, uint64_t offset, uint64_t bytes)
{
    /* Up to one cluster is not there yet where a writer was interrupted. */
    uint64_t limit = run->file_bytes + run->geometry.cluster_bytes;
    return bytes >= limit || offset >= limit - bytes;
}

static int refer(struct vd_qcow2_check_run *run, struct vd_range range, uint64_t weight,
                 const char *what, bool is_meta, struct vdisk_error *err)
{
    if (range.length == 0)
        return 0;
    if (vd_qcow2_check_is_behind(run, range.offset, range.length)) {
        vd_qcow2_check_corruption(
            run, weight, "%s at %#" PRIx64 ", %" PRIu64 " bytes: behind the end of the file", what,
            range.offset, range.length);
        return 0;
    }
    uint64_t end = ((vd_range_end(range) - 1) >> run->geometry.cluster_bits) + 1;
    int ret = 0;
    for (uint64_t i = range.offset >> run->geometry.cluster_bits; i < end && ret == 0; i++) {
        ret = vd_qcow2_counts_add(&run->counts, i, weight, err);
        if (ret == 0 && is_meta)
            ret = vd_qcow2_counts_set_meta(&run->counts, i, err);
    }
    run->end = vd_max(run->end, end);
    return ret;
}

int vd_qcow2_check_refer(struct vd_qcow2_check_run *run, struct vd_range range, uint64_t weight,
                         const char *what, struct vdisk_error *err)
{
    return refer(run, range, weight, what, false, err);
}

int vd_qcow2_check_refer_meta(struct vd_qcow2_check_run *run, struct vd_range range,
                              uint64_t weight, const char *what, struct vdisk_error *err)
{
    return refer(run, range, weight, what, true, err);
}

/* ---- one look ---- */

static void end_look(struct vd_qcow2_check_run *run)
{
    vd_qcow2_counts_free(&run->counts);
    free(run->ways.entries);
    run->ways = (struct vd_qcow2_ways){0};
    free(run->old_l1);
    run->old_l1 = NULL;
    run->old_l1_entries = 0;
    free(run->refcount_table);
    run->refcount_table = NULL;
    run->refcount_table_entries = 0;
}

static int begin_look(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    struct vdisk_check_result *result = run->result;
    end_look(run);
    *result = (struct vdisk_check_result){
        .struct_bytes = result->struct_bytes,
        .corruptions_fixed = result->corruptions_fixed,
        .leaks_fixed = result->leaks_fixed,
        .total_clusters =
            vd_qcow2_clusters(&run->geometry, vd_round_down(run->header->fields.size, 512)),
    };
    run->needs_rebuild = false;
    run->has_io_errors = false;
    run->bad_entries = 0;
    run->bad_bitmaps = false;
    run->bad_directory = false;
    run->bad_snapshots = false;
    run->has_excess = false;
    run->snapshot_bytes = 0;
    run->extra_bytes = VD_QCOW2_CHECK_EXTRA_BYTES;
    run->block_index = UINT64_MAX;
    run->end = 0;
    int ret = vd_storage_size(run->file, &run->file_bytes, err);
    if (ret < 0)
        return ret;
    if (run->file_bytes >> run->geometry.cluster_bits >= VD_QCOW2_COUNTS_MAX)
        return vd_err_set(err, EFBIG,
                          "%s: a file of %" PRIu64 " bytes has more clusters than the limit of "
                          "%" PRIu64 " for a check",
                          vd_storage_name(run->file), run->file_bytes, VD_QCOW2_COUNTS_MAX);
    run->file_bytes = vd_round_up(run->file_bytes, 512);
    run->clusters = vd_qcow2_clusters(&run->geometry, run->file_bytes);
    return vd_qcow2_counts_init(&run->counts, run->clusters + 1, run->counts_bytes_max, err);
}

/* What leads to all the rest, and what no table leads to. */
static int refer_to_areas(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    const struct vd_qcow2_header *header = run->header;
    int ret =
        vd_qcow2_check_refer_meta(run, vd_range(0, run->geometry.cluster_bytes), 1, "header", err);
    if (ret == 0 && header->crypto.is_present)
        ret = vd_qcow2_check_refer_meta(run, vd_range(header->crypto.offset, header->crypto.length),
                                        1, "encryption header", err);
    return ret;
}

/* Looks at everything, as if for the first time.  The counts are good until the next look. */
static int look(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    int ret = begin_look(run, err);
    if (ret == 0)
        ret = vd_qcow2_check_load_refcounts(run, err);
    if (ret == 0)
        ret = refer_to_areas(run, err);
    if (ret == 0)
        ret = vd_qcow2_check_snapshots(run, err);
    if (ret == 0)
        ret = vd_qcow2_check_map(run, err);
    if (ret == 0)
        ret = vd_qcow2_check_bitmaps(run, err);
    if (ret == 0)
        ret = vd_qcow2_check_refer_refcounts(run, err);
    if (ret == 0 && !run->skips_refcounts)
        ret = vd_qcow2_check_compare(run, VDISK_REPAIR_NONE, err);
    run->result->image_end_offset = vd_max(run->end, 1) << run->geometry.cluster_bits;
    return ret;
}

/* After a repair, or before a part of it; the user has been told what it is about. */
static int look_quietly(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    static const struct vd_check quiet = {0};
    const struct vd_check *check = run->check;
    run->check = &quiet;
    int ret = look(run, err);
    run->check = check;
    if (ret == 0 && run->has_io_errors)
        ret = vd_err_set(err, EIO, "%s: what could be read before can not be read now",
                         vd_storage_name(run->file));
    return ret;
}

/* ---- repair ---- */

int vd_qcow2_check_write_fields(struct vd_qcow2_check_run *run,
                                const struct vd_qcow2_fields *fields, struct vdisk_error *err)
{
    struct vd_qcow2_fields old = run->header->fields;
    run->header->fields = *fields;
    int ret = vd_qcow2_header_write_fields(run->file, run->header, err);
    if (ret == 0)
        ret = vd_storage_flush(run->file, err);
    if (ret < 0)
        run->header->fields = old;
    return ret;
}

/* Before the first change: whoever finds the image after a crash has to count references. */
static int begin_repair(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    struct vd_qcow2_fields fields = run->header->fields;
    if (fields.version < 3)
        return 0;
    fields.incompatible |= VD_QCOW2_DIRTY;
    fields.autoclear &= VD_QCOW2_AUTOCLEAR_KNOWN;
    if (fields.incompatible == run->header->fields.incompatible &&
        fields.autoclear == run->header->fields.autoclear)
        return 0;
    return vd_qcow2_check_write_fields(run, &fields, err);
}

/* All that can be mended is, and durable. */
static int end_repair(struct vd_qcow2_check_run *run, enum vdisk_repair repair,
                      struct vdisk_error *err)
{
    struct vd_qcow2_fields fields = run->header->fields;
    bool is_sound = run->result->corruptions == 0 && run->result->check_errors == 0;
    if (fields.version < 3)
        return 0;
    if (is_sound || !run->was_dirty) /* what is left has nothing to do with it */
        fields.incompatible &= ~(uint64_t)VD_QCOW2_DIRTY;
    if (is_sound && repair == VDISK_REPAIR_ALL)
        fields.incompatible &= ~(uint64_t)VD_QCOW2_CORRUPT;
    if (fields.incompatible == run->header->fields.incompatible)
        return 0;
    int ret = vd_storage_flush(run->file, err);
    return ret < 0 ? ret : vd_qcow2_check_write_fields(run, &fields, err);
}

static int rebuild(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    uint64_t corruptions = run->result->corruptions;
    uint64_t leaks = run->result->leaks;
    vd_qcow2_check_tell(run, "the refcounts are made anew");
    run->skips_refcounts = true;
    int ret = look_quietly(run, err);
    run->skips_refcounts = false;
    if (ret == 0)
        ret = vd_qcow2_rebuild(run, err);
    if (ret == 0)
        ret = look_quietly(run, err);
    if (ret == 0 && corruptions > run->result->corruptions)
        run->result->corruptions_fixed += corruptions - run->result->corruptions;
    if (ret == 0 && leaks > run->result->leaks)
        run->result->leaks_fixed += leaks - run->result->leaks;
    return ret;
}

static int mend_in_place(struct vd_qcow2_check_run *run, enum vdisk_repair repair,
                         struct vdisk_error *err)
{
    static const struct vd_check quiet = {0};
    const struct vd_check *check = run->check;
    struct vdisk_check_result before = *run->result;
    run->check = &quiet; /* the user has been told of them */
    int ret = vd_qcow2_check_compare(run, repair, err);
    run->check = check;
    before.corruptions_fixed = run->result->corruptions_fixed;
    before.leaks_fixed = run->result->leaks_fixed;
    *run->result = before;
    if (ret == 0 && run->has_io_errors)
        ret = vd_err_set(err, EIO, "%s: a refcount block that could be read before can not be now",
                         vd_storage_name(run->file));
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

/* Refcounts, and then the bits that follow from them. */
static int mend_refcounts(struct vd_qcow2_check_run *run, enum vdisk_repair repair,
                          struct vdisk_error *err)
{
    int ret = 0;
    if (run->needs_rebuild && repair != VDISK_REPAIR_ALL) {
        vd_qcow2_check_tell(run, "the refcounts have to be made anew: that takes a repair of all");
        return 0;
    }
    ret = run->needs_rebuild ? rebuild(run, err) : mend_in_place(run, repair, err);
    if (ret == 0 && repair == VDISK_REPAIR_ALL)
        ret = vd_qcow2_mend_copied(run, err);
    return ret;
}

/* What is mended may show what was hidden behind it. */
static int mend_entries(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    int ret = 0;
    for (unsigned i = 0; i < PASSES_MAX && ret == 0 && vd_qcow2_mend_is_needed(run); i++) {
        ret = vd_qcow2_mend_entries(run, i > 0, err);
        if (ret == 0)
            ret = look_quietly(run, err);
    }
    return ret;
}

static int repair_all(struct vd_qcow2_check_run *run, enum vdisk_repair repair,
                      struct vdisk_error *err)
{
    int ret = begin_repair(run, err);
    if (ret == 0 && repair == VDISK_REPAIR_ALL && !run->refcounts_only)
        ret = mend_entries(run, err);
    if (ret == 0)
        ret = mend_refcounts(run, repair, err);
    return ret < 0 ? ret : look_quietly(run, err);
}

/* Is anything wrong that a writer which only did not end well does not leave? */
static bool has_wrong_entries(const struct vd_qcow2_check_run *run)
{
    return run->bad_entries || run->bad_snapshots || run->bad_bitmaps || run->bad_directory;
}

static int check_all(struct vd_qcow2_check_run *run, enum vdisk_repair repair,
                     struct vdisk_error *err)
{
    uint64_t bits = run->header->fields.incompatible;
    run->was_dirty = (bits & VD_QCOW2_DIRTY) != 0;
    if (run->was_dirty)
        vd_qcow2_check_tell(run, "the image was not closed by its last writer, or is being "
                                 "written to");
    int ret = look(run, err);
    if (ret < 0 || repair == VDISK_REPAIR_NONE)
        return ret;
    if (run->has_io_errors || (repair == VDISK_REPAIR_LEAKS && run->result->check_errors)) {
        vd_qcow2_check_tell(run, "nothing is mended, as not everything could be looked at");
        return 0;
    }
    if (run->refcounts_only && has_wrong_entries(run)) {
        vd_qcow2_check_tell(run, "more than refcounts is wrong");
        return 0;
    }
    bool is_wrong = run->result->corruptions || run->result->leaks || run->result->check_errors;
    if (is_wrong)
        ret = repair_all(run, repair, err);
    return ret < 0 ? ret : end_repair(run, repair, err);
}

/* So many clusters would new refcounts take, at most, for what is before cluster @end. */
static uint64_t refcounts_most(const struct vd_qcow2_check_run *run, uint64_t end)
{
    uint64_t most = 0;
    for (uint64_t last = UINT64_MAX; most != last;) {
        uint64_t blocks = (end + most) / run->geometry.block_entries + 3;
        last = most;
        most = blocks + vd_qcow2_clusters(&run->geometry, blocks * sizeof(struct be64)) + 1;
    }
    return most;
}

/* The first @wanted free clusters that follow each other before @end; 0: none. */
static uint64_t find_gap(const struct vd_qcow2_check_run *run, uint64_t wanted, uint64_t end)
{
    uint64_t length = 0;
    for (uint64_t i = 1; i < end && i < run->counts.clusters; i++) {
        length = vd_qcow2_counts_get(&run->counts, i) ? 0 : length + 1;
        if (length == wanted)
            return i + 1 - wanted;
    }
    return 0;
}

/* The end of what has references, which refcounts have too if they were counted. */
static uint64_t end_of_references(const struct vd_qcow2_check_run *run)
{
    uint64_t end = vd_min(vd_max(run->end, run->clusters), run->counts.clusters);
    while (end > 1 && vd_qcow2_counts_get(&run->counts, end - 1) == 0)
        end--;
    return end;
}

static int look_at_sound(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    int ret = look(run, err);
    if (ret == 0 && (run->result->corruptions || run->result->check_errors))
        return vd_err_set(err, EBADMSG, "%s: its metadata is not sound: run vdisk check -r all",
                          vd_storage_name(run->file));
    return ret;
}

/* Behind the last cluster in use the file ends. */
static int cut_off(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    int ret = look_at_sound(run, err);
    if (ret < 0)
        return ret;
    uint64_t bytes = end_of_references(run) << run->geometry.cluster_bits;
    if (bytes >= run->file_bytes || !(vd_storage_caps(run->file) & VD_STORAGE_CAN_RESIZE))
        return 0;
    ret = vd_storage_resize(run->file, bytes, err);
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

/* Counts what leads to all but refcounts, into run->counts. */
static int look_without_refcounts(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    run->skips_refcounts = true;
    int ret = look(run, err);
    run->skips_refcounts = false;
    return ret;
}

static int move_refcounts(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    int ret = look_without_refcounts(run, err);
    if (ret < 0)
        return ret;
    uint64_t others_end = end_of_references(run);
    uint64_t wanted = refcounts_most(run, others_end);
    ret = look_at_sound(run, err);
    if (ret < 0)
        return ret;
    uint64_t end = end_of_references(run);
    uint64_t place = find_gap(run, wanted, end);
    /* Worth it only if nothing else keeps the end of the file in use. */
    if (place != 0 && vd_max(others_end, place + wanted) < end) {
        ret = look_without_refcounts(run, err);
        run->new_place = place;
        if (ret == 0)
            ret = vd_qcow2_rebuild(run, err);
    }
    return ret < 0 ? ret : cut_off(run, err);
}

/* The most references that any cluster has. */
static uint64_t most_references(const struct vd_qcow2_counts *counts)
{
    uint64_t most = 0;
    for (uint64_t i = 0; i < counts->page_entries; i++)
        for (uint32_t j = 0; counts->pages[i] && j < VD_QCOW2_COUNTS_PAGE; j++)
            if (counts->pages[i]->counts[j])
                most = vd_max(most, vd_qcow2_counts_get(counts, i * VD_QCOW2_COUNTS_PAGE + j));
    return most;
}

/* What the header says of the width switches with where it says that they are. */
static int change_width(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    struct vd_qcow2_fields *fields = &run->header->fields;
    uint32_t old = fields->refcount_order;
    int ret = look_at_sound(run, err);
    run->skips_refcounts = true;
    if (ret == 0)
        ret = look_quietly(run, err);
    if (ret < 0)
        return ret;
    run->geometry = vd_qcow2_geometry_of(fields->cluster_bits, *run->new_order,
                                         run->geometry.entry_bytes == 16);
    uint64_t most = most_references(&run->counts);
    if (most > run->geometry.refcount_max)
        return vd_err_set(err, ERANGE,
                          "refcounts of %u bits: a cluster has %" PRIu64
                          " references, and they count to %" PRIu64,
                          1u << *run->new_order, most, run->geometry.refcount_max);
    fields->refcount_order = *run->new_order;
    ret = vd_qcow2_rebuild(run, err);
    if (ret < 0)
        fields->refcount_order = old;
    return ret;
}

static int check_run(struct vd_qcow2_check_run *run, struct vd_qcow2 *qcow2,
                     enum vdisk_repair repair, struct vdisk_error *err)
{
    run->file = qcow2->file;
    run->header = &qcow2->header;
    run->cipher = qcow2->cipher;
    run->geometry = vd_qcow2_header_geometry(run->header);
    run->result = run->check->result;
    run->has_data_file = (run->header->fields.incompatible & VD_QCOW2_DATA_FILE) != 0;
    run->counts_bytes_max = VD_QCOW2_COUNTS_BYTES_MAX;
    CLEANUP_FREE void *table = vd_alloc_io(run->geometry.cluster_bytes);
    CLEANUP_FREE void *block = vd_alloc_io(run->geometry.cluster_bytes);
    CLEANUP_FREE void *l1 = vd_alloc_io(VD_QCOW2_CHECK_L1_PART * sizeof(*run->l1));
    if (!table || !block || !l1)
        return vd_err_nomem(err, "parts of tables");
    run->table = table;
    run->block = block;
    run->l1 = l1;
    int ret = run->new_order         ? change_width(run, err)
              : run->moves_refcounts ? move_refcounts(run, err)
                                     : check_all(run, repair, err);
    end_look(run);
    if (repair != VDISK_REPAIR_NONE) {
        qcow2->l1_offset = qcow2->header.fields.l1_offset;
        vd_table_cache_forget(&qcow2->tables);
        if (ret == 0)
            ret = vd_storage_size(qcow2->file, &qcow2->file_bytes, err);
    }
    return ret;
}

int vd_qcow2_check(struct vd_format *format, const struct vd_check *check, struct vdisk_error *err)
{
    struct vd_qcow2_check_run run = {.check = check};
    return check_run(&run, format->state, check->repair, err);
}

int vd_qcow2_change_refcounts(struct vd_qcow2 *qcow2, uint32_t order, struct vdisk_error *err)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    const struct vd_check check = {.repair = VDISK_REPAIR_NONE, .result = &result};
    struct vd_qcow2_check_run run = {.check = &check, .new_order = &order};
    return check_run(&run, qcow2, VDISK_REPAIR_NONE, err);
}

int vd_qcow2_move_refcounts(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    const struct vd_check check = {.repair = VDISK_REPAIR_NONE, .result = &result};
    struct vd_qcow2_check_run run = {.check = &check, .moves_refcounts = true};
    return check_run(&run, qcow2, VDISK_REPAIR_NONE, err);
}

int vd_qcow2_recover(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    const struct vd_check check = {.repair = VDISK_REPAIR_ALL, .result = &result};
    struct vd_qcow2_check_run run = {.check = &check, .refcounts_only = true};
    int ret = check_run(&run, qcow2, VDISK_REPAIR_ALL, err);
    if (ret == 0 && (qcow2->header.fields.incompatible & VD_QCOW2_DIRTY))
        ret = vd_err_set(err, EBADMSG, "%s: more than refcounts is wrong: run vdisk check -r all",
                         vd_storage_name(qcow2->file));
    return ret < 0 ? vd_err_prefix(err, ret, "repair after a writer that did not end well: ") : 0;
}
