/* SPDX-License-Identifier: MIT */
/* The header of an HTTP answer: the fields that a reader of byte ranges needs, and no others. */
#ifndef VD_STORAGE_HTTP_HEAD_H
#define VD_STORAGE_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VD_HTTP_HEADER_BYTES_MAX 65536u

/* The longest ETag or Last-Modified that is accepted, with the NUL. */
#define VD_HTTP_VALIDATOR_BYTES 256u

struct vd_http_head {
    unsigned status; /* 0: no status line yet */
    bool is_complete;
    bool is_encoded; /* Content-Encoding other than identity */
    bool has_length;
    bool has_range;    /* Content-Range: bytes first-last/... */
    bool has_no_range; /* Content-Range: bytes * /total, of a status 416 */
    bool has_total;
    uint64_t length; /* Content-Length */
    uint64_t range_first;
    uint64_t range_last;
    uint64_t total;
    char etag[VD_HTTP_VALIDATOR_BYTES]; /* empty: not given */
    char last_modified[VD_HTTP_VALIDATOR_BYTES];
    const char *bad_field; /* name of a field that can not be understood, or NULL */
    size_t header_bytes;   /* of all headers of this request, interim answers included */
};

/*
 * Takes the next line of a header, with or without its line end.  A status line begins a new
 * header, an empty line ends it; what comes behind (trailers) is ignored.  False: longer than
 * VD_HTTP_HEADER_BYTES_MAX in all.
 */
bool vd_http_head_line(struct vd_http_head *head, const char *line, size_t length);

/* Is this a strong entity tag, written as the standard wants, so that it can be sent back? */
bool vd_http_etag_is_strong(const char *etag);

#endif
