/* SPDX-License-Identifier: MIT */
/**
 * vdisk.h - the whole public interface of libvdisk
 *
 * Virtual disk images (raw, qcow2, GOW v1 to v3, QED, add-cow), alone or as overlays on each other,
 * over local files and HTTP(S), and as network block devices (NBD).
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

/** The longest length of one read or write: 2 GiB less one page. */
#define VDISK_REQUEST_BYTES_MAX 0x7ffff000u

/** Flags of vdisk_image_open(). */
enum vdisk_open_flag {
    VDISK_OPEN_WRITE = 1 << 0,      /**< writable; without it, nothing is ever changed */
    VDISK_OPEN_SHARE = 1 << 1,      /**< read although another process writes; not with WRITE */
    VDISK_OPEN_DIRECT = 1 << 2,     /**< bypass the page cache (cache=none, directsync) */
    VDISK_OPEN_SYNC = 1 << 3,       /**< every write is durable at once (writethrough) */
    VDISK_OPEN_UNSAFE = 1 << 4,     /**< flush does nothing: for images that can be made again */
    VDISK_OPEN_CHECK = 1 << 5,      /**< open although inconsistent, for vdisk_image_check(); what
                                         is behind the image stays closed */
    VDISK_OPEN_SEQUENTIAL = 1 << 6, /**< read once from start to end: keep the page cache small */
    VDISK_OPEN_NO_BACKING = 1 << 7, /**< leave the backing image closed: what needs it fails */
    VDISK_OPEN_FACTS = 1 << 8       /**< for vdisk_image_info() only: what the image names may be
                                         missing, or not permitted; not with WRITE */
};

/** Flags of struct vdisk_gate. */
enum vdisk_gate_flag {
    VDISK_GATE_BESIDE = 1 << 0, /**< files in the directory of the image that was opened by name,
                                     and below it, symbolic links followed */
    VDISK_GATE_JSON = 1 << 1,   /**< names that begin with "json:", for the file they mean */
    VDISK_GATE_ANY = 1 << 2     /**< every file and URL: for images that are trusted */
};

/** The most images one behind the other, unless struct vdisk_gate says otherwise. */
#define VDISK_CHAIN_IMAGES_MAX 256u

/**
 * struct vdisk_gate - which of the files that an image names may be opened; zero means none
 * @struct_bytes:  sizeof(struct vdisk_gate)
 * @flags:         of enum vdisk_gate_flag
 * @images_max:    most images in a chain, the top one included; default and limit
 *                 VDISK_CHAIN_IMAGES_MAX
 * @paths:         directories and files: these, and everything below; for URLs, such as
 *                 "https://host/dir/", what begins so
 * @path_entries:  count of @paths
 *
 * An image that names a file which it may not have does not open: its author could otherwise read
 * any file of whoever opens it.  Backing files, and data files such as add-cow's raw file, are the
 * names that images have.
 */
struct vdisk_gate {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t images_max;
    const char *const *paths;
    size_t path_entries;
};

/**
 * struct vdisk_network_options - how servers are spoken to; zero means the default
 * @struct_bytes: sizeof(struct vdisk_network_options)
 * @timeout_ms:   a request that moves no byte for so long fails; default 30000.  An NBD server has
 * ten times as long for a flush
 * @retries:      how often a failed request is tried again, with back-off; default 5;
 *                VDISK_NO_RETRIES for none
 * @connections:  connections to one server at once; default 4, at most 64
 * @reserved:     zero
 * @user:         for http: user name, or NULL; VDISK_HTTP_USER in the environment stands in for it
 * @password:     password, or NULL; VDISK_HTTP_PASSWORD likewise
 * @bearer:       bearer token, or NULL; VDISK_HTTP_BEARER likewise
 * @ca_file:      for https: file of PEM certificates to trust instead of the system's, or NULL;
 * what nbds trusts is named in its URI, and -EINVAL if only this is given
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
 * struct vdisk_snapshot_key - which snapshot within an image; zeroed but for what is asked for
 * @struct_bytes: sizeof(struct vdisk_snapshot_key)
 * @id_or_name:   the id of a snapshot or, if none has that id, the name of one
 * @id, @name:    without @id_or_name: the id, the name, or both; NULL: whatever it is
 *
 * Of several that fit, it is the first.
 */
struct vdisk_snapshot_key {
    size_t struct_bytes;
    const char *id_or_name;
    const char *id;
    const char *name;
};

/**
 * struct vdisk_passphrase - what somebody knows
 * @bytes:  any bytes; NULL if there are none
 * @length: how many
 */
struct vdisk_passphrase {
    const void *bytes;
    size_t length;
};

/**
 * struct vdisk_passphrases - what encrypted images may be opened with
 * @struct_bytes: sizeof(struct vdisk_passphrases)
 * @entries:      count of @list
 * @list:         tried one after the other on each encrypted image
 *
 * They are used while the image is being opened, and not kept.  No passphrase appears in any
 * message or information that the library gives out.
 */
struct vdisk_passphrases {
    size_t struct_bytes;
    size_t entries;
    const struct vdisk_passphrase *list;
};

/**
 * struct vdisk_open_options - how an image is opened; zero means the default
 * @struct_bytes: sizeof(struct vdisk_open_options)
 * @flags:        of enum vdisk_open_flag
 * @reserved:     zero
 * @format:       format name as vdisk_format_name() lists them, or NULL to look; an image that
 *                looks like none is raw, and then opens read-only or not at all
 * @cache_bytes:  most memory for metadata of this image and those behind it, in bytes; default
 *                64 MiB
 * @network:      for images on servers, or NULL
 * @passphrases:  for encrypted images, or NULL: without the right one facts and metadata can be
 *                had, but no data
 * @gate:         which files the image may name, or NULL for none
 * @snapshot:     the disk as this snapshot within the image has it, or NULL for the disk of today;
 *                for reading only
 */
struct vdisk_open_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t reserved;
    const char *format;
    uint64_t cache_bytes;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    const struct vdisk_snapshot_key *snapshot;
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
 * @name:    path, http:// or https:// URL (read-only), or NBD URI (nbd://host/export and its like)
 * @options: how, or NULL for read-only with all defaults
 * @image:   [out] the image; give it to vdisk_image_close()
 * @err:     [out, may be NULL] the story
 *
 * A writable open locks the file against other processes with the same byte locks as QEMU, a
 * read-only one against writers (VDISK_OPEN_SHARE turns that off).  Backing images are opened too,
 * read-only, with their files locked against writers.
 *
 * Return: 0; -ENOENT, -EACCES, ... from the system; -EAGAIN: locked by another process; -EPERM: a
 * file that the image names is not permitted by the gate; -ELOOP: backing images that name each
 * other, or one file twice, or more of them than the gate permits;
 * -EKEYREJECTED: encrypted, and none of the passphrases is right;
 * -EINVAL: options, or unknown format; -EBADMSG: the image contradicts its format's
 * specification; -EROFS: a writable open of something that can only be read; -EIO, -ETIMEDOUT,
 * -ECONNREFUSED, ...: the server.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_open(const char *name,
                                                   const struct vdisk_open_options *options,
                                                   struct vdisk_image **image,
                                                   struct vdisk_error *err);

/** Flags of struct vdisk_key_slot_options. */
enum vdisk_key_slot_flag {
    VDISK_KEY_SLOT_ERASE = 1 << 0, /**< erase slots; without it, one is added */
    VDISK_KEY_SLOT_FORCE = 1 << 1  /**< erase the last active one too: the data is lost then */
};

/**
 * struct vdisk_key_slot_options - a passphrase of an encrypted image is added or erased
 * @struct_bytes:   sizeof(struct vdisk_key_slot_options)
 * @flags:          of enum vdisk_key_slot_flag
 * @slot:           which, 0 to 7; -1: the first free one, or all that @old_passphrase opens
 * @iter_time_ms:   of a new one: as in struct vdisk_encrypt_options
 * @reserved:       zero
 * @old_passphrase: to erase: only slots that it opens; to add: what opens the image, in place of
 * the passphrases in the struct vdisk_amend_options; or NULL
 * @new_passphrase: to add
 */
struct vdisk_key_slot_options {
    size_t struct_bytes;
    uint32_t flags;
    int32_t slot;
    uint32_t iter_time_ms;
    uint32_t reserved;
    const struct vdisk_passphrase *old_passphrase;
    const struct vdisk_passphrase *new_passphrase;
};

/** Flags of struct vdisk_amend_options. */
enum vdisk_amend_flag {
    VDISK_AMEND_LAZY_REFCOUNTS = 1 << 0,    /**< qcow2: writers may update refcounts late */
    VDISK_AMEND_NO_LAZY_REFCOUNTS = 1 << 1, /**< they may not */
    VDISK_AMEND_NO_DATA_RAW = 1 << 2        /**< qcow2: the data file alone need not be the disk */
};

/**
 * struct vdisk_amend_options - what the header of an image shall say; zero means as it is
 * @struct_bytes: sizeof(struct vdisk_amend_options)
 * @flags:        of enum vdisk_amend_flag
 * @refcount_bits: qcow2: width of a reference count, 1 to 64; 0: as it is
 * @compat:       version of the format, or NULL: qcow2 "1.1" or "v3", "0.10" or "v2"; QED "final"
 * makes an image that has the header of a draft of 2010 one that everybody reads
 * @draft:        QED: the draft that the header is of, "draft-1", "draft-2" or "draft-3", against
 *                all appearances; or NULL to look
 * @data_file:    qcow2: name of its data file as it will be recorded, or NULL
 * @key_slot:     encrypted qcow2: the key slot to add or erase, or NULL
 * @passphrases:  for @key_slot: one that opens the image, or NULL
 */
struct vdisk_amend_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t refcount_bits;
    const char *compat;
    const char *draft;
    const char *data_file;
    const struct vdisk_key_slot_options *key_slot;
    const struct vdisk_passphrases *passphrases;
};

/**
 * vdisk_image_amend() - change what the header of an image says of its format
 * @name:    path; nobody may have it open
 * @format:  format name, or NULL to look
 * @options: what it shall say
 * @err:     [out, may be NULL] the story
 *
 * The disk stays as it is.  Whatever happens, the image has its old header or its new one.  What
 * version 2 of qcow2 has not, as dirty bitmaps, is refused before anything is changed.
 *
 * Return: 0, durable, also if there was nothing to change; -ENOTSUP: the format leaves no choice;
 * -ERANGE: qcow2 has refcounts that @refcount_bits can not hold; -EROFS: it is marked as corrupt;
 * -EINVAL: options; -EAGAIN: locked by another process; -EBADMSG: the header contradicts what
 * @options say it is; else the system.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_amend(const char *name, const char *format,
                                                    const struct vdisk_amend_options *options,
                                                    struct vdisk_error *err);

/**
 * struct vdisk_encrypt_options - how a new image is encrypted; zero means the default
 * @struct_bytes:   sizeof(struct vdisk_encrypt_options)
 * @iter_time_ms:   how long trying a passphrase takes on this machine, which is what makes guessing
 *                  dear; default 2000, at most 60000
 * @reserved:       zero
 * @format:         "luks", LUKS version 1.  (The older "aes" is for reading and writing what there
 *                  is: a new image of that kind would be badly protected.)
 * @passphrase:     the first one; more can be added: vdisk_image_amend()
 * @cipher_alg:     aes-128, aes-192, aes-256 (the default), serpent-128, -192, -256, twofish-128,
 *                  -256, cast5-128
 * @cipher_mode:    xts (the default), cbc, ctr or ecb; the latter two tell much about the data
 * @ivgen_alg:      plain, plain64 (the default) or essiv
 * @ivgen_hash_alg: for essiv; default sha256
 * @hash_alg:       of the key derivation: md5, sha1, sha224, sha256 (the default), sha384, sha512,
 *                  ripemd160
 */
struct vdisk_encrypt_options {
    size_t struct_bytes;
    uint32_t iter_time_ms;
    uint32_t reserved;
    const char *format;
    struct vdisk_passphrase passphrase;
    const char *cipher_alg;
    const char *cipher_mode;
    const char *ivgen_alg;
    const char *ivgen_hash_alg;
    const char *hash_alg;
};

/** Space to set aside when an image is created or grown. */
enum vdisk_preallocation {
    VDISK_PREALLOCATION_OFF = 0, /**< sparse */
    VDISK_PREALLOCATION_FALLOC,  /**< space reserved in the file system, reads as zeros */
    VDISK_PREALLOCATION_FULL,    /**< zeros written */
    VDISK_PREALLOCATION_METADATA /**< tables that lead to space that takes none yet (qcow2) */
};

