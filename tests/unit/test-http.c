/* SPDX-License-Identifier: MIT */
/* The http driver's parsers: headers that lie, and URLs that have secrets in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "storage/http_head.h"
#include "storage/http_url.h"
#include "storage/storage.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void feed(struct vd_http_head *head, const char *line)
{
    assert_true(vd_http_head_line(head, line, strlen(line)));
}

/* The header of status 206 with this one field. */
static struct vd_http_head head_with(const char *field)
{
    struct vd_http_head head = {0};
    feed(&head, "HTTP/1.1 206 Partial Content\r\n");
    feed(&head, field);
    feed(&head, "\r\n");
    assert_true(head.is_complete);
    return head;
}

static void the_status_line_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        unsigned status;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\n", 200},
        {"HTTP/1.0 404\r\n", 404},
        {"HTTP/2 206 \n", 206},
        {"http/1.1 503 Busy", 503},
        {"HTTP/1.1 999 Odd\r\n", 999},
        {"HTTP/1.1 99 Odd\r\n", 0},
        {"HTTP/1.1 1000 Odd\r\n", 0},
        {"HTTP/1.1 OK\r\n", 0},
        {"HTTP/1.1\r\n", 0},
        {"HTTP/1.1 -200 OK\r\n", 0},
        {"HTTP/1.1 ", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct vd_http_head head = {0};
        feed(&head, cases[i].line);
        assert_int_equal(head.status, cases[i].status);
        assert_int_equal(head.bad_field == NULL, cases[i].status != 0);
        feed(&head, "\r\n");
        assert_int_equal(head.is_complete, cases[i].status != 0);
    }
}

static void content_range_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *field;
        uint64_t first, last, total;
        bool has_total;
    } good[] = {
        {"Content-Range: bytes 0-0/1", 0, 0, 1, true},
        {"content-range:bytes 5-9/10\r\n", 5, 9, 10, true},
        {"CONTENT-RANGE: \t BYTES 5-9/10 \t\r\n", 5, 9, 10, true},
        {"Content-Range: bytes 5-9/*\r\n", 5, 9, 0, false},
        {"Content-Range: bytes 0-18446744073709551614/18446744073709551615", 0, UINT64_MAX - 1,
         UINT64_MAX, true},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        struct vd_http_head head = head_with(good[i].field);
        assert_null(head.bad_field);
        assert_true(head.has_range && !head.has_no_range);
        assert_int_equal(head.range_first, good[i].first);
        assert_int_equal(head.range_last, good[i].last);
        assert_int_equal(head.has_total, good[i].has_total);
        if (good[i].has_total)
            assert_int_equal(head.total, good[i].total);
    }
    struct vd_http_head none = head_with("Content-Range: bytes */0\r\n");
    assert_null(none.bad_field);
    assert_true(none.has_no_range && !none.has_range && none.has_total);
    assert_int_equal(none.total, 0);
}

static void a_content_range_without_sense_is_noticed(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "bytes",
        "bytes 1-0/5",
        "bytes 0-5/5",
        "bytes 0-5/0",
        "bytes -5/9",
        "bytes 5-/9",
        "bytes 5/9",
        "bytes 0-4",
        "bytes 0-4/",
        "lines 0-4/9",
        "bytes 0-4/9x",
        "bytes 0-4/*x",
        "bytes 0 -4/9",
        "bytes */",
        "bytes */x",
        "bytes */1 2",
        "bytes *",
        "bytes 0x0-4/9",
        "bytes +0-4/9",
        "bytes 0-4/18446744073709551616",
        "bytes 18446744073709551616-18446744073709551617/*",
        "bytes 0-99999999999999999999999999999999/*",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char field[128];
        snprintf(field, sizeof(field), "Content-Range: %s\r\n", bad[i]);
        struct vd_http_head head = head_with(field);
        assert_string_equal(head.bad_field, "Content-Range");
    }
    struct vd_http_head head = {0};
    feed(&head, "HTTP/1.1 206 Partial Content\r\n");
    feed(&head, "Content-Range: bytes 0-4/9\r\n");
    feed(&head, "Content-Range: bytes 1-5/9\r\n");
    assert_string_equal(head.bad_field, "Content-Range"); /* two of them */
}

