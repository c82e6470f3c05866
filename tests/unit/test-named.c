/* SPDX-License-Identifier: MIT */
/* image/named, image/json_name: what a name in an image means, and which names mean nothing. */
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "image/named.h"

struct row {
    const char *bearer;
    const char *name;
    const char *path; /* NULL: no file or URL of ours */
    const char *format;
};

static void check_rows(const struct row *rows, size_t entries)
{
    for (size_t i = 0; i < entries; i++) {
        const struct row *row = &rows[i];
        struct vdisk_error err = {0};
        struct vd_named named;
        int ret = vd_named_resolve(&named, row->bearer, row->name, &err);
        if (!row->path) {
            if (ret == 0)
                fail_msg("'%s' in '%s' became '%s'", row->name, row->bearer, named.path);
            assert_int_equal(err.code, -ret);
            assert_true(err.message[0]);
        } else {
            if (ret < 0)
                fail_msg("'%s' in '%s': %s", row->name, row->bearer, err.message);
            assert_string_equal(named.path, row->path);
            assert_int_equal(named.is_url, strstr(row->path, "http") == row->path ||
                                               strstr(row->path, "nbd") == row->path);
            assert_int_equal(named.is_json, strncmp(row->name, "json:", 5) == 0);
            assert_string_equal(named.format ? named.format : "", row->format ? row->format : "");
        }
        vd_named_free(&named);
    }
}

#define CHECK_ROWS(rows) check_rows(rows, sizeof(rows) / sizeof((rows)[0]))

static void paths_count_from_the_directory_of_the_bearer(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"top.qed", "base.raw", "base.raw", NULL},
        {"./top.qed", "base.raw", "./base.raw", NULL},
        {"a/b/top.qed", "base.raw", "a/b/base.raw", NULL},
        {"/a/top.qed", "b/base.raw", "/a/b/base.raw", NULL},
        {"/top.qed", "base.raw", "/base.raw", NULL},
        {"a/top.qed", "/x/base.raw", "/x/base.raw", NULL},
        {"a/top.qed", "../base.raw", "a/../base.raw", NULL},
        {"a/top.qed", ".", "a/.", NULL},
        {"a/top.qed", "b:c/d", NULL, NULL},
        {"a/top.qed", "b/c:d", "a/b/c:d", NULL},
        {"a/top.qed", "./b:c", "a/./b:c", NULL},
        {"odd://top.qed", "base.raw", "odd://base.raw", NULL}, /* no scheme of ours: a directory */
        {"a/top.qed", "", NULL, NULL},
    };
    CHECK_ROWS(rows);
}

static void the_prefix_file_is_a_path_whatever_follows(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"a/top.qed", "file:base.raw", "a/base.raw", NULL},
        {"a/top.qed", "file:/x/base.raw", "/x/base.raw", NULL},
        {"a/top.qed", "file:///x/base.raw", "/x/base.raw", NULL},
        {"a/top.qed", "file:b:c", "a/b:c", NULL},
        {"top.qed", "file:b:c", "./b:c", NULL},
        {"top.qed", "file:http://host/x", "./http://host/x", NULL},
        {"a/top.qed", "file:json:{}", "a/json:{}", NULL},
        {"top.qed", "file:json:{}", "./json:{}", NULL},
        {"a/top.qed", "file:", NULL, NULL},
        {"a/top.qed", "file://", "//", NULL},
    };
    CHECK_ROWS(rows);
}

static void other_protocols_are_refused(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"a/top.qed", "nbd:unix:/sock", NULL, NULL},
        {"a/top.qed", "nbd:host:10809", NULL, NULL},
        {"a/top.qed", "rbd:pool/image", NULL, NULL},
        {"a/top.qed", "fd:3", NULL, NULL},
        {"a/top.qed", "ftp://host/x", NULL, NULL},
        {"a/top.qed", ":x", NULL, NULL},
        {"http://host/top.qed", "ssh://host/x", NULL, NULL},
    };
    CHECK_ROWS(rows);
}

