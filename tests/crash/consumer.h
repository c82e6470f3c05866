/* SPDX-License-Identifier: MIT */
/*
 * Somebody who copied a GOW v3 master when it was closed, and will copy later only those blocks
 * whose version is newer by then.
 */
#ifndef VT_CONSUMER_H
#define VT_CONSUMER_H

#include "ledger.h"
#include "storage/storage.h"

struct vt_consumer {
    uint64_t size;
    uint64_t generation;
    uint8_t *bytes;     /* of the ledger's windows */
    uint32_t *versions; /* of their blocks */
};

/* @bytes: what the disk reads as; @file: the master, closed. */
void vt_consumer_sync(struct vt_consumer *consumer, const struct vt_ledger *ledger,
                      struct vd_storage *file, const uint8_t *bytes);
void vt_consumer_copy(struct vt_consumer *to, const struct vt_consumer *from,
                      const struct vt_ledger *ledger);
void vt_consumer_free(struct vt_consumer *consumer);

/*
 * Would a sync with the master in @file, which reads as @bytes, make the consumer its equal?
 * NULL if so, else what is wrong; *offset tells where.
 */
const char *vt_consumer_misses(const struct vt_consumer *consumer, const struct vt_ledger *ledger,
                               struct vd_storage *file, const uint8_t *bytes, uint64_t *offset);

#endif
