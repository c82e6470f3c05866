/* SPDX-License-Identifier: MIT */
/*
 * Encrypted clusters: sectors of 512 bytes, each by itself, its initialisation vector counted from
 * an offset.  Nothing here knows of images; format/luks.h makes a cipher of a header and a
 * passphrase.
 */
#ifndef VD_FORMAT_CIPHER_H
#define VD_FORMAT_CIPHER_H

#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

#define VD_CIPHER_SECTOR_BYTES 512u

/* A keyed cipher; any thread. */
struct vd_cipher;

/* In place.  @offset and @length are multiples of the sector; @offset: of the first byte, for its
 * initialisation vector. */
int vd_cipher_encrypt(const struct vd_cipher *cipher, uint64_t offset, void *bytes, size_t length,
                      struct vdisk_error *err);
int vd_cipher_decrypt(const struct vd_cipher *cipher, uint64_t offset, void *bytes, size_t length,
                      struct vdisk_error *err);

/* Wipes the keys.  NULL is accepted. */
void vd_cipher_free(struct vd_cipher *cipher);

#endif
