/* SPDX-License-Identifier: MIT */
/* The dirty bitmaps of an image, printed. */
#include "cli/bitmaps.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/mem.h"

/* One bitmap, and what has to be counted. */
struct shown {
    struct vdisk_bitmap_info info;
    uint64_t dirty_bytes; /* of one that is consistent */
};

static int look(struct vdisk_image *image, size_t index, bool with_bits, struct shown *shown,
                struct vdisk_error *err)
{
    *shown = (struct shown){.info.struct_bytes = sizeof(shown->info)};
    int ret = vdisk_bitmap_info(image, index, &shown->info, err);
    if (ret == 0 && with_bits && !(shown->info.flags & VDISK_BITMAP_INCONSISTENT))
        ret = vdisk_bitmap_dirty_bytes(image, shown->info.name, &shown->dirty_bytes, err);
    return ret;
}

/* What qemu-img tells of one. */
static void put_facts(struct vd_json *json, json_t *object, const struct vdisk_bitmap_info *info)
{
    json_t *flags = vd_json_put_array(json, object, "flags");
    if (info->flags & VDISK_BITMAP_IN_USE)
        vd_json_append_text(json, flags, "in-use");
    if (info->flags & VDISK_BITMAP_ENABLED)
        vd_json_append_text(json, flags, "auto");
    vd_json_put_text(json, object, "name", info->name);
    vd_json_put_u64(json, object, "granularity", info->granularity);
}

int vd_cli_put_bitmaps(struct vd_json *json, json_t *object, struct vdisk_image *image)
{
    struct vdisk_error err = {0};
    struct shown shown;
    json_t *array = NULL;
    size_t count;
    int ret = vdisk_bitmap_count(image, &count, &err);
    for (size_t i = 0; i < count && ret == 0; i++) {
        ret = look(image, i, false, &shown, &err);
        if (ret < 0 || (shown.info.flags & VDISK_BITMAP_HIDDEN))
            continue;
        if (!array)
            array = vd_json_put_array(json, object, "bitmaps");
        put_facts(json, vd_json_append_object(json, array), &shown.info);
    }
    return ret < 0 ? vd_cli_fail(&err) : 0;
}

int vd_cli_print_bitmaps(const char *indent, struct vdisk_image *image)
{
    struct vdisk_error err = {0};
    struct shown shown;
    bool is_first = true;
    size_t count;
    int ret = vdisk_bitmap_count(image, &count, &err);
    for (size_t i = 0; i < count && ret == 0; i++) {
        ret = look(image, i, false, &shown, &err);
        if (ret < 0 || (shown.info.flags & VDISK_BITMAP_HIDDEN))
            continue;
        if (is_first)
            printf("%sbitmaps:\n", indent);
        is_first = false;
        int flag = 0;
        printf("%s    [%zu]:\n%s        flags:\n", indent, i, indent);
        if (shown.info.flags & VDISK_BITMAP_IN_USE)
            printf("%s            [%d]: in-use\n", indent, flag++);
        if (shown.info.flags & VDISK_BITMAP_ENABLED)
            printf("%s            [%d]: auto\n", indent, flag);
        printf("%s        name: ", indent);
        vd_cli_print_line(shown.info.name);
        printf("\n%s        granularity: %" PRIu64 "\n", indent, shown.info.granularity);
    }
    return ret < 0 ? vd_cli_fail(&err) : 0;
}

static const char *state_of(const struct vdisk_bitmap_info *info)
{
    if (info->flags & VDISK_BITMAP_HIDDEN)
        return "inconsistent, hidden";
    if (info->flags & VDISK_BITMAP_INCONSISTENT)
        return "inconsistent";
    return info->flags & VDISK_BITMAP_ENABLED ? "enabled" : "disabled";
}

static int print_list(struct vdisk_image *image, size_t count)
{
    struct vdisk_error err = {0};
    struct shown shown;
    char granularity[VD_SIZE_TEXT_BYTES], dirty[VD_SIZE_TEXT_BYTES];
    if (count)
        printf("%-11s %-11s %-21s %s\n", "GRANULARITY", "DIRTY", "STATE", "NAME");
    for (size_t i = 0; i < count; i++) {
        if (look(image, i, true, &shown, &err) < 0)
            return vd_cli_fail(&err);
        bool is_known = !(shown.info.flags & VDISK_BITMAP_INCONSISTENT);
        printf("%-11s %-11s %-21s ", vd_size_text(shown.info.granularity, granularity),
               is_known ? vd_size_text(shown.dirty_bytes, dirty) : "-", state_of(&shown.info));
        vd_cli_print_line(shown.info.name);
        printf("\n");
    }
    return 0;
}

