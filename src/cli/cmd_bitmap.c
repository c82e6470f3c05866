/* SPDX-License-Identifier: MIT */
/* vdisk bitmap: the dirty bitmaps of an image. */
#include <stdio.h>
#include <string.h>

#include "cli/bitmaps.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/workopt.h"

/* The most actions of one command: nobody types more. */
#define ACTIONS_MAX 64

enum {
    KEY_ADD = VD_CLI_KEY_VERB,
    KEY_REMOVE,
    KEY_CLEAR,
    KEY_ENABLE,
    KEY_DISABLE,
    KEY_MERGE,
    KEY_LIST,
    KEY_MAP,
    KEY_RECOVER,
    KEY_COMPARE
};

static const struct vd_cli_option options[] = {
    {KEY_ADD, "add", NULL, "add BITMAP: enabled, and with nothing dirty"},
    {KEY_REMOVE, "remove", NULL, "remove BITMAP, also if it is inconsistent"},
    {KEY_CLEAR, "clear", NULL, "forget what is dirty in BITMAP"},
    {KEY_ENABLE, "enable", NULL, "let BITMAP record what is written"},
    {KEY_DISABLE, "disable", NULL, "let it record nothing"},
    {KEY_MERGE, "merge", "SOURCE", "what is dirty in the bitmap SOURCE is dirty in BITMAP, too"},
    {KEY_LIST, "list", NULL, "list the bitmaps of FILE"},
    {KEY_MAP, "map", NULL, "print what is dirty in BITMAP"},
    {KEY_RECOVER, "recover", NULL, "make an inconsistent BITMAP usable again: all is dirty"},
    {KEY_COMPARE, "compare", "OLDER", "with --recover: only what differs from the image OLDER is"},
    {'g', NULL, "GRANULARITY", "with --add: bytes that a bit tells of (default 64 KiB or less)"},
    {'b', NULL, "FILE", "with --merge: the image that has SOURCE"},
    {'F', NULL, "FMT", "format of the image that -b or --compare names"},
    {'m', NULL, "N", "with --compare: pieces compared at once"},
    {0},
};

struct bitmap_args {
    struct vdisk_bitmap_action actions[ACTIONS_MAX];
    size_t count;
    bool adds, merges, lists, maps, recovers;
    uint64_t granularity; /* 0: not given */
    const char *older, *source_file, *source_format;
    uint32_t workers;
};

static int take_action(struct vd_cli *cli, struct bitmap_args *args,
                       enum vdisk_bitmap_action_kind kind, const char *source)
{
    if (args->count == ACTIONS_MAX)
        return vd_cli_usage_error(cli, "more than %d actions", ACTIONS_MAX);
    args->actions[args->count++] = (struct vdisk_bitmap_action){.kind = kind, .source = source};
    args->adds = args->adds || kind == VDISK_BITMAP_ADD;
    args->merges = args->merges || kind == VDISK_BITMAP_MERGE;
    return VD_CLI_GO;
}

static int take_option(struct vd_cli *cli, struct bitmap_args *args, int key, const char *value)
{
    switch (key) {
    case KEY_LIST:
        args->lists = true;
        return VD_CLI_GO;
    case KEY_MAP:
        args->maps = true;
        return VD_CLI_GO;
    case KEY_RECOVER:
        args->recovers = true;
        return VD_CLI_GO;
    case KEY_COMPARE:
        args->older = value;
        return VD_CLI_GO;
    case 'g':
        if (vd_cli_parse_size("-g", value, &args->granularity) != VD_CLI_GO)
            return 1;
        return args->granularity ? VD_CLI_GO
                                 : vd_cli_usage_error(cli, "-g: a granularity is not 0");
    case 'b':
        args->source_file = value;
        return VD_CLI_GO;
    case 'F':
        if (!vd_cli_format_is_known(value))
            return 1;
        args->source_format = value;
        return VD_CLI_GO;
    default: /* m */
        return vd_cli_take_workers(cli, value, &args->workers);
    }
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct bitmap_args *args = opaque;
    switch (key) {
    case KEY_ADD:
        return take_action(cli, args, VDISK_BITMAP_ADD, NULL);
    case KEY_REMOVE:
        return take_action(cli, args, VDISK_BITMAP_REMOVE, NULL);
    case KEY_CLEAR:
        return take_action(cli, args, VDISK_BITMAP_CLEAR, NULL);
    case KEY_ENABLE:
        return take_action(cli, args, VDISK_BITMAP_ENABLE, NULL);
    case KEY_DISABLE:
        return take_action(cli, args, VDISK_BITMAP_DISABLE, NULL);
    case KEY_MERGE:
        return take_action(cli, args, VDISK_BITMAP_MERGE, value);
    default:
        return take_option(cli, args, key, value);
    }
}

