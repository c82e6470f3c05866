/* SPDX-License-Identifier: MIT */
/* From a LUKS header and a passphrase to the cipher of the data. */
#include <inttypes.h>
#include <string.h>

#include "format/luks.h"
#include "format/crypt/luks_split.h"
#include "util/mem.h"

/* Does @key match the header's digest? */
static int check_key(const struct vd_luks *luks, const struct vd_luks_key *key,
                     struct vdisk_error *err)
{
    uint8_t digest[LUKS_DIGEST_BYTES];
    int ret = vd_crypt_derive(luks->hash, (struct vd_crypt_bytes){key->bytes, luks->key_bytes},
                              (struct vd_crypt_bytes){luks->digest_salt, LUKS_SALT_BYTES},
                              luks->digest_iterations, digest, sizeof(digest), err);
    if (ret < 0)
        return ret;
    return memcmp(digest, luks->digest, sizeof(digest)) == 0 ? 0 : -EKEYREJECTED;
}

/* Decrypts the split key in @split, whole sectors of it, and merges it. */
static int merge_material(const struct vd_luks *luks, const struct vd_luks_slot *slot,
                          const uint8_t *slot_key, uint8_t *split, size_t split_bytes,
                          struct vd_luks_key *key, struct vdisk_error *err)
{
    struct vd_cipher *cipher;
    int ret = vd_cipher_new(&luks->spec, slot_key, luks->key_bytes, &cipher, err);
    if (ret < 0)
        return ret;
    ret = vd_cipher_decrypt(cipher, 0, split, split_bytes, err);
    if (ret == 0)
        ret = vd_luks_merge(luks->hash, split, luks->key_bytes, slot->stripes, key->bytes, err);
    vd_cipher_free(cipher);
    return ret;
}

int vd_luks_unlock_slot(const struct vd_luks_area *area, const struct vd_luks *luks, unsigned index,
                        struct vd_crypt_bytes secret, struct vd_luks_key *key,
                        struct vdisk_error *err)
{
    const struct vd_luks_slot *slot = &luks->slots[index];
    size_t material = (size_t)vd_luks_material_bytes(luks, slot);
    size_t split_bytes = (size_t)vd_round_up(material, LUKS_SECTOR_BYTES);
    uint8_t slot_key[VD_CRYPT_KEY_BYTES_MAX];
    uint8_t *split = calloc(1, split_bytes);
    if (!split)
        return vd_err_nomem(err, "the key material of a LUKS header");
    int ret =
        vd_crypt_derive(luks->hash, secret, (struct vd_crypt_bytes){slot->salt, LUKS_SALT_BYTES},
                        slot->iterations, slot_key, luks->key_bytes, err);
    if (ret == 0)
        ret = vd_storage_pread(area->file, split, material, area->range.offset + slot->key_offset,
                               err);
    if (ret == 0)
        ret = merge_material(luks, slot, slot_key, split, split_bytes, key, err);
    if (ret == 0)
        ret = check_key(luks, key, err);
    explicit_bzero(slot_key, sizeof(slot_key));
    explicit_bzero(split, split_bytes);
    free(split);
    if (ret < 0)
        explicit_bzero(key, sizeof(*key));
    return ret;
}

int vd_luks_unlock(const struct vd_luks_area *area, const struct vd_luks *luks,
                   struct vd_crypt_bytes secret, struct vd_luks_key *key, unsigned *index,
                   struct vdisk_error *err)
{
    unsigned active = 0;
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        if (!luks->slots[i].is_active)
            continue;
        active++;
        int ret = vd_luks_unlock_slot(area, luks, i, secret, key, err);
        *index = i;
        if (ret != -EKEYREJECTED)
            return ret;
    }
    if (active == 0)
        return vd_err_set(err, EKEYREJECTED,
                          "LUKS header: no key slot is active: nothing can unlock it");
    return vd_err_set(err, EKEYREJECTED,
                      "wrong passphrase: it opens none of the %u active key slots", active);
}

int vd_luks_open(const struct vd_luks_area *area, const struct vd_luks *luks,
                 struct vd_crypt_bytes secret, struct vd_cipher **cipher, struct vdisk_error *err)
{
    struct vd_luks_key key;
    unsigned index;
    int ret = vd_luks_unlock(area, luks, secret, &key, &index, err);
    if (ret == 0)
        ret = vd_cipher_new(&luks->spec, key.bytes, luks->key_bytes, cipher, err);
    explicit_bzero(&key, sizeof(key));
    return ret;
}
