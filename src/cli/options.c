/* SPDX-License-Identifier: MIT */
/* Parsing the options of a verb, its own and the common ones; --help is printed from them too. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cache.h"
#include "cli/cli.h"
#include "cli/secret.h"
#include "cli/size.h"
#include "util/mem.h"

enum {
    KEY_HELP = VD_CLI_KEY_COMMON,
    KEY_OUTPUT,
    KEY_PROGRESS_FD,
    KEY_IMAGE_OPTS,
    KEY_TIMEOUT,
    KEY_RETRIES,
    KEY_CONNECTIONS,
    KEY_CA_FILE,
    KEY_USER,
    KEY_PASSWORD_FILE,
    KEY_BEARER_FILE,
    KEY_ALLOW_PATH,
    KEY_ALLOW_JSON,
    KEY_NO_BACKING,
    KEY_PASSPHRASE_FILE,
    KEY_PASSPHRASE_FD,
    KEY_OBJECT,
};

#define TIMEOUT_SECONDS_MAX 86400u
#define RETRIES_MAX         1000u
#define CONNECTIONS_MAX     64u

struct common_option {
    uint32_t group; /* of enum vd_cli_common; 0: every verb has it */
    struct vd_cli_option option;
};

static const struct common_option common_options[] = {
    {VD_CLI_FORMAT, {'f', NULL, "FMT", "format of the image: see 'Formats' in vdisk(1)"}},
    {VD_CLI_QUIET, {'q', "quiet", NULL, "print nothing but errors"}},
    {VD_CLI_SHARE, {'U', "force-share", NULL, "read although another process may be writing"}},
    {VD_CLI_CACHE, {'t', NULL, "CACHE", "cache mode for writing: " VD_CACHE_MODES}},
    {VD_CLI_SOURCE_CACHE, {'T', NULL, "CACHE", "cache mode for reading: " VD_CACHE_MODES}},
    {VD_CLI_PROGRESS, {'p', NULL, NULL, "show progress"}},
    {VD_CLI_PROGRESS,
     {KEY_PROGRESS_FD, "progress", "FD", "write progress to file descriptor FD, as JSON lines"}},
    {VD_CLI_OUTPUT, {KEY_OUTPUT, "output", "human|json", "form of what is printed"}},
    {VD_CLI_NETWORK,
     {KEY_TIMEOUT, "timeout", "SECONDS", "give a silent server up after SECONDS (default 30)"}},
    {VD_CLI_NETWORK,
     {KEY_RETRIES, "retries", "N", "try a failed request N times again (default 5)"}},
    {VD_CLI_NETWORK,
     {KEY_CONNECTIONS, "connections", "N", "connections to one server at once (default 4)"}},
    {VD_CLI_NETWORK,
     {KEY_CA_FILE, "ca-file", "FILE", "trust the certificates in FILE, not the system's"}},
    {VD_CLI_NETWORK, {KEY_USER, "user", "NAME", "user name for the server"}},
    {VD_CLI_NETWORK,
     {KEY_PASSWORD_FILE, "password-file", "FILE", "password is the first line of FILE"}},
    {VD_CLI_NETWORK,
     {KEY_BEARER_FILE, "bearer-file", "FILE", "bearer token is the first line of FILE"}},
    {VD_CLI_GATE,
     {KEY_ALLOW_PATH, "allow-path", "DIR", "images may also name files in DIR; may be repeated"}},
    {VD_CLI_GATE, {KEY_ALLOW_JSON, "allow-json", NULL, "images may name files by json: names"}},
    {VD_CLI_GATE,
     {KEY_NO_BACKING, "no-backing", NULL, "open no file that an image names: such are refused"}},
    {VD_CLI_KEYS,
     {KEY_PASSPHRASE_FILE, "passphrase-file", "FILE",
      "passphrase for encrypted images; may be repeated"}},
    {VD_CLI_KEYS, {KEY_PASSPHRASE_FD, "passphrase-fd", "FD", "the same from a file descriptor"}},
    {VD_CLI_KEYS,
     {KEY_OBJECT, "object", "secret,id=ID,file=PATH", "the same as qemu-img takes it"}},
    {VD_CLI_FORMAT, {KEY_IMAGE_OPTS, "image-opts", NULL, NULL}},
    {0, {KEY_HELP, "help", NULL, "print this help"}},
    {0, {'h', NULL, NULL, NULL}},
};

