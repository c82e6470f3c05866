/* SPDX-License-Identifier: MIT */
/* URLs in text that is shown. */
#include "util/url.h"

#include <string.h>

void vd_url_strip_secrets(char *text, const char *ends)
{
    for (char *at = strstr(text, "://"); at; at = strstr(at, "://")) {
        at += strlen("://");
        at += strspn(at, "/"); /* libcurl takes three slashes for two */
        char *keep = at;
        for (char *c = at; *c && !strchr("/?#", *c) && !strchr(ends, *c); c++)
            if (*c == '@')
                keep = c + 1; /* the last one: people forget to encode those in a password */
        memmove(at, keep, strlen(keep) + 1);
    }
}
