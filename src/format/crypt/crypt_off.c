/* SPDX-License-Identifier: MIT */
/* What stands in for ciphers in a library built without libgcrypt: it says so. */
#include "format/crypt.h"

static int off(struct vdisk_error *err)
{
    return vd_err_set(err, ENOTSUP,
                      "this library was built without encryption: build it with libgcrypt, "
                      "-Dcrypto=enabled");
}

int vd_cipher_new(const struct vd_crypt_spec *spec, const uint8_t *key, size_t key_bytes,
                  struct vd_cipher **cipher, struct vdisk_error *err)
{
    (void)spec;
    (void)key;
    (void)key_bytes;
    (void)cipher;
    return off(err);
}

/* There never is a cipher, so only NULL gets here. */
void vd_cipher_free(struct vd_cipher *cipher)
{
    (void)cipher;
}

int vd_cipher_encrypt(const struct vd_cipher *cipher, uint64_t offset, void *bytes, size_t length,
                      struct vdisk_error *err)
{
    (void)cipher;
    (void)offset;
    (void)bytes;
    (void)length;
    return off(err);
}

int vd_cipher_decrypt(const struct vd_cipher *cipher, uint64_t offset, void *bytes, size_t length,
                      struct vdisk_error *err)
{
    return vd_cipher_encrypt(cipher, offset, bytes, length, err);
}

int vd_crypt_numbered_digest(enum vd_crypt_hash hash, uint32_t number, const uint8_t *bytes,
                             size_t length, uint8_t *digest, struct vdisk_error *err)
{
    (void)hash;
    (void)number;
    (void)bytes;
    (void)length;
    (void)digest;
    return off(err);
}

int vd_crypt_derive(enum vd_crypt_hash hash, struct vd_crypt_bytes secret,
                    struct vd_crypt_bytes salt, uint32_t iterations, uint8_t *key, size_t key_bytes,
                    struct vdisk_error *err)
{
    (void)hash;
    (void)secret;
    (void)salt;
    (void)iterations;
    (void)key;
    (void)key_bytes;
    return off(err);
}

int vd_crypt_random(void *bytes, size_t length, struct vdisk_error *err)
{
    (void)bytes;
    (void)length;
    return off(err);
}
