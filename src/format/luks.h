/* SPDX-License-Identifier: MIT */
/*
 * LUKS version 1: a header with the data's key, encrypted with each of up to eight passphrases.
 *
 * L1  A key slot is changed in an order such that, whatever a power cut leaves, no other slot is
 *     touched, and a slot that is said to be active can be unlocked.
 * L2  Whatever a header says, unlocking takes memory for one slot's key material (4 MiB) and no
 *     more work than VD_LUKS_WORK_MAX.
 * L3  Keys and passphrases are wiped from memory of ours when they are not needed any more.
 */
#ifndef VD_FORMAT_LUKS_H
#define VD_FORMAT_LUKS_H

#include "format/crypt.h"
#include "format/crypt/luks_disk.h"
#include "storage/storage.h"

/* Digests to be made for all slots together; minutes, where `iter-time` 2000 makes about 2^24. */
#define VD_LUKS_WORK_MAX             (UINT64_C(1) << 32)

#define VD_LUKS_ITER_TIME_MS_DEFAULT 2000u
#define VD_LUKS_ITER_TIME_MS_MAX     60000u

/* Where the header is, with its key material. */
struct vd_luks_area {
    struct vd_storage *file;
    struct vd_range range;
};

struct vd_luks_slot {
    bool is_active;
    uint32_t iterations;
    uint8_t salt[LUKS_SALT_BYTES];
    uint64_t key_offset; /* in the area, bytes */
    uint32_t stripes;
};

struct vd_luks {
    struct vd_crypt_spec spec;
    enum vd_crypt_hash hash;
    uint32_t key_bytes;
    uint64_t payload_offset; /* bytes; means nothing within a disk image */
    uint8_t digest[LUKS_DIGEST_BYTES];
    uint8_t digest_salt[LUKS_SALT_BYTES];
    uint32_t digest_iterations;
    char uuid[LUKS_UUID_BYTES + 1];
    struct vd_luks_slot slots[LUKS_SLOTS];
};

/* The key of the data; wipe it (L3). */
struct vd_luks_key {
    uint8_t bytes[VD_CRYPT_KEY_BYTES_MAX];
};

/* Reads and checks it.  -EBADMSG; -ENOTSUP: another version, or an unknown cipher. */
int vd_luks_read(const struct vd_luks_area *area, struct vd_luks *luks, struct vdisk_error *err);

/* Bytes of the key material of a slot. */
static inline uint64_t vd_luks_material_bytes(const struct vd_luks *luks,
                                              const struct vd_luks_slot *slot)
{
    return (uint64_t)luks->key_bytes * slot->stripes;
}

/* The work that unlocking may take if no slot has the passphrase. */
uint64_t vd_luks_work(const struct vd_luks *luks);

void vd_luks_encode(const struct vd_luks *luks, struct luks_disk_header *disk);
void vd_luks_encode_slot(const struct vd_luks_slot *slot, struct luks_disk_slot *disk);

/* Opens slot @index by @secret.  -EKEYREJECTED, without a message: it has another passphrase. */
int vd_luks_unlock_slot(const struct vd_luks_area *area, const struct vd_luks *luks, unsigned index,
                        struct vd_crypt_bytes secret, struct vd_luks_key *key,
                        struct vdisk_error *err);

/* By the first slot that @secret opens; *index gets which.  -EKEYREJECTED: none. */
int vd_luks_unlock(const struct vd_luks_area *area, const struct vd_luks *luks,
                   struct vd_crypt_bytes secret, struct vd_luks_key *key, unsigned *index,
                   struct vdisk_error *err);

/* The cipher of the data. */
int vd_luks_open(const struct vd_luks_area *area, const struct vd_luks *luks,
                 struct vd_crypt_bytes secret, struct vd_cipher **cipher, struct vdisk_error *err);

struct vd_luks_options {
    struct vd_crypt_spec spec;
    enum vd_crypt_hash hash;
    size_t key_bytes;      /* of both keys, where the mode has two */
    uint32_t iter_time_ms; /* that unlocking takes; 0: the default */
};

/* Bytes that a new header takes with its key material. */
uint64_t vd_luks_new_bytes(const struct vd_luks_options *options);

/* Writes a header with one passphrase over @area, which is that long at least.  Not flushed. */
int vd_luks_create(const struct vd_luks_area *area, const struct vd_luks_options *options,
                   struct vd_crypt_bytes secret, struct vdisk_error *err);

/*
 * Puts @key into slot @index, which is not active, under @secret.  Durable.  @luks: as it is in
 * @area; is brought up to date.
 */
int vd_luks_add_slot(const struct vd_luks_area *area, struct vd_luks *luks, unsigned index,
                     const struct vd_luks_key *key, struct vd_crypt_bytes secret,
                     uint32_t iter_time_ms, struct vdisk_error *err);

/* Makes slot @index inactive and overwrites its key material.  Durable. */
int vd_luks_erase_slot(const struct vd_luks_area *area, struct vd_luks *luks, unsigned index,
                       struct vdisk_error *err);

/* Iterations of a key derivation that takes so long here, of one thread's time. */
int vd_luks_measure(enum vd_crypt_hash hash, size_t key_bytes, uint32_t time_ms,
                    uint32_t *iterations, struct vdisk_error *err);

#endif