#define COMMON_ENTRIES (sizeof(common_options) / sizeof(common_options[0]))

static bool verb_has(const struct vd_cli_verb *verb, const struct common_option *common)
{
    return !common->group || (verb->common & common->group);
}

static size_t own_entries(const struct vd_cli_verb *verb)
{
    size_t entries = 0;
    while (verb->options && verb->options[entries].key)
        entries++;
    return entries;
}

/* --- the verb's options in the form that getopt_long() takes ------------------------------ */

struct getopt_tables {
    char *letters; /* ":" first: tells a missing argument from an unknown option */
    struct option *longs;
    size_t letters_used, longs_used;
};

static void add_option(struct getopt_tables *tables, const struct vd_cli_option *option)
{
    if (option->key < VD_CLI_KEY_COMMON) {
        tables->letters[tables->letters_used++] = (char)option->key;
        if (option->arg)
            tables->letters[tables->letters_used++] = ':';
    }
    if (option->name)
        tables->longs[tables->longs_used++] =
            (struct option){.name = option->name,
                            .has_arg = option->arg ? required_argument : no_argument,
                            .val = option->key};
}

static bool make_tables(const struct vd_cli_verb *verb, struct getopt_tables *tables)
{
    size_t entries = own_entries(verb);
    *tables = (struct getopt_tables){
        .letters = vd_alloc_array((entries + COMMON_ENTRIES) * 2 + 2, 1),
        .longs = vd_alloc_array(entries + COMMON_ENTRIES + 1, sizeof(struct option)),
    };
    if (!tables->letters || !tables->longs)
        return false;
    tables->letters[tables->letters_used++] = ':';
    for (size_t i = 0; i < entries; i++)
        add_option(tables, &verb->options[i]);
    for (size_t i = 0; i < COMMON_ENTRIES; i++)
        if (verb_has(verb, &common_options[i]))
            add_option(tables, &common_options[i].option);
    return true;
}

/* --- taking the common options -------------------------------------------------------------- */

int vd_cli_parse_number(struct vd_cli *cli, const char *option, const char *text, uint64_t min,
                        uint64_t max, uint64_t *value)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    bool is_number = text[0] >= '0' && text[0] <= '9' && *end == '\0';
    if (!is_number || errno || number < min || number > max)
        return vd_cli_usage_error(cli,
                                  "%s: '%s' is not a whole number from %" PRIu64 " to %" PRIu64,
                                  option, text, min, max);
    *value = number;
    return VD_CLI_GO;
}

int vd_cli_parse_size(const char *option, const char *text, uint64_t *size)
{
    int ret = vd_size_parse(text, size);
    if (ret == 0)
        return VD_CLI_GO;
    vd_cli_error("%s%s'%s': %s", option ? option : "", option ? " " : "", text,
                 vd_size_problem(ret));
    return 1;
}

static int take_cache(struct vd_cli *cli, char letter, const char *value, uint32_t *flags)
{
    if (vd_cache_mode(value, flags))
        return VD_CLI_GO;
    return vd_cli_usage_error(cli, "-%c: unknown cache mode '%s': use one of %s", letter, value,
                              VD_CACHE_MODES);
}

static int take_output(struct vd_cli *cli, const char *value)
{
    cli->json = strcmp(value, "json") == 0;
    if (cli->json || strcmp(value, "human") == 0)
        return VD_CLI_GO;
    return vd_cli_usage_error(cli, "--output: '%s' is neither human nor json", value);
}