static int check_args(struct vd_cli *cli, const struct bitmap_args *args)
{
    unsigned ways = (unsigned)(args->count != 0) + (unsigned)args->lists + (unsigned)args->maps +
                    (unsigned)args->recovers;
    if (ways == 0)
        return vd_cli_usage_error(cli, "Need at least one of --add, --remove, --clear, --enable, "
                                       "--disable, --merge, --list, --map, or --recover");
    if (ways > 1)
        return vd_cli_usage_error(cli, "--list, --map and --recover go with no other action");
    if (args->granularity && !args->adds)
        return vd_cli_usage_error(cli, "granularity only supported with --add");
    if (args->source_file && !args->merges)
        return vd_cli_usage_error(cli, "Merge bitmap source file only supported with --merge");
    if (args->older && !args->recovers)
        return vd_cli_usage_error(cli, "--compare only supported with --recover");
    if (args->source_format && !args->source_file && !args->older)
        return vd_cli_usage_error(cli, "-F only supported with -b or --compare");
    if (args->workers && !args->older)
        return vd_cli_usage_error(cli, "-m only supported with --compare");
    if (cli->share && !args->lists && !args->maps)
        return vd_cli_usage_error(cli, "-U: is for --list and --map, which change nothing");
    return VD_CLI_GO;
}

static int print_recovered(const struct vd_cli *cli,
                           const struct vdisk_bitmap_recover_result *result)
{
    char dirty[VD_SIZE_TEXT_BYTES], size[VD_SIZE_TEXT_BYTES];
    if (cli->quiet)
        return 0;
    if (!cli->json) {
        printf("Bitmap recovered: %s of %s are dirty.\n", vd_size_text(result->dirty_bytes, dirty),
               vd_size_text(result->virtual_bytes, size));
        return 0;
    }
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", cli->operands[0]);
    vd_json_put_text(&json, json.root, "bitmap", cli->operands[1]);
    vd_json_put_u64(&json, json.root, "virtual-size", result->virtual_bytes);
    vd_json_put_u64(&json, json.root, "dirty-bytes", result->dirty_bytes);
    return vd_json_print(&json);
}

static int recover(struct vd_cli *cli, const struct bitmap_args *args)
{
    struct vdisk_bitmap_recover_options o = {
        .struct_bytes = sizeof(o),
        .workers = args->workers,
        .open_flags = cli->cache_flags,
        .name = cli->operands[0],
        .format = cli->format,
        .bitmap = cli->operands[1],
        .older = args->older,
        .older_format = args->source_format,
        .network = &cli->network,
        .gate = &cli->gate,
        .progress = vd_cli_progress,
        .opaque = cli,
    };
    struct vdisk_bitmap_recover_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = vdisk_bitmap_recover(&o, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_cli_fail(&err) : print_recovered(cli, &result);
}

/* The actions, all or none. */
static int change(struct vd_cli *cli, struct bitmap_args *args)
{
    struct vdisk_image *source = NULL;
    struct vdisk_error err = {0};
    if (args->source_file) {
        source = vd_cli_open(cli, args->source_file, args->source_format, VDISK_OPEN_NO_BACKING);
        if (!source)
            return 1;
    }
    for (size_t i = 0; i < args->count; i++) {
        args->actions[i].name = cli->operands[1];
        if (args->actions[i].kind == VDISK_BITMAP_ADD)
            args->actions[i].granularity = args->granularity;
        if (args->actions[i].kind == VDISK_BITMAP_MERGE)
            args->actions[i].source_image = source;
    }
    int status = 1;
    struct vdisk_image *image =
        vd_cli_open(cli, cli->operands[0], cli->format,
                    VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING | cli->cache_flags);
    if (image) {
        status = vdisk_bitmap_change(image, args->actions, args->count, &err) < 0
                     ? vd_cli_fail(&err)
                     : 0;
        status = vd_cli_close(image, status);
    }
    return source ? vd_cli_close(source, status) : status;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct bitmap_args args = {0};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = check_args(cli, &args);
    if (status == VD_CLI_GO)
        status = args.lists ? vd_cli_want_operands(cli, 1, 1, "FILE")
                            : vd_cli_want_operands(cli, 2, 2, "FILE and BITMAP");
    if (status != VD_CLI_GO)
        return status;
    if (args.lists)
        return vd_cli_list_bitmaps(cli);
    if (args.maps)
        return vd_cli_map_bitmap(cli);
    return args.recovers ? recover(cli, &args) : change(cli, &args);
}

const struct vd_cli_verb vd_cmd_bitmap = {
    .name = "bitmap",
    .synopsis = "[-f FMT] [-U] [-t CACHE] [-p] [-q] [--output=human|json] --list FILE | --map FILE "
                "BITMAP | (--add "
                "[-g GRANULARITY] | --remove | --clear | --enable | --disable | --merge SOURCE "
                "[-b FILE [-F FMT]])... FILE BITMAP | --recover [--compare OLDER [-F FMT] [-m N]] "
                "FILE BITMAP",
    .help = "List, change and recover the dirty bitmaps of an image",
    .text = "Several actions are done in their order, on the one BITMAP: all of them, or none.\n"
            "An inconsistent bitmap, left by a writer that died, lacks some of what was written:\n"
            "--recover makes it tell of all that may have been.  With --compare that is what\n"
            "differs from OLDER, which holds what the disk was when BITMAP was last cleared.\n",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_QUIET | VD_CLI_CACHE | VD_CLI_PROGRESS |
              VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
