/* SPDX-License-Identifier: MIT */
/* The snapshots of an open qcow2 image: which there are, and the disk as one of them has it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_snapshot.h"
#include "util/mem.h"

/* The table is read in pieces of this; an entry fits into one. */
#define PIECE_BYTES (UINT64_C(256) << 10)

static struct vd_qcow2_snapshot_rules rules_of(const struct vd_qcow2_header *header,
                                               const struct vd_qcow2_geometry *geometry)
{
    return (struct vd_qcow2_snapshot_rules){
        .geometry = geometry, .version = header->fields.version, .disk_size = header->fields.size};
}

/* What there is of the table at @at, padded with zeros to whole words: *length bytes. */
static int read_piece(struct vd_storage *file, uint64_t at, uint8_t *piece, size_t *length,
                      struct vdisk_error *err)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(file, &file_bytes, err);
    if (ret < 0)
        return ret;
    uint64_t here = at < file_bytes ? vd_min(file_bytes - at, PIECE_BYTES) : 0;
    *length = (size_t)vd_round_up(here, 8);
    memset(piece, 0, *length);
    return here ? vd_storage_pread(file, piece, (size_t)here, at, err) : 0;
}

/* As many entries as @piece has, up to @wanted in all.  *used: bytes of it. */
static int decode_piece(struct vd_qcow2_snapshots *snapshots,
                        const struct vd_qcow2_snapshot_rules *rules, const uint8_t *piece,
                        size_t length, uint32_t wanted, size_t *used, struct vdisk_error *err)
{
    *used = 0;
    while (snapshots->count < wanted) {
        size_t entry_bytes;
        int ret = vd_qcow2_snapshots_decode(snapshots, rules, piece + *used, length - *used,
                                            &entry_bytes, err);
        if (ret < 0)
            return ret == -ENODATA ? 0 : ret;
        *used += entry_bytes;
    }
    return 0;
}

static int read_all(struct vd_storage *file, const struct vd_qcow2_header *header,
                    struct vd_qcow2_snapshots *snapshots, uint8_t *piece, struct vdisk_error *err)
{
    const struct vd_qcow2_geometry geometry = vd_qcow2_header_geometry(header);
    const struct vd_qcow2_snapshot_rules rules = rules_of(header, &geometry);
    uint32_t wanted = header->fields.snapshot_entries;
    while (snapshots->count < wanted) {
        uint64_t at = header->fields.snapshots_offset + snapshots->table_bytes;
        size_t length, used;
        int ret = read_piece(file, at, piece, &length, err);
        if (ret == 0)
            ret = decode_piece(snapshots, &rules, piece, length, wanted, &used, err);
        if (ret < 0)
            return ret;
        if (used == 0)
            return vd_err_set(err, EBADMSG,
                              "snapshot table: entry %zu of %" PRIu32 " at 0x%" PRIx64
                              " ends behind the end of the file",
                              snapshots->count, wanted, at);
    }
    return 0;
}

int vd_qcow2_snapshots_read(struct vd_storage *file, const struct vd_qcow2_header *header,
                            struct vd_qcow2_snapshots *snapshots, struct vdisk_error *err)
{
    if (header->fields.snapshot_entries == 0)
        return 0;
    CLEANUP_FREE uint8_t *piece = malloc(PIECE_BYTES);
    if (!piece)
        return vd_err_nomem(err, "the snapshots of an image");
    return read_all(file, header, snapshots, piece, err);
}

int vd_qcow2_snapshots_get(struct vd_qcow2 *qcow2, const struct vd_qcow2_snapshots **snapshots,
                           struct vdisk_error *err)
{
    struct vd_qcow2_snapshots *known = atomic_load(&qcow2->snapshots);
    if (!known) {
        struct vd_qcow2_snapshots *new = calloc(1, sizeof(*new));
        if (!new)
            return vd_err_nomem(err, "the snapshots of an image");
        int ret = vd_qcow2_snapshots_read(qcow2->file, &qcow2->header, new, err);
        /* Another thread may have been faster. */
        if (ret == 0 && atomic_compare_exchange_strong(&qcow2->snapshots, &known, new)) {
            known = new;
        } else {
            vd_qcow2_snapshots_free(new);
            free(new);
        }
        if (ret < 0)
            return ret;
    }
    *snapshots = known;
    return 0;
}

