/* SPDX-License-Identifier: MIT */
/*
 * Reading compressed clusters.
 *
 * E1  A cluster is decoded whole: into the buffers of the request where they take it in one piece,
 *     else aside.
 * E2  What was decoded is kept only of images that nobody changes, and a few clusters of it: small
 *     reads come back to the same one.
 * E3  Neighbours in the file are read together.
 */
#ifndef VD_IMAGE_ENCODED_H
#define VD_IMAGE_ENCODED_H

#include "format/format.h"
#include "util/mutex.h"

#define VD_ENCODED_IDLE_MAX  8u
#define VD_ENCODED_SLOTS_MAX 8u

/* A decoded cluster, known by where its encoded bytes are. */
struct vd_encoded_slot {
    const struct vd_storage *storage; /* NULL: the slot is empty */
    uint64_t host_offset;
    uint32_t encoded_bytes;
    size_t cluster_bytes;
    uint8_t *bytes;     /* owned; not changed while there are users */
    unsigned users;     /* that copy from it */
    uint64_t used_tick; /* the lowest goes first */
};

/* What an image needs for it. */
struct vd_encoded {
    bool keeps_clusters; /* E2 */
    struct vd_mutex lock;
    struct vd_decoder *idle[VD_ENCODED_IDLE_MAX];       /* under lock; owned */
    unsigned idle_entries;                              /* under lock */
    struct vd_encoded_slot slots[VD_ENCODED_SLOTS_MAX]; /* under lock */
    uint64_t tick;                                      /* under lock */
};

void vd_encoded_init(struct vd_encoded *encoded);
void vd_encoded_destroy(struct vd_encoded *encoded);

/* The buffers of a request, the first byte of which is @offset of the disk. */
struct vd_encoded_target {
    const struct iovec *iov;
    int iov_entries;
    uint64_t offset;
};

/*
 * Reads the start of @rest, which map() of @format answered with the ENCODED @first; *done gets the
 * length.  The format is entered.
 */
int vd_encoded_read(struct vd_encoded *encoded, struct vd_format *format,
                    const struct vd_mapping *first, struct vd_range rest,
                    const struct vd_encoded_target *target, uint64_t *done,
                    struct vdisk_error *err);

#endif
