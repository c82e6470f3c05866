/* SPDX-License-Identifier: MIT */
/* Snapshots within an image: printed, named on the command line, and changed. */
#ifndef VD_CLI_SNAPSHOTS_H
#define VD_CLI_SNAPSHOTS_H

#include "cli/cli.h"
#include "cli/optlist.h"
#include "cli/output.h"

/* Those of @image, as `qemu-img snapshot -l` lists them: nothing if there are none.  Returns the
 * exit status. */
int vd_cli_print_snapshots(struct vdisk_image *image);

/* The same as objects at the end of @array.  Returns the exit status. */
int vd_cli_put_snapshots(struct vd_json *json, json_t *array, struct vdisk_image *image);

/* The argument of -l: what to read of an image. */
struct vd_cli_snapshot {
    struct vd_optlist list;
    struct vdisk_snapshot_key key;
    bool is_given;
};

/*
 * Takes an id or a name, or "snapshot.id=ID,snapshot.name=NAME".  Returns VD_CLI_GO or the exit
 * status.
 */
int vd_cli_take_snapshot(struct vd_cli *cli, const char *text, struct vd_cli_snapshot *snapshot);

/* NULL if none was given. */
const struct vdisk_snapshot_key *vd_cli_snapshot_key(const struct vd_cli_snapshot *snapshot);

/* A zeroed one is accepted. */
void vd_cli_snapshot_free(struct vd_cli_snapshot *snapshot);

/*
 * `vdisk snapshot` on the image that is the operand: @action is 'l', 'a', 'c' or 'd', @name its
 * argument.  Returns the exit status.
 */
int vd_cli_snapshot_action(struct vd_cli *cli, int action, const char *name);

#endif
