/* SPDX-License-Identifier: MIT */
/* Filling in a struct vdisk_error. */
#include "util/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "util/url.h"

void vdisk_error_clear(struct vdisk_error *err)
{
    err->code = 0;
    err->message[0] = '\0';
}

/* Names come from images too: none of their bytes may act on a terminal, or end the line. */
static void make_harmless(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
}

static VD_PRINTF(3, 0) void format_message(struct vdisk_error *err, int code, const char *fmt,
                                           va_list args)
{
    err->code = code;
    vsnprintf(err->message, sizeof(err->message), fmt, args);
    make_harmless(err->message);
    vd_url_strip_secrets(err->message, VD_URL_ENDS_IN_TEXT);
}

int vd_err_set(struct vdisk_error *err, int code, const char *fmt, ...)
{
    if (err && !err->code) {
        va_list args;
        va_start(args, fmt);
        format_message(err, code, fmt, args);
        va_end(args);
    }
    return -code;
}

int vd_err_errno(struct vdisk_error *err, int code, const char *fmt, ...)
{
    if (err && !err->code) {
        va_list args;
        va_start(args, fmt);
        format_message(err, code, fmt, args);
        va_end(args);
        size_t used = strlen(err->message);
        char text[128];
        /* The GNU strerror_r() may answer with a constant of its own and leave text alone. */
        snprintf(err->message + used, sizeof(err->message) - used, ": %s",
                 strerror_r(code, text, sizeof(text)));
    }
    return -code;
}

int vd_err_prefix(struct vdisk_error *err, int ret, const char *fmt, ...)
{
    if (err && err->code) {
        char prefix[sizeof(err->message)];
        va_list args;
        va_start(args, fmt);
        int length = vsnprintf(prefix, sizeof(prefix), fmt, args);
        va_end(args);
        if (length > 0) {
            make_harmless(prefix);
            vd_url_strip_secrets(prefix, VD_URL_ENDS_IN_TEXT);
            size_t prefix_bytes = strlen(prefix);
            size_t limit = sizeof(err->message) - 1;
            size_t message_bytes = strlen(err->message);
            if (message_bytes > limit - prefix_bytes)
                message_bytes = limit - prefix_bytes;
            memmove(err->message + prefix_bytes, err->message, message_bytes);
            memcpy(err->message, prefix, prefix_bytes);
            err->message[prefix_bytes + message_bytes] = '\0';
        }
    }
    return ret;
}

int vd_err_copy(struct vdisk_error *to, const struct vdisk_error *from)
{
    if (to && !to->code) {
        to->code = from->code;
        memcpy(to->message, from->message, strlen(from->message) + 1);
    }
    return -from->code;
}

int vd_err_nomem(struct vdisk_error *err, const char *what)
{
    return vd_err_set(err, ENOMEM, "out of memory for %s", what);
}
