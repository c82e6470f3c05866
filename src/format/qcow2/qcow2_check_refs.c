/* SPDX-License-Identifier: MIT */
/* A check's look at the refcount table and its blocks. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "format/qcow2/qcow2_check.h"
#include "util/mem.h"

#define PAGE VD_QCOW2_COUNTS_PAGE

/* ---- refcounts in a block ---- */

/* @count refcounts of @block from @first on.  Few bits are counted from the low end of a byte. */
static void get_refcounts(uint32_t order, const uint8_t *block, uint64_t first, uint32_t count,
                          uint64_t *values)
{
    if (order < 3) {
        uint32_t bits = 1u << order;
        uint32_t a_byte = 8 / bits;
        for (uint32_t i = 0; i < count; i++)
            values[i] = ((unsigned)block[(first + i) / a_byte] >> ((first + i) % a_byte * bits)) &
                        ((1u << bits) - 1);
        return;
    }
    uint32_t bytes = 1u << (order - 3);
    block += first * bytes;
    for (uint32_t i = 0; i < count; i++, block += bytes) {
        if (order == 4) {
            values[i] = (uint64_t)block[0] << 8 | block[1];
            continue;
        }
        uint64_t value = 0;
        for (uint32_t byte = 0; byte < bytes; byte++)
            value = value << 8 | block[byte];
        values[i] = value;
    }
}

void vd_qcow2_check_put_refcount(uint32_t order, uint8_t *block, uint32_t index, uint64_t value)
{
    if (order < 3) {
        uint32_t bits = 1u << order;
        uint32_t shift = index % (8 / bits) * bits;
        uint8_t *byte = &block[index / (8 / bits)];
        *byte = (uint8_t)((*byte & ~(((1u << bits) - 1) << shift)) | (uint32_t)value << shift);
        return;
    }
    uint32_t bytes = 1u << (order - 3);
    for (uint32_t byte = bytes; byte > 0; byte--, value >>= 8)
        block[(uint64_t)index * bytes + byte - 1] = (uint8_t)value;
}

/* ---- blocks ---- */

static uint64_t block_entry(const struct vd_qcow2_check_run *run, uint64_t index)
{
    return index < run->refcount_table_entries ? be64_get(run->refcount_table[index]) : 0;
}

enum block_state {
    BLOCK_NONE,   /* all of its refcounts are 0 */
    BLOCK_BROKEN, /* they are not known */
    BLOCK_THERE
};

static enum block_state state_of_block(const struct vd_qcow2_check_run *run, uint64_t index)
{
    uint64_t offset = block_entry(run, index) & ~VD_QCOW2_REFTABLE_RESERVED;
    if (!vd_is_aligned(offset, run->geometry.cluster_bytes) || offset > INT64_MAX)
        return BLOCK_BROKEN;
    return offset == 0 || offset >= run->file_bytes ? BLOCK_NONE : BLOCK_THERE;
}

/* Makes run->block that of @index, which is there.  1: it can not be read. */
static int load_block(struct vd_qcow2_check_run *run, uint64_t index)
{
    struct vdisk_error inner = {0};
    if (run->block_index == index)
        return 0;
    run->block_index = UINT64_MAX;
    if (vd_qcow2_check_read(run, block_entry(run, index) & ~VD_QCOW2_REFTABLE_RESERVED, run->block,
                            run->geometry.cluster_bytes, &run->block_is_empty, &inner) < 0) {
        vd_qcow2_check_unreadable(run, "refcount block", &inner);
        return 1;
    }
    run->block_index = index;
    return 0;
}

bool vd_qcow2_check_stored_is_one(struct vd_qcow2_check_run *run, uint64_t cluster, bool *is_known)
{
    uint64_t index = cluster / run->geometry.block_entries;
    enum block_state state = state_of_block(run, index);
    *is_known = state != BLOCK_BROKEN;
    if (state != BLOCK_THERE)
        return false;
    if (cluster < run->clusters)
        return vd_qcow2_counts_is_one(&run->counts, cluster);

    uint8_t bytes[8];
    bool is_empty;
    uint64_t value;
    uint32_t in_block = (uint32_t)(cluster % run->geometry.block_entries);
    uint64_t bit = (uint64_t)in_block << run->geometry.refcount_order;
    uint64_t offset = (block_entry(run, index) & ~VD_QCOW2_REFTABLE_RESERVED) + bit / 64 * 8;
    struct vdisk_error inner = {0};
    if (vd_qcow2_check_read(run, offset, bytes, sizeof(bytes), &is_empty, &inner) < 0) {
        vd_qcow2_check_unreadable(run, "refcount block", &inner);
        *is_known = false;
        return false;
    }
    get_refcounts(run->geometry.refcount_order, bytes, bit % 64 >> run->geometry.refcount_order, 1,
                  &value);
    return value == 1;
}

