/* SPDX-License-Identifier: MIT */
/* The sockets of a server: made, inherited, named by URIs, and removed. */
#ifndef VD_CLI_SERVESOCK_H
#define VD_CLI_SERVESOCK_H

#include "cli/serveopt.h"

enum vd_serve_kind {
    VD_SERVE_UNIX,
    VD_SERVE_TCP,
    VD_SERVE_VSOCK,
    VD_SERVE_INHERITED, /* where it leads is known to who made it */
};

struct vd_serve_socket {
    enum vd_serve_kind kind;
    int fd;        /* -1: the server has it */
    uint32_t port; /* of TCP or vsock */
    char *host;    /* owned, of TCP: as in a URI; NULL else */
    char *path;    /* owned, absolute, of a Unix socket; NULL else */
    dev_t device;  /* of the file at path, so that nobody else's is removed */
    ino_t inode;
};

/* What a program that started us has left: socket activation as systemd does it. */
struct vd_serve_activation {
    int first; /* descriptors, side by side */
    int entries;
    char *names; /* owned: one a descriptor, with colons between them; or NULL */
};

struct vd_serve_sockets {
    struct vd_serve_socket *list; /* owned */
    size_t entries;
    struct vd_serve_socket status; /* of the page; fd is -1, and host NULL, if there is none */
    char *folder;                  /* owned: made for the Unix socket of --run; NULL: none */
};

/*
 * Takes LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID out of the environment.  To be called before
 * anything opens a file, and before fork(): they are for this process.  entries is 0 if there is
 * nothing for it.
 */
int vd_serve_activation_take(struct vd_serve_activation *activation, struct vdisk_error *err);

/*
 * Opens what @places wants, or takes what @activation or --fd brought.  @is_private: nobody but
 * the command of --run has to find us, so without a place it is a socket in a folder of its own.
 * @sockets, zeroed, goes to vd_serve_sockets_free() in any case.
 */
int vd_serve_sockets_open(const struct vd_serve_places *places,
                          const struct vd_serve_activation *activation, bool is_private,
                          struct vd_serve_sockets *sockets, struct vdisk_error *err);

/* Removes the files of Unix sockets, if they are still ours. */
void vd_serve_sockets_remove(struct vd_serve_sockets *sockets);

/* Removes, closes and frees; a zeroed one is accepted. */
void vd_serve_sockets_free(struct vd_serve_sockets *sockets);

/* "nbd://localhost:10809/name", owned by the caller; NULL: it has none, or no memory. */
char *vd_serve_uri(const struct vd_serve_socket *socket, const char *name, bool is_tls);

#endif
