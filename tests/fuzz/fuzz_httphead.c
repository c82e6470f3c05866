/* SPDX-License-Identifier: MIT */
/* Headers of HTTP answers: what is understood is consistent, whatever a server sends. */
#include <assert.h>
#include <string.h>

#include "storage/http_head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void check_head(const struct vd_http_head *head)
{
    assert(head->status == 0 || (head->status >= 100 && head->status <= 999));
    assert(!head->is_complete || head->status);
    assert(head->header_bytes <= VD_HTTP_HEADER_BYTES_MAX);
    assert(strlen(head->etag) < VD_HTTP_VALIDATOR_BYTES);
    assert(strlen(head->last_modified) < VD_HTTP_VALIDATOR_BYTES);
    assert(!strpbrk(head->etag, "\n"));
    if (head->bad_field)
        return;
    assert(!(head->has_range && head->has_no_range));
    if (head->has_range)
        assert(head->range_first <= head->range_last);
    if (head->has_range && head->has_total)
        assert(head->range_last < head->total);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct vd_http_head head = {0};
    const char *line = (const char *)data;
    while (length) {
        const char *end = memchr(line, '\n', length);
        size_t step = end ? (size_t)(end - line) + 1 : length;
        if (!vd_http_head_line(&head, line, step))
            break;
        check_head(&head);
        line += step;
        length -= step;
    }
    vd_http_etag_is_strong(head.etag);
    return 0;
}
