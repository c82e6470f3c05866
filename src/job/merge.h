/* SPDX-License-Identifier: MIT */
/*
 * Brings content from one level of a chain of images to another: what commit, rebase and flatten
 * share.  They say what has to be done where; this cuts it into pieces for the workers.
 *
 * M1  Stretches are looked at in order and leave nothing out.  A piece that is read is at most
 *     VD_MERGE_PIECE_BYTES long and crosses no multiple of them.
 * M2  The top of the chain reads the same before, during and after each piece: so the work may
 *     fail, or be killed, at any instant.  The callers' rules see to it.
 */
#ifndef VD_JOB_MERGE_H
#define VD_JOB_MERGE_H

#include <stdatomic.h>

#include "image/image.h"
#include "job/job.h"

#define VD_MERGE_PIECE_BYTES (2u << 20)

enum vd_merge_kind {
    VD_MERGE_LEAVE, /* nothing to do */
    VD_MERGE_ZERO,  /* zeros are written, nothing is read */
    VD_MERGE_READ   /* by vd_merge_rules.copy */
};

/* What a worker reads into. */
struct vd_merge_buffers {
    uint8_t *bytes[2]; /* VD_MERGE_PIECE_BYTES each */
    unsigned worker;   /* 0 .. count - 1: for what a rule has for each of them */
};

struct vd_merge;

struct vd_merge_rules {
    /* What is to be done at the start of @range?  *length gets how far the answer is good. */
    int (*look)(const struct vd_merge *merge, struct vd_range range, enum vd_merge_kind *kind,
                uint64_t *length, struct vdisk_error *err);
    /* Deals with a piece that has to be read. */
    int (*copy)(struct vd_merge *merge, struct vd_range range,
                const struct vd_merge_buffers *buffers, struct vdisk_error *err);
    /* Makes zeros of a piece. */
    int (*zero)(struct vd_merge *merge, struct vd_range range, struct vdisk_error *err);
    /* How many bytes of @range count as progress?  NULL: all of them. */
    uint64_t (*weigh)(const struct vd_merge *merge, struct vd_range range);
};

struct vd_merge {
    const struct vd_merge_rules *rules;
    const void *opaque; /* for the rules */
    struct vd_job *job;
    struct vdisk_image *target; /* is written */
    uint64_t start;             /* is looked at from here */
    uint64_t size;              /* up to here */
    bool is_durable;            /* what is written goes to the device soon, not to stay in memory */

    struct vd_mutex lock;
    uint64_t position;             /* under lock: start of the next piece */
    struct vd_range known;         /* under lock: the last answer of look() */
    enum vd_merge_kind known_kind; /* under lock: its kind */

    atomic_uint_least64_t read_bytes; /* in pieces that were read */
    atomic_uint_least64_t data_bytes; /* written as data */
    atomic_uint_least64_t zero_bytes; /* written as zeros */
};

/* The caller has filled in what is above the lock.  Goes to vd_merge_destroy(). */
void vd_merge_init(struct vd_merge *merge);
void vd_merge_destroy(struct vd_merge *merge);

/* Does it all, in a phase of the job.  Nothing is flushed. */
int vd_merge_run(struct vd_merge *merge, const char *phase, unsigned workers,
                 struct vdisk_error *err);

/* The same within a phase that the caller has begun. */
int vd_merge_work(struct vd_merge *merge, unsigned workers, struct vdisk_error *err);

/* For the rules: writes to the target, and counts. */
int vd_merge_write(struct vd_merge *merge, const uint8_t *bytes, struct vd_range range,
                   struct vdisk_error *err);

/* For the rules: makes zeros, with holes where the target can have them, and counts. */
int vd_merge_zero(struct vd_merge *merge, struct vd_range range, struct vdisk_error *err);

#endif