/**
 * struct vdisk_create_options - how an image is created; zero means the default
 * @struct_bytes:  sizeof(struct vdisk_create_options)
 * @size:          size of the disk in bytes: rounded up to a multiple of 512 for raw, must be a
 *                 multiple of 512 for GOW; GOW v1 at most 64 GiB, v2 and v3 256 GiB
 *                 QED: a multiple of 512, at most what its tables can map;
 *                 add-cow: 0 means the size of the raw file that is there already
 *                 0 with a @backing: the size of that disk
 * @preallocation: raw, all but METADATA; qcow2
 * @flags:         of enum vdisk_create_flag
 * @backing:       add-cow, QED, qcow2: name of the backing file as it will be recorded, or NULL; a
 *                 relative one counts from the directory of the new image
 * @backing_format: its format; must be there if there is a @backing.  QED and add-cow can record
 *                 "raw" only: all others are recognised by their content
 * @data_file:     add-cow: name of the raw file as it will be recorded.  It is made if it is not
 *                 there; what it holds is kept, and hidden; without a @backing it has to hold
 *                 nothing.  qcow2: the same of a file for the guest's data, or NULL; with
 *                 VDISK_CREATE_DATA_RAW or @preallocation what it holds is what the disk has
 * @cluster_bytes: QED: power of two, 4 KiB to 64 MiB; qcow2: 512 bytes to 2 MiB; default 64 KiB
 * @refcount_bits: qcow2: width of a reference count, 1, 2, 4, 8, 16, 32 or 64; default 16
 * @reserved:      zero
 * @compat:        qcow2: "1.1" or "v3" (the default), or "0.10" or "v2" for old programs; or NULL
 * @compression:   qcow2: of its compressed clusters, "zlib" (the default) or "zstd"; or NULL
 * @table_clusters: QED: clusters of a table, 1, 2, 4, 8 or 16; default 4
 * @network:       for a @backing on a server, or NULL
 * @passphrases:   for encrypted images behind, or NULL
 * @encrypt:       qcow2: how the new image is encrypted, or NULL: it is not
 * @gate:          which files the images behind may name, or NULL for those in the directory of
 *                 the @backing
 */
struct vdisk_create_options {
    size_t struct_bytes;
    uint64_t size;
    enum vdisk_preallocation preallocation;
    uint32_t flags;
    const char *backing;
    const char *backing_format;
    const char *data_file;
    uint32_t cluster_bytes;
    uint32_t table_clusters;
    uint32_t refcount_bits;
    uint32_t reserved;
    const char *compat;
    const char *compression;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_encrypt_options *encrypt;
    const struct vdisk_gate *gate;
};

/** Flags of struct vdisk_create_options. */
enum vdisk_create_flag {
    VDISK_CREATE_NO_CHECK = 1 << 0, /**< do not open the backing file: it need not be there yet */
    VDISK_CREATE_NEW_DATA = 1 << 1, /**< refuse a data file that is there and holds data */
    VDISK_CREATE_LAZY_REFCOUNTS = 1 << 2, /**< qcow2: writers may bring refcounts up to date late */
    VDISK_CREATE_EXTENDED_L2 = 1 << 3,    /**< qcow2: clusters of 32 subclusters */
    VDISK_CREATE_DATA_RAW = 1 << 4 /**< qcow2: the data file alone is the whole disk, always */
};

/**
 * vdisk_image_create() - make a new, empty image, durable when this returns
 * @name:    path: a new file gets it when it is complete, in the place of an old one, if there
 *           is one and nobody has it open; a block device is written in place
 * @format:  format name; "gow" means "gow3"
 * @options: size and the rest
 * @err:     [out, may be NULL] the story
 *
 * A @backing is opened to see that it is there, and of its format; so the images behind it have to
 * be there too.  The caller names it, so no gate is asked about it.
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
 * @preallocation: for what is added; raw only.  What is added reads as zero, however long the
 *                 backing disk is
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
    VDISK_EXTENT_OFFSET = 1 << 3,  /**< host_offset says where the bytes lie in host_name */
    VDISK_EXTENT_COMPRESSED = 1 << 4, /**< data that is stored compressed */
    VDISK_EXTENT_HOLE = 1 << 5        /**< zero because its place in host_name is a hole */
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

/**
 * struct vdisk_version_extent - a run of the disk whose blocks have one version
 * @offset, @length: the run, in bytes of the disk
 * @version:         0: never written
 * @reserved:        zero
 */
struct vdisk_version_extent {
    uint64_t offset;
    uint64_t length;
    uint32_t version;
    uint32_t reserved;
};

/**
 * vdisk_image_version() - what are the versions of blocks, which tell what has changed?
 * @image:  open image, of format gow3
 * @offset: bytes, less than the size
 * @length: bytes to look at, at least 1; @offset + @length at most the size
 * @extent: [out] the run that begins at @offset: it may end earlier than the version does, and
 *          ends within @length
 * @err:    [out, may be NULL] the story
 *
 * The version of a block goes up by one when the block is first written, zeroed or discarded after
 * the image was opened for writing; never by less than that, a crash of the writer included.
 * Blocks whose version is the same at two times when nobody had the image open for writing have
 * the same content.  Of a disk that is being written, it is never behind what was read of it before
 * this call; a second change before the image is closed does not show.
 *
 * Return: 0; -EINVAL: range; -ENOTSUP: the format has no versions; -EUCLEAN: a writer has the image
 * open, or did not close it, and this open is read-only: versions may be behind; else as
 * vdisk_image_pread().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_version(struct vdisk_image *image, uint64_t offset,
                                                      uint64_t length,
                                                      struct vdisk_version_extent *extent,
                                                      struct vdisk_error *err);

/** Flags of struct vdisk_image_info. */
enum vdisk_info_flag {
    VDISK_INFO_DIRTY = 1 << 0,          /**< a writer has it open, or died */
    VDISK_INFO_ACTUAL_SIZE = 1 << 1,    /**< actual_bytes is known */
    VDISK_INFO_LINEAGE = 1 << 2,        /**< generation and uuid are there (GOW) */
    VDISK_INFO_REPLICA = 1 << 3,        /**< made by a sync and not changed since (GOW v3) */
    VDISK_INFO_INCOMPLETE = 1 << 4,     /**< a sync into it has not finished (GOW v3) */
    VDISK_INFO_NO_DATA_FILE = 1 << 5,   /**< virtual_bytes is unknown, for lack of the data file */
    VDISK_INFO_LOCKED = 1 << 6,         /**< encrypted, and opened without a passphrase */
    VDISK_INFO_CORRUPT = 1 << 7,        /**< marked as corrupt: it can only be read (qcow2) */
    VDISK_INFO_LAZY_REFCOUNTS = 1 << 8, /**< refcounts may be written late (qcow2) */
    VDISK_INFO_EXTENDED_L2 = 1 << 9,    /**< clusters have subclusters (qcow2) */
    VDISK_INFO_DATA_RAW = 1 << 10       /**< the data file alone is the whole disk (qcow2) */
};

/** Key slots of LUKS version 1. */
#define VDISK_KEY_SLOTS 8u

/**
 * struct vdisk_key_slot - the place of one passphrase
 * @is_active:  there is one
 * @iterations: of its key derivation
 * @stripes:    into which the key is split
 * @reserved:   zero
 * @key_offset: of the encrypted key, in bytes from the start of the LUKS header
 */
struct vdisk_key_slot {
    bool is_active;
    uint32_t iterations;
    uint32_t stripes;
    uint32_t reserved;
    uint64_t key_offset;
};

/**
 * struct vdisk_encrypt_info - how an image is encrypted
 * @format:         "luks" or "aes": for the latter, nothing else is there
 * @cipher_alg, @cipher_mode, @ivgen_alg, @hash_alg: as in struct vdisk_encrypt_options
 * @ivgen_hash_alg: of essiv, else NULL
 * @uuid:           of the LUKS header
 * @payload_offset: what that says of where the data is, which means nothing here
 * @iterations:     of the digest of the data's key
 * @reserved:       zero
 * @slots:          the passphrases
 */
struct vdisk_encrypt_info {
    const char *format;
    const char *cipher_alg;
    const char *cipher_mode;
    const char *ivgen_alg;
    const char *ivgen_hash_alg;
    const char *hash_alg;
    const char *uuid;
    uint64_t payload_offset;
    uint32_t iterations;
    uint32_t reserved;
    struct vdisk_key_slot slots[VDISK_KEY_SLOTS];
};

/**
 * struct vdisk_image_info - facts about an open image
 * @struct_bytes:  [in] sizeof(struct vdisk_image_info)
 * @flags:         of enum vdisk_info_flag
 * @cluster_bytes: unit of allocation, 0 if the format has none
 * @filename, @format: good until the image is closed
 * @variant:       of the format, a constant word, or NULL for the usual one: QED "draft-1" to
 *                 "draft-3" for images older than the final header; add-cow "v10" or "v18";
 *                 qcow2 "0.10" (version 2) or "1.1" (version 3)
 * @refcount_bits: qcow2: width of a reference count
 * @reserved:      zero
 * @compression:   qcow2: "zlib" or "zstd": what its compressed clusters are, a constant word
 * @backing_name:  the backing file as it is recorded, or NULL; like the next three good until the
 *                 image is closed or its backing file changed
 * @backing_path:  the same name as it would be opened, or NULL
 * @backing_format: its format as it is recorded, or NULL
 * @data_name:     add-cow: the raw file, qcow2: the data file, or NULL; as it is recorded
 * @virtual_bytes: size of the disk
 * @actual_bytes:  space taken where the image is stored
 * @generation:    GOW: count of write sessions that changed something
 * @uuid:          GOW: the lineage
 * @encrypt:       how it is encrypted, good until the image is closed; NULL: it is not
 */
