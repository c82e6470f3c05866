/* SPDX-License-Identifier: MIT */
/* Encryption in what is asked for and printed: -o encrypt.*, and the facts of `info`. */
#ifndef VD_CLI_ENCRYPTOPT_H
#define VD_CLI_ENCRYPTOPT_H

#include "cli/cli.h"
#include "cli/optlist.h"
#include "cli/output.h"

/*
 * Takes the options encrypt.* of a new image of @format out of @list, and the passphrase that
 * encrypt.key-secret names, or else the only one that was given.  create->encrypt becomes @encrypt
 * if any option is there.  Returns VD_CLI_GO, or the exit status after printing what is wrong.
 */
int vd_encrypt_options_take(struct vd_cli *cli, struct vd_optlist *list, const char *format,
                            struct vdisk_encrypt_options *encrypt,
                            struct vdisk_create_options *create);

/* The part of -o help. */
void vd_encrypt_options_print(void);

/* Prints " encrypt.key=value" for what is not the default. */
void vd_encrypt_options_tell(const struct vdisk_encrypt_options *encrypt);

/* Key slots: what `amend -o encrypt.*` asks for. */
struct vd_key_slot_request {
    struct vdisk_key_slot_options options;
    bool is_asked;
};

/* Takes encrypt.state, .new-secret, .old-secret, .keyslot and .iter-time out of @list. */
int vd_key_slot_take(struct vd_cli *cli, struct vd_optlist *list, bool is_forced,
                     struct vd_key_slot_request *request);

void vd_key_slot_print(void);

/* @encrypt: from struct vdisk_image_info. */
void vd_encrypt_info_print(const struct vdisk_encrypt_info *encrypt);
void vd_encrypt_info_put(struct vd_json *json, json_t *data,
                         const struct vdisk_encrypt_info *encrypt);

#endif
