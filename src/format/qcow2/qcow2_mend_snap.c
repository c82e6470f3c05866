/* SPDX-License-Identifier: MIT */
/* A new snapshot table, without what can not be. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_mend.h"
#include "format/qcow2/qcow2_snapshot_table.h"
#include "util/mem.h"

#define EXTRA_BYTES_MIN VD_QCOW2_SNAPSHOT_HAS_DISK_SIZE /* of version 3 */

/* The table as it will be. */
struct table {
    uint8_t *bytes; /* owned */
    uint64_t length;
    uint64_t room;
    uint32_t entries;
};

bool vd_qcow2_mend_wants_snapshots(const struct vd_qcow2_check_run *run)
{
    const struct vd_qcow2_fields *fields = &run->header->fields;
    if (run->bad_snapshots)
        return true;
    for (size_t i = 0; i < run->old_l1_entries; i++)
        if (run->old_l1[i].moved)
            return true;
    uint64_t first = fields->snapshots_offset >> run->geometry.cluster_bits;
    uint64_t count = vd_qcow2_clusters(&run->geometry, run->snapshot_bytes);
    for (uint64_t i = first; i < first + count; i++)
        if (vd_qcow2_counts_get(&run->counts, i) != 1)
            return true;
    return false;
}

/* Where the L1 table of a snapshot has gone; 0: it is where it was. */
static uint64_t moved_to(const struct vd_qcow2_check_run *run, uint64_t offset, uint64_t entries)
{
    for (size_t i = 0; i < run->old_l1_entries; i++)
        if (run->old_l1[i].offset == offset && run->old_l1[i].entries == entries)
            return run->old_l1[i].moved;
    return 0;
}

/* False: its L1 table is nowhere. */
static bool mend_place(const struct vd_qcow2_check_run *run,
                       struct vd_qcow2_disk_snapshot *snapshot, uint64_t disk_size)
{
    uint64_t offset = be64_get(snapshot->l1_offset);
    uint64_t entries = be32_get(snapshot->l1_entries);
    if (entries > VD_QCOW2_L1_BYTES_MAX / sizeof(struct be64)) {
        entries = vd_qcow2_l1_entries(&run->geometry, disk_size);
        if (entries > VD_QCOW2_L1_BYTES_MAX / sizeof(struct be64))
            return false;
        snapshot->l1_entries = be32_of((uint32_t)entries);
    }
    if (entries == 0)
        return snapshot->id_bytes.bytes[0] || snapshot->id_bytes.bytes[1];
    if (offset == 0 || !vd_is_aligned(offset, run->geometry.cluster_bytes) ||
        vd_qcow2_check_is_behind(run, offset, entries * sizeof(struct be64)))
        return false;
    uint64_t to = moved_to(run, offset, entries);
    if (to)
        snapshot->l1_offset = be64_of(to);
    return true;
}

static int make_room(struct table *table, uint64_t bytes, struct vdisk_error *err)
{
    if (bytes <= table->room - table->length)
        return 0;
    uint64_t room = vd_max(table->room * 2, table->length + bytes);
    uint8_t *grown = realloc(table->bytes, (size_t)room);
    if (!grown)
        return vd_err_nomem(err, "the snapshot table");
    memset(grown + table->room, 0, (size_t)(room - table->room));
    table->bytes = grown;
    table->room = room;
    return 0;
}

/* Appends the entry at @bytes, of which the fixed part is in @snapshot. */
static int append(struct vd_qcow2_check_run *run, struct table *table,
                  struct vd_qcow2_disk_snapshot *snapshot, const uint8_t *bytes, uint64_t disk_size,
                  struct vdisk_error *err)
{
    uint32_t extra = be32_get(snapshot->extra_bytes);
    uint32_t text = (uint32_t)be16_get(snapshot->id_bytes) + be16_get(snapshot->name_bytes);
    uint32_t wanted =
        run->header->fields.version >= 3 ? (uint32_t)vd_max(extra, EXTRA_BYTES_MIN) : extra;
    uint64_t length = vd_round_up(sizeof(*snapshot) + wanted + text, 8);
    int ret = make_room(table, length, err);
    if (ret < 0)
        return ret;
    uint8_t *to = table->bytes + table->length;
    if (wanted > extra) {
        const struct vd_qcow2_disk_snapshot_extra known = {
            .vm_state_bytes = be64_of(be32_get(snapshot->vm_state_bytes)),
            .disk_size = be64_of(disk_size),
        };
        memcpy(to + sizeof(*snapshot), &known, EXTRA_BYTES_MIN);
    }
    snapshot->extra_bytes = be32_of(wanted);
    memcpy(to, snapshot, sizeof(*snapshot));
    memcpy(to + sizeof(*snapshot), bytes + sizeof(*snapshot), extra);
    memcpy(to + sizeof(*snapshot) + wanted, bytes + sizeof(*snapshot) + extra, text);
    table->length += length;
    table->entries++;
    return 0;
}

