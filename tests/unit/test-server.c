/* SPDX-License-Identifier: MIT */
/* The server: who may come, what is counted, and that nothing is lost however it ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "drivers/fault.h"
#include "drivers/nbd_client.h"
#include "drivers/trace.h"
#include "image/image.h"
#include "serve/server.h"

#define KIB       1024u
#define MIB       (1024u * KIB)
#define DISK_SIZE (4 * MIB)

static const struct vdisk_export_options writable = {.struct_bytes = sizeof(writable),
                                                     .flags = VDISK_EXPORT_WRITE};

/* ---- What a test has ---- */

struct scene {
    struct vdisk_image *image;
    struct vd_storage *trace; /* below the image */
    struct vd_storage *fault; /* below that */
    struct vdisk_server *server;
    atomic_uint lines[VDISK_LOG_DEBUG + 1];
};

static void count_line(void *opaque, enum vdisk_log_level level, const char *message)
{
    struct scene *scene = opaque;
    if (getenv("VD_TEST_LOG"))
        fprintf(stderr, "# %s\n", message);
    atomic_fetch_add(&scene->lines[level], 1);
}

static struct vdisk_image *open_image(struct scene *scene)
{
    static const struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = VDISK_OPEN_WRITE, .format = "raw"};
    struct vd_storage *mem;
    struct vdisk_image *image;
    assert_int_equal(vd_storage_mem_open(DISK_SIZE, &mem, NULL), 0);
    assert_int_equal(vt_fault_open(mem, VT_OWN, &scene->fault, NULL), 0);
    assert_int_equal(vt_trace_open(scene->fault, VT_OWN, NULL, &scene->trace, NULL), 0);
    assert_int_equal(vd_image_open_on(scene->trace, &options, &image, NULL), 0);
    return image;
}

/* @options: but for struct_bytes and the log; or NULL. */
static struct scene *begin(const struct vdisk_server_options *options)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    assert_non_null(scene);
    struct vdisk_server_options all = options ? *options : (struct vdisk_server_options){0};
    all.struct_bytes = sizeof(all);
    all.log = count_line;
    all.opaque = scene;
    assert_int_equal(vdisk_server_create(&all, &scene->server, NULL), 0);
    scene->image = open_image(scene);
    assert_int_equal(vdisk_server_add_export(scene->server, scene->image, &writable, NULL), 0);
    return scene;
}

static void end(struct scene *scene)
{
    vdisk_server_free(scene->server);
    assert_int_equal(vdisk_image_close(scene->image, NULL), 0);
    free(scene);
}

/* A socket of which the server has the other end. */
static int join_server(struct scene *scene)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(vdisk_server_connect(scene->server, fds[0], NULL), 0);
    return fds[1];
}

static void join_as(struct scene *scene, struct vt_nbd *client, const char *name)
{
    assert_int_equal(vt_nbd_begin(client, join_server(scene), name), 0);
}

struct place {
    union {
        struct sockaddr any;
        struct sockaddr_in ip4;
        struct sockaddr_un un;
    } name;
    socklen_t length;
};

/* Listens on a port of the loopback that is free. */
static struct place listen_on_ip(struct vdisk_server *server)
{
    struct place place = {
        .name.ip4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
        .length = sizeof(place.name.ip4)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, &place.name.any, place.length), 0);
    assert_int_equal(getsockname(fd, &place.name.any, &place.length), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(vdisk_server_listen(server, fd, NULL), 0);
    return place;
}

/* Listens on an address without a file: the system chooses it. */
static struct place listen_on_unix(struct vdisk_server *server)
{
    struct place place = {.name.un = {.sun_family = AF_UNIX}, .length = sizeof(sa_family_t)};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, &place.name.any, place.length), 0);
    place.length = sizeof(place.name);
    assert_int_equal(getsockname(fd, &place.name.any, &place.length), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(vdisk_server_listen(server, fd, NULL), 0);
    return place;
}

