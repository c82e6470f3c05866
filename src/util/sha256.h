/* SPDX-License-Identifier: MIT */
/* SHA-256 piece by piece, by GnuTLS (sha256_gnutls.c), or answering -ENOTSUP (sha256_off.c). */
#ifndef VD_UTIL_SHA256_H
#define VD_UTIL_SHA256_H

#include "util/digest.h"

int vd_sha256_begin(void **state, struct vdisk_error *err);
int vd_sha256_add(void *state, const void *data, size_t length, struct vdisk_error *err);

/* Frees the state; @digest: VD_SHA256_BYTES, or NULL. */
void vd_sha256_end(void *state, uint8_t *digest);

#endif
