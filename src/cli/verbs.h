/* SPDX-License-Identifier: MIT */
/* The verbs: one file each, all of them listed in verbs.c. */
#ifndef VD_CLI_VERBS_H
#define VD_CLI_VERBS_H

#include "cli/cli.h"

extern const struct vd_cli_verb vd_cmd_create;
extern const struct vd_cli_verb vd_cmd_info;

#endif
