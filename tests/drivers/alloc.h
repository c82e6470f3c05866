/* SPDX-License-Identifier: MIT */
/* Memory for tests: there is enough, or the test ends. */
#ifndef VT_ALLOC_H
#define VT_ALLOC_H

#include <stdio.h>
#include <stdlib.h>

static inline void *vt_must(void *memory)
{
    if (!memory) {
        fputs("test: out of memory\n", stderr);
        abort();
    }
    return memory;
}

static inline void *vt_calloc(size_t count, size_t element_bytes)
{
    return vt_must(calloc(count ? count : 1, element_bytes));
}

/* Room for @count elements at least; doubles, so that appending one by one is cheap. */
static inline void *vt_reserve(void *array, size_t *capacity, size_t count, size_t element_bytes)
{
    if (count <= *capacity)
        return array;
    *capacity = count > *capacity * 2 ? count : *capacity * 2;
    return vt_must(realloc(array, *capacity * element_bytes));
}

#endif
