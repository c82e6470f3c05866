/* SPDX-License-Identifier: MIT */
/**
 * vdisk.h - the whole public interface of libvdisk
 *
 * Virtual disk images (raw, GOW v1 to v3) over local files and HTTP(S).
 *
 * Conventions, unless a function says otherwise:
 * - Offsets and lengths are bytes.  Names are NUL-terminated and copied; you keep yours.
 * - A function that can fail returns 0, or a negative errno value, and takes a struct vdisk_error
 *   last, where the whole story is put.  It may be NULL.  Nothing is written there on success.
 * - Any thread may make any number of calls on one image at once; all block until they are done.
 *   Closing an image while another call uses it is a mistake of the caller.
 * - Option structs start zeroed: `struct vdisk_open_options o = {.struct_bytes = sizeof(o)}`.
 *   The library refuses a size it does not know, and reserved fields that are not zero.
 * - The library has no global state, prints nothing, installs no signal handlers and never exits.
 */
#ifndef VDISK_H
#define VDISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VDISK_PUBLIC     __attribute__((visibility("default")))
#define VDISK_MUST_CHECK __attribute__((warn_unused_result))

/* ------------------------------------------------------------------------------------------ */
/* Errors                                                                                     */
/* ------------------------------------------------------------------------------------------ */

/**
 * struct vdisk_error - what went wrong, in memory of the caller
 * @code:    0, or a positive errno value
 * @message: one line of text: the file, the field, the value and the limit, and what to do
 *
 * Start it zeroed, or with vdisk_error_clear().  The first error written stays.
 */
struct vdisk_error {
    int code;
    char message[1020];
};

/**
 * vdisk_error_clear() - make an error object ready for use again
 * @err: the object; any thread that owns it
 */
VDISK_PUBLIC void vdisk_error_clear(struct vdisk_error *err);

/**
 * vdisk_version() - the version of the library, such as "0.1.0"
 *
 * Return: a constant string; any thread.
 */
VDISK_PUBLIC const char *vdisk_version(void);

/* ------------------------------------------------------------------------------------------ */
/* Progress of long work                                                                      */
/* ------------------------------------------------------------------------------------------ */

/**
 * struct vdisk_progress - how far a piece of long work has come
 * @phase:       what is being done, a constant word such as "copy" or "compare"
 * @done_bytes:  bytes dealt with, holes included; never goes down within a phase
 * @total_bytes: bytes to deal with
 * @moved_bytes: bytes that were really read, written or fetched so far
 * @done_blocks, @total_blocks: the same in blocks for work that counts blocks, else 0
 */
struct vdisk_progress {
    const char *phase;
    uint64_t done_bytes;
    uint64_t total_bytes;
    uint64_t moved_bytes;
    uint64_t done_blocks;
    uint64_t total_blocks;
};

/**
 * vdisk_progress_fn - called now and then by long work
 * @opaque:   what the caller of the work gave
 * @progress: good during the call
 *
 * One call at a time, but from any of the threads of the work.  It must not call back into the
 * library on the same objects.
 * Return: 0 to go on, anything else to cancel: the work then ends with -ECANCELED.
 */
typedef int (*vdisk_progress_fn)(void *opaque, const struct vdisk_progress *progress);

/* ------------------------------------------------------------------------------------------ */
/* Opening and creating                                                                       */
/* ------------------------------------------------------------------------------------------ */

/** The longest length of one read, write, zero or discard request: 2 GiB less one page. */
#define VDISK_REQUEST_BYTES_MAX 0x7ffff000u

/** Flags of vdisk_image_open(). */
enum vdisk_open_flag {
    VDISK_OPEN_WRITE = 1 << 0,     /**< writable; without it, nothing is ever changed */
    VDISK_OPEN_SHARE = 1 << 1,     /**< read although another process writes; not with WRITE */
    VDISK_OPEN_DIRECT = 1 << 2,    /**< bypass the page cache (cache=none, directsync) */
    VDISK_OPEN_SYNC = 1 << 3,      /**< every write is durable at once (writethrough) */
    VDISK_OPEN_UNSAFE = 1 << 4,    /**< flush does nothing: for images that can be made again */
    VDISK_OPEN_CHECK = 1 << 5,     /**< open although inconsistent, for vdisk_image_check() */
    VDISK_OPEN_SEQUENTIAL = 1 << 6 /**< read once from start to end: keep the page cache small */
};

