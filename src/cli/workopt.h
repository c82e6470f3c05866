/* SPDX-License-Identifier: MIT */
/* Options of long work that verbs have in common: how much at once, and how fast. */
#ifndef VD_CLI_WORKOPT_H
#define VD_CLI_WORKOPT_H

#include "cli/cli.h"

/* The argument of -m, a count of pieces at once.  Return VD_CLI_GO or the exit status. */
int vd_cli_take_workers(struct vd_cli *cli, const char *value, uint32_t *workers);

/* The argument of -r, bytes a second. */
int vd_cli_take_rate(struct vd_cli *cli, const char *value, uint64_t *rate_bytes);

#endif
