/* SPDX-License-Identifier: MIT */
#include "serve/counters.h"

/* The first class is below 2^4 microseconds, each next one twice as wide; the last has no end. */
unsigned vd_latency_class(uint64_t us)
{
    unsigned index = 0;
    while (index + 1 < VDISK_LATENCY_CLASSES && us >= vd_latency_limit(index))
        index++;
    return index;
}

uint64_t vd_latency_limit(unsigned index)
{
    return UINT64_C(16) << index;
}

/* Numbers that only people read: no order between them is needed. */
static void add(atomic_ullong *counter, uint64_t value)
{
    atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

void vd_counters_add(struct vd_counters *counters, enum vdisk_request_kind kind, uint64_t bytes,
                     uint64_t us, bool has_failed)
{
    struct vd_request_counter *counter = &counters->requests[kind];
    add(&counter->requests, 1);
    add(&counter->total_us, us);
    add(&counter->latencies[vd_latency_class(us)], 1);
    if (has_failed)
        add(&counter->errors, 1);
    else
        add(&counter->bytes, bytes);
}

void vd_stats_add(struct vdisk_request_stats *stats, uint64_t bytes, uint64_t us)
{
    stats->requests++;
    stats->bytes += bytes;
    stats->total_us += us;
    stats->latencies[vd_latency_class(us)]++;
}

void vd_counters_add_all(struct vd_counters *counters, enum vdisk_request_kind kind,
                         struct vdisk_request_stats *stats)
{
    struct vd_request_counter *counter = &counters->requests[kind];
    add(&counter->requests, stats->requests);
    add(&counter->errors, stats->errors);
    add(&counter->bytes, stats->bytes);
    add(&counter->total_us, stats->total_us);
    for (unsigned i = 0; i < VDISK_LATENCY_CLASSES; i++)
        if (stats->latencies[i])
            add(&counter->latencies[i], stats->latencies[i]);
    *stats = (struct vdisk_request_stats){0};
}

static uint64_t value_of(const atomic_ullong *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void vd_counters_sum(const struct vd_counters *counters, struct vdisk_server_stats *stats)
{
    stats->clients += value_of(&counters->clients);
    stats->connections += value_of(&counters->connections);
    stats->received_bytes += value_of(&counters->received_bytes);
    stats->sent_bytes += value_of(&counters->sent_bytes);
    for (unsigned kind = 0; kind < VDISK_REQUEST_KINDS; kind++) {
        const struct vd_request_counter *from = &counters->requests[kind];
        struct vdisk_request_stats *to = &stats->requests[kind];
        to->requests += value_of(&from->requests);
        to->errors += value_of(&from->errors);
        to->bytes += value_of(&from->bytes);
        to->total_us += value_of(&from->total_us);
        for (unsigned i = 0; i < VDISK_LATENCY_CLASSES; i++)
            to->latencies[i] += value_of(&from->latencies[i]);
    }
}
