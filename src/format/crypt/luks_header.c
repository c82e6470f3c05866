/* SPDX-License-Identifier: MIT */
/* The header of LUKS version 1: from bytes to a struct vd_luks that can be trusted, and back. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "format/luks.h"

/* A field of text, which ends in its place: false if it does not. */
static bool take_text(const char *field, size_t bytes, char *text)
{
    memcpy(text, field, bytes);
    text[bytes] = '\0';
    return strnlen(field, bytes) < bytes;
}

static int bad_text(struct vdisk_error *err, const char *what)
{
    return vd_err_set(err, EBADMSG, "LUKS header: the name of the %s does not end in its field",
                      what);
}

/* "xts-plain64", "cbc-essiv:sha256"; the mode ecb needs nothing behind it. */
static int parse_mode(char *text, struct vd_crypt_spec *spec, struct vdisk_error *err)
{
    char shown[LUKS_NAME_BYTES + 1];
    snprintf(shown, sizeof(shown), "%s", text);
    char *iv = strchr(text, '-');
    if (iv)
        *iv++ = '\0';
    char *iv_hash = iv ? strchr(iv, ':') : NULL;
    if (iv_hash)
        *iv_hash++ = '\0';
    bool is_known = vd_crypt_mode_find(text, &spec->mode);
    if (is_known && (iv || spec->mode != VD_CRYPT_ECB))
        is_known = iv && vd_crypt_iv_find(iv, &spec->iv);
    bool needs_hash = is_known && spec->iv == VD_CRYPT_ESSIV;
    if (is_known && needs_hash)
        is_known = iv_hash && vd_crypt_hash_find(iv_hash, &spec->iv_hash);
    return is_known
               ? 0
               : vd_err_set(err, ENOTSUP, "LUKS header: the cipher's mode '%s' is unknown", shown);
}

static int decode_names(const struct luks_disk_header *disk, struct vd_luks *luks,
                        struct vdisk_error *err)
{
    char text[LUKS_NAME_BYTES + 1];
    if (!take_text(disk->cipher_name, sizeof(disk->cipher_name), text))
        return bad_text(err, "cipher");
    if (!vd_crypt_algorithm_find(text, &luks->spec.algorithm))
        return vd_err_set(err, ENOTSUP, "LUKS header: the cipher '%s' is unknown", text);
    if (!take_text(disk->cipher_mode, sizeof(disk->cipher_mode), text))
        return bad_text(err, "cipher's mode");
    int ret = parse_mode(text, &luks->spec, err);
    if (ret < 0)
        return ret;
    if (!take_text(disk->hash, sizeof(disk->hash), text))
        return bad_text(err, "digest");
    if (!vd_crypt_hash_find(text, &luks->hash))
        return vd_err_set(err, ENOTSUP, "LUKS header: the digest '%s' is unknown", text);
    if (!take_text(disk->uuid, sizeof(disk->uuid), luks->uuid))
        return vd_err_set(err, EBADMSG, "LUKS header: the UUID does not end in its field");
    return 0;
}

static int decode_slot(const struct luks_disk_slot *disk, unsigned index, struct vd_luks_slot *slot,
                       struct vdisk_error *err)
{
    uint32_t state = be32_get(disk->state);
    if (state != LUKS_SLOT_ACTIVE && state != LUKS_SLOT_INACTIVE)
        return vd_err_set(err, EBADMSG,
                          "LUKS header: key slot %u: the state 0x%" PRIx32
                          " is neither active nor inactive",
                          index, state);
    *slot = (struct vd_luks_slot){
        .is_active = state == LUKS_SLOT_ACTIVE,
        .iterations = be32_get(disk->iterations),
        .key_offset = (uint64_t)be32_get(disk->key_sector) * LUKS_SECTOR_BYTES,
        .stripes = be32_get(disk->stripes),
    };
    memcpy(slot->salt, disk->salt, sizeof(slot->salt));
    if (slot->stripes == 0 || slot->stripes > LUKS_STRIPES_MAX)
        return vd_err_set(err, EBADMSG,
                          "LUKS header: key slot %u: %" PRIu32 " stripes: the limit is %u", index,
                          slot->stripes, LUKS_STRIPES_MAX);
    if (slot->is_active && slot->iterations == 0)
        return vd_err_set(err, EBADMSG, "LUKS header: key slot %u: 0 iterations", index);
    return 0;
}

static int decode(const struct luks_disk_header *disk, struct vd_luks *luks,
                  struct vdisk_error *err)
{
    *luks = (struct vd_luks){
        .key_bytes = be32_get(disk->key_bytes),
        .payload_offset = (uint64_t)be32_get(disk->payload_sector) * LUKS_SECTOR_BYTES,
        .digest_iterations = be32_get(disk->digest_iterations),
    };
    if (memcmp(disk->magic, LUKS_MAGIC, LUKS_MAGIC_BYTES) != 0)
        return vd_err_set(err, EBADMSG, "LUKS header: it does not begin with LUKS's magic");
    if (be16_get(disk->version) != LUKS_VERSION)
        return vd_err_set(err, ENOTSUP,
                          "LUKS header: version %u: version 1 is the one that disk images have",
                          be16_get(disk->version));
    memcpy(luks->digest, disk->digest, sizeof(luks->digest));
    memcpy(luks->digest_salt, disk->digest_salt, sizeof(luks->digest_salt));
    if (luks->digest_iterations == 0)
        return vd_err_set(err, EBADMSG, "LUKS header: the key's digest has 0 iterations");
    int ret = decode_names(disk, luks, err);
    if (ret == 0)
        ret = vd_crypt_check(&luks->spec, luks->key_bytes, err);
    for (unsigned i = 0; i < LUKS_SLOTS && ret == 0; i++)
        ret = decode_slot(&disk->slots[i], i, &luks->slots[i], err);
    return ret;
}

