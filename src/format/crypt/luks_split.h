/* SPDX-License-Identifier: MIT */
/* LUKS's anti-forensic splitting: a key is blown up so that losing any part of it loses all. */
#ifndef VD_FORMAT_CRYPT_LUKS_SPLIT_H
#define VD_FORMAT_CRYPT_LUKS_SPLIT_H

#include "format/crypt.h"

/* @split: @stripes times @key_bytes. */
int vd_luks_split(enum vd_crypt_hash hash, const uint8_t *key, size_t key_bytes, uint32_t stripes,
                  uint8_t *split, struct vdisk_error *err);
int vd_luks_merge(enum vd_crypt_hash hash, const uint8_t *split, size_t key_bytes, uint32_t stripes,
                  uint8_t *key, struct vdisk_error *err);

#endif