/**
 * struct vdisk_network_options - how servers are spoken to; zero means the default
 * @struct_bytes: sizeof(struct vdisk_network_options)
 * @timeout_ms:   a request that moves no byte for so long fails; default 30000
 * @retries:      how often a failed request is tried again, with back-off; default 5;
 *                VDISK_NO_RETRIES for none
 * @connections:  connections to one server at once; default 4, at most 64
 * @reserved:     zero
 * @user:         user name, or NULL; VDISK_HTTP_USER in the environment stands in for it
 * @password:     password, or NULL; VDISK_HTTP_PASSWORD likewise
 * @bearer:       bearer token, or NULL; VDISK_HTTP_BEARER likewise
 * @ca_file:      file of PEM certificates to trust instead of the system's, or NULL
 *
 * No secret appears in any message or information that the library gives out.
 */
struct vdisk_network_options {
    size_t struct_bytes;
    uint32_t timeout_ms;
    uint32_t retries;
    uint32_t connections;
    uint32_t reserved;
    const char *user;
    const char *password;
    const char *bearer;
    const char *ca_file;
};

#define VDISK_NO_RETRIES UINT32_MAX

/**
 * struct vdisk_open_options - how an image is opened; zero means the default
 * @struct_bytes: sizeof(struct vdisk_open_options)
 * @flags:        of enum vdisk_open_flag
 * @reserved:     zero
 * @format:       format name as vdisk_format_name() lists them, or NULL to look; an image that
 *                looks like none is raw, and then opens read-only or not at all
 * @cache_bytes:  most memory for metadata of this image, in bytes; default 64 MiB
 * @network:      for images on servers, or NULL
 */
struct vdisk_open_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t reserved;
    const char *format;
    uint64_t cache_bytes;
    const struct vdisk_network_options *network;
};

/** An open disk image. */
struct vdisk_image;

/**
 * vdisk_format_name() - the formats this library knows
 * @index: 0, 1, 2, ...
 *
 * Return: a constant name such as "gow3", NULL past the last; any thread.
 */
VDISK_PUBLIC const char *vdisk_format_name(size_t index);

/**
 * vdisk_image_open() - open a disk image
 * @name:    path, or http:// or https:// URL (read-only)
 * @options: how, or NULL for read-only with all defaults
 * @image:   [out] the image; give it to vdisk_image_close()
 * @err:     [out, may be NULL] the story
 *
 * A writable open locks the file against other processes with the same byte locks as QEMU, a
 * read-only one against writers (VDISK_OPEN_SHARE turns that off).
 *
 * Return: 0; -ENOENT, -EACCES, ... from the system; -EAGAIN: locked by another process;
 * -EINVAL: options, or unknown format; -EBADMSG: the image contradicts its format's
 * specification; -EROFS: a writable open of something that can only be read; -EIO, -ETIMEDOUT,
 * -ECONNREFUSED, ...: the server.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_open(const char *name,
                                                   const struct vdisk_open_options *options,
                                                   struct vdisk_image **image,
                                                   struct vdisk_error *err);

/** Space to set aside when an image is created or grown. */
enum vdisk_preallocation {
    VDISK_PREALLOCATION_OFF = 0, /**< sparse */
    VDISK_PREALLOCATION_FALLOC,  /**< space reserved in the file system, reads as zeros */
    VDISK_PREALLOCATION_FULL     /**< zeros written */
};

/**
 * struct vdisk_create_options - how an image is created; zero means the default
 * @struct_bytes:  sizeof(struct vdisk_create_options)
 * @size:          size of the disk in bytes: rounded up to a multiple of 512 for raw, must be a
 *                 multiple of 512 for GOW; GOW v1 at most 64 GiB, v2 and v3 256 GiB
 * @preallocation: raw only
 * @reserved:      zero
 */
struct vdisk_create_options {
    size_t struct_bytes;
    uint64_t size;
    enum vdisk_preallocation preallocation;
    uint32_t reserved;
};

