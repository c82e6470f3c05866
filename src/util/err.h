/* SPDX-License-Identifier: MIT */
/*
 * Filling in a struct vdisk_error: first writer wins, outer layers add what they know in front.
 * Nothing here allocates, so reporting an error cannot fail.  User and password of a URL are cut
 * out of every message.
 */
#ifndef VD_UTIL_ERR_H
#define VD_UTIL_ERR_H

#include <errno.h>

#include "vdisk.h"

#define VD_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

/* Sets @err (may be NULL) unless it is set already; returns -@code.  @code: a positive errno. */
VD_PRINTF(3, 4) int vd_err_set(struct vdisk_error *err, int code, const char *fmt, ...);

/* As vd_err_set(), and ends the message with ": " and the text of errno value @code. */
VD_PRINTF(3, 4) int vd_err_errno(struct vdisk_error *err, int code, const char *fmt, ...);

/* Puts text in front of the message of @err if there is one; returns @ret as it is. */
VD_PRINTF(3, 4)
int vd_err_prefix(struct vdisk_error *err, int ret, const char *fmt, ...);

/* Copies @from into @to if @to is not set already; returns -@from->code. */
int vd_err_copy(struct vdisk_error *to, const struct vdisk_error *from);

/* "out of memory" naming what was wanted; returns -ENOMEM. */
int vd_err_nomem(struct vdisk_error *err, const char *what);

#endif
