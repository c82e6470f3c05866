/* SPDX-License-Identifier: MIT */
/*
 * Encryption of qcow2: the key of an open image, new LUKS headers, and changes of key slots.
 *
 * Method LUKS has a header in clusters of its own and counts initialisation vectors from the place
 * in the file that data is in; the older method AES has no header, takes the passphrase for the
 * key, and counts from the place on the disk.  Compressed clusters are never encrypted.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_CRYPT_H
#define VD_FORMAT_QCOW2_QCOW2_CRYPT_H

#include "format/luks.h"
#include "format/qcow2/qcow2_priv.h"

/* What an open image knows of its encryption. */
struct vd_qcow2_encryption {
    struct vd_cipher *cipher; /* owned; NULL: locked */
    struct vd_luks luks;      /* of method LUKS */
    struct vdisk_encrypt_info info;
};

/*
 * For the driver's open, after the header: makes qcow2->crypt and qcow2->cipher of @options'
 * passphrases; without those the format is locked.  Does nothing to an image that is not encrypted.
 */
int vd_qcow2_crypt_open(struct vd_qcow2 *qcow2, const struct vd_format_options *options,
                        struct vdisk_error *err);

void vd_qcow2_crypt_close(struct vd_qcow2 *qcow2);

/* NULL: not encrypted. */
const struct vdisk_encrypt_info *vd_qcow2_crypt_info(const struct vd_qcow2 *qcow2);

/* Where the cipher counts from, for data at @host that is @guest's. */
static inline uint64_t vd_qcow2_cipher_offset(const struct vd_qcow2 *qcow2, uint64_t guest,
                                              uint64_t host)
{
    return qcow2->header.fields.crypt_method == VD_QCOW2_CRYPT_LUKS ? host : guest;
}

/*
 * How a new image is encrypted, if @options ask for that and it can be: then *header_bytes is the
 * length of its header, and vd_luks_create() writes it.  Else that is 0.
 */
int vd_qcow2_crypt_plan(const struct vdisk_create_options *options, struct vd_luks_options *luks,
                        uint64_t *header_bytes, struct vdisk_error *err);

/* Adds or erases key slots of the image that @header is of.  Durable. */
int vd_qcow2_crypt_amend(struct vd_storage *file, const struct vd_qcow2_header *header,
                         const struct vdisk_amend_options *options, struct vdisk_error *err);

#endif