/* @from: our address on the loopback, 0 for any.  -1: cannot connect. */
static int connect_to(const struct place *place, uint32_t from)
{
    int fd = socket(place->name.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    const struct sockaddr_in ours = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(from)};
    if (from)
        assert_int_equal(bind(fd, (const struct sockaddr *)&ours, sizeof(ours)), 0);
    if (connect(fd, &place->name.any, place->length) == 0)
        return fd;
    close(fd);
    return -1;
}

static struct vdisk_server_stats stats_of(struct vdisk_server *server, const char *name)
{
    struct vdisk_server_stats stats = {.struct_bytes = sizeof(stats)};
    assert_int_equal(vdisk_server_stats(server, name, &stats, NULL), 0);
    return stats;
}

/* Returns when the server knows that all have left. */
static void wait_until_alone(struct vdisk_server *server)
{
    assert_int_equal(vdisk_server_wait(server, 1, NULL), 0);
}

/* ---- What is refused ---- */

static void wrong_options_are_refused(void **state)
{
    (void)state;
    static const struct vdisk_server_options bad[] = {
        {.struct_bytes = 8},
        {.struct_bytes = sizeof(bad[0]), .workers = 1025},
        {.struct_bytes = sizeof(bad[0]), .connection_bytes = 33 * MIB},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct vdisk_server *server;
        struct vdisk_error err = {0};
        assert_int_equal(vdisk_server_create(&bad[i], &server, &err), -EINVAL);
        assert_non_null(strstr(err.message, "server options: "));
    }
    struct vdisk_server *server;
    assert_int_equal(vdisk_server_create(NULL, &server, NULL), 0);
    assert_int_equal(vdisk_server_reload_tls(server, NULL), -ENOTSUP);
    assert_int_equal(vdisk_server_remove_export(server, "", NULL), -ENOENT);
    struct vdisk_server_stats stats = {.struct_bytes = 1};
    assert_int_equal(vdisk_server_stats(server, NULL, &stats, NULL), -EINVAL);
    stats.struct_bytes = sizeof(stats);
    assert_int_equal(vdisk_server_stats(server, "", &stats, NULL), -ENOENT);
    vdisk_server_free(server);
    vdisk_server_free(NULL);
}

static void wrong_descriptors_are_refused(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    int pair[2];
    assert_int_equal(pipe(pair), 0);
    int stream = socket(AF_INET, SOCK_STREAM, 0); /* neither connected nor listening */
    int datagrams[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams), 0);
    const int bad[] = {-1, pair[0], stream, datagrams[0]};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct vdisk_error err = {0};
        assert_int_equal(vdisk_server_listen(scene->server, bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.message, "not a listening stream socket"));
        err = (struct vdisk_error){0};
        assert_int_equal(vdisk_server_connect(scene->server, bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.message, "not a connected stream socket"));
    }
    assert_int_equal(vdisk_server_stop(scene->server, 1, NULL), 0);
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_int_equal(vdisk_server_connect(scene->server, fds[0], NULL), -ESHUTDOWN);
    assert_int_equal(listen(stream, 1), 0);
    assert_int_equal(vdisk_server_listen(scene->server, stream, NULL), -ESHUTDOWN);
    for (size_t i = 0; i < 2; i++) {
        close(pair[i]);
        close(datagrams[i]);
        close(fds[i]);
    }
    close(stream);
    end(scene);
}

/* ---- Who comes and goes ---- */

