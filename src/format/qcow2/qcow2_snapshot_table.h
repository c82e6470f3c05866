/* SPDX-License-Identifier: MIT */
/*
 * The table of the snapshots within a qcow2 image, decoded.  No I/O.
 *
 * T1  What is not known of an entry is preserved: extra data behind the known fields, and which of
 *     those are there.
 * T2  Nothing takes memory before it is known to be there: not in proportion to a count or length
 *     that a table only claims.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_SNAPSHOT_TABLE_H
#define VD_FORMAT_QCOW2_QCOW2_SNAPSHOT_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "format/qcow2/qcow2_geometry.h"
#include "util/err.h"

/* Of one entry: a limit that QEMU has too. */
#define VD_QCOW2_SNAPSHOT_EXTRA_BYTES_MAX 1024u

/* The longest entry, padded. */
#define VD_QCOW2_SNAPSHOT_ENTRY_BYTES_MAX                                                          \
    ((sizeof(struct vd_qcow2_disk_snapshot) + VD_QCOW2_SNAPSHOT_EXTRA_BYTES_MAX + 2 * 65535 + 7) & \
     ~(size_t)7)

/* What extra_bytes of an entry has to be for a field to be there. */
#define VD_QCOW2_SNAPSHOT_HAS_VM_STATE  8u
#define VD_QCOW2_SNAPSHOT_HAS_DISK_SIZE 16u
#define VD_QCOW2_SNAPSHOT_HAS_ICOUNT    24u

#define VD_QCOW2_NO_ICOUNT              UINT64_MAX

struct vd_qcow2_snapshot {
    uint64_t l1_offset; /* a multiple of the cluster; 0 only if l1_entries is 0 */
    uint32_t l1_entries;
    uint32_t date_sec; /* since 1970 */
    uint32_t date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t vm_state_bytes;
    uint64_t disk_size;   /* bytes; that of the image where the entry has none */
    uint64_t icount;      /* VD_QCOW2_NO_ICOUNT: none */
    uint32_t extra_bytes; /* T1: as in the table */
    uint16_t id_bytes;
    uint16_t name_bytes;
    uint8_t *bytes; /* owned: extra data that is not known, id, 0, name, 0 */
};

/* NUL-terminated; a NUL in the table's own text ends it early. */
const char *vd_qcow2_snapshot_id(const struct vd_qcow2_snapshot *snapshot);
const char *vd_qcow2_snapshot_name(const struct vd_qcow2_snapshot *snapshot);

struct vd_qcow2_snapshots {
    struct vd_qcow2_snapshot *entries; /* owned */
    size_t count;
    size_t room;          /* entries there is memory for */
    uint64_t table_bytes; /* of those decoded so far, padded */
};

/* What entries depend on. */
struct vd_qcow2_snapshot_rules {
    const struct vd_qcow2_geometry *geometry;
    uint32_t version;   /* of the image */
    uint64_t disk_size; /* of the image */
};

/*
 * Decodes the next entry, which begins at @bytes, and appends it.  *used: the bytes it takes in the
 * table, padded.  -ENODATA, without @err: @length is too short, and at least *used bytes are
 * wanted; that is never more than VD_QCOW2_SNAPSHOT_ENTRY_BYTES_MAX.  -EBADMSG: a limit.
 */
int vd_qcow2_snapshots_decode(struct vd_qcow2_snapshots *snapshots,
                              const struct vd_qcow2_snapshot_rules *rules, const uint8_t *bytes,
                              size_t length, size_t *used, struct vdisk_error *err);

/* Appends a new one, with id and name as given; its other fields are the caller's to fill in. */
int vd_qcow2_snapshots_add(struct vd_qcow2_snapshots *snapshots, const char *id, const char *name,
                           struct vd_qcow2_snapshot **snapshot, struct vdisk_error *err);

void vd_qcow2_snapshots_remove(struct vd_qcow2_snapshots *snapshots, size_t index);

#define VD_QCOW2_SNAPSHOT_ID_BYTES 24

/* An id that none has, one more than the highest number among them: VD_QCOW2_SNAPSHOT_ID_BYTES. */
void vd_qcow2_snapshots_new_id(const struct vd_qcow2_snapshots *snapshots, char *id);

/* The whole table as it is written: *bytes is the caller's to free.  -E2BIG: a limit. */
int vd_qcow2_snapshots_encode(const struct vd_qcow2_snapshots *snapshots,
                              const struct vd_qcow2_snapshot_rules *rules, uint8_t **bytes,
                              size_t *length, struct vdisk_error *err);

/* A zeroed one is accepted, and is what is left. */
void vd_qcow2_snapshots_free(struct vd_qcow2_snapshots *snapshots);

#endif
