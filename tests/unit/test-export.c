/* SPDX-License-Identifier: MIT */
/* serve/export: what is offered, who holds it, and how it goes. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/check.h"
#include "serve/export.h"

#define DISK_BYTES 65536u

static struct vdisk_image *open_image(bool is_writable)
{
    struct vdisk_open_options raw = {.struct_bytes = sizeof(raw), .format = "raw"};
    struct vd_storage *file = NULL;
    struct vdisk_image *image = NULL;
    raw.flags = is_writable ? VDISK_OPEN_WRITE : 0;
    VT_OK(vd_storage_mem_open(DISK_BYTES, &file, &vt_err));
    VT_OK(vd_image_open_on(file, &raw, &image, &vt_err));
    return image;
}

struct fixture {
    struct vdisk_image *image;
    struct vd_exports exports;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_non_null(fixture);
    fixture->image = open_image(true);
    vd_exports_init(&fixture->exports);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    vd_exports_destroy(&fixture->exports);
    VT_OK(vdisk_image_close(fixture->image, &vt_err));
    free(fixture);
    return 0;
}

static struct vdisk_export_options named(const char *name)
{
    return (struct vdisk_export_options){.struct_bytes = sizeof(struct vdisk_export_options),
                                         .name = name};
}

static void add(struct fixture *fixture, const char *name)
{
    struct vdisk_export_options options = named(name);
    VT_OK(vd_exports_add(&fixture->exports, fixture->image, &options, &vt_err));
}

static void refuse(struct fixture *fixture, const struct vdisk_export_options *options, int code)
{
    VT_FAILS(code, vd_exports_add(&fixture->exports, fixture->image, options, &vt_err));
}

static void test_defaults(void **state)
{
    struct fixture *fixture = *state;
    VT_OK(vd_exports_add(&fixture->exports, fixture->image, NULL, &vt_err));
    struct vd_export *export = vd_exports_find(&fixture->exports, "", 0);
    assert_non_null(export);
    assert_string_equal(export->name, "");
    assert_null(export->description);
    assert_false(export->is_writable);
    assert_int_equal(export->clients_max, 0);
    assert_int_equal(export->preferred_bytes, 4096);
    assert_ptr_equal(export->image, fixture->image);
    assert_int_equal(export->contexts.entries, 1);
    assert_string_equal(export->contexts.list[0].name, "base:allocation");
    vd_export_release(&fixture->exports, export);
}

static void test_refused(void **state)
{
    struct fixture *fixture = *state;
    static char longest[VDISK_EXPORT_NAME_BYTES_MAX + 2];
    memset(longest, 'n', VDISK_EXPORT_NAME_BYTES_MAX + 1);

    struct vdisk_export_options options = named("a");
    options.struct_bytes--;
    refuse(fixture, &options, EINVAL);
    options = named("a");
    options.flags = 1u << 2;
    refuse(fixture, &options, EINVAL);
    options = named(longest);
    refuse(fixture, &options, EINVAL);
    options = named("caf\xe9");
    refuse(fixture, &options, EINVAL);
    options = named("a");
    options.description = longest;
    refuse(fixture, &options, EINVAL);
    options.description = "\xed\xa0\x80";
    refuse(fixture, &options, EINVAL);

    add(fixture, "a");
    options = named("a");
    refuse(fixture, &options, EEXIST);
    longest[VDISK_EXPORT_NAME_BYTES_MAX] = '\0';
    add(fixture, longest);
    assert_null(fixture->exports.first->next->next);

    struct vdisk_image *constant = open_image(false);
    options = named("w");
    options.flags = VDISK_EXPORT_WRITE;
    VT_FAILS(EROFS, vd_exports_add(&fixture->exports, constant, &options, &vt_err));
    VT_OK(vdisk_image_close(constant, &vt_err));
}

static bool finds(struct fixture *fixture, const char *name, size_t length, const char *found)
{
    struct vd_export *export = vd_exports_find(&fixture->exports, name, length);
    bool is_so = found ? export && strcmp(export->name, found) == 0 : !export;
    if (export)
        vd_export_release(&fixture->exports, export);
    return is_so;
}

static void test_names(void **state)
{
    struct fixture *fixture = *state;
    assert_true(finds(fixture, "", 0, NULL));
    add(fixture, "one");
    assert_true(finds(fixture, "", 0, "one")); /* the only one */
    assert_true(finds(fixture, "one", 3, "one"));
    assert_true(finds(fixture, "one", 2, NULL));
    assert_true(finds(fixture, "one", 4, NULL)); /* with the NUL */
    assert_true(finds(fixture, "on\xff", 3, NULL));
    add(fixture, "two");
    assert_true(finds(fixture, "", 0, NULL));
    add(fixture, "");
    assert_true(finds(fixture, "", 0, ""));
    assert_true(finds(fixture, "two", 3, "two"));
}

