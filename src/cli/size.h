/* SPDX-License-Identifier: MIT */
/* Sizes as users write them, 10G, 1.5M, 0x1000, and as they are printed for people. */
#ifndef VD_CLI_SIZE_H
#define VD_CLI_SIZE_H

#include <stdint.h>

#define VD_SIZE_MAX INT64_MAX /* bytes */

/*
 * Reads @text as a count of bytes: decimal or 0x hexadecimal, with a suffix b k K M G T P E B
 * (powers of 1024, either case); a fraction needs a suffix that makes bytes of it.
 * Returns 0, -EINVAL: not a size, -ERANGE: above VD_SIZE_MAX.
 */
int vd_size_parse(const char *text, uint64_t *size);

/* A size to set, or to change by. */
struct vd_size_change {
    enum {
        VD_SIZE_SET,
        VD_SIZE_ADD,
        VD_SIZE_SUBTRACT
    } kind;
    uint64_t bytes;
};

/* As vd_size_parse(), with an optional + or - in front. */
int vd_size_parse_change(const char *text, struct vd_size_change *change);

/* What is wrong with a size, for the @ret of the functions above: qemu-img's words. */
const char *vd_size_problem(int ret);

#define VD_SIZE_TEXT_BYTES 32

/* "352 KiB", "1.5 GiB", "0 B": three digits, the unit that keeps the number below 1000. */
const char *vd_size_text(uint64_t bytes, char text[VD_SIZE_TEXT_BYTES]);

#endif
