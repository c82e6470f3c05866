/* SPDX-License-Identifier: MIT */
/* The options of serve: letters and names of qemu-nbd where it has them. */
#include "cli/serveopt.h"

#include <string.h>

#include "cli/cache.h"
#include "cli/size.h"

#define PORT_DEFAULT        10809u
#define CONNECTION_MIN      (UINT64_C(34) << 20)
#define CONNECTION_MAX      (UINT64_C(1) << 40)
#define WORKERS_MAX         1024u
#define CONNECTIONS_MAX     1000000u
#define TIMEOUT_SECONDS_MAX 86400u

enum {
    KEY_VSOCK = VD_CLI_KEY_VERB,
    KEY_FD,
    KEY_CACHE,
    KEY_KEY_FILE,
    KEY_DISCARD,
    KEY_DETECT_ZEROES,
    KEY_AIO,
    KEY_TLS_CREDS,
    KEY_TLS_PSK,
    KEY_TLS_REQUIRED,
    KEY_TLS_OPTIONAL,
    KEY_TLS_VERIFY_PEER,
    KEY_TLS_AUTHZ,
    KEY_TLS_PRIORITY,
    KEY_FORK,
    KEY_PID_FILE,
    KEY_RUN,
    KEY_LOG,
    KEY_STATUS,
    KEY_WORKERS,
    KEY_MAX_CONNECTIONS,
    KEY_MAX_PER_ADDRESS,
    KEY_MAX_MEMORY,
    KEY_NEGOTIATION_TIMEOUT,
    KEY_IDLE_TIMEOUT,
    KEY_STALL_TIMEOUT,
};

const struct vd_cli_option vd_serve_options[] = {
    {'k', "socket", "PATH", "listen on a Unix socket at PATH"},
    {'b', "bind", "ADDRESS", "listen at ADDRESS (default: this machine only)"},
    {'p', "port", "PORT", "listen on TCP port PORT; 0: any free one (default 10809)"},
    {KEY_VSOCK, "vsock", "PORT", "listen for virtual machines, on vsock port PORT"},
    {KEY_FD, "fd", "FD", "serve on the inherited socket FD, listening or connected"},
    {'x', "export-name", "NAME", "what clients call FILE; repeated: for one FILE after another"},
    {'D', "description", "TEXT", "for those who list exports; repeated as -x"},
    {'r', "read-only", NULL, "clients can not write"},
    {'e', "shared", "N", "clients of a FILE at once, 0: any number (default 1; 0 with -r)"},
    {'t', "persistent", NULL, "do not end when the last client has left"},
    {'B', "bitmap", "NAME", "offer the dirty bitmap NAME; may be repeated"},
    {'A', "allocation-depth", NULL, "offer which image of the chain data comes from"},
    {'l', "load-snapshot", "SNAPSHOT", "offer this snapshot within FILE, for reading"},
    {KEY_CACHE, "cache", "CACHE", "cache mode: " VD_CACHE_MODES},
    {'n', "nocache", NULL, "the same as --cache=none"},
    VD_BACKUP_KEY_FILE(KEY_KEY_FILE),
    {KEY_TLS_CREDS, "tls-creds", "DIR", "encrypt, with the certificate in DIR"},
    {KEY_TLS_PSK, "tls-psk", "FILE", "encrypt, with the keys of users in FILE"},
    {KEY_TLS_REQUIRED, "tls-required", NULL, "refuse clients that do not encrypt (default)"},
    {KEY_TLS_OPTIONAL, "tls-optional", NULL, "serve clients that do not encrypt as well"},
    {KEY_TLS_VERIFY_PEER, "tls-verify-peer", NULL, "want certificates of clients"},
    {KEY_TLS_AUTHZ, "tls-authz", "NAME", "serve this client only; * and more names: several"},
    {KEY_TLS_PRIORITY, "tls-priority", "STRING", "methods of encryption, as GnuTLS takes them"},
    {KEY_FORK, "fork", NULL, "serve in the background, and end when that is ready"},
    {KEY_PID_FILE, "pid-file", "FILE", "write the process id to FILE when ready"},
    {KEY_RUN, "run", "COMMAND", "serve while COMMAND runs; $uri leads it to the server"},
    {KEY_LOG, "log", "FILE", "append the log to FILE"},
    {'v', "verbose", NULL, "log clients that come and go; twice: all they ask for"},
    {KEY_STATUS, "status", "ADDRESS", "a page about the server by HTTP: [HOST:]PORT"},
    {KEY_WORKERS, "workers", "N", "requests at the disks at once (default 32)"},
    {KEY_MAX_CONNECTIONS, "max-connections", "N", "connections at once (default 1024)"},
    {KEY_MAX_PER_ADDRESS, "max-per-address", "N", "of these, from one IP address"},
    {KEY_MAX_MEMORY, "max-memory", "SIZE", "for data of one connection (default 72M)"},
    {KEY_NEGOTIATION_TIMEOUT, "negotiation-timeout", "SECONDS", "to choose an export (default 10)"},
    {KEY_IDLE_TIMEOUT, "idle-timeout", "SECONDS", "drop clients that ask for nothing so long"},
    {KEY_STALL_TIMEOUT, "stall-timeout", "SECONDS", "drop clients that take no reply so long"},
    /* Of qemu-nbd: taken where they ask for what is done anyway, refused in words otherwise. */
    {KEY_DISCARD, "discard", "MODE", NULL},
    {KEY_DETECT_ZEROES, "detect-zeroes", "MODE", NULL},
    {KEY_AIO, "aio", "MODE", NULL},
    {'c', "connect", "DEVICE", NULL},
    {'d', "disconnect", "DEVICE", NULL},
    {'L', "list", NULL, NULL},
    {'o', "offset", "OFFSET", NULL},
    {'s', "snapshot", NULL, NULL},
    {0},
};

