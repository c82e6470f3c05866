/* SPDX-License-Identifier: MIT */
/* No signatures: built without GnuTLS. */
#include "job/sums_crypto.h"

static int missing(struct vdisk_error *err)
{
    return vd_err_set(err, ENOTSUP, "this vdisk was built without GnuTLS: no signatures");
}

int vd_signature_make(const char *key_name, const void *data, size_t length, uint8_t **signature,
                      size_t *signature_bytes, struct vdisk_error *err)
{
    (void)key_name;
    (void)data;
    (void)length;
    (void)signature;
    (void)signature_bytes;
    return missing(err);
}

int vd_signature_check(const char *key_name, const void *data, size_t length, const void *signature,
                       size_t signature_bytes, struct vdisk_error *err)
{
    (void)key_name;
    (void)data;
    (void)length;
    (void)signature;
    (void)signature_bytes;
    return missing(err);
}