static void a_client_is_served_and_counted(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    struct vt_nbd client;
    join_as(scene, &client, "");
    assert_int_equal(client.size, DISK_SIZE);
    char out[4096];
    char in[4096] = {0};
    memset(out, 'v', sizeof(out));
    assert_int_equal(vt_nbd_request(&client, NBD_CMD_WRITE, 0, 8192, sizeof(out), out), 0);
    assert_int_equal(vt_nbd_request(&client, NBD_CMD_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(vt_nbd_request(&client, NBD_CMD_READ, 0, 8192, sizeof(in), in), 0);
    assert_memory_equal(in, out, sizeof(in));

    struct vdisk_server_stats stats = stats_of(scene->server, "");
    assert_int_equal(stats.clients, 1);
    assert_true(stats.received_bytes > sizeof(out));
    vt_nbd_end(&client, true);
    wait_until_alone(scene->server);

    stats = stats_of(scene->server, NULL);
    assert_int_equal(stats.clients, 0);
    assert_int_equal(stats.connections, 1);
    assert_int_equal(stats.refused, 0);
    assert_int_equal(stats.requests[VDISK_REQUEST_WRITE].requests, 1);
    assert_int_equal(stats.requests[VDISK_REQUEST_WRITE].bytes, sizeof(out));
    assert_int_equal(stats.requests[VDISK_REQUEST_READ].bytes, sizeof(in));
    assert_int_equal(stats.requests[VDISK_REQUEST_FLUSH].requests, 1);
    /* What was negotiated is counted as well: greeting, flags, GO. */
    struct vdisk_server_stats one = stats_of(scene->server, "");
    assert_true(one.sent_bytes > sizeof(in));
    assert_int_equal(one.sent_bytes, stats.sent_bytes);
    assert_int_equal(one.received_bytes, stats.received_bytes);
    assert_int_equal(one.received_bytes, 4 + 16 + 6 + 4 * 28 + sizeof(out));

    struct vt_nbd refused;
    assert_int_equal(vt_nbd_begin(&refused, join_server(scene), "none"), -ENOENT);
    vt_nbd_end(&refused, false);
    wait_until_alone(scene->server);
    stats = stats_of(scene->server, NULL);
    assert_int_equal(stats.connections, 2);
    assert_int_equal(stats.refused, 1);
    end(scene);
}

static void it_listens_on_several_sockets(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    struct place places[] = {listen_on_ip(scene->server), listen_on_unix(scene->server),
                             listen_on_unix(scene->server)};
    enum {
        CLIENTS = 12
    };
    struct vt_nbd clients[CLIENTS];
    for (size_t i = 0; i < CLIENTS; i++) {
        assert_int_equal(vt_nbd_begin(&clients[i], connect_to(&places[i % 3], 0), ""), 0);
        char byte = (char)i;
        assert_int_equal(vt_nbd_request(&clients[i], NBD_CMD_WRITE, 0, i * 512, 1, &byte), 0);
    }
    assert_int_equal(stats_of(scene->server, NULL).clients, CLIENTS);
    for (size_t i = 0; i < CLIENTS; i++) {
        char byte = 0;
        assert_int_equal(vt_nbd_request(&clients[0], NBD_CMD_READ, 0, i * 512, 1, &byte), 0);
        assert_int_equal(byte, i);
    }
    for (size_t i = 0; i < CLIENTS; i++)
        vt_nbd_end(&clients[i], i % 2 == 0);
    assert_int_equal(vdisk_server_wait(scene->server, CLIENTS, NULL), 0);
    assert_int_equal(stats_of(scene->server, NULL).clients, 0);
    end(scene);
}

static void *wait_for_clients(void *opaque)
{
    struct vdisk_server *server = opaque;
    return vdisk_server_wait(server, 1000, NULL) == -ESHUTDOWN &&
                   vdisk_server_wait(server, 0, NULL) == 0
               ? NULL
               : server;
}

static void who_waits_for_clients_learns_of_the_end(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_clients, scene->server), 0);
    usleep(10000);
    assert_int_equal(vdisk_server_stop(scene->server, 0, NULL), 0);
    void *fault = scene;
    pthread_join(thread, &fault);
    assert_null(fault);
    end(scene);
}

/* ---- Limits ---- */

/* Has the server hung up?  It may take its time. */
static bool is_hung_up(int fd)
{
    char buf[64];
    ssize_t got;
    while ((got = recv(fd, buf, sizeof(buf), 0)) > 0)
        continue;
    return got == 0 || errno == ECONNRESET;
}

/* Tries until it is let in: that others have left may not be known yet. */
static void get_in(const struct place *place, uint32_t from, struct vt_nbd *client)
{
    for (;;) {
        int ret = vt_nbd_begin(client, connect_to(place, from), "");
        if (ret == 0)
            return;
        assert_int_equal(ret, -ECONNRESET);
        vt_nbd_end(client, false);
        usleep(1000);
    }
}

