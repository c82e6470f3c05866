/* SPDX-License-Identifier: MIT */
/*
 * An L2 entry, decoded: one shape for standard, zero, compressed and extended entries.  A cluster
 * has 32 subclusters with extended L2, and is its own only one without.  No I/O.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_ENTRY_H
#define VD_FORMAT_QCOW2_QCOW2_ENTRY_H

#include <stdbool.h>

#include "format/qcow2/qcow2_geometry.h"

/*
 * Subcluster i is bit i: in `data`, in `zero`, or in neither: not in this image.  Never in both.
 * A zero subcluster may have a place in the host cluster (preallocated).
 */
struct vd_qcow2_entry {
    bool has_host;   /* there is a host cluster at `host`; not with is_encoded */
    bool is_copied;  /* its refcount is exactly 1: it may be written in place */
    bool is_encoded; /* compressed: data is all ones, zero is 0 */
    uint64_t host;   /* file offset, or offset in the data file; is_encoded: of the first byte;
                        else 0 without has_host */
    uint32_t encoded_bytes; /* is_encoded: at most so many; the stream ends before */
    uint32_t data;
    uint32_t zero;
};

/* What is wrong with an entry, in words for a message; NULL: nothing. */
typedef const char *vd_qcow2_wrong;

/* How an entry is to be read; from the header. */
struct vd_qcow2_entry_rules {
    const struct vd_qcow2_geometry *geometry;
    bool has_zero;      /* version 3 */
    bool has_data_file; /* an offset of 0 with the COPIED bit is a place */
};

/*
 * @bytes: geometry->entry_bytes of a table.  The entry is filled in as far as it makes sense.  Not
 * looked at: whether the place is in the file, or with a data file where it has to be; and the
 * COPIED bit of a compressed cluster, which nothing reads: for check.
 */
vd_qcow2_wrong vd_qcow2_entry_decode(const struct vd_qcow2_entry_rules *rules, const void *bytes,
                                     struct vd_qcow2_entry *entry);

/* The entry is one that decode() could give. */
void vd_qcow2_entry_encode(const struct vd_qcow2_entry_rules *rules,
                           const struct vd_qcow2_entry *entry, void *bytes);

/* The bits of all subclusters of a cluster. */
static inline uint32_t vd_qcow2_all_subclusters(const struct vd_qcow2_geometry *geometry)
{
    return geometry->subclusters == 32 ? UINT32_MAX : 1;
}

#endif
