/* SPDX-License-Identifier: MIT */
/* -o encrypt.*: new encrypted images, and changes of their key slots. */
#include "cli/encryptopt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ITER_TIME_MS_MAX 60000u

static int take_iter_time(struct vd_cli *cli, struct vd_optlist *list, uint32_t *iter_time_ms)
{
    const char *text = vd_optlist_take(list, "encrypt.iter-time");
    uint64_t number;
    if (!text)
        return VD_CLI_GO;
    int status =
        vd_cli_parse_number(cli, "-o encrypt.iter-time", text, 1, ITER_TIME_MS_MAX, &number);
    if (status == VD_CLI_GO)
        *iter_time_ms = (uint32_t)number;
    return status;
}

/* The passphrase with the @id; an empty one means none. */
static int find_secret(struct vd_cli *cli, const char *option, const char *id,
                       const struct vdisk_passphrase **passphrase)
{
    *passphrase = vd_cli_keys_find(cli, id);
    if (*passphrase)
        return VD_CLI_GO;
    return vd_cli_usage_error(cli, "-o %s=%s: no --object secret has that id", option, id);
}

/* ---- New images ---- */

static bool has_encrypt_option(const struct vd_optlist *list)
{
    for (size_t i = 0; i < list->entry_count; i++)
        if (strncmp(list->entries[i].key, "encrypt.", strlen("encrypt.")) == 0 ||
            strcmp(list->entries[i].key, "encryption") == 0)
            return true;
    return false;
}

/* The older way of qemu-img to ask for "aes". */
static int take_encryption(struct vd_cli *cli, struct vd_optlist *list, bool *is_off)
{
    const char *text = vd_optlist_take(list, "encryption");
    *is_off = text && strcmp(text, "off") == 0;
    if (!text || *is_off)
        return VD_CLI_GO;
    return vd_cli_usage_error(cli,
                              "-o encryption=%s: would make an image of the older kind, aes, "
                              "which protects badly: use encrypt.format=luks",
                              text);
}

static int take_secret(struct vd_cli *cli, struct vd_optlist *list,
                       struct vdisk_encrypt_options *encrypt)
{
    const char *id = vd_optlist_take(list, "encrypt.key-secret");
    const struct vdisk_passphrase *passphrase = vd_cli_keys_only(cli);
    int status = VD_CLI_GO;
    if (id) {
        vd_cli_keys_reserve(cli, id);
        status = find_secret(cli, "encrypt.key-secret", id, &passphrase);
    } else if (!passphrase) {
        status = vd_cli_usage_error(cli, "-o encrypt.format: the passphrase is wanted, by "
                                         "--passphrase-file alone, or by encrypt.key-secret=ID "
                                         "and --object secret,id=ID,file=PATH");
    }
    if (status == VD_CLI_GO)
        encrypt->passphrase = *passphrase;
    return status;
}

int vd_encrypt_options_take(struct vd_cli *cli, struct vd_optlist *list, const char *format,
                            struct vdisk_encrypt_options *encrypt,
                            struct vdisk_create_options *create)
{
    bool is_off;
    *encrypt = (struct vdisk_encrypt_options){.struct_bytes = sizeof(*encrypt)};
    if (strcmp(format, "qcow2") != 0 || !has_encrypt_option(list))
        return VD_CLI_GO;
    int status = take_encryption(cli, list, &is_off);
    if (status != VD_CLI_GO || (is_off && !has_encrypt_option(list)))
        return status;
    encrypt->format = vd_optlist_take(list, "encrypt.format");
    encrypt->cipher_alg = vd_optlist_take(list, "encrypt.cipher-alg");
    encrypt->cipher_mode = vd_optlist_take(list, "encrypt.cipher-mode");
    encrypt->ivgen_alg = vd_optlist_take(list, "encrypt.ivgen-alg");
    encrypt->ivgen_hash_alg = vd_optlist_take(list, "encrypt.ivgen-hash-alg");
    encrypt->hash_alg = vd_optlist_take(list, "encrypt.hash-alg");
    if (is_off && !encrypt->format)
        return VD_CLI_GO;
    if (!encrypt->format)
        return vd_cli_usage_error(cli, "-o encrypt.*: encrypt.format=luks is wanted too");
    status = take_iter_time(cli, list, &encrypt->iter_time_ms);
    if (status == VD_CLI_GO)
        status = take_secret(cli, list, encrypt);
    if (status == VD_CLI_GO)
        create->encrypt = encrypt;
    return status;
}