void vd_qcow2_snapshots_forget(struct vd_qcow2 *qcow2)
{
    struct vd_qcow2_snapshots *known = atomic_exchange(&qcow2->snapshots, NULL);
    if (known)
        vd_qcow2_snapshots_free(known);
    free(known);
}

/* ---- one of them ---- */

static int info_at(struct vd_format *format, size_t index, struct vdisk_snapshot_info *info,
                   struct vdisk_error *err)
{
    const struct vd_qcow2_snapshots *snapshots;
    int ret = vd_qcow2_snapshots_get(format->state, &snapshots, err);
    if (ret < 0)
        return ret;
    if (index >= snapshots->count)
        return -ENOENT;
    const struct vd_qcow2_snapshot *snapshot = &snapshots->entries[index];
    if (snapshot->icount != VD_QCOW2_NO_ICOUNT)
        info->flags |= VDISK_SNAPSHOT_ICOUNT;
    info->date_nsec = snapshot->date_nsec;
    info->id = vd_qcow2_snapshot_id(snapshot);
    info->name = vd_qcow2_snapshot_name(snapshot);
    info->virtual_bytes = snapshot->disk_size;
    info->vm_state_bytes = snapshot->vm_state_bytes;
    info->vm_clock_nsec = snapshot->vm_clock_nsec;
    info->icount = snapshot->icount;
    info->date_sec = snapshot->date_sec;
    return 0;
}

int vd_qcow2_snapshot_judge(struct vd_qcow2 *qcow2, const struct vd_qcow2_snapshot *snapshot,
                            struct vdisk_error *err)
{
    uint64_t file_bytes;
    uint64_t l1_bytes = (uint64_t)snapshot->l1_entries * sizeof(struct be64);
    uint64_t needed = vd_qcow2_l1_entries(&qcow2->geometry, snapshot->disk_size);
    int ret = vd_storage_size(qcow2->file, &file_bytes, err);
    if (ret < 0)
        return ret;
    file_bytes = vd_round_up(file_bytes, qcow2->geometry.cluster_bytes);
    if (!vd_range_is_within(vd_range(snapshot->l1_offset, l1_bytes), file_bytes))
        return vd_err_set(err, EBADMSG,
                          "snapshot '%s': its L1 table at 0x%" PRIx64 " with %" PRIu32
                          " entries ends behind the end of the file: run vdisk check",
                          vd_qcow2_snapshot_id(snapshot), snapshot->l1_offset,
                          snapshot->l1_entries);
    if (needed > VD_QCOW2_L1_BYTES_MAX / sizeof(struct be64))
        return vd_err_set(err, EBADMSG,
                          "snapshot '%s': a disk of %" PRIu64 " bytes needs an L1 table of %" PRIu64
                          " entries: the limit is %" PRIu64 ": run vdisk check",
                          vd_qcow2_snapshot_id(snapshot), snapshot->disk_size, needed,
                          VD_QCOW2_L1_BYTES_MAX / sizeof(struct be64));
    return 0;
}

int vd_qcow2_snapshot_show(struct vd_qcow2 *qcow2, const struct vdisk_snapshot_key *key,
                           struct vdisk_error *err)
{
    const struct vd_qcow2_snapshots *snapshots;
    size_t index;
    int ret = vd_snapshot_find(qcow2->format, key, &index, err);
    if (ret == 0)
        ret = vd_qcow2_snapshots_get(qcow2, &snapshots, err);
    if (ret == 0)
        ret = vd_qcow2_snapshot_judge(qcow2, &snapshots->entries[index], err);
    if (ret < 0)
        return ret;
    const struct vd_qcow2_snapshot *snapshot = &snapshots->entries[index];
    qcow2->l1_offset = snapshot->l1_offset;
    qcow2->l1_entries = snapshot->l1_entries;
    qcow2->format->size = snapshot->disk_size;
    return 0;
}

const struct vd_snapshot_driver vd_qcow2_snapshot_driver = {
    .info = info_at,
    .create = vd_qcow2_snapshot_create,
    .apply = vd_qcow2_snapshot_apply,
    .remove = vd_qcow2_snapshot_remove,
};