static void there_are_no_more_connections_than_allowed(void **state)
{
    (void)state;
    struct scene *scene = begin(&(struct vdisk_server_options){.connections = 2});
    struct place place = listen_on_unix(scene->server);
    struct vt_nbd clients[2];
    get_in(&place, 0, &clients[0]);
    get_in(&place, 0, &clients[1]);
    for (int i = 0; i < 20; i++) {
        int fd = connect_to(&place, 0);
        assert_true(is_hung_up(fd));
        close(fd);
    }
    assert_int_equal(stats_of(scene->server, NULL).refused, 20);
    assert_true(atomic_load(&scene->lines[VDISK_LOG_WARNING]) < 20); /* not a line for each */
    assert_true(atomic_load(&scene->lines[VDISK_LOG_WARNING]) > 0);

    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_int_equal(vdisk_server_connect(scene->server, fds[0], NULL), -EUSERS);
    close(fds[0]);
    close(fds[1]);

    char byte = 0; /* those who are in do not notice */
    assert_int_equal(vt_nbd_request(&clients[1], NBD_CMD_READ, 0, 0, 1, &byte), 0);
    vt_nbd_end(&clients[0], false);
    get_in(&place, 0, &clients[0]);
    vt_nbd_end(&clients[0], true);
    vt_nbd_end(&clients[1], true);
    end(scene);
}

static void an_address_has_a_limit_of_its_own(void **state)
{
    (void)state;
    struct scene *scene = begin(&(struct vdisk_server_options){.connections_per_address = 2});
    struct place place = listen_on_ip(scene->server);
    struct vt_nbd clients[4];
    get_in(&place, INADDR_LOOPBACK, &clients[0]);
    get_in(&place, INADDR_LOOPBACK, &clients[1]);
    int fd = connect_to(&place, INADDR_LOOPBACK);
    assert_true(is_hung_up(fd));
    close(fd);
    get_in(&place, INADDR_LOOPBACK + 1, &clients[2]);
    get_in(&place, INADDR_LOOPBACK + 1, &clients[3]);
    fd = connect_to(&place, INADDR_LOOPBACK + 1);
    assert_true(is_hung_up(fd));
    close(fd);
    for (int i = 0; i < 5; i++)
        close(join_server(scene)); /* has no address */
    vt_nbd_end(&clients[0], false);
    get_in(&place, INADDR_LOOPBACK, &clients[0]);
    for (int i = 0; i < 4; i++)
        vt_nbd_end(&clients[i], true);
    end(scene);
}

static void who_does_not_negotiate_is_dropped(void **state)
{
    (void)state;
    struct scene *scene = begin(&(struct vdisk_server_options){.negotiation_ms = 50});
    enum {
        SILENT = 20
    };
    int silent[SILENT];
    for (int i = 0; i < SILENT; i++)
        silent[i] = join_server(scene);
    for (int i = 0; i < SILENT; i++) {
        assert_true(is_hung_up(silent[i]));
        close(silent[i]);
    }
    /* Who has chosen an export is not bound by it; on a machine that is busy that takes attempts.
     */
    struct vt_nbd client;
    uint64_t late = 0;
    while (vt_nbd_begin(&client, join_server(scene), "") < 0) {
        vt_nbd_end(&client, false);
        late++;
    }
    usleep(100000);
    char byte = 1;
    assert_int_equal(vt_nbd_request(&client, NBD_CMD_READ, 0, 0, 1, &byte), 0);
    vt_nbd_end(&client, true);
    wait_until_alone(scene->server);
    assert_int_equal(stats_of(scene->server, NULL).refused, SILENT + late);
    end(scene);
}

