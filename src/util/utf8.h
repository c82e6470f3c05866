/* SPDX-License-Identifier: MIT */
/* UTF-8 that somebody else sent. */
#ifndef VD_UTIL_UTF8_H
#define VD_UTIL_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* The length of the character at @text, which has @length bytes; 0: it is none.  Surrogates,
 * overlong forms, and what is past U+10FFFF, are none. */
size_t vd_utf8_length(const char *text, size_t length);

/* Are all @length bytes characters, and none of them NUL? */
bool vd_utf8_is_text(const char *text, size_t length);

#endif
