/* SPDX-License-Identifier: MIT */
/*
 * Storage carries bytes: a file, a URL, memory.  It knows no format.  Everybody above calls these
 * functions; they check ranges before and answers after, and cope with alignment, so that a driver
 * (storage/driver.h) only does its own work.  All are safe from any thread.
 */
#ifndef VD_STORAGE_STORAGE_H
#define VD_STORAGE_STORAGE_H

#include <sys/uio.h>

#include "util/err.h"
#include "util/range.h"

struct vd_storage;

enum vd_storage_open_flag {
    VD_STORAGE_WRITE = 1 << 0,
    VD_STORAGE_CREATE = 1 << 1,    /* make it, or empty it once it is locked; with WRITE */
    VD_STORAGE_EXCLUSIVE = 1 << 2, /* with CREATE: fail with EEXIST if it is there */
    VD_STORAGE_SHARE = 1 << 3,     /* read although somebody writes */
    VD_STORAGE_DIRECT = 1 << 4,
    VD_STORAGE_SYNC = 1 << 5,       /* every write durable at once */
    VD_STORAGE_UNSAFE = 1 << 6,     /* flush does nothing */
    VD_STORAGE_SEQUENTIAL = 1 << 7, /* drop what was read from the page cache */
    VD_STORAGE_GLANCE = 1 << 8,     /* for a header: opening brings no more than 320 bytes along */
    VD_STORAGE_NAMED = 1 << 9       /* an image names it: a URL must not name files of the user's */
};

struct vd_storage_options {
    uint32_t flags;                              /* of enum vd_storage_open_flag */
    const struct vdisk_network_options *network; /* or NULL; used during open only */
};

/* What a storage can do, and promises. */
enum vd_storage_cap {
    VD_STORAGE_CAN_WRITE = 1 << 0,
    VD_STORAGE_CAN_RESIZE = 1 << 1,  /* grows by writing or resizing; new bytes read as zero */
    VD_STORAGE_CAN_DISCARD = 1 << 2, /* discarded ranges read as zero and take no space */
    VD_STORAGE_CAN_EXTENTS = 1 << 3, /* extent() tells holes from data */
    VD_STORAGE_FAST_ZEROES = 1 << 4, /* write_zeroes() does not write them one by one */
    VD_STORAGE_IS_REMOTE = 1 << 5    /* each request has a latency worth saving */
};

enum vd_storage_zero_flag {
    VD_STORAGE_ZERO_MAY_PUNCH = 1 << 0, /* the range may lose its space */
    VD_STORAGE_ZERO_AS_DATA = 1 << 1    /* every zero is written, not only promised */
};

enum vd_storage_extent_kind {
    VD_STORAGE_DATA,
    VD_STORAGE_HOLE /* reads as zero and takes no space */
};

struct vd_storage_extent {
    enum vd_storage_extent_kind kind;
    uint64_t length; /* bytes from the offset asked for, within the length asked for */
};

/* Which object is it?  Two storages with equal, known identities are the same bytes. */
struct vd_storage_identity {
    bool known;
    uint64_t device;
    uint64_t inode;
};

/*
 * Opens the path or URL @name.  @options may be NULL (read-only).  The result goes to
 * vd_storage_close().
 */
int vd_storage_open(const char *name, const struct vd_storage_options *options,
                    struct vd_storage **storage, struct vdisk_error *err);

/* A storage in memory, @size bytes of zeros, writable.  Goes to vd_storage_close(). */
int vd_storage_mem_open(uint64_t size, struct vd_storage **storage, struct vdisk_error *err);

/* Frees it; does not flush.  NULL is accepted. */
void vd_storage_close(struct vd_storage *storage);

/* Is @name one that only the local file driver would take?  (No scheme that another one has.) */
bool vd_storage_name_is_local(const char *name);