/* In whole sectors. */
static struct vd_range material_of(const struct vd_luks *luks, unsigned index)
{
    const struct vd_luks_slot *slot = &luks->slots[index];
    return vd_range(slot->key_offset,
                    vd_round_up(vd_luks_material_bytes(luks, slot), LUKS_SECTOR_BYTES));
}

static int check_places(const struct vd_luks *luks, uint64_t area_bytes, struct vdisk_error *err)
{
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        struct vd_range material = material_of(luks, i);
        uint64_t end = vd_range_end(material);
        if (material.offset < sizeof(struct luks_disk_header) || end > area_bytes)
            return vd_err_set(err, EBADMSG,
                              "LUKS header: key slot %u: its key material, from %" PRIu64
                              " to %" PRIu64 ", is not between the header and the end of its "
                              "area, at %" PRIu64,
                              i, material.offset, end, area_bytes);
        for (unsigned other = 0; other < i; other++)
            if (vd_ranges_overlap(material, material_of(luks, other)))
                return vd_err_set(err, EBADMSG,
                                  "LUKS header: the key material of slots %u and %u overlaps",
                                  other, i);
    }
    return 0;
}

static uint64_t derivation_work(const struct vd_luks *luks, uint32_t iterations, size_t bytes)
{
    size_t digest = vd_crypt_hash_bytes(luks->hash);
    return (uint64_t)iterations * ((bytes + digest - 1) / digest);
}

uint64_t vd_luks_work(const struct vd_luks *luks)
{
    uint64_t work = 0;
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        if (luks->slots[i].is_active)
            work += derivation_work(luks, luks->slots[i].iterations, luks->key_bytes) +
                    derivation_work(luks, luks->digest_iterations, LUKS_DIGEST_BYTES);
    return work;
}

int vd_luks_read(const struct vd_luks_area *area, struct vd_luks *luks, struct vdisk_error *err)
{
    struct luks_disk_header disk;
    if (area->range.length < sizeof(disk))
        return vd_err_set(err, EBADMSG,
                          "LUKS header: its area has %" PRIu64 " bytes: a header has %zu",
                          area->range.length, sizeof(disk));
    int ret = vd_storage_pread(area->file, &disk, sizeof(disk), area->range.offset, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "LUKS header at %" PRIu64 ": ", area->range.offset);
    ret = decode(&disk, luks, err);
    if (ret == 0)
        ret = check_places(luks, area->range.length, err);
    if (ret == 0 && vd_luks_work(luks) > VD_LUKS_WORK_MAX)
        ret = vd_err_set(err, EBADMSG,
                         "LUKS header: the iterations of its key slots would take %" PRIu64
                         " digests: the limit is %" PRIu64,
                         vd_luks_work(luks), VD_LUKS_WORK_MAX);
    return ret;
}

void vd_luks_encode_slot(const struct vd_luks_slot *slot, struct luks_disk_slot *disk)
{
    *disk = (struct luks_disk_slot){
        .state = be32_of(slot->is_active ? LUKS_SLOT_ACTIVE : LUKS_SLOT_INACTIVE),
        .iterations = be32_of(slot->iterations),
        .key_sector = be32_of((uint32_t)(slot->key_offset / LUKS_SECTOR_BYTES)),
        .stripes = be32_of(slot->stripes),
    };
    memcpy(disk->salt, slot->salt, sizeof(disk->salt));
}

void vd_luks_encode(const struct vd_luks *luks, struct luks_disk_header *disk)
{
    const struct vd_crypt_spec *spec = &luks->spec;
    bool is_essiv = spec->iv == VD_CRYPT_ESSIV;
    *disk = (struct luks_disk_header){
        .magic = LUKS_MAGIC,
        .version = be16_of(LUKS_VERSION),
        .payload_sector = be32_of((uint32_t)(luks->payload_offset / LUKS_SECTOR_BYTES)),
        .key_bytes = be32_of(luks->key_bytes),
        .digest_iterations = be32_of(luks->digest_iterations),
    };
    snprintf(disk->cipher_name, sizeof(disk->cipher_name), "%s",
             vd_crypt_algorithm_name(spec->algorithm));
    snprintf(disk->cipher_mode, sizeof(disk->cipher_mode), "%s-%s%s%s",
             vd_crypt_mode_name(spec->mode), vd_crypt_iv_name(spec->iv), is_essiv ? ":" : "",
             is_essiv ? vd_crypt_hash_name(spec->iv_hash) : "");
    snprintf(disk->hash, sizeof(disk->hash), "%s", vd_crypt_hash_name(luks->hash));
    memcpy(disk->uuid, luks->uuid, sizeof(disk->uuid));
    memcpy(disk->digest, luks->digest, sizeof(disk->digest));
    memcpy(disk->digest_salt, luks->digest_salt, sizeof(disk->digest_salt));
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        vd_luks_encode_slot(&luks->slots[i], &disk->slots[i]);
}
