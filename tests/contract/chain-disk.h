/* SPDX-License-Identifier: MIT */
/*
 * A disk image in a chain, and beside it what it has to read as: a plain array.
 *
 * The images lie in one directory and name each other by relative names.  Everything is done
 * through the public interface, as a program would.
 */
#ifndef VT_CHAIN_DISK_H
#define VT_CHAIN_DISK_H

#include <stdbool.h>

#include "drivers/random.h"
#include "vdisk.h"

#define VT_DISK_BYTES_MAX (3u << 20)

enum vt_kind {
    VT_RAW,
    VT_GOW3,
    VT_QED,
    VT_ADD_COW,
    VT_KINDS
};

struct vt_disk {
    enum vt_kind kind;
    char path[256]; /* below the directory of the test */
    char data[256]; /* add-cow: its raw file */
    uint64_t size;
    uint8_t *bytes; /* VT_DISK_BYTES_MAX; zeros from size on */
};

/* As the library calls it. */
const char *vt_kind_name(enum vt_kind kind);

/* What is permitted to every image here: the files beside it. */
extern const struct vdisk_gate vt_disk_gate;

/*
 * Makes an image file at @directory/@name of @size bytes, over @backing if that is not NULL, and
 * with random geometry where the format has any.  An add-cow image gets a new raw file or, over
 * a backing file, perhaps one that is full of stale bytes.
 */
struct vt_disk *vt_disk_create(const char *directory, const char *name, enum vt_kind kind,
                               uint64_t size, const struct vt_disk *backing,
                               struct vt_random *random);

/*
 * An external snapshot: @disk goes on at another path, that ends in @number, and the overlay that
 * this returns has its old one.
 */
struct vt_disk *vt_disk_snapshot(struct vt_disk *disk, unsigned number, struct vt_random *random);

/* Forgets the disk and, if @removes, its files. */
void vt_disk_free(struct vt_disk *disk, bool removes);

/* A size of a disk, seldom aligned to anything but 512. */
uint64_t vt_disk_draw_size(struct vt_random *random);

/* Opens it with @flags of enum vdisk_open_flag. */
struct vdisk_image *vt_disk_open(const struct vt_disk *disk, uint32_t flags);

/* One session of @operations random writes, zeroes, discards, reads and flushes. */
void vt_disk_session(struct vt_disk *disk, unsigned operations, struct vt_random *random);

/* Reads all of it, and compares; looks at its extents, which have to agree. */
void vt_disk_verify(const struct vt_disk *disk, struct vt_random *random);

/* A check finds nothing, leaks included; raw has nothing to check. */
void vt_disk_check(const struct vt_disk *disk);

/* Grows or cuts the array. */
void vt_disk_set_size(struct vt_disk *disk, uint64_t size);

#endif
