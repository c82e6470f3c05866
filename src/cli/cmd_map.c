/* SPDX-License-Identifier: MIT */
/* vdisk map: where the bytes of a disk lie. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "util/range.h"

static const struct vd_cli_option options[] = {
    {'s', "start-offset", "OFFSET", "begin there (default 0)"},
    {'l', "max-length", "LENGTH", "look at so many bytes (default: to the end)"},
    {0},
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct vd_range *range = opaque;
    (void)cli;
    return vd_cli_parse_size(key == 's' ? "--start-offset" : "--max-length", value,
                             key == 's' ? &range->offset : &range->length);
}

static const char *word(uint32_t flags, uint32_t flag)
{
    return flags & flag ? "true" : "false";
}

/* Keys in qemu-img's order, one entry a line: scripts read it with line tools. */
static void print_json(const struct vdisk_extent *extent, bool is_first)
{
    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %" PRIu32
           ", \"present\": %s, \"zero\": %s, \"data\": %s, \"compressed\": %s",
           is_first ? "" : ",\n", extent->offset, extent->length, extent->depth,
           word(extent->flags, VDISK_EXTENT_PRESENT), word(extent->flags, VDISK_EXTENT_ZERO),
           word(extent->flags, VDISK_EXTENT_DATA), word(extent->flags, VDISK_EXTENT_COMPRESSED));
    if (extent->flags & VDISK_EXTENT_OFFSET)
        printf(", \"offset\": %" PRIu64, extent->host_offset);
    printf("}");
}

/* Returns 0, or 1: data that has no place in a file. */
static int print_human(const struct vdisk_extent *extent)
{
    if (!(extent->flags & VDISK_EXTENT_DATA) || (extent->flags & VDISK_EXTENT_ZERO))
        return 0;
    if (!(extent->flags & VDISK_EXTENT_OFFSET)) {
        vd_cli_error("File contains external, encrypted or compressed clusters.");
        return 1;
    }
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", extent->offset, extent->length,
           extent->host_offset, extent->host_name);
    return 0;
}

/* The image last asked whether it has clusters, so that not every extent costs a look at a file. */
struct asked {
    struct vdisk_image *image;
    bool has_clusters;
};

static bool has_clusters(struct asked *asked, struct vdisk_image *image)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    if (asked->image == image)
        return asked->has_clusters;
    asked->image = image;
    asked->has_clusters = vdisk_image_info(image, &info, NULL) == 0 && info.cluster_bytes != 0;
    return asked->has_clusters;
}

/*
 * Zeros behind the end of a short image are, to qemu-img map, those that the image on it has for
 * lack of an entry; to the library they are the short image's.  And a cluster that is allocated is
 * data to it, also where the file has a hole there: that reads as zero, and is told as both.
 */
static void tell_as_qemu(struct asked *asked, struct vdisk_image *image,
                         struct vdisk_extent *extent)
{
    const uint32_t zero = VDISK_EXTENT_ZERO | VDISK_EXTENT_PRESENT;
    bool is_hole = (extent->flags & VDISK_EXTENT_HOLE) != 0;
    if (!is_hole && extent->flags != zero)
        return;
    for (uint32_t i = 0; i < extent->depth; i++)
        image = vdisk_image_backing(image);
    if (is_hole) {
        if (has_clusters(asked, image))
            extent->flags |= VDISK_EXTENT_DATA;
        return;
    }
    uint64_t size = vdisk_image_size(image);
    if (extent->depth == 0)
        return;
    if (extent->offset < size) {
        extent->length = vd_min(extent->length, size - extent->offset);
        return;
    }
    extent->depth--;
    extent->flags = VDISK_EXTENT_ZERO;
}

static int print_extents(const struct vd_cli *cli, struct vdisk_image *image, struct vd_range rest)
{
    struct asked asked = {0};
    bool is_first = true;
    while (rest.length) {
        struct vdisk_extent extent;
        struct vdisk_error err = {0};
        if (vdisk_image_extent(image, rest.offset, rest.length, &extent, &err) < 0)
            return vd_cli_fail(&err);
        tell_as_qemu(&asked, image, &extent);
        if (cli->json)
            print_json(&extent, is_first);
        else if (print_human(&extent) != 0)
            return 1;
        is_first = false;
        rest = vd_range(rest.offset + extent.length, rest.length - extent.length);
    }
    return 0;
}

static int map(const struct vd_cli *cli, struct vdisk_image *image, struct vd_range wanted)
{
    uint64_t size = vdisk_image_size(image);
    struct vd_range range = vd_range(vd_min(wanted.offset, size), 0);
    range.length = vd_min(wanted.length, size - range.offset);

    printf("%s", cli->json ? "[" : "Offset          Length          Mapped to       File\n");
    int status = print_extents(cli, image, range);
    if (cli->json)
        printf("]\n");
    return status;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct vd_range range = vd_range(0, UINT64_MAX);
    int status = vd_cli_parse(cli, argc, argv, take, &range);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status != VD_CLI_GO)
        return status;
    struct vdisk_image *image = vd_cli_open(cli, cli->operands[0], cli->format, 0);
    return image ? vd_cli_close(image, map(cli, image, range)) : 1;
}

const struct vd_cli_verb vd_cmd_map = {
    .name = "map",
    .synopsis = "[-f FMT] [--start-offset=OFFSET] [--max-length=LENGTH] [-U] "
                "[--output=human|json] FILE",
    .help = "Print where the bytes of a disk lie",
    .text = "For people, only runs that hold data; as JSON, all of them.\n",
    .common =
        VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
