/* SPDX-License-Identifier: MIT */
/* What the rooms of the file driver share: open (file.c), bytes, space, copies, page cache. */
#ifndef VD_STORAGE_FILE_PRIV_H
#define VD_STORAGE_FILE_PRIV_H

#include <stdatomic.h>

#include "storage/driver.h"

/* Found missing when first asked for; not asked for again. */
enum file_missing {
    FILE_NO_PUNCH = 1 << 0,
    FILE_NO_ZERO_RANGE = 1 << 1,
    FILE_NO_ALLOCATE = 1 << 2,
    FILE_NO_EXTENTS = 1 << 3,
    FILE_NO_REFLINK = 1 << 4,
    FILE_NO_TRY_READ = 1 << 5,
    FILE_NO_TRY_WRITE = 1 << 6
};

/* How reads and writes are tried that must not wait for a disk. */
enum file_try {
    FILE_TRY_NEVER,
    FILE_TRY_NOWAIT, /* the system can be asked for that */
    FILE_TRY_PAGES,  /* it can not, but only parts of pages would have to be read */
    FILE_TRY_ALL     /* there is no disk */
};

/* Who waits for the disk.  All of it under the lock. */
struct file_sync {
    struct vd_mutex lock;
    struct vd_cond changed;
    bool busy;        /* a thread waits for write-back, and will take the kernel's report of it */
    uint64_t started; /* count of flushes */
    uint64_t done;
    int lost_error; /* 0, or the errno of the first failed write-back: there is no second try */
    bool is_new;    /* the name of the file is not yet known to be durable */
    int parent_fd;  /* directory of a new file, or -1 */
};

/*
 * The last run of data, or hole, of a file that nobody changes.  A format asks for its clusters one
 * after the other, and some file systems look at all pages of a run to find its end.
 */
struct file_run {
    struct vd_mutex lock;
    struct vd_range range;            /* under lock; length 0: none is known */
    enum vd_storage_extent_kind kind; /* under lock */
};

struct file {
    int fd;
    bool is_block;          /* a block device, not a regular file */
    bool is_sync;           /* changes that are no writes need a flush of their own */
    bool keeps_cache_small; /* reads drop what lies behind them */
    bool is_direct;
    bool is_constant; /* opened for reading, and locked against writers */
    enum file_try try_read;
    enum file_try try_write;
    uint32_t block_bytes; /* logical block of a block device, else 1 */
    atomic_uint missing;  /* of enum file_missing */
    struct file_sync sync;
    struct file_run known;
    atomic_ullong read_dropped;  /* below: dropped from the page cache by reads */
    atomic_ullong write_dropped; /* below: written out and dropped by vd_file_write_behind() */
};

/* The functions of the driver table, by room.  file_io.c: */
int vd_file_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                   uint64_t offset, struct vdisk_error *err);
int vd_file_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                    uint64_t offset, struct vdisk_error *err);
int vd_file_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err);

/* file_try.c: */
void vd_file_try_init(struct file *file);
int vd_file_try_pread(struct vd_storage *storage, void *buf, size_t length, uint64_t offset);
int vd_file_try_pwrite(struct vd_storage *storage, const void *buf, size_t length, uint64_t offset);

/* file_flush.c: */
int vd_file_flush(struct vd_storage *storage, struct vdisk_error *err);
/* Waits until @range, written before, is written out; an error is for the next flush to tell. */
void vd_file_wait_written(struct file *file, struct vd_range range);
/* A write came back with @code: it, or one of another thread, is lost (F2). */
void vd_file_note_lost_write(struct file *file, int code);
/* After a change that O_DSYNC does not cover: durable at once where that was asked for. */
int vd_file_settle(struct vd_storage *storage, struct vdisk_error *err);

/* file_space.c: */
int vd_file_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                         struct vdisk_error *err);
int vd_file_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err);
int vd_file_preallocate(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err);
int vd_file_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err);
int vd_file_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err);
int vd_file_extent(struct vd_storage *storage, struct vd_range range,
                   struct vd_storage_extent *extent, struct vdisk_error *err);
/* The capabilities that this file and its file system have, as far as can be told. */
uint32_t vd_file_space_caps(struct file *file, bool writable);

/* file_copy.c: */
int vd_file_copy(struct vd_storage *from, uint64_t from_offset, struct vd_storage *to,
                 uint64_t to_offset, uint64_t length, unsigned flags, struct vdisk_error *err);
bool vd_file_can_copy(struct vd_storage *from, struct vd_storage *to, unsigned flags);

/* file_cache.c: */
void vd_file_write_behind(struct vd_storage *storage, struct vd_range range);
/* @end: where a read of a file that is read once ended. */
void vd_file_read_behind(struct file *file, uint64_t end);

/* file_open.c: opens @name, checks what it is, locks it.  The descriptors are the caller's then. */
struct file_opened {
    int fd;
    int parent_fd;    /* of a file that is new, or -1 */
    bool is_new;      /* it was not there */
    bool is_name_new; /* nor was the name: no link that led to nothing */
    bool is_block;
    uint32_t block_bytes;
    uint32_t align_bytes;
    struct vd_storage_identity identity;
};
int vd_file_open_fd(const char *name, uint32_t flags, struct file_opened *opened,
                    struct vdisk_error *err);

struct vd_storage_identity vd_file_identify(const char *name);

#endif
