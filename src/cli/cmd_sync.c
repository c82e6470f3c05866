/* SPDX-License-Identifier: MIT */
/* vdisk sync: make a local replica identical to a GOW v3 master. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/output.h"
#include "cli/syncopt.h"

static const struct vd_cli_option options[] = {
    {VD_SYNC_KEY_WAIT, "wait", "SECONDS", "wait so long for a master that is being changed"},
    {VD_SYNC_KEY_FORCE, "force", NULL, "make a refused replica identical; fetches all data"},
    {VD_SYNC_KEY_VERIFY, "verify", NULL, "check each block against the sums before writing it"},
    {VD_SYNC_KEY_SUMS, "sums", "NAME|URL", "where they are (default SOURCE.sums)"},
    {VD_SYNC_KEY_SUMS_KEY, "sums-key", "PEM", "public key that must have signed the sums"},
    {VD_SYNC_KEY_WINDOW, "window", "SIZE", "most data that a kill can cost (default 16M)"},
    {VD_SYNC_KEY_RUN, "run", "SIZE", "most data in one request (default 1M)"},
    {VD_SYNC_KEY_RATE, "limit-rate", "SIZE", "fetch at most SIZE bytes a second"},
    {0},
};

static void print_human(const struct vdisk_sync_result *result)
{
    char fetched[VD_SIZE_TEXT_BYTES], full[VD_SIZE_TEXT_BYTES];
    vd_size_text(result->fetched_bytes, fetched);
    vd_size_text(result->source_bytes, full);
    const char *s = result->requests == 1 ? "" : "s";
    if (result->flags & VDISK_SYNC_UNCHANGED) {
        printf("nothing changed since generation %" PRIu64 ": %s in %" PRIu64 " request%s\n",
               result->generation, fetched, result->requests, s);
        return;
    }
    printf("synced %" PRIu64 " of %" PRIu64 " blocks, %s in %" PRIu64
           " request%s (full download: %s)\n",
           result->changed_blocks, result->total_blocks, fetched, result->requests, s, full);
    if (result->restarts)
        printf("the master changed meanwhile: %" PRIu32 " time%s started over\n", result->restarts,
               result->restarts == 1 ? "" : "s");
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    return vd_sync_run(cli, argc, argv, vdisk_sync, print_human);
}

const struct vd_cli_verb vd_cmd_sync = {
    .name = "sync",
    .synopsis = "[-p] [-q] [--wait SECONDS] [--force] [--verify] [--output=human|json] SOURCE "
                "REPLICA",
    .help = "Make a local replica identical to a GOW v3 master, fetching only what changed",
    .text = "SOURCE is the path or URL of a GOW v3 image.  REPLICA is a local file, made if it is\n"
            "not there.  A sync that was interrupted goes on where it stopped.\n"
            "Exit status: 0 the replica is identical; 2 the master is being changed, try again;\n"
            "1 anything else.\n",
    .common = VD_CLI_QUIET | VD_CLI_PROGRESS | VD_CLI_OUTPUT | VD_CLI_NETWORK,
    .options = options,
    .run = run,
};
