/* SPDX-License-Identifier: MIT */
/* vdisk io: exercise an image with single requests, as qemu-io does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/io.h"

static const struct vd_cli_option options[] = {
    {'c', "cmd", "COMMAND",
     "run COMMAND; may be given often.  Without it, lines of standard input"},
    {'r', "read-only", NULL, "open the image for reading only"},
    {0},
};

struct io_args {
    const char **commands; /* in order; room for all of argv */
    size_t command_count;
    bool is_read_only;
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct io_args *args = opaque;
    (void)cli;
    if (key == 'c')
        args->commands[args->command_count++] = value;
    else
        args->is_read_only = true;
    return VD_CLI_GO;
}

static void run_stdin(struct vd_io *io)
{
    bool prompts = isatty(STDIN_FILENO) == 1 && !io->cli->json;
    char *line = NULL;
    size_t room = 0;
    while (!io->is_over) {
        if (prompts) {
            printf("vdisk io> ");
            fflush(stdout);
        }
        ssize_t length = getline(&line, &room, stdin);
        if (length < 0)
            break;
        line[strcspn(line, "\n")] = '\0';
        vd_io_run(io, line);
    }
    if (ferror(stdin)) {
        vd_cli_error("standard input: can not be read");
        io->has_failed = true;
    }
    free(line);
}

static int run_commands(const struct vd_cli *cli, const struct io_args *args,
                        struct vdisk_image *image)
{
    struct vd_io io = {.cli = cli, .image = image};
    if (cli->json)
        vd_json_begin_array(&io.json);
    for (size_t i = 0; i < args->command_count && !io.is_over; i++)
        vd_io_run(&io, args->commands[i]);
    if (args->command_count == 0)
        run_stdin(&io);
    if (cli->json && vd_json_print(&io.json) != 0)
        io.has_failed = true;
    return io.has_failed ? 1 : 0;
}

static int io_with(struct vd_cli *cli, int argc, char **argv, struct io_args *args)
{
    int status = vd_cli_parse(cli, argc, argv, take, args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status == VD_CLI_GO && cli->share && !args->is_read_only)
        status = vd_cli_usage_error(cli, "-U: sharing with a writer is for reading only: add -r");
    if (status != VD_CLI_GO)
        return status;
    uint32_t flags = cli->cache_flags | (args->is_read_only ? 0 : VDISK_OPEN_WRITE);
    struct vdisk_image *image = vd_cli_open(cli, cli->operands[0], cli->format, flags);
    return image ? vd_cli_close(image, run_commands(cli, args, image)) : 1;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct io_args args = {.commands = calloc((size_t)argc, sizeof(*args.commands))};
    int status = 1;
    if (args.commands)
        status = io_with(cli, argc, argv, &args);
    else
        vd_cli_error("out of memory for commands");
    free(args.commands);
    return status;
}

const struct vd_cli_verb vd_cmd_io = {
    .name = "io",
    .synopsis = "[-f FMT] [-r] [-t CACHE] [-U] [--output=human|json] [-c COMMAND]... FILE",
    .help = "Read and write parts of a disk, command by command",
    .text = "Commands: alloc, discard, flush, help, info, length, map, quit, read, readv, sleep,\n"
            "truncate, write, writev; 'help' tells of each.  A command that fails does not stop\n"
            "those behind it; the exit status is then 1.\n",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_OUTPUT | VD_CLI_CACHE | VD_CLI_NETWORK |
              VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