/* Runs out of descriptors while clients wait, and gets them back. */
static void it_survives_a_lack_of_descriptors(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    struct place place = listen_on_unix(scene->server);
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct vt_nbd client;
    get_in(&place, 0, &client);
    char byte = 0; /* once it has been answered, the server has all that it needs for this one */
    assert_int_equal(vt_nbd_request(&client, NBD_CMD_READ, 0, 0, 1, &byte), 0);
    int waiting = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int next = dup(waiting); /* the lowest that is free: there is none below it */
    close(next);
    struct rlimit low = {.rlim_cur = (rlim_t)next, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(connect(waiting, &place.name.any, place.length), 0);
    for (int i = 0; i < 100 || !atomic_load(&scene->lines[VDISK_LOG_ERROR]); i++) {
        assert_int_equal(vt_nbd_request(&client, NBD_CMD_READ, 0, 0, 1, &byte), 0);
        usleep(2000);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    struct vt_nbd late;
    assert_int_equal(vt_nbd_begin(&late, waiting, ""), 0);
    assert_int_equal(atomic_load(&scene->lines[VDISK_LOG_ERROR]), 1); /* told once */
    vt_nbd_end(&late, true);
    get_in(&place, 0, &late);
    vt_nbd_end(&late, true);
    vt_nbd_end(&client, true);
    end(scene);
}

/* ---- The end ---- */

/* Writes numbers that go up to a sector of its own until the server is gone. */
struct writer {
    struct vt_nbd client;
    pthread_t thread;
    uint64_t offset;
    uint64_t acknowledged;
    uint64_t refused;  /* by an error of the protocol */
    uint64_t mistakes; /* another one than ESHUTDOWN */
};

static void *write_numbers(void *opaque)
{
    struct writer *writer = opaque;
    for (uint64_t number = 1;; number++) {
        char sector[512] = {0};
        memcpy(sector, &number, sizeof(number));
        int ret = vt_nbd_request(&writer->client, NBD_CMD_WRITE, 0, writer->offset, sizeof(sector),
                                 sector);
        if (ret < 0) {
            writer->mistakes += ret != -ECONNRESET;
            return NULL;
        }
        if (ret > 0) {
            writer->refused++;
            writer->mistakes += ret != NBD_ESHUTDOWN;
        } else {
            writer->mistakes += writer->refused != 0; /* no write is done after one was refused */
            writer->acknowledged = number;
        }
    }
}

static void start_writer(struct scene *scene, struct writer *writer, const char *name,
                         uint64_t offset)
{
    *writer = (struct writer){.offset = offset};
    join_as(scene, &writer->client, name);
    assert_int_equal(pthread_create(&writer->thread, NULL, write_numbers, writer), 0);
}

/* It has been disconnected, and what it was told is true. */
static void check_writer(struct writer *writer, struct vdisk_image *image)
{
    pthread_join(writer->thread, NULL);
    vt_nbd_end(&writer->client, false);
    assert_int_equal(writer->mistakes, 0);
    uint64_t number = 0;
    assert_int_equal(vdisk_image_pread(image, &number, sizeof(number), writer->offset, NULL), 0);
    assert_true(number == writer->acknowledged || number == writer->acknowledged + 1);
}

/* Has the storage been flushed after the last write? */
static bool is_flushed(struct vd_storage *trace)
{
    size_t entries = 0;
    const struct vt_record *records = vt_trace_records(trace, &entries);
    bool is_flushed = true;
    for (size_t i = 0; i < entries; i++) {
        if (records[i].call == VT_WRITE)
            is_flushed = false;
        if (records[i].call == VT_FLUSH && records[i].result == 0)
            is_flushed = true;
    }
    return is_flushed;
}

static void an_export_can_be_removed_in_use(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    struct writer other; /* of another export: does not notice */
    start_writer(scene, &other, "", 0);
    struct scene second = {0};
    struct vdisk_export_options options = writable;
    options.name = "second";
    for (int round = 0; round < 10; round++) {
        second.image = open_image(&second);
        assert_int_equal(vdisk_server_add_export(scene->server, second.image, &options, NULL), 0);
        enum {
            WRITERS = 4
        };
        struct writer writers[WRITERS];
        for (size_t i = 0; i < WRITERS; i++)
            start_writer(scene, &writers[i], "second", i * 512);
        usleep((unsigned)round * 1000);
        assert_int_equal(vdisk_server_remove_export(scene->server, "second", NULL), 0);
        assert_int_equal(vdisk_server_remove_export(scene->server, "second", NULL), -ENOENT);
        assert_true(is_flushed(second.trace));
        for (size_t i = 0; i < WRITERS; i++)
            check_writer(&writers[i], second.image);
        assert_int_equal(vdisk_image_close(second.image, NULL), 0);
        struct vt_nbd late;
        assert_int_equal(vt_nbd_begin(&late, join_server(scene), "second"), -ENOENT);
        vt_nbd_end(&late, false);
    }
    assert_int_equal(vdisk_server_stop(scene->server, 0, NULL), 0);
    check_writer(&other, scene->image);
    assert_true(other.acknowledged > 0);
    assert_int_equal(stats_of(scene->server, NULL).connections, 51);
    end(scene);
}

static void a_stop_loses_nothing(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        struct scene *scene = begin(NULL);
        enum {
            WRITERS = 4
        };
        struct writer writers[WRITERS];
        for (size_t i = 0; i < WRITERS; i++)
            start_writer(scene, &writers[i], "", i * 512);
        usleep((unsigned)round * 1000);
        assert_int_equal(vdisk_server_stop(scene->server, 0, NULL), 0);
        assert_true(is_flushed(scene->trace));
        for (size_t i = 0; i < WRITERS; i++)
            check_writer(&writers[i], scene->image);
        end(scene);
    }
}

/* Asks for replies and takes none, until the server takes no more requests either. */
static void clog_up(struct vt_nbd *client)
{
    struct pollfd at = {.fd = client->fd, .events = POLLOUT};
    while (poll(&at, 1, 100) > 0)
        assert_int_equal(vt_nbd_send(client, NBD_CMD_READ, 0, 0, MIB, NULL), 0);
}

static void a_stop_waits_no_longer_than_its_grace(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    struct vt_nbd clogged;
    join_as(scene, &clogged, "");
    clog_up(&clogged);
    int silent = join_server(scene);
    struct vt_nbd idle;
    join_as(scene, &idle, "");
    assert_int_equal(vdisk_server_stop(scene->server, 50, NULL), 0);
    assert_true(is_hung_up(silent));
    assert_true(is_hung_up(idle.fd));
    assert_true(is_hung_up(clogged.fd));
    close(silent);
    vt_nbd_end(&idle, false);
    vt_nbd_end(&clogged, false);
    end(scene);
}

static void *stop_patiently(void *opaque)
{
    return vdisk_server_stop(opaque, 60000, NULL) == 0 ? NULL : opaque;
}

/* A slow client that goes on asking while the server stops, and is in the middle of a write: what
 * came too late must not cost it the replies that are on their way. */
static void last_replies_arrive(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    struct place place = listen_on_ip(scene->server);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int bytes = 4096;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
    assert_int_equal(connect(fd, &place.name.any, place.length), 0);
    struct vt_nbd client;
    assert_int_equal(vt_nbd_begin(&client, fd, ""), 0);
    enum {
        REQUESTS = 300,
        LENGTH = 64 * KIB
    };
    for (int i = 0; i < REQUESTS; i++)
        assert_int_equal(vt_nbd_send(&client, NBD_CMD_READ, 0, 0, LENGTH, NULL), 0);
    while (stats_of(scene->server, NULL).requests[VDISK_REQUEST_READ].requests < REQUESTS)
        usleep(1000);

    static uint8_t data[16 + LENGTH];
    assert_int_equal(vt_nbd_send(&client, NBD_CMD_READ, 0, 0, 1, NULL), 0);
    struct vd_nbd_request half = {.magic = be32_of(NBD_REQUEST_MAGIC),
                                  .command = be16_of(NBD_CMD_WRITE),
                                  .length = be32_of(LENGTH)};
    assert_int_equal(send(fd, &half, sizeof(half), 0), sizeof(half));
    assert_int_equal(send(fd, data, LENGTH / 2, 0), LENGTH / 2);
    while (stats_of(scene->server, NULL).requests[VDISK_REQUEST_READ].requests < REQUESTS + 1)
        usleep(1000);
    pthread_t stopper;
    assert_int_equal(pthread_create(&stopper, NULL, stop_patiently, scene->server), 0);
    usleep(20000);
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(recv(fd, data, sizeof(data), MSG_WAITALL), sizeof(data));
        (void)vt_nbd_send(&client, NBD_CMD_READ, 0, 0, 512, NULL);
    }
    void *fault = scene;
    vt_nbd_end(&client, false);
    pthread_join(stopper, &fault);
    assert_null(fault);
    end(scene);
}