struct vdisk_image_info {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t cluster_bytes;
    const char *filename;
    const char *format;
    const char *variant;
    uint32_t refcount_bits;
    uint32_t reserved;
    const char *compression;
    const char *backing_name;
    const char *backing_path;
    const char *backing_format;
    const char *data_name;
    uint64_t virtual_bytes;
    uint64_t actual_bytes;
    uint64_t generation;
    uint8_t uuid[16];
    const struct vdisk_encrypt_info *encrypt;
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

/**
 * vdisk_image_backing() - the image behind this one
 * @image: open image
 *
 * Return: the backing image, NULL if there is none; open as long as @image is, and not to be
 * closed.  It may be read and looked at.
 */
VDISK_PUBLIC struct vdisk_image *vdisk_image_backing(struct vdisk_image *image);

/** What vdisk_image_check() mends. */
enum vdisk_repair {
    VDISK_REPAIR_NONE = 0, /**< only look */
    VDISK_REPAIR_LEAKS,    /**< give back space that nothing refers to */
    VDISK_REPAIR_ALL       /**< that, and contradictions in the metadata; where QED had any, leaked
                                clusters are left for the next repair; in qcow2, bitmaps become
                                inconsistent and snapshots are dropped where their tables, or the
                                disk, can not be trusted */
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
 * @compressed_clusters:  of the allocated ones
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
    uint64_t compressed_clusters;
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
 * @bitmaps_bytes:         what the dirty bitmaps of the source would add to both
 * @has_bitmaps:           source and new image are of formats with bitmaps
 */
struct vdisk_measure_result {
    uint64_t required_bytes;
    uint64_t fully_allocated_bytes;
    uint64_t bitmaps_bytes;
    bool has_bitmaps;
};

/**
 * vdisk_measure() - how large would a new image be?  An upper bound.
 * @format: format of the new image
 * @options: what it would be created with; its size is that of the @source, if there is one
 * @source: open image whose data would be copied, or NULL for an empty disk
 * @result: [out]
 * @err:    [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: size outside the format's limits, unknown format; else as
 * vdisk_image_extent() on @source.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_measure(const char *format,
                                                const struct vdisk_create_options *options,
                                                struct vdisk_image *source,
                                                struct vdisk_measure_result *result,
                                                struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Dirty bitmaps                                                                              */
/* ------------------------------------------------------------------------------------------ */

/** Flags of struct vdisk_bitmap_info. */
enum vdisk_bitmap_flag {
    VDISK_BITMAP_ENABLED = 1 << 0,      /**< records what is written to the image */
    VDISK_BITMAP_IN_USE = 1 << 1,       /**< marked in the file: a writer has it, or died */
    VDISK_BITMAP_INCONSISTENT = 1 << 2, /**< lacks some of what was written: its bits can not be
                                             had, and it records nothing */
    VDISK_BITMAP_RECOVERABLE = 1 << 3,  /**< inconsistent, and VDISK_BITMAP_RECOVER is possible */
    VDISK_BITMAP_HIDDEN = 1 << 4 /**< inconsistent, since a program that does not know bitmaps
                                      changed the image: other programs do not see it */
};

/**
 * struct vdisk_bitmap_info - facts about a dirty bitmap of an image
 * @struct_bytes: [in] sizeof(struct vdisk_bitmap_info)
 * @flags:        of enum vdisk_bitmap_flag
 * @reserved:     zero
 * @name:         good until the image is closed or its bitmaps are changed
 * @granularity:  bytes of disk that one bit tells of, a power of two
 */
struct vdisk_bitmap_info {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t reserved;
    const char *name;
    uint64_t granularity;
};

/**
 * vdisk_bitmap_count() - how many dirty bitmaps has the image itself?
 * @image: open image
 * @count: [out]; 0 for formats that have none
 * @err:   [out, may be NULL] the story
 *
 * Return: 0; -EBADMSG: their list contradicts the format; else as vdisk_image_pread().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_bitmap_count(struct vdisk_image *image, size_t *count,
                                                     struct vdisk_error *err);

/**
 * vdisk_bitmap_info() - facts about one of them
 * @image: open image
 * @index: 0 .. vdisk_bitmap_count() - 1, in the order of the file
 * @info:  [in, out] struct_bytes set by the caller
 * @err:   [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: struct_bytes, or no such index; else as vdisk_bitmap_count().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_bitmap_info(struct vdisk_image *image, size_t index,
                                                    struct vdisk_bitmap_info *info,
                                                    struct vdisk_error *err);

/**
 * struct vdisk_bitmap_extent - a run of the disk that is all dirty, or all clean
 * @offset, @length: the run, in bytes of the disk
 * @is_dirty:        it has been written, or shares a granule with what has been
 */
struct vdisk_bitmap_extent {
    uint64_t offset;
    uint64_t length;
    bool is_dirty;
};

/**
 * vdisk_bitmap_extent() - what does a bitmap tell of an offset?
 * @image:  open image
 * @name:   of the bitmap
 * @offset: bytes, less than the size
 * @length: bytes to look at, at least 1; @offset + @length at most the size
 * @extent: [out] the run that begins at @offset: as long as it is of one kind, within @length
 * @err:    [out, may be NULL] the story
 *
 * While the image is being written, what becomes dirty meanwhile may or may not be seen.
 *
 * Return: 0; -ENOENT: there is no such bitmap; -EUCLEAN: it is inconsistent; -EINVAL: range; else
 * as vdisk_image_pread().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_bitmap_extent(struct vdisk_image *image, const char *name,
                                                      uint64_t offset, uint64_t length,
                                                      struct vdisk_bitmap_extent *extent,
                                                      struct vdisk_error *err);

/**
 * vdisk_bitmap_dirty_bytes() - how much of the disk is dirty?
 * @image: open image
 * @name:  of the bitmap
 * @bytes: [out] the sum of all its dirty runs
 * @err:   [out, may be NULL] the story
 *
 * Return: as vdisk_bitmap_extent().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_bitmap_dirty_bytes(struct vdisk_image *image,
                                                           const char *name, uint64_t *bytes,
                                                           struct vdisk_error *err);

/** What vdisk_bitmap_change() does. */
enum vdisk_bitmap_action_kind {
    VDISK_BITMAP_ADD = 1, /**< a new one, enabled, with nothing dirty */
    VDISK_BITMAP_REMOVE,  /**< also one that is inconsistent */
    VDISK_BITMAP_CLEAR,   /**< nothing is dirty any more */
    VDISK_BITMAP_ENABLE,  /**< it records what is written from now on */
    VDISK_BITMAP_DISABLE, /**< it records nothing from now on */
    VDISK_BITMAP_MERGE,   /**< what is dirty in the source is dirty in it, too */
    VDISK_BITMAP_RECOVER  /**< of one that is inconsistent: all is dirty */
};

/**
 * struct vdisk_bitmap_action - one of the things that vdisk_bitmap_change() does
 * @kind:         what
 * @reserved:     zero
 * @name:         of the bitmap
 * @granularity:  ADD: a power of two, 512 to 2 GiB; 0: the cluster size, but 4 KiB to 64 KiB
 * @source:       MERGE: name of the other bitmap; its granularity may be another one
 * @source_image: MERGE: the image that has it, with a disk of the same size; NULL: the same
 */
struct vdisk_bitmap_action {
    enum vdisk_bitmap_action_kind kind;
    uint32_t reserved;
    const char *name;
    uint64_t granularity;
    const char *source;
    struct vdisk_image *source_image;
};

/**
 * vdisk_bitmap_change() - change the dirty bitmaps of an image, all at once
 * @image:   image open for writing; no other call on it may run
 * @actions: what to do, one after the other
 * @count:   of @actions
 * @err:     [out, may be NULL] the story
 *
 * Either all of it is done, and durable, or nothing: after a power cut as well.
 *
 * Return: 0; -ENOTSUP: the format, or the version of the image, has no bitmaps; -ENOENT, -EEXIST:
 * there is no such bitmap, or there is one already; -EUCLEAN: a bitmap that is inconsistent can
 * only be recovered or removed; -EINVAL: arguments; -EFBIG: it would take too much memory; else as
 * vdisk_image_pwrite().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_bitmap_change(struct vdisk_image *image,
                                                      const struct vdisk_bitmap_action *actions,
                                                      size_t count, struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Convert                                                                                    */
/* ------------------------------------------------------------------------------------------ */

/** Flags of struct vdisk_convert_options. */
enum vdisk_convert_flag {
    VDISK_CONVERT_NO_CREATE = 1 << 0,      /**< write into the image that is there, in place */
    VDISK_CONVERT_TARGET_IS_ZERO = 1 << 1, /**< that image reads as zero: with NO_CREATE */
    VDISK_CONVERT_ALLOCATE_ALL = 1 << 2,   /**< no holes in the target, zeros are not looked for */
    VDISK_CONVERT_SALVAGE = 1 << 3,      /**< what cannot be read becomes zeros, and is reported */
    VDISK_CONVERT_COPY_OFFLOAD = 1 << 4, /**< let the system copy, where it can; data is then not
                                             searched for zeros */
    VDISK_CONVERT_COMPRESS = 1 << 5,     /**< compress the clusters of the target; those that do not
                                              shrink are written as they are */
    VDISK_CONVERT_BITMAPS = 1 << 6, /**< the dirty bitmaps of the source, which is one, go to the
                                         target too; not those of images behind it */
    VDISK_CONVERT_SKIP_BROKEN_BITMAPS = 1 << 7 /**< but for inconsistent ones, which are reported */
};

/**
 * struct vdisk_convert_options - what is converted into what; zero means the default
 * @struct_bytes:   sizeof(struct vdisk_convert_options)
 * @flags:          of enum vdisk_convert_flag
 * @workers:        pieces under way at once; default: twice the processors, at most 8, and 2 for
 *                  local files with VDISK_OPEN_UNSAFE; 64 at most
 * @sources:        names of images; several make one disk, one behind the other
 * @source_entries: count of @sources, at least 1
 * @source_format:  of all sources, or NULL to look
 * @source_flags:   for opening them: VDISK_OPEN_SHARE, _DIRECT, _SEQUENTIAL
 * @source_snapshot: of all sources: the disk as that snapshot within it has it, or NULL
 * @source_offset:  with one source: bytes of its disk that are left out at its start; at most its
 *                  size
 * @source_length:  with one source: most bytes to copy from there; default: to its end
 * @target_flags:   for opening it: VDISK_OPEN_DIRECT, _SYNC, _UNSAFE
 * @target:         name of a local file or block device; with VDISK_CONVERT_NO_CREATE also the URL
 *                  of an NBD server
 * @target_format:  default raw; with VDISK_CONVERT_NO_CREATE NULL means to look, and raw must be
 *                  named
 * @create:         for the new image, or NULL; its size is that of the sources if 0, and not less
 * @sparse_bytes:   so many zero bytes in a row in the data become a hole: multiple of 512, at most
 *                  2 MiB; default 4096.  Formats with clusters look at whole clusters.
 * @rate_bytes:     most bytes of data a second; default: no limit
 * @compression_level: with VDISK_CONVERT_COMPRESS: 1, fast, to 9, small; default: one of the fast
 * @network:        for sources on servers, or NULL
 * @passphrases:    for encrypted images, or NULL
 * @gate:           which files the images may name, or NULL for none
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
    const struct vdisk_snapshot_key *source_snapshot;
    uint64_t source_offset;
    uint64_t source_length;
    const char *target;
    const char *target_format;
    const struct vdisk_create_options *create;
    uint64_t sparse_bytes;
    uint64_t rate_bytes;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    vdisk_progress_fn progress;
    vdisk_report_fn report;
    void *opaque;
    uint32_t compression_level;
    uint32_t reserved;
};

/**
 * struct vdisk_convert_result - what a conversion did
 * @struct_bytes:   [in] sizeof(struct vdisk_convert_result)
 * @virtual_bytes:  bytes of disk that were copied, holes included
 * @data_bytes:     bytes that were copied as data
 * @shared_bytes:   of these, bytes that the system copied, or shares between the files
 * @compressed_bytes: of these, bytes that are in compressed clusters
 * @salvaged_bytes: bytes that could not be read and are zeros in the target
 */
struct vdisk_convert_result {
    size_t struct_bytes;
    uint64_t virtual_bytes;
    uint64_t data_bytes;
    uint64_t shared_bytes;
    uint64_t compressed_bytes;
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
 * A target with a backing file (@create) gets what differs from the disk of that, by content.  A
 * data file must not be there yet, or hold no data.
 *
 * Return: 0: complete, and durable unless VDISK_OPEN_UNSAFE; -EINVAL: options, or source and
 * target are the same file; -ECANCELED; -EAGAIN: locked by another process; -ENOSPC, -EIO, ...:
 * the message names the file.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_convert(const struct vdisk_convert_options *options,
                                                struct vdisk_convert_result *result,
                                                struct vdisk_error *err);

/**
 * vdisk_convert_from_fd() - copy a raw disk that comes from a pipe
 * @options: as for vdisk_convert(), without sources; source_format is "raw".  Of the flags only
 *           VDISK_CONVERT_NO_CREATE, _TARGET_IS_ZERO and _ALLOCATE_ALL; no backing file
 * @fd:      readable; read to its end, once, and not closed
 * @result:  [in, out, may be NULL] struct_bytes set by the caller
 * @err:     [out, may be NULL] the story
 *
 * Unless the size is in @options, the disk grows while more comes, and is as long as the stream in
 * the end, rounded up to a multiple of 512.
 *
 * Return: as vdisk_convert(); -EFBIG: the stream is longer than the size.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_convert_from_fd(const struct vdisk_convert_options *options,
                                                        int fd, struct vdisk_convert_result *result,
                                                        struct vdisk_error *err);

/**
 * vdisk_convert_to_fd() - write a disk to a pipe, as a raw disk or a qcow2 image
 * @options: as for vdisk_convert(), without a target and flags; target_format is "raw", NULL for
 *           the same, or "qcow2", for which there may be create options
 * @fd:      writable; written once from start to end, and not closed; a raw disk with its zeros
 * @result:  [in, out, may be NULL] struct_bytes set by the caller
 * @err:     [out, may be NULL] the story
 *
 * Return: as vdisk_convert(); -EPIPE: nobody reads any more, if the program ignores SIGPIPE.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_convert_to_fd(const struct vdisk_convert_options *options,
                                                      int fd, struct vdisk_convert_result *result,
                                                      struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Chains                                                                                     */
/* ------------------------------------------------------------------------------------------ */

/** Room for the name of a file in a result; a longer one is cut. */
#define VDISK_NAME_BYTES 4096

/** Flags of struct vdisk_commit_options. */
enum vdisk_commit_flag {
    VDISK_COMMIT_KEEP = 1 << 0 /**< leave the data in the image too */
};

/**
 * struct vdisk_commit_options - what is committed, and into what; zero means the default
 * @struct_bytes: sizeof(struct vdisk_commit_options)
 * @flags:        of enum vdisk_commit_flag
 * @workers:      pieces under way at once; default: twice the processors, at most 8; 64 at most
 * @open_flags:   for opening images: VDISK_OPEN_DIRECT, _SYNC, _UNSAFE
 * @name:         of the image
 * @format:       its format, or NULL to look
 * @base:         the image to commit into, any of those behind it, by its path or as an image of
 *                the chain names it; NULL: the backing file
 * @rate_bytes:   most bytes of data a second; default: no limit
 * @network:      for images on servers, or NULL
 * @passphrases:  for encrypted images, or NULL
 * @gate:         which files the images may name, or NULL for none
 * @progress:     called now and then, or NULL; the phase is "commit"
 * @opaque:       for @progress
 * @reserved:     zero
 */
struct vdisk_commit_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t workers;
    uint32_t open_flags;
    const char *name;
    const char *format;
    const char *base;
    uint64_t rate_bytes;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    vdisk_progress_fn progress;
    void *opaque;
    uint64_t reserved;
};

/** Flags of struct vdisk_commit_result. */
enum vdisk_commit_result_flag {
    VDISK_COMMIT_EMPTIED = 1 << 0,  /**< the image holds nothing any more */
    VDISK_COMMIT_BASE_GREW = 1 << 1 /**< the disk of the base was shorter */
};

/**
 * struct vdisk_commit_result - what a commit did
 * @struct_bytes:  [in] sizeof(struct vdisk_commit_result)
 * @flags:         of enum vdisk_commit_result_flag
 * @base_depth:    1: the backing file; 2: the one behind it; ...; 0: none was found
 * @virtual_bytes: size of the disk
 * @data_bytes:    written into the base as data
 * @zero_bytes:    written into it as zeros
 * @base_name:     of the base's file
 */
struct vdisk_commit_result {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t base_depth;
    uint64_t virtual_bytes;
    uint64_t data_bytes;
    uint64_t zero_bytes;
    char base_name[VDISK_NAME_BYTES];
};

/**
 * vdisk_commit() - write what an image, and those between it and a base, hold into the base
 * @options: what, and into what
 * @result:  [in, out, may be NULL] struct_bytes set by the caller; filled in on failure as well
 * @err:     [out, may be NULL] the story
 *
 * The base becomes as long as the image, if it is shorter.  When it is durable, the image is
 * emptied, if its format can do that, there is no @base, and VDISK_COMMIT_KEEP is not set.  All
 * other images on the base, those in between included, are not to be used any more: what they show
 * has changed.
 *
 * The disk reads the same at any instant.  If this fails, or is killed, it can be done again.
 *
 * Return: 0: complete, and durable unless VDISK_OPEN_UNSAFE; -EINVAL: options, no backing file, or
 * @base is none of the images behind @name; -ECANCELED; -EAGAIN: locked by another process; -EPERM:
 * the gate; -EROFS: the base can only be read; -ENOSPC, -EIO, ...: the message names the file.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_commit(const struct vdisk_commit_options *options,
                                               struct vdisk_commit_result *result,
                                               struct vdisk_error *err);

/** Flags of struct vdisk_rebase_options. */
enum vdisk_rebase_flag {
    VDISK_REBASE_UNSAFE = 1 << 0 /**< change the name only: the disk reads differently if the
                                      backing files differ; neither has to be there */
};

/**
 * struct vdisk_rebase_options - which image gets which backing file; zero means the default
 * @struct_bytes:   sizeof(struct vdisk_rebase_options)
 * @flags:          of enum vdisk_rebase_flag
 * @workers:        pieces under way at once; default: twice the processors, at most 8; 64 at most
 * @open_flags:     for opening the image and what is behind it now: VDISK_OPEN_DIRECT, _SYNC,
 *                  _UNSAFE
 * @backing_flags:  for opening the new backing file: these, VDISK_OPEN_SHARE, _SEQUENTIAL
 * @name:           of the image
 * @format:         its format, or NULL to look
 * @backing:        the new backing file as it will be recorded, a relative name counting from the
 *                  directory of the image; NULL or empty: none
 * @backing_format: its format; NULL to look, but then it is not raw
 * @rate_bytes:     most bytes of data to compare in a second; default: no limit
 * @network:        for images on servers, or NULL
 * @passphrases:    for encrypted images, or NULL
 * @gate:           which files the images may name, or NULL for none; it is not asked about
 *                  @backing, and permits what is in the same directory
 * @progress:       called now and then, or NULL; the phase is "rebase"
 * @opaque:         for @progress
 * @reserved:       zero
 */
struct vdisk_rebase_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t workers;
    uint32_t open_flags;
    uint32_t backing_flags;
    const char *name;
    const char *format;
    const char *backing;
    const char *backing_format;
    uint64_t rate_bytes;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    vdisk_progress_fn progress;
    void *opaque;
    uint64_t reserved;
};

/**
 * struct vdisk_rebase_result - what a rebase did
 * @struct_bytes:  [in] sizeof(struct vdisk_rebase_result)
 * @reserved:      zero
 * @virtual_bytes: size of the disk
 * @read_bytes:    that had to be read and compared
 * @data_bytes:    written into the image as data
 * @zero_bytes:    written into it as zeros
 */
struct vdisk_rebase_result {
    size_t struct_bytes;
    uint64_t reserved;
    uint64_t virtual_bytes;
    uint64_t read_bytes;
    uint64_t data_bytes;
    uint64_t zero_bytes;
};

/**
 * vdisk_rebase() - give an image another backing file, or none
 * @options: which, and how
 * @result:  [in, out, may be NULL] struct_bytes set by the caller; filled in on failure as well
 * @err:     [out, may be NULL] the story
 *
 * Unless VDISK_REBASE_UNSAFE is set, what the image takes from its backing files now and would not
 * find in the new one is written into it first: its disk reads the same at any instant.  If this
 * fails, or is killed, it can be done again.
 *
 * Return: 0: complete, and durable unless VDISK_OPEN_UNSAFE; -EINVAL: options, or the new backing
 * file is not of its format; -ELOOP: the image itself is behind the new backing file; -ENOTSUP: the
 * format has no backing files; -ECANCELED; -EAGAIN: locked by another process; -EPERM: the gate;
 * -ENOSPC, -EIO, ...: the message names the file.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_rebase(const struct vdisk_rebase_options *options,
                                               struct vdisk_rebase_result *result,
                                               struct vdisk_error *err);

/**
 * struct vdisk_flatten_options - which image is flattened; zero means the default
 * @struct_bytes: sizeof(struct vdisk_flatten_options)
 * @flags:        zero
 * @workers:      pieces under way at once; default: twice the processors, at most 8; 64 at most
 * @open_flags:   for opening images: VDISK_OPEN_DIRECT, _SYNC, _UNSAFE
 * @name:         of the image
 * @format:       its format, or NULL to look
 * @rate_bytes:   most bytes of data a second; default: no limit
 * @network:      for images on servers, or NULL
 * @passphrases:  for encrypted images, or NULL
 * @gate:         which files the images may name, or NULL for none
 * @progress:     called now and then, or NULL; the phase is "flatten"
 * @opaque:       for @progress
 * @reserved:     zero
 */
struct vdisk_flatten_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t workers;
    uint32_t open_flags;
    const char *name;
    const char *format;
    uint64_t rate_bytes;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    vdisk_progress_fn progress;
    void *opaque;
    uint64_t reserved;
};

