/* SPDX-License-Identifier: MIT */
/* vdisk amend: change what an image says of its format. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/encryptopt.h"
#include "cli/optlist.h"
#include "cli/output.h"

enum {
    KEY_FORCE = VD_CLI_KEY_VERB
};

static const struct vd_cli_option options[] = {
    {'o', NULL, "KEY=VALUE,...", "what to change; -o help lists it"},
    {KEY_FORCE, "force", NULL, "erase the last key slot too: the data is lost then"},
    {0},
};

struct amend_args {
    struct vd_optlist list;
    bool is_forced;
};

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct amend_args *args = opaque;
    struct vdisk_error err = {0};
    (void)cli;
    if (key == KEY_FORCE)
        args->is_forced = true;
    else if (vd_optlist_parse(&args->list, value, &err) < 0)
        return vd_cli_fail(&err);
    return VD_CLI_GO;
}

static int print_keys(void)
{
    printf("Amend options:\n"
           "  compat=<str>           - qcow2: 1.1 (v3) or 0.10 (v2); qed: final, in place of the\n"
           "                           header of a draft\n"
           "  data_file=<str>        - qcow2: name of the data file that there is\n"
           "  data_file_raw=<off>    - qcow2: the data file alone need not be the disk\n"
           "  draft=<str>            - qed: the draft it is of: draft-1, draft-2 or draft-3\n"
           "  lazy_refcounts=<on/off> - qcow2: writers may update refcounts late\n"
           "  refcount_bits=<n>      - qcow2: width of a reference count, 1 to 64\n");
    vd_key_slot_print();
    return 0;
}

/* An option that is on or off: one of the two flags.  A flag of 0 can not be asked for. */
static int take_switch(struct vd_cli *cli, struct vd_optlist *list, const char *key, uint32_t on,
                       uint32_t off, uint32_t *flags)
{
    const char *text = vd_optlist_take(list, key);
    if (!text)
        return VD_CLI_GO;
    if (strcmp(text, "off") == 0)
        *flags |= off;
    else if (on && strcmp(text, "on") == 0)
        *flags |= on;
    else
        return vd_cli_usage_error(cli, "-o %s=%s: can only be %s", key, text,
                                  on ? "on or off" : "off");
    return VD_CLI_GO;
}

static int take_qcow2(struct vd_cli *cli, struct vd_optlist *list,
                      struct vdisk_amend_options *amend)
{
    const char *bits = vd_optlist_take(list, "refcount_bits");
    uint64_t number = 0;
    amend->data_file = vd_optlist_take(list, "data_file");
    int status = bits ? vd_cli_parse_size("-o refcount_bits", bits, &number) : VD_CLI_GO;
    if (status != VD_CLI_GO)
        return status;
    if (bits && (number == 0 || number > 64))
        return vd_cli_usage_error(cli, "-o refcount_bits=%s: must be 1, 2, 4, 8, 16, 32 or 64",
                                  bits);
    amend->refcount_bits = (uint32_t)number;
    status = take_switch(cli, list, "lazy_refcounts", VDISK_AMEND_LAZY_REFCOUNTS,
                         VDISK_AMEND_NO_LAZY_REFCOUNTS, &amend->flags);
    if (status == VD_CLI_GO)
        status = take_switch(cli, list, "data_file_raw", 0, VDISK_AMEND_NO_DATA_RAW, &amend->flags);
    return status;
}

/* Takes the options out of @list, whose words they stay. */
static int take_list(struct vd_cli *cli, struct vd_optlist *list, bool is_forced,
                     struct vd_key_slot_request *request, struct vdisk_amend_options *amend)
{
    int status = vd_key_slot_take(cli, list, is_forced, request);
    if (status != VD_CLI_GO)
        return status;
    if (request->is_asked)
        amend->key_slot = &request->options;
    amend->compat = vd_optlist_take(list, "compat");
    amend->draft = vd_optlist_take(list, "draft");
    status = take_qcow2(cli, list, amend);
    if (status != VD_CLI_GO)
        return status;
    const struct vd_optlist_entry *left = vd_optlist_left_over(list);
    if (left && !left->value)
        return vd_cli_usage_error(cli, "-o %s: needs a value: %s=...", left->key, left->key);
    if (left)
        return vd_cli_usage_error(cli, "-o %s: can not be changed; -o help lists what can",
                                  left->key);
    if (!list->entry_count)
        return vd_cli_usage_error(cli, "Must specify options (-o)");
    if (amend->draft && !amend->compat)
        return vd_cli_usage_error(cli, "-o draft: tells what is there; compat=final is wanted too");
    return VD_CLI_GO;
}

static int print_result(const struct vd_cli *cli, const struct vdisk_amend_options *amend)
{
    struct vd_json json;
    if (!cli->json)
        return 0; /* as qemu-img, which prints nothing */
    vd_json_begin_object(&json);
    vd_json_put_name(&json, json.root, "filename", cli->operands[0]);
    if (amend->compat)
        vd_json_put_text(&json, json.root, "compat", amend->compat);
    return vd_json_print(&json);
}

static int amend(struct vd_cli *cli, struct amend_args *args)
{
    struct vdisk_amend_options amend = {.struct_bytes = sizeof(amend),
                                        .passphrases = &cli->keys.list};
    struct vd_key_slot_request request;
    struct vdisk_error err = {0};
    if (args->list.wants_help)
        return print_keys();
    int status = take_list(cli, &args->list, args->is_forced, &request, &amend);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, 1, "FILE");
    if (status != VD_CLI_GO)
        return status;
    if (vdisk_image_amend(cli->operands[0], cli->format, &amend, &err) < 0)
        return vd_cli_fail(&err);
    return print_result(cli, &amend);
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct amend_args args = {0};
    int status = vd_cli_parse(cli, argc, argv, take, &args);
    if (status == VD_CLI_GO)
        status = amend(cli, &args);
    vd_optlist_free(&args.list);
    return status;
}

const struct vd_cli_verb vd_cmd_amend = {
    .name = "amend",
    .synopsis = "[-f FMT] -o OPTIONS [--force] [-q] [--output=human|json] FILE",
    .help = "Change what an image says of its format",
    .text =
        "-o compat=final gives a QED image that has the header of a draft of 2010 the one that\n"
        "everybody reads; qcow2 has other options, as -o compat=0.10.  The disk stays as it is.\n"
        "-o encrypt.state=active,encrypt.new-secret=ID adds a passphrase to an encrypted image,\n"
        "-o encrypt.state=inactive with encrypt.keyslot=N or encrypt.old-secret=ID erases some.\n",
    .common = VD_CLI_FORMAT | VD_CLI_QUIET | VD_CLI_OUTPUT | VD_CLI_KEYS,
    .options = options,
    .run = run,
};
