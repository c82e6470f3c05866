/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a snapshot table of qcow2.
 *
 * The input is a byte (bit 0: version 3, bits 1-4: cluster bits above 9), and the table.  Whatever
 * it is, decoding ends within its bytes, what was decoded is encoded and decodes to the same, and
 * takes changes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_snapshot_table.h"
#include "input.h"

#define REQUIRE(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

/* Decodes as much as there is. */
static void decode(struct vd_qcow2_snapshots *all, const struct vd_qcow2_snapshot_rules *rules,
                   const uint8_t *bytes, size_t length)
{
    struct vdisk_error err = {0};
    size_t at = 0, used;
    while (at < length) {
        int ret = vd_qcow2_snapshots_decode(all, rules, bytes + at, length - at, &used, &err);
        if (ret == -ENODATA) {
            REQUIRE(used > length - at && used <= VD_QCOW2_SNAPSHOT_ENTRY_BYTES_MAX && !err.code);
            return;
        }
        if (ret < 0) {
            REQUIRE(ret == -EBADMSG && err.code == EBADMSG && err.message[0]);
            return;
        }
        REQUIRE(used >= 40 && used <= length - at && used % 8 == 0);
        at += used;
        REQUIRE(all->table_bytes == at);
    }
}

static void require_same(const struct vd_qcow2_snapshot *a, const struct vd_qcow2_snapshot *b)
{
    REQUIRE(a->l1_offset == b->l1_offset && a->l1_entries == b->l1_entries);
    REQUIRE(a->date_sec == b->date_sec && a->date_nsec == b->date_nsec);
    REQUIRE(a->vm_clock_nsec == b->vm_clock_nsec && a->disk_size == b->disk_size);
    REQUIRE(a->vm_state_bytes == b->vm_state_bytes && a->icount == b->icount);
    REQUIRE(a->id_bytes == b->id_bytes && a->name_bytes == b->name_bytes);
    REQUIRE(strcmp(vd_qcow2_snapshot_id(a), vd_qcow2_snapshot_id(b)) == 0);
    REQUIRE(strcmp(vd_qcow2_snapshot_name(a), vd_qcow2_snapshot_name(b)) == 0);
}

static void require_round_trip(const struct vd_qcow2_snapshots *all,
                               const struct vd_qcow2_snapshot_rules *rules)
{
    struct vd_qcow2_snapshots again = {0};
    uint8_t *bytes;
    size_t length;
    REQUIRE(vd_qcow2_snapshots_encode(all, rules, &bytes, &length, NULL) == 0);
    decode(&again, rules, bytes, length);
    free(bytes);
    REQUIRE(again.count == all->count);
    for (size_t i = 0; i < all->count; i++)
        require_same(&all->entries[i], &again.entries[i]);
    vd_qcow2_snapshots_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    unsigned control = (unsigned)input_take(&in, 1);
    const struct vd_qcow2_geometry geometry =
        vd_qcow2_geometry_of(9 + (control >> 1) % 13, 4, false);
    const struct vd_qcow2_snapshot_rules rules = {&geometry, control & 1 ? 3 : 2, 1u << 30};
    struct vd_qcow2_snapshots all = {0};
    decode(&all, &rules, in.data, in.left);
    require_round_trip(&all, &rules);

    char id[VD_QCOW2_SNAPSHOT_ID_BYTES];
    struct vd_qcow2_snapshot *added;
    vd_qcow2_snapshots_new_id(&all, id);
    for (size_t i = 0; i < all.count; i++)
        REQUIRE(strcmp(vd_qcow2_snapshot_id(&all.entries[i]), id) != 0);
    REQUIRE(vd_qcow2_snapshots_add(&all, id, "new", &added, NULL) == 0);
    require_round_trip(&all, &rules);
    vd_qcow2_snapshots_remove(&all, 0);
    require_round_trip(&all, &rules);
    vd_qcow2_snapshots_free(&all);
    return 0;
}
