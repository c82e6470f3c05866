/* SPDX-License-Identifier: MIT */
/* Lines for the log of the server's owner. */
#ifndef VD_SERVE_LOG_H
#define VD_SERVE_LOG_H

#include "util/err.h"

struct vd_log {
    vdisk_log_fn write; /* or NULL */
    void *opaque;
};

/* Writes a line; whatever a client sent in it is made harmless. */
VD_PRINTF(3, 4)
void vd_log(const struct vd_log *log, enum vdisk_log_level level, const char *fmt, ...);

#endif
