/* SPDX-License-Identifier: MIT */
/* The table of snapshots: bytes to entries and back. */
#include "format/qcow2/qcow2_snapshot_table.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/mem.h"

static size_t padded(size_t bytes)
{
    return (bytes + 7) & ~(size_t)7;
}

/* How much of @extra_bytes is fields that are known? */
static uint32_t known_bytes(uint32_t extra_bytes)
{
    return extra_bytes >= sizeof(struct vd_qcow2_disk_snapshot_extra)
               ? (uint32_t)sizeof(struct vd_qcow2_disk_snapshot_extra)
               : extra_bytes & ~UINT32_C(7);
}

static uint32_t unknown_bytes(const struct vd_qcow2_snapshot *snapshot)
{
    return snapshot->extra_bytes - known_bytes(snapshot->extra_bytes);
}

const char *vd_qcow2_snapshot_id(const struct vd_qcow2_snapshot *snapshot)
{
    return (const char *)snapshot->bytes + unknown_bytes(snapshot);
}

const char *vd_qcow2_snapshot_name(const struct vd_qcow2_snapshot *snapshot)
{
    return vd_qcow2_snapshot_id(snapshot) + snapshot->id_bytes + 1;
}

/* --- decoding -------------------------------------------------------------------------------- */

/* The fixed fields, against their limits.  @index: for messages. */
static int decode_fixed(const struct vd_qcow2_snapshot_rules *rules, size_t index,
                        const struct vd_qcow2_disk_snapshot *disk,
                        struct vd_qcow2_snapshot *snapshot, struct vdisk_error *err)
{
    *snapshot = (struct vd_qcow2_snapshot){
        .l1_offset = be64_get(disk->l1_offset),
        .l1_entries = be32_get(disk->l1_entries),
        .date_sec = be32_get(disk->date_sec),
        .date_nsec = be32_get(disk->date_nsec),
        .vm_clock_nsec = be64_get(disk->vm_clock_nsec),
        .vm_state_bytes = be32_get(disk->vm_state_bytes),
        .disk_size = rules->disk_size,
        .icount = VD_QCOW2_NO_ICOUNT,
        .extra_bytes = be32_get(disk->extra_bytes),
        .id_bytes = be16_get(disk->id_bytes),
        .name_bytes = be16_get(disk->name_bytes),
    };
    uint64_t l1_bytes = (uint64_t)snapshot->l1_entries * sizeof(struct be64);
    if (snapshot->extra_bytes > VD_QCOW2_SNAPSHOT_EXTRA_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "snapshot table: entry %zu: %" PRIu32
                          " bytes of extra data: the limit is %u",
                          index, snapshot->extra_bytes, VD_QCOW2_SNAPSHOT_EXTRA_BYTES_MAX);
    if (l1_bytes > VD_QCOW2_L1_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "snapshot table: entry %zu: L1 table of %" PRIu32
                          " entries: the limit is %" PRIu64,
                          index, snapshot->l1_entries, VD_QCOW2_L1_BYTES_MAX / sizeof(struct be64));
    if ((snapshot->l1_offset & (rules->geometry->cluster_bytes - 1)) ||
        snapshot->l1_offset > (uint64_t)INT64_MAX - l1_bytes)
        return vd_err_set(err, EBADMSG,
                          "snapshot table: entry %zu: L1 table at 0x%" PRIx64
                          ": not at a cluster of %" PRIu32 " bytes",
                          index, snapshot->l1_offset, rules->geometry->cluster_bytes);
    if (snapshot->l1_entries && !snapshot->l1_offset)
        return vd_err_set(err, EBADMSG,
                          "snapshot table: entry %zu: L1 table of %" PRIu32 " entries at 0, where "
                          "the header is",
                          index, snapshot->l1_entries);
    return 0;
}

