/* SPDX-License-Identifier: MIT */
/* Ciphers, initialisation vectors, key derivation: published vectors, and threads. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "drivers/check.h"
#include "format/crypt.h"

#define SECTOR VD_CIPHER_SECTOR_BYTES

static void from_hex(const char *hex, uint8_t *bytes)
{
    for (size_t i = 0; hex[2 * i]; i++) {
        unsigned value;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &value), 1);
        bytes[i] = (uint8_t)value;
    }
}

static void assert_hex(const uint8_t *bytes, const char *hex)
{
    uint8_t wanted[256];
    from_hex(hex, wanted);
    assert_memory_equal(bytes, wanted, strlen(hex) / 2);
}

static void count_up(uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)i;
}

struct vector {
    struct vd_crypt_spec spec;
    size_t key_bytes; /* 0, 1, 2, ... if key is NULL */
    const char *key;
    uint64_t sector;
    const char *first; /* of the sector 0, 1, 2, ... encrypted */
    const char *last;
};

static const struct vector vectors[] = {
    /* IEEE 1619-2007, vector 10 */
    {{VD_CRYPT_AES, VD_CRYPT_XTS, VD_CRYPT_PLAIN64, 0},
     64,
     "2718281828459045235360287471352662497757247093699959574966967627"
     "3141592653589793238462643383279502884197169399375105820974944592",
     0xff,
     "1c3b3a102f770386e4836c99e370cf9b",
     NULL},
    /* By openssl enc, with the initialisation vector computed apart. */
    {{VD_CRYPT_AES, VD_CRYPT_CBC, VD_CRYPT_ESSIV, VD_CRYPT_SHA256},
     32,
     NULL,
     5,
     "48c016b397feb53b0a508d772a0084ec",
     NULL},
    {{VD_CRYPT_AES, VD_CRYPT_CTR, VD_CRYPT_PLAIN64, 0},
     24,
     NULL,
     0x123456789,
     "1c889deea0fbc7b51eecd4ba7e31a6d3",
     "e4bc1903d096e806b2f2597adeefe80c"},
    {{VD_CRYPT_AES, VD_CRYPT_CBC, VD_CRYPT_PLAIN, 0},
     16,
     NULL,
     0x123456789,
     "049ca2320c013b80fd6fbaaf7944f7e3",
     "2616213fc5bedf5667c12d5d181d36e8"},
};

static void make_key(const struct vector *vector, uint8_t *key)
{
    if (vector->key)
        from_hex(vector->key, key);
    else
        count_up(key, vector->key_bytes);
}

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        const struct vector *vector = &vectors[i];
        uint8_t key[VD_CRYPT_KEY_BYTES_MAX], data[SECTOR], plain[SECTOR];
        struct vd_cipher *cipher;
        make_key(vector, key);
        VT_OK(vd_cipher_new(&vector->spec, key, vector->key_bytes, &cipher, &vt_err));
        count_up(plain, sizeof(plain));
        memcpy(data, plain, sizeof(data));
        VT_OK(vd_cipher_encrypt(cipher, vector->sector * SECTOR, data, SECTOR, &vt_err));
        assert_hex(data, vector->first);
        if (vector->last)
            assert_hex(data + SECTOR - 16, vector->last);
        VT_OK(vd_cipher_decrypt(cipher, vector->sector * SECTOR, data, SECTOR, &vt_err));
        assert_memory_equal(data, plain, SECTOR);
        vd_cipher_free(cipher);
    }
    vd_cipher_free(NULL);
}

