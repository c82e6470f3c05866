/* SPDX-License-Identifier: MIT */
/* What a server tells: its log, and where it is. */
#ifndef VD_CLI_SERVELOG_H
#define VD_CLI_SERVELOG_H

#include <stdio.h>

#include "cli/output.h"
#include "cli/servesock.h"

struct vd_serve_log {
    FILE *file; /* owned, of --log; NULL: standard error, or for JSON standard output */
    enum vdisk_log_level level;
    bool is_json;
};

/* Prints what is wrong; returns VD_CLI_GO or the exit status. */
int vd_serve_log_open(struct vd_serve_log *log, const struct vd_cli *cli,
                      const struct vd_serve_process *process);
void vd_serve_log_close(struct vd_serve_log *log);

/* A vdisk_log_fn: @opaque is a struct vd_serve_log. */
void vd_serve_log_write(void *opaque, enum vdisk_log_level level, const char *message);

/* What is ready: names[i] is what files[i] is called. */
struct vd_serve_ready {
    const struct vd_serve_sockets *sockets;
    const char *const *names;
    char *const *files;
    size_t entries;
    bool is_tls;
};

/* Prints where the server is: a URI a line, or the JSON line "ready". */
void vd_serve_announce(const struct vd_serve_log *log, const struct vd_serve_ready *ready);

#endif
