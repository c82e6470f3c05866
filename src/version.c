/* SPDX-License-Identifier: MIT */
/* vdisk_version() */
#include "vdisk.h"

const char *vdisk_version(void)
{
    return VD_VERSION;
}
