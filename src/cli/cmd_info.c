/* SPDX-License-Identifier: MIT */
/* vdisk info: facts about an image. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/bitmaps.h"
#include "cli/cli.h"
#include "cli/encryptopt.h"
#include "cli/info_qcow2.h"
#include "cli/output.h"
#include "cli/snapshots.h"
#include "util/mem.h"

enum {
    KEY_BACKING_CHAIN = VD_CLI_KEY_VERB
};

static const struct vd_cli_option options[] = {
    {KEY_BACKING_CHAIN, "backing-chain", NULL, "also the images below it; JSON is then an array"},
    {0},
};

/* --- for people ------------------------------------------------------------------------------ */

/* What an image names may be anything: nothing in it is to look like a line of ours. */
static void print_name(const char *name)
{
    CLEANUP_FREE char *shown = vd_cli_shown_name(name);
    for (char *at = shown; at && *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = '?';
    printf("%s", shown ? shown : "");
}

static void print_backing(const struct vdisk_image_info *info)
{
    if (!info->backing_name)
        return;
    printf("backing file: ");
    print_name(info->backing_name);
    if (!info->backing_path) {
        printf(" (cannot determine actual path)");
    } else if (strcmp(info->backing_path, info->backing_name) != 0) {
        printf(" (actual path: ");
        print_name(info->backing_path);
        printf(")");
    }
    printf("\n");
    if (info->backing_format) {
        printf("backing file format: ");
        print_name(info->backing_format);
        printf("\n");
    }
}

static void print_specific(const struct vdisk_image_info *info)
{
    char uuid[VD_UUID_TEXT_BYTES];
    bool has_lineage = (info->flags & VDISK_INFO_LINEAGE) != 0;
    if (!has_lineage && !info->variant && !info->data_name)
        return;
    printf("Format specific information:\n");
    if (info->variant && !info->refcount_bits)
        printf("    variant: %s\n", info->variant);
    vd_info_qcow2_print(info);
    if (info->data_name) {
        printf("    data file: ");
        print_name(info->data_name);
        printf("\n");
    }
    if (has_lineage) {
        printf("    generation: %" PRIu64 "\n", info->generation);
        printf("    uuid: %s\n", vd_uuid_text(info->uuid, uuid));
        printf("    replica: %s\n", info->flags & VDISK_INFO_REPLICA ? "true" : "false");
        printf("    incomplete: %s\n", info->flags & VDISK_INFO_INCOMPLETE ? "true" : "false");
    }
    if (info->encrypt)
        vd_encrypt_info_print(info->encrypt);
}

static int print_human(struct vdisk_image *image, const struct vdisk_image_info *info)
{
    char size[VD_SIZE_TEXT_BYTES];
    printf("image: ");
    print_name(info->filename);
    printf("\n");
    printf("file format: %s\n", info->format);
    if (info->flags & VDISK_INFO_NO_DATA_FILE)
        printf("virtual size: unavailable\n");
    else
        printf("virtual size: %s (%" PRIu64 " bytes)\n", vd_size_text(info->virtual_bytes, size),
               info->virtual_bytes);
    if (info->flags & VDISK_INFO_ACTUAL_SIZE)
        printf("disk size: %s\n", vd_size_text(info->actual_bytes, size));
    else
        printf("disk size: unavailable\n");
    if (info->encrypt)
        printf("encrypted: yes\n");
    if (info->cluster_bytes)
        printf("cluster_size: %" PRIu32 "\n", info->cluster_bytes);
    if (info->flags & VDISK_INFO_DIRTY)
        printf("cleanly shut down: no\n");
    print_backing(info);
    int status = vd_cli_print_snapshots(image);
    print_specific(info);
    return status ? status : vd_cli_print_bitmaps("    ", image);
}

/* --- as JSON --------------------------------------------------------------------------------- */

static void put_specific(struct vd_json *json, json_t *object, const struct vdisk_image_info *info)
{
    char uuid[VD_UUID_TEXT_BYTES];
    bool has_lineage = (info->flags & VDISK_INFO_LINEAGE) != 0;
    if (!has_lineage && !info->variant && !info->data_name)
        return;
    json_t *specific = vd_json_put_object(json, object, "format-specific");
    vd_json_put_text(json, specific, "type", info->format);
    json_t *data = vd_json_put_object(json, specific, "data");
    if (info->variant && !info->refcount_bits)
        vd_json_put_text(json, data, "variant", info->variant);
    vd_info_qcow2_put(json, data, info);
    if (info->data_name)
        vd_json_put_name(json, data, "data-file", info->data_name);
    if (has_lineage) {
        vd_json_put_u64(json, data, "generation", info->generation);
        vd_json_put_text(json, data, "uuid", vd_uuid_text(info->uuid, uuid));
        vd_json_put_bool(json, data, "replica", (info->flags & VDISK_INFO_REPLICA) != 0);
        vd_json_put_bool(json, data, "incomplete", (info->flags & VDISK_INFO_INCOMPLETE) != 0);
    }
    if (info->encrypt)
        vd_encrypt_info_put(json, data, info->encrypt);
}

static void put_json(struct vd_json *json, json_t *object, const struct vdisk_image_info *info)
{
    if (!(info->flags & VDISK_INFO_NO_DATA_FILE))
        vd_json_put_u64(json, object, "virtual-size", info->virtual_bytes);
    vd_json_put_name(json, object, "filename", info->filename);
    if (info->cluster_bytes)
        vd_json_put_u64(json, object, "cluster-size", info->cluster_bytes);
    vd_json_put_text(json, object, "format", info->format);
    if (info->flags & VDISK_INFO_ACTUAL_SIZE)
        vd_json_put_u64(json, object, "actual-size", info->actual_bytes);
    if (info->backing_format)
        vd_json_put_text(json, object, "backing-filename-format", info->backing_format);
    if (info->backing_path)
        vd_json_put_name(json, object, "full-backing-filename", info->backing_path);
    if (info->backing_name)
        vd_json_put_name(json, object, "backing-filename", info->backing_name);
    put_specific(json, object, info);
    if (info->encrypt)
        vd_json_put_bool(json, object, "encrypted", true);
    vd_json_put_bool(json, object, "dirty-flag", (info->flags & VDISK_INFO_DIRTY) != 0);
}

/* The key is there if there are any, as with qemu-img. */
static int put_snapshots(struct vdisk_image *image, struct vd_json *json, json_t *object)
{
    json_t *array = vd_json_put_array(json, object, "snapshots");
    int status = vd_cli_put_snapshots(json, array, image);
    if (status == 0 && json_array_size(array) == 0)
        json_object_del(object, "snapshots");
    return status;
}

/* --- the verb -------------------------------------------------------------------------------- */

static int print_image(struct vdisk_image *image, struct vd_json *json, json_t *object)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_error err = {0};
    if (vdisk_image_info(image, &info, &err) < 0)
        return vd_cli_fail(&err);
    if (!json)
        return print_human(image, &info);
    put_json(json, object, &info);
    int status = put_snapshots(image, json, object);
    json_t *data = json_object_get(json_object_get(object, "format-specific"), "data");
    return status || !data ? status : vd_cli_put_bitmaps(json, data, image);
}

