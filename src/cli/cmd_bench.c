/* SPDX-License-Identifier: MIT */
/* vdisk bench: how fast an image is read or written. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "util/range.h"

#define COUNT_DEFAULT  75000u
#define DEPTH_DEFAULT  64u
#define BUFFER_DEFAULT 4096u
#define DEPTH_MAX      1024u
#define NUMBER_MAX     INT32_MAX

enum {
    KEY_FLUSH_INTERVAL = VD_CLI_KEY_VERB,
    KEY_NO_DRAIN,
    KEY_PATTERN,
    KEY_RANDOM,
    KEY_SEED,
};

static const struct vd_cli_option options[] = {
    {'c', NULL, "COUNT", "requests to make (default 75000)"},
    {'d', NULL, "DEPTH", "requests at once, each in a thread (default 64)"},
    {KEY_FLUSH_INTERVAL, "flush-interval", "N", "writing: flush after every N requests"},
    {'i', NULL, "threads", "how requests are made; there is no other way"},
    {KEY_NO_DRAIN, "no-drain", NULL, "flush without waiting for the requests under way"},
    {'o', NULL, "OFFSET", "begin there (default 0)"},
    {KEY_PATTERN, "pattern", "BYTE", "writing: what to write (default 0)"},
    {KEY_RANDOM, "random", NULL, "at random places, multiples of STEP from OFFSET"},
    {'s', NULL, "SIZE", "bytes of a request (default 4k)"},
    {'S', NULL, "STEP", "from one request to the next (default SIZE)"},
    {KEY_SEED, "seed", "N", "with --random: the same places as another run with N"},
    {'w', NULL, NULL, "write (default: read)"},
    {'n', NULL, NULL, NULL},
    {0},
};

struct bench_args {
    struct vd_bench bench;
    bool has_step, has_pattern, has_seed;
};

static int take_bytes(struct vd_cli *cli, const char *option, const char *value, uint64_t min,
                      uint64_t max, uint64_t *bytes)
{
    int status = vd_cli_parse_size(option, value, bytes);
    if (status == VD_CLI_GO && (*bytes < min || *bytes > max))
        return vd_cli_usage_error(cli, "%s: %s is not from %" PRIu64 " to %" PRIu64 " bytes",
                                  option, value, min, max);
    return status;
}

/* A byte is a number as C writes it. */
static int take_pattern(struct vd_cli *cli, const char *value, struct bench_args *args)
{
    uint64_t byte;
    if (vd_size_parse(value, &byte) < 0 || byte > UINT8_MAX)
        return vd_cli_usage_error(cli, "--pattern: '%s' is not a byte, 0 to 255", value);
    args->bench.pattern = (uint8_t)byte;
    args->has_pattern = true;
    return VD_CLI_GO;
}

static int take_depth(struct vd_cli *cli, const char *value, unsigned *depth)
{
    uint64_t number;
    int status = vd_cli_parse_number(cli, "-d", value, 1, DEPTH_MAX, &number);
    if (status == VD_CLI_GO)
        *depth = (unsigned)number;
    return status;
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct bench_args *args = opaque;
    struct vd_bench *bench = &args->bench;
    switch (key) {
    case 'c':
        return vd_cli_parse_number(cli, "-c", value, 0, NUMBER_MAX, &bench->count);
    case 'd':
        return take_depth(cli, value, &bench->depth);
    case KEY_FLUSH_INTERVAL:
        return vd_cli_parse_number(cli, "--flush-interval", value, 1, NUMBER_MAX,
                                   &bench->flush_interval);
    case 'i':
        return strcmp(value, "threads") == 0
                   ? VD_CLI_GO
                   : vd_cli_usage_error(cli, "-i %s is not supported: requests run in threads",
                                        value);
    case 'n':
        return vd_cli_usage_error(cli, "-n is not supported: requests run in threads");
    case KEY_NO_DRAIN:
        bench->drains = false;
        return VD_CLI_GO;
    case 'o':
        return take_bytes(cli, "-o", value, 0, VD_SIZE_MAX, &bench->offset);
    case KEY_PATTERN:
        return take_pattern(cli, value, args);
    case KEY_RANDOM:
        bench->is_random = true;
        return VD_CLI_GO;
    case 's':
        return take_bytes(cli, "-s", value, 1, VDISK_REQUEST_BYTES_MAX, &bench->buffer_bytes);
    case 'S':
        args->has_step = true;
        return take_bytes(cli, "-S", value, 0, NUMBER_MAX, &bench->step_bytes);
    case KEY_SEED:
        args->has_seed = true;
        return vd_cli_parse_number(cli, "--seed", value, 0, VD_SIZE_MAX, &bench->seed);
    default:
        bench->is_write = true;
        return VD_CLI_GO;
    }
}

