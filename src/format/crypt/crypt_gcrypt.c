/* SPDX-License-Identifier: MIT */
/*
 * Ciphers, digests and keys from passphrases, by libgcrypt.
 *
 * A handle of libgcrypt is for one thread at a time, and keying one takes some tens of
 * microseconds; so a cipher keeps those that were made, and each call takes one for itself: there
 * are as many as there ever were calls at once.
 */
#include <gcrypt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "format/crypt.h"
#include "util/endian.h"
#include "util/mem.h"
#include "util/mutex.h"

#define BLOCK_BYTES_MAX 16u

/*
 * libgcrypt wants its first call not to overlap with others.  When this library is loaded nobody
 * can make one by way of it yet.  The program stays free to choose libgcrypt's options.
 */
__attribute__((constructor)) static void first_call(void)
{
    gcry_check_version(NULL);
}

/* Unless the program has set libgcrypt up, it is told that nobody will. */
static void finish_initialization(void)
{
    if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P))
        return;
    gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
}

/* Handles with their keys. */
struct keyed {
    gcry_cipher_hd_t data;
    gcry_cipher_hd_t essiv; /* NULL: not needed */
    struct keyed *next;
};

struct pool {
    struct vd_mutex lock;
    struct keyed *idle; /* under lock */
};

struct vd_cipher {
    struct vd_crypt_spec spec;
    size_t block_bytes;
    size_t key_bytes;
    uint8_t key[VD_CRYPT_KEY_BYTES_MAX];
    struct pool *pool; /* owned */
};

static int gcrypt_error(struct vdisk_error *err, const char *what, gcry_error_t error)
{
    int code = gcry_err_code(error) == GPG_ERR_ENOMEM ? ENOMEM : ENOTSUP;
    return vd_err_set(err, code, "%s: libgcrypt: %s", what, gcry_strerror(error));
}

static int algorithm_of(enum vd_crypt_algorithm algorithm, size_t key_bytes)
{
    switch (algorithm) {
    case VD_CRYPT_AES:
        return key_bytes == 16   ? GCRY_CIPHER_AES128
               : key_bytes == 24 ? GCRY_CIPHER_AES192
                                 : GCRY_CIPHER_AES256;
    case VD_CRYPT_SERPENT:
        return key_bytes == 16   ? GCRY_CIPHER_SERPENT128
               : key_bytes == 24 ? GCRY_CIPHER_SERPENT192
                                 : GCRY_CIPHER_SERPENT256;
    case VD_CRYPT_TWOFISH:
        return key_bytes == 16 ? GCRY_CIPHER_TWOFISH128 : GCRY_CIPHER_TWOFISH;
    default:
        return GCRY_CIPHER_CAST5;
    }
}

static int mode_of(enum vd_crypt_mode mode)
{
    static const int table[] = {
        [VD_CRYPT_ECB] = GCRY_CIPHER_MODE_ECB,
        [VD_CRYPT_CBC] = GCRY_CIPHER_MODE_CBC,
        [VD_CRYPT_CTR] = GCRY_CIPHER_MODE_CTR,
        [VD_CRYPT_XTS] = GCRY_CIPHER_MODE_XTS,
    };
    return table[mode];
}

static int hash_of(enum vd_crypt_hash hash)
{
    static const int table[] = {
        [VD_CRYPT_MD5] = GCRY_MD_MD5,          [VD_CRYPT_SHA1] = GCRY_MD_SHA1,
        [VD_CRYPT_SHA224] = GCRY_MD_SHA224,    [VD_CRYPT_SHA256] = GCRY_MD_SHA256,
        [VD_CRYPT_SHA384] = GCRY_MD_SHA384,    [VD_CRYPT_SHA512] = GCRY_MD_SHA512,
        [VD_CRYPT_RIPEMD160] = GCRY_MD_RMD160,
    };
    return table[hash];
}

static void free_keyed(struct keyed *keyed)
{
    if (!keyed)
        return;
    gcry_cipher_close(keyed->data); /* both wipe; NULL is accepted */
    gcry_cipher_close(keyed->essiv);
    free(keyed);
}

