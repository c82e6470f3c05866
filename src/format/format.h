/* SPDX-License-Identifier: MIT */
/*
 * A format maps addresses: where does a guest range live?  It allocates, and never moves guest
 * data; image/ does that.  Everybody above calls these functions; they check ranges before and
 * answers after, and remember the first failure of metadata (format/driver.h tells what a driver
 * must do).
 *
 * Who reads or writes guest data brackets the request with vd_format_enter() and
 * vd_format_leave(): a cluster that is freed meanwhile is not used again before the request left.
 */
#ifndef VD_FORMAT_FORMAT_H
#define VD_FORMAT_FORMAT_H

#include "format/codec.h"
#include "storage/storage.h"
#include "util/err.h"
#include "util/range.h"

struct vd_cipher;
struct vd_format;
struct vd_format_driver;
struct vd_table_budget;

enum vd_format_open_flag {
    VD_FORMAT_WRITE = 1 << 0,
    VD_FORMAT_CHECK = 1 << 1,   /* inconsistent images too: only check() follows */
    VD_FORMAT_REPLICA = 1 << 2, /* for sync: opens incomplete replicas */
    VD_FORMAT_FACTS = 1 << 3    /* only info() follows: what the image names may be missing */
};

/*
 * How a driver gets at the data file that its image names (add-cow's raw file): it asks, and who
 * opens the image decides.  Writable if the format is.
 */
struct vd_format_files {
    int (*open_data)(void *opaque, const char *name, bool writable, struct vd_storage **storage,
                     struct vdisk_error *err);
    void *opaque;
};

struct vd_format_options {
    uint32_t flags;                      /* of enum vd_format_open_flag */
    uint64_t cache_bytes;                /* most memory for metadata; 0: the default of 64 MiB */
    struct vd_table_budget *budget;      /* NULL, or what is shared instead */
    const struct vd_format_files *files; /* used during open only; NULL: there are none to be had */
    const struct vdisk_snapshot_key *snapshot; /* the disk as it was then; NULL: as it is.  Not with
                                                  VD_FORMAT_WRITE or VD_FORMAT_CHECK */
    const struct vdisk_passphrases *passphrases; /* for encrypted images; used during open only */
};

enum vd_map_kind {
    VD_MAP_DATA,    /* bytes at host_offset of storage */
    VD_MAP_ZERO,    /* reads as zero */
    VD_MAP_BACKING, /* not in this image: what its backing image has there, zeros past its end */
    VD_MAP_ENCODED  /* compressed: one cluster, to be decoded whole; from map() only */
};

/* What the rest of a cluster has to hold when only a part of it is written first. */
enum vd_fill {
    VD_FILL_NONE,    /* the storage reads as zero there, as it should */
    VD_FILL_ZERO,    /* zeros have to be written */
    VD_FILL_BACKING, /* what the backing image has there, and zeros past its end or the disk's */
    VD_FILL_OLD      /* what the disk reads as there until write_done(), and zeros past its end */
};

/* One answer: @guest is the part of the range asked for, from its start, that it is good for. */
struct vd_mapping {
    enum vd_map_kind kind;
    bool present; /* by an entry of this image, not for lack of one */
    struct vd_range guest;
    /* DATA, ENCODED; ZERO: NULL, or where a place is kept for it. */
    struct vd_storage *storage;
    uint64_t host_offset; /* DATA, ZERO: of guest.offset; ENCODED: of the compressed bytes */

    /*
     * DATA: how the bytes are encrypted, NULL: they are not.  Storage that reads as zero is no zero
     * then.  cipher_offset is where the cipher counts from, for guest.offset; a multiple of 512
     * whenever guest.offset is.
     */
    const struct vd_cipher *cipher;
    uint64_t cipher_offset;

    /* ENCODED: `clusters` is what vd_decode() makes of the encoded_bytes at host_offset, or of
     * fewer of them; what is behind the disk's end counts. */
    enum vd_codec codec;
    uint32_t encoded_bytes; /* no more than the storage has there */

    /* From map_for_write() and map_zero() only. */
    bool fresh;               /* clusters were taken for it: end with vd_format_write_done() */
    enum vd_fill fill;        /* fresh: for the bytes of clusters that are not in guest */
    struct vd_range clusters; /* fresh: the whole clusters, in guest bytes; covers guest.  ENCODED:
                                 the cluster */
    uint64_t token;           /* the driver's own */
};

enum vd_map_zero_flag {
    VD_MAP_ZERO_MAY_UNMAP = 1 << 0, /* space may be given back */
    VD_MAP_ZERO_DISCARD = 1 << 1    /* the content does not matter: parts of clusters may stay */
};