static int take_entry(struct vd_qcow2_mending *mending, struct table *table, uint32_t index,
                      uint8_t *bytes, uint64_t *offset, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct vd_qcow2_disk_snapshot snapshot;
    bool is_empty;
    int ret = vd_qcow2_check_read(run, *offset, &snapshot, sizeof(snapshot), &is_empty, err);
    if (ret < 0)
        return ret;
    uint32_t extra = be32_get(snapshot.extra_bytes); /* the check has looked at it */
    uint64_t length = vd_round_up(
        sizeof(snapshot) + extra + be16_get(snapshot.id_bytes) + be16_get(snapshot.name_bytes), 8);
    if (length > VD_QCOW2_SNAPSHOT_ENTRY_BYTES_MAX)
        return vd_err_set(err, EBADMSG, "snapshot %" PRIu32 ": changed meanwhile", index);
    ret = vd_qcow2_check_read(run, *offset, bytes, length, &is_empty, err);
    if (ret < 0)
        return ret;
    *offset += length;
    uint64_t disk_size = run->header->fields.size;
    if (extra >= VD_QCOW2_SNAPSHOT_HAS_DISK_SIZE) {
        struct vd_qcow2_disk_snapshot_extra known;
        memcpy(&known, bytes + sizeof(snapshot), VD_QCOW2_SNAPSHOT_HAS_DISK_SIZE);
        disk_size = be64_get(known.disk_size);
    }
    if (!mend_place(run, &snapshot, disk_size)) {
        vd_qcow2_check_tell(run, "snapshot %" PRIu32 ": dropped, as its L1 table is nowhere",
                            index);
        return 0;
    }
    return append(run, table, &snapshot, bytes, disk_size, err);
}

static int make_table(struct vd_qcow2_mending *mending, struct table *table,
                      struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &mending->run->header->fields;
    CLEANUP_FREE uint8_t *bytes = vd_alloc_io(VD_QCOW2_SNAPSHOT_ENTRY_BYTES_MAX);
    if (!bytes)
        return vd_err_nomem(err, "a snapshot");
    uint64_t offset = fields->snapshots_offset;
    uint32_t entries = (uint32_t)vd_min(fields->snapshot_entries, mending->run->snapshots_there);
    int ret = 0;
    for (uint32_t i = 0; i < entries && ret == 0; i++)
        ret = take_entry(mending, table, i, bytes, &offset, err);
    if (ret == 0 && entries < fields->snapshot_entries)
        vd_qcow2_check_tell(mending->run,
                            "snapshots from %" PRIu32 " on: dropped, as they are behind the end "
                            "of the file",
                            entries);
    return ret;
}

static int write_table(struct vd_qcow2_mending *mending, const struct table *table,
                       uint64_t *offset, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    *offset = 0;
    if (table->length == 0)
        return 0;
    int ret =
        vd_qcow2_mend_take(mending, vd_qcow2_clusters(&run->geometry, table->length), offset, err);
    if (ret == 0)
        ret = vd_storage_pwrite(run->file, table->bytes, (size_t)table->length, *offset, err);
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

int vd_qcow2_mend_snapshots(struct vd_qcow2_mending *mending, uint64_t l1_offset,
                            struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = mending->run;
    struct vd_qcow2_fields fields = run->header->fields;
    struct table table = {0};
    int ret = make_table(mending, &table, err);
    if (ret == 0)
        ret = write_table(mending, &table, &fields.snapshots_offset, err);
    free(table.bytes);
    fields.snapshot_entries = table.entries;
    fields.l1_offset = l1_offset;
    if (ret == 0)
        ret = vd_qcow2_check_write_fields(run, &fields, err);
    if (ret == 0)
        run->result->corruptions_fixed++;
    return ret;
}