static void other_fields_are_read(void **state)
{
    (void)state;
    struct vd_http_head head = {0};
    feed(&head, "HTTP/1.1 200 OK\r\n");
    feed(&head, "content-LENGTH:  123\r\n");
    feed(&head, "ETag: \"a b\"\r\n");
    feed(&head, "Last-Modified:Sat, 21 Nov 2026 10:00:00 GMT\r\n");
    feed(&head, "Content-Encoding: identity\r\n");
    feed(&head, "X-Content-Encoding: gzip\r\n");
    feed(&head, "a line without sense\r\n");
    assert_false(head.is_complete);
    feed(&head, "\r\n");
    assert_true(head.is_complete && head.has_length && !head.is_encoded && !head.bad_field);
    assert_int_equal(head.length, 123);
    assert_string_equal(head.etag, "\"a b\"");
    assert_string_equal(head.last_modified, "Sat, 21 Nov 2026 10:00:00 GMT");

    feed(&head, "Content-Length: 5\r\n"); /* trailers are ignored */
    feed(&head, "ETag: \"c\"\r\n");
    assert_int_equal(head.length, 123);
    assert_string_equal(head.etag, "\"a b\"");

    feed(&head, "HTTP/1.1 206 Partial Content\r\n"); /* behind an interim answer */
    assert_true(head.status == 206 && !head.is_complete && !head.has_length && !head.etag[0]);

    assert_true(head_with("Content-Encoding: gzip").is_encoded);
    assert_string_equal(head_with("Content-Length: 12x").bad_field, "Content-Length");
    assert_string_equal(head_with("Content-Length: 1, 1").bad_field, "Content-Length");
    assert_string_equal(head_with("Content-Length: -1").bad_field, "Content-Length");
}

static void long_headers_are_refused(void **state)
{
    (void)state;
    char etag[VD_HTTP_VALIDATOR_BYTES + 32];
    int room = (int)VD_HTTP_VALIDATOR_BYTES - 1;
    snprintf(etag, sizeof(etag), "ETag: %0*d", room, 7);
    assert_int_equal(strlen(head_with(etag).etag), room);
    snprintf(etag, sizeof(etag), "ETag: %0*d", room + 1, 7);
    assert_string_equal(head_with(etag).bad_field, "ETag");

    struct vd_http_head head = {0};
    char line[1024];
    char interim[1024] = "HTTP/1.1 100 Continue";
    memset(line, 'x', sizeof(line));
    memset(interim + strlen(interim), ' ', sizeof(interim) - strlen(interim));
    /* A new header does not start the count again. */
    for (size_t i = 0; i < VD_HTTP_HEADER_BYTES_MAX / sizeof(line); i++)
        assert_true(vd_http_head_line(&head, i % 2 ? line : interim, sizeof(line)));
    assert_false(vd_http_head_line(&head, line, 1));
}

static void strong_etags_are_told(void **state)
{
    (void)state;
    assert_true(vd_http_etag_is_strong("\"x\""));
    assert_true(vd_http_etag_is_strong("\"\""));
    static const char *const weak[] = {"",    "\"",           "x",        "W/\"x\"",  "\"x",
                                       "x\"", "\"x\", \"y\"", "\"a\tb\"", "\"a\nb\"", "\"a\x7f\""};
    for (size_t i = 0; i < COUNT(weak); i++)
        assert_false(vd_http_etag_is_strong(weak[i]));
}

static void urls_are_taken_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text, *url, *user, *password, *port;
    } cases[] = {
        {"http://h/x", "http://h/x", NULL, NULL, "80"},
        {"https://h/x?a=b#c", "https://h/x?a=b", NULL, NULL, "443"},
        {"https://u@h:8443/x", "https://h:8443/x", "u", NULL, "8443"},
        {"http://u:p@h/x", "http://h/x", "u", "p", "80"},
        {"http://u:p%40%3a%2F@h/x", "http://h/x", "u", "p@:/", "80"},
        {"http://u:p@[::1]:81/a@b", "http://[::1]:81/a@b", "u", "p", "81"},
        {"http://h/a file", "http://h/a%20file", NULL, NULL, "80"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct vd_http_url url;
        struct vdisk_error err = {0};
        assert_int_equal(vd_http_url_parse(cases[i].text, &url, &err), 0);
        assert_string_equal(url.url, cases[i].url);
        assert_string_equal(url.port, cases[i].port);
        assert_int_equal(url.user != NULL, cases[i].user != NULL);
        assert_int_equal(url.password != NULL, cases[i].password != NULL);
        if (cases[i].user)
            assert_string_equal(url.user, cases[i].user);
        if (cases[i].password)
            assert_string_equal(url.password, cases[i].password);
        vd_http_url_free(&url);
    }
    static const char *const bad[] = {"http://",   "http://?x",          "http://h:99999/x",
                                      "ftp://h/x", "file:///etc/passwd", "http://u:secret@:1:2/x"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct vd_http_url url;
        struct vdisk_error err = {0};
        assert_int_equal(vd_http_url_parse(bad[i], &url, &err), -EINVAL);
        assert_null(strstr(err.message, "secret"));
        assert_null(url.url);
    }
}

