/* SPDX-License-Identifier: MIT */
/* A storage over another one whose calls fail when a test says so. */
#ifndef VT_FAULT_H
#define VT_FAULT_H

#include "drivers/call.h"
#include "drivers/under.h"

struct vt_fault_plan {
    uint32_t calls;        /* which kinds count, of VT_CALL_BIT(); 0: nothing fails */
    uint64_t nth;          /* 1: the first such call from now on */
    int error;             /* positive errno: ENOSPC, EIO, ... */
    bool forever;          /* that one and all such calls after it, else only that one */
    uint64_t prefix_bytes; /* so much of a failing write or zeroing is done before it fails */
};

/* Nothing fails until a plan is set. */
int vt_fault_open(struct vd_storage *inner, enum vt_ownership ownership,
                  struct vd_storage **storage, struct vdisk_error *err);

/* Replaces the plan, and counts from zero. */
void vt_fault_set(struct vd_storage *storage, struct vt_fault_plan plan);

/* Calls of the plan's kinds, and how many of them failed by the plan, since it was set. */
uint64_t vt_fault_seen(struct vd_storage *storage);
uint64_t vt_fault_hits(struct vd_storage *storage);

#endif
