/* SPDX-License-Identifier: MIT */
/* The commands of `vdisk io`, each a line such as "write -P 0x5a 0 64k". */
#ifndef VD_CLI_IO_H
#define VD_CLI_IO_H

#include "cli/cli.h"
#include "cli/output.h"

/* One session: an open image and what becomes of the commands. */
struct vd_io {
    const struct vd_cli *cli;
    struct vdisk_image *image;
    struct vd_json json; /* an array of one object a command, if cli->json */
    json_t *entry;       /* of the command that runs, likewise */
    bool has_failed;     /* a command did: the exit status will say so */
    bool is_over;        /* quit was said */
};

/* Runs one line.  What goes wrong is printed, and remembered in io->has_failed. */
void vd_io_run(struct vd_io *io, const char *line);

#define VD_IO_ARGS_MAX 64

struct vd_io_command {
    const char *name;
    const char *usage; /* what follows the name */
    const char *help;
    int (*run)(struct vd_io *io, int argc, char **argv); /* 0, or -1 after vd_io_error() */
};

/* Ended by a NULL name. */
extern const struct vd_io_command vd_io_commands[];

/* Says why a command failed; returns -1. */
VD_CLI_PRINTF(2, 3) int vd_io_error(struct vd_io *io, const char *fmt, ...);

/* Prints for people: nothing if the output is JSON. */
VD_CLI_PRINTF(2, 3) void vd_io_print(const struct vd_io *io, const char *fmt, ...);

/* Reads an offset or a length.  0, or -1 after vd_io_error(). */
int vd_io_parse_size(struct vd_io *io, const char *text, uint64_t *size);

/* --- io_data.c: the commands that move data ------------------------------------------------- */

int vd_io_read(struct vd_io *io, int argc, char **argv);
int vd_io_readv(struct vd_io *io, int argc, char **argv);
int vd_io_write(struct vd_io *io, int argc, char **argv);
int vd_io_writev(struct vd_io *io, int argc, char **argv);
int vd_io_discard(struct vd_io *io, int argc, char **argv);

#endif
