/* SPDX-License-Identifier: MIT */
/* Refcounts of all widths. */
#include "format/qcow2/qcow2_refs.h"

#include <inttypes.h>
#include <stdlib.h>

/* Refcounts of so many pages are looked through in one search. */
#define SEARCH_PAGES 4096u

#define NO_BLOCK     UINT64_MAX

uint64_t vd_qcow2_refcount_get(const uint8_t *bytes, uint64_t bit, unsigned order)
{
    const uint8_t *at = bytes + bit / 8;
    switch (order) {
    case 3:
        return *at;
    case 4:
        return be16_get(*(const struct be16 *)at);
    case 5:
        return be32_get(*(const struct be32 *)at);
    case 6:
        return be64_get(*(const struct be64 *)at);
    default:
        return (*at >> (bit % 8)) & ((1u << (1u << order)) - 1);
    }
}

void vd_qcow2_refcount_set(uint8_t *bytes, uint64_t bit, unsigned order, uint64_t value)
{
    uint8_t *at = bytes + bit / 8;
    unsigned mask;
    switch (order) {
    case 3:
        *at = (uint8_t)value;
        break;
    case 4:
        *(struct be16 *)at = be16_of((uint16_t)value);
        break;
    case 5:
        *(struct be32 *)at = be32_of((uint32_t)value);
        break;
    case 6:
        *(struct be64 *)at = be64_of(value);
        break;
    default:
        mask = ((1u << (1u << order)) - 1) << (bit % 8);
        *at = (uint8_t)((*at & ~mask) | ((unsigned)value << (bit % 8)));
    }
}

/* Refcounts that lie in one page, from @bit of @bytes on; or that are all 0 for lack of a block. */
struct stretch {
    uint64_t clusters;
    uint64_t offset; /* of the file; NO_BLOCK */
    uint8_t *bytes;
    uint64_t bit;
    struct vd_table_page *page;
};

static int bad_block(const struct vd_qcow2 *qcow2, uint64_t index, uint64_t value,
                     struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG,
                      "%s: refcount table entry %" PRIu64 ": refcount block at offset 0x%" PRIx64
                      " is not aligned, or lies behind the end of the file: run vdisk check",
                      vd_storage_name(qcow2->file), index, value);
}

/* *block: 0: there is none. */
static int find_block_locked(struct vd_qcow2 *qcow2, uint64_t index, uint64_t *block,
                             struct vdisk_error *err) VD_REQUIRES(qcow2->writer->refs.lock)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    uint64_t at = qcow2->header.fields.refcount_table_offset + index * 8;
    struct vd_table_page *page;
    bool waited = false;
    *block = 0;
    if (index >= vd_qcow2_refcount_table_entries(qcow2))
        return 0;
    int ret = vd_table_cache_get_locked(&qcow2->writer->refs, at, &page, &waited, err);
    if (ret < 0)
        return ret;
    uint64_t value = be64_get(*(const struct be64 *)vd_table_page_at(page, at));
    if (value &&
        (!vd_is_aligned(value, qcow2->geometry.cluster_bytes) || value >= writer->file_bytes))
        return bad_block(qcow2, index, value, err);
    *block = value;
    return 0;
}

/* The start of @clusters. */
static int look_locked(struct vd_qcow2 *qcow2, struct vd_range clusters, struct stretch *stretch,
                       struct vdisk_error *err) VD_REQUIRES(qcow2->writer->refs.lock)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t in_block = clusters.offset & (geometry->block_entries - 1);
    uint64_t block;
    bool waited = false;
    int ret = find_block_locked(qcow2, clusters.offset / geometry->block_entries, &block, err);
    if (ret < 0)
        return ret;
    *stretch =
        (struct stretch){.clusters = vd_min(clusters.length, geometry->block_entries - in_block),
                         .offset = NO_BLOCK};
    if (block == 0)
        return 0;
    stretch->offset = block + ((in_block << geometry->refcount_order) / 8);
    ret = vd_table_cache_get_locked(&qcow2->writer->refs, stretch->offset, &stretch->page, &waited,
                                    err);
    if (ret < 0)
        return ret;
    stretch->bytes = vd_table_page_at(stretch->page, stretch->offset);
    stretch->bit = (in_block << geometry->refcount_order) % 8;
    uint64_t end = vd_min(vd_table_page_end(&qcow2->writer->refs, stretch->page),
                          block + geometry->cluster_bytes);
    stretch->clusters = vd_min(stretch->clusters, ((end - stretch->offset) * 8 - stretch->bit) >>
                                                      geometry->refcount_order);
    return 0;
}

