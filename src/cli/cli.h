/* SPDX-License-Identifier: MIT */
/*
 * The frame of the command: one struct vd_cli a run, one struct vd_cli_verb a verb.
 *
 * A verb is a file cmd_<verb>.c with a const struct vd_cli_verb, named in verbs.c.  Its run()
 * parses its options with vd_cli_parse(), opens images with vd_cli_open(), prints with the
 * helpers of output.h, and returns the exit status.  Nothing here is global: a program may call
 * vd_cli_main() as often as it likes, from one thread at a time (getopt_long() keeps state of its
 * own).  Only the public interface of the library is used.
 */
#ifndef VD_CLI_CLI_H
#define VD_CLI_CLI_H

#include <stdatomic.h>

#include "util/mutex.h"
#include "vdisk.h"

#define VD_CLI_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

/* What a step answers to say that the verb goes on; any exit status is at least 0. */
#define VD_CLI_GO (-1)

/* Options that many verbs have, parsed by the frame; see common_options[] in options.c. */
enum vd_cli_common {
    VD_CLI_FORMAT = 1 << 0,       /* -f FMT                                */
    VD_CLI_QUIET = 1 << 1,        /* -q                                    */
    VD_CLI_SHARE = 1 << 2,        /* -U, --force-share                     */
    VD_CLI_OUTPUT = 1 << 3,       /* --output=human|json                   */
    VD_CLI_CACHE = 1 << 4,        /* -t CACHE: of what is written          */
    VD_CLI_SOURCE_CACHE = 1 << 5, /* -T CACHE: of what is read             */
    VD_CLI_PROGRESS = 1 << 6,     /* -p, --progress=FD; signals cancel     */
    VD_CLI_NETWORK = 1 << 7,      /* --timeout --retries --connections ... */
    VD_CLI_GATE = 1 << 8,         /* --allow-path --allow-json --no-backing */
    VD_CLI_KEYS = 1 << 9          /* --passphrase-file --passphrase-fd --object */
};

/* Keys of options that have no letter begin here; those of a verb at VD_CLI_KEY_VERB. */
#define VD_CLI_KEY_COMMON 1000
#define VD_CLI_KEY_VERB   2000

/* One option, as it is parsed and as --help prints it. */
struct vd_cli_option {
    int key;          /* the letter, or a number from VD_CLI_KEY_VERB on       */
    const char *name; /* the long name, without dashes, or NULL                */
    const char *arg;  /* what the argument is called, or NULL: takes none      */
    const char *help; /* what it does; NULL: a synonym that --help leaves out  */
};

struct vd_cli;

struct vd_cli_verb {
    const char *name;
    const char *synopsis;                /* what follows `vdisk NAME` in its usage line     */
    const char *help;                    /* one line, for `vdisk --help`                    */
    const char *text;                    /* what --help says below the options, or NULL     */
    uint32_t common;                     /* of enum vd_cli_common                           */
    const struct vd_cli_option *options; /* its own, ended by key 0; or NULL                */
    /* Verbs within this one, ended by NULL; or NULL.  Called "OUTER INNER", found by INNER as the
     * first word behind OUTER. */
    const struct vd_cli_verb *const *inner;
    /* @argv[0] is the verb.  Returns the exit status. */
    int (*run)(struct vd_cli *cli, int argc, char **argv);
};

/* What progress.c keeps; nobody else looks inside. */
struct vd_cli_meter {
    struct vd_mutex lock;
    struct vdisk_progress now; /* the last report                          */
    uint64_t start_ns, phase_start_ns, drawn_ns;
    double shown_percent; /* the last percentage written              */
    bool is_active, is_terminal, has_failed;
};

/* What signals.c keeps; nobody else looks inside. */
struct vd_cli_signals {
    pthread_t thread;
    int signal_fd, stop_fd;
    bool is_running;
};

/* Passphrases, each with the id that --object gave it, or NULL. */
struct vd_cli_keys {
    struct vdisk_passphrase *passphrases; /* owned, with their bytes */
    char **ids;                           /* owned, with the words */
    size_t entries;
    struct vdisk_passphrases list; /* what images are opened with */
};

/* One run of the command. */
struct vd_cli {
    const struct vd_cli_verb *verb;

    /* Common options; zero or NULL if not given. */
    const char *format;
    uint32_t cache_flags, source_cache_flags; /* of enum vdisk_open_flag */
    bool quiet, share, json, progress;
    int progress_fd; /* -1: none */
    struct vdisk_network_options network;
    char *password, *bearer; /* owned: read from files */
    struct vdisk_gate gate;  /* its paths: owned, the list and not the words */
    bool no_backing;
    struct vd_cli_keys keys;

    /* What is left of the command line behind the options. */
    char **operands;
    int operand_count;

    atomic_int signal; /* the number of the signal that cancels, or 0 */
    struct vd_cli_meter meter;
    struct vd_cli_signals signals;
};

/*
 * Runs the command as main() would.  Returns the exit status: that of the verb; 1 also if what was
 * printed could not be written; 128 + the signal if SIGINT or SIGTERM ended the work.
 */
int vd_cli_main(int argc, char **argv);

