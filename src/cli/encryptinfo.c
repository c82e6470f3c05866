/* SPDX-License-Identifier: MIT */
/* How an image is encrypted, as `info` tells it. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/encryptopt.h"

/* A header may have anything there. */
static void print_uuid(const char *uuid)
{
    printf("        uuid: ");
    for (; *uuid; uuid++)
        printf("%c", *uuid < ' ' || *uuid >= 0x7f ? '?' : *uuid);
    printf("\n");
}

static void print_slot(const struct vdisk_key_slot *slot, unsigned index)
{
    printf("            [%u]:\n", index);
    printf("                active: %s\n", slot->is_active ? "true" : "false");
    if (slot->is_active)
        printf("                iters: %" PRIu32 "\n", slot->iterations);
    printf("                key offset: %" PRIu64 "\n", slot->key_offset);
    if (slot->is_active)
        printf("                stripes: %" PRIu32 "\n", slot->stripes);
}

void vd_encrypt_info_print(const struct vdisk_encrypt_info *encrypt)
{
    printf("    encrypt:\n");
    if (!encrypt->uuid) {
        printf("        format: %s\n", encrypt->format);
        return;
    }
    printf("        ivgen alg: %s\n", encrypt->ivgen_alg);
    if (encrypt->ivgen_hash_alg)
        printf("        ivgen hash alg: %s\n", encrypt->ivgen_hash_alg);
    printf("        hash alg: %s\n", encrypt->hash_alg);
    printf("        cipher alg: %s\n", encrypt->cipher_alg);
    print_uuid(encrypt->uuid);
    printf("        format: %s\n", encrypt->format);
    printf("        cipher mode: %s\n", encrypt->cipher_mode);
    printf("        slots:\n");
    for (unsigned i = 0; i < VDISK_KEY_SLOTS; i++)
        print_slot(&encrypt->slots[i], i);
    printf("        payload offset: %" PRIu64 "\n", encrypt->payload_offset);
    printf("        master key iters: %" PRIu32 "\n", encrypt->iterations);
}

static void put_slot(struct vd_json *json, json_t *slots, const struct vdisk_key_slot *slot)
{
    json_t *object = vd_json_append_object(json, slots);
    vd_json_put_bool(json, object, "active", slot->is_active);
    if (slot->is_active)
        vd_json_put_u64(json, object, "iters", slot->iterations);
    vd_json_put_u64(json, object, "key-offset", slot->key_offset);
    if (slot->is_active)
        vd_json_put_u64(json, object, "stripes", slot->stripes);
}

void vd_encrypt_info_put(struct vd_json *json, json_t *data,
                         const struct vdisk_encrypt_info *encrypt)
{
    json_t *object = vd_json_put_object(json, data, "encrypt");
    if (!encrypt->uuid) {
        vd_json_put_text(json, object, "format", encrypt->format);
        return;
    }
    vd_json_put_text(json, object, "ivgen-alg", encrypt->ivgen_alg);
    vd_json_put_text(json, object, "hash-alg", encrypt->hash_alg);
    vd_json_put_text(json, object, "cipher-alg", encrypt->cipher_alg);
    vd_json_put_text(json, object, "uuid", encrypt->uuid);
    if (encrypt->ivgen_hash_alg)
        vd_json_put_text(json, object, "ivgen-hash-alg", encrypt->ivgen_hash_alg);
    vd_json_put_text(json, object, "format", encrypt->format);
    vd_json_put_text(json, object, "cipher-mode", encrypt->cipher_mode);
    json_t *slots = vd_json_put_array(json, object, "slots");
    for (unsigned i = 0; i < VDISK_KEY_SLOTS; i++)
        put_slot(json, slots, &encrypt->slots[i]);
    vd_json_put_u64(json, object, "payload-offset", encrypt->payload_offset);
    vd_json_put_u64(json, object, "master-key-iters", encrypt->iterations);
}
