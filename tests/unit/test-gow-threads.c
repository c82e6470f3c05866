/* SPDX-License-Identifier: MIT */
/*
 * Eight threads on one GOW image, each in blocks of its own all over the disk, with a cache that
 * holds a part of the map only: for a thread sanitizer, and for what must not be mixed up.
 *
 * VD_GOW_THREAD_OPS: operations of each thread, default 1500.
 */
#include <pthread.h>

#include "drivers/random.h"

#include "gow-fixture.h"

#define THREADS 8u
#define OWNED   40u /* blocks of each thread */

struct worker {
    struct fixture *fix;
    uint64_t seed;
    unsigned index;
    unsigned ops;
    uint8_t content[OWNED];  /* of the whole block */
    bool has_changed[OWNED]; /* in this session, which is the first */
    pthread_t thread;
};

/* Blocks of different threads are neighbours, and far apart from those of the same one. */
static uint64_t offset_of(const struct worker *worker, unsigned owned)
{
    return (uint64_t)owned * (4 * GIB) + worker->index * BLOCK;
}

/* Up to date from the moment on when the change is done, whatever is cached. */
static void expect_version(const struct worker *worker, unsigned owned)
{
    uint32_t version = UINT32_MAX;
    uint64_t length = 0;
    VT_OK(vd_format_version(worker->fix->format, vd_range(offset_of(worker, owned), BLOCK),
                            &version, &length, &vt_err));
    assert_int_equal(version, worker->has_changed[owned]);
    assert_int_equal(length, BLOCK);
}

static void one_op(struct worker *worker, struct vt_random *random)
{
    struct fixture *fix = worker->fix;
    unsigned owned = (unsigned)vt_random_below(random, OWNED);
    uint64_t offset = offset_of(worker, owned);
    unsigned ticket = vd_format_enter(fix->format);
    switch (vt_random_below(random, 8)) {
    case 0:
        discard(fix, offset, BLOCK);
        worker->content[owned] = 0;
        break;
    case 1:
    case 2:
    case 3:
        worker->content[owned] = (uint8_t)vt_random_next(random);
        assert_int_equal(fill(fix, offset, BLOCK, worker->content[owned]), 0);
        worker->has_changed[owned] = true;
        break;
    case 4:
        vd_format_leave(fix->format, ticket);
        flush(fix);
        ticket = vd_format_enter(fix->format);
        break;
    default:
        expect(fix, offset, BLOCK, worker->content[owned]);
    }
    vd_format_leave(fix->format, ticket);
    expect_version(worker, owned);
}

static void *work(void *opaque)
{
    struct worker *worker = opaque;
    struct vt_random random = {worker->seed + worker->index};
    for (unsigned i = 0; i < worker->ops; i++)
        one_op(worker, &random);
    return NULL;
}

static void test_disjoint(void **state)
{
    (void)state;
    const char *text = getenv("VD_GOW_THREAD_OPS");
    unsigned ops = text ? (unsigned)strtoul(text, NULL, 10) : 1500;
    struct fixture fix;
    static const uint64_t seed = 20261121;
    print_message("# seed %llu\n", (unsigned long long)seed);
    fixture_create(&fix, 3, 200 * GIB);
    vd_storage_close(fix.file);
    fix.file = fix.memory; /* without a log */
    struct vd_format_options options = {.flags = VD_FORMAT_WRITE, .cache_bytes = 1};
    VT_OK(vd_format_open(gow_driver(3), fix.file, &options, &fix.format, &vt_err));

    struct worker *workers = vt_calloc(THREADS, sizeof(*workers));
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.fix = &fix, .seed = seed, .index = i, .ops = ops};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    fixture_close(&fix);

    struct vd_format_options reading = {0};
    VT_OK(vd_format_open(gow_driver(3), fix.file, &reading, &fix.format, &vt_err));
    for (unsigned i = 0; i < THREADS; i++)
        for (unsigned owned = 0; owned < OWNED; owned++) {
            expect(&fix, offset_of(&workers[i], owned), BLOCK, workers[i].content[owned]);
            expect_version(&workers[i], owned);
        }
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vd_check check = {.result = &result};
    VT_OK(vd_format_check(fix.format, &check, &vt_err));
    assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
    fixture_close(&fix);
    vd_storage_close(fix.memory);
    free(workers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_disjoint),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
