/* SPDX-License-Identifier: MIT */
/* The -o options of new images, as create, convert and others take them. */
#ifndef VD_CLI_CREATEOPT_H
#define VD_CLI_CREATEOPT_H

#include "cli/cli.h"
#include "cli/optlist.h"

/*
 * Takes the options out of @list into @create, which may have a backing file, its format and flags
 * already; its names then point into @list.  @size_text: the size operand, or NULL; it and size=
 * must not both be there.  One of them must, unless @has_size (create->size is right then), or a
 * file it is made on tells the size.
 * Returns VD_CLI_GO, or the exit status after printing what is wrong; leftovers are errors.
 */
int vd_create_options_take(struct vd_optlist *list, const char *format, const char *size_text,
                           bool has_size, struct vdisk_create_options *create);

/* The answer to -o help. */
void vd_create_options_print(const char *format);

/* Prints " key=value" for each option, as qemu-img shows what it makes: before the size, and behind
 * it. */
void vd_create_options_tell_first(const char *format, const struct vdisk_create_options *create);
void vd_create_options_tell(const char *format, const struct vdisk_create_options *create);

/* "off", "metadata", "falloc" or "full" and back.  @option: as the user wrote it, for the message.
 */
const char *vd_preallocation_name(enum vdisk_preallocation preallocation);
int vd_preallocation_parse(const char *option, const char *text,
                           enum vdisk_preallocation *preallocation);

#endif
