/* SPDX-License-Identifier: MIT */
/* References to the clusters of a file: qcow2_counts.h. */
#include "format/qcow2/qcow2_counts.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "util/mem.h"
#include "util/range.h"

#define LARGE_ENTRIES_MIN 64u

int vd_qcow2_counts_init(struct vd_qcow2_counts *counts, uint64_t clusters, uint64_t bytes_max,
                         struct vdisk_error *err)
{
    assert(clusters <= VD_QCOW2_COUNTS_MAX);
    *counts = (struct vd_qcow2_counts){
        .clusters = clusters,
        .bytes_max = bytes_max,
        .page_entries = vd_div_up(clusters, VD_QCOW2_COUNTS_PAGE),
    };
    /* Zeroed memory of the system is not touched before it is needed: not counted as taken. */
    counts->pages = vd_alloc_array((size_t)counts->page_entries, sizeof(*counts->pages));
    return counts->pages ? 0 : vd_err_nomem(err, "the references to clusters");
}

void vd_qcow2_counts_free(struct vd_qcow2_counts *counts)
{
    for (uint64_t i = 0; counts->pages && i < counts->page_entries; i++)
        free(counts->pages[i]);
    free(counts->pages);
    free(counts->large);
    *counts = (struct vd_qcow2_counts){0};
}

static int take(struct vd_qcow2_counts *counts, uint64_t bytes, struct vdisk_error *err)
{
    if (bytes > counts->bytes_max - vd_min(counts->bytes, counts->bytes_max))
        return vd_err_set(err, ENOMEM,
                          "the references to clusters: a check of this image takes more than the "
                          "limit of %" PRIu64 " bytes of memory",
                          counts->bytes_max);
    counts->bytes += bytes;
    return 0;
}

struct vd_qcow2_counts_page *vd_qcow2_counts_page(struct vd_qcow2_counts *counts, uint64_t cluster,
                                                  struct vdisk_error *err)
{
    assert(cluster < counts->clusters);
    struct vd_qcow2_counts_page **page = &counts->pages[cluster / VD_QCOW2_COUNTS_PAGE];
    if (*page || take(counts, sizeof(**page), err) < 0)
        return *page;
    *page = vd_alloc_array(1, sizeof(**page));
    if (!*page)
        vd_err_nomem(err, "the references to clusters");
    return *page;
}

/* ---- what a byte can not hold ---- */

static size_t find_large(const struct vd_qcow2_counts *counts, uint64_t cluster)
{
    size_t mask = counts->large_entries - 1;
    size_t i = (size_t)((cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & mask;
    while (counts->large[i].cluster && counts->large[i].cluster != cluster + 1)
        i = (i + 1) & mask;
    return i;
}

static int grow_large(struct vd_qcow2_counts *counts, struct vdisk_error *err)
{
    struct vd_qcow2_counts old = *counts;
    size_t entries = old.large_entries ? old.large_entries * 2 : LARGE_ENTRIES_MIN;
    int ret = take(counts, (entries - old.large_entries) * sizeof(*counts->large), err);
    if (ret < 0)
        return ret;
    counts->large = vd_alloc_array(entries, sizeof(*counts->large));
    if (!counts->large) {
        counts->large = old.large;
        return vd_err_nomem(err, "the references to clusters");
    }
    counts->large_entries = entries;
    for (size_t i = 0; i < old.large_entries; i++)
        if (old.large[i].cluster)
            counts->large[find_large(counts, old.large[i].cluster - 1)] = old.large[i];
    free(old.large);
    return 0;
}

static int add_large(struct vd_qcow2_counts *counts, uint64_t cluster, uint64_t count,
                     struct vdisk_error *err)
{
    if (counts->large_used * 2 >= counts->large_entries) {
        int ret = grow_large(counts, err);
        if (ret < 0)
            return ret;
    }
    struct vd_qcow2_large *large = &counts->large[find_large(counts, cluster)];
    counts->large_used += large->cluster == 0;
    large->cluster = cluster + 1;
    large->count = count > UINT64_MAX - large->count ? UINT64_MAX : large->count + count;
    return 0;
}

int vd_qcow2_counts_add(struct vd_qcow2_counts *counts, uint64_t cluster, uint64_t references,
                        struct vdisk_error *err)
{
    struct vd_qcow2_counts_page *page = vd_qcow2_counts_page(counts, cluster, err);
    if (!page)
        return -ENOMEM;
    uint8_t *count = &page->counts[cluster % VD_QCOW2_COUNTS_PAGE];
    if (*count < UINT8_MAX && references < (uint64_t)(UINT8_MAX - *count)) {
        *count = (uint8_t)(*count + references);
        return 0;
    }
    uint64_t before = *count < UINT8_MAX ? *count : 0;
    references = references > UINT64_MAX - before ? UINT64_MAX : references + before;
    int ret = add_large(counts, cluster, references, err);
    if (ret == 0)
        *count = UINT8_MAX;
    return ret;
}

uint64_t vd_qcow2_counts_get(const struct vd_qcow2_counts *counts, uint64_t cluster)
{
    const struct vd_qcow2_counts_page *page = vd_qcow2_counts_look(counts, cluster);
    uint8_t count = page ? page->counts[cluster % VD_QCOW2_COUNTS_PAGE] : 0;
    return count < UINT8_MAX ? count : counts->large[find_large(counts, cluster)].count;
}

static int set_bit(struct vd_qcow2_counts_page *page, uint64_t *bits, uint64_t cluster)
{
    if (!page)
        return -ENOMEM;
    uint32_t i = (uint32_t)(cluster % VD_QCOW2_COUNTS_PAGE);
    bits[i / 64] |= UINT64_C(1) << (i % 64);
    return 0;
}

int vd_qcow2_counts_set_one(struct vd_qcow2_counts *counts, uint64_t cluster,
                            struct vdisk_error *err)
{
    struct vd_qcow2_counts_page *page = vd_qcow2_counts_page(counts, cluster, err);
    return set_bit(page, page ? page->ones : NULL, cluster);
}

int vd_qcow2_counts_set_meta(struct vd_qcow2_counts *counts, uint64_t cluster,
                             struct vdisk_error *err)
{
    struct vd_qcow2_counts_page *page = vd_qcow2_counts_page(counts, cluster, err);
    return set_bit(page, page ? page->meta : NULL, cluster);
}
