/* SPDX-License-Identifier: MIT */
/* The key of an open qcow2 image, and how a new one is encrypted. */
#include "format/qcow2/qcow2_crypt.h"

#include <string.h>

#include "util/mem.h"

#define AES_KEY_BYTES 16u /* of method AES */

static struct vd_luks_area area_of(struct vd_storage *file, const struct vd_qcow2_header *header)
{
    return (struct vd_luks_area){file, vd_range(header->crypto.offset, header->crypto.length)};
}

/* Method AES: the passphrase is the key, cut off or filled with zeros. */
static int open_aes(struct vd_qcow2_encryption *crypt, const struct vdisk_passphrases *passphrases,
                    struct vdisk_error *err)
{
    const struct vd_crypt_spec spec = {VD_CRYPT_AES, VD_CRYPT_CBC, VD_CRYPT_PLAIN64, 0};
    uint8_t key[AES_KEY_BYTES] = {0};
    if (passphrases->entries != 1)
        return vd_err_set(
            err, EINVAL,
            "its encryption, AES, can not tell a wrong passphrase from the right one: "
            "give one, not %zu",
            passphrases->entries);
    const struct vdisk_passphrase *passphrase = &passphrases->list[0];
    if (passphrase->length)
        memcpy(key, passphrase->bytes, vd_min(passphrase->length, sizeof(key)));
    int ret = vd_cipher_new(&spec, key, sizeof(key), &crypt->cipher, err);
    explicit_bzero(key, sizeof(key));
    return ret;
}

static int open_luks(struct vd_qcow2_encryption *crypt, const struct vd_luks_area *area,
                     const struct vdisk_passphrases *passphrases, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = -EKEYREJECTED;
    for (size_t i = 0; i < passphrases->entries && ret == -EKEYREJECTED; i++) {
        const struct vdisk_passphrase *passphrase = &passphrases->list[i];
        vdisk_error_clear(&inner);
        ret = vd_luks_open(area, &crypt->luks,
                           (struct vd_crypt_bytes){passphrase->bytes, passphrase->length},
                           &crypt->cipher, &inner);
    }
    return ret < 0 ? vd_err_copy(err, &inner) : 0;
}

static void describe_luks(struct vd_qcow2_encryption *crypt)
{
    const struct vd_luks *luks = &crypt->luks;
    const struct vd_crypt_spec *spec = &luks->spec;
    crypt->info = (struct vdisk_encrypt_info){
        .format = "luks",
        .cipher_alg =
            vd_crypt_sized_name(spec->algorithm, vd_crypt_one_key_bytes(spec, luks->key_bytes)),
        .cipher_mode = vd_crypt_mode_name(spec->mode),
        .ivgen_alg = vd_crypt_iv_name(spec->iv),
        .ivgen_hash_alg = spec->iv == VD_CRYPT_ESSIV ? vd_crypt_hash_name(spec->iv_hash) : NULL,
        .hash_alg = vd_crypt_hash_name(luks->hash),
        .uuid = luks->uuid,
        .payload_offset = luks->payload_offset,
        .iterations = luks->digest_iterations,
    };
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        crypt->info.slots[i] = (struct vdisk_key_slot){
            .is_active = luks->slots[i].is_active,
            .iterations = luks->slots[i].iterations,
            .stripes = luks->slots[i].stripes,
            .key_offset = luks->slots[i].key_offset,
        };
}

int vd_qcow2_crypt_open(struct vd_qcow2 *qcow2, const struct vd_format_options *options,
                        struct vdisk_error *err)
{
    const struct vdisk_passphrases *passphrases = options->passphrases;
    uint32_t method = qcow2->header.fields.crypt_method;
    bool is_for_check = (options->flags & (VD_FORMAT_CHECK | VD_FORMAT_FACTS)) == VD_FORMAT_CHECK;
    if (method == VD_QCOW2_CRYPT_NONE)
        return 0;
    struct vd_qcow2_encryption *crypt = calloc(1, sizeof(*crypt));
    if (!crypt)
        return vd_err_nomem(err, "an encrypted image");
    qcow2->crypt = crypt;
    qcow2->format->is_locked = true;
    crypt->info.format = method == VD_QCOW2_CRYPT_LUKS ? "luks" : "aes";
    bool has_passphrase = passphrases && passphrases->entries != 0;
    if (is_for_check && !has_passphrase) /* what is in the LUKS header does not matter for that */
        return 0;
    struct vd_luks_area area = area_of(qcow2->file, &qcow2->header);
    int ret = 0;
    if (method == VD_QCOW2_CRYPT_LUKS) {
        ret = vd_luks_read(&area, &crypt->luks, err);
        if (ret == 0)
            describe_luks(crypt);
    }
    if (ret < 0 || !has_passphrase || (options->flags & VD_FORMAT_FACTS))
        return ret;
    ret = method == VD_QCOW2_CRYPT_LUKS ? open_luks(crypt, &area, passphrases, err)
                                        : open_aes(crypt, passphrases, err);
    qcow2->cipher = crypt->cipher;
    qcow2->format->is_locked = ret < 0;
    return ret;
}