const char *vd_storage_name(const struct vd_storage *storage);
uint32_t vd_storage_caps(const struct vd_storage *storage); /* of enum vd_storage_cap */
bool vd_storage_is_writable(const struct vd_storage *storage);
struct vd_storage_identity vd_storage_identity(const struct vd_storage *storage);

/* Which object would opening @name lead to?  Not known for a URL, what is not there, and what is
 * neither a file nor a block device. */
struct vd_storage_identity vd_storage_identify(const char *name);

/* Surely the same bytes?  False if one is not known. */
bool vd_storage_identity_equals(struct vd_storage_identity a, struct vd_storage_identity b);

int vd_storage_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err);

/* Space taken where it is stored, in bytes; -EOPNOTSUPP where that is not known. */
int vd_storage_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err);

/*
 * Reads @length bytes, or fails: a read that passes the end is -EIO.  The buffer is all zero after
 * a failure.
 */
int vd_storage_pread(struct vd_storage *storage, void *buf, size_t length, uint64_t offset,
                     struct vdisk_error *err);
int vd_storage_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                      uint64_t offset, struct vdisk_error *err);

/* Writes all, or fails.  Where it can be resized, a write past the end makes it longer. */
int vd_storage_pwrite(struct vd_storage *storage, const void *buf, size_t length, uint64_t offset,
                      struct vdisk_error *err);
int vd_storage_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err);

/*
 * As vd_storage_pread() and vd_storage_pwrite(), if it can be done at once: 0; else -EAGAIN, and it
 * has to be done by those, which may wait, and tell what is wrong.  Then the buffer may hold
 * anything, and the write may be done in part.
 */
int vd_storage_try_pread(struct vd_storage *storage, void *buf, size_t length, uint64_t offset);
int vd_storage_try_pwrite(struct vd_storage *storage, const void *buf, size_t length,
                          uint64_t offset);

/* The range, which lies within the size or ends past it where it can grow, reads as zero. */
int vd_storage_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                            struct vdisk_error *err);

/*
 * The range within the size is not needed: it reads as zero where VD_STORAGE_CAN_DISCARD, and as
 * anything elsewhere.
 */
int vd_storage_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err);

/* Everything written before is on stable storage when this returns 0. */
int vd_storage_flush(struct vd_storage *storage, struct vdisk_error *err);

int vd_storage_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err);

/* Sets space aside for @range, growing if need be; reads stay as they are. */
int vd_storage_preallocate(struct vd_storage *storage, struct vd_range range,
                           struct vdisk_error *err);

/* What is at range.offset?  @range lies within the size and is not empty. */
int vd_storage_extent(struct vd_storage *storage, struct vd_range range,
                      struct vd_storage_extent *extent, struct vdisk_error *err);

/* How vd_storage_copy() may do it. */
enum vd_storage_copy_flag {
    VD_STORAGE_COPY_REFLINK_ONLY = 1 << 0 /* share blocks, or answer -EOPNOTSUPP */
};

/*
 * Copies within the system, without the bytes passing through this process.  -EOPNOTSUPP, with
 * @err untouched, if these two can not do that: then read and write.
 */
int vd_storage_copy(struct vd_storage *from, uint64_t from_offset, struct vd_storage *to,
                    uint64_t to_offset, uint64_t length, unsigned flags, struct vdisk_error *err);

/*
 * Is it worth trying?  False: surely not, without the two having been touched.  For who would have
 * to make room for the copy first.
 */
bool vd_storage_can_copy(struct vd_storage *from, struct vd_storage *to, unsigned flags);

/*
 * A hint: @range was written and will not be needed soon.  Starts to write it out, and drops from
 * the page cache what has been written out.  Never fails and promises nothing.
 */
void vd_storage_write_behind(struct vd_storage *storage, struct vd_range range);

/* What a server was asked, retries included. */
struct vd_storage_stats {
    uint64_t requests;
    uint64_t bytes; /* received, of what is stored there */
};

/* All zero for what is not on a server. */
void vd_storage_stats(struct vd_storage *storage, struct vd_storage_stats *stats);

#endif
