/* SPDX-License-Identifier: MIT */
/*
 * Reading and writing encrypted clusters, by way of mappings that have a cipher.
 *
 * X1  The caller's buffers are never encrypted in place, and only ciphertext gets to the storage.
 * X2  A sector is encrypted as a whole.  Whoever writes a part of an allocated one holds it by the
 *     guard from before it is read until it is written; so does whoever overwrites a whole one,
 *     which would be lost if it came between.
 * X3  A sector that is being rewritten for a part of it is not read meanwhile, as half of it may
 *     decrypt to anything.
 */
#ifndef VD_IMAGE_ENCRYPTED_H
#define VD_IMAGE_ENCRYPTED_H

#include <stdatomic.h>

#include "format/cipher.h"
#include "format/format.h"

/* X3: counts of rewritings of parts. */
struct vd_rewrites {
    atomic_ulong begun;
    atomic_ulong done;
};

/* Whole sectors with @guest. */
static inline struct vd_range vd_encrypted_sectors(struct vd_range guest)
{
    return vd_range_expand(guest, VD_CIPHER_SECTOR_BYTES);
}

/* Reads and decrypts @guest, in the sectors of mapping->guest. */
int vd_encrypted_read(const struct vd_mapping *mapping, struct vd_range guest,
                      const struct iovec *iov, int iov_entries, struct vdisk_error *err);

/* Fills @bytes with what shall be at @guest. */
struct vd_plaintext {
    int (*get)(void *opaque, struct vd_range guest, uint8_t *bytes, struct vdisk_error *err);
    void *opaque;
};

/* Encrypts and writes the whole sectors @guest of the clusters of @mapping. */
int vd_encrypted_write(const struct vd_mapping *mapping, struct vd_range guest,
                       const struct vd_plaintext *plaintext, struct vdisk_error *err);

#endif
