/* SPDX-License-Identifier: MIT */
/* Opening and closing images with the common options. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/cli.h"

struct vdisk_open_options vd_cli_open_options(const struct vd_cli *cli, const char *format,
                                              uint32_t flags)
{
    if (cli->share && !(flags & VDISK_OPEN_WRITE))
        flags |= VDISK_OPEN_SHARE;
    return (struct vdisk_open_options){
        .struct_bytes = sizeof(struct vdisk_open_options),
        .flags = flags,
        .format = format,
        .network = &cli->network,
        .passphrases = &cli->keys.list,
        .gate = &cli->gate,
    };
}

struct vdisk_image *vd_cli_open(const struct vd_cli *cli, const char *name, const char *format,
                                uint32_t flags)
{
    struct vdisk_open_options options = vd_cli_open_options(cli, format, flags);
    struct vdisk_image *image;
    struct vdisk_error err = {0};
    if (vdisk_image_open(name, &options, &image, &err) == 0)
        return image;
    vd_cli_fail(&err);
    return NULL;
}

int vd_cli_close(struct vdisk_image *image, int status)
{
    struct vdisk_error err = {0};
    return vdisk_image_close(image, &err) < 0 ? vd_cli_fail(&err) : status;
}

void vd_cli_allow_files(uint32_t files)
{
    struct rlimit limit;
    rlim_t wanted = files;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit); /* without it, what is too much fails by itself */
}

bool vd_cli_format_is_known(const char *name)
{
    char list[256] = "gow";
    const char *known;
    if (strcmp(name, "gow") == 0)
        return true;
    for (size_t i = 0; (known = vdisk_format_name(i)); i++) {
        if (strcmp(known, name) == 0)
            return true;
        size_t used = strlen(list);
        snprintf(list + used, sizeof(list) - used, ", %s", known);
    }
    vd_cli_error("Unknown file format '%s': the formats are %s", name, list);
    return false;
}
