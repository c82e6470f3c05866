/* SPDX-License-Identifier: MIT */
/* vdisk restore: write a disk as it was at a point of a repository. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/backupopt.h"
#include "cli/createopt.h"
#include "cli/encryptopt.h"
#include "cli/optlist.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/workopt.h"

enum {
    KEY_TARGET_IS_ZERO = VD_CLI_KEY_VERB,
    KEY_LEVEL,
    KEY_LIMIT_RATE,
    KEY_KEY_FILE,
};

static const struct vd_cli_option options[] = {
    {'O', NULL, "FMT", "format of the target (default raw; with -n, what it looks like)"},
    {'o', NULL, "KEY=VALUE,...", "options of the new image; -o help lists them"},
    {'n', NULL, NULL, "do not create the target, write into the image that is there"},
    {KEY_TARGET_IS_ZERO, "target-is-zero", NULL, "with -n: the target reads as zero already"},
    {'c', NULL, NULL, "compress the clusters of the target (qcow2)"},
    {KEY_LEVEL, "compression-level", "N", "with -c: 1, fast, to 9, small (default: a fast one)"},
    {'m', NULL, "N", "pieces copied at once (default 2 for each processor, at most 8)"},
    {KEY_LIMIT_RATE, "limit-rate", "RATE", "copy at most RATE bytes of data a second"},
    VD_BACKUP_KEY_FILE(KEY_KEY_FILE),
    {0},
};

struct restore_args {
    struct vdisk_restore_options options;
    struct vdisk_create_options create;
    struct vdisk_encrypt_options encrypt;
    struct vd_optlist list;
    struct vd_backup_key key;
    struct vd_backup_place place;
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct restore_args *args = opaque;
    struct vdisk_restore_options *o = &args->options;
    struct vdisk_error err = {0};
    switch (key) {
    case 'O':
        o->target_format = value;
        return vd_cli_format_is_known(value) ? VD_CLI_GO : 1;
    case 'o':
        return vd_optlist_parse(&args->list, value, &err) < 0 ? vd_cli_fail(&err) : VD_CLI_GO;
    case 'n':
        o->flags |= VDISK_CONVERT_NO_CREATE;
        break;
    case KEY_TARGET_IS_ZERO:
        o->flags |= VDISK_CONVERT_TARGET_IS_ZERO;
        break;
    case 'c':
        o->flags |= VDISK_CONVERT_COMPRESS;
        break;
    case KEY_LEVEL:
        return vd_backup_take_level(cli, value, &o->compression_level);
    case 'm':
        return vd_cli_take_workers(cli, value, &o->workers);
    case KEY_LIMIT_RATE:
        return vd_backup_take_rate(cli, value, &o->rate_bytes);
    default:
        return vd_backup_key_take(value, &args->key);
    }
    return VD_CLI_GO;
}

static int check_args(struct vd_cli *cli, const struct restore_args *args)
{
    uint32_t flags = args->options.flags;
    if ((flags & VDISK_CONVERT_TARGET_IS_ZERO) && !(flags & VDISK_CONVERT_NO_CREATE))
        return vd_cli_usage_error(cli, "--target-is-zero requires use of -n flag");
    if ((flags & VDISK_CONVERT_NO_CREATE) && args->list.entry_count)
        return vd_cli_usage_error(cli, "-o: has no meaning with -n, nothing is created");
    if (args->options.compression_level && !(flags & VDISK_CONVERT_COMPRESS))
        return vd_cli_usage_error(cli, "--compression-level: has a meaning with -c only");
    return VD_CLI_GO;
}

/* The new image is the disk of the point, and lies on nothing. */
static int take_create(struct vd_cli *cli, struct restore_args *args)
{
    static const char *const not_to_choose[] = {"size", "backing_file", "backing_fmt"};
    struct vdisk_restore_options *o = &args->options;
    if (o->flags & VDISK_CONVERT_NO_CREATE)
        return VD_CLI_GO;
    if (!o->target_format)
        o->target_format = "raw";
    for (size_t i = 0; i < sizeof(not_to_choose) / sizeof(not_to_choose[0]); i++)
        if (vd_optlist_take(&args->list, not_to_choose[i])) {
            vd_cli_error("-o %s: the target is the disk as it was, and stands alone",
                         not_to_choose[i]);
            return 1;
        }
    int status =
        vd_encrypt_options_take(cli, &args->list, o->target_format, &args->encrypt, &args->create);
    if (status == VD_CLI_GO)
        status = vd_create_options_take(&args->list, o->target_format, NULL, true, &args->create);
    args->create.network = &cli->network;
    args->create.passphrases = &cli->keys.list;
    args->create.gate = &cli->gate;
    o->create = &args->create;
    return status;
}

