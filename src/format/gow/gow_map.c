/* SPDX-License-Identifier: MIT */
/* The map of a GOW image: where does a block live? */
#include <inttypes.h>

#include "format/gow/gow_priv.h"

/* Is @host a block of the file?  The file may have grown since its size was looked at. */
static int check_host_locked(struct vd_gow *gow, uint32_t block, uint32_t host,
                             struct vdisk_error *err) VD_REQUIRES(gow->tables.lock)
{
    if (host < gow->file_hosts)
        return 0;
    uint64_t file_bytes;
    int ret = vd_storage_size(gow->file, &file_bytes, err);
    if (ret < 0)
        return ret;
    gow->file_hosts =
        (uint32_t)vd_max(gow->file_hosts, vd_gow_host_count(&gow->layout, file_bytes));
    if (host < gow->file_hosts)
        return 0;
    return vd_err_set(err, EBADMSG,
                      "%s: map entry of block %" PRIu32 " (disk offset %" PRIu64
                      "): host block %" PRIu32 " at offset %" PRIu64
                      " is not in the file of %" PRIu64 " bytes: run vdisk check",
                      vd_storage_name(gow->file), block, vd_gow_guest_offset(block), host,
                      vd_gow_host_offset(&gow->layout, host), file_bytes);
}

int vd_gow_find_run_locked(struct vd_gow *gow, struct vd_range guest, struct vd_gow_run *run,
                           struct vdisk_error *err)
{
    uint32_t first = vd_gow_block_of(guest.offset);
    uint64_t offset = vd_gow_map_entry_offset(&gow->layout, first);
    bool waited = false; /* all below is learned afterwards */
    int ret = vd_table_cache_get_locked(&gow->tables, offset, &run->page, &waited, err);
    if (ret < 0)
        return ret;

    const struct le32 *entries = vd_table_page_at(run->page, offset);
    uint64_t in_page = (vd_table_page_end(&gow->tables, run->page) - offset) / VD_GOW_ENTRY_BYTES;
    uint32_t limit = vd_gow_block_of(vd_range_end(guest) - 1) - first + 1;
    limit = (uint32_t)vd_min(limit, in_page); /* the last page of the map has versions behind it */

    run->first = first;
    run->host = le32_get(entries[0]);
    run->count = 1;
    if (run->host == VD_GOW_UNALLOCATED) {
        while (run->count < limit && le32_get(entries[run->count]) == VD_GOW_UNALLOCATED)
            run->count++;
        return 0;
    }
    ret = check_host_locked(gow, first, run->host, err);
    while (ret == 0 && run->count < limit && run->host + run->count < gow->file_hosts &&
           le32_get(entries[run->count]) == run->host + run->count)
        run->count++;
    return ret;
}

void vd_gow_set_entries_locked(struct vd_gow *gow, const struct vd_gow_run *run, uint32_t host)
{
    uint64_t offset = vd_gow_map_entry_offset(&gow->layout, run->first);
    struct le32 *entries = vd_table_page_at(run->page, offset);
    for (uint32_t i = 0; i < run->count; i++)
        entries[i] = le32_of(host == VD_GOW_UNALLOCATED ? host : host + i);
    vd_table_page_changed_locked(&gow->tables, run->page, offset,
                                 (size_t)run->count * VD_GOW_ENTRY_BYTES);
    gow->map_has_changed = true;
}

void vd_gow_answer(struct vd_gow *gow, struct vd_range guest, const struct vd_gow_run *run,
                   struct vd_mapping *mapping)
{
    uint64_t end = vd_gow_guest_offset(run->first) + (uint64_t)run->count * VD_GOW_BLOCK_BYTES;
    mapping->guest = vd_range(guest.offset, vd_min(guest.length, end - guest.offset));
    mapping->kind = VD_MAP_ZERO;
    if (run->host == VD_GOW_UNALLOCATED)
        return;
    mapping->kind = VD_MAP_DATA;
    mapping->present = true;
    mapping->storage = gow->file;
    mapping->host_offset =
        vd_gow_host_offset(&gow->layout, run->host) + guest.offset % VD_GOW_BLOCK_BYTES;
}

int vd_gow_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
               struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    struct vd_gow_run run;
    vd_mutex_lock(&gow->tables.lock);
    int ret = vd_gow_find_run_locked(gow, guest, &run, err);
    vd_mutex_unlock(&gow->tables.lock);
    if (ret == 0)
        vd_gow_answer(gow, guest, &run, mapping);
    return ret;
}

/* Was all done before that comes before an overwrite of the run? */
static bool is_ready_locked(struct vd_gow *gow, const struct vd_gow_run *run)
    VD_REQUIRES(gow->tables.lock)
{
    return run->host != VD_GOW_UNALLOCATED && vd_gow_is_marked(gow, run->first, run->count) &&
           (gow->layout.version != 3 || vd_gow_is_bumped_locked(gow, run));
}

int vd_gow_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                   struct vd_mapping *mapping)
{
    struct vd_gow *gow = format->state;
    struct vd_gow_run run;
    vd_mutex_lock(&gow->tables.lock);
    gow->tables.is_trying = true;
    int ret = vd_gow_find_run_locked(gow, guest, &run, NULL);
    gow->tables.is_trying = false;
    if (ret == 0 && for_write && !is_ready_locked(gow, &run))
        ret = -EAGAIN;
    vd_mutex_unlock(&gow->tables.lock);
    if (ret == 0)
        vd_gow_answer(gow, guest, &run, mapping);
    return ret;
}
