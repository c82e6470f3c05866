/* SPDX-License-Identifier: MIT */
/* Passphrases of an encrypted qcow2 image are added and removed. */
#include <inttypes.h>
#include <string.h>

#include "format/qcow2/qcow2_crypt.h"

/* An image whose key slots are being changed. */
struct slots {
    struct vd_luks_area area;
    struct vd_luks luks;
    const struct vdisk_key_slot_options *options;
    const struct vdisk_passphrases *passphrases;
};

static struct vd_crypt_bytes bytes_of(const struct vdisk_passphrase *passphrase)
{
    return (struct vd_crypt_bytes){passphrase->bytes, passphrase->length};
}

static unsigned active_slots(const struct vd_luks *luks)
{
    unsigned active = 0;
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        active += luks->slots[i].is_active;
    return active;
}

/* The data's key, by the old passphrase or else by one of those that the image opens with. */
static int unlock(const struct slots *slots, struct vd_luks_key *key, struct vdisk_error *err)
{
    const struct vdisk_passphrases own = {.entries = 1, .list = slots->options->old_passphrase};
    const struct vdisk_passphrases *list = own.list ? &own : slots->passphrases;
    struct vdisk_error inner = {0};
    unsigned index;
    if (!list || list->entries == 0)
        return vd_err_set(err, ENOKEY,
                          "the present passphrase is needed: the image's key is to be had by it");
    int ret = -EKEYREJECTED;
    for (size_t i = 0; i < list->entries && ret == -EKEYREJECTED; i++) {
        vdisk_error_clear(&inner);
        ret = vd_luks_unlock(&slots->area, &slots->luks, bytes_of(&list->list[i]), key, &index,
                             &inner);
    }
    return ret < 0 ? vd_err_copy(err, &inner) : 0;
}

static int choose_free(const struct slots *slots, unsigned *index, struct vdisk_error *err)
{
    int32_t wanted = slots->options->slot;
    if (wanted >= 0 && slots->luks.slots[wanted].is_active)
        return vd_err_set(
            err, EBUSY, "key slot %" PRId32 " is active: erase it first, or leave the choice open",
            wanted);
    if (wanted >= 0) {
        *index = (unsigned)wanted;
        return 0;
    }
    for (unsigned i = 0; i < LUKS_SLOTS; i++)
        if (!slots->luks.slots[i].is_active) {
            *index = i;
            return 0;
        }
    return vd_err_set(err, ENOSPC, "all %u key slots are active: erase one first", LUKS_SLOTS);
}

static int add(struct slots *slots, struct vdisk_error *err)
{
    const struct vdisk_key_slot_options *options = slots->options;
    struct vd_luks_key key;
    unsigned index;
    if (!options->new_passphrase || options->new_passphrase->length == 0)
        return vd_err_set(err, EINVAL, "a new passphrase is needed, and none is given");
    int ret = choose_free(slots, &index, err);
    if (ret == 0)
        ret = unlock(slots, &key, err);
    if (ret < 0)
        return ret;
    ret = vd_luks_add_slot(&slots->area, &slots->luks, index, &key,
                           bytes_of(options->new_passphrase), options->iter_time_ms, err);
    explicit_bzero(&key, sizeof(key));
    return ret;
}

/* Bits of the active slots that are to be erased. */
static int find_victims(const struct slots *slots, unsigned *victims, struct vdisk_error *err)
{
    const struct vdisk_key_slot_options *options = slots->options;
    int ret = 0;
    *victims = 0;
    for (unsigned i = 0; i < LUKS_SLOTS && ret == 0; i++) {
        struct vd_luks_key key;
        bool is_meant = options->slot < 0 || (unsigned)options->slot == i;
        if (!slots->luks.slots[i].is_active || !is_meant)
            continue;
        if (options->old_passphrase)
            ret = vd_luks_unlock_slot(&slots->area, &slots->luks, i,
                                      bytes_of(options->old_passphrase), &key, err);
        explicit_bzero(&key, sizeof(key));
        if (ret == 0)
            *victims |= 1u << i;
        if (ret == -EKEYREJECTED)
            ret = 0;
    }
    return ret;
}

static int refuse_nothing(const struct slots *slots, struct vdisk_error *err)
{
    const struct vdisk_key_slot_options *options = slots->options;
    if (options->slot >= 0 && !slots->luks.slots[options->slot].is_active)
        return vd_err_set(err, ENOENT, "key slot %" PRId32 " is not active", options->slot);
    if (options->slot >= 0)
        return vd_err_set(err, EKEYREJECTED, "the old passphrase is not that of key slot %" PRId32,
                          options->slot);
    return vd_err_set(err, EKEYREJECTED, "the old passphrase is that of no key slot");
}

static int erase(struct slots *slots, struct vdisk_error *err)
{
    const struct vdisk_key_slot_options *options = slots->options;
    unsigned victims;
    if (options->new_passphrase || options->iter_time_ms)
        return vd_err_set(err, EINVAL,
                          "a new passphrase, or its iteration time, is for adding a key slot");
    if (options->slot < 0 && !options->old_passphrase)
        return vd_err_set(
            err, EINVAL, "which key slot shall be erased?  Its number or its passphrase is needed");
    int ret = find_victims(slots, &victims, err);
    if (ret == 0 && victims == 0)
        ret = refuse_nothing(slots, err);
    if (ret < 0)
        return ret;
    bool is_all = (unsigned)__builtin_popcount(victims) == active_slots(&slots->luks);
    if (is_all && !(options->flags & VDISK_KEY_SLOT_FORCE))
        return vd_err_set(err, EPERM,
                          "refused: no active key slot would be left, and nobody could ever read "
                          "the image's data again");
    for (unsigned i = 0; i < LUKS_SLOTS && ret == 0; i++)
        if (victims & (1u << i))
            ret = vd_luks_erase_slot(&slots->area, &slots->luks, i, err);
    return ret;
}

int vd_qcow2_crypt_amend(struct vd_storage *file, const struct vd_qcow2_header *header,
                         const struct vdisk_amend_options *options, struct vdisk_error *err)
{
    struct slots slots = {
        .area = {file, vd_range(header->crypto.offset, header->crypto.length)},
        .options = options->key_slot,
        .passphrases = options->passphrases,
    };
    if (header->fields.crypt_method != VD_QCOW2_CRYPT_LUKS)
        return vd_err_set(err, ENOTSUP, "it is not encrypted by LUKS: it has no key slots");
    if (slots.options->slot >= (int32_t)LUKS_SLOTS)
        return vd_err_set(err, EINVAL, "key slot %" PRId32 ": there are slots 0 to %u",
                          slots.options->slot, LUKS_SLOTS - 1);
    int ret = vd_luks_read(&slots.area, &slots.luks, err);
    if (ret < 0)
        return ret;
    return slots.options->flags & VDISK_KEY_SLOT_ERASE ? erase(&slots, err) : add(&slots, err);
}