static void test_clients(void **state)
{
    struct fixture *fixture = *state;
    struct vd_exports *exports = &fixture->exports;
    struct vdisk_export_options options = named("two");
    struct vd_export *used[3] = {0};
    options.clients = 2;
    VT_OK(vd_exports_add(exports, fixture->image, &options, &vt_err));

    VT_FAILS(ENOENT, vd_exports_use(exports, "tw", 2, &used[0], &vt_err));
    VT_OK(vd_exports_use(exports, "two", 3, &used[0], &vt_err));
    VT_OK(vd_exports_use(exports, "", 0, &used[1], &vt_err));
    assert_ptr_equal(used[0], used[1]);
    VT_FAILS(EUSERS, vd_exports_use(exports, "two", 3, &used[2], &vt_err));
    assert_true(finds(fixture, "two", 3, "two")); /* who only looks is no client */
    vd_export_leave(exports, used[0]);
    VT_OK(vd_exports_use(exports, "two", 3, &used[2], &vt_err));
    assert_int_equal(used[2]->counters.clients, 2);
    assert_int_equal(used[2]->counters.connections, 3);
    vd_export_leave(exports, used[1]);
    vd_export_leave(exports, used[2]);
}

struct waiter {
    struct vd_exports *exports;
    struct vd_export *used;
    int ret;
};

static void *use(void *opaque)
{
    struct waiter *waiter = opaque;
    waiter->ret = vd_exports_use(waiter->exports, "one", 3, &waiter->used, NULL);
    return NULL;
}

/* Whoever comes while another one leaves is not refused. */
static void test_next_client(void **state)
{
    struct fixture *fixture = *state;
    struct waiter waiter = {.exports = &fixture->exports};
    struct vdisk_export_options options = named("one");
    struct vd_export *used = NULL;
    pthread_t thread;
    options.clients = 1;
    VT_OK(vd_exports_add(&fixture->exports, fixture->image, &options, &vt_err));
    VT_OK(vd_exports_use(&fixture->exports, "one", 3, &used, &vt_err));
    assert_int_equal(pthread_create(&thread, NULL, use, &waiter), 0);
    usleep(20000); /* it most likely waits by now; the outcome is the same if not */
    vd_export_leave(&fixture->exports, used);
    pthread_join(thread, NULL);
    assert_int_equal(waiter.ret, 0);
    assert_ptr_equal(waiter.used, used);
    vd_export_leave(&fixture->exports, waiter.used);
}

static void test_list(void **state)
{
    struct fixture *fixture = *state;
    struct vd_exports *exports = &fixture->exports;
    assert_null(vd_exports_next(exports, NULL));
    add(fixture, "a");
    add(fixture, "b");
    add(fixture, "c");
    add(fixture, "d");

    /* Those that come and go while somebody walks along the list. */
    struct vd_export *removed = NULL;
    struct vd_export *export = vd_exports_next(exports, NULL);
    assert_string_equal(export->name, "a");
    export = vd_exports_next(exports, export);
    assert_string_equal(export->name, "b");
    VT_OK(vd_exports_unlist(exports, "c", &removed, &vt_err));
    vd_exports_drop(exports, removed);
    VT_OK(vd_exports_unlist(exports, "b", &removed, &vt_err));
    export = vd_exports_next(exports, export);
    vd_exports_drop(exports, removed);
    assert_string_equal(export->name, "d");
    add(fixture, "b");
    export = vd_exports_next(exports, export);
    assert_string_equal(export->name, "b");
    assert_null(vd_exports_next(exports, export));
}

