/* SPDX-License-Identifier: MIT */
/* The master of a sync: a GOW v3 image on any storage, read and counted. */
#ifndef VD_JOB_SYNC_SOURCE_H
#define VD_JOB_SYNC_SOURCE_H

#include <stdatomic.h>

#include "format/gow/gow_header.h"

struct vd_source {
    const char *name;                            /* of the caller */
    const struct vdisk_network_options *network; /* of the caller, or NULL */
    bool is_glance;                              /* only its header is wanted */
    struct vd_storage *storage;                  /* NULL: not open */
    struct vd_gow_header header;
    struct vd_gow_layout layout;
    uint64_t file_bytes;

    /* Of the storages that have been closed; vd_source_traffic() adds the open one. */
    uint64_t past_requests, past_bytes;
    /* For storages that do not count: reads, and their bytes. */
    atomic_uint_least64_t reads, read_bytes;
};

/* What it has cost so far. */
struct vd_traffic {
    uint64_t requests;
    uint64_t bytes;
};

/* @name and @network are kept. */
void vd_source_init(struct vd_source *source, const char *name,
                    const struct vdisk_network_options *network);

/*
 * Opens it (again) and reads its header: one request of at most 4 KiB where each has a price.
 * -EBUSY: somebody is writing to it; *can_wait tells whether waiting may help.  -EBADMSG, -ENOTSUP:
 * no GOW v3.
 */
int vd_source_open(struct vd_source *source, bool *can_wait, struct vdisk_error *err);

void vd_source_close(struct vd_source *source);

/* Any thread.  -ESTALE: it is not the file any more that was opened. */
int vd_source_read(struct vd_source *source, void *buf, size_t length, uint64_t offset,
                   struct vdisk_error *err);

/*
 * Is it still in the state that was opened?  -ESTALE if not.  Asks a server for the header once
 * more; a local file is locked against writers.
 */
int vd_source_recheck(struct vd_source *source, struct vdisk_error *err);

/* What a recheck will cost. */
struct vd_traffic vd_source_recheck_cost(const struct vd_source *source);

struct vd_traffic vd_source_traffic(struct vd_source *source);

/* Blocks of its disk. */
uint32_t vd_source_block_count(const struct vd_source *source);

#endif
