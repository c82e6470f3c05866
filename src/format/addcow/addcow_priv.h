/* SPDX-License-Identifier: MIT */
/*
 * An open add-cow image, for the files of this folder only.  docs/formats/add-cow.md is the
 * specification.
 *
 * A1  A bit is written to the file only after the data of its cluster, filled edges too, is durable
 *     in the raw file (add-cow §5.1).
 * A2  What the raw file holds in a cluster whose bit is clear is never shown: the cluster is filled
 *     whole when it is taken (add-cow §4.3).
 * A3  Bits behind the end of the disk mean nothing to a reader.  They are left alone until the
 * image is changed: the raw file may be shorter by mistake.  They are right, durably, before the
 * raw file grows: clear, or set where the backing file must not show (add-cow §4.2, §6.1). A4  The
 * size of the disk is that of the raw file: the change of that is the point at which a resize has
 * happened (add-cow §6). A5  A name that the header in the file leads to is never written over
 * (add-cow §5.3). A6  The raw file is never made shorter but by a resize, and never guessed at
 * (add-cow §4.1, §7).
 *
 * Locks: docs/locking.md.
 */
#ifndef VD_FORMAT_ADDCOW_ADDCOW_PRIV_H
#define VD_FORMAT_ADDCOW_ADDCOW_PRIV_H

#include "format/addcow/addcow_header.h"
#include "format/driver.h"
#include "format/table_cache.h"

struct vd_addcow {
    struct vd_format *format;
    struct vd_storage *file;
    struct vd_storage *data; /* the raw file, owned; NULL: it is not there (FACTS and CHECK only) */
    struct vd_addcow_header header; /* as in the file; changes only while no other call runs */
    char *backing_name;             /* NULL: none */
    char *data_name;
    struct vdisk_error broken;  /* CHECK only: why the header means nothing, if its code is set */
    struct vdisk_error no_data; /* why there is no raw file */

    uint64_t cache_bytes;           /* for the bitmap, as it was asked for */
    struct vd_table_budget *budget; /* or this, if not NULL */
    uint64_t whole_bytes;  /* of the raw file when it was opened or resized: surely there */
    uint64_t bitmap_bytes; /* that the file has, of those there should be; the rest is clear */

    struct vd_mutex flush_lock; /* held during a flush, and while the file is cut.  Before: none */
    atomic_bool is_trimmed;     /* A3: nothing is behind the end of the bitmap any more */

    struct vd_table_cache *bits; /* the bitmap; replaced only while no other call runs */
    bool bits_have_changed;      /* since the last flush began; under bits->lock */
};

/* A run of clusters whose bits are equal. */
struct vd_addcow_run {
    struct vd_range clusters;
    bool is_set;
    struct vd_table_page *page; /* with all their bits; NULL: the file has none of them */
};

static inline uint64_t vd_addcow_cluster_count(const struct vd_addcow *cow, uint64_t size)
{
    return vd_addcow_clusters(size, cow->header.cluster_bits);
}

/* Of a disk of @size bytes, in the file. */
static inline uint64_t vd_addcow_bitmap_end(const struct vd_addcow *cow, uint64_t size)
{
    return cow->header.header_bytes + vd_addcow_bitmap_bytes(vd_addcow_cluster_count(cow, size));
}

/* Where in the file is the byte with the bit of @cluster? */
static inline uint64_t vd_addcow_bit_offset(const struct vd_addcow *cow, uint64_t cluster)
{
    return cow->header.header_bytes + cluster / 8;
}

/* ---- addcow_map.c ---- */

/* The run at the start of @guest, not longer than it. */
int vd_addcow_find_run_locked(struct vd_addcow *cow, struct vd_range guest,
                              struct vd_addcow_run *run, struct vdisk_error *err)
    VD_REQUIRES(cow->bits->lock);

/* The answer for @run, to a request for @guest that wants to read, or to write if @for_write. */
int vd_addcow_answer(struct vd_addcow *cow, struct vd_range guest, const struct vd_addcow_run *run,
                     bool for_write, struct vd_mapping *mapping, struct vdisk_error *err);

int vd_addcow_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
                  struct vdisk_error *err);

/* ---- addcow_write.c ---- */

/* A3: the image is about to be changed.  Any thread. */
int vd_addcow_begin(struct vd_addcow *cow, struct vdisk_error *err) VD_EXCLUDES(cow->flush_lock);

int vd_addcow_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                      struct vd_mapping *mapping);
int vd_addcow_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                            struct vd_mapping *mapping, struct vdisk_error *err);
void vd_addcow_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok);
int vd_addcow_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                       struct vd_mapping *mapping, struct vdisk_error *err);

/* ---- addcow_flush.c ---- */

int vd_addcow_flush(struct vd_format *format, struct vdisk_error *err);

/*
 * Writes the changed bits, and makes them durable if @is_durable; the data of their clusters is
 * durable (A1).  No other call runs.  A failure ends all changes.
 */
int vd_addcow_write_bits(struct vd_addcow *cow, bool is_durable, struct vdisk_error *err);

/* Flushes one of the two files.  A failure ends all changes. */
int vd_addcow_flush_file(struct vd_addcow *cow, struct vd_storage *storage,
                         struct vdisk_error *err);

/* ---- addcow_bitmap.c: no other call runs ---- */

/* A cache of the first @bitmap_bytes of the bitmap, to be put into cow->bits. */
int vd_addcow_new_cache(struct vd_addcow *cow, uint64_t bitmap_bytes, struct vd_table_cache **cache,
                        struct vdisk_error *err);
void vd_addcow_free_cache(struct vd_table_cache *cache);

/* Sets or clears the bits of clusters that the bitmap has.  Written, but not durable. */
int vd_addcow_set_bits(struct vd_addcow *cow, struct vd_range clusters, bool set,
                       struct vdisk_error *err);

/* Makes the file end with the bitmap of a disk of @size bytes, where it can; else it is not
 * shorter. */
int vd_addcow_set_file_end(struct vd_addcow *cow, uint64_t size, struct vdisk_error *err);

/* A3: clears the bits behind the end of the disk, and cuts the file.  Not durable. */
int vd_addcow_trim(struct vd_addcow *cow, struct vdisk_error *err);

int vd_addcow_empty(struct vd_format *format, struct vdisk_error *err);

/* ---- addcow_create.c, addcow_resize.c, addcow_backing.c, addcow_check.c ---- */

int vd_addcow_create(const struct vd_format_driver *driver, struct vd_storage *file,
                     struct vd_storage *data, const struct vdisk_create_options *options,
                     struct vdisk_error *err);
int vd_addcow_measure(const struct vd_format_driver *driver,
                      const struct vdisk_create_options *options, uint64_t data_bytes,
                      struct vdisk_measure_result *result, struct vdisk_error *err);

/* Rounds @wanted up to a size that a disk may have. */
int vd_addcow_size_of(uint64_t wanted, uint32_t cluster_bits, uint64_t *size,
                      struct vdisk_error *err);

int vd_addcow_resize(struct vd_format *format, const struct vd_resize *resize,
                     struct vdisk_error *err);
int vd_addcow_set_backing(struct vd_format *format, const struct vd_backing *backing,
                          struct vdisk_error *err);

/* Writes the 36 bytes of the header, within one sector; not durable before a flush. */
int vd_addcow_write_header(struct vd_addcow *cow, const struct vd_addcow_header *header,
                           struct vdisk_error *err);

int vd_addcow_check(struct vd_format *format, const struct vd_check *check,
                    struct vdisk_error *err);

#endif
