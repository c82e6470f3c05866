/* SPDX-License-Identifier: MIT */
/* LUKS version 1 as it lies on disk: "LUKS1 On-Disk Format Specification", 1.2.3. */
#ifndef VD_FORMAT_CRYPT_LUKS_DISK_H
#define VD_FORMAT_CRYPT_LUKS_DISK_H

#include <assert.h>

#include "util/endian.h"

#define LUKS_MAGIC         "LUKS\xba\xbe"
#define LUKS_MAGIC_BYTES   6u
#define LUKS_VERSION       1u
#define LUKS_NAME_BYTES    32u
#define LUKS_DIGEST_BYTES  20u
#define LUKS_SALT_BYTES    32u
#define LUKS_UUID_BYTES    40u
#define LUKS_SLOTS         8u
#define LUKS_SECTOR_BYTES  512u
#define LUKS_SLOT_ACTIVE   0x00ac71f3u
#define LUKS_SLOT_INACTIVE 0x0000deadu
#define LUKS_STRIPES       4000u /* of new slots */
#define LUKS_STRIPES_MAX   65536u
#define LUKS_ALIGN_BYTES   4096u /* of the key material in new headers */

struct luks_disk_slot {
    struct be32 state;             /*  0  4  LUKS_SLOT_ACTIVE, or inactive */
    struct be32 iterations;        /*  4  4 */
    uint8_t salt[LUKS_SALT_BYTES]; /*  8 32 */
    struct be32 key_sector;        /* 40  4  of the area that the header is in */
    struct be32 stripes;           /* 44  4 */
};
static_assert(sizeof(struct luks_disk_slot) == 48, "LUKS1 figure 2");

struct luks_disk_header {
    uint8_t magic[LUKS_MAGIC_BYTES];         /*   0  6 */
    struct be16 version;                     /*   6  2 */
    char cipher_name[LUKS_NAME_BYTES];       /*   8 32 */
    char cipher_mode[LUKS_NAME_BYTES];       /*  40 32 */
    char hash[LUKS_NAME_BYTES];              /*  72 32  of key derivation and of stripes */
    struct be32 payload_sector;              /* 104  4 */
    struct be32 key_bytes;                   /* 108  4 */
    uint8_t digest[LUKS_DIGEST_BYTES];       /* 112 20  of the key */
    uint8_t digest_salt[LUKS_SALT_BYTES];    /* 132 32 */
    struct be32 digest_iterations;           /* 164  4 */
    char uuid[LUKS_UUID_BYTES];              /* 168 40 */
    struct luks_disk_slot slots[LUKS_SLOTS]; /* 208 */
};
static_assert(sizeof(struct luks_disk_header) == 592, "LUKS1 figure 1");

#endif
