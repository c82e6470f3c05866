/* SPDX-License-Identifier: MIT */
/* Snapshots within an image: printed, named on the command line, and changed. */
#include "cli/snapshots.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "util/mem.h"

#define NSEC_PER_SEC UINT64_C(1000000000)

/* --- listing --------------------------------------------------------------------------------- */

/* Nothing in a name is to look like a line of ours.  To be freed. */
static char *one_line(const char *name)
{
    char *shown = strdup(name);
    for (char *at = shown; at && *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = '?';
    return shown;
}

static void print_snapshot(const struct vdisk_snapshot_info *info)
{
    CLEANUP_FREE char *id = one_line(info->id);
    CLEANUP_FREE char *name = one_line(info->name);
    char size[VD_SIZE_TEXT_BYTES], date[64] = "", clock[64], icount[24] = "";
    time_t sec = (time_t)info->date_sec;
    struct tm tm;
    if (localtime_r(&sec, &tm))
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    if (info->flags & VDISK_SNAPSHOT_ICOUNT)
        snprintf(icount, sizeof(icount), "%" PRIu64, info->icount);
    uint64_t seconds = info->vm_clock_nsec / NSEC_PER_SEC;
    snprintf(clock, sizeof(clock), "%02" PRIu64 ":%02" PRIu64 ":%02" PRIu64 ".%03" PRIu64,
             seconds / 3600, seconds / 60 % 60, seconds % 60,
             info->vm_clock_nsec % NSEC_PER_SEC / 1000000);
    printf("%-9s %-16s %8s%20s%13s%11s\n", id ? id : "", name ? name : "",
           vd_size_text(info->vm_state_bytes, size), date, clock, icount);
}

/* Number @index: 0; 1: there is none any more; negative: @err is set. */
static int info_at(struct vdisk_image *image, size_t index, struct vdisk_snapshot_info *info,
                   struct vdisk_error *err)
{
    info->struct_bytes = sizeof(*info);
    int ret = vdisk_image_snapshot_info(image, index, info, err);
    return ret == -ENOENT ? 1 : ret;
}

int vd_cli_print_snapshots(struct vdisk_image *image)
{
    struct vdisk_snapshot_info info;
    struct vdisk_error err = {0};
    int ret;
    for (size_t i = 0; (ret = info_at(image, i, &info, &err)) == 0; i++) {
        if (i == 0)
            printf("Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE",
                   "VM CLOCK", "ICOUNT");
        print_snapshot(&info);
    }
    return ret < 0 ? vd_cli_fail(&err) : 0;
}

static void put_snapshot(struct vd_json *json, json_t *object,
                         const struct vdisk_snapshot_info *info)
{
    if (info->flags & VDISK_SNAPSHOT_ICOUNT)
        vd_json_put_u64(json, object, "icount", info->icount);
    vd_json_put_u64(json, object, "vm-clock-nsec", info->vm_clock_nsec % NSEC_PER_SEC);
    vd_json_put_text(json, object, "name", info->name);
    vd_json_put_u64(json, object, "date-sec", info->date_sec);
    vd_json_put_u64(json, object, "date-nsec", info->date_nsec);
    vd_json_put_u64(json, object, "vm-clock-sec", info->vm_clock_nsec / NSEC_PER_SEC);
    vd_json_put_text(json, object, "id", info->id);
    vd_json_put_u64(json, object, "vm-state-size", info->vm_state_bytes);
    vd_json_put_u64(json, object, "virtual-size", info->virtual_bytes);
}

int vd_cli_put_snapshots(struct vd_json *json, json_t *array, struct vdisk_image *image)
{
    struct vdisk_snapshot_info info;
    struct vdisk_error err = {0};
    int ret;
    for (size_t i = 0; (ret = info_at(image, i, &info, &err)) == 0; i++)
        put_snapshot(json, vd_json_append_object(json, array), &info);
    return ret < 0 ? vd_cli_fail(&err) : 0;
}

static int list(struct vd_cli *cli)
{
    struct vdisk_image *image =
        vd_cli_open(cli, cli->operands[0], cli->format, VDISK_OPEN_CHECK | VDISK_OPEN_FACTS);
    if (!image)
        return 1;
    if (!cli->json)
        return vd_cli_close(image, vd_cli_print_snapshots(image));
    struct vd_json json;
    vd_json_begin_array(&json);
    int status = vd_cli_put_snapshots(&json, json.root, image);
    if (status == 0)
        status = vd_json_print(&json);
    else
        vd_json_drop(&json);
    return vd_cli_close(image, status);
}

/* --- naming ---------------------------------------------------------------------------------- */

int vd_cli_take_snapshot(struct vd_cli *cli, const char *text, struct vd_cli_snapshot *snapshot)
{
    struct vdisk_error err = {0};
    vd_cli_snapshot_free(snapshot);
    *snapshot = (struct vd_cli_snapshot){.key.struct_bytes = sizeof(snapshot->key), //
                                         .is_given = true};
    if (strncmp(text, "snapshot.", 9) != 0) {
        snapshot->key.id_or_name = text;
        return VD_CLI_GO;
    }
    if (vd_optlist_parse(&snapshot->list, text, &err) < 0)
        return vd_cli_fail(&err);
    snapshot->key.id = vd_optlist_take(&snapshot->list, "snapshot.id");
    snapshot->key.name = vd_optlist_take(&snapshot->list, "snapshot.name");
    const struct vd_optlist_entry *odd = vd_optlist_left_over(&snapshot->list);
    if (odd)
        return vd_cli_usage_error(cli,
                                  "-l: Invalid parameter '%s': there are snapshot.id=ID and "
                                  "snapshot.name=NAME",
                                  odd->key);
    return VD_CLI_GO;
}

const struct vdisk_snapshot_key *vd_cli_snapshot_key(const struct vd_cli_snapshot *snapshot)
{
    return snapshot->is_given ? &snapshot->key : NULL;
}

void vd_cli_snapshot_free(struct vd_cli_snapshot *snapshot)
{
    vd_optlist_free(&snapshot->list);
}

/* --- changing -------------------------------------------------------------------------------- */

/*
 * The snapshot that is meant.  As with qemu-img, which of id and name comes first is different: a
 * snapshot is deleted by its name, and by its id only if no snapshot has such a name.
 */
static int find(struct vdisk_image *image, int action, const char *text, size_t *index,
                struct vdisk_error *err)
{
    struct vdisk_snapshot_key by_name = {.struct_bytes = sizeof(by_name), .name = text};
    struct vdisk_snapshot_key by_any = {.struct_bytes = sizeof(by_any), .id_or_name = text};
    if (action == 'd' && vdisk_image_snapshot_find(image, &by_name, index, NULL) == 0)
        return 0;
    return vdisk_image_snapshot_find(image, &by_any, index, err);
}

/* The number of the last one, which there is. */
static int find_last(struct vdisk_image *image, size_t *index, struct vdisk_error *err)
{
    struct vdisk_snapshot_info info;
    size_t count = 0;
    int ret;
    while ((ret = info_at(image, count, &info, err)) == 0)
        count++;
    *index = count - 1;
    return ret < 0 ? ret : 0;
}

/* Puts @index down as what was done something to. */
static int put_object(struct vd_json *json, struct vdisk_image *image, size_t index,
                      struct vdisk_error *err)
{
    struct vdisk_snapshot_info info = {.struct_bytes = sizeof(info)};
    int ret = vdisk_image_snapshot_info(image, index, &info, err);
    if (ret == 0)
        put_snapshot(json, vd_json_put_object(json, json->root, "snapshot"), &info);
    return ret;
}

static int change(struct vdisk_image *image, int action, const char *name, struct vd_json *json,
                  struct vdisk_error *err)
{
    size_t index;
    int ret;
    if (action == 'c') {
        ret = vdisk_image_snapshot_create(image, name, err);
        if (ret == 0)
            ret = find_last(image, &index, err);
    } else {
        ret = find(image, action, name, &index, err);
    }
    if (ret == 0)
        ret = put_object(json, image, index, err);
    if (ret == 0 && action == 'a')
        ret = vdisk_image_snapshot_apply(image, index, err);
    if (ret == 0 && action == 'd')
        ret = vdisk_image_snapshot_delete(image, index, err);
    vd_json_put_u64(json, json->root, "virtual-size", vdisk_image_size(image));
    return ret;
}

int vd_cli_snapshot_action(struct vd_cli *cli, int action, const char *name)
{
    if (action == 'l')
        return list(cli);
    struct vdisk_image *image =
        vd_cli_open(cli, cli->operands[0], cli->format, VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING);
    if (!image)
        return 1;
    struct vd_json json;
    struct vdisk_error err = {0};
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", cli->operands[0]);
    int status = 0;
    if (change(image, action, name, &json, &err) < 0)
        status = vd_cli_fail(&err);
    status = vd_cli_close(image, status);
    if (status == 0 && cli->json)
        return vd_json_print(&json);
    vd_json_drop(&json);
    return status;
}