/**
 * vdisk_image_create() - make a new, empty image, durable when this returns
 * @name:    path: a new file gets it when it is complete, in the place of an old one, if there
 *           is one and nobody has it open; a block device is written in place
 * @format:  format name; "gow" means "gow3"
 * @options: size and the rest
 * @err:     [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: size or options outside the format's limits; -EAGAIN: locked by another
 * process; -ENOSPC, ...: the system.  On failure what was there before is untouched (but for a
 * block device).
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_create(const char *name, const char *format,
                                                     const struct vdisk_create_options *options,
                                                     struct vdisk_error *err);

/**
 * vdisk_image_close() - flush a writable image, and free everything
 * @image: the image, or NULL; no other call on it may run, and none may follow
 * @err:   [out, may be NULL] the story
 *
 * Return: 0: everything written is durable; negative: some of what was written since the last
 * good vdisk_image_flush() may be lost.  The image is freed in either case.
 */
VDISK_PUBLIC int vdisk_image_close(struct vdisk_image *image, struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Reading and writing                                                                        */
/* ------------------------------------------------------------------------------------------ */

/**
 * vdisk_image_size() - the size of the disk as the guest sees it
 * @image: open image
 *
 * Return: bytes, a multiple of 512.
 */
VDISK_PUBLIC uint64_t vdisk_image_size(const struct vdisk_image *image);

/**
 * vdisk_image_pread() - read from the disk
 * @image:  open image
 * @buf:    [out] @length bytes; all zero if the call fails
 * @length: bytes, at most VDISK_REQUEST_BYTES_MAX
 * @offset: bytes from the start of the disk; @offset + @length at most the size
 * @err:    [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: range; -EBADMSG: metadata contradicts the format, the image is read-only
 * from now on; -EIO, ...: storage.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_pread(struct vdisk_image *image, void *buf,
                                                    size_t length, uint64_t offset,
                                                    struct vdisk_error *err);

/**
 * vdisk_image_preadv() - read from the disk into several buffers
 * @image:       open image
 * @iov:         [out] buffers, filled in order; all zero if the call fails
 * @iov_entries: count of @iov; the lengths add up to at most VDISK_REQUEST_BYTES_MAX
 * @offset:      bytes from the start of the disk
 * @err:         [out, may be NULL] the story
 *
 * Return: as vdisk_image_pread().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_preadv(struct vdisk_image *image,
                                                     const struct iovec *iov, int iov_entries,
                                                     uint64_t offset, struct vdisk_error *err);

/**
 * vdisk_image_pwrite() - write to the disk
 * @image:  image open for writing
 * @buf:    @length bytes
 * @length: bytes, at most VDISK_REQUEST_BYTES_MAX
 * @offset: bytes from the start of the disk; @offset + @length at most the size
 * @err:    [out, may be NULL] the story
 *
 * Reads see the data when this returns; it is durable after vdisk_image_flush().  If the call
 * fails, each byte of the range holds its old or its new value.
 *
 * Return: 0; -EINVAL: range; -EROFS: not writable; -ENOSPC, -EIO, ...: storage; after a failed
 * flush, the error of that flush.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_pwrite(struct vdisk_image *image, const void *buf,
                                                     size_t length, uint64_t offset,
                                                     struct vdisk_error *err);

/**
 * vdisk_image_pwritev() - write to the disk from several buffers
 * @image:       image open for writing
 * @iov:         buffers, taken in order
 * @iov_entries: count of @iov; the lengths add up to at most VDISK_REQUEST_BYTES_MAX
 * @offset:      bytes from the start of the disk
 * @err:         [out, may be NULL] the story
 *
 * Return: as vdisk_image_pwrite().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_pwritev(struct vdisk_image *image,
                                                      const struct iovec *iov, int iov_entries,
                                                      uint64_t offset, struct vdisk_error *err);

/** Flags of vdisk_image_write_zeroes(). */
enum vdisk_zero_flag {
    VDISK_ZERO_NO_HOLE = 1 << 0 /**< keep, or make, the range allocated */
};

/**
 * vdisk_image_write_zeroes() - make a range read as zeros
 * @image:  image open for writing
 * @offset: bytes from the start of the disk
 * @length: bytes, any; @offset + @length at most the size
 * @flags:  of enum vdisk_zero_flag; without VDISK_ZERO_NO_HOLE space is given back where the
 *          format can
 * @err:    [out, may be NULL] the story
 *
 * Return: as vdisk_image_pwrite().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_write_zeroes(struct vdisk_image *image,
                                                           uint64_t offset, uint64_t length,
                                                           unsigned flags, struct vdisk_error *err);

/**
 * vdisk_image_discard() - say that the content of a range does not matter any more
 * @image:  image open for writing
 * @offset: bytes from the start of the disk
 * @length: bytes, any; @offset + @length at most the size
 * @err:    [out, may be NULL] the story
 *
 * Each byte then reads as before or as zero.  Whole blocks of GOW read as zero and are given back.
 *
 * Return: as vdisk_image_pwrite().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_discard(struct vdisk_image *image, uint64_t offset,
                                                      uint64_t length, struct vdisk_error *err);

/**
 * vdisk_image_flush() - make everything written before this call durable
 * @image: open image; nothing to do for a read-only one
 * @err:   [out, may be NULL] the story
 *
 * Return: 0: all writes that had returned before the call survive a power cut; negative: unknown
 * what survives, and every later write fails with the same error.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_flush(struct vdisk_image *image,
                                                    struct vdisk_error *err);

/**
 * vdisk_image_resize() - change the size of the disk
 * @image:         image open for writing; no other call on it may run
 * @size:          new size in bytes, multiple of 512; what is cut off is lost, what is added
 *                 reads as zero
 * @preallocation: for what is added; raw only
 * @err:           [out, may be NULL] the story
 *
 * Return: 0, durable; -EINVAL: outside the format's limits; else as vdisk_image_pwrite().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_resize(struct vdisk_image *image, uint64_t size,
                                                     enum vdisk_preallocation preallocation,
                                                     struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Looking                                                                                    */
/* ------------------------------------------------------------------------------------------ */

/** Flags of struct vdisk_extent. */
enum vdisk_extent_flag {
    VDISK_EXTENT_DATA = 1 << 0,    /**< the content has to be read to be known */
    VDISK_EXTENT_ZERO = 1 << 1,    /**< reads as zero */
    VDISK_EXTENT_PRESENT = 1 << 2, /**< decided by the image itself, not by its lack of an entry */
    VDISK_EXTENT_OFFSET = 1 << 3   /**< host_offset says where the bytes lie in host_name */
};

/**
 * struct vdisk_extent - a run of the disk that is all of one kind
 * @offset, @length: the run, in bytes of the disk
 * @host_offset:     bytes in @host_name, if VDISK_EXTENT_OFFSET
 * @host_name:       name of the file or URL, good until the image is closed; NULL if none
 * @flags:           of enum vdisk_extent_flag
 * @depth:           0: the image itself; 1: its backing image; ...
 */
struct vdisk_extent {
    uint64_t offset;
    uint64_t length;
    uint64_t host_offset;
    const char *host_name;
    uint32_t flags;
    uint32_t depth;
};

/**
 * vdisk_image_extent() - what is there at an offset
 * @image:  open image
 * @offset: bytes, less than the size
 * @length: bytes to look at, at least 1; @offset + @length at most the size
 * @extent: [out] the run that begins at @offset: as long as it is of one kind, within @length
 * @err:    [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: range; else as vdisk_image_pread().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_extent(struct vdisk_image *image, uint64_t offset,
                                                     uint64_t length, struct vdisk_extent *extent,
                                                     struct vdisk_error *err);

/** Flags of struct vdisk_image_info. */
enum vdisk_info_flag {
    VDISK_INFO_DIRTY = 1 << 0,       /**< a writer has it open, or died */
    VDISK_INFO_ACTUAL_SIZE = 1 << 1, /**< actual_bytes is known */
    VDISK_INFO_LINEAGE = 1 << 2,     /**< generation and uuid are there (GOW) */
    VDISK_INFO_REPLICA = 1 << 3,     /**< made by a sync and not changed since (GOW v3) */
    VDISK_INFO_INCOMPLETE = 1 << 4   /**< a sync into it has not finished (GOW v3) */
};

/**
 * struct vdisk_image_info - facts about an open image
 * @struct_bytes:  [in] sizeof(struct vdisk_image_info)
 * @flags:         of enum vdisk_info_flag
 * @cluster_bytes: unit of allocation, 0 if the format has none
 * @filename, @format: good until the image is closed
 * @virtual_bytes: size of the disk
 * @actual_bytes:  space taken where the image is stored
 * @generation:    GOW: count of write sessions that changed something
 * @uuid:          GOW: the lineage
 */
struct vdisk_image_info {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t cluster_bytes;
    const char *filename;
    const char *format;
    uint64_t virtual_bytes;
    uint64_t actual_bytes;
    uint64_t generation;
    uint8_t uuid[16];
};

/**
 * vdisk_image_info() - facts about an open image
 * @image: open image
 * @info:  [in, out] struct_bytes set by the caller
 * @err:   [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: struct_bytes.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_info(struct vdisk_image *image,
                                                   struct vdisk_image_info *info,
                                                   struct vdisk_error *err);

/** What vdisk_image_check() mends. */
enum vdisk_repair {
    VDISK_REPAIR_NONE = 0, /**< only look */
    VDISK_REPAIR_LEAKS,    /**< give back space that nothing refers to */
    VDISK_REPAIR_ALL       /**< that, and contradictions in the metadata */
};

/**
 * vdisk_report_fn - told of each finding of a check, in words
 * @opaque:  what the caller gave
 * @message: one line without newline, good during the call
 */
typedef void (*vdisk_report_fn)(void *opaque, const char *message);

/**
 * struct vdisk_check_result - the outcome of a check
 * @struct_bytes:         [in] sizeof(struct vdisk_check_result)
 * @corruptions:          contradictions in the metadata that are (still) there
 * @leaks:                clusters that take space though nothing refers to them, (still) there
 * @check_errors:         places that could not be looked at
 * @corruptions_fixed, @leaks_fixed: mended by this call
 * @total_clusters, @allocated_clusters, @fragmented_clusters: of the disk; fragmented: not
 *                        stored behind its neighbour
 * @image_end_offset:     bytes of the file that are in use, from its start
 */
struct vdisk_check_result {
    size_t struct_bytes;
    uint64_t corruptions;
    uint64_t leaks;
    uint64_t check_errors;
    uint64_t corruptions_fixed;
    uint64_t leaks_fixed;
    uint64_t total_clusters;
    uint64_t allocated_clusters;
    uint64_t fragmented_clusters;
    uint64_t image_end_offset;
};

/**
 * vdisk_image_check() - is the metadata of an image sound?
 * @image:  image opened with VDISK_OPEN_CHECK, and VDISK_OPEN_WRITE to mend; no other call on it
 *          may run
 * @repair: what to mend; durable when this returns
 * @report: told of each finding, or NULL
 * @opaque: for @report
 * @result: [in, out] struct_bytes set by the caller
 * @err:    [out, may be NULL] the story
 *
 * Return: 0: the check ran, see @result; -ENOTSUP: the format has nothing to check; else the
 * check could not be done.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_check(struct vdisk_image *image,
                                                    enum vdisk_repair repair,
                                                    vdisk_report_fn report, void *opaque,
                                                    struct vdisk_check_result *result,
                                                    struct vdisk_error *err);

/**
 * struct vdisk_measure_result - the space an image would take
 * @required_bytes:        for the data there is now
 * @fully_allocated_bytes: when every byte of the disk has been written
 */
struct vdisk_measure_result {
    uint64_t required_bytes;
    uint64_t fully_allocated_bytes;
};

/**
 * vdisk_measure() - how large would a new image be?  An upper bound.
 * @format: format of the new image
 * @size:   size of the disk in bytes; ignored if there is a @source
 * @source: open image whose data would be copied, or NULL for an empty disk
 * @result: [out]
 * @err:    [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: @size outside the format's limits, unknown format; else as
 * vdisk_image_extent() on @source.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_measure(const char *format, uint64_t size,
                                                struct vdisk_image *source,
                                                struct vdisk_measure_result *result,
                                                struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Convert                                                                                    */
/* ------------------------------------------------------------------------------------------ */

/** Flags of struct vdisk_convert_options. */
enum vdisk_convert_flag {
    VDISK_CONVERT_NO_CREATE = 1 << 0,      /**< write into the image that is there, in place */
    VDISK_CONVERT_TARGET_IS_ZERO = 1 << 1, /**< that image reads as zero: with NO_CREATE */
    VDISK_CONVERT_ALLOCATE_ALL = 1 << 2,   /**< no holes in the target, zeros are not looked for */
    VDISK_CONVERT_SALVAGE = 1 << 3,     /**< what cannot be read becomes zeros, and is reported */
    VDISK_CONVERT_COPY_OFFLOAD = 1 << 4 /**< let the system copy, where it can; data is then not
                                             searched for zeros */
};

/**
 * struct vdisk_convert_options - what is converted into what; zero means the default
 * @struct_bytes:   sizeof(struct vdisk_convert_options)
 * @flags:          of enum vdisk_convert_flag
 * @workers:        pieces under way at once; default: twice the processors, at most 8; 64 at most
 * @sources:        names of images; several make one disk, one behind the other
 * @source_entries: count of @sources, at least 1
 * @source_format:  of all sources, or NULL to look
 * @source_flags:   for opening them: VDISK_OPEN_SHARE, _DIRECT, _SEQUENTIAL
 * @target_flags:   for opening it: VDISK_OPEN_DIRECT, _SYNC, _UNSAFE
 * @target:         name of a local file or block device
 * @target_format:  default raw; with VDISK_CONVERT_NO_CREATE NULL means to look, and raw must be
 *                  named
 * @create:         for the new image, or NULL; its size is that of the sources if 0, and not less
 * @sparse_bytes:   so many zero bytes in a row in the data become a hole: multiple of 512, at most
 *                  2 MiB; default 4096.  Formats with clusters look at whole clusters.
 * @rate_bytes:     most bytes of data a second; default: no limit
 * @network:        for sources on servers, or NULL
 * @progress:       called now and then, or NULL; the phase is "copy"
 * @report:         told of each range that was salvaged, in words, or NULL; one call at a time
 * @opaque:         for @progress and @report
 * @reserved:       zero
 */
struct vdisk_convert_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t workers;
    const char *const *sources;
    size_t source_entries;
    const char *source_format;
    uint32_t source_flags;
    uint32_t target_flags;
    const char *target;
    const char *target_format;
    const struct vdisk_create_options *create;
    uint64_t sparse_bytes;
    uint64_t rate_bytes;
    const struct vdisk_network_options *network;
    vdisk_progress_fn progress;
    vdisk_report_fn report;
    void *opaque;
    uint64_t reserved;
};

