/* SPDX-License-Identifier: MIT */
/* What sync and delta share. */
#include "cli/syncopt.h"

#include <errno.h>

#include "cli/output.h"
#include "cli/progress.h"
#include "cli/size.h"

#define WAIT_SECONDS_MAX 86400u
#define BLOCK_BYTES      65536u
#define RUN_BYTES_MAX    (64u << 20)

static int take_size(struct vd_cli *cli, const char *name, const char *text, uint64_t min,
                     uint64_t max, uint64_t *bytes)
{
    int ret = vd_size_parse(text, bytes);
    if (ret < 0)
        return vd_cli_usage_error(cli, "%s %s: %s", name, text, vd_size_problem(ret));
    if (*bytes < min || *bytes > max)
        return vd_cli_usage_error(cli, "%s %s: must be %llu to %llu bytes", name, text,
                                  (unsigned long long)min, (unsigned long long)max);
    return VD_CLI_GO;
}

static int take_run(struct vd_cli *cli, const char *value, struct vdisk_sync_options *options)
{
    uint64_t bytes = 0;
    int status = take_size(cli, "--run", value, BLOCK_BYTES, RUN_BYTES_MAX, &bytes);
    if (status == VD_CLI_GO && bytes % BLOCK_BYTES)
        status = vd_cli_usage_error(cli, "--run %s: must be a multiple of 64K", value);
    options->run_bytes = (uint32_t)bytes;
    return status;
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct vdisk_sync_options *options = opaque;
    uint64_t seconds = 0;
    int status;
    switch (key) {
    case VD_SYNC_KEY_WAIT:
        status = vd_cli_parse_number(cli, "--wait", value, 0, WAIT_SECONDS_MAX, &seconds);
        options->wait_ms = (uint32_t)seconds * 1000;
        return status;
    case VD_SYNC_KEY_FORCE:
        options->flags |= VDISK_SYNC_FORCE;
        return VD_CLI_GO;
    case VD_SYNC_KEY_SUMS:
        options->sums = value;
        break;
    case VD_SYNC_KEY_SUMS_KEY:
        options->sums_key = value;
        break;
    case VD_SYNC_KEY_WINDOW:
        return take_size(cli, "--window", value, BLOCK_BYTES, VD_SIZE_MAX, &options->window_bytes);
    case VD_SYNC_KEY_RUN:
        return take_run(cli, value, options);
    case VD_SYNC_KEY_RATE:
        return take_size(cli, "--limit-rate", value, 1, VD_SIZE_MAX, &options->rate_bytes);
    default: /* VD_SYNC_KEY_VERIFY */
        break;
    }
    options->flags |= VDISK_SYNC_VERIFY; /* what --sums and --sums-key are for */
    return VD_CLI_GO;
}

static int options_parse(struct vd_cli *cli, int argc, char **argv,
                         struct vdisk_sync_options *options)
{
    *options = (struct vdisk_sync_options){.struct_bytes = sizeof(*options)};
    int status = vd_cli_parse(cli, argc, argv, take, options);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 2, 2, "SOURCE and REPLICA");
    if (status != VD_CLI_GO)
        return status;
    options->source = cli->operands[0];
    options->replica = cli->operands[1];
    options->network = &cli->network;
    return VD_CLI_GO;
}

int vd_sync_fail(const struct vdisk_error *err)
{
    int status = vd_cli_fail(err);
    return err->code == EBUSY ? VD_SYNC_STATUS_BUSY : status;
}

static int print_json(const struct vdisk_sync_options *options,
                      const struct vdisk_sync_result *result)
{
    char uuid[VD_UUID_TEXT_BYTES];
    struct vd_json json;
    vd_json_begin_object(&json);
    json_t *root = json.root;
    vd_json_put_name(&json, root, "source", options->source);
    vd_json_put_text(&json, root, "replica", options->replica);
    vd_json_put_bool(&json, root, "unchanged", (result->flags & VDISK_SYNC_UNCHANGED) != 0);
    vd_json_put_bool(&json, root, "created", (result->flags & VDISK_SYNC_CREATED) != 0);
    vd_json_put_bool(&json, root, "resumed", (result->flags & VDISK_SYNC_RESUMED) != 0);
    vd_json_put_bool(&json, root, "forced", (result->flags & VDISK_SYNC_FORCED) != 0);
    vd_json_put_u64(&json, root, "restarts", result->restarts);
    vd_json_put_u64(&json, root, "virtual-size", result->size);
    vd_json_put_u64(&json, root, "generation", result->generation);
    vd_json_put_text(&json, root, "uuid", vd_uuid_text(result->uuid, uuid));
    vd_json_put_u64(&json, root, "total-blocks", result->total_blocks);
    vd_json_put_u64(&json, root, "changed-blocks", result->changed_blocks);
    vd_json_put_u64(&json, root, "fetched-blocks", result->fetched_blocks);
    vd_json_put_u64(&json, root, "runs", result->runs);
    vd_json_put_u64(&json, root, "requests", result->requests);
    vd_json_put_u64(&json, root, "fetched-bytes", result->fetched_bytes);
    vd_json_put_u64(&json, root, "source-bytes", result->source_bytes);
    return vd_json_print(&json);
}

int vd_sync_run(struct vd_cli *cli, int argc, char **argv, vd_sync_fn work,
                void (*print_human)(const struct vdisk_sync_result *result))
{
    struct vdisk_sync_options sync;
    int status = options_parse(cli, argc, argv, &sync);
    if (status != VD_CLI_GO)
        return status;
    sync.progress = vd_cli_progress;
    sync.opaque = cli;

    struct vdisk_sync_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_error err = {0};
    vd_cli_progress_begin(cli);
    int ret = work(&sync, &result, &err);
    vd_cli_progress_end(cli, ret == 0);
    if (ret < 0)
        return vd_sync_fail(&err);
    if (cli->json)
        return print_json(&sync, &result);
    if (!cli->quiet)
        print_human(&result);
    return 0;
}