static gcry_error_t open_keyed(gcry_cipher_hd_t *handle, int algorithm, int mode,
                               const uint8_t *key, size_t key_bytes)
{
    gcry_error_t error = gcry_cipher_open(handle, algorithm, mode, 0);
    return error ? error : gcry_cipher_setkey(*handle, key, key_bytes);
}

static gcry_error_t open_essiv(const struct vd_cipher *cipher, gcry_cipher_hd_t *handle)
{
    uint8_t digest[VD_CRYPT_DIGEST_BYTES_MAX];
    size_t bytes = vd_crypt_hash_bytes(cipher->spec.iv_hash);
    gcry_md_hash_buffer(hash_of(cipher->spec.iv_hash), digest, cipher->key, cipher->key_bytes);
    gcry_error_t error = open_keyed(handle, algorithm_of(cipher->spec.algorithm, bytes),
                                    GCRY_CIPHER_MODE_ECB, digest, bytes);
    explicit_bzero(digest, sizeof(digest));
    return error;
}

static int new_keyed(const struct vd_cipher *cipher, struct keyed **made, struct vdisk_error *err)
{
    const struct vd_crypt_spec *spec = &cipher->spec;
    size_t one_key = vd_crypt_one_key_bytes(spec, cipher->key_bytes);
    struct keyed *keyed = calloc(1, sizeof(*keyed));
    if (!keyed)
        return vd_err_nomem(err, "a cipher");
    gcry_error_t error = open_keyed(&keyed->data, algorithm_of(spec->algorithm, one_key),
                                    mode_of(spec->mode), cipher->key, cipher->key_bytes);
    if (!error && spec->iv == VD_CRYPT_ESSIV && spec->mode != VD_CRYPT_ECB)
        error = open_essiv(cipher, &keyed->essiv);
    if (error) {
        free_keyed(keyed);
        return gcrypt_error(err, vd_crypt_algorithm_name(spec->algorithm), error);
    }
    *made = keyed;
    return 0;
}

static int take_keyed(const struct vd_cipher *cipher, struct keyed **taken, struct vdisk_error *err)
{
    struct pool *pool = cipher->pool;
    vd_mutex_lock(&pool->lock);
    struct keyed *keyed = pool->idle;
    if (keyed)
        pool->idle = keyed->next;
    vd_mutex_unlock(&pool->lock);
    *taken = keyed;
    return keyed ? 0 : new_keyed(cipher, taken, err);
}

static void return_keyed(const struct vd_cipher *cipher, struct keyed *keyed)
{
    struct pool *pool = cipher->pool;
    vd_mutex_lock(&pool->lock);
    keyed->next = pool->idle;
    pool->idle = keyed;
    vd_mutex_unlock(&pool->lock);
}

int vd_cipher_new(const struct vd_crypt_spec *spec, const uint8_t *key, size_t key_bytes,
                  struct vd_cipher **cipher, struct vdisk_error *err)
{
    int ret = vd_crypt_check(spec, key_bytes, err);
    if (ret < 0)
        return ret;
    finish_initialization();
    struct vd_cipher *made = calloc(1, sizeof(*made));
    struct pool *pool = calloc(1, sizeof(*pool));
    if (!made || !pool) {
        free(made);
        free(pool);
        return vd_err_nomem(err, "a cipher");
    }
    vd_mutex_init(&pool->lock);
    *made = (struct vd_cipher){
        .spec = *spec,
        .block_bytes = spec->algorithm == VD_CRYPT_CAST5 ? 8 : 16,
        .key_bytes = key_bytes,
        .pool = pool,
    };
    memcpy(made->key, key, key_bytes);
    struct keyed *first;
    ret = new_keyed(made, &first, err); /* whatever is wrong with it shows here */
    if (ret < 0) {
        vd_cipher_free(made);
        return ret;
    }
    return_keyed(made, first);
    *cipher = made;
    return 0;
}

void vd_cipher_free(struct vd_cipher *cipher)
{
    if (!cipher)
        return;
    struct keyed *keyed = cipher->pool->idle;
    while (keyed) {
        struct keyed *next = keyed->next;
        free_keyed(keyed);
        keyed = next;
    }
    vd_mutex_destroy(&cipher->pool->lock);
    free(cipher->pool);
    explicit_bzero(cipher->key, sizeof(cipher->key));
    free(cipher);
}

