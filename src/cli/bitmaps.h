/* SPDX-License-Identifier: MIT */
/* The dirty bitmaps of an image, printed. */
#ifndef VD_CLI_BITMAPS_H
#define VD_CLI_BITMAPS_H

#include "cli/cli.h"
#include "cli/output.h"

/* `vdisk bitmap --list` of the image that is the operand.  Returns the exit status. */
int vd_cli_list_bitmaps(struct vd_cli *cli);

/* `vdisk bitmap --map` of the image and the bitmap that are the operands.  Returns the exit status.
 */
int vd_cli_map_bitmap(struct vd_cli *cli);

/*
 * As qemu-img's info has them, those that other programs see: under "bitmaps" of @object, or as
 * lines with @indent; nothing if there are none.  Return the exit status.
 */
int vd_cli_put_bitmaps(struct vd_json *json, json_t *object, struct vdisk_image *image);
int vd_cli_print_bitmaps(const char *indent, struct vdisk_image *image);

#endif
