/* SPDX-License-Identifier: MIT */
/* vdisk backup: store a disk as it is now as a new point of a repository. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/backupopt.h"
#include "cli/backups.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/workopt.h"
#include "util/mem.h"

enum {
    KEY_FULL = VD_CLI_KEY_VERB,
    KEY_INCREMENTAL,
    KEY_DIFFERENTIAL,
    KEY_COMPARE,
    KEY_LEVEL,
    KEY_BITMAP,
    KEY_NEXT_BITMAP,
    KEY_UNTRACKED,
    KEY_RESTART,
    KEY_IN_CLEAR,
    KEY_MOVED,
    KEY_LIMIT_RATE,
    KEY_KEY_FILE,
};

static const struct vd_cli_option options[] = {
    {KEY_FULL, "full", NULL, "all of the disk (default for the first point)"},
    {KEY_INCREMENTAL, "incremental", NULL, "what has changed since the last point (default)"},
    {KEY_DIFFERENTIAL, "differential", NULL, "what has changed since the last full point"},
    {KEY_COMPARE, "compare", NULL, "read all of the disk, store what differs: needs no record"},
    {'O', NULL, "FMT", "format of what is stored: qcow2 (default) or qed"},
    {'c', NULL, NULL, "compress what is stored (qcow2)"},
    {KEY_LEVEL, "compression-level", "N", "with -c: 1, fast, to 9, small (default: a fast one)"},
    {KEY_BITMAP, "bitmap", "NAME",
     "begin of the names of qcow2 bitmaps (default vdisk); NBD: ask it"},
    {KEY_NEXT_BITMAP, "next-bitmap", "NAME", "NBD: the bitmap that records for the next backup"},
    {KEY_UNTRACKED, "untracked", NULL,
     "leave the source as it is: record nothing for the next one"},
    {KEY_RESTART, "restart", NULL, "forget an unfinished backup, do not go on with it"},
    {KEY_IN_CLEAR, "in-clear", NULL, "store an encrypted disk, although the repository is not"},
    {KEY_MOVED, "moved", NULL, "it is the same disk, though its name is another one"},
    {'m', NULL, "N", "pieces copied at once (default 2 for each processor, at most 8)"},
    {KEY_LIMIT_RATE, "limit-rate", "RATE", "copy at most RATE bytes of data a second"},
    VD_BACKUP_KEY_FILE(KEY_KEY_FILE),
    {0},
};

struct backup_args {
    struct vdisk_backup_options options;
    struct vd_backup_key key;
};

static int take_name(struct vd_cli *cli, const char *option, const char *value, const char **name)
{
    *name = value;
    return *value ? VD_CLI_GO : vd_cli_usage_error(cli, "%s: a name is not empty", option);
}

static int take_format(struct vd_cli *cli, const char *value, struct vdisk_backup_options *o)
{
    o->format = value;
    if (strcmp(value, "qcow2") == 0 || strcmp(value, "qed") == 0)
        return VD_CLI_GO;
    return vd_cli_usage_error(cli, "-O: '%s' can not be stored: the formats are qcow2 and qed",
                              value);
}

/* The options that say how much, and how it is known what. */
static int take_flag(struct vd_cli *cli, struct vdisk_backup_options *o, int key)
{
    static const struct {
        int key;
        uint32_t flag;
    } flags[] = {
        {KEY_FULL, VDISK_BACKUP_FULL},
        {KEY_INCREMENTAL, VDISK_BACKUP_INCREMENTAL},
        {KEY_DIFFERENTIAL, VDISK_BACKUP_DIFFERENTIAL},
        {KEY_COMPARE, VDISK_BACKUP_COMPARE},
        {'c', VDISK_BACKUP_COMPRESS},
        {KEY_UNTRACKED, VDISK_BACKUP_UNTRACKED},
        {KEY_RESTART, VDISK_BACKUP_RESTART},
        {KEY_IN_CLEAR, VDISK_BACKUP_IN_CLEAR},
        {KEY_MOVED, VDISK_BACKUP_MOVED},
    };
    const uint32_t kinds = VDISK_BACKUP_FULL | VDISK_BACKUP_INCREMENTAL | VDISK_BACKUP_DIFFERENTIAL;
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        if (flags[i].key == key)
            o->flags |= flags[i].flag;
    uint32_t chosen = o->flags & kinds;
    if (chosen & (chosen - 1))
        return vd_cli_usage_error(cli, "--full, --incremental and --differential: choose one");
    return VD_CLI_GO;
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct backup_args *args = opaque;
    struct vdisk_backup_options *o = &args->options;
    switch (key) {
    case 'O':
        return take_format(cli, value, o);
    case KEY_LEVEL:
        return vd_backup_take_level(cli, value, &o->compression_level);
    case KEY_BITMAP:
        return take_name(cli, "--bitmap", value, &o->bitmap);
    case KEY_NEXT_BITMAP:
        return take_name(cli, "--next-bitmap", value, &o->next_bitmap);
    case 'm':
        return vd_cli_take_workers(cli, value, &o->workers);
    case KEY_LIMIT_RATE:
        return vd_backup_take_rate(cli, value, &o->rate_bytes);
    case KEY_KEY_FILE:
        return vd_backup_key_take(value, &args->key);
    default:
        return take_flag(cli, o, key);
    }
}

