/* SPDX-License-Identifier: MIT */
/* New LUKS headers, and changes of their key slots. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "format/luks.h"
#include "format/crypt/luks_split.h"
#include "util/mem.h"
#include "util/uuid.h"

#define ITERATIONS_MIN       1000u
#define MEASURED_MS_MIN      20u /* less is not trusted, unless less is wanted */
#define DIGEST_TIME_FRACTION 8u  /* of the time of a slot */

static uint64_t thread_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int vd_luks_measure(enum vd_crypt_hash hash, size_t key_bytes, uint32_t time_ms,
                    uint32_t *iterations, struct vdisk_error *err)
{
    static const uint8_t salt[LUKS_SALT_BYTES] = {1};
    uint8_t key[VD_CRYPT_KEY_BYTES_MAX];
    uint64_t enough = 1000000 * vd_max(1, vd_min(time_ms, MEASURED_MS_MIN));
    uint64_t taken = 0;
    uint32_t count = 1u << 12;
    int ret = 0;
    for (; ret == 0; count *= 2) {
        uint64_t start = thread_ns();
        ret = vd_crypt_derive(hash, (struct vd_crypt_bytes){"password", 8},
                              (struct vd_crypt_bytes){salt, sizeof(salt)}, count, key, key_bytes,
                              err);
        taken = thread_ns() - start;
        if (taken >= enough || count >= 1u << 26)
            break;
    }
    if (ret < 0)
        return ret;
    double wanted = (double)count * time_ms * 1e6 / (double)(taken ? taken : 1);
    double most = (double)VD_LUKS_WORK_MAX / 2 / LUKS_SLOTS / 4; /* 4: digests that make a key */
    *iterations = (uint32_t)(wanted < ITERATIONS_MIN ? ITERATIONS_MIN
                             : wanted > most         ? most
                                                     : wanted);
    return 0;
}

/* The key material of @slot, ready to be written. */
static int make_material(const struct vd_luks *luks, const struct vd_luks_slot *slot,
                         const struct vd_luks_key *key, struct vd_crypt_bytes secret,
                         uint8_t *split, size_t split_bytes, struct vdisk_error *err)
{
    uint8_t slot_key[VD_CRYPT_KEY_BYTES_MAX];
    struct vd_cipher *cipher = NULL;
    int ret =
        vd_crypt_derive(luks->hash, secret, (struct vd_crypt_bytes){slot->salt, LUKS_SALT_BYTES},
                        slot->iterations, slot_key, luks->key_bytes, err);
    if (ret == 0)
        ret = vd_luks_split(luks->hash, key->bytes, luks->key_bytes, slot->stripes, split, err);
    if (ret == 0)
        ret = vd_cipher_new(&luks->spec, slot_key, luks->key_bytes, &cipher, err);
    if (ret == 0)
        ret = vd_cipher_encrypt(cipher, 0, split, split_bytes, err);
    vd_cipher_free(cipher);
    explicit_bzero(slot_key, sizeof(slot_key));
    return ret;
}

/* Chooses salt and iterations of @slot, and writes its key material. */
static int write_material(const struct vd_luks_area *area, const struct vd_luks *luks,
                          struct vd_luks_slot *slot, const struct vd_luks_key *key,
                          struct vd_crypt_bytes secret, uint32_t iter_time_ms,
                          struct vdisk_error *err)
{
    size_t material = (size_t)vd_luks_material_bytes(luks, slot);
    size_t split_bytes = (size_t)vd_round_up(material, LUKS_SECTOR_BYTES);
    uint8_t *split = calloc(1, split_bytes);
    if (!split)
        return vd_err_nomem(err, "the key material of a LUKS header");
    int ret = vd_crypt_random(slot->salt, sizeof(slot->salt), err);
    if (ret == 0)
        ret = vd_luks_measure(luks->hash, luks->key_bytes, iter_time_ms, &slot->iterations, err);
    if (ret == 0)
        ret = make_material(luks, slot, key, secret, split, split_bytes, err);
    if (ret == 0)
        ret = vd_storage_pwrite(area->file, split, material, area->range.offset + slot->key_offset,
                                err);
    explicit_bzero(split, split_bytes);
    free(split);
    return ret;
}

static int choose_iter_time(uint32_t *iter_time_ms, struct vdisk_error *err)
{
    if (*iter_time_ms == 0)
        *iter_time_ms = VD_LUKS_ITER_TIME_MS_DEFAULT;
    if (*iter_time_ms > VD_LUKS_ITER_TIME_MS_MAX)
        return vd_err_set(err, EINVAL, "encrypt.iter-time: %" PRIu32 " ms: the limit is %u",
                          *iter_time_ms, VD_LUKS_ITER_TIME_MS_MAX);
    return 0;
}

static uint64_t slot_stride(size_t key_bytes)
{
    return vd_round_up((uint64_t)key_bytes * LUKS_STRIPES, LUKS_ALIGN_BYTES);
}

uint64_t vd_luks_new_bytes(const struct vd_luks_options *options)
{
    return LUKS_ALIGN_BYTES + LUKS_SLOTS * slot_stride(options->key_bytes);
}

