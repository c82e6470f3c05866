/* SPDX-License-Identifier: MIT */
/* URLs in text that is shown. */
#ifndef VD_UTIL_URL_H
#define VD_UTIL_URL_H

/* What ends a URL within a message. */
#define VD_URL_ENDS_IN_TEXT " \t\n'\""

/*
 * Cuts user:password@ out of each scheme://user:password@host/... in @text.  A "/", "?" or "#"
 * ends the part of a URL that is looked at, and so does any character of @ends: blanks, where
 * @text is more than a URL.
 */
void vd_url_strip_secrets(char *text, const char *ends);

#endif
