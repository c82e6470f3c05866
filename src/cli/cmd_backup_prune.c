/* SPDX-License-Identifier: MIT */
/* vdisk backup prune, and merge: fewer points, each of which reads as before. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/backupopt.h"
#include "cli/backups.h"
#include "cli/output.h"
#include "cli/progress.h"

#define KEEP_MAX 1000000u

enum {
    KEY_KEEP_LAST = VD_CLI_KEY_VERB,
    KEY_KEEP_DAILY,
    KEY_KEEP_WEEKLY,
    KEY_KEY_FILE,
};

static const struct vd_cli_option prune_options[] = {
    {KEY_KEEP_LAST, "keep-last", "N", "keep the last N points"},
    {KEY_KEEP_DAILY, "keep-daily", "N", "keep the last point of each of the last N days with one"},
    {KEY_KEEP_WEEKLY, "keep-weekly", "N", "the same with weeks"},
    {'n', "dry-run", NULL, "change nothing, tell what would go"},
    VD_BACKUP_KEY_FILE(KEY_KEY_FILE),
    {0},
};

static const struct vd_cli_option merge_options[] = {
    {'n', "dry-run", NULL, "change nothing, tell what would go"},
    VD_BACKUP_KEY_FILE(KEY_KEY_FILE),
    {0},
};

struct prune_args {
    struct vdisk_prune_options options;
    struct vd_backup_key key;
    struct vd_json json; /* what is printed, for programs or for people */
    json_t *messages;    /* in it: what the library told */
};

static int take_keep(struct vd_cli *cli, const char *option, const char *value, uint32_t *keep)
{
    uint64_t number = 0;
    int status = vd_cli_parse_number(cli, option, value, 1, KEEP_MAX, &number);
    *keep = (uint32_t)number;
    return status;
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct prune_args *args = opaque;
    switch (key) {
    case KEY_KEEP_LAST:
        return take_keep(cli, "--keep-last", value, &args->options.keep_last);
    case KEY_KEEP_DAILY:
        return take_keep(cli, "--keep-daily", value, &args->options.keep_daily);
    case KEY_KEEP_WEEKLY:
        return take_keep(cli, "--keep-weekly", value, &args->options.keep_weekly);
    case 'n':
        args->options.flags |= VDISK_PRUNE_DRY_RUN;
        return VD_CLI_GO;
    default:
        return vd_backup_key_take(value, &args->key);
    }
}

/* --- what is printed ----------------------------------------------------------------------------
 */

struct told {
    struct vd_cli *cli;
    struct prune_args *args;
};

static int progress(void *opaque, const struct vdisk_progress *now)
{
    const struct told *told = opaque;
    return vd_cli_progress(told->cli, now);
}

/* Kept until the end: not in the middle of a bar. */
static void report(void *opaque, const char *message)
{
    const struct told *told = opaque;
    vd_json_append_text(&told->args->json, told->args->messages, message);
}

static void print_messages(const struct prune_args *args)
{
    size_t index;
    json_t *message;
    json_array_foreach(args->messages, index, message)
    {
        vd_cli_print_line(json_string_value(message));
        printf("\n");
    }
}

static void print_human(const struct prune_args *args, const struct vdisk_prune_result *result)
{
    char freed[VD_SIZE_TEXT_BYTES];
    bool is_dry = (args->options.flags & VDISK_PRUNE_DRY_RUN) != 0;
    bool is_larger = result->freed_bytes < 0;
    uint64_t bytes = is_larger ? -(uint64_t)result->freed_bytes : (uint64_t)result->freed_bytes;
    print_messages(args);
    printf("%" PRIu64 " point%s %s", result->removed_points, result->removed_points == 1 ? "" : "s",
           is_dry ? "would go" : "removed");
    if (is_dry)
        printf("\n");
    else
        printf(", %s %s\n", vd_size_text(bytes, freed), is_larger ? "more" : "freed");
}