static int check_args(struct vd_cli *cli, const struct vdisk_backup_options *o)
{
    const char *word = cli->operand_count ? cli->operands[0] : NULL;
    if (vd_cli_find_inner(cli->verb, word))
        return vd_cli_usage_error(cli,
                                  "'%s' goes before all options: vdisk backup %s ...; a SOURCE of "
                                  "that name is ./%s",
                                  word, word, word);
    if ((o->flags & VDISK_BACKUP_COMPARE) && (o->flags & VDISK_BACKUP_FULL))
        return vd_cli_usage_error(cli, "--compare: a full backup is compared with nothing");
    if ((o->flags & VDISK_BACKUP_COMPRESS) && o->format && strcmp(o->format, "qed") == 0)
        return vd_cli_usage_error(cli, "-c: qed has no compressed clusters");
    if (o->compression_level && !(o->flags & VDISK_BACKUP_COMPRESS))
        return vd_cli_usage_error(cli, "--compression-level: has a meaning with -c only");
    return VD_CLI_GO;
}

/* --- what is printed ----------------------------------------------------------------------------
 */

static const char *extension(const struct vdisk_backup_options *o)
{
    return o->format ? o->format : "qcow2";
}

static int print_json(const struct vdisk_backup_options *o,
                      const struct vdisk_backup_result *result)
{
    char image[64];
    struct vd_json json;
    snprintf(image, sizeof(image), "%06" PRIu64 ".%s", result->point, extension(o));
    vd_json_begin_object(&json);
    json_t *root = json.root;
    vd_json_put_u64(&json, root, "point", result->point);
    vd_json_put_text(&json, root, "kind", vd_backup_kind_name(result->kind));
    vd_json_put_u64(&json, root, "parent", result->parent);
    vd_json_put_text(&json, root, "tracker", vd_backup_tracker_name(result->tracker));
    vd_json_put_u64(&json, root, "virtual-size", result->virtual_bytes);
    vd_json_put_u64(&json, root, "changed-bytes", result->changed_bytes);
    vd_json_put_u64(&json, root, "read-bytes", result->read_bytes);
    vd_json_put_u64(&json, root, "stored-bytes", result->stored_bytes);
    vd_json_put_bool(&json, root, "resumed", result->is_resumed);
    vd_json_put_text(&json, root, "image", image);
    return vd_json_print(&json);
}

