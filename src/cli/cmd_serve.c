/* SPDX-License-Identifier: MIT */
/* vdisk serve: offer images to other programs and machines, as network block devices. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "cli/serverun.h"
#include "util/err.h"
#include "util/mem.h"

#define CONNECTIONS_DEFAULT 1024u /* as struct vdisk_server_options says */

/* What is open, in the order in which it is closed from the end. */
struct serve {
    struct vd_cli *cli;
    struct vd_serve_args args;
    struct vd_serve_activation activation;
    struct vd_serve_signals signals;
    struct vd_serve_log log;
    struct vdisk_image **images;            /* of each FILE; NULL: not open */
    struct vdisk_repository **repositories; /* of each FILE that is a point; NULL: it is none */
    char **names;                           /* of each FILE, owned */
    size_t entries;
    struct vdisk_server *server;
    struct vd_serve_sockets sockets;
    int ready_fd; /* of --fork, or -1 */
    int pid_fd;
};

/* --- images ---------------------------------------------------------------------------------- */

/* Whoever has the point open has its repository open. */
static int open_point(struct serve *serve, size_t i)
{
    struct vdisk_error err = {0};
    struct vd_backup_place place;
    size_t index;
    int status = vd_backup_place_take(serve->cli->operands[i], &place);
    if (status != VD_CLI_GO)
        return status;
    struct vdisk_repository *repository = vd_backup_open(place.name, &serve->args.offer.key, 0);
    serve->repositories[i] = repository;
    int ret = repository ? vdisk_repository_find(repository, place.point, &index, &err) : 0;
    if (repository && ret == 0)
        ret = vdisk_repository_open_point(repository, index, &serve->images[i], &err);
    vd_backup_place_free(&place);
    if (ret < 0)
        return vd_cli_fail(&err);
    return repository ? VD_CLI_GO : 1;
}

static int open_images(struct serve *serve)
{
    const struct vd_serve_offer *offer = &serve->args.offer;
    uint32_t flags = offer->cache_flags | (offer->is_read_only ? 0 : VDISK_OPEN_WRITE);
    struct vdisk_open_options options = vd_cli_open_options(serve->cli, serve->cli->format, flags);
    options.snapshot = vd_cli_snapshot_key(&offer->snapshot);
    for (size_t i = 0; i < serve->entries; i++) {
        struct vdisk_error err = {0};
        if (vd_backup_names_point(serve->cli->operands[i])) {
            int status = open_point(serve, i);
            if (status != VD_CLI_GO)
                return status;
            continue;
        }
        if (vdisk_image_open(serve->cli->operands[i], &options, &serve->images[i], &err) < 0)
            return vd_cli_fail(&err);
    }
    return VD_CLI_GO;
}

/* The last part of a path or URL. */
static char *base_name(const char *file)
{
    size_t length = strstr(file, "://") ? strcspn(file, "?#") : strlen(file);
    while (length > 1 && file[length - 1] == '/')
        length--;
    size_t start = length;
    while (start > 0 && file[start - 1] != '/')
        start--;
    return strndup(file + start, length - start);
}

static char *name_of(const struct serve *serve, size_t index)
{
    if (serve->args.offer.names.entries)
        return strdup(serve->args.offer.names.list[index]);
    return serve->entries == 1 ? strdup("") : base_name(serve->cli->operands[index]);
}

static int add_exports(struct serve *serve)
{
    const struct vd_serve_offer *offer = &serve->args.offer;
    for (size_t i = 0; i < serve->entries; i++) {
        struct vdisk_error err = {0};
        bool is_read_only = offer->is_read_only || serve->repositories[i];
        serve->names[i] = name_of(serve, i);
        struct vdisk_export_options options = {
            .struct_bytes = sizeof(options),
            .flags = (is_read_only ? 0 : VDISK_EXPORT_WRITE) |
                     (offer->has_depth ? VDISK_EXPORT_ALLOCATION_DEPTH : 0),
            .clients = offer->has_clients ? offer->clients : (is_read_only ? 0 : 1),
            .name = serve->names[i],
            .description = offer->descriptions.entries ? offer->descriptions.list[i] : NULL,
            .bitmaps = offer->bitmaps.list,
            .bitmap_entries = offer->bitmaps.entries,
        };
        int ret = serve->names[i]
                      ? vdisk_server_add_export(serve->server, serve->images[i], &options, &err)
                      : vd_err_nomem(&err, "the name of an export");
        if (ret < 0) {
            vd_cli_error("%s: %s%s", serve->cli->operands[i], err.message,
                         ret == -EEXIST ? "; -x gives each FILE a name" : "");
            return 1;
        }
    }
    return VD_CLI_GO;
}

