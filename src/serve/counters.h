/* SPDX-License-Identifier: MIT */
/* What has been done: numbers that any thread adds to. */
#ifndef VD_SERVE_COUNTERS_H
#define VD_SERVE_COUNTERS_H

#include <stdatomic.h>

#include "vdisk.h"

struct vd_request_counter {
    atomic_ullong requests;
    atomic_ullong errors;
    atomic_ullong bytes;
    atomic_ullong total_us;
    atomic_ullong latencies[VDISK_LATENCY_CLASSES];
};

/* Of one export.  Zeroed at first. */
struct vd_counters {
    atomic_ullong clients;     /* now */
    atomic_ullong connections; /* so far */
    atomic_ullong received_bytes;
    atomic_ullong sent_bytes;
    struct vd_request_counter requests[VDISK_REQUEST_KINDS];
};

/* A request of @kind is answered: @bytes of the disk, 0 if it failed; it took @us. */
void vd_counters_add(struct vd_counters *counters, enum vdisk_request_kind kind, uint64_t bytes,
                     uint64_t us, bool has_failed);

/* Counts for itself, without anybody else: what vd_counters_add_all() gets. */
void vd_stats_add(struct vdisk_request_stats *stats, uint64_t bytes, uint64_t us);

/* Adds all of @stats, and makes it zero. */
void vd_counters_add_all(struct vd_counters *counters, enum vdisk_request_kind kind,
                         struct vdisk_request_stats *stats);

/* Adds the numbers to those in @stats. */
void vd_counters_sum(const struct vd_counters *counters, struct vdisk_server_stats *stats);

/* The class of struct vdisk_request_stats for a time. */
unsigned vd_latency_class(uint64_t us);

/* The shortest time, in microseconds, that is not in class @index or one below it. */
uint64_t vd_latency_limit(unsigned index);

#endif
