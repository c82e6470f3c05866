/* SPDX-License-Identifier: MIT */
/*
 * Images of several files for tests: an image, its data file, and the images behind it, on storages
 * of the test's own or in a folder.
 *
 * A stack is called by its formats, top first, each perhaps with its geometry (cluster, clusters of
 * a table): "qed", "qed-4k-1-over-raw", "add-cow-over-qed-over-gow3"; and qcow2 with what it is to
 * have: "qcow2-512.r1" (bits of a refcount), "qcow2.v2", "qcow2.ext" (extended L2 entries),
 * "qcow2.lazy", "qcow2.zstd", "qcow2.data" (a data file), "qcow2.rawdata" (one that is the disk),
 * "qcow2.luks" (encrypted).  What the images behind hold, and how long they are, follows from a
 * seed, so that a test knows it without reading it.
 */
#ifndef VT_STACK_H
#define VT_STACK_H

#include "storage/storage.h"
#include "vdisk.h"

#define VT_STACK_LEVELS_MAX 4u
#define VT_STACK_FILES_MAX  (2u * VT_STACK_LEVELS_MAX)
#define VT_STACK_NONE       UINT32_MAX

struct vt_stack_level {
    const char *format;
    uint32_t cluster_bytes;  /* 0: the format's default */
    uint32_t table_clusters; /* likewise */
    uint32_t refcount_bits;  /* likewise */
    uint32_t flags;          /* of enum vdisk_create_flag */
    const char *compat;      /* NULL: the default */
    const char *compression; /* likewise */
    bool is_encrypted;
    uint64_t size; /* of the disk */
    unsigned file;
    unsigned data_file; /* VT_STACK_NONE: the format has none */
};

struct vt_stack {
    unsigned level_entries;
    unsigned file_entries;
    uint64_t seed;
    struct vt_stack_level levels[VT_STACK_LEVELS_MAX]; /* the image, what is behind it, ... */
};

/* Fails the test if there is no such stack.  Its disk has @size bytes; @seed draws the others'. */
void vt_stack_init(struct vt_stack *stack, const char *name, uint64_t size, uint64_t seed);

bool vt_stack_has_backing(const struct vt_stack *stack);

/* As the images name it: "disk0", "disk0.data", "disk1", ... */
const char *vt_stack_file_name(const struct vt_stack *stack, unsigned file);

/* What a backing file may be called as well, on storages: longer, for vd_format_set_backing(). */
#define VT_STACK_ALIAS_PREFIX "the/same/file/by/a/name/that/is/much/longer/than/the/first/one/"

/* Unit of allocation of the top format, subclusters too; 64 KiB for those that have none. */
uint32_t vt_stack_block_bytes(const struct vt_stack *stack);

/* Its clusters: of one block, or of subclusters. */
uint32_t vt_stack_cluster_bytes(const struct vt_stack *stack);

/* Guest bytes behind one table, or part of one that is written as one; see the stack's source. */
uint64_t vt_stack_region_bytes(const struct vt_stack *stack);

/* The largest disk that the top image can have, if the storage does not matter. */
uint64_t vt_stack_size_max(const struct vt_stack *stack);

/* What the images behind read as at @guest; zeros behind their end. */
void vt_stack_read_backing(const struct vt_stack *stack, struct vd_range guest, uint8_t *buf);

/* A storage for a file, which goes to vd_storage_close(); the content stays when it is closed. */
struct vt_stack_files {
    int (*open)(void *opaque, unsigned file, bool writable, struct vd_storage **storage,
                struct vdisk_error *err);
    void *opaque;
};

/*
 * Makes all images, bottom first.  Those behind get data in @windows, and nowhere else.  Data files
 * hold something before, which never shows.
 */
void vt_stack_create_on(const struct vt_stack *stack, const struct vt_stack_files *files,
                        const struct vd_range *windows, unsigned window_entries);
void vt_stack_create_in(const struct vt_stack *stack, const char *folder,
                        const struct vd_range *windows, unsigned window_entries);

/* Opens it.  @flags: of enum vdisk_open_flag. */
int vt_stack_open_on(const struct vt_stack *stack, const struct vt_stack_files *files,
                     uint32_t flags, struct vdisk_image **image, struct vdisk_error *err);
int vt_stack_open_in(const struct vt_stack *stack, const char *folder, uint32_t flags,
                     struct vdisk_image **image, struct vdisk_error *err);

/* The disk as the snapshot @name within the image has it. */
int vt_stack_open_snapshot_on(const struct vt_stack *stack, const struct vt_stack_files *files,
                              const char *name, struct vdisk_image **image,
                              struct vdisk_error *err);

#endif