/**
 * struct vdisk_convert_result - what a conversion did
 * @struct_bytes:   [in] sizeof(struct vdisk_convert_result)
 * @virtual_bytes:  size of the disk that was copied
 * @data_bytes:     bytes that were copied as data
 * @shared_bytes:   of these, bytes that the system copied, or shares between the files
 * @salvaged_bytes: bytes that could not be read and are zeros in the target
 */
struct vdisk_convert_result {
    size_t struct_bytes;
    uint64_t virtual_bytes;
    uint64_t data_bytes;
    uint64_t shared_bytes;
    uint64_t salvaged_bytes;
};

/**
 * vdisk_convert() - copy disks into a new image, or into one that is there
 * @options: what and how
 * @result:  [in, out, may be NULL] struct_bytes set by the caller
 * @err:     [out, may be NULL] the story
 *
 * A target that is a regular file, or not there yet, is written under another name in its
 * directory, `.NAME.vdisk-XXXXXXXX.part`, and takes its own name when it is complete and durable:
 * an older file of that name stays as it was until then, and for good if anything fails.  Mode and
 * owner are those of the older file; other names (hard links) of it keep the old content.  With
 * VDISK_CONVERT_NO_CREATE, and for block devices, the target is written in place.  Pieces are
 * written in no particular order.
 *
 * Return: 0: complete, and durable unless VDISK_OPEN_UNSAFE; -EINVAL: options, or source and
 * target are the same file; -ECANCELED; -EAGAIN: locked by another process; -ENOSPC, -EIO, ...:
 * the message names the file.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_convert(const struct vdisk_convert_options *options,
                                                struct vdisk_convert_result *result,
                                                struct vdisk_error *err);

#ifdef __cplusplus
}
#endif

#endif
