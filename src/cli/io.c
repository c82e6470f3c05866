/* SPDX-License-Identifier: MIT */
/* The commands of `vdisk io`: splitting lines, the table, and the commands that move no data. */
#include "cli/io.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/size.h"
#include "util/range.h"

#define SLEEP_MS_MAX 3600000u

int vd_io_error(struct vd_io *io, const char *fmt, ...)
{
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    io->has_failed = true;
    if (io->cli->json)
        vd_json_put_text(&io->json, io->entry, "error", text);
    else
        vd_cli_error("%s", text);
    return -1;
}

void vd_io_print(const struct vd_io *io, const char *fmt, ...)
{
    if (io->cli->json)
        return;
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
}

int vd_io_parse_size(struct vd_io *io, const char *text, uint64_t *size)
{
    if (vd_size_parse(text, size) == 0)
        return 0;
    return vd_io_error(io, "'%s' is not a count of bytes from 0 to %" PRId64, text, VD_SIZE_MAX);
}

static int want_arguments(struct vd_io *io, int argc, char **argv, int min, int max)
{
    if (argc - 1 >= min && argc - 1 <= max)
        return 0;
    return vd_io_error(io, "%s: bad argument count %d, wanted %d to %d", argv[0], argc - 1, min,
                       max);
}

/* --- commands -------------------------------------------------------------------------------- */

static int run_flush(struct vd_io *io, int argc, char **argv)
{
    struct vdisk_error err = {0};
    if (want_arguments(io, argc, argv, 0, 0) < 0)
        return -1;
    if (vdisk_image_flush(io->image, &err) < 0)
        return vd_io_error(io, "flush failed: %s", err.message);
    return 0;
}

static int run_length(struct vd_io *io, int argc, char **argv)
{
    char text[VD_SIZE_TEXT_BYTES];
    if (want_arguments(io, argc, argv, 0, 0) < 0)
        return -1;
    uint64_t size = vdisk_image_size(io->image);
    vd_io_print(io, "%s\n", vd_size_text(size, text));
    if (io->cli->json)
        vd_json_put_u64(&io->json, io->entry, "virtual-size", size);
    return 0;
}

static int run_truncate(struct vd_io *io, int argc, char **argv)
{
    struct vdisk_error err = {0};
    uint64_t size;
    if (want_arguments(io, argc, argv, 1, 1) < 0 || vd_io_parse_size(io, argv[1], &size) < 0)
        return -1;
    if (vdisk_image_resize(io->image, size, VDISK_PREALLOCATION_OFF, &err) < 0)
        return vd_io_error(io, "truncate failed: %s", err.message);
    return 0;
}

static int run_info(struct vd_io *io, int argc, char **argv)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_error err = {0};
    if (want_arguments(io, argc, argv, 0, 0) < 0)
        return -1;
    if (vdisk_image_info(io->image, &info, &err) < 0)
        return vd_io_error(io, "info failed: %s", err.message);
    vd_io_print(io, "format name: %s\ncluster size: %" PRIu32 " bytes\n", info.format,
                info.cluster_bytes);
    if (io->cli->json) {
        vd_json_put_text(&io->json, io->entry, "format", info.format);
        vd_json_put_u64(&io->json, io->entry, "cluster-size", info.cluster_bytes);
        vd_json_put_u64(&io->json, io->entry, "virtual-size", info.virtual_bytes);
    }
    return 0;
}

/* Adds the length of what is allocated in the range; prints each run if @prints. */
static int walk(struct vd_io *io, struct vd_range rest, bool prints, uint64_t *allocated)
{
    json_t *runs = NULL;
    if (io->cli->json && prints)
        runs = vd_json_put_array(&io->json, io->entry, "extents");
    while (rest.length) {
        struct vdisk_extent extent;
        struct vdisk_error err = {0};
        char text[VD_SIZE_TEXT_BYTES];
        if (vdisk_image_extent(io->image, rest.offset, rest.length, &extent, &err) < 0)
            return vd_io_error(io, "map failed: %s", err.message);
        bool is_allocated = (extent.flags & VDISK_EXTENT_PRESENT) != 0;
        if (is_allocated)
            *allocated += extent.length;
        if (prints)
            vd_io_print(io,
                        "%s (0x%" PRIx64 ") bytes %sallocated at offset %" PRIu64
                        " bytes (0x%" PRIx64 ")\n",
                        vd_size_text(extent.length, text), extent.length,
                        is_allocated ? "    " : "not ", extent.offset, extent.offset);
        if (runs) {
            json_t *run = vd_json_append_object(&io->json, runs);
            vd_json_put_u64(&io->json, run, "start", extent.offset);
            vd_json_put_u64(&io->json, run, "length", extent.length);
            vd_json_put_bool(&io->json, run, "present", is_allocated);
        }
        rest = vd_range(rest.offset + extent.length, rest.length - extent.length);
    }
    return 0;
}

static int run_map(struct vd_io *io, int argc, char **argv)
{
    uint64_t allocated = 0;
    if (want_arguments(io, argc, argv, 0, 0) < 0)
        return -1;
    return walk(io, vd_range(0, vdisk_image_size(io->image)), true, &allocated);
}

