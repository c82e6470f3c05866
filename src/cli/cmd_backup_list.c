/* SPDX-License-Identifier: MIT */
/* vdisk backup list: the points of a repository. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/backupopt.h"
#include "cli/backups.h"
#include "cli/output.h"

enum {
    KEY_KEY_FILE = VD_CLI_KEY_VERB,
};

static const struct vd_cli_option options[] = {
    VD_BACKUP_KEY_FILE(KEY_KEY_FILE),
    {0},
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    (void)cli;
    (void)key; /* there is only one */
    return vd_backup_key_take(value, opaque);
}

/* The first flag that matters: a damaged point has no others. */
static const char *flags_text(const struct vdisk_point_info *info)
{
    if (info->flags & VDISK_POINT_DAMAGED)
        return "damaged";
    if (info->flags & VDISK_POINT_ORPHAN)
        return "orphan";
    return info->flags & VDISK_POINT_COMPRESSED ? "compressed" : "-";
}

static void print_line(const struct vdisk_point_info *info)
{
    char time[VD_BACKUP_TIME_BYTES] = "-", on[24] = "-";
    char size[VD_SIZE_TEXT_BYTES] = "-", stored[VD_SIZE_TEXT_BYTES] = "-";
    bool is_known = !(info->flags & VDISK_POINT_DAMAGED);
    if (is_known) {
        vd_backup_time_text(info->created, false, time);
        vd_size_text(info->virtual_bytes, size);
        vd_size_text(info->stored_bytes, stored);
    }
    if (is_known && info->parent)
        snprintf(on, sizeof(on), "%" PRIu64, info->parent);
    printf("%6" PRIu64 "  %-19s  %-12s  %6s  %8s  %8s  %-8s  %s\n", info->number, time,
           is_known ? vd_backup_kind_name(info->kind) : "-", on, size, stored,
           is_known ? vd_backup_tracker_name(info->tracker) : "-", flags_text(info));
}

static void put_point(struct vd_json *json, const struct vdisk_point_info *info)
{
    char time[VD_BACKUP_TIME_BYTES];
    json_t *object = vd_json_append_object(json, json->root);
    bool is_damaged = (info->flags & VDISK_POINT_DAMAGED) != 0;
    vd_json_put_u64(json, object, "point", info->number);
    vd_json_put_bool(json, object, "damaged", is_damaged);
    if (is_damaged)
        return;
    vd_json_put_bool(json, object, "orphan", (info->flags & VDISK_POINT_ORPHAN) != 0);
    vd_json_put_text(json, object, "kind", vd_backup_kind_name(info->kind));
    vd_json_put_u64(json, object, "parent", info->parent);
    vd_json_put_text(json, object, "tracker", vd_backup_tracker_name(info->tracker));
    vd_json_put_text(json, object, "time", vd_backup_time_text(info->created, true, time));
    vd_json_put_u64(json, object, "created", (uint64_t)info->created);
    vd_json_put_u64(json, object, "virtual-size", info->virtual_bytes);
    vd_json_put_u64(json, object, "stored-bytes", info->stored_bytes);
    vd_json_put_bool(json, object, "compressed", (info->flags & VDISK_POINT_COMPRESSED) != 0);
    vd_json_put_text(json, object, "image", info->image);
    vd_json_put_text(json, object, "manifest", info->manifest);
    vd_json_put_name(json, object, "source", info->source);
    vd_json_put_text(json, object, "source-format", info->source_format);
    if (info->bitmap)
        vd_json_put_text(json, object, "bitmap", info->bitmap);
}

static int print_points(const struct vd_cli *cli, const struct vdisk_repository *repository)
{
    size_t entries = vdisk_repository_points(repository);
    struct vd_json json;
    vd_json_begin_array(&json);
    if (!cli->json)
        printf("%6s  %-19s  %-12s  %6s  %8s  %8s  %-8s  %s\n", "POINT", "TIME (UTC)", "KIND", "ON",
               "SIZE", "STORED", "TRACKER", "FLAGS");
    for (size_t i = 0; i < entries; i++) {
        struct vdisk_point_info info = {.struct_bytes = sizeof(info)};
        struct vdisk_error err = {0};
        if (vdisk_repository_point(repository, i, &info, &err) < 0) {
            vd_json_drop(&json);
            return vd_cli_fail(&err);
        }
        if (cli->json)
            put_point(&json, &info);
        else
            print_line(&info);
    }
    if (cli->json)
        return vd_json_print(&json);
    vd_json_drop(&json);
    return 0;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct vd_backup_key key = {0};
    int status = vd_cli_parse(cli, argc, argv, take, &key);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "REPOSITORY");
    if (status == VD_CLI_GO) {
        struct vdisk_repository *repository = vd_backup_open(cli->operands[0], &key, 0);
        status = repository ? print_points(cli, repository) : 1;
        vdisk_repository_close(repository);
    }
    vd_backup_key_free(&key);
    return status;
}

const struct vd_cli_verb vd_cmd_backup_list = {
    .name = "backup list",
    .synopsis = "[--key-file=FILE] [--output=human|json] REPOSITORY",
    .help = "List the points of a repository",
    .text = "A point that is damaged is listed with its number alone; an orphan lies on one that\n"
            "is damaged or missing.  'vdisk backup verify' looks at all bytes.\n",
    .common = VD_CLI_OUTPUT,
    .options = options,
    .run = run,
};
