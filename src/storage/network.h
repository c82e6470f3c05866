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

/* How long to wait after the @failures-th failure in a row, at least the first.  Not the same for
 * everybody: the many clients of a server in trouble must not come back all at once. */
uint32_t vd_network_backoff_ms(unsigned failures);

#endif
