/* SPDX-License-Identifier: MIT */
/* Signatures, by GnuTLS. */
#include "job/sums_crypto.h"

#include <gnutls/abstract.h>
#include <stdlib.h>
#include <string.h>

#define RSA_BITS_MIN 2048u

static int key_error(const char *key_name, int ret, struct vdisk_error *err)
{
    return vd_err_set(err, EINVAL, "%s: %s", key_name, gnutls_strerror(ret));
}

static int load_file(const char *name, gnutls_datum_t *content, struct vdisk_error *err)
{
    int ret = gnutls_load_file(name, content);
    if (ret < 0)
        return vd_err_set(err, ENOENT, "%s: can not read the key: %s", name, gnutls_strerror(ret));
    return 0;
}

static int choose_algorithm(const char *key_name, int key_type, unsigned bits,
                            gnutls_sign_algorithm_t *algorithm, struct vdisk_error *err)
{
    switch (key_type) {
    case GNUTLS_PK_EDDSA_ED25519:
        *algorithm = GNUTLS_SIGN_EDDSA_ED25519;
        return 0;
    case GNUTLS_PK_ECDSA:
        *algorithm = GNUTLS_SIGN_ECDSA_SHA256;
        return 0;
    case GNUTLS_PK_RSA:
        if (bits < RSA_BITS_MIN)
            return vd_err_set(err, EINVAL, "%s: an RSA key of %u bits: at least %u are wanted",
                              key_name, bits, RSA_BITS_MIN);
        *algorithm = GNUTLS_SIGN_RSA_SHA256;
        return 0;
    default:
        return vd_err_set(err, EINVAL, "%s: the key is neither Ed25519 nor ECDSA nor RSA",
                          key_name);
    }
}

static int sign(const char *key_name, gnutls_privkey_t key, const gnutls_datum_t *data,
                uint8_t **signature, size_t *signature_bytes, struct vdisk_error *err)
{
    unsigned bits = 0;
    gnutls_sign_algorithm_t algorithm;
    int type = gnutls_privkey_get_pk_algorithm(key, &bits);
    int ret = choose_algorithm(key_name, type, bits, &algorithm, err);
    if (ret < 0)
        return ret;
    gnutls_datum_t out = {0};
    ret = gnutls_privkey_sign_data2(key, algorithm, 0, data, &out);
    if (ret < 0)
        return key_error(key_name, ret, err);
    *signature = malloc(out.size);
    if (*signature)
        memcpy(*signature, out.data, out.size);
    *signature_bytes = out.size;
    gnutls_free(out.data);
    return *signature ? 0 : vd_err_nomem(err, "a signature");
}

static gnutls_datum_t datum(const void *data, size_t length)
{
    return (gnutls_datum_t){.data = (unsigned char *)(uintptr_t)data, .size = (unsigned)length};
}

int vd_signature_make(const char *key_name, const void *data, size_t length, uint8_t **signature,
                      size_t *signature_bytes, struct vdisk_error *err)
{
    gnutls_datum_t pem = {0};
    gnutls_privkey_t key = NULL;
    int ret = load_file(key_name, &pem, err);
    if (ret < 0)
        return ret;
    ret = gnutls_privkey_init(&key);
    if (ret == 0)
        ret = gnutls_privkey_import_x509_raw(key, &pem, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (ret < 0) {
        ret = key_error(key_name, ret, err);
    } else {
        gnutls_datum_t content = datum(data, length);
        ret = sign(key_name, key, &content, signature, signature_bytes, err);
    }
    if (key)
        gnutls_privkey_deinit(key);
    gnutls_memset(pem.data, 0, pem.size);
    gnutls_free(pem.data);
    return ret;
}

/* A bare public key, or that of a certificate. */
static int import_public(gnutls_pubkey_t key, const gnutls_datum_t *pem)
{
    int ret = gnutls_pubkey_import(key, pem, GNUTLS_X509_FMT_PEM);
    return ret < 0 ? gnutls_pubkey_import_x509_raw(key, pem, GNUTLS_X509_FMT_PEM, 0) : ret;
}

static int check(const char *key_name, gnutls_pubkey_t key, const gnutls_datum_t *data,
                 const gnutls_datum_t *signature, struct vdisk_error *err)
{
    unsigned bits = 0;
    gnutls_sign_algorithm_t algorithm;
    int type = gnutls_pubkey_get_pk_algorithm(key, &bits);
    int ret = choose_algorithm(key_name, type, bits, &algorithm, err);
    if (ret < 0)
        return ret;
    ret = gnutls_pubkey_verify_data2(key, algorithm, 0, data, signature);
    if (ret < 0)
        return vd_err_set(err, EKEYREJECTED, "the signature is not one by the key %s: %s", key_name,
                          gnutls_strerror(ret));
    return 0;
}

int vd_signature_check(const char *key_name, const void *data, size_t length, const void *signature,
                       size_t signature_bytes, struct vdisk_error *err)
{
    gnutls_datum_t pem = {0};
    gnutls_pubkey_t key = NULL;
    int ret = load_file(key_name, &pem, err);
    if (ret < 0)
        return ret;
    ret = gnutls_pubkey_init(&key);
    if (ret == 0)
        ret = import_public(key, &pem);
    if (ret < 0) {
        ret = key_error(key_name, ret, err);
    } else {
        gnutls_datum_t content = datum(data, length);
        gnutls_datum_t given = datum(signature, signature_bytes);
        ret = check(key_name, key, &content, &given, err);
    }
    if (key)
        gnutls_pubkey_deinit(key);
    gnutls_free(pem.data);
    return ret;
}
