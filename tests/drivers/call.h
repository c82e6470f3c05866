/* SPDX-License-Identifier: MIT */
/* The calls that a storage sees, as the test drivers count, fail and log them. */
#ifndef VT_CALL_H
#define VT_CALL_H

enum vt_call {
    VT_READ,
    VT_WRITE,
    VT_ZERO,
    VT_DISCARD,
    VT_FLUSH,
    VT_RESIZE,
    VT_PREALLOCATE,
    VT_EXTENT,
    VT_SIZE,
    VT_CALLS
};

#define VT_CALL_BIT(call) (1u << (call))
#define VT_CALL_ANY       (VT_CALL_BIT(VT_CALLS) - 1)

static inline const char *vt_call_name(enum vt_call call)
{
    static const char *const names[VT_CALLS] = {
        [VT_READ] = "read",     [VT_WRITE] = "write",
        [VT_ZERO] = "zero",     [VT_DISCARD] = "discard",
        [VT_FLUSH] = "flush",   [VT_RESIZE] = "resize",
        [VT_EXTENT] = "extent", [VT_PREALLOCATE] = "preallocate",
        [VT_SIZE] = "size",
    };
    return names[call];
}

#endif