static int make_server(struct serve *serve)
{
    struct vdisk_server_options *options = &serve->args.server;
    struct vdisk_error err = {0};
    vd_serve_allow_connections(options->connections ? options->connections : CONNECTIONS_DEFAULT);
    options->log = vd_serve_log_write;
    options->opaque = &serve->log;
    if (vdisk_server_create(options, &serve->server, &err) < 0)
        return vd_cli_fail(&err);
    return add_exports(serve);
}

/* --- sockets --------------------------------------------------------------------------------- */

static bool is_listening(int fd)
{
    int value = 0;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value;
}

/* Gives the server all sockets, or the connection that --fd may be. */
static int listen_to(struct serve *serve, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; ret == 0 && i < serve->sockets.entries; i++) {
        struct vd_serve_socket *socket = &serve->sockets.list[i];
        ret = socket->kind == VD_SERVE_INHERITED && !is_listening(socket->fd)
                  ? vdisk_server_connect(serve->server, socket->fd, err)
                  : vdisk_server_listen(serve->server, socket->fd, err);
        if (ret == 0)
            socket->fd = -1;
    }
    if (ret == 0 && serve->sockets.status.fd >= 0) {
        ret = vdisk_server_serve_status(serve->server, serve->sockets.status.fd, err);
        if (ret == 0)
            serve->sockets.status.fd = -1;
    }
    return ret;
}

static int open_sockets(struct serve *serve)
{
    struct vdisk_error err = {0};
    bool is_private = serve->args.process.command != NULL;
    int ret = vd_serve_sockets_open(&serve->args.places, &serve->activation, is_private,
                                    &serve->sockets, &err);
    if (ret == 0)
        ret = listen_to(serve, &err);
    return ret < 0 ? vd_cli_fail(&err) : VD_CLI_GO;
}

/* --- the process ------------------------------------------------------------------------------ */

static int start_command(struct serve *serve, pid_t *child)
{
    struct vd_serve_leads leads = {.name = serve->names[0]};
    struct vdisk_error err = {0};
    CLEANUP_FREE char *uri = NULL;
    char port[16];
    for (size_t i = 0; i < serve->sockets.entries; i++) {
        const struct vd_serve_socket *socket = &serve->sockets.list[i];
        if (!uri)
            uri = vd_serve_uri(socket, serve->names[0], serve->args.server.tls != NULL);
        if (socket->kind == VD_SERVE_UNIX)
            leads.path = socket->path;
        if (socket->kind == VD_SERVE_TCP) {
            snprintf(port, sizeof(port), "%u", socket->port);
            leads.port = port;
        }
    }
    leads.uri = uri;
    if (vd_serve_spawn(serve->args.process.command, &leads, &serve->signals, child, &err) < 0)
        return vd_cli_fail(&err);
    return VD_CLI_GO;
}

/* Whoever has brought the sockets, or is the command, does not ask where they are, and may use
 * standard output for data. */
static void announce(const struct serve *serve)
{
    bool is_known =
        serve->activation.entries || serve->args.places.fd >= 0 || serve->args.process.command;
    if (serve->cli->quiet || (is_known && !serve->cli->json))
        return;
    vd_serve_announce(&serve->log, &(struct vd_serve_ready){
                                       .sockets = &serve->sockets,
                                       .names = (const char *const *)serve->names,
                                       .files = serve->cli->operands,
                                       .entries = serve->entries,
                                       .is_tls = serve->args.server.tls != NULL,
                                   });
}

static int serve_clients(struct serve *serve)
{
    struct vd_serve_process *process = &serve->args.process;
    struct vd_serve_watch watch = {
        .server = serve->server,
        .signals = &serve->signals,
        .sockets = &serve->sockets,
        .log = &serve->log,
        .has_tls = serve->args.server.tls != NULL,
        .is_persistent = process->is_persistent,
    };
    struct vdisk_error err = {0};
    vd_serve_signals_take(&serve->signals);
    if (process->pid_file && vd_pid_file_make(process->pid_file, &serve->pid_fd, &err) < 0)
        return vd_cli_fail(&err);
    announce(serve);
    if (process->command && start_command(serve, &watch.child) != VD_CLI_GO)
        return 1;
    if (serve->ready_fd >= 0) {
        vd_serve_leave_terminal(serve->ready_fd);
        serve->ready_fd = -1;
    }
    return vd_serve_until_end(&watch);
}

