/* SPDX-License-Identifier: MIT */
/* The cache modes of -t and -T. */
#ifndef VD_CLI_CACHE_H
#define VD_CLI_CACHE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The flags of enum vdisk_open_flag that mode @name stands for.  false: no such mode.
 * writeback is what the library does anyway: cached, and durable when the command ends.
 */
bool vd_cache_mode(const char *name, uint32_t *flags);

/* The names, for messages. */
#define VD_CACHE_MODES "none, writeback, writethrough, directsync, unsafe"

#endif
