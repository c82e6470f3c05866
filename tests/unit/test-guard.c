/* SPDX-License-Identifier: MIT */
/* image/guard: overlapping holders never at once, others side by side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <stdatomic.h>

#include "image/guard.h"
#include "util/workers.h"

#define CLUSTERS 8u
#define ROUNDS   3000u
#define THREADS  4u

struct shared {
    struct vd_guard guard;
    atomic_uint holders[CLUSTERS];
};

/* Takes random stretches, and looks whether anybody else is in them. */
static int hold_randomly(void *work, unsigned index, struct vdisk_error *err)
{
    struct shared *shared = work;
    unsigned seed = 7 + index;
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned first = (unsigned)rand_r(&seed) % CLUSTERS;
        unsigned count = 1 + (unsigned)rand_r(&seed) % (CLUSTERS - first);
        struct vd_guard_range mine;
        vd_guard_hold(&shared->guard, &mine, vd_range(first, count));
        unsigned others = 0;
        for (unsigned c = first; c < first + count; c++)
            others += atomic_fetch_add(&shared->holders[c], 1);
        for (unsigned c = first; c < first + count; c++)
            atomic_fetch_sub(&shared->holders[c], 1);
        vd_guard_release(&shared->guard, &mine);
        if (others)
            return vd_err_set(err, EBUSY, "round %u: cluster %u was held twice", i, first);
    }
    return 0;
}

static void overlapping_holders_wait_for_each_other(void **state)
{
    (void)state;
    struct shared shared = {0};
    struct vdisk_error err = {0};
    vd_guard_init(&shared.guard);
    int ret = vd_workers_run(THREADS, hold_randomly, &shared, &err);
    if (ret < 0)
        print_error("%s\n", err.message);
    assert_int_equal(ret, 0);
    vd_guard_destroy(&shared.guard);
}

static void disjoint_holders_pass(void **state)
{
    (void)state;
    struct vd_guard guard;
    struct vd_guard_range a, b, c;
    vd_guard_init(&guard);
    vd_guard_hold(&guard, &a, vd_range(0, 10));
    vd_guard_hold(&guard, &b, vd_range(10, 10)); /* touches, does not overlap: must not wait */
    vd_guard_hold(&guard, &c, vd_range(30, 1));
    vd_guard_release(&guard, &b); /* from the middle of the list */
    vd_guard_hold(&guard, &b, vd_range(10, 20));
    vd_guard_release(&guard, &a);
    vd_guard_release(&guard, &b);
    vd_guard_release(&guard, &c);
    assert_null(guard.held);
    vd_guard_destroy(&guard);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlapping_holders_wait_for_each_other),
        cmocka_unit_test(disjoint_holders_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
