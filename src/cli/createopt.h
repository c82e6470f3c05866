/* SPDX-License-Identifier: MIT */
/* The -o options of new images, as create and convert take them. */
#ifndef VD_CLI_CREATEOPT_H
#define VD_CLI_CREATEOPT_H

#include "cli/cli.h"
#include "cli/optlist.h"

/*
 * Takes the options out of @list into @create.  @size_text: the size operand, or NULL; it and
 * size= must not both be there, and one of them must unless @has_size: create->size is right then.
 * Returns VD_CLI_GO, or the exit status after printing what is wrong; leftovers are errors.
 */
int vd_create_options_take(struct vd_optlist *list, const char *format, const char *size_text,
                           bool has_size, struct vdisk_create_options *create);

/* The answer to -o help. */
void vd_create_options_print(const char *format);

/* "off", "falloc" or "full" and back.  @option: as the user wrote it, for the message. */
const char *vd_preallocation_name(enum vdisk_preallocation preallocation);
int vd_preallocation_parse(const char *option, const char *text,
                           enum vdisk_preallocation *preallocation);

#endif
