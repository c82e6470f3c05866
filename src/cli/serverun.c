/* SPDX-License-Identifier: MIT */
/* Serving until something ends it. */
#include "cli/serverun.h"

#include <errno.h>
#include <poll.h>
#include <spawn.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "util/err.h"
#include "util/mem.h"

/* --- the command of --run ----------------------------------------------------------------------
 */

extern char **environ;

static const char *const lead_names[] = {"uri", "nbd", "unixsocket", "port", "exportname"};
#define LEADS (sizeof(lead_names) / sizeof(lead_names[0]))

static bool is_lead(const char *variable)
{
    size_t length = strcspn(variable, "=");
    for (size_t i = 0; i < LEADS; i++)
        if (strlen(lead_names[i]) == length && strncmp(variable, lead_names[i], length) == 0)
            return true;
    return false;
}

/* Our environment with the leads in it; the first LEADS entries are owned, as is the list. */
static char **make_environment(const struct vd_serve_leads *leads)
{
    const char *values[LEADS] = {leads->uri, leads->uri, leads->path, leads->port, leads->name};
    size_t entries = 0;
    while (environ && environ[entries])
        entries++;
    char **list = vd_alloc_array(LEADS + entries + 1, sizeof(*list));
    size_t used = LEADS;
    if (!list)
        return NULL;
    for (size_t i = 0; i < entries; i++)
        if (!is_lead(environ[i]))
            list[used++] = environ[i];
    for (size_t i = 0; i < LEADS; i++)
        if (asprintf(&list[i], "%s=%s", lead_names[i], values[i] ? values[i] : "") < 0) {
            while (i > 0)
                free(list[--i]);
            free(list);
            return NULL;
        }
    return list;
}

static void free_environment(char **list)
{
    for (size_t i = 0; i < LEADS; i++)
        free(list[i]);
    free(list);
}

static int spawn(const char *command, char **environment, const sigset_t *mask, pid_t *child)
{
    char sh[] = "sh", c[] = "-c";
    CLEANUP_FREE char *words = strdup(command);
    char *argv[] = {sh, c, words, NULL};
    posix_spawnattr_t attributes;
    sigset_t defaults;
    if (!words)
        return ENOMEM;
    int problem = posix_spawnattr_init(&attributes);
    if (problem)
        return problem;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    problem = posix_spawnattr_setsigdefault(&attributes, &defaults);
    if (!problem)
        problem = posix_spawnattr_setsigmask(&attributes, mask);
    if (!problem)
        problem =
            posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (!problem)
        problem = posix_spawn(child, "/bin/sh", NULL, &attributes, argv, environment);
    posix_spawnattr_destroy(&attributes);
    return problem;
}

int vd_serve_spawn(const char *command, const struct vd_serve_leads *leads,
                   const struct vd_serve_signals *signals, pid_t *child, struct vdisk_error *err)
{
    char **environment = make_environment(leads);
    if (!environment)
        return vd_err_nomem(err, "the environment of --run");
    int problem = spawn(command, environment, &signals->before, child);
    free_environment(environment);
    return problem ? vd_err_errno(err, problem, "--run: /bin/sh") : 0;
}

/* --- waiting -----------------------------------------------------------------------------------
 */

/* The thread that waits for clients to come and go. */
struct waiter {
    struct vdisk_server *server;
    uint64_t clients;
    int done_fd;
};

static void *wait_for_clients(void *opaque)
{
    struct waiter *waiter = opaque;
    uint64_t one = 1;
    if (vdisk_server_wait(waiter->server, waiter->clients, NULL) == 0)
        while (write(waiter->done_fd, &one, sizeof(one)) < 0 && errno == EINTR)
            continue;
    return NULL;
}

static void reload(const struct vd_serve_watch *watch)
{
    struct vdisk_error err = {0};
    if (vdisk_server_reload_tls(watch->server, &err) == 0)
        vd_serve_log_write(watch->log, VDISK_LOG_INFO, "certificates and keys were read again");
    else
        vd_serve_log_write(watch->log, VDISK_LOG_ERROR, err.message);
}

/* The next of these signals ends the process as if it had never been taken. */
static void let_signals_kill(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* Has the command ended?  Then *status is its exit status. */
static bool has_ended(pid_t child, int *status)
{
    int how;
    if (child == 0 || waitpid(child, &how, WNOHANG) != child)
        return false;
    *status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
    return true;
}

/* Returns true when serving is over. */
static bool take_signal(struct vd_serve_watch *watch, int number, int *status)
{
    if (number == SIGCHLD)
        return has_ended(watch->child, status);
    if (number == SIGHUP && watch->has_tls) {
        reload(watch);
        return false;
    }
    let_signals_kill();
    if (!watch->child)
        return true;
    kill(watch->child, SIGTERM); /* and when it has ended, we do */
    return false;
}

static void watch_events(struct vd_serve_watch *watch, int done_fd, int *status)
{
    struct pollfd fds[] = {
        {.fd = watch->signals->signal_fd, .events = POLLIN},
        {.fd = done_fd, .events = POLLIN},
    };
    for (bool is_over = false; !is_over;) {
        struct signalfd_siginfo info;
        if (poll(fds, 2, -1) < 0)
            continue; /* EINTR */
        if (fds[1].revents)
            return;
        if (read(fds[0].fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
            is_over = take_signal(watch, (int)info.ssi_signo, status);
    }
}

int vd_serve_until_end(struct vd_serve_watch *watch)
{
    bool is_endless = watch->is_persistent || watch->child;
    struct waiter waiter = {
        .server = watch->server,
        .clients = is_endless ? 0 : 1,
        .done_fd = eventfd(0, EFD_CLOEXEC),
    };
    struct vdisk_error err = {0};
    pthread_t thread;
    int status = 0;
    int problem =
        waiter.done_fd < 0 ? errno : pthread_create(&thread, NULL, wait_for_clients, &waiter);
    if (problem) {
        vd_cli_error("a thread that waits for clients: %s", strerror(problem));
        status = 1;
    } else {
        watch_events(watch, waiter.done_fd, &status);
    }
    vd_serve_sockets_remove(watch->sockets);
    if (vdisk_server_stop(watch->server, 0, &err) < 0) {
        vd_serve_log_write(watch->log, VDISK_LOG_ERROR, err.message);
        status = status ? status : 1;
    }
    if (!problem)
        pthread_join(thread, NULL);
    if (waiter.done_fd >= 0)
        close(waiter.done_fd);
    return status;
}
