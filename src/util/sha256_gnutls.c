/* SPDX-License-Identifier: MIT */
/* SHA-256, by GnuTLS. */
#include "util/sha256.h"

#include <gnutls/crypto.h>

static int failed(int ret, struct vdisk_error *err)
{
    return ret < 0 ? vd_err_set(err, EIO, "SHA-256: %s", gnutls_strerror(ret)) : 0;
}

int vd_sha256(const void *data, size_t length, uint8_t digest[VD_SHA256_BYTES],
              struct vdisk_error *err)
{
    return failed(gnutls_hash_fast(GNUTLS_DIG_SHA256, data, length, digest), err);
}

int vd_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t length,
                   uint8_t digest[VD_SHA256_BYTES], struct vdisk_error *err)
{
    return failed(gnutls_hmac_fast(GNUTLS_MAC_SHA256, key, key_bytes, data, length, digest), err);
}

int vd_sha256_begin(void **state, struct vdisk_error *err)
{
    gnutls_hash_hd_t hash = NULL;
    int ret = failed(gnutls_hash_init(&hash, GNUTLS_DIG_SHA256), err);
    *state = ret == 0 ? hash : NULL;
    return ret;
}

int vd_sha256_add(void *state, const void *data, size_t length, struct vdisk_error *err)
{
    return failed(gnutls_hash(state, data, length), err);
}

void vd_sha256_end(void *state, uint8_t *digest)
{
    gnutls_hash_deinit(state, digest);
}