/* ---- loading ---- */

static int read_table(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &run->header->fields;
    uint64_t bytes = (uint64_t)fields->refcount_table_clusters << run->geometry.cluster_bits;
    free(run->refcount_table);
    run->refcount_table = NULL;
    run->refcount_table_entries = 0;
    run->block_index = UINT64_MAX;
    if (bytes == 0 || bytes > VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX ||
        fields->refcount_table_offset == 0 ||
        !vd_is_aligned(fields->refcount_table_offset, run->geometry.cluster_bytes)) {
        run->needs_rebuild = true;
        /* One of no clusters is none, and shows in what it does not count. */
        vd_qcow2_check_corruption(run, bytes != 0,
                                  "header: a refcount table of %" PRIu32 " clusters at %#" PRIx64
                                  " is none",
                                  fields->refcount_table_clusters, fields->refcount_table_offset);
        return 0;
    }
    run->refcount_table = vd_alloc_io((size_t)bytes);
    if (!run->refcount_table)
        return vd_err_nomem(err, "the refcount table");
    bool is_empty;
    int ret = vd_qcow2_check_read(run, fields->refcount_table_offset, run->refcount_table, bytes,
                                  &is_empty, err);
    if (ret == 0)
        run->refcount_table_entries = bytes / sizeof(*run->refcount_table);
    return ret;
}

static uint64_t blocks_in_file(const struct vd_qcow2_check_run *run)
{
    uint64_t entries = run->geometry.block_entries;
    return vd_min(run->refcount_table_entries, vd_div_up(run->clusters, entries));
}

static int note_ones(struct vd_qcow2_check_run *run, uint64_t index, struct vdisk_error *err)
{
    uint64_t values[64];
    uint64_t first = index * run->geometry.block_entries;
    uint64_t count = vd_min(run->geometry.block_entries, run->clusters - first);
    for (uint64_t i = 0; i < count; i += 64) {
        uint32_t some = (uint32_t)vd_min(64, count - i);
        get_refcounts(run->geometry.refcount_order, run->block, i, some, values);
        struct vd_qcow2_counts_page *page = NULL;
        for (uint32_t j = 0; j < some; j++) {
            if (values[j] != 1)
                continue;
            uint64_t cluster = first + i + j;
            if (!page && !(page = vd_qcow2_counts_page(&run->counts, cluster, err)))
                return -ENOMEM;
            uint32_t bit = (uint32_t)(cluster % PAGE); /* 64 clusters are in one page */
            page->ones[bit / 64] |= UINT64_C(1) << (bit % 64);
        }
    }
    return 0;
}

