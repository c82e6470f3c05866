/* SPDX-License-Identifier: MIT */
/* Tables in parts, for who goes through all of them: memory is bounded whatever their size. */
#include <inttypes.h>

#include "format/qed/qed_check.h"
#include "util/iov.h"
#include "util/mem.h"

#define COPY_BYTES (1u << 20)

/* Tables are mostly empty, and then mostly holes: no need to read them. */
static bool is_hole(struct vd_storage *file, struct vd_range range)
{
    struct vd_storage_extent extent;
    return (vd_storage_caps(file) & VD_STORAGE_CAN_EXTENTS) &&
           vd_storage_extent(file, range, &extent, NULL) == 0 && extent.kind == VD_STORAGE_HOLE &&
           extent.length == range.length;
}

int vd_qed_part_read(const struct vd_qed_check_run *run, uint64_t table, uint32_t first,
                     struct vd_qed_part *part, struct vdisk_error *err)
{
    part->first = first;
    part->count = (uint32_t)vd_min(VD_QED_PART_ENTRIES, run->geometry.table_entries - first);
    part->offset = table + (uint64_t)first * VD_QED_ENTRY_BYTES;
    part->changed_first = 0;
    part->changed_end = 0;
    part->is_empty = true;
    uint64_t file_bytes;
    int ret = vd_storage_size(run->file, &file_bytes, err);
    if (ret < 0)
        return ret;
    size_t wanted = part->count * sizeof(*part->entries);
    size_t length = part->offset < file_bytes ? vd_min(wanted, file_bytes - part->offset) : 0;
    if (length == 0 || is_hole(run->file, vd_range(part->offset, length)))
        return 0;
    memset((uint8_t *)part->entries + length, 0, wanted - length);
    ret = vd_storage_pread(run->file, part->entries, length, part->offset, err);
    part->is_empty = ret == 0 && vd_buffer_is_zero(part->entries, wanted);
    return ret;
}

void vd_qed_part_set(struct vd_qed_part *part, uint32_t i, uint64_t value)
{
    assert(!part->is_empty);
    part->entries[i] = le64_of(value);
    if (!vd_qed_part_has_changed(part))
        part->changed_first = i;
    part->changed_first = (uint32_t)vd_min(part->changed_first, i);
    part->changed_end = (uint32_t)vd_max(part->changed_end, i + 1);
}

int vd_qed_part_write(const struct vd_qed_check_run *run, struct vd_qed_part *part,
                      struct vdisk_error *err)
{
    if (!vd_qed_part_has_changed(part))
        return 0;
    uint32_t count = part->changed_end - part->changed_first;
    int ret = vd_storage_pwrite(
        run->file, part->entries + part->changed_first, count * sizeof(*part->entries),
        part->offset + (uint64_t)part->changed_first * VD_QED_ENTRY_BYTES, err);
    part->changed_end = part->changed_first;
    return ret;
}

int vd_qed_copy(const struct vd_qed_check_run *run, uint64_t from, uint64_t to, uint64_t bytes,
                struct vdisk_error *err)
{
    CLEANUP_FREE void *buffer = vd_alloc_io(COPY_BYTES);
    if (!buffer)
        return vd_err_nomem(err, "a buffer for clusters");
    int ret = 0;
    for (uint64_t done = 0; done < bytes && ret == 0; done += COPY_BYTES) {
        size_t length = vd_min(COPY_BYTES, bytes - done);
        ret = vd_storage_pread(run->file, buffer, length, from + done, err);
        if (ret == 0)
            ret = vd_storage_pwrite(run->file, buffer, length, to + done, err);
    }
    return ret;
}