struct vd_format_info {
    uint32_t flags; /* of enum vdisk_info_flag */
    uint32_t cluster_bytes;
    bool takes_encoded;  /* vd_format_map_encoded() is for this image too, */
    enum vd_codec codec; /* and for clusters of this kind */
    uint64_t generation;
    uint8_t uuid[16];
    const char *variant;     /* of the format, or NULL: a constant word */
    uint32_t refcount_bits;  /* 0: the format has none */
    const char *compression; /* of its compressed clusters, a constant word; NULL: has none */
    /* What the image names, as it is recorded; NULL: nothing.  Good until close or set_backing. */
    const char *backing_name;
    const char *backing_format; /* NULL: not recorded */
    const char *data_name;
    const struct vdisk_encrypt_info *encrypt; /* NULL: it is not encrypted.  Good until close */
};

/* The file that an image is an overlay on. */
struct vd_backing {
    const char *name;   /* as it is recorded */
    const char *format; /* its name, or NULL: unknown */
};

/* The table of formats, in the order of their names' listing: NULL past the last. */
const struct vd_format_driver *vd_format_at(size_t index);

/* By name ("gow" too); NULL with @err set if there is none. */
const struct vd_format_driver *vd_format_find(const char *name, struct vdisk_error *err);

const char *vd_format_driver_name(const struct vd_format_driver *driver);

/* Looks at the content: *driver is never NULL after 0; raw is the answer when nothing fits. */
int vd_format_probe(struct vd_storage *storage, const struct vd_format_driver **driver,
                    struct vdisk_error *err);

/* Are its images recognised by their content?  (Not raw ones.) */
bool vd_format_driver_has_probe(const struct vd_format_driver *driver);

/* Have images of the format their guest data in a file of its own? */
enum vd_data_file {
    VD_DATA_FILE_NEVER,
    VD_DATA_FILE_MAYBE,
    VD_DATA_FILE_ALWAYS
};
enum vd_data_file vd_format_driver_data_file(const struct vd_format_driver *driver);

/* Can its images be encrypted? */
bool vd_format_driver_encrypts(const struct vd_format_driver *driver);

/* Can its images have compressed clusters?  (Not all may take new ones: struct vd_format_info.) */
bool vd_format_driver_has_encoded(const struct vd_format_driver *driver);

/* Can its images have a backing file? */
bool vd_format_driver_has_backing(const struct vd_format_driver *driver);

/*
 * Writes an empty image into the empty or overwritable @file; the caller flushes both.  @data: the
 * data file, which may hold anything and is made no shorter; NULL if there is to be none.
 */
int vd_format_create(const struct vd_format_driver *driver, struct vd_storage *file,
                     struct vd_storage *data, const struct vdisk_create_options *options,
                     struct vdisk_error *err);

/* An upper bound for the file that @options would make, if @data_bytes of the disk, in whole
 * clusters, held data. */
int vd_format_measure(const struct vd_format_driver *driver,
                      const struct vdisk_create_options *options, uint64_t data_bytes,
                      struct vdisk_measure_result *result, struct vdisk_error *err);

/* 0 if the format has none */
uint32_t vd_format_driver_cluster_bytes(const struct vd_format_driver *driver);

/* @file stays the caller's and outlives the format. */
int vd_format_open(const struct vd_format_driver *driver, struct vd_storage *file,
                   const struct vd_format_options *options, struct vd_format **format,
                   struct vdisk_error *err);

/*
 * Ends the session: flushes, marks the image clean.  Frees in any case.  NULL is accepted.
 * Negative: something written since the last good flush may not be durable.
 */
int vd_format_close(struct vd_format *format, struct vdisk_error *err);

const struct vd_format_driver *vd_format_driver_of(const struct vd_format *format);
struct vd_storage *vd_format_file(const struct vd_format *format);
uint64_t vd_format_size(const struct vd_format *format);
bool vd_format_is_writable(const struct vd_format *format);
int vd_format_info(struct vd_format *format, struct vd_format_info *info, struct vdisk_error *err);

/* Brackets of a request; the ticket of enter() goes to leave().  Never waits. */
unsigned vd_format_enter(struct vd_format *format);
void vd_format_leave(struct vd_format *format, unsigned ticket);

/* Where is it?  @guest: not empty, within the size. */
int vd_format_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
                  struct vdisk_error *err);

/*
 * Where may the @encoded_bytes go that decode to the cluster @guest (whole, but for the last one of
 * the disk)?  DATA, fresh, with guest as asked and no fill: host_offset is of the bytes, to be
 * written as they are, and write_done() follows.  -ENOTSUP: this image has no such clusters.
 */
int vd_format_map_encoded(struct vd_format *format, struct vd_range guest, enum vd_codec codec,
                          uint32_t encoded_bytes, struct vd_mapping *mapping,
                          struct vdisk_error *err);