static void decode_extra(struct vd_qcow2_snapshot *snapshot, const uint8_t *bytes)
{
    struct vd_qcow2_disk_snapshot_extra extra;
    memset(&extra, 0, sizeof(extra));
    memcpy(&extra, bytes, known_bytes(snapshot->extra_bytes));
    if (snapshot->extra_bytes >= VD_QCOW2_SNAPSHOT_HAS_VM_STATE)
        snapshot->vm_state_bytes = be64_get(extra.vm_state_bytes);
    if (snapshot->extra_bytes >= VD_QCOW2_SNAPSHOT_HAS_DISK_SIZE)
        snapshot->disk_size = be64_get(extra.disk_size);
    if (snapshot->extra_bytes >= VD_QCOW2_SNAPSHOT_HAS_ICOUNT)
        snapshot->icount = be64_get(extra.icount);
}

/* Memory for what is not fixed, zeroed. */
static int alloc_bytes(struct vd_qcow2_snapshot *snapshot, struct vdisk_error *err)
{
    size_t length =
        unknown_bytes(snapshot) + (size_t)snapshot->id_bytes + 1 + snapshot->name_bytes + 1;
    snapshot->bytes = vd_alloc_array(length, 1);
    return snapshot->bytes ? 0 : vd_err_nomem(err, "the snapshots of an image");
}

/* @bytes: what follows the fixed fields, all of it. */
static int decode_rest(struct vd_qcow2_snapshot *snapshot, const uint8_t *bytes,
                       struct vdisk_error *err)
{
    int ret = alloc_bytes(snapshot, err);
    if (ret < 0)
        return ret;
    decode_extra(snapshot, bytes);
    size_t unknown = unknown_bytes(snapshot);
    memcpy(snapshot->bytes, bytes + known_bytes(snapshot->extra_bytes), unknown);
    bytes += snapshot->extra_bytes;
    memcpy(snapshot->bytes + unknown, bytes, snapshot->id_bytes);
    bytes += snapshot->id_bytes;
    memcpy(snapshot->bytes + unknown + snapshot->id_bytes + 1, bytes, snapshot->name_bytes);
    return 0;
}

/* Room for one more. */
static int make_room(struct vd_qcow2_snapshots *snapshots, struct vdisk_error *err)
{
    if (snapshots->count < snapshots->room)
        return 0;
    size_t room = snapshots->room ? 2 * snapshots->room : 4;
    struct vd_qcow2_snapshot *more =
        realloc(snapshots->entries, room * sizeof(*snapshots->entries));
    if (!more)
        return vd_err_nomem(err, "the snapshots of an image");
    snapshots->entries = more;
    snapshots->room = room;
    return 0;
}

int vd_qcow2_snapshots_decode(struct vd_qcow2_snapshots *snapshots,
                              const struct vd_qcow2_snapshot_rules *rules, const uint8_t *bytes,
                              size_t length, size_t *used, struct vdisk_error *err)
{
    struct vd_qcow2_disk_snapshot disk;
    struct vd_qcow2_snapshot snapshot;
    *used = sizeof(disk);
    if (length < sizeof(disk))
        return -ENODATA;
    memcpy(&disk, bytes, sizeof(disk));
    int ret = decode_fixed(rules, snapshots->count, &disk, &snapshot, err);
    if (ret < 0)
        return ret;
    *used = padded(sizeof(disk) + snapshot.extra_bytes + snapshot.id_bytes + snapshot.name_bytes);
    if (snapshots->table_bytes + *used > VD_QCOW2_SNAPSHOT_BYTES_MAX)
        return vd_err_set(err, EBADMSG,
                          "snapshot table: longer than %" PRIu64 " bytes with entry %zu: that is "
                          "the limit",
                          VD_QCOW2_SNAPSHOT_BYTES_MAX, snapshots->count);
    if (length < *used)
        return -ENODATA;
    ret = make_room(snapshots, err);
    if (ret == 0)
        ret = decode_rest(&snapshot, bytes + sizeof(disk), err);
    if (ret < 0)
        return ret;
    snapshots->entries[snapshots->count++] = snapshot;
    snapshots->table_bytes += *used;
    return 0;
}

