/* SPDX-License-Identifier: MIT */
/* What all drivers with servers make of the options for servers. */
#ifndef VD_STORAGE_NETWORK_H
#define VD_STORAGE_NETWORK_H

#include "util/err.h"

struct vd_network_settings {
    uint32_t timeout_ms;
    uint32_t retries;
    uint32_t connections;
};

/* @options: or NULL, for the defaults. */
int vd_network_settings(const struct vdisk_network_options *options,
                        struct vd_network_settings *settings, struct vdisk_error *err);

#endif
