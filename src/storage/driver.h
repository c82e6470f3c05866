/* SPDX-License-Identifier: MIT */
/*
 * What a storage driver must do.  storage.c is the only caller: it checks ranges before and answers
 * after, splits and aligns requests, and zeroes buffers after a failed read.  A driver's functions
 * are called from any thread at once.  An absent function means what its comment says.
 */
#ifndef VD_STORAGE_DRIVER_H
#define VD_STORAGE_DRIVER_H

#include <stdatomic.h>

#include "storage/storage.h"
#include "util/mutex.h"

struct vd_storage_driver {
    const char *name;
    const char *const *schemes; /* NULL-terminated, "http" for http://...; NULL: no URL */

    /* Fills storage->state, ->caps, ->align_bytes.  NULL: made by a function of its own. */
    int (*open)(struct vd_storage *storage, const char *name,
                const struct vd_storage_options *options, struct vdisk_error *err);
    void (*close)(struct vd_storage *storage);
    /* Which object is called so?  NULL: never known */
    struct vd_storage_identity (*identify)(const char *name);
    int (*size)(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err);
    /* NULL: -EOPNOTSUPP */
    int (*allocated)(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err);
    /*
     * All of it, or an error; an end of file in the middle is -EIO and says where.  For these two
     * buffers, offset and length are multiples of storage->align_bytes; if that is more than 1 and
     * the end of file is no multiple, preadv fills up the last unit with zeros.
     */
    int (*preadv)(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                  uint64_t offset, struct vdisk_error *err);
    /* NULL: read-only */
    int (*pwritev)(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                   uint64_t offset, struct vdisk_error *err);
    /*
     * All of it, at once: 0; or -EAGAIN if it could only be had, or put, by waiting for a disk, or
     * anything else is in the way, in which case anything may be in the buffer, or in a part of
     * what was to be written.  @length is not 0, and no more than VDISK_REQUEST_BYTES_MAX.
     * Called only if align_bytes is 1.  NULL: -EAGAIN
     */
    int (*try_pread)(struct vd_storage *storage, void *buf, size_t length, uint64_t offset);
    int (*try_pwrite)(struct vd_storage *storage, const void *buf, size_t length, uint64_t offset);
    /* NULL or -EOPNOTSUPP (err untouched): zeros are written */
    int (*write_zeroes)(struct vd_storage *storage, struct vd_range range, unsigned flags,
                        struct vdisk_error *err);
    /* NULL or -EOPNOTSUPP (err untouched): nothing is done */
    int (*discard)(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err);
    /* NULL: nothing to flush */
    int (*flush)(struct vd_storage *storage, struct vdisk_error *err);
    /* NULL: -EOPNOTSUPP */
    int (*resize)(struct vd_storage *storage, uint64_t size, struct vdisk_error *err);
    /* NULL or -EOPNOTSUPP (err untouched): zeros are written past the end */
    int (*preallocate)(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err);
    /* NULL: all of it is data */
    int (*extent)(struct vd_storage *storage, struct vd_range range,
                  struct vd_storage_extent *extent, struct vdisk_error *err);
    /* Called when both storages have this driver; NULL or -EOPNOTSUPP: not possible */
    int (*copy)(struct vd_storage *from, uint64_t from_offset, struct vd_storage *to,
                uint64_t to_offset, uint64_t length, unsigned flags, struct vdisk_error *err);
    /* As vd_storage_can_copy(), when both have this driver; NULL: try it */
    bool (*can_copy)(struct vd_storage *from, struct vd_storage *to, unsigned flags);
    /* NULL: no hint wanted */
    void (*write_behind)(struct vd_storage *storage, struct vd_range range);
    /* NULL: zeros */
    void (*stats)(struct vd_storage *storage, struct vd_storage_stats *stats);
};

/* The changes under way on a storage whose align_bytes is more than 1: see align.c. */
struct vd_align {
    struct vd_mutex lock;
    struct vd_cond changed;
    struct vd_align_hold *holds; /* under lock */
    atomic_ullong present_bytes;
};

/* Every storage begins life in vd_storage_new(), zeroed but for these. */
struct vd_storage {
    const struct vd_storage_driver *driver;
    char *name;           /* shown in messages: as given, but for user and password of a URL */
    void *state;          /* the driver's own */
    uint32_t flags;       /* of enum vd_storage_open_flag, as given */
    uint32_t caps;        /* of enum vd_storage_cap */
    uint32_t align_bytes; /* power of two; 1: any byte range, any buffer */
    struct vd_storage_identity identity;
    struct vd_align align; /* for align.c */
};

/* A storage of @driver without state, for open functions that are not in the table. */
int vd_storage_new(const struct vd_storage_driver *driver, const char *name,
                   struct vd_storage **storage, struct vdisk_error *err);

/* The table of drivers that vd_storage_open() chooses from, NULL-terminated: drivers.c. */
extern const struct vd_storage_driver *const vd_storage_drivers[];

#endif
