/* SPDX-License-Identifier: MIT */
/* From the command line to the verb and back to an exit status. */
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/progress.h"
#include "cli/secret.h"
#include "cli/signals.h"
#include "util/url.h"

/* --- errors ---------------------------------------------------------------------------------- */

/* One call of fprintf() a line, so that lines of several processes do not mix. */
static void print_line(const char *kind, const char *fmt, va_list args) VD_CLI_PRINTF(2, 0);

static void print_line(const char *kind, const char *fmt, va_list args)
{
    char text[4096];
    vsnprintf(text, sizeof(text), fmt, args);
    vd_url_strip_secrets(text, VD_URL_ENDS_IN_TEXT);
    fflush(stdout); /* keeps the order for whoever reads both from one place */
    char *rest = NULL;
    const char *first = strtok_r(text, "\n", &rest);
    fprintf(stderr, "vdisk: %s%s\n", kind, first ? first : "unknown error");
    for (const char *line; (line = strtok_r(NULL, "\n", &rest));)
        fprintf(stderr, "vdisk: %s\n", line);
}

void vd_cli_error(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    print_line("", fmt, args);
    va_end(args);
}

void vd_cli_warning(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    print_line("warning: ", fmt, args);
    va_end(args);
}

int vd_cli_fail(const struct vdisk_error *err)
{
    vd_cli_error("%s", err->message);
    return 1;
}

int vd_cli_usage_error(const struct vd_cli *cli, const char *fmt, ...)
{
    char kind[64];
    snprintf(kind, sizeof(kind), "%s: ", cli->verb->name);
    va_list args;
    va_start(args, fmt);
    print_line(kind, fmt, args);
    va_end(args);
    fprintf(stderr, "Try 'vdisk %s --help' for more information.\n", cli->verb->name);
    return 1;
}

/* --- without a verb -------------------------------------------------------------------------- */

static int print_usage(void)
{
    printf("Usage: vdisk VERB [OPTION]... [ARGUMENT]...\n"
           "       vdisk help [VERB]\n"
           "       vdisk --version\n\n"
           "Creates, examines, copies and synchronises virtual disk images.\n\nVerbs:\n");
    const struct vd_cli_verb *verb;
    for (size_t i = 0; (verb = vd_cli_verb_at(i)); i++)
        printf("  %-10s%s\n", verb->name, verb->help);
    printf("\nFormats:");
    const char *format;
    for (size_t i = 0; (format = vdisk_format_name(i)); i++)
        printf(" %s", format);
    printf("\n\n'vdisk VERB --help' tells of one verb; so does the manual: man vdisk-VERB.\n");
    return 0;
}

static int complain(const char *what, const char *word)
{
    vd_cli_error("unknown %s '%s'", what, word);
    fprintf(stderr, "Try 'vdisk --help' for more information.\n");
    return 1;
}

/* `vdisk help [VERB [INNER]]` */
static int help(int argc, char **argv)
{
    if (argc < 2)
        return print_usage();
    const struct vd_cli_verb *verb = vd_cli_find_verb(argv[1]);
    if (!verb)
        return complain("verb", argv[1]);
    if (verb->inner && argc > 2) {
        verb = vd_cli_find_inner(verb, argv[2]);
        if (!verb)
            return complain("verb", argv[2]);
    }
    vd_cli_print_help(verb);
    return 0;
}

/* --- with a verb ----------------------------------------------------------------------------- */

static int run_verb(const struct vd_cli_verb *verb, int argc, char **argv)
{
    struct vd_cli cli = {
        .verb = verb,
        .progress_fd = -1,
        .network = {.struct_bytes = sizeof(cli.network)},
    };
    vd_cli_gate_init(&cli);
    vd_cli_keys_init(&cli);
    vd_cli_progress_init(&cli);
    bool is_long = (verb->common & VD_CLI_PROGRESS) != 0;
    if (is_long)
        vd_cli_signals_start(&cli); /* before anything starts a thread */

    int status = verb->run(&cli, argc, argv);

    if (is_long)
        vd_cli_signals_stop(&cli);
    int signal_number = atomic_load(&cli.signal);
    if (signal_number && status != 0)
        status = 128 + signal_number;
    vd_cli_progress_destroy(&cli);
    vd_secret_free(&cli.password);
    vd_secret_free(&cli.bearer);
    vd_cli_gate_destroy(&cli);
    vd_cli_keys_destroy(&cli);
    return status;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        vd_cli_error("no verb given");
        fprintf(stderr, "Try 'vdisk --help' for more information.\n");
        return 1;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return print_usage();
    if (strcmp(word, "help") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("vdisk %s\n", vdisk_version());
        return 0;
    }
    const struct vd_cli_verb *verb = vd_cli_find_verb(word);
    if (!verb)
        return complain(word[0] == '-' ? "option" : "verb", word);
    const struct vd_cli_verb *inner = argc > 2 ? vd_cli_find_inner(verb, argv[2]) : NULL;
    return inner ? run_verb(inner, argc - 2, argv + 2) : run_verb(verb, argc - 1, argv + 1);
}

int vd_cli_main(int argc, char **argv)
{
    /* A reader that goes away is met as a failed write, here and on sockets. */
    signal(SIGPIPE, SIG_IGN);
    errno = 0;
    int status = dispatch(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (errno != EPIPE) /* whoever closed the pipe knows */
            vd_cli_error("standard output: %s", strerror(errno ? errno : EIO));
        if (status == 0)
            status = 1;
    }
    return status;
}
