/* SPDX-License-Identifier: MIT */
/* The verbs: one file each, all of them listed in verbs.c. */
#ifndef VD_CLI_VERBS_H
#define VD_CLI_VERBS_H

#include "cli/cli.h"

extern const struct vd_cli_verb vd_cmd_amend;
extern const struct vd_cli_verb vd_cmd_backup;
extern const struct vd_cli_verb vd_cmd_bench;
extern const struct vd_cli_verb vd_cmd_bitmap;
extern const struct vd_cli_verb vd_cmd_check;
extern const struct vd_cli_verb vd_cmd_commit;
extern const struct vd_cli_verb vd_cmd_compact;
extern const struct vd_cli_verb vd_cmd_compare;
extern const struct vd_cli_verb vd_cmd_convert;
extern const struct vd_cli_verb vd_cmd_create;
extern const struct vd_cli_verb vd_cmd_dd;
extern const struct vd_cli_verb vd_cmd_delta;
extern const struct vd_cli_verb vd_cmd_flatten;
extern const struct vd_cli_verb vd_cmd_info;
extern const struct vd_cli_verb vd_cmd_io;
extern const struct vd_cli_verb vd_cmd_map;
extern const struct vd_cli_verb vd_cmd_measure;
extern const struct vd_cli_verb vd_cmd_rebase;
extern const struct vd_cli_verb vd_cmd_resize;
extern const struct vd_cli_verb vd_cmd_restore;
extern const struct vd_cli_verb vd_cmd_serve;
extern const struct vd_cli_verb vd_cmd_snapshot;
extern const struct vd_cli_verb vd_cmd_sums;
extern const struct vd_cli_verb vd_cmd_sync;

#endif
