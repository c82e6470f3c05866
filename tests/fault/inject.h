/* SPDX-License-Identifier: MIT */
/*
 * The program is linked so that its own calls of these functions come by here first (ld --wrap),
 * where the Nth of them fails.
 */
#ifndef VT_INJECT_H
#define VT_INJECT_H

#include <stdbool.h>
#include <stdint.h>

enum vt_fault_class {
    VT_FAULT_ALLOC, /* memory: fails once */
    VT_FAULT_IO,    /* any call on files or threads: fails once with EIO (pthread: EAGAIN) */
    VT_FAULT_SPACE, /* calls that need space: ENOSPC from then on */
    VT_FAULT_INTR,  /* calls that may be interrupted: EINTR once */
    VT_FAULT_SHORT, /* reads, writes, copies: one moves only a part */
    VT_FAULT_CLASSES
};

const char *vt_fault_class_name(enum vt_fault_class fault);

/* Counts from here on; the call with number @nth (1, 2, ...) fails, with 0 none. */
void vt_inject_start(enum vt_fault_class fault, uint64_t nth);

/* Nothing fails any more.  Returns how many calls of the class were seen. */
uint64_t vt_inject_stop(void);

/* The function whose call was made to fail, or "nothing". */
const char *vt_inject_where(void);

#endif