/*
 * Where may it be written?  A part of the range may be answered.  With @allocate the answer is
 * DATA, and the caller makes sure that no other allocating call for the same clusters comes between
 * map_for_write() and write_done() (image/guard.h).  Without it nothing is allocated: ZERO is the
 * answer where that would be needed, also while another request's allocation is not done yet.
 */
int vd_format_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                            struct vd_mapping *mapping, struct vdisk_error *err);

/*
 * What map(), or map_for_write() without allocating, would answer, if that can be known without
 * waiting for a disk or for others: 0.  Else -EAGAIN: ask those, which also tell what is wrong.
 * For writing, the answer is DATA.
 */
int vd_format_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                      struct vd_mapping *mapping);

/*
 * Ends a fresh mapping.  @ok: the data and the fill are written, reads find them from now on;
 * else the clusters are given back and the range is as before.
 */
void vd_format_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok);

/*
 * How is it made to read as zero?  ZERO: it does now (or, when discarding, may stay as it was).
 * DATA: the caller writes zeros there, as after map_for_write().  BACKING: the caller writes zeros
 * to that part by way of map_for_write() and write_done().  No allocating call for the same
 * clusters comes between this and the end of the zeros (image/guard.h).
 */
int vd_format_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                       struct vd_mapping *mapping, struct vdisk_error *err);

/* Have the blocks of its images versions, which go up when they change? */
bool vd_format_has_versions(const struct vd_format *format);

/*
 * The version that the blocks from the start of @guest on have in common, 0: never written.  A part
 * of the range may be answered.  Never behind a change that a read of the disk shows.  -EUCLEAN:
 * they may be behind, and this image can not mend that; -ENOTSUP: there are none.
 */
int vd_format_version(struct vd_format *format, struct vd_range guest, uint32_t *version,
                      uint64_t *length, struct vdisk_error *err);

/* All that was written, and the metadata that leads to it, is durable when this returns 0. */
int vd_format_flush(struct vd_format *format, struct vdisk_error *err);

struct vd_resize {
    uint64_t size; /* bytes of the disk */
    enum vdisk_preallocation preallocation;
    uint64_t backing_bytes; /* of the backing disk; what is added does not show it.  0: none */
};

/*
 * No other call runs.  Durable.  When it grows, the part of the last cluster behind the old end is
 * not BACKING, or does not show anything of the backing disk: image/ has seen to it.
 */
int vd_format_resize(struct vd_format *format, const struct vd_resize *resize,
                     struct vdisk_error *err);

/*
 * Changes what the image says of its backing file; NULL: it has none, and what was not in the image
 * reads as zero.  No other call runs.  Durable, and at any instant either the old or the new.
 */
int vd_format_set_backing(struct vd_format *format, const struct vd_backing *backing,
                          struct vdisk_error *err);

/*
 * Forgets all data: everything is BACKING again (or zero, if there is no backing file).  For images
 * whose disk reads the same after it.  No other call runs.  Durable.  -ENOTSUP: it can not.
 */
int vd_format_empty(struct vd_format *format, struct vdisk_error *err);

/*
 * Rewrites what the header of the closed image in @file says of the format itself.  Durable.
 * -ENOTSUP: there is nothing to choose in this format.
 */
int vd_format_amend(const struct vd_format_driver *driver, struct vd_storage *file,
                    const struct vdisk_amend_options *options, struct vdisk_error *err);

/* Told of parts that are done; a negative answer, with @err set, ends the work. */
struct vd_compact {
    int (*progress)(void *opaque, uint64_t done, uint64_t total, struct vdisk_error *err);
    void *opaque;
    struct vdisk_compact_result *result; /* ->moved_bytes is counted */
};

/* Are there images that vd_format_compact() is for?  Else it is -ENOTSUP. */
bool vd_format_can_compact(const struct vd_format *format);

/*
 * Moves what is in use to the start of the file, and gives back the space of the rest.  No other
 * call runs.  To be called twice: on an image open for writing, and, after a close, on one open for
 * VD_FORMAT_CHECK and writing, for what can be moved only while nothing else is going on.  Each is
 * durable.  -ENOTSUP: the format has no free space within its files.
 */
int vd_format_compact(struct vd_format *format, const struct vd_compact *compact,
                      struct vdisk_error *err);

struct vd_check {
    enum vdisk_repair repair;
    vdisk_report_fn report; /* may be NULL: use vd_check_report() */
    void *opaque;
    struct vdisk_check_result *result;
};

/* -ENOTSUP: nothing to check. */
int vd_format_check(struct vd_format *format, const struct vd_check *check,
                    struct vdisk_error *err);

/* For drivers: one finding, in words. */
__attribute__((format(printf, 2, 3))) void vd_check_report(const struct vd_check *check,
                                                           const char *fmt, ...);

#endif