static gcry_error_t set_iv(const struct vd_cipher *cipher, const struct keyed *keyed,
                           uint64_t sector)
{
    uint8_t iv[BLOCK_BYTES_MAX] = {0};
    size_t bytes = cipher->block_bytes;
    if (cipher->spec.mode == VD_CRYPT_ECB)
        return 0;
    struct le64 number = le64_of(cipher->spec.iv == VD_CRYPT_PLAIN ? (uint32_t)sector : sector);
    memcpy(iv, number.bytes, sizeof(number));
    gcry_error_t error = keyed->essiv ? gcry_cipher_encrypt(keyed->essiv, iv, bytes, NULL, 0) : 0;
    if (error)
        return error;
    return cipher->spec.mode == VD_CRYPT_CTR ? gcry_cipher_setctr(keyed->data, iv, bytes)
                                             : gcry_cipher_setiv(keyed->data, iv, bytes);
}

static int crypt_sectors(const struct vd_cipher *cipher, uint64_t offset, uint8_t *bytes,
                         size_t length, bool encrypts, struct vdisk_error *err)
{
    struct keyed *keyed;
    gcry_error_t error = 0;
    assert(offset % VD_CIPHER_SECTOR_BYTES == 0 && length % VD_CIPHER_SECTOR_BYTES == 0);
    int ret = take_keyed(cipher, &keyed, err);
    if (ret < 0)
        return ret;
    for (size_t done = 0; done < length && !error; done += VD_CIPHER_SECTOR_BYTES) {
        uint8_t *at = bytes + done;
        error = set_iv(cipher, keyed, (offset + done) / VD_CIPHER_SECTOR_BYTES);
        if (!error)
            error = encrypts
                        ? gcry_cipher_encrypt(keyed->data, at, VD_CIPHER_SECTOR_BYTES, NULL, 0)
                        : gcry_cipher_decrypt(keyed->data, at, VD_CIPHER_SECTOR_BYTES, NULL, 0);
    }
    return_keyed(cipher, keyed);
    return error ? gcrypt_error(err, encrypts ? "encryption" : "decryption", error) : 0;
}

int vd_cipher_encrypt(const struct vd_cipher *cipher, uint64_t offset, void *bytes, size_t length,
                      struct vdisk_error *err)
{
    return crypt_sectors(cipher, offset, bytes, length, true, err);
}

int vd_cipher_decrypt(const struct vd_cipher *cipher, uint64_t offset, void *bytes, size_t length,
                      struct vdisk_error *err)
{
    return crypt_sectors(cipher, offset, bytes, length, false, err);
}

int vd_crypt_numbered_digest(enum vd_crypt_hash hash, uint32_t number, const uint8_t *bytes,
                             size_t length, uint8_t *digest, struct vdisk_error *err)
{
    struct be32 head = be32_of(number);
    finish_initialization();
    const gcry_buffer_t parts[] = {
        {.data = head.bytes, .len = sizeof(head)},
        {.data = (void *)(uintptr_t)bytes, .len = length},
    };
    gcry_error_t error = gcry_md_hash_buffers(hash_of(hash), 0, digest, parts, 2);
    return error ? gcrypt_error(err, vd_crypt_hash_name(hash), error) : 0;
}

int vd_crypt_derive(enum vd_crypt_hash hash, struct vd_crypt_bytes secret,
                    struct vd_crypt_bytes salt, uint32_t iterations, uint8_t *key, size_t key_bytes,
                    struct vdisk_error *err)
{
    finish_initialization();
    gcry_error_t error =
        gcry_kdf_derive(secret.length ? secret.bytes : "", secret.length, GCRY_KDF_PBKDF2,
                        hash_of(hash), salt.bytes, salt.length, iterations, key_bytes, key);
    return error ? gcrypt_error(err, "PBKDF2", error) : 0;
}

int vd_crypt_random(void *bytes, size_t length, struct vdisk_error *err)
{
    uint8_t *at = bytes;
    while (length) {
        ssize_t got = getrandom(at, length, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return vd_err_errno(err, errno, "random bytes for a key");
        at += got;
        length -= (size_t)got;
    }
    return 0;
}
