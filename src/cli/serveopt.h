/* SPDX-License-Identifier: MIT */
/* The options of serve: what is offered, to whom, where, and as what kind of process. */
#ifndef VD_CLI_SERVEOPT_H
#define VD_CLI_SERVEOPT_H

#include "cli/backupopt.h"
#include "cli/snapshots.h"

/* Words of the command line, in their order; the list is owned, the words are not. */
struct vd_words {
    const char **list;
    size_t entries;
};

/* Where to listen. */
struct vd_serve_places {
    const char *path;   /* of a Unix socket, or NULL */
    const char *host;   /* of TCP, or NULL: this machine */
    const char *status; /* host:port of the page, or NULL */
    uint32_t port;      /* of TCP */
    uint32_t vsock_port;
    int fd;       /* inherited; -1: none */
    bool has_tcp; /* -b or -p was given */
    bool has_vsock;
};

/* What the process does beside serving. */
struct vd_serve_process {
    const char *pid_file; /* or NULL */
    const char *command;  /* of --run, or NULL */
    const char *log_file; /* or NULL */
    enum vdisk_log_level log_level;
    bool forks;
    bool is_persistent; /* goes on when the last client has left */
};

/* How each FILE is offered. */
struct vd_serve_offer {
    struct vd_words names, descriptions; /* of FILE by FILE; or none */
    struct vd_words bitmaps;             /* of all */
    struct vd_cli_snapshot snapshot;
    struct vd_backup_key key; /* of repositories whose points are offered */
    uint32_t cache_flags;     /* of enum vdisk_open_flag */
    uint32_t clients;         /* at once, if has_clients; 0: no limit */
    bool has_clients;
    bool is_read_only; /* all; points of repositories are in any case */
    bool has_depth;
};

struct vd_serve_args {
    struct vdisk_server_options server;
    struct vdisk_tls_options tls; /* server.tls points here if it is used */
    struct vd_words authorized;   /* of tls */
    bool is_tls_optional;
    struct vd_serve_places places;
    struct vd_serve_process process;
    struct vd_serve_offer offer;
};

/* The table for struct vd_cli_verb. */
extern const struct vd_cli_option vd_serve_options[];

/* Parses the command line, and finds out whether all of it goes together.  Returns VD_CLI_GO or the
 * exit status; @args goes to vd_serve_args_free() in any case. */
int vd_serve_parse(struct vd_cli *cli, int argc, char **argv, struct vd_serve_args *args);

void vd_serve_args_free(struct vd_serve_args *args);

#endif
