/* SPDX-License-Identifier: MIT */
/* NBD URIs: what they mean, what is none, and which are the same export. */
#include "drivers/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storage/nbd_uri.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void uris_are_taken_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum vd_nbd_transport transport;
        bool is_tls, names_files;
        const char *place, *port, *export_name;
    } cases[] = {
        {"nbd://host", VD_NBD_TCP, false, false, "host", "10809", ""},
        {"nbd://host/", VD_NBD_TCP, false, false, "host", "10809", ""},
        {"nbd://", VD_NBD_TCP, false, false, "localhost", "10809", ""},
        {"nbd:///disk", VD_NBD_TCP, false, false, "localhost", "10809", "disk"},
        {"NBD://HOST:1/Disk", VD_NBD_TCP, false, false, "host", "1", "Disk"},
        {"nbd://host//a/b", VD_NBD_TCP, false, false, "host", "10809", "/a/b"},
        {"nbd://host/a%20b%2fc", VD_NBD_TCP, false, false, "host", "10809", "a b/c"},
        {"nbd://[::1]:99/x", VD_NBD_TCP, false, false, "::1", "99", "x"},
        {"nbd://[::1]/x", VD_NBD_TCP, false, false, "::1", "10809", "x"},
        {"nbd://host:/x", VD_NBD_TCP, false, false, "host", "10809", "x"},
        {"nbds://alice@host/x", VD_NBD_TCP, true, false, "host", "10809", "x"},
        {"nbds://a@host?tls-certificates=/p", VD_NBD_TCP, true, true, "host", "10809", ""},
        {"nbds://host/?tls-psk-file=/k", VD_NBD_TCP, true, true, "host", "10809", ""},
        {"nbd+unix:///?socket=/s", VD_NBD_UNIX, false, false, "/s", NULL, ""},
        {"nbd+unix://?socket=/s", VD_NBD_UNIX, false, false, "/s", NULL, ""},
        {"nbd+unix:///e?socket=a%26b", VD_NBD_UNIX, false, false, "a&b", NULL, "e"},
        {"nbds+unix:///e?socket=s&tls-psk-file=k", VD_NBD_UNIX, true, true, "s", NULL, "e"},
        {"nbds+unix:///e?tls-psk-file=k;socket=s&", VD_NBD_UNIX, true, true, "s", NULL, "e"},
        {"nbd+vsock://3:77/e", VD_NBD_VSOCK, false, false, "3", "77", "e"},
        {"nbd+vsock:///e", VD_NBD_VSOCK, false, false, "2", "10809", "e"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct vd_nbd_uri uri;
        print_message("# %s\n", cases[i].text);
        VT_OK(vd_nbd_uri_parse(cases[i].text, &uri, &vt_err));
        assert_int_equal(uri.transport, cases[i].transport);
        assert_int_equal(uri.is_tls, cases[i].is_tls);
        assert_int_equal(uri.has_key || uri.certificates, cases[i].names_files);
        assert_string_equal(uri.place, cases[i].place);
        if (cases[i].port)
            assert_string_equal(uri.port, cases[i].port);
        else
            assert_null(uri.port);
        assert_string_equal(uri.export_name, cases[i].export_name);
        assert_int_equal(strncmp(uri.text, "nbd", 3), 0);
        vd_nbd_uri_free(&uri);
    }
}

