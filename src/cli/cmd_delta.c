/* SPDX-License-Identifier: MIT */
/* vdisk delta: what would a sync fetch? */
#include <inttypes.h>
#include <stdio.h>

#include "cli/output.h"
#include "cli/syncopt.h"

static const struct vd_cli_option options[] = {
    {VD_SYNC_KEY_WAIT, "wait", "SECONDS", "wait so long for a master that is being changed"},
    {VD_SYNC_KEY_FORCE, "force", NULL, "tell what a forced sync would fetch"},
    {VD_SYNC_KEY_RUN, "run", "SIZE", "most data in one request (default 1M)"},
    {0},
};

static void print_human(const struct vdisk_sync_result *result)
{
    char fetched[VD_SIZE_TEXT_BYTES], full[VD_SIZE_TEXT_BYTES];
    vd_size_text(result->fetched_bytes, fetched);
    vd_size_text(result->source_bytes, full);
    if (result->flags & VDISK_SYNC_UNCHANGED)
        printf("nothing changed since generation %" PRIu64 "\n", result->generation);
    printf("changed: %" PRIu64 " of %" PRIu64 " blocks, %" PRIu64 " with data\n",
           result->changed_blocks, result->total_blocks, result->fetched_blocks);
    printf("to fetch: %s (%" PRIu64 " bytes) in %" PRIu64 " requests, %" PRIu64
           " of them for %" PRIu64 " runs of blocks\n",
           fetched, result->fetched_bytes, result->requests, result->runs, result->runs);
    printf("full download: %s (%" PRIu64 " bytes)\n", full, result->source_bytes);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    return vd_sync_run(cli, argc, argv, vdisk_delta, print_human);
}

const struct vd_cli_verb vd_cmd_delta = {
    .name = "delta",
    .synopsis = "[-p] [-q] [--wait SECONDS] [--force] [--output=human|json] SOURCE REPLICA",
    .help = "Tell what a sync would fetch, and change nothing",
    .text = "SOURCE and REPLICA are those of `vdisk sync`; REPLICA need not be there.\n"
            "Exit status: 0 told; 2 the master is being changed, try again; 1 anything else.\n",
    .common = VD_CLI_QUIET | VD_CLI_PROGRESS | VD_CLI_OUTPUT | VD_CLI_NETWORK,
    .options = options,
    .run = run,
};
