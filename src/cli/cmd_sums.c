/* SPDX-License-Identifier: MIT */
/* vdisk sums: the SHA-256 of each block of a GOW v3 image, in a file beside it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/syncopt.h"

enum {
    KEY_SIGN = VD_CLI_KEY_VERB
};

static const struct vd_cli_option options[] = {
    {'o', NULL, "FILE", "write to FILE (default IMAGE.sums)"},
    {KEY_SIGN, "sign", "PEM", "sign with this private key, to FILE.sig"},
    {0},
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct vdisk_sums_options *sums = opaque;
    (void)cli;
    if (key == KEY_SIGN)
        sums->key = value;
    else
        sums->output = value;
    return VD_CLI_GO;
}

static int print_result(const struct vd_cli *cli, const struct vdisk_sums_result *result)
{
    char uuid[VD_UUID_TEXT_BYTES];
    if (!cli->json) {
        if (!cli->quiet)
            printf("sums of %" PRIu64 " blocks, generation %" PRIu64 "\n", result->blocks,
                   result->generation);
        return 0;
    }
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_text(&json, json.root, "image", cli->operands[0]);
    vd_json_put_u64(&json, json.root, "blocks", result->blocks);
    vd_json_put_u64(&json, json.root, "generation", result->generation);
    vd_json_put_text(&json, json.root, "uuid", vd_uuid_text(result->uuid, uuid));
    return vd_json_print(&json);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct vdisk_sums_options sums = {.struct_bytes = sizeof(sums)};
    int status = vd_cli_parse(cli, argc, argv, take, &sums);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "IMAGE");
    if (status != VD_CLI_GO)
        return status;
    sums.image = cli->operands[0];
    sums.network = &cli->network;
    sums.progress = vd_cli_progress;
    sums.opaque = cli;

    struct vdisk_sums_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = vdisk_sums(&sums, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    return ret < 0 ? vd_sync_fail(&err) : print_result(cli, &result);
}

const struct vd_cli_verb vd_cmd_sums = {
    .name = "sums",
    .synopsis = "[-p] [-q] [-o FILE] [--sign PEM] [--output=human|json] IMAGE",
    .help = "Write the SHA-256 sums of a GOW v3 image, for `vdisk sync --verify`",
    .text = "IMAGE is the path or URL of a GOW v3 image.  Publish its sums beside it.\n"
            "Exit status: 0 written; 2 the image is being changed, try again; 1 anything else.\n",
    .common = VD_CLI_QUIET | VD_CLI_PROGRESS | VD_CLI_OUTPUT | VD_CLI_NETWORK,
    .options = options,
    .run = run,
};
