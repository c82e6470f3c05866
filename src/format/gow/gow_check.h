/* SPDX-License-Identifier: MIT */
/* A check of a GOW image: shared by its files.  gow §8. */
#ifndef VD_FORMAT_GOW_GOW_CHECK_H
#define VD_FORMAT_GOW_GOW_CHECK_H

#include "format/gow/gow_priv.h"

struct vd_gow_check_run {
    struct vd_gow *gow;
    const struct vd_check *check;
    struct vd_gow_header header; /* as the check found it, or recovered */
    uint64_t file_bytes;
    uint32_t blocks;     /* of the disk, a last incomplete one included */
    uint32_t hosts;      /* whole host blocks in the file */
    bool tail_is_used;   /* an entry leads to the incomplete host block at the end of the file: */
    uint32_t tail_block; /* that of this block */
    uint64_t header_findings;
    struct vd_bits seen; /* host blocks that an entry leads to */
    uint32_t last_host;  /* of the last allocated block; VD_GOW_UNALLOCATED: none yet */
};

/* What is wrong with one map entry. */
enum vd_gow_finding {
    VD_GOW_SOUND,
    VD_GOW_PAST_END,   /* set, for a block behind the end of the disk */
    VD_GOW_NOT_THERE,  /* its host block is not in the file */
    VD_GOW_CUT_OFF,    /* its host block is the incomplete one at the end of the file */
    VD_GOW_DUPLICATE,  /* its host block belongs to a block before it */
    VD_GOW_UNVERSIONED /* allocated, version 3: its version is 0, so no consumer would fetch it */
};

/* Looks at the entry of @block; with the same @seen, always the same answer. */
enum vd_gow_finding vd_gow_check_entry(const struct vd_gow_check_run *run,
                                       const struct vd_bits *seen, uint32_t block, uint32_t host,
                                       uint32_t version);

/* A part of both tables. */
struct vd_gow_part {
    struct le32 *map;
    struct le32 *versions; /* all 1 in version 1 and 2; not read if the part is empty */
    bool is_empty;         /* no block of it is allocated */
};

#define VD_GOW_PART_ENTRIES 65536u /* a divisor of the length of every map */

/* Room for VD_GOW_PART_ENTRIES; to be freed. */
int vd_gow_part_alloc(struct vd_gow_part *part, struct vdisk_error *err);
void vd_gow_part_free(struct vd_gow_part *part);
int vd_gow_part_read(const struct vd_gow_check_run *run, uint32_t first, struct vd_gow_part *part,
                     struct vdisk_error *err);

/* Mends all that was found, durably.  What is used then is in gow->used. */
int vd_gow_repair(struct vd_gow_check_run *run, struct vdisk_error *err);

/* Counts what takes space though no entry leads there, and gives it back if asked to, durably. */
int vd_gow_check_leaks(struct vd_gow_check_run *run, bool give_back, struct vdisk_error *err);

#endif
