/* SPDX-License-Identifier: MIT */
/*
 * Mending what a check found.  Entries are mended like a writer changes them, in a session, with
 * versions, data before map; so a power cut leaves an image that can be checked again.  gow §8.
 */
#include <inttypes.h>

#include "format/gow/gow_check.h"
#include "util/mem.h"

/* Recovers what a writer left, and begins a session with a sound header. */
static int begin(struct vd_gow_check_run *run, struct vdisk_error *err)
{
    struct vd_gow *gow = run->gow;
    vd_mutex_lock(&gow->session_lock);
    gow->header.reserved0 = 0;
    memset(gow->header.reserved1, 0, sizeof(gow->header.reserved1));
    int ret = vd_gow_recover(gow->file, &gow->header, err);
    vd_mutex_unlock(&gow->session_lock);
    if (ret == 0) /* durable now */
        run->check->result->corruptions_fixed += run->header_findings;
    if (ret == 0 && run->check->result->corruptions > run->header_findings)
        ret = vd_gow_mark(gow, 0, 0, err);
    return ret;
}

/* Readies @block for a change, and sets its entry to *@host unless that is NULL. */
static int change_entry(struct vd_gow *gow, uint32_t block, const uint32_t *host,
                        struct vdisk_error *err)
{
    struct vd_gow_run run = {.first = block, .count = 1};
    uint64_t offset = vd_gow_map_entry_offset(&gow->layout, block);
    int ret = 0;
    bool waited = true;
    vd_mutex_lock(&gow->tables.lock);
    while (ret == 0 && waited) {
        waited = false;
        ret = vd_gow_ready_locked(gow, &run, false, &waited, err);
        if (ret == 0 && !waited)
            ret = vd_table_cache_get_locked(&gow->tables, offset, &run.page, &waited, err);
    }
    if (ret == 0 && host)
        vd_gow_set_entries_locked(gow, &run, *host);
    vd_mutex_unlock(&gow->tables.lock);
    return ret;
}

/* The rest of a host block that the end of the file cuts off becomes zeros. */
static int complete_tail(struct vd_gow_check_run *run, struct vdisk_error *err)
{
    struct vd_gow *gow = run->gow;
    uint64_t wanted = vd_gow_file_bytes(&gow->layout, run->hosts + 1);
    if (!gow->can_resize)
        return vd_err_set(err, ENOSPC,
                          "%s: host block %" PRIu32 " does not fit into %" PRIu64 " bytes",
                          vd_storage_name(gow->file), run->hosts, run->file_bytes);
    int ret = change_entry(gow, run->tail_block, NULL, err);
    if (ret == 0)
        ret = vd_storage_resize(gow->file, wanted, err);
    if (ret < 0)
        return ret;
    run->file_bytes = wanted;
    run->hosts++;
    run->tail_is_used = false;
    run->check->result->corruptions_fixed++;
    return 0;
}

/* Gives @block a host block of its own with the content of @host, which another one has too. */
static int copy_block(struct vd_gow *gow, uint32_t block, uint32_t host, struct vdisk_error *err)
{
    CLEANUP_FREE void *buffer = vd_alloc_io(VD_GOW_BLOCK_BYTES);
    if (!buffer)
        return vd_err_nomem(err, "a block");
    struct vd_gow_space space;
    int ret = vd_gow_take(gow, 1, &space, err);
    if (ret == 0)
        ret = vd_storage_pread(gow->file, buffer, VD_GOW_BLOCK_BYTES,
                               vd_gow_host_offset(&gow->layout, host), err);
    if (ret == 0)
        ret = vd_storage_pwrite(gow->file, buffer, VD_GOW_BLOCK_BYTES,
                                vd_gow_host_offset(&gow->layout, space.host), err);
    return ret < 0 ? ret : change_entry(gow, block, &space.host, err);
}

static int mend(struct vd_gow_check_run *run, enum vd_gow_finding finding, uint32_t block,
                uint32_t host, struct vdisk_error *err)
{
    static const uint32_t unallocated = VD_GOW_UNALLOCATED;
    int ret = 0;
    switch (finding) {
    case VD_GOW_SOUND:
    case VD_GOW_CUT_OFF: /* complete_tail() did it */
        return 0;
    case VD_GOW_PAST_END:
    case VD_GOW_NOT_THERE:
        ret = change_entry(run->gow, block, &unallocated, err);
        break;
    case VD_GOW_DUPLICATE:
        ret = copy_block(run->gow, block, host, err);
        if (ret == 0)
            run->check->result->allocated_clusters++;
        break;
    case VD_GOW_UNVERSIONED:
        ret = change_entry(run->gow, block, NULL, err);
        break;
    }
    if (ret == 0)
        run->check->result->corruptions_fixed++;
    return ret;
}

/* Comes to the same findings as the check did, from the same file. */
static int mend_map(struct vd_gow_check_run *run, struct vdisk_error *err)
{
    struct vd_gow_part part;
    struct vd_bits seen = {0};
    int ret = vd_gow_part_alloc(&part, err);
    if (ret == 0)
        ret = vd_bits_reserve(&seen, run->hosts, err);
    for (uint32_t first = 0; first < run->gow->layout.map_entries && ret == 0;
         first += VD_GOW_PART_ENTRIES) {
        ret = vd_gow_part_read(run, first, &part, err);
        for (uint32_t i = 0; !part.is_empty && i < VD_GOW_PART_ENTRIES && ret == 0; i++) {
            uint32_t host = le32_get(part.map[i]);
            enum vd_gow_finding finding =
                vd_gow_check_entry(run, &seen, first + i, host, le32_get(part.versions[i]));
            bool is_first = finding == VD_GOW_SOUND || finding == VD_GOW_UNVERSIONED;
            if (is_first && host != VD_GOW_UNALLOCATED)
                vd_bits_add(&seen, host);
            ret = mend(run, finding, first + i, host, err);
        }
    }
    vd_bits_free(&seen);
    vd_gow_part_free(&part);
    return ret;
}

int vd_gow_repair(struct vd_gow_check_run *run, struct vdisk_error *err)
{
    struct vd_gow *gow = run->gow;
    struct vdisk_check_result *result = run->check->result;
    uint64_t found = result->corruptions;
    int ret = begin(run, err);
    if (ret == 0 && found > run->header_findings) {
        if (run->tail_is_used)
            ret = complete_tail(run, err);
        vd_mutex_lock(&gow->tables.lock);
        gow->used = run->seen;
        run->seen = (struct vd_bits){0};
        gow->used_is_known = true;
        gow->file_hosts = run->hosts;
        vd_mutex_unlock(&gow->tables.lock);
        if (ret == 0)
            ret = mend_map(run, err);
        if (ret == 0)
            ret = vd_gow_flush(gow->format, err);
    }
    result->corruptions = found - result->corruptions_fixed;
    return ret;
}
