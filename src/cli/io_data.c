/* SPDX-License-Identifier: MIT */
/* The commands of `vdisk io` that move data: read, readv, write, writev, discard. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/io.h"
#include "util/mem.h"
#include "util/range.h"

#define WRITE_PATTERN_DEFAULT 0xcd
#define DUMP_COLUMNS          16u

/* A request as its line describes it. */
struct io_request {
    bool is_quiet, dumps, has_pattern, zeroes, may_unmap, is_durable;
    bool has_part_offset, has_part_length; /* -s, -l of read */
    uint8_t pattern;
    uint64_t part_offset, part_length;
    const char *pattern_file;
    uint64_t offset, length; /* bytes of the disk; length: of all buffers */
    struct iovec iov[VD_IO_ARGS_MAX];
    int iov_entries;
    uint8_t *buffer; /* all of iov lies in it, in order */
    struct timespec start;
};

/* --- reading the line ------------------------------------------------------------------------ */

static int parse_pattern(struct vd_io *io, const char *text, struct io_request *request)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 0);
    if (!isdigit((unsigned char)text[0]) || *end || errno || value > UINT8_MAX)
        return vd_io_error(io, "%s is not a valid pattern byte: 0 to 255 wanted", text);
    request->pattern = (uint8_t)value;
    request->has_pattern = true;
    return 0;
}

static int take_option(struct vd_io *io, char letter, const char *value, bool is_read,
                       struct io_request *request)
{
    switch (letter) {
    case 'P':
        return parse_pattern(io, value, request);
    case 's':
        request->has_part_offset = is_read;
        request->pattern_file = value;
        return is_read ? vd_io_parse_size(io, value, &request->part_offset) : 0;
    case 'l':
        request->has_part_length = true;
        return vd_io_parse_size(io, value, &request->part_length);
    case 'q':
        request->is_quiet = true;
        break;
    case 'v':
        request->dumps = true;
        break;
    case 'z':
        request->zeroes = true;
        break;
    case 'u':
        request->may_unmap = true;
        break;
    case 'f':
        request->is_durable = true;
        break;
    }
    return 0;
}

/*
 * Takes the options in @letters (a ':' follows those with an argument).  *index: of the first
 * argument behind them.  Numbers are not negative here, so a dash always begins an option.
 */
static int take_options(struct vd_io *io, int argc, char **argv, const char *letters, bool is_read,
                        struct io_request *request, int *index)
{
    int at = 1;
    for (; at < argc && argv[at][0] == '-' && argv[at][1]; at++) {
        for (const char *letter = argv[at] + 1; *letter; letter++) {
            const char *known = *letter == ':' ? NULL : strchr(letters, *letter);
            if (!known)
                return vd_io_error(io, "%s: unknown option -%c: 'help %s' lists them", argv[0],
                                   *letter, argv[0]);
            bool has_value = known[1] == ':';
            const char *value = has_value && letter[1] ? letter + 1 : NULL;
            if (has_value && !value && ++at == argc)
                return vd_io_error(io, "%s: option -%c needs an argument", argv[0], *letter);
            char key = *letter;
            if (has_value && !value)
                value = argv[at];
            if (take_option(io, key, value, is_read, request) < 0)
                return -1;
            if (has_value)
                break;
        }
    }
    *index = at;
    return 0;
}

/* Takes "off len [len..]", @lengths_max of the latter at most. */
static int take_numbers(struct vd_io *io, int argc, char **argv, int index, int lengths_max,
                        struct io_request *request)
{
    int lengths = argc - index - 1;
    if (lengths < 1 || lengths > lengths_max)
        return vd_io_error(io, "%s: bad argument count %d, wanted an offset and %s", argv[0],
                           argc - index, lengths_max == 1 ? "a length" : "lengths");
    if (vd_io_parse_size(io, argv[index], &request->offset) < 0)
        return -1;
    for (int i = 0; i < lengths; i++) {
        uint64_t length;
        if (vd_io_parse_size(io, argv[index + 1 + i], &length) < 0)
            return -1;
        request->iov[i].iov_len = (size_t)length;
        request->length += length; /* 63 sizes below 2^63 may wrap: */
        if (request->length < length)
            return vd_io_error(io, "%s: lengths add up to more than 2^64", argv[0]);
    }
    request->iov_entries = lengths;
    return 0;
}

static int make_buffer(struct vd_io *io, struct io_request *request)
{
    if (request->length > VDISK_REQUEST_BYTES_MAX)
        return vd_io_error(io, "length cannot exceed %u, given %" PRIu64, VDISK_REQUEST_BYTES_MAX,
                           request->length);
    request->buffer = vd_alloc_io((size_t)request->length);
    if (!request->buffer)
        return vd_io_error(io, "out of memory for a buffer of %" PRIu64 " bytes", request->length);
    uint8_t *at = request->buffer;
    for (int i = 0; i < request->iov_entries; i++) {
        request->iov[i].iov_base = at;
        at += request->iov[i].iov_len;
    }
    return 0;
}

