/* SPDX-License-Identifier: MIT */
/*
 * Brings into an image what it takes from the images behind it now, and would not find there in
 * future: the work of rebase and flatten.
 *
 * U1  Only what the image does not decide itself is written, with the content that the disk has at
 *     that place already: the disk reads the same at any instant.
 * U2  When it is done, the disk reads the same with the new backing image (or none) behind it.
 */
#ifndef VD_JOB_PULL_H
#define VD_JOB_PULL_H

#include "job/merge.h"

struct vd_pull {
    struct vdisk_image *image;  /* open for writing, with what is behind it now */
    struct vdisk_image *behind; /* what will be behind it; NULL: nothing */
    bool takes_all; /* the image shall decide all of its disk: its data file is to stand alone */
    bool is_durable;
    struct vd_job *job;
    const char *phase; /* of the job: a constant word */
    unsigned workers;  /* 0: the default */

    /* What was done. */
    uint64_t read_bytes;
    uint64_t data_bytes;
    uint64_t zero_bytes;
};

/* Does it, and makes it durable. */
int vd_pull(struct vd_pull *pull, struct vdisk_error *err);

#endif
