/* SPDX-License-Identifier: MIT */
/*
 * Signals during long work, taken by a thread of their own: no handler runs, so nothing global is
 * needed.  SIGINT and SIGTERM cancel at the next report of progress; the second one ends the
 * process at once.  SIGUSR1 prints one line of progress.
 */
#ifndef VD_CLI_SIGNALS_H
#define VD_CLI_SIGNALS_H

#include "cli/cli.h"

/* To be called before other threads start: they inherit the mask.  Failing, signals act as ever. */
void vd_cli_signals_start(struct vd_cli *cli);
void vd_cli_signals_stop(struct vd_cli *cli);

#endif
