/* SPDX-License-Identifier: MIT */
/*
 * Eight threads on one image, each in clusters of its own all over the disk, with a cache that
 * holds a part of the tables only: for a thread sanitizer, and for what must not be mixed up.
 * Clusters of all threads share tables, which come into being meanwhile.
 */
#ifndef TESTS_UNIT_THREADS_H
#define TESTS_UNIT_THREADS_H

#include <pthread.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/random.h"
#include "format/driver.h"

#define THREADS      8u
#define OWNED        120u /* clusters of each thread */
#define CLUSTER      4096u
#define THREADS_DISK (UINT64_C(1) << 30) /* bytes */

struct worker {
    struct vd_format *format;
    uint64_t seed;
    unsigned index;
    unsigned ops;
    uint8_t content[OWNED]; /* of the whole cluster */
    pthread_t thread;
};

/* Clusters of different threads are neighbours, and far apart from those of the same one. */
static struct vd_range place_of(const struct worker *worker, unsigned owned)
{
    return vd_range(owned * (UINT64_C(8) << 20) + worker->index * CLUSTER, CLUSTER);
}

static void expect(struct worker *worker, unsigned owned)
{
    uint8_t bytes[CLUSTER] = {0};
    struct vd_mapping mapping;
    VT_OK(vd_format_map(worker->format, place_of(worker, owned), &mapping, &vt_err));
    if (mapping.kind == VD_MAP_DATA)
        VT_OK(vd_storage_pread(mapping.storage, bytes, CLUSTER, mapping.host_offset, &vt_err));
    for (size_t i = 0; i < CLUSTER; i++)
        assert_int_equal(bytes[i], worker->content[owned]);
}

/* One in eight fails, as if the disk were full, and changes nothing. */
static void write_cluster(struct worker *worker, unsigned owned, struct vt_random *random)
{
    uint8_t bytes[CLUSTER];
    struct vd_mapping mapping;
    uint8_t byte = (uint8_t)vt_random_next(random);
    memset(bytes, byte, sizeof(bytes));
    VT_OK(
        vd_format_map_for_write(worker->format, place_of(worker, owned), true, &mapping, &vt_err));
    bool ok = !mapping.fresh || !vt_random_chance(random, 12);
    VT_OK(vd_storage_pwrite(mapping.storage, bytes, CLUSTER, mapping.host_offset, &vt_err));
    if (mapping.fresh)
        vd_format_write_done(worker->format, &mapping, ok);
    if (ok)
        worker->content[owned] = byte;
}

static void zero_cluster(struct worker *worker, unsigned owned)
{
    struct vd_mapping mapping;
    VT_OK(vd_format_map_zero(worker->format, place_of(worker, owned), VD_MAP_ZERO_MAY_UNMAP,
                             &mapping, &vt_err));
    if (mapping.kind == VD_MAP_DATA)
        VT_OK(vd_storage_write_zeroes(mapping.storage, vd_range(mapping.host_offset, CLUSTER), 0,
                                      &vt_err));
    worker->content[owned] = 0;
}

static void *work(void *opaque)
{
    struct worker *worker = opaque;
    struct vt_random random = {worker->seed + worker->index};
    for (unsigned i = 0; i < worker->ops; i++) {
        unsigned owned = (unsigned)vt_random_below(&random, OWNED);
        uint64_t choice = vt_random_below(&random, 16);
        unsigned ticket = vd_format_enter(worker->format);
        if (choice < 6)
            write_cluster(worker, owned, &random);
        else if (choice < 7)
            zero_cluster(worker, owned);
        else if (choice < 15)
            expect(worker, owned);
        vd_format_leave(worker->format, ticket);
        if (choice == 15)
            VT_OK(vd_format_flush(worker->format, &vt_err));
    }
    return NULL;
}

static struct vd_format *open_image(const struct vd_format_driver *driver,
                                    struct vd_storage *memory, struct vd_format_options options)
{
    struct vd_format *format = NULL;
    VT_OK(vd_format_open(driver, memory, &options, &format, &vt_err));
    return format;
}

/* All threads do their work on a new image; *result: of the check at the end.  @variable: of the
 * environment, operations of each thread. */
static void run_threads(const struct vd_format_driver *driver,
                        const struct vdisk_create_options *create, const char *variable,
                        struct vdisk_check_result *result)
{
    const char *text = getenv(variable);
    unsigned ops = text ? (unsigned)strtoul(text, NULL, 10) : 1500;
    static const uint64_t seed = 20261121;
    print_message("# seed %llu\n", (unsigned long long)seed);
    struct vd_storage *memory;
    VT_OK(vd_storage_mem_open(0, &memory, &vt_err));
    VT_OK(vd_format_create(driver, memory, NULL, create, &vt_err));
    struct vd_format *format = open_image(
        driver, memory, (struct vd_format_options){.flags = VD_FORMAT_WRITE, .cache_bytes = 1});

    struct worker *workers = vt_calloc(THREADS, sizeof(*workers));
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.format = format, .seed = seed, .index = i, .ops = ops};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    VT_OK(vd_format_close(format, &vt_err));

    format = open_image(driver, memory, (struct vd_format_options){0});
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].format = format;
        for (unsigned owned = 0; owned < OWNED; owned++)
            expect(&workers[i], owned);
    }
    struct vd_check check = {.result = result};
    VT_OK(vd_format_check(format, &check, &vt_err));
    VT_OK(vd_format_close(format, &vt_err));
    vd_storage_close(memory);
    free(workers);
}

#endif
