/* SPDX-License-Identifier: MIT */
/* vdisk snapshot: keep what an image holds today, under another name or within the image. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/createopt.h"
#include "cli/encryptopt.h"
#include "cli/optlist.h"
#include "cli/output.h"
#include "cli/snapshots.h"

enum {
    KEY_EXTERNAL = VD_CLI_KEY_VERB
};

static const struct vd_cli_option options[] = {
    {'l', NULL, NULL, "list the snapshots within FILE"},
    {'a', NULL, "SNAPSHOT", "make the disk again what it was in SNAPSHOT, an id or a name"},
    {'c', NULL, "NAME", "keep the disk of now as a snapshot within FILE"},
    {'d', NULL, "SNAPSHOT", "delete SNAPSHOT, a name, or an id that is no name"},
    {KEY_EXTERNAL, "external", "NAME", "give today's content NAME, and make FILE an overlay on it"},
    {'O', NULL, "FMT", "format of the overlay (default: that of FILE, or qed)"},
    {'o', NULL, "KEY=VALUE,...", "options of the overlay; -o help lists them"},
    {0},
};

struct snapshot_args {
    struct vdisk_snapshot_options options;
    struct vd_optlist list;
    struct vdisk_encrypt_options encrypt;
    int action; /* l, a, c, d or KEY_EXTERNAL; 0: none yet */
    const char *name;
};

static int take_action(struct vd_cli *cli, struct snapshot_args *args, int key, const char *value)
{
    if (args->action)
        return vd_cli_usage_error(cli, "Cannot mix '-l', '-a', '-c', '-d', '--external'");
    args->action = key;
    args->name = value;
    return VD_CLI_GO;
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct snapshot_args *args = opaque;
    struct vdisk_error err = {0};
    switch (key) {
    case 'O':
        if (!vd_cli_format_is_known(value))
            return 1;
        args->options.target_format = strcmp(value, "gow") == 0 ? "gow3" : value;
        break;
    case 'o':
        if (vd_optlist_parse(&args->list, value, &err) < 0)
            return vd_cli_fail(&err);
        break;
    default:
        return take_action(cli, args, key, value);
    }
    return VD_CLI_GO;
}

/* Takes the options of the overlay. */
static int take_create(struct vd_cli *cli, struct snapshot_args *args,
                       struct vdisk_create_options *create)
{
    static const char *const not_to_choose[] = {"size", "backing_file", "backing_fmt"};
    for (size_t i = 0; i < sizeof(not_to_choose) / sizeof(not_to_choose[0]); i++)
        if (vd_optlist_take(&args->list, not_to_choose[i])) {
            vd_cli_error("-o %s: the overlay is as large as FILE, and on what was FILE",
                         not_to_choose[i]);
            return 1;
        }
    if (args->list.entry_count && !args->options.target_format) {
        vd_cli_error("-o: name the format of the overlay too (-O)");
        return 1;
    }
    if (!args->list.entry_count)
        return VD_CLI_GO;
    args->options.create = create;
    int status = vd_encrypt_options_take(cli, &args->list, args->options.target_format,
                                         &args->encrypt, create);
    if (status != VD_CLI_GO)
        return status;
    return vd_create_options_take(&args->list, args->options.target_format, NULL, true, create);
}

static int print_result(const struct vd_cli *cli, const struct snapshot_args *args,
                        const struct vdisk_snapshot_result *result)
{
    const char *name = args->options.name, *snapshot = args->options.snapshot;
    if (cli->quiet)
        return 0;
    if (!cli->json) {
        printf("'%s' (%s) is now an overlay on '%s' (%s).\n", name, result->format, snapshot,
               result->backing_format);
        return 0;
    }
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", name);
    vd_json_put_text(&json, json.root, "format", result->format);
    vd_json_put_name(&json, json.root, "backing-filename", snapshot);
    vd_json_put_text(&json, json.root, "backing-filename-format", result->backing_format);
    vd_json_put_u64(&json, json.root, "virtual-size", result->virtual_bytes);
    vd_json_put_bool(&json, json.root, "resumed", (result->flags & VDISK_SNAPSHOT_RESUMED) != 0);
    return vd_json_print(&json);
}

static int snapshot(struct vd_cli *cli, struct snapshot_args *args)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    struct vdisk_snapshot_options *o = &args->options;
    int status = take_create(cli, args, &create);
    if (status != VD_CLI_GO)
        return status;
    o->name = cli->operands[0];
    o->snapshot = args->name;
    o->format = cli->format;
    o->network = &cli->network;
    o->passphrases = &cli->keys.list;
    o->gate = &cli->gate;
    struct vdisk_snapshot_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    if (vdisk_snapshot_external(o, &result, &err) < 0)
        return vd_cli_fail(&err);
    return print_result(cli, args, &result);
}

static int check_args(struct vd_cli *cli, const struct snapshot_args *args)
{
    if (!args->action)
        return vd_cli_usage_error(cli, "one of -l, -a, -c, -d and --external is wanted");
    if (args->action != KEY_EXTERNAL && (args->options.target_format || args->list.entry_count))
        return vd_cli_usage_error(cli, "-O, -o: are for the overlay that --external makes");
    if (args->action != 'l' && cli->share)
        return vd_cli_usage_error(cli, "-U: is for -l, which changes nothing");
    return VD_CLI_GO;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct snapshot_args args = {.options = {.struct_bytes = sizeof(args.options)}};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO && args.list.wants_help) {
        vd_create_options_print(args.options.target_format ? args.options.target_format : "qed");
        status = 0;
    }
    if (status == VD_CLI_GO)
        status = check_args(cli, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status == VD_CLI_GO)
        status = args.action == KEY_EXTERNAL ? snapshot(cli, &args)
                                             : vd_cli_snapshot_action(cli, args.action, args.name);
    vd_optlist_free(&args.list);
    return status;
}

const struct vd_cli_verb vd_cmd_snapshot = {
    .name = "snapshot",
    .synopsis = "[-f FMT] [-U] [-q] [--output=human|json] -l | -a SNAPSHOT | -c NAME | -d SNAPSHOT "
                "| --external NAME [-O FMT [-o OPTIONS]] FILE",
    .help = "Keep what an image holds today, within it or under another name",
    .text =
        "Snapshots within an image are for qcow2; --external is for every format.  Its NAME is\n"
        "on the file system of FILE; without a slash it is in the directory of FILE.  Nothing\n"
        "is copied, and at any instant FILE is the same disk.  A run that was killed is gone on\n"
        "with by the same command.\n",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_QUIET | VD_CLI_OUTPUT | VD_CLI_NETWORK |
              VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
