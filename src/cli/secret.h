/* SPDX-License-Identifier: MIT */
/* Passwords and tokens, read from files so that no list of processes shows them. */
#ifndef VD_CLI_SECRET_H
#define VD_CLI_SECRET_H

#include "vdisk.h"

/* The first line of @file, without its newline; *secret is for vd_secret_free(). */
int vd_secret_read(const char *file, char **secret, struct vdisk_error *err);

/* Overwrites and frees *secret (may be NULL), and makes it NULL. */
void vd_secret_free(char **secret);

/*
 * All that @fd has to give, at most 64 KiB; @what it is, for messages.  *bytes is for
 * vd_secret_free_bytes().
 */
int vd_secret_read_fd(int fd, const char *what, char **bytes, size_t *length,
                      struct vdisk_error *err);

/* In place; *length becomes that of what @bytes mean. */
int vd_secret_decode_base64(char *bytes, size_t *length, struct vdisk_error *err);

/* Overwrites and frees @bytes (may be NULL). */
void vd_secret_free_bytes(char *bytes, size_t length);

#endif
