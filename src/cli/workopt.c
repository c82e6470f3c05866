/* SPDX-License-Identifier: MIT */
/* Options of long work that verbs have in common. */
#include "cli/workopt.h"

#define WORKERS_MAX 64u

int vd_cli_take_workers(struct vd_cli *cli, const char *value, uint32_t *workers)
{
    uint64_t number;
    int status = vd_cli_parse_number(cli, "-m", value, 1, WORKERS_MAX, &number);
    if (status == VD_CLI_GO)
        *workers = (uint32_t)number;
    return status;
}

int vd_cli_take_rate(struct vd_cli *cli, const char *value, uint64_t *rate_bytes)
{
    int status = vd_cli_parse_size("-r", value, rate_bytes);
    if (status == VD_CLI_GO && *rate_bytes == 0)
        return vd_cli_usage_error(cli, "-r: a rate of 0 bytes a second would never end");
    return status;
}