static void *come_and_go(void *opaque)
{
    const struct place *place = opaque;
    for (unsigned i = 0;; i++) {
        int fd = connect_to(place, 0);
        if (fd < 0)
            return NULL; /* nobody listens any more */
        struct vt_nbd client = {.fd = fd};
        if (i % 3)
            (void)vt_nbd_begin(&client, fd, i % 3 == 1 ? "" : "none");
        vt_nbd_end(&client, i % 2 == 0);
    }
}

static void it_stops_while_clients_come_and_go(void **state)
{
    (void)state;
    for (int round = 0; round < 5; round++) {
        struct scene *scene = begin(&(struct vdisk_server_options){.connections = 5});
        struct place place = listen_on_unix(scene->server);
        enum {
            THREADS = 6
        };
        pthread_t threads[THREADS];
        for (size_t i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &place), 0);
        usleep((unsigned)round * 5000);
        pthread_t stopper;
        assert_int_equal(pthread_create(&stopper, NULL, wait_for_clients, scene->server), 0);
        assert_int_equal(vdisk_server_stop(scene->server, 0, NULL), 0);
        for (size_t i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        pthread_join(stopper, NULL);
        struct vdisk_server_stats stats = stats_of(scene->server, NULL);
        assert_int_equal(stats.clients, 0);
        assert_true(stats.refused <= stats.connections);
        end(scene);
    }
}

