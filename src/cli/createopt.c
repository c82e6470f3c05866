/* SPDX-License-Identifier: MIT */
/* The -o options of new images. */
#include "cli/createopt.h"

#include <stdio.h>
#include <string.h>

static const char *const preallocation_names[] = {
    [VDISK_PREALLOCATION_OFF] = "off",
    [VDISK_PREALLOCATION_FALLOC] = "falloc",
    [VDISK_PREALLOCATION_FULL] = "full",
};

#define PREALLOCATION_NAMES (sizeof(preallocation_names) / sizeof(preallocation_names[0]))

const char *vd_preallocation_name(enum vdisk_preallocation preallocation)
{
    return preallocation_names[preallocation];
}

int vd_preallocation_parse(const char *option, const char *text,
                           enum vdisk_preallocation *preallocation)
{
    for (size_t i = 0; i < PREALLOCATION_NAMES; i++)
        if (strcmp(preallocation_names[i], text) == 0) {
            *preallocation = (enum vdisk_preallocation)i;
            return VD_CLI_GO;
        }
    vd_cli_error("%s: '%s' is none of off, falloc, full", option, text);
    return 1;
}

static int take_preallocation(struct vd_optlist *list, const char *format,
                              struct vdisk_create_options *create)
{
    const char *text = vd_optlist_take(list, "preallocation");
    if (!text)
        return VD_CLI_GO;
    int status = vd_preallocation_parse("-o preallocation", text, &create->preallocation);
    if (status == VD_CLI_GO && create->preallocation != VDISK_PREALLOCATION_OFF &&
        strcmp(format, "raw") != 0) {
        vd_cli_error("-o preallocation=%s: format %s allocates only as it is written; off is the "
                     "only choice",
                     text, format);
        return 1;
    }
    return status;
}

int vd_create_options_take(struct vd_optlist *list, const char *format, const char *size_text,
                           bool has_size, struct vdisk_create_options *create)
{
    const char *size_option = vd_optlist_take(list, "size");
    if (size_option && size_text) {
        vd_cli_error("size given twice: as argument '%s' and as -o size=%s", size_text,
                     size_option);
        return 1;
    }
    const char *text = size_text ? size_text : size_option;
    int status =
        text ? vd_cli_parse_size(size_text ? NULL : "-o size", text, &create->size) : VD_CLI_GO;
    if (status == VD_CLI_GO)
        status = take_preallocation(list, format, create);
    if (status != VD_CLI_GO)
        return status;

    const struct vd_optlist_entry *left = vd_optlist_left_over(list);
    if (left) {
        if (strcmp(left->key, "size") == 0 || strcmp(left->key, "preallocation") == 0)
            vd_cli_error("-o %s: needs a value: %s=...", left->key, left->key);
        else
            vd_cli_error("-o %s: format %s has no such option; -o help lists them", left->key,
                         format);
        return 1;
    }
    if (!text && !has_size) {
        vd_cli_error("Image creation needs a size parameter");
        return 1;
    }
    return VD_CLI_GO;
}

void vd_create_options_print(const char *format)
{
    printf("Supported options:\n");
    if (strcmp(format, "raw") == 0)
        printf("  preallocation=<str>    - space set aside: off, falloc or full\n");
    printf("  size=<size>            - size of the disk\n");
}
