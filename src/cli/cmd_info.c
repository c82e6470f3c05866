/* SPDX-License-Identifier: MIT */
/* vdisk info: facts about an image. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/output.h"

enum {
    KEY_BACKING_CHAIN = VD_CLI_KEY_VERB
};

static const struct vd_cli_option options[] = {
    {KEY_BACKING_CHAIN, "backing-chain", NULL, "also the images below it; JSON is then an array"},
    {0},
};

static void print_human(const struct vdisk_image_info *info)
{
    char size[VD_SIZE_TEXT_BYTES], uuid[VD_UUID_TEXT_BYTES];
    printf("image: %s\n", info->filename);
    printf("file format: %s\n", info->format);
    printf("virtual size: %s (%" PRIu64 " bytes)\n", vd_size_text(info->virtual_bytes, size),
           info->virtual_bytes);
    if (info->flags & VDISK_INFO_ACTUAL_SIZE)
        printf("disk size: %s\n", vd_size_text(info->actual_bytes, size));
    else
        printf("disk size: unavailable\n");
    if (info->cluster_bytes)
        printf("cluster_size: %" PRIu32 "\n", info->cluster_bytes);
    if (info->flags & VDISK_INFO_DIRTY)
        printf("cleanly shut down: no\n");
    if (info->flags & VDISK_INFO_LINEAGE) {
        printf("Format specific information:\n");
        printf("    generation: %" PRIu64 "\n", info->generation);
        printf("    uuid: %s\n", vd_uuid_text(info->uuid, uuid));
        printf("    replica: %s\n", info->flags & VDISK_INFO_REPLICA ? "true" : "false");
        printf("    incomplete: %s\n", info->flags & VDISK_INFO_INCOMPLETE ? "true" : "false");
    }
}

static void put_json(struct vd_json *json, json_t *object, const struct vdisk_image_info *info)
{
    vd_json_put_u64(json, object, "virtual-size", info->virtual_bytes);
    vd_json_put_text(json, object, "filename", info->filename);
    if (info->cluster_bytes)
        vd_json_put_u64(json, object, "cluster-size", info->cluster_bytes);
    vd_json_put_text(json, object, "format", info->format);
    if (info->flags & VDISK_INFO_ACTUAL_SIZE)
        vd_json_put_u64(json, object, "actual-size", info->actual_bytes);
    if (info->flags & VDISK_INFO_LINEAGE) {
        char uuid[VD_UUID_TEXT_BYTES];
        json_t *specific = vd_json_put_object(json, object, "format-specific");
        vd_json_put_text(json, specific, "type", info->format);
        json_t *data = vd_json_put_object(json, specific, "data");
        vd_json_put_u64(json, data, "generation", info->generation);
        vd_json_put_text(json, data, "uuid", vd_uuid_text(info->uuid, uuid));
        vd_json_put_bool(json, data, "replica", (info->flags & VDISK_INFO_REPLICA) != 0);
        vd_json_put_bool(json, data, "incomplete", (info->flags & VDISK_INFO_INCOMPLETE) != 0);
    }
    vd_json_put_bool(json, object, "dirty-flag", (info->flags & VDISK_INFO_DIRTY) != 0);
}

static int print_info(const struct vd_cli *cli, const struct vdisk_image_info *info, bool chain)
{
    if (!cli->json) {
        print_human(info);
        return 0;
    }
    struct vd_json json;
    if (chain) {
        vd_json_begin_array(&json);
        put_json(&json, vd_json_append_object(&json, json.root), info);
    } else {
        vd_json_begin_object(&json);
        put_json(&json, json.root, info);
    }
    return vd_json_print(&json);
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    bool *chain = opaque;
    (void)cli;
    (void)key; /* there is only one */
    (void)value;
    *chain = true;
    return VD_CLI_GO;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    bool chain = false;
    int status = vd_cli_parse(cli, argc, argv, take, &chain);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status != VD_CLI_GO)
        return status;

    struct vdisk_image *image = vd_cli_open(cli, cli->operands[0], cli->format, VDISK_OPEN_CHECK);
    if (!image)
        return 1;
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_error err = {0};
    status = vdisk_image_info(image, &info, &err) < 0 ? vd_cli_fail(&err)
                                                      : print_info(cli, &info, chain);
    return vd_cli_close(image, status);
}

const struct vd_cli_verb vd_cmd_info = {
    .name = "info",
    .synopsis = "[-f FMT] [-U] [--output=human|json] [--backing-chain] FILE",
    .help = "Print facts about an image",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE,
    .options = options,
    .run = run,
};
