/* SPDX-License-Identifier: MIT */
/*
 * Progress of long work.  With -p: a bar on a terminal, qemu-img's exact bytes elsewhere.  With
 * --progress=FD: JSON lines, described in docs/json.md.
 */
#ifndef VD_CLI_PROGRESS_H
#define VD_CLI_PROGRESS_H

#include "cli/cli.h"

void vd_cli_progress_init(struct vd_cli *cli);
void vd_cli_progress_destroy(struct vd_cli *cli);

/* Before the work begins, and after it: @ok shows 100 %.  Both do nothing unless asked for. */
void vd_cli_progress_begin(struct vd_cli *cli);
void vd_cli_progress_end(struct vd_cli *cli, bool ok);

/* The vdisk_progress_fn to give to the library, with the struct vd_cli as opaque. */
int vd_cli_progress(void *opaque, const struct vdisk_progress *progress);

/* What SIGUSR1 asks for: one line on stderr, if work is under way. */
void vd_cli_progress_print_line(struct vd_cli *cli);

#endif
