/* SPDX-License-Identifier: MIT */
/* The files of a fuzzed image: it may name its data file, its backing file, and itself. */
#ifndef TESTS_FUZZ_FILES_H
#define TESTS_FUZZ_FILES_H

#include "overlay.h"
#include "vdisk.h"

#define FUZZ_DATA_NAME  "data"
#define FUZZ_BASE_NAME  "base"  /* raw, FUZZ_BASE_BYTES of bytes that are not zero */
#define FUZZ_IMAGE_NAME "image" /* the image itself */
#define FUZZ_BASE_BYTES 200704u

struct fuzz_files {
    const char *format; /* of the image; NULL: whatever it looks like */
    struct overlay *image;
    struct overlay *data; /* NULL: the format has none */
};

/* For struct fuzz_disk: @opaque is a struct fuzz_files.  All other names lead nowhere. */
struct vdisk_image *fuzz_files_open(void *opaque, uint32_t flags, struct vdisk_error *err);

/* Writes some clusters of @cluster bytes into the disk, behind three tables that map @span bytes
 * each, and makes some zero. */
void fuzz_files_write_some(struct fuzz_files *files, uint64_t cluster, uint64_t span);

#endif