static void test_fips_197(void **state)
{
    static const struct {
        size_t key_bytes;
        const char *wanted;
    } table[] = {
        {16, "69c4e0d86a7b0430d8cdb78070b4c55a"},
        {24, "dda97ca4864cdfe06eaf70a0ec0d7191"},
        {32, "8ea2b7ca516745bfeafc49904b496089"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const struct vd_crypt_spec spec = {VD_CRYPT_AES, VD_CRYPT_ECB, VD_CRYPT_PLAIN64, 0};
        uint8_t key[32], data[SECTOR] = {0};
        struct vd_cipher *cipher;
        count_up(key, sizeof(key));
        from_hex("00112233445566778899aabbccddeeff", data);
        VT_OK(vd_cipher_new(&spec, key, table[i].key_bytes, &cipher, &vt_err));
        VT_OK(vd_cipher_encrypt(cipher, 77 * SECTOR, data, SECTOR, &vt_err));
        assert_hex(data, table[i].wanted);
        vd_cipher_free(cipher);
    }
}

/* Whatever goes together encrypts, each sector by its number, and decrypts. */
static void test_all(void **state)
{
    static const size_t key_bytes[] = {16, 24, 32, 48, 64};
    unsigned good = 0;
    (void)state;
    for (unsigned code = 0; code < 4 * 4 * 3 * 5; code++) {
        struct vd_crypt_spec spec = {code % 4, code / 4 % 4, code / 16 % 3, VD_CRYPT_SHA256};
        size_t length = key_bytes[code / 48];
        uint8_t key[64], data[3 * SECTOR], other[SECTOR];
        struct vd_cipher *cipher;
        if (vd_crypt_check(&spec, length, NULL) < 0) {
            VT_FAILS(ENOTSUP, vd_cipher_new(&spec, key, length, &cipher, &vt_err));
            continue;
        }
        for (size_t i = 0; i < sizeof(key); i++)
            key[i] = (uint8_t)(i * i + 3);
        VT_OK(vd_cipher_new(&spec, key, length, &cipher, &vt_err));
        memset(data, 0x5a, sizeof(data));
        memset(other, 0x5a, sizeof(other));
        VT_OK(vd_cipher_encrypt(cipher, 9 * SECTOR, data, sizeof(data), &vt_err));
        VT_OK(vd_cipher_encrypt(cipher, 10 * SECTOR, other, sizeof(other), &vt_err));
        assert_memory_equal(data + SECTOR, other, SECTOR);
        assert_true((memcmp(data, other, SECTOR) != 0) == (spec.mode != VD_CRYPT_ECB));
        VT_OK(vd_cipher_decrypt(cipher, 10 * SECTOR, data + SECTOR, SECTOR, &vt_err));
        for (size_t i = 0; i < SECTOR; i++)
            assert_int_equal(data[SECTOR + i], 0x5a);
        vd_cipher_free(cipher);
        good++;
    }
    assert_int_equal(good, 36 + 36 + 24 + 7);
}

static void test_refused(void **state)
{
    (void)state;
    const struct vd_crypt_spec cast5 = {VD_CRYPT_CAST5, VD_CRYPT_XTS, VD_CRYPT_PLAIN64, 0};
    const struct vd_crypt_spec aes = {VD_CRYPT_AES, VD_CRYPT_XTS, VD_CRYPT_PLAIN64, 0};
    const struct vd_crypt_spec essiv = {VD_CRYPT_AES, VD_CRYPT_CBC, VD_CRYPT_ESSIV, VD_CRYPT_SHA1};
    VT_FAILS(ENOTSUP, vd_crypt_check(&cast5, 32, &vt_err));
    VT_FAILS(ENOTSUP, vd_crypt_check(&aes, 33, &vt_err));
    VT_FAILS(ENOTSUP, vd_crypt_check(&aes, 0, &vt_err));
    VT_FAILS(ENOTSUP, vd_crypt_check(&aes, 65, &vt_err));
    VT_FAILS(ENOTSUP, vd_crypt_check(&essiv, 32, &vt_err)); /* AES has no key of 20 bytes */
}

static void test_derive(void **state)
{
    static const struct {
        enum vd_crypt_hash hash;
        uint32_t iterations;
        const char *wanted;
    } table[] = {
        /* RFC 6070; the others by Python's hashlib */
        {VD_CRYPT_SHA1, 4096, "4b007901b765489abead49d926f721d065a429c1"},
        {VD_CRYPT_SHA256, 4096,
         "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134af7ad98c1b458ce3f"},
        {VD_CRYPT_SHA512, 4096,
         "d197b1b33db0143e018b12f3d1d1479e6cdebdcc97c5c0f87f6902e072f457b5143f30602641b3d55cd335988"
         "cb36b84376060ecd532e039b742a239434af2d5"},
        {VD_CRYPT_RIPEMD160, 2, "768dcc27b7bfdef794a1ff9d935090fcf598555e"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        uint8_t key[64];
        size_t length = strlen(table[i].wanted) / 2;
        VT_OK(vd_crypt_derive(table[i].hash, (struct vd_crypt_bytes){"password", 8},
                              (struct vd_crypt_bytes){"salt", 4}, table[i].iterations, key, length,
                              &vt_err));
        assert_hex(key, table[i].wanted);
    }
}

static void test_names(void **state)
{
    enum vd_crypt_algorithm algorithm;
    enum vd_crypt_mode mode;
    enum vd_crypt_iv iv;
    enum vd_crypt_hash hash;
    size_t bytes;
    (void)state;
    assert_true(vd_crypt_sized_find("twofish-256", &algorithm, &bytes));
    assert_int_equal(algorithm, VD_CRYPT_TWOFISH);
    assert_int_equal(bytes, 32);
    assert_string_equal(vd_crypt_sized_name(VD_CRYPT_AES, 24), "aes-192");
    assert_null(vd_crypt_sized_name(VD_CRYPT_TWOFISH, 24));
    assert_false(vd_crypt_sized_find("aes", &algorithm, &bytes));
    assert_false(vd_crypt_algorithm_find("aes-256", &algorithm));
    assert_false(vd_crypt_mode_find("gcm", &mode));
    assert_false(vd_crypt_iv_find("plain32", &iv));
    assert_false(vd_crypt_hash_find("sha3", &hash));
    for (int i = 0; i <= VD_CRYPT_RIPEMD160; i++) {
        assert_true(vd_crypt_hash_find(vd_crypt_hash_name((enum vd_crypt_hash)i), &hash));
        assert_int_equal(hash, i);
    }
}

#define THREADS 4
#define ROUNDS  2000

struct shared {
    struct vd_cipher *cipher;
    unsigned number;
};

/* Each thread's sectors come back as they were, though all use one cipher. */
static void *use(void *opaque)
{
    const struct shared *shared = opaque;
    uint8_t data[4 * SECTOR], plain[4 * SECTOR];
    for (unsigned i = 0; i < VT_ROUNDS(ROUNDS); i++) {
        uint64_t offset = (uint64_t)(i * THREADS + shared->number) * sizeof(data);
        memset(plain, (int)(i + shared->number), sizeof(plain));
        memcpy(data, plain, sizeof(data));
        if (vd_cipher_encrypt(shared->cipher, offset, data, sizeof(data), NULL) < 0 ||
            memcmp(data, plain, sizeof(data)) == 0 ||
            vd_cipher_decrypt(shared->cipher, offset, data, sizeof(data), NULL) < 0 ||
            memcmp(data, plain, sizeof(data)) != 0)
            return opaque;
    }
    return NULL;
}

static void test_threads(void **state)
{
    const struct vd_crypt_spec spec = {VD_CRYPT_AES, VD_CRYPT_CBC, VD_CRYPT_ESSIV, VD_CRYPT_SHA256};
    struct vd_cipher *cipher;
    pthread_t threads[THREADS];
    struct shared shared[THREADS];
    uint8_t key[32] = {1, 2, 3};
    (void)state;
    VT_OK(vd_cipher_new(&spec, key, sizeof(key), &cipher, &vt_err));
    for (unsigned i = 0; i < THREADS; i++) {
        shared[i] = (struct shared){cipher, i};
        assert_int_equal(pthread_create(&threads[i], NULL, use, &shared[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    vd_cipher_free(cipher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors), cmocka_unit_test(test_fips_197),
        cmocka_unit_test(test_all),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_derive),  cmocka_unit_test(test_names),
        cmocka_unit_test(test_threads),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
