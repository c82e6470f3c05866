/* SPDX-License-Identifier: MIT */
/* A set of numbers (clusters of a file), as a bitmap that grows with its largest member. */
#ifndef VD_FORMAT_BITS_H
#define VD_FORMAT_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

/* Zeroed: empty. */
struct vd_bits {
    uint64_t *words;
    size_t word_entries;
    uint32_t count;       /* of members */
    uint32_t first_clear; /* no number below it is missing */
};

void vd_bits_free(struct vd_bits *bits);

/* Makes room, so that adding numbers less than @limit can not fail. */
int vd_bits_reserve(struct vd_bits *bits, uint32_t limit, struct vdisk_error *err);

bool vd_bits_has(const struct vd_bits *bits, uint32_t number);

/* There is room for it, and it is not in. */
void vd_bits_add(struct vd_bits *bits, uint32_t number);

/* It is in. */
void vd_bits_remove(struct vd_bits *bits, uint32_t number);

/* All of @from; there is room for them, and none is in. */
void vd_bits_add_all(struct vd_bits *bits, const struct vd_bits *from);

void vd_bits_clear(struct vd_bits *bits);

/* The smallest number that is not in. */
uint32_t vd_bits_first_missing(struct vd_bits *bits);

/* The first run of members at or after @from: its length, 0 if there is none. */
uint32_t vd_bits_next_run(const struct vd_bits *bits, uint32_t from, uint32_t *start);

/* One more than the largest member; 0: empty */
uint32_t vd_bits_end(const struct vd_bits *bits);

#endif