static int print_result(const struct vd_cli *cli, struct prune_args *args,
                        const struct vdisk_prune_result *result)
{
    struct vd_json *json = &args->json;
    if (!cli->json && !cli->quiet)
        print_human(args, result);
    if (!cli->json)
        return 0;
    vd_json_put_bool(json, json->root, "dry-run", (args->options.flags & VDISK_PRUNE_DRY_RUN) != 0);
    vd_json_put_u64(json, json->root, "removed-points", result->removed_points);
    vd_json_put_u64(json, json->root, "moved-bytes", result->moved_bytes);
    vd_json_put_i64(json, json->root, "freed-bytes", result->freed_bytes);
    return vd_json_print(json);
}

/* --- the work -----------------------------------------------------------------------------------
 */

/* With operands FIRST and LAST a merge. */
static int work(const struct vd_cli *cli, struct vdisk_repository *repository,
                const struct vdisk_prune_options *options, struct vdisk_prune_result *result,
                struct vdisk_error *err)
{
    size_t first, last;
    if (cli->operand_count == 1)
        return vdisk_repository_prune(repository, options, result, err);
    int ret = vdisk_repository_find(repository, cli->operands[1], &first, err);
    if (ret == 0)
        ret = vdisk_repository_find(repository, cli->operands[2], &last, err);
    return ret == 0 ? vdisk_repository_merge(repository, first, last, options, result, err) : ret;
}

static int change(struct vd_cli *cli, struct prune_args *args)
{
    struct vdisk_repository *repository =
        vd_backup_open(cli->operands[0], &args->key, VDISK_REPOSITORY_WRITE);
    if (!repository)
        return 1;
    struct told told = {cli, args};
    struct vdisk_prune_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    args->options.progress = progress;
    args->options.report = report;
    args->options.opaque = &told;
    vd_json_begin_object(&args->json);
    args->messages = vd_json_put_array(&args->json, args->json.root, "messages");
    vd_cli_progress_begin(cli);
    int ret = work(cli, repository, &args->options, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    int status;
    if (ret == 0) {
        status = print_result(cli, args, &result);
    } else {
        if (!cli->json && !cli->quiet)
            print_messages(args); /* what is gone is gone */
        status = vd_cli_fail(&err);
    }
    vd_json_drop(&args->json);
    vdisk_repository_close(repository);
    return status;
}

static int run_prune(struct vd_cli *cli, int argc, char **argv)
{
    struct prune_args args = {.options = {.struct_bytes = sizeof(args.options)}};
    struct vdisk_prune_options *o = &args.options;
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO && !o->keep_last && !o->keep_daily && !o->keep_weekly)
        status = vd_cli_usage_error(cli, "say what to keep: --keep-last, --keep-daily, "
                                         "--keep-weekly");
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "REPOSITORY");
    if (status == VD_CLI_GO)
        status = change(cli, &args);
    vd_backup_key_free(&args.key);
    return status;
}

static int run_merge(struct vd_cli *cli, int argc, char **argv)
{
    struct prune_args args = {.options = {.struct_bytes = sizeof(args.options)}};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 3, 3, "REPOSITORY, FIRST and LAST");
    if (status == VD_CLI_GO)
        status = change(cli, &args);
    vd_backup_key_free(&args.key);
    return status;
}

const struct vd_cli_verb vd_cmd_backup_prune = {
    .name = "backup prune",
    .synopsis = "[--keep-last=N] [--keep-daily=N] [--keep-weekly=N] [-n] [--key-file=FILE] [-p] "
                "[-q] [--output=human|json] REPOSITORY",
    .help = "Remove the points that need not be kept",
    .text =
        "A point that one of the options keeps is kept, and the last one in any case.  What\n"
        "points that are kept need of those that go, they take over.  Days and weeks are those\n"
        "of UTC; a day or week without a point does not count.\n",
    .common = VD_CLI_QUIET | VD_CLI_PROGRESS | VD_CLI_OUTPUT,
    .options = prune_options,
    .run = run_prune,
};

const struct vd_cli_verb vd_cmd_backup_merge = {
    .name = "backup merge",
    .synopsis = "[-n] [--key-file=FILE] [-p] [-q] [--output=human|json] REPOSITORY FIRST LAST",
    .help = "Make one point of several that lie one on the other",
    .text = "The points from FIRST up to, but not including, LAST go; LAST takes over what they\n"
            "have, and reads as before.\n",
    .common = VD_CLI_QUIET | VD_CLI_PROGRESS | VD_CLI_OUTPUT,
    .options = merge_options,
    .run = run_merge,
};
