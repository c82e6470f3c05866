/* SPDX-License-Identifier: MIT */
/*
 * What every byte of a disk may read as after a power cut: its value at the last flush, or any
 * value that it was given since.  Kept by sectors of 512 bytes, in a few windows; all else is zero.
 */
#ifndef VT_LEDGER_H
#define VT_LEDGER_H

#include <stdbool.h>
#include <stddef.h>

#include "util/range.h"

#define VT_SECTOR_BYTES       512u
#define VT_LEDGER_BLOCK_BYTES 65536u
#define VT_LEDGER_WINDOWS     4u

/* The values of one sector, each VT_SECTOR_BYTES: the flushed one first, the newest last. */
struct vt_cell {
    uint8_t *values;
    size_t entries;
    size_t capacity;
};

struct vt_ledger_window {
    struct vd_range guest; /* whole blocks, the last one perhaps cut by the end of the disk */
    struct vt_cell *cells;
};

struct vt_ledger {
    struct vt_ledger_window windows[VT_LEDGER_WINDOWS];
    uint64_t bytes; /* of all windows together */
    uint64_t sizes[2];
    /* What the size of the disk may be: flushed and newest; equal but while it is being changed */
};

void vt_ledger_init(struct vt_ledger *ledger, uint64_t size);
void vt_ledger_free(struct vt_ledger *ledger);

/* A change begins: the range may hold @data (NULL: zeros) from now on. */
void vt_ledger_change(struct vt_ledger *ledger, struct vd_range guest, const uint8_t *data);

/* The newest value of all windows is @image: all windows one behind the other. */
void vt_ledger_adopt(struct vt_ledger *ledger, const uint8_t *image);

/* Everything is durable: only the newest values are left. */
void vt_ledger_flushed(struct vt_ledger *ledger);

/* The same for one range, which is the case for what a resize cut off. */
void vt_ledger_flushed_range(struct vt_ledger *ledger, struct vd_range guest);

/*
 * May a disk read as @image?  If not, *bad gets the first offset that tells.  Bytes past @size are
 * not looked at.
 */
bool vt_ledger_allows(const struct vt_ledger *ledger, const uint8_t *image, uint64_t size,
                      uint64_t *bad);

/* Does @image hold the newest values? */
bool vt_ledger_is_newest(const struct vt_ledger *ledger, const uint8_t *image, uint64_t size);

#endif
