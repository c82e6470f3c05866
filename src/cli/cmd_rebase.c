/* SPDX-License-Identifier: MIT */
/* vdisk rebase: give an image another backing file, or none. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/workopt.h"

static const struct vd_cli_option options[] = {
    {'b', NULL, "BACKING", "the new backing file; empty: none"},
    {'F', NULL, "FMT", "its format; raw has to be named"},
    {'u', NULL, NULL, "unsafe: change the name only; BACKING need not be there"},
    {'m', NULL, "N", "pieces compared at once (default 2 for each processor, at most 8)"},
    {'r', NULL, "RATE", "compare at most RATE bytes of data a second"},
    /* qemu-img's, refused. */
    {'c', "compress", NULL, NULL},
    {0},
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct vdisk_rebase_options *o = opaque;
    switch (key) {
    case 'b':
        o->backing = value;
        return VD_CLI_GO;
    case 'F':
        o->backing_format = value;
        return vd_cli_format_is_known(value) ? VD_CLI_GO : 1;
    case 'u':
        o->flags |= VDISK_REBASE_UNSAFE;
        return VD_CLI_GO;
    case 'm':
        return vd_cli_take_workers(cli, value, &o->workers);
    case 'r':
        return vd_cli_take_rate(cli, value, &o->rate_bytes);
    default: /* c */
        return vd_cli_usage_error(cli, "-c: none of the formats that can be written compresses");
    }
}

static int print_result(const struct vd_cli *cli, const struct vdisk_rebase_options *o,
                        const struct vdisk_rebase_result *result)
{
    if (!cli->json)
        return 0; /* as qemu-img, which prints nothing */
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", o->name);
    if (*o->backing)
        vd_json_put_name(&json, json.root, "backing-filename", o->backing);
    vd_json_put_u64(&json, json.root, "virtual-size", result->virtual_bytes);
    vd_json_put_u64(&json, json.root, "read-bytes", result->read_bytes);
    vd_json_put_u64(&json, json.root, "data-bytes", result->data_bytes);
    vd_json_put_u64(&json, json.root, "zero-bytes", result->zero_bytes);
    return vd_json_print(&json);
}

static int check_args(struct vd_cli *cli, const struct vdisk_rebase_options *o)
{
    if (!o->backing)
        return vd_cli_usage_error(cli, "-b BACKING is needed: -b '' for no backing file");
    if (o->backing_format && !*o->backing)
        return vd_cli_usage_error(cli, "-F: has no meaning without a backing file");
    return VD_CLI_GO;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct vdisk_rebase_options o = {.struct_bytes = sizeof(o)};
    int status = vd_cli_parse(cli, argc, argv, take, &o);
    if (status == VD_CLI_GO)
        status = check_args(cli, &o);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status != VD_CLI_GO)
        return status;
    o.name = cli->operands[0];
    o.format = cli->format;
    o.open_flags = cli->cache_flags;
    o.backing_flags = cli->source_cache_flags | (cli->share ? VDISK_OPEN_SHARE : 0);
    o.network = &cli->network;
    o.passphrases = &cli->keys.list;
    o.gate = &cli->gate;
    o.progress = vd_cli_progress;
    o.opaque = cli;

    struct vdisk_rebase_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = vdisk_rebase(&o, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_cli_fail(&err) : print_result(cli, &o, &result);
}

const struct vd_cli_verb vd_cmd_rebase = {
    .name = "rebase",
    .synopsis = "[-f FMT] [-u] -b BACKING [-F FMT] [-m N] [-r RATE] [-t CACHE] [-T CACHE] [-U] "
                "[-p] [-q] [--allow-path=DIR] [--output=human|json] FILE",
    .help = "Give an overlay another backing file, or none",
    .text =
        "A relative BACKING counts from the directory of FILE.  What FILE would not find in\n"
        "BACKING is written into FILE first, so that its disk stays the same, also if this is\n"
        "interrupted; then it can be done again.  -T and -U are for BACKING, -t for the rest.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_SHARE | VD_CLI_CACHE | VD_CLI_SOURCE_CACHE |
              VD_CLI_PROGRESS | VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
