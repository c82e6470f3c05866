/* SPDX-License-Identifier: MIT */
/*
 * The receiving side of a sync: a GOW v3 file whose blocks are replaced by those of a master, in an
 * order that a kill or a power cut at any instant can not turn into a lie.
 *
 * R1  The header says "incomplete" durably before anything else changes, and until the end.
 * R2  A block's version is written after its data, and the map entry that leads to it, are durable.
 *     So a block whose version equals the master's holds the master's data.
 * R3  A host block is used again only after the map entry that led to it is durably gone.
 *
 * Opening, beginning and finishing are done by one thread.  vd_replica_place() may be called by
 * many threads, also while one (at a time) is in vd_replica_commit(), as long as they are about
 * different blocks.
 */
#ifndef VD_FORMAT_GOW_REPLICA_H
#define VD_FORMAT_GOW_REPLICA_H

#include "format/gow/gow_header.h"

struct vd_replica;

/* What has become of one block. */
struct vd_replica_change {
    uint32_t block;
    uint32_t version; /* that of the master from now on */
    uint32_t host;    /* where its data was written, VD_GOW_UNALLOCATED: it reads as zero */
};

/*
 * Reads header, and the used part of map and versions, of @file, which stays the caller's.
 * -EBADMSG: they contradict gow §3 or §4; -ENOTSUP: a GOW of another version, or none.
 */
int vd_replica_open(struct vd_storage *file, struct vd_replica **replica, struct vdisk_error *err);

void vd_replica_close(struct vd_replica *replica);

const struct vd_gow_header *vd_replica_header(const struct vd_replica *replica);

/* Blocks that the replica knows of; what is past them has version 0. */
uint32_t vd_replica_block_count(const struct vd_replica *replica);

uint32_t vd_replica_version(const struct vd_replica *replica, uint32_t block);

/* VD_GOW_UNALLOCATED if it reads as zero. */
uint32_t vd_replica_host(const struct vd_replica *replica, uint32_t block);

/*
 * Marks the file as an incomplete replica of @master, durably (R1), and makes room for as many
 * blocks as the larger of the two has.  @forget: what the file holds is unrelated to @master, so
 * all its versions become 0 first.
 */
int vd_replica_begin(struct vd_replica *replica, const struct vd_gow_header *master, bool forget,
                     struct vdisk_error *err);

/*
 * The host block to write the data of @block to: its own, or a free one.  -ENOSPC: the format has
 * no more of them.
 */
int vd_replica_place(struct vd_replica *replica, uint32_t block, uint32_t *host,
                     struct vdisk_error *err);

/*
 * The data of all @changes is written; sorts them.  Makes data, then map durable, and writes the
 * versions (R2), which the next commit or the end makes durable.  After a failure everything that
 * changes the replica fails.
 */
int vd_replica_commit(struct vd_replica *replica, struct vd_replica_change *changes, size_t count,
                      struct vdisk_error *err);

/*
 * Everything of @master has been committed, and what lies past its end is unallocated: gives back
 * the free tail of the file, and makes it a complete replica, durably.
 */
int vd_replica_finish(struct vd_replica *replica, const struct vd_gow_header *master,
                      struct vdisk_error *err);

#endif
