/* SPDX-License-Identifier: MIT */
/* What a fuzzer of an image format does with the disk that its input made; see fuzz_disk(). */
#ifndef TESTS_FUZZ_DISK_H
#define TESTS_FUZZ_DISK_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "input.h"
#include "vdisk.h"

/* The compiler makes one of all aborts of a function, so each says which one it is. */
#define REQUIRE(condition)                                                          \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

struct fuzz_disk {
    /* NULL: it does not open, and *err says why */
    struct vdisk_image *(*open)(void *opaque, uint32_t flags, struct vdisk_error *err);
    void *opaque;

    bool checks_first;
    bool mends;
};

/*
 * Looks at the disk; checks it first, if wanted; opens it for writing and does what the input says
 * (one byte, then what it needs, for each operation); mends it at the end, if wanted.
 *
 * What holds for any input: no crash, no leak, no hang; what a write has put there reads back; a
 * check that mended all leaves nothing for the next one, and the disk opens then.
 */
void fuzz_disk(struct input *in, const struct fuzz_disk *disk);

#endif
