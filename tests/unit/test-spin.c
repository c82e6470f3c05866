/* SPDX-License-Identifier: MIT */
/* The policy of spinning, with clients that exist on paper only. */
#include "drivers/check.h"
#include "serve/spin.h"

#define SERVICE_US 10u

/* How long a client lets the server wait, which depends on how it waits. */
struct client {
    unsigned sleeping_us;
    unsigned spinning_us; /* it takes more than VD_SPIN_US: the spin fails */
    unsigned batch;       /* requests that come together */
    unsigned others;      /* requests of other connections meanwhile */
    unsigned pause_every; /* after so many waits, 0: never, */
    unsigned pause_us;    /* there is this one */
    bool has_no_place;    /* others spin */
};

struct run {
    struct vd_spin spin;
    uint64_t now_us;
    uint64_t requests;
    uint64_t all_requests;
    unsigned waits;
    unsigned spins;
    unsigned failed;
    uint64_t burnt_us; /* by spins */
};

static void wait_once(struct run *run, const struct client *client, unsigned places)
{
    bool is_pause = client->pause_every && ++run->waits % client->pause_every == 0;
    unsigned sleeping_us = is_pause ? client->pause_us : client->sleeping_us;
    unsigned spinning_us = is_pause ? client->pause_us : client->spinning_us;
    run->now_us += SERVICE_US;
    run->requests += client->batch;
    run->all_requests += client->batch + client->others;
    struct vd_spin_wait wait = {
        .begin_us = run->now_us, .requests = run->requests, .all_requests = run->all_requests};
    if (!vd_spin_wants(&run->spin) || client->has_no_place) {
        run->now_us += sleeping_us;
    } else if (spinning_us <= VD_SPIN_US) {
        wait.outcome = VD_SPIN_FOUND;
        run->spins++;
        run->burnt_us += spinning_us;
        run->now_us += spinning_us;
    } else {
        wait.outcome = VD_SPIN_FAILED;
        run->spins++;
        run->failed++;
        run->burnt_us += VD_SPIN_US;
        run->now_us += sleeping_us > VD_SPIN_US ? sleeping_us : VD_SPIN_US + 5;
    }
    wait.end_us = run->now_us;
    vd_spin_note(&run->spin, places, &wait);
}

static void wait_often(struct run *run, const struct client *client, unsigned waits)
{
    run->waits = run->spins = run->failed = 0;
    run->burnt_us = 0;
    for (unsigned i = 0; i < waits; i++)
        wait_once(run, client, 1);
}

/* One request at a time, and waking costs more than all the rest. */
static const struct client brisk = {.sleeping_us = 55, .spinning_us = 16, .batch = 1};

static struct run warmed_up(void)
{
    struct run run = {.now_us = 1000000};
    wait_often(&run, &brisk, 100);
    assert_true(vd_spin_wants(&run.spin));
    return run;
}

static void who_asks_one_by_one_is_spun_for(void **state)
{
    (void)state;
    struct run run = {.now_us = 1000000};
    wait_often(&run, &brisk, 16);
    assert_int_equal(run.spins, 0);
    wait_often(&run, &brisk, 100000);
    assert_in_range(run.spins, 98000, 99999);
    assert_int_equal(run.failed, 0);
}

/* Of many requests under way some come soon either way. */
static void what_takes_as_long_either_way_is_not_spun_for(void **state)
{
    (void)state;
    const struct client deep = {.sleeping_us = 40, .spinning_us = 38, .batch = 8};
    struct run run = {.now_us = 1000000};
    wait_often(&run, &deep, 200000);
    assert_in_range(run.spins, 1, 200000 / 100);
    assert_false(run.spin.pays);
}

static void slow_clients_are_never_spun_for(void **state)
{
    (void)state;
    const struct client slow = {.sleeping_us = 190, .spinning_us = 190, .batch = 1};
    struct run run = {.now_us = 1000000};
    wait_often(&run, &slow, 10000);
    assert_int_equal(run.spins, 0);
    /* Every second request comes soon. */
    const struct client pairs = {
        .sleeping_us = 40, .spinning_us = 10, .batch = 1, .pause_every = 2, .pause_us = 500};
    wait_often(&run, &pairs, 10000);
    assert_int_equal(run.spins, 0);
}

