/* SPDX-License-Identifier: MIT */
/* vdisk create: make a new, empty image. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/createopt.h"
#include "cli/optlist.h"
#include "cli/output.h"
#include "cli/size.h"
#include "util/mem.h"

static const struct vd_cli_option options[] = {
    {'o', NULL, "KEY=VALUE,...", "options of the format; -o help lists them"},
    /* qemu-img's, refused: no format that can be created has backing files. */
    {'b', NULL, "BACKING", NULL},
    {'F', NULL, "FMT", NULL},
    {'u', NULL, NULL, NULL},
    {0},
};

struct create_args {
    struct vd_optlist list;
    bool has_backing;
    char backing_option;
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct create_args *args = opaque;
    struct vdisk_error err = {0};
    (void)cli;
    switch (key) {
    case 'o':
        if (vd_optlist_parse(&args->list, value, &err) < 0)
            return vd_cli_fail(&err);
        break;
    default: /* b, F, u */
        args->has_backing = true;
        args->backing_option = (char)key;
        break;
    }
    return VD_CLI_GO;
}

static int print_result(const struct vd_cli *cli, const char *name, const char *format,
                        const struct vdisk_create_options *create)
{
    if (!cli->json) {
        /* As qemu-img: said first, so that it is seen while space is being set aside. */
        CLEANUP_FREE char *shown = vd_cli_shown_name(name);
        printf("Formatting '%s', fmt=%s size=%" PRIu64, shown ? shown : "", format, create->size);
        if (create->preallocation != VDISK_PREALLOCATION_OFF)
            printf(" preallocation=%s", vd_preallocation_name(create->preallocation));
        printf("\n");
        fflush(stdout);
        return 0;
    }
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", name);
    vd_json_put_text(&json, json.root, "format", format);
    vd_json_put_u64(&json, json.root, "virtual-size", create->size);
    vd_json_put_text(&json, json.root, "preallocation",
                     vd_preallocation_name(create->preallocation));
    return vd_json_print(&json);
}

static int create(struct vd_cli *cli, const char *name, const char *size_text,
                  struct vd_optlist *list)
{
    const char *format = cli->format ? cli->format : "raw";
    if (strcmp(format, "gow") == 0)
        format = "gow3";
    if (list->wants_help) {
        vd_create_options_print(format);
        return 0;
    }
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    int status = vd_create_options_take(list, format, size_text, false, &create);
    if (status != VD_CLI_GO)
        return status;
    if (!name)
        return vd_cli_usage_error(cli, "too few arguments: FILE SIZE wanted");

    if (!cli->quiet && !cli->json)
        print_result(cli, name, format, &create);
    struct vdisk_error err = {0};
    if (vdisk_image_create(name, format, &create, &err) < 0)
        return vd_cli_fail(&err);
    return cli->json ? print_result(cli, name, format, &create) : 0;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct create_args args = {0};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO && args.has_backing)
        status = vd_cli_usage_error(cli,
                                    "-%c: none of the formats that can be created has backing "
                                    "files; copy the image with 'vdisk convert' instead",
                                    args.backing_option);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, args.list.wants_help ? 0 : 1, 2, "FILE [SIZE]");
    if (status == VD_CLI_GO)
        status = create(cli, cli->operand_count > 0 ? cli->operands[0] : NULL,
                        cli->operand_count > 1 ? cli->operands[1] : NULL, &args.list);
    vd_optlist_free(&args.list);
    return status;
}

const struct vd_cli_verb vd_cmd_create = {
    .name = "create",
    .synopsis = "[-f FMT] [-o OPTIONS] [-q] [--output=human|json] FILE [SIZE]",
    .help = "Make a new, empty image",
    .text =
        "FMT is raw if not given; gow means gow3.  SIZE is in bytes, or with a suffix k, M, G,\n"
        "T, P or E; -o size=SIZE gives it as well.  An existing FILE is emptied.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_OUTPUT,
    .options = options,
    .run = run,
};