/* --- reporting ------------------------------------------------------------------------------- */

static const char *amount_text(double bytes, char text[VD_SIZE_TEXT_BYTES])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        bytes /= 1024;
        unit++;
    }
    char number[VD_SIZE_TEXT_BYTES - 8];
    snprintf(number, sizeof(number), "%.3f", bytes);
    char *fraction = strstr(number, ".000");
    if (fraction)
        *fraction = '\0';
    snprintf(text, VD_SIZE_TEXT_BYTES, "%s %s", number, units[unit]);
    return text;
}

static double seconds_since(const struct timespec *start)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)(now.tv_sec - start->tv_sec);
    return seconds + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static void print_done(struct vd_io *io, const char *what, const struct io_request *request)
{
    double seconds = seconds_since(&request->start);
    if (io->cli->json) {
        vd_json_put_u64(&io->json, io->entry, "offset", request->offset);
        vd_json_put_u64(&io->json, io->entry, "bytes", request->length);
        vd_json_put_real(&io->json, io->entry, "seconds", seconds);
        return;
    }
    if (request->is_quiet)
        return;
    char bytes[VD_SIZE_TEXT_BYTES], rate[VD_SIZE_TEXT_BYTES];
    double per_second = seconds > 0 ? 1 / seconds : 0;
    printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", what, request->length,
           request->length, request->offset);
    printf("%s, 1 ops; %05.2f sec (%s/sec and %.4f ops/sec)\n",
           amount_text((double)request->length, bytes), seconds,
           amount_text((double)request->length * per_second, rate), per_second);
}

/* As JSON the bytes are one string of hexadecimal digits. */
static void dump_json(struct vd_io *io, const struct io_request *request)
{
    static const char digits[] = "0123456789abcdef";
    CLEANUP_FREE char *text = vd_alloc_array((size_t)request->length + 1, 2);
    for (uint64_t i = 0; text && i < request->length; i++) {
        text[2 * i] = digits[request->buffer[i] >> 4];
        text[2 * i + 1] = digits[request->buffer[i] & 15];
    }
    if (text)
        vd_json_put_text(&io->json, io->entry, "data", text);
    else
        io->json.has_failed = true;
}

static void dump(struct vd_io *io, const struct io_request *request)
{
    if (io->cli->json) {
        dump_json(io, request);
        return;
    }
    for (uint64_t at = 0; at < request->length; at += DUMP_COLUMNS) {
        char text[DUMP_COLUMNS + 1] = "";
        uint64_t columns = vd_min(DUMP_COLUMNS, request->length - at);
        vd_io_print(io, "%08" PRIx64 ":  ", request->offset + at);
        for (uint64_t i = 0; i < DUMP_COLUMNS; i++) {
            if (i >= columns) {
                vd_io_print(io, "   ");
                continue;
            }
            uint8_t byte = request->buffer[at + i];
            vd_io_print(io, "%02x ", byte);
            text[i] = byte >= 0x20 && byte < 0x7f ? (char)byte : '.';
        }
        vd_io_print(io, " %s\n", text);
    }
}

/* --- read ------------------------------------------------------------------------------------ */

/* Is the part of the buffer that -s and -l choose made of the pattern? */
static int verify(struct vd_io *io, const struct io_request *request)
{
    uint64_t start = request->part_offset;
    uint64_t length = request->length - start;
    if (request->has_part_length)
        length = request->part_length;
    for (uint64_t i = 0; i < length; i++) {
        if (request->buffer[start + i] == request->pattern)
            continue;
        vd_io_print(io, "Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n",
                    request->offset + start, length);
        if (io->cli->json)
            return vd_io_error(io, "offset %" PRIu64 ": byte 0x%02x where the pattern has 0x%02x",
                               request->offset + start + i, request->buffer[start + i],
                               request->pattern);
        io->has_failed = true; /* said above, with the words and at the place that scripts know */
        return -1;
    }
    return 0;
}

static int check_part(struct vd_io *io, const struct io_request *request)
{
    if ((request->has_part_offset || request->has_part_length) && !request->has_pattern)
        return vd_io_error(io, "read: -s and -l say where the pattern is looked for: -P is needed");
    uint64_t length = request->has_part_length ? request->part_length : 0;
    if (!vd_range_is_within(vd_range(request->part_offset, length), request->length))
        return vd_io_error(io,
                           "read: pattern at %" PRIu64 ", %" PRIu64 " bytes, is outside the "
                           "%" PRIu64 " bytes that are read",
                           request->part_offset, length, request->length);
    return 0;
}

static int read_request(struct vd_io *io, struct io_request *request)
{
    struct vdisk_error err = {0};
    if (check_part(io, request) < 0 || make_buffer(io, request) < 0)
        return -1;
    clock_gettime(CLOCK_MONOTONIC, &request->start);
    if (vdisk_image_preadv(io->image, request->iov, request->iov_entries, request->offset, &err) <
        0)
        return vd_io_error(io, "read failed: %s", err.message);
    int ret = request->has_pattern ? verify(io, request) : 0;
    if (request->dumps)
        dump(io, request);
    print_done(io, "read", request);
    return ret;
}

