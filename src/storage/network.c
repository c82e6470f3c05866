/* SPDX-License-Identifier: MIT */
/* Options for servers. */
#include "storage/network.h"

#include <inttypes.h>

#include "util/clock.h"
#include "util/range.h"

#define TIMEOUT_MS_DEFAULT  30000u
#define RETRIES_DEFAULT     5u
#define CONNECTIONS_DEFAULT 4u
#define CONNECTIONS_MAX     64u
#define BACKOFF_MS_FIRST    100u
#define BACKOFF_MS_MAX      5000u

int vd_network_settings(const struct vdisk_network_options *options,
                        struct vd_network_settings *settings, struct vdisk_error *err)
{
    static const struct vdisk_network_options defaults = {.struct_bytes = sizeof(defaults)};
    if (!options)
        options = &defaults;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "network options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->connections > CONNECTIONS_MAX)
        return vd_err_set(err, EINVAL, "network options: %" PRIu32 " connections: at most %u",
                          options->connections, CONNECTIONS_MAX);
    if (options->timeout_ms > INT32_MAX)
        return vd_err_set(err, EINVAL, "network options: timeout of %" PRIu32 " ms: at most %d",
                          options->timeout_ms, INT32_MAX);
    settings->timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS_DEFAULT;
    settings->retries = options->retries ? options->retries : RETRIES_DEFAULT;
    if (options->retries == VDISK_NO_RETRIES)
        settings->retries = 0;
    settings->connections = options->connections ? options->connections : CONNECTIONS_DEFAULT;
    return 0;
}

uint32_t vd_network_backoff_ms(unsigned failures)
{
    uint32_t delay_ms = BACKOFF_MS_FIRST;
    while (--failures && delay_ms < BACKOFF_MS_MAX)
        delay_ms *= 2;
    delay_ms = (uint32_t)vd_min(delay_ms, BACKOFF_MS_MAX);
    return delay_ms / 2 + (uint32_t)(vd_clock_us() % (delay_ms / 2 + 1));
}
