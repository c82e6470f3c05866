/* SPDX-License-Identifier: MIT */
/* vdisk flatten: bring all that an overlay takes from its backing files into it. */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/workopt.h"

static const struct vd_cli_option options[] = {
    {'m', NULL, "N", "pieces copied at once (default 2 for each processor, at most 8)"},
    {'r', NULL, "RATE", "copy at most RATE bytes of data a second"},
    {0},
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct vdisk_flatten_options *o = opaque;
    return key == 'm' ? vd_cli_take_workers(cli, value, &o->workers)
                      : vd_cli_take_rate(cli, value, &o->rate_bytes);
}

static int print_json(const struct vdisk_flatten_options *o,
                      const struct vdisk_flatten_result *result)
{
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", o->name);
    vd_json_put_bool(&json, json.root, "dropped", (result->flags & VDISK_FLATTEN_DROPPED) != 0);
    if (*result->data_file)
        vd_json_put_name(&json, json.root, "data-file", result->data_file);
    vd_json_put_u64(&json, json.root, "virtual-size", result->virtual_bytes);
    vd_json_put_u64(&json, json.root, "data-bytes", result->data_bytes);
    vd_json_put_u64(&json, json.root, "zero-bytes", result->zero_bytes);
    return vd_json_print(&json);
}

static int print_result(const struct vd_cli *cli, const struct vdisk_flatten_options *o,
                        const struct vdisk_flatten_result *result)
{
    if (cli->json)
        return print_json(o, result);
    if (cli->quiet)
        return 0;
    bool dropped = result->flags & VDISK_FLATTEN_DROPPED;
    printf(dropped ? "Image flattened.\n" : "There was no backing file.\n");
    if (*result->data_file)
        printf("The raw image '%s' is the whole disk now: '%s' is not needed any more.\n",
               result->data_file, o->name);
    return 0;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct vdisk_flatten_options o = {.struct_bytes = sizeof(o)};
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

    struct vdisk_flatten_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = vdisk_flatten(&o, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_cli_fail(&err) : print_result(cli, &o, &result);
}

const struct vd_cli_verb vd_cmd_flatten = {
    .name = "flatten",
    .synopsis = "[-f FMT] [-m N] [-r RATE] [-t CACHE] [-p] [-q] [--allow-path=DIR] "
                "[--output=human|json] FILE",
    .help = "Bring all of a disk into its image, and drop the backing files",
    .text = "FILE reads the same at any instant: what was interrupted can be done again.  The raw "
            "file\n"
            "of an add-cow image is the whole disk afterwards, and the add-cow file can go.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_CACHE | VD_CLI_PROGRESS | VD_CLI_OUTPUT |
              VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
