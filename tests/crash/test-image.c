/* SPDX-License-Identifier: MIT */
/*
 * Power cuts at every change and flush of an image's files: docs/crash-safety.md.
 *
 *   test-crash-image STACK     such as gow3, or add-cow-over-qed: drivers/stack.h
 *
 * VD_CRASH_OPS: operations of the workload, default 120, or 40 with a cipher, whose key each state
 *               costs to unlock; 2500 for a full run.
 * VD_CRASH_DRAWS: states of each random kind at every cut, default 1.
 * VD_CRASH_SEED: seed, default a fixed one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crash-run.h"
#include "drivers/check.h"

#define DISK_BYTES ((UINT64_C(300) << 20) + 65536 + 5 * 512)

static uint64_t number_from(const char *variable, uint64_t fallback)
{
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 0) : fallback;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t default_ops(const char *stack)
{
    return VT_SHARE(strstr(stack, "luks") ? UINT64_C(40) : UINT64_C(120));
}

static void test_power_cuts(void **state)
{
    struct vt_crash_tally tally = {0};
    struct vt_crash_plan plan = {.stack = *state,
                                 .size = DISK_BYTES,
                                 .ops = number_from("VD_CRASH_OPS", default_ops(*state)),
                                 .round_ops = 40,
                                 .seed = number_from("VD_CRASH_SEED", 20261121),
                                 .draws = (unsigned)number_from("VD_CRASH_DRAWS", 1),
                                 .sync_every = 53,
                                 .ignore_file = VT_STACK_NONE};
    print_message("# %s: %" PRIu64 " operations, seed %" PRIu64 "\n", plan.stack, plan.ops,
                  plan.seed);
    double start = seconds_now();
    vt_crash_run(&plan, &tally);
    for (enum vt_cut cut = 0; cut < VT_CUTS; cut++)
        print_message("# %s: %" PRIu64 "\n", vt_cut_name(cut), tally.by_cut[cut]);
    print_message("# %s: cuts: %" PRIu64 ", states: %" PRIu64 ", mended: %" PRIu64
                  ", consumers compared: %" PRIu64 ", synced: %" PRIu64 ", violations: %" PRIu64
                  ", %.1f s\n",
                  plan.stack, tally.cuts, tally.states, tally.mended, tally.consumers, tally.syncs,
                  tally.violations, seconds_now() - start);
    assert_int_equal(tally.violations, 0);
    assert_true(tally.states > plan.ops);
}

static void expect_to_notice(const char *stack, unsigned lie, unsigned file)
{
    static const struct {
        uint32_t period, index;
    } lies[] = {{1, 0}, {2, 0}, {2, 1}, {3, 0}};
    struct vt_crash_tally tally = {0};
    struct vt_crash_plan plan = {.stack = stack,
                                 .size = DISK_BYTES,
                                 .ops = 100,
                                 .round_ops = 100,
                                 .seed = 20261121 + lie,
                                 .draws = 1,
                                 .ignore_period = lies[lie].period,
                                 .ignore_index = lies[lie].index,
                                 .ignore_file = file};
    vt_crash_run(&plan, &tally);
    char where[16] = "every file";
    if (file != VT_STACK_NONE)
        snprintf(where, sizeof(where), "file %u", file);
    assert_true(tally.violations > 0);
    print_message("# %s: flush %" PRIu32 " of %" PRIu32 " ignored in %s: noticed within %" PRIu64
                  " states\n",
                  plan.stack, lies[lie].index, lies[lie].period, where, tally.states);
}

/*
 * The suite has to notice when a flush is none: every one, the first or the second of each pair;
 * and when only the image, or only its data file, is never flushed.
 */
static void test_notices_flushes_that_do_nothing(void **state)
{
    struct vt_stack stack;
    vt_stack_init(&stack, *state, DISK_BYTES, 1);
    for (unsigned lie = 0; lie < 4; lie++)
        expect_to_notice(*state, lie, VT_STACK_NONE);
    if (stack.levels[0].data_file == VT_STACK_NONE)
        return;
    expect_to_notice(*state, 0, stack.levels[0].file);
    expect_to_notice(*state, 0, stack.levels[0].data_file);
}

int main(int argc, char **argv)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    if (argc != 2) {
        fprintf(stderr, "usage: test-crash-image STACK\n");
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_power_cuts, argv[1]),
        cmocka_unit_test_prestate(test_notices_flushes_that_do_nothing, argv[1]),
    };
    return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
}
