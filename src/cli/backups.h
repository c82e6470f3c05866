/* SPDX-License-Identifier: MIT */
/* The verbs within `vdisk backup`, one file each but prune and merge. */
#ifndef VD_CLI_BACKUPS_H
#define VD_CLI_BACKUPS_H

#include "cli/cli.h"

extern const struct vd_cli_verb vd_cmd_backup_list;
extern const struct vd_cli_verb vd_cmd_backup_merge;
extern const struct vd_cli_verb vd_cmd_backup_prune;
extern const struct vd_cli_verb vd_cmd_backup_verify;

#endif
