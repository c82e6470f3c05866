/* SPDX-License-Identifier: MIT */
/* What only a writable qcow2 image has; for the files that change it. */
#ifndef VD_FORMAT_QCOW2_QCOW2_WRITE_H
#define VD_FORMAT_QCOW2_QCOW2_WRITE_H

#include <stdatomic.h>

#include "format/qcow2/qcow2_priv.h"

/* Numbers in the order in which they came. */
struct vd_qcow2_places {
    uint64_t *offsets;
    size_t entries;
    size_t room;
};

/* W5: which clusters are metadata; a hash. */
struct vd_qcow2_meta {
    uint64_t *slots; /* number of a cluster and its kind; 0: none */
    size_t room;     /* a power of two, or 0 */
    size_t entries;
};

/* References that ended together: numbers of host clusters, one reference less to each. */
struct vd_qcow2_batch {
    struct vd_qcow2_batch *next;
    unsigned point; /* of vd_format_point(): when they were durably gone */
    struct vd_range *runs;
    size_t entries;
    size_t room;
};

/* Where compressed clusters are put, back to back. */
struct vd_qcow2_pack {
    uint64_t next;      /* file offset of the next one; 0: no place is open */
    uint64_t untouched; /* number of the first cluster that is taken and that nothing is in */
    uint64_t end;       /* number of the cluster behind those taken */
};

struct vd_qcow2_writer {
    bool can_resize; /* the file */

    /*
     * Locks, in the order in which they are taken: docs/locking.md.  session_lock: while a session
     * begins.  flush_lock: during a flush.  alloc_lock: while clusters are taken, and whenever
     * refcounts are looked at.  header_lock: while the header is changed and written; last.
     */
    struct vd_mutex session_lock;
    struct vd_mutex flush_lock;
    struct vd_mutex alloc_lock;
    struct vd_mutex header_lock;
    atomic_bool has_begun;

    /* Under tables.lock. */
    struct vd_qcow2_meta meta;
    struct vd_qcow2_places new_tables; /* L2 tables that no L1 entry in the file leads to */
    struct vd_qcow2_batch *releases;   /* W3: not durable yet; NULL: none */
    size_t reserved;                   /* runs that there has to be room for in it */

    /* Under alloc_lock. */
    struct vd_table_cache refs;   /* refcount table and blocks */
    bool has_new_blocks;          /* that no entry of the table in the file leads to */
    struct vd_qcow2_batch *ended; /* W3: durable, waiting for requests; oldest first */
    struct vd_qcow2_pack pack;
    uint64_t hint;       /* number of a cluster: the search for a free one begins here */
    uint64_t end;        /* number of the cluster behind all that were ever taken */
    uint64_t kept_end;   /* W10: so many clusters the file began with, less those given up since */
    uint64_t file_bytes; /* of the file */
    struct vd_range aside; /* of the file: has space set aside */
    struct vd_range l1_aside;
};

/* ---- qcow2_session.c ---- */

/* Makes qcow2->writer; everything else of qcow2 is filled in.  Changes nothing in the file. */
int vd_qcow2_writer_open(struct vd_qcow2 *qcow2, struct vdisk_error *err);

/* Ends the session: all durable, nothing unused at the end of the file.  No other call runs. */
int vd_qcow2_finish(struct vd_qcow2 *qcow2, struct vdisk_error *err);

/* Frees qcow2->writer.  NULL there is accepted. */
void vd_qcow2_writer_free(struct vd_qcow2 *qcow2);

/* Makes *fields what the header has, durably.  What the file has after a failure is unknown, so
 * that ends all changes. */
int vd_qcow2_replace_fields(struct vd_qcow2 *qcow2, const struct vd_qcow2_fields *fields,
                            struct vdisk_error *err) VD_EXCLUDES(qcow2->writer->header_lock);

/* The caches no longer have what the file has (a repair): forget all that the writer knows.  No
 * other call runs; the next change begins again. */
void vd_qcow2_writer_forget(struct vd_qcow2 *qcow2);

/* ---- qcow2_meta.c ---- */

/* What a hit on VD_QCOW2_META_BITMAPS is called. */
#define VD_QCOW2_META_BITMAPS_NAME "the bitmap directory or a table of it"

/* From the header, L1 and refcount table. */
int vd_qcow2_meta_build(struct vd_qcow2 *qcow2, struct vdisk_error *err);
void vd_qcow2_meta_free(struct vd_qcow2_meta *meta);

/* Room for @more clusters: adding them can not fail then. */
int vd_qcow2_meta_reserve_locked(struct vd_qcow2 *qcow2, uint64_t more, struct vdisk_error *err)
    VD_REQUIRES(qcow2->tables.lock);
