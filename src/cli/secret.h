/* SPDX-License-Identifier: MIT */
/* Passwords and tokens, read from files so that no list of processes shows them. */
#ifndef VD_CLI_SECRET_H
#define VD_CLI_SECRET_H

#include "vdisk.h"

/* The first line of @file, without its newline; *secret is for vd_secret_free(). */
int vd_secret_read(const char *file, char **secret, struct vdisk_error *err);

/* Overwrites and frees *secret (may be NULL), and makes it NULL. */
void vd_secret_free(char **secret);

#endif
