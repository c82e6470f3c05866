/* SPDX-License-Identifier: MIT */
/* No SHA-256: built without GnuTLS. */
#include "util/sha256.h"

static int missing(struct vdisk_error *err)
{
    return vd_err_set(err, ENOTSUP, "this vdisk was built without GnuTLS: no SHA-256");
}

int vd_sha256(const void *data, size_t length, uint8_t digest[VD_SHA256_BYTES],
              struct vdisk_error *err)
{
    (void)data;
    (void)length;
    (void)digest;
    return missing(err);
}

int vd_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t length,
                   uint8_t digest[VD_SHA256_BYTES], struct vdisk_error *err)
{
    (void)key;
    (void)key_bytes;
    return vd_sha256(data, length, digest, err);
}

int vd_sha256_begin(void **state, struct vdisk_error *err)
{
    *state = NULL;
    return missing(err);
}

int vd_sha256_add(void *state, const void *data, size_t length, struct vdisk_error *err)
{
    (void)state;
    (void)data;
    (void)length;
    return missing(err);
}

void vd_sha256_end(void *state, uint8_t *digest)
{
    (void)state;
    (void)digest;
}
