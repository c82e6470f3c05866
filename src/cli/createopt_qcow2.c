/* SPDX-License-Identifier: MIT */
/* The -o options of new qcow2 images. */
#include "cli/createopt_qcow2.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/createopt.h"
#include "cli/encryptopt.h"
#include "cli/output.h"
#include "util/mem.h"

#define DEFAULT_CLUSTER_BYTES 65536u
#define DEFAULT_REFCOUNT_BITS 16u

static int take_flag(struct vd_optlist *list, const char *key, uint32_t flag,
                     struct vdisk_create_options *create)
{
    const char *text = vd_optlist_take(list, key);
    if (!text || strcmp(text, "off") == 0)
        return VD_CLI_GO;
    if (strcmp(text, "on") != 0) {
        vd_cli_error("-o %s: '%s' is none of on, off", key, text);
        return 1;
    }
    create->flags |= flag;
    return VD_CLI_GO;
}

static int take_refcount_bits(struct vd_optlist *list, struct vdisk_create_options *create)
{
    const char *text = vd_optlist_take(list, "refcount_bits");
    uint64_t bits;
    if (!text)
        return VD_CLI_GO;
    int status = vd_cli_parse_size("-o refcount_bits", text, &bits);
    if (status == VD_CLI_GO && (bits == 0 || bits > 64 || (bits & (bits - 1)))) {
        vd_cli_error("-o refcount_bits '%s': must be 1, 2, 4, 8, 16, 32 or 64", text);
        return 1;
    }
    if (status == VD_CLI_GO)
        create->refcount_bits = (uint32_t)bits;
    return status;
}

int vd_createopt_qcow2_take(struct vd_optlist *list, struct vdisk_create_options *create)
{
    create->compat = vd_optlist_take(list, "compat");
    create->compression = vd_optlist_take(list, "compression_type");
    create->data_file = vd_optlist_take(list, "data_file");
    int status = take_refcount_bits(list, create);
    if (status == VD_CLI_GO)
        status = take_flag(list, "data_file_raw", VDISK_CREATE_DATA_RAW, create);
    if (status == VD_CLI_GO)
        status = take_flag(list, "extended_l2", VDISK_CREATE_EXTENDED_L2, create);
    if (status == VD_CLI_GO)
        status = take_flag(list, "lazy_refcounts", VDISK_CREATE_LAZY_REFCOUNTS, create);
    return status;
}

void vd_createopt_qcow2_tell_first(const struct vdisk_create_options *create)
{
    if (create->encrypt)
        vd_encrypt_options_tell(create->encrypt);
    printf(" cluster_size=%" PRIu32 " extended_l2=%s",
           create->cluster_bytes ? create->cluster_bytes : DEFAULT_CLUSTER_BYTES,
           create->flags & VDISK_CREATE_EXTENDED_L2 ? "on" : "off");
    if (create->preallocation != VDISK_PREALLOCATION_OFF)
        printf(" preallocation=%s", vd_preallocation_name(create->preallocation));
    printf(" compression_type=%s", create->compression ? create->compression : "zlib");
}

static void tell_name(const char *key, const char *name)
{
    CLEANUP_FREE char *shown = name ? vd_cli_shown_name(name) : NULL;
    if (shown)
        printf(" %s=%s", key, shown);
}

void vd_createopt_qcow2_tell(const struct vdisk_create_options *create)
{
    if (create->compat)
        printf(" compat=%s", create->compat);
    tell_name("backing_file", create->backing);
    if (create->backing)
        printf(" backing_fmt=%s", create->backing_format);
    tell_name("data_file", create->data_file);
    if (create->flags & VDISK_CREATE_DATA_RAW)
        printf(" data_file_raw=on");
    printf(" lazy_refcounts=%s refcount_bits=%" PRIu32,
           create->flags & VDISK_CREATE_LAZY_REFCOUNTS ? "on" : "off",
           create->refcount_bits ? create->refcount_bits : DEFAULT_REFCOUNT_BITS);
}