static uint64_t get(const struct vd_qcow2 *qcow2, const struct stretch *stretch, uint64_t i)
{
    unsigned order = qcow2->geometry.refcount_order;
    if (stretch->offset == NO_BLOCK)
        return 0;
    return vd_qcow2_refcount_get(stretch->bytes, stretch->bit + (i << order), order);
}

static void set(const struct vd_qcow2 *qcow2, const struct stretch *stretch, uint64_t i,
                uint64_t count)
{
    unsigned order = qcow2->geometry.refcount_order;
    vd_qcow2_refcount_set(stretch->bytes, stretch->bit + (i << order), order, count);
}

/* All of @stretch was changed. */
static void changed_locked(struct vd_qcow2 *qcow2, const struct stretch *stretch)
    VD_REQUIRES(qcow2->writer->refs.lock)
{
    uint64_t bits = stretch->bit + (stretch->clusters << qcow2->geometry.refcount_order);
    vd_table_page_changed_locked(&qcow2->writer->refs, stretch->page, stretch->offset,
                                 (size_t)vd_div_up(bits, 8));
}

int vd_qcow2_refs_get(struct vd_qcow2 *qcow2, uint64_t cluster, uint64_t *count,
                      struct vdisk_error *err)
{
    struct stretch stretch;
    vd_mutex_lock(&qcow2->writer->refs.lock);
    int ret = look_locked(qcow2, vd_range(cluster, 1), &stretch, err);
    if (ret == 0)
        *count = get(qcow2, &stretch, 0);
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    return ret;
}

static int too_many(const struct vd_qcow2 *qcow2, uint64_t cluster, struct vdisk_error *err)
{
    return vd_err_set(err, E2BIG,
                      "%s: cluster at offset 0x%" PRIx64 ": %" PRIu64
                      " references are as many as refcounts of %u bits can count: run vdisk amend "
                      "-o refcount_bits= with more",
                      vd_storage_name(qcow2->file), cluster << qcow2->geometry.cluster_bits,
                      qcow2->geometry.refcount_max, 1u << qcow2->geometry.refcount_order);
}

/* Can all of @clusters be counted once more? */
static int check_up_locked(struct vd_qcow2 *qcow2, struct vd_range clusters,
                           struct vdisk_error *err) VD_REQUIRES(qcow2->writer->refs.lock)
{
    struct stretch stretch;
    for (uint64_t done = 0; done < clusters.length; done += stretch.clusters) {
        int ret = look_locked(qcow2, vd_range(clusters.offset + done, clusters.length - done),
                              &stretch, err);
        if (ret < 0)
            return ret;
        assert(stretch.offset != NO_BLOCK);
        for (uint64_t i = 0; i < stretch.clusters; i++)
            if (get(qcow2, &stretch, i) == qcow2->geometry.refcount_max)
                return too_many(qcow2, clusters.offset + done + i, err);
    }
    return 0;
}

int vd_qcow2_refs_up(struct vd_qcow2 *qcow2, struct vd_range clusters, struct vdisk_error *err)
{
    struct stretch stretch;
    vd_mutex_lock(&qcow2->writer->refs.lock);
    int ret = check_up_locked(qcow2, clusters, err);
    /* What a failure leaves behind in the middle is counted too high. */
    for (uint64_t done = 0; ret == 0 && done < clusters.length; done += stretch.clusters) {
        ret = look_locked(qcow2, vd_range(clusters.offset + done, clusters.length - done), &stretch,
                          err);
        if (ret < 0)
            break;
        for (uint64_t i = 0; i < stretch.clusters; i++)
            set(qcow2, &stretch, i, get(qcow2, &stretch, i) + 1);
        changed_locked(qcow2, &stretch);
    }
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    return ret;
}

