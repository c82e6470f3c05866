/* SPDX-License-Identifier: MIT */
/* vdisk resize: change the size of a disk. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/createopt.h"
#include "cli/output.h"
#include "cli/size.h"

enum {
    KEY_PREALLOCATION = VD_CLI_KEY_VERB,
    KEY_SHRINK
};

static const struct vd_cli_option options[] = {
    {KEY_SHRINK, "shrink", NULL, "allow the disk to become smaller: what is cut off is lost"},
    {KEY_PREALLOCATION, "preallocation", "off|falloc|full",
     "space set aside for what is added (raw only)"},
    {0},
};

struct resize_args {
    bool may_shrink;
    enum vdisk_preallocation preallocation;
    const char *size_text;
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct resize_args *args = opaque;
    (void)cli;
    if (key == KEY_PREALLOCATION)
        return vd_preallocation_parse("--preallocation", value, &args->preallocation);
    args->may_shrink = true;
    return VD_CLI_GO;
}

/* The new size of a disk that has @before bytes.  Returns VD_CLI_GO or the exit status. */
static int new_size(const char *text, uint64_t before, uint64_t *size)
{
    struct vd_size_change change;
    int ret = vd_size_parse_change(text, &change);
    if (ret < 0) {
        vd_cli_error("'%s': %s", text, vd_size_problem(ret));
        return 1;
    }
    *size = change.bytes;
    if (change.kind == VD_SIZE_ADD)
        *size = before + change.bytes; /* both are below 2^63 */
    if (change.kind == VD_SIZE_SUBTRACT)
        *size = change.bytes < before ? before - change.bytes : 0;
    if (*size == 0) {
        vd_cli_error("New image size must be positive: the disk has %" PRIu64 " bytes, change %s",
                     before, text);
        return 1;
    }
    return VD_CLI_GO;
}

/* Is the change what the user allowed?  Returns VD_CLI_GO or the exit status. */
static int check_change(const char *name, const struct resize_args *args, uint64_t before,
                        uint64_t size)
{
    if (size >= before)
        return VD_CLI_GO;
    if (!args->may_shrink) {
        vd_cli_error("Use the --shrink option to perform a shrink operation.");
        vd_cli_warning("Shrinking an image will delete all data beyond the shrunken image's end. "
                       "Before performing such an operation, make sure there is no important data "
                       "there: %s has %" PRIu64 " bytes, %" PRIu64 " wanted.",
                       name, before, size);
        return 1;
    }
    if (args->preallocation != VDISK_PREALLOCATION_OFF) {
        vd_cli_error("Preallocation can only be used for growing images: %s has %" PRIu64
                     " bytes, %" PRIu64 " wanted",
                     name, before, size);
        return 1;
    }
    return VD_CLI_GO;
}

static int print_result(const struct vd_cli *cli, const char *name, uint64_t before, uint64_t after)
{
    if (!cli->json) {
        printf("Image resized.\n");
        return 0;
    }
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_text(&json, json.root, "filename", name);
    vd_json_put_u64(&json, json.root, "previous-size", before);
    vd_json_put_u64(&json, json.root, "virtual-size", after);
    return vd_json_print(&json);
}

static int resize(const struct vd_cli *cli, const struct resize_args *args)
{
    const char *name = cli->operands[0];
    struct vdisk_image *image = vd_cli_open(cli, name, cli->format, VDISK_OPEN_WRITE);
    if (!image)
        return 1;
    uint64_t before = vdisk_image_size(image);
    uint64_t size = 0;
    struct vdisk_error err = {0};
    int status = new_size(args->size_text, before, &size);
    if (status == VD_CLI_GO)
        status = check_change(name, args, before, size);
    if (status == VD_CLI_GO) {
        status = 0;
        if (vdisk_image_resize(image, size, args->preallocation, &err) < 0)
            status = vd_cli_fail(&err);
    }
    uint64_t after = vdisk_image_size(image);
    status = vd_cli_close(image, status);
    if (status == 0 && !cli->quiet)
        status = print_result(cli, name, before, after);
    return status;
}

/* Takes the argument that is a change such as -1G out: no option looks like it. */
static const char *steal_negative(int *argc, char **argv)
{
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--") == 0)
            return NULL;
        if (argv[i][0] != '-' || argv[i][1] < '0' || argv[i][1] > '9')
            continue;
        const char *found = argv[i];
        memmove(&argv[i], &argv[i + 1], (size_t)(*argc - i) * sizeof(argv[0])); /* NULL too */
        (*argc)--;
        return found;
    }
    return NULL;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct resize_args args = {.size_text = steal_negative(&argc, argv)};
    int operands = args.size_text ? 1 : 2;
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, operands, operands, "FILE [+|-]SIZE");
    if (status != VD_CLI_GO)
        return status;
    if (!args.size_text)
        args.size_text = cli->operands[1];
    return resize(cli, &args);
}

const struct vd_cli_verb vd_cmd_resize = {
    .name = "resize",
    .synopsis = "[-f FMT] [--shrink] [--preallocation=MODE] [-q] [--output=human|json] "
                "FILE [+|-]SIZE",
    .help = "Change the size of a disk",
    .text = "SIZE with + or - in front is a change.  What is added reads as zeros.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_OUTPUT | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
