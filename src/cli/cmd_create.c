/* SPDX-License-Identifier: MIT */
/* vdisk create: make a new, empty image. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/createopt.h"
#include "cli/encryptopt.h"
#include "cli/optlist.h"
#include "cli/output.h"
#include "cli/size.h"
#include "util/mem.h"

static const struct vd_cli_option options[] = {
    {'o', NULL, "KEY=VALUE,...", "options of the format; -o help lists them"},
    {'b', NULL, "BACKING", "make an overlay on BACKING: only what is written to it takes space"},
    {'B', NULL, "BACKING", NULL}, /* as newer versions of qemu-img call it */
    {'F', NULL, "FMT", "format of BACKING"},
    {'u', NULL, NULL, "do not open BACKING, which need not be there; SIZE is needed then"},
    {0},
};

struct create_args {
    struct vd_optlist list;
    struct vdisk_create_options create;
    struct vdisk_encrypt_options encrypt;
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
    case 'F':
        args->create.backing_format = value;
        break;
    case 'u':
        args->create.flags |= VDISK_CREATE_NO_CHECK;
        break;
    default: /* b, B */
        args->create.backing = value;
        break;
    }
    return VD_CLI_GO;
}

static int print_json(const char *name, const char *format,
                      const struct vdisk_create_options *create)
{
    struct vd_json json;
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", name);
    vd_json_put_text(&json, json.root, "format", format);
    vd_json_put_u64(&json, json.root, "virtual-size", create->size);
    vd_json_put_text(&json, json.root, "preallocation",
                     vd_preallocation_name(create->preallocation));
    if (create->backing) {
        vd_json_put_name(&json, json.root, "backing-filename", create->backing);
        vd_json_put_text(&json, json.root, "backing-filename-format", create->backing_format);
    }
    if (create->encrypt)
        vd_json_put_bool(&json, json.root, "encrypted", true);
    if (create->data_file)
        vd_json_put_name(&json, json.root, "data-file", create->data_file);
    return vd_json_print(&json);
}

static void print_human(const char *name, const char *format,
                        const struct vdisk_create_options *create)
{
    CLEANUP_FREE char *shown = vd_cli_shown_name(name);
    printf("Formatting '%s', fmt=%s", shown ? shown : "", format);
    vd_create_options_tell_first(format, create);
    printf(" size=%" PRIu64, create->size);
    vd_create_options_tell(format, create);
    printf("\n");
    fflush(stdout);
}

/* The size that the image has got from the files it is made on, which the user has named. */
static int find_size(const struct vd_cli *cli, const char *name, const char *format,
                     struct vdisk_create_options *create)
{
    struct vdisk_gate gate = {.struct_bytes = sizeof(gate), .flags = VDISK_GATE_ANY};
    struct vdisk_open_options open = vd_cli_open_options(cli, format, VDISK_OPEN_NO_BACKING);
    struct vdisk_image *image;
    struct vdisk_error err = {0};
    open.gate = &gate;
    if (vdisk_image_open(name, &open, &image, &err) < 0)
        return vd_cli_fail(&err);
    create->size = vdisk_image_size(image);
    return vd_cli_close(image, VD_CLI_GO);
}

static int create(struct vd_cli *cli, const char *name, const char *size_text,
                  struct create_args *args)
{
    struct vdisk_create_options *create = &args->create;
    const char *format = cli->format ? cli->format : "raw";
    if (strcmp(format, "gow") == 0)
        format = "gow3";
    if (args->list.wants_help) {
        vd_create_options_print(format);
        return 0;
    }
    int status = vd_encrypt_options_take(cli, &args->list, format, &args->encrypt, create);
    if (status == VD_CLI_GO)
        status = vd_create_options_take(&args->list, format, size_text, false, create);
    if (status != VD_CLI_GO)
        return status;
    if (!name)
        return vd_cli_usage_error(cli, "too few arguments: FILE [SIZE] wanted");
    create->network = &cli->network;
    create->passphrases = &cli->keys.list;
    create->gate = &cli->gate;

    /* As qemu-img: said first, so that it is seen while space is being set aside. */
    bool has_size = create->size || (!create->backing && !create->data_file);
    bool tells = !cli->quiet && !cli->json;
    if (tells && has_size)
        print_human(name, format, create);
    struct vdisk_error err = {0};
    if (vdisk_image_create(name, format, create, &err) < 0)
        return vd_cli_fail(&err);
    if (!has_size && !cli->quiet)
        status = find_size(cli, name, format, create);
    if (status != VD_CLI_GO)
        return status;
    if (tells && !has_size)
        print_human(name, format, create);
    return cli->json ? print_json(name, format, create) : 0;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct create_args args = {.create = {.struct_bytes = sizeof(args.create)}};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, args.list.wants_help ? 0 : 1, 2, "FILE [SIZE]");
    if (status == VD_CLI_GO)
        status = create(cli, cli->operand_count > 0 ? cli->operands[0] : NULL,
                        cli->operand_count > 1 ? cli->operands[1] : NULL, &args);
    vd_optlist_free(&args.list);
    return status;
}

const struct vd_cli_verb vd_cmd_create = {
    .name = "create",
    .synopsis = "[-f FMT] [-o OPTIONS] [-b BACKING -F FMT [-u]] [-q] [--output=human|json] "
                "FILE [SIZE]",
    .help = "Make a new, empty image",
    .text =
        "FMT is raw if not given; gow means gow3.  SIZE is in bytes, or with a suffix k, M, G,\n"
        "T, P or E; -o size=SIZE gives it as well.  An overlay is as large as BACKING unless told\n"
        "otherwise; a relative name of BACKING counts from the directory of FILE.  An existing\n"
        "FILE is emptied.\n",
    .common =
        VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_OUTPUT | VD_CLI_NETWORK | VD_CLI_GATE | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
