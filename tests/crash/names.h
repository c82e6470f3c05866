/* SPDX-License-Identifier: MIT */
/*
 * A directory that loses power, or a process in it that is killed.
 *
 * The calls that change names and files are wrapped (-Wl,--wrap).  Each change of a name is pending
 * until the directory is made durable: what a cut leaves is the names as they were then, with any
 * of the pending changes, whatever their order was.  A new file whose bytes were not made durable
 * is empty.
 */
#ifndef VT_NAMES_H
#define VT_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#define VT_NAMES_CUT 77 /* exit status of a process that was cut */

/* What happens to a call, counted from 1; 0: never. */
struct vt_names_event {
    unsigned cut;   /* the process ends before it */
    unsigned fails; /* it does nothing, and fails with EIO */
};

/* The directory @name, and the names in it, are all durable: records from here on.  @keep is a
 * directory for the files. */
void vt_names_record(const char *name, const char *keep, struct vt_names_event event);

/* How many calls has the last process that recorded made? */
unsigned vt_names_calls(void);

/* Of the last process that recorded: how many changes are pending, and is the file named in the
 * directory whatever becomes of them? */
unsigned vt_names_pending(void);
bool vt_names_is_durable(const char *file);

/* Makes @name anew as the cut may have left it: with those pending changes whose bit is set in
 * @mask. */
void vt_names_restore(const char *name, uint64_t mask);

/* The files of a directory, made if it is not there: none, or those of @from. */
void vt_names_empty(const char *name);
void vt_names_copy(const char *from, const char *name);

/* Once, before the first process is forked. */
void vt_names_init(void);

#endif
