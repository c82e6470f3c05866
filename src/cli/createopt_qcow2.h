/* SPDX-License-Identifier: MIT */
/* The -o options that only new qcow2 images have; for createopt.c. */
#ifndef VD_CLI_CREATEOPT_QCOW2_H
#define VD_CLI_CREATEOPT_QCOW2_H

#include "cli/cli.h"
#include "cli/optlist.h"

/* Takes them out of @list; create's names then point into it.  VD_CLI_GO, or the exit status. */
int vd_createopt_qcow2_take(struct vd_optlist *list, struct vdisk_create_options *create);

/* Prints what qemu-img shows before the size, and what behind it. */
void vd_createopt_qcow2_tell_first(const struct vdisk_create_options *create);
void vd_createopt_qcow2_tell(const struct vdisk_create_options *create);

#endif
