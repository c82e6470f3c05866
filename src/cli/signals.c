/* SPDX-License-Identifier: MIT */
/* Signals during long work. */
#include "cli/signals.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/progress.h"

static void fill_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGUSR1);
}

static void take_signal(struct vd_cli *cli, int number)
{
    if (number == SIGUSR1) {
        vd_cli_progress_print_line(cli);
        return;
    }
    int before = 0;
    if (!atomic_compare_exchange_strong(&cli->signal, &before, number))
        _exit(128 + number); /* asked twice: the user does not want to wait */
}

static void *watch(void *opaque)
{
    struct vd_cli *cli = opaque;
    struct pollfd fds[] = {
        {.fd = cli->signals.signal_fd, .events = POLLIN},
        {.fd = cli->signals.stop_fd, .events = POLLIN},
    };
    for (;;) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return NULL;
        struct signalfd_siginfo info;
        if ((fds[0].revents & POLLIN) &&
            read(cli->signals.signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
            take_signal(cli, (int)info.ssi_signo);
        else if (fds[1].revents & POLLIN)
            return NULL;
    }
}

void vd_cli_signals_start(struct vd_cli *cli)
{
    struct vd_cli_signals *signals = &cli->signals;
    sigset_t set;
    fill_set(&set);
    signals->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    signals->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (signals->signal_fd >= 0 && signals->stop_fd >= 0) {
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        signals->is_running = pthread_create(&signals->thread, NULL, watch, cli) == 0;
    }
    if (!signals->is_running) {
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        vd_cli_warning("signals will not cancel tidily: %s", strerror(errno));
    }
}

void vd_cli_signals_stop(struct vd_cli *cli)
{
    struct vd_cli_signals *signals = &cli->signals;
    if (signals->is_running) {
        uint64_t one = 1;
        while (write(signals->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
            continue;
        pthread_join(signals->thread, NULL);
        sigset_t set;
        fill_set(&set);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    }
    if (signals->signal_fd >= 0)
        close(signals->signal_fd);
    if (signals->stop_fd >= 0)
        close(signals->stop_fd);
}