static int add_word(struct vd_words *words, const char *word)
{
    const char **list = realloc(words->list, (words->entries + 1) * sizeof(*list));
    if (!list) {
        vd_cli_error("out of memory for options");
        return 1;
    }
    words->list = list;
    words->list[words->entries++] = word;
    return VD_CLI_GO;
}

static int take_number(struct vd_cli *cli, const char *option, const char *value, uint64_t min,
                       uint64_t max, uint32_t *number)
{
    uint64_t wide = 0;
    int status = vd_cli_parse_number(cli, option, value, min, max, &wide);
    if (status == VD_CLI_GO)
        *number = (uint32_t)wide;
    return status;
}

static int take_seconds(struct vd_cli *cli, const char *option, const char *value, uint32_t *ms)
{
    int status = take_number(cli, option, value, 1, TIMEOUT_SECONDS_MAX, ms);
    if (status == VD_CLI_GO)
        *ms *= 1000;
    return status;
}

/* Asks for what is always so. */
static int take_word(struct vd_cli *cli, const char *option, const char *value, const char *words,
                     const char *why)
{
    const char *found = strstr(words, value);
    size_t length = strlen(value);
    bool is_word = found && length && (found == words || found[-1] == ' ') &&
                   (found[length] == ' ' || found[length] == '\0');
    return is_word ? VD_CLI_GO : vd_cli_usage_error(cli, "%s=%s: %s", option, value, why);
}

/* Options of qemu-nbd that are not listed. */
static int take_foreign(struct vd_cli *cli, int key, const char *value)
{
    switch (key) {
    case KEY_DISCARD:
        return take_word(cli, "--discard", value, "unmap on",
                         "what clients discard is always discarded");
    case KEY_DETECT_ZEROES:
        return take_word(cli, "--detect-zeroes", value, "off",
                         "data that clients write is not searched for zeros");
    case KEY_AIO:
        return take_word(cli, "--aio", value, "threads", "requests run in threads");
    case 'c':
    case 'd':
        return vd_cli_usage_error(cli,
                                  "-%c: devices of the kernel are not made here: serve on a "
                                  "socket, and use nbd-client",
                                  key);
    case 'L':
        return vd_cli_usage_error(cli, "-L: 'nbdinfo --list URI' lists what a server offers");
    case 'o':
        return vd_cli_usage_error(cli, "-o: disks are served whole");
    default:
        return vd_cli_usage_error(cli, "-s: make an overlay with 'vdisk create -b', and serve it");
    }
}

