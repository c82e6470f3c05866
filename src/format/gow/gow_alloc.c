/* SPDX-License-Identifier: MIT */
/* Host blocks: which are used, and where new ones come from.  gow §6.2. */
#include <inttypes.h>

#include "format/gow/gow_priv.h"
#include "util/mem.h"

#define SCAN_BYTES (1u << 20)

static int add_entry(struct vd_gow *gow, struct vd_bits *used, uint32_t hosts, uint32_t block,
                     uint32_t host, struct vdisk_error *err)
{
    if (host == VD_GOW_UNALLOCATED)
        return 0;
    if (host >= hosts)
        return vd_err_set(err, EBADMSG,
                          "%s: map entry of block %" PRIu32 ": host block %" PRIu32
                          " is not in the file, which has %" PRIu32 ": run vdisk check",
                          vd_storage_name(gow->file), block, host, hosts);
    if (vd_bits_has(used, host))
        return vd_err_set(err, EBADMSG,
                          "%s: map entry of block %" PRIu32 ": host block %" PRIu32
                          " belongs to another block too: run vdisk check",
                          vd_storage_name(gow->file), block, host);
    int ret = vd_bits_reserve(used, host + 1, err);
    if (ret == 0)
        vd_bits_add(used, host);
    return ret;
}

/* From the file, which is up to date: nothing in the map has been changed yet. */
static int read_used(struct vd_gow *gow, uint32_t hosts, struct vd_bits *used,
                     struct vdisk_error *err)
{
    uint32_t blocks = vd_gow_block_count(gow->format->size);
    CLEANUP_FREE struct le32 *entries = vd_alloc_io(SCAN_BYTES);
    if (!entries)
        return vd_err_nomem(err, "a part of the map");
    const uint32_t step_max = SCAN_BYTES / VD_GOW_ENTRY_BYTES;
    for (uint32_t first = 0; first < blocks; first += step_max) {
        uint32_t step = (uint32_t)vd_min(step_max, blocks - first);
        int ret = vd_storage_pread(gow->file, entries, (size_t)step * VD_GOW_ENTRY_BYTES,
                                   vd_gow_map_entry_offset(&gow->layout, first), err);
        for (uint32_t i = 0; i < step && ret == 0; i++)
            ret = add_entry(gow, used, hosts, first + i, le32_get(entries[i]), err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int scan_alone(struct vd_gow *gow, struct vdisk_error *err) VD_REQUIRES(gow->alloc_lock)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(gow->file, &file_bytes, err);
    if (ret < 0)
        return ret;
    uint32_t hosts = vd_gow_host_count(&gow->layout, file_bytes);
    struct vd_bits used = {0};
    ret = read_used(gow, hosts, &used, err);
    /* A tail that is no whole block is nobody's, and must not shine through when the file grows. */
    if (ret == 0 && gow->can_resize && vd_gow_tail_bytes(&gow->layout, file_bytes))
        ret = vd_storage_resize(gow->file, file_bytes - vd_gow_tail_bytes(&gow->layout, file_bytes),
                                err);
    if (ret < 0) {
        vd_bits_free(&used);
        return ret;
    }
    vd_mutex_lock(&gow->tables.lock);
    gow->used = used;
    gow->used_is_known = true;
    gow->file_hosts = hosts;
    vd_mutex_unlock(&gow->tables.lock);
    return 0;
}

int vd_gow_scan(struct vd_gow *gow, struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&gow->alloc_lock);
    vd_mutex_lock(&gow->tables.lock);
    bool is_known = gow->used_is_known;
    vd_mutex_unlock(&gow->tables.lock);
    if (!is_known)
        ret = scan_alone(gow, err);
    vd_mutex_unlock(&gow->alloc_lock);
    return ret;
}

/* Takes the lowest free blocks of the file; space->count 0: there are none. */
static int take_free_locked(struct vd_gow *gow, uint32_t wanted, struct vd_gow_space *space,
                            struct vdisk_error *err) VD_REQUIRES(gow->tables.lock)
{
    int ret = vd_bits_reserve(&gow->used, gow->file_hosts, err);
    if (ret < 0)
        return ret;
    space->host = vd_bits_first_missing(&gow->used);
    space->count = 0;
    space->fill = VD_FILL_ZERO; /* whatever was written there before */
    while (space->count < wanted && space->host + space->count < gow->file_hosts &&
           !vd_bits_has(&gow->used, space->host + space->count))
        vd_bits_add(&gow->used, space->host + space->count++);
    return 0;
}

/* Nobody else makes the file grow. */
static int take_at_end(struct vd_gow *gow, uint32_t hosts, uint32_t wanted,
                       struct vd_gow_space *space, struct vdisk_error *err)
    VD_REQUIRES(gow->alloc_lock)
{
    if (!gow->can_resize)
        return vd_err_set(err, ENOSPC,
                          "%s: all of the %" PRIu32 " blocks of 64 KiB that it has room for are "
                          "in use",
                          vd_storage_name(gow->file), hosts);
    wanted = (uint32_t)vd_min(wanted, VD_GOW_HOSTS_MAX - hosts);
    if (!wanted)
        return vd_err_set(err, EFBIG, "%s: all of the %u host blocks of the format are in use",
                          vd_storage_name(gow->file), VD_GOW_HOSTS_MAX);
    int ret = vd_storage_resize(gow->file, vd_gow_file_bytes(&gow->layout, hosts + wanted), err);
    if (ret < 0)
        return ret;

    vd_mutex_lock(&gow->tables.lock);
    gow->file_hosts = hosts + wanted;
    ret = vd_bits_reserve(&gow->used, gow->file_hosts, err);
    for (uint32_t i = 0; ret == 0 && i < wanted; i++)
        vd_bits_add(&gow->used, hosts + i);
    vd_mutex_unlock(&gow->tables.lock);
    *space = (struct vd_gow_space){.host = hosts, .count = wanted, .fill = VD_FILL_NONE};
    return ret;
}

int vd_gow_take(struct vd_gow *gow, uint32_t wanted, struct vd_gow_space *space,
                struct vdisk_error *err)
{
    vd_mutex_lock(&gow->alloc_lock);
    vd_mutex_lock(&gow->tables.lock);
    uint32_t hosts = gow->file_hosts;
    int ret = take_free_locked(gow, wanted, space, err);
    vd_mutex_unlock(&gow->tables.lock);
    if (ret == 0 && space->count == 0)
        ret = take_at_end(gow, hosts, wanted, space, err);
    vd_mutex_unlock(&gow->alloc_lock);
    return ret;
}

void vd_gow_give_back_locked(struct vd_gow *gow, uint32_t host, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        vd_bits_remove(&gow->used, host + i);
}

int vd_gow_trim(struct vd_gow *gow, struct vdisk_error *err)
{
    vd_mutex_lock(&gow->tables.lock);
    uint32_t hosts = gow->used_is_known ? vd_bits_end(&gow->used) : gow->file_hosts;
    bool is_longer = hosts < gow->file_hosts;
    vd_mutex_unlock(&gow->tables.lock);
    if (!is_longer || !gow->can_resize)
        return 0;
    int ret = vd_storage_resize(gow->file, vd_gow_file_bytes(&gow->layout, hosts), err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&gow->tables.lock);
    gow->file_hosts = hosts;
    vd_mutex_unlock(&gow->tables.lock);
    return 0;
}