/* --- changing -------------------------------------------------------------------------------- */

int vd_qcow2_snapshots_add(struct vd_qcow2_snapshots *snapshots, const char *id, const char *name,
                           struct vd_qcow2_snapshot **snapshot, struct vdisk_error *err)
{
    size_t id_bytes = strlen(id), name_bytes = strlen(name);
    if (snapshots->count >= VD_QCOW2_SNAPSHOTS_MAX)
        return vd_err_set(err, E2BIG, "there are %zu snapshots, which is the most there can be",
                          snapshots->count);
    if (id_bytes > UINT16_MAX || name_bytes > UINT16_MAX)
        return vd_err_set(err, EINVAL, "a snapshot's name of %zu bytes: the limit is %d",
                          name_bytes, UINT16_MAX);
    struct vd_qcow2_snapshot new = {
        .icount = VD_QCOW2_NO_ICOUNT,
        .extra_bytes = sizeof(struct vd_qcow2_disk_snapshot_extra),
        .id_bytes = (uint16_t)id_bytes,
        .name_bytes = (uint16_t)name_bytes,
    };
    int ret = make_room(snapshots, err);
    if (ret == 0)
        ret = alloc_bytes(&new, err);
    if (ret < 0)
        return ret;
    memcpy(new.bytes, id, id_bytes);
    memcpy(new.bytes + id_bytes + 1, name, name_bytes);
    *snapshot = &snapshots->entries[snapshots->count++];
    **snapshot = new;
    return 0;
}

void vd_qcow2_snapshots_remove(struct vd_qcow2_snapshots *snapshots, size_t index)
{
    assert(index < snapshots->count);
    free(snapshots->entries[index].bytes);
    snapshots->count--;
    memmove(&snapshots->entries[index], &snapshots->entries[index + 1],
            (snapshots->count - index) * sizeof(*snapshots->entries));
}

static bool has_id(const struct vd_qcow2_snapshots *snapshots, const char *id)
{
    for (size_t i = 0; i < snapshots->count; i++)
        if (strcmp(vd_qcow2_snapshot_id(&snapshots->entries[i]), id) == 0)
            return true;
    return false;
}

/* The number that @id is, up to 18 digits; 0: it is none. */
static uint64_t id_number(const char *id)
{
    uint64_t number = 0;
    size_t digits = 0;
    while (id[digits] >= '0' && id[digits] <= '9' && digits < 18)
        number = number * 10 + (uint64_t)(id[digits++] - '0');
    return id[digits] == 0 ? number : 0;
}

void vd_qcow2_snapshots_new_id(const struct vd_qcow2_snapshots *snapshots, char *id)
{
    uint64_t number = 0;
    for (size_t i = 0; i < snapshots->count; i++) {
        uint64_t taken = id_number(vd_qcow2_snapshot_id(&snapshots->entries[i]));
        number = taken > number ? taken : number;
    }
    do
        snprintf(id, VD_QCOW2_SNAPSHOT_ID_BYTES, "%" PRIu64, ++number);
    while (has_id(snapshots, id)); /* there are longer numbers */
}

/* --- encoding -------------------------------------------------------------------------------- */

/* T1; but version 3 must have the size of the disk. */
static uint32_t encoded_extra_bytes(const struct vd_qcow2_snapshot *snapshot,
                                    const struct vd_qcow2_snapshot_rules *rules)
{
    if (rules->version >= 3 && snapshot->extra_bytes < VD_QCOW2_SNAPSHOT_HAS_DISK_SIZE)
        return VD_QCOW2_SNAPSHOT_HAS_DISK_SIZE;
    return snapshot->extra_bytes;
}

