/* SPDX-License-Identifier: MIT */
/*
 * Bitmaps in a repair.  One with entries that lead nowhere is marked in use, which makes it
 * inconsistent, before they are cleared; so are all of them if what the disk reads may change.  One
 * whose table is nowhere is dropped, and so are all if there is no directory.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "format/qcow2/qcow2_bitmap_dir.h"
#include "format/qcow2/qcow2_mend.h"
#include "util/mem.h"

/* Is the table where no other thing is? */
static bool table_is_own(const struct vd_qcow2_check_run *run,
                         const struct vd_qcow2_bitmap_entry *entry)
{
    uint64_t bytes = (uint64_t)entry->table_entries * sizeof(struct be64);
    if (vd_qcow2_check_is_behind(run, entry->table_offset, bytes))
        return false;
    uint64_t first = entry->table_offset >> run->geometry.cluster_bits;
    uint64_t count = vd_qcow2_clusters(&run->geometry, bytes);
    for (uint64_t i = first; i < first + count; i++)
        if (vd_qcow2_counts_get(&run->counts, i) != 1)
            return false;
    return true;
}

static bool is_wrong(const struct vd_qcow2_check_run *run, uint64_t value)
{
    enum vd_qcow2_bitmap_piece piece;
    uint64_t host;
    if (!vd_qcow2_bitmap_piece_decode(value, run->geometry.cluster_bits, &piece, &host))
        return true;
    return piece == VD_QCOW2_BITMAP_DATA &&
           vd_qcow2_check_is_behind(run, host, run->geometry.cluster_bytes);
}

/* Looks for wrong entries of the table; @clears: and makes them zeros. */
static int walk_table(struct vd_qcow2_check_run *run, const struct vd_qcow2_bitmap_entry *entry,
                      bool clears, bool *has_wrong, struct vdisk_error *err)
{
    int ret = 0;
    *has_wrong = false;
    for (uint64_t first = 0; first < entry->table_entries && ret == 0;
         first += VD_QCOW2_CHECK_L1_PART) {
        uint64_t count = vd_min(VD_QCOW2_CHECK_L1_PART, entry->table_entries - first);
        uint64_t offset = entry->table_offset + first * sizeof(*run->l1);
        bool is_empty;
        bool has_changed = false;
        ret = vd_qcow2_check_read(run, offset, run->l1, count * sizeof(*run->l1), &is_empty, err);
        for (uint64_t i = 0; ret == 0 && !is_empty && i < count; i++) {
            if (!is_wrong(run, be64_get(run->l1[i])))
                continue;
            run->l1[i] = be64_of(0);
            has_changed = true;
        }
        *has_wrong = *has_wrong || has_changed;
        if (ret == 0 && has_changed && clears) {
            run->result->corruptions_fixed++;
            ret = vd_storage_pwrite(run->file, run->l1, (size_t)count * sizeof(*run->l1), offset,
                                    err);
        }
    }
    return ret;
}

static void drop(struct vd_qcow2_bitmap_dir *dir, size_t index)
{
    free(dir->entries[index].name);
    dir->count--;
    for (size_t i = index; i < dir->count; i++)
        dir->entries[i] = dir->entries[i + 1];
}

/* What the directory has to say from now on.  *has_changed: anything new. */
static int judge(struct vd_qcow2_check_run *run, struct vd_qcow2_bitmap_dir *dir, bool *has_changed,
                 struct vdisk_error *err)
{
    for (size_t i = 0; i < dir->count;) {
        struct vd_qcow2_bitmap_entry *entry = &dir->entries[i];
        bool has_wrong;
        if (!table_is_own(run, entry)) {
            vd_qcow2_check_tell(run, "bitmap '%s': dropped, as its table is nowhere", entry->name);
            drop(dir, i);
            *has_changed = true;
            continue;
        }
        int ret = walk_table(run, entry, false, &has_wrong, err);
        if (ret < 0)
            return ret;
        has_wrong =
            has_wrong || !vd_qcow2_check_bitmap_length(run, entry->flags, entry->granularity_bits,
                                                       entry->table_entries);
        if ((has_wrong || run->bad_entries) && !(entry->flags & VD_QCOW2_BITMAP_IN_USE)) {
            vd_qcow2_check_tell(run, "bitmap '%s': inconsistent from now on", entry->name);
            entry->flags |= VD_QCOW2_BITMAP_IN_USE;
            *has_changed = true;
        }
        i++;
    }
    return 0;
}

/* The header leads to @dir, or to no bitmaps; durable. */
static int switch_directory(struct vd_qcow2_mending *mending, const struct vd_qcow2_bitmap_dir *dir,
                            struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct vd_qcow2_header *header = run->header;
    struct vd_qcow2_bitmaps_extension bitmaps = {
        .is_present = dir->count > 0,
        .entries = (uint32_t)dir->count,
        .directory_bytes = vd_qcow2_bitmap_dir_bytes(dir),
    };
    int ret = 0;
    if (dir->count > 0) {
        CLEANUP_FREE uint8_t *bytes = vd_alloc_array(1, (size_t)bitmaps.directory_bytes);
        if (!bytes)
            return vd_err_nomem(err, "the bitmap directory");
        vd_qcow2_bitmap_dir_encode(dir, bytes);
        ret =
            vd_qcow2_mend_take(mending, vd_qcow2_clusters(&run->geometry, bitmaps.directory_bytes),
                               &bitmaps.directory_offset, err);
        if (ret == 0)
            ret = vd_storage_pwrite(run->file, bytes, (size_t)bitmaps.directory_bytes,
                                    bitmaps.directory_offset, err);
        if (ret == 0)
            ret = vd_storage_flush(run->file, err);
    }
    if (ret < 0)
        return ret;
    const struct vd_qcow2_bitmaps_extension old = header->bitmaps;
    uint64_t autoclear = header->fields.autoclear;
    header->bitmaps = bitmaps;
    if (dir->count == 0)
        header->fields.autoclear &= ~(uint64_t)VD_QCOW2_BITMAPS;
    ret = vd_qcow2_header_write(run->file, header, err);
    if (ret < 0) {
        header->bitmaps = old;
        header->fields.autoclear = autoclear;
    }
    return ret;
}

static int clear_wrong(struct vd_qcow2_check_run *run, const struct vd_qcow2_bitmap_dir *dir,
                       struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < dir->count && ret == 0; i++) {
        bool has_wrong;
        if (dir->entries[i].flags & VD_QCOW2_BITMAP_IN_USE)
            ret = walk_table(run, &dir->entries[i], true, &has_wrong, err);
    }
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

int vd_qcow2_mend_bitmaps(struct vd_qcow2_mending *mending, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct vd_qcow2_bitmap_dir dir = {0};
    bool has_changed = run->bad_directory;
    if (!run->bad_directory && !run->bad_bitmaps && !run->bad_entries)
        return 0;
    int ret = 0;
    if (run->bad_directory)
        vd_qcow2_check_tell(run, "all bitmaps are dropped, as they have no directory");
    else if (vd_qcow2_check_has_bitmaps(run))
        ret = vd_qcow2_check_read_directory(run, &dir, err);
    if (ret == 0)
        ret = judge(run, &dir, &has_changed, err);
    if (ret == 0 && has_changed)
        ret = switch_directory(mending, &dir, err);
    if (ret == 0)
        ret = clear_wrong(run, &dir, err);
    vd_qcow2_bitmap_dir_free(&dir);
    return ret;
}