static int compare_entries(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

/* K2: are there more blocks at the same places than are worth reading? */
static int limit_blocks(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    uint64_t count = blocks_in_file(run);
    CLEANUP_FREE uint64_t *offsets = vd_alloc_array((size_t)count, sizeof(*offsets));
    if (!offsets)
        return vd_err_nomem(err, "the places of refcount blocks");
    for (uint64_t i = 0; i < count; i++)
        offsets[i] = state_of_block(run, i) == BLOCK_THERE ? block_entry(run, i) : 0;
    qsort(offsets, (size_t)count, sizeof(*offsets), compare_entries);
    uint64_t again = 0;
    for (uint64_t i = 1; i < count; i++)
        if (offsets[i] && offsets[i] == offsets[i - 1])
            again += run->geometry.cluster_bytes;
    if (again > run->extra_bytes)
        return vd_err_set(err, EBADMSG,
                          "refcount table: it leads to blocks that it led to before, with more "
                          "than %" PRIu64 " bytes",
                          VD_QCOW2_CHECK_EXTRA_BYTES);
    return 0;
}

int vd_qcow2_check_load_refcounts(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    int ret = read_table(run, err);
    if (ret == 0)
        ret = limit_blocks(run, err);
    for (uint64_t i = 0; i < blocks_in_file(run) && ret == 0; i++)
        if (state_of_block(run, i) == BLOCK_THERE && load_block(run, i) == 0 &&
            !run->block_is_empty)
            ret = note_ones(run, i, err);
    return ret;
}

/* ---- references ---- */

static int refer_block(struct vd_qcow2_check_run *run, uint64_t index, struct vdisk_error *err)
{
    uint64_t entry = block_entry(run, index);
    uint64_t offset = entry & ~VD_QCOW2_REFTABLE_RESERVED;
    const char *what = NULL;
    if (entry & VD_QCOW2_REFTABLE_RESERVED)
        what = "reserved bits are set";
    else if (!vd_is_aligned(offset, run->geometry.cluster_bytes))
        what = "not at the start of a cluster";
    else if (offset >= run->file_bytes)
        what = "behind the end of the file";
    if (what) {
        run->needs_rebuild = true;
        vd_qcow2_check_corruption(run, 1, "refcount table, entry %" PRIu64 ": %#" PRIx64 ": %s",
                                  index, entry, what);
        return 0;
    }
    int ret = vd_qcow2_check_refer_meta(run, vd_range(offset, run->geometry.cluster_bytes), 1,
                                        "refcount block", err);
    uint64_t references = vd_qcow2_counts_get(&run->counts, offset >> run->geometry.cluster_bits);
    if (ret < 0 || references == 1)
        return ret;
    run->needs_rebuild = true;
    /* More than a refcount holds is counted as that. */
    vd_qcow2_check_corruption(run, vd_min(references, run->geometry.refcount_max) != 1,
                              "refcount table, entry %" PRIu64 ": %#" PRIx64 ": there are %" PRIu64
                              " references to the block",
                              index, entry, references);
    return ret;
}

int vd_qcow2_check_refer_refcounts(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    if (run->skips_refcounts || run->refcount_table_entries == 0)
        return 0;
    uint64_t offset = run->header->fields.refcount_table_offset;
    uint64_t bytes = run->refcount_table_entries * sizeof(*run->refcount_table);
    int ret = vd_qcow2_check_refer_meta(run, vd_range(offset, bytes), 1, "refcount table", err);
    for (uint64_t i = 0; i < run->refcount_table_entries && ret == 0; i++)
        if (block_entry(run, i))
            ret = refer_block(run, i, err);
    /* Not written in place if something else is there as well. */
    uint64_t first = offset >> run->geometry.cluster_bits;
    uint64_t end = vd_min(first + vd_qcow2_clusters(&run->geometry, bytes), run->clusters);
    for (uint64_t i = first; i < end; i++)
        if (vd_qcow2_counts_get(&run->counts, i) != 1)
            run->needs_rebuild = true;
    return ret;
}

/* ---- comparing ---- */

struct comparison {
    struct vd_qcow2_check_run *run;
    enum vdisk_repair repair;
    uint64_t changed_first; /* bytes of the block; changed_end: none */
    uint64_t changed_end;
};

static int write_block(struct comparison *comparison, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = comparison->run;
    if (comparison->changed_end == 0)
        return 0;
    uint64_t offset = block_entry(run, run->block_index) & ~VD_QCOW2_REFTABLE_RESERVED;
    uint64_t first = vd_round_down(comparison->changed_first, 512);
    uint64_t end = vd_round_up(comparison->changed_end, 512);
    comparison->changed_first = UINT64_MAX;
    comparison->changed_end = 0;
    return vd_storage_pwrite(run->file, run->block + first, (size_t)(end - first), offset + first,
                             err);
}

static void set_refcount(struct comparison *comparison, uint64_t cluster, uint64_t value)
{
    struct vd_qcow2_check_run *run = comparison->run;
    uint32_t index = (uint32_t)(cluster % run->geometry.block_entries);
    uint64_t bit = (uint64_t)index << run->geometry.refcount_order;
    vd_qcow2_check_put_refcount(run->geometry.refcount_order, run->block, index, value);
    comparison->changed_first = vd_min(comparison->changed_first, bit / 8);
    comparison->changed_end = vd_max(comparison->changed_end,
                                     (bit + (UINT64_C(1) << run->geometry.refcount_order) + 7) / 8);
}

/* The finding about one cluster, and what it takes to mend it. */
static void judge(struct comparison *comparison, uint64_t cluster, uint64_t stored,
                  uint64_t references)
{
    struct vd_qcow2_check_run *run = comparison->run;
    struct vdisk_check_result *result = run->result;
    uint64_t excess =
        references > run->geometry.refcount_max ? references - run->geometry.refcount_max : 0;
    if (excess) {
        run->has_excess = true;
        vd_qcow2_check_corruption(run, excess,
                                  "cluster %" PRIu64 ": %" PRIu64 " references are more than a "
                                  "refcount of %u bits holds",
                                  cluster, references, 1u << run->geometry.refcount_order);
    }
    references -= excess;
    if (stored == references)
        return;
    bool is_leak = stored > references;
    if (is_leak)
        vd_qcow2_check_tell(
            run, "cluster %" PRIu64 ": leaked: refcount %" PRIu64 ", %" PRIu64 " references",
            cluster, stored, references);
    else
        vd_qcow2_check_tell(run,
                            "cluster %" PRIu64 ": refcount %" PRIu64 ", but %" PRIu64 " references",
                            cluster, stored, references);
    bool is_mended = comparison->repair == VDISK_REPAIR_ALL ||
                     (comparison->repair == VDISK_REPAIR_LEAKS && is_leak);
    if (state_of_block(run, cluster / run->geometry.block_entries) != BLOCK_THERE) {
        run->needs_rebuild = true;
        is_mended = false;
    }
    if (is_mended)
        set_refcount(comparison, cluster, references);
    if (is_leak)
        *(is_mended ? &result->leaks_fixed : &result->leaks) += 1;
    else
        *(is_mended ? &result->corruptions_fixed : &result->corruptions) += 1;
}

/* Clusters of one block and one page. */
static int compare_some(struct comparison *comparison, uint64_t first, uint32_t count,
                        struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = comparison->run;
    uint64_t values[PAGE];
    uint64_t index = first / run->geometry.block_entries;
    const struct vd_qcow2_counts_page *page = vd_qcow2_counts_look(&run->counts, first);
    enum block_state state = state_of_block(run, index);
    if (state == BLOCK_BROKEN) {
        run->result->check_errors += count;
        return 0;
    }
    bool has_values = false;
    if (state == BLOCK_THERE) {
        int ret = run->block_index == index ? 0 : write_block(comparison, err);
        if (ret < 0)
            return ret;
        if (load_block(run, index) != 0) {
            run->result->check_errors += count;
            return 0;
        }
        has_values = !run->block_is_empty;
    }
    if (has_values)
        get_refcounts(run->geometry.refcount_order, run->block, first % run->geometry.block_entries,
                      count, values);
    for (uint32_t i = 0; (has_values || page) && i < count; i++) {
        uint64_t stored = has_values ? values[i] : 0;
        uint64_t references = page ? page->counts[(first + i) % PAGE] : 0;
        if (stored | references)
            run->end = vd_max(run->end, first + i + 1);
        if (stored == references && references < UINT8_MAX &&
            references <= run->geometry.refcount_max)
            continue;
        judge(comparison, first + i, stored, vd_qcow2_counts_get(&run->counts, first + i));
    }
    return 0;
}

int vd_qcow2_check_compare(struct vd_qcow2_check_run *run, enum vdisk_repair repair,
                           struct vdisk_error *err)
{
    struct comparison comparison = {
        .run = run,
        .repair = repair,
        .changed_first = UINT64_MAX,
    };
    int ret = 0;
    uint64_t end = vd_max(run->clusters, run->end);
    run->end = 0;
    for (uint64_t first = 0; first < end && ret == 0;) {
        uint64_t in_page = PAGE - first % PAGE;
        uint64_t in_block = run->geometry.block_entries - first % run->geometry.block_entries;
        uint32_t count = (uint32_t)vd_min(end - first, vd_min(in_page, in_block));
        ret = compare_some(&comparison, first, count, err);
        first += count;
    }
    if (ret == 0)
        ret = write_block(&comparison, err);
    return ret;
}