/* A header of its own, with a new key and no active slot. */
static int make_header(const struct vd_luks_options *options, uint32_t iter_time_ms,
                       struct vd_luks *luks, struct vd_luks_key *key, struct vdisk_error *err)
{
    *luks = (struct vd_luks){
        .spec = options->spec,
        .hash = options->hash,
        .key_bytes = (uint32_t)options->key_bytes,
        .payload_offset = vd_luks_new_bytes(options),
    };
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        luks->slots[i] = (struct vd_luks_slot){
            .key_offset = LUKS_ALIGN_BYTES + i * slot_stride(options->key_bytes),
            .stripes = LUKS_STRIPES,
        };
    uint8_t uuid[VD_UUID_BYTES];
    int ret = vd_uuid_new(uuid, err);
    if (ret == 0)
        vd_uuid_text(uuid, luks->uuid);
    if (ret == 0)
        ret = vd_crypt_random(key->bytes, luks->key_bytes, err);
    if (ret == 0)
        ret = vd_crypt_random(luks->digest_salt, sizeof(luks->digest_salt), err);
    if (ret == 0)
        ret = vd_luks_measure(luks->hash, LUKS_DIGEST_BYTES, iter_time_ms / DIGEST_TIME_FRACTION,
                              &luks->digest_iterations, err);
    if (ret < 0)
        return ret;
    return vd_crypt_derive(luks->hash, (struct vd_crypt_bytes){key->bytes, luks->key_bytes},
                           (struct vd_crypt_bytes){luks->digest_salt, LUKS_SALT_BYTES},
                           luks->digest_iterations, luks->digest, sizeof(luks->digest), err);
}

int vd_luks_create(const struct vd_luks_area *area, const struct vd_luks_options *options,
                   struct vd_crypt_bytes secret, struct vdisk_error *err)
{
    struct vd_luks luks;
    struct vd_luks_key key;
    struct luks_disk_header disk;
    uint32_t iter_time_ms = options->iter_time_ms;
    assert(area->range.length >= vd_luks_new_bytes(options));
    int ret = choose_iter_time(&iter_time_ms, err);
    if (ret == 0)
        ret = vd_crypt_check(&options->spec, options->key_bytes, err);
    if (ret == 0)
        ret = make_header(options, iter_time_ms, &luks, &key, err);
    if (ret == 0)
        ret = vd_storage_write_zeroes(area->file, area->range, 0, err);
    if (ret == 0)
        ret = write_material(area, &luks, &luks.slots[0], &key, secret, iter_time_ms, err);
    explicit_bzero(&key, sizeof(key));
    if (ret < 0)
        return ret;
    luks.slots[0].is_active = true;
    vd_luks_encode(&luks, &disk);
    return vd_storage_pwrite(area->file, &disk, sizeof(disk), area->range.offset, err);
}

static uint64_t slot_offset(const struct vd_luks_area *area, unsigned index)
{
    return area->range.offset + offsetof(struct luks_disk_header, slots) +
           index * sizeof(struct luks_disk_slot);
}

/* Durably. */
static int write_slot(const struct vd_luks_area *area, const struct vd_luks_slot *slot,
                      unsigned index, struct vdisk_error *err)
{
    struct luks_disk_slot disk;
    vd_luks_encode_slot(slot, &disk);
    int ret = vd_storage_pwrite(area->file, &disk, sizeof(disk), slot_offset(area, index), err);
    return ret < 0 ? ret : vd_storage_flush(area->file, err);
}

/* L1: the material, and what leads to it, is there before the word that makes it count; that word
 * is in one sector, which the rest of a slot need not be. */
int vd_luks_add_slot(const struct vd_luks_area *area, struct vd_luks *luks, unsigned index,
                     const struct vd_luks_key *key, struct vd_crypt_bytes secret,
                     uint32_t iter_time_ms, struct vdisk_error *err)
{
    struct vd_luks changed = *luks;
    struct vd_luks_slot *slot = &changed.slots[index];
    struct be32 active = be32_of(LUKS_SLOT_ACTIVE);
    assert(!slot->is_active);
    int ret = choose_iter_time(&iter_time_ms, err);
    if (ret == 0)
        ret = write_material(area, &changed, slot, key, secret, iter_time_ms, err);
    slot->is_active = true;
    if (ret == 0 && vd_luks_work(&changed) > VD_LUKS_WORK_MAX)
        ret = vd_err_set(err, EINVAL,
                         "LUKS header: with so many iterations in all key slots nobody could open "
                         "it: choose a smaller encrypt.iter-time");
    if (ret < 0)
        return ret;
    slot->is_active = false;
    ret = write_slot(area, slot, index, err);
    if (ret == 0)
        ret = vd_storage_pwrite(area->file, &active, sizeof(active), slot_offset(area, index), err);
    if (ret == 0)
        ret = vd_storage_flush(area->file, err);
    if (ret < 0)
        return ret;
    slot->is_active = true;
    *luks = changed;
    return 0;
}

/* L1: inactive before the material goes. */
int vd_luks_erase_slot(const struct vd_luks_area *area, struct vd_luks *luks, unsigned index,
                       struct vdisk_error *err)
{
    struct vd_luks_slot *slot = &luks->slots[index];
    struct be32 inactive = be32_of(LUKS_SLOT_INACTIVE);
    size_t material = (size_t)vd_luks_material_bytes(luks, slot);
    CLEANUP_FREE uint8_t *bytes = malloc(material);
    if (!bytes)
        return vd_err_nomem(err, "the key material of a LUKS header");
    int ret = vd_crypt_random(bytes, material, err);
    if (ret == 0)
        ret = vd_storage_pwrite(area->file, &inactive, sizeof(inactive), slot_offset(area, index),
                                err);
    if (ret == 0)
        ret = vd_storage_flush(area->file, err);
    if (ret == 0)
        ret = vd_storage_pwrite(area->file, bytes, material, area->range.offset + slot->key_offset,
                                err);
    if (ret < 0)
        return ret;
    slot->is_active = false;
    slot->iterations = 0;
    memset(slot->salt, 0, sizeof(slot->salt));
    return write_slot(area, slot, index, err);
}
