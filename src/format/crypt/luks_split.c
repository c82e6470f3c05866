/* SPDX-License-Identifier: MIT */
#include "format/crypt/luks_split.h"

#include <string.h>

/* Each piece of a digest's length becomes the digest of its number and itself. */
static int diffuse(enum vd_crypt_hash hash, uint8_t *bytes, size_t length, struct vdisk_error *err)
{
    uint8_t digest[VD_CRYPT_DIGEST_BYTES_MAX];
    size_t digest_bytes = vd_crypt_hash_bytes(hash);
    int ret = 0;
    uint32_t number = 0;
    for (size_t done = 0; done < length && ret == 0; done += digest_bytes) {
        size_t piece = length - done < digest_bytes ? length - done : digest_bytes;
        ret = vd_crypt_numbered_digest(hash, number++, bytes + done, piece, digest, err);
        if (ret == 0)
            memcpy(bytes + done, digest, piece);
    }
    explicit_bzero(digest, sizeof(digest));
    return ret;
}

static void exclusive_or(uint8_t *bytes, const uint8_t *with, size_t length)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] ^= with[i];
}

/* What the last stripe is to be combined with, made of all others. */
static int fold(enum vd_crypt_hash hash, const uint8_t *split, size_t key_bytes, uint32_t stripes,
                uint8_t *folded, struct vdisk_error *err)
{
    int ret = 0;
    memset(folded, 0, key_bytes);
    for (uint32_t i = 0; i + 1 < stripes && ret == 0; i++) {
        exclusive_or(folded, split + i * key_bytes, key_bytes);
        ret = diffuse(hash, folded, key_bytes, err);
    }
    return ret;
}

int vd_luks_split(enum vd_crypt_hash hash, const uint8_t *key, size_t key_bytes, uint32_t stripes,
                  uint8_t *split, struct vdisk_error *err)
{
    uint8_t folded[VD_CRYPT_KEY_BYTES_MAX];
    size_t random_bytes = (stripes - 1) * key_bytes;
    int ret = vd_crypt_random(split, random_bytes, err);
    if (ret == 0)
        ret = fold(hash, split, key_bytes, stripes, folded, err);
    if (ret == 0) {
        memcpy(split + random_bytes, key, key_bytes);
        exclusive_or(split + random_bytes, folded, key_bytes);
    }
    explicit_bzero(folded, sizeof(folded));
    return ret;
}

int vd_luks_merge(enum vd_crypt_hash hash, const uint8_t *split, size_t key_bytes, uint32_t stripes,
                  uint8_t *key, struct vdisk_error *err)
{
    int ret = fold(hash, split, key_bytes, stripes, key, err);
    if (ret == 0)
        exclusive_or(key, split + (stripes - 1) * key_bytes, key_bytes);
    return ret;
}