static void print_human(const struct vdisk_backup_result *result)
{
    static const char *const known_by[] = {
        [VDISK_TRACKER_COMPARE] = ", by comparing",
        [VDISK_TRACKER_BITMAP] = ", by a bitmap",
        [VDISK_TRACKER_VERSIONS] = ", by versions",
        [VDISK_TRACKER_OVERLAY] = ", by what the overlay has",
        [VDISK_TRACKER_NBD] = ", by a bitmap of the server",
    };
    char looked[VD_SIZE_TEXT_BYTES], size[VD_SIZE_TEXT_BYTES];
    char read[VD_SIZE_TEXT_BYTES], stored[VD_SIZE_TEXT_BYTES], on[32] = "";
    size_t how = (size_t)result->tracker;
    bool is_known = result->parent && how < sizeof(known_by) / sizeof(known_by[0]) && known_by[how];
    if (result->parent)
        snprintf(on, sizeof(on), " on %" PRIu64, result->parent);
    printf("point %" PRIu64 ": %s%s%s%s: looked at %s of %s, read %s, stored %s\n", result->point,
           vd_backup_kind_name(result->kind), on, is_known ? known_by[how] : "",
           result->is_resumed ? ", resumed" : "", vd_size_text(result->changed_bytes, looked),
           vd_size_text(result->virtual_bytes, size), vd_size_text(result->read_bytes, read),
           vd_size_text(result->stored_bytes, stored));
}

static void warn(void *opaque, const char *message)
{
    (void)opaque;
    vd_cli_warning("%s", message);
}

/* Whoever has interrupted it wants to know whether all of it was for nothing. */
static void tell_what_is_left(const char *repository)
{
    CLEANUP_FREE char *partial = NULL;
    if (asprintf(&partial, "%s/partial.json", repository) < 0)
        partial = NULL;
    else if (access(partial, F_OK) == 0)
        vd_cli_error("what has been copied is kept in '%s': the same command goes on from there",
                     repository);
}

/* --- the backup ---------------------------------------------------------------------------------
 */

static int backup(struct vd_cli *cli, struct backup_args *args)
{
    struct vdisk_backup_options *o = &args->options;
    o->source = cli->operands[0];
    o->repository = cli->operands[1];
    o->source_format = cli->format;
    /* Of the modes, what is about reading: bitmaps are durable in any. */
    o->source_flags =
        (cli->source_cache_flags & VDISK_OPEN_DIRECT) | (cli->share ? VDISK_OPEN_SHARE : 0);
    o->key = args->key.bytes;
    o->key_bytes = args->key.length;
    o->network = &cli->network;
    o->passphrases = &cli->keys.list;
    o->gate = &cli->gate;
    o->progress = vd_cli_progress;
    o->report = warn;
    o->opaque = cli;

    struct vdisk_backup_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_backup_allow_files();
    vd_cli_progress_begin(cli);
    int ret = vdisk_backup(o, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    if (ret < 0) {
        int status = vd_cli_fail(&err);
        if (ret == -ECANCELED)
            tell_what_is_left(o->repository);
        return status;
    }
    if (cli->json)
        return print_json(o, &result);
    if (!cli->quiet)
        print_human(&result);
    return 0;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct backup_args args = {.options = {.struct_bytes = sizeof(args.options)}};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = check_args(cli, &args.options);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 2, 2, "SOURCE and REPOSITORY");
    if (status == VD_CLI_GO)
        status = backup(cli, &args);
    vd_backup_key_free(&args.key);
    return status;
}

static const struct vd_cli_verb *const inner[] = {
    &vd_cmd_backup_list, &vd_cmd_backup_merge, &vd_cmd_backup_prune, &vd_cmd_backup_verify, NULL,
};

const struct vd_cli_verb vd_cmd_backup = {
    .name = "backup",
    .synopsis = "[--full | --incremental | --differential] [--compare] [-f FMT] [-O FMT] [-c "
                "[--compression-level=N]] [--bitmap=NAME] [--next-bitmap=NAME] [--untracked] "
                "[--restart] [--in-clear] [--moved] [-m N] [--limit-rate=RATE] [--key-file=FILE] "
                "[-T CACHE] [-U] [-p] [-q] [--output=human|json] SOURCE REPOSITORY",
    .help = "Store a disk as it is now in a repository of backups",
    .text =
        "REPOSITORY is a directory, made if it is not there, of the backups of one disk.  Each is\n"
        "an image that other programs can read.  What is read of SOURCE is what has changed since\n"
        "the last backup.  One that was interrupted is no point; the same command goes on with\n"
        "it.  A SOURCE that is called as one of the verbs above is given as ./SOURCE.\n",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_QUIET | VD_CLI_SOURCE_CACHE | VD_CLI_PROGRESS |
              VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .inner = inner,
    .run = run,
};