static size_t encoded_bytes(const struct vd_qcow2_snapshot *snapshot,
                            const struct vd_qcow2_snapshot_rules *rules)
{
    return padded(sizeof(struct vd_qcow2_disk_snapshot) + encoded_extra_bytes(snapshot, rules) +
                  snapshot->id_bytes + snapshot->name_bytes);
}

/* @bytes: zeroed. */
static void encode_entry(const struct vd_qcow2_snapshot *snapshot,
                         const struct vd_qcow2_snapshot_rules *rules, uint8_t *bytes)
{
    uint32_t extra_bytes = encoded_extra_bytes(snapshot, rules);
    uint64_t vm_state = snapshot->vm_state_bytes;
    struct vd_qcow2_disk_snapshot disk = {
        .l1_offset = be64_of(snapshot->l1_offset),
        .l1_entries = be32_of(snapshot->l1_entries),
        .id_bytes = be16_of(snapshot->id_bytes),
        .name_bytes = be16_of(snapshot->name_bytes),
        .date_sec = be32_of(snapshot->date_sec),
        .date_nsec = be32_of(snapshot->date_nsec),
        .vm_clock_nsec = be64_of(snapshot->vm_clock_nsec),
        .vm_state_bytes = be32_of(vm_state > UINT32_MAX ? 0 : (uint32_t)vm_state),
        .extra_bytes = be32_of(extra_bytes),
    };
    struct vd_qcow2_disk_snapshot_extra extra = {
        .vm_state_bytes = be64_of(vm_state),
        .disk_size = be64_of(snapshot->disk_size),
        .icount = be64_of(snapshot->icount),
    };
    memcpy(bytes, &disk, sizeof(disk));
    bytes += sizeof(disk);
    memcpy(bytes, &extra, known_bytes(extra_bytes));
    if (extra_bytes == snapshot->extra_bytes)
        memcpy(bytes + known_bytes(extra_bytes), snapshot->bytes, unknown_bytes(snapshot));
    bytes += extra_bytes;
    const uint8_t *id = snapshot->bytes + unknown_bytes(snapshot);
    memcpy(bytes, id, snapshot->id_bytes);
    memcpy(bytes + snapshot->id_bytes, id + snapshot->id_bytes + 1, snapshot->name_bytes);
}

int vd_qcow2_snapshots_encode(const struct vd_qcow2_snapshots *snapshots,
                              const struct vd_qcow2_snapshot_rules *rules, uint8_t **bytes,
                              size_t *length, struct vdisk_error *err)
{
    uint64_t wanted = 0;
    for (size_t i = 0; i < snapshots->count; i++)
        wanted += encoded_bytes(&snapshots->entries[i], rules);
    if (wanted > VD_QCOW2_SNAPSHOT_BYTES_MAX || snapshots->count > VD_QCOW2_SNAPSHOTS_MAX)
        return vd_err_set(err, E2BIG,
                          "a table of %zu snapshots would have %" PRIu64
                          " bytes: the limit is %u, and %" PRIu64 " bytes",
                          snapshots->count, wanted, VD_QCOW2_SNAPSHOTS_MAX,
                          VD_QCOW2_SNAPSHOT_BYTES_MAX);
    uint8_t *table = vd_alloc_array((size_t)wanted, 1);
    if (!table)
        return vd_err_nomem(err, "a table of snapshots");
    size_t at = 0;
    for (size_t i = 0; i < snapshots->count; i++) {
        encode_entry(&snapshots->entries[i], rules, table + at);
        at += encoded_bytes(&snapshots->entries[i], rules);
    }
    *bytes = table;
    *length = at;
    return 0;
}

void vd_qcow2_snapshots_free(struct vd_qcow2_snapshots *snapshots)
{
    for (size_t i = 0; i < snapshots->count; i++)
        free(snapshots->entries[i].bytes);
    free(snapshots->entries);
    *snapshots = (struct vd_qcow2_snapshots){0};
}