static int print_result(const struct vd_cli *cli, const struct restore_args *args,
                        const struct vdisk_point_info *point,
                        const struct vdisk_convert_result *result)
{
    char time[VD_BACKUP_TIME_BYTES];
    const char *target = args->options.target;
    if (!cli->json && !cli->quiet)
        printf("point %" PRIu64 ", of %s UTC, restored to '%s'\n", point->number,
               vd_backup_time_text(point->created, false, time), target);
    if (!cli->json)
        return 0;
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_u64(&json, json.root, "point", point->number);
    vd_json_put_text(&json, json.root, "time", vd_backup_time_text(point->created, true, time));
    vd_json_put_name(&json, json.root, "filename", target);
    if (args->options.target_format)
        vd_json_put_text(&json, json.root, "format", args->options.target_format);
    vd_json_put_u64(&json, json.root, "virtual-size", result->virtual_bytes);
    vd_json_put_u64(&json, json.root, "data-bytes", result->data_bytes);
    vd_json_put_u64(&json, json.root, "compressed-bytes", result->compressed_bytes);
    return vd_json_print(&json);
}

static int restore_point(struct vd_cli *cli, const struct restore_args *args,
                         struct vdisk_repository *repository)
{
    struct vdisk_convert_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_point_info point = {.struct_bytes = sizeof(point)};
    struct vdisk_error err = {0};
    size_t index;
    int ret = vdisk_repository_find(repository, args->place.point, &index, &err);
    if (ret == 0)
        ret = vdisk_repository_point(repository, index, &point, &err);
    if (ret < 0)
        return vd_cli_fail(&err);
    vd_cli_progress_begin(cli);
    ret = vdisk_repository_restore(repository, index, &args->options, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_cli_fail(&err) : print_result(cli, args, &point, &result);
}

static int restore(struct vd_cli *cli, struct restore_args *args)
{
    struct vdisk_restore_options *o = &args->options;
    int status = take_create(cli, args);
    if (status == VD_CLI_GO)
        status = vd_backup_place_take(cli->operands[0], &args->place);
    if (status != VD_CLI_GO)
        return status;
    if (o->target_format && strcmp(o->target_format, "gow") == 0)
        o->target_format = "gow3";
    o->target = cli->operands[1];
    o->target_flags = cli->cache_flags;
    o->network = &cli->network;
    o->passphrases = &cli->keys.list;
    o->gate = &cli->gate;
    o->progress = vd_cli_progress;
    o->opaque = cli;
    struct vdisk_repository *repository = vd_backup_open(args->place.name, &args->key, 0);
    if (!repository)
        return 1;
    status = restore_point(cli, args, repository);
    vdisk_repository_close(repository);
    return status;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct restore_args args = {.options = {.struct_bytes = sizeof(args.options)},
                                .create = {.struct_bytes = sizeof(args.create)}};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO && args.list.wants_help) {
        vd_create_options_print(args.options.target_format ? args.options.target_format : "raw");
        status = 0;
    }
    if (status == VD_CLI_GO)
        status = check_args(cli, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 2, 2, "REPOSITORY[@POINT] and TARGET");
    if (status == VD_CLI_GO)
        status = restore(cli, &args);
    vd_backup_place_free(&args.place);
    vd_backup_key_free(&args.key);
    vd_optlist_free(&args.list);
    return status;
}

const struct vd_cli_verb vd_cmd_restore = {
    .name = "restore",
    .synopsis = "[-O FMT] [-o OPTIONS] [-n [--target-is-zero]] [-c [--compression-level=N]] [-m N] "
                "[--limit-rate=RATE] [--key-file=FILE] [-t CACHE] [-p] [-q] "
                "[--output=human|json] REPOSITORY[@POINT] TARGET",
    .help = "Write a disk as it was when it was backed up",
    .text =
        "POINT is a number of 'vdisk backup list', or a time such as 2026-11-22T01:30:00Z, or a\n"
        "day, in UTC: the last point made until then; or latest, as is none.  Nothing is written\n"
        "that is not what was backed up: damage is an error.  A target that is a file gets its\n"
        "name when it is complete, as with convert.\n",
    .common = VD_CLI_QUIET | VD_CLI_CACHE | VD_CLI_PROGRESS | VD_CLI_OUTPUT | VD_CLI_NETWORK |
              VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
