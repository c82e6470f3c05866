/* SPDX-License-Identifier: MIT */
#include "serve/spin.h"

#include "util/range.h"

/* Waits that are measured together. */
#define WINDOW 32u

/* Longer ones are no reason to spin. */
#define SHORT_US 100u

/* Longer times between two waits count as this: one pause must not decide. */
#define CYCLE_US_MAX 200u

/* A comparison holds for so many windows; for longer each time it says the same.  To look again
 * after a good one costs the windows that wait as usual, after a bad one nearly nothing. */
#define REST_FIRST    4u
#define REST_MAX_PAYS 128u
#define REST_MAX      512u

/* A spin that fails costs what so many others save. */
#define WINS_PER_FAIL 4u

/* So many end a trial; and what was found to pay. */
#define FAILS_OF_TRY 4u
#define FAILS_MAX    8u

/* ---- The connections of a server ---- */

void vd_spinners_init(struct vd_spinners *spinners, unsigned cpus)
{
    *spinners = (struct vd_spinners){.places = cpus / 2};
}

bool vd_spinners_enter(struct vd_spinners *spinners)
{
    if (atomic_fetch_add(&spinners->spinning, 1) < spinners->places)
        return true;
    vd_spinners_leave(spinners);
    return false;
}

void vd_spinners_leave(struct vd_spinners *spinners)
{
    atomic_fetch_sub(&spinners->spinning, 1);
}

/* ---- One connection ---- */

bool vd_spin_wants(const struct vd_spin *spin)
{
    return spin->phase == VD_SPIN_TRY ||
           (spin->phase == VD_SPIN_REST && spin->pays && spin->is_warm);
}

void vd_spin_skip(struct vd_spin *spin)
{
    spin->last_us = 0;
}

/* After a failure, waits as usual have to be short again; more of them each time. */
static void look_at_outcome(struct vd_spin *spin, const struct vd_spin_wait *wait)
{
    switch (wait->outcome) {
    case VD_SPIN_FOUND:
        if (++spin->wins == WINS_PER_FAIL) {
            spin->wins = 0;
            spin->fails -= spin->fails > 0;
        }
        break;
    case VD_SPIN_FAILED:
        spin->fails += spin->fails < FAILS_MAX;
        spin->wins = 0;
        spin->shorts = 0;
        spin->is_warm = false;
        break;
    case VD_SPIN_NONE:
        if (wait->end_us - wait->begin_us > SHORT_US)
            spin->shorts = 0;
        else if (spin->shorts < 1u << FAILS_MAX)
            spin->shorts++;
        spin->is_warm = spin->shorts && spin->shorts >= (1u << spin->fails) / 2;
        break;
    }
}

static void add_to_window(struct vd_spin *spin, const struct vd_spin_wait *wait)
{
    struct vd_spin_window *now = &spin->now;
    now->waits++;
    now->short_waits += wait->end_us - wait->begin_us <= SHORT_US;
    if (spin->last_us) {
        now->elapsed_us += vd_min(wait->end_us - spin->last_us, CYCLE_US_MAX);
        now->requests += wait->requests - spin->last_requests;
        now->all_requests += wait->all_requests - spin->last_all_requests;
    }
    spin->last_us = wait->end_us;
    spin->last_requests = wait->requests;
    spin->last_all_requests = wait->all_requests;
}

/* More connections are as busy as this one than there are places: whoever spins takes the time from
 * the others. */
static bool is_crowded(const struct vd_spin_window *window, unsigned places)
{
    return window->all_requests * 2 > window->requests * places * 3;
}

/* A request has to take a quarter less: what takes as long either way is no reason to burn a
 * processor, and the measure is a rough one. */
static bool is_better(const struct vd_spin_window *with, const struct vd_spin_window *without)
{
    return with->requests && without->requests &&
           with->elapsed_us * without->requests * 4 <= without->elapsed_us * with->requests * 3;
}

static void enter(struct vd_spin *spin, enum vd_spin_phase phase)
{
    spin->phase = phase;
    spin->now = (struct vd_spin_window){0};
}

static void decide(struct vd_spin *spin, bool pays)
{
    unsigned most = pays ? REST_MAX_PAYS : REST_MAX;
    spin->rest = spin->rest && spin->pays == pays ? spin->rest * 2 : REST_FIRST;
    if (spin->rest > most)
        spin->rest = most;
    spin->rest_left = spin->rest;
    spin->pays = pays;
    spin->is_warm = pays;
    enter(spin, VD_SPIN_REST);
}

static void end_window(struct vd_spin *spin, unsigned places)
{
    struct vd_spin_window window = spin->now;
    bool is_bad = is_crowded(&window, places) || window.short_waits < window.waits * 3 / 4;
    spin->now = (struct vd_spin_window){0};
    switch (spin->phase) {
    case VD_SPIN_LOOK:
        if (is_bad)
            break;
        spin->look = window;
        spin->fails = spin->wins = 0;
        enter(spin, VD_SPIN_TRY);
        break;
    case VD_SPIN_TRY:
        decide(spin, !is_bad && is_better(&window, &spin->look));
        break;
    case VD_SPIN_REST:
        if (spin->pays && is_crowded(&window, places))
            decide(spin, false);
        else if (--spin->rest_left == 0)
            enter(spin, VD_SPIN_LOOK);
        break;
    }
}

void vd_spin_note(struct vd_spin *spin, unsigned places, const struct vd_spin_wait *wait)
{
    bool was_wanted = vd_spin_wants(spin);
    look_at_outcome(spin, wait);
    add_to_window(spin, wait);
    bool has_failed =
        spin->phase == VD_SPIN_TRY
            ? spin->fails >= FAILS_OF_TRY || (was_wanted && wait->outcome == VD_SPIN_NONE)
            : spin->phase == VD_SPIN_REST && spin->pays && spin->fails >= FAILS_MAX;
    if (has_failed)
        decide(spin, false);
    else if (spin->now.waits == WINDOW)
        end_window(spin, places);
}