void vd_qcow2_meta_add_locked(struct vd_qcow2 *qcow2, enum vd_qcow2_meta_kind kind,
                              uint64_t cluster) VD_REQUIRES(qcow2->tables.lock);
void vd_qcow2_meta_remove_locked(struct vd_qcow2 *qcow2, uint64_t cluster)
    VD_REQUIRES(qcow2->tables.lock);

/* What some cluster of [@host, +@clusters) is, in words; NULL: none is metadata.  *where: its
 * offset. */
const char *vd_qcow2_meta_hit_locked(const struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                                     uint64_t *where) VD_REQUIRES(qcow2->tables.lock);

/* The same, but for what is @kind, unless that is negative. */
const char *vd_qcow2_meta_other(struct vd_qcow2 *qcow2, int kind, uint64_t host, uint64_t clusters)
    VD_EXCLUDES(qcow2->tables.lock);

/* ---- qcow2_release.c ---- */

/* Room for @more runs: ending them can not fail then. */
int vd_qcow2_reserve_releases_locked(struct vd_qcow2 *qcow2, size_t more, struct vdisk_error *err)
    VD_REQUIRES(qcow2->tables.lock);

/* Gives back room that is not used. */
void vd_qcow2_unreserve_locked(struct vd_qcow2 *qcow2, size_t less) VD_REQUIRES(qcow2->tables.lock);

/* W3, of a reserved run; room for one less is kept then. */
void vd_qcow2_release_locked(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters)
    VD_REQUIRES(qcow2->tables.lock);

/* Those that a flush will make durable: out of the list.  NULL: none */
struct vd_qcow2_batch *vd_qcow2_take_releases_locked(struct vd_qcow2 *qcow2)
    VD_REQUIRES(qcow2->tables.lock);

/* They are durably gone. */
void vd_qcow2_releases_ended(struct vd_qcow2 *qcow2, struct vd_qcow2_batch *batch)
    VD_EXCLUDES(qcow2->writer->alloc_lock);

/* Those that no request can see any more take effect. */
int vd_qcow2_apply_releases(struct vd_qcow2 *qcow2, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->flush_lock) VD_EXCLUDES(qcow2->writer->alloc_lock);

/* Are there so many that a flush should make an end of them? */
bool vd_qcow2_releases_are_many_locked(const struct vd_qcow2 *qcow2)
    VD_REQUIRES(qcow2->tables.lock);

void vd_qcow2_batches_free(struct vd_qcow2_batch *batch);

/* ---- qcow2_alloc.c ---- */

/* vd_qcow2_take() needs a larger refcount table first: not an error that anybody else sees. */
#define VD_QCOW2_NEEDS_TABLE (-EXFULL)

/* Up to, or exactly (@is_whole), @wanted clusters. */
int vd_qcow2_take_alone(struct vd_qcow2 *qcow2, uint64_t wanted, bool is_whole,
                        struct vd_qcow2_space *space, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock);
void vd_qcow2_give_back_alone(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters)
    VD_REQUIRES(qcow2->writer->alloc_lock);

/* The file has @clusters clusters, at least. */
int vd_qcow2_grow_file(struct vd_qcow2 *qcow2, uint64_t clusters, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock);

/*
 * Sets space aside for metadata, so that a disk that is full shows in the request that asks for it,
 * and not in the flush, which would lose what other requests were told is written.
 */
int vd_qcow2_set_aside(struct vd_qcow2 *qcow2, struct vd_range *aside, struct vd_range range,
                       struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock);

/* Sees to it that there is an L2 table for @guest, which may be changed in place. */
int vd_qcow2_make_table(struct vd_qcow2 *qcow2, uint64_t guest, struct vdisk_error *err)
    VD_EXCLUDES(qcow2->writer->alloc_lock);

/* The table of L1 entry @index, which is nobody else's, gets a new place. */
int vd_qcow2_move_table(struct vd_qcow2 *qcow2, uint64_t index, struct vdisk_error *err)
    VD_EXCLUDES(qcow2->writer->alloc_lock);

/* @length bytes of a table, as the cache has it. */
int vd_qcow2_read_table(struct vd_qcow2 *qcow2, uint64_t table, uint8_t *bytes, uint64_t length,
                        struct vdisk_error *err) VD_EXCLUDES(qcow2->tables.lock);

/* Cuts off the end of the file that nothing uses; no other call runs. */
int vd_qcow2_trim(struct vd_qcow2 *qcow2, struct vdisk_error *err);

/* ---- qcow2_grow.c ---- */

/*
 * Makes the refcount table larger than @seen entries, if nobody did meanwhile: for @clusters
 * clusters behind the end of the file and some more.
 */
int vd_qcow2_grow_refcounts(struct vd_qcow2 *qcow2, uint64_t seen, uint64_t clusters,
                            struct vdisk_error *err) VD_EXCLUDES(qcow2->writer->flush_lock);