static int take_place(struct vd_cli *cli, struct vd_serve_places *places, int key,
                      const char *value)
{
    uint32_t fd = 0;
    int status;
    bool is_word = key == 'k' || key == 'b' || key == KEY_STATUS;
    if (is_word && !*value)
        return vd_cli_usage_error(cli, "%s: the argument is empty",
                                  key == KEY_STATUS ? "--status"
                                  : key == 'k'      ? "-k"
                                                    : "-b");
    switch (key) {
    case 'k':
        places->path = value;
        return VD_CLI_GO;
    case 'b':
        places->host = value;
        places->has_tcp = true;
        return VD_CLI_GO;
    case 'p':
        places->has_tcp = true;
        return take_number(cli, "-p", value, 0, UINT16_MAX, &places->port);
    case KEY_VSOCK:
        places->has_vsock = true;
        return take_number(cli, "--vsock", value, 1, UINT32_MAX - 1, &places->vsock_port);
    case KEY_FD:
        status = take_number(cli, "--fd", value, 0, INT32_MAX, &fd);
        places->fd = (int)fd;
        return status;
    default: /* KEY_STATUS */
        places->status = value;
        return VD_CLI_GO;
    }
}

static int take_offer(struct vd_cli *cli, struct vd_serve_offer *offer, int key, const char *value)
{
    switch (key) {
    case 'x':
        return add_word(&offer->names, value);
    case 'D':
        return add_word(&offer->descriptions, value);
    case 'B':
        return add_word(&offer->bitmaps, value);
    case 'A':
        offer->has_depth = true;
        return VD_CLI_GO;
    case 'l':
        offer->is_read_only = true;
        return vd_cli_take_snapshot(cli, value, &offer->snapshot);
    case 'e':
        offer->has_clients = true;
        return take_number(cli, "-e", value, 0, INT32_MAX, &offer->clients);
    case 'r':
        offer->is_read_only = true;
        return VD_CLI_GO;
    case KEY_KEY_FILE:
        return vd_backup_key_take(value, &offer->key);
    case 'n':
        value = "none";
        break;
    default: /* KEY_CACHE */
        break;
    }
    if (vd_cache_mode(value, &offer->cache_flags))
        return VD_CLI_GO;
    return vd_cli_usage_error(cli, "--cache: unknown cache mode '%s': use one of %s", value,
                              VD_CACHE_MODES);
}

static int take_tls(struct vd_serve_args *args, int key, const char *value)
{
    switch (key) {
    case KEY_TLS_CREDS:
        args->tls.directory = value;
        return VD_CLI_GO;
    case KEY_TLS_PSK:
        args->tls.psk_file = value;
        return VD_CLI_GO;
    case KEY_TLS_REQUIRED:
        args->tls.flags |= VDISK_TLS_REQUIRED;
        return VD_CLI_GO;
    case KEY_TLS_OPTIONAL:
        args->is_tls_optional = true;
        return VD_CLI_GO;
    case KEY_TLS_VERIFY_PEER:
        args->tls.flags |= VDISK_TLS_VERIFY_PEER;
        return VD_CLI_GO;
    case KEY_TLS_PRIORITY:
        args->tls.priority = value;
        return VD_CLI_GO;
    default: /* KEY_TLS_AUTHZ */
        return add_word(&args->authorized, value);
    }
}

static int take_process(struct vd_serve_process *process, int key, const char *value)
{
    switch (key) {
    case KEY_FORK:
        process->forks = true;
        break;
    case KEY_PID_FILE:
        process->pid_file = value;
        break;
    case KEY_RUN:
        process->command = value;
        break;
    case KEY_LOG:
        process->log_file = value;
        break;
    case 't':
        process->is_persistent = true;
        break;
    default: /* v */
        if (process->log_level < VDISK_LOG_DEBUG)
            process->log_level++;
        break;
    }
    return VD_CLI_GO;
}