/* The verb @name, or NULL. */
const struct vd_cli_verb *vd_cli_find_verb(const char *name);

/* The verb within @outer that @word (may be NULL) calls, or NULL. */
const struct vd_cli_verb *vd_cli_find_inner(const struct vd_cli_verb *outer, const char *word);

/* What follows OUTER in the name of a verb within OUTER; of other verbs the name. */
const char *vd_cli_inner_name(const struct vd_cli_verb *verb);

/* The verbs, in the order of --help; NULL past the last. */
const struct vd_cli_verb *vd_cli_verb_at(size_t index);

/* --- options.c --------------------------------------------------------------------------- */

/*
 * Told of each of the verb's own options; @value is NULL for those without argument.  Returns
 * VD_CLI_GO, or the exit status, for instance that of vd_cli_usage_error().
 */
typedef int (*vd_cli_option_fn)(struct vd_cli *cli, void *opaque, int key, const char *value);

/*
 * Parses the options of the verb, --help included; then cli->operands are there.
 * Returns VD_CLI_GO, or the exit status to return at once.
 */
int vd_cli_parse(struct vd_cli *cli, int argc, char **argv, vd_cli_option_fn take, void *opaque);

/* Are there @min to @max operands?  Returns VD_CLI_GO or the exit status. */
int vd_cli_want_operands(struct vd_cli *cli, int min, int max, const char *what);

/* Parses a whole decimal number of @min to @max, the argument of @option as the user wrote it. */
int vd_cli_parse_number(struct vd_cli *cli, const char *option, const char *text, uint64_t min,
                        uint64_t max, uint64_t *value);

/* Parses a size.  @option as the user wrote it, for the message; NULL for an operand. */
int vd_cli_parse_size(const char *option, const char *text, uint64_t *size);

void vd_cli_print_help(const struct vd_cli_verb *verb);

/* --- gateopt.c: which files an image may name ------------------------------------------------ */

void vd_cli_gate_init(struct vd_cli *cli);
void vd_cli_gate_destroy(struct vd_cli *cli);

/* Take --allow-path, --allow-json and --no-backing.  Return VD_CLI_GO or the exit status. */
int vd_cli_gate_allow_path(struct vd_cli *cli, const char *path);
int vd_cli_gate_allow_json(struct vd_cli *cli);
int vd_cli_gate_close(struct vd_cli *cli);

/* Do the options go together?  Asked when all have been taken. */
int vd_cli_gate_check(const struct vd_cli *cli);

/* --- keyopt.c: passphrases for encrypted images ----------------------------------------------- */

void vd_cli_keys_init(struct vd_cli *cli);
void vd_cli_keys_destroy(struct vd_cli *cli);

/* Take --passphrase-file, --passphrase-fd and --object.  Return VD_CLI_GO or the exit status. */
int vd_cli_keys_file(struct vd_cli *cli, const char *path);
int vd_cli_keys_fd(struct vd_cli *cli, const char *text);
int vd_cli_keys_object(struct vd_cli *cli, const char *text);

/* The passphrase that --object gave the @id, or NULL. */
const struct vdisk_passphrase *vd_cli_keys_find(const struct vd_cli *cli, const char *id);

/* The one that there is; NULL if there are none, or several. */
const struct vdisk_passphrase *vd_cli_keys_only(const struct vd_cli *cli);

/* The passphrase @id is for a new image: if there are others, images are opened with those.  What
 * find() and only() answered before does not hold any more. */
void vd_cli_keys_reserve(struct vd_cli *cli, const char *id);

/* --- errors: one line on stderr, beginning with "vdisk: " ----------------------------------- */

VD_CLI_PRINTF(1, 2) void vd_cli_error(const char *fmt, ...);
VD_CLI_PRINTF(1, 2) void vd_cli_warning(const char *fmt, ...);

/* Prints the message of @err; returns 1, the exit status of nearly every failure. */
int vd_cli_fail(const struct vdisk_error *err);

/* Prints the text and where to find help; returns the exit status. */
VD_CLI_PRINTF(2, 3) int vd_cli_usage_error(const struct vd_cli *cli, const char *fmt, ...);

/* --- images ---------------------------------------------------------------------------------- */

/*
 * How to open an image with the common options taken in.  @format: NULL to look.  @flags: of enum
 * vdisk_open_flag, with cli->cache_flags or cli->source_cache_flags added by the caller; sharing
 * is added for a read-only open if -U was given.  @options points into @cli.
 */
struct vdisk_open_options vd_cli_open_options(const struct vd_cli *cli, const char *format,
                                              uint32_t flags);

/* Opens @name as above; prints what is wrong and returns NULL if it can not. */
struct vdisk_image *vd_cli_open(const struct vd_cli *cli, const char *name, const char *format,
                                uint32_t flags);

/* Closes @image (may be NULL); if that fails prints why and returns 1, else returns @status. */
int vd_cli_close(struct vdisk_image *image, int status);

/* Raises the soft limit of open files to @files, as far as the hard one permits; never lowers it.
 */
void vd_cli_allow_files(uint32_t files);

/* Knows the library format @name, "gow" included?  If not, prints that and returns false. */
bool vd_cli_format_is_known(const char *name);

#endif
