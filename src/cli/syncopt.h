/* SPDX-License-Identifier: MIT */
/* What sync and delta share: options, the run, and the form of the result. */
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

/* Prints what is wrong; returns the exit status. */
int vd_sync_fail(const struct vdisk_error *err);

/* vdisk_sync() or vdisk_delta() */
typedef int (*vd_sync_fn)(const struct vdisk_sync_options *options,
                          struct vdisk_sync_result *result, struct vdisk_error *err);

/*
 * A verb with operands SOURCE REPLICA: parses the command line, does the work, and prints the
 * result, by @print_human or as JSON.  Returns the exit status.
 */
int vd_sync_run(struct vd_cli *cli, int argc, char **argv, vd_sync_fn work,
                void (*print_human)(const struct vdisk_sync_result *result));

#endif
