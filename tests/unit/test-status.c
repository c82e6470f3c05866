/* SPDX-License-Identifier: MIT */
/* The status page: its texts, and requests while exports come and go. */
#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "drivers/check.h"
#include "serve/server.h"
#include "util/workers.h"

#define KIB     UINT64_C(1024)
#define MIB     (UINT64_C(1) << 20)
#define CLUSTER (64 * KIB)

struct fixture {
    struct vdisk_server *server;
    struct vdisk_image *image; /* qcow2, 64 MiB; clusters 3 and 4 are allocated */
    unsigned port;             /* of the page */
};

static struct vdisk_image *new_image(uint64_t size)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = size};
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = VDISK_OPEN_WRITE, .format = "qcow2"};
    struct vd_storage *file;
    struct vdisk_image *image;
    VT_OK(vd_storage_mem_open(0, &file, &vt_err));
    VT_OK(vd_format_create(vd_format_find("qcow2", NULL), file, NULL, &create, &vt_err));
    VT_OK(vd_image_open_on(file, &open, &image, &vt_err));
    return image;
}

static int listening_socket(unsigned *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static void add_export(struct fixture *fix, const char *name)
{
    struct vdisk_export_options options = {.struct_bytes = sizeof(options), .name = name};
    VT_OK(vdisk_server_add_export(fix->server, fix->image, &options, &vt_err));
}

static void begin(struct fixture *fix)
{
    char bytes[2 * CLUSTER];
    memset(bytes, 'x', sizeof(bytes));
    VT_OK(vdisk_server_create(NULL, &fix->server, &vt_err));
    fix->image = new_image(64 * MIB);
    VT_OK(vdisk_image_pwrite(fix->image, bytes, sizeof(bytes), 3 * CLUSTER, &vt_err));
    add_export(fix, "disk");
    int fd = listening_socket(&fix->port);
    VT_OK(vdisk_server_serve_status(fix->server, fd, &vt_err));
}

static void end(struct fixture *fix)
{
    vdisk_server_free(fix->server);
    VT_OK(vdisk_image_close(fix->image, &vt_err));
}

/* What is answered to a request for @path, or NULL.  Freed by the caller. */
static char *get(unsigned port, const char *path)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char request[512];
    char *answer = NULL;
    size_t length = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return NULL;
    int bytes = snprintf(request, sizeof(request),
                         "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    FILE *out = open_memstream(&answer, &length);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
        send(fd, request, (size_t)bytes, MSG_NOSIGNAL) == bytes) {
        ssize_t got;
        while ((got = recv(fd, request, sizeof(request), 0)) > 0)
            fwrite(request, 1, (size_t)got, out);
    }
    close(fd);
    fclose(out);
    return answer;
}

/* The object that is answered; NULL if it is none. */
static json_t *get_json(unsigned port, const char *path)
{
    char *answer = get(port, path);
    char *body = answer ? strstr(answer, "\r\n\r\n") : NULL;
    json_t *json =
        body && strncmp(answer, "HTTP/1.1 200 ", 13) == 0 ? json_loads(body, 0, NULL) : NULL;
    free(answer);
    return json;
}

static void texts_tell_of_exports(void **state)
{
    (void)state;
    struct fixture fix;
    const char *name, *format;
    json_int_t size, clients, cell_bytes;
    json_t *bytes;
    begin(&fix);
    json_t *json = get_json(fix.port, "/status.json");
    assert_non_null(json);
    assert_int_equal(json_unpack(json, "{s:[{s:s, s:s, s:I, s:I}]}", "exports", "name", &name,
                                 "format", &format, "size", &size, "clients", &clients),
                     0);
    assert_string_equal(name, "disk");
    assert_string_equal(format, "qcow2");
    assert_int_equal(size, 64 * MIB);
    assert_int_equal(clients, 0);
    json_decref(json);

    json = get_json(fix.port, "/map.json?export=disk");
    assert_non_null(json);
    assert_int_equal(
        json_unpack(json, "{s:I, s:[{s:o}]}", "cell-size", &cell_bytes, "maps", "bytes", &bytes),
        0);
    assert_int_equal(cell_bytes, CLUSTER);
    assert_int_equal(json_array_size(bytes), 1024);
    for (size_t i = 0; i < 1024; i++)
        assert_int_equal(json_integer_value(json_array_get(bytes, i)),
                         i == 3 || i == 4 ? (json_int_t)CLUSTER : 0);
    json_decref(json);

    char *metrics = get(fix.port, "/metrics");
    assert_non_null(strstr(metrics, "\nvdisk_export_size_bytes{export=\"disk\"} 67108864\n"));
    free(metrics);
    end(&fix);
}