static int print_json(struct vdisk_image *image, size_t count)
{
    struct vdisk_error err = {0};
    struct shown shown;
    struct vd_json json;
    vd_json_begin_array(&json);
    for (size_t i = 0; i < count; i++) {
        if (look(image, i, true, &shown, &err) < 0) {
            vd_json_drop(&json);
            return vd_cli_fail(&err);
        }
        uint32_t flags = shown.info.flags;
        json_t *object = vd_json_append_object(&json, json.root);
        put_facts(&json, object, &shown.info);
        vd_json_put_bool(&json, object, "enabled", (flags & VDISK_BITMAP_ENABLED) != 0);
        vd_json_put_bool(&json, object, "inconsistent", (flags & VDISK_BITMAP_INCONSISTENT) != 0);
        vd_json_put_bool(&json, object, "recoverable", (flags & VDISK_BITMAP_RECOVERABLE) != 0);
        vd_json_put_bool(&json, object, "hidden", (flags & VDISK_BITMAP_HIDDEN) != 0);
        if (!(flags & VDISK_BITMAP_INCONSISTENT))
            vd_json_put_u64(&json, object, "dirty-bytes", shown.dirty_bytes);
        vd_json_put_u64(&json, object, "virtual-size", vdisk_image_size(image));
    }
    return vd_json_print(&json);
}

int vd_cli_list_bitmaps(struct vd_cli *cli)
{
    struct vdisk_error err = {0};
    size_t count;
    struct vdisk_image *image =
        vd_cli_open(cli, cli->operands[0], cli->format, VDISK_OPEN_NO_BACKING);
    if (!image)
        return 1;
    int status;
    if (vdisk_bitmap_count(image, &count, &err) < 0)
        status = vd_cli_fail(&err);
    else
        status = cli->json ? print_json(image, count) : print_list(image, count);
    return vd_cli_close(image, status);
}

/* Told of each run. */
struct run_printer {
    struct vd_json json; /* root NULL: for people, who see what is dirty only */
};

static void print_run(struct run_printer *printer, const struct vdisk_bitmap_extent *run)
{
    if (!printer->json.root) {
        if (run->is_dirty)
            printf("%-#16" PRIx64 "%#" PRIx64 "\n", run->offset, run->length);
        return;
    }
    json_t *object = vd_json_append_object(&printer->json, printer->json.root);
    vd_json_put_u64(&printer->json, object, "start", run->offset);
    vd_json_put_u64(&printer->json, object, "length", run->length);
    vd_json_put_bool(&printer->json, object, "dirty", run->is_dirty);
}

static int print_map(struct vd_cli *cli, struct vdisk_image *image)
{
    struct run_printer printer = {0};
    struct vdisk_error err = {0};
    struct vdisk_bitmap_extent run = {0};
    uint64_t size = vdisk_image_size(image);
    int ret = 0;
    if (cli->json)
        vd_json_begin_array(&printer.json);
    for (uint64_t at = 0; at < size && ret == 0; at += run.length) {
        ret = vdisk_bitmap_extent(image, cli->operands[1], at, size - at, &run, &err);
        if (ret == 0 && at == 0 && !cli->json)
            printf("%-16s%s\n", "Offset", "Length");
        if (ret == 0)
            print_run(&printer, &run);
    }
    if (ret < 0) {
        vd_json_drop(&printer.json);
        return vd_cli_fail(&err);
    }
    return cli->json ? vd_json_print(&printer.json) : 0;
}

int vd_cli_map_bitmap(struct vd_cli *cli)
{
    struct vdisk_image *image =
        vd_cli_open(cli, cli->operands[0], cli->format, VDISK_OPEN_NO_BACKING);
    return image ? vd_cli_close(image, print_map(cli, image)) : 1;
}
