/* SPDX-License-Identifier: MIT */
/* vdisk compact: give back the space that an image does not use. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"

static int print_result(const struct vd_cli *cli, const struct vdisk_compact_result *result)
{
    char old[VD_SIZE_TEXT_BYTES], now[VD_SIZE_TEXT_BYTES], moved[VD_SIZE_TEXT_BYTES];
    struct vd_json json;
    if (!cli->json) {
        if (!cli->quiet)
            printf("Image compacted: it takes %s instead of %s, %s were moved.\n",
                   vd_size_text(result->allocated_bytes, now),
                   vd_size_text(result->old_allocated_bytes, old),
                   vd_size_text(result->moved_bytes, moved));
        return 0;
    }
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", cli->operands[0]);
    vd_json_put_u64(&json, json.root, "moved-bytes", result->moved_bytes);
    vd_json_put_u64(&json, json.root, "old-file-size", result->old_file_bytes);
    vd_json_put_u64(&json, json.root, "file-size", result->file_bytes);
    vd_json_put_u64(&json, json.root, "old-actual-size", result->old_allocated_bytes);
    vd_json_put_u64(&json, json.root, "actual-size", result->allocated_bytes);
    return vd_json_print(&json);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct vdisk_compact_options o = {.struct_bytes = sizeof(o)};
    int status = vd_cli_parse(cli, argc, argv, NULL, NULL);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status != VD_CLI_GO)
        return status;
    o.name = cli->operands[0];
    o.format = cli->format;
    o.open_flags = cli->cache_flags;
    o.passphrases = &cli->keys.list;
    o.gate = &cli->gate;
    o.progress = vd_cli_progress;
    o.opaque = cli;

    struct vdisk_compact_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = vdisk_compact(&o, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_cli_fail(&err) : print_result(cli, &result);
}

const struct vd_cli_verb vd_cmd_compact = {
    .name = "compact",
    .synopsis = "[-f FMT] [-t CACHE] [-p] [-q] [--allow-path=DIR] [--output=human|json] FILE",
    .help = "Give back the space that an image does not use",
    .text = "Clusters of a qcow2 image move from the end of FILE to free places at its start; no "
            "second\n"
            "copy is made.  FILE reads the same at any instant: what was interrupted can be done\n"
            "again.  What snapshots share, and compressed clusters, stay where they are.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_CACHE | VD_CLI_PROGRESS | VD_CLI_OUTPUT |
              VD_CLI_GATE | VD_CLI_KEYS,
    .run = run,
};