static int take_limit(struct vd_cli *cli, struct vdisk_server_options *server, int key,
                      const char *value)
{
    int status;
    switch (key) {
    case KEY_WORKERS:
        return take_number(cli, "--workers", value, 1, WORKERS_MAX, &server->workers);
    case KEY_MAX_CONNECTIONS:
        return take_number(cli, "--max-connections", value, 1, CONNECTIONS_MAX,
                           &server->connections);
    case KEY_MAX_PER_ADDRESS:
        return take_number(cli, "--max-per-address", value, 1, CONNECTIONS_MAX,
                           &server->connections_per_address);
    case KEY_NEGOTIATION_TIMEOUT:
        return take_seconds(cli, "--negotiation-timeout", value, &server->negotiation_ms);
    case KEY_IDLE_TIMEOUT:
        return take_seconds(cli, "--idle-timeout", value, &server->idle_ms);
    case KEY_STALL_TIMEOUT:
        return take_seconds(cli, "--stall-timeout", value, &server->stall_ms);
    default: /* KEY_MAX_MEMORY */
        status = vd_cli_parse_size("--max-memory", value, &server->connection_bytes);
        if (status == VD_CLI_GO && (server->connection_bytes < CONNECTION_MIN ||
                                    server->connection_bytes > CONNECTION_MAX))
            return vd_cli_usage_error(cli, "--max-memory: '%s' is not from 34M to 1T", value);
        return status;
    }
}

static int take(struct vd_cli *cli, void *opaque, int key, const char *value)
{
    struct vd_serve_args *args = opaque;
    switch (key) {
    case 'k':
    case 'b':
    case 'p':
    case KEY_VSOCK:
    case KEY_FD:
    case KEY_STATUS:
        return take_place(cli, &args->places, key, value);
    case 'x':
    case 'D':
    case 'r':
    case 'e':
    case 'B':
    case 'A':
    case 'l':
    case KEY_CACHE:
    case KEY_KEY_FILE:
    case 'n':
        return take_offer(cli, &args->offer, key, value);
    case KEY_TLS_CREDS:
    case KEY_TLS_PSK:
    case KEY_TLS_REQUIRED:
    case KEY_TLS_OPTIONAL:
    case KEY_TLS_VERIFY_PEER:
    case KEY_TLS_AUTHZ:
    case KEY_TLS_PRIORITY:
        return take_tls(args, key, value);
    case KEY_FORK:
    case KEY_PID_FILE:
    case KEY_RUN:
    case KEY_LOG:
    case 't':
    case 'v':
        return take_process(&args->process, key, value);
    case KEY_WORKERS:
    case KEY_MAX_CONNECTIONS:
    case KEY_MAX_PER_ADDRESS:
    case KEY_MAX_MEMORY:
    case KEY_NEGOTIATION_TIMEOUT:
    case KEY_IDLE_TIMEOUT:
    case KEY_STALL_TIMEOUT:
        return take_limit(cli, &args->server, key, value);
    default:
        return take_foreign(cli, key, value);
    }
}

static int check_tls(struct vd_cli *cli, struct vd_serve_args *args)
{
    struct vdisk_tls_options *tls = &args->tls;
    bool is_used = tls->directory || tls->psk_file;
    bool is_talked_of =
        tls->flags || tls->priority || args->is_tls_optional || args->authorized.entries;
    if (tls->directory && tls->psk_file)
        return vd_cli_usage_error(cli, "--tls-creds, --tls-psk: certificates or keys, not both");
    if (is_talked_of && !is_used)
        return vd_cli_usage_error(cli, "options of TLS need --tls-creds DIR or --tls-psk FILE");
    if (!is_used)
        return VD_CLI_GO;
    if (args->is_tls_optional && (tls->flags & VDISK_TLS_REQUIRED))
        return vd_cli_usage_error(cli, "--tls-optional contradicts --tls-required");
    if (tls->psk_file && (tls->flags & VDISK_TLS_VERIFY_PEER))
        return vd_cli_usage_error(cli, "--tls-verify-peer is about certificates: --tls-creds");
    if (!args->is_tls_optional)
        tls->flags |= VDISK_TLS_REQUIRED;
    if (args->authorized.entries && tls->directory)
        tls->flags |= VDISK_TLS_VERIFY_PEER; /* or nobody would have a name */
    tls->authorized = args->authorized.list;
    tls->authorized_entries = args->authorized.entries;
    args->server.tls = tls;
    return VD_CLI_GO;
}

