/* SPDX-License-Identifier: MIT */
/* Random operations on an image, each of them done to the model too, and compared. */
#ifndef VT_FORMAT_RUN_H
#define VT_FORMAT_RUN_H

#include "format-model.h"
#include "format-subject.h"

struct vt_run {
    struct vt_subject subject;
    struct vt_model model;
    struct vt_random random;
    struct vdisk_image *image; /* NULL between sessions */
    uint8_t *buf;              /* room for the largest window */
    uint64_t size_max;
    uint64_t request_max;
    uint64_t generation;
    uint64_t ops_done;
    void (*on_change)(void *opaque, struct vd_range guest); /* told of what is written, zeroed and
                                                               discarded, or NULL */
    void *opaque;
};

/* Makes the images of @stack (drivers/stack.h) with a disk of @size bytes, does @ops operations in
 * some sessions, and checks everything. */
void vt_run_format(const char *stack, enum vt_place place, uint64_t size, uint64_t ops,
                   uint64_t seed);

/* The same model, by threads that own stripes of it which share blocks. */
void vt_run_threads(const char *stack, enum vt_place place, uint64_t ops, uint64_t seed);

/* For who runs it himself: the image of @stack in @place, not open, and its model. */
void vt_run_begin(struct vt_run *run, const struct vt_stack *stack, enum vt_place place);
void vt_run_end(struct vt_run *run);

/* One random operation on the data; none if what it drew lies behind the end of the disk. */
void vt_run_data_op(struct vt_run *run);

/* Writes to the last cluster of the disk, if it lies in a window; compressed, where the image takes
 * that. */
void vt_run_write_end(struct vt_run *run);

/* A size for the disk, up to the one it began with. */
uint64_t vt_run_draw_size(struct vt_run *run);

/* All windows of @run's image against the model. */
void vt_run_compare(struct vt_run *run);

/* The extents of the whole disk: they cover it, and zeros are zeros. */
void vt_run_walk(struct vt_run *run);

#endif
