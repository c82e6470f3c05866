/* SPDX-License-Identifier: MIT */
/* Bytes of add-cow files: add-cow §3, §8. */
#ifndef VD_FORMAT_ADDCOW_ADDCOW_DISK_H
#define VD_FORMAT_ADDCOW_ADDCOW_DISK_H

#include <assert.h>

#include "util/endian.h"

#define VD_ADDCOW_MAGIC_BYTES       8u
#define VD_ADDCOW_LATER_MAGIC_BYTES 4u
#define VD_ADDCOW_FORMAT_BYTES      16u

struct vd_addcow_disk_name {
    struct le32 offset; /* bytes from the start of the file */
    struct le32 length; /* bytes, without a NUL */
};

/* add-cow §3                                          offset size */
struct vd_addcow_disk_header {
    uint8_t magic[VD_ADDCOW_MAGIC_BYTES]; /*                0    8 */
    struct le32 version;                  /*                8    4  1 */
    struct vd_addcow_disk_name backing;   /*               12    8 */
    struct vd_addcow_disk_name data;      /*               20    8 */
    struct le64 features;                 /*               28    8  enum vd_addcow_feature */
};
static_assert(sizeof(struct vd_addcow_disk_header) == 36, "add-cow §3");

/* add-cow §8                                          offset size */
struct vd_addcow_disk_later_header {
    uint8_t magic[VD_ADDCOW_LATER_MAGIC_BYTES];     /*      0    4 */
    struct vd_addcow_disk_name backing;             /*      4    8 */
    struct vd_addcow_disk_name data;                /*     12    8 */
    struct le32 cluster_bits;                       /*     20    4 */
    struct le64 features;                           /*     24    8  none is known */
    struct le64 compat_features;                    /*     32    8 */
    struct le32 header_bytes;                       /*     40    4  where the bitmap begins */
    uint8_t backing_format[VD_ADDCOW_FORMAT_BYTES]; /*     44   16 */
    uint8_t data_format[VD_ADDCOW_FORMAT_BYTES];    /*     60   16 */
};
static_assert(sizeof(struct vd_addcow_disk_later_header) == 76, "add-cow §8");

enum vd_addcow_feature {
    VD_ADDCOW_FEATURE_BACKING = 1 << 0,    /* there is a backing file */
    VD_ADDCOW_FEATURE_BACKING_RAW = 1 << 1 /* it is raw: not to be guessed */
};

enum vd_addcow_later_compat {
    VD_ADDCOW_COMPAT_ALL_ALLOCATED = 1 << 0 /* bitmap and backing file mean nothing */
};

#endif
