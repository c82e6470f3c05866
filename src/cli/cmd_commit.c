/* SPDX-License-Identifier: MIT */
/* vdisk commit: write what an overlay holds into an image behind it. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/workopt.h"

static const struct vd_cli_option options[] = {
    {'b', NULL, "BASE", "commit into BASE, one of the images behind FILE (default the first)"},
    {'d', NULL, NULL, "leave the data in FILE too; -b does that anyway"},
    {'m', NULL, "N", "pieces copied at once (default 2 for each processor, at most 8)"},
    {'r', NULL, "RATE", "copy at most RATE bytes of data a second"},
    {0},
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct vdisk_commit_options *o = opaque;
    switch (key) {
    case 'b':
        o->base = value;
        return VD_CLI_GO;
    case 'd':
        o->flags |= VDISK_COMMIT_KEEP;
        return VD_CLI_GO;
    case 'm':
        return vd_cli_take_workers(cli, value, &o->workers);
    default: /* r */
        return vd_cli_take_rate(cli, value, &o->rate_bytes);
    }
}

static int print_json(const struct vdisk_commit_options *o,
                      const struct vdisk_commit_result *result)
{
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", o->name);
    vd_json_put_name(&json, json.root, "base", result->base_name);
    vd_json_put_u64(&json, json.root, "base-depth", result->base_depth);
    vd_json_put_bool(&json, json.root, "base-grew", (result->flags & VDISK_COMMIT_BASE_GREW) != 0);
    vd_json_put_bool(&json, json.root, "emptied", (result->flags & VDISK_COMMIT_EMPTIED) != 0);
    vd_json_put_u64(&json, json.root, "virtual-size", result->virtual_bytes);
    vd_json_put_u64(&json, json.root, "data-bytes", result->data_bytes);
    vd_json_put_u64(&json, json.root, "zero-bytes", result->zero_bytes);
    return vd_json_print(&json);
}

static int print_result(const struct vd_cli *cli, const struct vdisk_commit_options *o,
                        const struct vdisk_commit_result *result)
{
    bool keeps = o->base || (o->flags & VDISK_COMMIT_KEEP);
    if (cli->quiet)
        return 0;
    if (result->base_depth > 1)
        vd_cli_warning("the images between '%s' and '%s' are not to be used on their own any "
                       "more: what they show has changed",
                       o->name, result->base_name);
    if (!keeps && !(result->flags & VDISK_COMMIT_EMPTIED))
        vd_cli_warning("'%s' still holds the data: its format can not be emptied", o->name);
    if (cli->json)
        return print_json(o, result);
    printf("Image committed.\n");
    return 0;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct vdisk_commit_options o = {.struct_bytes = sizeof(o)};
    int status = vd_cli_parse(cli, argc, argv, take, &o);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status != VD_CLI_GO)
        return status;
    o.name = cli->operands[0];
    o.format = cli->format;
    o.open_flags = cli->cache_flags;
    o.network = &cli->network;
    o.passphrases = &cli->keys.list;
    o.gate = &cli->gate;
    o.progress = vd_cli_progress;
    o.opaque = cli;

    struct vdisk_commit_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = vdisk_commit(&o, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_cli_fail(&err) : print_result(cli, &o, &result);
}

const struct vd_cli_verb vd_cmd_commit = {
    .name = "commit",
    .synopsis = "[-f FMT] [-b BASE] [-d] [-m N] [-r RATE] [-t CACHE] [-p] [-q] [--allow-path=DIR] "
                "[--output=human|json] FILE",
    .help = "Write what an overlay holds into an image behind it",
    .text =
        "BASE grows if it is shorter than FILE.  FILE reads the same at any instant: what was\n"
        "interrupted can be done again.  When all is on stable storage FILE is emptied, unless -b\n"
        "or -d is given.  All other images on BASE, those between it and FILE included, show\n"
        "something else afterwards.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_CACHE | VD_CLI_PROGRESS | VD_CLI_OUTPUT |
              VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