static void a_flush_that_fails_is_told(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    struct vt_nbd client;
    join_as(scene, &client, "");
    char byte = 1;
    assert_int_equal(vt_nbd_request(&client, NBD_CMD_WRITE, 0, 0, 1, &byte), 0);
    vt_fault_set(scene->fault,
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_FLUSH), .nth = 1, .error = EIO});
    for (int i = 0; i < 2; i++) {
        struct vdisk_error err = {0};
        assert_int_equal(vdisk_server_stop(scene->server, 0, &err), -EIO);
        assert_int_equal(err.code, EIO);
    }
    assert_int_equal(atomic_load(&scene->lines[VDISK_LOG_ERROR]), 1);
    vt_nbd_end(&client, false);
    vdisk_server_free(scene->server);
    (void)!vdisk_image_close(scene->image, NULL); /* may fail: it says so once more */
    free(scene);
}

static void an_image_of_two_exports_is_flushed_once(void **state)
{
    (void)state;
    struct scene *scene = begin(NULL);
    struct vdisk_export_options options = writable;
    options.name = "again";
    assert_int_equal(vdisk_server_add_export(scene->server, scene->image, &options, NULL), 0);
    struct vt_nbd client;
    join_as(scene, &client, "again");
    char byte = 1;
    assert_int_equal(vt_nbd_request(&client, NBD_CMD_WRITE, 0, 0, 1, &byte), 0);
    vt_nbd_end(&client, true);
    wait_until_alone(scene->server);
    vt_trace_reset(scene->trace);
    assert_int_equal(vdisk_server_stop(scene->server, 0, NULL), 0);
    assert_int_equal(vt_trace_count(scene->trace, VT_FLUSH), 1);
    end(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(wrong_descriptors_are_refused),
        cmocka_unit_test(a_client_is_served_and_counted),
        cmocka_unit_test(it_listens_on_several_sockets),
        cmocka_unit_test(who_waits_for_clients_learns_of_the_end),
        cmocka_unit_test(there_are_no_more_connections_than_allowed),
        cmocka_unit_test(an_address_has_a_limit_of_its_own),
        cmocka_unit_test(who_does_not_negotiate_is_dropped),
        cmocka_unit_test(it_survives_a_lack_of_descriptors),
        cmocka_unit_test(an_export_can_be_removed_in_use),
        cmocka_unit_test(a_stop_loses_nothing),
        cmocka_unit_test(a_stop_waits_no_longer_than_its_grace),
        cmocka_unit_test(last_replies_arrive),
        cmocka_unit_test(it_stops_while_clients_come_and_go),
        cmocka_unit_test(a_flush_that_fails_is_told),
        cmocka_unit_test(an_image_of_two_exports_is_flushed_once),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
