/* SPDX-License-Identifier: MIT */
/* GOW as it lies on disk, byte by byte.  docs/formats/gow.md is the specification. */
#ifndef VD_FORMAT_GOW_GOW_DISK_H
#define VD_FORMAT_GOW_GOW_DISK_H

#include <assert.h>

#include "util/endian.h"

#define VD_GOW_MAGIC_BYTES  4u /* 'G' 'O' 'W' 0 */

#define VD_GOW_HEADER_BYTES 64u
#define VD_GOW_INTENT_BYTES 256u /* version 3: behind the header */

/* What is changed by one write of the header: lies within one 512-byte sector.  gow §5.1 */
#define VD_GOW_HEAD_BYTES (VD_GOW_HEADER_BYTES + VD_GOW_INTENT_BYTES)

enum vd_gow_flag {                   /* gow §3.3 */
    VD_GOW_FLAG_DIRTY = 1 << 0,      /* a writer has it open, or died */
    VD_GOW_FLAG_INCOMPLETE = 1 << 1, /* version 3: a sync into it has not finished */
    VD_GOW_FLAG_REPLICA = 1 << 2     /* version 3: made by a sync, not changed since */
};

#define VD_GOW_UNALLOCATED 0xFFFFFFFFu /* map entry: no host block.  gow §4.1 */
#define VD_GOW_VERSION_MAX 0xFFFFFFFFu /* block version that can not go up.  gow §4.2 */

/*                                      gow §3          offset size */
struct vd_gow_disk_header {
    uint8_t magic[VD_GOW_MAGIC_BYTES]; /*      0    4 */
    struct le32 version;               /*      4    4   1, 2 or 3 */
    struct le64 size;                  /*      8    8   bytes of the disk */
    struct le32 flags;                 /*     16    4   of enum vd_gow_flag */
    struct le32 reserved0;             /*     20    4   zero */
    struct le64 generation;            /*     24    8   sessions that changed something */
    uint8_t uuid[16];                  /*     32   16   lineage */
    uint8_t reserved1[16];             /*     48   16   zero */
};
static_assert(sizeof(struct vd_gow_disk_header) == VD_GOW_HEADER_BYTES, "gow §3");
static_assert(VD_GOW_HEAD_BYTES <= 512, "gow §5.1");

#endif
