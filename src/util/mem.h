/* SPDX-License-Identifier: MIT */
/* Memory and descriptors that free themselves when their variable goes out of scope. */
#ifndef VD_UTIL_MEM_H
#define VD_UTIL_MEM_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

static inline void vd_cleanup_free(void *pointer)
{
    free(*(void **)pointer);
}

static inline void vd_cleanup_close(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

#define CLEANUP_FREE  __attribute__((cleanup(vd_cleanup_free)))
#define CLEANUP_CLOSE __attribute__((cleanup(vd_cleanup_close)))

/* Hands a CLEANUP_FREE pointer over to somebody else. */
#define STEAL_PTR(pointer)                       \
    __extension__({                              \
        __typeof__(pointer) stolen_ = (pointer); \
        (pointer) = NULL;                        \
        stolen_;                                 \
    })

/* @count zeroed elements of @element_bytes; NULL if there is no memory or the product wraps. */
static inline void *vd_alloc_array(size_t count, size_t element_bytes)
{
    return calloc(count ? count : 1, element_bytes);
}

#define VD_PAGE_BYTES 4096u

/* @length bytes, not zeroed, aligned so that direct I/O takes them; free() it.  NULL: no memory. */
static inline void *vd_alloc_io(size_t length)
{
    void *buffer = NULL;
    if (posix_memalign(&buffer, VD_PAGE_BYTES, length ? length : 1) != 0)
        return NULL;
    return buffer;
}

#endif