static void what_is_none_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "nbd:",
        "nbd:/",
        "nbd:host:10809",
        "http://host",
        "nbdx://host",
        "nbd+ssh://host",
        "nbd://host:port",
        "nbd://host:65536",
        "nbd://host:-1",
        "nbd://host:12345678901",
        "nbd://[::1",
        "nbd://[::1]x",
        "nbd://host/a b",
        "nbd://host/\n",
        "nbd://host/\x80",
        "nbd://host/%",
        "nbd://host/%0",
        "nbd://host/%zz",
        "nbd://host/%00",
        "nbd://host/a#b",
        "nbd://ho%st/",
        "nbd://host/?socket=/s",
        "nbd://host/?verify=no",
        "nbds://host/?tls-verify-peer=false",
        "nbds://host/?TLS-PSK-File=/k",
        "nbds://host/?tls%2dpsk-file=/k",
        "nbds://host/?tls-psk-file=",
        "nbds://host/?tls-psk-file=/k&tls-certificates=/c",
        "nbds://host/?tls-certificates=/c&tls-certificates=/d",
        "nbd://host/?tls-psk-file=/k",
        "nbd://host/?tls-certificates=/k",
        "nbd+unix:///",
        "nbd+unix:///?socket=",
        "nbd+unix:///?socket=%00",
        "nbd+unix:///?socket=a&socket=b",
        "nbd+unix://host/?socket=/s",
        ("nbd+unix:///?socket=/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789"
         "/0123456789/0123456789/0123456789/0123456789"),
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct vd_nbd_uri uri;
        print_message("# number %zu\n", i);
        VT_FAILS(EINVAL, vd_nbd_uri_parse(bad[i], &uri, &vt_err));
        vd_nbd_uri_free(&uri);
        assert_false(vd_nbd_identify(bad[i]).known);
    }
    char *name = malloc(5000);
    assert_non_null(name);
    memset(name, 'x', 4999);
    memcpy(name, "nbd://h/", 8);
    name[4999] = '\0';
    struct vd_nbd_uri uri;
    VT_FAILS(EINVAL, vd_nbd_uri_parse(name, &uri, &vt_err));
    vd_nbd_uri_free(&uri);
    free(name);
}

static bool is_same(const char *a, const char *b)
{
    struct vd_storage_identity first = vd_nbd_identify(a);
    struct vd_storage_identity second = vd_nbd_identify(b);
    assert_true(first.known && second.known);
    return vd_storage_identity_equals(first, second);
}

static void the_same_export_has_one_identity(void **state)
{
    (void)state;
    assert_true(is_same("nbd://host/e", "nbd://host/e"));
    assert_true(is_same("nbd://host/e", "NBD://HOST:10809/%65"));
    assert_true(is_same("nbd://host/e", "nbds://user@host/e?tls-psk-file=/k"));
    assert_true(is_same("nbd+unix:///e?socket=/s", "nbds+unix:///e?socket=%2Fs"));
    assert_false(is_same("nbd://host/e", "nbd://host/f"));
    assert_false(is_same("nbd://host/e", "nbd://host/E"));
    assert_false(is_same("nbd://host/e", "nbd://host:1/e"));
    assert_false(is_same("nbd://host/e", "nbd://hosu/e"));
    assert_false(is_same("nbd://3/e", "nbd+vsock://3/e"));
    assert_false(is_same("nbd+unix:///e?socket=/s", "nbd+unix:///e?socket=/t"));
    assert_false(is_same("nbd+unix:///e?socket=/s", "nbd+unix:///f?socket=/s"));
}

static void links_to_a_socket_are_the_socket(void **state)
{
    (void)state;
    char folder[] = "/tmp/vdisk-nbd-uri-XXXXXX";
    char target[64], link_path[64], first[128], second[128];
    assert_non_null(mkdtemp(folder));
    snprintf(target, sizeof(target), "%s/target", folder);
    snprintf(link_path, sizeof(link_path), "%s/link", folder);
    FILE *file = fopen(target, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(symlink(target, link_path), 0);
    snprintf(first, sizeof(first), "nbd+unix:///e?socket=%s", target);
    snprintf(second, sizeof(second), "nbd+unix:///e?socket=%s", link_path);
    assert_true(is_same(first, second));
    unlink(link_path);
    unlink(target);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uris_are_taken_apart),
        cmocka_unit_test(what_is_none_is_refused),
        cmocka_unit_test(the_same_export_has_one_identity),
        cmocka_unit_test(links_to_a_socket_are_the_socket),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("nbd-uri", tests, NULL, NULL);
}