/** Flags of struct vdisk_flatten_result. */
enum vdisk_flatten_result_flag {
    VDISK_FLATTEN_DROPPED = 1 << 0 /**< there was a backing file, and there is none any more */
};

/**
 * struct vdisk_flatten_result - what was done
 * @struct_bytes:  [in] sizeof(struct vdisk_flatten_result)
 * @flags:         of enum vdisk_flatten_result_flag
 * @virtual_bytes: size of the disk
 * @data_bytes:    written into the image as data
 * @zero_bytes:    written into it as zeros
 * @data_file:     add-cow: path of the raw file, which is the whole disk now, so that the image can
 *                 be removed; else empty
 */
struct vdisk_flatten_result {
    size_t struct_bytes;
    uint32_t flags;
    uint64_t virtual_bytes;
    uint64_t data_bytes;
    uint64_t zero_bytes;
    char data_file[VDISK_NAME_BYTES];
};

/**
 * vdisk_flatten() - bring all that an image takes from its backing files into it, and drop them
 * @options: which, and how
 * @result:  [in, out, may be NULL] struct_bytes set by the caller; filled in on failure as well
 * @err:     [out, may be NULL] the story
 *
 * The disk reads the same at any instant.  If this fails, or is killed, it can be done again.  An
 * image without backing file is left as it is; but one of add-cow takes all of its disk into the
 * raw file.
 *
 * Return: 0: complete, and durable unless VDISK_OPEN_UNSAFE; -EINVAL: options; -ENOTSUP: the format
 * has no backing files; -ECANCELED; -EAGAIN: locked by another process; -EPERM: the gate; -ENOSPC,
 * -EIO, ...: the message names the file.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_flatten(const struct vdisk_flatten_options *options,
                                                struct vdisk_flatten_result *result,
                                                struct vdisk_error *err);

/**
 * struct vdisk_compact_options - which image is compacted; zero means the default
 * @struct_bytes: sizeof(struct vdisk_compact_options)
 * @flags:        zero
 * @open_flags:   for opening the image: VDISK_OPEN_DIRECT, _SYNC, _UNSAFE
 * @name:         of the image
 * @format:       its format, or NULL to look
 * @passphrases:  for encrypted images, or NULL
 * @gate:         which data file the image may name, or NULL for none
 * @progress:     called now and then, or NULL; the phase is "compact", and its bytes are parts of
 *                the disk
 * @opaque:       for @progress
 */
struct vdisk_compact_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t open_flags;
    const char *name;
    const char *format;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    vdisk_progress_fn progress;
    void *opaque;
};

/**
 * struct vdisk_compact_result - what was done
 * @struct_bytes:    [in] sizeof(struct vdisk_compact_result)
 * @moved_bytes:     copied to another place in the file
 * @old_file_bytes, @file_bytes: length of the file before and after
 * @old_allocated_bytes, @allocated_bytes: space that it took, and takes
 */
struct vdisk_compact_result {
    size_t struct_bytes;
    uint64_t moved_bytes;
    uint64_t old_file_bytes;
    uint64_t file_bytes;
    uint64_t old_allocated_bytes;
    uint64_t allocated_bytes;
};

/**
 * vdisk_compact() - give back the space that an image does not use, within its own file
 * @options: which, and how
 * @result:  [in, out, may be NULL] struct_bytes set by the caller; filled in on failure as well
 * @err:     [out, may be NULL] the story
 *
 * Clusters move from the end of the file to free places at its start, and the end is cut off; free
 * space that is left takes none in the file system.  The disk reads the same at any instant: if
 * this fails, is cancelled or killed, it can be done again, and what was done stays done.  What has
 * more than one reference (snapshots), compressed clusters, and tables of snapshots and bitmaps
 * stay where they are.
 *
 * Return: 0: complete, and durable unless VDISK_OPEN_UNSAFE; -EINVAL: options; -ENOTSUP: the format
 * has no free space within its files; -ECANCELED; -EAGAIN: locked by another process; -EACCES: an
 * encrypted image without its passphrase; -EBADMSG: it is not sound; -ENOSPC, -EIO, ...: the
 * message names the file.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_compact(const struct vdisk_compact_options *options,
                                                struct vdisk_compact_result *result,
                                                struct vdisk_error *err);

/**
 * struct vdisk_snapshot_options - what an external snapshot is made of; zero means the default
 * @struct_bytes: sizeof(struct vdisk_snapshot_options)
 * @reserved:     zero
 * @name:         path of the image that goes on: a regular file, which nobody has open
 * @format:       its format, or NULL to look; raw must be named
 * @snapshot:     the name that its content of today gets, on the same file system; without a slash
 *                it is in the directory of @name
 * @target_format: of the overlay that takes over @name; NULL: that of the image if its format has
 *                overlays, else "qed"
 * @create:       the overlay's data file, cluster and table size, or NULL; no size, backing file or
 *                flags
 * @network:      for images behind on servers, or NULL
 * @passphrases:  for encrypted images, or NULL
 * @gate:         which files the images may name, or NULL for none; not asked about @snapshot
 */
struct vdisk_snapshot_options {
    size_t struct_bytes;
    uint64_t reserved;
    const char *name;
    const char *format;
    const char *snapshot;
    const char *target_format;
    const struct vdisk_create_options *create;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
};

/** Flags of struct vdisk_snapshot_result. */
enum vdisk_snapshot_result_flag {
    VDISK_SNAPSHOT_RESUMED = 1 << 0 /**< an earlier call had been interrupted */
};

/**
 * struct vdisk_snapshot_result - the snapshot that was made
 * @struct_bytes:   [in] sizeof(struct vdisk_snapshot_result)
 * @flags:          of enum vdisk_snapshot_result_flag
 * @reserved:       zero
 * @virtual_bytes:  size of the disk
 * @format:         of the overlay: a constant word
 * @backing_format: of the image that the content of today is in: a constant word
 */
struct vdisk_snapshot_result {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t reserved;
    uint64_t virtual_bytes;
    const char *format;
    const char *backing_format;
};

/**
 * vdisk_snapshot_external() - keep what an image holds today, and go on with an overlay on it
 * @options: which image, and the name for what it holds
 * @result:  [in, out, may be NULL] struct_bytes set by the caller; filled in on success
 * @err:     [out, may be NULL] the story
 *
 * The file gets the name @snapshot, and an empty overlay on it takes over the name it had.  At any
 * instant, power cuts included, that name leads to the same disk.  Nothing is copied.  After an
 * interruption the same call does what is left; when nothing is, it is refused with -EEXIST.
 *
 * Return: 0, durable; -EEXIST: there is something at @snapshot, which stays; -EXDEV: that is on
 * another file system; -EPERM, -EOPNOTSUPP: no hard links there; -EAGAIN: the image is locked by
 * another process; -EINVAL: options, or a symbolic link; else as vdisk_image_open() and
 * vdisk_image_create().  On failure everything is as it was.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_snapshot_external(
    const struct vdisk_snapshot_options *options, struct vdisk_snapshot_result *result,
    struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Snapshots within an image                                                                  */
