/* SPDX-License-Identifier: MIT */
/* Signatures, by GnuTLS (sums_crypto.c), or answering -ENOTSUP (sums_crypto_off.c). */
#ifndef VD_JOB_SUMS_CRYPTO_H
#define VD_JOB_SUMS_CRYPTO_H

#include "util/err.h"

/*
 * Signs with the private key of the PEM file @key_name: Ed25519, ECDSA or RSA, the two latter with
 * SHA-256.  The signature is to be freed.
 */
int vd_signature_make(const char *key_name, const void *data, size_t length, uint8_t **signature,
                      size_t *signature_bytes, struct vdisk_error *err);

/* With the public key, or the certificate, of the PEM file @key_name.  -EKEYREJECTED: it is not
 * the signature of this data by this key. */
int vd_signature_check(const char *key_name, const void *data, size_t length, const void *signature,
                       size_t signature_bytes, struct vdisk_error *err);

#endif