static int check_words(struct vd_cli *cli, const struct vd_words *words, const char *option)
{
    if (words->entries == 0 || words->entries == (size_t)cli->operand_count)
        return VD_CLI_GO;
    return vd_cli_usage_error(cli,
                              "%s: given %zu time%s, for %d FILE%s: it is for one after another",
                              option, words->entries, words->entries == 1 ? "" : "s",
                              cli->operand_count, cli->operand_count == 1 ? "" : "s");
}

/* What goes with points of repositories, and what with them only. */
static int check_points(struct vd_cli *cli, const struct vd_serve_offer *offer)
{
    const char *point = NULL;
    for (int i = 0; i < cli->operand_count; i++) {
        const char *name = cli->operands[i];
        if (vd_backup_is_repository(name))
            return vd_cli_usage_error(cli, "%s: is a repository of backups: %s@ is its last point",
                                      name, name);
        if (vd_backup_names_point(name))
            point = name;
    }
    if (!point && offer->key.bytes)
        return vd_cli_usage_error(cli, "--key-file: no FILE is a point of a repository: "
                                       "REPOSITORY@POINT");
    if (point && (cli->format || cli->share || offer->snapshot.is_given || offer->bitmaps.entries ||
                  offer->cache_flags))
        return vd_cli_usage_error(cli,
                                  "%s: is a point of a repository: -f, -U, -l, -B and --cache are "
                                  "for images",
                                  point);
    return VD_CLI_GO;
}

static int check_together(struct vd_cli *cli, struct vd_serve_args *args)
{
    struct vd_serve_places *places = &args->places;
    struct vd_serve_offer *offer = &args->offer;
    int status = check_tls(cli, args);
    if (status == VD_CLI_GO)
        status = check_words(cli, &offer->names, "-x");
    if (status == VD_CLI_GO)
        status = check_words(cli, &offer->descriptions, "-D");
    if (status == VD_CLI_GO)
        status = check_points(cli, offer);
    if (status != VD_CLI_GO)
        return status;
    if (args->process.command && args->process.forks)
        return vd_cli_usage_error(cli, "--run waits for its command: not with --fork");
    if (places->fd >= 0 && (places->path || places->has_tcp || places->has_vsock))
        return vd_cli_usage_error(cli, "--fd: the socket is there already: not with -k, -b, -p "
                                       "or --vsock");
    if (places->fd >= 0 && args->process.command)
        return vd_cli_usage_error(cli, "--fd: --run would not know how to reach the server");
    if (cli->share && !offer->is_read_only)
        return vd_cli_usage_error(cli, "-U: sharing with a writer is for reading only: add -r");
    if (offer->bitmaps.entries && offer->snapshot.is_given)
        return vd_cli_usage_error(cli, "-B: a snapshot (-l) has no bitmaps");
    return VD_CLI_GO;
}

int vd_serve_parse(struct vd_cli *cli, int argc, char **argv, struct vd_serve_args *args)
{
    *args = (struct vd_serve_args){
        .server = {.struct_bytes = sizeof(args->server)},
        .tls = {.struct_bytes = sizeof(args->tls)},
        .places = {.port = PORT_DEFAULT, .fd = -1},
        .process = {.log_level = VDISK_LOG_WARNING},
    };
    int status = vd_cli_parse(cli, argc, argv, take, args);
    if (status == VD_CLI_GO)
        status = vd_cli_want_operands(cli, 1, INT32_MAX, "FILE");
    return status == VD_CLI_GO ? check_together(cli, args) : status;
}

void vd_serve_args_free(struct vd_serve_args *args)
{
    free(args->offer.names.list);
    free(args->offer.descriptions.list);
    free(args->offer.bitmaps.list);
    free(args->authorized.list);
    vd_cli_snapshot_free(&args->offer.snapshot);
    vd_backup_key_free(&args->offer.key);
}