/* ------------------------------------------------------------------------------------------ */

/** Flags of struct vdisk_snapshot_info. */
enum vdisk_snapshot_info_flag {
    VDISK_SNAPSHOT_ICOUNT = 1 << 0 /**< icount is there */
};

/**
 * struct vdisk_snapshot_info - facts about a snapshot within an image
 * @struct_bytes:   [in] sizeof(struct vdisk_snapshot_info)
 * @flags:          of enum vdisk_snapshot_info_flag
 * @date_nsec:      part of the second that it was made in
 * @id:             of this snapshot alone, unless the image was made so
 * @name:           several may have the same, or none; like @id it may be any text, and is good
 *                  until the image is closed or its snapshots change
 * @virtual_bytes:  size of the disk
 * @vm_state_bytes: state of the machine that is kept with it, 0: none
 * @vm_clock_nsec:  how long the machine had run
 * @icount:         instructions that it had executed
 * @date_sec:       when it was made, since 1970
 */
struct vdisk_snapshot_info {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t date_nsec;
    const char *id;
    const char *name;
    uint64_t virtual_bytes;
    uint64_t vm_state_bytes;
    uint64_t vm_clock_nsec;
    uint64_t icount;
    uint64_t date_sec;
};

/**
 * vdisk_image_snapshot_info() - the snapshots within an image
 * @image: open image; no change of its snapshots may run
 * @index: 0, 1, 2, ... in the order of the image
 * @info:  [in, out] struct_bytes set by the caller
 * @err:   [out, may be NULL] the story
 *
 * Return: 0; -ENOENT: past the last, of which a format without snapshots has none; -EINVAL:
 * struct_bytes; -EBADMSG: the table of snapshots contradicts the format.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_snapshot_info(struct vdisk_image *image, size_t index,
                                                            struct vdisk_snapshot_info *info,
                                                            struct vdisk_error *err);

/**
 * vdisk_image_snapshot_find() - look for a snapshot within an image
 * @image: open image; no change of its snapshots may run
 * @key:   which one
 * @index: [out] its number
 * @err:   [out, may be NULL] the story
 *
 * Return: 0; -ENOENT: there is none; -EINVAL: @key; else as vdisk_image_snapshot_info().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_snapshot_find(struct vdisk_image *image,
                                                            const struct vdisk_snapshot_key *key,
                                                            size_t *index, struct vdisk_error *err);

/**
 * vdisk_image_snapshot_create() - keep the disk as it is now within the image
 * @image: image open for writing; no other call on it may run
 * @name:  of the snapshot, at most 65535 bytes; others may have the same
 * @err:   [out, may be NULL] the story
 *
 * It becomes the last one, with an id that none has.  Nothing is copied: what is written later goes
 * to other places.
 *
 * Return: 0, durable; -ENOTSUP: the format has no snapshots, or not with a data file; -EINVAL:
 * @name; -E2BIG: there are too many, or the image's reference counts are too narrow; -ENOSPC, ...:
 * as vdisk_image_pwrite().  At any instant the image has its old snapshots or the new ones, and the
 * same disk.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_snapshot_create(struct vdisk_image *image,
                                                              const char *name,
                                                              struct vdisk_error *err);

/**
 * vdisk_image_snapshot_apply() - make the disk what it was when a snapshot was made
 * @image: image open for writing; no other call on it may run
 * @index: of the snapshot, which stays
 * @err:   [out, may be NULL] the story
 *
 * The content of the disk of now is lost.  The size of the disk may change.  Enabled dirty bitmaps
 * are all dirty then.
 *
 * Return: 0, durable; -ENOENT: there is no such snapshot; -ENOTSUP: the disk had another size,
 * which an image of version 2 can not change; else as vdisk_image_snapshot_create(), and as
 * vdisk_image_resize() if the size changes.  At any instant it is the old disk or the new one.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_snapshot_apply(struct vdisk_image *image,
                                                             size_t index, struct vdisk_error *err);

/**
 * vdisk_image_snapshot_delete() - forget a snapshot
 * @image: image open for writing; no other call on it may run
 * @index: of the snapshot; those behind it move up
 * @err:   [out, may be NULL] the story
 *
 * What only this snapshot had is given back.
 *
 * Return: as vdisk_image_snapshot_apply().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_image_snapshot_delete(struct vdisk_image *image,
                                                              size_t index,
                                                              struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Sync                                                                                       */
/* ------------------------------------------------------------------------------------------ */

/** Flags of struct vdisk_sync_options. */
enum vdisk_sync_flag {
    VDISK_SYNC_FORCE = 1 << 0, /**< make a refused replica identical, fetching all of its data */
    VDISK_SYNC_VERIFY = 1 << 1 /**< check each block against the master's sums before writing it */
};

/**
 * struct vdisk_sync_options - from where to where, and how; zero means the default
 * @struct_bytes: sizeof(struct vdisk_sync_options)
 * @flags:        of enum vdisk_sync_flag
 * @wait_ms:      how long to wait for a master that is being changed; default: not at all
 * @run_bytes:    most bytes of one request for data, a multiple of 64 KiB; default 1 MiB
 * @reserved:     zero
 * @source:       the master: path or URL of a GOW v3 image
 * @replica:      path of a GOW v3 image; made if it is not there
 * @sums:         path or URL of the master's sums; NULL: that of the master with ".sums" added
 * @sums_key:     PEM file of the public key that must have signed the sums (@sums with ".sig"
 *                added); NULL: no signature wanted
 * @window_bytes: most bytes fetched but not yet durably accounted for, which is what a kill can
 *                cost; default 16 MiB
 * @rate_bytes:   most bytes of data to fetch in a second; default: no limit
 * @network:      for servers, or NULL; its connections are also the count of worker threads
 * @progress:     told how far it has come, in phases "wait", "list" and "sync"; or NULL
 * @opaque:       for @progress
 */
struct vdisk_sync_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t wait_ms;
    uint32_t run_bytes;
    uint32_t reserved;
    const char *source;
    const char *replica;
    const char *sums;
    const char *sums_key;
    uint64_t window_bytes;
    uint64_t rate_bytes;
    const struct vdisk_network_options *network;
    vdisk_progress_fn progress;
    void *opaque;
};

/** Flags of struct vdisk_sync_result. */
enum vdisk_sync_result_flag {
    VDISK_SYNC_UNCHANGED = 1 << 0, /**< the replica was identical; nothing was written */
    VDISK_SYNC_CREATED = 1 << 1,   /**< there was no replica before */
    VDISK_SYNC_RESUMED = 1 << 2,   /**< it was incomplete: an earlier sync had been interrupted */
    VDISK_SYNC_FORCED = 1 << 3     /**< it would have been refused without VDISK_SYNC_FORCE */
};

/**
 * struct vdisk_sync_result - what a sync did, or would do
 * @struct_bytes:   [in] sizeof(struct vdisk_sync_result)
 * @flags:          of enum vdisk_sync_result_flag
 * @restarts:       how often the master changed meanwhile, and the list was made again
 * @size:           of the disk, in bytes
 * @generation, @uuid: of the master
 * @total_blocks:   blocks of 64 KiB of the disk
 * @changed_blocks: blocks that were newer in the master, unallocated ones included
 * @fetched_blocks: those of them that have data
 * @runs:           requests for data
 * @requests:       all requests to the source; those of retries too, where the storage counts
 * @fetched_bytes:  bytes fetched, metadata included
 * @source_bytes:   length of the master's file: what a full download would take
 */
struct vdisk_sync_result {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t restarts;
    uint64_t size;
    uint64_t generation;
    uint8_t uuid[16];
    uint64_t total_blocks;
    uint64_t changed_blocks;
    uint64_t fetched_blocks;
    uint64_t runs;
    uint64_t requests;
    uint64_t fetched_bytes;
    uint64_t source_bytes;
};

/**
 * vdisk_sync() - make a local replica identical to a GOW v3 master, fetching only what has changed
 * @options: from where to where, and how
 * @result:  [in, out] struct_bytes set by the caller; filled in on failure as well, as far as it
 *           got; or NULL
 * @err:     [out, may be NULL] the story
 *
 * If nothing has changed, that takes one request of at most 4 KiB.  Otherwise the bytes fetched
 * are at most 64 KiB for each changed block, 8 for each block of the disk, and 4 KiB.  The replica
 * may be killed or lose power at any instant: it is marked incomplete while this runs, and the next
 * call goes on where the last one stopped.  Other processes can not open it meanwhile.
 *
 * Return: 0: the replica is identical, and durable; -EBUSY: the master is being changed; -EPERM:
 * the replica is refused, because it belongs to another master, was written to, or is ahead of the
 * master: VDISK_SYNC_FORCE makes it identical; -EEXIST: @replica is no GOW v3 image, and is never
 * overwritten; -EAGAIN: the replica is locked by another process; -ESTALE: the master keeps being
 * changed; -EBADMSG: the metadata of either contradicts the format, or a block does not match its
 * sum; -EKEYREJECTED: the signature of the sums; -ECANCELED: by @progress; -ENOSPC, -EIO, ...: the
 * system or the server.  On failure the replica stays incomplete if it had begun to change, and
 * what it has got is kept.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_sync(const struct vdisk_sync_options *options,
                                             struct vdisk_sync_result *result,
                                             struct vdisk_error *err);

/**
 * vdisk_delta() - what would vdisk_sync() do?  Changes nothing
 * @options: as for vdisk_sync(); the replica need not be there
 * @result:  [in, out] struct_bytes set by the caller; the requests and bytes that a sync would take
 * @err:     [out, may be NULL] the story
 *
 * Return: as vdisk_sync().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_delta(const struct vdisk_sync_options *options,
                                              struct vdisk_sync_result *result,
                                              struct vdisk_error *err);

/**
 * struct vdisk_sums_options - how sums are made; zero means the default
 * @struct_bytes: sizeof(struct vdisk_sums_options)
 * @reserved:     zero
 * @image:        path or URL of a GOW v3 image
 * @output:       path of the file to make or replace; NULL: @image, a path, with ".sums" added
 * @key:          PEM file of a private key (Ed25519, ECDSA or RSA) to sign the sums with: the
 *                signature goes to @output with ".sig" added; NULL: no signature
 * @network:      for images on servers, or NULL
 * @progress:     told how far it has come, in phase "sums"; or NULL
 * @opaque:       for @progress
 */
struct vdisk_sums_options {
    size_t struct_bytes;
    uint64_t reserved;
    const char *image;
    const char *output;
    const char *key;
    const struct vdisk_network_options *network;
    vdisk_progress_fn progress;
    void *opaque;
};

/**
 * struct vdisk_sums_result - the sums that were made
 * @struct_bytes: [in] sizeof(struct vdisk_sums_result)
 * @blocks:       blocks that have a sum
 * @generation, @uuid: of the image that the sums belong to
 */
struct vdisk_sums_result {
    size_t struct_bytes;
    uint64_t blocks;
    uint64_t generation;
    uint8_t uuid[16];
};

/**
 * vdisk_sums() - write the SHA-256 of each block of a GOW v3 image to a file beside it
 * @options: which image, and where to
 * @result:  [in, out] struct_bytes set by the caller; or NULL
 * @err:     [out, may be NULL] the story
 *
 * The file is replaced at once when it is complete and durable; the signature just before it.
 *
 * Return: 0; -EBUSY: the image is being changed; -ENOTSUP: built without GnuTLS, or no GOW v3;
 * -EINVAL: options, or no usable key; else the system or the server.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_sums(const struct vdisk_sums_options *options,
                                             struct vdisk_sums_result *result,
                                             struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Compare                                                                                    */
/* ------------------------------------------------------------------------------------------ */

/** Flags of struct vdisk_compare_options. */
enum vdisk_compare_flag {
    VDISK_COMPARE_STRICT = 1 << 0 /**< size, and what is allocated, have to be the same too */
};

/** What a comparison found. */
enum vdisk_compare_outcome {
    VDISK_COMPARE_SAME = 0, /**< no difference; sizes may differ if the longer disk ends in zeros */
    VDISK_COMPARE_CONTENT,  /**< a byte differs */
    VDISK_COMPARE_STATUS,   /**< strict: allocated in one and not in the other */
    VDISK_COMPARE_SIZE      /**< strict: the sizes differ */
};

/** What a comparison was doing when it failed. */
enum vdisk_compare_step {
    VDISK_COMPARE_OPENING = 0, /**< nothing has been compared */
    VDISK_COMPARE_LOOKING,     /**< finding out what is allocated */
    VDISK_COMPARE_READING      /**< reading data, or telling @difference */
};

