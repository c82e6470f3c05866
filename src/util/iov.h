/* SPDX-License-Identifier: MIT */
/* Lists of buffers: length, parts, copies. */
#ifndef VD_UTIL_IOV_H
#define VD_UTIL_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* SIZE_MAX if the sum wraps. */
size_t vd_iov_length(const struct iovec *iov, int iov_entries);

void vd_iov_zero(const struct iovec *iov, int iov_entries);

/* Copies @length bytes from the buffers, beginning @skip bytes into them. */
void vd_iov_to_buffer(void *buf, size_t length, const struct iovec *iov, size_t skip);

/* Copies @length bytes into the buffers, beginning @skip bytes into them. */
void vd_iov_from_buffer(const struct iovec *iov, size_t skip, const void *buf, size_t length);

/*
 * Describes bytes [@skip, @skip + @length) of @iov in @part, which has room for @iov_entries.
 * Returns the count of entries used.
 */
int vd_iov_part(struct iovec *part, const struct iovec *iov, int iov_entries, size_t skip,
                size_t length);

/* A buffer that is only read, in the struct that POSIX has for both. */
static inline struct iovec vd_iov_const(const void *buf, size_t length)
{
    return (struct iovec){.iov_base = (void *)(uintptr_t)buf, .iov_len = length};
}

/* Are all @length bytes zero? */
bool vd_buffer_is_zero(const void *buf, size_t length);

#endif