static int take_secret(const char *option, const char *file, char **secret, const char **field)
{
    struct vdisk_error err = {0};
    vd_secret_free(secret);
    if (vd_secret_read(file, secret, &err) < 0) {
        vd_cli_error("%s: %s", option, err.message);
        return 1;
    }
    *field = *secret;
    return VD_CLI_GO;
}

static int take_network(struct vd_cli *cli, int key, const char *value)
{
    struct vdisk_network_options *network = &cli->network;
    uint64_t number;
    int status = VD_CLI_GO;
    switch (key) {
    case KEY_TIMEOUT:
        status = vd_cli_parse_number(cli, "--timeout", value, 1, TIMEOUT_SECONDS_MAX, &number);
        if (status == VD_CLI_GO)
            network->timeout_ms = (uint32_t)number * 1000;
        break;
    case KEY_RETRIES:
        status = vd_cli_parse_number(cli, "--retries", value, 0, RETRIES_MAX, &number);
        if (status == VD_CLI_GO)
            network->retries = number ? (uint32_t)number : VDISK_NO_RETRIES;
        break;
    case KEY_CONNECTIONS:
        status = vd_cli_parse_number(cli, "--connections", value, 1, CONNECTIONS_MAX, &number);
        if (status == VD_CLI_GO)
            network->connections = (uint32_t)number;
        break;
    case KEY_CA_FILE:
        network->ca_file = value;
        break;
    case KEY_USER:
        network->user = value;
        break;
    case KEY_PASSWORD_FILE:
        status = take_secret("--password-file", value, &cli->password, &network->password);
        break;
    case KEY_BEARER_FILE:
        status = take_secret("--bearer-file", value, &cli->bearer, &network->bearer);
        break;
    }
    return status;
}

static int take_common(struct vd_cli *cli, int key, const char *value)
{
    uint64_t number;
    int status = VD_CLI_GO;
    switch (key) {
    case 'f':
        if (!vd_cli_format_is_known(value))
            return 1;
        cli->format = value;
        break;
    case 'q':
        cli->quiet = true;
        break;
    case 'U':
        cli->share = true;
        break;
    case 'p':
        cli->progress = true;
        break;
    case 't':
        return take_cache(cli, 't', value, &cli->cache_flags);
    case 'T':
        return take_cache(cli, 'T', value, &cli->source_cache_flags);
    case KEY_OUTPUT:
        return take_output(cli, value);
    case KEY_PROGRESS_FD:
        status = vd_cli_parse_number(cli, "--progress", value, 0, INT32_MAX, &number);
        if (status == VD_CLI_GO)
            cli->progress_fd = (int)number;
        break;
    case KEY_IMAGE_OPTS:
        return vd_cli_usage_error(cli, "--image-opts is not supported: name the image by its path "
                                       "or URL, and its format with -f");
    case KEY_ALLOW_PATH:
        return vd_cli_gate_allow_path(cli, value);
    case KEY_ALLOW_JSON:
        return vd_cli_gate_allow_json(cli);
    case KEY_NO_BACKING:
        return vd_cli_gate_close(cli);
    case KEY_PASSPHRASE_FILE:
        return vd_cli_keys_file(cli, value);
    case KEY_PASSPHRASE_FD:
        return vd_cli_keys_fd(cli, value);
    case KEY_OBJECT:
        return vd_cli_keys_object(cli, value);
    case KEY_HELP:
    case 'h':
        vd_cli_print_help(cli->verb);
        return 0;
    default:
        return take_network(cli, key, value);
    }
    return status;
}

static bool is_own(const struct vd_cli_verb *verb, int key)
{
    for (size_t i = 0; i < own_entries(verb); i++)
        if (verb->options[i].key == key)
            return true;
    return false;
}

