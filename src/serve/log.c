/* SPDX-License-Identifier: MIT */
#include "serve/log.h"

#include <stdarg.h>
#include <stdio.h>

void vd_log(const struct vd_log *log, enum vdisk_log_level level, const char *fmt, ...)
{
    if (!log->write)
        return;
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    for (char *at = line; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = '?';
    log->write(log->opaque, level, line);
}
