/* SPDX-License-Identifier: MIT */
/*
 * A random workload on an image whose power is cut before every change and flush of any of its
 * files; each state that may be left is opened, checked, read, mended and used again.
 *
 * All files of an image, its data file and the images behind it (drivers/stack.h) lose power at the
 * same moment.  A flush makes only its own file durable, so what is left of one file says nothing
 * about what is left of another.
 */
#ifndef VT_CRASH_RUN_H
#define VT_CRASH_RUN_H

#include "consumer.h"
#include "drivers/call.h"
#include "drivers/crash.h"
#include "drivers/random.h"
#include "drivers/stack.h"
#include "ledger.h"
#include "real-sync.h"
#include "vdisk.h"

struct vt_crash_plan {
    const char *stack;  /* the name of one */
    uint64_t size;      /* of the disk */
    uint64_t ops;       /* of the workload */
    uint64_t round_ops; /* after so many, it goes on with one of the states */
    uint64_t seed;
    unsigned draws;         /* states of each random kind at a cut */
    unsigned sync_every;    /* gow3: of so many states one is synced for real; 0: none */
    uint32_t ignore_period; /* to show that faults are found, until one is; else 0:
                               vt_crash_ignore_flushes() */
    uint32_t ignore_index;
    unsigned ignore_file; /* one file only; VT_STACK_NONE: all of them */
};

/* Storages for the files of a stack. */
struct vt_crash_files {
    struct vd_storage *all[VT_STACK_FILES_MAX];
};

struct vt_crash_tally {
    uint64_t cuts;
    uint64_t states;
    uint64_t by_cut[VT_CUTS];
    uint64_t violations;
    uint64_t mended;    /* states that a repair left as they read */
    uint64_t consumers; /* comparisons of a consumer with a master */
    uint64_t syncs;     /* real ones, by vdisk_sync() */
};

#define VT_CONSUMERS 3u

struct vt_consumers {
    struct vt_consumer all[VT_CONSUMERS];
    unsigned entries;
};

struct vt_crash_run {
    const struct vt_crash_plan *plan;
    struct vt_crash_tally *tally;
    struct vt_stack stack;
    struct vt_random random; /* of the workload */
    struct vt_random dice;   /* of the cuts */
    struct vt_ledger ledger;
    struct vt_consumers consumers; /* gow3: those that synced so far */
    struct vt_real_sync real;      /* gow3: a replica that had the empty image */
    struct vdisk_image *image;
    struct vt_crash_files crash;
    struct vt_crash_files next; /* a state to begin the next round with, or all NULL */
    bool has_alias;             /* the backing file was given its other name last */
    struct vt_consumers next_consumers;
    uint64_t next_weight;
    const char *op; /* what the workload is doing: for messages */
    uint64_t op_number;
    uint8_t *buf;    /* the ledger's windows, for the workload */
    uint8_t *before; /* the same, for a state as it is found */
    uint8_t *after;  /* and as it is later */
};

/* Where and how the power was cut. */
struct vt_crash_site {
    enum vt_call call; /* that was about to be made */
    enum vt_cut cuts[VT_STACK_FILES_MAX];
    uint64_t seed;
};

void vt_crash_run(const struct vt_crash_plan *plan, struct vt_crash_tally *tally);

/* Checks one state, which is closed; *tally counts what is wrong with it. */
void vt_crash_check_state(struct vt_crash_run *run, struct vt_crash_files *state,
                          const struct vt_crash_site *site);

/* Opens the image in @files, which stay open when it is closed. */
int vt_crash_open_image(const struct vt_crash_run *run, struct vt_crash_files *files,
                        uint32_t flags, struct vdisk_image **image, struct vdisk_error *err);

void vt_crash_files_close(struct vt_crash_files *files);

/* The windows of an image, zeros behind its end. */
int vt_crash_read_windows(const struct vt_crash_run *run, struct vdisk_image *image, uint8_t *bytes,
                          struct vdisk_error *err);

#endif
