/* SPDX-License-Identifier: MIT */
/* A storage over another one that records every call, for tests that ask what was done. */
#ifndef VT_TRACE_H
#define VT_TRACE_H

#include <stdio.h>

#include "drivers/call.h"
#include "drivers/under.h"

struct vt_record {
    enum vt_call call;
    int result;            /* as returned: 0 or negative errno */
    struct vd_range range; /* resize: offset 0 and the new size; flush, size: 0, 0 */
};

/* @print: where each call is told in a line as it ends, or NULL. */
int vt_trace_open(struct vd_storage *inner, enum vt_ownership ownership, FILE *print,
                  struct vd_storage **storage, struct vdisk_error *err);

/* Since the open or the last reset: how many calls, and how many bytes those that succeeded moved
 */
uint64_t vt_trace_count(struct vd_storage *storage, enum vt_call call);
uint64_t vt_trace_bytes(struct vd_storage *storage, enum vt_call call);

/* The calls in the order in which they ended, good until the next call on @storage. */
const struct vt_record *vt_trace_records(struct vd_storage *storage, size_t *entries);

void vt_trace_reset(struct vd_storage *storage);

#endif