/* ---- qcow2_pack.c ---- */

/* A place for so many bytes of a compressed cluster: with a reference to each cluster it is in. */
int vd_qcow2_pack_take(struct vd_qcow2 *qcow2, uint32_t encoded_bytes, uint64_t *host,
                       struct vdisk_error *err) VD_EXCLUDES(qcow2->writer->alloc_lock);

/* No more is put at the end of the last one; what was taken for it is free again. */
void vd_qcow2_pack_close_alone(struct vd_qcow2 *qcow2) VD_REQUIRES(qcow2->writer->alloc_lock);

/* The clusters of a compressed one. */
static inline uint64_t vd_qcow2_encoded_clusters(const struct vd_qcow2_geometry *geometry,
                                                 uint64_t host, uint32_t encoded_bytes)
{
    return ((host + encoded_bytes - 1) >> geometry->cluster_bits) -
           (host >> geometry->cluster_bits) + 1;
}

/* ---- qcow2_flush.c ---- */

/* Flushes before changes take more memory than there is for tables. */
int vd_qcow2_relieve(struct vd_qcow2 *qcow2, struct vdisk_error *err)
    VD_EXCLUDES(qcow2->writer->flush_lock);

/* Only refcounts, durably: W2. */
int vd_qcow2_flush_refs_alone(struct vd_qcow2 *qcow2, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->flush_lock) VD_REQUIRES(qcow2->writer->alloc_lock);

/* ---- qcow2_write.c ---- */

/* The run at the start of @guest; there is a table with its entries, to be changed in place. */
int vd_qcow2_find_to_change_locked(struct vd_qcow2 *qcow2, struct vd_range guest,
                                   struct vd_qcow2_run *run, struct vdisk_error *err)
    VD_REQUIRES(qcow2->tables.lock);

/* W5: in [@host, +@clusters), where @what is to be written, is no metadata. */
int vd_qcow2_check_place(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters, const char *what,
                         struct vdisk_error *err) VD_EXCLUDES(qcow2->tables.lock);

/* Data that nobody else has: it is written where it is. */
bool vd_qcow2_is_in_place(const struct vd_qcow2 *qcow2, const struct vd_qcow2_run *run);

/* The answer for it, after the checks of W5.  Releases the lock. */
int vd_qcow2_answer_in_place(struct vd_qcow2 *qcow2, struct vd_range guest,
                             const struct vd_qcow2_run *run, struct vd_mapping *mapping,
                             struct vdisk_error *err) VD_RELEASES(qcow2->tables.lock);

/* The same answer, or -EAGAIN if there is more to do than to answer. */
int vd_qcow2_try_in_place_locked(const struct vd_qcow2 *qcow2, struct vd_range guest,
                                 const struct vd_qcow2_run *run, struct vd_mapping *mapping)
    VD_REQUIRES(qcow2->tables.lock);

/* W5: does one of the first @entries of @run lead to metadata?  As vd_qcow2_meta_hit_locked(). */
const char *vd_qcow2_hit_entries_locked(const struct vd_qcow2 *qcow2,
                                        const struct vd_qcow2_run *run, uint64_t entries,
                                        uint64_t *where) VD_REQUIRES(qcow2->tables.lock);

/* W5: @what at offset @where is @other as well. */
int vd_qcow2_overlap(struct vd_qcow2 *qcow2, const char *what, const char *other, uint64_t where,
                     struct vdisk_error *err);

/* The subclusters of the cluster at guest offset @cluster that lie in @range, bit by bit. */
uint32_t vd_qcow2_mask_of(const struct vd_qcow2_geometry *geometry, uint64_t cluster,
                          struct vd_range range);

/* ---- qcow2_zero.c ---- */

/* The start of @guest, whole clusters, is not in this image any more; *done: so many bytes. */
int vd_qcow2_forget_run(struct vd_qcow2 *qcow2, struct vd_range guest, uint64_t *done,
                        struct vdisk_error *err) VD_EXCLUDES(qcow2->tables.lock);

/* ---- qcow2_resize.c ---- */

/* All of @guest, which reads as zero, gets places: whole clusters. */
int vd_qcow2_preallocate(struct vd_qcow2 *qcow2, struct vd_range guest,
                         enum vdisk_preallocation preallocation, struct vdisk_error *err);

/* ---- numbers in the order in which they came ---- */

/* Room for one more. */
int vd_qcow2_places_reserve(struct vd_qcow2_places *places, struct vdisk_error *err);
void vd_qcow2_places_add(struct vd_qcow2_places *places, uint64_t offset);
/* Sorts them; then vd_qcow2_places_have() finds. */
void vd_qcow2_places_sort(struct vd_qcow2_places *places);
bool vd_qcow2_places_have(const struct vd_qcow2_places *places, uint64_t offset);

#endif
