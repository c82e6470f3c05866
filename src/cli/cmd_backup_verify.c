/* SPDX-License-Identifier: MIT */
/* vdisk backup verify: is every byte of a repository as it was written? */
#include <inttypes.h>
#include <stdio.h>

#include "cli/backupopt.h"
#include "cli/backups.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/workopt.h"

#define VERIFY_DAMAGED 2 /* as check: the exit status when something was found */

enum {
    KEY_LIMIT_RATE = VD_CLI_KEY_VERB,
    KEY_KEY_FILE,
};

static const struct vd_cli_option options[] = {
    {'m', NULL, "N", "pieces read at once (default 2 for each processor, at most 8)"},
    {KEY_LIMIT_RATE, "limit-rate", "RATE", "read at most RATE bytes a second"},
    VD_BACKUP_KEY_FILE(KEY_KEY_FILE),
    {0},
};

struct verify_args {
    struct vdisk_verify_options options;
    struct vd_backup_key key;
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct verify_args *args = opaque;
    switch (key) {
    case 'm':
        return vd_cli_take_workers(cli, value, &args->options.workers);
    case KEY_LIMIT_RATE:
        return vd_backup_take_rate(cli, value, &args->options.rate_bytes);
    default:
        return vd_backup_key_take(value, &args->key);
    }
}

/* What was found goes to stderr, so that stdout holds nothing but the result. */
static void report(void *opaque, const char *message)
{
    (void)opaque;
    vd_cli_error("%s", message);
}

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static void print_human(const struct vdisk_verify_result *result)
{
    char bytes[VD_SIZE_TEXT_BYTES];
    printf("%" PRIu64 " point%s, %" PRIu64 " file%s, %s: ", result->points, plural(result->points),
           result->files, plural(result->files), vd_size_text(result->bytes, bytes));
    if (result->damages == 0 && result->damaged_points == 0)
        printf("no damage\n");
    else
        printf("%" PRIu64 " damage%s, %" PRIu64 " point%s can not be restored as %s\n",
               result->damages, plural(result->damages), result->damaged_points,
               plural(result->damaged_points),
               result->damaged_points == 1 ? "it was" : "they were");
}

static int print_json(const struct vdisk_verify_result *result)
{
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_u64(&json, json.root, "points", result->points);
    vd_json_put_u64(&json, json.root, "damaged-points", result->damaged_points);
    vd_json_put_u64(&json, json.root, "damages", result->damages);
    vd_json_put_u64(&json, json.root, "files", result->files);
    vd_json_put_u64(&json, json.root, "bytes", result->bytes);
    return vd_json_print(&json);
}

static int verify(struct vd_cli *cli, struct verify_args *args, struct vdisk_repository *repository)
{
    struct vdisk_verify_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    args->options.progress = vd_cli_progress;
    args->options.report = report;
    args->options.opaque = cli;
    vd_cli_progress_begin(cli);
    int ret = vdisk_repository_verify(repository, &args->options, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    if (ret < 0)
        return vd_cli_fail(&err);
    if (cli->json && print_json(&result) != 0)
        return 1;
    if (!cli->json && !cli->quiet)
        print_human(&result);
    return result.damages || result.damaged_points ? VERIFY_DAMAGED : 0;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct verify_args args = {.options = {.struct_bytes = sizeof(args.options)}};
    struct vd_backup_place place = {0};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "REPOSITORY[@POINT]");
    if (status == VD_CLI_GO)
        status = vd_backup_place_take(cli->operands[0], &place);
    if (status == VD_CLI_GO) {
        struct vdisk_repository *repository = vd_backup_open(place.name, &args.key, 0);
        args.options.point = place.point;
        status = repository ? verify(cli, &args, repository) : 1;
        vdisk_repository_close(repository);
    }
    vd_backup_place_free(&place);
    vd_backup_key_free(&args.key);
    return status;
}

const struct vd_cli_verb vd_cmd_backup_verify = {
    .name = "backup verify",
    .synopsis = "[-m N] [--limit-rate=RATE] [--key-file=FILE] [-p] [-q] [--output=human|json] "
                "REPOSITORY[@POINT]",
    .help = "Compare every byte of a repository with what was written",
    .text = "With a POINT that one, and those that it lies on.  Each damage is a line on standard\n"
            "error, with file and place.  Exit status: 0 no damage, 2 damages, 1 it could not be\n"
            "verified.\n",
    .common = VD_CLI_QUIET | VD_CLI_PROGRESS | VD_CLI_OUTPUT,
    .options = options,
    .run = run,
};