/**
 * vdisk_difference_fn - told of each range that differs
 * @opaque: what the caller gave
 * @offset: bytes, multiple of 512; goes up from call to call
 * @length: bytes, multiple of 512; not followed by a difference right behind it
 *
 * One call at a time.
 * Return: 0 to go on, anything else to cancel.
 */
typedef int (*vdisk_difference_fn)(void *opaque, uint64_t offset, uint64_t length);

/**
 * struct vdisk_compare_options - what is compared, and how; zero means the default
 * @struct_bytes: sizeof(struct vdisk_compare_options)
 * @flags:        of enum vdisk_compare_flag
 * @names:        of the two images
 * @formats:      of each, NULL to look
 * @open_flags:   VDISK_OPEN_SHARE, _DIRECT, _SEQUENTIAL
 * @workers:      pieces under way at once; default: twice the processors, at most 8; 64 at most
 * @network:      for images on servers, or NULL
 * @passphrases:  for encrypted images, or NULL
 * @gate:         which files the images may name, or NULL for none
 * @progress:     called now and then, or NULL; the phase is "compare"
 * @difference:   told of every difference, or NULL to end at the first; not with STRICT
 * @opaque:       for @progress and @difference
 * @reserved:     zero
 */
struct vdisk_compare_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t workers;
    const char *names[2];
    const char *formats[2];
    uint32_t open_flags;
    uint32_t reserved;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    vdisk_progress_fn progress;
    vdisk_difference_fn difference;
    void *opaque;
};

/**
 * struct vdisk_compare_result - the outcome of a comparison
 * @struct_bytes:    [in] sizeof(struct vdisk_compare_result)
 * @outcome:         what was found
 * @failed_step:     what was being done, if the comparison failed
 * @offset:          for VDISK_COMPARE_CONTENT and _STATUS: the lowest offset at which the disks
 *                   differ, in bytes, multiple of 512
 * @different_bytes: the sum of the ranges that @difference was told
 * @virtual_bytes:   sizes of the two disks
 */
struct vdisk_compare_result {
    size_t struct_bytes;
    enum vdisk_compare_outcome outcome;
    enum vdisk_compare_step failed_step;
    uint64_t offset;
    uint64_t different_bytes;
    uint64_t virtual_bytes[2];
};

/**
 * vdisk_compare() - have two disks the same content?
 * @options: which, and how
 * @result:  [in, out] struct_bytes set by the caller
 * @err:     [out, may be NULL] the story
 *
 * What reads as zero in both by their metadata is not read.  Where one disk is longer, the rest
 * of it has to be zero.
 *
 * Return: 0: compared, see @result; negative: not compared to the end, see @failed_step;
 * -ECANCELED.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_compare(const struct vdisk_compare_options *options,
                                                struct vdisk_compare_result *result,
                                                struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Recovering dirty bitmaps                                                                   */
/* ------------------------------------------------------------------------------------------ */

/**
 * struct vdisk_bitmap_recover_options - which bitmap, and how; zero means the default
 * @struct_bytes: sizeof(struct vdisk_bitmap_recover_options)
 * @flags:        zero
 * @workers:      pieces compared at once; default: twice the processors, at most 8; 64 at most
 * @open_flags:   for opening the image: VDISK_OPEN_DIRECT, _SYNC
 * @older_flags:  for opening @older: VDISK_OPEN_SHARE, _DIRECT, _SEQUENTIAL
 * @name:         of the image
 * @format:       its format, or NULL to look
 * @bitmap:       name of the bitmap, which is inconsistent
 * @older:        name of an image that holds what the disk was when the bitmap was last cleared,
 *                such as the last backup; or NULL: all is dirty
 * @older_format: its format, or NULL to look
 * @network:      for images on servers, or NULL
 * @gate:         which files the images may name, or NULL for none
 * @passphrases:  for images that are encrypted, or NULL
 * @progress:     called now and then, or NULL; the phase is "compare"
 * @opaque:       for @progress
 * @reserved:     zero
 */
struct vdisk_bitmap_recover_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t workers;
    uint32_t open_flags;
    uint32_t older_flags;
    const char *name;
    const char *format;
    const char *bitmap;
    const char *older;
    const char *older_format;
    const struct vdisk_network_options *network;
    const struct vdisk_gate *gate;
    const struct vdisk_passphrases *passphrases;
    vdisk_progress_fn progress;
    void *opaque;
    uint64_t reserved;
};

/**
 * struct vdisk_bitmap_recover_result - what a bitmap tells after it was recovered
 * @struct_bytes:  [in] sizeof(struct vdisk_bitmap_recover_result)
 * @virtual_bytes: size of the disk
 * @dirty_bytes:   so much of it is dirty
 */
struct vdisk_bitmap_recover_result {
    size_t struct_bytes;
    uint64_t virtual_bytes;
    uint64_t dirty_bytes;
};

/**
 * vdisk_bitmap_recover() - make an inconsistent dirty bitmap one that can be used again
 * @options: which, and how
 * @result:  [in, out, may be NULL] struct_bytes set by the caller; filled in on success
 * @err:     [out, may be NULL] the story
 *
 * It then tells of all that was written since it was last good: of the whole disk or, with @older,
 * of each granule in which the disk differs from that image.  Where one of the two disks is
 * shorter it counts as zeros.  The image is locked from before the comparison to the end.
 *
 * Return: 0, durable; -ENOENT: there is no such bitmap; -EINVAL: options, or the bitmap is
 * consistent; -ENOTSUP: the format has no bitmaps; -ECANCELED; -EAGAIN: locked by another process;
 * else as vdisk_image_open() and vdisk_bitmap_change().  On failure it is inconsistent as before.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_bitmap_recover(
    const struct vdisk_bitmap_recover_options *options, struct vdisk_bitmap_recover_result *result,
    struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Backup                                                                                     */
/* ------------------------------------------------------------------------------------------ */

/** Flags of struct vdisk_backup_options. */
enum vdisk_backup_flag {
    VDISK_BACKUP_FULL = 1 << 0,         /**< all of the disk */
    VDISK_BACKUP_INCREMENTAL = 1 << 1,  /**< what has changed since the last point */
    VDISK_BACKUP_DIFFERENTIAL = 1 << 2, /**< what has changed since the last full one */
    VDISK_BACKUP_COMPARE = 1 << 3,      /**< read all of the disk, and store what differs: needs no
                                             record of what has changed */
    VDISK_BACKUP_COMPRESS = 1 << 4,     /**< compress what is stored: zstd; qcow2 only */
    VDISK_BACKUP_UNTRACKED = 1 << 5,    /**< leave the source as it is: nothing records what changes
                                             from now on */
    VDISK_BACKUP_RESTART = 1 << 6,      /**< forget a backup that was begun and not finished */
    VDISK_BACKUP_IN_CLEAR = 1 << 7,     /**< store an encrypted disk although the repository is not
                                             encrypted */
    VDISK_BACKUP_MOVED = 1 << 8         /**< the source is the disk of this repository although it
                                             has another name than last time */
};

/**
 * struct vdisk_backup_options - what is backed up, and where to; zero means the default
 * @struct_bytes:  sizeof(struct vdisk_backup_options)
 * @flags:         of enum vdisk_backup_flag; of the first three at most one: default incremental,
 *                 and full for the first point of a repository
 * @source:        name of the image, or URL
 * @source_format: or NULL to look; a URL of an NBD server is raw
 * @source_flags:  VDISK_OPEN_DIRECT, _SHARE; a source that is not tracked by a bitmap of its own is
 *                 opened for reading only
 * @repository:    name of the directory; made if it is not there, in a directory that is
 * @bitmap:        qcow2: the first part of the names of its bitmaps, default "vdisk".  NBD: the
 *                 bitmap of the server that has recorded what changed since the last point;
 *                 default: the one that was named then as @next_bitmap
 * @next_bitmap:   NBD: the bitmap that records what changes from now on, for the next backup to
 *                 ask for; NULL: there is none
 * @format:        of what is stored: "qcow2", the default, or "qed"
 * @rate_bytes:    most bytes of data a second; default: no limit
 * @workers:       pieces under way at once; default as for vdisk_convert()
 * @compression_level: with VDISK_BACKUP_COMPRESS: 1, fast, to 9, small; default: one of the fast
 * @key:           secret of a repository that is to be proof against malice, or NULL: at least 16
 *                 bytes.  One that was made with a key never opens without it
 * @key_bytes:     length of @key
 * @network:       for sources on servers, or NULL
 * @passphrases:   for encrypted images, or NULL
 * @gate:          which files the source may name, or NULL for none
 * @progress:      called now and then, or NULL; the phases are "copy" and "digest"
 * @report:        told in words of what is worth knowing, or NULL; one call at a time
 * @opaque:        for @progress and @report
 */
struct vdisk_backup_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t workers;
    const char *source;
    const char *source_format;
    uint32_t source_flags;
    uint32_t compression_level;
    const char *repository;
    const char *bitmap;
    const char *next_bitmap;
    const char *format;
    uint64_t rate_bytes;
    const void *key;
    size_t key_bytes;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    vdisk_progress_fn progress;
    vdisk_report_fn report;
    void *opaque;
};

/** What a point holds. */
enum vdisk_point_kind {
    VDISK_POINT_FULL = 1,    /**< all of the disk, on no other point */
    VDISK_POINT_INCREMENTAL, /**< on the point before it */
    VDISK_POINT_DIFFERENTIAL /**< on the last full one before it */
};

/** How it was known what a backup had to read. */
enum vdisk_tracker {
    VDISK_TRACKER_NONE = 1, /**< it was not: all of the disk */
    VDISK_TRACKER_COMPARE,  /**< it was not: all of the disk, of which what differed is stored */
    VDISK_TRACKER_BITMAP,   /**< a dirty bitmap of a qcow2 image */
    VDISK_TRACKER_VERSIONS, /**< versions of blocks of a GOW3 image */
    VDISK_TRACKER_OVERLAY,  /**< what an add-cow image has of its own */
    VDISK_TRACKER_NBD       /**< a dirty bitmap of an NBD server */
};

/**
 * struct vdisk_backup_result - what a backup did
 * @struct_bytes:  [in] sizeof(struct vdisk_backup_result)
 * @kind:          of the point that was made
 * @tracker:       how it was known what to read
 * @point:         its number
 * @parent:        number of the point that it lies on; 0: none
 * @virtual_bytes: size of the disk
 * @changed_bytes: of these, what had to be looked at
 * @read_bytes:    bytes of data read from the source, in this call
 * @stored_bytes:  bytes that the point takes in the repository
 * @is_resumed:    it was begun by an earlier call, of which what was good has been kept
 */
struct vdisk_backup_result {
    size_t struct_bytes;
    enum vdisk_point_kind kind;
    enum vdisk_tracker tracker;
    uint64_t point;
    uint64_t parent;
    uint64_t virtual_bytes;
    uint64_t changed_bytes;
    uint64_t read_bytes;
    uint64_t stored_bytes;
    bool is_resumed;
};

/**
 * vdisk_backup() - store a disk as it is now as a new point of a repository
 * @options: what and how
 * @result:  [in, out, may be NULL] struct_bytes set by the caller
 * @err:     [out, may be NULL] the story
 *
 * A repository is a directory of one disk.  Each point is an image that other programs can read,
 * NUMBER.qcow2, on the image of the point that it lies on, with a manifest, NUMBER.json
 * (docs/backup.md).
 *
 * The point is there when this returns 0, and then it is whole and durable; if it fails, or is
 * killed, the repository has the points that it had, and the bitmaps of the source tell no less
 * than they did.  What was copied is kept for the next call, which goes on from there.
 *
 * Return: 0; -EINVAL: options, or the source lies in the repository; -EAGAIN: the source or the
 * repository is in use; -EXDEV: it is the repository of another disk; -ENOENT: there is no source,
 * or no point that one of this kind could lie on; -ENOTSUP: there is no record of what has changed:
 * make a full one, or compare; -EUCLEAN: the record can not be trusted, as that bitmap is
 * inconsistent: recover it, or compare; -EPERM: the source is encrypted, and VDISK_BACKUP_IN_CLEAR
 * is not said; -ENOKEY: none of @passphrases is its; -EKEYREJECTED: @key, or @passphrases; -ELOOP:
 * the point would lie on too many: make a full one, or prune; -EBADMSG: the repository is damaged;
 * -ECANCELED; -ENOSPC, -EIO, ...: the message names the file.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_backup(const struct vdisk_backup_options *options,
                                               struct vdisk_backup_result *result,
                                               struct vdisk_error *err);

/** Flags of struct vdisk_repository_options. */
enum vdisk_repository_flag {
    VDISK_REPOSITORY_WRITE = 1 << 0 /**< for vdisk_repository_merge() and _prune(): nobody else has
                                         it open */
};