static bool same_origin(const char *a, const char *b)
{
    struct vd_http_url first;
    struct vd_http_url second;
    assert_int_equal(vd_http_url_parse(a, &first, NULL), 0);
    assert_int_equal(vd_http_url_parse(b, &second, NULL), 0);
    bool same = vd_http_url_same_origin(&first, &second);
    vd_http_url_free(&first);
    vd_http_url_free(&second);
    return same;
}

static void origins_are_told_apart(void **state)
{
    (void)state;
    assert_true(same_origin("http://h/x", "http://H:80/y?z"));
    assert_true(same_origin("https://u:p@h/x", "https://h:443/"));
    assert_false(same_origin("http://h/x", "https://h/x"));
    assert_false(same_origin("http://h/x", "http://h:81/x"));
    assert_false(same_origin("http://h/x", "http://h.example/x"));
}

static void names_have_no_secrets(void **state)
{
    (void)state;
    static const char *const names[] = {
        "http://user:secret@127.0.0.1:1/x",
        "https://secret@127.0.0.1:1/x",
        "http://user:secret@secret@127.0.0.1:1/x",
        "http://user:secret@:99999/x",
        "http://user:secret@",
        "http:///user:secret@127.0.0.1:1/x",
    };
    static const struct vd_storage_options writable = {.flags = VD_STORAGE_WRITE};
    static const struct vdisk_network_options impatient = {
        .struct_bytes = sizeof(impatient), .retries = VDISK_NO_RETRIES, .timeout_ms = 1000};
    static const struct vd_storage_options readable = {.network = &impatient};
    for (size_t i = 0; i < COUNT(names); i++) {
        struct vd_storage *storage;
        struct vdisk_error err = {0};
        assert_int_equal(vd_storage_open(names[i], &writable, &storage, &err), -EROFS);
        assert_null(strstr(err.message, "secret"));
        vdisk_error_clear(&err);
        assert_true(vd_storage_open(names[i], &readable, &storage, &err) < 0);
        assert_null(strstr(err.message, "secret"));
    }
}

static void options_are_checked(void **state)
{
    (void)state;
    static const struct {
        struct vdisk_network_options network;
        const char *message;
    } bad[] = {
        {{.struct_bytes = 1}, "struct_bytes is 1"},
        {{.struct_bytes = sizeof(bad[0].network), .reserved = 1}, "reserved 1"},
        {{.struct_bytes = sizeof(bad[0].network), .connections = 65}, "at most 64"},
        {{.struct_bytes = sizeof(bad[0].network), .timeout_ms = UINT32_MAX}, "timeout"},
        {{.struct_bytes = sizeof(bad[0].network), .user = "u", .bearer = "b"}, "give one"},
        {{.struct_bytes = sizeof(bad[0].network), .password = "p"}, "no user"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct vd_storage_options options = {.network = &bad[i].network};
        struct vd_storage *storage;
        struct vdisk_error err = {0};
        assert_int_equal(vd_storage_open("http://127.0.0.1:1/x", &options, &storage, &err),
                         -EINVAL);
        assert_non_null(strstr(err.message, bad[i].message));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_status_line_is_read),
        cmocka_unit_test(content_range_is_read),
        cmocka_unit_test(a_content_range_without_sense_is_noticed),
        cmocka_unit_test(other_fields_are_read),
        cmocka_unit_test(long_headers_are_refused),
        cmocka_unit_test(strong_etags_are_told),
        cmocka_unit_test(urls_are_taken_apart),
        cmocka_unit_test(origins_are_told_apart),
        cmocka_unit_test(names_have_no_secrets),
        cmocka_unit_test(options_are_checked),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
