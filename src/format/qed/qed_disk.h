/* SPDX-License-Identifier: MIT */
/* QED as it lies on disk, byte by byte.  docs/formats/qed.md is the specification. */
#ifndef VD_FORMAT_QED_QED_DISK_H
#define VD_FORMAT_QED_QED_DISK_H

#include <assert.h>

#include "util/endian.h"

#define VD_QED_MAGIC_BYTES        4u /* 'Q' 'E' 'D' 0 */

#define VD_QED_HEADER_BYTES       64u
#define VD_QED_DRAFT3_BYTES       56u /* of the shortest header: that of the third draft.  qed §9 */
#define VD_QED_ENTRY_BYTES        8u  /* of both tables */

#define VD_QED_CLUSTER_BYTES_MIN  4096u
#define VD_QED_CLUSTER_BYTES_MAX  (64u << 20)
#define VD_QED_TABLE_CLUSTERS_MAX 16u
#define VD_QED_SIZE_UNIT          512u  /* the size of the disk is a multiple of it */
#define VD_QED_NAME_BYTES_MAX     4095u /* of the name of a backing file.  qed §3.4 */

enum vd_qed_feature { /* qed §3.2 */
    VD_QED_FEATURE_BACKING = 1 << 0,
    VD_QED_FEATURE_NEED_CHECK = 1 << 1, /* a writer did not end well: tables may be wrong */
    VD_QED_FEATURE_NO_PROBE = 1 << 2    /* the backing file is raw, whatever it looks like */
};

enum vd_qed_draft_compat {              /* of the first two drafts.  qed §9.2 */
    VD_QED_DRAFT_COMPAT_FORMAT = 1 << 0 /* the name of the backing file's format is there */
};

enum vd_qed_entry {         /* of a table; all other values are offsets.  qed §4 */
    VD_QED_UNALLOCATED = 0, /* no such L2 table, or no such cluster: what is behind shows */
    VD_QED_ZERO = 1         /* L2 only: reads as zero */
};

/*                                        qed §3        offset size */
struct vd_qed_disk_header {
    uint8_t magic[VD_QED_MAGIC_BYTES]; /*      0    4 */
    struct le32 cluster_bytes;         /*      4    4   power of two */
    struct le32 table_clusters;        /*      8    4   clusters of a table, power of two */
    struct le32 header_clusters;       /*     12    4   clusters of the header with the name */
    struct le64 features;              /*     16    8   of enum vd_qed_feature */
    struct le64 compat_features;       /*     24    8   may be ignored */
    struct le64 autoclear_features;    /*     32    8   cleared by writers that do not know them */
    struct le64 l1_offset;             /*     40    8   bytes, cluster-aligned */
    struct le64 size;                  /*     48    8   bytes of the disk */
    struct le32 backing_offset;        /*     56    4   of the name, in the file */
    struct le32 backing_bytes;         /*     60    4   of the name, no NUL behind it */
};
static_assert(sizeof(struct vd_qed_disk_header) == VD_QED_HEADER_BYTES, "qed §3");
static_assert(VD_QED_HEADER_BYTES <= 512, "one sector: qed §7.1");

/*                                        qed §9        offset size */
struct vd_qed_disk_draft {
    uint8_t magic[VD_QED_MAGIC_BYTES]; /*      0    4 */
    struct le32 cluster_bytes;         /*      4    4 */
    struct le32 table_clusters;        /*      8    4 */
    struct le32 header_clusters;       /*     12    4   first draft: index of the first cluster */
    struct le64 features;              /*     16    8 */
    struct le64 compat_features;       /*     24    8   of enum vd_qed_draft_compat */
    struct le64 l1_offset;             /*     32    8 */
    struct le64 size;                  /*     40    8   a multiple of the cluster */
    struct le32 backing_offset;        /*     48    4 */
    struct le32 backing_bytes;         /*     52    4   the header of the third draft ends here */
    struct le32 format_offset;         /*     56    4   of the name of the backing file's format */
    struct le32 format_bytes;          /*     60    4 */
};
static_assert(sizeof(struct vd_qed_disk_draft) == VD_QED_HEADER_BYTES, "qed §9");

#endif
