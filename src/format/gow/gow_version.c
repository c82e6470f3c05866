/* SPDX-License-Identifier: MIT */
/* Block versions: gow §4.2, §5.3. */
#include <inttypes.h>
#include <stdlib.h>

#include "format/gow/gow_priv.h"
#include "util/iov.h"
#include "util/mem.h"

#define BUMPED_BYTES (VD_GOW_REGION_BLOCKS / 8)

static bool is_bumped_locked(const struct vd_gow *gow, uint32_t block)
{
    const uint8_t *bits = gow->bumped[vd_gow_region_of(block)];
    uint32_t in_region = block % VD_GOW_REGION_BLOCKS;
    return bits && (bits[in_region / 8] >> (in_region % 8)) & 1;
}

bool vd_gow_is_bumped_locked(const struct vd_gow *gow, const struct vd_gow_run *run)
{
    for (uint32_t i = 0; i < run->count; i++)
        if (!gow->bumped || !is_bumped_locked(gow, run->first + i))
            return false;
    return true;
}

static int reserve_bumped_locked(struct vd_gow *gow, const struct vd_gow_run *run,
                                 struct vdisk_error *err)
{
    uint32_t last = vd_gow_region_of(run->first + run->count - 1);
    for (uint32_t region = vd_gow_region_of(run->first); region <= last; region++) {
        if (!gow->bumped[region])
            gow->bumped[region] = vd_alloc_array(BUMPED_BYTES, 1);
        if (!gow->bumped[region])
            return vd_err_nomem(err, "the list of changed blocks");
    }
    return 0;
}

/* The blocks at the start of @run whose version can go up, or did. */
static uint32_t count_able_locked(const struct vd_gow *gow, const struct vd_gow_run *run,
                                  const struct le32 *versions)
{
    uint32_t able = 0;
    while (able < run->count && (is_bumped_locked(gow, run->first + able) ||
                                 le32_get(versions[able]) != VD_GOW_VERSION_MAX))
        able++;
    return able;
}

int vd_gow_bump_locked(struct vd_gow *gow, struct vd_gow_run *run, bool *waited,
                       struct vdisk_error *err)
{
    uint32_t done = 0;
    while (done < run->count && is_bumped_locked(gow, run->first + done))
        done++;
    if (done == run->count)
        return 0;

    int ret = reserve_bumped_locked(gow, run, err);
    if (ret < 0)
        return ret;
    struct vd_table_page *page;
    uint64_t offset = vd_gow_version_entry_offset(&gow->layout, run->first);
    ret = vd_table_cache_get_locked(&gow->tables, offset, &page, waited, err);
    if (ret < 0 || *waited)
        return ret;

    /* Map and versions lie a multiple of the page size apart, so a run in one page of the map has
     * its versions in one page. */
    struct le32 *versions = vd_table_page_at(page, offset);
    uint32_t able = count_able_locked(gow, run, versions);
    if (able == 0)
        return vd_err_set(err, EOVERFLOW,
                          "%s: version of block %" PRIu32 " (disk offset %" PRIu64
                          ") has reached its limit of %u: convert the image to a new one",
                          vd_storage_name(gow->file), run->first, vd_gow_guest_offset(run->first),
                          VD_GOW_VERSION_MAX);
    run->count = able;
    for (uint32_t i = 0; i < able; i++) {
        uint32_t block = run->first + i;
        if (is_bumped_locked(gow, block))
            continue;
        versions[i] = le32_of(le32_get(versions[i]) + 1);
        uint32_t in_region = block % VD_GOW_REGION_BLOCKS;
        gow->bumped[vd_gow_region_of(block)][in_region / 8] |= (uint8_t)(1u << (in_region % 8));
    }
    vd_table_page_changed_locked(&gow->tables, page, offset, (size_t)able * VD_GOW_ENTRY_BYTES);
    return 0;
}

/*
 * Who reads an image that a writer has not closed can not know which of the blocks in its marked
 * regions have changed: gow §5.2.  A writer has mended that when it opened the image.
 */
static int check_versions(struct vd_gow *gow, struct vdisk_error *err)
{
    if (vd_format_is_writable(gow->format))
        return 0;
    vd_mutex_lock(&gow->session_lock);
    bool is_behind = (gow->header.flags & VD_GOW_FLAG_DIRTY) ||
                     !vd_buffer_is_zero(gow->header.intent, sizeof(gow->header.intent));
    vd_mutex_unlock(&gow->session_lock);
    if (!is_behind)
        return 0;
    return vd_err_set(err, EUCLEAN,
                      "%s: a writer has it open, or did not close it: block versions may be behind "
                      "the changes until it is opened for writing again, and closed",
                      vd_storage_name(gow->file));
}

int vd_gow_version(struct vd_format *format, struct vd_range guest, uint32_t *version,
                   uint64_t *length, struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    uint32_t first = vd_gow_block_of(guest.offset);
    uint64_t offset = vd_gow_version_entry_offset(&gow->layout, first);
    struct vd_table_page *page;
    bool waited = false; /* all below is learned afterwards */
    int ret = check_versions(gow, err);
    if (ret < 0)
        return ret;

    vd_mutex_lock(&gow->tables.lock);
    ret = vd_table_cache_get_locked(&gow->tables, offset, &page, &waited, err);
    if (ret == 0) {
        const struct le32 *versions = vd_table_page_at(page, offset);
        uint64_t limit = (vd_table_page_end(&gow->tables, page) - offset) / VD_GOW_ENTRY_BYTES;
        uint32_t last = vd_gow_block_of(vd_range_end(guest) - 1);
        limit = vd_min(limit, last - first + 1);
        uint32_t count = 1;
        *version = le32_get(versions[0]);
        while (count < limit && le32_get(versions[count]) == *version)
            count++;
        *length = vd_min(guest.length, vd_gow_guest_offset(first + count) - guest.offset);
    }
    vd_mutex_unlock(&gow->tables.lock);
    return ret;
}