/* @result: of getopt_long(); @word: of the command line, wrong only for letters behind a dash. */
static int complain(const struct vd_cli *cli, const char *letters, int result, const char *word)
{
    bool is_letter = optopt && optopt < VD_CLI_KEY_COMMON;
    if (result == ':' && is_letter)
        return vd_cli_usage_error(cli, "option -%c needs an argument", optopt);
    if (result == ':')
        return vd_cli_usage_error(cli, "option %s needs an argument", word);
    if (is_letter && !strchr(letters, optopt))
        return vd_cli_usage_error(cli, "unknown option -%c", optopt);
    if (optopt) /* a long option, known, whose key may be that of a letter */
        return vd_cli_usage_error(cli, "option %s takes no argument", word);
    return vd_cli_usage_error(cli, "unknown or ambiguous option %s", word);
}

static int parse_with(struct vd_cli *cli, int argc, char **argv, const struct getopt_tables *tables,
                      vd_cli_option_fn take, void *opaque)
{
    optind = 0; /* GNU: begin anew, for a program that calls this twice */
    opterr = 0;
    for (int key; (key = getopt_long(argc, argv, tables->letters, tables->longs, NULL)) != -1;) {
        int status;
        if (key == '?' || key == ':')
            status = complain(cli, tables->letters, key, argv[optind - 1]);
        else if (is_own(cli->verb, key))
            status = take(cli, opaque, key, optarg);
        else
            status = take_common(cli, key, optarg);
        if (status != VD_CLI_GO)
            return status;
    }
    cli->operands = argv + optind;
    cli->operand_count = argc - optind;
    return VD_CLI_GO;
}

int vd_cli_parse(struct vd_cli *cli, int argc, char **argv, vd_cli_option_fn take, void *opaque)
{
    struct getopt_tables tables;
    int status = 1;
    if (make_tables(cli->verb, &tables))
        status = parse_with(cli, argc, argv, &tables, take, opaque);
    else
        vd_cli_error("out of memory for options");
    free(tables.letters);
    free(tables.longs);
    if (status == VD_CLI_GO)
        status = vd_cli_gate_check(cli);
    if (cli->quiet) { /* wins over -p and over JSON, as in qemu-img, whatever their order */
        cli->progress = false;
        cli->json = false;
    }
    return status;
}

int vd_cli_want_operands(struct vd_cli *cli, int min, int max, const char *what)
{
    if (cli->operand_count < min)
        return vd_cli_usage_error(cli, "too few arguments: %s wanted", what);
    if (cli->operand_count > max)
        return vd_cli_usage_error(cli, "unexpected argument '%s': %s wanted", cli->operands[max],
                                  what);
    return VD_CLI_GO;
}

/* --- help ------------------------------------------------------------------------------------ */

#define HELP_COLUMN 28

static void print_option(const struct vd_cli_option *option)
{
    if (!option->help)
        return;
    bool has_letter = option->key < VD_CLI_KEY_COMMON;
    int width = printf("  ");
    if (has_letter)
        width += printf("-%c%s", option->key, option->name ? ", " : "");
    if (option->name)
        width += printf("--%s", option->name);
    if (option->arg)
        width += printf("%c%s", option->name ? '=' : ' ', option->arg);
    if (width + 2 > HELP_COLUMN) /* two blanks end the option */
        printf("\n%*s", HELP_COLUMN, "");
    else
        printf("%*s", HELP_COLUMN - width, "");
    printf("%s\n", option->help);
}

static void print_inner(const struct vd_cli_verb *verb)
{
    printf("Verbs:\n");
    for (size_t i = 0; verb->inner[i]; i++)
        printf("  %-10s%s\n", vd_cli_inner_name(verb->inner[i]), verb->inner[i]->help);
    printf("\n");
}

void vd_cli_print_help(const struct vd_cli_verb *verb)
{
    printf("Usage: vdisk %s %s\n\n%s.\n\n", verb->name, verb->synopsis, verb->help);
    if (verb->inner)
        print_inner(verb);
    printf("Options:\n");
    for (size_t i = 0; i < own_entries(verb); i++)
        print_option(&verb->options[i]);
    for (size_t i = 0; i < COMMON_ENTRIES; i++)
        if (verb_has(verb, &common_options[i]))
            print_option(&common_options[i].option);
    if (verb->text)
        printf("\n%s", verb->text);
}
