/* SPDX-License-Identifier: MIT */
/*
 * What encryption is made of: ciphers by name, digests, keys from passphrases, random bytes.  The
 * only file that knows the library behind it is crypt/crypt_gcrypt.c; without that library all of
 * it is -ENOTSUP, but for the names and the limits.
 */
#ifndef VD_FORMAT_CRYPT_H
#define VD_FORMAT_CRYPT_H

#include <stdbool.h>

#include "format/cipher.h"

enum vd_crypt_algorithm {
    VD_CRYPT_AES,
    VD_CRYPT_SERPENT,
    VD_CRYPT_TWOFISH,
    VD_CRYPT_CAST5
};

enum vd_crypt_mode {
    VD_CRYPT_ECB, /* no initialisation vector */
    VD_CRYPT_CBC,
    VD_CRYPT_CTR,
    VD_CRYPT_XTS /* the key is two keys */
};

/* What a sector's initialisation vector is made of; its number counts sectors of 512 bytes. */
enum vd_crypt_iv {
    VD_CRYPT_PLAIN,   /* the low 32 bits of the number */
    VD_CRYPT_PLAIN64, /* the number */
    VD_CRYPT_ESSIV    /* the number, encrypted with a digest of the key */
};

enum vd_crypt_hash {
    VD_CRYPT_MD5,
    VD_CRYPT_SHA1,
    VD_CRYPT_SHA224,
    VD_CRYPT_SHA256,
    VD_CRYPT_SHA384,
    VD_CRYPT_SHA512,
    VD_CRYPT_RIPEMD160
};

struct vd_crypt_spec {
    enum vd_crypt_algorithm algorithm;
    enum vd_crypt_mode mode;
    enum vd_crypt_iv iv;
    enum vd_crypt_hash iv_hash; /* ESSIV */
};

#define VD_CRYPT_KEY_BYTES_MAX    64u
#define VD_CRYPT_DIGEST_BYTES_MAX 64u

/* The names that LUKS headers have: "aes", "xts", "plain64", "sha256".  find(): false: no such. */
const char *vd_crypt_algorithm_name(enum vd_crypt_algorithm algorithm);
const char *vd_crypt_mode_name(enum vd_crypt_mode mode);
const char *vd_crypt_iv_name(enum vd_crypt_iv iv);
const char *vd_crypt_hash_name(enum vd_crypt_hash hash);
bool vd_crypt_algorithm_find(const char *name, enum vd_crypt_algorithm *algorithm);
bool vd_crypt_mode_find(const char *name, enum vd_crypt_mode *mode);
bool vd_crypt_iv_find(const char *name, enum vd_crypt_iv *iv);
bool vd_crypt_hash_find(const char *name, enum vd_crypt_hash *hash);

/* The names that QEMU gives an algorithm with the length of its key: "aes-256", for example. */
bool vd_crypt_sized_find(const char *name, enum vd_crypt_algorithm *algorithm, size_t *key_bytes);

/* NULL if it has no key of that length; @key_bytes: of one key, where the mode has two. */
const char *vd_crypt_sized_name(enum vd_crypt_algorithm algorithm, size_t key_bytes);

/* Of one key, where the mode has two. */
static inline size_t vd_crypt_one_key_bytes(const struct vd_crypt_spec *spec, size_t key_bytes)
{
    return spec->mode == VD_CRYPT_XTS ? key_bytes / 2 : key_bytes;
}

size_t vd_crypt_hash_bytes(enum vd_crypt_hash hash);

/* Do these go together?  -ENOTSUP, with words. */
int vd_crypt_check(const struct vd_crypt_spec *spec, size_t key_bytes, struct vdisk_error *err);

/* A cipher with a key, which is copied; after vd_crypt_check(). */
int vd_cipher_new(const struct vd_crypt_spec *spec, const uint8_t *key, size_t key_bytes,
                  struct vd_cipher **cipher, struct vdisk_error *err);

/* The digest of the big-endian @number and @bytes. */
int vd_crypt_numbered_digest(enum vd_crypt_hash hash, uint32_t number, const uint8_t *bytes,
                             size_t length, uint8_t *digest, struct vdisk_error *err);

struct vd_crypt_bytes {
    const void *bytes;
    size_t length;
};

/* PBKDF2 with HMAC. */
int vd_crypt_derive(enum vd_crypt_hash hash, struct vd_crypt_bytes secret,
                    struct vd_crypt_bytes salt, uint32_t iterations, uint8_t *key, size_t key_bytes,
                    struct vdisk_error *err);

/* For keys. */
int vd_crypt_random(void *bytes, size_t length, struct vdisk_error *err);

#endif
