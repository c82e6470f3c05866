/* SPDX-License-Identifier: MIT */
/* cmocka, with assertions on calls that take a struct vdisk_error last. */
#ifndef VT_CHECK_H
#define VT_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vdisk.h"

/* Fails unless @length bytes are all @byte: an assertion for each would take most of the time. */
static inline void vt_assert_filled(const void *bytes, uint64_t length, uint8_t byte)
{
    const uint8_t *at = bytes;
    if (length == 0 || (at[0] == byte && memcmp(at, at + 1, (size_t)(length - 1)) == 0))
        return;
    uint64_t i = 0;
    while (at[i] == byte)
        i++;
    fail_msg("byte %llu of %llu is 0x%02x, expected 0x%02x", (unsigned long long)i,
             (unsigned long long)length, at[i], byte);
}

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

/*
 * Steps of a long random test: all of them in a plain build, half and a third of them under
 * AddressSanitizer and ThreadSanitizer, where each takes many times as long.
 */
#if defined(__SANITIZE_THREAD__)
#define VT_SHARE(steps) (((steps) + 2) / 3)
#elif defined(__SANITIZE_ADDRESS__)
#define VT_SHARE(steps) (((steps) + 1) / 2)
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VT_SHARE(steps) (((steps) + 2) / 3)
#elif __has_feature(address_sanitizer)
#define VT_SHARE(steps) (((steps) + 1) / 2)
#endif
#endif
#ifndef VT_SHARE
#define VT_SHARE(steps) (steps)
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
