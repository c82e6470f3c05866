/* SPDX-License-Identifier: MIT */
/* The cache modes of -t and -T. */
#include "cli/cache.h"

#include <stddef.h>
#include <string.h>

#include "vdisk.h"

bool vd_cache_mode(const char *name, uint32_t *flags)
{
    static const struct {
        const char *name;
        uint32_t flags;
    } modes[] = {
        {"none", VDISK_OPEN_DIRECT},       {"writeback", 0},
        {"writethrough", VDISK_OPEN_SYNC}, {"directsync", VDISK_OPEN_DIRECT | VDISK_OPEN_SYNC},
        {"unsafe", VDISK_OPEN_UNSAFE},
    };
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        if (strcmp(modes[i].name, name) == 0) {
            *flags = modes[i].flags;
            return true;
        }
    return false;
}