/**
 * struct vdisk_repository_options - how a repository is opened; zero means the default
 * @struct_bytes: sizeof(struct vdisk_repository_options)
 * @flags:        of enum vdisk_repository_flag
 * @reserved:     zero
 * @key:          as in struct vdisk_backup_options, or NULL
 * @key_bytes:    length of @key
 */
struct vdisk_repository_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t reserved;
    const void *key;
    size_t key_bytes;
};

/** An open repository of backups. */
struct vdisk_repository;

/**
 * vdisk_repository_open() - open a repository of backups
 * @name:       of the directory
 * @options:    or NULL
 * @repository: [out] goes to vdisk_repository_close()
 * @err:        [out, may be NULL] the story
 *
 * A merge or prune that was killed is finished first, if the directory can be written.  Points
 * whose manifest is damaged are in the list, as such.
 *
 * Return: 0; -ENOENT: there is no repository; -EAGAIN: somebody has it open in a way that is in
 * the way; -EKEYREJECTED: it was made with another key, or one with none; -EBADMSG: it is damaged;
 * -EROFS: a merge has to be finished first, and it can not be written; -EIO, ...
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_repository_open(
    const char *name, const struct vdisk_repository_options *options,
    struct vdisk_repository **repository, struct vdisk_error *err);

/**
 * vdisk_repository_close() - close it
 * @repository: or NULL; images of its points have been closed
 */
VDISK_PUBLIC void vdisk_repository_close(struct vdisk_repository *repository);

/** Flags of struct vdisk_point_info. */
enum vdisk_point_flag {
    VDISK_POINT_DAMAGED = 1 << 0,   /**< its manifest is: nothing but its number is known */
    VDISK_POINT_ORPHAN = 1 << 1,    /**< a point below it is missing or damaged */
    VDISK_POINT_COMPRESSED = 1 << 2 /**< it was made with VDISK_BACKUP_COMPRESS */
};

/**
 * struct vdisk_point_info - facts about a point
 * @struct_bytes:  [in] sizeof(struct vdisk_point_info)
 * @flags:         of enum vdisk_point_flag
 * @kind:          what it holds
 * @tracker:       how it was known what to read for it
 * @reserved:      zero
 * @number:        1 and up, in the order in which they were made
 * @parent:        number of the point that it lies on; 0: none
 * @created:       when, in seconds since 1970 UTC
 * @virtual_bytes: size of the disk
 * @stored_bytes:  what it takes in the repository
 * @image, @manifest: names of its files within the directory
 * @source:        name of the image that was backed up
 * @source_format: its format
 * @bitmap:        of the source, that records what has changed since; or NULL
 *
 * Strings are good until the repository is closed or changed.
 */
struct vdisk_point_info {
    size_t struct_bytes;
    uint32_t flags;
    enum vdisk_point_kind kind;
    enum vdisk_tracker tracker;
    uint32_t reserved;
    uint64_t number;
    uint64_t parent;
    int64_t created;
    uint64_t virtual_bytes;
    uint64_t stored_bytes;
    const char *image;
    const char *manifest;
    const char *source;
    const char *source_format;
    const char *bitmap;
};

/**
 * vdisk_repository_points() - how many points are there?
 * @repository: open
 *
 * Return: the count, damaged ones included.
 */
VDISK_PUBLIC size_t vdisk_repository_points(const struct vdisk_repository *repository);

/**
 * vdisk_repository_point() - facts about one of them
 * @repository: open
 * @index:      0 .. vdisk_repository_points() - 1, in the order of their numbers
 * @info:       [in, out] struct_bytes set by the caller
 * @err:        [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: struct_bytes, or no such index.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_repository_point(const struct vdisk_repository *repository,
                                                         size_t index,
                                                         struct vdisk_point_info *info,
                                                         struct vdisk_error *err);

/**
 * vdisk_repository_find() - which point is meant?
 * @repository: open
 * @point:      its number; or "latest", as is NULL; or a time such as 2026-11-22T01:30:00Z, or a
 *              day 2026-11-22 (UTC, to its end): the last point made until then
 * @index:      [out]
 * @err:        [out, may be NULL] the story
 *
 * Return: 0; -ENOENT: there is none; -EINVAL: @point is none of these; -EBADMSG: a damaged one may
 * be the last until then: its number has to be given, or another one's.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_repository_find(const struct vdisk_repository *repository,
                                                        const char *point, size_t *index,
                                                        struct vdisk_error *err);

/**
 * vdisk_repository_open_point() - the disk as it was then, as an image
 * @repository: open; not closed before the image is
 * @index:      of the point
 * @image:      [out] read-only; goes to vdisk_image_close()
 * @err:        [out, may be NULL] the story
 *
 * Nothing is read from it that has not been compared with its digest.
 *
 * Return: 0; -EBADMSG: the point, or one below it, is damaged or missing; else as
 * vdisk_image_open().  Later reads of what is damaged fail with -EBADMSG.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_repository_open_point(struct vdisk_repository *repository,
                                                              size_t index,
                                                              struct vdisk_image **image,
                                                              struct vdisk_error *err);

/**
 * struct vdisk_verify_options - which points are verified; zero means the default
 * @struct_bytes: sizeof(struct vdisk_verify_options)
 * @workers:      pieces of a file read at once; default as for vdisk_convert()
 * @point:        as for vdisk_repository_find(): this and those below it; NULL: all
 * @rate_bytes:   most bytes a second; default: no limit
 * @progress:     called now and then, or NULL; the phase is "verify"
 * @report:       told in words of each damage, with file and offset, or NULL; one call at a time
 * @opaque:       for @progress and @report
 * @reserved:     zero
 */
struct vdisk_verify_options {
    size_t struct_bytes;
    uint32_t workers;
    uint32_t reserved;
    const char *point;
    uint64_t rate_bytes;
    vdisk_progress_fn progress;
    vdisk_report_fn report;
    void *opaque;
};

/**
 * struct vdisk_verify_result - what was found
 * @struct_bytes:   [in] sizeof(struct vdisk_verify_result)
 * @points:         that were verified
 * @damaged_points: of these, points that can not be restored as they were: damaged themselves, or
 *                  on ones that are
 * @damages:        damages that were found, each of them reported
 * @files, @bytes:  that were read
 */
struct vdisk_verify_result {
    size_t struct_bytes;
    uint64_t points;
    uint64_t damaged_points;
    uint64_t damages;
    uint64_t files;
    uint64_t bytes;
};

/**
 * vdisk_repository_verify() - is every byte as it was written, and every chain whole?
 * @repository: open
 * @options:    or NULL
 * @result:     [in, out] struct_bytes set by the caller
 * @err:        [out, may be NULL] the story
 *
 * Return: 0: all was verified: what was found is in @result; -ENOENT, -EINVAL: the point;
 * -ECANCELED; -ENOMEM.  What can not be read is a damage.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_repository_verify(
    struct vdisk_repository *repository, const struct vdisk_verify_options *options,
    struct vdisk_verify_result *result, struct vdisk_error *err);

/** Flags of struct vdisk_prune_options. */
enum vdisk_prune_flag {
    VDISK_PRUNE_DRY_RUN = 1 << 0 /**< change nothing: only report, and count */
};

/**
 * struct vdisk_prune_options - which points are kept; zeroed but for what is set
 * @struct_bytes: sizeof(struct vdisk_prune_options)
 * @flags:        of enum vdisk_prune_flag
 * @keep_last:    so many of the last points
 * @keep_daily:   the last point of each of the last so many days that have one; days and weeks are
 *                those of UTC
 * @keep_weekly:  the last point of each of the last so many weeks (ISO 8601) that have one
 * @progress:     called now and then, or NULL; the phases are "merge" and "digest", of each point
 *                that takes something over
 * @report:       told in words of each point that goes, or NULL; one call at a time
 * @opaque:       for @progress and @report
 *
 * The last point is kept in any case.  Not all three may be 0.
 */
struct vdisk_prune_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t keep_last;
    uint32_t keep_daily;
    uint32_t keep_weekly;
    vdisk_progress_fn progress;
    vdisk_report_fn report;
    void *opaque;
};

/**
 * struct vdisk_prune_result - what a prune or a merge did
 * @struct_bytes:   [in] sizeof(struct vdisk_prune_result)
 * @removed_points: that are gone, or would go
 * @moved_bytes:    bytes that points took over from those that went
 * @freed_bytes:    that the repository is smaller now
 */
struct vdisk_prune_result {
    size_t struct_bytes;
    uint64_t removed_points;
    uint64_t moved_bytes;
    int64_t freed_bytes;
};

/**
 * vdisk_repository_prune() - remove the points that need not be kept
 * @repository: open with VDISK_REPOSITORY_WRITE, and no image of it is
 * @options:    which are kept
 * @result:     [in, out, may be NULL] struct_bytes set by the caller
 * @err:        [out, may be NULL] the story
 *
 * Points that lie on one that goes take over what they need of it, so each that is kept reads as
 * before; at any instant, whatever happens.  It is done point by point: when it fails, those that
 * are gone are gone.
 *
 * Points that are damaged, or lie on one that is, are not chosen from, and not touched; nor is
 * anything that they may have to do with, from the last full point before them to the next one.
 *
 * Return: 0; -EINVAL: options; -EACCES: open for reading only, and no dry run; -EBUSY: what an
 * earlier call has begun is not finished: open it again; -EBADMSG: a file that has to be read is
 * damaged: nothing is moved from it; -ECANCELED; -ENOSPC, -EIO, ...: the message names the file.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_repository_prune(struct vdisk_repository *repository,
                                                         const struct vdisk_prune_options *options,
                                                         struct vdisk_prune_result *result,
                                                         struct vdisk_error *err);

/**
 * vdisk_repository_merge() - make one point of several that lie one on the other
 * @repository: open with VDISK_REPOSITORY_WRITE, and no image of it is
 * @first:      index of the first point that goes
 * @last:       index of the point that takes over what they have; it reads as before
 * @options:    for flags, progress, report and opaque: nothing is to be kept; or NULL
 * @result:     [in, out, may be NULL] struct_bytes set by the caller
 * @err:        [out, may be NULL] the story
 *
 * Those that go are the points from @first up to, but not including, @last in the chain of @last;
 * -EINVAL if @first is not below @last.
 *
 * Return: as vdisk_repository_prune().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_repository_merge(struct vdisk_repository *repository,
                                                         size_t first, size_t last,
                                                         const struct vdisk_prune_options *options,
                                                         struct vdisk_prune_result *result,
                                                         struct vdisk_error *err);

/**
 * struct vdisk_restore_options - where a point goes; zeroed but for what is set
 * @struct_bytes:  sizeof(struct vdisk_restore_options)
 * @flags:         of enum vdisk_convert_flag: NO_CREATE, TARGET_IS_ZERO, ALLOCATE_ALL, COMPRESS
 * @workers:       as for vdisk_convert()
 * @target:        name of a file, a block device, or with VDISK_CONVERT_NO_CREATE a URL
 * @target_format: as for vdisk_convert()
 * @target_flags:  as for vdisk_convert()
 * @compression_level: as for vdisk_convert()
 * @create:        for a new image, or NULL; its size is that of the disk
 * @rate_bytes:    most bytes of data a second; default: no limit
 * @network:       for a target on a server, or NULL
 * @passphrases:   for a target that is there and encrypted, or NULL
 * @gate:          which files a target that is there may name, or NULL for none
 * @progress:      called now and then, or NULL; the phase is "copy"
 * @opaque:        for @progress
 */
struct vdisk_restore_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t workers;
    const char *target;
    const char *target_format;
    uint32_t target_flags;
    uint32_t compression_level;
    const struct vdisk_create_options *create;
    uint64_t rate_bytes;
    const struct vdisk_network_options *network;
    const struct vdisk_passphrases *passphrases;
    const struct vdisk_gate *gate;
    vdisk_progress_fn progress;
    void *opaque;
};

/**
 * vdisk_repository_restore() - write the disk as it was then to a new image, or into one
 * @repository: open
 * @index:      of the point
 * @options:    where to
 * @result:     [in, out, may be NULL] as of vdisk_convert()
 * @err:        [out, may be NULL] the story
 *
 * Nothing is written that has not been compared with its digest.  A new file has its name only when
 * it is whole.  With VDISK_CONVERT_NO_CREATE the target is an image that is there, a block device
 * or the URL of an NBD server, at least as long as the disk: what it has beyond that stays.
 *
 * Return: as vdisk_convert(); -EINVAL: the target is in the repository; -EBADMSG: as
 * vdisk_repository_open_point().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_repository_restore(
    struct vdisk_repository *repository, size_t index, const struct vdisk_restore_options *options,
    struct vdisk_convert_result *result, struct vdisk_error *err);

/* ------------------------------------------------------------------------------------------ */
/* Serving                                                                                    */
/* ------------------------------------------------------------------------------------------ */