/* Options that would do nothing are mistakes of whoever gave them. */
static int check_together(struct vd_cli *cli, struct bench_args *args)
{
    struct vd_bench *bench = &args->bench;
    if (!bench->is_write && bench->flush_interval)
        return vd_cli_usage_error(cli, "--flush-interval is only available in write tests: add -w");
    if (!bench->is_write && args->has_pattern)
        return vd_cli_usage_error(cli, "--pattern is only available in write tests: add -w");
    if (!bench->drains && !bench->flush_interval)
        return vd_cli_usage_error(cli, "--no-drain is about flushes: add --flush-interval");
    if (bench->flush_interval && bench->flush_interval < bench->depth)
        return vd_cli_usage_error(
            cli, "Flush interval can't be smaller than depth: %" PRIu64 " is below %u of -d",
            bench->flush_interval, bench->depth);
    if (args->has_seed && !bench->is_random)
        return vd_cli_usage_error(cli, "--seed is about random places: add --random");
    if (cli->share && bench->is_write)
        return vd_cli_usage_error(cli,
                                  "-U: sharing with a writer is for reading only: not with -w");
    if (!args->has_step)
        bench->step_bytes = bench->buffer_bytes;
    if (bench->is_random && bench->step_bytes == 0)
        return vd_cli_usage_error(cli, "-S 0: there is one random place only");
    return VD_CLI_GO;
}

/* Do the requests fit the disk? */
static int check_disk(const char *name, const struct vd_bench *bench)
{
    struct vd_range first = vd_range(bench->offset, bench->buffer_bytes);
    if (vd_range_is_within(first, bench->size))
        return 0;
    vd_cli_error("%s: a request of %" PRIu64 " bytes at %" PRIu64 " (-s, -o) does not fit: the "
                 "disk has %" PRIu64 " bytes",
                 name, bench->buffer_bytes, bench->offset, bench->size);
    return 1;
}

static void print_start(const struct vd_bench *bench)
{
    printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %u in parallel ", bench->count,
           bench->is_write ? "write" : "read", bench->buffer_bytes, bench->depth);
    if (bench->is_random)
        printf("(at random from offset %" PRIu64 ", multiples of %" PRIu64 ", seed %" PRIu64 ")\n",
               bench->offset, bench->step_bytes, bench->seed);
    else
        printf("(starting at offset %" PRIu64 ", step size %" PRIu64 ")\n", bench->offset,
               bench->step_bytes);
    if (bench->flush_interval)
        printf("Sending flush every %" PRIu64 " %srequests\n", bench->flush_interval,
               bench->drains ? "" : "undrained ");
    fflush(stdout);
}

static int print_result(const struct vd_cli *cli, const struct vd_bench *bench,
                        const struct vd_bench_result *result)
{
    struct vd_json json;
    double seconds = result->seconds > 0 ? result->seconds : 1e-9;
    if (!cli->json) {
        if (!cli->quiet)
            printf("Run completed in %.3f seconds.\n", result->seconds);
        return 0;
    }
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", cli->operands[0]);
    vd_json_put_text(&json, json.root, "operation", bench->is_write ? "write" : "read");
    vd_json_put_u64(&json, json.root, "requests", bench->count);
    vd_json_put_u64(&json, json.root, "request-bytes", bench->buffer_bytes);
    vd_json_put_u64(&json, json.root, "depth", bench->depth);
    vd_json_put_u64(&json, json.root, "offset", bench->offset);
    vd_json_put_u64(&json, json.root, "step", bench->step_bytes);
    if (bench->is_random)
        vd_json_put_u64(&json, json.root, "seed", bench->seed);
    vd_json_put_u64(&json, json.root, "flushes", result->flushes);
    vd_json_put_real(&json, json.root, "seconds", result->seconds);
    vd_json_put_real(&json, json.root, "requests-per-second", (double)bench->count / seconds);
    vd_json_put_real(&json, json.root, "bytes-per-second",
                     (double)bench->count * (double)bench->buffer_bytes / seconds);
    return vd_json_print(&json);
}

static int bench_image(const struct vd_cli *cli, struct vd_bench *bench, struct vdisk_image *image)
{
    struct vd_bench_result result = {0};
    struct vdisk_error err = {0};
    bench->image = image;
    bench->size = vdisk_image_size(image);
    if (check_disk(cli->operands[0], bench) != 0)
        return 1;
    if (!cli->json && !cli->quiet)
        print_start(bench);
    if (vd_bench_run(bench, &result, &err) < 0)
        return vd_cli_fail(&err);
    return print_result(cli, bench, &result);
}

static uint64_t any_seed(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct bench_args args = {.bench = {.count = COUNT_DEFAULT,
                                        .depth = DEPTH_DEFAULT,
                                        .buffer_bytes = BUFFER_DEFAULT,
                                        .drains = true}};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = check_together(cli, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status != VD_CLI_GO)
        return status;
    if (args.bench.is_random && !args.has_seed)
        args.bench.seed = any_seed();
    uint32_t flags = cli->cache_flags | (args.bench.is_write ? VDISK_OPEN_WRITE : 0);
    struct vdisk_image *image = vd_cli_open(cli, cli->operands[0], cli->format, flags);
    return image ? vd_cli_close(image, bench_image(cli, &args.bench, image)) : 1;
}

const struct vd_cli_verb vd_cmd_bench = {
    .name = "bench",
    .synopsis = "[-c COUNT] [-d DEPTH] [-f FMT] [--flush-interval=N] [-i threads] [--no-drain] "
                "[-o OFFSET] [--pattern=BYTE] [-q] [--random [--seed=N]] [-s SIZE] [-S STEP] "
                "[-t CACHE] [-w] [-U] [--output=human|json] FILE",
    .help = "Measure how fast an image is read or written",
    .text = "With -w, what the image holds is overwritten.  At the end of the disk, sequential\n"
            "requests begin again at its start.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_SHARE | VD_CLI_CACHE | VD_CLI_OUTPUT |
              VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
