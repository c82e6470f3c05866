/* SPDX-License-Identifier: MIT */
/* Names of ciphers and digests, and what goes together. */
#include <string.h>

#include "format/crypt.h"

#define ENTRIES(array) (sizeof(array) / sizeof((array)[0]))

static const char *const algorithms[] = {
    [VD_CRYPT_AES] = "aes",
    [VD_CRYPT_SERPENT] = "serpent",
    [VD_CRYPT_TWOFISH] = "twofish",
    [VD_CRYPT_CAST5] = "cast5",
};

static const char *const modes[] = {
    [VD_CRYPT_ECB] = "ecb",
    [VD_CRYPT_CBC] = "cbc",
    [VD_CRYPT_CTR] = "ctr",
    [VD_CRYPT_XTS] = "xts",
};

static const char *const ivs[] = {
    [VD_CRYPT_PLAIN] = "plain",
    [VD_CRYPT_PLAIN64] = "plain64",
    [VD_CRYPT_ESSIV] = "essiv",
};

static const struct {
    const char *name;
    size_t bytes;
} hashes[] = {
    [VD_CRYPT_MD5] = {"md5", 16},
    [VD_CRYPT_SHA1] = {"sha1", 20},
    [VD_CRYPT_SHA224] = {"sha224", 28},
    [VD_CRYPT_SHA256] = {"sha256", 32},
    [VD_CRYPT_SHA384] = {"sha384", 48},
    [VD_CRYPT_SHA512] = {"sha512", 64},
    [VD_CRYPT_RIPEMD160] = {"ripemd160", 20},
};

static const struct {
    const char *name;
    enum vd_crypt_algorithm algorithm;
    size_t key_bytes;
} sized[] = {
    {"aes-128", VD_CRYPT_AES, 16},         {"aes-192", VD_CRYPT_AES, 24},
    {"aes-256", VD_CRYPT_AES, 32},         {"serpent-128", VD_CRYPT_SERPENT, 16},
    {"serpent-192", VD_CRYPT_SERPENT, 24}, {"serpent-256", VD_CRYPT_SERPENT, 32},
    {"twofish-128", VD_CRYPT_TWOFISH, 16}, {"twofish-256", VD_CRYPT_TWOFISH, 32},
    {"cast5-128", VD_CRYPT_CAST5, 16},
};

const char *vd_crypt_algorithm_name(enum vd_crypt_algorithm algorithm)
{
    return algorithms[algorithm];
}

const char *vd_crypt_mode_name(enum vd_crypt_mode mode)
{
    return modes[mode];
}

const char *vd_crypt_iv_name(enum vd_crypt_iv iv)
{
    return ivs[iv];
}

const char *vd_crypt_hash_name(enum vd_crypt_hash hash)
{
    return hashes[hash].name;
}

/* The index of @name, or -1. */
static int find(const char *const *names, size_t entries, const char *name)
{
    for (size_t i = 0; i < entries; i++)
        if (strcmp(names[i], name) == 0)
            return (int)i;
    return -1;
}

bool vd_crypt_algorithm_find(const char *name, enum vd_crypt_algorithm *algorithm)
{
    int index = find(algorithms, ENTRIES(algorithms), name);
    if (index >= 0)
        *algorithm = (enum vd_crypt_algorithm)index;
    return index >= 0;
}

bool vd_crypt_mode_find(const char *name, enum vd_crypt_mode *mode)
{
    int index = find(modes, ENTRIES(modes), name);
    if (index >= 0)
        *mode = (enum vd_crypt_mode)index;
    return index >= 0;
}

bool vd_crypt_iv_find(const char *name, enum vd_crypt_iv *iv)
{
    int index = find(ivs, ENTRIES(ivs), name);
    if (index >= 0)
        *iv = (enum vd_crypt_iv)index;
    return index >= 0;
}

bool vd_crypt_hash_find(const char *name, enum vd_crypt_hash *hash)
{
    for (size_t i = 0; i < ENTRIES(hashes); i++)
        if (strcmp(hashes[i].name, name) == 0) {
            *hash = (enum vd_crypt_hash)i;
            return true;
        }
    return false;
}

bool vd_crypt_sized_find(const char *name, enum vd_crypt_algorithm *algorithm, size_t *key_bytes)
{
    for (size_t i = 0; i < ENTRIES(sized); i++)
        if (strcmp(sized[i].name, name) == 0) {
            *algorithm = sized[i].algorithm;
            *key_bytes = sized[i].key_bytes;
            return true;
        }
    return false;
}

const char *vd_crypt_sized_name(enum vd_crypt_algorithm algorithm, size_t key_bytes)
{
    for (size_t i = 0; i < ENTRIES(sized); i++)
        if (sized[i].algorithm == algorithm && sized[i].key_bytes == key_bytes)
            return sized[i].name;
    return NULL;
}

size_t vd_crypt_hash_bytes(enum vd_crypt_hash hash)
{
    return hashes[hash].bytes;
}

int vd_crypt_check(const struct vd_crypt_spec *spec, size_t key_bytes, struct vdisk_error *err)
{
    const char *name = vd_crypt_algorithm_name(spec->algorithm);
    const char *mode = vd_crypt_mode_name(spec->mode);
    size_t one = vd_crypt_one_key_bytes(spec, key_bytes);
    bool is_even = spec->mode != VD_CRYPT_XTS || key_bytes % 2 == 0;
    if (!is_even || !vd_crypt_sized_name(spec->algorithm, one))
        return vd_err_set(err, ENOTSUP, "cipher %s in mode %s has no key of %zu bytes", name, mode,
                          key_bytes);
    if (spec->mode == VD_CRYPT_XTS && spec->algorithm == VD_CRYPT_CAST5)
        return vd_err_set(err, ENOTSUP, "mode xts wants blocks of 16 bytes: cipher %s has 8", name);
    if (spec->mode == VD_CRYPT_ECB || spec->iv != VD_CRYPT_ESSIV)
        return 0;
    size_t digest = vd_crypt_hash_bytes(spec->iv_hash);
    if (spec->algorithm == VD_CRYPT_CAST5 || !vd_crypt_sized_name(spec->algorithm, digest))
        return vd_err_set(err, ENOTSUP,
                          "essiv:%s: cipher %s has no key as long as that digest, %zu bytes",
                          vd_crypt_hash_name(spec->iv_hash), name, digest);
    return 0;
}
