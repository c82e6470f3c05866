/* SPDX-License-Identifier: MIT */
/* What `vdisk info` tells of qcow2 images only. */
#include "cli/info_qcow2.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Version 2, which has no feature bits. */
static bool is_old(const struct vdisk_image_info *info)
{
    return strcmp(info->variant, "0.10") == 0;
}

static const struct {
    uint32_t flag; /* of enum vdisk_info_flag */
    const char *words, *key;
} bits[] = {
    {VDISK_INFO_LAZY_REFCOUNTS, "lazy refcounts", "lazy-refcounts"},
    {VDISK_INFO_CORRUPT, "corrupt", "corrupt"},
    {VDISK_INFO_EXTENDED_L2, "extended l2", "extended-l2"},
};

#define BITS_ENTRIES (sizeof(bits) / sizeof(bits[0]))

void vd_info_qcow2_print(const struct vdisk_image_info *info)
{
    if (!info->refcount_bits)
        return;
    printf("    compat: %s\n", info->variant);
    printf("    compression type: %s\n", info->compression);
    printf("    refcount bits: %" PRIu32 "\n", info->refcount_bits);
    for (size_t i = 0; i < BITS_ENTRIES && !is_old(info); i++)
        printf("    %s: %s\n", bits[i].words, info->flags & bits[i].flag ? "true" : "false");
    if (info->data_name)
        printf("    data file raw: %s\n", info->flags & VDISK_INFO_DATA_RAW ? "true" : "false");
}

void vd_info_qcow2_put(struct vd_json *json, json_t *data, const struct vdisk_image_info *info)
{
    if (!info->refcount_bits)
        return;
    vd_json_put_text(json, data, "compat", info->variant);
    vd_json_put_text(json, data, "compression-type", info->compression);
    vd_json_put_u64(json, data, "refcount-bits", info->refcount_bits);
    for (size_t i = 0; i < BITS_ENTRIES && !is_old(info); i++)
        vd_json_put_bool(json, data, bits[i].key, (info->flags & bits[i].flag) != 0);
    if (info->data_name)
        vd_json_put_bool(json, data, "data-file-raw", (info->flags & VDISK_INFO_DATA_RAW) != 0);
}