/* Everything that may fail, from signals on. */
static int serve_all(struct serve *serve)
{
    struct vdisk_error err = {0};
    if (vd_serve_signals_begin(&serve->signals, &err) < 0)
        return vd_cli_fail(&err);
    serve->entries = (size_t)serve->cli->operand_count;
    serve->images = vd_alloc_array(serve->entries, sizeof(*serve->images));
    serve->repositories = vd_alloc_array(serve->entries, sizeof(*serve->repositories));
    serve->names = vd_alloc_array(serve->entries, sizeof(*serve->names));
    if (!serve->images || !serve->repositories || !serve->names) {
        vd_cli_error("out of memory for %zu images", serve->entries);
        return 1;
    }
    int status = open_images(serve);
    if (status == VD_CLI_GO)
        status = make_server(serve);
    if (status == VD_CLI_GO)
        status = open_sockets(serve);
    return status == VD_CLI_GO ? serve_clients(serve) : status;
}

static int close_all(struct serve *serve, int status)
{
    vdisk_server_free(serve->server);
    for (size_t i = 0; serve->images && i < serve->entries; i++)
        status = vd_cli_close(serve->images[i], status);
    for (size_t i = 0; serve->repositories && i < serve->entries; i++)
        vdisk_repository_close(serve->repositories[i]);
    for (size_t i = 0; serve->names && i < serve->entries; i++)
        free(serve->names[i]);
    free(serve->images);
    free(serve->repositories);
    free(serve->names);
    vd_serve_sockets_free(&serve->sockets);
    if (serve->pid_fd >= 0)
        vd_pid_file_remove(serve->args.process.pid_file, serve->pid_fd);
    vd_serve_signals_end(&serve->signals);
    return status;
}

static int run_process(struct serve *serve)
{
    struct vdisk_error err = {0};
    if (vd_serve_activation_take(&serve->activation, &err) < 0)
        return vd_cli_fail(&err);
    const struct vd_serve_places *places = &serve->args.places;
    if (serve->activation.entries &&
        (places->path || places->has_tcp || places->has_vsock || places->fd >= 0))
        return vd_cli_usage_error(serve->cli, "socket activation brought the sockets: not with -k, "
                                              "-b, -p, --vsock or --fd");
    if (serve->activation.entries && serve->args.process.command)
        return vd_cli_usage_error(serve->cli, "socket activation: --run would not know how to "
                                              "reach the server");
    int status = vd_serve_log_open(&serve->log, serve->cli, &serve->args.process);
    if (status == VD_CLI_GO && serve->args.process.forks)
        status = vd_serve_fork(&serve->ready_fd);
    if (status == VD_CLI_GO)
        status = close_all(serve, serve_all(serve));
    vd_serve_log_close(&serve->log);
    return status;
}

static int run(struct vd_cli *cli, int argc, char **argv)
{
    struct serve serve = {
        .cli = cli,
        .sockets = {.status = {.fd = -1}},
        .ready_fd = -1,
        .pid_fd = -1,
    };
    int status = vd_serve_parse(cli, argc, argv, &serve.args);
    if (status == VD_CLI_GO)
        status = run_process(&serve);
    free(serve.activation.names);
    vd_serve_args_free(&serve.args);
    return status;
}

const struct vd_cli_verb vd_cmd_serve = {
    .name = "serve",
    .synopsis = "[-f FMT] [-r] [-t] [-x NAME]... [-B BITMAP]... [-k SOCKET | -b ADDRESS -p PORT] "
                "[--fork | --run COMMAND] FILE...",
    .help = "Offer images to other programs and machines, over NBD",
    .text =
        "Listens on TCP port 10809 of this machine unless it is told where, and prints where\n"
        "it is.  Ends when the last client has left, unless -t is given; at SIGINT and SIGTERM\n"
        "requests under way are finished, and all is durable.  One FILE is the default export;\n"
        "several are called what the files are, without their folders, unless -x names them.\n"
        "A FILE may be a point of a repository, REPOSITORY@POINT as for restore: for reading.\n"
        "Exit status: 0, or 1; with --run, that of COMMAND.\n",
    .common = VD_CLI_FORMAT | VD_CLI_SHARE | VD_CLI_QUIET | VD_CLI_OUTPUT | VD_CLI_NETWORK |
              VD_CLI_GATE | VD_CLI_KEYS,
    .options = vd_serve_options,
    .run = run,
};