/** What a line of a server's log is. */
enum vdisk_log_level {
    VDISK_LOG_ERROR = 1, /**< the server can not do what it was asked for by its owner */
    VDISK_LOG_WARNING,   /**< a client was refused, broke the protocol, or met an I/O error */
    VDISK_LOG_INFO,      /**< clients that come and go */
    VDISK_LOG_DEBUG      /**< each option of a negotiation, each request that failed */
};

/**
 * vdisk_log_fn - called with each line of a server's log
 * @opaque:  what the server was given
 * @level:   how important it is
 * @message: one line without a newline, good during the call; without control characters, whatever
 *           a client sent
 *
 * From any thread of the server, several at once.  It must not call back into the server.
 */
typedef void (*vdisk_log_fn)(void *opaque, enum vdisk_log_level level, const char *message);

/** Flags of struct vdisk_tls_options. */
enum vdisk_tls_flag {
    VDISK_TLS_REQUIRED = 1 << 0,   /**< plain clients see nothing, not even the list of exports */
    VDISK_TLS_VERIFY_PEER = 1 << 1 /**< clients need a certificate that the CA has signed */
};

/**
 * struct vdisk_tls_options - encryption of NBD connections; zeroed but for what is set
 * @struct_bytes:       sizeof(struct vdisk_tls_options)
 * @flags:              of enum vdisk_tls_flag
 * @reserved:           zero
 * @directory:          with ca-cert.pem, server-cert.pem, server-key.pem, perhaps ca-crl.pem and
 *                      dh-params.pem; NULL: no X.509
 * @psk_file:           lines of "user:hexadecimal key"; NULL: no pre-shared keys.  One of the two
 * @priority:           a GnuTLS priority string, or NULL for the system's
 * @authorized:         with VDISK_TLS_VERIFY_PEER, which certificates may connect: distinguished
 *                      names, or patterns with *; with pre-shared keys, which users.  NULL: all
 * @authorized_entries: count of @authorized
 *
 * Names of files and their use are those of QEMU and nbdkit.
 */
struct vdisk_tls_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t reserved;
    const char *directory;
    const char *psk_file;
    const char *priority;
    const char *const *authorized;
    size_t authorized_entries;
};

/**
 * struct vdisk_server_options - a server; zero means the default
 * @struct_bytes:            sizeof(struct vdisk_server_options)
 * @workers:                 most threads, beside one a connection, that wait for disks; default 32,
 *                           at most 1024
 * @connections:             most connections at once; default 1024
 * @connections_per_address: most from one IP address; default: as @connections
 * @negotiation_ms:          a client that has not chosen an export after so long is dropped;
 *                           default 10000
 * @idle_ms:                 one that sends nothing, and waits for nothing, for so long is dropped;
 *                           default: never
 * @stall_ms:                one that takes none of its replies for so long is dropped; default:
 *                           never
 * @connection_bytes:        most memory for requests and replies of one connection, in bytes;
 *                           default 72 MiB, at least 34 MiB
 * @tls:                     or NULL: without encryption; copied
 * @log, @opaque:            called with what happens, or NULL
 */
struct vdisk_server_options {
    size_t struct_bytes;
    uint32_t workers;
    uint32_t connections;
    uint32_t connections_per_address;
    uint32_t negotiation_ms;
    uint32_t idle_ms;
    uint32_t stall_ms;
    uint64_t connection_bytes;
    const struct vdisk_tls_options *tls;
    vdisk_log_fn log;
    void *opaque;
};

/** An NBD server. */
struct vdisk_server;

/**
 * vdisk_server_create() - make a server that has no export and listens nowhere yet
 * @options: or NULL
 * @server:  [out] goes to vdisk_server_free()
 * @err:     [out, may be NULL] the story
 *
 * Any thread may call what begins with vdisk_server_ at any time until vdisk_server_free().
 *
 * Return: 0; -EINVAL: options; -ENOTSUP: this build has no TLS; -ENOMEM; else what reading
 * certificates or keys met.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_create(const struct vdisk_server_options *options,
                                                      struct vdisk_server **server,
                                                      struct vdisk_error *err);

/** Flags of struct vdisk_export_options. */
enum vdisk_export_flag {
    VDISK_EXPORT_WRITE = 1 << 0,           /**< clients may write: the image is open for writing */
    VDISK_EXPORT_ALLOCATION_DEPTH = 1 << 1 /**< offer "qemu:allocation-depth" */
};

/** The longest name of an export, and the longest description, in bytes (NBD protocol). */
#define VDISK_EXPORT_NAME_BYTES_MAX 4096u

/**
 * struct vdisk_export_options - how an image is offered; zeroed but for what is set
 * @struct_bytes:   sizeof(struct vdisk_export_options)
 * @flags:          of enum vdisk_export_flag
 * @clients:        most clients at once; default: no limit but the server's
 * @name:           what clients call it, UTF-8; NULL means "", the default export
 * @description:    for those who list exports, or NULL
 * @bitmaps:        names of dirty bitmaps of the image, each offered as
 *                  "qemu:dirty-bitmap:NAME"
 * @bitmap_entries: count of @bitmaps
 *
 * All offer "base:allocation"; images of format gow3 offer "vdisk:version" as well.
 */
struct vdisk_export_options {
    size_t struct_bytes;
    uint32_t flags;
    uint32_t clients;
    const char *name;
    const char *description;
    const char *const *bitmaps;
    size_t bitmap_entries;
};

/**
 * vdisk_server_add_export() - offer an image to clients, from now on
 * @server:  the server
 * @image:   stays yours; keep it open until the export is removed or the server is freed
 * @options: or NULL: read-only, as the default export
 * @err:     [out, may be NULL] the story
 *
 * An image may have several exports.
 *
 * Return: 0; -EEXIST: the name is taken; -EINVAL: options, or names that are no UTF-8 or too long;
 * -EROFS: to be written, and the image is not open for that; -ENOENT, -EUCLEAN: a bitmap that is
 * not there, or inconsistent; -ENOMEM; else as vdisk_image_info().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_add_export(
    struct vdisk_server *server, struct vdisk_image *image,
    const struct vdisk_export_options *options, struct vdisk_error *err);

/**
 * vdisk_server_remove_export() - offer an image no longer
 * @server: the server
 * @name:   of the export
 * @err:    [out, may be NULL] the story
 *
 * Requests under way are answered, later ones fail with ESHUTDOWN, and its clients are
 * disconnected.  When this returns, the server does not touch the image any more; what was written
 * is durable if this returns 0.
 *
 * Return: 0; -ENOENT: there is no such export; else as vdisk_image_flush().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_remove_export(struct vdisk_server *server,
                                                             const char *name,
                                                             struct vdisk_error *err);

/**
 * vdisk_server_listen() - serve all who connect to a socket
 * @server: the server
 * @fd:     a listening stream socket of any family; the server's from now on, if this returns 0
 * @err:    [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: not a listening stream socket; -ESHUTDOWN: after vdisk_server_stop();
 * -ENOMEM; or what the system says.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_listen(struct vdisk_server *server, int fd,
                                                      struct vdisk_error *err);

/**
 * vdisk_server_connect() - serve one client that is connected already
 * @server: the server
 * @fd:     a connected stream socket; the server's from now on, if this returns 0
 * @err:    [out, may be NULL] the story
 *
 * Return: 0; -EINVAL: not a connected stream socket; -EUSERS: there are as many as allowed;
 * -ESHUTDOWN: after vdisk_server_stop(); -ENOMEM; or what the system says.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_connect(struct vdisk_server *server, int fd,
                                                       struct vdisk_error *err);

/**
 * vdisk_server_reload_tls() - read certificates, revocations and keys again
 * @server: the server
 * @err:    [out, may be NULL] the story
 *
 * For new connections.  On failure the old ones stay in use.
 *
 * Return: 0; -ENOTSUP: the server has no TLS; else as vdisk_server_create().
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_reload_tls(struct vdisk_server *server,
                                                          struct vdisk_error *err);

/**
 * vdisk_server_serve_status() - serve a page about the server, by HTTP
 * @server: the server
 * @fd:     a listening stream socket; the server's from now on, if this returns 0
 * @err:    [out, may be NULL] the story
 *
 * "/" is the page, "/status.json" its data, "/metrics" is for Prometheus: docs/json.md.  Nothing
 * can be changed by it, but whoever can connect sees names, sizes and maps of all exports.
 *
 * Return: 0; -ENOTSUP: this build has no HTTP server; -EINVAL: not a listening stream socket;
 * -EEXIST: there is one already; -ESHUTDOWN: after vdisk_server_stop(); -ENOMEM.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_serve_status(struct vdisk_server *server, int fd,
                                                            struct vdisk_error *err);

/** Kinds of requests that are counted. */
enum vdisk_request_kind {
    VDISK_REQUEST_READ,         /**< NBD_CMD_READ */
    VDISK_REQUEST_WRITE,        /**< NBD_CMD_WRITE */
    VDISK_REQUEST_FLUSH,        /**< NBD_CMD_FLUSH */
    VDISK_REQUEST_TRIM,         /**< NBD_CMD_TRIM */
    VDISK_REQUEST_ZEROES,       /**< NBD_CMD_WRITE_ZEROES */
    VDISK_REQUEST_CACHE,        /**< NBD_CMD_CACHE */
    VDISK_REQUEST_BLOCK_STATUS, /**< NBD_CMD_BLOCK_STATUS */
    VDISK_REQUEST_KINDS         /**< how many there are */
};

/** Classes of latency in struct vdisk_request_stats: below 2^(index + 4) microseconds. */
#define VDISK_LATENCY_CLASSES 20u

/**
 * struct vdisk_request_stats - what became of the requests of one kind
 * @requests:  answered, errors included
 * @errors:    answered with an error
 * @bytes:     of the disk that the successful ones read, wrote, or were about
 * @total_us:  microseconds from the receipt of each to its answer, summed up
 * @latencies: how many took so long, by class; the last has all that took longer
 */
struct vdisk_request_stats {
    uint64_t requests;
    uint64_t errors;
    uint64_t bytes;
    uint64_t total_us;
    uint64_t latencies[VDISK_LATENCY_CLASSES];
};

/**
 * struct vdisk_server_stats - what a server, or one export of it, has done so far
 * @struct_bytes:   [in] sizeof(struct vdisk_server_stats)
 * @clients:        connected now, past their negotiation
 * @connections:    accepted so far
 * @refused:        of these, dropped before they chose an export
 * @received_bytes: from clients, of all kinds
 * @sent_bytes:     to clients
 * @requests:       by enum vdisk_request_kind
 *
 * Of one export, @connections and the bytes are those of clients that chose it, @refused is 0.
 */
struct vdisk_server_stats {
    size_t struct_bytes;
    uint64_t clients;
    uint64_t connections;
    uint64_t refused;
    uint64_t received_bytes;
    uint64_t sent_bytes;
    struct vdisk_request_stats requests[VDISK_REQUEST_KINDS];
};

/**
 * vdisk_server_stats() - count what has been done
 * @server: the server
 * @name:   of an export, or NULL for all
 * @stats:  [in, out] struct_bytes set by the caller
 * @err:    [out, may be NULL] the story
 *
 * Return: 0; -ENOENT: there is no such export; -EINVAL: struct_bytes.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_stats(struct vdisk_server *server, const char *name,
                                                     struct vdisk_server_stats *stats,
                                                     struct vdisk_error *err);

/**
 * vdisk_server_wait() - wait until clients have come and gone
 * @server:  the server
 * @clients: return when so many have connected since the server was made, and no client is
 *           connected; 0: return when it stops
 * @err:     [out, may be NULL] the story
 *
 * Return: 0; -ESHUTDOWN: vdisk_server_stop() was called first.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_server_wait(struct vdisk_server *server, uint64_t clients,
                                                    struct vdisk_error *err);

/**
 * vdisk_server_stop() - listen no more, answer the requests under way, disconnect everybody
 * @server:   the server
 * @grace_ms: how long clients may take to receive their last replies; default 5000
 * @err:      [out, may be NULL] the story
 *
 * When this returns, the server does not touch any image any more.  What was written is durable if
 * this returns 0.
 *
 * Return: 0, again as well; else as vdisk_image_flush().
 */
VDISK_PUBLIC int vdisk_server_stop(struct vdisk_server *server, uint32_t grace_ms,
                                   struct vdisk_error *err);

/**
 * vdisk_server_free() - stop, and free everything
 * @server: or NULL
 *
 * Call vdisk_server_stop() first to learn whether all is durable.
 */
VDISK_PUBLIC void vdisk_server_free(struct vdisk_server *server);

#ifdef __cplusplus
}
#endif

#endif
