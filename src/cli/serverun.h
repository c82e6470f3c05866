/* SPDX-License-Identifier: MIT */
/* The process of a server: signals, the background, the file with its id, the command it is for. */
#ifndef VD_CLI_SERVERUN_H
#define VD_CLI_SERVERUN_H

#include <signal.h>

#include "cli/servelog.h"

/* --- the background -------------------------------------------------------------------------- */

/*
 * Forks.  Returns VD_CLI_GO in the child, where *ready_fd goes to vd_serve_leave_terminal(); in the
 * parent, when the child is ready or has ended, the exit status.  Before any thread.
 */
int vd_serve_fork(int *ready_fd);

/* The parent may end; standard input, output and error lead nowhere from now on. */
void vd_serve_leave_terminal(int ready_fd);

/* --- the file with the process id ------------------------------------------------------------- */

/* *fd holds a lock until it is closed.  -EBUSY: another process has it. */
int vd_pid_file_make(const char *path, int *fd, struct vdisk_error *err);
void vd_pid_file_remove(const char *path, int fd); /* fd -1: nothing */

/* --- limits ------------------------------------------------------------------------------------
 */

/* Raises the soft limit of descriptors, where it may be, so that there are enough for @connections
 * and what else is open. */
void vd_serve_allow_connections(uint32_t connections);

/* --- signals -----------------------------------------------------------------------------------
 */

struct vd_serve_signals {
    sigset_t before; /* the mask that was there */
    int signal_fd;   /* SIGINT, SIGTERM, SIGHUP, SIGCHLD */
    int stop_fd;     /* ends the guard */
    pthread_t guard; /* while is_guarded: the first signal ends the process */
    bool is_guarded;
};

/* Blocks signals, and ends the process at the first one until vd_serve_signals_take(): what is done
 * meanwhile may take long.  Before any thread. */
int vd_serve_signals_begin(struct vd_serve_signals *signals, struct vdisk_error *err);
void vd_serve_signals_take(struct vd_serve_signals *signals);
void vd_serve_signals_end(struct vd_serve_signals *signals);

/* --- serving ------------------------------------------------------------------------------------
 */

/* Where the command of --run finds the server: its environment gets these, "" for NULL. */
struct vd_serve_leads {
    const char *uri;
    const char *path; /* of the Unix socket */
    const char *port; /* of TCP */
    const char *name; /* of the export */
};

/* Starts `sh -c COMMAND`. */
int vd_serve_spawn(const char *command, const struct vd_serve_leads *leads,
                   const struct vd_serve_signals *signals, pid_t *child, struct vdisk_error *err);

struct vd_serve_watch {
    struct vdisk_server *server;
    struct vd_serve_signals *signals;
    struct vd_serve_sockets *sockets; /* their files are removed before the server stops */
    struct vd_serve_log *log;
    pid_t child; /* of --run, or 0 */
    bool has_tls;
    bool is_persistent;
};

/* Serves until a signal, the end of the command, or of the last client; then stops the server.
 * Returns the exit status. */
int vd_serve_until_end(struct vd_serve_watch *watch);

#endif