static int print_chain(const struct vd_cli *cli, struct vdisk_image *image)
{
    struct vd_json json;
    int status = 0;
    if (cli->json)
        vd_json_begin_array(&json);
    for (const struct vdisk_image *top = image; image && status == 0;
         image = vdisk_image_backing(image)) {
        if (cli->json)
            status = print_image(image, &json, vd_json_append_object(&json, json.root));
        else if (image != top)
            printf("\n");
        if (!cli->json)
            status = print_image(image, NULL, NULL);
    }
    if (!cli->json)
        return status;
    if (status == 0)
        return vd_json_print(&json);
    vd_json_drop(&json);
    return status;
}

static int print_one(const struct vd_cli *cli, struct vdisk_image *image)
{
    struct vd_json json;
    if (!cli->json)
        return print_image(image, NULL, NULL);
    vd_json_begin_object(&json);
    int status = print_image(image, &json, json.root);
    if (status == 0)
        return vd_json_print(&json);
    vd_json_drop(&json);
    return status;
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

    /* What the image names is told of, wherever it is, and opened only to follow the chain. */
    uint32_t flags = chain ? 0 : VDISK_OPEN_CHECK | VDISK_OPEN_FACTS;
    struct vdisk_image *image = vd_cli_open(cli, cli->operands[0], cli->format, flags);
    if (!image)
        return 1;
    status = chain ? print_chain(cli, image) : print_one(cli, image);
    return vd_cli_close(image, status);
}

const struct vd_cli_verb vd_cmd_info = {
    .name = "info",
    .synopsis = "[-f FMT] [-U] [--output=human|json] [--backing-chain] FILE",
    .help = "Print facts about an image",
    .common =
        VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