static void what_a_server_bears_stays_on_the_server(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"http://h/a/top.qed", "base.raw", "http://h/a/base.raw", NULL},
        {"https://h/a/top.qed?q=a/b#c/d", "base.raw", "https://h/a/base.raw", NULL},
        {"http://h/a/", "base.raw", "http://h/a/base.raw", NULL},
        {"http://h", "base.raw", "http://h/base.raw", NULL},
        {"http://h?x=/", "base.raw", "http://h/base.raw", NULL},
        {"http://h", "@evil/base.raw", "http://h/@evil/base.raw", NULL},
        {"http://h:81/a/top.qed", "/etc/passwd", "http://h:81/etc/passwd", NULL},
        {"http://h?x", "/etc/passwd", "http://h/etc/passwd", NULL},
        {"http://h/a/top.qed", "file:/etc/passwd", "http://h/etc/passwd", NULL},
        {"http://h/a/top.qed", "//evil/x", "http://h//evil/x", NULL},
        {"http://h/a/top.qed", "http://other/x", "http://other/x", NULL},
        {"a/top.qed", "http://other/x", "http://other/x", NULL},
        {"http://h/a/top.qed", "../base.raw", "http://h/a/../base.raw", NULL},
        {"nbd://h/a/top.qed", "base.raw", "nbd://h/a/base.raw", NULL},
        {"nbd://h:1/top", "/base", "nbd://h:1/base", NULL},
        {"nbd://h/top", "nbd+unix:///e?socket=/s", "nbd+unix:///e?socket=/s", NULL},
        {"nbd+unix:///top?socket=/s", "nbd://h/base", "nbd://h/base", NULL},
        {"nbd+unix:///top?socket=/s", "base", NULL, NULL},
        {"nbds+unix:///top?socket=/s", "/base", NULL, NULL},
        {"NBD+UNIX:///top?socket=/s", "file:/base", NULL, NULL},
    };
    CHECK_ROWS(rows);
}

static void json_names_mean_one_file(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"a/top.qed", "json:{\"filename\":\"b\"}", "a/b", NULL},
        {"a/top.qed", "json:{\"driver\":\"qed\",\"file\":{\"filename\":\"b\"}}", "a/b", "qed"},
        {"a/top.qed",
         "json: {\"driver\":\"raw\",\"file.driver\":\"file\",\"file.filename\":\"/b\"}", "/b",
         "raw"},
        {"a/top.qed", "json:{\"driver\":\"file\",\"filename\":\"b\"}", "a/b", NULL},
        {"a/top.qed", "json:{\"driver\":\"host_device\",\"filename\":\"/dev/x\"}", "/dev/x", NULL},
        /* Of the driver "file", every name is a path. */
        {"a/top.qed", "json:{\"driver\":\"file\",\"filename\":\"b:c\"}", "a/b:c", NULL},
        {"a/top.qed", "json:{\"driver\":\"file\",\"filename\":\"http://h/x\"}", "a/http://h/x",
         NULL},
        {"a/top.qed",
         "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"https\",\"url\":\"https://h/x\"}}",
         "https://h/x", "raw"},
        {"a/top.qed", "json:{\"filename\":\"b\\u0063\"}", "a/bc", NULL},
        {"a/top.qed", "json:{\"filename\":\"[[[[[[[[[[[[[[[[[[[[\\\"{{\"}",
         "a/[[[[[[[[[[[[[[[[[[[[\"{{", NULL},
    };
    CHECK_ROWS(rows);
}

static void json_names_mean_exports(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"host\":\"h\"}", "nbd://h:10809/", NULL},
        {"a/top.qed",
         "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"nbd\",\"export\":\"a b\","
         "\"server\":{\"type\":\"inet\",\"host\":\"h\",\"port\":\"1\"}}}",
         "nbd://h:1/a%20b", "raw"},
        {"a/top.qed",
         "json:{\"driver\":\"qcow2\",\"file.driver\":\"nbd\",\"file.export\":\"e\","
         "\"file.server.type\":\"unix\",\"file.server.path\":\"/a&b\"}",
         "nbd+unix:///e?socket=/a%26b", "qcow2"},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"path\":\"/s\"}", "nbd+unix:///?socket=/s", NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"server.host\":\"::1\"}", "nbd://[::1]:10809/",
         NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"url\":\"nbd+unix:///e?socket=/s\"}",
         "nbd+unix:///e?socket=/s", NULL},
    };
    CHECK_ROWS(rows);
}