int vd_qcow2_runs_add(struct vd_qcow2_runs *runs, struct vd_range run, struct vdisk_error *err)
{
    struct vd_range *last = runs->entries ? &runs->runs[runs->entries - 1] : NULL;
    if (last && vd_range_end(*last) == run.offset) {
        last->length += run.length;
        return 0;
    }
    if (runs->entries == runs->room) {
        size_t room = runs->room ? runs->room * 2 : 16;
        struct vd_range *more = reallocarray(runs->runs, room, sizeof(*more));
        if (!more)
            return vd_err_nomem(err, "a list of clusters");
        runs->runs = more;
        runs->room = room;
    }
    runs->runs[runs->entries++] = run;
    return 0;
}

static int too_few(const struct vd_qcow2 *qcow2, uint64_t cluster, struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG,
                      "%s: cluster at offset 0x%" PRIx64
                      " is not in use by its refcount, but was: run vdisk check",
                      vd_storage_name(qcow2->file), cluster << qcow2->geometry.cluster_bits);
}

static int down_one(struct vd_qcow2 *qcow2, struct stretch *stretch, uint64_t i, uint64_t cluster,
                    struct vd_qcow2_runs *last, struct vdisk_error *err)
{
    uint64_t count = get(qcow2, stretch, i);
    if (count == 0)
        return too_few(qcow2, cluster, err);
    if (count == 1 && last)
        return vd_qcow2_runs_add(last, vd_range(cluster, 1), err);
    set(qcow2, stretch, i, count - 1);
    return 0;
}

int vd_qcow2_refs_down(struct vd_qcow2 *qcow2, struct vd_range clusters, struct vd_qcow2_runs *last,
                       struct vdisk_error *err)
{
    struct stretch stretch;
    int ret = 0;
    vd_mutex_lock(&qcow2->writer->refs.lock);
    for (uint64_t done = 0; ret == 0 && done < clusters.length; done += stretch.clusters) {
        ret = look_locked(qcow2, vd_range(clusters.offset + done, clusters.length - done), &stretch,
                          err);
        if (ret == 0 && stretch.offset == NO_BLOCK)
            ret = too_few(qcow2, clusters.offset + done, err);
        if (ret < 0)
            break;
        for (uint64_t i = 0; ret == 0 && i < stretch.clusters; i++)
            ret = down_one(qcow2, &stretch, i, clusters.offset + done + i, last, err);
        changed_locked(qcow2, &stretch);
    }
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    return ret;
}

/* Adds the free ones of @stretch, from @start on, to *run; true: *run is all that is wanted. */
static bool search_stretch(const struct vd_qcow2 *qcow2, const struct stretch *stretch,
                           uint64_t start, const struct vd_qcow2_search *search,
                           struct vd_range *run)
{
    for (uint64_t i = 0; i < stretch->clusters; i++) {
        if (get(qcow2, stretch, i) == 0) {
            if (run->length == 0)
                run->offset = start + i;
            if (++run->length == search->wanted)
                return true;
        } else if (run->length && !search->is_whole) {
            return true;
        } else {
            run->length = 0;
        }
    }
    return false;
}