void vd_qcow2_crypt_close(struct vd_qcow2 *qcow2)
{
    if (!qcow2->crypt)
        return;
    vd_cipher_free(qcow2->crypt->cipher);
    free(STEAL_PTR(qcow2->crypt));
    qcow2->cipher = NULL;
}

const struct vdisk_encrypt_info *vd_qcow2_crypt_info(const struct vd_qcow2 *qcow2)
{
    return qcow2->crypt ? &qcow2->crypt->info : NULL;
}

/* ---- New images ---- */

static int unknown(struct vdisk_error *err, const char *option, const char *value)
{
    return vd_err_set(err, EINVAL, "encrypt.%s: '%s' is unknown", option, value);
}

static const char *or_default(const char *value, const char *otherwise)
{
    return value ? value : otherwise;
}

static int choose_names(const struct vdisk_encrypt_options *options, struct vd_luks_options *luks,
                        struct vdisk_error *err)
{
    struct vd_crypt_spec *spec = &luks->spec;
    const char *cipher = or_default(options->cipher_alg, "aes-256");
    const char *mode = or_default(options->cipher_mode, "xts");
    const char *iv = or_default(options->ivgen_alg, "plain64");
    const char *iv_hash = or_default(options->ivgen_hash_alg, "sha256");
    const char *hash = or_default(options->hash_alg, "sha256");
    if (!vd_crypt_sized_find(cipher, &spec->algorithm, &luks->key_bytes))
        return unknown(err, "cipher-alg", cipher);
    if (!vd_crypt_mode_find(mode, &spec->mode))
        return unknown(err, "cipher-mode", mode);
    if (!vd_crypt_iv_find(iv, &spec->iv))
        return unknown(err, "ivgen-alg", iv);
    if (!vd_crypt_hash_find(iv_hash, &spec->iv_hash))
        return unknown(err, "ivgen-hash-alg", iv_hash);
    if (options->ivgen_hash_alg && spec->iv != VD_CRYPT_ESSIV)
        return vd_err_set(err, EINVAL, "encrypt.ivgen-hash-alg: is for ivgen-alg=essiv only");
    if (!vd_crypt_hash_find(hash, &luks->hash))
        return unknown(err, "hash-alg", hash);
    if (spec->mode == VD_CRYPT_XTS)
        luks->key_bytes *= 2;
    return vd_crypt_check(spec, luks->key_bytes, err);
}

static int choose(const struct vdisk_encrypt_options *options, struct vd_luks_options *luks,
                  struct vdisk_error *err)
{
    const char *format = or_default(options->format, "luks");
    *luks = (struct vd_luks_options){.iter_time_ms = options->iter_time_ms};
    if (strcmp(format, "aes") == 0)
        return vd_err_set(
            err, ENOTSUP,
            "encrypt.format: aes takes the passphrase itself for the key, and can be "
            "watermarked: such images can be read and written, but new ones are luks");
    if (strcmp(format, "luks") != 0)
        return unknown(err, "format", format);
    if (options->passphrase.length == 0)
        return vd_err_set(err, EINVAL, "encrypt: a passphrase is needed, and none is given");
    if (options->iter_time_ms > VD_LUKS_ITER_TIME_MS_MAX)
        return vd_err_set(err, EINVAL, "encrypt.iter-time: the limit is %u ms",
                          VD_LUKS_ITER_TIME_MS_MAX);
    return choose_names(options, luks, err);
}

int vd_qcow2_crypt_plan(const struct vdisk_create_options *options, struct vd_luks_options *luks,
                        uint64_t *header_bytes, struct vdisk_error *err)
{
    *luks = (struct vd_luks_options){0};
    *header_bytes = 0;
    if (!options->encrypt)
        return 0;
    if (options->flags & VDISK_CREATE_DATA_RAW)
        return vd_err_set(err, EINVAL,
                          "data_file_raw and encryption cannot be used at the same time: the data "
                          "file alone would not be the disk");
    int ret = choose(options->encrypt, luks, err);
    if (ret == 0)
        *header_bytes = vd_luks_new_bytes(luks);
    return ret;
}