static void other_json_is_refused(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"a/top.qed", "json:", NULL, NULL},
        {"a/top.qed", "json:{", NULL, NULL},
        {"a/top.qed", "json:{}", NULL, NULL},
        {"a/top.qed", "json:[\"b\"]", NULL, NULL},
        {"a/top.qed", "json:\"b\"", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":\"b\"} more", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":7}", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":\"\"}", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":null,\"url\":\"http://h/x\"}", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":\"b\\u0000c\"}", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":\"b\",\"filename\":\"c\"}", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":\"b\",\"url\":\"http://h/x\"}", NULL, NULL},
        {"a/top.qed", "json:{\"file.filename\":\"b\",\"file\":{\"filename\":\"c\"}}", NULL, NULL},
        {"a/top.qed", "json:{\"file\":{\"file\":{\"filename\":\"b\"}}}", NULL, NULL},
        {"a/top.qed", "json:{\"file\":{\"file.filename\":\"b\"}}", NULL, NULL},
        {"a/top.qed", "json:{\"file\":\"node\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"raw\",\"offset\":512,\"filename\":\"b\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"qed\",\"filename\":\"b\"}}",
         NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"http\",\"filename\":\"b\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"https\",\"url\":\"http://h/x\"}", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":\"json:{\\\"filename\\\":\\\"b\\\"}\"}", NULL, NULL},
        {"a/top.qed", "json:{\"filename\":\"nbd:x\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"filename\":\"b\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"export\":\"e\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"server.host\":\"h/x@\"}", NULL, NULL},
        {"a/top.qed", "json:{\"host\":\"h\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"host\":\"h\",\"path\":\"/s\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"host\":\"h\",\"port\":\"x\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"host\":\"h\",\"tls-creds\":\"t\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"server\":{\"export\":\"e\"}}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"type\":\"unix\",\"path\":\"/s\"}", NULL, NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"server\":{\"type\":\"fd\",\"path\":\"3\"}}", NULL,
         NULL},
        {"a/top.qed", "json:{\"driver\":\"nbd\",\"url\":\"nbd://h\",\"export\":\"e\"}", NULL, NULL},
    };
    CHECK_ROWS(rows);
}

/* "json:" and @depth times @open, which the parser would follow down. */
static void refuse_nested(const char *open, unsigned depth)
{
    size_t open_bytes = strlen(open);
    char *name = vt_calloc(depth * open_bytes + 6, 1);
    struct vd_named named;
    memcpy(name, "json:", 5);
    for (unsigned i = 0; i < depth; i++)
        memcpy(name + 5 + i * open_bytes, open, open_bytes);
    VT_FAILS(EINVAL, vd_named_resolve(&named, "top.qed", name, &vt_err));
    vd_named_free(&named);
    free(name);
}

static void nested_json_is_bounded(void **state)
{
    (void)state;
    refuse_nested("[", 1000000);
    refuse_nested("{\"file\":", 300000);
    refuse_nested("[", 17);
    refuse_nested("]", 100000);
}

static void long_names_are_kept_whole(void **state)
{
    (void)state;
    size_t length = 1 << 20;
    char *name = vt_calloc(length + 32, 1);
    struct vd_named named;
    memset(name, 'x', length);
    VT_OK(vd_named_resolve(&named, "a/top.qed", name, &vt_err));
    assert_int_equal(strlen(named.path), length + 2);
    vd_named_free(&named);

    memcpy(name, "json:{\"filename\":\"", 18);
    memcpy(name + length, "\"}", 3);
    VT_OK(vd_named_resolve(&named, "a/top.qed", name, &vt_err));
    assert_int_equal(strlen(named.path), length - 18 + 2);
    vd_named_free(&named);
    free(name);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_count_from_the_directory_of_the_bearer),
        cmocka_unit_test(the_prefix_file_is_a_path_whatever_follows),
        cmocka_unit_test(other_protocols_are_refused),
        cmocka_unit_test(what_a_server_bears_stays_on_the_server),
        cmocka_unit_test(json_names_mean_one_file),
        cmocka_unit_test(json_names_mean_exports),
        cmocka_unit_test(other_json_is_refused),
        cmocka_unit_test(nested_json_is_bounded),
        cmocka_unit_test(long_names_are_kept_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
