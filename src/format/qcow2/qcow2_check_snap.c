/* SPDX-License-Identifier: MIT */
/* A check's look at the snapshot table. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "format/qcow2/qcow2_check.h"
#include "format/qcow2/qcow2_snapshot_table.h"
#include "util/mem.h"

#define EXTRA_BYTES_MIN VD_QCOW2_SNAPSHOT_HAS_DISK_SIZE /* of version 3 */
#define EXTRA_BYTES_MAX VD_QCOW2_SNAPSHOT_EXTRA_BYTES_MAX

static void add_l1(struct vd_qcow2_check_run *run, uint32_t index,
                   const struct vd_qcow2_disk_snapshot *snapshot)
{
    uint64_t offset = be64_get(snapshot->l1_offset);
    uint64_t entries = be32_get(snapshot->l1_entries);
    if (!vd_is_aligned(offset, run->geometry.cluster_bytes) || (offset == 0 && entries)) {
        vd_qcow2_check_corruption(run, 1,
                                  "snapshot %" PRIu32 ": L1 table at %#" PRIx64
                                  " is not at the start of a cluster behind the header",
                                  index, offset);
    } else if (entries > VD_QCOW2_L1_BYTES_MAX / sizeof(struct be64)) {
        vd_qcow2_check_corruption(
            run, 1, "snapshot %" PRIu32 ": an L1 table of %" PRIu64 " entries is too large", index,
            entries);
    } else {
        run->old_l1[run->old_l1_entries++] =
            (struct vd_qcow2_old_l1){.offset = offset, .entries = entries, .weight = 1};
        if (vd_qcow2_check_is_behind(run, offset, entries * sizeof(struct be64)))
            run->bad_snapshots = true;
        return;
    }
    run->bad_snapshots = true;
}

static int compare_l1(const void *a, const void *b)
{
    const struct vd_qcow2_old_l1 *left = a;
    const struct vd_qcow2_old_l1 *right = b;
    if (left->offset != right->offset)
        return left->offset < right->offset ? -1 : 1;
    return left->entries < right->entries ? -1 : left->entries > right->entries;
}

/* K1: the same table more than once becomes one with more weight. */
static void merge_l1(struct vd_qcow2_check_run *run)
{
    size_t kept = 0;
    if (run->old_l1_entries > 1)
        qsort(run->old_l1, run->old_l1_entries, sizeof(*run->old_l1), compare_l1);
    for (size_t i = 0; i < run->old_l1_entries; i++) {
        if (kept && compare_l1(&run->old_l1[kept - 1], &run->old_l1[i]) == 0)
            run->old_l1[kept - 1].weight++;
        else
            run->old_l1[kept++] = run->old_l1[i];
    }
    run->old_l1_entries = kept;
}

/* The entry at @offset of the file; *bytes: what it takes. */
static int look_at_snapshot(struct vd_qcow2_check_run *run, uint32_t index, uint64_t offset,
                            uint64_t *bytes, struct vdisk_error *err)
{
    struct vd_qcow2_disk_snapshot snapshot;
    bool is_empty;
    int ret = vd_qcow2_check_read(run, offset, &snapshot, sizeof(snapshot), &is_empty, err);
    if (ret < 0)
        return ret;
    uint32_t extra = be32_get(snapshot.extra_bytes);
    if (extra > EXTRA_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "snapshot %" PRIu32 ": %" PRIu32 " bytes of extra data are more than "
                          "the limit of %u",
                          index, extra, EXTRA_BYTES_MAX);
    *bytes = vd_round_up(
        sizeof(snapshot) + extra + be16_get(snapshot.id_bytes) + be16_get(snapshot.name_bytes), 8);
    if (run->header->fields.version >= 3 && extra < EXTRA_BYTES_MIN) {
        run->bad_snapshots = true;
        vd_qcow2_check_corruption(run, 1,
                                  "snapshot %" PRIu32 ": %" PRIu32 " bytes of extra data are less "
                                  "than the %u of version 3",
                                  index, extra, EXTRA_BYTES_MIN);
    }
    add_l1(run, index, &snapshot);
    return 0;
}

int vd_qcow2_check_snapshots(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &run->header->fields;
    free(run->old_l1);
    run->old_l1_entries = 0;
    run->old_l1 = vd_alloc_array(fields->snapshot_entries, sizeof(*run->old_l1));
    if (!run->old_l1)
        return vd_err_nomem(err, "the snapshots");
    uint64_t bytes = 0;
    uint32_t there = 0;
    int ret = 0;
    for (uint32_t i = 0; i < fields->snapshot_entries && ret == 0; i++) {
        uint64_t taken = 0;
        uint64_t offset = fields->snapshots_offset + bytes;
        ret = look_at_snapshot(run, i, offset, &taken, err);
        bytes += taken;
        there += there == i && offset + taken <= run->file_bytes;
        if (ret == 0 && bytes > VD_QCOW2_SNAPSHOT_BYTES_MAX)
            ret = vd_err_set(err, EBADMSG,
                             "snapshot table: more than %" PRIu64 " bytes up to snapshot %" PRIu32,
                             VD_QCOW2_SNAPSHOT_BYTES_MAX, i);
    }
    if (ret < 0)
        return ret;
    run->snapshot_bytes = bytes;
    /* What repair puts behind the end of the file is no snapshot. */
    run->snapshots_there = run->has_seen_snapshots ? run->snapshots_there : there;
    run->has_seen_snapshots = true;
    if (vd_qcow2_check_is_behind(run, fields->snapshots_offset, bytes))
        run->bad_snapshots = true;
    merge_l1(run);
    return vd_qcow2_check_refer_meta(run, vd_range(fields->snapshots_offset, bytes), 1,
                                     "snapshot table", err);
}
