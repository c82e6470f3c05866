/* SPDX-License-Identifier: MIT */
/* What sync and delta share: options and the form of the result. */
#ifndef VD_CLI_SYNCOPT_H
#define VD_CLI_SYNCOPT_H

#include "cli/cli.h"

/* Keys of the options; the verb lists those it has. */
enum {
    VD_SYNC_KEY_WAIT = VD_CLI_KEY_VERB,
    VD_SYNC_KEY_FORCE,
    VD_SYNC_KEY_VERIFY,
    VD_SYNC_KEY_SUMS,
    VD_SYNC_KEY_SUMS_KEY,
    VD_SYNC_KEY_WINDOW,
    VD_SYNC_KEY_RUN,
    VD_SYNC_KEY_RATE
};

/* The exit status when the master is being changed: trying again later helps. */
#define VD_SYNC_STATUS_BUSY 2

/*
 * Parses the command line of a verb with operands SOURCE REPLICA.  *options then points into @cli
 * and @argv.  Returns VD_CLI_GO or the exit status.
 */
int vd_sync_options_parse(struct vd_cli *cli, int argc, char **argv,
                          struct vdisk_sync_options *options);

/* Prints what is wrong; returns the exit status. */
int vd_sync_fail(const struct vdisk_error *err);

/* Prints @result as JSON; returns the exit status. */
int vd_sync_print_json(const struct vdisk_sync_options *options,
                       const struct vdisk_sync_result *result);

#endif