static void sockets_that_are_none_are_refused(void **state)
{
    (void)state;
    struct fixture fix;
    unsigned port;
    int pair[2];
    begin(&fix);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    VT_FAILS(EINVAL, vdisk_server_serve_status(fix.server, pair[0], &vt_err));
    VT_FAILS(EINVAL, vdisk_server_serve_status(fix.server, -1, &vt_err));
    close(pair[0]);
    close(pair[1]);
    int fd = listening_socket(&port);
    VT_FAILS(EEXIST, vdisk_server_serve_status(fix.server, fd, &vt_err));
    VT_OK(vdisk_server_stop(fix.server, 0, &vt_err));
    VT_FAILS(ESHUTDOWN, vdisk_server_serve_status(fix.server, fd, &vt_err));
    close(fd); /* still the caller's */
    end(&fix);
}

/* Names that JSON, labels and addresses have to escape. */
static void names_are_escaped(void **state)
{
    (void)state;
    struct fixture fix;
    const char *first, *second;
    begin(&fix);
    add_export(&fix, "a\"\\\n<&>");
    json_t *json = get_json(fix.port, "/status.json");
    assert_int_equal(
        json_unpack(json, "{s:[{s:s},{s:s}]}", "exports", "name", &first, "name", &second), 0);
    assert_string_equal(second, "a\"\\\n<&>");
    json_decref(json);
    char *metrics = get(fix.port, "/metrics");
    assert_non_null(strstr(metrics, "\nvdisk_export_clients{export=\"a\\\"\\\\\\n<&>\"} 0\n"));
    free(metrics);
    json = get_json(fix.port, "/map.json?export=a%22%5c%0a%3c%26%3e");
    assert_int_equal(json_unpack(json, "{s:s}", "export", &first), 0);
    assert_string_equal(first, "a\"\\\n<&>");
    json_decref(json);
    end(&fix);
}

/* One adds and removes an export, the others ask for all there is. */
static int ask_or_change(void *work, unsigned index, struct vdisk_error *err)
{
    static const char *const paths[] = {"/status.json", "/map.json?export=guest",
                                        "/map.json?export=disk"};
    struct fixture *fix = work;
    struct vdisk_export_options options = {.struct_bytes = sizeof(options), .name = "guest"};
    int ret = 0;
    for (unsigned i = 0; i < 60 && ret == 0; i++) {
        if (index == 0) {
            ret = vdisk_server_add_export(fix->server, fix->image, &options, err);
            if (ret == 0)
                ret = vdisk_server_remove_export(fix->server, "guest", err);
            continue;
        }
        unsigned path = (i + index) % 3;
        json_t *json = get_json(fix->port, paths[path]);
        if (!json && path != 1)
            ret = vd_err_set(err, EIO, "%s is no object", paths[path]);
        json_decref(json);
        free(get(fix->port, "/metrics"));
    }
    return ret;
}

static void exports_come_and_go(void **state)
{
    (void)state;
    struct fixture fix;
    begin(&fix);
    VT_OK(vd_workers_run(4, ask_or_change, &fix, &vt_err));
    end(&fix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_tell_of_exports),
        cmocka_unit_test(sockets_that_are_none_are_refused),
        cmocka_unit_test(names_are_escaped),
        cmocka_unit_test(exports_come_and_go),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
