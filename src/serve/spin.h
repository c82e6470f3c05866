/* SPDX-License-Identifier: MIT */
/*
 * Whether the thread of a connection waits for its next request by asking again and again.
 *
 * Between a request and the next one of a client that sends them one by one, the system puts the
 * thread to sleep, and often a processor with it; on a virtual machine waking both costs more than
 * the request.  Asking for a moment saves that, and takes a processor meanwhile.  So it is done
 * only where it was measured to pay: the connection looks at itself waiting as usual, tries the
 * other way, compares how long its requests took, and does for a while what was better.
 *
 * All of it but the places is pure: times are arguments.
 */
#ifndef VD_SERVE_SPIN_H
#define VD_SERVE_SPIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A spin ends after so long, whatever happens. */
#define VD_SPIN_US 50u

/* ---- The connections of a server ---- */

struct vd_spinners {
    unsigned places; /* so many may spin at once; 0: none ever */
    atomic_uint spinning;
    atomic_ullong requests; /* received so far, by all: only for comparison */
};

/* One of two processors is left to the clients and to everybody else; @cpus: that may be used. */
void vd_spinners_init(struct vd_spinners *spinners, unsigned cpus);

/* Takes a place: true, and leave() gives it back; or there is none. */
bool vd_spinners_enter(struct vd_spinners *spinners);
void vd_spinners_leave(struct vd_spinners *spinners);

/* ---- One connection ---- */

/* A wait for input that is over. */
struct vd_spin_wait {
    uint64_t begin_us;
    uint64_t end_us;
    enum vd_spin_outcome {
        VD_SPIN_NONE = 0, /* it waited as usual */
        VD_SPIN_FAILED,   /* nothing came in time, so it waited as usual then */
        VD_SPIN_FOUND
    } outcome;
    uint64_t requests;     /* that the connection had received before, */
    uint64_t all_requests; /* and all of the server together */
};

/* Some waits that followed each other, each with the requests before it. */
struct vd_spin_window {
    unsigned waits;
    unsigned short_waits;
    uint64_t elapsed_us;
    uint64_t requests;
    uint64_t all_requests;
};

/* All zero at first: then it does not spin. */
struct vd_spin {
    enum vd_spin_phase {
        VD_SPIN_LOOK = 0, /* measures waits as usual */
        VD_SPIN_TRY,      /* measures spins */
        VD_SPIN_REST      /* does what was better */
    } phase;
    bool pays;          /* what the last comparison said */
    unsigned rest;      /* windows that it holds for, */
    unsigned rest_left; /* and of these to come */
    bool is_warm;       /* the waits were short enough lately */
    unsigned shorts;    /* short waits since one that was not */
    unsigned fails;     /* spins that failed, less those that others have made good */
    unsigned wins;      /* since then */
    uint64_t last_us;   /* the end of the wait before; 0: it does not count */
    uint64_t last_requests;
    uint64_t last_all_requests;
    struct vd_spin_window look; /* the last one that was good for comparison */
    struct vd_spin_window now;
};

/* Should the next wait begin with a spin? */
bool vd_spin_wants(const struct vd_spin *spin);

/* Learns from @wait.  A spin that was wanted, and for which there was no place, is VD_SPIN_NONE. */
void vd_spin_note(struct vd_spin *spin, unsigned places, const struct vd_spin_wait *wait);

/* There was a wait of another kind: for workers, for the client to take replies. */
void vd_spin_skip(struct vd_spin *spin);

#endif
