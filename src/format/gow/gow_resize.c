/* SPDX-License-Identifier: MIT */
/* A new size for the disk of a GOW image.  No other call runs.  gow §6.4. */
#include <inttypes.h>

#include "format/gow/gow_priv.h"
#include "util/iov.h"
#include "util/mem.h"

/* Makes the block that is cut by @size, if there is one, read as zero from there on. */
static int zero_behind(struct vd_gow *gow, uint64_t size, struct vdisk_error *err)
{
    struct vd_gow_run run;
    if (vd_is_aligned(size, VD_GOW_BLOCK_BYTES))
        return 0;
    vd_mutex_lock(&gow->tables.lock);
    int ret = vd_gow_find_run_locked(gow, vd_range(size, 1), &run, err);
    vd_mutex_unlock(&gow->tables.lock);
    if (ret < 0 || run.host == VD_GOW_UNALLOCATED)
        return ret;

    uint64_t skip = size % VD_GOW_BLOCK_BYTES;
    struct vd_range range =
        vd_range(vd_gow_host_offset(&gow->layout, run.host) + skip, VD_GOW_BLOCK_BYTES - skip);
    CLEANUP_FREE void *buffer = vd_alloc_io((size_t)range.length);
    if (!buffer)
        return vd_err_nomem(err, "the end of a block");
    ret = vd_storage_pread(gow->file, buffer, (size_t)range.length, range.offset, err);
    if (ret < 0 || vd_buffer_is_zero(buffer, (size_t)range.length))
        return ret;

    bool waited = true;
    vd_mutex_lock(&gow->tables.lock);
    while (ret == 0 && waited) {
        waited = false;
        ret = vd_gow_find_run_locked(gow, vd_range(size, 1), &run, err);
        if (ret == 0)
            ret = vd_gow_ready_locked(gow, &run, false, &waited, err);
    }
    vd_mutex_unlock(&gow->tables.lock);
    return ret < 0 ? ret : vd_storage_write_zeroes(gow->file, range, 0, err);
}

/* The blocks that the disk gets have to be unallocated: gow §4.1 says so, but is it true? */
static int clear_entries(struct vd_gow *gow, uint32_t first, uint32_t end, struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&gow->tables.lock);
    for (uint32_t block = first; block < end && ret == 0;) {
        struct vd_gow_run run = {.first = block, .count = 1};
        uint64_t offset = vd_gow_map_entry_offset(&gow->layout, block);
        bool waited = false;
        ret = vd_table_cache_get_locked(&gow->tables, offset, &run.page, &waited, err);
        if (ret < 0)
            break;
        uint64_t page_end = vd_table_page_end(&gow->tables, run.page);
        const struct le32 *entries = vd_table_page_at(run.page, offset);
        for (uint32_t i = 0; block < end && vd_gow_map_entry_offset(&gow->layout, block) < page_end;
             i++, block++) {
            run.first = block;
            if (le32_get(entries[i]) != VD_GOW_UNALLOCATED)
                vd_gow_set_entries_locked(gow, &run, VD_GOW_UNALLOCATED);
        }
    }
    vd_mutex_unlock(&gow->tables.lock);
    return ret;
}

/* The header is the last to change, so that the blocks are clean when they become visible. */
static int grow(struct vd_format *format, uint64_t size, struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    int ret = zero_behind(gow, format->size, err);
    if (ret == 0)
        ret = clear_entries(gow, vd_gow_block_count(format->size), vd_gow_block_count(size), err);
    return ret < 0 ? ret : vd_gow_flush(format, err);
}

/*
 * The header is the last to change, too: what is cut off is gone durably before, so it can not come
 * back when the disk grows again.
 */
static int shrink(struct vd_format *format, uint64_t size, struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    uint64_t start = vd_round_up(size, VD_GOW_BLOCK_BYTES);
    int ret = zero_behind(gow, size, err);
    while (ret == 0 && start < format->size) {
        struct vd_mapping mapping = {0};
        ret = vd_gow_map_zero(format, vd_range(start, format->size - start), VD_MAP_ZERO_MAY_UNMAP,
                              &mapping, err);
        if (ret == 0)
            start = vd_range_end(mapping.guest);
    }
    return ret < 0 ? ret : vd_gow_flush(format, err);
}

int vd_gow_resize(struct vd_format *format, const struct vd_resize *resize, struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    uint64_t size = resize->size;
    if (resize->preallocation != VDISK_PREALLOCATION_OFF)
        return vd_err_set(err, EINVAL, "%s: preallocation: GOW images grow as they are written",
                          vd_storage_name(gow->file));
    int ret = vd_gow_check_size(gow->layout.version, size, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", vd_storage_name(gow->file));
    if (size == format->size)
        return vd_gow_flush(format, err);

    /* One write of the header for all that may be cut off, not one a region. */
    uint32_t kept = (uint32_t)(size / VD_GOW_BLOCK_BYTES);
    uint32_t blocks = vd_gow_block_count(format->size);
    ret = vd_gow_mark(gow, kept, size < format->size ? blocks - kept : 0, err);
    if (ret == 0)
        ret = size > format->size ? grow(format, size, err) : shrink(format, size, err);
    if (ret == 0)
        ret = vd_gow_set_size(gow, size, err);
    if (ret == 0)
        format->size = size;
    return ret;
}
