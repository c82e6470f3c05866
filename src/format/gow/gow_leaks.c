/* SPDX-License-Identifier: MIT */
/* Space that a GOW image takes though nothing leads to it.  gow §8. */
#include <inttypes.h>

#include "format/gow/gow_check.h"
#include "util/iov.h"
#include "util/mem.h"

struct leaks {
    struct vd_gow_check_run *run;
    const struct vd_bits *used;
    uint32_t end; /* host blocks from here on are free */
    void *buffer; /* room for a block */
    bool knows_holes;
    uint64_t inner; /* host blocks before end that are leaked */
    uint64_t tail;  /* and at or behind it */
};

/*
 * Neighbours may share a unit of the file system with a hole, so that a block seems to take space
 * which it can not give back.  A block without content is no leak.
 */
static int look_at_block(struct leaks *leaks, uint32_t host, struct vdisk_error *err)
{
    struct vd_gow *gow = leaks->run->gow;
    uint64_t offset = vd_gow_host_offset(&gow->layout, host);
    if (leaks->knows_holes) {
        int ret = vd_storage_pread(gow->file, leaks->buffer, VD_GOW_BLOCK_BYTES, offset, err);
        if (ret < 0 || vd_buffer_is_zero(leaks->buffer, VD_GOW_BLOCK_BYTES))
            return ret;
    }
    vd_check_report(leaks->run->check,
                    "host block %" PRIu32 " at offset %" PRIu64
                    " takes space, but no block of the disk leads to it",
                    host, offset);
    if (host < leaks->end)
        leaks->inner++;
    else
        leaks->tail++;
    return 0;
}

/* Looks for data in host blocks [@first, @end), which are free. */
static int look_at_run(struct leaks *leaks, uint32_t first, uint32_t end, struct vdisk_error *err)
{
    struct vd_gow *gow = leaks->run->gow;
    uint64_t offset = vd_gow_host_offset(&gow->layout, first);
    uint64_t end_offset = vd_gow_host_offset(&gow->layout, end);
    while (offset < end_offset) {
        struct vd_storage_extent extent;
        int ret = vd_storage_extent(gow->file, vd_range(offset, end_offset - offset), &extent, err);
        if (ret < 0)
            return ret;
        if (extent.kind == VD_STORAGE_HOLE) {
            offset += extent.length;
            continue;
        }
        uint32_t host = vd_gow_host_count(&gow->layout, offset);
        ret = look_at_block(leaks, host, err);
        if (ret < 0)
            return ret;
        offset = vd_gow_host_offset(&gow->layout, host + 1);
    }
    return 0;
}

static int give_back_run(struct leaks *leaks, uint32_t first, uint32_t end, struct vdisk_error *err)
{
    struct vd_gow *gow = leaks->run->gow;
    uint64_t offset = vd_gow_host_offset(&gow->layout, first);
    return vd_storage_discard(
        gow->file, vd_range(offset, vd_gow_host_offset(&gow->layout, end) - offset), err);
}

/* Calls @fn for each run of free host blocks in [@first, @end). */
static int for_each_free(struct leaks *leaks, uint32_t first, uint32_t end,
                         int (*fn)(struct leaks *leaks, uint32_t first, uint32_t end,
                                   struct vdisk_error *err),
                         struct vdisk_error *err)
{
    int ret = 0;
    while (first < end && ret == 0) {
        uint32_t start = end;
        uint32_t count = vd_bits_next_run(leaks->used, first, &start);
        start = (uint32_t)vd_min(start, end);
        if (start > first)
            ret = fn(leaks, first, start, err);
        first = start + count;
    }
    return ret;
}

static int give_back(struct leaks *leaks, struct vdisk_error *err)
{
    struct vd_gow_check_run *run = leaks->run;
    struct vd_gow *gow = run->gow;
    struct vdisk_check_result *result = run->check->result;
    int ret = for_each_free(leaks, 0, leaks->end, give_back_run, err);
    if (ret == 0 && (vd_storage_caps(gow->file) & VD_STORAGE_CAN_DISCARD))
        result->leaks_fixed += leaks->inner;

    uint64_t wanted = vd_gow_file_bytes(&gow->layout, leaks->end);
    if (ret == 0 && gow->can_resize && !run->tail_is_used) {
        if (run->file_bytes > wanted)
            ret = vd_storage_resize(gow->file, wanted, err);
        if (ret == 0)
            result->leaks_fixed += leaks->tail;
        vd_mutex_lock(&gow->tables.lock);
        if (ret == 0)
            gow->file_hosts = leaks->end;
        vd_mutex_unlock(&gow->tables.lock);
    }
    return ret < 0 ? ret : vd_storage_flush(gow->file, err);
}

static int look(struct leaks *leaks, struct vdisk_error *err)
{
    struct vd_gow_check_run *run = leaks->run;
    struct vd_gow *gow = run->gow;
    int ret = 0;
    /* Elsewhere a free block within the file is a place for later, not a loss. */
    if (leaks->knows_holes)
        ret = for_each_free(leaks, 0, leaks->end, look_at_run, err);
    if (ret == 0 && (leaks->knows_holes || gow->can_resize) && leaks->end < run->hosts)
        ret = look_at_run(leaks, leaks->end, run->hosts, err);
    uint64_t tail_bytes = vd_gow_tail_bytes(&gow->layout, run->file_bytes);
    if (ret == 0 && (leaks->knows_holes || gow->can_resize) && tail_bytes && !run->tail_is_used) {
        vd_check_report(run->check,
                        "the last %" PRIu64 " bytes of the file are no whole host block",
                        tail_bytes);
        leaks->tail++;
    }
    return ret;
}

int vd_gow_check_leaks(struct vd_gow_check_run *run, bool must_give_back, struct vdisk_error *err)
{
    struct vd_gow *gow = run->gow;
    struct vdisk_check_result *result = run->check->result;
    struct vd_bits used = run->seen;
    vd_mutex_lock(&gow->tables.lock);
    if (gow->used_is_known)
        used = gow->used; /* repairs have moved blocks */
    uint32_t hosts = gow->file_hosts;
    vd_mutex_unlock(&gow->tables.lock);
    run->hosts = (uint32_t)vd_max(run->hosts, hosts);
    int ret = vd_storage_size(gow->file, &run->file_bytes, err);
    if (ret < 0)
        return ret;

    CLEANUP_FREE void *buffer = vd_alloc_io(VD_GOW_BLOCK_BYTES);
    if (!buffer)
        return vd_err_nomem(err, "a block");
    struct leaks leaks = {
        .run = run,
        .used = &used,
        .end = vd_bits_end(&used),
        .buffer = buffer,
        .knows_holes = (vd_storage_caps(gow->file) & VD_STORAGE_CAN_EXTENTS) != 0,
    };
    ret = look(&leaks, err);
    result->image_end_offset = vd_min(vd_gow_file_bytes(&gow->layout, leaks.end), run->file_bytes);
    result->leaks = leaks.inner + leaks.tail;
    if (ret == 0 && must_give_back) {
        ret = give_back(&leaks, err);
        result->leaks -= result->leaks_fixed;
    }
    return ret;
}
