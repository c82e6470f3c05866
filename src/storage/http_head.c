/* SPDX-License-Identifier: MIT */
/*
 * The header of an HTTP answer (RFC 9110).  Whatever a server sends here is hostile until proven
 * otherwise: numbers are checked for overflow, text for its length.
 */
#include "storage/http_head.h"

#include <string.h>
#include <strings.h>

struct text {
    const char *at;
    size_t length;
};

static struct text trim(struct text text)
{
    while (text.length && (*text.at == ' ' || *text.at == '\t')) {
        text.at++;
        text.length--;
    }
    while (text.length && strchr(" \t\r\n", text.at[text.length - 1]))
        text.length--;
    return text;
}

static bool text_equals(struct text text, const char *word)
{
    return text.length == strlen(word) && strncasecmp(text.at, word, text.length) == 0;
}

/* Takes @prefix, in any case of letters, off the front. */
static bool take_prefix(struct text *text, const char *prefix)
{
    size_t length = strlen(prefix);
    if (text->length < length || strncasecmp(text->at, prefix, length) != 0)
        return false;
    text->at += length;
    text->length -= length;
    return true;
}

/* Takes the digits off the front; false if there are none, or too many. */
static bool take_number(struct text *text, uint64_t *number)
{
    size_t digits = 0;
    *number = 0;
    while (digits < text->length && text->at[digits] >= '0' && text->at[digits] <= '9') {
        if (__builtin_mul_overflow(*number, 10u, number) ||
            __builtin_add_overflow(*number, (uint64_t)(text->at[digits] - '0'), number))
            return false;
        digits++;
    }
    text->at += digits;
    text->length -= digits;
    return digits > 0;
}

/* bytes FIRST-LAST/TOTAL, bytes FIRST-LAST/ *, bytes * /TOTAL */
static bool parse_content_range(struct vd_http_head *head, struct text text)
{
    if (head->has_range || head->has_no_range || !take_prefix(&text, "bytes"))
        return false;
    text = trim(text);
    if (take_prefix(&text, "*/")) {
        head->has_no_range = true;
        head->has_total = true;
        return take_number(&text, &head->total) && text.length == 0;
    }
    head->has_range = true;
    if (!take_number(&text, &head->range_first) || !take_prefix(&text, "-") ||
        !take_number(&text, &head->range_last) || !take_prefix(&text, "/"))
        return false;
    if (text_equals(text, "*"))
        return head->range_first <= head->range_last;
    head->has_total = true;
    return take_number(&text, &head->total) && text.length == 0 &&
           head->range_first <= head->range_last && head->range_last < head->total;
}

static bool parse_length(struct vd_http_head *head, struct text text)
{
    uint64_t length;
    if (!take_number(&text, &length) || text.length || (head->has_length && head->length != length))
        return false;
    head->has_length = true;
    head->length = length;
    return true;
}

static bool copy_text(char *to, struct text text)
{
    if (text.length >= VD_HTTP_VALIDATOR_BYTES || memchr(text.at, '\0', text.length))
        return false;
    memcpy(to, text.at, text.length);
    to[text.length] = '\0';
    return true;
}

static bool parse_status(struct vd_http_head *head, struct text line)
{
    size_t header_bytes = head->header_bytes;
    uint64_t status;
    *head = (struct vd_http_head){.header_bytes = header_bytes};
    while (line.length && *line.at != ' ') {
        line.at++;
        line.length--;
    }
    line = trim(line);
    if (!take_number(&line, &status) || status < 100 || status > 999)
        return false;
    head->status = (unsigned)status;
    return true;
}

static void parse_field(struct vd_http_head *head, struct text line)
{
    const char *colon = memchr(line.at, ':', line.length);
    if (!colon)
        return;
    struct text name = {line.at, (size_t)(colon - line.at)};
    struct text value = trim((struct text){colon + 1, line.length - name.length - 1});

    if (text_equals(name, "Content-Range") && !parse_content_range(head, value))
        head->bad_field = "Content-Range";
    if (text_equals(name, "Content-Length") && !parse_length(head, value))
        head->bad_field = "Content-Length";
    if (text_equals(name, "ETag") && !copy_text(head->etag, value))
        head->bad_field = "ETag";
    if (text_equals(name, "Last-Modified") && !copy_text(head->last_modified, value))
        head->bad_field = "Last-Modified";
    if (text_equals(name, "Content-Encoding") && value.length && !text_equals(value, "identity"))
        head->is_encoded = true;
}

bool vd_http_head_line(struct vd_http_head *head, const char *line, size_t length)
{
    if (length > VD_HTTP_HEADER_BYTES_MAX - head->header_bytes)
        return false;
    head->header_bytes += length;

    struct text text = {line, length};
    struct text start = text;
    if (take_prefix(&start, "HTTP/")) {
        if (!parse_status(head, text))
            head->bad_field = "the status line";
    } else if (trim(text).length == 0) {
        head->is_complete = head->status != 0;
    } else if (!head->is_complete) {
        parse_field(head, text);
    }
    return true;
}

bool vd_http_etag_is_strong(const char *etag)
{
    size_t length = strlen(etag);
    if (length < 2 || etag[0] != '"' || etag[length - 1] != '"')
        return false;
    for (size_t i = 1; i < length - 1; i++)
        if ((unsigned char)etag[i] <= ' ' || etag[i] == '"' || etag[i] == 0x7f)
            return false;
    return true;
}
