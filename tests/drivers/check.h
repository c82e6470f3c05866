/* SPDX-License-Identifier: MIT */
/* cmocka, with assertions on calls that take a struct vdisk_error last. */
#ifndef VT_CHECK_H
#define VT_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vdisk.h"

/*
 * Rounds of a test of one thread: under ThreadSanitizer, which is slow and has nothing to find
 * there, a tenth.
 */
#if defined(__SANITIZE_THREAD__)
#define VT_ROUNDS(rounds) (((rounds) + 9) / 10)
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VT_ROUNDS(rounds) (((rounds) + 9) / 10)
#endif
#endif
#ifndef VT_ROUNDS
#define VT_ROUNDS(rounds) (rounds)
#endif

/* VT_OK(vd_storage_flush(st, &vt_err)): fails the test with the error's story. */
#define VT_OK(call)                                                \
    do {                                                           \
        struct vdisk_error vt_err = {0};                           \
        int vt_ret = (call);                                       \
        if (vt_ret < 0)                                            \
            fail_msg("%s: %d: %s", #call, vt_ret, vt_err.message); \
    } while (0)

/* The call has to fail with -@error, and to tell why. */
#define VT_FAILS(error, call)                   \
    do {                                        \
        struct vdisk_error vt_err = {0};        \
        assert_int_equal((call), -(error));     \
        assert_int_equal(vt_err.code, (error)); \
        assert_true(vt_err.message[0] != '\0'); \
    } while (0)

#endif