/* A spin is always too short for them, though the wait is not long. */
static void spins_that_fail_are_given_up(void **state)
{
    (void)state;
    const struct client thinking = {.sleeping_us = 80, .spinning_us = 80, .batch = 1};
    struct run run = {.now_us = 1000000};
    wait_often(&run, &thinking, 100000);
    assert_int_equal(run.spins, run.failed);
    assert_in_range(run.spins, 1, 100);
    /* Also where it did pay before. */
    run = warmed_up();
    wait_often(&run, &thinking, 100000);
    assert_in_range(run.spins, 1, 100);
}

static void after_a_failure_a_wait_has_to_be_short(void **state)
{
    (void)state;
    const struct client late = {.sleeping_us = 5000, .spinning_us = 5000, .batch = 1};
    struct run run = warmed_up();
    wait_often(&run, &late, 20);
    assert_int_equal(run.spins, 1);
    assert_false(vd_spin_wants(&run.spin));
    wait_often(&run, &brisk, 1);
    assert_true(vd_spin_wants(&run.spin));
    /* The next time more of them have to be. */
    wait_often(&run, &late, 1);
    assert_int_equal(run.failed, 1);
    wait_often(&run, &brisk, 1);
    assert_false(vd_spin_wants(&run.spin));
    wait_often(&run, &brisk, 1);
    assert_true(vd_spin_wants(&run.spin));
}

/* Bursts cost one spin each, if they are long enough to be worth it; short ones nearly none. */
static void bursts(void **state)
{
    (void)state;
    struct client burst = brisk;
    struct run run = warmed_up();
    burst.pause_every = 40;
    burst.pause_us = 10000;
    wait_often(&run, &burst, 40000);
    assert_in_range(run.spins, 30000, 40000);
    assert_true(run.failed <= 1100);
    burst.pause_every = 4;
    run = warmed_up();
    wait_often(&run, &burst, 40000);
    assert_true(run.burnt_us * 50 < run.now_us - 1000000);
}

static void others_as_busy_leave_no_time(void **state)
{
    (void)state;
    struct client one_of_four = brisk;
    one_of_four.others = 3;
    struct run run = {.now_us = 1000000};
    wait_often(&run, &one_of_four, 10000);
    assert_int_equal(run.spins, 0);
    run = warmed_up();
    wait_often(&run, &one_of_four, 10000);
    assert_true(run.spins <= 64);
    /* With more processors it is another matter. */
    run = (struct run){.now_us = 1000000};
    for (unsigned i = 0; i < 100; i++)
        wait_once(&run, &one_of_four, 8);
    assert_true(vd_spin_wants(&run.spin));
}

static void without_a_place_nothing_is_learnt(void **state)
{
    (void)state;
    struct client alone = brisk;
    alone.has_no_place = true;
    struct run run = {.now_us = 1000000};
    wait_often(&run, &alone, 10000);
    assert_false(run.spin.pays);
    /* It is asked for again. */
    wait_often(&run, &brisk, 40000);
    assert_true(run.spin.pays);
}

/* What is between two waits of which one was of another kind is not measured. */
static void other_waits_do_not_count(void **state)
{
    (void)state;
    struct run run = {.now_us = 1000000};
    for (unsigned i = 0; i < 1000; i++) {
        wait_often(&run, &brisk, 10);
        run.now_us += 7000;
        run.requests += 100;
        run.all_requests += 1000;
        vd_spin_skip(&run.spin);
    }
    assert_true(run.spin.pays);
}

static void places(void **state)
{
    (void)state;
    struct vd_spinners spinners;
    vd_spinners_init(&spinners, 1);
    assert_int_equal(spinners.places, 0);
    assert_false(vd_spinners_enter(&spinners));
    vd_spinners_init(&spinners, 5);
    assert_true(vd_spinners_enter(&spinners));
    assert_true(vd_spinners_enter(&spinners));
    assert_false(vd_spinners_enter(&spinners));
    assert_false(vd_spinners_enter(&spinners));
    vd_spinners_leave(&spinners);
    assert_true(vd_spinners_enter(&spinners));
    assert_int_equal(atomic_load(&spinners.spinning), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_asks_one_by_one_is_spun_for),
        cmocka_unit_test(what_takes_as_long_either_way_is_not_spun_for),
        cmocka_unit_test(slow_clients_are_never_spun_for),
        cmocka_unit_test(spins_that_fail_are_given_up),
        cmocka_unit_test(after_a_failure_a_wait_has_to_be_short),
        cmocka_unit_test(bursts),
        cmocka_unit_test(others_as_busy_leave_no_time),
        cmocka_unit_test(without_a_place_nothing_is_learnt),
        cmocka_unit_test(other_waits_do_not_count),
        cmocka_unit_test(places),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("spin", tests, NULL, NULL);
}
