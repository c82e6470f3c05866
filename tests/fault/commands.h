/* SPDX-License-Identifier: MIT */
/* Which commands are run with faults, and on which files. */
#ifndef VT_FAULT_COMMANDS_H
#define VT_FAULT_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#define ARGS_MAX  14
#define FILES_MAX 4

struct command {
    const char *name;
    const char *argv[ARGS_MAX];
    const char *restored[FILES_MAX]; /* put back from pristine/ before each run */
    const char *removed[FILES_MAX];  /* absent before each run */
    const char *target;              /* absent, or sound, after a failure; NULL: none */
    bool same_output;                /* with status 0 it prints what it prints without faults */
    const char *proof[ARGS_MAX];     /* after status 0 this has to end with 0 as well */
    const char *always[ARGS_MAX];    /* whatever the status is, this has to end with 0 */
    bool resumes;                    /* after a failure the same again has to work */
    bool once; /* unless it was done all the same, which shows by a file in its place */
};

extern const struct command vt_fault_commands[];
extern const size_t vt_fault_command_entries;
extern const struct command vt_fault_qcow2_commands[];
extern const size_t vt_fault_qcow2_command_entries;

/* Files that are there before each run; see fixtures.c. */
extern const char *const vt_fault_fixtures[];
extern const size_t vt_fault_fixture_entries;

#define FIXTURES_MAX 48u

#endif