static int run_alloc(struct vd_io *io, int argc, char **argv)
{
    struct vd_range range = vd_range(0, 512);
    uint64_t allocated = 0;
    if (want_arguments(io, argc, argv, 1, 2) < 0 ||
        vd_io_parse_size(io, argv[1], &range.offset) < 0)
        return -1;
    if (argc > 2 && vd_io_parse_size(io, argv[2], &range.length) < 0)
        return -1;
    if (walk(io, range, false, &allocated) < 0)
        return -1;
    vd_io_print(io, "%" PRIu64 "/%" PRIu64 " bytes allocated at offset %" PRIu64 " bytes\n",
                allocated, range.length, range.offset);
    if (io->cli->json)
        vd_json_put_u64(&io->json, io->entry, "allocated-bytes", allocated);
    return 0;
}

static int run_sleep(struct vd_io *io, int argc, char **argv)
{
    uint64_t ms;
    if (want_arguments(io, argc, argv, 1, 1) < 0 || vd_io_parse_size(io, argv[1], &ms) < 0)
        return -1;
    if (ms > SLEEP_MS_MAX)
        return vd_io_error(io, "sleep: %" PRIu64 " ms: the limit is %u", ms, SLEEP_MS_MAX);
    struct timespec time = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
    return 0;
}

static int run_quit(struct vd_io *io, int argc, char **argv)
{
    io->is_over = true;
    return want_arguments(io, argc, argv, 0, 0);
}

static int run_help(struct vd_io *io, int argc, char **argv)
{
    bool is_known = argc < 2;
    if (want_arguments(io, argc, argv, 0, 1) < 0)
        return -1;
    for (const struct vd_io_command *command = vd_io_commands; command->name; command++) {
        if (argc > 1 && strcmp(argv[1], command->name) != 0)
            continue;
        is_known = true;
        vd_io_print(io, "%s %s -- %s\n", command->name, command->usage, command->help);
    }
    return is_known ? 0 : vd_io_error(io, "command \"%s\" not found", argv[1]);
}

const struct vd_io_command vd_io_commands[] = {
    {"alloc", "off [count]", "tells how much is allocated", run_alloc},
    {"discard", "[-q] off len", "discards bytes", vd_io_discard},
    {"flush", "", "makes what was written durable", run_flush},
    {"help", "[command]", "tells of the commands", run_help},
    {"info", "", "tells the format and its cluster size", run_info},
    {"length", "", "tells the size of the disk", run_length},
    {"map", "", "tells which parts are allocated", run_map},
    {"quit", "", "ends the session", run_quit},
    {"read", "[-qv] [-P byte [-s off] [-l len]] off len",
     "reads; -P: all of it, or the part at -s of -l bytes, must be that byte; -v: prints it",
     vd_io_read},
    {"readv", "[-qv] [-P byte] off len [len..]", "reads into several buffers", vd_io_readv},
    {"sleep", "ms", "waits", run_sleep},
    {"truncate", "size", "changes the size of the disk", run_truncate},
    {"write", "[-fqzu] [-P byte | -s file] off len",
     "writes a byte (0xcd), or a file over and over; -z: zeroes; -u: may unmap; -f: durable",
     vd_io_write},
    {"writev", "[-fq] [-P byte] off len [len..]", "writes from several buffers", vd_io_writev},
    {NULL, NULL, NULL, NULL},
};

/* --- one line -------------------------------------------------------------------------------- */

static const struct vd_io_command *find(const char *name)
{
    for (const struct vd_io_command *command = vd_io_commands; command->name; command++)
        if (strcmp(command->name, name) == 0)
            return command;
    return NULL;
}

/* Splits at blanks; words cannot hold any.  Returns the count, or -1: too many. */
static int split(char *line, char **argv)
{
    int argc = 0;
    char *rest = line;
    for (char *word; (word = strtok_r(rest, " \t\r\n", &rest));) {
        if (argc == VD_IO_ARGS_MAX)
            return -1;
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    return argc;
}

static void run_words(struct vd_io *io, int argc, char **argv)
{
    const struct vd_io_command *command = argc > 0 ? find(argv[0]) : NULL;
    if (argc < 0)
        vd_io_error(io, "more than %d words", VD_IO_ARGS_MAX);
    else if (!command)
        vd_io_error(io, "command \"%s\" not found: 'help' lists them", argv[0]);
    else if (command->run(io, argc, argv) < 0)
        io->has_failed = true;
}

void vd_io_run(struct vd_io *io, const char *line)
{
    char *words[VD_IO_ARGS_MAX + 1];
    char *copy = strdup(line);
    if (!copy) {
        vd_cli_error("out of memory for a command");
        io->has_failed = true;
        return;
    }
    int argc = split(copy, words);
    if (argc != 0) {
        if (io->cli->json) {
            io->entry = vd_json_append_object(&io->json, io->json.root);
            vd_json_put_text(&io->json, io->entry, "command", line);
        }
        bool had_failed = io->has_failed;
        io->has_failed = false;
        run_words(io, argc, words);
        if (io->cli->json)
            vd_json_put_bool(&io->json, io->entry, "ok", !io->has_failed);
        io->has_failed |= had_failed;
    }
    free(copy);
    fflush(stdout);
}