void vd_encrypt_options_print(void)
{
    printf("  encrypt.cipher-alg=<str> - aes-128, -192, -256 (default), serpent-128, -192, -256,\n"
           "                           twofish-128, -256, cast5-128\n"
           "  encrypt.cipher-mode=<str> - xts (default), cbc, ctr, ecb\n"
           "  encrypt.format=<str>   - encrypt the data: luks\n"
           "  encrypt.hash-alg=<str> - of the key derivation (default sha256)\n"
           "  encrypt.iter-time=<ms> - time that trying a passphrase takes (default 2000)\n"
           "  encrypt.ivgen-alg=<str> - plain, plain64 (default), essiv\n"
           "  encrypt.ivgen-hash-alg=<str> - of essiv (default sha256)\n"
           "  encrypt.key-secret=<id> - the passphrase, an --object secret\n");
}

void vd_encrypt_options_tell(const struct vdisk_encrypt_options *encrypt)
{
    const struct {
        const char *key, *value;
    } table[] = {
        {"format", encrypt->format},           {"cipher-alg", encrypt->cipher_alg},
        {"cipher-mode", encrypt->cipher_mode}, {"ivgen-alg", encrypt->ivgen_alg},
        {"hash-alg", encrypt->hash_alg},       {"ivgen-hash-alg", encrypt->ivgen_hash_alg},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].value)
            printf(" encrypt.%s=%s", table[i].key, table[i].value);
    if (encrypt->iter_time_ms)
        printf(" encrypt.iter-time=%" PRIu32, encrypt->iter_time_ms);
}

/* ---- Key slots ---- */

static int take_state(struct vd_cli *cli, const char *state, struct vdisk_key_slot_options *options)
{
    if (strcmp(state, "inactive") == 0)
        options->flags |= VDISK_KEY_SLOT_ERASE;
    else if (strcmp(state, "active") != 0)
        return vd_cli_usage_error(cli, "-o encrypt.state: '%s' is neither active nor inactive",
                                  state);
    return VD_CLI_GO;
}

int vd_key_slot_take(struct vd_cli *cli, struct vd_optlist *list, bool is_forced,
                     struct vd_key_slot_request *request)
{
    struct vdisk_key_slot_options *options = &request->options;
    const char *slot = vd_optlist_take(list, "encrypt.keyslot");
    const char *state = vd_optlist_take(list, "encrypt.state");
    const char *old_id = vd_optlist_take(list, "encrypt.old-secret");
    const char *new_id = vd_optlist_take(list, "encrypt.new-secret");
    uint64_t number;
    *request = (struct vd_key_slot_request){
        .options = {.struct_bytes = sizeof(*options), .slot = -1},
    };
    if (is_forced)
        options->flags |= VDISK_KEY_SLOT_FORCE;
    int status = take_iter_time(cli, list, &options->iter_time_ms);
    request->is_asked = slot || state || old_id || new_id || options->iter_time_ms;
    if (status != VD_CLI_GO)
        return status;
    bool erases = state && strcmp(state, "inactive") == 0;
    if (is_forced && !erases)
        return vd_cli_usage_error(cli, "--force: is for erasing a key slot "
                                       "(-o encrypt.state=inactive)");
    if (!request->is_asked)
        return VD_CLI_GO;
    if (!state)
        return vd_cli_usage_error(cli,
                                  "-o encrypt.*: encrypt.state=active, to add a passphrase, or "
                                  "inactive, to erase one, is wanted too");
    status = take_state(cli, state, options);
    if (status == VD_CLI_GO && slot)
        status =
            vd_cli_parse_number(cli, "-o encrypt.keyslot", slot, 0, VDISK_KEY_SLOTS - 1, &number);
    if (status == VD_CLI_GO && slot)
        options->slot = (int32_t)number;
    if (status == VD_CLI_GO && old_id)
        status = find_secret(cli, "encrypt.old-secret", old_id, &options->old_passphrase);
    if (status == VD_CLI_GO && new_id)
        status = find_secret(cli, "encrypt.new-secret", new_id, &options->new_passphrase);
    if (status == VD_CLI_GO && !(options->flags & VDISK_KEY_SLOT_ERASE) && !new_id)
        status = vd_cli_usage_error(cli, "-o encrypt.state=active: encrypt.new-secret=ID is wanted "
                                         "too");
    return status;
}

void vd_key_slot_print(void)
{
    printf("  encrypt.iter-time=<ms> - luks: time that trying the new passphrase takes\n"
           "  encrypt.keyslot=<n>    - luks: the key slot, 0 to 7\n"
           "  encrypt.new-secret=<id> - luks: the passphrase to add, an --object secret\n"
           "  encrypt.old-secret=<id> - luks: one that opens the image, or is to be erased\n"
           "  encrypt.state=<str>    - luks: active adds a passphrase, inactive erases\n");
}