struct dropper {
    struct vd_exports *exports;
    struct vd_export *export;
    atomic_bool has_dropped;
};

static void *drop(void *opaque)
{
    struct dropper *dropper = opaque;
    vd_exports_drop(dropper->exports, dropper->export);
    atomic_store(&dropper->has_dropped, true);
    return NULL;
}

static void test_removal_waits(void **state)
{
    struct fixture *fixture = *state;
    struct vd_exports *exports = &fixture->exports;
    add(fixture, "x");
    struct vd_export *used = NULL;
    VT_OK(vd_exports_use(exports, "x", 1, &used, &vt_err));
    vd_counters_add(&used->counters, VDISK_REQUEST_WRITE, 512, 20, false);
    atomic_fetch_add(&used->counters.received_bytes, 7);

    struct dropper dropper = {.exports = exports};
    VT_FAILS(ENOENT, vd_exports_unlist(exports, "y", &dropper.export, &vt_err));
    VT_OK(vd_exports_unlist(exports, "x", &dropper.export, &vt_err));
    VT_FAILS(ENOENT, vd_exports_unlist(exports, "x", &dropper.export, &vt_err));
    assert_ptr_equal(dropper.export, used);
    assert_true(atomic_load(&used->is_removed));
    assert_true(finds(fixture, "x", 1, NULL));
    add(fixture, "x"); /* another one of that name */

    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, drop, &dropper), 0);
    usleep(20000);
    assert_false(atomic_load(&dropper.has_dropped));
    vd_export_leave(exports, used);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(atomic_load(&dropper.has_dropped));

    struct vdisk_server_stats stats = {.struct_bytes = sizeof(stats)};
    vd_counters_sum(&exports->past, &stats);
    assert_int_equal(stats.clients, 0);
    assert_int_equal(stats.connections, 1);
    assert_int_equal(stats.received_bytes, 7);
    assert_int_equal(stats.requests[VDISK_REQUEST_WRITE].requests, 1);
    assert_int_equal(stats.requests[VDISK_REQUEST_WRITE].bytes, 512);
    assert_int_equal(stats.requests[VDISK_REQUEST_WRITE].total_us, 20);
    assert_int_equal(stats.requests[VDISK_REQUEST_WRITE].latencies[1], 1);
}

static void check_preferred(uint32_t cluster_bytes, uint32_t preferred)
{
    const char *tmp = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof(path), "%s/test-export-%ld", tmp ? tmp : "/tmp", (long)getpid());
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create), .size = 1u << 20, .cluster_bytes = cluster_bytes};
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .format = "qcow2"};
    struct vdisk_image *image = NULL;
    struct vd_exports exports;
    VT_OK(vdisk_image_create(path, "qcow2", &create, &vt_err));
    VT_OK(vdisk_image_open(path, &open, &image, &vt_err));
    assert_int_equal(unlink(path), 0);
    vd_exports_init(&exports);
    VT_OK(vd_exports_add(&exports, image, NULL, &vt_err));
    assert_int_equal(exports.first->preferred_bytes, preferred);
    vd_exports_destroy(&exports);
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void test_preferred(void **state)
{
    (void)state;
    check_preferred(512, 4096);
    check_preferred(4096, 4096);
    check_preferred(2u << 20, 2u << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clients, setup, teardown),
        cmocka_unit_test_setup_teardown(test_next_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removal_waits, setup, teardown),
        cmocka_unit_test(test_preferred),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
