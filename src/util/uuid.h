/* SPDX-License-Identifier: MIT */
/* Universally unique identifiers (RFC 9562): 16 bytes, or their usual text. */
#ifndef VD_UTIL_UUID_H
#define VD_UTIL_UUID_H

#include <stdbool.h>

#include "util/err.h"

#define VD_UUID_BYTES      16u
#define VD_UUID_TEXT_BYTES 37u /* with the NUL */

/* A random one (version 4). */
int vd_uuid_new(uint8_t uuid[VD_UUID_BYTES], struct vdisk_error *err);

/* Its text, in lower case: returns @text. */
const char *vd_uuid_text(const uint8_t uuid[VD_UUID_BYTES], char text[VD_UUID_TEXT_BYTES]);

/* Is it what vd_uuid_text() writes?  Upper case is not. */
bool vd_uuid_is_text(const char *text);

#endif