int vd_qcow2_refs_find(struct vd_qcow2 *qcow2, const struct vd_qcow2_search *search,
                       struct vd_range *run, uint64_t *looked, struct vdisk_error *err)
{
    struct vd_range rest = search->within;
    bool is_found = false;
    int ret = 0;
    *run = vd_range(0, 0);
    vd_mutex_lock(&qcow2->writer->refs.lock);
    for (unsigned i = 0; i < SEARCH_PAGES && rest.length && !is_found; i++) {
        struct stretch stretch;
        ret = look_locked(qcow2, rest, &stretch, err);
        if (ret < 0)
            break;
        is_found = search_stretch(qcow2, &stretch, rest.offset, search, run);
        rest = vd_range(rest.offset + stretch.clusters, rest.length - stretch.clusters);
    }
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    if (ret == 0 && search->is_whole && run->length < search->wanted)
        run->length = 0;
    *looked = rest.offset;
    return ret;
}

int vd_qcow2_refs_missing(struct vd_qcow2 *qcow2, struct vd_range clusters, uint64_t *index,
                          struct vdisk_error *err)
{
    uint64_t first = clusters.offset / qcow2->geometry.block_entries;
    uint64_t last = (vd_range_end(clusters) - 1) / qcow2->geometry.block_entries;
    uint64_t block = 1;
    int ret = 0;
    *index = UINT64_MAX;
    vd_mutex_lock(&qcow2->writer->refs.lock);
    for (uint64_t i = first; ret == 0 && block && i <= last; i++) {
        ret = find_block_locked(qcow2, i, &block, err);
        if (ret == 0 && block == 0)
            *index = i;
    }
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    if (ret == 0 && *index != UINT64_MAX && *index >= vd_qcow2_refcount_table_entries(qcow2))
        ret = VD_QCOW2_NEEDS_TABLE;
    return ret;
}

/* Puts the empty block into the cache, and its entry into the table. */
static int put_block_locked(struct vd_qcow2 *qcow2, uint64_t index, uint64_t host,
                            struct vdisk_error *err) VD_REQUIRES(qcow2->writer->refs.lock)
{
    uint64_t at = qcow2->header.fields.refcount_table_offset + index * 8;
    struct vd_table_page *page;
    bool waited = false;
    int ret = vd_table_cache_get_locked(&qcow2->writer->refs, at, &page, &waited, err);
    if (ret < 0)
        return ret;
    vd_table_cache_pin_locked(&qcow2->writer->refs, at);
    ret = vd_table_cache_put_locked(&qcow2->writer->refs, host, NULL, qcow2->geometry.cluster_bytes,
                                    err); /* W7 */
    page = vd_table_cache_unpin_locked(&qcow2->writer->refs, at);
    if (ret < 0)
        return ret;
    *(struct be64 *)vd_table_page_at(page, at) = be64_of(host);
    vd_table_page_changed_locked(&qcow2->writer->refs, page, at, 8);
    return 0;
}

int vd_qcow2_refs_make_block(struct vd_qcow2 *qcow2, uint64_t index, uint64_t cluster,
                             struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    uint32_t cluster_bytes = qcow2->geometry.cluster_bytes;
    uint64_t host = cluster * cluster_bytes;
    int ret = vd_qcow2_set_aside(qcow2, &writer->aside, vd_range(host, cluster_bytes), err);
    vd_mutex_lock(&qcow2->tables.lock);
    if (ret == 0)
        ret = vd_qcow2_meta_reserve_locked(qcow2, 1, err);
    if (ret == 0)
        vd_qcow2_meta_add_locked(qcow2, VD_QCOW2_META_REFCOUNT_BLOCK, cluster);
    vd_mutex_unlock(&qcow2->tables.lock);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->writer->refs.lock);
    ret = put_block_locked(qcow2, index, host, err);
    vd_mutex_unlock(&qcow2->writer->refs.lock);
    if (ret < 0) {
        vd_qcow2_meta_remove(qcow2, host, 1);
        return ret;
    }
    writer->has_new_blocks = true;
    /* It is in use from now on, so a failure here must not leave it uncounted. */
    struct vdisk_error inner = {0};
    ret = vd_qcow2_refs_up(qcow2, vd_range(cluster, 1), &inner);
    if (ret < 0) {
        vd_format_fail(qcow2->format, &inner);
        return vd_err_copy(err, &inner);
    }
    return 0;
}
