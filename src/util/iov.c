/* SPDX-License-Identifier: MIT */
/* Lists of buffers. */
#include "util/iov.h"

#include <string.h>

size_t vd_iov_length(const struct iovec *iov, int iov_entries)
{
    size_t total = 0;
    for (int i = 0; i < iov_entries; i++)
        if (__builtin_add_overflow(total, iov[i].iov_len, &total))
            return SIZE_MAX;
    return total;
}

void vd_iov_zero(const struct iovec *iov, int iov_entries)
{
    for (int i = 0; i < iov_entries; i++)
        if (iov[i].iov_len)
            memset(iov[i].iov_base, 0, iov[i].iov_len);
}

void vd_iov_to_buffer(void *buf, size_t length, const struct iovec *iov, size_t skip)
{
    uint8_t *to = buf;
    for (; length; iov++) {
        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        size_t step = iov->iov_len - skip < length ? iov->iov_len - skip : length;
        memcpy(to, (const uint8_t *)iov->iov_base + skip, step);
        to += step;
        length -= step;
        skip = 0;
    }
}

void vd_iov_from_buffer(const struct iovec *iov, size_t skip, const void *buf, size_t length)
{
    const uint8_t *from = buf;
    for (; length; iov++) {
        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        size_t step = iov->iov_len - skip < length ? iov->iov_len - skip : length;
        memcpy((uint8_t *)iov->iov_base + skip, from, step);
        from += step;
        length -= step;
        skip = 0;
    }
}

int vd_iov_part(struct iovec *part, const struct iovec *iov, int iov_entries, size_t skip,
                size_t length)
{
    int used = 0;
    for (int i = 0; i < iov_entries && length; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t step = iov[i].iov_len - skip < length ? iov[i].iov_len - skip : length;
        part[used++] =
            (struct iovec){.iov_base = (uint8_t *)iov[i].iov_base + skip, .iov_len = step};
        length -= step;
        skip = 0;
    }
    return used;
}

bool vd_buffer_is_zero(const void *buf, size_t length)
{
    const uint8_t *bytes = buf;
    size_t head = length < 16 ? length : 16;
    for (size_t i = 0; i < head; i++)
        if (bytes[i])
            return false;
    /* The first 16 are zero, and each further byte equals the one 16 before it. */
    return length <= 16 || memcmp(bytes, bytes + 16, length - 16) == 0;
}