static int read_line(struct vd_io *io, int argc, char **argv, const char *letters, int lengths_max)
{
    struct io_request request = {0};
    int index;
    int ret = take_options(io, argc, argv, letters, true, &request, &index);
    if (ret == 0)
        ret = take_numbers(io, argc, argv, index, lengths_max, &request);
    if (ret == 0)
        ret = read_request(io, &request);
    free(request.buffer);
    return ret;
}

int vd_io_read(struct vd_io *io, int argc, char **argv)
{
    return read_line(io, argc, argv, "P:s:l:qv", 1);
}

int vd_io_readv(struct vd_io *io, int argc, char **argv)
{
    return read_line(io, argc, argv, "P:qv", VD_IO_ARGS_MAX - 1);
}

/* --- write ----------------------------------------------------------------------------------- */

/* Fills the buffer with the bytes of @file, over and over. */
static int fill_from_file(struct vd_io *io, const char *file, struct io_request *request)
{
    CLEANUP_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vd_io_error(io, "%s: %s", file, strerror(errno));
    size_t length = (size_t)request->length;
    size_t filled = 0;
    while (filled < length) {
        ssize_t got = read(fd, request->buffer + filled, length - filled);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return vd_io_error(io, "%s: %s", file, strerror(errno));
        if (got == 0)
            break;
        filled += (size_t)got;
    }
    if (filled == 0 && length)
        return vd_io_error(io, "%s: is empty", file);
    for (size_t at = filled; at < length; at++)
        request->buffer[at] = request->buffer[at - filled];
    return 0;
}

static int write_data(struct vd_io *io, struct io_request *request)
{
    struct vdisk_error err = {0};
    if (make_buffer(io, request) < 0)
        return -1;
    memset(request->buffer, request->pattern, (size_t)request->length);
    if (request->pattern_file && fill_from_file(io, request->pattern_file, request) < 0)
        return -1;
    clock_gettime(CLOCK_MONOTONIC, &request->start);
    if (vdisk_image_pwritev(io->image, request->iov, request->iov_entries, request->offset, &err) <
        0)
        return vd_io_error(io, "write failed: %s", err.message);
    return 0;
}

static int write_zeroes(struct vd_io *io, struct io_request *request)
{
    struct vdisk_error err = {0};
    unsigned flags = request->may_unmap ? 0 : VDISK_ZERO_NO_HOLE;
    clock_gettime(CLOCK_MONOTONIC, &request->start);
    if (vdisk_image_write_zeroes(io->image, request->offset, request->length, flags, &err) < 0)
        return vd_io_error(io, "write failed: %s", err.message);
    return 0;
}

static int write_request(struct vd_io *io, struct io_request *request)
{
    if (request->zeroes && (request->has_pattern || request->pattern_file))
        return vd_io_error(io, "write: -z cannot be used together with -P or -s");
    if (request->has_pattern && request->pattern_file)
        return vd_io_error(io, "write: -P and -s cannot be used together");
    if (request->may_unmap && !request->zeroes)
        return vd_io_error(io, "write: -u requires -z to be specified");
    if (!request->has_pattern)
        request->pattern = WRITE_PATTERN_DEFAULT;

    int ret = request->zeroes ? write_zeroes(io, request) : write_data(io, request);
    struct vdisk_error err = {0};
    if (ret == 0 && request->is_durable && vdisk_image_flush(io->image, &err) < 0)
        ret = vd_io_error(io, "flush failed: %s", err.message);
    if (ret == 0)
        print_done(io, "wrote", request);
    return ret;
}

static int write_line(struct vd_io *io, int argc, char **argv, const char *letters, int lengths_max)
{
    struct io_request request = {0};
    int index;
    int ret = take_options(io, argc, argv, letters, false, &request, &index);
    if (ret == 0)
        ret = take_numbers(io, argc, argv, index, lengths_max, &request);
    if (ret == 0)
        ret = write_request(io, &request);
    free(request.buffer);
    return ret;
}

int vd_io_write(struct vd_io *io, int argc, char **argv)
{
    return write_line(io, argc, argv, "P:s:fquz", 1);
}

int vd_io_writev(struct vd_io *io, int argc, char **argv)
{
    return write_line(io, argc, argv, "P:fq", VD_IO_ARGS_MAX - 1);
}

int vd_io_discard(struct vd_io *io, int argc, char **argv)
{
    struct io_request request = {0};
    struct vdisk_error err = {0};
    int index;
    int ret = take_options(io, argc, argv, "q", false, &request, &index);
    if (ret == 0)
        ret = take_numbers(io, argc, argv, index, 1, &request);
    if (ret < 0)
        return ret;
    clock_gettime(CLOCK_MONOTONIC, &request.start);
    if (vdisk_image_discard(io->image, request.offset, request.length, &err) < 0)
        return vd_io_error(io, "discard failed: %s", err.message);
    print_done(io, "discard", &request);
    return 0;
}
